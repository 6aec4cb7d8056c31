"""A named collection: its records, its vector indexes, its media.

CollectionError
├── UnknownCollection, CollectionExists, BadName
├── NoVectors              an item without the modality asked for
├── ItemExists             an item of that id is there already
├── NoPreview              an item without a picture or a sound to show
├── FingerprintConflict    embedded with another bundle
├── RecordsLost            its records are damaged; or missing or empty, and it has files
├── CollectionUnusable     this process may not read or write its folder
├── DataInUse              another process has the data folder open
└── DataUnusable           the data folder cannot be made or written
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bundle import Joint
from media.passages import Passage

from .adapters import LEARNED, Adapters
from .calibration import SAMPLE, RouteStats, calibrate
from .columns import Ids
from .durable import sync
from .records.agreements import Agreed
from .records.database import (
    AGREED_KEY,
    VOCABULARY_KEY,
    Records,
    holds_log_alone,
    holds_records,
)
from .records.filters import compile_filter
from .records.item import (
    Counts,
    Failure,
    Item,
    KnownSource,
    NewItem,
    NoMedia,
    Origin,
    real_path,
)
from .records.marks import NewMark, StoredMark
from .records.schema import UnknownSchema
from .records.tags import Readings, TagCount, TagRows, list_tags, number_readings
from .records.window_table import WindowTable
from .reserve import Reserve, is_full
from .spread import Spread, measure_spread
from .vectors.base import VectorIndex, Vectors
from .vectors.faiss_index import FaissIndex
from .vectors.joint import JointIndex, JointSide
from .vectors.milvus import MilvusStore
from .vectors.sizing import Sizing
from .vectors.store import FaissStore, Store, VectorStoreFailed

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
# in a collection's folder:
RECORDS = "records.sqlite"
MEDIA = "media"
SNAPSHOTS = "snapshots"
PLACE = re.compile(r"before:([0-9]{1,18})", re.ASCII)  # in a list of the newest items
SET_ASIDE = "set-aside"  # there, media that no item names
FILLED = (MEDIA, SET_ASIDE, SNAPSHOTS, LEARNED)
SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")
STORED = re.compile(r"[0-9a-f]{32}(\.[a-z0-9]{1,8})?")  # what a stored copy is called
# How many items and windows have each tag: by encoding, and by name in any.
TagCounts = tuple[list[TagCount], dict[str, tuple[int, int]]]
log = logging.getLogger(__name__)


def agreement_state(records: Records, encodings: tuple[str, str]) -> str:
    """What changes whenever vectors are added or removed."""
    return "/".join([*encodings, *map(str, records.head())])


def holds_files(folder: Path, among: tuple[str, ...] = FILLED) -> bool:
    """Whether a collection's folder has uploads, snapshots or what was learned."""
    return any(any((folder / name).iterdir()) for name in among if (folder / name).is_dir())


def has_lost_records(folder: Path) -> bool:
    """Whether a collection's records are missing or empty, though it has files, or SQLite's log of
    them. Only reads.
    """
    if holds_log_alone(folder / RECORDS):
        return True
    return holds_files(folder) and not holds_records(folder / RECORDS)


@contextmanager
def name_damage(name: str) -> Iterator[None]:
    """Raises RecordsLost where SQLite finds the records of this collection damaged, UnknownSchema
    where a later version wrote them.
    """
    try:
        yield
    except UnknownSchema as error:
        raise UnknownSchema(error.found, name) from None
    except sqlite3.DatabaseError as error:
        if type(error) is not sqlite3.DatabaseError:  # of the disk, say, and not of what is on it
            raise
        raise RecordsLost(name, str(error)) from error


def move_aside(path: Path, aside: Path) -> Path:
    """Move a file into a folder, under a name that nothing there has; returns where it is."""
    target = aside / path.name
    number = 1
    while target.exists():
        target = aside / f"{path.stem}-{number}{path.suffix}"
        number += 1
    aside.mkdir(exist_ok=True)
    path.rename(target)
    sync(aside)
    return target


def stored_name(filename: str) -> str:
    """A new name for a stored copy of a file."""
    suffix = Path(filename).suffix
    return uuid.uuid4().hex + (suffix.lower() if SUFFIX.fullmatch(suffix) else "")


