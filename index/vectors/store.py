"""A collection's vector indexes: one for each encoding, all derived from the records."""

from __future__ import annotations

import logging
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
from .base import VectorIndex, Vectors
from .faiss_index import FaissIndex
from .gpu import gpus
from .kinds import GPU_KINDS
from .rebuild import TUNED_ON, BackgroundRebuild, replay, spare_cores
from .sizing import Sizing
from .tuning import Goal

log = logging.getLogger(__name__)
# So many vectors after a snapshot another one is due: as many as take seconds to add again.
TAIL = {"hnsw": 10_000, "ivf": 200_000, "small": 200_000, "gpu-ivf": 200_000}
# Of a large index such a share: a snapshot is written whole.
TAIL_SHARE = 16
HoldRecords = Callable[[], AbstractContextManager[Records]]


class VectorStoreFailed(Exception):
    """A store of vectors outside this process is not there, or refuses. The records have
    everything.
    """


class Store(Protocol):
    """The indexes of one collection. All but `save_snapshot` and `stop` are called while the
    collection is held. `stale` says that they could not follow the records: no snapshot is saved
    until they have been opened anew.
    """

    stale: bool

    def open(self, records: Records) -> None:
        """Bring every index to where the records are."""
        ...

    def index(self, encoding: str) -> VectorIndex | None: ...

    def add(self, encoding: str, ids: Ids, vectors: Vectors) -> None: ...

    def remove(self, encoding: str, ids: Ids) -> None: ...

    def run_maintenance(self, records: Records) -> None:
        """After each write: start whatever is due, without keeping the writer waiting."""
        ...

    def save_snapshot(self, hold: HoldRecords) -> None:
        """Save what makes the next opening quick. Called while nothing is written."""
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
    """Indexes in memory, with snapshots in the collection's folder and rebuilds in the background.

    `write_lock` is the lock of whoever writes. Taken before the collection is held, it keeps the
    indexes as they are while searches go on.
    """

    def __init__(
        self,
        folder: Path,
        identity: str,
        dims: Mapping[str, int],
        sizing: Sizing,
        hold: HoldRecords,
        write_lock: AbstractContextManager[Any],
    ) -> None:
        if sizing.kind in GPU_KINDS and not gpus():
            raise VectorStoreFailed(
                "an index on a GPU: this build of FAISS, or this machine, has none"
            )
        self._snapshots = folder / "snapshots"
        self._identity = identity
        self._dims = dims
        self._sizing = sizing
        self._hold = hold
        self._write_lock = write_lock
        self._rebuild = BackgroundRebuild(folder / "records.sqlite", sizing.latency_ms)
        # What the snapshot on disk stands at, if it is of these very indexes.
        self._snapshot_head: tuple[int, int] | None = None
        # The last vector when a snapshot was written, or could not be.
        self._attempted_at = 0
        self._indexes: dict[str, FaissIndex] = {}
        self.stale = False
        self._maintenance: threading.Thread | None = None
        self._stopped = False

    def open(self, records: Records) -> None:
        """Bring the snapshot up to date. Without one, add every vector of the records to indexes
        that compare all, whatever kind they will become: so opening does not wait for it.
        """
        self._rebuild.invalidate()
        loaded = snapshot.load(self._snapshots, self._identity, self._dims, records.head())
        if loaded is None:  # torn, foreign, or of records that have been put back since
            shutil.rmtree(self._snapshots, ignore_errors=True)
        indexes, head = loaded or ({}, (0, 0))
        self._snapshot_head = head if loaded else None
        self._attempted_at = head[0]
        self._indexes = {}
        for encoding in records.encodings():
            index = self._updated(records, encoding, indexes.get(encoding), head)
            if index is None:
                self._snapshot_head = None
                index = FaissIndex(self._dims[encoding])
                replay(records, encoding, index, 0)
            self._indexes[encoding] = index
        self.stale = False

    def _updated(
        self, records: Records, encoding: str, index: FaissIndex | None, head: tuple[int, int]
    ) -> FaissIndex | None:
        """A snapshot's index with what has changed since its head; None where there is no index, or
        it is of another history.
        """
        if index is None:
            return None
        vector, removal = head
        replay(records, encoding, index, vector)
        index.remove(records.tombstones_after(encoding, removal))
        if len(index) != records.counts().vectors[encoding]:
            return None
        if index.outdated:
            log.info(
                "the index of %s is of an earlier version: it serves while it is made anew",
                encoding,
            )
        return index

    def index(self, encoding: str) -> FaissIndex | None:
        return self._indexes.get(encoding)

    def add(self, encoding: str, ids: Ids, vectors: Vectors) -> None:
        if encoding not in self._indexes:
            self._indexes[encoding] = FaissIndex(self._dims[encoding])
        self._indexes[encoding].add(ids, vectors)

    def remove(self, encoding: str, ids: Ids) -> None:
        if encoding in self._indexes:
            self._indexes[encoding].remove(ids)
            self._rebuild.removed(encoding, ids)

    def run_maintenance(self, records: Records) -> None:
        """Have an index rebuilt in the background that has too many deletions or should be of
        another kind. Save a snapshot where many vectors have come since the last, and tune what
        needs it.
        """
        for encoding, index in self._indexes.items():
            kind = self._sizing.kind_for(len(index), index.dim, index.kind)
            if index.needs_compaction or index.outdated or kind != index.kind:
                self._rebuild.start(encoding, kind, index.dim, records.head()[0], self._replace)
        if self._stopped or self._is_maintaining or not self._is_due(records):
            return
        self._maintenance = threading.Thread(
            target=self._maintain, name="index-maintenance", daemon=True
        )
        self._maintenance.start()

    def _is_due(self, records: Records) -> bool:
        """Whether there are too many vectors since the last snapshot, or an index is to be tuned or
        copied.
        """
        tails = [
            max(TAIL[index.kind], len(index) // TAIL_SHARE)
            for index in self._indexes.values()
            if not index.exact
        ]
        if tails and records.head()[0] - self._attempted_at > min(tails):
            return True
        return any(
            index.too_many_deleted_for_gpu or self._needs_tuning(encoding, records)
            for encoding, index in self._indexes.items()
        )

    def _needs_tuning(self, encoding: str, records: Records) -> bool:
        """Whether an index has grown since its parameters were found, or is asked other queries
        now.
        """
        index = self._indexes[encoding]
        if index.exact:
            return False
        return index.tuning_is_stale or index.tuning.queries != records.banks.digest(encoding)

    def _maintain(self) -> None:
        """Tune what needs it, and save a snapshot. Writers wait, searches do not."""
        spare_cores()
        with self._write_lock:
            if self._stopped or self.stale:
                return
            for encoding, index in list(self._indexes.items()):
                self._tune(encoding, index)
                if index.too_many_deleted_for_gpu:
                    index.copy_anew()
            self.save_snapshot(self._hold)

    def _tune(self, encoding: str, index: FaissIndex) -> None:
        with self._hold() as records:
            if not self._needs_tuning(encoding, records):
                return
            asked_by = records.banks.digest(encoding)
            queries = records.tuning_queries(encoding, index.dim, TUNED_ON)
        index.tune(queries, Goal(self._sizing.latency_ms), asked_by)
        self._snapshot_head = None

    def _replace(self, encoding: str, index: FaissIndex) -> None:
        """Put a rebuilt index in its place, brought up to date. The thread that made it calls."""
        with self._write_lock:
            with self._hold() as records:
                whole = self._rebuild.catch_up(index, records, encoding) and not self.stale
                if not whole or len(index) != records.counts().vectors.get(encoding, 0):
                    log.warning("a new index of %s missed something, and is not used", encoding)
                    return
                self._indexes[encoding] = index
                self._snapshot_head = None
                self.run_maintenance(records)
            self.save_snapshot(self._hold)

    def save_snapshot(self, hold: HoldRecords) -> None:
        """Save a snapshot. Without one nothing is lost, but the next opening takes longer."""
        with hold() as records:
            head = records.head()
            indexes = dict(self._indexes)
            if not indexes or self._snapshot_head == head or self.stale:
                return
            self._attempted_at = head[0]
        try:
            snapshot.save(self._snapshots, indexes, self._identity, head)
            with hold() as records:
                records.forget_tombstones(head[1])  # the only snapshot there is knows of them
            self._snapshot_head = head
        except (OSError, RuntimeError, sqlite3.Error) as error:  # FAISS's are RuntimeErrors
            log.warning("no snapshot could be written: %s", str(error).partition("\n")[0])

    @property
    def busy(self) -> bool:
        return self._rebuild.going or self._is_maintaining

    @property
    def _is_maintaining(self) -> bool:
        return self._maintenance is not None and self._maintenance.is_alive()

    def stop(self) -> None:
        self._stopped = True
        self._rebuild.stop()
        if self._maintenance is not None:
            self._maintenance.join()

    def drop(self) -> None:
        """Everything is in the collection's folder."""

    def release(self) -> None:
        self._indexes = {}
