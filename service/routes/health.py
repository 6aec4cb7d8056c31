"""Whether the service lives, whether it is ready, and its metrics."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from fastapi import Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from index.collection import UnknownCollection

from .. import schemas
from ..access import Caller, CallerOf
from ..metrics import CollectionMetrics
from ..state import State
from .router import Router

router = Router()


def current_state(request: Request, caller: Caller) -> State:
    """The state that serves now, as the caller sees it. A parameter `Tercet` would wait during a
    reload.
    """
    state: State = request.app.state.owner.active.state
    return state.limited_to(caller.collections)


@router.get("/healthz", response_class=PlainTextResponse, tags=["health"])
async def healthz() -> str:
    """Whether the process lives."""
    return "ok"


@router.get(
    "/readyz",
    tags=["health"],
    response_model=schemas.Readiness,
    responses={503: {"model": schemas.Readiness}},
)
async def readyz(request: Request, caller: CallerOf) -> JSONResponse:
    """Whether every stage moves. Answered even while another bundle takes over."""
    problems = await current_state(request, caller).problems()
    return JSONResponse({"ready": not problems, "reasons": problems}, 503 if problems else 200)


@router.get("/metrics", response_class=PlainTextResponse, tags=["health"])
async def metrics(request: Request, caller: CallerOf) -> Response:
    """The metrics for Prometheus. Where keys are asked for, collections are counted only for a key
    that may see them.
    """
    tercet = current_state(request, caller)
    for encoding, tokens in tercet.batcher.waiting().items():
        tercet.metrics.waiting.labels(encoding).set(tokens)
    held = CollectionMetrics()
    for collection in tercet.collections.all():
        with suppress(UnknownCollection):  # deleted in the meantime
            counts = await asyncio.to_thread(collection.counts)
            held.items.labels(collection.name).set(counts.items)
            for encoding in collection.dims:
                count = counts.vectors.get(encoding, 0)
                held.vectors.labels(collection.name, encoding).set(count)
    text = generate_latest(tercet.metrics.registry) + generate_latest(held.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
