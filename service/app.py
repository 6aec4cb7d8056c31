"""The application: what lives as long as it does, and what every request passes through."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi_swagger import patch_fastapi
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from export.encoder import Encoder
from index.library import Collections

from . import errors
from .faults import BadHost, BadKey, BodyTooLarge, CrossOrigin, PackedBody, ServiceError, SlowBody
from .links import Links, token_in
from .metrics import Metrics
from .pipeline import UPLOAD
from .reload import Reloader
from .routes import ROUTES, takes_files
from .settings import Settings, is_loopback
from .state import UPLOADS, ActiveState, leave, new_decoders, opened
from .trace import ACCESS, CURRENT, Trace, span

REQUEST_ID = re.compile(rb"[\w.-]{1,64}")
GONE = 499  # what proxies log for a client that left before its answer
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)


def create_app(
    settings: Settings,
    encoder: Encoder,
    collections: Collections | None = None,
    again: Callable[[], tuple[Settings, Encoder]] | None = None,
) -> FastAPI:
    """The service over an encoder; the data folder is opened when the app starts, if it is not
    given. `again` reads the settings and opens the encoder anew, for a reload.
    """
    metrics, first = Metrics(), [(encoder, collections)]
    uploads = settings.data / UPLOADS
    del encoder, collections  # nothing but the state that serves holds on to them

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        encoder, held = first.pop()
        clear(uploads)  # of a process that was killed
        decoders = await asyncio.to_thread(new_decoders, settings)
        tenure = app.state.tenure = ActiveState(
            await opened(settings, encoder, decoders, metrics, held)
        )
        del encoder, held
        reloader = app.state.reloader = Reloader(tenure, again)
        reloader.listen()
        try:
            yield
        finally:
            await reloader.close()
            await tenure.state.close()
            clear(uploads)

    app = Service(
        title="Tercet",
        version="1",
        description="Find moments of video and sound by words, by a sound or by an example.",
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        lifespan=lifespan,
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
        },  # `RequestMiddleware` has its own
        routes=ROUTES,  # not included: a router within a router looks for its routes twice as long
    )
    app.state.links = Links()
    errors.install_handlers(app)
    patch_fastapi(app, docs_url="/docs")
    app.add_middleware(RequestMiddleware, metrics=metrics)
    return app


def clear(uploads: Path) -> None:
    """Leave an empty folder, but for what this service has not put there."""
    for half in uploads.glob(f"{UPLOAD}*"):
        shutil.rmtree(half, ignore_errors=True)
    with suppress(OSError):  # a full disk: they lie elsewhere
        uploads.mkdir(parents=True, exist_ok=True)


class Service(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The API's document; of forms that FastAPI describes it says, too, that they take no other
        fields.
        """
        document = super().openapi()
        for name, schema in document["components"]["schemas"].items():
            if name.startswith("Body_"):
                schema["additionalProperties"] = False
        return document


