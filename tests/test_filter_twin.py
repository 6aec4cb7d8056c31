"""Filters against a twin in plain Python: whatever the metadata and the filter, SQLite finds the
items that reading the metadata finds.
"""

from __future__ import annotations

import operator
import sqlite3
import unicodedata
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from index.records.filters import compile_filter, metadata_values, register_functions
from media.manifest import count_letters

Json = Any
ORDER = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}


# ---------------------------------------------------------------- the twin


def meets(metadata: dict[str, Json], query: dict[str, Json]) -> bool:
    return all(meets_term(metadata, key, value) for key, value in query.items())


def meets_term(metadata: dict[str, Json], key: str, value: Json) -> bool:
    if isinstance(value, list) and key in ("$and", "$or", "$nor"):
        parts = [meets(metadata, part) for part in value]
        return {"$and": all(parts), "$or": any(parts), "$nor": not any(parts)}[key]
    if key == "$not":
        return not meets(metadata, value)
    ends = list(lead(metadata, composed(key)))
    return meets_conditions(ends, value if holds_operators(value) else {"$eq": value})


def holds_operators(value: Json) -> bool:
    return isinstance(value, dict) and any(key.startswith("$") for key in value)


def meets_conditions(ends: list[tuple[Json, bool]], given: dict[str, Json]) -> bool:
    return all(meets_condition(ends, op, value) for op, value in given.items())


def meets_condition(ends: list[tuple[Json, bool]], op: str, value: Json) -> bool:
    reached = [each for end, whole in ends for each in parts_of(end, whole)]
    match op:
        case "$not":
            return not meets_conditions(ends, value)
        case "$exists":
            return bool(ends) == value
        case "$size":
            return any(isinstance(end, list) and len(end) == value for end, _ in ends)
        case "$eq":
            return is_one_of(reached, value)
        case "$ne":
            return not is_one_of(reached, value)
        case "$in":
            return any(is_one_of(reached, each) for each in value)
        case "$nin":
            return not any(is_one_of(reached, each) for each in value)
        case "$all":
            return bool(value) and all(is_one_of(reached, each) for each in value)
        case _:
            same = [each for each in reached if kind(each) == kind(value)]
            return any(ORDER[op](text_or_number(each), text_or_number(value)) for each in same)


