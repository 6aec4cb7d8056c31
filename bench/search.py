"""What a search costs: a collection against FAISS called directly, with filters, as it grows, and others beside it.

    python -m bench.search [--counts 20000 100000 1000000] [--dim 256] [--others] [--keep FOLDER]

Vectors come from 2,000 directions with noise, one window an item. Ours is `search`: calibrated, grouped into items,
with metadata. Its bank of 64 other queries, as an archive has, is what the index is tuned by. Both sides are asked for
the same ten with the same index and parameters, one thread each. Recall is against every vector compared. `--others`
puts qdrant-edge-py and LanceDB beside them, where they are installed. What is made of ours is used again where it is
kept: a million vectors take ten minutes or more.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import psutil

from index.collection import Collection
from index.records import NewItem
from index.search import Aim, Options, search
from index.vectors import FaissIndex, Ids, Vectors

SHARES = {"half": 0.5, "tenth": 0.1, "hundredth": 0.01, "thousandth": 0.001}
ASKED, TEN, CHUNK = 200, 10, 1000
Answer = Callable[[Vectors], list[int]]


def made(count: int, dim: int, seed: int) -> Vectors:
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(2000, dim)).astype(np.float32)
    x = centres[random.integers(0, len(centres), count)] + random.normal(size=(count, dim)).astype(np.float32)
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def filled(folder: Path, x: Vectors) -> tuple[Collection, float]:
    """A collection of the vectors with its index made, and the seconds that writing took; 0 where it was there."""
    box, began = Collection(folder, "bench", {"video": x.shape[1], "text": x.shape[1]}), time.perf_counter()
    rank = np.random.default_rng(1).permutation(len(x))
    there = box.counts()["items"] == len(x)
    for at in range(0, 0 if there else len(x), CHUNK):
        box.put(
            [
                NewItem(
                    str(n), "video", 5.0, [(0.0, 5.0)], {"video": ([0], x[n : n + 1])}, {"rank": int(rank[n]) / len(x)}
                )
                for n in range(at, min(at + CHUNK, len(x)))
            ]
        )
    wrote = 0.0 if there else time.perf_counter() - began
    if not box.has_bank("text"):
        box.set_bank("text", made(64, x.shape[1], 4), ["video"])
    while box.busy:
        time.sleep(0.2)
    return box, wrote


def opening(folder: Path, dim: int) -> float:
    """Seconds until a collection can be asked."""
    began = time.perf_counter()
    box = Collection(folder, "bench", {"video": dim, "text": dim})
    took = time.perf_counter() - began
    box.close()
    return took


def measured(answer: Answer, queries: Vectors, truth: list[set[int]]) -> tuple[float, float, float]:
    """p50 and p99 in milliseconds, and recall@10."""
    times, hits = [], 0
    for query, right in zip(queries, truth, strict=True):
        began = time.perf_counter()
        found = answer(query)
        times.append(1000 * (time.perf_counter() - began))
        hits += len(set(found) & right)
    return float(np.median(times)), float(np.percentile(times, 99)), hits / sum(map(len, truth))


def true_ten(x: Vectors, queries: Vectors, allowed: Ids) -> list[set[int]]:
    scores = x[allowed] @ queries.T
    best = np.argpartition(-scores, min(TEN, len(allowed) - 1), axis=0)[:TEN] if len(allowed) > TEN else None
    return [set((allowed if best is None else allowed[best[:, n]]).tolist()) for n in range(len(queries))]


def ours(box: Collection, filter: dict[str, Any] | None = None) -> Answer:
    options = Options(TEN, filter)
    return lambda q: [int(hit.id) for hit in search(box, [Aim("video", q[None])], options).hits]


def direct(index: FaissIndex) -> Answer:
    """FAISS's own call, with the parameters that tuning found."""
    from index.vectors import parameters

    inner, params = index._faiss, parameters(index.kind, index.tuned, TEN)
    return lambda q: inner.search(q[None], TEN, params=params)[1][0].tolist()


