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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from . import snapshot
from .filters import compile_filter
from .records import Item, NewItem, Place, Records, Stored, UnknownItem
from .vectors import FaissIndex, Vectors, kind_for

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
    """One collection. Every method may be called from any thread."""

    def __init__(self, folder: Path, fingerprint: str, dim: int) -> None:
        self.name, self.folder, self.dim, self.fingerprint = folder.name, folder, dim, fingerprint
        (folder / "media").mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._records = Records(folder / "records.sqlite")
        meta = self._records.meta()
        if not meta:
            self._records.set_meta({"fingerprint": fingerprint, "dim": str(dim)})
            snapshot.sync(folder)
        elif meta["fingerprint"] != fingerprint:
            self._records.close()
            raise FingerprintConflict(self.name, meta["fingerprint"], fingerprint)
        self._indexes = self._restore()
        self._drop_orphans()

    # ------------------------------------------------------------ opening and closing

    def _restore(self) -> dict[str, FaissIndex]:
        """The snapshot brought up to date, or everything from the records."""
        counts = self._records.counts()
        kinds = {m: kind_for(counts[m]) for m in self._records.modalities()}
        loaded = snapshot.load(self.folder / "snapshots", self.fingerprint, self.dim)
        indexes, (vector, removed) = loaded or ({}, (0, 0))
        for modality, kind in kinds.items():
            index, start = indexes.get(modality), vector
            if index is None or index.kind != kind or index.worn:
                index, start = FaissIndex(self.dim, kind), 0
            else:
                gone = self._records.removed_after(modality, removed)
                index.remove(gone[gone <= vector])  # the others came and went since the snapshot
            for ids, vectors in self._records.vectors_after(modality, start, self.dim):
                index.add(ids, vectors)
            indexes[modality] = index
        return {m: indexes[m] for m in kinds}

    def _drop_orphans(self) -> None:
        """Media whose item was never acknowledged, or was deleted just before a kill."""
        kept = self._records.media_files()
        for path in (self.folder / "media").iterdir():
            if path.name not in kept:
                path.unlink()

    def snapshot(self) -> None:
        with self._lock:
            snapshot.save(self.folder / "snapshots", self._indexes, self.fingerprint, self._records.head())

    def close(self) -> None:
        """Leave a snapshot, so that the next open is quick."""
        with self._lock:
            loaded = (self.folder / "snapshots" / "{:012d}-{:012d}".format(*self._records.head())).is_dir()
            if not loaded and self._indexes:
                self.snapshot()
            self._records.close()

    # ------------------------------------------------------------ writing

    def store_media(self, file: Path, filename: str) -> str:
        """Copy a file into the collection, durably; returns the name to give to `put`."""
        suffix = Path(filename).suffix
        name = uuid.uuid4().hex + (suffix.lower() if SUFFIX.fullmatch(suffix) else "")
        target = self.folder / "media" / name
        shutil.copyfile(file, target)
        snapshot.sync(target)
        snapshot.sync(target.parent)
        return name

    def put(self, items: list[NewItem]) -> None:
        """Add or replace items; when this returns they are on disk and found by searches."""
        with self._lock:
            before = self._records.head()[1]
            added, unused = self._records.put(items, self.dim)
            self._forget(before)
            for modality, (ids, vectors) in added.items():
                index = self._indexes.setdefault(modality, FaissIndex(self.dim))
                index.add(np.array(ids, np.int64), vectors)
        self._unlink(unused)

    def delete(self, id: str) -> None:
        """Raises UnknownItem."""
        with self._lock:
            before = self._records.head()[1]
            unused = self._records.remove(id)
            self._forget(before)
        self._unlink(unused)

    def _forget(self, before: int) -> None:
        for modality, index in self._indexes.items():
            index.remove(self._records.removed_after(modality, before))

    def _unlink(self, names: list[str]) -> None:
        for name in names:
            (self.folder / "media" / name).unlink(missing_ok=True)

    # ------------------------------------------------------------ reading

    def item(self, id: str) -> Item:
        with self._lock:
            return self._records.item(id)

    def page(self, limit: int, after: str = "") -> list[Item]:
        with self._lock:
            return self._records.page(limit, after)

    def counts(self) -> dict[str, int]:
        with self._lock:
            return self._records.counts()

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

    def allowed(self, query: dict[str, Any], modality: str) -> NDArray[np.int64]:
        """The vectors that a filter leaves. Raises BadFilter."""
        condition, params = compile_filter(query)
        with self._lock:
            return self._records.matching(condition, params, modality)

    def nearest(
        self, query: Vectors, modality: str, k: int, allowed: NDArray[np.int64] | None, exact: bool
    ) -> list[tuple[Place, float]]:
        """The best vectors of a modality with the places they belong to, best first."""
        with self._lock:
            if modality not in self._indexes:
                return []
            ids, scores = self._indexes[modality].search(query, k, allowed, exact)
            places = self._records.places(ids.tolist())
        return [(places[i], float(s)) for i, s in zip(ids.tolist(), scores, strict=True) if i in places]

    def size(self, modality: str) -> int:
        with self._lock:
            return len(self._indexes[modality]) if modality in self._indexes else 0

    def is_exact(self, modality: str) -> bool:
        with self._lock:
            return modality not in self._indexes or self._indexes[modality].exact

    def stored(self, item: int) -> Stored | None:
        """All that is stored of an item, by the number `Place.item`; None where it was deleted in the meantime."""
        with self._lock:
            return self._records.stored(item)

    @contextmanager
    def records(self) -> Iterator[Records]:
        """The records themselves, for batch building."""
        with self._lock:
            yield self._records


class Collections:
    """The data folder: every collection of one bundle, held by one process at a time."""

    def __init__(self, data: Path, fingerprint: str, dim: int) -> None:
        self._root, self._fingerprint, self._dim = data / "collections", fingerprint, dim
        self._root.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._held = hold(data / "lock")
        self._open: dict[str, Collection] = {}
        try:
            for folder in sorted(self._root.iterdir()):
                if folder.name.startswith("."):
                    shutil.rmtree(folder)  # a collection whose deletion was cut short
                elif (folder / "records.sqlite").exists():
                    self._open[folder.name] = Collection(folder, fingerprint, dim)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for collection in self._open.values():
            collection.close()
        self._held.close()

    def names(self) -> list[str]:
        return sorted(self._open)

    def get(self, name: str) -> Collection:
        """Raises UnknownCollection."""
        try:
            return self._open[name]
        except KeyError:
            raise UnknownCollection(name) from None

    def create(self, name: str) -> Collection:
        """Raises BadName, CollectionExists."""
        if not NAME.fullmatch(name):
            raise BadName(name)
        with self._lock:
            if name in self._open:
                raise CollectionExists(name)
            self._open[name] = Collection(self._root / name, self._fingerprint, self._dim)
            snapshot.sync(self._root)
            return self._open[name]

    def ensure(self, name: str) -> Collection:
        return self._open[name] if name in self._open else self.create(name)

    def delete(self, name: str) -> None:
        """Raises UnknownCollection."""
        with self._lock:
            collection = self.get(name)
            del self._open[name]
        with collection.records() as records:
            records.close()
        gone = self._root / f".{name}-{uuid.uuid4().hex}"
        collection.folder.rename(gone)
        snapshot.sync(self._root)
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
