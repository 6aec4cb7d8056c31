"""The application: what lives as long as it does, and what every request passes through."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_swagger import patch_fastapi
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from export.encoder import Encoder, OnnxEncoder
from index.collection import Collections
from model.inputs.confined import Decoders

from . import errors, routes
from .batching import Batcher
from .metrics import Metrics
from .pipeline import Pipeline
from .schemas import ErrorResponse
from .settings import Settings
from .state import State

LANES = ("text", "audio", "video")


def create_app(settings: Settings, encoder: Encoder | None = None) -> FastAPI:
    """The service. Without an `encoder`, the settings' bundle is opened and checked when the app starts."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        settings.data.mkdir(parents=True, exist_ok=True)
        runner = encoder or OnnxEncoder.open(settings.bundle, settings.provider, settings.threads)
        collections = Collections(settings.data, runner.manifest.fingerprint, runner.manifest.dim)
        collections.ensure("default")
        uploads = settings.data / "uploads"
        shutil.rmtree(uploads, ignore_errors=True)  # of a process that was killed
        uploads.mkdir()
        decoders = Decoders(settings.decode_workers, settings.decode_memory_mb, settings.decode_max_s)
        batcher = Batcher(runner.embed, LANES, settings.batch_max_rows, settings.queue_max_rows, metrics.batch)
        pipeline = Pipeline(runner, batcher, decoders, settings, metrics)
        app.state.tercet = State(settings, runner, collections, batcher, pipeline, metrics, uploads)
        try:
            yield
        finally:
            await batcher.close()
            await asyncio.to_thread(decoders.close)
            await asyncio.to_thread(collections.close)
            shutil.rmtree(uploads, ignore_errors=True)

    app = FastAPI(
        title="Tercet",
        version="1",
        description="Find moments of video and sound by words, by a sound or by an example.",
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        lifespan=lifespan,
        responses={s: {"model": ErrorResponse} for s in (400, 401, 404, 409, 413, 415, 422, 429, 503)},
    )
    errors.install(app)
    app.include_router(routes.router)
    patch_fastapi(app, docs_url="/docs")
    app.add_middleware(Gate, settings=settings, metrics=metrics)
    return app


class Gate:
    """Keys, security headers and request metrics, before and after everything else."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics
        self.limit_mb = settings.upload_max_mb
        self.keys = [hashlib.sha256(key.encode()).digest() for key in settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, got = time.perf_counter(), 500, 0

        async def counted() -> Message:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > self.limit_mb * 1_000_000:  # FastAPI lets only its own kind of error out of a body's parser
                raise HTTPException(413, str(errors.BodyTooLarge(self.limit_mb)))
            return message

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-content-type-options", b"nosniff")]
            await send(message)

        headers = dict(scope["headers"])
        try:
            if self.keys and scope["path"].startswith("/v1/") and not self.knows(headers.get(b"authorization", b"")):
                raise errors.BadKey
            if int(headers.get(b"content-length", b"") or 0) > self.limit_mb * 1_000_000:
                raise errors.BodyTooLarge(self.limit_mb)
            await self.app(scope, counted, answer)
        except (errors.BadKey, errors.BodyTooLarge) as error:
            await errors.response(error)(scope, receive, answer)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - began)

    def knows(self, header: bytes) -> bool:
        """Every key is compared, each in constant time."""
        scheme, _, key = header.partition(b" ")
        given = hashlib.sha256(key.strip()).digest()
        return scheme.lower() == b"bearer" and sum(hmac.compare_digest(given, known) for known in self.keys) > 0
