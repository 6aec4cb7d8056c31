"""The tables of a collection's records, and how records of an earlier version become these.

UnknownSchema    records of a later version than this one reads
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable

from .filters import metadata_values

SCHEMA_VERSION = 17
OLDEST_TABLES = frozenset(("meta", "items", "windows", "vectors"))  # of every version
# A statement each, so that all of them run in one transaction.
SCHEMA = (
    "create table meta (key text primary key, value text not null) strict",
    "create table items ("
    " n integer primary key autoincrement, id text not null unique, kind text not null,"
    " duration_s real not null, filename text, media text, source text, stamp text,"
    " metadata text not null, digest text, root text, mount text,"
    " origin text not null default 'upload'"
    " check (origin in ('upload', 'file', 'member', 'line')),"
    " partial integer not null default 0, added text) strict",
    "create table texts ("
    " item integer not null references items on delete cascade, position integer not null,"
    " text text not null, primary key (item, position)) strict, without rowid",
    "create table metadata_values ("
    " item integer not null references items on delete cascade,"
    " path text not null, kind text not null, value any) strict",
    "create index metadata_values_item on metadata_values (item)",
    "create index metadata_values_value on metadata_values (path, kind, value, item)",
    "create table windows ("
    " n integer primary key autoincrement, item integer not null references items"
    " on delete cascade, start_s real not null, end_s real not null,"
    " plain integer not null default 0, shown_s real) strict",
    "create index windows_item on windows (item)",
    "create table vectors ("
    " n integer primary key autoincrement, window integer not null references windows"
    " on delete cascade, encoding text not null, vector blob not null) strict",
    "create index vectors_window on vectors (window)",
    # It holds all that a window's row needs of a vector, so the vectors themselves are not read.
    "create index vectors_encoding on vectors (encoding, n, window)",
    "create table pictures ("
    " window integer primary key references windows on delete cascade, jpeg blob not null) strict",
    "create table sounds ("
    " item integer primary key references items on delete cascade, peaks blob not null) strict",
    "create table passages ("
    " window integer primary key references windows on delete cascade,"
    " kind text not null, text text not null) strict",
    # Its rows have the numbers of the passages. The words are folded and parted already.
    "create virtual table passage_words using fts5 (words, tokenize = 'ascii')",
    "create virtual table passage_terms using fts5vocab (passage_words, row)",
    "create trigger passage_deleted after delete on passages begin"
    " delete from passage_words where rowid = old.window; end",
    "create table tag_encodings ("
    " encoding text primary key, threshold real not null, most integer not null,"
    " contrast real not null default 0) strict",
    "create table tag_parents (child integer not null, parent integer not null) strict",
    "create table tag_names ("
    " n integer primary key, encoding text not null, name text not null collate nocase,"
    " direction blob not null, offset real not null) strict",
    "create index tag_names_name on tag_names (name)",
    "create table tags ("
    " window integer not null references windows on delete cascade, tag integer not null,"
    " item integer not null, score real not null,"
    " primary key (window, tag)) strict, without rowid",
    "create index tags_tag on tags (tag, item)",
    "create table feedback ("
    " n integer primary key autoincrement, target text not null, query text,"
    " example integer references items on delete cascade, modality text not null,"
    " item integer not null references items on delete cascade, start_s real,"
    " correct integer not null, created real not null,"
    " check ((query is null) <> (example is null))) strict",
    "create index feedback_item on feedback (item)",
    "create index feedback_example on feedback (example)",
    "create table agreement ("
    " item integer primary key references items on delete cascade, windows integer not null,"
    " cosine real not null, score real not null) strict",
    "create table bank (encoding text not null, vector blob not null) strict",
    "create table tombstones ("
    " n integer primary key autoincrement, vector integer not null,"
    " encoding text not null) strict",
    "create table failures ("
    " id text primary key, stamp text not null, reason text not null, name text, source text,"
    " digest text) strict",
)


class UnknownSchema(Exception):
    detail_fields = ("found",)

    def __init__(self, found: int, collection: str = "") -> None:
        whose = f" of collection {collection!r}" if collection else ""
        super().__init__(
            f"the records{whose} are of version {found}, and this program reads versions up to"
            f" {SCHEMA_VERSION}: use the newer program that wrote them"
        )
        self.found = found


def migrate(db: sqlite3.Connection) -> None:
    """Bring a database to this version's tables; an empty one gets them. To be called within a
    transaction.

    Raises:
        UnknownSchema: a later version wrote it. Nothing is changed.
    """
    version = read_version(db)
    if version == 0:
        for statement in SCHEMA:
            db.execute(statement)
    else:
        for step in MIGRATIONS[version - 1 :]:
            step(db)
    db.execute(f"pragma user_version = {SCHEMA_VERSION}")


def check_tables(db: sqlite3.Connection) -> None:
    """Raises sqlite3.DatabaseError of a database that another program made. Nothing is changed."""
    names = {name for (name,) in db.execute("select name from sqlite_master where type = 'table'")}
    if names and OLDEST_TABLES - names:
        raise sqlite3.DatabaseError("it is a database of another program")


def read_version(db: sqlite3.Connection) -> int:
    """The version of a database's tables; 0 where it has none. Raises UnknownSchema."""
    version = int(db.execute("pragma user_version").fetchone()[0])
    if not 0 <= version <= SCHEMA_VERSION:
        raise UnknownSchema(version)
    return version


