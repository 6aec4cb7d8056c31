"""Filters: a subset of Mongo's query language, compiled to SQL.

A filter asks for an item's `duration_s` and for fields of its metadata. As in Mongo, a list meets a
condition where one of its elements does, and a dot in a field's name leads into an object, into the
objects of a list, or to the element of a list that has that number. Unlike in Mongo, a dot may be
part of a key, too, and texts are compared in Unicode's composed form (NFC). Where an item's
metadata has no field `kind`, that is the item's own: video, image, audio or text. Where it has no
field `tag`, that is a list of the tags of the item's windows, in whichever case their letters are.
In the same way `agreement` says how well sound and picture of the item agree, from 0 to 1, and
`added` when the item was added: in UTC, as "2026-11-30T08:15:00Z", so that a day or a month
compares with it.

{"kind": "interview", "year": {"$gte": 2019}, "$or": [{"lang": "de"}, {"lang": {"$exists": false}}]}
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from media.manifest import METADATA_MAX_DEPTH

COMPARISONS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
OF_FILTERS = ("$and", "$or", "$nor", "$not")
OF_FIELDS = ("$eq", "$ne", *COMPARISONS, "$in", "$nin", "$all", "$size", "$exists", "$not")
# Other operators of Mongo's, which are no names of fields either.
NOT_TAKEN = ("$where", "$text", "$expr", "$jsonSchema", "$comment", "$regex", "$elemMatch")
MAX_DEPTH = 16  # of nested operators
MAX_TERMS = 200
INTEGERS = 2**63  # SQLite's whole numbers are below, and not below minus that
DURATION = "duration_s"
TAG = "tag"
AGREEMENT = "agreement"
ADDED = "added"
VALUES = "metadata_values"
# with the item's own kind, where its metadata has no such field
VALUES_WITH_KIND = (
    f"(select item, path, kind, value from {VALUES}"
    " union all select n, 'kind', 'text', items.kind from items where n not in"
    f" (select item from {VALUES} where path = 'kind'))"
)
# the items whose own tags count, as their metadata has no such field
OWN_TAGS = (
    f"select item from tags where item not in (select item from {VALUES} where path = '{TAG}')"
)
# the items whose own agreement counts
OWN_AGREEMENT = (
    "select item from agreement"
    f" where item not in (select item from {VALUES} where path = '{AGREEMENT}')"
)

# the items that know when they were added, and whose metadata does not say otherwise
OWN_ADDED = (
    "select n from items where added is not null"
    f" and n not in (select item from {VALUES} where path = '{ADDED}')"
)


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

    def compared(self, column: str, sign: str, values: Sequence[Any]) -> str:
        """SQL: a column compares so with the value; with one of the values, if the sign is "in"."""
        self.params += values
        marks = ", ".join("?" * len(values))
        return f"{column} in ({marks})" if sign == "in" else f"{column} {sign} ?"


def compile_filter(query: dict[str, Any]) -> tuple[str, list[Any]]:
    """Compile a filter to an SQL condition over the tables `items` and `metadata_values`, with its
    parameters.

    Raises:
        BadFilter: an unknown operator, a value of the wrong type, or one too deep or too long.

    >>> where, parameters = compile_filter({"year": {"$lt": 5}})
    >>> where.removeprefix("items.n in (select item from metadata_values where "), parameters
    ("path = ? and kind = 'number' and value < ?)", ['year', 5])
    """
    made = Statement()
    where = conjunction(query, made, 0)
    for text in (p for p in made.params if isinstance(p, str)):
        check_text(text)
    return where, made.params


def check_text(text: str) -> None:
    """Raises BadFilter."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadFilter("a text is not UTF-8") from error


def register_functions(db: sqlite3.Connection) -> None:
    """Give a connection the functions that conditions use."""
    db.create_function("folded", 1, fold, deterministic=True)


