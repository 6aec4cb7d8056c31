"""Where a collection's vectors are searched: one index for each encoding, all derived from the
records.
"""

from __future__ import annotations

import logging
import math
import shutil
import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from ..columns import Ids
from ..records.database import Records
from . import snapshot
from .faiss_index import GPU_KINDS, FaissIndex, Sizing, VectorIndex, Vectors
from .gpu import gpus
from .rebuild import TUNED_ON, BackgroundRebuild, spare_cores

log = logging.getLogger(__name__)
# Vectors that may follow a snapshot before another is due: as many as take seconds to add again.
TAIL = {"hnsw": 10_000, "ivf": 200_000, "small": 200_000, "gpu-ivf": 200_000}
Held = Callable[[], AbstractContextManager[Records]]


class VectorStoreFailed(Exception):
    """A store of vectors outside this process that is not there, or says no. The records have
    everything.
    """


class Store(Protocol):
    """The indexes of one collection. Used while the collection is held, but for `keep` and `stop`.
    They are `behind` where they could not follow the records: nothing of them is kept until they
    have been opened anew.
    """

    behind: bool

    def open(self, records: Records) -> None:
        """Bring every index to where the records are."""
        ...

    def index(self, encoding: str) -> VectorIndex | None: ...

    def add(self, encoding: str, ids: Ids, vectors: Vectors) -> None: ...

    def remove(self, encoding: str, ids: Ids) -> None: ...

    def tend(self, records: Records) -> None:
        """After each write: whatever upkeep is due, without keeping the writer waiting."""
        ...

    def keep(self, held: Held) -> None:
        """Leave what makes the next opening quick. Called while
        nothing is written; searches go on.
        """
        ...

    @property
    def busy(self) -> bool:
        """Whether an index is being made or tuned in the background."""
        ...

    def stop(self) -> None:
        """End what runs in the background."""
        ...

    def drop(self) -> None:
        """Remove whatever is kept outside the collection's folder."""
        ...

    def release(self) -> None:
        """Nobody will ask it any more: give back what it holds in memory."""
        ...


