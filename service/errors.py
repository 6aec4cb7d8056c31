"""One table from error to status. Routes do not catch; a class covers its family.

ServiceError
├── BadRequest       a request that makes no sense
├── UnknownModel     embeddings of a model that this service has not
├── BadKey           no key, or none we know
│   └── BadLink      a link that has ended, or is of something else
├── BadHost          a service without keys, asked by a name that is not its own
├── CrossOrigin      a page of another origin wants to change something
├── BadRange         ranges of bytes that are none
├── PackedBody       a body in a coding that is not undone here
├── BodyTooLarge     more bytes than a request may have
├── SlowBody         bytes that trickle in
├── Overloaded       a queue is full
├── OverQuota        a key has had its share
├── CannotReload     not now, or not this process
├── DiskFull         nothing can be added
├── TimedOut         it was not encoded in time
└── ShuttingDown     the service is going away
"""

from __future__ import annotations

import inspect
import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Scope

from export.bundle import BadBundle, NoRoute
from export.encoder import EncoderError
from index.collection import (
    BadName,
    CollectionError,
    CollectionExists,
    DataInUse,
    FingerprintConflict,
    ItemExists,
    NoPreview,
    NoVectors,
    RecordsLost,
    UnknownCollection,
)
from index.ingest.reembed import NotReady
from index.records.database import UnknownItem
from index.records.filters import BadFilter
from index.records.schema import UnknownSchema
from index.vectors.store import VectorStoreFailed
from media.errors import BadConfig, BadMedia, BadText, BeyondBudget, DecodersClosed, NotMedia
from media.manifest import BadManifest, BadMetadata

from .jobs import JobError, NoImports, TooManyJobs, UnknownJob, UnknownPath


class ServiceError(Exception):
    """A request the service turns down."""


class BadRequest(ServiceError):
    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class UnknownModel(ServiceError):
    def __init__(self, model: str, known: str) -> None:
        super().__init__(f"no model {model!r}; this service has {known!r}")
        self.model, self.known = model, known


class BadKey(ServiceError):
    def __init__(
        self, problem: str = "this service wants a key it knows, as 'Authorization: Bearer KEY'"
    ) -> None:
        super().__init__(problem)


class BadLink(BadKey):
    def __init__(self) -> None:
        super().__init__("this link has ended, or is not for this: ask for another, with the key")


class BadHost(ServiceError):
    def __init__(self, host: str) -> None:
        super().__init__(
            f"without keys this service goes by localhost, not {host!r} (TERCET_HOSTS)"
        )
        self.host = host


class CrossOrigin(ServiceError):
    def __init__(self, origin: str) -> None:
        super().__init__(f"a page of {origin!r} may not change anything here")
        self.origin = origin


class BadRange(ServiceError):
    def __init__(self, range: str) -> None:
        super().__init__(f"{range[:80]!r} is no range of bytes; as in bytes=0-99")
        self.range = range[:80]


class PackedBody(ServiceError):
    def __init__(self, coding: str) -> None:
        super().__init__(f"send the body as it is: the coding {coding[:80]!r} is not undone here")
        self.coding = coding[:80]


class BodyTooLarge(ServiceError):
    def __init__(self, limit_mb: int) -> None:
        super().__init__(f"a request may have at most {limit_mb} MB")
        self.limit_mb = limit_mb


class Overloaded(ServiceError):
    def __init__(self, queue: str, retry_s: int = 1) -> None:
        super().__init__(f"the {queue} queue is full")
        self.queue, self.retry_s = queue, retry_s


class OverQuota(ServiceError):
    def __init__(self, what: str, allowed: str, retry_s: int) -> None:
        super().__init__(f"this key has had its {what}: {allowed}")
        self.what, self.allowed, self.retry_s = what, allowed, retry_s


class SlowBody(ServiceError):
    def __init__(self, limit_s: float) -> None:
        super().__init__(f"the request's body took longer than {limit_s:g} s to arrive")
        self.limit_s = limit_s


class CannotReload(ServiceError):
    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class DiskFull(ServiceError):
    def __init__(self, limit_mb: int) -> None:
        super().__init__(
            f"the disk is full: less than {limit_mb} MB are free; items can be found and deleted"
        )
        self.limit_mb = limit_mb


