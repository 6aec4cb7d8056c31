"""A named collection: its records, its vector indexes, its media; and the data folder that holds several.

CollectionError
├── UnknownCollection, CollectionExists, BadName
├── FingerprintConflict    embedded with another bundle
└── DataInUse              another process has the data folder open
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np

from . import snapshot
from .records import Item, NewItem, Records, UnknownItem
from .vectors import FaissIndex, kind_for

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")


class CollectionError(Exception):
    """Something about a collection as a whole."""


class UnknownCollection(CollectionError):
    def __init__(self, name: str) -> None:
        super().__init__(f"no collection {name!r}")
        self.name = name


class CollectionExists(CollectionError):
    def __init__(self, name: str) -> None:
        super().__init__(f"there is a collection {name!r} already")
        self.name = name


class BadName(CollectionError):
    def __init__(self, name: str) -> None:
        super().__init__("a collection's name is 1-63 of a-z, 0-9, - and _, the first a letter or digit")
        self.name = name[:80]


class FingerprintConflict(CollectionError):
    def __init__(self, name: str, collection: str, bundle: str) -> None:
        super().__init__(f"collection {name!r} was embedded with bundle {collection}, this is {bundle}")
        self.name, self.collection, self.bundle = name, collection, bundle


class DataInUse(CollectionError):
    def __init__(self) -> None:
        super().__init__("the data folder is open in another process")


class Collection:
    """One collection, with vectors of each encoding in `dims`. Every method may be called from any thread."""

    def __init__(self, folder: Path, fingerprint: str, dims: Mapping[str, int]) -> None:
        self.name, self.folder, self.dims, self.fingerprint = folder.name, folder, dims, fingerprint
        (folder / "media").mkdir(parents=True, exist_ok=True)
        self._lock, self._closed = threading.RLock(), False
        self._records = Records(folder / "records.sqlite")
        meta = self._records.meta()
        if not meta:
            meta = {"fingerprint": fingerprint, "id": uuid.uuid4().hex}
            self._records.set_meta(meta)
            snapshot.sync(folder)
        elif meta["fingerprint"] != fingerprint:
            self._records.close()
            raise FingerprintConflict(self.name, meta["fingerprint"], fingerprint)
        self._identity = f"{meta['id']}/{fingerprint}"
        self._kept: tuple[int, int] | None = None  # what the snapshot on disk stands at, if it is these very indexes
        self._indexes = self._restore()
        self._drop_orphans()

    # ------------------------------------------------------------ opening and closing

    def _restore(self) -> dict[str, FaissIndex]:
        """The snapshot brought up to date, or everything from the records."""
        counts = self._records.counts()
        kinds = {e: kind_for(counts[e]) for e in self._records.encodings()}
        loaded = snapshot.load(self.folder / "snapshots", self._identity, self.dims, self._records.head())
        indexes, (vector, removed) = loaded or ({}, (0, 0))
        self._kept = (vector, removed) if loaded else None
        for encoding, kind in kinds.items():
            index, start, dim = indexes.get(encoding), vector, self.dims[encoding]
            if index is None or index.kind != kind or index.worn:
                index, start, self._kept = FaissIndex(dim, kind), 0, None
            else:
                gone = self._records.removed_after(encoding, removed)
                index.remove(gone[gone <= vector])  # the others came and went since the snapshot
            for ids, vectors in self._records.vectors_after(encoding, start, dim):
                index.add(ids, vectors)
            if len(index) != counts[encoding]:  # a snapshot of another history
                index, self._kept = FaissIndex(dim, kind), None
                for ids, vectors in self._records.vectors_after(encoding, 0, dim):
                    index.add(ids, vectors)
            indexes[encoding] = index
        return {e: indexes[e] for e in kinds}

    def _drop_orphans(self) -> None:
        """Media whose item was never acknowledged, or was deleted just before a kill."""
        kept = self._records.media_files()
        for path in (self.folder / "media").iterdir():
            if path.name not in kept:
                path.unlink()

    @contextmanager
    def held(self) -> Iterator[Records]:
        """Hold the collection still: its records and indexes agree and stay as they are.

        Raises:
            UnknownCollection: it has been closed or deleted.
        """
        with self._lock:
            if self._closed:
                raise UnknownCollection(self.name)
            yield self._records

    def snapshot(self) -> None:
        with self.held() as records:
            head = records.head()
            snapshot.save(self.folder / "snapshots", self._indexes, self._identity, head)
            records.forget_removed(head[1])  # the only snapshot there is knows of them
            self._kept = head

    def close(self, keep: bool = True) -> None:
        """Leave a snapshot, so that the next open is quick; unless there is nothing to `keep`."""
        with self.held() as records:
            if keep and self._indexes and self._kept != records.head():
                self.snapshot()
            records.close()
            self._closed = True

    # ------------------------------------------------------------ writing

    def store_media(self, file: Path, filename: str) -> str:
        """Copy a file into the collection, durably; returns the name to give to `put`."""
        suffix = Path(filename).suffix
        name = uuid.uuid4().hex + (suffix.lower() if SUFFIX.fullmatch(suffix) else "")
        target = self.folder / "media" / name
        with self.held():
            target.touch()
        try:
            shutil.copyfile(file, target)
            snapshot.sync(target)
            snapshot.sync(target.parent)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return name

    def put_media(self, item: NewItem, file: Path) -> None:
        """Add or replace an item together with a copy of its file: both or neither."""
        name = self.store_media(file, item.filename or "")
        try:
            self.put([replace(item, media=name)])
        except BaseException:
            self.drop_media([name])
            raise

    def put(self, items: list[NewItem]) -> None:
        """Add or replace items; when this returns they are on disk and found by searches."""
        with self.held() as records:
            before = records.head()[1]
            added, unused = records.put(items, self.dims)
            for encoding, (ids, vectors) in added.items():
                index = self._indexes.setdefault(encoding, FaissIndex(self.dims[encoding]))
                index.add(np.array(ids, np.int64), vectors)
            self._forget(before)
        self.drop_media(unused)

    def delete(self, id: str) -> None:
        """Raises UnknownItem."""
        with self.held() as records:
            before = records.head()[1]
            unused = records.remove(id)
            self._forget(before)
        self.drop_media(unused)

    def _forget(self, before: int) -> None:
        for encoding, index in self._indexes.items():
            index.remove(self._records.removed_after(encoding, before))

    def drop_media(self, names: list[str]) -> None:
        for name in names:
            (self.folder / "media" / name).unlink(missing_ok=True)

    # ------------------------------------------------------------ reading

    def item(self, id: str) -> Item:
        """Raises UnknownItem."""
        with self.held() as records:
            return records.item(id)

    def page(self, limit: int, after: str = "") -> list[Item]:
        with self.held() as records:
            return records.page(limit, after)

    def counts(self) -> dict[str, int]:
        with self.held() as records:
            return records.counts()

    def media(self, id: str) -> tuple[Path, str]:
        """The file of an item and the name it came with.

        Raises:
            UnknownItem: no such item, or one without media.
        """
        item = self.item(id)
        path = self.folder / "media" / item.media if item.media else Path(item.source) if item.source else None
        if path is None or not path.is_file():
            raise UnknownItem(id)
        return path, item.filename or path.name

    def index(self, encoding: str) -> FaissIndex:
        """The vectors of an encoding; empty where there are none. To be used while the collection is `held`."""
        return self._indexes.get(encoding) or FaissIndex(self.dims[encoding])


class Collections:
    """The data folder: every collection of one bundle, held by one process at a time."""

    def __init__(self, data: Path, fingerprint: str, dims: Mapping[str, int]) -> None:
        self._root, self._fingerprint, self._dims = data / "collections", fingerprint, dims
        self._root.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._held = hold(data / "lock")
        self._open: dict[str, Collection] = {}
        self.conflicts: dict[str, FingerprintConflict] = {}
        try:
            for folder in sorted(self._root.iterdir()):
                if folder.name.startswith("."):
                    shutil.rmtree(folder)  # a collection whose deletion was cut short
                elif (folder / "records.sqlite").exists():
                    self._admit(folder)
        except BaseException:
            self.close()
            raise

    def _admit(self, folder: Path) -> None:
        """Open a collection; one of another bundle is left alone, and told of when it is asked for."""
        try:
            self._open[folder.name] = Collection(folder, self._fingerprint, self._dims)
        except FingerprintConflict as conflict:
            self.conflicts[folder.name] = conflict

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
        """Raises UnknownCollection, FingerprintConflict."""
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
            self._open[name] = Collection(self._root / name, self._fingerprint, self._dims)
            snapshot.sync(self._root)
            return self._open[name]

    def ensure(self, name: str) -> Collection:
        """The collection of that name, made where there is none. Raises BadName, FingerprintConflict."""
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
