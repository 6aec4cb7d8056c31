"""Filters: a small subset of Mongo's query language, compiled to SQL.

A filter asks for an item's `duration_s` and for fields of its metadata. As in Mongo, a list meets a
condition where one of its elements does. Where an item's metadata has no field `kind`, that is the
item's own: video, image, audio or text.

{"kind": "interview", "year": {"$gte": 2019}, "$or": [{"lang": "de"}, {"lang": {"$exists": false}}]}
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from media.manifest import check_string

COMPARISONS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
MAX_DEPTH = 16  # of nested operators
MAX_TERMS = 200
MAX_CHARACTERS = 256  # of a field's name
VALUES = "metadata_values"
# with the item's own kind, where its metadata has no such field
VALUES_WITH_KIND = (
    f"(select item, path, kind, value from {VALUES}"
    " union all select n, '$.\"kind\"', 'text', items.kind from items where n not in"
    f" (select item from {VALUES} where path = '$.\"kind\"'))"
)
Scalar = str | int | float | bool


class BadFilter(Exception):
    """A filter outside the subset."""

    detail_fields = ("problem",)

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


@dataclass
class Statement:
    """An SQL condition in the making: its parameters, and how many terms it has."""

    params: list[Any] = field(default_factory=list)
    terms: int = 0

    def count(self, depth: int) -> None:
        self.terms += 1
        if depth > MAX_DEPTH or self.terms > MAX_TERMS:
            raise BadFilter(f"at most {MAX_DEPTH} levels and {MAX_TERMS} terms")


def compile_filter(query: dict[str, Any]) -> tuple[str, list[Any]]:
    """Compile a filter to an SQL condition over the tables `items` and `metadata_values`, with its
    parameters.

    Raises:
        BadFilter: an unknown operator, a value of the wrong type, or one too deep or too long.

    >>> compile_filter({"duration_s": {"$lt": 5}})
    ('duration_s < ?', [5])
    """
    made = Statement()
    where = conjunction(query, made, 0)
    try:
        for text in (p for p in made.params if isinstance(p, str)):
            check_string(text)
    except ValueError as error:
        raise BadFilter("a text is not UTF-8") from error
    return where, made.params


def conjunction(query: Any, made: Statement, depth: int) -> str:
    made.count(depth)
    if not isinstance(query, dict):
        raise BadFilter(f"a filter is an object, not {type(query).__name__}")
    return joined("and", [term(key, value, made, depth + 1) for key, value in query.items()], "1")


def joined(word: str, parts: list[str], empty: str) -> str:
    """SQL conditions joined by "and" or "or"; `empty` where there are none."""
    return f"({f' {word} '.join(parts)})" if len(parts) > 1 else parts[0] if parts else empty


def term(key: str, value: Any, made: Statement, depth: int) -> str:
    """SQL of one entry of a filter: an operator with filters, or a field with a value or with
    conditions.
    """
    made.count(depth)
    if key in ("$and", "$or"):
        if not isinstance(value, list) or not value:
            raise BadFilter(f"{key} takes a list that is not empty")
        return joined(key[1:], [conjunction(part, made, depth) for part in value], "1")
    if key == "$not":
        return f"not ({conjunction(value, made, depth)})"
    if key.startswith("$"):
        raise BadFilter(f"unknown operator {key!a}")
    if isinstance(value, dict):
        return conditions(key, value, made, depth)
    return equal(key, value, made)


def conditions(key: str, given: Any, made: Statement, depth: int) -> str:
    """SQL of a field's conditions, {"$gte": 2019, ...}: all hold."""
    if not isinstance(given, dict) or not given:
        raise BadFilter("an object of operators is not empty")
    return joined(
        "and", [condition(key, op, value, made, depth + 1) for op, value in given.items()], "1"
    )


