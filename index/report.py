"""How good a collection's indexes are: recall against an exact search with and without filters,
times, memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .collection import Collection
from .columns import Allowed, Ids
from .vectors.base import VectorIndex, Vectors

QUERIES = 200
FILTERED_QUERIES = 20
TEN = 10
LEFT_OUT = 20_000  # vectors nearest to a query, at most, that the filter against it leaves out
AllowedFor = Callable[[Vectors], Allowed | None]  # what a filter allows, by query


@dataclass(frozen=True, kw_only=True)
class IndexStats:
    """Searches of one index for the best ten. `queries` says which were used: the query bank's
    ("words"), or vectors of the index ("its own"). `filter`: "none"; "a half", drawn at random;
    "not near", which leaves out the half, or the 20,000 if that is less, nearest to each query.
    `ways`: see `search.Plan`.
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
    """Measure every index of a collection. `compares` tells whether vectors of one encoding can be
    compared with those of another.
    """
    stats: list[IndexStats] = []
    for encoding, dim in collection.dims.items():
        with collection.hold_for_reading() as records:
            index = collection.index(encoding)
            ids = collection.window_table(encoding).ids
            queries: dict[str, Vectors] = {}
            banks = [
                records.banks.queries(source, source_dim)
                for source, source_dim in collection.dims.items()
                if compares(source, encoding)
            ]
            banks = [bank for bank in banks if len(bank)]
            if banks:
                queries["words"] = np.concatenate(banks)
            queries["its own"] = records.vectors_among(encoding, dim, QUERIES, seed=2)[1]
            for name, vectors in queries.items():
                if len(index) and len(vectors):
                    stats += measure_index(encoding, index, name, vectors, ids)
    return stats


def measure_index(
    encoding: str, index: VectorIndex, name: str, queries: Vectors, ids: Ids
) -> list[IndexStats]:
    """Ask queries [n, dim] called `name` without a filter and with two; `ids` are those of all
    vectors, ascending.
    """
    half = Allowed(ids[np.random.default_rng(0).random(len(ids)) < 0.5])

    def leave_out_near(query: Vectors) -> Allowed:
        near = index.search(query, min(len(ids) // 2, LEFT_OUT), exact=True).ids
        return Allowed(np.setdiff1d(ids, near, assume_unique=True))

    filters: dict[str, tuple[AllowedFor, int]] = {
        "none": (lambda _: None, QUERIES),
        "a half": (lambda _: half, FILTERED_QUERIES),
        "not near": (leave_out_near, FILTERED_QUERIES),
    }
    return [
        measure_filter(encoding, index, name, queries[:most], filter_name, allowed_for)
        for filter_name, (allowed_for, most) in filters.items()
    ]


def measure_filter(
    encoding: str,
    index: VectorIndex,
    name: str,
    queries: Vectors,
    filter_name: str,
    allowed_for: AllowedFor,
) -> IndexStats:
    times_ms = []
    exact_times_ms = []
    ways: set[str] = set()
    found = 0
    wanted = 0
    for query in queries:
        allowed = allowed_for(query)
        if allowed is not None:
            # the first search with a filter prepares it, and people search with one more than once
            index.search(query, TEN, allowed=allowed)
        began = time.perf_counter()
        best = index.search(query, TEN, allowed=allowed)
        between = time.perf_counter()
        truth = index.search(query, TEN, allowed=allowed, exact=True).ids
        ended = time.perf_counter()
        times_ms.append(1000 * (between - began))
        exact_times_ms.append(1000 * (ended - between))
        ways.add(best.way)
        found += len(np.intersect1d(best.ids, truth))
        wanted += len(truth)
    return IndexStats(
        encoding=encoding,
        kind=index.kind,
        vectors=len(index),
        bytes_per_vector=index.bytes_per_vector,
        queries=name,
        filter=filter_name,
        ways="+".join(sorted(ways)),
        recall_at_10=found / max(wanted, 1),
        p50_ms=float(np.percentile(times_ms, 50)),
        p99_ms=float(np.percentile(times_ms, 99)),
        exact_p50_ms=float(np.median(exact_times_ms)),
    )


def format_stats(stats: list[IndexStats]) -> str:
    """A table with a line for each."""
    lines = [
        f"{'encoding':12s} {'kind':6s} {'vectors':>9s} {'bytes':>6s} {'asked':8s} {'filter':8s}"
        f" {'ways':10s} {'recall@10':>9s} {'p50 ms':>8s} {'p99 ms':>8s} {'exact ms':>8s}"
    ]
    for one in stats:
        size = "-" if one.bytes_per_vector is None else str(one.bytes_per_vector)
        lines.append(
            f"{one.encoding:12s} {one.kind:6s} {one.vectors:9d} {size:>6s} {one.queries:8s}"
            f" {one.filter:8s} {one.ways:10s} {one.recall_at_10:9.3f} {one.p50_ms:8.2f}"
            f" {one.p99_ms:8.2f} {one.exact_p50_ms:8.2f}"
        )
    return "\n".join(lines)
