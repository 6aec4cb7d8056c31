"""Items whose files are gone. A file that is not there is only gone where the folder that it was
found by is there with something in it, and the file system that it lay on is mounted. Otherwise it
is out of reach: a disk that is not mounted has lost nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..collection import Collection
from ..records.item import KnownSource, Origin, UnknownItem, real_path


@dataclass(frozen=True)
class GoneItem:
    """An item and the file, or the shard, that it was made from."""

    id: str
    source: str


@dataclass
class Missing:
    """Items whose files are not there: those that are gone, and those out of reach by the reason
    for that.
    """

    gone: list[GoneItem] = field(default_factory=list)
    out_of_reach: dict[str, list[GoneItem]] = field(default_factory=dict)

    def every(self) -> Iterator[GoneItem]:
        yield from self.gone
        for items in self.out_of_reach.values():
            yield from items


def find_missing(collection: Collection, below: Iterable[Path] = ()) -> Missing:
    """The items of a collection whose files are not there; with `below`, of files below these
    paths.
    """
    known, _ = collection.sources()
    paths = [real_path(path) for path in below]
    places = Places()
    missing = Missing()
    gone: dict[str | None, list[GoneItem]] = {}
    there: set[str | None] = set()  # folders of which a file is there
    for id, item in known.items():
        if item.source is None or item.origin == Origin.LINE:
            continue
        if paths and not any(Path(item.source).is_relative_to(path) for path in paths):
            continue
        if places.holds(item.source):
            there.add(item.root)
            continue
        reason = places.why_out_of_reach(item)
        if reason is None:
            gone.setdefault(item.root, []).append(GoneItem(id, item.source))
        else:
            missing.out_of_reach.setdefault(reason, []).append(GoneItem(id, item.source))
    for root, items in gone.items():
        if root is None or root in there or len(items) == 1:
            missing.gone += items
        else:  # another disk may be mounted there
            reason = f"none of the {len(items)} files indexed from {root} is there"
            missing.out_of_reach[reason] = items
    return missing


def remove(collection: Collection, items: Iterable[GoneItem]) -> int:
    """Delete items whose files are still not there; returns how many were."""
    places = Places()
    known, _ = collection.sources()
    removed = 0
    for item in items:
        now = known.get(item.id)
        if now is None or now.source != item.source or places.holds(item.source):
            continue
        try:
            collection.delete(item.id)
        except UnknownItem:  # somebody else deleted it
            continue
        removed += 1
    return removed


class Places:
    """What is where at this moment; folders and mounts are looked at once."""

    def __init__(self) -> None:
        self._folders: dict[str, str | None] = {}
        self._mounts: dict[str, bool] = {}
        self._real: dict[str, bool] = {}

    def holds(self, file: str) -> bool:
        """Whether a file is there, and no link has taken its place or that of a folder above."""
        try:
            if not stat.S_ISREG(os.lstat(file).st_mode):
                return False
        except OSError:
            return False
        folder = os.path.dirname(file)  # noqa: PTH120
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder) == folder
        return self._real[folder]

    def why_out_of_reach(self, item: KnownSource) -> str | None:
        """Why nothing can be said of a file that is not there; None where it is gone."""
        assert item.source is not None
        try:
            os.lstat(item.source)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            folder = item.root or str(Path(item.source).parent)
            return f"{folder} cannot be read ({error.strerror})"
        # records from before the folder was noted: the file's own
        folder = item.root or str(Path(item.source).parent)
        if item.mount is not None and not self._is_mounted(item.mount):
            return f"nothing is mounted at {item.mount}"
        return self._look(folder)

    def _is_mounted(self, mount: str) -> bool:
        if mount not in self._mounts:
            self._mounts[mount] = os.path.ismount(mount)
        return self._mounts[mount]

    def _look(self, folder: str) -> str | None:
        """Why a folder can tell nothing about its files."""
        if folder not in self._folders:
            try:
                with os.scandir(folder) as entries:
                    empty = next(entries, None) is None
                self._folders[folder] = f"{folder} is empty" if empty else None
            except (FileNotFoundError, NotADirectoryError):
                self._folders[folder] = f"{folder} is not there"
            except OSError as error:
                self._folders[folder] = f"{folder} cannot be read ({error.strerror})"
        return self._folders[folder]
