"""Snapshots of the vector indexes: generations, written aside, checksummed and renamed. A cache,
never the truth.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.bundle import digest

from ..durable import sync
from .faiss_index import FaissIndex
from .tuning import Tuning

STATE = "snapshot.json"
STAGING = ".part"


def save(
    folder: Path, indexes: dict[str, FaissIndex], identity: str, head: tuple[int, int]
) -> None:
    """Write a generation that holds everything up to `head`, then delete the older ones.

    `identity` says whose vectors these are: the collection's own id and its bundle's fingerprint.
    """
    folder.mkdir(exist_ok=True)
    name = f"{head[0]:012d}-{head[1]:012d}"
    staging = folder / f"{name}{STAGING}"
    for torn in folder.glob(f"*{STAGING}"):
        shutil.rmtree(torn, ignore_errors=True)
    staging.mkdir()
    try:
        fill(staging, indexes, identity, head)
        shutil.rmtree(folder / name, ignore_errors=True)
        staging.rename(folder / name)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)  # a full disk has no room for a part of it
        raise
    sync(folder)
    for other in folder.iterdir():
        if other.name != name:
            shutil.rmtree(other, ignore_errors=True)


def fill(
    staging: Path, indexes: dict[str, FaissIndex], identity: str, head: tuple[int, int]
) -> None:
    """Write a generation's files, durably."""
    state: dict[str, Any] = {"identity": identity, "head": head, "indexes": {}}
    for encoding, index in indexes.items():
        index.save(staging / encoding)
        sums = {}
        for file in (staging / f"{encoding}.faiss", staging / f"{encoding}.npz"):
            sync(file)
            sums[file.name] = digest(file)
        state["indexes"][encoding] = {
            "kind": index.kind,
            "tuned": index.tuning.key,
            "tuned_at": index.tuning.count,
            "tuned_by": index.tuning.queries,
            "sha256": sums,
        }
    (staging / STATE).write_text(json.dumps(state), encoding="utf-8")
    sync(staging / STATE)


def load(
    folder: Path, identity: str, dims: Mapping[str, int], head: tuple[int, int]
) -> tuple[dict[str, FaissIndex], tuple[int, int]] | None:
    """The newest whole generation of this identity that is not ahead of `head`, with the head that
    it stands at. None where there is none.
    """
    if not folder.is_dir():
        return None
    generations = [path for path in folder.iterdir() if not path.name.endswith(STAGING)]
    for generation in sorted(generations, reverse=True):
        try:
            state = json.loads((generation / STATE).read_text(encoding="utf-8"))
            if state["identity"] != identity or is_ahead(state["head"], head):
                continue
            if is_whole(generation, state["indexes"]):
                return load_indexes(generation, state["indexes"], dims), tuple(state["head"])
        except (OSError, ValueError, KeyError, TypeError, RuntimeError):
            continue  # torn or foreign: the records hold everything
    return None


def is_ahead(of_snapshot: list[int], of_records: tuple[int, int]) -> bool:
    """Whether a snapshot has seen vectors or removals that the records do not have."""
    return any(seen > there for seen, there in zip(of_snapshot, of_records, strict=True))


def is_whole(generation: Path, indexes: dict[str, Any]) -> bool:
    """Whether every file has the checksum that it was written with."""
    for part in indexes.values():
        for file, expected in part["sha256"].items():
            if digest(generation / file) != expected:
                return False
    return True


def load_indexes(
    generation: Path, indexes: dict[str, Any], dims: Mapping[str, int]
) -> dict[str, FaissIndex]:
    return {
        encoding: FaissIndex.load(
            generation / encoding, dims[encoding], part["kind"], read_tuning(part)
        )
        for encoding, part in indexes.items()
    }


def read_tuning(part: dict[str, Any]) -> Tuning:
    """What a snapshot says of an index's search parameters; older ones say less."""
    return Tuning(part["tuned"], part.get("tuned_at", 0), part.get("tuned_by", ""))
