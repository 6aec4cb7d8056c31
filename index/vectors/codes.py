"""4-bit codes of vectors (product quantization), searched in lists, with and without filters.

Each vector has a code by product quantization (half as many pieces as dimensions, 16 values a
piece) and lies in the list of its nearest centroid. A search reads codes with FAISS's fast scan;
the best of them are compared by their stored vectors. Which codes are read:

- up to 50,000 vectors, all of them, in one list;
- with more, the lists nearest to the query; how many, tuning finds;
- where a filter leaves up to 131,072 vectors, a copy of their codes, whole;
- where it leaves more, the nearest lists that hold any of them, and further lists for as long as
  these can be expected to hold something better.

A row is a vector's position in FAISS's index, in the order of adding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..columns import Column, Ids
from .base import FoundRows, Vectors, bitmap_selector, faiss

# Compares rows [n] by their stored vectors: the best of them, best first, and their scores.
Compare = Callable[[Ids], tuple[Ids, Vectors]]

# Vectors, of which all codes are read.
ONE_LIST = 50_000
# Vectors left by a filter, of which the codes are copied, at most.
COPIED = 131_072
# Lists that a filtered search reads first, at least.
LEAST_PROBES = 16
# Times k that are compared before it is known whether to read on.
FIRST = 4
# Times the lists that were read are read next, at most.
GROWTH = 3
# Of k, so many hits may be expected in lists that are not read.
MISSED = 0.08
# Vectors that the spread within lists, and the error of codes, are measured on.
SPREAD_OF = 16_384
# Standard deviations of that error, by which the last code compared must lie below the last hit.
SURE = 1.5
# Times as many are compared where it does not.
DEEPER = 4
# Numbers of a matrix that are multiplied at once.
BLOCK = 2**18
# Below any score.
UNREACHABLE = np.float32(-2.0)


def lists_for(count: int) -> int:
    """How many lists so many vectors are kept in, as FAISS's guidelines have it."""
    return int(np.clip(4 * np.sqrt(count), 16, 65_536))


def pieces(dim: int) -> int:
    """How many pieces of a vector have a code."""
    return dim // 2 if dim % 2 == 0 else dim


def described(dim: int, expected: int) -> str:
    """FAISS's name for the lists of so many vectors."""
    lists = lists_for(expected) if expected > ONE_LIST else 1
    return f"IVF{lists},PQ{pieces(dim)}x4fs"


@dataclass(frozen=True)
class Subset:
    """What a filter leaves: rows [n]. With them either a copy of their codes, or FAISS's selector
    of them and how many of them each list holds, [lists].
    """

    rows: Ids
    copy: Any = None
    selector: Any = None
    counts: NDArray[np.float32] | None = None


