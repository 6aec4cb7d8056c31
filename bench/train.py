"""What each switch of training costs and saves, in triplets per second, floating point operations
of a step, weights and peak memory.

Ratios are to the plain run.

    python -m bench.train [--config tiny] [--batch 48] [--steps 6]

Every line is a process of its own on the same random clips; all of them run twice, in turn, and the
better time counts.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from model.config import TrainConfig
from model.data.batches import Batch
from model.training.distributed import ProcessGroup, pick_device
from model.training.loop import keep_freed_memory, make_optimiser, train_step
from model.training.tables import make_network

SWITCHES: dict[str, dict[str, object]] = {
    "plain": {},
    "micro_batch of an eighth": {"micro_batch": -8},
    "recompute": {"recompute": True},
    "drop_tokens 0.5": {"drop_tokens": 0.5},
    "precision bf16": {"precision": "bf16"},
    "compile": {"compile": True},
    "local_share 0.25": {"local_share": 0.25},
    "micro_batch, recompute, drop_tokens": {
        "micro_batch": -8,
        "recompute": True,
        "drop_tokens": 0.5,
    },
    "experts 1 of 4": {"methods": {"experts": {}}},
    "experts 2 of 4": {"methods": {"experts": {"chosen": 2}}},
}


NAMES = ("video", "audio", "video_caption", "audio_caption")


def config_with(args: argparse.Namespace, switch: str) -> TrainConfig:
    plain = replace(
        TrainConfig.load(args.config), batch=args.batch, drop_tokens=0.0, local_share=1.0
    )
    changes = dict(SWITCHES[switch])
    if "micro_batch" in changes:
        changes["micro_batch"] = args.batch // 8
    return replace(plain, **changes)  # type: ignore[arg-type]


def random_batch(config: TrainConfig) -> Batch:
    random = torch.Generator().manual_seed(0)
    n = config.batch
    inputs = config.encoder.inputs
    words = torch.randint(4, 200, (2, n, 16), generator=random)
    return Batch(
        frames=torch.randint(0, 256, (n, *inputs.video.shape), dtype=torch.uint8, generator=random),
        waveforms=0.1 * torch.randn(n, inputs.audio.samples, generator=random),
        video_caption=words[0],
        audio_caption=words[1],
        has={name: torch.ones(n, dtype=torch.bool) for name in NAMES},
        group_ids=torch.arange(n),
        ids=[str(i) for i in range(n)],
    )


def measure(config: TrainConfig, steps: int) -> dict[str, float]:
    """Seconds a step, its operations, the weights, and the peak of this process's memory in MiB;
    on a GPU, of the device's.
    """
    keep_freed_memory()
    device = pick_device(config.device)
    model = make_network(config).to(device)
    model.recompute = config.recompute
    optimiser = make_optimiser(model, config)
    batch = random_batch(config).to(device)
    with FlopCounterMode(display=False) as counter:
        train_step(model, optimiser, batch, config=config, step=0, processes=ProcessGroup())
    if config.compile:
        for block in model.blocks:
            block.compile()
    times = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for step in range(steps + 2):
        began = time.perf_counter()
        train_step(model, optimiser, batch, config=config, step=step, processes=ProcessGroup())
        times.append(time.perf_counter() - began)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    return {
        "seconds": median(times[2:]),
        "mib": peak,
        "operations": counter.get_total_flops(),
        "weights": sum(p.numel() for p in model.parameters()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.train", description=__doc__)
    parser.add_argument("--config", default="tiny")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--only", choices=SWITCHES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(config_with(args, args.only), args.steps)))
        return
    found: dict[str, dict[str, float]] = {}
    for switch in [*SWITCHES, *SWITCHES]:
        command = [sys.executable, "-m", "bench.train", *sys.argv[1:], "--only", switch]
        result = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout
        )
        best = found.setdefault(switch, result)
        found[switch] = min(best, result, key=lambda r: r["seconds"])
    plain = found["plain"]
    print(
        "| switch | triplets per second | speed, plain = 1 | memory, MiB | memory, plain = 1 "
        "| operations, plain = 1 | weights, plain = 1 |"
    )
    print("|---|---|---|---|---|---|---|")
    for switch, r in found.items():
        speed = args.batch / r["seconds"]
        faster = plain["seconds"] / r["seconds"]
        more = r["mib"] / plain["mib"]
        work = r["operations"] / plain["operations"]
        weights = r["weights"] / plain["weights"]
        print(
            f"| {switch} | {speed:.1f} | {faster:.2f} | {r['mib']:.0f} | {more:.2f} "
            f"| {work:.2f} | {weights:.2f} |"
        )


if __name__ == "__main__":
    main()
