"""Disk space held back, so that items can be deleted when the disk is full."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

RESERVE = "reserve"  # the file's name in a data folder
RESERVE_MAX = 8_000_000  # bytes; deleting a film of two hours writes some 3 MB to SQLite's log
SHARE_OF_DISK = 16  # of a small disk, at most one part in so many
STEP_MIN = 4096  # bytes
# what SQLite reports on a full disk, depending on the file it could not write
SQLITE_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)


def is_full(error: Exception) -> bool:
    """Whether an error may come from a full disk."""
    if isinstance(error, sqlite3.OperationalError):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in SQLITE_FULL
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


class Reserve:
    """A file that takes the space up; without a file, none is held back."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._lock = threading.RLock()

    def allocate(self) -> None:
        """Take the space, or as much of it as there is."""
        if self._file is None:
            return
        with self._lock, suppress(OSError):
            size = min(RESERVE_MAX, shutil.disk_usage(self._file.parent).total // SHARE_OF_DISK)
            with self._file.open("ab") as file:
                grow(file.fileno(), size)

    @contextmanager
    def release(self) -> Iterator[None]:
        """Free the space for the time of a `with` block, for one thread at a time."""
        with self._lock:
            if self._file is not None:
                with suppress(OSError):
                    self._file.unlink(missing_ok=True)
            try:
                yield
            finally:
                self.allocate()


def grow(handle: int, size: int) -> None:
    """Allocate an open file up to a size in bytes, or as far as the disk has room."""
    current = os.fstat(handle).st_size
    step = size - current
    while step >= STEP_MIN and current < size:
        try:
            os.posix_fallocate(handle, current, min(step, size - current))
            current = os.fstat(handle).st_size
        except OSError:
            step //= 2
