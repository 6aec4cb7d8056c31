"""What opening a bundle costs in memory: all of its graphs against each of them alone.

    python -m bench.memory [BUNDLE]

Each line is a process of its own. Memory is counted after opening, above what the libraries take.
USS is what no other process shares. The weights are mapped from their file, so all processes that
serve the bundle share them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from export.bundle import open_bundle
from export.encoder import open_session


def opened(bundle: Path, encodings: list[str]) -> dict[str, float]:
    """Seconds, and MiB of USS and RSS, that opening these graphs takes."""
    found = open_bundle(bundle)
    before, began = psutil.Process().memory_full_info(), time.perf_counter()
    held = [open_session(found.graph(e), "cpu", os.cpu_count() or 1, "fp32") for e in encodings]
    took, after = time.perf_counter() - began, psutil.Process().memory_full_info()
    assert len(held) == len(encodings)
    return {
        "seconds": took,
        "uss": (after.uss - before.uss) / 2**20,
        "rss": (after.rss - before.rss) / 2**20,
    }


def main() -> None:
    bundle = Path(sys.argv[1] if len(sys.argv) > 1 else "bundles/default")
    if len(sys.argv) > 2:
        print(json.dumps(opened(bundle, sys.argv[2:])))
        return
    encodings = list(open_bundle(bundle).manifest.graphs)
    found = {}
    for some in [*([e] for e in encodings), encodings]:
        command = [sys.executable, "-m", "bench.memory", str(bundle), *some]
        found[", ".join(some)] = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout
        )
    total = sum(r["rss"] for name, r in found.items() if ", " not in name)
    print(
        "| graphs | seconds | USS, MiB | RSS, MiB | RSS, sum of each alone = 1 |\n"
        "|---|---|---|---|---|"
    )
    for name, r in found.items():
        print(
            f"| {name} | {r['seconds']:.2f} | {r['uss']:.0f} | {r['rss']:.0f} | "
            f"{r['rss'] / total:.2f} |"
        )


if __name__ == "__main__":
    main()