class RequestMiddleware:
    """Keys, quotas, limits of a body, security headers, ids, logs and metrics: before and after
    everything else.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        id = given.decode() if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        trace = Trace(id, observe=self.metrics.stage)
        token = CURRENT.set(trace)
        began, status = time.perf_counter(), 500
        body = Body(receive, headers, scope["path"], scope["app"].state.tenure.state.settings)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                body.answered.set()
                leave(scope)
                trace.stages["total"] = time.perf_counter() - began
                if status == 405:
                    message["headers"] = [
                        *without(b"allow", message["headers"]),
                        (b"allow", allowed(scope)),
                    ]
                own = [
                    (b"x-request-id", id.encode()),
                    (b"server-timing", trace.server_timing.encode()),
                ]
                said = message.get("headers", [])
                if trace.by_link and all(name.lower() != b"cache-control" for name, _ in said):
                    # else a cache on the way might give it to others
                    own.append((b"cache-control", b"private"))
                message["headers"] = [*said, *HEADERS, *own]
            await send(message)

        try:
            with span(f"HTTP {scope['method']}", headers):
                self.admit(scope, headers, trace)
                body.check_announced()
                if not await while_connected(self.app(scope, body.receive, answer), receive, body):
                    status = GONE
        except ClientDisconnect:
            status = GONE
        except ServiceError as error:
            await errors.error_response(scope, error)(scope, receive, answer)
        except Exception:  # what nobody foresaw says nothing of the inside
            ACCESS.exception("%s %s failed", scope["method"], scope["path"])
            if body.answered.is_set():
                raise
            await errors.json_response(scope, errors.INTERNAL, 500)(scope, receive, answer)
        finally:
            leave(scope)
            self.tell(scope, status, time.perf_counter() - began)
            CURRENT.reset(token)

    def admit(self, scope: Scope, headers: dict[bytes, bytes], trace: Trace) -> None:
        """Raises BadHost, CrossOrigin, BadKey, OverQuota."""
        state = scope["app"].state.tenure.state
        if not state.settings.api_keys and not state.settings.allow_open:
            check_same_origin(scope["method"], headers, state.settings.hosts)
        if not scope["path"].startswith("/v1/"):
            return
        if state.settings.api_keys:
            trace.who = self.asker(scope, headers, trace, state.settings.api_keys)
        state.quotas.requests.take(trace.who)

    def asker(
        self, scope: Scope, headers: dict[bytes, bytes], trace: Trace, keys: tuple[str, ...]
    ) -> str:
        """Who asks, by a key or by a link that a key has made. Raises BadKey, BadLink."""
        token = token_in(scope["query_string"])
        if token is None or b"authorization" in headers:
            return known(headers.get(b"authorization", b""), keys)
        links: Links = scope["app"].state.links
        maker = links.maker(token, scope["method"], scope["path"], (called(key) for key in keys))
        trace.by_link = True
        return maker

    def tell(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        if "tercet.error" in scope:
            self.metrics.errors.labels(scope["tercet.error"]).inc()
        if ACCESS.isEnabledFor(logging.INFO):
            fields = {
                "method": scope["method"],
                "route": route,
                "status": status,
                "ms": round(1000 * seconds, 1),
            }
            ACCESS.info(
                "%s %s %d %.1f ms",
                scope["method"],
                route,
                status,
                1000 * seconds,
                extra={"fields": fields},
            )


def without(name: bytes, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(k, v) for k, v in headers if k.lower() != name]


def allowed(scope: Scope) -> bytes:
    """The methods that a path has, over all of its routes."""
    there = [route for route in ROUTES if isinstance(route, APIRoute)]
    paths = [route.path for route in there if route.matches(scope)[0] != Match.NONE]
    return ", ".join(
        sorted({m for route in there if route.path in paths[:1] for m in route.methods or ()})
    ).encode()


def check_same_origin(method: str, headers: dict[bytes, bytes], hosts: tuple[str, ...]) -> None:
    """Without keys, whoever asks has to be on this machine, and no page that was loaded from
    elsewhere.

    Raises:
        BadHost: asked by another name, as by a page whose name has been pointed here. CrossOrigin:
            told to by a page.
    """
    host = headers.get(b"host", b"localhost").decode("latin-1").lower()
    name = urlsplit(f"//{host}").hostname or ""
    if not is_loopback(name) and name not in hosts:
        raise BadHost(host)
    origin = headers.get(b"origin", b"").decode("latin-1").lower()
    if method not in ("GET", "HEAD", "OPTIONS") and origin and urlsplit(origin).netloc != host:
        raise CrossOrigin(origin)


def known(header: bytes, keys: tuple[str, ...]) -> str:
    """The digest of the key that asks. Every key is compared,
    each in constant time. Raises BadKey.
    """
    scheme, _, key = header.partition(b" ")
    given = hashlib.sha256(key.strip()).hexdigest()
    if scheme.lower() != b"bearer" or not sum(hmac.compare_digest(given, key) for key in keys):
        raise BadKey
    return called(given)


def called(digest: str) -> str:
    """What a key goes by in logs, quotas and queues."""
    return digest[:12]


class Body:
    """A request's body: how large it may be, how long it may take, whether it is whole and has been
    answered.
    """

    def __init__(
        self, receive: Receive, headers: dict[bytes, bytes], path: str, settings: Settings
    ) -> None:
        form = headers.get(b"content-type", b"").lower().startswith(b"multipart/")
        self._limit_mb = (
            settings.upload_max_mb if form and takes_files(path) else settings.json_max_mb
        )
        self._announced = headers.get(b"content-length", b"")
        self._coding = headers.get(b"content-encoding", b"identity").decode("latin-1")
        self._receive, self._max_s, self._got = receive, settings.upload_max_s, 0
        self._end = time.monotonic() + settings.upload_max_s
        self.received, self.answered = asyncio.Event(), asyncio.Event()

    def check_announced(self) -> None:
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
        self._got += len(message.get("body", b""))
        if self._got > self._limit_mb * 1_000_000:
            raise HTTPException(413, str(BodyTooLarge(self._limit_mb)))
        return message


async def while_connected(work: Awaitable[None], receive: Receive, body: Body) -> bool:
    """Do the work of a request; False when its client hung up before it was answered, and the work
    was cancelled.
    """
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
