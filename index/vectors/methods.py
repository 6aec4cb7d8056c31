"""How each kind of index on the CPU finds vectors: by scan, by a graph, or by codes.

A method searches rows of FAISS's index. Ids, deletions and snapshots are `FaissIndex`'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..columns import Ids
from .base import FoundRows, Vectors, bitmap_selector, faiss, is_few
from .codes import Codes, Subset
from .rows import Rows
from .tuning import TUNED_FOR, Goal, Tuning, choose, explore

# How many vectors a filter may leave for a scan of just those, where there are codes.
CODED_SCAN_MOST = 1_500
# How many of the best by their codes are compared under a filter, at least.
FILTERED_DEPTH = 480
# Lists that are read, and times ten vectors that are compared, whatever tuning finds: not all
# queries are like those that it asks.
LEAST_PROBES = 8
LEAST_FACTOR = 8
# Of candidates for another order, one in so many must be right.
RERANKED_SHARE = 4
# Vectors by which it is seen that a graph's search under a filter stopped too early.
WITNESSES = 2048
# Of a score.
ROUNDING = 1e-5
HNSW_LINKS = 32
BITS = 255  # the highest of a number's 8 bits


@dataclass(eq=False)
class Selection:
    """The rows [n], ascending, that may be found among `count`."""

    rows: Ids
    count: int
    # What a method's search needs for them, made at its first search.
    prepared: Any = None

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def bitmap(self) -> Any:
        return bitmap_selector(self.rows, self.count)

    @cached_property
    def listed(self) -> Any:
        """A selector that goes through just these rows."""
        return faiss.IDSelectorArray(self.rows)


class Flat:
    """Every vector is compared. Other methods do so too, where few vectors may be found."""

    exhaustive = True
    stores_original_vectors = True

    def __init__(self, index: Any, rows: Rows, dim: int) -> None:
        self.faiss = index
        self._rows = rows
        self._dim = dim
        self._raw_vectors: Vectors = np.empty((0, dim), np.float32)  # FAISS's own memory

    @property
    def raw_storage(self) -> Any:
        """FAISS's index of each vector by itself: IndexFlat, or IndexScalarQuantizer."""
        return faiss.downcast_index(self.faiss)

    def stored(self, rows: Ids) -> Vectors:
        """The vectors [n, dim] of rows [n]."""
        if len(self._raw_vectors) != len(self._rows):  # FAISS moves them when it grows
            storage = self.raw_storage
            numbers = faiss.rev_swig_ptr(storage.get_xb(), int(storage.ntotal) * self._dim)
            self._raw_vectors = numbers.reshape(-1, self._dim)
        return self._raw_vectors[rows]

    def add(self, vectors: Vectors) -> None:
        self.faiss.add(vectors)

    def note_deleted(self, rows: Ids) -> None:
        """Rows that have just been deleted."""

    def prefers_scan(self, k: int, allowed: int | None, tuning: Tuning) -> bool:
        """Whether a search for k compares every vector that may be found, from the start.
        `allowed` counts what a filter leaves; None: there is no filter.
        """
        return True

    def search(
        self,
        query: Vectors,
        k: int,
        *,
        selection: Selection | None,
        for_reranking: bool,
        tuning: Tuning,
    ) -> FoundRows | None:
        """The best k of a selection (None: of all). None where only a scan can tell."""
        return None

    def scan(self, query: Vectors, k: int, selection: Selection | None) -> FoundRows:
        """Compare every vector of a selection."""
        params = faiss.SearchParameters(sel=self._scan_selector(selection))
        scores, rows = self.raw_storage.search(query[None], k, params=params)
        count = len(self._rows) if selection is None else len(selection)
        found = rows[0] >= 0
        return FoundRows(rows[0, found], scores[0, found], "scan", count, exact=True)

    def _scan_selector(self, selection: Selection | None) -> Any:
        return None if selection is None else selection.listed

    def tune(self, queries: Vectors, goal: Goal) -> str | None:
        """Parameters by which queries [n, dim] reach the goal; None where nothing is chosen."""
        return None

    @property
    def codes(self) -> Codes | None:
        return None


