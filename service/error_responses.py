"""The HTTP status of each error, and how an error is answered. Routes do not catch errors.

`STATUS` is the one table from class to status. A class covers its subclasses.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette._utils import get_route_path
from starlette.exceptions import HTTPException
from starlette.types import Scope

from export.bundle import BadBundle, NoRoute
from export.cells import NoCells
from export.encoder import EncoderError
from export.fusion import BadWeights
from index.collection import (
    BadName,
    CollectionError,
    CollectionExists,
    CollectionUnusable,
    DataInUse,
    FingerprintConflict,
    ItemExists,
    NoPreview,
    NoVectors,
    RecordsLost,
    UnknownCollection,
)
from index.ingest.reembed import NotReady
from index.records.filters import BadFilter
from index.records.item import UnknownItem
from index.records.marks import UnknownMark
from index.records.schema import UnknownSchema
from index.vectors.store import VectorStoreFailed
from media.errors import (
    BadConfig,
    BadMedia,
    BadStretch,
    BadText,
    BeyondBudget,
    DecodersClosed,
    NotMedia,
)
from media.manifest import BadManifest, BadMetadata, DuplicateKey
from media.readers import ReaderMissing

from .exceptions import (
    BadHost,
    BadKey,
    BadLink,
    BadRange,
    BadRequest,
    BodyTooLarge,
    CannotReload,
    CrossOrigin,
    DiskFull,
    Forbidden,
    Overloaded,
    OverQuota,
    PackedBody,
    ServiceError,
    ShuttingDown,
    SlowBody,
    TimedOut,
    UnknownModel,
)
from .jobs import JobError, NoImports, TooManyJobs, UnknownJob, UnknownPath
from .keys import BadKeyFile, KeyProblem

Found = TypeVar("Found")

STATUS: dict[type[Exception], tuple[int, str | None]] = {
    # class -> status and code, None where the class has a `code` of its own
    BadMedia: (422, None),
    NotMedia: (415, None),
    BeyondBudget: (413, None),
    BadText: (400, None),
    BadStretch: (400, None),
    BadRequest: (400, "bad_request"),
    DuplicateKey: (400, "bad_request"),
    BadFilter: (400, "bad_filter"),
    BadName: (400, "bad_name"),
    BadManifest: (400, "bad_manifest"),
    BadMetadata: (400, "bad_metadata"),
    UnknownModel: (404, "model_not_found"),
    BadKey: (401, "unauthorized"),
    BadLink: (401, "bad_link"),
    Forbidden: (403, "forbidden"),
    KeyProblem: (500, "keys"),
    BadKeyFile: (503, "bad_keys"),
    UnknownItem: (404, "unknown_item"),
    UnknownMark: (404, "unknown_mark"),
    UnknownCollection: (404, "unknown_collection"),
    CollectionExists: (409, "collection_exists"),
    FingerprintConflict: (409, "fingerprint_conflict"),
    RecordsLost: (409, "records_lost"),
    CollectionUnusable: (503, "collection_unusable"),
    NoRoute: (422, "no_route"),
    NoVectors: (422, "no_vectors"),
    NoCells: (422, "no_cells"),
    ItemExists: (409, "item_exists"),
    NoPreview: (404, "no_preview"),
    ReaderMissing: (500, "reader_missing"),
    BadHost: (421, "bad_host"),
    CrossOrigin: (403, "cross_origin"),
    DecodersClosed: (503, "shutting_down"),
    BadRange: (400, "bad_range"),
    PackedBody: (415, "packed_body"),
    BodyTooLarge: (413, "too_large"),
    Overloaded: (429, "overloaded"),
    CannotReload: (409, "cannot_reload"),
    NotReady: (409, "not_ready"),
    OverQuota: (429, "over_quota"),
    SlowBody: (408, "too_slow"),
    JobError: (500, "job"),
    NoImports: (400, "no_imports"),
    UnknownPath: (404, "unknown_path"),
    TooManyJobs: (429, "too_many_jobs"),
    UnknownJob: (404, "unknown_job"),
    DiskFull: (503, "storage"),
    TimedOut: (503, "timed_out"),
    ShuttingDown: (503, "shutting_down"),
    DataInUse: (503, "data_in_use"),
    VectorStoreFailed: (503, "vector_store"),
    OSError: (503, "storage"),
    sqlite3.OperationalError: (503, "storage"),  # a full disk, above all
    CollectionError: (500, "collection"),
    UnknownSchema: (500, "unknown_schema"),
    ServiceError: (500, "service"),
    BadBundle: (500, "bad_bundle"),
    BadConfig: (500, "bad_config"),
    EncoderError: (500, "encoder"),
    BadWeights: (500, "encoder"),
}
INTERNAL: dict[str, Any] = {
    "code": "internal",
    "message": "Internal error. See the log.",
    "detail": {},
}
PROBLEMS_MAX = 2000  # letters
FILE_INDEX = "file_index"  # of an error: see `tell_which`
NO_OBJECT = "the body is a JSON object"
NO_JSON = "the body is JSON: send it with the header Content-Type: application/json"
HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}


class BodyProblem(HTTPException):
    """An error while a body is read. FastAPI lets only its own kind out of a body's parser."""

    def __init__(self, error: Exception) -> None:
        super().__init__(status_and_code(type(error))[0], str(error))
        self.error = error


