"""Filters compiled to SQL: what each operator finds, the limits, and the values indexed."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from index.records.database import NewItem, Records
from index.records.filters import (
    MAX_DEPTH,
    MAX_TERMS,
    BadFilter,
    compile_filter,
    metadata_values,
    register_functions,
)
from media.manifest import BadMetadata, check_metadata

ITEMS: dict[str, tuple[float, dict[str, Any]]] = {
    "a": (5.0, {"lang": "de", "year": 2019, "live": True}),
    "b": (8.0, {"lang": "en", "year": 2021, "live": False}),
    "c": (9.5, {"lang": "en", "year": "2021", "note": None}),
    "d": (2.0, {"tags": ["x", 3, None], "place": {"city": "Ulm"}, "duration_s": True}),
    "e": (3.0, {"exif.make": "Canon", 'say "hi"': 1, "": 2, "$schema": "s", "k" * 300: 1}),
    "f": (
        3.0,
        {"exif": {"make": "Canon"}, "people": [{"name": "Ann"}, {"name": "Bob", "age": 60}]},
    ),
    "g": (3.0, {"big": 2**63, "runs": [[1, 2], [3]], "name": "cafe\u0301", "duration_s": 999}),
    "i": (3.0, {"people": [{"name": "Cy", "runs": [1, 2]}], "$gt": 5, "nul": "a\0b"}),
    "h": (3.0, {"big": 2**64 - 1, "runs": [], "none": {}, "deep": {"a": [{"b": [{"c": 0.0}]}]}}),
}
KINDS = {"a": "video", "b": "audio", "c": "image", "d": "text"}
ADDED = {"a": "2026-10-31T23:59:59Z", "b": "2026-11-01T00:00:00Z", "c": "2027-01-01T12:00:00Z"}


@pytest.fixture(scope="module")
def items() -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(":memory:")
    register_functions(db)
    db.execute(
        "create table items (n integer primary key, id text, duration_s real, kind text,"
        " added text) strict"
    )
    db.execute(
        "create table metadata_values (item integer, path text, kind text, value any) strict"
    )
    db.execute("create table tag_names (n integer, name text collate nocase) strict")
    db.execute("create table tags (window integer, tag integer, item integer) strict")
    for n, (name, (duration_s, metadata)) in enumerate(ITEMS.items()):
        db.execute(
            "insert into items values (?, ?, ?, ?, ?)",
            (n, name, duration_s, KINDS.get(name, ""), ADDED.get(name)),
        )
        rows = [(n, *fact) for fact in metadata_values(metadata)]
        db.executemany("insert into metadata_values values (?, ?, ?, ?)", rows)
    yield db
    db.close()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, "abcdefghi"),
        ({"lang": "en"}, "bc"),
        ({"lang": "en", "live": False}, "b"),
        ({"year": 2021}, "b"),
        ({"year": "2021"}, "c"),
        ({"year": {"$gt": 2019}}, "b"),
        ({"year": {"$gte": 2019}}, "ab"),
        ({"year": {"$lt": 2021}}, "a"),
        ({"year": {"$lte": 2021}}, "ab"),
        ({"year": {"$gt": 2018, "$lt": 2020}}, "a"),
        ({"lang": {"$gt": "de"}}, "bc"),
        ({"live": True}, "a"),
        ({"live": False}, "b"),
        ({"live": 1}, ""),
        ({"year": True}, ""),
        ({"lang": {"$in": ["de", "fr"]}}, "a"),
        ({"lang": {"$in": ["de", "en"]}}, "abc"),
        ({"lang": {"$in": []}}, ""),
        ({"lang": {"$in": [None]}}, "defghi"),
        ({"year": {"$in": [2019.0, "2021", None, True, [1], 2**63]}}, "acdefghi"),
        ({"live": {"$in": [True, False, 1, 0]}}, "ab"),
        ({"runs": {"$in": [[3], {"x": 1}, "3", 3.0]}}, "g"),
        ({"duration_s": {"$in": ["5", True, 2.0]}}, "d"),
        ({"big": {"$nin": [2**63, 2**64 - 1, 0.5]}}, "abcdefi"),
        ({"note": {"$exists": True}}, "c"),
        ({"live": {"$exists": False}}, "cdefghi"),
        ({"note": None}, "abcdefghi"),
        ({"lang": None}, "defghi"),
        ({"tags": "x"}, "d"),
        ({"tags": 3}, "d"),
        ({"tags": None}, "abcdefghi"),
        ({"place.city": "Ulm"}, "d"),
        ({"place": {"$exists": True}}, "d"),
        ({"city": "Ulm"}, ""),
        ({"duration_s": 5}, "a"),
        ({"duration_s": "5"}, ""),
        ({"duration_s": True}, "d"),
        ({"duration_s": None}, ""),
        ({"duration_s": {"$exists": True}}, "abcdefghi"),
        ({"duration_s": {"$exists": False}}, ""),
        ({"duration_s": {"$gt": 5}}, "bcg"),
        ({"duration_s": {"$gte": 5, "$lt": 9}}, "abg"),
        ({"duration_s": {"$gt": "5"}}, ""),
        ({"duration_s": {"$in": [2, 5.0]}}, "ad"),
        ({"kind": "image"}, "c"),
        ({"kind": {"$in": ["image", "video"]}}, "ac"),
        ({"$not": {"kind": "image"}}, "abdefghi"),
        ({"kind": None}, ""),
        ({"kind": {"$exists": True}}, "abcdefghi"),
        ({"$or": [{"lang": "de"}, {"year": 2021}]}, "ab"),
        ({"$and": [{"lang": "en"}, {"live": False}]}, "b"),
        ({"$or": [{"lang": "de"}]}, "a"),
        ({"$or": [{}]}, "abcdefghi"),
        ({"$not": {"lang": "en"}}, "adefghi"),
        ({"$not": {}}, ""),
        ({"year": {"$not": {"$gt": 2020}}}, "acdefghi"),
        ({"$not": {"$or": [{"lang": "de"}, {"lang": "en"}]}}, "defghi"),
        ({"$or": [{"lang": "en", "live": False}, {"duration_s": {"$lt": 3}}]}, "bd"),
        ({"lang": {"$eq": "de"}}, "a"),
        ({"lang": {"$ne": "en"}}, "adefghi"),
        ({"lang": {"$nin": ["de", "en"]}}, "defghi"),
        ({"lang": {"$nin": []}}, "abcdefghi"),
        ({"$nor": [{"lang": "de"}, {"lang": "en"}]}, "defghi"),
        ({"tags": {"$all": ["x", 3]}}, "d"),
        ({"tags": {"$all": ["x", 4]}}, ""),
        ({"tags": {"$all": []}}, ""),
        ({"tags": {"$size": 3}}, "d"),
        ({"runs": {"$size": 2}}, "g"),
        ({"runs": {"$size": 0}}, "h"),
        # keys as people have them
        ({"exif.make": "Canon"}, "ef"),
        ({'say "hi"': 1}, "e"),
        ({"": 2}, "e"),
        ({"$schema": "s"}, "e"),
        ({"$schema": {"$exists": True}}, "e"),
        ({"k" * 300: {"$gt": 0}}, "e"),
        # what lies in lists
        ({"people.name": "Bob"}, "f"),
        ({"people.age": {"$gt": 50}}, "f"),
        ({"people.0.name": "Ann"}, "f"),
        ({"people.1.name": "Ann"}, ""),
        ({"deep.a.b.c": 0}, "h"),
        ({"deep.a.b": {"c": 0}}, "h"),
        ({"runs.0": [1, 2]}, "g"),
        ({"runs.0.1": 2}, "g"),
        ({"runs.1.0": {"$gte": 3}}, "g"),
        ({"runs.0": {"$size": 2}}, "g"),
        ({"runs": {"$size": 2.0}}, "g"),
        ({"people.runs.1": 2}, "i"),
        ({"people.runs": {"$size": 2}}, "i"),
        ({"people.0.runs.0": 1}, "i"),
        ({"runs.0": 1}, ""),
        ({"tags.1": 3}, "d"),
        # whole values
        ({"runs": [[1, 2.0], [3]]}, "g"),
        ({"runs": [3]}, "g"),
        ({"runs": []}, "h"),
        ({"none": {}}, "h"),
        ({"exif": {"make": "Canon"}}, "f"),
        ({"people": {"age": 60, "name": "Bob"}}, "f"),
        ({"people": {"name": "Bob"}}, ""),
        # large numbers
        ({"big": 2**63}, "g"),
        ({"big": 2**63 + 1}, ""),
        ({"big": float(2**63)}, "g"),
        ({"big": {"$gt": 2**62}}, "gh"),
        ({"big": {"$in": [2**64 - 1]}}, "h"),
        ({"big": {"$lt": 10**400}}, "gh"),
        # more digits than a float tells apart
        ({"big": {"$gt": 2**64 - 2}}, "h"),
        ({"big": {"$gte": 2**64 - 1}}, "h"),
        ({"big": {"$gt": 2**64 - 1}}, ""),
        ({"big": {"$lt": 2**63 + 1}}, "g"),
        ({"big": {"$gt": -(2**64)}}, "gh"),
        ({"nul": "a\0b"}, "i"),
        ({"$gt": {"$eq": 5}}, "i"),
        ({"$gt": {"$exists": True}}, "i"),
        ({"name": "caf\u00e9"}, "g"),
        ({"duration_s": 999}, "g"),
        ({"added": {"$gte": "2026-11"}}, "bc"),
        ({"added": {"$gte": "2026-11", "$lt": "2026-12"}}, "b"),
        ({"added": {"$lt": "2026-11-01"}}, "a"),
        ({"added": "2027-01-01T12:00:00Z"}, "c"),
        ({"added": {"$exists": False}}, "defghi"),
        ({"added": {"$gt": 2026}}, ""),
        ({"$not": {"added": {"$lt": "2026-12"}}}, "cdefghi"),
    ],
)
def test_what_a_filter_leaves(
    items: sqlite3.Connection, query: dict[str, Any], expected: str
) -> None:
    where, params = compile_filter(query)
    rows = items.execute(f"select id from items where {where} order by id", params)
    assert "".join(name for (name,) in rows) == expected


def test_a_field_added_in_the_metadata_comes_before_the_items_own(tmp_path: Path) -> None:
    """What adds an item knows the time; metadata of an archive may know an earlier one."""
    records = Records(tmp_path / "records.sqlite")
    for name, metadata in (("now", {}), ("then", {"added": "1999-01-01"})):
        new = NewItem(
            id=name, kind="text", duration_s=0.0, windows=[], vectors={}, metadata=metadata
        )
        records.put([new], {})
    moved = replace(new, id="moved", metadata={}, added="2001-02-03T04:05:06Z")
    before = replace(moved, id="before", added=None)
    records.put([moved, before], {})

    def found(query: dict[str, Any]) -> list[str]:
        condition, params = compile_filter({"added": query})
        return [item.id for item in records.newest(10, None, condition, params)]

    assert found({"$lt": "2000"}) == ["then"]
    assert found({"$lt": "2002"}) == ["moved", "then"]
    assert found({"$gt": "2026-11-29"}) == ["now"]
    assert found({"$exists": False}) == ["before"]
    assert records.item("moved").added == "2001-02-03T04:05:06Z"
    records.close()


def test_a_kind_in_the_metadata_comes_before_the_items_own() -> None:
    db = sqlite3.connect(":memory:")
    db.execute("create table items (n integer primary key, kind text) strict")
    db.execute(
        "create table metadata_values (item integer, path text, kind text, value any) strict"
    )
    db.executemany("insert into items values (?, ?)", [(1, "image"), (2, "image"), (3, "audio")])
    for n, metadata in ((1, {}), (2, {"kind": "interview"}), (3, {"kind": "image"})):
        rows = [(n, *value) for value in metadata_values(metadata)]
        db.executemany("insert into metadata_values values (?, ?, ?, ?)", rows)

    def found(query: dict[str, Any]) -> list[int]:
        where, params = compile_filter(query)
        return [n for (n,) in db.execute(f"select n from items where {where} order by n", params)]

    assert found({"kind": "image"}) == [1, 3]
    assert found({"kind": "interview"}) == [2]
    assert found({"kind": "audio"}) == []
    db.close()


def test_the_values_of_a_list_are_one_condition() -> None:
    """SQLite would take a minute to read a statement of 12,000 conditions."""
    values = [f"{n}" for n in range(MAX_TERMS)]
    where, params = compile_filter({"$or": [{f"k{n}": {"$in": values}} for n in range(60)]})
    assert where.count("select") == 60 and len(params) == 60 * (1 + MAX_TERMS)
    every = {"$all": values[: MAX_TERMS // 2]}
    compile_filter({"a": every})
    with pytest.raises(BadFilter):
        compile_filter({"a": every, "b": every})


def list_in_lists(levels: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(levels - 1):
        made = [made]
    return made


def nested(levels: int) -> dict[str, Any]:
    query: dict[str, Any] = {}
    for _ in range(levels):
        query = {"$not": query}
    return query


def nested_operators(levels: int) -> dict[str, Any]:
    given: dict[str, Any] = {"$gt": 1}
    for _ in range(levels):
        given = {"$not": given}
    return {"year": given}


@pytest.mark.parametrize(
    ("most", "beyond"),
    [
        # each $not is a level below the object that it stands in
        (nested(MAX_DEPTH), nested(MAX_DEPTH + 1)),
        # the field is one level, its operator a second
        (nested_operators(MAX_DEPTH - 2), nested_operators(MAX_DEPTH - 1)),
        # a list's parts are on the level of their operator: one for $or, one for the field
        (
            {"$or": [nested(MAX_DEPTH - 1)]},
            {"$or": [nested(MAX_DEPTH)]},
        ),
        # the filter itself is a term
        (
            {f"k{n}": n for n in range(MAX_TERMS - 1)},
            {f"k{n}": n for n in range(MAX_TERMS)},
        ),
        ({"k": {"$in": [1] * MAX_TERMS}}, {"k": {"$in": [1] * (MAX_TERMS + 1)}}),
        ({"k": {"$size": 2**63 - 1}}, {"k": {"$size": 2**63}}),
        ({"k": 1e308}, {"k": math.inf}),
        ({"k": "ü"}, {"k": "\ud800"}),
    ],
)
def test_limits(most: dict[str, Any], beyond: dict[str, Any]) -> None:
    compile_filter(most)
    with pytest.raises(BadFilter):
        compile_filter(beyond)


def test_limits_are_as_documented() -> None:
    assert (MAX_DEPTH, MAX_TERMS) == (16, 200)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"$where": "1"}, "'$where'"),
        ({"a": {"$regex": "x"}}, "'$regex'"),
        ({"a": {"$gt": 1, "b": 2}}, "operators"),
        ({"$gt": 1}, "'$gt'"),
        ({"$expr": {"$eq": ["a", "b"]}}, "'$expr'"),
        ({"a": [math.nan]}, "finite"),
        ({"a": {"$in": [{"b": math.inf}]}}, "finite"),
        ({"a": {"$size": math.nan}}, "$size"),
        ({"a": {"b": ["\ud800"]}}, "UTF-8"),
        ({"a": list_in_lists(17)}, "16 levels"),
        ({"a": {"$ne": list_in_lists(20_000)}}, "16 levels"),
        ({"$tags": ["x"]}, "'$tags'"),
        ({"a": {"$size": 1.5}}, "$size"),
        ({"a": {"$nin": 1}}, "$nin"),
        ({"a": {"$not": {}}}, "operators"),
        ({"a": {"$not": 1}}, "operators"),
        ({"a": {"$not": [1]}}, "operators"),
        ({"a": {"$exists": 1}}, "$exists"),
        ({"a": {"$in": "x"}}, "200"),
        ({"a": {"$gt": True}}, "order"),
        ({"a": {"$gt": None}}, "NoneType"),
        ({"a": {"$gt": [1]}}, "list"),
        ({"$or": []}, "$or"),
        ({"$and": {}}, "$and"),
        ({"$and": {"a": 1}}, "$and"),
        ({"$or": [1]}, "int"),
        ({"$not": "x"}, "str"),
        ({"$nor": []}, "$nor"),
        ({"\ud800": 1}, "UTF-8"),
    ],
)
def test_what_is_outside_the_subset_is_refused(query: dict[str, Any], named: str) -> None:
    with pytest.raises(BadFilter) as refused:
        compile_filter(query)
    assert refused.value.problem == str(refused.value) and named in refused.value.problem


def of_kinds(metadata: dict[str, Any], *left_out: str) -> list[Any]:
    return [row for row in metadata_values(metadata) if row[1] not in left_out]


def test_the_values_of_metadata() -> None:
    assert metadata_values({"lang": "de"}) == [("lang", "text", "de")]
    assert metadata_values({"n": 1.5, "none": None}) == [
        ("n", "number", 1.5),
        ("none", "null", None),
    ]
    assert metadata_values({"yes": True, "no": False}) == [
        ("yes", "true", None),
        ("no", "false", None),
    ]
    assert of_kinds({"a": {"b": 1}}, "object") == [("a.b", "number", 1)]
    assert sorted(of_kinds({"l": ["x", {"b": 1}, [2], False]}, "object", "list"), key=str) == [
        ("l", "false", None),
        ("l", "size", 4),
        ("l", "text", "x"),
        ("l.0", "text", "x"),
        ("l.1.b", "number", 1),
        ("l.2", "size", 1),
        ("l.2.0", "number", 2),
        ("l.3", "false", None),
        ("l.b", "number", 1),
    ]
    # a value that a list has twice is there once
    assert of_kinds({"l": ["x", "x"]}, "list", "size")[0] == ("l", "text", "x")
    assert len(of_kinds({"l": ["x", "x"]}, "list", "size")) == 3
    # beyond what the database holds as a whole number
    assert metadata_values({"n": 2**63 - 1}) == [("n", "number", 2**63 - 1)]
    assert metadata_values({"n": -(2**63)}) == [
        ("n", "number", -(2.0**63)),
        ("n", "integer", "-9223372036854775808"),
    ]
    assert metadata_values({}) == []


def test_metadata_are_refused_whose_paths_would_fill_the_disk() -> None:
    """Each path to a value is stored: 65 kB may have paths of 330 MB."""
    check_metadata({"k" * 300: [1] * 1000, "shape": [[[0.5, 1.5]] * 50] * 50})
    with pytest.raises(BadMetadata, match="letters"):
        check_metadata({"k" * 30_000: [1] * 1000})
    tree: Any = "x"
    for _ in range(7):
        tree = {"a": [tree] * 3}
    with pytest.raises(BadMetadata, match="letters"):
        check_metadata(tree)


def test_equal_values_have_one_digest() -> None:
    (one,) = of_kinds({"v": {"a": 1, "b": [2.0, "é"]}}, "number", "text", "size", "list")
    (other,) = of_kinds({"v": {"b": [2, "e\u0301"], "a": 1.0}}, "number", "text", "size", "list")
    assert one == other
    assert of_kinds({"v": [True]}, "true", "size") != of_kinds({"v": [1]}, "number", "size")