class Graph(Flat):
    """A graph of neighbours is walked toward the query (HNSW, arXiv 1603.09320).

    With a filter the walk goes through everything, and may stop among vectors that are not allowed.
    So its result is checked against a sample of what is allowed.
    """

    exhaustive = False

    @property
    def raw_storage(self) -> Any:
        return faiss.downcast_index(super().raw_storage.storage)

    def prefers_scan(self, k: int, allowed: int | None, tuning: Tuning) -> bool:
        if allowed is None:
            return False
        # A walk costs about 30 * efSearch * count / allowed comparisons, a scan `allowed`.
        breaks_even = math.sqrt(30 * tuning.values["efSearch"] * self._rows.shown)
        return is_few(allowed, self._rows.shown, max(50_000, breaks_even))

    def search(
        self,
        query: Vectors,
        k: int,
        *,
        selection: Selection | None,
        for_reranking: bool,
        tuning: Tuning,
    ) -> FoundRows | None:
        # Where a share s may be found, the best k lie among k / s of all: so much further it looks.
        one_in = len(self._rows) / max(len(selection), 1) if selection else 1.0
        width = int(one_in * max(tuning.values["efSearch"], k if for_reranking else 2 * k))
        chosen = selection.bitmap if selection else None
        params = faiss.SearchParametersHNSW(sel=chosen, efSearch=width)
        scores, rows = self.faiss.search(query[None], k, params=params)
        if selection and self._stopped_short(query, selection, scores[0], rows[0], for_reranking):
            return None
        count = int((rows[0] >= 0).sum())
        compared = min(width * HNSW_LINKS, self._rows.shown)
        return FoundRows(rows[0, :count], scores[0, :count], "graph", compared)

    def _stopped_short(
        self, query: Vectors, selection: Selection, scores: Vectors, rows: Ids, for_reranking: bool
    ) -> bool:
        """Whether a walk ended before it got to what may be found.

        It did where it found less than there is, or where one of the witnesses is nearer than the
        last row found. For reranking, nearer than the row at a fourth of the way.
        """
        wanted = min(len(rows), len(selection))
        if int((rows >= 0).sum()) < wanted:
            return True
        if selection.prepared is None:
            witnesses = np.random.default_rng(0).choice(selection.rows, WITNESSES)
            selection.prepared = witnesses, self.stored(witnesses)
        witnesses, vectors = selection.prepared
        last = -(-wanted // RERANKED_SHARE) if for_reranking else wanted
        nearer = witnesses[vectors @ query > scores[last - 1] + ROUNDING]
        return bool(np.isin(nearer, rows, invert=True).any())

    def tune(self, queries: Vectors, goal: Goal) -> str | None:
        _, truth = self.raw_storage.search(queries, TUNED_FOR)
        threads = faiss.omp_get_max_threads()
        tried = explore(faiss.ParameterSpace(), self.faiss, queries, truth, threads=threads)
        return choose(tried, goal).key if tried else None


class Coded(Flat):
    """4-bit codes are read first; the best by their codes are compared by their stored vectors."""

    exhaustive = False

    def __init__(self, index: Any, rows: Rows, dim: int) -> None:
        super().__init__(index, rows, dim)
        lists = faiss.downcast_index(super().raw_storage.base_index)
        self._codes = Codes(lists, self.stored, self._score)
        self._storage = self.raw_storage  # looked up once

    @property
    def codes(self) -> Codes:
        return self._codes

    @property
    def raw_storage(self) -> Any:
        return faiss.downcast_index(super().raw_storage.refine_index)

    def add(self, vectors: Vectors) -> None:
        super().add(vectors)
        self._codes.follow(vectors)

    def prefers_scan(self, k: int, allowed: int | None, tuning: Tuning) -> bool:
        return allowed is not None and allowed <= CODED_SCAN_MOST

    def search(
        self,
        query: Vectors,
        k: int,
        *,
        selection: Selection | None,
        for_reranking: bool,
        tuning: Tuning,
    ) -> FoundRows | None:
        probes = self._probes(k, tuning)
        plain_depth = self._depth(k, for_reranking, False, tuning)
        if selection is None and self._codes.lists > 1:
            found = self._search_nearest(query, k, plain_depth, probes)
            if len(found.rows) == k:
                return found
        return self._codes.search(
            query,
            k,
            depth=self._depth(k, for_reranking, selection is not None, tuning),
            plain_depth=plain_depth,
            probes=probes,
            subset=None if selection is None else self._subset(selection),
        )

    def _search_nearest(self, query: Vectors, k: int, depth: int, probes: int) -> FoundRows:
        """The best k in the nearest lists, or fewer: FAISS reads these `probes` lists, and compares
        the `depth` best by their codes.
        """
        lists = faiss.SearchParametersIVF(nprobe=probes)
        params = faiss.IndexRefineSearchParameters(k_factor=depth / k, base_index_params=lists)
        scores, rows = self.faiss.search(query[None], k, params=params)
        count = k if rows[0, -1] >= 0 else int((rows[0] >= 0).sum())
        compared = round(probes * len(self._rows) / self._codes.lists)
        return FoundRows(rows[0, :count], scores[0, :count], "lists", compared)

    def _score(self, query: Vectors, rows: Ids) -> Vectors:
        """The scores [n] of a query [dim] with the stored vectors of rows [n]."""
        rows = np.ascontiguousarray(rows, np.int64)
        scores = np.empty(len(rows), np.float32)
        point = faiss.swig_ptr
        vectors = self._storage.get_xb()
        faiss.fvec_inner_products_by_idx(
            point(scores), point(query), vectors, point(rows), self._dim, 1, len(rows)
        )
        return scores

    def _subset(self, selection: Selection) -> Subset:
        if selection.prepared is None:
            selection.prepared = self._codes.subset(selection.rows)
        subset: Subset = selection.prepared
        return subset

    def _probes(self, k: int, tuning: Tuning) -> int:
        """How many lists are read at first: enough to hold 2 k vectors."""
        holding = math.ceil(2 * k * self._codes.lists / len(self._rows))
        return max(int(tuning.values["nprobe"]), LEAST_PROBES, holding)

    def _depth(self, k: int, for_reranking: bool, filtered: bool, tuning: Tuning) -> int:
        """How many of the best by their codes are compared for k: as many for the best one as for
        the best ten, and fewer for each the more are wanted.
        """
        most = tuning.values["k_factor_rf"] * TUNED_FOR
        if filtered:
            most = max(most, FILTERED_DEPTH)
        if for_reranking:
            return min(int(max(most, 4 * k)), len(self._rows))
        wanted = most * max(1.0, k / TUNED_FOR) ** 0.75
        return min(int(max(wanted, 2 * k)), len(self._rows))

    def tune(self, queries: Vectors, goal: Goal) -> str | None:
        if self._codes.lists == 1:
            return None
        _, truth = self.raw_storage.search(queries, TUNED_FOR)
        threads = faiss.omp_get_max_threads()
        tried = explore(
            faiss.ParameterSpace(),
            self.faiss,
            queries,
            truth,
            threads=threads,
            least={"nprobe": LEAST_PROBES, "k_factor_rf": LEAST_FACTOR},
        )
        return choose(tried, goal).key if tried else None


class Small(Coded):
    """As Coded, but the stored vectors have 8 bits a number."""

    stores_original_vectors = False

    def __init__(self, index: Any, rows: Rows, dim: int) -> None:
        super().__init__(index, rows, dim)
        self._bits = np.empty((0, dim), np.uint8)

    def stored(self, rows: Ids) -> Vectors:
        found: Vectors = self.raw_storage.reconstruct_batch(rows)
        return found

    def scan(self, query: Vectors, k: int, selection: Selection | None) -> FoundRows:
        if selection is None or len(selection) > CODED_SCAN_MOST:
            return super().scan(query, k, selection)
        scores = self._score(query, selection.rows)
        best = np.argsort(-scores, kind="stable")[:k]
        return FoundRows(selection.rows[best], scores[best], "scan", len(selection), exact=True)

    def _scan_selector(self, selection: Selection | None) -> Any:
        # FAISS's scalar quantizer goes through all rows, whatever the selector.
        return None if selection is None else selection.bitmap

    @cached_property
    def _numbers(self) -> tuple[Vectors, Vectors]:
        """What FAISS's 8 bits mean in each dimension [dim]: the least number, and the step by which
        the next one is higher. Of each step the middle is meant.
        """
        least, width = faiss.vector_to_array(self._storage.sq.trained).reshape(2, -1)
        step = width / np.float32(BITS)
        return least + step / 2, step

    def _stored_bits(self) -> NDArray[np.uint8]:
        """The 8 bits of each number, [vectors, dim], in FAISS's own memory."""
        if len(self._bits) != len(self._rows):  # FAISS moves them when it grows
            count = int(self._storage.ntotal) * self._dim
            bits = faiss.rev_swig_ptr(self._storage.codes.data(), count)
            self._bits = bits.reshape(-1, self._dim)
        return self._bits

    def _score(self, query: Vectors, rows: Ids) -> Vectors:
        least, step = self._numbers
        bits = self._stored_bits()[rows].astype(np.float32)
        scores: Vectors = bits @ (query * step) + query @ least
        return scores