class TimedOut(ServiceError):
    def __init__(self, limit_s: float, retry_s: int = 1) -> None:
        super().__init__(f"it was not encoded within {limit_s:g} s")
        self.limit_s, self.retry_s = limit_s, retry_s


class ShuttingDown(ServiceError):
    def __init__(self) -> None:
        super().__init__("the service is shutting down")


STATUS: dict[type[Exception], tuple[int, str | None]] = {
    # class -> status, code (None: the class says it itself)
    BadMedia: (422, None),
    NotMedia: (415, None),
    BeyondBudget: (413, None),
    BadText: (400, None),
    BadRequest: (400, "bad_request"),
    BadFilter: (400, "bad_filter"),
    BadName: (400, "bad_name"),
    BadManifest: (400, "bad_manifest"),
    BadMetadata: (400, "bad_metadata"),
    UnknownModel: (404, "model_not_found"),
    BadKey: (401, "unauthorized"),
    BadLink: (401, "bad_link"),
    UnknownItem: (404, "unknown_item"),
    UnknownCollection: (404, "unknown_collection"),
    CollectionExists: (409, "collection_exists"),
    FingerprintConflict: (409, "fingerprint_conflict"),
    RecordsLost: (409, "records_lost"),
    NoRoute: (422, "no_route"),
    NoVectors: (422, "no_vectors"),
    ItemExists: (409, "item_exists"),
    NoPreview: (404, "no_preview"),
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
}
INTERNAL: dict[str, Any] = {
    "code": "internal",
    "message": "an internal error; the log says which",
    "detail": {},
}
HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 408: "too_slow", 413: "too_large"}


def entry(error: type[Exception]) -> tuple[int, str | None]:
    """The table's row for a class or the nearest of its bases."""
    for base in error.__mro__:
        if base in STATUS:
            return STATUS[base]
    return 500, "internal"


def body(error: Exception) -> dict[str, Any]:
    """The error as clients see it: {"code", "message", "detail"}."""
    _, code = entry(type(error))
    if isinstance(error, OSError):
        # without its path
        return {"code": code, "message": error.strerror or "a file could not be used", "detail": {}}
    # what its raiser gave, and nothing that was added later
    told = inspect.signature(type(error).__init__).parameters
    detail = {
        k: v
        for k, v in vars(error).items()
        if k in told and isinstance(v, str | int | float | bool)
    }
    said = {
        "code": code or getattr(error, "code", "error"),
        "message": str(error),
        "detail": detail,
    }
    cleaned: dict[str, Any] = json.loads(
        json.dumps(said, ensure_ascii=False).encode("utf-8", "replace")
    )
    return cleaned  # what a client sent and is told again may hold what UTF-8 cannot


def response(scope: Scope, error: Exception) -> JSONResponse:
    retry_s = getattr(error, "retry_s", None)
    headers = None if retry_s is None else {"Retry-After": str(retry_s)}
    if isinstance(error, BadKey):
        headers = {"WWW-Authenticate": "Bearer"}  # RFC 9110, 11.6.1
    if isinstance(error, PackedBody):
        headers = {"Accept-Encoding": "identity"}  # 15.5.16
    return answer(scope, body(error), entry(type(error))[0], headers)


def answer(
    scope: Scope, said: dict[str, Any], status: int, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The error as a response; where OpenAI's clients ask, with
    the fields that theirs have, too.
    """
    scope["tercet.error"] = said["code"]
    if scope["path"] == "/v1/embeddings":
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
        index = said["detail"].get("index")
        said = {**said, "type": kind, "param": None if index is None else f"input[{index}]"}
    return JSONResponse({"error": said}, status, headers)


def install(app: FastAPI) -> None:
    """Answer every error in the contract's shape; what nobody foresaw says nothing of the server's
    inside.
    """

    async def known(request: Request, error: Exception) -> JSONResponse:
        return response(request.scope, error)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        problems = [
            f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()
        ]
        return response(request.scope, BadRequest("; ".join(problems)[:2000]))

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = HTTP_CODES.get(error.status_code, "bad_request")
        said = {"code": code, "message": str(error.detail), "detail": {}}
        return answer(request.scope, said, error.status_code, error.headers)

    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        return answer(request.scope, INTERNAL, 500)

    for kind in STATUS:
        app.add_exception_handler(kind, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unforeseen)
