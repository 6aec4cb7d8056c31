"""The data folder: every collection of one bundle, held by one process at a time."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import sqlite3
import threading
import uuid
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO

from .collection import (
    MEDIA,
    NAME,
    RECORDS,
    SET_ASIDE,
    BadName,
    Collection,
    CollectionExists,
    DataInUse,
    FingerprintConflict,
    RecordsLost,
    UnknownCollection,
    has_lost_records,
    holds_files,
    move_aside,
)
from .records.database import Records
from .reserve import Reserve, is_full
from .vectors import snapshot
from .vectors.sizing import Sizing

STAGED, READY = "reembed", "ready"  # see `reembed`
# deleted, or not yet restored
HALVES = re.compile(r"\.[a-z0-9][a-z0-9_-]{0,62}-([0-9a-f]{32}|[a-z0-9_]{8})")
log = logging.getLogger(__name__)


class Collections:
    """The collections of a data folder, which this process holds."""

    def __init__(
        self, data: Path, fingerprint: str, dims: Mapping[str, int], sizing: Sizing = Sizing()
    ) -> None:
        self._root, self._fingerprint, self._dims, self._sizing = (
            data / "collections",
            fingerprint,
            dims,
            sizing,
        )
        self._root.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._held = hold(data / "lock")
        self._reserve = Reserve(data / "reserve")
        self._open: dict[str, Collection] = {}
        self.conflicts: dict[str, FingerprintConflict | RecordsLost] = {}
        try:
            complete_swaps(data)
            for folder in sorted(self._root.iterdir()):
                if HALVES.fullmatch(folder.name):
                    shutil.rmtree(folder)
                elif not folder.name.startswith(".") and (
                    (folder / RECORDS).exists() or holds_files(folder)
                ):
                    self._admit(folder)
        except BaseException:
            self.close()
            raise
        self._reserve.keep()

    def _admit(self, folder: Path) -> None:
        """Open a collection. One of another bundle is left alone, and told of when it is asked for;
        without items and files, it is begun anew. So is one left alone whose records are lost.
        """
        try:
            self._open[folder.name] = self._opened(folder)
        except FingerprintConflict as conflict:
            with closing(Records(folder / RECORDS, alone=True)) as records:
                empty = not records.counts().items
            if not empty or holds_files(folder, (MEDIA, SET_ASIDE)):
                self.conflicts[folder.name] = conflict
                return
            shutil.rmtree(folder)
            self._open[folder.name] = self._made(folder)
        except RecordsLost as fault:
            self.conflicts[folder.name] = fault

    def _made(self, folder: Path, alone: bool = False, anew: bool = False) -> Collection:
        how = (self._fingerprint, self._dims, self._sizing, self._reserve)
        return Collection(folder, *how, alone=alone, anew=anew)

    def _opened(self, folder: Path) -> Collection:
        """A collection; on a full disk with the room that is kept, and without any to be searched
        at least.
        """
        try:
            return self._made(folder)
        except (OSError, sqlite3.OperationalError) as error:
            if not is_full(error):
                raise
        try:
            with self._reserve.given_up():
                return self._made(folder)
        except (OSError, sqlite3.OperationalError) as error:
            if not is_full(error):
                raise
            log.warning(
                "the disk is full: collection %s can be searched; make room, and start again",
                folder.name,
            )
            return self._made(folder, alone=True)

    def close(self) -> None:
        try:
            with ExitStack() as closing:  # each is closed, whatever becomes of the others
                for collection in self._open.values():
                    closing.callback(collection.close)
        finally:
            self._reserve.keep()  # before anyone else takes what has become free
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
            folder = self._root / name
            there = folder.exists()
            try:
                self._open[name] = self._made(folder)
            except BaseException:  # what has not been acknowledged is not there after a restart
                if not there:
                    shutil.rmtree(folder, ignore_errors=True)
                raise
            snapshot.sync(self._root)
            return self._open[name]

    def adopt(self, name: str) -> None:
        """Begin a collection anew whose records are lost. What is left of them is moved into its
        `set-aside/records`, its media into `set-aside`; nothing is deleted. Any other collection
        stays as it is.

        Raises:
            UnknownCollection, FingerprintConflict.
        """
        with self._lock:
            if not isinstance(self.conflicts.get(name), RecordsLost):
                self.get(name)
                return
            folder = self._root / name
            (folder / SET_ASIDE).mkdir(exist_ok=True)
            for left in sorted(folder.glob(f"{RECORDS}*")):
                move_aside(left, folder / SET_ASIDE / "records")
            self._open[name] = self._made(folder, anew=True)
            del self.conflicts[name]

    def ensure(self, name: str) -> Collection:
        """The collection of that name, made where there is none. Raises BadName,
        FingerprintConflict, RecordsLost.
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
        # what was to take its place
        shutil.rmtree(self._root.parent / STAGED / name, ignore_errors=True)


def old_of(data: Path, name: str) -> Path:
    """Where a collection goes that another is about to take the place of."""
    return data / STAGED / f".{name}.old"


def complete_swaps(data: Path) -> None:
    """Finish every swap that has begun: the old collection is out of the way, the new one is
    complete.
    """
    for old in (data / STAGED).glob(".*.old"):
        name = old.name[1:].removesuffix(".old")
        there, staged = data / "collections" / name, data / STAGED / name
        if not there.exists():
            (staged if staged.exists() else old).rename(there)
            snapshot.sync(there.parent)
        try:
            succeed(old, there)
        except (OSError, sqlite3.OperationalError) as error:
            if not is_full(error):
                raise
            log.warning("the disk is full: %s is removed when there is room", old)
    for gone in (data / STAGED).glob(".*.gone"):
        shutil.rmtree(gone, ignore_errors=True)


def succeed(old: Path, there: Path) -> None:
    """Take an old collection's place: what none of its items names goes over, the rest is no longer
    needed.
    """
    if has_lost_records(there) or (old.exists() and has_lost_records(old)):
        log.warning(
            "records of %s are lost: what it was before it was swapped stays in %s", there.name, old
        )
        return
    with closing(Records(there / RECORDS)) as records:
        records.forget_copied_versions()
    (there / READY).unlink(missing_ok=True)
    if old.exists():
        keep_unnamed(old, there)
        old.rename(old.with_name(f".{there.name}-{uuid.uuid4().hex}.gone"))


def keep_unnamed(old: Path, new: Path) -> None:
    """Move what no item of an old collection names, and what it has set aside, to what the new one
    has set aside.
    """
    with closing(Records(old / RECORDS)) as records:
        named = records.media_files()
    unnamed = (
        [path for path in (old / MEDIA).iterdir() if path.name not in named]
        if (old / MEDIA).is_dir()
        else []
    )
    aside = list((old / SET_ASIDE).iterdir()) if (old / SET_ASIDE).is_dir() else []
    for path in [*unnamed, *aside]:
        move_aside(path, new / SET_ASIDE)


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