class CollectionError(Exception):
    """Something about a collection as a whole."""


class UnknownCollection(CollectionError):
    detail_fields = ("name",)

    def __init__(self, name: str) -> None:
        super().__init__(f"no collection {name!r}")
        self.name = name


class CollectionExists(CollectionError):
    detail_fields = ("name",)

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a collection {name!r} already")
        self.name = name


class BadName(CollectionError):
    detail_fields = ("name",)

    def __init__(self, name: str) -> None:
        super().__init__(
            "a collection's name is 1-63 of a-z, 0-9, - and _, the first a letter or digit"
        )
        self.name = name[:80]


class FingerprintConflict(CollectionError):
    detail_fields = ("name", "collection", "bundle")

    def __init__(self, name: str, collection: str, bundle: str) -> None:
        super().__init__(
            f"collection {name!r} was embedded with bundle {collection}, this is {bundle}:"
            f" re-embed it with `tercet reembed --data DIR --collection {name}` for this"
            " data folder and bundle, then the same with --swap"
        )
        self.name = name
        self.collection = collection
        self.bundle = bundle


class RecordsLost(CollectionError):
    detail_fields = ("name",)

    def __init__(self, name: str, damage: str = "") -> None:
        found = "missing or empty, but its folder holds what belongs to them"
        if damage:
            found = f"damaged ({damage})"
        super().__init__(
            f"the records of collection {name!r} are {found}. Nothing was changed. Put"
            " records.sqlite back from a backup, together with records.sqlite-wal if there is one;"
            f" or begin anew with `tercet build --adopt --data DIR --collection {name}`"
            " for this data folder, which makes items of the uploads that are there, and deletes"
            " none"
        )
        self.name = name


class CollectionUnusable(CollectionError):
    detail_fields = ("name", "problem")

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(
            f"collection {name!r} cannot be used: {problem}. Nothing was changed. Let the user that"
            " runs this read and write the collection's folder and all that is in it"
        )
        self.name = name
        self.problem = problem


class NoVectors(CollectionError):
    detail_fields = ("id", "encoding")

    def __init__(self, id: str, encoding: str) -> None:
        super().__init__(f"item {id!r} has no {encoding} to compare with")
        self.id = id
        self.encoding = encoding


class ItemExists(CollectionError):
    detail_fields = ("id",)

    def __init__(self, id: str) -> None:
        super().__init__(f"there is an item {id!r} already")
        self.id = id


class NoPreview(CollectionError):
    detail_fields = ("id",)

    def __init__(self, id: str) -> None:
        super().__init__(f"item {id!r} has no thumbnail or waveform")
        self.id = id


class DataInUse(CollectionError):
    def __init__(self) -> None:
        super().__init__(
            "the data folder is open in another process: stop that one, or ask it over HTTP"
        )


class DataUnusable(CollectionError):
    detail_fields = ("problem",)

    def __init__(self, data: Path, problem: str) -> None:
        super().__init__(f"the data folder {data} cannot be used: {problem}")
        self.problem = problem


def check_readable(data: Path) -> None:
    """Raises DataUnusable where SQLite cannot read records, as it makes files beside them."""
    if os.statvfs(data).f_flag & os.ST_RDONLY:
        raise DataUnusable(
            data, "its file system is read-only. Copy the folder elsewhere, and use the copy"
        )


