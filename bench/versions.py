"""What a plain search costs beside an earlier version of this repository: processor time, the two
taking turns, medians of the rounds.

    git worktree add /tmp/before COMMIT
    python -m bench.versions /tmp/before [--count 20000] [--rounds 7]

Each version makes a collection of the same windows, of a picture and a sound each, and is asked the
same queries, with target `video` and with `any`. A process of its own runs each, on one thread. A
search that asks for none of what was added since should cost what it did.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

import numpy as np

# What each version runs: it makes the collection, and for every line that it is sent tells the
# processor time in ms of a search, for each target.
WORKER = """
import sys, time
from pathlib import Path
import faiss
import numpy as np
from export.bundle import Joint
from index.collection import Collection
from index.records.database import NewItem
from index.search import Options, TargetQuery, search

folder, count, dim, asked = Path(sys.argv[1]), *map(int, sys.argv[2:])
faiss.omp_set_num_threads(1)
random = np.random.default_rng(0)
def made(rows):
    x = random.standard_normal((rows, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)
video, audio, queries = made(count), made(count), made(asked)
joint = Joint("video", "audio", 0.5)
box = Collection(folder, "bench", {"video": dim, "audio": dim, "text": dim})
for first in range(0, count, 1000):
    box.put([
        NewItem(id=str(n), kind="video", duration_s=5.0, windows=[(0.0, 5.0)],
                vectors={"video": ([0], video[n:n + 1]), "audio": ([0], audio[n:n + 1])})
        for n in range(first, min(first + 1000, count))
    ])
box.set_bank("text", made(64), ["video", "audio"])
while box.busy:
    time.sleep(0.2)
targets = ("video", joint)
comparable = ("video", "audio", "text", joint)
print("ready", flush=True)
for _ in sys.stdin:
    told = []
    for target in targets:
        began = time.process_time()
        for query in queries:
            asked = TargetQuery(target, query[None], comparable=comparable)
            search(box, [asked], Options(10))
        told.append(1000 * (time.process_time() - began) / len(queries))
    print(*told, flush=True)
box.close()
"""
TARGETS = ("video", "any")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, help="a working tree of the earlier version")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--asked", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        sides = {}
        for name, tree in (("before", args.before), ("now", Path.cwd())):
            told = [str(Path(place) / name), *map(str, (args.count, args.dim, args.asked))]
            sides[name] = start(tree, told)
        for side in sides.values():
            expect(side)
        rounds: dict[str, list[list[float]]] = {name: [] for name in sides}
        for n in range(args.rounds + 1):
            for name, side in sides.items():
                took = ask(side)
                if n:  # the first round warms up
                    rounds[name].append(took)
        for side in sides.values():
            side.communicate()
    show(rounds)


def start(tree: Path, told: list[str]) -> subprocess.Popen[str]:
    """The worker, in a version's tree."""
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, *told],
        cwd=tree,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def expect(side: subprocess.Popen[str]) -> str:
    """The next line that it tells. Raises EOFError where it has failed."""
    stdout: IO[str] | None = side.stdout
    assert stdout is not None
    line = stdout.readline()
    if not line:
        raise EOFError("the worker of a version has ended: see its error above")
    return line


def ask(side: subprocess.Popen[str]) -> list[float]:
    """The time in ms of a search for each target."""
    assert side.stdin is not None
    side.stdin.write("\n")
    side.stdin.flush()
    return [float(told) for told in expect(side).split()]


def show(rounds: dict[str, list[list[float]]]) -> None:
    before, now = (np.array(rounds[name]) for name in ("before", "now"))
    ratios = now / before
    print("| target | before, ms | now, ms | now, before = 1 | extremes |\n|---|---|---|---|---|")
    for n, target in enumerate(TARGETS):
        least, most = ratios[:, n].min(), ratios[:, n].max()
        print(
            f"| `{target}` | {np.median(before[:, n]):.2f} | {np.median(now[:, n]):.2f} |"
            f" {np.median(ratios[:, n]):.2f} | {least:.2f} to {most:.2f} |"
        )


if __name__ == "__main__":
    main()