def status_and_code(error: type[Exception]) -> tuple[int, str | None]:
    """The table's row for a class or the nearest of its bases."""
    for base in error.__mro__:
        if base in STATUS:
            return STATUS[base]
    return 500, "internal"


async def tell_which(work: Awaitable[Found], index: int | None) -> Found:
    """What is made of a file, one of several parts of a request. An error says which of them it is
    about: `index` is its place, from 0, None where it is alone.
    """
    try:
        return await work
    except (BadMedia, BadRequest) as error:
        setattr(error, FILE_INDEX, index)
        raise


def error_body(error: Exception) -> dict[str, Any]:
    """The error as clients see it: {"code", "message", "detail"}.

    The detail holds the attributes that the class lists in `detail_fields`, without those that are
    None.
    """
    _, code = status_and_code(type(error))
    if isinstance(error, OSError):
        # its own text has a path of this machine
        return {
            "code": code,
            "message": error.strerror or "A file could not be used.",
            "detail": {},
        }
    fields = {name: getattr(error, name) for name in getattr(error, "detail_fields", ())}
    message = str(error)
    index = getattr(error, FILE_INDEX, None)
    if index is not None:
        fields["index"] = index
        message = f"the file of index {index}: {message}"
    body = {
        "code": code or getattr(error, "code", "error"),
        "message": message,
        "detail": {name: value for name, value in fields.items() if value is not None},
    }
    # a client's own words may hold characters that UTF-8 cannot encode
    encoded = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
    cleaned: dict[str, Any] = json.loads(encoded)
    return cleaned


def error_response(scope: Scope, error: Exception) -> JSONResponse:
    status, _ = status_and_code(type(error))
    retry_s = getattr(error, "retry_s", None)
    headers = None if retry_s is None else {"Retry-After": str(retry_s)}
    if isinstance(error, BadKey):
        headers = {"WWW-Authenticate": "Bearer"}  # RFC 9110, 11.6.1
    if isinstance(error, PackedBody):
        headers = {"Accept-Encoding": "identity"}  # RFC 9110, 15.5.16
    return json_response(scope, error_body(error), status, headers)


def json_response(
    scope: Scope, body: dict[str, Any], status: int, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error's body as a response. OpenAI's clients also get the fields that OpenAI sends."""
    scope["tercet.error"] = body["code"]
    if get_route_path(scope) == "/v1/embeddings":
        types = {401: "authentication_error", 429: "rate_limit_error"}
        default = "invalid_request_error" if status < 500 else "server_error"
        index = body["detail"].get("index")
        param = None if index is None else f"input[{index}]"
        body = {**body, "type": types.get(status, default), "param": param}
    return JSONResponse({"error": body}, status, headers)


def install_handlers(app: FastAPI) -> None:
    """Answer every error in the contract's shape. An unexpected one tells nothing of the server."""

    async def answer_listed(request: Request, error: Exception) -> JSONResponse:
        return error_response(request.scope, error)

    async def answer_invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        problem = describe_problems(error.errors())
        if any(problem_of_body(found) for found in error.errors()):
            problem = NO_OBJECT if "json" in request.headers.get("content-type", "") else NO_JSON
        return error_response(request.scope, BadRequest(problem))

    async def answer_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if isinstance(error, BodyProblem):
            return error_response(request.scope, error.error)
        if isinstance(error.__cause__, OSError):  # FastAPI takes a full disk for a bad body
            return error_response(request.scope, error.__cause__)
        code = HTTP_CODES.get(error.status_code, "bad_request")
        body = {"code": code, "message": str(error.detail), "detail": {}}
        return json_response(request.scope, body, error.status_code, error.headers)

    async def answer_unexpected(request: Request, error: Exception) -> JSONResponse:
        return json_response(request.scope, INTERNAL, 500)

    for listed in STATUS:
        app.add_exception_handler(listed, answer_listed)
    app.add_exception_handler(RequestValidationError, answer_invalid)
    app.add_exception_handler(HTTPException, answer_http)
    app.add_exception_handler(Exception, answer_unexpected)


def problem_of_body(problem: Mapping[str, Any]) -> bool:
    """Whether one of pydantic's errors is that the body as a whole is no JSON object."""
    return problem["type"] == "model_attributes_type" and tuple(problem["loc"]) == ("body",)


def describe_problems(errors: Sequence[Mapping[str, Any]]) -> str:
    """Pydantic's errors in a line: of each, where it is and what it is."""
    return "; ".join(describe_problem(error) for error in errors)[:PROBLEMS_MAX]


def describe_problem(error: Mapping[str, Any]) -> str:
    if error["msg"] == "JSON decode error":  # FastAPI's, with the place and the reason apart
        return f"the body is not JSON: {error['ctx']['error']} at letter {error['loc'][-1]}"
    where = ".".join(str(part) for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")  # what pydantic puts before our own
    return f"{where}: {message}" if where else message
