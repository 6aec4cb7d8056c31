"""What a collection's indexes are worth: recall against an exact search with and without filters,
times, memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .collection import Collection
from .columns import Ids
from .vectors.base import VectorIndex, Vectors

QUERIES, FILTERED_QUERIES = 200, 20
TEN = 10
LEFT_OUT = 20_000  # vectors nearest to a query that the filter against it leaves out, at most


@dataclass(frozen=True)
class IndexStats:
    """One index, asked for ten. `queries` says what was asked: the bank of words, or vectors of its
    own. `filter`: none, a half drawn by chance, or all but the half (at most 20,000) that is
    nearest to each query. `ways`: see `search.Plan`.
    """

    encoding: str
    kind: str
    vectors: int
    bytes_per_vector: int | None
    queries: str
    filter: str
    ways: str
    recall_at_10: float
    p50_ms: float
    p99_ms: float
    exact_p50_ms: float


def report(collection: Collection, compares: Callable[[str, str], bool]) -> list[IndexStats]:
    """Every index of a collection, by the queries of its bank that compare with it and by vectors
    of its own taken by chance.
    """
    found = []
    for encoding, dim in collection.dims.items():
        with collection.hold_for_reading() as records:
            index, every = collection.index(encoding), collection.window_table(encoding).ids
            own = records.vectors_among(encoding, dim, QUERIES, seed=2)[1]
            banks = [
                bank
                for e, d in collection.dims.items()
                if compares(e, encoding) and len(bank := records.bank(e, d))
            ]
            asked = {"words": np.concatenate(banks)} if banks else {}
            for name, queries in (asked | {"its own": own}).items():
                if len(index) and len(queries):
                    found += worths(encoding, index, name, queries, every)
    return found


def worths(
    encoding: str, index: VectorIndex, asked: str, queries: Vectors, every: Ids
) -> list[IndexStats]:
    """By queries [n, dim], without a filter and with two; `every` has the ids of all vectors,
    ascending.
    """
    half = every[np.random.default_rng(0).random(len(every)) < 0.5]

    def far(query: Vectors) -> Ids:
        near = index.search(query, min(len(every) // 2, LEFT_OUT), exact=True).ids
        return np.setdiff1d(every, near, assume_unique=True)

    filters: dict[str, Callable[[Vectors], Ids | None]] = {
        "none": lambda _: None,
        "a half": lambda _: half,
        "not near": far,
    }
    found = []
    for name, allowed_for in filters.items():
        times, exact_times, ways, hits, wanted = [], [], set[str](), 0, 0
        for query in queries[: None if name == "none" else FILTERED_QUERIES]:
            allowed = allowed_for(query)
            if name != "none":
                # what a filter leaves is kept: people ask more than once
                index.search(query, TEN, allowed)
            began = time.perf_counter()
            best = index.search(query, TEN, allowed)
            between = time.perf_counter()
            truth = index.search(query, TEN, allowed, exact=True).ids
            times.append(between - began)
            exact_times.append(time.perf_counter() - between)
            ways.add(best.way)
            hits, wanted = hits + len(np.intersect1d(best.ids, truth)), wanted + len(truth)
        p50, p99 = (1000 * float(np.percentile(times, q)) for q in (50, 99))
        exact_p50, recall = 1000 * float(np.median(exact_times)), hits / max(wanted, 1)
        size = index.bytes_per_vector
        row = (
            encoding,
            index.kind,
            len(index),
            size,
            asked,
            name,
            "+".join(sorted(ways)),
            recall,
            p50,
            p99,
            exact_p50,
        )
        found.append(IndexStats(*row))
    return found


def table(found: list[IndexStats]) -> str:
    head = f"{'encoding':12s} {'kind':6s} {'vectors':>9s} {'bytes':>6s} {'asked':8s} {'filter':8s} {'ways':10s}"
    lines = [f"{head} {'recall@10':>9s} {'p50 ms':>8s} {'p99 ms':>8s} {'exact ms':>8s}"]
    for w in found:
        size = "-" if w.bytes_per_vector is None else str(w.bytes_per_vector)
        lines.append(
            f"{w.encoding:12s} {w.kind:6s} {w.vectors:9d} {size:>6s} {w.queries:8s} {w.filter:8s} {w.ways:10s}"
            f" {w.recall_at_10:9.3f} {w.p50_ms:8.2f} {w.p99_ms:8.2f} {w.exact_p50_ms:8.2f}"
        )
    return "\n".join(lines)