class Collection:
    """One collection, with vectors of each encoding in `dims`. Every method may be called from any
    thread. Opened `alone` it needs no room on a full disk, and can only be searched. Opened `anew`
    it begins without its records, which are lost.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        dims: Mapping[str, int],
        sizing: Sizing = Sizing(),
        *,
        reserve: Reserve | None = None,
        alone: bool = False,
        anew: bool = False,
    ) -> None:
        self.name = folder.name
        self.folder = folder
        self.dims = dims
        self.fingerprint = fingerprint
        if not alone and not anew and has_lost_records(folder):
            raise RecordsLost(self.name)
        (folder / MEDIA).mkdir(parents=True, exist_ok=True)
        self._reserve = reserve or Reserve()
        # taken before the other, by whoever changes vectors or wants none changed
        self._writing = threading.RLock()
        self._lock = threading.RLock()
        self._closed = False
        self.measuring = threading.Lock()  # held by whoever measures how sound and picture agree
        self._records = Records(folder / RECORDS, alone)
        try:
            meta = self._claim(anew)
        except BaseException:
            self._records.close()
            raise
        self._joint: dict[Joint, JointIndex] = {}
        self._route_stats: dict[tuple[str, str | Joint], tuple[int | None, RouteStats | None]] = {}
        self._tag_counts: tuple[tuple[int, int], TagCounts] | None = None
        self.adapters = Adapters(folder, fingerprint)
        self._spreads: dict[str | Joint, tuple[int, Spread | None]] = {}
        self._store: Store
        if sizing.milvus:
            self._store = MilvusStore(sizing.milvus, meta["id"], dims)
        else:
            self._store = FaissStore(
                folder,
                f"{meta['id']}/{fingerprint}",
                dims,
                sizing,
                self._hold_for_writing,
                self._writing,
            )
        self._changes = 0  # vectors added and removed since it was opened
        try:
            self._store.open(self._records)
            self._records.item_cache()  # so that no search waits for it
            for encoding in self._records.encodings():
                self._records.window_table(encoding)
        except BaseException:
            self._records.close()
            raise
        self._set_orphans_aside()
        self._store.run_maintenance(self._records)

    # ------------------------------------------------------------ opening and closing

    def _claim(self, anew: bool) -> dict[str, str]:
        """The records' identity and fingerprint, written first if the records are new.

        Raises:
            RecordsLost, FingerprintConflict.
        """
        meta = self._records.meta()
        if not meta:
            if holds_files(self.folder) and not anew:
                raise RecordsLost(self.name)
            meta = {"fingerprint": self.fingerprint, "id": uuid.uuid4().hex}
            self._records.set_meta(meta)
            sync(self.folder)
        if meta["fingerprint"] != self.fingerprint:
            raise FingerprintConflict(self.name, meta["fingerprint"], self.fingerprint)
        return meta

    def _set_orphans_aside(self) -> None:
        """Move media that no item names out of the way: of an item that was never acknowledged,
        that was deleted just before a kill, or that older records do not know. What cannot be moved
        now will be at the next opening.
        """
        named = self._records.media_files()
        aside = self.folder / SET_ASIDE
        orphans = [path for path in (self.folder / MEDIA).iterdir() if path.name not in named]
        try:
            for path in orphans:
                move_aside(path, aside)
        except OSError as error:
            log.warning("media that no item of collection %s names: %s", self.name, error.strerror)
            return
        if orphans:
            log.warning(
                "%d media files that no item of collection %s names are in %s now; nothing deletes"
                " them",
                len(orphans),
                self.name,
                aside,
            )

    @contextmanager
    def hold_for_reading(self) -> Iterator[Records]:
        """Hold the collection still: its records and indexes agree and stay so.

        Raises:
            UnknownCollection: it has been closed or deleted.
            RuntimeError: something is written from within.
        """
        with self._lock:
            if self._closed:
                raise UnknownCollection(self.name)
            with self._records.refuse_writes():
                yield self._records

    @contextmanager
    def _hold_for_writing(self) -> Iterator[Records]:
        """Be the only one who writes or reads. Raises UnknownCollection: it has been closed or
        deleted.
        """
        with self._writing, self._lock:
            if self._closed:
                raise UnknownCollection(self.name)
            yield self._records

    def snapshot(self) -> None:
        """Save the indexes, so that the next opening is quick."""
        with self._writing:
            self._store.save_snapshot(self._hold_for_writing)

    @property
    def busy(self) -> bool:
        """Whether an index is being made or tuned in the background."""
        with self.hold_for_reading():  # not between one that is done and the next that it makes due
            return self._store.busy

    def close(self, keep: bool = True) -> None:
        """Close, with a snapshot that makes the next opening quick, or without one if not `keep`:
        the collection is about to be deleted.
        """
        self._store.stop()
        with self._writing:
            if self._closed:
                return
            try:
                if keep:
                    self._store.save_snapshot(self._hold_for_writing)
                with self._lock:
                    self._closed = True
                if not keep:
                    self._store.drop()
            except VectorStoreFailed as error:
                log.warning("%s: %s", self.name, error)
            finally:
                with self._lock:
                    self._closed = True
                    self._store.release()
                    self._records.close()

    # ------------------------------------------------------------ writing

    def store_media(self, file: Path, filename: str) -> str:
        """Copy a file into the collection, durably; returns the name to give to `put`."""
        name = stored_name(filename)
        target = self.folder / MEDIA / name
        with self.hold_for_reading():
            target.touch()
        try:
            shutil.copyfile(file, target)
            sync(target)
            sync(target.parent)
        except BaseException:
            target.unlink(missing_ok=True)
            if self._closed:  # and perhaps deleted, with the folder
                raise UnknownCollection(self.name) from None
            raise
        return name

    def put_media(self, item: NewItem, file: Path) -> None:
        """Add or replace an item together with a copy of its file: both or neither."""
        name = self.store_media(file, item.filename or "")
        try:
            self.put([replace(item, media=name)])
        except BaseException:
            with self._lock:
                if not self._closed and name not in self._records.media_files():
                    self.delete_media([name])
            raise

    def put(self, items: list[NewItem]) -> None:
        """Add or replace items; when this returns they are on disk and found by searches."""
        with self._hold_for_writing() as records:
            before = records.head()
            added, unused = records.put(items, self.dims)
            self._update_indexes(added, before)
        self.delete_media(unused)

    def delete(self, id: str) -> None:
        """Remove an item. On a full disk the reserve is used. Raises UnknownItem."""
        try:
            self._delete(id)
        except (OSError, sqlite3.OperationalError) as error:
            if not is_full(error):
                raise
            with self._reserve.release():
                self._delete(id)
                with self._hold_for_writing() as records:
                    records.truncate_log()

    def _delete(self, id: str) -> None:
        with self._hold_for_writing() as records:
            before = records.head()
            unused = records.remove(id)
            self._update_indexes({}, before)
        self.delete_media(unused)

    def set_metadata(self, id: str, metadata: dict[str, Any]) -> None:
        """Put metadata in the place of an item's own, durably. Raises UnknownItem."""
        with self._hold_for_writing() as records:
            records.set_metadata(id, metadata)

    def relocate(self, sources: dict[str, KnownSource]) -> None:
        """See `Records.relocate`."""
        with self._hold_for_writing() as records:
            records.relocate(sources)

    def copy_media(self, id: str) -> NewItem | None:
        """See `Records.copy_media`."""
        with self.hold_for_reading() as records:
            return records.copy_media(id, self.dims)

    def note_failure(self, id: str, failure: Failure) -> None:
        """Keep why a source could not be indexed."""
        with self._hold_for_writing() as records:
            records.note_failure(id, failure)

    def forget_failures(self, ids: list[str]) -> None:
        with self._hold_for_writing() as records:
            records.forget_failures(ids)

    def add_marks(self, marks: Sequence[NewMark]) -> list[int]:
        """Keep marks on what was found, and return their numbers; durable when this returns.

        Raises:
            UnknownItem: a mark names an item that is not there. None is kept then.
        """
        with self._hold_for_writing() as records:
            for mark in marks:
                for id in (mark.item, mark.query.item):
                    if id is not None:
                        records.number(id)
            return records.add_marks(marks)

    def delete_mark(self, number: int) -> None:
        """Raises UnknownMark."""
        with self._hold_for_writing() as records:
            records.delete_mark(number)

    def marks(self, limit: int, after: int = 0) -> list[StoredMark]:
        """Marks in the order of their numbers, those after `after`."""
        with self.hold_for_reading() as records:
            return records.marks.page(limit, after)

    def agreement_state(self, encodings: tuple[str, str]) -> str:
        """What changes whenever vectors of sound or pictures are added or removed."""
        with self.hold_for_reading() as records:
            return agreement_state(records, encodings)

    def has_agreement(self, state: str) -> bool:
        """Whether it is known how sound and picture agree, of all vectors of a state."""
        with self.hold_for_reading() as records:
            return records.meta().get(AGREED_KEY) == state

    def set_agreement(self, rows: Sequence[Agreed], state: str) -> None:
        """Keep how sound and picture of items agree, as measured of a state or of a later one."""
        with self._hold_for_writing() as records:
            records.set_agreement(rows, state)

    def note_copied_versions(self, versions: dict[str, str], of: str) -> None:
        """Keep, by id, which version of an item each item was made from, of the collection with the
        identity `of`.
        """
        with self._hold_for_writing() as records:
            records.set_copied_versions(versions, of)

    def set_aside(self) -> list[Path]:
        """The media files that no item names, in the order of their names."""
        aside = self.folder / SET_ASIDE
        return sorted(path for path in aside.iterdir() if path.is_file()) if aside.is_dir() else []

    def take_in(self, items: list[NewItem]) -> None:
        """Add items whose media is set aside, under the name in `media`. No item may replace
        another.

        Raises:
            ItemExists: an item of that id is there.
        """
        aside = self.folder / SET_ASIDE
        media = self.folder / MEDIA
        with self._writing:
            with self.hold_for_reading() as records:
                for item in items:
                    if records.find(item.id) is not None:
                        raise ItemExists(item.id)
            taken = []
            for item in items:
                assert item.media is not None
                usable = STORED.fullmatch(item.media) and not (media / item.media).exists()
                name = item.media if usable else stored_name(item.media)
                (aside / item.media).rename(media / name)
                taken.append(replace(item, media=name))
            sync(media)
            sync(aside)
            self.put(taken)

    def _update_indexes(
        self, added: dict[str, tuple[Ids, Vectors]], before: tuple[int, int]
    ) -> None:
        """Tell the indexes what was added and removed since `before`, see `Records.head`. It is
        written already: if this fails, they are brought up to date before they are used next.
        """
        try:
            self._changes += sum(self._records.head()) - sum(before)
            if self._store.stale:
                self._catch_up()
                return
            for encoding, (ids, vectors) in added.items():
                self._store.add(encoding, ids, vectors)
            for encoding in self.dims:
                self._store.remove(encoding, self._records.tombstones_after(encoding, before[1]))
            self._store.run_maintenance(self._records)
        except Exception:
            log.exception("the indexes of %s are behind their records", self.name)
            self._store.stale = True

    def _catch_up(self) -> None:
        """Bring the indexes up to date if an update failed. Raises VectorStoreFailed."""
        if self._store.stale:
            self._store.open(self._records)

    def delete_media(self, names: list[str]) -> None:
        """Delete media whose items were removed. What cannot be deleted is set aside at the next
        opening.
        """
        for name in names:
            with suppress(OSError):
                (self.folder / MEDIA / name).unlink(missing_ok=True)

    # ------------------------------------------------------------ reading

    def item(self, id: str) -> Item:
        """Raises UnknownItem."""
        with self.hold_for_reading() as records:
            return records.item(id)

    def vectors(self, id: str, encoding: str) -> Vectors:
        """An item's vectors [n, dim] of an encoding. Raises UnknownItem; NoVectors where it has
        none.
        """
        with self.hold_for_reading() as records:
            found = records.item_vectors(id, encoding, self.dims[encoding])
        if not len(found):
            raise NoVectors(id, encoding)
        return found

    def windows(self, id: str, encoding: str) -> tuple[list[tuple[float, float]], Vectors]:
        """The stretches [n] of an item's windows that have a vector of an encoding, in seconds, and
        these vectors [n, dim]. Raises UnknownItem.
        """
        with self.hold_for_reading() as records:
            found = records.item_windows(id, encoding, self.dims[encoding])
        return [(start_s, end_s) for start_s, end_s in found.times_s.tolist()], found.vectors

    def passages(self, id: str) -> tuple[Passage, ...]:
        """What an item's file says and shows in words. Raises UnknownItem."""
        with self.hold_for_reading() as records:
            return records.passages.of_item(records.item(id).id)

    @property
    def has_passages(self) -> bool:
        """Whether any item's file says or shows words."""
        with self.hold_for_reading() as records:
            return len(records.passages.windows()) > 0

    def find(self, id: str) -> Item | None:
        """The item of that id; None where there is none."""
        with self.hold_for_reading() as records:
            return records.find(id)

    def ids(self) -> set[str]:
        """The ids of all items."""
        with self.hold_for_reading() as records:
            return set(records.versions())

    def sources(self) -> tuple[dict[str, KnownSource], dict[str, Failure]]:
        """What batch building made items from, and what it could not index; each by id."""
        with self.hold_for_reading() as records:
            return records.sources.known(), records.sources.failures()

    def page(self, limit: int, after: str = "") -> list[Item]:
        """Items in the order of their ids, those after `after`."""
        with self.hold_for_reading() as records:
            return records.page(limit, after)

    def newest(
        self, limit: int, after: str = "", filter: dict[str, Any] | None = None
    ) -> tuple[list[Item], str]:
        """Items that meet a filter, those added last first: those `after` the place that is
        returned beside the items before, or after an item of that id. The place stays where it is
        when items are deleted or replaced.

        Raises:
            UnknownItem: `after` is neither a place nor an item's id.
            BadFilter
        """
        condition, params = compile_filter(filter) if filter else ("", [])
        place = PLACE.fullmatch(after)
        with self.hold_for_reading() as records:
            before = int(place[1]) if place else records.number(after) if after else None
            items = records.newest(limit, before, condition, params)
            return items, f"before:{records.number(items[-1].id)}" if items else after

    def counts(self) -> Counts:
        with self.hold_for_reading() as records:
            return records.counts()

    def media(self, id: str) -> tuple[Path, str]:
        """The file of an item and the name it came with. Raises UnknownItem, NoMedia."""
        item, path = self.item_media(id)
        return path, item.filename or path.name

    def item_media(self, id: str) -> tuple[Item, Path]:
        """An item and its file, both of one moment.

        Raises:
            UnknownItem: no such item.
            NoMedia: it is a text, or its file is gone.
        """
        item = self.item(id)
        while True:
            path = self._media_path(item)
            if path is not None and path.is_file():
                return item, path
            now = self.item(id)
            if now == item:
                raise NoMedia(id)
            item = now  # it was replaced meanwhile

    def _media_path(self, item: Item) -> Path | None:
        """Where an item's media are; None where it has none, or a link has taken their place."""
        if item.media:
            return self.folder / MEDIA / item.media
        if item.origin != Origin.FILE:
            return None
        assert item.source is not None
        path = Path(item.source)
        return path if path == real_path(path) else None

    def picture(self, id: str, at_s: float) -> bytes:
        """A JPEG of an item around a second. Raises UnknownItem; NoPreview: it has no picture."""
        with self.hold_for_reading() as records:
            found = records.picture(records.item(id).id, at_s)
        if found is None:
            raise NoPreview(id)
        return found

    def peaks(self, id: str) -> bytes:
        """How loud an item is, see `media.preview`. Raises UnknownItem; NoPreview where it has no
        sound.
        """
        with self.hold_for_reading() as records:
            found = records.peaks(records.item(id).id)
        if not found:
            raise NoPreview(id)
        return found

    def route_stats(self, source: str, target: str | Joint) -> RouteStats | None:
        """How queries of one encoding score in another where nothing matches; None where too little
        is there to tell. Measured anew when a quarter of the vectors is new. To be called within
        `hold_for_reading`.
        """
        index = self.index(target)
        if source not in self.dims or not len(index):
            return None
        at, made = self._route_stats.get((source, target), (None, None))
        if at is None or 4 * (self._changes - at) > len(index):
            sample = self._sample(target)
            made = calibrate(self._records, index, self.window_table(target), sample, source)
            self._route_stats[source, target] = self._changes, made
        return made

    def spread(self, target: str | Joint) -> Spread | None:
        """How a target's vectors are spread, by a sample; None where they are too few. Measured
        anew when a quarter of the vectors is new. To be called within `hold_for_reading`.
        """
        at, found = self._spreads.get(target, (None, None))
        if at is None or 4 * (self._changes - at) > len(self.index(target)):
            found = measure_spread(self._sample(target))
            self._spreads[target] = self._changes, found
        return found

    def _sample(self, target: str | Joint) -> Vectors:
        """Some of a target's vectors [n, dim], by chance."""
        if isinstance(target, Joint):
            return self._joint_index(target).sample(SAMPLE)
        return self._records.vectors_among(target, self.dims[target], SAMPLE)[1]

    def set_bank(
        self,
        encoding: str,
        vectors: Vectors,
        targets: list[str],
        *,
        rare: Vectors | None = None,
        texts: str = "",
    ) -> None:
        """Store the queries [n, dim] of an encoding by which the indexes of `targets` are tuned,
        `rare` ones by which scores are calibrated, and a digest of the `texts` of both. Without
        `rare` ones the others calibrate scores, too.
        """
        with self._hold_for_writing() as records:
            records.set_bank(encoding, vectors, targets, rare=rare, texts=texts)
            self._route_stats.clear()
            self._store.run_maintenance(records)

    def bank_texts(self, encoding: str) -> str | None:
        """The digest of the texts of an encoding's bank; None where there is no bank."""
        with self.hold_for_reading() as records:
            bank = records.banks.described().get(encoding)
        return None if bank is None else bank.get("texts", "")

    def set_vocabulary(self, readings: dict[str, Readings], source: str) -> None:
        """Tag every window by another vocabulary, of which `source` tells, and those to come. The
        old tags stay until all new ones are written at once.
        """
        numbered = number_readings(readings)
        rows: list[TagRows] = []
        read = dict.fromkeys(readings, 0)

        def read_on(records: Records, encoding: str) -> tuple[NDArray[np.int64], Vectors] | None:
            chunk = records.tags.read_vectors(encoding, read[encoding])
            if chunk is None:
                return None
            read[encoding], windows, vectors = chunk
            return windows, vectors

        for encoding in readings:
            while True:  # searches come between
                with self.hold_for_reading() as records:
                    chunk = read_on(records, encoding)
                if chunk is None:
                    break
                rows.append(list_tags(numbered[encoding], *chunk))
        with self._hold_for_writing() as records:
            for encoding in readings:
                chunk = read_on(records, encoding)
                while chunk is not None:  # what was added meanwhile
                    rows.append(list_tags(numbered[encoding], *chunk))
                    chunk = read_on(records, encoding)
            records.set_vocabulary(readings, rows, source)
            self._tag_counts = None

    def vocabulary_source(self) -> str | None:
        """What `set_vocabulary` was told of the vocabulary; None where there is none yet."""
        with self.hold_for_reading() as records:
            return records.meta().get(VOCABULARY_KEY)

    def tag_counts(self) -> TagCounts:
        """How many items and windows have each tag: by encoding, and by name in any. Kept until
        the vectors or the vocabulary change.
        """
        with self.hold_for_reading() as records:
            state = records.head()
            if self._tag_counts is None or self._tag_counts[0] != state:
                found = records.tags.counts(), records.tags.counts_together()
                self._tag_counts = state, found
            return self._tag_counts[1]

    def index(self, target: str | Joint) -> VectorIndex:
        """The vectors of an encoding, or the joint vectors of two; empty if there are none. To be
        called within `hold_for_reading`.

        Raises:
            VectorStoreFailed: they are kept elsewhere, and that is not there.
        """
        self._catch_up()
        if isinstance(target, Joint):
            return self._joint_index(target)
        return self._encoding_index(target)

    def _encoding_index(self, encoding: str) -> VectorIndex:
        return self._store.index(encoding) or FaissIndex(self.dims[encoding])

    def _joint_index(self, joint: Joint) -> JointIndex:
        if joint not in self._joint:
            self._joint[joint] = JointIndex(self.dims[joint.video], joint)
        index = self._joint[joint]
        index.follow(self._side(joint.video), self._side(joint.audio), self._records.alive)
        return index

    def _side(self, encoding: str) -> JointSide:
        def read(ids: Ids) -> Vectors:
            known, vectors = self._records.read_vectors(np.unique(ids), self.dims[encoding])
            found = np.zeros((len(ids), self.dims[encoding]), np.float32)
            there = np.flatnonzero(np.isin(ids, known))
            found[there] = vectors[np.searchsorted(known, ids[there])]
            return found

        return JointSide(self._encoding_index(encoding), self._records.window_table(encoding), read)

    def window_table(self, target: str | Joint) -> WindowTable:
        """The windows that vectors of an encoding are of, or that have a vector of either of two.
        To be called within `hold_for_reading`.
        """
        if isinstance(target, Joint):
            return self._joint_index(target).places
        return self._records.window_table(target)
