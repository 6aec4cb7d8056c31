"""SQLite: items, windows, vectors, metadata. The only truth; everything else is rebuilt from it.

A write has happened when its transaction has reached the disk. Vector ids are never used twice, so
"all vectors after id n, and all removals after number m" brings any older copy up to date.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from export.bundle import modality_of

from ..columns import Ids
from .filters import facts
from .item_cache import ItemCache
from .window_table import WindowTable

SCHEMA_VERSION = 5
SCHEMA = """
create table meta (key text primary key, value text not null) strict;
create table items (
    n integer primary key autoincrement, id text not null unique, kind text not null, duration_s real not null,
    filename text, media text, source text, stamp text, text text, metadata text not null, digest text) strict;
create table facts (
    item integer not null references items on delete cascade,
    path text not null, kind text not null, value any) strict;
create index facts_item on facts (item);
create index facts_value on facts (path, kind, value, item);
create table windows (
    n integer primary key autoincrement, item integer not null references items on delete cascade,
    start_s real not null, end_s real not null, plain integer not null default 0) strict;
create index windows_item on windows (item);
create table vectors (
    n integer primary key autoincrement, window integer not null references windows on delete cascade,
    encoding text not null, vector blob not null) strict;
create index vectors_window on vectors (window);
create index vectors_encoding on vectors (encoding);
create table pictures (window integer primary key references windows on delete cascade, jpeg blob not null) strict;
create table sounds (item integer primary key references items on delete cascade, peaks blob not null) strict;
create table bank (encoding text not null, vector blob not null) strict;
create table removed (n integer primary key autoincrement, vector integer not null, encoding text not null) strict;
create table failures (
    id text primary key, stamp text not null, reason text not null, name text, source text, digest text) strict;
