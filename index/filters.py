"""A small subset of Mongo's query language, compiled to SQL over an item's metadata and duration_s.

{"kind": "interview", "year": {"$gte": 2019}, "$or": [{"lang": "de"}, {"lang": {"$exists": false}}]}
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from model.manifest import encodable

COMPARISONS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
MAX_DEPTH = 16  # of nested operators
MAX_TERMS = 200
MAX_CHARACTERS = 256  # of a field's name
Scalar = str | int | float | bool


class BadFilter(Exception):
    """A filter outside the subset."""

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
    """A filter to an SQL condition over columns `metadata` and `duration_s`, with its parameters.

    Raises:
        BadFilter: an unknown operator, a value of the wrong type, or one too deep or too long.

    >>> compile_filter({"duration_s": {"$lt": 5}})
    ("(typeof(duration_s) in ('integer', 'real') and duration_s < ?)", [5])
    """
    made = Statement()
    where = conjunction(query, made, 0)
    try:
        for text in (p for p in made.params if isinstance(p, str)):
            encodable(text)
    except ValueError as error:
        raise BadFilter("a text is not UTF-8") from error
    return where, made.params


def conjunction(query: Any, made: Statement, depth: int) -> str:
    made.count(depth)
    if not isinstance(query, dict):
        raise BadFilter(f"a filter is an object, not {type(query).__name__}")
    return joined("and", [term(key, value, made, depth + 1) for key, value in query.items()], "1")


def joined(word: str, parts: list[str], empty: str) -> str:
    return f"({f' {word} '.join(parts)})" if len(parts) > 1 else parts[0] if parts else empty


def term(key: str, value: Any, made: Statement, depth: int) -> str:
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
    if not isinstance(given, dict) or not given:
        raise BadFilter("an object of operators is not empty")
    return joined("and", [condition(key, op, value, made, depth + 1) for op, value in given.items()], "1")


def condition(key: str, op: str, given: Any, made: Statement, depth: int) -> str:
    made.count(depth)
    if op == "$not":
        return f"not ({conditions(key, given, made, depth)})"
    if op == "$exists":
        if not isinstance(given, bool):
            raise BadFilter("$exists takes true or false")
        return f"{kind(key, made)} is {'not ' if given else ''}null"
    if op == "$in":
        if not isinstance(given, list) or len(given) > MAX_TERMS:
            raise BadFilter(f"$in takes a list of at most {MAX_TERMS} values")
        return joined("or", [equal(key, value, made) for value in given], "0")
    if op in COMPARISONS:
        return compare(key, COMPARISONS[op], given, made)
    raise BadFilter(f"unknown operator {op!a}")


def column(key: str, made: Statement) -> str:
    """The SQL value of a field; a dot goes down into an object."""
    if key == "duration_s":
        return "duration_s"
    made.params.append(path(key))
    return "json_extract(metadata, ?)"


def kind(key: str, made: Statement) -> str:
    """The JSON type of a field, null where it is absent."""
    if key == "duration_s":
        return "'real'"
    made.params.append(path(key))
    return "json_type(metadata, ?)"


def path(key: str) -> str:
    if '"' in key or "\0" in key or not key or len(key) > MAX_CHARACTERS:
        raise BadFilter(f"a field's name is 1 to {MAX_CHARACTERS} characters without a quote")
    return "$" + "".join(f'."{part}"' for part in key.split("."))


def checked(value: Any) -> Scalar:
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | float) and abs(value) < 2**63:
        return value
    raise BadFilter(f"a value is a string, a number, true, false or null, not {type(value).__name__}")


def equal(key: str, value: Any, made: Statement) -> str:
    if value is None:
        return f"coalesce({kind(key, made)}, 'null') = 'null'"
    value = checked(value)
    if isinstance(value, bool):
        return f"coalesce({kind(key, made)}, '') = '{str(value).lower()}'"
    return compare(key, "=", value, made)


def compare(key: str, sign: str, value: Any, made: Statement) -> str:
    """A comparison within one type: a number is never more or less than a string. True is no number."""
    value = checked(value)
    if isinstance(value, bool):
        raise BadFilter("true and false have no order")
    types = "('text')" if isinstance(value, str) else "('integer', 'real')"
    if key == "duration_s":
        made.params.append(value)
        return f"(typeof(duration_s) in {types} and duration_s {sign} ?)"
    where = f"(coalesce({kind(key, made)}, '') in {types} and {column(key, made)} {sign} ?)"
    made.params.append(value)
    return where
