"""The application: what lives as long as it does, and what every request passes through."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import shutil
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from fastapi_swagger import patch_fastapi
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from export.bundle import Manifest, modality_of
from export.encoder import Encoder
from index.bank import stock
from index.collection import FingerprintConflict
from index.data import Collections
from index.vectors import Sizing
from model.inputs.confined import Decoders

from . import errors, routes
from .batching import Batcher
from .metrics import Metrics
from .pipeline import Pipeline
from .schemas import ErrorResponse
from .settings import Settings
from .state import State

LANES = ("text", "audio", "video")  # those of the first go first
UPLOADS = re.compile(r"/v1/(embed/(audio|video)|collections/[^/]+/items|search(/(audio|video)-\w+)?)/?$")
GONE = 499  # what proxies log for a client that left before its answer


def open_data(settings: Settings, encoder: Encoder) -> Collections:
    """The data folder with a collection to start with. Raises CollectionError."""
    settings.data.mkdir(parents=True, exist_ok=True)
    sizing = Sizing(settings.index, settings.index_memory_mb, settings.milvus)
    collections = Collections(settings.data, encoder.manifest.fingerprint, encoder.manifest.dims, sizing)
    with suppress(FingerprintConflict):  # told of by /readyz, and to whoever asks for it
        collections.ensure("default")
    for collection in collections.all():
        stock(collection, encoder)
    return collections


def lanes_of(manifest: Manifest) -> dict[str, int]:
    """The encodings, the quickest first, each with what pads its rows."""
    ordered = sorted(manifest.graphs, key=lambda encoding: LANES.index(modality_of(encoding)))
    return {e: manifest.tokenizers[e].spec.pad_id if e in manifest.tokenizers else 0 for e in ordered}


def create_app(settings: Settings, encoder: Encoder, collections: Collections | None = None) -> FastAPI:
    """The service over an encoder; the data folder is opened when the app starts, if it is not given."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        held = collections or open_data(settings, encoder)
        uploads = settings.data / "uploads"
        shutil.rmtree(uploads, ignore_errors=True)  # of a process that was killed
        uploads.mkdir()
        decoders = Decoders(settings.decode_workers, settings.decode_memory_mb, settings.decode_max_s)
        batcher = Batcher(
            encoder.embed, lanes_of(encoder.manifest), settings.batch_max_rows, settings.queue_max_rows, metrics.batch
        )
        pipeline = Pipeline(encoder, batcher, decoders, settings, metrics)
        await asyncio.to_thread(decoders.warm)
        app.state.tercet = State(settings, encoder, held, batcher, pipeline, metrics, uploads)
        try:
            yield
        finally:
            await batcher.close()
            await asyncio.to_thread(decoders.close)
            await asyncio.to_thread(held.close)
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
        self.upload_mb, self.json_mb = settings.upload_max_mb, settings.json_max_mb
        self.keys = [bytes.fromhex(key) for key in settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, got = time.perf_counter(), 500, 0
        received, answered = asyncio.Event(), asyncio.Event()
        headers = dict(scope["headers"])
        form = headers.get(b"content-type", b"").lower().startswith(b"multipart/")
        limit_mb = self.upload_mb if form and UPLOADS.match(scope["path"]) else self.json_mb

        async def counted() -> Message:
            nonlocal got
            message = await receive()
            if not message.get("more_body", False):
                received.set()
            got += len(message.get("body", b""))
            if got > limit_mb * 1_000_000:  # FastAPI lets only its own kind of error out of a body's parser
                raise HTTPException(413, str(errors.BodyTooLarge(limit_mb)))
            return message

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answered.set()
                message["headers"] = [*message.get("headers", []), (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            if self.keys and scope["path"].startswith("/v1/") and not self.knows(headers.get(b"authorization", b"")):
                raise errors.BadKey
            announced = headers.get(b"content-length", b"")
            if announced.isdigit() and int(announced) > limit_mb * 1_000_000:
                raise errors.BodyTooLarge(limit_mb)
            if not await while_connected(self.app(scope, counted, answer), receive, received, answered):
                status = GONE
        except ClientDisconnect:
            status = GONE
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


async def while_connected(
    work: Awaitable[None], receive: Receive, received: asyncio.Event, answered: asyncio.Event
) -> bool:
    """Do the work of a request; False when its client hung up before it was answered, and the work was cancelled.

    `received` is set when the body is whole, `answered` when the response begins.
    """
    task = asyncio.ensure_future(work)
    left = False

    async def watch() -> None:
        nonlocal left
        await received.wait()
        while (await receive())["type"] != "http.disconnect":
            pass
        if not answered.is_set():
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