class Codes:
    """Reads an index of FAISS's kind IVF,PQ..x4fs. `stored` gives the vectors [n, dim] of rows."""

    def __init__(self, index: Any, stored: Callable[[Ids], Vectors]) -> None:
        self._index, self._stored = index, stored
        self.lists = int(index.nlist)
        self._codes = Column(np.empty((0, index.code_size), np.uint8))
        self._sizes: Vectors = np.empty(0, np.float32)  # of the lists
        self._sized_at = -1  # vectors
        self._in_list = np.empty(0, np.int32)
        self._centroids: Vectors = np.empty((0, index.d), np.float32)
        self._spread = np.empty((0, 0), np.float32)
        self._spread_at = 0  # vectors
        self._error = np.empty((0, 0), np.float32)
        self._error_at = 0  # vectors

    @property
    def values(self) -> NDArray[np.uint8]:
        """The codes [n, bytes] of all vectors, in the order of their rows; none where there is
        one list.
        """
        found: NDArray[np.uint8] = self._codes.values
        return found

    def follow(self, added: Vectors, codes: NDArray[np.uint8] | None = None) -> None:
        """Keep the codes [n, bytes] of vectors [n, dim] that the index was given; worked out where
        none are given.
        """
        if self.lists > 1:
            self._codes.append(self._index.pq.compute_codes(added) if codes is None else codes)

    @property
    def outdated(self) -> bool:
        """Whether today's codes are finer, or it holds far more vectors than it has lists for."""
        count = int(self._index.ntotal)
        crowded = 2 * count > 3 * ONE_LIST if self.lists == 1 else lists_for(count) > 3 * self.lists
        return crowded or int(self._index.pq.M) != pieces(int(self._index.d))

    def subset(self, rows: Ids) -> Subset:
        """What is needed to search among rows [n], ascending."""
        count = int(self._index.ntotal)
        if self.lists > 1 and len(rows) <= COPIED:
            return Subset(rows, copy=self._copied(rows))
        chosen = bitmap_selector(rows, count)
        if self.lists == 1:
            return Subset(rows, selector=chosen)
        self._look_up()
        counts = np.bincount(self._in_list[rows], minlength=self.lists).astype(np.float32)
        return Subset(rows, selector=chosen, counts=counts)

    def _copied(self, rows: Ids) -> Any:
        pq = self._index.pq
        codes = faiss.IndexPQ(pq.d, pq.M, pq.nbits, faiss.METRIC_INNER_PRODUCT)
        codes.pq, codes.is_trained = pq, True
        codes.add_sa_codes(self.values[rows])
        return faiss.IndexPQFastScan(codes)

    def _count_lists(self) -> None:
        """See how many vectors each list holds."""
        count = int(self._index.ntotal)
        if not len(self._centroids):
            self._centroids = self._index.quantizer.reconstruct_n(0, self.lists)
        if self._sized_at != count:
            held = self._index.invlists
            self._sizes = np.array([held.list_size(n) for n in range(self.lists)], np.float32)
            self._sized_at = count

    def _look_up(self) -> None:
        """See which list each vector is in, and how far vectors lie from their centroids."""
        count = int(self._index.ntotal)
        self._count_lists()
        if len(self._in_list) != count:
            self._in_list = np.empty(count, np.int32)
            held = faiss.downcast_InvertedLists(self._index.invlists)
            for n in np.flatnonzero(self._sizes).tolist():
                self._in_list[faiss.rev_swig_ptr(held.get_ids(n), held.list_size(n))] = n
        if count > 2 * self._spread_at:
            some = evenly(count)
            off = self._stored(some) - self._centroids[self._in_list[some]]
            self._spread, self._spread_at = np.asarray(off.T @ off / len(some), np.float32), count

    def _code_error(self, query: Vectors) -> float:
        """The standard deviation of what codes make of scores of a query [dim]."""
        count = int(self._index.ntotal)
        if count > 2 * self._error_at:
            some = self._stored(evenly(count))
            off = some - self._index.pq.decode(self._index.pq.compute_codes(some))
            self._error, self._error_at = np.asarray(off.T @ off / len(some), np.float32), count
        return math.sqrt(max(float(query @ self._error @ query), 0.0))

    def search(
        self,
        query: Vectors,
        k: int,
        *,
        depth: int,
        probes: int,
        subset: Subset | None,
        compare: Compare,
    ) -> FoundRows:
        """The best k for a query [dim], of a subset or of all. The `depth` best by their codes are
        compared, of `probes` lists at first.
        """
        if self.lists > 1 and (subset is None or subset.copy is None):
            return self._search_lists(query, k, depth, probes, subset, compare)
        count = int(self._index.ntotal) if subset is None else len(subset.rows)

        def read(depth: int) -> tuple[Ids, Vectors]:
            if subset is None or subset.copy is None:
                only_list = np.zeros(1, np.int64)
                near = np.zeros(1, np.float32)
                return self._read(query, only_list, near, depth, subset and subset.selector)
            codes, at = subset.copy.search(query[None], depth)
            return subset.rows[at[0]], codes[0]

        rows, scores = self._compare_deeper(query, k, min(depth, count), count, read, compare)
        return FoundRows(rows, scores, "codes", count)

    def _compare_deeper(
        self,
        query: Vectors,
        k: int,
        depth: int,
        most: int,
        read: Callable[[int], tuple[Ids, Vectors]],
        compare: Compare,
    ) -> tuple[Ids, Vectors]:
        """The best k of the `depth` best by their codes. Of more, up to `most`, while the last code
        that was compared is too near to the last hit to be sure.
        """
        margin = SURE * self._code_error(query)
        while True:
            rows, codes = read(depth)
            found, scores = compare(rows)
            sure = len(scores) >= k and len(codes) and codes[-1] < scores[k - 1] - margin
            if sure or depth >= most or len(rows) < depth:
                return found, scores
            depth = min(DEEPER * depth, most)

    def _search_lists(
        self,
        query: Vectors,
        k: int,
        depth: int,
        probes: int,
        subset: Subset | None,
        compare: Compare,
    ) -> FoundRows:
        """Read the nearest lists; where a filter leaves what may lie elsewhere, or too little was
        found, go on reading lists for as long as these can be expected to hold better hits.
        """
        self._count_lists()
        near = products(self._centroids, query)
        if subset is None or subset.counts is None:
            walk = ListWalk(self, query, near, depth, None, self._sizes.copy())
            first = nearest(near, probes)
        else:
            walk = ListWalk(self, query, near, depth, subset.selector, subset.counts.copy())
            reachable = np.where(subset.counts > 0, near, UNREACHABLE)
            first = nearest(reachable, max(probes, LEAST_PROBES))
        walk.read(first)
        if subset is None and len(walk.reads[0].rows) >= k:
            best = compare(walk.reads[0].rows)
        else:
            best = self._read_on(walk, k, compare)
        return FoundRows(*best, "lists", int(sum(self._sizes[lists].sum() for lists in walk.lists)))

    def _read_on(self, walk: ListWalk, k: int, compare: Compare) -> tuple[Ids, Vectors]:
        """Read further lists until too little is expected of the rest, then compare."""
        self._look_up()
        deviation = math.sqrt(max(float(walk.query @ self._spread @ walk.query), 1e-12))
        best = NO_ROWS
        while True:
            best = merge(best, compare(walk.reads[-1].rows[: FIRST * k]), k)
            further = walk.worth_reading(worst_score(best, k), deviation, MISSED * k)
            if not len(further):
                break
            walk.read(further)
        margin = SURE * self._code_error(walk.query)
        rows = np.concatenate([read.rows for read in walk.reads])
        codes = np.concatenate([read.codes for read in walk.reads])
        order = np.argsort(-codes)
        best = compare(rows[order[: walk.depth]])
        rest = order[walk.depth :]
        doubtful = rest[codes[rest] >= worst_score(best, k) - margin]
        best = merge(best, compare(rows[doubtful]), k)
        for lists, read in zip(walk.lists, walk.reads, strict=True):
            best = self._read_deeper(walk, lists, read, best, k, compare)
        return best

    def _read_deeper(
        self,
        walk: ListWalk,
        lists: Ids,
        read: Codewise,
        best: tuple[Ids, Vectors],
        k: int,
        compare: Compare,
    ) -> tuple[Ids, Vectors]:
        """The best k, with more of some lists compared while the last code that was read of them is
        too near to the last hit to be sure.
        """
        margin = SURE * self._code_error(walk.query)
        most = int(self._sizes[lists].sum())
        depth = walk.depth
        while depth < most and read.last(depth) >= worst_score(best, k) - margin:
            depth = min(DEEPER * depth, most)
            read = Codewise(*self._read(walk.query, lists, walk.near[lists], depth, walk.selector))
            best = merge(best, compare(read.rows), k)
        return best

    def _read(
        self, query: Vectors, lists: Ids, near: Vectors, depth: int, selector: Any
    ) -> tuple[Ids, Vectors]:
        """The rows of the `depth` best by their codes in lists [n], best first, and the scores by
        their codes. `near` [n] are the lists' centroids' scores.
        """
        params = faiss.SearchParametersIVF(nprobe=len(lists), sel=selector)
        lists = np.ascontiguousarray(lists, np.int64)
        near = np.ascontiguousarray(near, np.float32)
        scores = np.empty(depth, np.float32)
        rows = np.empty(depth, np.int64)
        point = faiss.swig_ptr
        self._index.search_preassigned_c(
            1,
            point(query),
            depth,
            point(lists),
            point(near),
            point(scores),
            point(rows),
            False,
            params,
            None,
        )
        count = depth if rows[-1] >= 0 else int((rows >= 0).sum())
        return rows[:count], scores[:count]