def lead(value: Json, path: str) -> Iterator[tuple[Json, bool]]:
    """What a path leads to in an object or list, each with whether it was asked for by its number
    in a list: then a list is not led into.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            name = composed(key)
            if path == name:
                yield inner, False
            elif path.startswith(f"{name}."):
                yield from lead(inner, path.removeprefix(f"{name}."))
    elif isinstance(value, list):
        for element in value:
            if isinstance(element, dict):
                yield from lead(element, path)
        number, dot, rest = path.partition(".")
        if number in map(str, range(len(value))):
            element = value[int(number)]
            if dot:
                yield from lead(element, rest)
            else:
                yield element, isinstance(element, list)


def parts_of(end: Json, whole: bool) -> list[Json]:
    return [end, *end] if isinstance(end, list) and not whole else [end]


def is_one_of(reached: list[Json], value: Json) -> bool:
    if value is None and not reached:
        return True
    return any(equal(each, value) for each in reached)


def equal(one: Json, other: Json) -> bool:
    if kind(one) != kind(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict):
        first, second = ({composed(k): v for k, v in each.items()} for each in (one, other))
        return first.keys() == second.keys() and all(equal(first[k], second[k]) for k in first)
    return bool(text_or_number(one) == text_or_number(other))


def kind(value: Json) -> str:
    names = {bool: "boolean", int: "number", float: "number", str: "text"}
    return names.get(type(value), type(value).__name__)


def text_or_number(value: Json) -> Json:
    return composed(value) if isinstance(value, str) else value


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


# ---------------------------------------------------------------- what is asked

KEYS = ("a", "b", "a.b", "0", "1", "", "$x", "$gt", "é", "e\u0301")
NUMBERS = (
    *(0, 1, -1, 2, 0.5, -0.0, 1.0, 1e300, -1e300),
    *(2**53, 2**53 + 1, float(2**53), 2**63 - 1, 2**63, 2**63 + 1, float(2**63), 2**64 - 1),
    *(-(2**63) + 1, -(2**63), -(2**63) - 1, 10**19 - 1, 10**19, 10**400, 10**400 + 1, -(10**400)),
)
TEXTS = ("", "0", "1", "a", "A", "b", "é", "e\u0301", "a\0b", "😀", "\uffff")
plain = st.one_of(
    st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(TEXTS), st.floats(-2, 2)
)
keys = st.sampled_from(KEYS)


def unlike(given: dict[str, Json]) -> bool:
    """Whether no two keys are one key in two forms of Unicode."""
    return len({composed(key) for key in given}) == len(given)


values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=2).filter(unlike)
    ),
    max_leaves=6,
)
documents = st.dictionaries(keys, values, max_size=3).filter(unlike)
some_paths = st.lists(keys, min_size=1, max_size=3).map(".".join)


@st.composite
def paths_and_values(draw: st.DrawFn, items: list[dict[str, Json]]) -> tuple[str, Json]:
    """A path into an item, as filters have it, and the value there; or any path and value."""
    here: Json = draw(st.sampled_from(items))
    steps: list[str] = []
    while (here or not steps) and draw(st.integers(0, 9)):
        if isinstance(here, dict) and here:
            key = draw(st.sampled_from(sorted(here)))
            steps.append(key)
            here = here[key]
        elif isinstance(here, list):
            number = draw(st.integers(0, len(here) - 1))
            here = here[number]
            if draw(st.booleans()):
                steps.append(str(number))
        else:
            break
    if not steps or draw(st.integers(0, 5)) == 0:
        return draw(some_paths), draw(values)
    return ".".join(steps), here


@st.composite
def queries(draw: st.DrawFn, items: list[dict[str, Json]], depth: int = 0) -> dict[str, Json]:
    operator = draw(st.sampled_from(("field",) * 6 + ("$and", "$or", "$nor", "$not")))
    if operator == "field" or depth > 2:
        path, value = draw(paths_and_values(items))
        bare = draw(st.booleans()) and not path.startswith("$") and not holds_operators(value)
        return {path: value if bare else draw(conditions(value))}
    inner = queries(items, depth + 1)
    return {
        operator: draw(inner if operator == "$not" else st.lists(inner, min_size=1, max_size=3))
    }


@st.composite
def conditions(draw: st.DrawFn, near: Json, depth: int = 0) -> dict[str, Json]:
    """Conditions of a field that has a value `near` what they ask for."""
    given: dict[str, Json] = {}
    own = [near, *near] if isinstance(near, list) else [near]
    likely = st.one_of(st.sampled_from(own), st.sampled_from(own), values)
    ordered = [each for each in own if kind(each) in ("number", "text")] + list(NUMBERS)
    for _ in range(draw(st.integers(1, 2))):
        op = draw(
            st.sampled_from(("$eq", "$ne", "$in", "$nin", "$all", *ORDER, "$exists", "$size"))
        )
        if op in ("$in", "$nin", "$all"):
            given[op] = draw(st.lists(likely, max_size=3))
        elif op in ORDER:
            given[op] = draw(st.one_of(st.sampled_from(ordered), st.sampled_from(TEXTS)))
        elif op in ("$exists", "$size"):
            given[op] = draw(st.booleans() if op == "$exists" else st.integers(0, 3))
        else:
            given[op] = draw(likely)
    return {"$not": given} if depth == 0 and draw(st.integers(0, 4)) == 0 else given


@settings(max_examples=100, deadline=None)
@given(documents)
def test_the_letters_of_paths_are_counted_before_they_are_stored(metadata: dict[str, Json]) -> None:
    """The count may be higher: what is in a list twice is stored once."""
    stored = {(path, kind, value) for path, kind, value in metadata_values(metadata)}
    once = {(path, value) for path, kind, value in stored if kind not in ("size", "integer")}
    assert sum(len(path) for path, _ in once) <= count_letters(metadata)


def found(items: list[dict[str, Json]], query: dict[str, Json]) -> list[int]:
    """The places of the items that SQLite finds."""
    with closing(sqlite3.connect(":memory:")) as db:
        register_functions(db)
        db.execute("create table items (n integer primary key) strict")
        db.execute(
            "create table metadata_values (item integer, path text, kind text, value any) strict"
        )
        for n, metadata in enumerate(items):
            db.execute("insert into items values (?)", (n,))
            rows = [(n, *row) for row in metadata_values(metadata)]
            db.executemany("insert into metadata_values values (?, ?, ?, ?)", rows)
        where, params = compile_filter(query)
        return [n for (n,) in db.execute(f"select n from items where {where} order by n", params)]


@settings(max_examples=200, deadline=None)
@given(st.data(), st.lists(documents, min_size=1, max_size=4))
def test_sqlite_finds_what_reading_the_metadata_finds(
    data: st.DataObject, items: list[dict[str, Json]]
) -> None:
    query = data.draw(queries(items))
    expected = [n for n, metadata in enumerate(items) if meets(metadata, query)]
    assert found(items, query) == expected
