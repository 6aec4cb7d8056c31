"""The records by worked-out values: what is written is read back, counted and forgotten."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from index.collection import Collection
from index.columns import Allowed
from index.records import database
from index.records.database import Records, holds_records, split
from index.records.filters import compile_filter
from index.records.item import (
    Counts,
    Failure,
    KnownSource,
    NewItem,
    Origin,
    UnknownItem,
    list_modalities,
)

from .makers import dims

Array = NDArray[np.float32]
DIMS = {"video": 2, "audio": 3, "text": 2}


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    opened = Records(tmp_path / "records.sqlite")
    yield opened
    opened.close()


def numbered(first: int, count: int, dim: int = 2) -> Array:
    """Vectors [count, dim] that hold first, first + 1 and so on."""
    return np.repeat(np.arange(first, first + count, dtype=np.float32)[:, None], dim, axis=1)


def item(id: str, first: int = 0, count: int = 1, **more: Any) -> NewItem:
    """An item of pictures, of windows of two seconds, one a second."""
    made: dict[str, Any] = {
        "kind": "video",
        "duration_s": 9.0,
        "windows": [(float(n), n + 2.0) for n in range(count)],
        "vectors": {"video": (list(range(count)), numbered(first, count))},
    }
    return NewItem(id=id, **made | more)


def matching(records: Records, query: dict[str, Any]) -> Allowed:
    return records.matching(*compile_filter(query), "video", records.window_table("video"))


def test_an_item_is_read_back(records: Records) -> None:
    whole = item(
        "a",
        count=2,
        metadata={"straße": ["grün", 1.5]},
        filename="a.mp4",
        media="a1.mp4",
        source="/in/a.mp4",
        stamp="5-6",
        digest="d",
        origin=Origin.FILE,
        texts=("words",),
        vectors={"video": ([0, 1], numbered(1, 2)), "audio": ([1], numbered(7, 1, 3))},
    )
    added, gone = records.put([whole], DIMS)
    assert gone == []
    assert {e: (ids.tolist(), v.tolist()) for e, (ids, v) in added.items()} == {
        "video": ([1, 2], [[1.0, 1.0], [2.0, 2.0]]),
        "audio": ([3], [[7.0, 7.0, 7.0]]),
    }
    read = records.item("a")
    assert (read.id, read.kind, read.duration_s) == ("a", "video", 9.0)
    assert (read.filename, read.media, read.source) == ("a.mp4", "a1.mp4", "/in/a.mp4")
    assert (read.stamp, read.digest, read.text) == ("5-6", "d", "words")
    assert read.metadata == {"straße": ["grün", 1.5]}
    assert (read.windows, read.modalities) == (2, ("audio", "video"))
    assert records.find("a") == read and records.find("b") is None
    assert records.counts() == Counts(items=1, windows=2, vectors={"video": 2, "audio": 1})
    assert records.item_vectors("a", "video", 2).tolist() == [[1.0, 1.0], [2.0, 2.0]]
    with pytest.raises(UnknownItem, match="no item 'b'"):
        records.item("b")
    with pytest.raises(UnknownItem):
        records.item_vectors("b", "video", 2)
    with pytest.raises(UnknownItem):
        records.remove("b")


def test_counts_follow_every_connection(tmp_path: Path) -> None:
    with (
        closing(Records(tmp_path / "records.sqlite")) as one,
        closing(Records(tmp_path / "records.sqlite")) as other,
    ):
        assert other.counts().items == 0
        one.put([item("a"), item("b")], DIMS)
        assert (one.counts().items, other.counts().items) == (2, 2)
        other.remove("a")
        assert (one.counts().items, other.counts().items) == (1, 1)


def test_a_vector_of_another_width_writes_nothing(records: Records) -> None:
    for dim in (1, 3):
        with pytest.raises(ValueError, match="2 dimensions"):
            records.put([item("a"), item("b", vectors={"video": ([0], numbered(0, 1, dim))})], DIMS)
    # and so does one too few
    with pytest.raises(ValueError):
        records.put([item("a", vectors={"video": ([0, 0], numbered(0, 1))})], DIMS)
    assert records.counts() == Counts(items=0, windows=0, vectors={}) and records.head() == (0, 0)


def test_replacing_and_removing(records: Records) -> None:
    records.put([item("a", 1, 2, media="a1.mp4"), item("b", 3)], DIMS)
    added, gone = records.put([item("a", 4, media="a2.mp4")], DIMS)
    assert added["video"][0].tolist() == [4] and gone == ["a1.mp4"]
    assert records.head() == (4, 2)
    assert records.tombstones_after("video", 0).tolist() == [1, 2]
    assert records.tombstones_after("video", 1).tolist() == [2]
    assert records.tombstones_after("audio", 0).tolist() == []
    assert records.remove("b") == [] and records.remove("a") == ["a2.mp4"]
    assert records.head() == (4, 4)
    records.forget_tombstones(3)
    assert records.tombstones_after("video", 0).tolist() == [4]
    # numbers are not used again
    records.put([item("c", 9)], DIMS)
    assert records.head() == (5, 4) and records.encodings() == ["video"]


def test_vectors_by_their_numbers(records: Records) -> None:
    records.put([item("a", 1, 4)], DIMS)
    ids, vectors = records.read_vectors(np.array([2, 4, 9]), 2)
    assert ids.tolist() == [2, 4] and vectors[:, 0].tolist() == [2.0, 4.0]
    ((ids, vectors),) = records.vectors_after("video", 1, 2)
    assert ids.tolist() == [2, 3, 4] and vectors[:, 0].tolist() == [2.0, 3.0, 4.0]
    ((ids, _),) = records.vectors_after("video", 1, 2, upto=3)
    assert ids.tolist() == [2, 3]
    assert list(records.vectors_after("video", 4, 2)) == []
    assert records.vectors_among("video", 2, 4)[0].tolist() == [1, 2, 3, 4]
    ids, vectors = records.vectors_among("video", 2, 3)
    assert len(set(ids.tolist())) == 3 and (np.diff(ids) > 0).all()
    assert vectors[:, 0].tolist() == ids.tolist()
    assert records.dim("video") == 2 and records.dim("audio") == 0
    assert records.ids_with("video") == ["a"] and records.ids_with("audio") == []


def test_many_vectors_come_in_chunks(records: Records) -> None:
    """4,096 at a time when read on, 500 at a time by their numbers."""
    count = 4097
    every = {"video": ([0] * count, numbered(1, count))}
    records.put([item("a", vectors=every)], DIMS)
    chunks = [ids.tolist() for ids, _ in records.vectors_after("video", 0, 2)]
    assert [len(chunk) for chunk in chunks] == [4096, 1]
    assert [n for chunk in chunks for n in chunk] == list(range(1, count + 1))
    ids, vectors = records.read_vectors(np.arange(1, 1002), 2)
    assert ids.tolist() == vectors[:, 0].tolist() == list(range(1, 1002))
    assert [len(part) for part in split(list(range(1001)))] == [500, 500, 1]


def test_an_items_vectors_are_read_without_those_of_others(records: Records) -> None:
    """In as many steps of SQLite's machine among many items as among few."""

    def steps() -> int:
        taken = 0

        def step() -> int:
            nonlocal taken
            taken += 1
            return 0

        records._db.set_progress_handler(step, 1)
        assert len(records.item_vectors("a", "video", 2)) == 3
        assert len(records.item_windows("a", "video", 2).vectors) == 3
        records._db.set_progress_handler(None, 1)
        return taken

    records.put([item("a", count=3)], DIMS)
    alone = steps()
    records.put([item(f"b{n}", count=3) for n in range(100)], DIMS)
    assert steps() < 2 * alone


