"""The tables of the records: made anew, carried over from every earlier version, and refused where
they are of a later one.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.backup import backup, restore
from index.collection import Collection, NoPreview, RecordsLost
from index.library import Collections
from index.records import schema
from index.records.database import WINDOWS_QUERY, Records
from index.records.item import KnownSource, Origin
from index.records.schema import SCHEMA_VERSION

from .makers import ROOT, dims
from .test_index import found, item

STORED = f"{10:032x}.mp4"
VERSION_5 = """
create table meta (key text primary key, value text not null) strict;
create table items (
    n integer primary key autoincrement, id text not null unique, kind text not null,
    duration_s real not null, filename text, media text, source text, stamp text, text text,
    metadata text not null, digest text) strict;
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
    n integer primary key autoincrement,
    window integer not null references windows on delete cascade, encoding text not null,
    vector blob not null) strict;
create index vectors_window on vectors (window);
create index vectors_encoding on vectors (encoding);
create table pictures (
    window integer primary key references windows on delete cascade, jpeg blob not null) strict;
create table sounds (
    item integer primary key references items on delete cascade, peaks blob not null) strict;
create table bank (encoding text not null, vector blob not null) strict;
create table removed (
    n integer primary key autoincrement, vector integer not null, encoding text not null) strict;
create table failures (
    id text primary key, stamp text not null, reason text not null, name text, source text,
    digest text) strict;
