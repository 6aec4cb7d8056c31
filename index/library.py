"""The data folder: every collection of one bundle, held by one process at a time."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import resource
import shutil
import sqlite3
import threading
import uuid
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import IO, get_args

from .collection import (
    MEDIA,
    NAME,
    RECORDS,
    SET_ASIDE,
    BadName,
    Collection,
    CollectionExists,
    CollectionUnusable,
    DataInUse,
    DataUnusable,
    FingerprintConflict,
    RecordsLost,
    UnknownCollection,
    has_lost_records,
    holds_files,
    move_aside,
    name_damage,
)
from .durable import sync
from .records.database import Records
from .records.schema import UnknownSchema
from .reserve import RESERVE, Reserve, is_full
from .vectors.sizing import Sizing

STAGED = "reembed"  # the folder of collections that are being re-embedded, see `ingest.reembed`
READY = "ready"  # the file that says of one of them that it is complete
RESTORED = "restored"  # the folder of collections of a restored backup, until each is in its place
# what deleting or restoring a collection leaves when it is interrupted
LEFTOVERS = re.compile(r"\.[a-z0-9][a-z0-9_-]{0,62}-([0-9a-f]{32}|[a-z0-9_]{8}\.part)")
# Files that a process may have open, where the system allows so many. A collection needs three.
FILES = 65_536
# why a collection cannot be opened, while the others can
Conflict = FingerprintConflict | RecordsLost | UnknownSchema | CollectionUnusable
CONFLICTS = get_args(Conflict)
log = logging.getLogger(__name__)


def allow_many_files() -> None:
    """Have this process open as many files as it may, up to `FILES`. Many systems allow a process
    1,024 until it asks for more: those of 340 collections.
    """
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


class Collections:
    """The collections of a data folder, which this process has locked.

    Raises:
        DataInUse: another process has locked it.
        DataUnusable: it cannot be made or written.
    """

    def __init__(
        self, data: Path, fingerprint: str, dims: Mapping[str, int], sizing: Sizing = Sizing()
    ) -> None:
        allow_many_files()
        self._root = data / "collections"
        self._fingerprint = fingerprint
        self._dims = dims
        self._sizing = sizing
        self._lock = threading.Lock()
        self._folder_lock = lock_folder(data)
        self._reserve = Reserve(data / RESERVE)
        self._open: dict[str, Collection] = {}
        self.conflicts: dict[str, Conflict] = {}
        try:
            complete_swaps(data)
            complete_restore(data)
            for folder in sorted(self._root.iterdir()):
                if LEFTOVERS.fullmatch(folder.name):
                    remove_leftover(folder)
                elif not folder.name.startswith("."):
                    self._admit(folder)
        except BaseException:
            self.close()
            raise
        self._reserve.allocate()

    def _admit(self, folder: Path) -> None:
        """Open a collection, or keep the error for whoever asks for it: it belongs to another
        bundle, its records are lost, damaged or of a later version, or this process may not use
        it. One of another bundle that has neither items nor media is replaced by a new one. A
        folder that holds no collection is left alone.
        """
        try:
            if not (folder / RECORDS).exists() and not has_lost_records(folder):
                return
            check_access(folder / RECORDS)
            with name_damage(folder.name):
                self._open[folder.name] = self._open_collection(folder)
        except FingerprintConflict as conflict:
            with closing(Records(folder / RECORDS, alone=True)) as records:
                empty = not records.counts().items
            if not empty or holds_files(folder, (MEDIA, SET_ASIDE)):
                self.conflicts[folder.name] = conflict
                return
            self._start_over(folder)
        except (RecordsLost, UnknownSchema) as error:
            self.conflicts[folder.name] = error
        except PermissionError as error:
            problem = error.strerror or str(error)
            self.conflicts[folder.name] = CollectionUnusable(folder.name, problem)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
                raise
            self.conflicts[folder.name] = CollectionUnusable(folder.name, str(error))

    def _start_over(self, folder: Path) -> None:
        """Make a collection anew. It is there after a kill, too: see `complete_swaps`."""
        old = replaced_path(self._root.parent, folder.name)
        old.parent.mkdir(exist_ok=True)
        folder.rename(old)
        self._open[folder.name] = self._make(folder)
        remove_whole(old)

    def _make(self, folder: Path, alone: bool = False, anew: bool = False) -> Collection:
        return Collection(
            folder,
            self._fingerprint,
            self._dims,
            self._sizing,
            reserve=self._reserve,
            alone=alone,
            anew=anew,
        )

    def _open_collection(self, folder: Path) -> Collection:
        """Open a collection. On a full disk the reserve is used; if that does not suffice, the
        collection can be searched but not written.
        """
        try:
            return self._make(folder)
        except (OSError, sqlite3.OperationalError) as error:
            if not is_full(error):
                raise
        try:
            with self._reserve.release():
                return self._make(folder)
        except (OSError, sqlite3.OperationalError) as error:
            if not is_full(error):
                raise
            log.warning(
                "the disk is full: collection %s can be searched; make room, and start again",
                folder.name,
            )
            return self._make(folder, alone=True)

    def close(self) -> None:
        try:
            with ExitStack() as closing:  # every collection is closed, even if one raises
                for collection in self._open.values():
                    closing.callback(collection.close)
        finally:
            self._reserve.allocate()  # before another process takes the space that became free
            self._folder_lock.close()

    def all(self) -> list[Collection]:
        return [collection for _, collection in sorted(self._open.items())]

    def get(self, name: str) -> Collection:
        """Raises UnknownCollection, FingerprintConflict, RecordsLost, UnknownSchema."""
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
            existed = folder.exists()
            try:
                self._open[name] = self._make(folder)
            except BaseException:  # nothing of it may be there after a restart
                if not existed:
                    shutil.rmtree(folder, ignore_errors=True)
                raise
            sync(self._root)
            return self._open[name]

    def adopt(self, name: str) -> None:
        """Begin a collection anew whose records are lost. What is left of the records is moved into
        its `set-aside/records`, its media into `set-aside`. Nothing is deleted. Any other
        collection stays as it is.

        Raises:
            UnknownCollection, FingerprintConflict, UnknownSchema.
        """
        with self._lock:
            if not isinstance(self.conflicts.get(name), RecordsLost):
                self.get(name)
                return
            folder = self._root / name
            (folder / SET_ASIDE).mkdir(exist_ok=True)
            for left in sorted(folder.glob(f"{RECORDS}*")):
                move_aside(left, folder / SET_ASIDE / "records")
            self._open[name] = self._make(folder, anew=True)
            del self.conflicts[name]

    def ensure(self, name: str) -> Collection:
        """The collection of that name; it is created if there is none. Raises BadName,
        FingerprintConflict, RecordsLost, UnknownSchema.
        """
        if name in self._open or name in self.conflicts:
            return self.get(name)
        return self.create(name)

    def delete(self, name: str) -> None:
        """Raises UnknownCollection; PermissionError, and nothing is changed."""
        with self._lock:
            if name not in self._open and name not in self.conflicts:
                raise UnknownCollection(name)
            if not os.access(self._root, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            remove_staged(self._root.parent, name)
            if name in self._open:
                self._open[name].close(keep=False)
            doomed = self._root / f".{name}-{uuid.uuid4().hex}"
            (self._root / name).rename(doomed)
            sync(self._root)
            self._open.pop(name, None)
            self.conflicts.pop(name, None)
        shutil.rmtree(doomed)


def check_access(records: Path) -> None:
    """Raises PermissionError where records are there and may not be read."""
    if records.exists() and not os.access(records, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def remove_leftover(folder: Path) -> None:
    """What cannot be removed now is tried again at the next start."""
    try:
        shutil.rmtree(folder)
    except OSError as error:
        log.warning(
            "what is left of a collection, %s, cannot be removed: %s", folder, error.strerror
        )


def remove_whole(folder: Path) -> None:
    """Delete a folder among those that are being re-embedded. If that is cut short, the next
    opening deletes the rest of it: nobody finds a part of it by its name.
    """
    doomed = folder.with_name(f".{folder.name.strip('.')}-{uuid.uuid4().hex}.gone")
    folder.rename(doomed)
    sync(folder.parent)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_staged(data: Path, name: str) -> None:
    """Delete the re-embedding of a collection, if one is under way."""
    with suppress(FileNotFoundError):
        remove_whole(data / STAGED / name)


def complete_restore(data: Path) -> None:
    """Move every collection of a restored backup to its place, and delete what was copied of a
    backup whose restoring was cut short.
    """
    for folder in data.glob(f".{RESTORED}-*"):
        if LEFTOVERS.fullmatch(folder.name):
            remove_leftover(folder)
    restored = data / RESTORED
    if not restored.is_dir():
        return
    for folder in sorted(restored.iterdir()):
        try:
            folder.rename(data / "collections" / folder.name)
        except OSError as error:
            log.warning("%s is restored, but cannot be moved to its place: %s", folder, error)
            return
    sync(data / "collections")
    restored.rmdir()


def replaced_path(data: Path, name: str) -> Path:
    """Where a swap moves the old collection to, before the new one takes its place."""
    return data / STAGED / f".{name}.old"


def complete_swaps(data: Path) -> None:
    """Finish every swap that was interrupted after the old collection had been moved away: the new
    one is complete.
    """
    for old in (data / STAGED).glob(".*.old"):
        name = old.name[1:].removesuffix(".old")
        target = data / "collections" / name
        staged = data / STAGED / name
        if not target.exists():
            (staged if staged.exists() else old).rename(target)
            sync(target.parent)
        try:
            finish_swap(old, target)
        except (OSError, sqlite3.OperationalError) as error:
            if not is_full(error):
                raise
            log.warning("the disk is full: %s will be removed when there is room", old)
    for doomed in (data / STAGED).glob(".*.gone"):
        shutil.rmtree(doomed, ignore_errors=True)


def finish_swap(old: Path, new: Path) -> None:
    """Move to the new collection what no item of the old one names, and mark the rest of the old
    one for removal.
    """
    if has_lost_records(new) or (old.exists() and has_lost_records(old)):
        log.warning(
            "records of %s are lost: what it was before its swap stays in %s", new.name, old
        )
        return
    with closing(Records(new / RECORDS)) as records:
        records.forget_copied_versions()
        if old.exists():
            with closing(Records(old / RECORDS)) as before:
                # files may have been moved since they were copied
                records.relocate(before.sources.known())
                records.add_marks(before.marks.all())
    (new / READY).unlink(missing_ok=True)
    if old.exists():
        move_unnamed(old, new)
        remove_whole(old)


def move_unnamed(old: Path, new: Path) -> None:
    """Move the media that no item of an old collection names, and what it has set aside, to what
    the new one has set aside.
    """
    with closing(Records(old / RECORDS)) as records:
        named = records.media_files()
    unnamed: list[Path] = []
    if (old / MEDIA).is_dir():
        unnamed += [path for path in (old / MEDIA).iterdir() if path.name not in named]
    if (old / SET_ASIDE).is_dir():
        unnamed += (old / SET_ASIDE).iterdir()
    for path in unnamed:
        move_aside(path, new / SET_ASIDE)


def lock_folder(data: Path) -> IO[bytes]:
    """Make a data folder if there is none, and lock it.

    Raises:
        DataInUse: another process has locked it.
        DataUnusable: it cannot be made or written.
    """
    try:
        (data / "collections").mkdir(parents=True, exist_ok=True)
        return lock_file(data / "lock")
    except OSError as error:
        if is_full(error):
            raise
        problem = "it is a file" if data.is_file() else error.strerror or str(error)
        raise DataUnusable(data, problem) from error


def lock_file(path: Path) -> IO[bytes]:
    """Lock a file until it is closed or the process ends.

    Raises:
        DataInUse: another process has locked it.
    """
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise DataInUse from error
    os.set_inheritable(file.fileno(), False)
    return file
