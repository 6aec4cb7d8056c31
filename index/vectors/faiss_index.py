"""Vectors kept in FAISS: derived from the records, and never trusted without a checksum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..columns import Allowed, Ids
from .base import NOTHING, Found, Vectors, faiss, one_thread
from .gpu import GpuFlat
from .kinds import KINDS
from .methods import Selection
from .rows import Rows
from .tuning import LEAST_TUNED, Goal, Tuning

HNSW_BUILD = 120
FILTERS_KEPT = 4


class FaissIndex:
    """See VectorIndex. Deleted vectors are hidden; `needs_compaction` says when they are too many.

    What is the same for every kind is here: ids, deletions, filters, snapshots. How a kind finds
    vectors is its method's (see `kinds`).
    """

    def __init__(self, dim: int, kind: str = "exact", expected: int = 0) -> None:
        factory = KINDS[kind].factory(dim, expected)
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        if kind == "hnsw":
            index.hnsw.efConstruction = HNSW_BUILD
        self.kind = kind
        self.dim = dim
        self.tuning = Tuning(KINDS[kind].parameters)
        self._attach(index, Rows.none())

    def _attach(self, index: Any, rows: Rows) -> None:
        self._rows = rows
        self._method = KINDS[self.kind].method(index, rows, self.dim)
        self._selections: dict[Allowed | None, Selection] = {}
        self._selections_of = rows.state

    @property
    def faiss(self) -> Any:
        """FAISS's own index, for measuring."""
        return self._method.faiss

    @property
    def exact(self) -> bool:
        return self._method.exhaustive

    @property
    def stores_original_vectors(self) -> bool:
        return self._method.stores_original_vectors

    @property
    def bytes_per_vector(self) -> int | None:
        return KINDS[self.kind].bytes_per_vector(self.dim)

    def __len__(self) -> int:
        return self._rows.shown

    @property
    def needs_compaction(self) -> bool:
        return self._rows.needs_compaction

    @property
    def tuning_is_stale(self) -> bool:
        """Whether it has more than twice the vectors that its parameters were found with."""
        return not self.exact and len(self._rows) > 2 * self.tuning.count

    @property
    def outdated(self) -> bool:
        """Whether its codes are older than today's, or too few lists hold what it has."""
        codes = self._method.codes
        return codes is not None and codes.outdated

    @property
    def too_many_deleted_for_gpu(self) -> bool:
        return isinstance(self._method, GpuFlat) and self._method.needs_fresh_copy

    def copy_anew(self) -> None:
        """Have a GPU forget what has been deleted."""
        if isinstance(self._method, GpuFlat):
            self._method.copy_anew(self.tuning)

    @property
    def trained(self) -> bool:
        return bool(self.faiss.is_trained)

    def train(self, sample: Vectors) -> None:
        """Learn codes and lists from vectors [n, dim]."""
        self.faiss.train(np.ascontiguousarray(sample, np.float32))

    def add(self, ids: Ids, vectors: Vectors) -> None:
        if not len(ids):
            return
        self._rows.check(ids)
        self._method.add(np.ascontiguousarray(vectors, np.float32))
        self._rows.append(ids)

    def remove(self, ids: Ids) -> None:
        self._method.note_deleted(self._rows.delete(ids))

    def search(
        self,
        query: Vectors,
        k: int,
        *,
        allowed: Allowed | None = None,
        exact: bool = False,
        for_reranking: bool = False,
    ) -> Found:
        if k <= 0 or len(self) == 0 or (allowed is not None and len(allowed) == 0):
            return NOTHING
        k = min(k, len(self))
        query = np.ascontiguousarray(query, np.float32)
        count = None if allowed is None else len(allowed)
        selection = self._selection(allowed)
        found = None
        with one_thread():
            if not exact and not self._method.prefers_scan(k, count, self.tuning):
                found = self._method.search(
                    query, k, selection=selection, for_reranking=for_reranking, tuning=self.tuning
                )
            # a graph may not reach every vector, nor do codes of few numbers find the farthest
            there = len(self) if selection is None else len(selection)
            if found is None or len(found.rows) < min(k, there):
                found = self._method.scan(query, k, selection)
        ids = self._rows.ids[found.rows]
        rounded = not self.stores_original_vectors
        return Found(ids, found.scores, found.way, found.compared, found.exact, rounded)

    def _selection(self, allowed: Allowed | None) -> Selection | None:
        """Which rows may be found; None: all. The last few are kept until vectors are added or
        deleted, since people ask with one filter more than once.
        """
        if allowed is None and len(self) == len(self._rows):
            return None
        if self._selections_of != self._rows.state:
            self._selections_of = self._rows.state
            self._selections = {}
        selection = self._selections.get(allowed)
        if selection is None:
            ids = None if allowed is None else allowed.ids
            selection = Selection(self._rows.allowed(ids), len(self._rows))
            while len(self._selections) >= FILTERS_KEPT:
                self._selections.pop(next(iter(self._selections)))
            self._selections[allowed] = selection
        return selection

    def vectors(self, ids: Ids) -> Vectors:
        return self._method.stored(self._rows.find(ids))

    def tune(self, queries: Vectors, goal: Goal = Goal(), asked_by: str = "") -> None:
        """Find the quickest search parameters that reach a goal by queries [n, dim]. `asked_by` is
        a digest of these queries; "" where they are the index's own vectors.
        """
        key = None
        if not self.exact and len(self) >= LEAST_TUNED:
            key = self._method.tune(np.ascontiguousarray(queries, np.float32), goal)
        self.tuning = Tuning(key or self.tuning.key, len(self._rows), asked_by)

    def save(self, path: Path) -> None:
        """Write two files, `path`.faiss and `path`.npz."""
        faiss.write_index(self.faiss, f"{path}.faiss")
        codes = self._method.codes
        values = np.empty((0, 0), np.uint8) if codes is None else codes.values
        np.savez(f"{path}.npz", ids=self._rows.ids, gone=self._rows.deleted, codes=values)

    @classmethod
    def load(cls, path: Path, dim: int, kind: str, tuning: Tuning) -> FaissIndex:
        """Read what `save` wrote. Only for files whose checksum has been compared: FAISS trusts
        what it reads.
        """
        index = cls(dim, kind)
        index.tuning = tuning
        with np.load(f"{path}.npz", allow_pickle=False) as arrays:
            index._attach(faiss.read_index(f"{path}.faiss"), Rows(arrays["ids"], arrays["gone"]))
            codes = index._method.codes
            if codes is not None and codes.lists > 1:
                known = arrays.get("codes")  # older snapshots have none
                unknown = np.arange(len(index._rows) if known is None else 0)
                codes.follow(index._method.stored(unknown), known)
        return index