# ---------------------------------------------------------------- the steps
# Each speaks the SQL of its own time, and is not changed when SCHEMA is.


def rename_modality(db: sqlite3.Connection) -> None:
    """1 to 2: a vector has an encoding, since a bundle may have two for one modality."""
    db.execute("alter table vectors rename column modality to encoding")
    db.execute("alter table removed rename column modality to encoding")


def add_facts_and_bank(db: sqlite3.Connection) -> None:
    """2 to 3: filters read a table of metadata values, which a later step fills; queries that
    calibrate scores are kept.
    """
    db.execute(
        "create table facts ("
        " item integer not null references items on delete cascade,"
        " path text not null, kind text not null, value any) strict"
    )
    db.execute("create index facts_item on facts (item)")
    db.execute("create index facts_value on facts (path, kind, value, item)")
    db.execute("create table bank (encoding text not null, vector blob not null) strict")


def add_previews(db: sqlite3.Connection) -> None:
    """3 to 4: pictures of windows and waveforms of items."""
    db.execute(
        "create table pictures ("
        " window integer primary key references windows on delete cascade,"
        " jpeg blob not null) strict"
    )
    db.execute(
        "create table sounds ("
        " item integer primary key references items on delete cascade, peaks blob not null) strict"
    )


def add_digests(db: sqlite3.Connection) -> None:
    """4 to 5: a file is known by its content too, a failure by its file; windows of one colour
    are marked.
    """
    db.execute("alter table windows add column plain integer not null default 0")
    db.execute("alter table items add column digest text")
    for column in ("name", "source", "digest"):
        db.execute(f"alter table failures add column {column} text")


def add_origin_and_texts(db: sqlite3.Connection) -> None:
    """5 to 6: where an item comes from has a column, and each of its texts a row.

    Until then only batch building set `source`, which was empty for a manifest's line; a member of
    a shard had no filename; the texts of what was built were the lines of one string.
    """
    db.execute(
        "alter table items add column origin text not null default 'upload'"
        " check (origin in ('upload', 'file', 'member', 'line'))"
    )
    db.execute(
        "update items set origin = case"
        " when source = '' then 'line'"
        " when filename is null and media is null then 'member'"
        " else 'file' end"
        " where source is not null"
    )
    db.execute("update items set source = null where source = ''")
    db.execute(
        "create table texts ("
        " item integer not null references items on delete cascade, position integer not null,"
        " text text not null, primary key (item, position)) strict, without rowid"
    )
    rows = db.execute("select n, origin, text from items where text <> ''")
    for item, origin, text in rows:
        texts = [text] if origin == "upload" else text.split("\n")
        for position, each in enumerate(texts):
            db.execute("insert into texts values (?, ?, ?)", (item, position, each))
    db.execute("alter table items drop column text")
    db.execute("alter table removed rename to tombstones")
    db.execute("alter table facts rename to metadata_values")
    db.execute("drop index facts_item")
    db.execute("drop index facts_value")
    db.execute("create index metadata_values_item on metadata_values (item)")
    db.execute("create index metadata_values_value on metadata_values (path, kind, value, item)")


def write_metadata_values_anew(db: sqlite3.Connection) -> None:
    """6 to 7: paths are joined by dots; what lies in lists, and large numbers, are there, too."""
    db.execute("delete from metadata_values")
    for item, metadata in db.execute("select n, metadata from items").fetchall():
        rows = [(item, *value) for value in metadata_values(json.loads(metadata))]
        db.executemany("insert into metadata_values values (?, ?, ?, ?)", rows)