def test_pages_of_items(records: Records) -> None:
    records.put([item("c"), item("a"), item("b")], DIMS)
    assert [found.id for found in records.page(2)] == ["a", "b"]
    assert [found.id for found in records.page(2, "b")] == ["c"]
    assert records.alive(np.array([1, 4])).tolist() == [True, False]
    assert records.versions() == {"c": "1", "a": "2", "b": "3"}
    assert {n: about.id for n, about in records.about([1, 3, 9]).items()} == {1: "c", 3: "b"}


def test_what_people_see(records: Records) -> None:
    """Windows [0, 2), [1, 3) and [2, 4): the nearest middle to 1.4 s is 1, to 1.6 s is 2."""
    pictures = {0: b"first", 1: b"second"}
    records.put([item("a", 1, 3, pictures=pictures, peaks=b"\1\2"), item("b")], DIMS)
    assert records.picture("a", 1.4) == b"first" and records.picture("a", 1.6) == b"second"
    assert records.picture("a", 9.0) == b"second" and records.picture("b", 0.0) is None
    assert records.peaks("a") == b"\1\2" and records.peaks("b") == b""


def test_the_overlap_of_windows(records: Records) -> None:
    """Of two seconds, one and a half are shared; an item of two windows does not tell."""
    records.put([item("a", 1, 2), item("t", vectors={"text": ([0], numbered(0, 1))})], DIMS)
    assert records.window_overlap() == 0.0
    times = [(4.0, 6.0), (4.5, 6.5), (5.0, 7.0)]
    vectors = {"video": ([0, 1, 2], numbered(1, 3))}
    records.put([item("b", duration_s=7.0, windows=times, vectors=vectors)], DIMS)
    assert records.window_overlap() == 0.75


