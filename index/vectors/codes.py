"""4-bit codes of vectors (product quantization), searched in lists, with and without filters.

Each vector has a code by product quantization (half as many pieces as dimensions, 16 values a
piece) and lies in the list of its nearest centroid. A search reads codes with FAISS's fast scan;
the best of them are compared anew by their stored vectors. Which codes are read:

- up to 50,000 vectors, all of them, in one list;
- with more, the lists nearest to the query; how many, tuning finds;
- where a filter leaves up to 131,072 vectors, a copy of their codes, whole;
- where it leaves more, the nearest lists that hold any of them, and further lists for as long as
  these can be expected to hold something better. Scores within a list are taken to be normally
  distributed around its centroid's.

Where many codes are about as good as the worst of what was found, more of them are compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import faiss as untyped_faiss
import numpy as np
from numpy.typing import NDArray

from ..columns import Column, Ids

faiss: Any = untyped_faiss

Vectors = NDArray[np.float32]
# places to the best of them, best first, and their scores
Compare = Callable[[Ids], tuple[Ids, Vectors]]

ONE_LIST = 50_000  # vectors, of which all codes are read
COPIED = 131_072  # vectors left by a filter, of which the codes are copied, at most
LEAST_PROBES = 16  # lists that a filtered search reads first, at least
FIRST = 4  # times the wanted are compared before it is known whether to read on
GROWTH = 3  # times what has been read is read next, at most
MISSED = 0.08  # of the wanted may be expected in lists that are not read
SPREAD_OF = 16_384  # vectors that the spread within lists, and the error of codes, are measured on
# standard deviations of that error, by which the last code that is compared lies below the last hit
SURE = 1.5
BLOCK = 2**18  # numbers of a matrix that are multiplied at once
DEEPER = 4  # times as many are compared where it does not


def lists_for(count: int) -> int:
    """How many lists so many vectors are kept in, as FAISS's guidelines have it."""
    return int(np.clip(4 * np.sqrt(count), 16, 65_536))


def pieces(dim: int) -> int:
    """How many pieces of a vector have a code."""
    return dim // 2 if dim % 2 == 0 else dim


def described(dim: int, expected: int) -> str:
    """FAISS's name for the lists of so many vectors."""
    return f"IVF{lists_for(expected) if expected > ONE_LIST else 1},PQ{pieces(dim)}x4fs"


@dataclass(frozen=True)
class Subset:
    """What a filter leaves: the places [n] of vectors, and either a copy of their codes, or FAISS's
    selector of them and how many of them each list holds, [lists].
    """

    places: Ids
    copy: Any = None
    selector: Any = None
    counts: NDArray[np.float32] | None = None


class Read(NamedTuple):
    """Places [n] and scores [n] of what was found, best first; "codes" where the codes of all that
    may be found were read, or "lists"; and how many that were.
    """

    places: Ids
    scores: Vectors
    way: str
    compared: int


