"""How fast a folder is indexed: the builder against decoding alone and encoding alone, its memory,
and Ray beside it.

    python -m bench.build PATH... [--bundle bundles/default] [--workers 2] [--encode-files 400]
    [--rounds 3] [--ray]

Decoding alone runs the builder's own decoders and drops what they give. Encoding alone takes files
that are decoded already, as many as `--encode-files`, drawn evenly from all. A stage alone has
every core to itself, while the builder's stages share them. So the builder is compared with the
slower stage, and with one stage after the other: the rate that two stages without any waste would
reach on these cores. On a machine that others use, processes wait for its cores. So processor time
is printed, too: of the builder with all its processes, and of both stages alone.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from bench.films import processor_s
from export.encoder import OnnxEncoder
from index.collection import Collection
from index.commands.flags import DECODE_MEMORY_MB
from index.ingest.build import build
from index.ingest.decoding import decode_sources
from index.ingest.encoding import WINDOWS, encode_items
from index.ingest.plan import BuildOptions, plan_build, settle_doubtful
from index.ingest.source import Source
from media.containers import ARCHIVE_BUDGET
from media.errors import BadMedia
from media.sandbox import Decoders
from media.windows import Media

SAMPLES = 20  # of memory over a build
FILE_S = 600.0
Ready = list[tuple[Source, str, Media]]


class Cost(NamedTuple):
    """What a stage takes for a file, in seconds."""

    wall_s: float
    processor_s: float


class Clock:
    """Measures what is done while it runs, by this process and those below it."""

    def __init__(self) -> None:
        self._began, self._used = time.perf_counter(), processor_s()

    def cost(self, files: int) -> Cost:
        """Of each of so many files."""
        wall_s, used_s = time.perf_counter() - self._began, processor_s() - self._used
        return Cost(wall_s / files, used_s / files)


def resident_mb() -> float:
    return psutil.Process().memory_info().rss / 2**20


def decode_alone(
    encoder: OnnxEncoder, todo: list[tuple[Source, str]], workers: int, place: Path
) -> Cost:
    decoders, readable = Decoders(workers, DECODE_MEMORY_MB, FILE_S), 0
    decoders.warm()
    clock = Clock()
    for _, _, outcome in decode_sources(todo, encoder, decoders, ARCHIVE_BUDGET, folder=place):
        readable += not isinstance(outcome, BadMedia) and outcome.last
    cost = clock.cost(readable)
    decoders.close()
    return cost


def encode_alone(bundle: Path, todo: list[tuple[Source, str]], workers: int, place: Path) -> Cost:
    """In batches as the builder makes them: the better of one at a time on every core and as many
    at once as there are cores.
    """
    decoders, encoder = Decoders(workers, DECODE_MEMORY_MB, FILE_S), OnnxEncoder.open(bundle)
    outcomes = list(decode_sources(todo, encoder, decoders, ARCHIVE_BUDGET, folder=place))
    decoders.close()
    batches: list[Ready] = [[]]
    for source, stamp, media in outcomes:
        if isinstance(media, BadMedia):
            continue
        if sum(max(len(m.windows), 1) for _, _, m in batches[-1]) >= WINDOWS:
            batches.append([])
        batches[-1].append((source, stamp, media))
    files = sum(media.last for batch in batches for _, _, media in batch)
    costs = []
    for threads, at_once in ((0, 1), (1, os.cpu_count() or 1)):
        encoder = OnnxEncoder.open(bundle, threads=threads)
        encode_items(encoder, batches[0])
        with ThreadPoolExecutor(at_once) as device:
            clock = Clock()
            list(device.map(partial(encode_items, encoder), batches))
            costs.append(clock.cost(files))
    return min(costs)


def build_alone(
    encoder: OnnxEncoder, paths: list[Path], workers: int, data: Path
) -> tuple[Cost, int, list[float]]:
    """Its cost, files indexed, and the process's memory over the build, MiB."""
    box = Collection(data, encoder.manifest.fingerprint, encoder.manifest.dims)
    decoders, memory, indexed = Decoders(workers, DECODE_MEMORY_MB, FILE_S), [], 0
    decoders.warm()
    clock = Clock()
    for done, total, report in build(
        encoder, box, paths, decoders, ARCHIVE_BUDGET, at_once=os.cpu_count() or 1
    ):
        indexed = report.indexed
        if done * SAMPLES >= total * (len(memory) + 1):
            memory.append(resident_mb())
    cost = clock.cost(indexed)
    decoders.close()
    box.close()
    return cost, indexed, memory


