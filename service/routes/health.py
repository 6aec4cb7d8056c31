"""Whether the service lives, whether it is ready, and its metrics."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from fastapi import Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from index.collection import UnknownCollection

from ..state import State
from .router import Router

router = Router()


def current_state(request: Request) -> State:
    """The state that serves now. A parameter `Tercet` would wait during a reload."""
    state: State = request.app.state.owner.active.state
    return state


@router.get("/healthz", response_class=PlainTextResponse, tags=["health"])
async def healthz() -> str:
    return "ok"


@router.get("/readyz", tags=["health"])
async def readyz(request: Request) -> JSONResponse:
    """Whether every stage moves. Answered even while another bundle takes over."""
    problems = await current_state(request).problems()
    return JSONResponse({"ready": not problems, "reasons": problems}, 503 if problems else 200)


@router.get("/metrics", response_class=PlainTextResponse, tags=["health"])
async def metrics(request: Request) -> Response:
    tercet = current_state(request)
    for encoding, tokens in tercet.batcher.waiting().items():
        tercet.metrics.waiting.labels(encoding).set(tokens)
    tercet.metrics.items.clear()
    tercet.metrics.vectors.clear()
    for collection in tercet.collections.all():
        with suppress(UnknownCollection):  # deleted in the meantime
            counts = await asyncio.to_thread(collection.counts)
            tercet.metrics.items.labels(collection.name).set(counts.items)
            for encoding in collection.dims:
                tercet.metrics.vectors.labels(collection.name, encoding).set(
                    counts.vectors.get(encoding, 0)
                )
    return Response(generate_latest(tercet.metrics.registry), media_type=CONTENT_TYPE_LATEST)