class Codes:
    """Reads an index of FAISS's kind IVF,PQ..x4fs. `stored` gives the vectors [n, dim] of places.

    Places count vectors in the order in which they were added.
    """

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
        """The codes [n, bytes] of all vectors, in the order of their places; none where there is
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

    def subset(self, places: Ids) -> Subset:
        """What is needed to search among places [n], ascending."""
        count = int(self._index.ntotal)
        if self.lists > 1 and len(places) <= COPIED:
            return Subset(places, copy=self._copied(places))
        bits = np.zeros(count, bool)
        bits[places] = True
        chosen = faiss.IDSelectorBitmap(np.packbits(bits, bitorder="little"))
        if self.lists == 1:
            return Subset(places, selector=chosen)
        self._look_up()
        counts = np.bincount(self._in_list[places], minlength=self.lists).astype(np.float32)
        return Subset(places, selector=chosen, counts=counts)

    def _copied(self, places: Ids) -> Any:
        pq = self._index.pq
        codes = faiss.IndexPQ(pq.d, pq.M, pq.nbits, faiss.METRIC_INNER_PRODUCT)
        codes.pq, codes.is_trained = pq, True
        codes.add_sa_codes(self.values[places])
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

    def _error_for(self, query: Vectors) -> float:
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
        depth: int,
        probes: int,
        subset: Subset | None,
        compare: Compare,
    ) -> Read:
        """The best k for a query [dim]: the `depth` best by their codes compared, in `probes` lists
        at first.
        """
        if self.lists > 1 and (subset is None or subset.copy is None):
            return self._walk(query, k, depth, probes, subset, compare)
        count = int(self._index.ntotal) if subset is None else len(subset.places)

        def read(depth: int) -> tuple[Ids, Vectors]:
            if subset is None or subset.copy is None:
                whole, near = np.zeros(1, np.int64), np.zeros(1, np.float32)
                return self._read(query, whole, near, depth, subset.selector if subset else None)
            codes, at = subset.copy.search(query[None], depth)
            return subset.places[at[0]], codes[0]

        places, scores = self._compared(query, k, min(depth, count), count, read, compare)
        return Read(places, scores, "codes", count)

    def _compared(
        self,
        query: Vectors,
        k: int,
        depth: int,
        most: int,
        read: Callable[[int], tuple[Ids, Vectors]],
        compare: Compare,
    ) -> tuple[Ids, Vectors]:
        """The best k of the `depth` best by their codes, or of more, up to `most`, where the codes
        are too alike.
        """
        error = self._error_for(query)
        while True:
            places, codes = read(depth)
            found, scores = compare(places)
            sure = len(scores) >= k and len(codes) and codes[-1] < scores[k - 1] - SURE * error
            if sure or depth >= most or len(places) < depth:
                return found, scores
            depth = min(DEEPER * depth, most)

    def _walk(
        self,
        query: Vectors,
        k: int,
        depth: int,
        probes: int,
        subset: Subset | None,
        compare: Compare,
    ) -> Read:
        """Read the nearest lists. Where a filter leaves what may lie elsewhere, or too little was
        found, go on: what is expected of a list is the tail of a normal distribution above the
        worst of the best k, times what it holds.
        """
        self._count_lists()
        near = products(self._centroids, query)
        selector, unread = None, self._sizes
        if subset is not None and subset.counts is not None:
            selector, unread, probes = subset.selector, subset.counts, max(probes, LEAST_PROBES)
        reach = near if subset is None else np.where(unread > 0, near, np.float32(-2.0))
        part = np.argpartition(reach, -min(probes, self.lists))[-min(probes, self.lists) :]
        read = self._read(query, part, near[part], depth, selector)
        if subset is None and len(read[0]) >= k:
            return Read(*compare(read[0]), "lists", int(self._sizes[part].sum()))
        self._look_up()
        deviation = math.sqrt(max(float(query @ self._spread @ query), 1e-12))
        best = compare(read[0][:0])
        parts, reads, unread = [part], [read], unread.copy()
        while True:
            unread[part] = 0.0
            best = better(best, compare(reads[-1][0][: FIRST * k]), k)
            z = (worst_of(best, k) - near) * np.float32(1 / deviation)
            expected = unread * np.where(z > 0, 0.5 * np.exp(-z * (0.5 * z + 0.7)), np.float32(1.0))
            surplus = float(expected.sum()) - MISSED * k
            if surplus <= 0:
                break
            most = min(GROWTH * sum(map(len, parts)), self.lists)
            part = np.argpartition(expected, -most)[-most:]
            part = part[np.argsort(-expected[part])]
            part = part[: int(np.searchsorted(np.cumsum(expected[part]), surplus)) + 1]
            part = part[unread[part] > 0]
            if not len(part):
                break
            reads.append(self._read(query, part, near[part], depth, selector))
            parts.append(part)
        places, codes = (np.concatenate(columns) for columns in zip(*reads, strict=True))
        order = np.argsort(-codes)
        best = compare(places[order[:depth]])
        others = order[depth:]
        near_enough = others[codes[others] >= worst_of(best, k) - SURE * self._error_for(query)]
        best = better(best, compare(places[near_enough]), k)
        for part, (_, codes) in zip(parts, reads, strict=True):
            last = float(codes[-1]) if len(codes) == depth else -math.inf
            best = self._deepened(query, k, depth, part, near, selector, best, last, compare)
        return Read(*best, "lists", int(sum(self._sizes[part].sum() for part in parts)))

    def _deepened(
        self,
        query: Vectors,
        k: int,
        depth: int,
        part: Ids,
        near: Vectors,
        selector: Any,
        best: tuple[Ids, Vectors],
        last: float,
        compare: Compare,
    ) -> tuple[Ids, Vectors]:
        """The best k, with more of some lists compared as long as the last of them is too near by
        its code.
        """
        most = int(self._sizes[part].sum())
        while depth < most and not last < worst_of(best, k) - SURE * self._error_for(query):
            depth = min(DEEPER * depth, most)
            places, codes = self._read(query, part, near[part], depth, selector)
            best = better(best, compare(places), k)
            last = float(codes[-1]) if len(codes) == depth else -math.inf
        return best

    def _read(
        self, query: Vectors, part: Ids, near: Vectors, depth: int, selector: Any
    ) -> tuple[Ids, Vectors]:
        """The places of the best by their codes in some lists, which are so near, and what the
        codes say of them.
        """
        params = faiss.SearchParametersIVF(nprobe=len(part), sel=selector)
        lists, near = np.ascontiguousarray(part, np.int64), np.ascontiguousarray(near, np.float32)
        scores, found = np.empty(depth, np.float32), np.empty(depth, np.int64)
        point = faiss.swig_ptr
        self._index.search_preassigned_c(
            1,
            point(query),
            depth,
            point(lists),
            point(near),
            point(scores),
            point(found),
            False,
            params,
            None,
        )
        count = depth if found[-1] >= 0 else int((found >= 0).sum())
        return found[:count], scores[:count]


def products(matrix: Vectors, query: Vectors) -> Vectors:
    """Inner products [n] of the rows of a matrix [n, dim] with a query [dim], block by block. BLAS
    shares a larger product among threads, which wait for milliseconds where another core is busy.
    """
    rows = max(1, BLOCK // len(query))
    return np.concatenate([matrix[n : n + rows] @ query for n in range(0, len(matrix), rows)])


def evenly(count: int) -> Ids:
    """At most SPREAD_OF of so many places, evenly among them."""
    return np.unique(np.linspace(0, count - 1, min(count, SPREAD_OF)).astype(np.int64))


def worst_of(best: tuple[Ids, Vectors], k: int) -> float:
    """The score of the last of k; below any where there are fewer."""
    return float(best[1][k - 1]) if len(best[1]) >= k else -2.0


def better(best: tuple[Ids, Vectors], more: tuple[Ids, Vectors], k: int) -> tuple[Ids, Vectors]:
    """The best k of both, each place once, best first."""
    fresh = np.isin(more[0], best[0], invert=True)
    places, scores = (
        np.concatenate([best[0], more[0][fresh]]),
        np.concatenate([best[1], more[1][fresh]]),
    )
    order = np.argsort(-scores, kind="stable")[:k]
    return places[order], scores[order]