def fold(text: str) -> str:
    """What texts share that differ in their letters' case, or in Unicode's form, only.

    >>> fold("Äpfel") == fold("ÄPFEL"), fold("A\u0308pfel") == fold("äpfel")
    (True, True)
    """
    return compose(compose(text).casefold())


def asks_for(query: Any, field: str) -> bool:
    """Whether a filter has a condition on a field. A filter may be nested too deep to be one."""
    left = [query]
    while left:
        part = left.pop()
        if isinstance(part, list):
            left += part
        elif isinstance(part, dict):
            if field in part:
                return True
            left += [part[key] for key in OF_FILTERS if key in part]
    return False


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
    if key in ("$and", "$or", "$nor") and not holds_operators(value):
        if not isinstance(value, list) or not value:
            raise BadFilter(f"{key} takes a list that is not empty")
        parts = [conjunction(part, made, depth) for part in value]
        joint = joined("and" if key == "$and" else "or", parts, "1")
        return f"not ({joint})" if key == "$nor" else joint
    if key == "$not":
        return f"not ({conjunction(value, made, depth)})"
    if holds_operators(value) and key not in NOT_TAKEN:
        return conditions(key, value, made, depth)
    if key in OF_FIELDS or key in NOT_TAKEN or (key.startswith("$") and isinstance(value, list)):
        raise BadFilter(f"unknown operator {key!a} of filters: there is {', '.join(OF_FILTERS)}")
    return equal(key, value, made)


def holds_operators(value: Any) -> bool:
    """Whether a field's value is an object of operators, and not a value to be equal to.

    Raises:
        BadFilter: an object of operators and other keys.
    """
    if not isinstance(value, dict):
        return False
    operators = [key for key in value if key.startswith("$")]
    if 0 < len(operators) < len(value):
        raise BadFilter("an object has operators only, or none")
    return bool(operators)


def conditions(key: str, given: Any, made: Statement, depth: int) -> str:
    """SQL of a field's conditions, {"$gte": 2019, ...}: all hold."""
    if not holds_operators(given):
        raise BadFilter("$not takes an object of operators")
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
        if key == DURATION:
            return "1" if given else "0"
        return having(key, made) if given else f"not {having(key, made)}"
    if op in ("$in", "$nin", "$all"):
        if not isinstance(given, list) or len(given) > MAX_TERMS:
            raise BadFilter(f"{op} takes a list of at most {MAX_TERMS} values")
        if op == "$all":
            for _ in given:
                made.count(depth)
            return joined("and", [equal(key, value, made) for value in given], "0")
        joint = equal_to_one(key, given, made)
        return f"not ({joint})" if op == "$nin" else joint
    if op == "$eq":
        return equal(key, given, made)
    if op == "$ne":
        return f"not ({equal(key, given, made)})"
    if op == "$size":
        whole = is_number(given) and is_finite(given) and given == int(given)
        if not whole or not 0 <= given < INTEGERS:
            raise BadFilter("$size takes a whole number")
        return having(key, made, "size", "=", [int(given)])
    if op in COMPARISONS:
        return compare(key, COMPARISONS[op], given, made)
    raise BadFilter(f"unknown operator {op!a} of a field: there is {', '.join(OF_FIELDS)}")


def having(
    key: str, made: Statement, kind: str = "", sign: str = "", values: Sequence[Any] = ()
) -> str:
    """SQL: a field of an item's metadata has a value; of a `kind`, if one is given; and one that
    compares so with the value, or with one of the `values`, if a sign is.
    """
    made.params.append(compose(key))
    condition = f" and kind = '{kind}'" if kind else ""
    if sign:
        condition += f" and {made.compared('value', sign, values)}"
    source = VALUES_WITH_KIND if key == "kind" else VALUES
    found = f"select item from {source} where path = ?{condition}"
    if key == TAG and kind in ("", "text"):
        found += f" union {OWN_TAGS}"
        if sign:
            names = made.compared("folded(name)", sign, [fold(name) for name in values])
            found += f" and tag in (select n from tag_names where {names})"
    if key == AGREEMENT and kind in ("", "number"):
        found += f" union {OWN_AGREEMENT}"
        if sign:
            found += f" and {made.compared('score', sign, values)}"
    if key == ADDED and kind in ("", "text"):
        found += f" union {OWN_ADDED}"
        if sign:
            found += f" and {made.compared('added', sign, values)}"
    return f"items.n in ({found})"


