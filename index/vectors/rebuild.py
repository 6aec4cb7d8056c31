"""A vector index is made anew in the background, while the old one serves."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import faiss

from ..columns import Ids
from ..records.database import Records
from .base import VectorIndex
from .faiss_index import FaissIndex
from .gpu import SAMPLE
from .tuning import Goal

# Vectors that are taken for queries where there are no others.
TUNED_ON = 200
# After a failure, an index is tried again when there are so many times as many vectors.
GROWN = 1.25
# Vectors that may come while an index is made, and are added while nobody searches.
FEW = 5_000
log = logging.getLogger(__name__)


def spare_cores() -> None:
    """Have FAISS use half of the cores in this thread: searches want the others."""
    faiss.omp_set_num_threads(max(1, (os.cpu_count() or 2) // 2))


class BackgroundRebuild:
    """Makes one index at a time, in a thread of its own. All methods but `stop` are called with
    the collection held.
    """

    def __init__(self, records: Path, latency_ms: float) -> None:
        self._records = records
        self._latency_ms = latency_ms
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        # How many vectors there were when an encoding's kind could not be made.
        self._failed_at: dict[tuple[str, str], int] = {}
        self._encoding: str | None = None  # whose index is being made
        self._read_to = 0  # the number of the last vector that it was given
        self._removed: list[Ids] = []  # since it began
        self._invalid = False

    @property
    def going(self) -> bool:
        return self._encoding is not None

    def start(
        self,
        encoding: str,
        kind: str,
        dim: int,
        upto: int,
        replace: Callable[[str, FaissIndex], None],
    ) -> None:
        """Make an index of the vectors up to number `upto`, unless one is being made, and hand it
        to `replace`.
        """
        failed_at = self._failed_at.get((encoding, kind), 0)
        if self.going or self._stopped.is_set() or upto < GROWN * failed_at:
            return
        log.info("making the index of %s anew, as %s, of %d vectors", encoding, kind, upto)
        self._encoding = encoding
        self._read_to = 0
        self._removed = []
        self._invalid = False

        def work() -> None:
            try:
                index = self._make(encoding, kind, dim, upto)
                if index is not None:
                    replace(encoding, index)
            except Exception:
                log.exception(
                    "no %s index of %s could be made; the old one serves on", kind, encoding
                )
                self._failed_at[encoding, kind] = upto
                self._encoding = None

        self._thread = threading.Thread(target=work, name="index-rebuild", daemon=True)
        self._thread.start()

    def _make(self, encoding: str, kind: str, dim: int, upto: int) -> FaissIndex | None:
        """The index; None if it was stopped on the way."""
        spare_cores()
        with closing(Records(self._records)) as records:
            index = FaissIndex(dim, kind, records.counts().vectors.get(encoding, 0))
            if not index.trained:
                index.train(records.vectors_among(encoding, dim, SAMPLE)[1])
            self._fill(index, records, encoding, upto)
            if self._stopped.is_set():
                return None
            if not index.exact and len(index):
                # Read before the queries: what is set in between is then seen as a change.
                asked_by = records.banks.digest(encoding)
                queries = records.tuning_queries(encoding, dim, TUNED_ON)
                index.tune(queries, Goal(self._latency_ms), asked_by)
        return None if self._stopped.is_set() else index

    def _fill(self, index: FaissIndex, records: Records, encoding: str, upto: int) -> None:
        """Add the vectors up to number `upto`, then those that came meanwhile, until they are few
        or come as fast as they are read.
        """
        missing = upto
        while True:
            for ids, vectors in records.vectors_after(encoding, self._read_to, index.dim, upto):
                if self._stopped.is_set():
                    return
                index.add(ids, vectors)
            self._read_to = upto
            upto = records.head()[0]
            came = upto - self._read_to
            if came <= FEW or came >= missing:
                return
            missing = came

    def removed(self, encoding: str, ids: Ids) -> None:
        if self.going and encoding == self._encoding and len(ids):
            self._removed.append(ids)

    def invalidate(self) -> None:
        """Changes have been missed: what is being made must not be used."""
        self._invalid = True

    def catch_up(self, index: FaissIndex, records: Records, encoding: str) -> bool:
        """Give an index that has just been made the vectors that came after the last it read, and
        take from it what was removed since it began. False where changes have been missed.
        """
        replay(records, encoding, index, self._read_to)
        for ids in self._removed:
            index.remove(ids)
        self._encoding = None
        self._removed = []
        return not self._invalid

    def stop(self) -> None:
        """Give up what is being made, and wait for it to end. A thread may start another before it
        ends, so that one is waited for, too.
        """
        self._stopped.set()
        while True:
            thread = self._thread
            if thread is None or thread is threading.current_thread() or not thread.is_alive():
                return
            thread.join()


def replay(records: Records, encoding: str, index: VectorIndex, after: int) -> None:
    """Give an index the vectors of an encoding that have a higher number."""
    for ids, vectors in records.vectors_after(encoding, after, index.dim):
        index.add(ids, vectors)
