"""How fast each runtime encodes: torch eager, torch.compile, and ONNX Runtime in fp32 and int8.

On a GPU it is fp16 instead of int8. Ratios are to torch eager.

    python -m bench.encode CHECKPOINT BUNDLE [--provider cpu] [--threads 0]

All runtimes take the same random inputs. They take turns in each round, with a pause in between,
and the best round counts. Latency is of one call.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from export.bundle import Bundle, open_bundle, parse_modality
from export.encoder import PROVIDERS, OnnxEncoder
from export.precision import GAINFUL, derive_graph
from export.verify import probes
from media.modality import MODALITY_TABLE
from model.training import checkpoint

BATCHES = (1, 8, 32)
REST_S = 0.05  # until the threads of the runtime before have stopped looking for work
Run = Callable[[str, NDArray[Any]], NDArray[np.float32]]


def runtimes(args: argparse.Namespace) -> dict[str, Run]:
    device = "cpu" if args.provider == "cpu" else "cuda"
    model, _, _ = checkpoint.load(args.checkpoint)
    model = model.eval().to(device)
    compiled = torch.compile(model.embed, dynamic=False)

    def in_torch(embed: Callable[..., torch.Tensor]) -> Run:
        @torch.no_grad()
        def run(modality: str, x: NDArray[Any]) -> NDArray[np.float32]:
            return embed(modality, torch.from_numpy(x).to(device)).cpu().numpy()

        return run

    bundle = open_bundle(args.bundle)
    found = {"torch eager": in_torch(model.embed), "torch.compile": in_torch(compiled)}
    for precision in ("fp32", *GAINFUL[args.provider]):
        found[f"ONNX Runtime {precision}"] = OnnxEncoder(
            bundle, args.provider, args.threads, precision
        ).embed
    return found


def time_shares(bundle: Bundle, encoding: str, precision: str, x: NDArray[Any]) -> str:
    """The share of the CPU's time that each kind of operation takes, those above a twentieth."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/profile"
        graph = bundle.graph(encoding)
        source: str | bytes = str(graph) if precision == "fp32" else derive_graph(graph, precision)
        run = onnxruntime.InferenceSession(source, options, providers=[PROVIDERS["cpu"]])
        for _ in range(10):
            run.run(None, {MODALITY_TABLE[parse_modality(encoding)].graph_input: x})
        events = json.loads(Path(run.end_profiling()).read_text(encoding="utf-8"))
    times: Counter[str] = Counter()
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"]] += event["dur"]
    whole = sum(times.values())
    return ", ".join(
        f"{op} {took / whole:.0%}" for op, took in times.most_common() if took > whole / 20
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.encode", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--provider", choices=list(PROVIDERS), default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    runs = runtimes(args)
    plain = OnnxEncoder(open_bundle(args.bundle))
    print(
        "| modality, batch | runtime | latency of a batch, ms | inputs per second "
        "| speed, torch eager = 1 |"
    )
    print("|---|---|---|---|---|")
    for modality in plain.manifest.modalities:
        for n in BATCHES:
            x = probes(plain, modality, n)
            best = dict.fromkeys(runs, float("inf"))
            for run in runs.values():
                run(modality, x)
            for _ in range(args.rounds):
                for name, run in runs.items():
                    time.sleep(REST_S)
                    began = time.perf_counter()
                    run(modality, x)
                    best[name] = min(best[name], time.perf_counter() - began)
            for name, took in best.items():
                ratio = best["torch eager"] / took
                figures = f"{1000 * took:.1f} | {n / took:.0f} | {ratio:.2f}"
                print(f"| {modality}, {n} | {name} | {figures} |", flush=True)
    if args.provider == "cpu":
        bundle = open_bundle(args.bundle)
        print("\nWhere the time goes, batch 8:\n")
        for encoding in bundle.manifest.graphs:
            for precision in ("fp32", *GAINFUL["cpu"]):
                shares = time_shares(bundle, encoding, precision, probes(plain, encoding, 8))
                print(f"- {encoding}, {precision}: {shares}")


if __name__ == "__main__":
    main()