def test_windows_that_lie_apart_do_not_overlap(records: Records) -> None:
    times = [(0.0, 2.0), (3.0, 5.0), (6.0, 8.0)]
    vectors = {"video": ([0, 1, 2], numbered(1, 3))}
    records.put([item("a", duration_s=8.0, windows=times, vectors=vectors, one_colour={1})], DIMS)
    assert records.window_overlap() == 0.0
    places = records.window_table("video").places([0, 1, 2])
    assert [(p.start_s, p.end_s, bool(p.one_colour)) for p in places] == [
        (0.0, 2.0, False),
        (3.0, 5.0, True),
        (6.0, 8.0, False),
    ]


def test_banks(records: Records) -> None:
    records.put([item("a", 1, 3)], DIMS)
    assert records.banks.digest("video") == "" and records.banks.queries("text", 2).shape == (0, 2)
    assert records.tuning_queries("video", 2, 2).shape == (2, 2)
    records.set_bank("text", numbered(5, 2), ["video", "text"])
    records.set_bank("audio", numbered(8, 1), ["video"])
    assert records.banks.queries("text", 2)[:, 0].tolist() == [5.0, 6.0]
    assert sorted(records.banks.encodings()) == ["audio", "text"]
    assert (records.banks.dim("text"), records.banks.dim("video")) == (2, 0)
    asking = records.banks.described()
    assert {source: bank["targets"] for source, bank in asking.items()} == {
        "text": ["video", "text"],
        "audio": ["video"],
    }
    sums = {source: bank["sha256"] for source, bank in asking.items()}
    assert records.banks.digest("video") == "+".join(sorted(sums.values()))
    assert records.banks.digest("text") == sums["text"] and records.banks.digest("audio") == ""
    assert sorted(records.tuning_queries("video", 2, 2)[:, 0].tolist()) == [5.0, 6.0, 8.0]
    records.set_bank("text", numbered(7, 1), ["video"])
    assert records.banks.queries("text", 2)[:, 0].tolist() == [7.0]
    before = records.banks.digest("video")
    records.set_bank("text", numbered(7, 1), ["video"], rare=numbered(9, 2), texts="x")
    assert records.banks.queries("text", 2)[:, 0].tolist() == [7.0]
    assert records.banks.rare("text", 2)[:, 0].tolist() == [9.0, 10.0]
    assert records.banks.rare("audio", 2).shape == (0, 2)
    assert records.banks.digest("video") == before  # rare ones tune nothing


def test_what_a_filter_leaves_is_kept_until_the_next_write(records: Records) -> None:
    records.put([item("a", 1, 2, metadata={"n": 1}), item("b", 3, metadata={"n": 2})], DIMS)

    def left(query: dict[str, Any]) -> list[int]:
        return matching(records, query).ids.tolist()

    assert left({"n": 1}) == [1, 2] and left({"n": 2}) == [3] and left({"n": 3}) == []
    kept = matching(records, {"n": 1})
    assert kept is matching(records, {"n": 1})
    records.put([item("c", 4, metadata={"n": 1})], DIMS)
    assert left({"n": 1}) == [1, 2, 4]
    # the sixteen asked for last are kept: the first is found anew after as many others
    kept = matching(records, {"n": 1})
    for n in range(2, 17):
        left({"n": n})
    assert kept is matching(records, {"n": 1})
    for n in range(17, 33):
        left({"n": n})
    again = matching(records, {"n": 1})
    assert again is not kept and again.ids.tolist() == [1, 2, 4]


