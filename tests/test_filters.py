"""Filters compiled to SQL: what each operator finds, the limits, and the values indexed."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from index.records.filters import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    MAX_TERMS,
    BadFilter,
    compile_filter,
    metadata_values,
)

ITEMS: dict[str, tuple[float, dict[str, Any]]] = {
    "a": (5.0, {"lang": "de", "year": 2019, "live": True}),
    "b": (8.0, {"lang": "en", "year": 2021, "live": False}),
    "c": (9.5, {"lang": "en", "year": "2021", "note": None}),
    "d": (2.0, {"tags": ["x", 3, None], "place": {"city": "Ulm"}, "duration_s": True}),
}
KINDS = {"a": "video", "b": "audio", "c": "image", "d": "text"}


@pytest.fixture(scope="module")
def items() -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(":memory:")
    db.execute(
        "create table items (n integer primary key, id text, duration_s real, kind text) strict"
    )
    db.execute(
        "create table metadata_values (item integer, path text, kind text, value any) strict"
    )
    for n, (name, (duration_s, metadata)) in enumerate(ITEMS.items()):
        db.execute("insert into items values (?, ?, ?, ?)", (n, name, duration_s, KINDS[name]))
        rows = [(n, *fact) for fact in metadata_values(metadata)]
        db.executemany("insert into metadata_values values (?, ?, ?, ?)", rows)
    yield db
    db.close()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, "abcd"),
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
        ({"lang": {"$in": [None]}}, "d"),
        ({"note": {"$exists": True}}, "c"),
        ({"live": {"$exists": False}}, "cd"),
        ({"note": None}, "abcd"),
        ({"lang": None}, "d"),
        ({"tags": "x"}, "d"),
        ({"tags": 3}, "d"),
        ({"tags": None}, "abc"),
        ({"place.city": "Ulm"}, "d"),
        ({"place": {"$exists": True}}, "d"),
        ({"city": "Ulm"}, ""),
        ({"duration_s": 5}, "a"),
        ({"duration_s": "5"}, ""),
        ({"duration_s": True}, ""),
        ({"duration_s": None}, ""),
        ({"duration_s": {"$exists": True}}, "abcd"),
        ({"duration_s": {"$exists": False}}, ""),
        ({"duration_s": {"$gt": 5}}, "bc"),
        ({"duration_s": {"$gte": 5, "$lt": 9}}, "ab"),
        ({"duration_s": {"$gt": "5"}}, ""),
        ({"duration_s": {"$in": [2, 5.0]}}, "ad"),
        ({"kind": "image"}, "c"),
        ({"kind": {"$in": ["image", "video"]}}, "ac"),
        ({"$not": {"kind": "image"}}, "abd"),
        ({"kind": None}, ""),
        ({"kind": {"$exists": True}}, "abcd"),
        ({"$or": [{"lang": "de"}, {"year": 2021}]}, "ab"),
        ({"$and": [{"lang": "en"}, {"live": False}]}, "b"),
        ({"$or": [{"lang": "de"}]}, "a"),
        ({"$or": [{}]}, "abcd"),
        ({"$not": {"lang": "en"}}, "ad"),
        ({"$not": {}}, ""),
        ({"year": {"$not": {"$gt": 2020}}}, "acd"),
        ({"$not": {"$or": [{"lang": "de"}, {"lang": "en"}]}}, "d"),
        ({"$or": [{"lang": "en", "live": False}, {"duration_s": {"$lt": 3}}]}, "bd"),
    ],
)
def test_what_a_filter_leaves(
    items: sqlite3.Connection, query: dict[str, Any], expected: str
) -> None:
    where, params = compile_filter(query)
    rows = items.execute(f"select id from items where {where} order by id", params)
    assert "".join(name for (name,) in rows) == expected


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


LONGEST = "k" * MAX_CHARACTERS


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
        ({LONGEST: 1}, {LONGEST + "k": 1}),
        ({"k": 2**63 - 1}, {"k": 2**63}),
        ({"k": 1 - 2**63}, {"k": -(2**63)}),
        ({"k": "ü"}, {"k": "\ud800"}),
    ],
)
def test_limits(most: dict[str, Any], beyond: dict[str, Any]) -> None:
    compile_filter(most)
    with pytest.raises(BadFilter):
        compile_filter(beyond)


def test_limits_are_as_documented() -> None:
    assert (MAX_DEPTH, MAX_TERMS, MAX_CHARACTERS) == (16, 200, 256)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"$where": "1"}, "'$where'"),
        ({"a": {"$regex": "x"}}, "'$regex'"),
        ({"a": {}}, "operators"),
        ({"a": {"$not": {}}}, "operators"),
        ({"a": {"$not": 1}}, "operators"),
        ({"a": {"$not": [1]}}, "operators"),
        ({"a": {"$exists": 1}}, "$exists"),
        ({"a": {"$in": "x"}}, "200"),
        ({"a": {"$gt": True}}, "order"),
        ({"a": {"$gt": None}}, "NoneType"),
        ({"a": [1]}, "list"),
        ({"$or": []}, "$or"),
        ({"$and": {}}, "$and"),
        ({"$and": {"a": 1}}, "$and"),
        ({"$or": [1]}, "int"),
        ({"$not": "x"}, "str"),
        ({'a"b': 1}, "256"),
        ({"a\0b": 1}, "256"),
        ({"": 1}, "256"),
        ({"\ud800": 1}, "UTF-8"),
    ],
)
def test_what_is_outside_the_subset_is_refused(query: dict[str, Any], named: str) -> None:
    with pytest.raises(BadFilter) as refused:
        compile_filter(query)
    assert refused.value.problem == str(refused.value) and named in refused.value.problem


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"lang": "de"}, [('$."lang"', "text", "de")]),
        ({"n": 1.5}, [('$."n"', "number", 1.5)]),
        ({"yes": True, "no": False}, [('$."yes"', "true", None), ('$."no"', "false", None)]),
        ({"none": None}, [('$."none"', "null", None)]),
        ({"a": {"b": 1}}, [('$."a"', "object", None), ('$."a"."b"', "number", 1)]),
        # what lies in objects and lists within a list cannot be asked for
        (
            {"l": ["x", {"b": 1}, [2], False]},
            [('$."l"', "list", None), ('$."l"', "text", "x"), ('$."l"', "false", None)],
        ),
        # beyond what the database holds as a whole number
        ({"n": 2**63 - 1}, [('$."n"', "number", 2**63 - 1)]),
        ({"n": 2**63}, [('$."n"', "number", math.inf)]),
        ({"n": -(2**63)}, [('$."n"', "number", -math.inf)]),
        ({}, []),
    ],
)
def test_facts_of_metadata(metadata: dict[str, Any], expected: list[Any]) -> None:
    assert list(metadata_values(metadata)) == expected
