"""Snapshots of the vector indexes: generations, written aside, checksummed and renamed. A cache,
never the truth.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.bundle import digest

from .faiss_index import FaissIndex
from .tuning import Tuning

STATE = "snapshot.json"


def sync(path: Path) -> None:
    """Make a file or a folder's entries durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, data: bytes) -> None:
    """Replace a small file, whole or not at all."""
    half = path.with_name(f"{path.name}.part")
    half.write_bytes(data)
    sync(half)
    half.rename(path)
    sync(path.parent)


def save(
    folder: Path, indexes: dict[str, FaissIndex], identity: str, head: tuple[int, int]
) -> None:
    """Write a generation that holds everything up to `head`, then drop the older ones.

    `identity` says whose vectors these are: the collection's own id and its bundle's fingerprint.
    """
    folder.mkdir(exist_ok=True)
    name = f"{head[0]:012d}-{head[1]:012d}"
    half = folder / f"{name}.part"
    for torn in folder.glob("*.part"):
        shutil.rmtree(torn, ignore_errors=True)
    half.mkdir()
    try:
        fill(half, indexes, identity, head)
        shutil.rmtree(folder / name, ignore_errors=True)
        half.rename(folder / name)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)  # a full disk has no room for half a snapshot
        raise
    sync(folder)
    for other in folder.iterdir():
        if other.name != name:
            shutil.rmtree(other, ignore_errors=True)


def fill(half: Path, indexes: dict[str, FaissIndex], identity: str, head: tuple[int, int]) -> None:
    """Write a generation's files, durably."""
    state: dict[str, Any] = {"identity": identity, "head": head, "indexes": {}}
    for encoding, index in indexes.items():
        index.save(half / encoding)
        sums = {}
        for file in (half / f"{encoding}.faiss", half / f"{encoding}.npz"):
            sync(file)
            sums[file.name] = digest(file)
        state["indexes"][encoding] = {
            "kind": index.kind,
            "tuned": index.tuning.key,
            "tuned_at": index.tuning.count,
            "tuned_by": index.tuning.queries,
            "sha256": sums,
        }
    (half / STATE).write_text(json.dumps(state), encoding="utf-8")
    sync(half / STATE)


def load(
    folder: Path, identity: str, dims: Mapping[str, int], head: tuple[int, int]
) -> tuple[dict[str, FaissIndex], tuple[int, int]] | None:
    """The newest whole generation of this identity, not ahead of `head`, with where it stands; None
    where none is.
    """
    if not folder.is_dir():
        return None
    for generation in sorted(
        (p for p in folder.iterdir() if not p.name.endswith(".part")), reverse=True
    ):
        try:
            state = json.loads((generation / STATE).read_text(encoding="utf-8"))
            if state["identity"] != identity or any(
                a > b for a, b in zip(state["head"], head, strict=True)
            ):
                continue
            parts = state["indexes"].items()
            sums = [pair for _, part in parts for pair in part["sha256"].items()]
            if any(digest(generation / file) != expected for file, expected in sums):
                continue
            indexes = {
                encoding: FaissIndex.load(
                    generation / encoding, dims[encoding], part["kind"], tuning_of(part)
                )
                for encoding, part in parts
            }
            return indexes, (state["head"][0], state["head"][1])
        except (OSError, ValueError, KeyError, TypeError, RuntimeError):
            continue  # torn or foreign: the records hold everything
    return None


def tuning_of(part: dict[str, Any]) -> Tuning:
    """What a snapshot says of an index's search parameters; older ones say less."""
    return Tuning(part["tuned"], part.get("tuned_at", 0), part.get("tuned_by", ""))
