"""What every index of vectors does, and what it answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import faiss as untyped_faiss
import numpy as np
from numpy.typing import NDArray

from ..columns import Allowed, Ids

# FAISS's stubs know neither numpy arguments nor search parameters, and not every build has GPUs.
faiss: Any = untyped_faiss

Vectors = NDArray[np.float32]


class Found(NamedTuple):
    """The best vectors for a query, best first: ids [n] and scores [n].

    `way` says how they were found. "scan": every vector that may be found was compared. "codes",
    "lists" and "graph": some were. "milvus": it does not say. `compared` counts the vectors or
    codes that were compared. `exact` says that nothing can have been missed, by the scores that
    the index has: they are `rounded` where it has not kept the vectors as they were given.
    """

    ids: Ids
    scores: Vectors
    way: str = "scan"
    compared: int = 0
    exact: bool = True
    rounded: bool = False


class FoundRows(NamedTuple):
    """The same by rows of FAISS's index: rows [n] and scores [n], best first."""

    rows: Ids
    scores: Vectors
    way: str
    compared: int
    exact: bool = False


NOTHING = Found(np.empty(0, np.int64), np.empty(0, np.float32))


class VectorIndex(Protocol):
    """Unit vectors by id. The score is the inner product: higher is closer."""

    @property
    def kind(self) -> str: ...

    @property
    def dim(self) -> int: ...

    def __len__(self) -> int: ...

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Add vectors [n, dim]. Ids [n] ascend, and are higher than all that were added before."""
        ...

    def remove(self, ids: Ids) -> None:
        """Forget vectors. Ids that are not there are ignored."""
        ...

    def search(
        self,
        query: Vectors,
        k: int,
        *,
        allowed: Allowed | None = None,
        exact: bool = False,
        for_reranking: bool = False,
    ) -> Found:
        """The best k for a query [dim], of the `allowed` ids or of all.

        `exact` compares every vector that may be found. With `for_reranking` the last of the k may
        be missed: another measure will order them.
        """
        ...

    @property
    def stores_original_vectors(self) -> bool:
        """Whether it has the vectors at hand as they were given."""
        ...

    @property
    def bytes_per_vector(self) -> int | None:
        """Memory that a vector takes; None where another process holds it."""
        ...

    def vectors(self, ids: Ids) -> Vectors:
        """The vectors [n, dim] of ids that are there."""
        ...


@contextmanager
def one_thread() -> Iterator[None]:
    """Have FAISS use no thread but this one. A search for one query takes less than a millisecond,
    and waits for several until other threads have joined it, where the cores are busy.
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def inner_products(vectors: Vectors, query: Vectors) -> Vectors:
    """The scores [n] of vectors [n, dim] for a query [dim], to the last bit those of FAISS's scan:
    the same for the same vector, wherever it stands among others. BLAS sums in other orders.

    >>> inner_products(np.eye(2, dtype=np.float32), np.array([3, 4], np.float32)).tolist()
    [3.0, 4.0]
    """
    vectors = np.ascontiguousarray(vectors, np.float32)
    query = np.ascontiguousarray(query, np.float32)
    rows = np.arange(len(vectors))
    scores = np.empty(len(vectors), np.float32)
    point = faiss.swig_ptr
    with one_thread():
        faiss.fvec_inner_products_by_idx(
            point(scores), point(query), point(vectors), point(rows), len(query), 1, len(rows)
        )
    return scores


def bitmap_selector(rows: Ids, count: int) -> Any:
    """FAISS's selector of rows [n] among `count`, as a bit for each."""
    bits = np.zeros(count, bool)
    bits[rows] = True
    return faiss.IDSelectorBitmap(np.packbits(bits, bitorder="little"))


SCAN_SHARE = 0.3
SCAN_MOST = 50_000


def is_few(allowed: int, count: int, most: float = SCAN_MOST) -> bool:
    """Whether a filter leaves so few of `count` vectors that comparing just those is quickest."""
    return allowed < min(SCAN_SHARE * count, most)
