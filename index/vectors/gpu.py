"""Indexes on a GPU: copies of the vectors are searched there, the vectors are kept here."""

from __future__ import annotations

import logging
import threading

import numpy as np

from ..columns import Column, Ids
from .base import FoundRows, Vectors, faiss
from .codes import lists_for
from .methods import Flat, Selection
from .rows import Rows
from .tuning import TUNED_FOR, Goal, Tuning, choose, explore

log = logging.getLogger(__name__)
# Vectors that one search of a GPU gives, deleted ones among them, and lists that it looks through.
MOST = 2048
# Bytes that FAISS sets aside there for each index. By itself it takes 1.5 GiB.
SCRATCH = 64 << 20
# Vectors that go there at once.
CHUNK = 65_536
# Vectors that lists are learned from, at most.
SAMPLE = 100_000


def gpus() -> int:
    """How many GPUs there are that this build of FAISS can use."""
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


class Copy:
    """Vectors on the first GPU, by the rows of the index that they are of. For one thread at once.

    It cannot leave out rows: those that have been deleted since are among what it finds, and
    `deleted` counts them. When it grows, it is there twice for a moment. `factory` is FAISS's name
    for its index, which is trained with a sample where that is IVF.
    """

    def __init__(self, dim: int, factory: str, sample: Vectors) -> None:
        self._resources = faiss.StandardGpuResources()  # not to be shared with other indexes
        self._resources.setTempMemory(SCRATCH)
        self._resources.setPinnedMemory(0)
        empty = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        self.faiss = faiss.index_cpu_to_gpu(self._resources, 0, empty)
        if not self.faiss.is_trained:
            self.faiss.train(sample)
        self._rows = Column(np.empty(0, np.int64))
        self.upto = 0  # how many rows of the index it has seen
        self.deleted = 0

    @property
    def rows(self) -> Ids:
        return self._rows.values

    def add(self, rows: Ids, vectors: Vectors) -> None:
        self.faiss.add(vectors)
        self._rows.append(rows)

    def search(self, query: Vectors, k: int, probes: int | None) -> tuple[Vectors, Ids]:
        """Scores and rows, best first, of which k are not deleted where it finds so many in that
        many lists, or in more where k is large.
        """
        wanted = min(k + self.deleted, len(self.rows))
        params = None
        if probes is not None:
            holding = 2 * wanted * self.faiss.nlist // max(len(self.rows), 1)
            lists = min(max(probes, holding), self.faiss.nlist, MOST)
            params = faiss.SearchParametersIVF(nprobe=lists)
        scores, at = self.faiss.search(query[None], wanted, params=params)
        found = at[0] >= 0
        return scores[0][found], self.rows[at[0][found]]


class GpuFlat(Flat):
    """Every vector is compared, by a GPU where there is no filter."""

    def __init__(self, index: object, rows: Rows, dim: int) -> None:
        super().__init__(index, rows, dim)
        self._copy: Copy | None = None
        # Held while the copy is searched, or another takes its place.
        self._lock = threading.Lock()

    def note_deleted(self, rows: Ids) -> None:
        if self._copy is not None:
            self._copy.deleted += int((rows < self._copy.upto).sum())

    @property
    def needs_fresh_copy(self) -> bool:
        """Whether the deleted rows are soon more than a GPU's search can leave out."""
        return self._copy is not None and self._copy.deleted > MOST // 2

    def copy_anew(self, tuning: Tuning) -> None:
        """Have a GPU forget what has been deleted. Searches go on in the copy that it has."""
        try:
            copy = self._updated(None, tuning)
        except RuntimeError as error:
            warn("a GPU could not be filled anew", error)
            return
        with self._lock:
            self._copy = copy

    def prefers_scan(self, k: int, allowed: int | None, tuning: Tuning) -> bool:
        return allowed is not None or k > MOST or not gpus()

    def search(
        self,
        query: Vectors,
        k: int,
        *,
        selection: Selection | None,
        for_reranking: bool,
        tuning: Tuning,
    ) -> FoundRows | None:
        """The best k of all that are not deleted, whatever the selection: it holds just these."""
        with self._lock:
            try:
                copy = self._updated(self._copy, tuning)
                self._copy = copy
                if k + copy.deleted > MOST:
                    return None
                scores, rows = copy.search(query, k, self._probes(tuning))
            except RuntimeError as error:  # FAISS's: no memory there, or the device is lost
                warn("a GPU could not be searched", error)
                self._copy = None  # what it has is not to be trusted
                return None
        shown = np.flatnonzero(~self._rows.deleted[rows])[:k]
        compared = int(self._share_read(copy, tuning) * self._rows.shown)
        way = "scan" if self.exhaustive else "lists"
        return FoundRows(rows[shown], scores[shown], way, compared, exact=self.exhaustive)

    def _probes(self, tuning: Tuning) -> int | None:
        """How many lists are read; None where there are none."""
        return None

    def _share_read(self, copy: Copy, tuning: Tuning) -> float:
        return 1.0

    def _new_copy(self, shown: Ids, tuning: Tuning) -> Copy:
        return Copy(self._dim, "Flat", self.stored(shown[:0]))

    def _updated(self, copy: Copy | None, tuning: Tuning) -> Copy:
        """A copy with what was added since, or a new one. Raises RuntimeError as FAISS does."""
        if copy is None:
            copy = self._new_copy(self._rows.all_shown(), tuning)
        added = copy.upto + np.flatnonzero(~self._rows.deleted[copy.upto :])
        for first in range(0, len(added), CHUNK):
            some = added[first : first + CHUNK]
            copy.add(some, self.stored(some))
        copy.upto = len(self._rows)
        return copy


class GpuLists(GpuFlat):
    """The nearest of many lists are compared, by a GPU where there is no filter; a filtered search
    compares every vector here.
    """

    exhaustive = False

    def _probes(self, tuning: Tuning) -> int | None:
        return int(tuning.values["nprobe"])

    def _share_read(self, copy: Copy, tuning: Tuning) -> float:
        return min(1.0, tuning.values["nprobe"] / int(copy.faiss.nlist))

    def _new_copy(self, shown: Ids, tuning: Tuning) -> Copy:
        """In as many lists as suit the number of vectors that it was tuned with."""
        lists = lists_for(tuning.count or len(shown))
        sample = np.random.default_rng(0).permutation(shown)[:SAMPLE]
        return Copy(self._dim, f"IVF{lists},Flat", self.stored(sample))

    def tune(self, queries: Vectors, goal: Goal) -> str | None:
        """A GPU is timed by all queries at once. Its lists are made anew, for as many vectors as
        there are now.
        """
        if not gpus():
            return None
        now = Tuning("", count=len(self._rows))
        selection = Selection(self._rows.all_shown(), len(self._rows))
        params = faiss.SearchParameters(sel=selection.bitmap)
        _, truth = self.faiss.search(queries, TUNED_FOR, params=params)
        try:
            copy = self._updated(None, now)
            truth = np.searchsorted(copy.rows, truth)
            tried = explore(faiss.GpuParameterSpace(), copy.faiss, queries, truth)
        except RuntimeError as error:
            warn("a GPU could not be tuned", error)
            return None
        with self._lock:
            self._copy = copy
        return choose(tried, goal).key if tried else None


def warn(what: str, error: RuntimeError) -> None:
    log.warning("%s: %s", what, str(error).partition("\n")[0])