"""
# filename, media, source, stamp, text -> origin, source, texts, text
ITEMS: dict[str, tuple[tuple[str | None, ...], tuple[Origin, str | None, tuple[str, ...]]]] = {
    "upload": (("u.mp4", STORED, None, None, None), (Origin.UPLOAD, None, ())),
    "note": ((None, None, None, None, "two\nlines"), (Origin.UPLOAD, None, ("two\nlines",))),
    "bare": ((None, None, None, None, ""), (Origin.UPLOAD, None, ())),
    "file": (("f.mp4", None, "/a/f.mp4", "1:2::3", None), (Origin.FILE, "/a/f.mp4", ())),
    "told": (
        ("g.mp4", None, "/a/g.mp4", "1:2::4", "a red clip\na tone"),
        (Origin.FILE, "/a/g.mp4", ("a red clip", "a tone")),
    ),
    "member": (
        (None, None, "/a/s.tar", "1:2:512:3", "loud"),
        (Origin.MEMBER, "/a/s.tar", ("loud",)),
    ),
    "line": ((None, None, "", "3", "first\nsecond"), (Origin.LINE, None, ("first", "second"))),
}


def write_version_5(folder: Path) -> None:
    """A collection as version 5 left it: an item of each kind, each with a vector that points its
    own way, and one more that was deleted.
    """
    (folder / "media").mkdir(parents=True)
    (folder / "media" / STORED).write_bytes(b"film")
    with closing(sqlite3.connect(folder / "records.sqlite")) as db:
        db.executescript(VERSION_5)
        db.executemany("insert into meta values (?, ?)", [("fingerprint", "f1"), ("id", "c0ffee")])
        for n, (id, (columns, _)) in enumerate(ITEMS.items(), 1):
            metadata = json.dumps({"n": n})
            db.execute(
                "insert into items (n, id, kind, duration_s, filename, media, source, stamp, text,"
                " metadata) values (?, ?, 'video', 5.0, ?, ?, ?, ?, ?, ?)",
                (n, id, *columns, metadata),
            )
            db.execute("insert into facts values (?, '$.\"n\"', 'number', ?)", (n, n))
            db.execute("insert into windows values (?, ?, 0.0, 5.0, 0)", (n, n))
            blob = pointing(n).astype("<f4").tobytes()
            db.execute("insert into vectors values (?, ?, 'video', ?)", (n, n, blob))
        db.execute("insert into removed values (1, 8, 'video')")
        db.execute("insert into sqlite_sequence values ('vectors', 8)")
        db.execute("delete from sqlite_sequence where name = 'vectors' and seq < 8")
        db.execute("insert into failures values ('x', '5:6::7', 'no media', '/x', '/x', null)")
        db.execute("pragma user_version = 5")
        db.commit()


def pointing(n: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.eye(8, dtype=np.float32)[n - 1]


def columns_of(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """The columns of each table, by its name, but for their order."""
    with closing(sqlite3.connect(path)) as db:
        names = [row[0] for row in db.execute("select name from sqlite_master where sql not null")]
        return {
            name: sorted(row[1:] for row in db.execute(f"pragma table_info({name})"))
            for name in names
        }


def test_every_item_of_version_5_is_carried_over(tmp_path: Path) -> None:
    write_version_5(tmp_path / "box")
    box = Collection(tmp_path / "box", "f1", dims(8))
    items = {each.id: each for each in box.page(100)}
    assert {id: (each.origin, each.source, each.texts) for id, each in items.items()} == {
        id: expected for id, (_, expected) in ITEMS.items()
    }
    assert {each.added for each in items.values()} == {None}
    texts = {id: each.text for id, each in items.items() if each.text is not None}
    assert texts == {
        "note": "two\nlines",
        "told": "a red clip\na tone",
        "member": "loud",
        "line": "first\nsecond",
    }
    for n, id in enumerate(ITEMS, 1):
        assert found(box, pointing(n), top_k=1) == found(box, pointing(1), filter={"n": n}) == [id]
    assert box.media("upload")[0].read_bytes() == b"film"
    known, failures = box.sources()
    assert known == {
        "file": KnownSource("/a/f.mp4", "1:2::3", None, "f.mp4"),
        "told": KnownSource("/a/g.mp4", "1:2::4", None, "g.mp4"),
        "member": KnownSource("/a/s.tar", "1:2:512:3", None, origin=Origin.MEMBER),
        "line": KnownSource(None, "3", None, origin=Origin.LINE),
    }
    assert {id: failure.reason for id, failure in failures.items()} == {"x": "no media"}
    with box.hold_for_reading() as records:
        assert records.head() == (8, 1)
        assert records.tombstones_after("video", 0).tolist() == [8]
    box.delete("told")  # its texts and metadata go with it
    box.close()
    with closing(sqlite3.connect(tmp_path / "box" / "records.sqlite")) as db:
        assert db.execute("select count(*) from texts where item = 5").fetchone() == (0,)
        assert db.execute("select count(*) from metadata_values where item = 5").fetchone() == (0,)
        assert db.execute("pragma foreign_key_check").fetchall() == []


def test_tables_carried_over_are_those_of_a_new_collection(tmp_path: Path) -> None:
    write_version_5(tmp_path / "old")
    Collection(tmp_path / "old", "f1", dims(8)).close()
    Collection(tmp_path / "new", "f1", dims(8)).close()
    with closing(sqlite3.connect(tmp_path / "new" / "records.sqlite")) as db:
        assert db.execute("pragma user_version").fetchone() == (SCHEMA_VERSION,)
    old = columns_of(tmp_path / "old" / "records.sqlite")
    assert old == columns_of(tmp_path / "new" / "records.sqlite") and "texts" in old


def test_a_backup_of_version_5_is_restored_and_opens(tmp_path: Path) -> None:
    write_version_5(tmp_path / "data" / "collections" / "a")
    backup(tmp_path / "data", tmp_path / "saved")
    restore(tmp_path / "saved", tmp_path / "again")
    collections = Collections(tmp_path / "again", "f1", dims(8))
    assert {each.id for each in collections.get("a").page(100)} == ITEMS.keys()
    collections.close()


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_records_of_older_schemas_are_carried_over(tmp_path: Path, version: int) -> None:
    write_version_5(tmp_path / "box")
    with closing(sqlite3.connect(tmp_path / "box" / "records.sqlite")) as db:
        db.executescript(
            "alter table items drop column digest; alter table windows drop column plain"
        )
        for column in ("name", "source", "digest"):
            db.execute(f"alter table failures drop column {column}")
        if version < 4:
            db.executescript("drop table pictures; drop table sounds")
        if version < 3:
            db.executescript("drop table facts; drop table bank")
        for table in ("vectors", "removed") if version == 1 else ():
            db.execute(f"alter table {table} rename column encoding to modality")
        db.execute(f"pragma user_version = {version}")
        db.commit()
    box = Collection(tmp_path / "box", "f1", dims(8))
    assert found(box, pointing(2), filter={"n": 2}) == ["note"]
    assert box.item("line").texts == ("first", "second")
    with pytest.raises(NoPreview):
        box.picture("upload", 0.0)
    pictures = {0: b"first", 1: b"second"}
    two = item("upload", pointing(1), pointing(2))
    box.put([replace(two, pictures=pictures, peaks=b"\0\1")])
    assert box.picture("upload", 3.0) == b"first" and box.picture("upload", 99.0) == b"second"
    assert box.peaks("upload") == b"\0\1"
    box.close()


def test_lists_in_lists_of_version_16_are_led_into(tmp_path: Path) -> None:
    box = Collection(tmp_path / "box", "f1", dims(8))
    rows = [[1, 2], [3]]
    box.put([replace(item("a", pointing(1)), metadata={"rows": rows, "n": 1})])
    box.close()
    with closing(sqlite3.connect(tmp_path / "box" / "records.sqlite")) as db:
        db.execute("delete from metadata_values where path like 'rows.%.%'")
        db.execute("pragma user_version = 16")
        db.commit()
    box = Collection(tmp_path / "box", "f1", dims(8))
    assert found(box, pointing(1), filter={"rows.0.1": 2}) == ["a"]
    assert found(box, pointing(1), filter={"rows": rows, "n": 1}) == ["a"]
    box.close()


@pytest.mark.parametrize("version", [-1, schema.SCHEMA_VERSION + 1])
def test_records_of_an_unknown_version_are_refused_and_stay_as_they_are(
    tmp_path: Path, version: int
) -> None:
    write_version_5(tmp_path / "box")
    path = tmp_path / "box" / "records.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"pragma user_version = {version}")
    with pytest.raises(schema.UnknownSchema, match=f"version {version}") as refused:
        Collection(tmp_path / "box", "f1", dims(8))
    assert refused.value.found == version
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("select count(text) from items").fetchone() == (5,)


def test_a_collection_of_a_later_version_is_named_and_the_others_serve(tmp_path: Path) -> None:
    with closing(Collections(tmp_path, "f1", dims(3))) as collections:
        collections.create("good").put([item("a", np.eye(3, dtype=np.float32)[0])])
        collections.create("later")
    path = tmp_path / "collections" / "later" / "records.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("pragma user_version = 99")
    with closing(Collections(tmp_path, "f1", dims(3))) as collections:
        assert [one.id for one in collections.get("good").page(10)] == ["a"]
        for ask_for in (collections.get, collections.ensure, collections.adopt):
            with pytest.raises(schema.UnknownSchema, match="collection 'later' are of version 99"):
                ask_for("later")


@pytest.mark.parametrize("version", [0, 9, 99])
def test_a_database_of_another_program_is_refused_and_stays_as_it_is(
    tmp_path: Path, version: int
) -> None:
    folder = tmp_path / "collections" / "a"
    folder.mkdir(parents=True)
    path = folder / "records.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("create table photos (name text)")
        db.execute("insert into photos values ('mine')")
        db.execute(f"pragma user_version = {version}")
        db.commit()
    content = path.read_bytes()
    with (
        closing(Collections(tmp_path, "f1", dims(3))) as collections,
        pytest.raises(RecordsLost, match="a database of another program"),
    ):
        collections.ensure("a")
    assert path.read_bytes() == content


CLOSED = """
import sys
from pathlib import Path
from index.collection import CollectionUnusable
from index.library import Collections
opened = Collections(Path(sys.argv[1]), "f1", {"video": 3})
for name in ("closed", "good"):
    try:
        print([item.id for item in opened.ensure(name).page(10)])
    except CollectionUnusable as error:
        print(error)
