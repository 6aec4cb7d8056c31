"""Read the bodies of requests: JSON, values in forms, uploaded files."""

from __future__ import annotations

import codecs
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any, TypeVar

from fastapi import Request
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import UploadFile

from media.manifest import read_json

from .. import schemas
from ..error_responses import describe_problems
from ..exceptions import BadRequest
from ..pipeline import temporary_file
from ..state import State

BYTE_ORDER_MARK = "\ufeff"
Body = TypeVar("Body", bound=schemas.Strict)


def content_type(request: Request) -> str:
    """The type of a request's body in lower case, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def parse_body(model: type[Body], raw: bytes) -> Body:
    """Raises BadRequest, which names the fields; DuplicateKey."""
    raw = raw.removeprefix(codecs.BOM_UTF8)
    with suppress(ValueError, RecursionError):  # pydantic says what is wrong
        read_json(raw)
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise BadRequest(describe_problems(error.errors())) from error


def parse_value(field: str, kind: Any, value: Any) -> Any:
    """The value of a field, checked as pydantic checks that type. Raises BadRequest."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise BadRequest(f"{field}: {describe_problems(error.errors())}") from error


def parse_filter(value: str | None) -> dict[str, Any] | None:
    """A filter as JSON, in a form or an address; None where there is none. Raises BadRequest."""
    if not value:
        return None
    filter: dict[str, Any] = parse_value("filter", dict[str, Any], parse_json("filter", value))
    return filter


def parse_json(field: str, value: str) -> Any:
    """JSON in a field of a form. Raises BadRequest, which names the field; DuplicateKey."""
    try:
        return read_json(value.removeprefix(BYTE_ORDER_MARK))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"{field} is not JSON") from error


def saved_upload(tercet: State, file: UploadFile) -> AbstractAsyncContextManager[Path]:
    """An uploaded file on disk until the context ends."""
    return temporary_file(file.file, tercet.uploads, file.filename)
