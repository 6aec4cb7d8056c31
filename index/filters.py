"""A small subset of Mongo's query language, compiled to SQL over an item's metadata and duration_s.

{"kind": "interview", "year": {"$gte": 2019}, "$or": [{"lang": "de"}, {"lang": {"$exists": false}}]}
"""

from __future__ import annotations

from typing import Any

COMPARISONS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
MAX_DEPTH = 8
MAX_TERMS = 100
Scalar = str | int | float | bool


class BadFilter(Exception):
    """A filter outside the subset."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


def compile_filter(query: dict[str, Any]) -> tuple[str, list[Any]]:
    """A filter to an SQL condition over columns `metadata` and `duration_s`, with its parameters.

    Raises:
        BadFilter: an unknown operator, a value of the wrong type, or one too deep or too long.

    >>> compile_filter({"duration_s": {"$lt": 5}})
    ("(typeof(duration_s) in ('integer', 'real') and duration_s < ?)", [5])
    """
    params: list[Any] = []
    return conjunction(query, params, 0), params


def conjunction(query: Any, params: list[Any], depth: int) -> str:
    if not isinstance(query, dict):
        raise BadFilter(f"a filter is an object, not {type(query).__name__}")
    if depth > MAX_DEPTH or len(params) > MAX_TERMS:
        raise BadFilter(f"at most {MAX_DEPTH} levels and about {MAX_TERMS} values")
    return joined("and", [term(key, value, params, depth) for key, value in query.items()], "1")


def joined(word: str, parts: list[str], empty: str) -> str:
    return f"({f' {word} '.join(parts)})" if len(parts) > 1 else parts[0] if parts else empty


def term(key: str, value: Any, params: list[Any], depth: int) -> str:
    if key in ("$and", "$or"):
        if not isinstance(value, list) or not value:
            raise BadFilter(f"{key} takes a list that is not empty")
        return joined(key[1:], [conjunction(part, params, depth + 1) for part in value], "1")
    if key == "$not":
        return f"not ({conjunction(value, params, depth + 1)})"
    if key.startswith("$"):
        raise BadFilter(f"unknown operator {key}")
    if isinstance(value, dict):
        return joined("and", [condition(key, op, given, params) for op, given in value.items()], "1")
    return equal(key, value, params)


def condition(key: str, op: str, given: Any, params: list[Any]) -> str:
    if op == "$not":
        return f"not ({joined('and', [condition(key, o, g, params) for o, g in as_dict(given).items()], '1')})"
    if op == "$exists":
        if not isinstance(given, bool):
            raise BadFilter("$exists takes true or false")
        return f"{kind(key, params)} is {'not ' if given else ''}null"
    if op == "$in":
        if not isinstance(given, list) or len(given) > MAX_TERMS:
            raise BadFilter(f"$in takes a list of at most {MAX_TERMS} values")
        return joined("or", [equal(key, v, params) for v in given], "0")
    if op in COMPARISONS:
        return compare(key, COMPARISONS[op], given, params)
    raise BadFilter(f"unknown operator {op}")


def as_dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadFilter("$not takes an object")
    return value


def column(key: str, params: list[Any]) -> str:
    """The SQL value of a field; a dot goes down into an object."""
    if key == "duration_s":
        return "duration_s"
    params.append(path(key))
    return "json_extract(metadata, ?)"


def kind(key: str, params: list[Any]) -> str:
    """The JSON type of a field, null where it is absent."""
    if key == "duration_s":
        return "duration_s"
    params.append(path(key))
    return "json_type(metadata, ?)"


def path(key: str) -> str:
    if '"' in key or "\0" in key or not key:
        raise BadFilter("a field's name is not empty and holds no quote")
    return "$" + "".join(f'."{part}"' for part in key.split("."))


def checked(value: Any) -> Scalar:
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | float) and abs(value) < 2**63:
        return value
    raise BadFilter(f"a value is a string, a number, true, false or null, not {type(value).__name__}")


def equal(key: str, value: Any, params: list[Any]) -> str:
    if value is None:
        return f"coalesce({kind(key, params)}, 'null') = 'null'"
    value = checked(value)
    if isinstance(value, bool):
        return f"coalesce({kind(key, params)}, '') = '{str(value).lower()}'"
    return compare(key, "=", value, params)


def compare(key: str, sign: str, value: Any, params: list[Any]) -> str:
    """A comparison within one type: a number is never more or less than a string. True is no number."""
    value = checked(value)
    if isinstance(value, bool):
        raise BadFilter("true and false have no order")
    if key == "duration_s":
        types = "('text')" if isinstance(value, str) else "('integer', 'real')"
        params.append(value)
        return f"(typeof(duration_s) in {types} and duration_s {sign} ?)"
    types = "('text')" if isinstance(value, str) else "('integer', 'real')"
    where = f"coalesce({kind(key, params)}, '') in {types}"
    where = f"({where} and {column(key, params)} {sign} ?)"
    params.append(value)
    return where
