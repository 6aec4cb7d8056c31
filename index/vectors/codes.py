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
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..columns import Column, Ids
from .base import FoundRows, Vectors, bitmap_selector, faiss

# Vectors, of which all codes are read.
ONE_LIST = 50_000
# Vectors left by a filter, of which the codes are copied, at most.
COPIED = 131_072
# FAISS's way to read lists for one query: one after another, the best codes in a reservoir. Where
# it chooses itself, it packs a query's table anew for each list, which is faster if there is one.
LIST_BY_LIST = 11
# Lists that a filtered search reads first, at least.
LEAST_PROBES = 16
# Times k that are compared before it is known whether to go on.
FIRST = 4
# Times the lists that were read are read next, where less than k was found.
GROWTH = 3
# Of k, so many hits may be expected in lists that are not read.
MISSED = 0.04
# Vectors that the spread within lists, and the error of codes, are measured on.
SPREAD_OF = 32_768
# Vectors with the mean of all lists that are counted with those of a list.
ASSUMED = 4
# Standard deviations of what codes make of a score, by which the last code compared must lie below
# the last hit.
SURE = 1.5
# Times as many are read where it does not.
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
    """Reads an index of FAISS's kind IVF,PQ..x4fs. `stored` gives the vectors [n, dim] of rows,
    `score` the scores [n] of a query [dim] with these.
    """

    def __init__(
        self,
        index: Any,
        stored: Callable[[Ids], Vectors],
        score: Callable[[Vectors, Ids], Vectors],
    ) -> None:
        self._index = index
        self._stored = stored
        self._score = score
        self.lists = int(index.nlist)
        if self.lists > 1:
            self._index.implem = LIST_BY_LIST
        self._codes = Column(np.empty((0, index.code_size), np.uint8))
        self._sizes: Vectors = np.empty(0, np.float32)  # of the lists
        self._sized_at = -1  # vectors
        self._in_list = np.empty(0, np.int32)
        self._centroids: Vectors = np.empty((0, index.d), np.float32)
        # What [lists] a centroid is multiplied by to be near the mean of its list: it is longer.
        self._shrinking: Vectors = np.empty(0, np.float32)
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
        if self.lists > 1 and len(rows) <= COPIED:
            return Subset(rows, copy=self._copied(rows))
        chosen = bitmap_selector(rows, int(self._index.ntotal))
        if self.lists == 1:
            return Subset(rows, selector=chosen)
        self._look_up()
        counts = np.bincount(self._in_list[rows], minlength=self.lists).astype(np.float32)
        return Subset(rows, selector=chosen, counts=counts)

    def _copied(self, rows: Ids) -> Any:
        pq = self._index.pq
        codes = faiss.IndexPQ(pq.d, pq.M, pq.nbits, faiss.METRIC_INNER_PRODUCT)
        codes.pq = pq
        codes.is_trained = True
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
            self._measure_lists(evenly(count))
            self._spread_at = count

    def _measure_lists(self, some: Ids) -> None:
        """See by some rows [n] where the scores of a list's vectors have their mean, and how far
        they spread.
        """
        of = self._in_list[some]
        vectors = self._stored(some)
        centroids = self._centroids[of]
        along = (vectors * centroids).sum(axis=1) / (centroids**2).sum(axis=1)
        counts = np.bincount(of, minlength=self.lists)
        sums = np.bincount(of, along, self.lists) + ASSUMED * along.mean()
        self._shrinking = np.asarray(sums / (counts + ASSUMED), np.float32)
        off = vectors - self._shrinking[of, None] * centroids
        self._spread = np.asarray(off.T @ off / len(some), np.float32)

    def _code_error(self, query: Vectors) -> float:
        """The standard deviation of what codes make of scores of a query [dim]."""
        count = int(self._index.ntotal)
        if count > 2 * self._error_at:
            some = self._stored(evenly(count))
            off = some - self._index.pq.decode(self._index.pq.compute_codes(some))
            self._error = np.asarray(off.T @ off / len(some), np.float32)
            self._error_at = count
        return math.sqrt(max(float(query @ self._error @ query), 0.0))

    def search(
        self,
        query: Vectors,
        k: int,
        *,
        depth: int,
        plain_depth: int,
        probes: int,
        subset: Subset | None,
    ) -> FoundRows:
        """The best k for a query [dim], of a subset or of all. Of what is read, the `depth` best by
        their codes are compared at most, or more where these are too alike; `probes` lists are read
        at first. Where these have all that is near, the `plain_depth` best are compared, as without
        a filter.
        """
        best = Best(query, k, self._score)
        if self.lists > 1 and (subset is None or subset.counts is not None):
            return self._search_lists(best, depth, plain_depth, probes, subset)
        return self._search_whole(best, depth, subset)

    def _search_whole(self, best: Best, depth: int, subset: Subset | None) -> FoundRows:
        """Read all codes of the only list, or all that were copied."""
        count = int(self._index.ntotal) if subset is None else len(subset.rows)
        copy, selector = (None, None) if subset is None else (subset.copy, subset.selector)

        def read(depth: int) -> Codewise:
            if copy is not None and subset is not None:
                codes, at = copy.search(best.query[None], depth)
                return Codewise(subset.rows[at[0]], codes[0])
            only_list = np.zeros(1, np.int64)
            near = np.zeros(1, np.float32)
            return self._read(best.query, only_list, near, depth, selector)

        first = read(min(depth, count))
        best.compare(first.rows)
        best.compare_deeper(first, depth, count, self._margin(best.query), read)
        return FoundRows(best.rows, best.scores, "codes", count)

    def _margin(self, query: Vectors) -> float:
        """How far below the last hit of a query [dim] a code must lie for its vector to be none."""
        return SURE * self._code_error(query)

    def _search_lists(
        self, best: Best, depth: int, plain_depth: int, probes: int, subset: Subset | None
    ) -> FoundRows:
        """Read the nearest lists; where a filter leaves what may lie elsewhere, or too little was
        found, go on reading lists for as long as these can be expected to hold better hits.
        """
        self._count_lists()
        query = best.query
        near = products(self._centroids, query)
        selector = None
        held = self._sizes
        if subset is not None and subset.counts is not None:
            selector = subset.selector
            held = subset.counts
        walk = ListWalk(near, held)
        lists = walk.nearest(max(probes, LEAST_PROBES))
        reads = [(lists, self._read(query, lists, near[lists], depth, selector))]
        self._look_up()
        deviation = math.sqrt(max(float(query @ self._spread @ query), 1e-12))
        while len(lists):
            best.compare(reads[-1][1].rows[: FIRST * best.k])
            walk.note_read(lists)
            lists = walk.worth_reading(best, self._shrinking * near, deviation)
            if len(lists):
                reads.append((lists, self._read(query, lists, near[lists], depth, selector)))
        margin = self._margin(query)
        compared = plain_depth if len(reads) == 1 else depth
        best.compare_rest([read for _, read in reads], compared, margin)
        for lists, read in reads:
            read_again = partial(self._read, query, lists, near[lists], selector=selector)
            best.compare_deeper(read, depth, int(self._sizes[lists].sum()), margin, read_again)
        count = sum(int(self._sizes[lists].sum()) for lists, _ in reads)
        return FoundRows(best.rows, best.scores, "lists", count)

    def _read(
        self, query: Vectors, lists: Ids, near: Vectors, depth: int, selector: Any
    ) -> Codewise:
        """The `depth` best by their codes in lists [n]. `near` [n] are the lists' centroids'
        scores.
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
        return Codewise(rows[:count], scores[:count])


class Codewise(NamedTuple):
    """Rows [n] and what their codes say of their scores [n], best first."""

    rows: Ids
    codes: Vectors


class Best:
    """The best k for a query [dim] so far, best first: rows [n] and their scores [n], which `score`
    gives.
    """

    def __init__(self, query: Vectors, k: int, score: Callable[[Vectors, Ids], Vectors]) -> None:
        self.query = query
        self.k = k
        self._score = score
        self.rows: Ids = np.empty(0, np.int64)
        self.scores: Vectors = np.empty(0, np.float32)

    @property
    def full(self) -> bool:
        return len(self.rows) >= self.k

    @property
    def worst(self) -> float:
        """The score of the last of k; below any where there are fewer."""
        return float(self.scores[-1]) if self.full else float(UNREACHABLE)

    def compare(self, rows: Ids) -> None:
        """Compare rows [n] that were not compared before."""
        scores = np.concatenate([self.scores, self._score(self.query, rows)])
        order = np.argsort(-scores, kind="stable")[: self.k]
        self.rows = np.concatenate([self.rows, rows])[order]
        self.scores = scores[order]

    def compare_rest(self, reads: list[Codewise], depth: int, margin: float) -> None:
        """Compare the `depth` best by their codes of several reads, of each of which the first were
        compared, and those below whose codes are near enough to the last hit.
        """
        at = FIRST * self.k
        rest = [Codewise(read.rows[at:], read.codes[at:]) for read in reads]
        rows = np.concatenate([read.rows for read in rest])
        codes = np.concatenate([read.codes for read in rest])
        order = np.argsort(-codes)
        compared = sum(len(read.rows) for read in reads) - len(rows)
        first = max(depth - compared, 0)
        self.compare(rows[order[:first]])
        below = order[first:]
        self.compare(rows[below[codes[below] >= self.worst - margin]])

    def compare_deeper(
        self,
        first: Codewise,
        depth: int,
        most: int,
        margin: float,
        read: Callable[[int], Codewise],
    ) -> None:
        """Read and compare more than the `depth` that were read first, up to `most`, while the last
        code that was read is too near to the last hit to be sure.
        """
        last = first
        while depth < most and len(last.rows) == depth and last.codes[-1] >= self.worst - margin:
            depth = min(DEEPER * depth, most)
            deeper = read(depth)
            self.compare(deeper.rows[np.isin(deeper.rows, last.rows, invert=True)])
            last = deeper


class ListWalk:
    """Which lists a search reads next.

    `near` [lists] are the scores of the lists' centroids, `held` [lists] says how many vectors that
    may be found each list holds.
    """

    def __init__(self, near: Vectors, held: Vectors) -> None:
        self._near = near
        self._unread = held.copy()  # 0 for lists that were read
        self._read = 0

    def nearest(self, count: int) -> Ids:
        """The `count` nearest of the lists that hold anything unread."""
        reachable = np.where(self._unread > 0, self._near, UNREACHABLE)
        lists = nearest(reachable, count)
        return lists[self._unread[lists] > 0]

    def note_read(self, lists: Ids) -> None:
        self._unread[lists] = 0.0
        self._read += len(lists)

    def worth_reading(self, best: Best, means: Vectors, deviation: float) -> Ids:
        """The lists of which most is expected, so that of the rest no more than MISSED of k vectors
        are expected that are better than the last of the k. The scores of lists' vectors have these
        means [lists] and a standard deviation.

        Where the lists are expected to hold more than k better ones, the k-th best of these is the
        last in the end: lists are chosen by its score, which is guessed.
        """
        if not best.full:
            return self.nearest(GROWTH * self._read)
        z, expected = self._expected(best.worst, means, deviation)
        total = float(expected.sum())
        if total > best.k:
            # how fast ln(total) falls with z, which is faster the higher it is
            fall = math.log(total / best.k)
            slope = 0.832 * float(expected @ z) / total + 0.717
            step = fall / (slope + 0.416 * fall / slope)
            _, expected = self._expected(best.worst + step * deviation, means, deviation)
        ascending = np.sort(expected)
        missed = int(np.searchsorted(np.cumsum(ascending), MISSED * best.k, side="right"))
        if missed == len(ascending):
            return NO_LISTS
        return np.flatnonzero(expected >= ascending[missed])

    def _expected(self, worst: float, means: Vectors, deviation: float) -> tuple[Vectors, Vectors]:
        """How far a score `worst` is above each list's mean, in standard deviations, and how many
        vectors above it each list is expected to hold that was not read; both [lists].

        What is expected of a list is what it holds, times the tail of a normal distribution:
        exp(-0.717 z - 0.416 z^2) / 2 (Lin, 1989). Below the mean it is taken for a half.
        """
        z = np.asarray((worst - means) / deviation, np.float32)
        np.maximum(z, 0.0, out=z)
        tail = 0.5 * np.exp(-z * (0.717 + 0.416 * z))
        return z, np.asarray(self._unread * tail, np.float32)


NO_LISTS = np.empty(0, np.int64)


def nearest(scores: Vectors, count: int) -> Ids:
    """Where the `count` highest scores [n] are, in no order."""
    count = min(count, len(scores))
    return np.argpartition(scores, -count)[-count:]


def products(matrix: Vectors, query: Vectors) -> Vectors:
    """Inner products [n] of the rows of a matrix [n, dim] with a query [dim], block by block. BLAS
    shares a larger product among threads, which wait for milliseconds where another core is busy.
    """
    rows = max(1, BLOCK // len(query))
    if rows >= len(matrix):
        return np.asarray(matrix @ query)
    return np.concatenate([matrix[n : n + rows] @ query for n in range(0, len(matrix), rows)])


def evenly(count: int) -> Ids:
    """At most SPREAD_OF of so many rows, evenly among them."""
    return np.unique(np.linspace(0, count - 1, min(count, SPREAD_OF)).astype(np.int64))
