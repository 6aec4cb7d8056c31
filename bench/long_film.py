"""How much more memory the builder takes for a film of ten hours than for one of ten minutes.

    python -m bench.long_film [--bundle bundles/default] [--hours 10] [--made-up] [--keep FOLDER]

The films have two small pictures a second and a sound of low rate, made by the program `ffmpeg`.
The long one is the short one over and over. Each is built by `python -m index build` in processes
of its own; with `--made-up`, by the same builder with vectors that are made up, as encoding takes
most of the time, and its memory does not depend on the film. Twice a second the memory of all of
them is added up: the proportional set size (PSS), which shares what processes have in common among
them. The goal is 100 MiB at most above the short film's peak.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from bench.films import FILE_S, run_ffmpeg
from export.bundle import open_bundle
from export.encoder import OnnxEncoder
from index.collection import Collection
from index.commands.flags import DECODE_MEMORY_MB
from index.ingest.build import build
from media.containers import ARCHIVE_BUDGET
from media.sandbox import Decoders

MINUTES = 10  # of the short film
PICTURES = "testsrc2=size=160x120:rate=2"
SOUND = "aevalsrc=0.4*sin(2*PI*(200+50*floor(t/3))*t):sample_rate=16000"
SAMPLE_S = 0.5
MIB = 2**20


def make_short(film: Path) -> None:
    run_ffmpeg(
        "-f", "lavfi", "-i", PICTURES, "-f", "lavfi", "-i", SOUND, "-t", str(60 * MINUTES),
        "-c:v", "libx264", "-preset", "ultrafast", "-g", "20", "-c:a", "aac", "-b:a", "24k", film,
    )  # fmt: skip


def make_long(short: Path, film: Path, hours: float) -> None:
    again = round(60 * hours / MINUTES) - 1
    run_ffmpeg("-stream_loop", str(again), "-i", short, "-c", "copy", film)


class MakesUp(OnnxEncoder):
    """Gives vectors that have nothing to do with what is encoded."""

    def embed(self, encoding: str, arrays: NDArray[Any]) -> NDArray[np.float32]:
        vectors = np.random.default_rng(0).normal(size=(len(arrays), self.manifest.dims[encoding]))
        return np.float32(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def build_made_up(film: Path, bundle: Path, data: Path) -> None:
    encoder = MakesUp(open_bundle(bundle), threads=1)
    box = Collection(data, encoder.manifest.fingerprint, encoder.manifest.dims)
    decoders = Decoders(2, DECODE_MEMORY_MB, FILE_S)
    cores = os.cpu_count() or 1
    for _, _, report in build(encoder, box, [film], decoders, ARCHIVE_BUDGET, at_once=cores):
        assert not report.failed, report.failed
    decoders.close()
    box.close()


def measure_peak(command: list[str], film: Path) -> tuple[float, float]:
    """The most memory that the processes of a command that builds a film take together, in MiB, and
    how many seconds it runs.
    """
    began = time.perf_counter()
    builder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process = psutil.Process(builder.pid)
    peak = 0.0
    while builder.poll() is None:
        peak = max(peak, proportional_mib(process))
        time.sleep(SAMPLE_S)
    if builder.returncode:
        raise RuntimeError(f"the build of {film} failed with status {builder.returncode}")
    return peak, time.perf_counter() - began


def proportional_mib(process: psutil.Process) -> float:
    """The PSS of a process and of those below it."""
    total = 0
    try:
        for each in [process, *process.children(recursive=True)]:
            total += each.memory_full_info().pss
    except psutil.NoSuchProcess:  # one of them has just ended
        return 0.0
    return total / MIB


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.long_film", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/default"))
    parser.add_argument("--hours", type=float, default=10.0, help="length of the long film")
    parser.add_argument("--made-up", action="store_true", help="vectors without an encoder")
    parser.add_argument("--build", type=Path, nargs=2, metavar=("FILM", "DATA"), help="only build")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where films are made and kept")
    args = parser.parse_args()
    if args.build:
        build_made_up(args.build[0], args.bundle, args.build[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        place = args.keep or Path(folder)
        short, long = place / "short.mkv", place / f"{args.hours:g}-hours.mkv"
        if not short.exists():
            make_short(short)
        if not long.exists():
            make_long(short, long, args.hours)
        print("| film | peak of all processes, MiB | seconds |\n|---|---|---|")
        peaks = []
        for name, film in ((f"{MINUTES} minutes", short), (f"{args.hours:g} hours", long)):
            data = Path(folder) / film.stem
            command = [sys.executable, "-m", "bench.long_film", "--bundle", str(args.bundle)]
            command += ["--build", str(film), str(data)]
            if not args.made_up:
                command = [sys.executable, "-m", "index", "build", "--bundle", str(args.bundle)]
                command += ["--data", str(data), str(film)]
            peak, seconds = measure_peak(command, film)
            peaks.append(peak)
            print(f"| {name} | {peak:.0f} | {seconds:.0f} |", flush=True)
        print(f"\nThe long film takes {peaks[1] - peaks[0]:+.0f} MiB.")


if __name__ == "__main__":
    main()
