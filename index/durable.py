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


def write_durably(path: Path, data: bytes) -> None:
    """Replace a small file, whole or not at all. On the disk when this returns."""
    staging = path.with_name(f"{path.name}.part")
    staging.write_bytes(data)
    sync(staging)
    staging.rename(path)
    sync(path.parent)
