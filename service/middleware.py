"""What every request passes through: keys, quotas, a body's limits, headers, the audit, logs and
metrics.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable
from pathlib import Path

from starlette._utils import get_route_path
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import error_responses
from .access import CALLER, CHANGE, STRANGER, Caller, Change, RawHeaders
from .active import HOLD, Hold
from .audit import write_line
from .exceptions import BodyTooLarge, PackedBody, ServiceError, SlowBody
from .keys import BadKeyFile
from .owner import Owner
from .routes import takes_files
from .settings import Settings
from .trace import ACCESS, CURRENT, Trace, span

REQUEST_ID = re.compile(rb"[\w.-]{1,64}")
CLIENT_LEFT = 499  # what proxies log for a client that left before its answer
COLLECTION_PATH = "/v1/collections/"
PARAMETERS = {"name": "collection", "id": "item"}  # of the paths below it, as the audit has them
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)


class RequestMiddleware:
    def __init__(self, app: ASGIApp, owner: Owner) -> None:
        self._app = app
        self._owner = owner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(reversed(scope["headers"]))  # of a name's values the first, as routes read
        settings = self._owner.active.state.settings
        trace = Trace(request_id(headers), observe=self._owner.metrics.observe_stage)
        path = get_route_path(scope)
        body = Body(receive, headers, path, settings)
        hold = Hold(self._owner.active)
        scope[HOLD] = hold
        answer = Answer(scope, send, trace, body, hold, settings)
        token = CURRENT.set(trace)
        try:
            with span(f"HTTP {scope['method']}", headers):
                answer.caller = self._owner.gate.identify(scope, path, headers, settings)
                scope[CALLER] = answer.caller
                if path.startswith("/v1/"):
                    self._owner.active.state.quotas.requests.take(answer.caller.client)
                body.check_headers()
                work = self._app(scope, body.receive, answer.send)
                if not await while_connected(work, receive, body):
                    answer.status = CLIENT_LEFT
        except ClientDisconnect:
            answer.status = CLIENT_LEFT
        except (BadKeyFile, ServiceError) as error:
            await error_responses.error_response(scope, error)(scope, receive, answer.send)
        except Exception:  # an unexpected one tells nothing of the server
            ACCESS.exception("%s %s failed", scope["method"], scope["path"])
            if body.answered.is_set():
                raise
            response = error_responses.json_response(scope, error_responses.INTERNAL, 500)
            await response(scope, receive, answer.send)
        finally:
            hold.release()
            answer.record_change()
            self._record(scope, answer.status, answer.seconds())
            CURRENT.reset(token)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        """Count the request, and log it."""
        route = getattr(scope.get("route"), "path", "unmatched")
        metrics = self._owner.metrics
        metrics.requests.labels(route, str(status)).inc()
        metrics.seconds.labels(route).observe(seconds)
        if "tercet.error" in scope:
            metrics.errors.labels(scope["tercet.error"]).inc()
        if ACCESS.isEnabledFor(logging.INFO):
            method = scope["method"]
            ms = 1000 * seconds
            fields = {"method": method, "route": route, "status": status, "ms": round(ms, 1)}
            line = "%s %s %d %.1f ms"
            ACCESS.info(line, method, route, status, ms, extra={"fields": fields})


class Answer:
    """A request's answer on its way out: its status, and the headers that every answer has."""

    def __init__(
        self, scope: Scope, send: Send, trace: Trace, body: Body, hold: Hold, settings: Settings
    ) -> None:
        self._scope = scope
        self._send = send
        self._trace = trace
        self._body = body
        self._hold = hold
        self._audit = settings.audit
        self._began = time.perf_counter()
        self.caller = STRANGER
        self.status = 500

    def seconds(self) -> float:
        return time.perf_counter() - self._began

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._body.answered.set()
            self._hold.release()  # a takeover need not wait for a long download
            self._trace.stages["total"] = self.seconds()
            self.record_change()  # before the answer, so that whoever has it finds the line
            self._add_headers(message)
        await self._send(message)

    def record_change(self) -> None:
        record_change(self._scope, self.caller, self.status, self._audit, self._trace.id)

    def _add_headers(self, message: Message) -> None:
        headers = list(message.get("headers", []))
        if self.status == 405:
            headers = [(name, value) for name, value in headers if name.lower() != b"allow"]
            headers.append((b"allow", allowed_methods(self._scope)))
        cached = any(name.lower() == b"cache-control" for name, _ in headers)
        headers += HEADERS
        headers.append((b"x-request-id", self._trace.id.encode()))
        headers.append((b"server-timing", self._trace.server_timing.encode()))
        if self.caller.by in ("link", "session") and not cached:
            # else a cache on the way might give it to others
            headers.append((b"cache-control", b"private"))
        message["headers"] = headers