class FaissStore:
    """Indexes in memory, with snapshots in the collection's folder and renewals in the background.
    `still` is the lock of whoever writes: taken before the collection is held, it keeps the indexes
    as they are while searches go on.
    """

    def __init__(
        self,
        folder: Path,
        identity: str,
        dims: Mapping[str, int],
        sizing: Sizing,
        held: Held,
        still: AbstractContextManager[Any],
    ) -> None:
        if sizing.kind in GPU_KINDS and not gpus():
            raise VectorStoreFailed(
                "an index on a GPU: this build of FAISS, or this machine, has none"
            )
        self._snapshots, self._identity, self._dims = folder / "snapshots", identity, dims
        self._sizing, self._held, self._still = sizing, held, still
        self._renewal = BackgroundRebuild(folder / "records.sqlite", sizing.latency_ms)
        # what the snapshot on disk stands at, if it is these very indexes
        self._kept: tuple[int, int] | None = None
        self._tried = 0  # the last vector when a snapshot was written, or could not be
        self._indexes: dict[str, FaissIndex] = {}
        self.behind = False
        self._upkeep: threading.Thread | None = None
        self._stopped = False

    def open(self, records: Records) -> None:
        """The snapshot brought up to date, or everything from the records: compared one by one at
        first, whatever kind they will become, so that opening does not wait for it.
        """
        self._renewal.invalidate()
        counts = records.counts().vectors
        loaded = snapshot.load(self._snapshots, self._identity, self._dims, records.head())
        indexes, (vector, removed) = loaded or ({}, (0, 0))
        self._kept, self._tried = (vector, removed) if loaded else None, vector
        if loaded is None:  # torn, foreign, or of records that have been put back since
            shutil.rmtree(self._snapshots, ignore_errors=True)
        self._indexes = {}
        for encoding in records.encodings():
            index = indexes.get(encoding)
            if index is not None:
                replay(records, encoding, index, vector)
                index.remove(records.tombstones_after(encoding, removed))
            if index is None or len(index) != counts[encoding]:  # none, or one of another history
                index, self._kept = FaissIndex(self._dims[encoding]), None
                replay(records, encoding, index, 0)
            elif index.outdated:
                log.info(
                    "the index of %s is of an earlier version: it serves while it is made anew",
                    encoding,
                )
            self._indexes[encoding] = index
        self.behind = False

    def index(self, encoding: str) -> FaissIndex | None:
        return self._indexes.get(encoding)

    def add(self, encoding: str, ids: Ids, vectors: Vectors) -> None:
        self._indexes.setdefault(encoding, FaissIndex(self._dims[encoding])).add(ids, vectors)
        self._renewal.added(encoding, ids, vectors)

    def remove(self, encoding: str, ids: Ids) -> None:
        if encoding in self._indexes:
            self._indexes[encoding].remove(ids)
            self._renewal.removed(encoding, ids)

    def tend(self, records: Records) -> None:
        """Have an index made anew in the background that is worn or no longer of the right kind,
        and keep a snapshot where many vectors have come since the last, or parameters are to be
        found anew.
        """
        for encoding, index in self._indexes.items():
            kind = self._sizing.kind_for(len(index), index.dim, index.kind)
            if index.needs_compaction or index.outdated or kind != index.kind:
                self._renewal.start(encoding, kind, index.dim, records.head()[0], self._renewed)
        most = min(
            (TAIL[index.kind] for index in self._indexes.values() if not index.exact),
            default=math.inf,
        )
        due = records.head()[0] - self._tried > most or any(
            index.too_many_deleted_for_gpu or self._mistuned(encoding, records)
            for encoding, index in self._indexes.items()
        )
        if due and not self._stopped and not self._keeping_up:
            upkeep = threading.Thread(target=self._keep_up, name="upkeep", daemon=True)
            upkeep.start()
            self._upkeep = upkeep

    def _mistuned(self, encoding: str, records: Records) -> bool:
        """Whether an index has outgrown its parameters, or they were found by other queries than it
        is asked now.
        """
        index = self._indexes[encoding]
        return index.tuning_is_stale or not (
            index.exact or index.tuned_by == records.tuning_digest(encoding)
        )

    def _keep_up(self) -> None:
        """Tune what is mistuned, and leave a snapshot; writers wait, searches do not."""
        spare_cores()
        with self._still:
            if self._stopped or self.behind:
                return
            for encoding, index in list(self._indexes.items()):
                with self._held() as records:
                    mistuned, asked_by = (
                        self._mistuned(encoding, records),
                        records.tuning_digest(encoding),
                    )
                    queries = (
                        records.tuning_queries(encoding, index.dim, TUNED_ON) if mistuned else None
                    )
                if queries is not None:
                    index.tune(queries, self._sizing.latency_ms, asked_by=asked_by)
                    self._kept = None
                if index.too_many_deleted_for_gpu:
                    index.copy_anew()
            self.keep(self._held)

    def _renewed(self, encoding: str, index: FaissIndex) -> None:
        """Put a new index in its place, brought up to date; called by the thread that made it."""
        with self._still:
            with self._held() as records:
                whole = self._renewal.catch_up(index) and not self.behind
                if not whole or len(index) != records.counts().vectors.get(encoding, 0):
                    log.warning("a new index of %s missed something, and is not used", encoding)
                    return
                self._indexes[encoding] = index
                self._kept = None
                self.tend(records)
            self.keep(self._held)

    def keep(self, held: Held) -> None:
        """Leave a snapshot. One that cannot be written is no loss:
        the next opening takes longer.
        """
        with held() as records:
            head, indexes = records.head(), dict(self._indexes)
            if not indexes or self._kept == head or self.behind:
                return
            self._tried = head[0]
        try:
            snapshot.save(self._snapshots, indexes, self._identity, head)
            with held() as records:
                records.forget_tombstones(head[1])  # the only snapshot there is knows of them
            self._kept = head
        except (OSError, RuntimeError, sqlite3.Error) as error:  # FAISS's are RuntimeErrors
            log.warning("no snapshot could be written: %s", str(error).partition("\n")[0])

    @property
    def busy(self) -> bool:
        return self._renewal.going or self._keeping_up

    @property
    def _keeping_up(self) -> bool:
        return self._upkeep is not None and self._upkeep.is_alive()

    def stop(self) -> None:
        self._stopped = True
        self._renewal.stop()
        if self._upkeep is not None:
            self._upkeep.join()

    def drop(self) -> None:
        """Everything is in the collection's folder."""

    def release(self) -> None:
        self._indexes = {}


def replay(records: Records, encoding: str, index: VectorIndex, after: int) -> None:
    """Give an index the vectors of an encoding that have a higher number."""
    for ids, vectors in records.vectors_after(encoding, after, index.dim):
        index.add(ids, vectors)
