"""What one text, one window of pictures and one window of sound cost by several bundles, one
thread, taking turns.

    python -m bench.bundles bundles/world bundles/default [--rounds 9]

The first bundle is what the others are compared with. Milliseconds are medians of the rounds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

from export.encoder import OnnxEncoder
from export.verify import probes

TEXT = "a dog barks at a passing train"
RUNS = 5  # of one input in a round


def median_ms(encoder: OnnxEncoder, encoding: str) -> float:
    """One input alone, as a query is."""
    if encoding in encoder.manifest.tokenizers:
        x = encoder.tokens([TEXT], encoding)
    else:
        x = probes(encoder, encoding, 2)[:1]
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        encoder.embed(encoding, x)
        times.append(1000 * (time.perf_counter() - began))
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    encoders = {}
    for folder in args.bundles:
        began = time.perf_counter()
        encoders[folder] = OnnxEncoder.open(folder, threads=1)
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        print(f"{folder}: {size:.1f} MB, opened and checked in {time.perf_counter() - began:.2f} s")
    seen: dict[tuple[Path, str], list[float]] = {}
    for _ in range(args.rounds):
        for folder, encoder in encoders.items():
            for encoding in encoder.manifest.graphs:
                seen.setdefault((folder, encoding), []).append(median_ms(encoder, encoding))
    first = args.bundles[0]
    print(f"{'bundle':28s} {'encoding':10s} {'ms':>8s} {'least':>8s} {'most':>8s} {'ratio':>7s}")
    for (folder, encoding), times in seen.items():
        base = seen.get((first, encoding))
        ratio = f"{median(times) / median(base):7.2f}" if base else "      -"
        print(
            f"{folder!s:28s} {encoding:10s} {median(times):8.2f} {min(times):8.2f} "
            f"{max(times):8.2f} {ratio}"
        )


if __name__ == "__main__":
    main()
