"""Answers requests for stored files and pictures by RFC 9110: entity tags, conditions, ranges and
HEAD.

Starlette sends a file and its parts. This module decides what is sent.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal

from anyio import AsyncFile, wrap_file
from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from .error_responses import error_response, json_response
from .exceptions import BadRange

RANGES_MOST = 100  # a request for more ranges gets the whole file
DIGITS_MOST = 18  # of an offset; a longer one is beyond the end of every file
TAG = re.compile(r'(W/)?("[^"]*")')
RANGE = re.compile(r"([0-9]*)-([0-9]*)")


@dataclass(frozen=True)
class Version:
    """The version of a file or picture: a strong entity tag and, if known, when it changed, in Unix
    time in whole seconds.
    """

    tag: str
    changed_s: int | None = None

    def headers(self) -> dict[str, str]:
        dated = (
            {}
            if self.changed_s is None
            else {"Last-Modified": formatdate(self.changed_s, usegmt=True)}
        )
        return {"ETag": self.tag} | dated

    def refusal(self, asked: Headers) -> int | None:
        """304 or 412 if a request's conditions demand it (RFC 9110, 13.2.2), else None."""
        if match := listed(asked, "if-match"):
            if match != "*" and ("", self.tag) not in TAG.findall(match):
                return 412
        elif self.changed_after(asked.get("if-unmodified-since")):
            return 412
        if unless := listed(asked, "if-none-match"):
            same = unless == "*" or self.tag in (tag for _, tag in TAG.findall(unless))
            return 304 if same else None
        return 304 if self.changed_after(asked.get("if-modified-since")) is False else None

    def changed_after(self, date: str | None) -> bool | None:
        """Whether it changed after an HTTP date; None if either time is unknown."""
        then = None if date is None else seconds_of(date)
        return None if then is None or self.changed_s is None else self.changed_s > then

    def still(self, before: str | None) -> bool:
        """Whether `before`, the value of If-Range, names this version; True without a value."""
        return before is None or before in self.headers().values()


def listed(asked: Headers, name: str) -> str:
    return ", ".join(asked.getlist(name)).strip()


def seconds_of(date: str) -> float | None:
    """An HTTP date in Unix time, seconds; None if it is not valid."""
    try:
        moment = parsedate_to_datetime(date)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def ranges_of(asked: str, size: int) -> list[tuple[int, int]] | None:
    """The ranges [first, end) of a Range header that lie in a file of `size` bytes.

    None if the header is to be ignored: an unknown unit, or more than RANGES_MOST ranges.

    >>> ranges_of("bytes=0-9, -5, 200-", 100)
    [(0, 10), (95, 100)]
    >>> ranges_of("bytes=200-", 100)
    []

    Raises:
        BadRange: it is not valid.
    """
    unit, _, given = asked.partition("=")
    parts = [part.strip() for part in given.split(",") if part.strip()]
    if unit.strip().lower() != "bytes" or len(parts) > RANGES_MOST:
        return None
    found = []
    for part in parts:
        said = RANGE.fullmatch(part)
        if said is None or part == "-":
            raise BadRange(part)
        first, last = (place_of(digits) for digits in said.groups())
        if first is not None and last is not None and last < first:
            raise BadRange(part)
        if first is None:
            first = max(size - (last or 0), 0)
            last = None
        if first < size:
            found.append((first, size if last is None else min(last + 1, size)))
    if not parts:
        raise BadRange(given)
    return found


def place_of(digits: str) -> int | None:
    if not digits:
        return None
    return int(digits) if len(digits) <= DIGITS_MOST else 10**DIGITS_MOST


class Stored(FileResponse):
    """An answer with a file on the disk, as it is when the answer is made: it may be replaced or
    deleted before it is sent.
    """

    def __init__(
        self,
        path: Path,
        media_type: str,
        filename: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        version: Version | None = None,
        disposition: Literal["inline", "attachment"] = "inline",
    ) -> None:
        """Raises OSError."""
        self._file = path.open("rb")
        stat = os.fstat(self._file.fileno())
        self.version = version or version_of(stat)
        self._again = dict(headers or {})
        super().__init__(
            path,
            headers=self.version.headers() | self._again,
            media_type=media_type,
            filename=filename,
            stat_result=stat,
            content_disposition_type=disposition,
        )
        self._size = stat.st_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await self._answer(scope, receive, send)

    @asynccontextmanager
    async def _open_file(self) -> AsyncIterator[AsyncFile[bytes]]:
        """In place of Starlette's, which opens the file when the answer has begun."""
        yield wrap_file(self._file)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = Headers(scope=scope)
        refusal = refused(scope, self.version, asked, self._again)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        rest = [
            (name, value) for name, value in scope["headers"] if name not in (b"range", b"if-range")
        ]
        ranges = None
        if (
            scope["method"] == "GET"
            and "range" in asked
            and self.version.still(asked.get("if-range"))
        ):
            try:
                ranges = ranges_of(asked["range"], self._size)
            except BadRange as problem:
                await error_response(scope, problem)(scope, receive, send)
                return
        if ranges == []:
            said = f"The file has no such range of bytes: it has {self._size} bytes."
            there = {"Content-Range": f"bytes */{self._size}"} | self.version.headers()
            await json_response(scope, error("bad_range", said), 416, there)(scope, receive, send)
            return
        if ranges:
            written = ",".join(f"{first}-{end - 1}" for first, end in ranges)
            rest.append((b"range", f"bytes={written}".encode()))
        await super().__call__({**scope, "headers": rest}, receive, send)


class Picture(Response):
    """An answer with a picture held in memory."""

    def __init__(self, data: bytes, media_type: str, headers: Mapping[str, str]) -> None:
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        self.version = Version(f'"{digest}"')
        self._again = dict(headers)
        super().__init__(data, media_type=media_type, headers=self.version.headers() | self._again)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = refused(scope, self.version, Headers(scope=scope), self._again)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            self.body = b""
        await super().__call__(scope, receive, send)


def version_of(stat: os.stat_result) -> Version:
    """A file's version. It changes with the content, and also if an older file replaces the file:
    so the later of modification and status change counts.
    """
    seen = f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"
    tag = hashlib.blake2b(seen.encode(), digest_size=16).hexdigest()
    changed_s = max(stat.st_mtime, stat.st_ctime)
    return Version(f'"{tag}"', int(min(changed_s, time.time())))


def refused(
    scope: Scope, version: Version, asked: Headers, headers: Mapping[str, str]
) -> Response | None:
    """The answer that a request's conditions demand, 304 or 412; None without one."""
    status = version.refusal(asked)
    if status == 304:
        return Response(status_code=304, headers=version.headers() | dict(headers))
    if status == 412:
        said = "Precondition failed: the item has been replaced since."
        return json_response(scope, error("precondition_failed", said), 412, version.headers())
    return None


def error(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "detail": {}}
