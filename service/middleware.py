"""What every request passes through: keys, quotas, a body's limits, headers, logs and metrics."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import time
import uuid
from collections.abc import Awaitable
from typing import NamedTuple
from urllib.parse import urlsplit

from fastapi.routing import APIRoute
from starlette._utils import get_route_path
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import error_responses
from .active import CLIENT, HOLD, Hold
from .exceptions import (
    BadHost,
    BadKey,
    BodyTooLarge,
    CrossOrigin,
    PackedBody,
    ServiceError,
    SlowBody,
)
from .links import token_in
from .owner import Owner
from .routes import ROUTES, takes_files
from .settings import Settings, is_loopback
from .trace import ACCESS, CURRENT, Trace, span

REQUEST_ID = re.compile(rb"[\w.-]{1,64}")
CLIENT_LEFT = 499  # what proxies log for a client that left before its answer
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)

RawHeaders = dict[bytes, bytes]


class Caller(NamedTuple):
    """Who asks. `client` is "" without keys."""

    client: str = ""
    by_link: bool = False


class RequestMiddleware:
    def __init__(self, app: ASGIApp, owner: Owner) -> None:
        self._app = app
        self._owner = owner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        settings = self._owner.active.state.settings
        trace = Trace(request_id(headers), observe=self._owner.metrics.observe_stage)
        path = get_route_path(scope)
        body = Body(receive, headers, path, settings)
        hold = Hold(self._owner.active)
        scope[HOLD] = hold
        answer = Answer(scope, send, trace, body, hold)
        token = CURRENT.set(trace)
        try:
            with span(f"HTTP {scope['method']}", headers):
                answer.caller = self._identify(scope, path, headers, settings)
                scope[CLIENT] = answer.caller.client
                if path.startswith("/v1/"):
                    self._owner.active.state.quotas.requests.take(answer.caller.client)
                body.check_headers()
                work = self._app(scope, body.receive, answer.send)
                if not await while_connected(work, receive, body):
                    answer.status = CLIENT_LEFT
        except ClientDisconnect:
            answer.status = CLIENT_LEFT
        except ServiceError as error:
            await error_responses.error_response(scope, error)(scope, receive, answer.send)
        except Exception:  # an unexpected one tells nothing of the server
            ACCESS.exception("%s %s failed", scope["method"], scope["path"])
            if body.answered.is_set():
                raise
            response = error_responses.json_response(scope, error_responses.INTERNAL, 500)
            await response(scope, receive, answer.send)
        finally:
            hold.release()
            self._record(scope, answer.status, answer.seconds())
            CURRENT.reset(token)

    def _identify(self, scope: Scope, path: str, headers: RawHeaders, settings: Settings) -> Caller:
        """Who asks for a path, by a key or by a link that a key has made.

        Raises BadHost, CrossOrigin, BadKey, BadLink.
        """
        keys = settings.api_keys
        if not keys and not settings.allow_open:
            check_same_origin(scope["method"], headers, settings.hosts)
        if not keys or not path.startswith("/v1/"):
            return Caller()
        token = token_in(scope["query_string"])
        if token is None or b"authorization" in headers:
            return Caller(authenticate(headers.get(b"authorization", b""), keys))
        clients = (client_of(key) for key in keys)
        maker = self._owner.links.maker(token, scope["method"], path, clients)
        return Caller(maker, by_link=True)

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

    def __init__(self, scope: Scope, send: Send, trace: Trace, body: Body, hold: Hold) -> None:
        self._scope = scope
        self._send = send
        self._trace = trace
        self._body = body
        self._hold = hold
        self._began = time.perf_counter()
        self.caller = Caller()
        self.status = 500

    def seconds(self) -> float:
        return time.perf_counter() - self._began

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._body.answered.set()
            self._hold.release()  # a takeover need not wait for a long download
            self._trace.stages["total"] = self.seconds()
            self._add_headers(message)
        await self._send(message)

    def _add_headers(self, message: Message) -> None:
        headers = list(message.get("headers", []))
        if self.status == 405:
            headers = [(name, value) for name, value in headers if name.lower() != b"allow"]
            headers.append((b"allow", allowed_methods(self._scope)))
        cached = any(name.lower() == b"cache-control" for name, _ in headers)
        headers += HEADERS
        headers.append((b"x-request-id", self._trace.id.encode()))
        headers.append((b"server-timing", self._trace.server_timing.encode()))
        if self.caller.by_link and not cached:
            # else a cache on the way might give it to others
            headers.append((b"cache-control", b"private"))
        message["headers"] = headers


def request_id(headers: RawHeaders) -> str:
    """The id that a client has given the request, if it is a plain one; else a new one."""
    given = headers.get(b"x-request-id", b"")
    return given.decode() if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def allowed_methods(scope: Scope) -> bytes:
    """The methods that a path has, over all of its routes."""
    routes = [route for route in ROUTES if isinstance(route, APIRoute)]
    matching = [route.path for route in routes if route.matches(scope)[0] != Match.NONE]
    methods: set[str] = set()
    for route in routes:
        if route.path in matching[:1]:
            methods |= route.methods or set()
    return ", ".join(sorted(methods)).encode()


def check_same_origin(method: str, headers: RawHeaders, hosts: tuple[str, ...]) -> None:
    """Without keys only this machine may ask, and no page that was loaded from elsewhere.

    Raises:
        BadHost: the request names another host, as from a page whose name has been pointed here.
        CrossOrigin: a page of another origin wants to change something.
    """
    host = headers.get(b"host", b"localhost").decode("latin-1").lower()
    name = urlsplit(f"//{host}").hostname or ""
    if not is_loopback(name) and name not in hosts:
        raise BadHost(host)
    origin = headers.get(b"origin", b"").decode("latin-1").lower()
    if method not in ("GET", "HEAD", "OPTIONS") and origin and urlsplit(origin).netloc != host:
        raise CrossOrigin(origin)


def authenticate(header: bytes, keys: tuple[str, ...]) -> str:
    """The client whose key a request carries. `keys` are SHA-256 digests. Every one is compared, in
    constant time. Raises BadKey.
    """
    scheme, _, key = header.partition(b" ")
    given = hashlib.sha256(key.strip()).hexdigest()
    same = [hmac.compare_digest(given, key) for key in keys]
    if scheme.lower() != b"bearer" or not any(same):
        raise BadKey
    return client_of(given)


def client_of(digest: str) -> str:
    """What a key goes by in logs, quotas and queues."""
    return digest[:12]


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
        except TimeoutError:  # FastAPI lets only its own kind of error out of a body's parser
            raise HTTPException(408, str(SlowBody(self._max_s))) from None
        if not message.get("more_body", False):
            self.received.set()
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._limit_mb * 1_000_000:
            raise HTTPException(413, str(BodyTooLarge(self._limit_mb)))
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
