"""Files and folders made to outlast a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Return once a file's bytes, or a folder's entries, have reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(
    path: Path, data: bytes, mode: int = 0o666, owner: tuple[int, int] | None = None
) -> None:
    """Replace a small file, whole or not at all. On the disk when this returns. `mode` is who may
    read and write it, less what the process's umask forbids. `owner` is a user's and a group's
    number; None: the process's own.
    """
    staging = path.with_name(f"{path.name}.part")
    staging.unlink(missing_ok=True)  # it would keep its own mode
    with os.fdopen(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        if owner is not None:
            os.fchown(file.fileno(), *owner)
        file.write(data)
    sync(staging)
    staging.rename(path)
    sync(path.parent)
