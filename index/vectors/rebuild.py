"""A vector index made anew in the background, while the old one serves and takes what comes."""

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
from .faiss_index import SAMPLE, FaissIndex, Vectors

TUNED_ON = 200  # vectors taken for queries where there are no others
log = logging.getLogger(__name__)


def spare_cores() -> None:
    """Have FAISS use half of the cores in this thread: searches want the others."""
    faiss.omp_set_num_threads(max(1, (os.cpu_count() or 2) // 2))


class BackgroundRebuild:
    """At most one index in the making. All but the making itself is called with the collection
    held.
    """

    def __init__(self, records: Path, latency_ms: float) -> None:
        self._records, self._latency_ms = records, latency_ms
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._failed: dict[tuple[str, str], int] = {}  # how many vectors there were
        self._encoding: str | None = None  # of what is being made
        self._changes: list[tuple[Ids, Vectors | None]] = []  # since it began: added, or removed
        self._spoiled = False  # something that happened since is not among them

    @property
    def going(self) -> bool:
        return self._encoding is not None

    def start(
        self,
        encoding: str,
        kind: str,
        dim: int,
        upto: int,
        renewed: Callable[[str, FaissIndex], None],
    ) -> None:
        """Make an index of the vectors up to number `upto`, unless one is being made, and hand it
        to `renewed`.
        """
        if (
            self.going
            or self._stopped.is_set()
            or upto < 1.25 * self._failed.get((encoding, kind), 0)
        ):
            return
        log.info("making the index of %s anew, as %s, of %d vectors", encoding, kind, upto)
        self._encoding, self._changes, self._spoiled = encoding, [], False

        def work() -> None:
            try:
                index = self._made(encoding, kind, dim, upto)
                if index is not None:
                    renewed(encoding, index)
            except Exception:
                log.exception(
                    "no %s index of %s could be made; the old one serves on", kind, encoding
                )
                self._failed[encoding, kind] = upto
                self._encoding = None

        self._thread = threading.Thread(target=work, name="renewal", daemon=True)
        self._thread.start()

    def _made(self, encoding: str, kind: str, dim: int, upto: int) -> FaissIndex | None:
        """The index; None if it was stopped on the way."""
        spare_cores()
        with closing(Records(self._records)) as records:
            index = FaissIndex(dim, kind, records.counts().vectors.get(encoding, 0))
            if not index.trained:
                index.train(records.vectors_among(encoding, dim, SAMPLE)[1])
            for ids, vectors in records.vectors_after(encoding, 0, dim, upto):
                if self._stopped.is_set():
                    return None
                index.add(ids, vectors)
            if not index.exact and len(index):
                # before the queries: what is set in between is asked by later
                asked_by = records.tuning_digest(encoding)
                index.tune(
                    records.tuning_queries(encoding, dim, TUNED_ON),
                    self._latency_ms,
                    asked_by=asked_by,
                )
        return None if self._stopped.is_set() else index

    def added(self, encoding: str, ids: Ids, vectors: Vectors) -> None:
        if self.going and encoding == self._encoding:
            self._changes.append((ids, vectors))

    def removed(self, encoding: str, ids: Ids) -> None:
        if self.going and encoding == self._encoding and len(ids):
            self._changes.append((ids, None))

    def invalidate(self) -> None:
        """Changes have been missed: what is being made is not to be used."""
        self._spoiled = True

    def catch_up(self, index: FaissIndex) -> bool:
        """Give an index that has just been made what has happened since it began; False where not
        all is known.
        """
        for ids, vectors in self._changes:
            if vectors is None:
                index.remove(ids)
            else:
                index.add(ids, vectors)
        self._encoding, self._changes = None, []
        return not self._spoiled

    def stop(self) -> None:
        """Give up what is being made, and wait for it to end."""
        self._stopped.set()
        while (thread := self._thread) not in (
            None,
            threading.current_thread(),
        ) and thread.is_alive():
            thread.join()
