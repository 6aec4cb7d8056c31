"""The records in SQLite: items, windows, vectors, metadata. All else is rebuilt from them.

A write has happened when its transaction has reached the disk. Numbers of vectors and of tombstones
are never used twice. So the vectors after one number, and the tombstones after another, bring any
older copy up to date.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from export.bundle import parse_modality

from ..columns import Allowed, Ids
from .agreements import Agreed, Agreements
from .banks import QueryBanks
from .copying import copy_media
from .filters import metadata_values, register_functions
from .item import (
    About,
    Counts,
    Failure,
    Item,
    KnownSource,
    MediaRow,
    NewItem,
    UnknownItem,
    WindowVectors,
    encode_path,
    make_item,
)
from .item_cache import ItemCache
from .kept_filters import KeptFilters
from .marks import Marks, NewMark
from .passages import Passages
from .schema import SCHEMA_VERSION, check_tables, migrate, read_version
from .sources import PATH, Sources
from .tags import Readings, TagRows, Tags
from .window_table import WindowTable

WINDOWS_QUERY = (
    "select v.n, w.item, w.n, w.start_s, w.end_s, w.plain, coalesce(w.shown_s, 9e999)"  # infinity
    " from vectors v join windows w on w.n = v.window where v.encoding = ? and v.n > ? order by v.n"
)
ITEMS_QUERY = "select n, metadata, id, kind, duration_s, filename from items"
VOCABULARY_KEY = "vocabulary"  # in `meta`: where the names of tags are from
AGREED_KEY = "agreement"  # in `meta`: of which vectors it is known how they agree
COPIED_PREFIX = "from:"  # of keys in `meta`, before the id of an item that was copied
COPIED_KEY = "copied"  # in `meta`: the identity of the collection that items were copied from
# of keys in `meta`, before the id of an item: how often its metadata was changed
EDITED_PREFIX = "edited:"
CHUNK = 4096
DECODER = json.JSONDecoder()
# of pages, so that a search finds its hits without reading the trees above them
CACHE_KIB = 8 * 1024


Kept = TypeVar("Kept", WindowTable, ItemCache)


class Removed(NamedTuple):
    """What is known of an item that was deleted: its number, its media file, and the numbers of its
    windows that were passages.
    """

    number: int
    media: str | None
    passages: list[int]


class Records:
    """One collection's database. For one thread at a time: the collection has a lock for that.
    Opened `alone` it can be read on a full disk, and no other connection can open it.
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
        check_tables(self._db)
        # a deletion writes nothing but the database and its log
        self._db.execute("pragma temp_store = memory")
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = full")
        self._db.execute("pragma foreign_keys = on")
        register_functions(self._db)
        self._db.execute(f"pragma cache_size = -{CACHE_KIB}")
        self._window_tables: dict[str, WindowTable] = {}
        self._item_cache = ItemCache()
        self._matched = KeptFilters()  # until the next write
        self.passages = Passages(self._db)
        self.tags = Tags(self._db)
        self.marks = Marks(self._db)
        self.agreements = Agreements(self._db)
        self.banks = QueryBanks(self._db)
        self.sources = Sources(self._db)
        self._counted: tuple[tuple[int, int], Counts] | None = None
        self._readers = 0  # who hold the records still at the moment
        if read_version(self._db) < SCHEMA_VERSION:
            with self._transaction():
                migrate(self._db)

    @contextmanager
    def refuse_writes(self) -> Iterator[None]:
        """Have every write fail with RuntimeError meanwhile: somebody reads, and relies on it."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        if self._readers:
            raise RuntimeError("the records are held for reading: nothing is written meanwhile")
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

    def truncate_log(self) -> None:
        """Move the content of SQLite's log into the database and empty the log, if no other
        connection reads it.
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
    ) -> tuple[dict[str, tuple[Ids, NDArray[np.float32]]], list[str]]:
        """Write items in one transaction, each replacing an item of its id. One that begins at a
        later window is added to the item, if that ends there.

        Returns, by encoding, the numbers [n] and vectors [n, dim] that were added, and the media
        files that are no longer used.

        Raises:
            ValueError: a vector has other dimensions than `dims` says of its encoding.
        """
        numbers: dict[str, list[int]] = {}
        vectors: dict[str, list[NDArray[np.float32]]] = {}
        replaced: list[Removed] = []
        self._matched.clear()
        with self._transaction():
            for item in items:
                if item.first_window:
                    continued = self._continue_item(item)
                    if continued is None:
                        continue
                    row = continued
                else:
                    item = self._take_edits(item)
                    replaced += self._remove(item.id)
                    row = self._insert_item(item)
                    if item.edited:
                        self._count_edit(item.id)
                self._db.execute("delete from failures where id = ?", (item.id,))
                windows = self._insert_windows(row, item)
                if item.passages:
                    self.passages.insert(windows[-len(item.passages) :], item.passages)
                for encoding, (which, rows) in item.vectors.items():
                    check_width(encoding, rows, dims[encoding])
                    owners = [windows[window] for window in which]
                    new = self._insert_vectors(encoding, owners, rows)
                    self._insert_tags(encoding, owners, rows, item, windows)
                    numbers.setdefault(encoding, []).extend(new)
                    vectors.setdefault(encoding, []).extend(rows)
        added = {
            encoding: (np.array(numbers[encoding], np.int64), np.stack(rows))
            for encoding, rows in vectors.items()
            if rows
        }
        return added, self._forget(replaced)

    def _continue_item(self, item: NewItem) -> int | None:
        """The number of the item that a later part belongs to, with what that part knows; None
        where the item was deleted or replaced meanwhile.
        """
        found = self._db.execute(
            "select n, (select count(*) from windows w where w.item = i.n) from items i"
            " where id = ? and partial and stamp is ?",
            (item.id, item.stamp),
        ).fetchone()
        if found is None or found[1] != item.first_window:
            return None
        row = int(found[0])
        self._db.execute(
            "update items set partial = ?, digest = ? where n = ?",
            (item.partial, item.digest, row),
        )
        if not self._was_edited(item.id):
            self._write_metadata(row, item.metadata)
        self._item_cache.drop(row)  # the metadata may have changed
        return row

    def _was_edited(self, id: str) -> bool:
        """Whether an item's metadata were changed after it was added."""
        found = self._db.execute("select 1 from meta where key = ?", (f"{EDITED_PREFIX}{id}",))
        return found.fetchone() is not None

    def _take_edits(self, item: NewItem) -> NewItem:
        """An item with the metadata of the one that it replaces, if these are to stay."""
        if not item.keep_edits or not self._was_edited(item.id):
            return item
        (text,) = self._db.execute("select metadata from items where id = ?", (item.id,)).fetchone()
        return replace(item, metadata=json.loads(text), edited=True)

    def _count_edit(self, id: str) -> None:
        self._db.execute(
            "insert into meta values (?, '1') on conflict (key)"
            " do update set value = cast(value as integer) + 1",
            (f"{EDITED_PREFIX}{id}",),
        )

    def _write_metadata(self, row: int, metadata: dict[str, Any]) -> None:
        """Put metadata in the place of those of the item of that number."""
        text = json.dumps(metadata, ensure_ascii=False)
        self._db.execute("update items set metadata = ? where n = ?", (text, row))
        self._db.execute("delete from metadata_values where item = ?", (row,))
        self._insert_metadata_values(row, metadata)

    def _insert_item(self, item: NewItem) -> int:
        """An item with its texts, metadata and waveform; returns its number."""
        row = self._db.execute(
            "insert into items (id, kind, duration_s, filename, origin, media, source, stamp,"
            " digest, root, mount, metadata, partial, added)"
            f" values (?, ?, ?, ?, ?, ?, {PATH}, ?, ?, {PATH}, {PATH}, ?, ?, ?)",
            (
                item.id,
                item.kind,
                item.duration_s,
                item.filename,
                item.origin,
                item.media,
                encode_path(item.source),
                item.stamp,
                item.digest,
                encode_path(item.root),
                encode_path(item.mount),
                json.dumps(item.metadata, ensure_ascii=False),
                item.partial,
                item.added,
            ),
        ).lastrowid
        assert row is not None
        texts = [(row, position, text) for position, text in enumerate(item.texts)]
        self._db.executemany("insert into texts values (?, ?, ?)", texts)
        self._insert_metadata_values(row, item.metadata)
        if item.peaks:
            self._db.execute("insert into sounds values (?, ?)", (row, item.peaks))
        return row

    def _insert_metadata_values(self, item: int, metadata: dict[str, Any]) -> None:
        rows = [(item, *value) for value in metadata_values(metadata)]
        self._db.executemany("insert into metadata_values values (?, ?, ?, ?)", rows)

    def _insert_windows(self, row: int, item: NewItem) -> list[int]:
        """An item's windows with their pictures; returns the windows' numbers."""
        numbers: list[int] = []
        for position, (start_s, end_s) in enumerate(item.windows):
            number = self._db.execute(
                "insert into windows (item, start_s, end_s, plain, shown_s) values (?, ?, ?, ?, ?)",
                (row, start_s, end_s, position in item.one_colour, item.shown_s.get(position)),
            ).lastrowid
            assert number is not None
            numbers.append(number)
        pictures = [(numbers[window], jpeg) for window, jpeg in item.pictures.items()]
        self._db.executemany("insert into pictures values (?, ?)", pictures)
        return numbers

    def _insert_vectors(
        self, encoding: str, windows: list[int], vectors: NDArray[np.float32]
    ) -> list[int]:
        """Vectors [n, dim] of windows, by their numbers [n]; returns the vectors' numbers."""
        numbers: list[int] = []
        for window, vector in zip(windows, vectors, strict=True):
            number = self._db.execute(
                "insert into vectors (window, encoding, vector) values (?, ?, ?)",
                (window, encoding, np.asarray(vector, "<f4").tobytes()),
            ).lastrowid
            assert number is not None
            numbers.append(number)
        return numbers

    def _insert_tags(
        self,
        encoding: str,
        owners: list[int],
        vectors: NDArray[np.float32],
        item: NewItem,
        windows: list[int],
    ) -> None:
        """Tag the vectors [n, dim] of an item, but for pictures of one colour."""
        seen = parse_modality(encoding) == "video"
        left_out = {windows[place] for place in item.one_colour} if seen else set()
        self.tags.insert(encoding, owners, vectors, left_out)

    def set_vocabulary(
        self, readings: dict[str, Readings], rows: Iterable[TagRows], source: str
    ) -> None:
        """Tag by another vocabulary, of which `source` tells; `rows` are the tags that it gives
        to all windows.
        """
        self._matched.clear()
        try:
            with self._transaction():
                self.tags.replace(readings)
                for some in rows:
                    self.tags.write(some)
                self._db.execute(
                    "insert or replace into meta values (?, ?)", (VOCABULARY_KEY, source)
                )
        finally:
            self.tags.forget()

    def set_agreement(self, rows: Iterable[Agreed], state: str) -> None:
        """Keep how sound and picture of items agree, as of a state of the vectors."""
        self._matched.clear()
        with self._transaction():
            self.agreements.replace(rows)
            self._db.execute("insert or replace into meta values (?, ?)", (AGREED_KEY, state))

    def add_marks(self, marks: Iterable[NewMark]) -> list[int]:
        """See `Marks.insert`. Durable when this returns."""
        with self._transaction():
            return self.marks.insert(marks)

    def delete_mark(self, number: int) -> None:
        """Raises UnknownMark."""
        with self._transaction():
            self.marks.delete(number)

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
        return self._forget(removed)

    def _remove(self, id: str) -> list[Removed]:
        """Delete an item if it is there."""
        passages = self.passages.of(id)
        self._db.execute(
            "insert into tombstones (vector, encoding) select v.n, v.encoding from vectors v"
            " join windows w on w.n = v.window join items i on i.n = w.item where i.id = ?",
            (id,),
        )
        self._db.execute("delete from meta where key = ?", (f"{EDITED_PREFIX}{id}",))
        rows = self._db.execute("delete from items where id = ? returning n, media", (id,))
        return [Removed(n, media, passages) for n, media in rows.fetchall()]

    def _forget(self, items: list[Removed]) -> list[str]:
        """Drop deleted items from what is held in memory; returns their media files."""
        self._item_cache.forget([item.number for item in items])
        self.passages.forget([window for item in items for window in item.passages])
        return [item.media for item in items if item.media is not None]

    def set_metadata(self, id: str, metadata: dict[str, Any]) -> None:
        """Put metadata in the place of an item's own. Raises UnknownItem."""
        row = self.number(id)
        self._matched.clear()
        with self._transaction():
            self._write_metadata(row, metadata)
            self._count_edit(id)
        self._item_cache.drop(row)

    # ------------------------------------------------------------ reading

    def item(self, id: str) -> Item:
        """Raises UnknownItem."""
        found = self._items("where i.id = ?", (id,))
        if not found:
            raise UnknownItem(id)
        return found[0]

    def number(self, id: str) -> int:
        """The number of an item. Raises UnknownItem."""
        row = self._db.execute("select n from items where id = ?", (id,)).fetchone()
        if row is None:
            raise UnknownItem(id)
        return int(row[0])

    def page(self, limit: int, after: str = "") -> list[Item]:
        """Items in the order of their ids, those after `after`."""
        return self._items("where i.id > ? order by i.id limit ?", (after, limit))

    def newest(
        self,
        limit: int,
        before: int | None = None,
        condition: str = "",
        params: Sequence[Any] = (),
    ) -> list[Item]:
        """Items that meet an SQL condition from `filters`, if there is one: those added last come
        first. Only those with numbers below `before`, if it is given.
        """
        tests = []
        values: list[Any] = []
        if before is not None:
            tests.append("i.n < ?")
            values.append(before)
        if condition:
            tests.append(f"i.n in (select n from items where {condition})")
            values += params
        where = f"where {' and '.join(tests)}" if tests else ""
        return self._items(f"{where} order by i.n desc limit ?", (*values, limit))

    def _items(self, where: str, params: tuple[Any, ...]) -> list[Item]:
        rows = self._db.execute(
            "select i.id, i.kind, i.duration_s, i.filename, i.origin, i.media,"
            " cast(i.source as blob), i.stamp, i.digest, cast(i.root as blob),"
            " cast(i.mount as blob), i.metadata, i.partial, i.added,"
            " (select json_group_array(text) from"
            "  (select text from texts t where t.item = i.n order by position)),"
            " (select count(*) from windows w where w.item = i.n),"
            " (select group_concat(distinct v.encoding)"
            "  from vectors v join windows w on w.n = v.window"
            f"  where w.item = i.n) from items i {where}",
            params,
        )
        return [make_item(*row) for row in rows.fetchall()]

    def picture(self, id: str, at_s: float) -> bytes | None:
        """A JPEG of the window nearest to a second of an item; None where it has none."""
        row = self._db.execute(
            "select p.jpeg from items i join windows w on w.item = i.n"
            " join pictures p on p.window = w.n where i.id = ?"
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

    def media_rows(self) -> list[MediaRow]:
        """Every item of media, in the order in which they were added."""
        rows = self._db.execute(
            "select n, id, kind, duration_s, digest from items where kind <> 'text' order by n"
        )
        return [MediaRow(*row) for row in rows]

    def pictures(self, item: int, most: int) -> list[tuple[float, float, bytes]]:
        """The first pictures of an item, by its number, with the times of their windows."""
        return self._db.execute(
            "select w.start_s, w.end_s, p.jpeg from windows w join pictures p on p.window = w.n"
            " where w.item = ? order by w.start_s limit ?",
            (item, most),
        ).fetchall()

    def counts(self) -> Counts:
        """What there is. It is kept until something is written: SQLite reads an index to count."""
        (version,) = self._db.execute("pragma data_version").fetchone()  # of what others wrote
        state = (version, self._db.total_changes)
        if self._counted is None or self._counted[0] != state:
            self._counted = state, self._count()
        return self._counted[1]

    def _count(self) -> Counts:
        (items,) = self._db.execute("select count(*) from items").fetchone()
        (windows,) = self._db.execute("select count(*) from windows").fetchone()
        rows = self._db.execute("select encoding, count(*) from vectors group by encoding")
        return Counts(items=items, windows=windows, vectors=dict(rows))

    def alive(self, items: Ids) -> NDArray[np.bool_]:
        """Which of these items, by their numbers [n], are there still."""
        there = np.fromiter((n for (n,) in self._db.execute("select n from items")), np.int64)
        return np.isin(items, there)

    def head(self) -> tuple[int, int]:
        """The numbers of the last vector and of the last tombstone."""
        last = dict(
            self._db.execute(
                "select name, seq from sqlite_sequence where name in ('vectors', 'tombstones')"
            )
        )
        return last.get("vectors", 0), last.get("tombstones", 0)

    def vectors_after(
        self, encoding: str, n: int, dim: int, upto: int | None = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """The vectors of an encoding with a higher number, in chunks of (ids [k], vectors [k,
        dim]).
        """
        last = self.head()[0] if upto is None else upto
        while True:
            rows = self._db.execute(
                "select n, vector from vectors where encoding = ? and n > ? and n <= ?"
                " order by n limit ?",
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
        ids = self.window_table(encoding).ids
        if len(ids) > most:
            ids = np.sort(np.random.default_rng(seed).choice(ids, most, replace=False))
        return self.read_vectors(ids, dim)

    def tombstones_after(self, encoding: str, n: int) -> NDArray[np.int64]:
        rows = self._db.execute(
            "select vector from tombstones where encoding = ? and n > ?", (encoding, n)
        ).fetchall()
        return np.array([n for (n,) in rows], np.int64)

    def forget_tombstones(self, upto: int) -> None:
        """Delete tombstones that no snapshot needs any more."""
        with self._transaction():
            self._db.execute("delete from tombstones where n <= ?", (upto,))

    def encodings(self) -> list[str]:
        return [name for (name,) in self._db.execute("select distinct encoding from vectors")]

    def about(self, items: list[int]) -> dict[int, About]:
        """What hits say of those items that are there, by their numbers."""
        rows, too_long = self.item_cache().get(items)
        for part in split(too_long):
            rows += self._db.execute(f"{ITEMS_QUERY} where n in ({placeholders(len(part))})", part)
        return {
            n: About(DECODER.raw_decode(metadata)[0], id, kind, duration_s, filename)
            for n, metadata, id, kind, duration_s, filename in rows
        }

    def read_vectors(self, ids: Ids, dim: int) -> tuple[Ids, NDArray[np.float32]]:
        """Vectors as they were given, by their ids, ascending: those that are there [k], and
        vectors [k, dim].
        """
        found: dict[int, bytes] = {}
        for part in split(ids.tolist()):
            found |= dict(
                self._db.execute(
                    f"select n, vector from vectors where n in ({placeholders(len(part))})", part
                )
            )
        there = np.array(sorted(found), np.int64)
        blobs = b"".join(found[n] for n in there.tolist())
        return there, np.frombuffer(blobs, "<f4").reshape(len(there), dim)

    def window_overlap(self) -> float:
        """The share of a window of media that the next one lies on, as some item of three or more
        has it; else 0.
        """
        heard = "select 1 from vectors v where v.window = w.n and v.encoding not like 'text%'"
        long = (
            f"select w.item from windows w where exists ({heard})"
            " group by w.item having count(*) > 2 limit 1"
        )
        rows = self._db.execute(
            f"select w.start_s, w.end_s from windows w where w.item = ({long}) and exists ({heard})"
            " order by w.start_s limit 2"
        ).fetchall()
        if len(rows) < 2:
            return 0.0
        (start, end), (following, _) = rows
        return float(max(0.0, (end - following) / (end - start)))

    def item_vectors(self, id: str, encoding: str, dim: int) -> NDArray[np.float32]:
        """An item's vectors [n, dim] of an encoding. Raises UnknownItem."""
        self.item(id)
        # Without the plus, SQLite reads every vector of the encoding, in place of the item's own.
        rows = self._db.execute(
            "select v.vector from items i join windows w on w.item = i.n"
            " join vectors v on v.window = w.n where i.id = ? and +v.encoding = ? order by v.n",
            (id, encoding),
        ).fetchall()
        return np.frombuffer(b"".join(blob for (blob,) in rows), "<f4").reshape(len(rows), dim)

    def item_windows(self, id: str, encoding: str, dim: int) -> WindowVectors:
        """An item's windows that have a vector of an encoding. Raises UnknownItem."""
        self.item(id)
        # As in `item_vectors`, the plus keeps SQLite from reading every vector of the encoding.
        rows = self._db.execute(
            "select w.start_s, w.end_s, w.plain, v.vector from items i"
            " join windows w on w.item = i.n join vectors v on v.window = w.n"
            " where i.id = ? and +v.encoding = ? order by v.n",
            (id, encoding),
        ).fetchall()
        blobs = b"".join(row[3] for row in rows)
        return WindowVectors(
            np.array([row[:2] for row in rows], np.float64).reshape(-1, 2),
            np.array([row[2] for row in rows], bool),
            np.frombuffer(blobs, "<f4").reshape(len(rows), dim),
        )

    def set_bank(
        self,
        encoding: str,
        vectors: NDArray[np.float32],
        targets: list[str],
        *,
        rare: NDArray[np.float32] | None = None,
        texts: str = "",
    ) -> None:
        """See `Collection.set_bank`."""
        with self._transaction():
            self.banks.replace(
                encoding, vectors, targets, rare=[] if rare is None else rare, texts=texts
            )

    def tuning_queries(self, encoding: str, dim: int, most: int) -> NDArray[np.float32]:
        """Queries [n, dim] to tune the index of an encoding by: those of the banks. Without a bank,
        vectors of the index itself; these are easier to find than real queries.
        """
        asked = self.banks.asked_of(encoding, dim)
        return asked if len(asked) else self.vectors_among(encoding, dim, most, seed=1)[1]

    def matching(
        self, condition: str, params: list[Any], target: Hashable, table: WindowTable
    ) -> Allowed:
        """Which of a target's vectors, the rows of `table`, are of items that meet an SQL condition
        from `filters`. The same object as before, if nothing was written meanwhile.
        """
        key = (target, condition, *params)
        kept = self._matched.get(key)
        if kept is not None:
            return kept
        rows = self._db.execute(f"select n from items where {condition}", params)
        chosen = np.fromiter((n for (n,) in rows), np.int64)
        meets = np.zeros(int(table.items.max(initial=0)) + 1, bool)
        meets[chosen[chosen < len(meets)]] = True
        allowed = Allowed(table.ids[meets[table.items]])
        self._matched.keep(key, allowed)
        return allowed

    def among_passages(
        self, allowed: Allowed | None, target: Hashable, table: WindowTable
    ) -> Allowed | None:
        """Those of a target's vectors, the rows of `table`, that are of passages, and in `allowed`
        if it is given. None if all of them are.
        """
        key = (target, "passages", allowed)
        if key in self._matched:
            return self._matched.get(key)
        spoken = np.isin(table.windows, self.passages.windows())
        found: Allowed | None = None
        if allowed is not None:
            found = Allowed(np.intersect1d(table.ids[spoken], allowed.ids))
        elif not spoken.all():
            found = Allowed(table.ids[spoken])
        self._matched.keep(key, found)
        return found

    def window_table(self, encoding: str) -> WindowTable:
        """The windows that the vectors of an encoding are of. It is kept in memory, and read on
        after each write of this connection.
        """
        table = self._window_tables.get(encoding)
        if table is None or table.read_at != self._db.total_changes:
            table = table or WindowTable()
            count = "select count(*) from vectors where encoding = ?"
            table = self._read_on(table, WINDOWS_QUERY, count, encoding)
            self._window_tables[encoding] = table
        return table

    def item_cache(self) -> ItemCache:
        """What hits say of items, kept in the same way."""
        if self._item_cache.read_at != self._db.total_changes:
            query = f"{ITEMS_QUERY} where n > ? order by n"
            count = "select count(*) from items"
            self._item_cache = self._read_on(self._item_cache, query, count)
        return self._item_cache

    def _read_on(self, kept: Kept, query: str, count: str, *params: Any) -> Kept:
        """Add the rows of `query` that came after the last of those kept. All are read anew where
        most of those kept are deleted by now, as `count` tells.
        """
        rows = self._db.execute(query, (*params, kept.last))
        while some := rows.fetchmany(CHUNK):
            kept.append(some)
        kept.read_at = self._db.total_changes
        # counting takes long: only after the number of rows has doubled
        if len(kept) > 2 * kept.counted_at + CHUNK:
            kept.counted_at = len(kept)
            (there,) = self._db.execute(count, params).fetchone()
            if len(kept) > 2 * there:
                return self._read_on(type(kept)(), query, count, *params)
        return kept

    def media_files(self) -> set[str]:
        return {
            name for (name,) in self._db.execute("select media from items where media is not null")
        }

    # ------------------------------------------------------------ another bundle's vectors

    def versions(self) -> dict[str, str]:
        """By id, a string that changes whenever an item is put again or its metadata change."""
        rows = self._db.execute(
            "select id, n, value from items left join meta on key = ? || id order by n",
            (EDITED_PREFIX,),
        )
        return {id: f"{n}" if edits is None else f"{n}.{edits}" for id, n, edits in rows}

    def edited(self) -> set[str]:
        """The ids of items whose metadata were changed after they were added."""
        rows = self._db.execute("select id from items join meta on key = ? || id", (EDITED_PREFIX,))
        return {id for (id,) in rows}

    def copied_versions(self, of: str) -> dict[str, str]:
        """The versions, by id, that a staged collection's items were made from; none where they
        were made from another collection than that of the identity `of`.
        """
        if self.meta().get(COPIED_KEY, of) != of:  # earlier versions did not keep it
            return {}
        rows = self._db.execute(
            "select key, value from meta where key like ?", (f"{COPIED_PREFIX}%",)
        )
        return {key.removeprefix(COPIED_PREFIX): value for key, value in rows}

    def set_copied_versions(self, versions: dict[str, str], of: str) -> None:
        """Add to `copied_versions`, and forget those of another collection."""
        if self.meta().get(COPIED_KEY, of) != of:
            self.forget_copied_versions()
        keys = {f"{COPIED_PREFIX}{id}": version for id, version in versions.items()}
        self.set_meta(keys | {COPIED_KEY: of})

    def forget_copied_versions(self) -> None:
        with self._transaction():
            self._db.execute(
                "delete from meta where key like ? or key = ?", (f"{COPIED_PREFIX}%", COPIED_KEY)
            )

    def find(self, id: str) -> Item | None:
        return next(iter(self._items("where i.id = ?", (id,))), None)

    def dim(self, encoding: str) -> int:
        """How wide the vectors of an encoding are; 0 where there is none."""
        row = self._db.execute(
            "select length(vector) from vectors where encoding = ? limit 1", (encoding,)
        ).fetchone()
        return int(row[0]) // 4 if row else 0

    def ids_with(self, encoding: str) -> list[str]:
        rows = self._db.execute(
            "select distinct i.id from items i join windows w on w.item = i.n"
            " join vectors v on v.window = w.n where v.encoding = ?",
            (encoding,),
        )
        return [row[0] for row in rows]

    # ------------------------------------------------------------ batch building

    def relocate(self, sources: dict[str, KnownSource]) -> None:
        """Note by id where the file of an item that batch building made lies now, and what stamp
        and digest it has there. The item stays as it is otherwise.
        """
        renamed = self.sources.have_other_names(sources)
        with self._transaction():
            self.sources.relocate(sources)
        if renamed:
            self._item_cache = ItemCache()  # it has the file names

    def copy_media(self, id: str, dims: Mapping[str, int]) -> NewItem | None:
        """See `copying.copy_media`."""
        return copy_media(self._db, self.passages, id, dims)

    def note_failure(self, id: str, failure: Failure) -> None:
        with self._transaction():
            self.sources.note_failure(id, failure)

    def forget_failures(self, ids: list[str]) -> None:
        with self._transaction():
            self.sources.forget_failures(ids)


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


def holds_log_alone(path: Path) -> bool:
    """Whether a database is missing or empty, and SQLite's log of it has content. SQLite would
    delete the log, and with it what was written last.
    """
    if path.exists() and (not path.is_file() or path.stat().st_size):
        return False
    log = path.with_name(f"{path.name}-wal")
    return log.is_file() and log.stat().st_size > 0


def check_width(encoding: str, vectors: NDArray[np.float32], dim: int) -> None:
    """Raises ValueError where vectors [n, dim] of an encoding are not that wide."""
    if vectors.shape[1:] != (dim,):
        raise ValueError(f"vectors have shape {vectors.shape}, and {encoding} has {dim} dimensions")


def split(values: list[int]) -> Iterator[list[int]]:
    """As many at a time as one statement takes."""
    return (values[at : at + 500] for at in range(0, len(values), 500))


def placeholders(count: int) -> str:
    return ",".join("?" * count)