"""
PLACES = (
    "select v.n, w.item, w.n, w.start_s, w.end_s, w.plain from vectors v join windows w on w.n = v.window"
    " where v.encoding = ? and v.n > ? order by v.n"
)
LABELS = "select n, metadata, id, kind, duration_s, filename from items"
ASKS = "asks:"  # before the name of a bank's encoding, a key
CHUNK = 4096
# of pages, so that a search finds its hits without reading the trees above them
CACHE_KIB = 8 * 1024
FILTERS_KEPT, FILTER_KEPT_MOST = 16, 1_000_000  # and of how many vectors each


class UnknownItem(Exception):
    detail_fields = ("id",)

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.id = id

    def __str__(self) -> str:
        return f"no item {self.id!r}"


class UnknownSchema(Exception):
    detail_fields = ("found",)

    def __init__(self, found: int) -> None:
        super().__init__(f"records of version {found}; this version reads {SCHEMA_VERSION}")
        self.found = found


@dataclass(frozen=True)
class NewItem:
    """What is written in one transaction. `vectors[e]`, of an encoding, is (which windows, unit
    vectors [n, dim]).
    """

    id: str
    kind: str
    duration_s: float
    windows: list[tuple[float, float]]
    vectors: dict[str, tuple[list[int], NDArray[np.float32]]]
    metadata: dict[str, Any] = field(default_factory=dict)
    filename: str | None = None
    media: str | None = None  # the stored copy, relative to the collection
    source: str | None = None  # where batch building found it
    stamp: str | None = None  # the size and time it had there
    digest: str | None = None  # the sum of its content there, where it is known
    text: str | None = None
    plain: Collection[int] = ()  # windows of which the pictures show one colour and nothing else
    pictures: dict[int, bytes] = field(default_factory=dict)  # of windows, as JPEG
    peaks: bytes = b""  # see `media.preview`
    warnings: tuple[str, ...] = ()  # what whoever adds it is told; not kept


@dataclass(frozen=True)
class Item:
    id: str
    kind: str
    duration_s: float
    filename: str | None
    media: str | None
    source: str | None
    stamp: str | None
    digest: str | None
    text: str | None
    metadata: dict[str, Any]
    windows: int
    modalities: tuple[str, ...]


class Known(NamedTuple):
    """What batch building made an item from."""

    source: str
    stamp: str
    digest: str | None


class Failure(NamedTuple):
    """A source that could not be indexed; older records do not know its name, its file and the sum
    of its content.
    """

    stamp: str
    reason: str
    name: str | None = None
    source: str | None = None
    digest: str | None = None


Kept = TypeVar("Kept", WindowTable, ItemCache)


class About(NamedTuple):
    """What a hit says of its item."""

    metadata: dict[str, Any]
    id: str
    kind: str
    duration_s: float
    filename: str | None


class Records:
    """One collection's database. Not for several threads at once: its collection holds a lock.
    Opened `alone`, it needs no room on the disk to be read, and no other connection has it.
    """

    def __init__(self, path: Path, alone: bool = False) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._open(alone)
        except BaseException:
            self._db.close()
            raise

    def _open(self, alone: bool) -> None:
        if alone:
            self._db.execute("pragma locking_mode = exclusive")
        # a deletion writes nothing but the database and its log
        self._db.execute("pragma temp_store = memory")
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = full")
        self._db.execute("pragma foreign_keys = on")
        self._db.execute(f"pragma cache_size = -{CACHE_KIB}")
        self._places: dict[str, WindowTable] = {}
        self._labels = ItemCache()
        self._matched: dict[tuple[Any, ...], Ids] = {}  # what filters left, until the next write
        version = self._db.execute("pragma user_version").fetchone()[0]
        if version not in range(SCHEMA_VERSION + 1):
            raise UnknownSchema(version)
        if version < SCHEMA_VERSION:
            with self._transaction():
                self._migrate(version)
                self._db.execute(f"pragma user_version = {SCHEMA_VERSION}")

    def _migrate(self, version: int) -> None:
        """From an older schema to this one; 0 is a database with nothing in it."""
        if version == 0:
            for statement in SCHEMA.split(";"):
                self._db.execute(statement)
        if version == 1:  # when a vector's encoding was its modality
            self._db.execute("alter table vectors rename column modality to encoding")
            self._db.execute("alter table removed rename column modality to encoding")
        # when filters read the metadata itself, and scores were not calibrated
        if version in (1, 2):
            for statement in SCHEMA.split(";"):
                if "facts" in statement or "table bank" in statement:
                    self._db.execute(statement)
            for n, metadata in self._db.execute("select n, metadata from items").fetchall():
                self._add_facts(n, json.loads(metadata))
        if version in (1, 2, 3):  # when the page had nothing to show before it played
            for statement in SCHEMA.split(";"):
                if "table pictures" in statement or "table sounds" in statement:
                    self._db.execute(statement)
        # when a file was known by its size and time alone, and black was a match
        if version in (1, 2, 3, 4):
            self._db.execute("alter table windows add column plain integer not null default 0")
            self._db.execute("alter table items add column digest text")
            for column in ("name", "source", "digest"):
                self._db.execute(f"alter table failures add column {column} text")

    def _add_facts(self, item: int, metadata: dict[str, Any]) -> None:
        rows = [(item, *fact) for fact in facts(metadata)]
        self._db.executemany("insert into facts values (?, ?, ?, ?)", rows)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("begin immediate")
        try:
            yield
            self._db.execute("commit")
        except BaseException:
            if self._db.in_transaction:  # a full disk may have ended it already
                self._db.execute("rollback")
            raise

    def close(self) -> None:
        self._db.close()

    def shorten_log(self) -> None:
        """Carry SQLite's log over into the database, and give its room back, if nobody reads it at
        the moment.
        """
        self._db.execute("pragma wal_checkpoint(truncate)").fetchall()

    def meta(self) -> dict[str, str]:
        return dict(self._db.execute("select key, value from meta"))

    def set_meta(self, values: dict[str, str]) -> None:
        with self._transaction():
            self._db.executemany("insert or replace into meta values (?, ?)", values.items())

    # ------------------------------------------------------------ writing

    def put(
        self, items: list[NewItem], dims: Mapping[str, int]
    ) -> tuple[dict[str, tuple[list[int], NDArray[np.float32]]], list[str]]:
        """Write items in one transaction, each replacing an item of its id.

        Returns, by encoding, the ids and vectors that were added, and the media files no longer
        used.
        """
        added: dict[str, tuple[list[int], list[NDArray[np.float32]]]] = {}
        replaced: list[tuple[int, str | None]] = []
        self._matched.clear()
        with self._transaction():
            for item in items:
                replaced += self._remove(item.id)
                self._db.execute("delete from failures where id = ?", (item.id,))
                row = self._db.execute(
                    "insert into items (id, kind, duration_s, filename, media, source, stamp, digest, text, metadata)"
                    " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        item.id,
                        item.kind,
                        item.duration_s,
                        item.filename,
                        item.media,
                        item.source,
                        item.stamp,
                        item.digest,
                        item.text,
                        json.dumps(item.metadata, ensure_ascii=False),
                    ),
                ).lastrowid
                assert row is not None
                self._add_facts(row, item.metadata)
                windows = [
                    self._db.execute(
                        "insert into windows (item, start_s, end_s, plain) values (?, ?, ?, ?)",
                        (row, start_s, end_s, place in item.plain),
                    ).lastrowid
                    for place, (start_s, end_s) in enumerate(item.windows)
                ]
                seen = [(windows[w], jpeg) for w, jpeg in item.pictures.items()]
                self._db.executemany("insert into pictures values (?, ?)", seen)
                if item.peaks:
                    self._db.execute("insert into sounds values (?, ?)", (row, item.peaks))
                for encoding, (which, vectors) in item.vectors.items():
                    ids, rows = added.setdefault(encoding, ([], []))
                    for w, vector in zip(which, vectors, strict=True):
                        if vector.shape != (dims[encoding],):
                            raise ValueError(
                                f"a vector of shape {vector.shape}, {encoding} has {dims[encoding]} dimensions"
                            )
                        blob = np.asarray(vector, "<f4").tobytes()
                        n = self._db.execute(
                            "insert into vectors (window, encoding, vector) values (?, ?, ?)",
                            (windows[w], encoding, blob),
                        ).lastrowid
                        assert n is not None
                        ids.append(n)
                        rows.append(vector)
        return {e: (ids, np.stack(rows)) for e, (ids, rows) in added.items() if ids}, self._gone(
            replaced
        )

    def remove(self, id: str) -> list[str]:
        """Delete an item; returns the media files no longer used.

        Raises:
            UnknownItem: there is none of that id.
        """
        self._matched.clear()
        with self._transaction():
            if self._db.execute("select 1 from items where id = ?", (id,)).fetchone() is None:
                raise UnknownItem(id)
            removed = self._remove(id)
        return self._gone(removed)

    def _remove(self, id: str) -> list[tuple[int, str | None]]:
        """The number and the media file of an item that was there."""
        self._db.execute(
            "insert into removed (vector, encoding) select v.n, v.encoding from vectors v"
            " join windows w on w.n = v.window join items i on i.n = w.item where i.id = ?",
            (id,),
        )
        return self._db.execute(
            "delete from items where id = ? returning n, media", (id,)
        ).fetchall()

    def _gone(self, items: list[tuple[int, str | None]]) -> list[str]:
        """Forget items that have been removed for good; returns their media files."""
        self._labels.forget([n for n, _ in items])
        return [media for _, media in items if media is not None]

    # ------------------------------------------------------------ reading

    def item(self, id: str) -> Item:
        """Raises UnknownItem."""
        found = self._items("where i.id = ?", (id,))
        if not found:
            raise UnknownItem(id)
        return found[0]

    def page(self, limit: int, after: str = "") -> list[Item]:
        """Items in the order of their ids, those after `after`."""
        return self._items("where i.id > ? order by i.id limit ?", (after, limit))

    def _items(self, where: str, params: tuple[Any, ...]) -> list[Item]:
        rows = self._db.execute(
            "select i.id, i.kind, i.duration_s, i.filename, i.media, i.source, i.stamp, i.digest, i.text, i.metadata,"
            " (select count(*) from windows w where w.item = i.n),"
            " (select group_concat(distinct v.encoding) from vectors v join windows w on w.n = v.window"
            f"  where w.item = i.n) from items i {where}",
            params,
        )
        return [
            Item(
                id,
                kind,
                seconds,
                name,
                media,
                source,
                stamp,
                digest,
                text,
                json.loads(about),
                windows,
                modalities_of((has or "").split(",")),
            )
            for id, kind, seconds, name, media, source, stamp, digest, text, about, windows, has in rows.fetchall()
        ]

    def picture(self, id: str, at_s: float) -> bytes | None:
        """A JPEG of the window nearest to a second of an item; None where it has none."""
        row = self._db.execute(
            "select p.jpeg from items i join windows w on w.item = i.n join pictures p on p.window = w.n where i.id = ?"
            " order by abs((w.start_s + w.end_s) / 2 - ?) limit 1",
            (id, at_s),
        ).fetchone()
        return row[0] if row else None

    def peaks(self, id: str) -> bytes:
        """How loud an item is from its start to its end; empty where it has no sound."""
        row = self._db.execute(
            "select peaks from sounds s join items i on i.n = s.item where i.id = ?", (id,)
        ).fetchone()
        return row[0] if row else b""

    def counts(self) -> dict[str, int]:
        """How many items, windows and vectors of each encoding."""
        count = {
            t: self._db.execute(f"select count(*) from {t}").fetchone()[0]
            for t in ("items", "windows")
        }
        return count | dict(
            self._db.execute("select encoding, count(*) from vectors group by encoding")
        )

    def alive(self, items: Ids) -> NDArray[np.bool_]:
        """Which of these items, by their numbers [n], are there still."""
        there = np.fromiter((row[0] for row in self._db.execute("select n from items")), np.int64)
        return np.isin(items, there)

    def head(self) -> tuple[int, int]:
        """The numbers of the last vector added and the last one removed."""
        last = dict(
            self._db.execute(
                "select name, seq from sqlite_sequence where name in ('vectors', 'removed')"
            )
        )
        return last.get("vectors", 0), last.get("removed", 0)

    def vectors_after(
        self, encoding: str, n: int, dim: int, upto: int | None = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """The vectors of an encoding with a higher number, in chunks of (ids [k], vectors [k,
        dim]).
        """
        last = self.head()[0] if upto is None else upto
        while True:
            rows = self._db.execute(
                "select n, vector from vectors where encoding = ? and n > ? and n <= ? order by n limit ?",
                (encoding, n, last, CHUNK),
            ).fetchall()
            if not rows:
                return
            ids = np.array([row[0] for row in rows], np.int64)
            yield (
                ids,
                np.frombuffer(b"".join(row[1] for row in rows), "<f4").reshape(len(rows), dim),
            )
            n = int(ids[-1])

    def vectors_among(
        self, encoding: str, dim: int, most: int, seed: int = 0
    ) -> tuple[Ids, NDArray[np.float32]]:
        """At most so many vectors of an encoding, by chance: ids [k], ascending, and vectors [k,
        dim].
        """
        ids = self.places(encoding).ids
        if len(ids) > most:
            ids = np.sort(np.random.default_rng(seed).choice(ids, most, replace=False))
        return self.exact(ids, dim)

    def removed_after(self, encoding: str, n: int) -> NDArray[np.int64]:
        rows = self._db.execute(
            "select vector from removed where encoding = ? and n > ?", (encoding, n)
        ).fetchall()
        return np.array([row[0] for row in rows], np.int64)

    def forget_removed(self, upto: int) -> None:
        """Drop the notes of removals that no snapshot needs any more; their numbers are not used
        again.
        """
        with self._transaction():
            self._db.execute("delete from removed where n <= ?", (upto,))

    def encodings(self) -> list[str]:
        return [row[0] for row in self._db.execute("select distinct encoding from vectors")]

    def about(self, items: list[int]) -> dict[int, About]:
        """What is said of items that are there, by their numbers."""
        rows, long = self.labels().of(items)
        for part in parts(long):
            rows += self._db.execute(f"{LABELS} where n in ({placeholders(len(part))})", part)
        every = json.loads(f"[{','.join([row[1] for row in rows])}]")
        return {
            n: About(metadata, *about) for (n, _, *about), metadata in zip(rows, every, strict=True)
        }

    def exact(self, ids: Ids, dim: int) -> tuple[Ids, NDArray[np.float32]]:
        """Vectors as they were given, by their ids, ascending: those that are there [k], and
        vectors [k, dim].
        """
        found: dict[int, bytes] = {}
        for part in parts(ids.tolist()):
            found |= dict(
                self._db.execute(
                    f"select n, vector from vectors where n in ({placeholders(len(part))})", part
                )
            )
        there = np.array(sorted(found), np.int64)
        blobs = b"".join(found[n] for n in there.tolist())
        return there, np.frombuffer(blobs, "<f4").reshape(len(there), dim)

    def overlap(self) -> float:
        """The share of a window of media that the next one lies on, as some item of three or more
        has it; else 0.
        """
        heard = "select 1 from vectors v where v.window = w.n and v.encoding not like 'text%'"
        long = f"select w.item from windows w where exists ({heard}) group by w.item having count(*) > 2 limit 1"
        rows = self._db.execute(
            f"select w.start_s, w.end_s from windows w where w.item = ({long}) and exists ({heard})"
            " order by w.start_s limit 2"
        ).fetchall()
        if len(rows) < 2:
            return 0.0
        (start, end), (following, _) = rows
        return float(max(0.0, (end - following) / (end - start)))

    def vectors_of(self, id: str, encoding: str, dim: int) -> NDArray[np.float32]:
        """An item's vectors [n, dim] of an encoding. Raises UnknownItem."""
        self.item(id)
        rows = self._db.execute(
            "select v.vector from items i join windows w on w.item = i.n join vectors v on v.window = w.n"
            " where i.id = ? and v.encoding = ? order by v.n",
            (id, encoding),
        ).fetchall()
        return np.frombuffer(b"".join(row[0] for row in rows), "<f4").reshape(len(rows), dim)

    def bank(self, encoding: str, dim: int) -> NDArray[np.float32]:
        """The queries [n, dim] that scores are calibrated by."""
        rows = self._db.execute(
            "select vector from bank where encoding = ? order by rowid", (encoding,)
        ).fetchall()
        return np.frombuffer(b"".join(row[0] for row in rows), "<f4").reshape(len(rows), dim)

    def set_bank(self, encoding: str, vectors: NDArray[np.float32], targets: list[str]) -> None:
        with self._transaction():
            self._db.execute("delete from bank where encoding = ?", (encoding,))
            blobs = [(encoding, np.asarray(v, "<f4").tobytes()) for v in vectors]
            self._db.executemany("insert into bank values (?, ?)", blobs)
            about = {
                "targets": targets,
                "sha256": hashlib.sha256(b"".join(blob for _, blob in blobs)).hexdigest(),
            }
            self._db.execute(
                "insert or replace into meta values (?, ?)", (ASKS + encoding, json.dumps(about))
            )

    def asking(self) -> dict[str, dict[str, Any]]:
        """The encodings that have a bank with targets: these, and the digest of its queries."""
        rows = self._db.execute("select key, value from meta where key like ?", (f"{ASKS}%",))
        return {key.removeprefix(ASKS): json.loads(value) for key, value in rows}

    def asked_by(self, encoding: str) -> str:
        """The digests of the banks whose queries are asked of an encoding; empty where there are
        none.
        """
        return "+".join(
            sorted(bank["sha256"] for bank in self.asking().values() if encoding in bank["targets"])
        )

    def asked_of(self, encoding: str, dim: int, most: int) -> NDArray[np.float32]:
        """What vectors of an encoding are searched by: queries [n, dim] of those banks, or where
        there are none its own vectors, which an index finds more easily: it has them.
        """
        banks = [
            self.bank(source, dim)
            for source, bank in self.asking().items()
            if encoding in bank["targets"]
        ]
        return (
            np.concatenate(banks) if banks else self.vectors_among(encoding, dim, most, seed=1)[1]
        )

    def matching(
        self, condition: str, params: list[Any], target: Hashable, places: WindowTable
    ) -> Ids:
        """Which of a target's vectors, which belong to `places`, are of items that meet an SQL
        condition from `filters`; ascending.
        """
        asked = (target, condition, *params)
        if asked not in self._matched:
            rows = self._db.execute(f"select n from items where {condition}", params).fetchall()
            ids, items = places.ids, places.items
            meets = np.zeros(int(items.max(initial=0)) + 1, bool)
            chosen = np.fromiter((row[0] for row in rows), np.int64, len(rows))
            meets[chosen[chosen < len(meets)]] = True
            while len(self._matched) >= FILTERS_KEPT:
                self._matched.pop(next(iter(self._matched)))
            found = ids[meets[items]]
            if len(found) > FILTER_KEPT_MOST:
                return found
            self._matched[asked] = found
        return self._matched[asked]

    def places(self, encoding: str) -> WindowTable:
        """Where the vectors of an encoding belong; kept in memory, and read on after each write of
        this connection.
        """
        places = self._places.get(encoding)
        if places is None or places.read_at != self._db.total_changes:
            there = "select count(*) from vectors where encoding = ?"
            places = self._places[encoding] = self._read_on(
                places or WindowTable(), PLACES, there, encoding
            )
        return places

    def labels(self) -> ItemCache:
        """What is said of items, kept in the same way."""
        if self._labels.read_at != self._db.total_changes:
            there = "select count(*) from items"
            self._labels = self._read_on(self._labels, f"{LABELS} where n > ? order by n", there)
        return self._labels

    def _read_on(self, kept: Kept, query: str, there: str, *params: Any) -> Kept:
        """What is kept with what came after its last; read anew where most is gone by now."""
        rows = self._db.execute(query, (*params, kept.last))
        while some := rows.fetchmany(CHUNK):
            kept.append(some)
        kept.read_at = self._db.total_changes
        if len(kept) > 2 * kept.looked + CHUNK:  # so that they need not be counted after each write
            kept.looked = len(kept)
            if len(kept) > 2 * self._db.execute(there, params).fetchone()[0]:
                return self._read_on(type(kept)(), query, there, *params)
        return kept

    def media_files(self) -> set[str]:
        return {
            row[0] for row in self._db.execute("select media from items where media is not null")
        }

    # ------------------------------------------------------------ another bundle's vectors

    def versions(self) -> dict[str, str]:
        """What changes, by id, whenever an item is put again."""
        return {id: str(n) for id, n in self._db.execute("select id, n from items order by n")}

    def origins(self) -> dict[str, str]:
        """The versions, by id, that a staged collection's items were made from."""
        rows = self._db.execute("select key, value from meta where key like 'from:%'")
        return {key.removeprefix("from:"): value for key, value in rows}

    def set_origins(self, versions: dict[str, str]) -> None:
        self.set_meta({f"from:{id}": version for id, version in versions.items()})

    def forget_origins(self) -> None:
        with self._transaction():
            self._db.execute("delete from meta where key like 'from:%'")

    def find(self, id: str) -> Item | None:
        return next(iter(self._items("where i.id = ?", (id,))), None)

    def dim(self, encoding: str) -> int:
        """How wide the vectors of an encoding are; 0 where there is none."""
        row = self._db.execute(
            "select length(vector) from vectors where encoding = ? limit 1", (encoding,)
        ).fetchone()
        return int(row[0]) // 4 if row else 0

    def dim_of_bank(self, encoding: str) -> int:
        row = self._db.execute(
            "select length(vector) from bank where encoding = ? limit 1", (encoding,)
        ).fetchone()
        return int(row[0]) // 4 if row else 0

    def bank_encodings(self) -> list[str]:
        return [row[0] for row in self._db.execute("select distinct encoding from bank")]

    def items_with(self, encoding: str) -> list[str]:
        rows = self._db.execute(
            "select distinct i.id from items i join windows w on w.item = i.n join vectors v on v.window = w.n"
            " where v.encoding = ?",
            (encoding,),
        )
        return [row[0] for row in rows]

    # ------------------------------------------------------------ batch building

    def known_sources(self) -> dict[str, Known]:
        """What the items that batch building made were made from, by id."""
        rows = self._db.execute(
            "select id, source, stamp, digest from items where source is not null"
        )
        return {id: Known(*known) for id, *known in rows}

    def restamp(self, stamps: dict[str, tuple[str, str]]) -> None:
        """Note of items that batch building made, by id, (stamp, digest): the file has another
        time, or was read.
        """
        rows = [(*pair, id) for id, pair in stamps.items()]
        with self._transaction():
            self._db.executemany(
                "update items set stamp = ?, digest = ? where id = ? and source is not null", rows
            )

    def failures(self) -> dict[str, Failure]:
        """The sources that could not be indexed, by id."""
        rows = self._db.execute(
            "select id, stamp, reason, name, source, digest from failures order by id"
        )
        return {id: Failure(*failure) for id, *failure in rows}

    def fail(self, id: str, failure: Failure) -> None:
        with self._transaction():
            self._db.execute(
                "insert or replace into failures values (?, ?, ?, ?, ?, ?)", (id, *failure)
            )

    def forget_failures(self, ids: list[str]) -> None:
        with self._transaction():
            self._db.executemany("delete from failures where id = ?", [(id,) for id in ids])


def holds_records(path: Path) -> bool:
    """Whether a file has the records of a collection. Nothing is written, whatever it is.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    # of an empty file, SQLite would delete the log
    if not path.is_file() or not path.stat().st_size:
        return False
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        try:
            return db.execute("select 1 from meta where key = 'fingerprint'").fetchone() is not None
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_ERROR:  # there is no such table
                return False
            raise


def modalities_of(encodings: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({modality_of(e) for e in encodings if e}))


def parts(values: list[int]) -> Iterator[list[int]]:
    """As many at a time as one statement takes."""
    return (values[at : at + 500] for at in range(0, len(values), 500))


def placeholders(count: int) -> str:
    return ",".join("?" * count)
