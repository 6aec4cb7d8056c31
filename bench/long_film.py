"""How much more memory the builder takes for a film of ten hours than for one of ten minutes.

    python -m bench.long_film [--bundle bundles/default] [--hours 10] [--keep FOLDER]

The films have two small pictures a second and a sound of low rate, made by the program `ffmpeg`.
The long one is the short one over and over. Each is built by `python -m index build` in processes
of its own. Twice a second the memory of all of them is added up: the proportional set size (PSS),
which shares what processes have in common among them. The goal is 100 MiB at most above the short
film's peak.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from bench.films import run_ffmpeg

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


def measure_peak(film: Path, bundle: Path, data: Path) -> tuple[float, float]:
    """The most memory that the builder's processes take together, in MiB, and how many seconds it
    runs.
    """
    command = [sys.executable, "-m", "index", "build", "--bundle", str(bundle)]
    command += ["--data", str(data), str(film)]
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
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where films are made and kept")
    args = parser.parse_args()
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
            peak, seconds = measure_peak(film, args.bundle, Path(folder) / film.stem)
            peaks.append(peak)
            print(f"| {name} | {peak:.0f} | {seconds:.0f} |", flush=True)
        print(f"\nThe long film takes {peaks[1] - peaks[0]:+.0f} MiB.")


if __name__ == "__main__":
    main()
