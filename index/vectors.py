"""Vectors kept in FAISS: derived from the records, rebuildable, never trusted without a checksum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss as untyped_faiss
import numpy as np
from numpy.typing import NDArray

faiss: Any = untyped_faiss  # its stubs know neither numpy arguments nor search parameters

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]

HNSW_FROM = 50_000  # vectors; below, an exact scan takes about 2 ms at 256 dimensions
HNSW_LINKS, HNSW_BUILD, HNSW_SEARCH = 32, 120, 128
SCAN_SHARE = 0.2  # a filter that leaves a smaller share is answered by scanning just that
CHUNK = 16_384


def inner_index(dim: int, kind: str) -> Any:
    if kind == "exact":
        return faiss.IndexFlatIP(dim)
    index: Any = faiss.IndexHNSWFlat(dim, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = HNSW_BUILD
    return index


class FaissIndex:
    """Unit vectors by id, exact or HNSW. Score is the inner product, higher is closer; ids are positive and never used
    twice."""

    def __init__(self, dim: int, kind: str = "exact") -> None:
        self.kind, self.dim = kind, dim
        self._removed: set[int] = set()
        self._faiss: Any = faiss.IndexIDMap2(inner_index(dim, kind))

    @property
    def exact(self) -> bool:
        return self.kind == "exact"

    def __len__(self) -> int:
        return int(self._faiss.ntotal) - len(self._removed)

    @property
    def worn(self) -> bool:
        """Whether removed vectors, which HNSW can only hide, have become a fifth of it."""
        return len(self._removed) > 0.2 * max(int(self._faiss.ntotal), 1)

    def add(self, ids: Ids, vectors: Vectors) -> None:
        if len(ids):
            self._faiss.add_with_ids(np.ascontiguousarray(vectors, np.float32), ids)

    def remove(self, ids: Ids) -> None:
        """Forget vectors that are in the index."""
        if self.exact:
            if len(ids):
                self._faiss.remove_ids(ids)
        else:
            self._removed.update(ids.tolist())

    def search(self, query: Vectors, k: int, allowed: Ids | None = None, exact: bool = False) -> tuple[Ids, Vectors]:
        """The best of `allowed` (None: all) for a query [dim]: ids and scores, best first, at most k of each."""
        if k <= 0 or len(self) == 0 or (allowed is not None and len(allowed) == 0):
            return np.empty(0, np.int64), np.empty(0, np.float32)
        if self.scans(allowed, exact):
            return self._scan(query, k, self._ids() if allowed is None else allowed)
        params = self._parameters(allowed, k)
        scores, ids = self._faiss.search(query[None], min(k, int(self._faiss.ntotal)), params=params)
        found = ids[0] >= 0
        return ids[0][found], scores[0][found]

    def scans(self, allowed: Ids | None, exact: bool) -> bool:
        """Whether a search computes the score of every allowed vector itself: nothing is missed, whatever the kind."""
        few = allowed is not None and len(allowed) < SCAN_SHARE * len(self)
        return few or (exact and not self.exact)

    def _parameters(self, allowed: Ids | None, k: int) -> Any:
        selector: Any = None
        if allowed is not None:
            selector = faiss.IDSelectorBatch(allowed)
        elif self._removed:
            selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(np.array(sorted(self._removed), np.int64)))
        if self.exact:
            return faiss.SearchParameters(sel=selector)
        return faiss.SearchParametersHNSW(sel=selector, efSearch=max(HNSW_SEARCH, 2 * k))

    def _ids(self) -> Ids:
        ids: Ids = faiss.vector_to_array(self._faiss.id_map)
        return ids[~np.isin(ids, list(self._removed))] if self._removed else ids

    def _scan(self, query: Vectors, k: int, allowed: Ids) -> tuple[Ids, Vectors]:
        """Every allowed vector against the query, a chunk at a time."""
        scores = np.concatenate(
            [self._faiss.reconstruct_batch(allowed[i : i + CHUNK]) @ query for i in range(0, len(allowed), CHUNK)]
        )
        best = np.argsort(-scores, kind="stable")[:k]
        return allowed[best], scores[best].astype(np.float32)

    def save(self, path: Path) -> None:
        faiss.write_index(self._faiss, str(path))

    @classmethod
    def load(cls, path: Path, dim: int, kind: str, removed: list[int]) -> FaissIndex:
        """Read what `save` wrote. Only for files whose checksum has been compared: FAISS trusts what it reads."""
        index = cls(dim, kind)
        index._faiss = faiss.read_index(str(path))
        index._removed = set(removed)
        return index

    @property
    def removed(self) -> list[int]:
        return sorted(self._removed)


def kind_for(count: int) -> str:
    return "exact" if count < HNSW_FROM else "hnsw"