def others(x: Vectors, folder: Path) -> dict[str, Answer]:
    found: dict[str, Answer] = {}
    try:
        import lancedb
        import pyarrow as pa
        from lancedb.index import HnswSq

        table = lancedb.connect(str(folder / "lance")).create_table(
            "t",
            pa.table({"id": np.arange(len(x)), "vector": pa.FixedSizeListArray.from_arrays(x.ravel(), x.shape[1])}),
        )
        table.create_index("vector", config=HnswSq(distance_type="dot"))

        def lance(q: Vectors) -> list[int]:
            rows = (
                table.search(q).distance_type("dot").nprobes(20).refine_factor(5).limit(TEN).select(["id", "_distance"])
            )
            return [row["id"] for row in rows.to_list()]

        found["LanceDB"] = lance
    except ImportError:
        print("LanceDB is not installed")
    try:
        import qdrant_edge as edge

        shard = edge.EdgeShard.create(
            str(folder / "edge"),
            edge.EdgeConfig(vectors=edge.EdgeVectorParams(size=x.shape[1], distance=edge.Distance.Dot)),
        )
        for at in range(0, len(x), CHUNK):
            points = [edge.Point(n, x[n].tolist(), {}) for n in range(at, min(at + CHUNK, len(x)))]
            shard.update(edge.UpdateOperation.upsert_points(points))
        shard.optimize()

        def qdrant(q: Vectors) -> list[int]:
            return [p.id for p in shard.query(edge.QueryRequest(query=edge.Query.Nearest(q.tolist()), limit=TEN))]

        found["qdrant-edge-py"] = qdrant
    except ImportError:
        print("qdrant-edge-py is not installed")
    except Exception as error:  # its interface changes from version to version
        print(f"qdrant-edge-py could not be asked: {type(error).__name__}: {error}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.search", description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[20_000, 100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--others", action="store_true")
    parser.add_argument("--keep", type=Path, help="a folder for ours, used again")
    args = parser.parse_args()
    faiss.omp_set_num_threads(1)
    print("| vectors | asked | p50, ms | p99, ms | recall@10 | of FAISS directly |\n|---|---|---|---|---|---|")
    notes = []
    for count in args.counts:
        x, queries = made(count, args.dim, 2), made(ASKED, args.dim, 3)
        rank = np.random.default_rng(1).permutation(count)
        with tempfile.TemporaryDirectory() as place:
            before = psutil.Process().memory_info().rss
            folder = args.keep / str(count) if args.keep else Path(place) / "box"
            box, wrote = filled(folder, x)
            held = (psutil.Process().memory_info().rss - before) / count
            truth = true_ten(x, queries, np.arange(count))
            index = box.index("video")
            assert isinstance(index, FaissIndex)
            began = time.perf_counter()
            ours(box)(queries[0])  # calibrates
            first = time.perf_counter() - began
            plain = measured(direct(index), queries, truth)
            rows = [("FAISS directly", plain), ("ours", measured(ours(box), queries, truth))]
            for name, share in SHARES.items():
                allowed = np.flatnonzero(rank < share * count)
                found = measured(ours(box, {"rank": {"$lt": share}}), queries, true_ten(x, queries, allowed))
                rows.append((f"ours, a {name} by a filter", found))
            for name, answer in (others(x, Path(place)) if args.others else {}).items():
                rows.append((name, measured(answer, queries, truth)))
            for name, (p50, p99, recall) in rows:
                print(
                    f"| {count:,} | {name} | {p50:.2f} | {p99:.2f} | {recall:.3f} | {p50 / plain[0]:.2f} |", flush=True
                )
            shutil.copytree(folder, Path(place) / "killed")  # as a kill would leave it
            began = time.perf_counter()
            box.close()
            closed = time.perf_counter() - began
            opened, killed = (opening(where, args.dim) for where in (folder, Path(place) / "killed"))
            kept = f"{count:,}: {index.kind} ({index.tuned or 'untuned'}), {held:,.0f} bytes of memory a vector"
            times = (
                f"first search in {first:.2f} s, closed in {closed:.1f} s, opened in {opened:.2f} s, after a kill in "
            )
            rate = f"written at {count / wrote:,.0f} items/s, " if wrote else ""
            notes.append(f"{kept}, {rate}{times}{killed:.2f} s")
    print("\n" + "\n".join(notes))


if __name__ == "__main__":
    main()