def test_rows_of_deleted_vectors_are_dropped_once_they_are_most(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are counted when the table has more than twice the rows of the last count, and four."""
    monkeypatch.setattr(database, "CHUNK", 4)
    asked: list[str] = []
    records._db.set_trace_callback(asked.append)

    def read_on() -> tuple[int, int]:
        """The rows of the table, and how often vectors were counted for it."""
        asked.clear()
        rows = len(records.window_table("video"))
        return rows, sum("count(*) from vectors" in query for query in asked)

    def add(*ids: str) -> None:
        records.put([item(id, n) for n, id in enumerate(ids)], DIMS)

    def remove(*ids: str) -> None:
        for id in ids:
            records.remove(id)

    add("a", "b", "c", "d")
    assert read_on() == (4, 0)
    remove("a", "b")
    add("e")
    assert read_on() == (5, 1)  # of which three are there: more than half
    assert read_on() == (5, 0)
    add(*"fghijklm")
    assert read_on() == (13, 0)
    remove(*"cdefgh")
    add("n")
    assert read_on() == (14, 0)
    add("o")
    assert read_on() == (7, 2)  # the other eight are gone; what is read anew is counted, too
    remove(*"ijklmno")
    add("p")
    assert read_on() == (8, 0)


def test_what_is_kept_of_items_is_read_once(records: Records) -> None:
    records.put([item("a")], DIMS)
    asked: list[str] = []
    records._db.set_trace_callback(asked.append)
    for _ in range(3):
        assert len(records.item_cache()) == 1
    assert len(asked) == 1
    records.put([item("b")], DIMS)
    assert len(records.item_cache()) == 2


def test_sources_and_failures(records: Records) -> None:
    records.put(
        [item("a", origin=Origin.FILE, source="/a", stamp="1", digest="x"), item("b")], DIMS
    )
    assert records.sources.known() == {"a": KnownSource("/a", "1", "x")}
    moved = KnownSource(os.fsdecode(b"/m/b\xff"), "2", "y", "b", root="/m", mount="/")
    records.relocate({"a": moved, "b": moved})
    assert records.sources.known() == {"a": moved}
    assert records.item("a").source == moved.source and records.item("b").stamp is None
    lost = Failure("1", "broken", "c.mp4", "/c", "z")
    records.note_failure("c", lost)
    records.note_failure("d", Failure("1", "broken"))
    assert records.sources.failures() == {"c": lost, "d": Failure("1", "broken", None, None, None)}
    records.put([item("d")], DIMS)
    records.forget_failures(["c", "none"])
    assert records.sources.failures() == {}


def test_media_and_origins(records: Records) -> None:
    records.put([item("a", media="a.mp4"), item("b")], DIMS)
    assert records.media_files() == {"a.mp4"}
    records.set_copied_versions({"a": "1"}, "old")
    records.set_meta({"fingerprint": "f"})
    assert records.copied_versions("old") == {"a": "1"} and records.meta()["fingerprint"] == "f"
    assert records.copied_versions("another") == {}
    records.set_copied_versions({"b": "2"}, "another")
    assert records.copied_versions("another") == {"b": "2"}
    records.forget_copied_versions()
    assert records.copied_versions("another") == {} and records.meta() == {"fingerprint": "f"}


def test_which_files_hold_records(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    assert not holds_records(path)
    path.touch()
    assert not holds_records(path)
    with sqlite3.connect(path) as db:
        db.execute("create table other (n integer)")
    db.close()
    assert not holds_records(path)
    path.unlink()
    records = Records(path)
    assert not holds_records(path)
    records.set_meta({"fingerprint": "f"})
    assert holds_records(path)
    records.close()
    path.write_bytes(b"x" * 5000)
    with pytest.raises(sqlite3.Error):
        holds_records(path)


def test_modalities() -> None:
    assert list_modalities(["video", "", "audio", "video"]) == ("audio", "video")


def test_texts_and_origin_are_kept_as_they_were_given(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    texts = ("one\ntwo", 'three "\0"', "один")
    records = Records(path)
    records.put([item("a", origin=Origin.FILE, source="/a/b.mp4", texts=texts)], DIMS)
    records.close()
    records = Records(path)
    kept = records.item("a")
    assert (kept.texts, kept.origin, kept.source) == (texts, Origin.FILE, "/a/b.mp4")
    assert kept.text == 'one\ntwo\nthree "\0"\nодин'
    replacement = NewItem(
        id="a", kind="text", duration_s=0.0, windows=[], vectors={}, texts=("new",)
    )
    records.put([replacement], DIMS)
    kept = records.item("a")
    assert kept.texts == ("new",) and kept.origin == Origin.UPLOAD
    records.close()


def test_nobody_writes_while_the_collection_is_held_for_reading(tmp_path: Path) -> None:
    box = Collection(tmp_path / "box", "f1", dims(2))
    box.put([item("a")])
    with box.hold_for_reading() as records:
        for write in (
            lambda: records.put([item("b")], DIMS),
            lambda: records.remove("a"),
            lambda: records.set_meta({"id": "another"}),
            lambda: box.put([item("b")]),
            lambda: box.delete("a"),
            lambda: box.note_copied_versions({"a": "1"}, "old"),
        ):
            with pytest.raises(RuntimeError, match="held for reading"):
                write()
        with box.hold_for_reading() as inner:  # reading within reading is no fault
            assert inner.item("a").id == "a"
        with pytest.raises(RuntimeError, match="held for reading"):
            box.delete("a")
    assert [each.id for each in box.page(10)] == ["a"]
    box.put([item("b")])
    assert [each.id for each in box.page(10)] == ["a", "b"]
    box.close()
