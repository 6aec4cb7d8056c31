"""Where a collection's vectors are searched: one index for each encoding, all derived from the records."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from . import snapshot
from .records import Ids, Records
from .renewal import Renewal
from .vectors import FaissIndex, Sizing, VectorIndex, Vectors

log = logging.getLogger(__name__)
TAIL = 10_000  # vectors that may come before a snapshot is due, where making the index takes longer than reading them


class VectorStoreFailed(Exception):
    """A store of vectors outside this process that is not there, or says no. The records have everything."""


class Store(Protocol):
    """The indexes of one collection. Used while the collection is held, but for `stop`."""

    def open(self, records: Records) -> None:
        """Bring every index to where the records are."""
        ...

    def index(self, encoding: str) -> VectorIndex | None: ...

    def add(self, encoding: str, ids: Ids, vectors: Vectors) -> None: ...

    def remove(self, encoding: str, ids: Ids) -> None: ...

    def tend(self, records: Records) -> None:
        """After each write: whatever upkeep is due, without keeping the writer waiting."""
        ...

    def keep(self, records: Records) -> None:
        """Leave what makes the next opening quick."""
        ...

    @property
    def busy(self) -> bool:
        """Whether an index is being made in the background."""
        ...

    def stop(self) -> None:
        """End what runs in the background."""
        ...

    def drop(self) -> None:
        """Remove whatever is kept outside the collection's folder."""
        ...


class FaissStore:
    """Indexes in memory, with snapshots in the collection's folder and renewals in the background."""

    def __init__(
        self,
        folder: Path,
        identity: str,
        dims: Mapping[str, int],
        sizing: Sizing,
        held: Callable[[], AbstractContextManager[Records]],
    ) -> None:
        self._snapshots, self._identity, self._dims = folder / "snapshots", identity, dims
        self._sizing, self._held = sizing, held
        self._renewal = Renewal(folder / "records.sqlite", sizing.latency_ms)
        self._kept: tuple[int, int] | None = None  # what the snapshot on disk stands at, if it is these very indexes
        self._tried = 0  # the last vector when a snapshot was written, or could not be
        self._indexes: dict[str, FaissIndex] = {}

    def open(self, records: Records) -> None:
        """The snapshot brought up to date, or everything from the records: compared one by one at first, whatever kind
        they will become, so that opening does not wait for it.
        """
        counts = records.counts()
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
                index.remove(records.removed_after(encoding, removed))
            if index is None or len(index) != counts[encoding]:  # none, or one of another history
                index, self._kept = FaissIndex(self._dims[encoding]), None
                replay(records, encoding, index, 0)
            self._indexes[encoding] = index

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
        """Have an index made anew in the background that is worn or no longer of the right kind, and keep a snapshot
        where many vectors have come since the last.
        """
        for encoding, index in self._indexes.items():
            kind = self._sizing.kind_for(len(index), index.dim, index.kind)
            if index.worn or kind != index.kind:
                self._renewal.start(encoding, kind, index.dim, records.head()[0], self._renewed)
        slow = any(not index.exact for index in self._indexes.values())
        if slow and records.head()[0] - self._tried > TAIL:
            self.keep(records)

    def _renewed(self, encoding: str, index: FaissIndex) -> None:
        """Put a new index in its place, brought up to date; called by the thread that made it."""
        with self._held() as records:
            self._renewal.catch_up(index)
            if len(index) != records.counts().get(encoding, 0):
                log.warning("a new index of %s missed something, and is not used", encoding)
                return
            self._indexes[encoding] = index
            self._kept = None
            self.keep(records)
            self.tend(records)

    def keep(self, records: Records) -> None:
        """Leave a snapshot. One that cannot be written is no loss: the next opening takes longer."""
        head = records.head()
        if self._indexes and self._kept != head:
            self._tried = head[0]
            try:
                snapshot.save(self._snapshots, self._indexes, self._identity, head)
                self._kept = head
                records.forget_removed(head[1])  # the only snapshot there is knows of them
            except (OSError, RuntimeError, sqlite3.Error) as error:  # FAISS's are RuntimeErrors
                log.warning("no snapshot could be written: %s", str(error).partition("\n")[0])

    @property
    def busy(self) -> bool:
        return self._renewal.going

    def stop(self) -> None:
        self._renewal.stop()

    def drop(self) -> None:
        """Everything is in the collection's folder."""


def replay(records: Records, encoding: str, index: VectorIndex, after: int) -> None:
    """Give an index the vectors of an encoding that have a higher number."""
    for ids, vectors in records.vectors_after(encoding, after, index.dim):
        index.add(ids, vectors)
