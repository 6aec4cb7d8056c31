"""Room kept on a disk, so that something can be deleted when there is no other."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LARGEST = 8_000_000  # a film of two hours takes some 3 MB of SQLite's log to delete
SHARE = 16  # of a small disk, one part in so many
SMALLEST = 4096
# as a full disk has it, by file
SQLITE_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)


def is_full(error: Exception) -> bool:
    """Whether an error may come from a disk without room."""
    if isinstance(error, sqlite3.OperationalError):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in SQLITE_FULL
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


class Reserve:
    """A file that holds the room; without one, nothing is kept."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._lock = threading.RLock()

    def keep(self) -> None:
        """Take the room, or as much of it as there is."""
        if self._file is None:
            return
        with self._lock, suppress(OSError):
            size = min(LARGEST, shutil.disk_usage(self._file.parent).total // SHARE)
            with self._file.open("ab") as file:
                fill(file.fileno(), size)

    @contextmanager
    def given_up(self) -> Iterator[None]:
        """With the room free, for one at a time; what is left of it is taken again."""
        with self._lock:
            if self._file is not None:
                with suppress(OSError):
                    self._file.unlink(missing_ok=True)
            try:
                yield
            finally:
                self.keep()


def fill(handle: int, size: int) -> None:
    """Allocate a file up to a size, or to as much as fits."""
    have = os.fstat(handle).st_size
    step = size - have
    while step >= SMALLEST and have < size:
        try:
            os.posix_fallocate(handle, have, min(step, size - have))
            have = os.fstat(handle).st_size
        except OSError:
            step //= 2