def equal(key: str, value: Any, made: Statement) -> str:
    """SQL: a field has a value. None: there is no such field, or it is null."""
    if value is None:
        if key == DURATION:
            return "0"
        return f"(not {having(key, made)} or {having(key, made, 'null')})"
    if isinstance(value, bool):
        return having(key, made, str(value).lower())
    if isinstance(value, dict | list):
        check_value(value)
        kind, digest = digest_row(value)
        return having(key, made, kind, "=", [digest])
    return compare(key, "=", value, made)


def equal_to_one(key: str, values: list[Any], made: Statement) -> str:
    """SQL: a field has one of the values. Those of a kind are one condition: SQLite's time to read
    a statement grows with the square of its conditions.
    """
    parts = [
        equal(key, one, made)
        for one in (None, True, False)
        if any(value is one for value in values)
    ]
    by_kind: dict[str, list[Any]] = {}
    for value in values:
        if isinstance(value, dict | list):
            check_value(value)
            kind, digest = digest_row(value)
            by_kind.setdefault(kind, []).append(digest)
        elif isinstance(value, str):
            by_kind.setdefault("text", []).append(compose(value))
        elif value is not None and not isinstance(value, bool):
            kind, number = exact_row(value)
            by_kind.setdefault(kind, []).append(number)
    parts += [having(key, made, kind, "in", found) for kind, found in by_kind.items()]
    numbers = [to_float(value) for value in values if is_number(value)]
    if key == DURATION and numbers:
        parts.append(made.compared("duration_s", "in", numbers))
    return joined("or", parts, "0")


def check_value(value: dict[str, Any] | list[Any]) -> None:
    """Raises BadFilter where no metadata can hold an object or a list."""
    left: list[tuple[Any, int]] = [(value, 1)]
    while left:
        part, depth = left.pop()
        if isinstance(part, dict | list):
            if depth > METADATA_MAX_DEPTH:
                raise BadFilter(f"a value has at most {METADATA_MAX_DEPTH} levels")
            inner = [*part, *part.values()] if isinstance(part, dict) else part
            left += [(each, depth + 1) for each in inner]
        elif isinstance(part, str):
            check_text(part)
        elif isinstance(part, float) and not is_finite(part):
            raise BadFilter("a number is finite")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def exact_row(value: int | float) -> tuple[str, int | float | str]:
    """The kind and value of the row that a number is equal to. Raises BadFilter."""
    if not is_finite(value):
        raise BadFilter("a number is finite")
    return list(number_rows(value))[-1]


def compare(key: str, sign: str, value: Any, made: Statement) -> str:
    """A comparison within one type: a number is never more or less than a string. True is no
    number.
    """
    if isinstance(value, bool):
        raise BadFilter("true and false have no order")
    if isinstance(value, str):
        return having(key, made, "text", sign, [compose(value)])
    if not isinstance(value, int | float):
        raise BadFilter(f"a text or a number is compared, not {type(value).__name__}")
    kind, number = exact_row(value)
    if sign == "=" or kind == "number":
        parts = [having(key, made, kind, sign, [number])]
    else:
        # the rounded numbers, and all digits of those that are rounded to the same
        rounded = having(key, made, "number", sign[0], [to_float(value)])
        parts = [rounded, having_digits(key, made, sign, str(number))]
    if key == DURATION:
        parts.append(made.compared("duration_s", sign, [to_float(value)]))
    return joined("or", parts, "0")


# ---------------------------------------------------------------- what can be asked for

Row = tuple[str, str, Any]  # a path in metadata, a kind, a value