class Codewise(NamedTuple):
    """Rows [n] and what their codes say of their scores [n], best first."""

    rows: Ids
    codes: Vectors

    def last(self, depth: int) -> float:
        """The last score of `depth` that were asked for; -inf where there were no more."""
        return float(self.codes[-1]) if len(self.codes) == depth else -math.inf


class ListWalk:
    """The lists that a search has read, and what is left in the others.

    `near` [lists] are the scores of the lists' centroids; `unread` [lists] says how many vectors
    that may be found each list holds, 0 once it was read.
    """

    def __init__(
        self,
        codes: Codes,
        query: Vectors,
        near: Vectors,
        depth: int,
        selector: Any,
        unread: Vectors,
    ) -> None:
        self._codes = codes
        self.query = query
        self.near = near
        self.depth = depth
        self.selector = selector
        self.unread = unread
        self.lists: list[Ids] = []
        self.reads: list[Codewise] = []

    def read(self, lists: Ids) -> None:
        """Read codes of lists [n]."""
        found = self._codes._read(self.query, lists, self.near[lists], self.depth, self.selector)
        self.lists.append(lists)
        self.reads.append(Codewise(*found))
        self.unread[lists] = 0.0

    def worth_reading(self, worst: float, deviation: float, missed: float) -> Ids:
        """Lists, those first of which most is expected, so that of the rest no more than `missed`
        vectors better than `worst` are expected; at most GROWTH times as many as were read.

        What is expected of a list is what it holds, times the tail above `worst` of a normal
        distribution around its centroid's score. exp(-z (z / 2 + 0.7)) / 2 is close to that tail.
        """
        z = (worst - self.near) * np.float32(1 / deviation)
        tail = np.where(z > 0, 0.5 * np.exp(-z * (0.5 * z + 0.7)), np.float32(1.0))
        expected = self.unread * tail
        surplus = float(expected.sum()) - missed
        if surplus <= 0:
            return NO_LISTS
        most = min(GROWTH * sum(map(len, self.lists)), len(self.near))
        lists = nearest(expected, most)
        lists = lists[np.argsort(-expected[lists])]
        enough = int(np.searchsorted(np.cumsum(expected[lists]), surplus)) + 1
        lists = lists[:enough]
        return lists[self.unread[lists] > 0]