def ray_alone(args: argparse.Namespace, encoder: OnnxEncoder, data: Path) -> tuple[float, int]:
    import ray

    from index.ingest import ray_build

    ray.init(num_cpus=args.workers, include_dashboard=False, log_to_driver=False)
    box, indexed = Collection(data, encoder.manifest.fingerprint, encoder.manifest.dims), 0
    began = time.perf_counter()
    for _, _, report in ray_build.build(
        args.bundle,
        box,
        args.paths,
        budget=ARCHIVE_BUDGET,
        memory_mb=DECODE_MEMORY_MB,
        max_s=FILE_S,
        workers=args.workers,
    ):
        indexed = report.indexed
    took = time.perf_counter() - began
    box.close()
    ray.shutdown()
    return took, indexed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.build", description=__doc__)
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/default"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--encode-files", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3, help="whose medians are printed")
    parser.add_argument("--ray", action="store_true")
    args = parser.parse_args()
    encoder = OnnxEncoder.open(args.bundle, threads=1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        empty = Collection(place / "empty", encoder.manifest.fingerprint, encoder.manifest.dims)
        plan = plan_build(empty, args.paths, BuildOptions())
        list(settle_doubtful(empty, plan))
        todo = plan.todo
        empty.close()
        some = [
            todo[i]
            for i in np.linspace(0, len(todo) - 1, min(args.encode_files, len(todo))).astype(int)
        ]
        rounds, used, memory = [], [], list[float]()
        for n in range(args.rounds):
            decoding = decode_alone(encoder, todo, args.workers, place)
            encoding = encode_alone(args.bundle, some, args.workers, place)
            building, indexed, held = build_alone(
                encoder, args.paths, args.workers, place / f"local-{n}"
            )
            memory = memory or held  # the first round's: afterwards there is room
            costs = (decoding, encoding, building)
            rounds.append([1 / cost.wall_s for cost in costs])
            used.append([1000 * cost.processor_s for cost in costs])
            if args.ray:
                ray_s, ray_indexed = ray_alone(args, encoder, place / f"ray-{n}")
                rounds[-1].append(ray_indexed / ray_s)
        rates = np.array(rounds)  # [rounds, (decoding, encoding, the builder, the builder on Ray)]
        slower, after = rates[:, :2].min(axis=1), 1 / (1 / rates[:, :2]).sum(axis=1)
        print(f"{len(todo):,} files, {indexed:,} indexed, {args.rounds} rounds\n")
        print(
            "| what runs | files per second | speed, slower stage = 1 |"
            " speed, stages in turn = 1 |\n"
            "|---|---|---|---|"
        )
        for name, found in zip(
            ("decoding alone", "encoding alone", "the builder", "the builder on Ray"),
            rates.T,
            strict=False,
        ):
            share = found / slower
            spread = f"{np.median(share):.2f} ({share.min():.2f} to {share.max():.2f})"
            print(
                f"| {name} | {np.median(found):.1f} | {spread} | {np.median(found / after):.2f} |"
            )
        whole = np.median(rates[:, 2] / after)
        decode_ms, encode_ms, build_ms = np.median(np.array(used), axis=0)
        print(
            f"\nThe builder reaches {whole:.2f} of the rate of two stages without any waste. By"
            f" processor time it is {(decode_ms + encode_ms) / build_ms:.2f}: decoding takes"
            f" {decode_ms:.1f} ms a file, encoding {encode_ms:.1f}, the builder {build_ms:.1f}."
        )
        if args.ray:
            print(f"\nRay is at {np.median(rates[:, 3] / rates[:, 2]):.2f} of local.")
        half = memory[len(memory) // 2 :]
        print(f"\nMemory over the build, MiB: {', '.join(f'{m:.0f}' for m in memory)}")
        print(
            f"from the middle to the end: {half[-1] - half[0]:+.0f} MiB over {indexed // 2:,} files"
        )


if __name__ == "__main__":
    main()