opened.close()
"""


@pytest.mark.parametrize("closed", ["records.sqlite", "media", "snapshots", ".", "read-only"])
def test_a_collection_that_may_not_be_used_is_named_and_the_others_serve(
    tmp_path: Path, closed: str
) -> None:
    with closing(Collections(tmp_path, "f1", dims(3))) as collections:
        for name in ("closed", "good"):
            collections.create(name).put([item("a", np.eye(3, dtype=np.float32)[0])])
    folder = tmp_path / "collections" / "closed"
    path = folder if closed == "read-only" else folder / closed
    os.chown(path, 65534, -1)
    path.chmod(0o755 if closed == "read-only" else 0o700 if path.is_dir() else 0o600)
    there = sorted(folder.rglob("*"))
    command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", sys.executable, "-c"]
    told = subprocess.run(
        [*command, CLOSED, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    problem, found_there = told.stdout.splitlines()
    assert problem.startswith("collection 'closed' cannot be used: ") and found_there == "['a']"
    assert sorted(folder.rglob("*")) == there and "full" not in told.stderr


@pytest.mark.parametrize("lost", ["empty", "missing"])
def test_a_log_without_its_database_is_kept(tmp_path: Path, lost: str) -> None:
    """Nothing but the log has what was written last: SQLite would delete it."""
    whole = Collections(tmp_path / "data", "f1", dims(3))
    whole.create("a").put([item("i", np.eye(3, dtype=np.float32)[0])])
    shutil.copytree(tmp_path / "data", tmp_path / "killed")
    whole.close()
    folder = tmp_path / "killed" / "collections" / "a"
    database = (folder / "records.sqlite").read_bytes()
    log = (folder / "records.sqlite-wal").read_bytes()
    (folder / "records.sqlite").unlink()
    if lost == "empty":
        (folder / "records.sqlite").touch()
    with closing(Collections(tmp_path / "killed", "f1", dims(3))) as collections:
        for ask_for in (collections.get, collections.ensure):
            with pytest.raises(RecordsLost, match="Nothing was changed"):
                ask_for("a")
    assert (folder / "records.sqlite-wal").read_bytes() == log
    (folder / "records.sqlite").write_bytes(database)
    with closing(Collections(tmp_path / "killed", "f1", dims(3))) as collections:
        assert [one.id for one in collections.get("a").page(10)] == ["i"]


def test_a_step_that_fails_leaves_the_version_there_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a migration would be no version at all."""
    write_version_5(tmp_path / "box")
    path = tmp_path / "box" / "records.sqlite"
    shutil.copy(path, tmp_path / "before.sqlite")

    def break_off(db: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, break_off))
        with pytest.raises(sqlite3.OperationalError):
            Records(path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("pragma user_version").fetchone() == (5,)
    assert columns_of(path) == columns_of(tmp_path / "before.sqlite")
    with closing(Records(path)) as records:
        assert records.item("line").origin == Origin.LINE


def test_the_windows_of_an_encoding_are_read_without_its_vectors(tmp_path: Path) -> None:
    """A table of ten million would have to be read whole, or ten gigabytes."""
    write_version_5(tmp_path / "box")
    Collection(tmp_path / "box", "f1", dims(8)).close()
    with closing(sqlite3.connect(tmp_path / "box" / "records.sqlite")) as db:
        plan = db.execute(f"explain query plan {WINDOWS_QUERY}", ("video", 0)).fetchall()
    assert "USING COVERING INDEX vectors_encoding" in plan[0][-1], plan
