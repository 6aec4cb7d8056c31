"""Copies of vectors on a GPU: searched there, kept here."""

from __future__ import annotations

from typing import Any

import faiss as untyped_faiss
import numpy as np
from numpy.typing import NDArray

from ..columns import Column, Ids

faiss: Any = untyped_faiss  # its stubs know no GPUs, and not every build has them
Vectors = NDArray[np.float32]
# vectors that one search of a GPU gives, removed ones among them, and lists that it looks through
MOST = 2048
SCRATCH = 64 << 20  # bytes that FAISS sets aside there for each index; by itself it takes 1.5 GiB
CHUNK = 65_536  # vectors that go there at once


def gpus() -> int:
    """How many GPUs there are that this build of FAISS can use."""
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


class Copy:
    """Vectors on the first GPU, by their places in the index that they are of. For one thread at a
    time. It cannot pass over some of them: those that have been removed since are `hidden` among
    what it finds. When it grows, it is there twice for a moment. `described` is FAISS's name for
    what it is, to be trained with a sample where that is IVF.
    """

    def __init__(self, dim: int, described: str, sample: Vectors) -> None:
        self._resources = faiss.StandardGpuResources()  # not to be shared with other indexes
        self._resources.setTempMemory(SCRATCH)
        self._resources.setPinnedMemory(0)
        empty = faiss.index_factory(dim, described, faiss.METRIC_INNER_PRODUCT)
        self.faiss = faiss.index_cpu_to_gpu(self._resources, 0, empty)
        if not self.faiss.is_trained:
            self.faiss.train(sample)
        self._places = Column(np.empty(0, np.int64))
        self.upto, self.hidden = 0, 0  # how many places of the index it has seen

    @property
    def places(self) -> Ids:
        return self._places.values

    def add(self, places: Ids, vectors: Vectors) -> None:
        self.faiss.add(vectors)
        self._places.append(places)

    def search(self, query: Vectors, k: int, probes: int | None) -> tuple[Vectors, Ids]:
        """Scores and places, best first, of which k are not hidden where it finds so many in that
        many lists, or in more where k is large.
        """
        wanted, how = min(k + self.hidden, len(self.places)), None
        if probes is not None:
            enough = max(probes, 2 * wanted * self.faiss.nlist // max(len(self.places), 1))
            how = faiss.SearchParametersIVF(nprobe=min(enough, self.faiss.nlist, MOST))
        scores, at = self.faiss.search(query[None], wanted, params=how)
        found = at[0] >= 0
        return scores[0][found], self.places[at[0][found]]