def condition(key: str, op: str, given: Any, made: Statement, depth: int) -> str:
    made.count(depth)
    if op == "$not":
        return f"not ({conditions(key, given, made, depth)})"
    if op == "$exists":
        if not isinstance(given, bool):
            raise BadFilter("$exists takes true or false")
        if key == "duration_s":
            return "1" if given else "0"
        return having(key, made) if given else f"not {having(key, made)}"
    if op == "$in":
        if not isinstance(given, list) or len(given) > MAX_TERMS:
            raise BadFilter(f"$in takes a list of at most {MAX_TERMS} values")
        return joined("or", [equal(key, value, made) for value in given], "0")
    if op in COMPARISONS:
        return compare(key, COMPARISONS[op], given, made)
    raise BadFilter(f"unknown operator {op!a}")


def having(key: str, made: Statement, condition: str = "") -> str:
    """SQL: an item's field has a value that meets a condition. A dot in the field's name leads
    into an object.
    """
    made.params.append(path(key))
    values = VALUES_WITH_KIND if key == "kind" else VALUES
    return f"items.n in (select item from {values} where path = ?{condition})"


def path(key: str) -> str:
    if '"' in key or "\0" in key or not key or len(key) > MAX_CHARACTERS:
        raise BadFilter(f"a field's name is 1 to {MAX_CHARACTERS} characters without a quote")
    return "$" + "".join(f'."{part}"' for part in key.split("."))


def checked(value: Any) -> Scalar:
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | float) and abs(value) < 2**63:
        return value
    raise BadFilter(
        f"a value is a string, a number, true, false or null, not {type(value).__name__}"
    )


def equal(key: str, value: Any, made: Statement) -> str:
    """SQL: a field has a value. None: it has none, or null."""
    if value is None:
        return "0" if key == "duration_s" else "not " + having(key, made, " and kind <> 'null'")
    value = checked(value)
    if isinstance(value, bool):
        return (
            "0" if key == "duration_s" else having(key, made, f" and kind = '{str(value).lower()}'")
        )
    return compare(key, "=", value, made)


def compare(key: str, sign: str, value: Any, made: Statement) -> str:
    """A comparison within one type: a number is never more or less than a string. True is no
    number.
    """
    value = checked(value)
    if isinstance(value, bool):
        raise BadFilter("true and false have no order")
    kind = "text" if isinstance(value, str) else "number"
    if key == "duration_s":
        if kind == "text":
            return "0"
        made.params.append(value)
        return f"duration_s {sign} ?"
    where = having(key, made, f" and kind = '{kind}' and value {sign} ?")
    made.params.append(value)
    return where


Row = tuple[str, str, Scalar | None]  # a path in metadata, a kind, a value


def metadata_values(metadata: dict[str, Any]) -> Iterator[Row]:
    """What a filter can ask about metadata, as (path, kind, value). A list has the kinds and values
    of its elements, too.

    >>> list(metadata_values({"lang": "de", "tags": ["a", {"b": 1}]}))
    [('$."lang"', 'text', 'de'), ('$."tags"', 'list', None), ('$."tags"', 'text', 'a')]
    """
    for key, value in metadata.items():
        yield from values_at(f'$."{key}"', value)


def values_at(path: str, value: Any) -> Iterator[Row]:
    """The rows of a value of metadata, and of what is in it."""
    if isinstance(value, dict):
        yield path, "object", None
        for key, inner in value.items():
            yield from values_at(f'{path}."{key}"', inner)
    elif isinstance(value, list):
        yield path, "list", None
        for inner in value:
            if not isinstance(inner, dict | list):
                yield scalar_row(path, inner)
    else:
        yield scalar_row(path, value)


def scalar_row(path: str, value: Scalar | None) -> Row:
    if value is None:
        return path, "null", None
    if isinstance(value, bool):
        return path, str(value).lower(), None
    if isinstance(value, str):
        return path, "text", value
    if abs(value) < 2**63:
        return path, "number", value
    # more than SQLite's integers hold
    return path, "number", math.inf if value > 0 else -math.inf