NO_LISTS = np.empty(0, np.int64)
NO_ROWS = (np.empty(0, np.int64), np.empty(0, np.float32))


def nearest(scores: Vectors, count: int) -> Ids:
    """Where the `count` highest scores [n] are, in no order."""
    count = min(count, len(scores))
    return np.argpartition(scores, -count)[-count:]


def products(matrix: Vectors, query: Vectors) -> Vectors:
    """Inner products [n] of the rows of a matrix [n, dim] with a query [dim], block by block. BLAS
    shares a larger product among threads, which wait for milliseconds where another core is busy.
    """
    rows = max(1, BLOCK // len(query))
    return np.concatenate([matrix[n : n + rows] @ query for n in range(0, len(matrix), rows)])


def evenly(count: int) -> Ids:
    """At most SPREAD_OF of so many rows, evenly among them."""
    return np.unique(np.linspace(0, count - 1, min(count, SPREAD_OF)).astype(np.int64))


def worst_score(best: tuple[Ids, Vectors], k: int) -> float:
    """The score of the last of k; below any where there are fewer."""
    return float(best[1][k - 1]) if len(best[1]) >= k else -2.0


def merge(best: tuple[Ids, Vectors], more: tuple[Ids, Vectors], k: int) -> tuple[Ids, Vectors]:
    """The best k of both, each place once, best first."""
    fresh = np.isin(more[0], best[0], invert=True)
    rows, scores = (
        np.concatenate([best[0], more[0][fresh]]),
        np.concatenate([best[1], more[1][fresh]]),
    )
    order = np.argsort(-scores, kind="stable")[:k]
    return rows[order], scores[order]