def record_change(scope: Scope, caller: Caller, status: int, file: Path | None, id: str) -> None:
    """Write the line of a request that changes something, once. `id` is the request's."""
    change: Change | None = scope.pop(CHANGE, None)
    if change is None:
        return
    entry = {
        "action": change.action,
        "key": caller.name,
        "by": caller.by,
        "identity": caller.identity,
        **subject_of(scope, change),
        "outcome": outcome_of(status),
        "status": status,
        "code": scope.get("tercet.error"),
        "request_id": id,
    }
    write_line(file, entry)


def subject_of(scope: Scope, change: Change) -> dict[str, str | None]:
    """What was changed, by the path and by what the route has found."""
    named: dict[str, str | None] = {"collection": None, "item": None}
    if scope["route"].path.startswith(COLLECTION_PATH):
        for parameter, value in scope.get("path_params", {}).items():
            named[PARAMETERS[parameter]] = value
    return named | change.about


def outcome_of(status: int) -> str:
    if status == CLIENT_LEFT:
        return "unknown"  # the change may have been made already
    if status < 400:
        return "done"
    return "refused" if status < 500 else "failed"


def request_id(headers: RawHeaders) -> str:
    """The id that a client has given the request, if it is a plain one; else a new one."""
    given = headers.get(b"x-request-id", b"")
    return given.decode() if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def allowed_methods(scope: Scope) -> bytes:
    """The methods that a path has, over all of its routes."""
    routes = [route for route in scope["app"].routes if isinstance(route, Route)]
    matching = [route.path for route in routes if route.matches(scope)[0] != Match.NONE]
    methods: set[str] = set()
    for route in routes:
        if route.path in matching[:1]:
            methods |= route.methods or set()
    return ", ".join(sorted(methods)).encode()


class Body:
    """A request's body as it arrives: checked for size and time."""

    def __init__(
        self, receive: Receive, headers: RawHeaders, path: str, settings: Settings
    ) -> None:
        is_form = headers.get(b"content-type", b"").lower().startswith(b"multipart/")
        has_files = is_form and takes_files(path)
        self._limit_mb = settings.upload_max_mb if has_files else settings.json_max_mb
        self._announced = headers.get(b"content-length", b"")
        self._coding = headers.get(b"content-encoding", b"identity").decode("latin-1")
        self._receive = receive
        self._max_s = settings.upload_max_s
        self._end = time.monotonic() + settings.upload_max_s
        self._bytes = 0
        self.received = asyncio.Event()  # all of it
        self.answered = asyncio.Event()

    def check_headers(self) -> None:
        """Raises BodyTooLarge, PackedBody."""
        if self._coding.strip().lower() not in ("", "identity"):
            raise PackedBody(self._coding)
        if self._announced.isdigit() and int(self._announced) > self._limit_mb * 1_000_000:
            raise BodyTooLarge(self._limit_mb)

    async def receive(self) -> Message:
        if self.received.is_set():
            return await self._receive()
        try:
            async with asyncio.timeout(self._end - time.monotonic()):
                message = await self._receive()
        except TimeoutError:
            raise error_responses.BodyProblem(SlowBody(self._max_s)) from None
        if not message.get("more_body", False):
            self.received.set()
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._limit_mb * 1_000_000:
            raise error_responses.BodyProblem(BodyTooLarge(self._limit_mb))
        return message


async def while_connected(work: Awaitable[None], receive: Receive, body: Body) -> bool:
    """Do a request's work. Cancel it and return False where the client leaves before its answer."""
    task = asyncio.ensure_future(work)
    left = False

    async def watch() -> None:
        nonlocal left
        await body.received.wait()
        while (await receive())["type"] != "http.disconnect":
            pass
        if not body.answered.is_set():
            left = task.cancel()

    watcher = asyncio.ensure_future(watch())
    try:
        await task
    except asyncio.CancelledError:
        if not left:
            task.cancel()  # the server's own doing, not the client's
            raise
    finally:
        watcher.cancel()
    return not left
