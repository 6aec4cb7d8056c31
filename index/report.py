"""What a collection's indexes are worth: recall against an exact search, times, memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .collection import Collection
from .vectors import bytes_for

QUERIES = 200
TEN = 10


@dataclass(frozen=True)
class Worth:
    """One index, asked for ten. `queries` says what was asked: the bank of words, or vectors of its own."""

    encoding: str
    kind: str
    vectors: int
    bytes_per_vector: int | None
    queries: str
    recall_at_10: float
    p50_ms: float
    p99_ms: float
    exact_p50_ms: float


def report(collection: Collection, compares: Callable[[str, str], bool]) -> list[Worth]:
    """Every index of a collection, by the queries of its bank that compare with it and by vectors of its own taken by
    chance.
    """
    found = []
    for encoding, dim in collection.dims.items():
        with collection.held() as records:
            index = collection.index(encoding)
            own = records.vectors_among(encoding, dim, QUERIES, seed=2)[1]
            banks = [
                bank for e, d in collection.dims.items() if compares(e, encoding) and len(bank := records.bank(e, d))
            ]
            asked = {"words": np.concatenate(banks)} if banks else {}
            for name, queries in (asked | {"its own": own}).items():
                if not len(index) or not len(queries):
                    continue
                times, exact_times, hits, wanted = [], [], 0, 0
                for query in queries:
                    began = time.perf_counter()
                    ids, _ = index.search(query, TEN)
                    between = time.perf_counter()
                    truth, _ = index.search(query, TEN, exact=True)
                    times.append(between - began)
                    exact_times.append(time.perf_counter() - between)
                    hits, wanted = hits + len(np.intersect1d(ids, truth)), wanted + len(truth)
                p50, p99 = (1000 * float(np.percentile(times, q)) for q in (50, 99))
                size = None if index.kind == "milvus" else bytes_for(index.kind, dim)
                exact_p50 = 1000 * float(np.median(exact_times))
                kind, count, recall = index.kind, len(index), hits / wanted
                found.append(Worth(encoding, kind, count, size, name, recall, p50, p99, exact_p50))
    return found


def table(found: list[Worth]) -> str:
    head = f"{'encoding':12s} {'kind':6s} {'vectors':>9s} {'bytes':>6s} {'asked':8s} {'recall@10':>9s} {'p50 ms':>8s}"
    lines = [f"{head} {'p99 ms':>8s} {'exact ms':>8s}"]
    for w in found:
        size = "-" if w.bytes_per_vector is None else str(w.bytes_per_vector)
        lines.append(
            f"{w.encoding:12s} {w.kind:6s} {w.vectors:9d} {size:>6s} {w.queries:8s} {w.recall_at_10:9.3f}"
            f" {w.p50_ms:8.2f} {w.p99_ms:8.2f} {w.exact_p50_ms:8.2f}"
        )
    return "\n".join(lines)
