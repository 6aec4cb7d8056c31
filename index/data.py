"""The data folder: every collection of one bundle, held by one process at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import uuid
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO

from . import snapshot
from .collection import (
    MEDIA,
    NAME,
    SET_ASIDE,
    BadName,
    Collection,
    CollectionExists,
    DataInUse,
    FingerprintConflict,
    RecordsLost,
    UnknownCollection,
    holds_files,
)
from .records import Records
from .vectors import Sizing

STAGED, READY = "reembed", "ready"  # see `reembed`


class Collections:
    """The collections of a data folder, which this process holds."""

    def __init__(self, data: Path, fingerprint: str, dims: Mapping[str, int], sizing: Sizing = Sizing()) -> None:
        self._root, self._fingerprint, self._dims, self._sizing = data / "collections", fingerprint, dims, sizing
        self._root.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._held = hold(data / "lock")
        complete_swaps(data)
        self._open: dict[str, Collection] = {}
        self.conflicts: dict[str, FingerprintConflict | RecordsLost] = {}
        try:
            for folder in sorted(self._root.iterdir()):
                if folder.name.startswith("."):
                    shutil.rmtree(folder)  # a collection whose deletion was cut short
                elif (folder / "records.sqlite").exists() or holds_files(folder):
                    self._admit(folder)
        except BaseException:
            self.close()
            raise

    def _admit(self, folder: Path) -> None:
        """Open a collection. One of another bundle is left alone, and told of when it is asked for; without items and
        files, it is begun anew. So is one left alone whose records are lost.
        """
        try:
            self._open[folder.name] = Collection(folder, self._fingerprint, self._dims, self._sizing)
        except FingerprintConflict as conflict:
            with closing(Records(folder / "records.sqlite")) as records:
                empty = not records.counts()["items"]
            if not empty or holds_files(folder, (MEDIA, SET_ASIDE)):
                self.conflicts[folder.name] = conflict
                return
            shutil.rmtree(folder)
            self._open[folder.name] = Collection(folder, self._fingerprint, self._dims, self._sizing)
        except RecordsLost as lost:
            self.conflicts[folder.name] = lost

    def close(self) -> None:
        try:
            with ExitStack() as closing:  # each is closed, whatever becomes of the others
                for collection in self._open.values():
                    closing.callback(collection.close)
        finally:
            self._held.close()

    def all(self) -> list[Collection]:
        return [collection for _, collection in sorted(self._open.items())]

    def get(self, name: str) -> Collection:
        """Raises UnknownCollection, FingerprintConflict, RecordsLost."""
        if name in self.conflicts:
            raise self.conflicts[name]
        try:
            return self._open[name]
        except KeyError:
            raise UnknownCollection(name) from None

    def create(self, name: str) -> Collection:
        """Raises BadName, CollectionExists."""
        if not NAME.fullmatch(name):
            raise BadName(name)
        with self._lock:
            if name in self._open or name in self.conflicts:
                raise CollectionExists(name)
            self._open[name] = Collection(self._root / name, self._fingerprint, self._dims, self._sizing)
            snapshot.sync(self._root)
            return self._open[name]

    def ensure(self, name: str) -> Collection:
        """The collection of that name, made where there is none. Raises BadName, FingerprintConflict,
        RecordsLost.
        """
        return self.get(name) if name in self._open or name in self.conflicts else self.create(name)

    def delete(self, name: str) -> None:
        """Raises UnknownCollection."""
        with self._lock:
            if name not in self._open and name not in self.conflicts:
                raise UnknownCollection(name)
            if name in self._open:
                self._open[name].close(keep=False)
            gone = self._root / f".{name}-{uuid.uuid4().hex}"
            (self._root / name).rename(gone)
            snapshot.sync(self._root)
            self._open.pop(name, None)
            self.conflicts.pop(name, None)
        shutil.rmtree(gone)
        shutil.rmtree(self._root.parent / STAGED / name, ignore_errors=True)  # what was to take its place


def old_of(data: Path, name: str) -> Path:
    """Where a collection goes that another is about to take the place of."""
    return data / STAGED / f".{name}.old"


def complete_swaps(data: Path) -> None:
    """Finish every swap that has begun: the old collection is out of the way, the new one is complete."""
    for old in (data / STAGED).glob(".*.old"):
        name = old.name[1:].removesuffix(".old")
        there, staged = data / "collections" / name, data / STAGED / name
        if not there.exists():
            (staged if staged.exists() else old).rename(there)
            snapshot.sync(there.parent)
        with closing(Records(there / "records.sqlite")) as records:
            records.forget_origins()
        (there / READY).unlink(missing_ok=True)
        shutil.rmtree(old, ignore_errors=True)


def hold(path: Path) -> IO[bytes]:
    """Hold a lock on a file until it is closed or the process ends.

    Raises:
        DataInUse: another process holds it.
    """
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise DataInUse from error
    os.set_inheritable(file.fileno(), False)
    return file
