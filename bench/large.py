"""What a search of many millions of vectors costs, with and without filters, beside FAISS.

    python -m bench.large --keep FOLDER [--count 10000000] [--dim 256] [--memory-mb 6000]
    [--processor]

Vectors, filters and columns are those of `bench.search`. The vectors are made in pieces, and made
again to find the true hits, so that none is held but by the index. The collection stays in the
folder: a run that was ended is resumed where it stopped. `--memory-mb` is what the index may take
(`--index-memory-mb` of the builder). FAISS is asked at the end, with the index's own file and
parameters, on one thread, after ours is closed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
import psutil

from bench.search import (
    ASKED,
    CHUNK,
    FILTERS,
    TEN,
    Clock,
    index_only,
    labelled,
    made,
    make_item,
    measured,
    measured_in_turn,
    ours,
    ranks,
)
from index.collection import Collection
from index.columns import Ids
from index.vectors.base import Vectors
from index.vectors.faiss_index import FaissIndex
from index.vectors.sizing import Sizing
from index.vectors.tuning import Tuning

from .others import Answer

PIECE = 100_000  # vectors, a multiple of CHUNK
FIRST_SEED = 100  # of pieces; those of queries are lower
MIB = 2**20


class Piece(NamedTuple):
    """Vectors [n, dim], the first of which has number `start`, and their topics [n]."""

    start: int
    vectors: Vectors
    topics: Ids


def pieces(count: int, dim: int, after: int = 0) -> Iterator[Piece]:
    """All vectors, from the piece on that holds number `after`."""
    for start in range(after - after % PIECE, count, PIECE):
        seed = FIRST_SEED + start // PIECE
        vectors, topics = labelled(min(PIECE, count - start), dim, seed)
        yield Piece(start, vectors, topics)


class TenBest:
    """The true ten of each query [n] among what it has seen."""

    def __init__(self, queries: int) -> None:
        self._scores = np.full((queries, TEN), -2.0, np.float32)
        self._numbers = np.full((queries, TEN), -1, np.int64)

    def see(self, chosen: Ids, scores: Vectors, start: int) -> None:
        """Scores [k, n] of vectors from number `start` on, by the queries [k] chosen."""
        best = np.argpartition(-scores, TEN, axis=1)[:, :TEN]
        both = np.concatenate(
            [self._scores[chosen], np.take_along_axis(scores, best, axis=1)], axis=1
        )
        numbers = np.concatenate([self._numbers[chosen], best + start], axis=1)
        order = np.argsort(-both, axis=1)[:, :TEN]
        self._scores[chosen] = np.take_along_axis(both, order, axis=1)
        self._numbers[chosen] = np.take_along_axis(numbers, order, axis=1)

    def sets(self) -> list[set[int]]:
        return [set(row.tolist()) for row in self._numbers]


def true_hits(
    count: int, dim: int, queries: Vectors, asked: tuple[Vectors, Ids]
) -> tuple[list[set[int]], list[list[set[int]]]]:
    """The true ten of queries [n, dim] without a filter, and under each filter those of queries
    `asked`, with their topics.
    """
    plain, filtered = TenBest(len(queries)), [TenBest(len(asked[0])) for _ in FILTERS]
    rank = ranks(count)
    for piece in pieces(count, dim):
        plain.see(np.arange(len(queries)), queries @ piece.vectors.T, piece.start)
        of_piece = rank[piece.start : piece.start + len(piece.vectors)]
        for topic in np.unique(asked[1]).tolist():
            chosen = np.flatnonzero(asked[1] == topic)
            scores = asked[0][chosen] @ piece.vectors.T
            for narrowed, best in zip(FILTERS, filtered, strict=True):
                leaves = narrowed.leaves(topic, piece.topics, of_piece)
                best.see(chosen, np.where(leaves, scores, np.float32(-2)), piece.start)
    return plain.sets(), [best.sets() for best in filtered]


def fill(box: Collection, count: int, dim: int) -> float:
    """Write what the collection does not have yet. Returns the seconds that it took."""
    began = time.perf_counter()
    rank = ranks(count)
    there = box.counts().items
    for piece in pieces(count, dim, there) if there < count else ():
        first = max(there, piece.start)
        for at in range(first, piece.start + len(piece.vectors), CHUNK):
            until = min(at + CHUNK, piece.start + len(piece.vectors))
            places = range(at - piece.start, until - piece.start)
            items = [
                make_item(
                    piece.start + place,
                    piece.vectors[place],
                    float(rank[piece.start + place]),
                    int(piece.topics[place]),
                )
                for place in places
            ]
            box.put(items)
        print(
            f"{box.counts().items:,} written, {time.perf_counter() - began:.0f} s,"
            f" {psutil.Process().memory_info().rss / MIB:,.0f} MiB",
            flush=True,
        )
    return time.perf_counter() - began


def wait(box: Collection) -> float:
    """Wait until the index is made and tuned. Returns the seconds that it took."""
    began = time.perf_counter()
    while box.busy:
        time.sleep(0.5)
    return time.perf_counter() - began


def from_file(folder: Path, tuning: Tuning) -> Answer:
    """FAISS's own call of the index in a collection's snapshot."""
    (file,) = folder.rglob("video.faiss")
    index = faiss.read_index(str(file))
    lists = faiss.SearchParametersIVF(nprobe=int(tuning.values["nprobe"]))
    params = faiss.IndexRefineSearchParameters(
        k_factor=tuning.values["k_factor_rf"], base_index_params=lists
    )
    return lambda q: index.search(q[None], TEN, params=params)[1][0].tolist()


def print_row(name: str, figures: tuple[float, float, float]) -> None:
    p50, p99, recall = figures
    print(f"| {name} | {p50:.2f} | {p99:.2f} | {recall:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.large",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--count", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--memory-mb", type=int, default=6_000)
    parser.add_argument(
        "--processor", action="store_true", help="measure the asking thread's processor time"
    )
    args = parser.parse_args()
    clock = time.thread_time if args.processor else time.perf_counter
    faiss.omp_set_num_threads(1)
    before = psutil.Process().memory_info().rss
    began = time.perf_counter()
    dims = {"video": args.dim, "text": args.dim}
    box = Collection(args.keep, "bench", dims, sizing=Sizing(memory_mb=args.memory_mb))
    opened = time.perf_counter() - began
    there = box.counts().items
    wrote = fill(box, args.count, args.dim)
    if not box.has_bank("text"):
        box.set_bank("text", made(64, args.dim, 4), ["video"])
    waited = wait(box)
    held = psutil.Process().memory_info().rss - before
    print(
        f"{args.count - there:,} written in {wrote:.0f} s, the index ready {waited:.0f} s later;"
        f" opened with {there:,} in {opened:.1f} s; {held / args.count:,.0f} bytes of memory a"
        " vector\n"
    )
    measure(box, args.keep, args.count, args.dim, clock)


def measure(box: Collection, folder: Path, count: int, dim: int, clock: Clock) -> None:
    """Print a row for each way to ask, and what the index is."""
    queries, topics = labelled(5 * ASKED, dim, 3)
    chosen = np.flatnonzero(np.isin(topics, (0, 5, 10, 15)))
    truth, filtered = true_hits(count, dim, queries[:ASKED], (queries[chosen], topics[chosen]))
    index = box.index("video")
    assert isinstance(index, FaissIndex)
    print("| asked | p50, ms | p99, ms | recall@10 |\n|---|---|---|---|")
    ours(box)(queries[0])  # calibrates
    for name, answer in (("our index", index_only(box)), ("ours", ours(box))):
        print_row(name, min(measured(answer, queries[:ASKED], truth, clock) for _ in range(3)))
    of = topics[chosen].tolist()
    for narrowed, right in zip(FILTERS, filtered, strict=True):
        answers = {topic: ours(box, narrowed.filter(topic)) for topic in set(of)}
        began = time.perf_counter()
        for topic, answer in answers.items():
            answer(queries[chosen[of.index(topic)]])
        first = (time.perf_counter() - began) / len(answers)
        figures = measured_in_turn(answers, queries[chosen], of, right, clock)
        print_row(f"ours, {narrowed.name} (first {first:.1f} s)", figures)
    tuning, kind = index.tuning, index.kind
    began = time.perf_counter()
    del index, answers
    box.close()
    print(f"closed in {time.perf_counter() - began:.1f} s", flush=True)
    direct = from_file(folder, tuning)
    print_row(
        "FAISS directly", min(measured(direct, queries[:ASKED], truth, clock) for _ in range(3))
    )
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(json.dumps({"kind": kind, "parameters": tuning.key, "bytes on disk": size}))


if __name__ == "__main__":
    main()