def add_places(db: sqlite3.Connection) -> None:
    """7 to 8: the folder that a file was found by, and the mount it lay on, tell whether a file
    that is not there is gone or out of reach.
    """
    db.execute("alter table items add column root text")
    db.execute("alter table items add column mount text")


def add_passages(db: sqlite3.Connection) -> None:
    """8 to 9: words with their times, found by themselves and by their meaning."""
    db.execute(
        "create table passages ("
        " window integer primary key references windows on delete cascade,"
        " kind text not null, text text not null) strict"
    )
    db.execute("create virtual table passage_words using fts5 (words, tokenize = 'ascii')")
    db.execute("create virtual table passage_terms using fts5vocab (passage_words, row)")
    db.execute(
        "create trigger passage_deleted after delete on passages begin"
        " delete from passage_words where rowid = old.window; end"
    )


def add_tags(db: sqlite3.Connection) -> None:
    """9 to 10: what windows show and sound like, in names of a vocabulary."""
    db.execute(
        "create table tag_encodings ("
        " encoding text primary key, threshold real not null, most integer not null) strict"
    )
    db.execute(
        "create table tag_names ("
        " n integer primary key, encoding text not null, name text not null collate nocase,"
        " direction blob not null, offset real not null) strict"
    )
    db.execute("create index tag_names_name on tag_names (name)")
    db.execute(
        "create table tags ("
        " window integer not null references windows on delete cascade, tag integer not null,"
        " item integer not null, score real not null,"
        " primary key (window, tag)) strict, without rowid"
    )
    db.execute("create index tags_tag on tags (tag, item)")


def add_partial(db: sqlite3.Connection) -> None:
    """10 to 11: of a long file, the first windows are there while the rest is being read."""
    db.execute("alter table items add column partial integer not null default 0")


def add_feedback(db: sqlite3.Connection) -> None:
    """11 to 12: right and wrong marks on what was found; how sound and picture agree."""
    db.execute(
        "create table feedback ("
        " n integer primary key autoincrement, target text not null, query text,"
        " example integer references items on delete cascade, modality text not null,"
        " item integer not null references items on delete cascade, start_s real,"
        " correct integer not null, created real not null,"
        " check ((query is null) <> (example is null))) strict"
    )
    db.execute("create index feedback_item on feedback (item)")
    db.execute("create index feedback_example on feedback (example)")
    db.execute(
        "create table agreement ("
        " item integer primary key references items on delete cascade, windows integer not null,"
        " cosine real not null, score real not null) strict"
    )


def add_shown(db: sqlite3.Connection) -> None:
    """12 to 13: a window knows from which second its picture comes."""
    db.execute("alter table windows add column shown_s real")


def add_added(db: sqlite3.Connection) -> None:
    """13 to 14: an item knows when it was added."""
    db.execute("alter table items add column added text")


def add_parents_of_tags(db: sqlite3.Connection) -> None:
    """14 to 15: tags have parents, and count less where another is far better."""
    db.execute("alter table tag_encodings add column contrast real not null default 0")
    db.execute("create table tag_parents (child integer not null, parent integer not null) strict")


def index_windows_of_vectors(db: sqlite3.Connection) -> None:
    """15 to 16: which windows an encoding has is known without reading vectors."""
    db.execute("drop index vectors_encoding")
    db.execute("create index vectors_encoding on vectors (encoding, n, window)")


def write_values_in_lists(db: sqlite3.Connection) -> None:
    """16 to 17: lists in lists, and in objects of lists, are led into by numbers, too."""
    for item, metadata in db.execute("select n, metadata from items where metadata like '%[%'"):
        values = [(item, *value) for value in metadata_values(json.loads(metadata))]
        db.execute("delete from metadata_values where item = ?", (item,))
        db.executemany("insert into metadata_values values (?, ?, ?, ?)", values)


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (
    rename_modality,
    add_facts_and_bank,
    add_previews,
    add_digests,
    add_origin_and_texts,
    write_metadata_values_anew,
    add_places,
    add_passages,
    add_tags,
    add_partial,
    add_feedback,
    add_shown,
    add_added,
    add_parents_of_tags,
    index_windows_of_vectors,
    write_values_in_lists,
)