def metadata_values(metadata: dict[str, Any]) -> list[Row]:
    """What a filter can ask about metadata, as (path, kind, value), each once. A path is of keys
    and numbers of a list's elements, joined by dots.

    >>> rows = metadata_values({"lang": "de", "place": [{"city": "Ulm"}]})
    >>> [row for row in rows if row[1] == "text"]
    [('lang', 'text', 'de'), ('place.0.city', 'text', 'Ulm'), ('place.city', 'text', 'Ulm')]
    """
    rows = (row for key, value in metadata.items() for row in rows_below(compose(key), value))
    return list(dict.fromkeys(rows))


def rows_below(path: str, value: Any) -> Iterator[Row]:
    """The rows of a value, and of all that is in it."""
    yield from rows_at(path, value)
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from rows_below(f"{path}.{compose(key)}", inner)
    elif isinstance(value, list):
        for element in value:
            yield from rows_at(path, element)
        yield from rows_in_list(path, value)


def rows_in_list(path: str, elements: list[Any]) -> Iterator[Row]:
    """The rows of a list's elements by their numbers, and of the fields of its objects, with and
    without these. As in Mongo, a list in a list is not led into without its number.
    """
    yield path, "size", len(elements)
    for number, element in enumerate(elements):
        inner = f"{path}.{number}"
        if isinstance(element, list):
            yield from rows_at(inner, element)
            yield from rows_in_list(inner, element)
        else:
            yield from rows_below(inner, element)
        if isinstance(element, dict):
            for key, value in element.items():
                yield from rows_below(f"{path}.{compose(key)}", value)


def rows_at(path: str, value: Any) -> Iterator[Row]:
    """The rows of a value itself."""
    if value is None:
        yield path, "null", None
    elif isinstance(value, bool):
        yield path, str(value).lower(), None
    elif isinstance(value, str):
        yield path, "text", compose(value)
    elif isinstance(value, dict | list):
        yield path, *digest_row(value)
    else:
        for kind, number in number_rows(value):
            yield path, kind, number


def number_rows(value: int | float) -> Iterator[tuple[str, int | float | str]]:
    """A number as SQLite compares it. Beyond its whole numbers there is a rounded one for the
    order, and one of kind "integer", all digits as a text.

    >>> list(number_rows(2**63)), list(number_rows(0.5))
    ([('number', 9.223372036854776e+18), ('integer', '9223372036854775808')], [('number', 0.5)])
    """
    if abs(value) < INTEGERS:
        yield "number", value
        return
    yield "number", to_float(value)
    yield "integer", format(int(value), "d")


def to_float(value: int | float) -> float:
    """A number as a float; infinity beyond all floats."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def having_digits(key: str, made: Statement, sign: str, digits: str) -> str:
    """SQL: a field has a whole number of the same sign that is kept by its digits, and compares so
    with one of these `digits`.
    """
    negative = digits.startswith("-")
    if negative:  # more digits are less
        sign = sign.translate(str.maketrans("<>", "><"))
    made.params += [compose(key), len(digits), digits]
    return (
        f"items.n in (select item from {VALUES} where path = ? and kind = 'integer'"
        f" and (value < '0') = {negative:d} and (length(value), value) {sign} (?, ?))"
    )


def is_finite(value: int | float) -> bool:
    return isinstance(value, int) or math.isfinite(value)


def digest_row(value: dict[str, Any] | list[Any]) -> tuple[str, bytes]:
    """The kind of an object or list, and a digest that equal ones share: 1 equals 1.0, and the
    order of keys does not count.
    """
    text = json.dumps(normal(value), sort_keys=True)
    kind = "object" if isinstance(value, dict) else "list"
    return kind, hashlib.blake2b(text.encode(), digest_size=16).digest()


def normal(value: Any) -> Any:
    if isinstance(value, dict):
        return {compose(key): normal(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [normal(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return compose(value) if isinstance(value, str) else value


def compose(text: str) -> str:
    return unicodedata.normalize("NFC", text)
