"""Settings as JSON has them: their types and ranges, and what is said of one that does not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from media.errors import BadConfig

T = TypeVar("T")
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
ShareAboveZero = Annotated[float, Field(gt=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
PartOfAll = Annotated[float, Field(gt=0, lt=1)]


def read_settings(kind: type[T], values: Any, owner: str) -> T:
    """An instance of a dataclass, by what JSON has of its fields; lists become tuples.

    Raises:
        BadConfig: what `owner` has is no object, a setting that is not known or is missing, or a
            value of another type or outside its range.
    """
    if not isinstance(values, Mapping):
        raise BadConfig(f"{owner}: settings are an object of names and values, not {values!r}")
    known = [setting.name for setting in fields(kind)]  # type: ignore[arg-type]
    unknown = [name for name in values if name not in known]
    if unknown:
        named = ", ".join(map(repr, unknown))
        raise BadConfig(f"{owner} has no setting {named}; there are: {', '.join(known) or 'none'}")
    try:
        return TypeAdapter(kind).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        problems = [describe_problem(problem) for problem in error.errors()]
        raise BadConfig(f"{owner}: {'; '.join(problems)}") from error


def describe_problem(problem: ErrorDetails) -> str:
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return f"{name} is missing"
    return f"{name} is {problem['input']!r}: {problem['msg'].lower()}"
