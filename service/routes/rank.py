"""Which of several texts fits a clip best."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from starlette.datastructures import UploadFile

from export.bundle import ANY, Joint, Route
from index.ranking import item_direction, join_directions, rank_texts
from index.search import direction
from media.errors import MissingModality

from .. import schemas
from ..access import needs
from ..active import ClientId, Tercet
from ..exceptions import BadRequest
from ..forms import Fields, read_form
from ..keys import READ
from ..state import State
from .bodies import content_type, parse_body, saved_upload
from .router import Router

router = Router()

RANK_FORM = Fields(texts=frozenset({"request"}), files=frozenset({"file"}))
RANK_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": schemas.whole_schema(schemas.Rank)},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["request", "file"],
                    "properties": {
                        "request": {"type": "string", "description": "a Rank as JSON"},
                        "file": {"type": "string", "format": "binary"},
                    },
                    "additionalProperties": False,
                }
            },
        },
    }
}


@router.post_files("/v1/rank", tags=["search"], openapi_extra=RANK_BODY)
@needs(READ)
async def rank(tercet: Tercet, client: ClientId, request: Request) -> schemas.Ranking:
    """Which of several texts fits a clip best, as probabilities over these choices. The clip is an
    item of a collection, or a file in a form beside the request.
    """
    if content_type(request) == "application/json":
        asked = parse_body(schemas.Rank, await request.body())
        return await rank_clip(tercet, client, asked, None)
    async with read_form(request, RANK_FORM) as form:
        text = form.get("request")
        file = form.get("file")
        if not isinstance(text, str):
            raise BadRequest("there is no field 'request'")
        asked = parse_body(schemas.Rank, text.encode())
        return await rank_clip(tercet, client, asked, None if isinstance(file, str) else file)


async def rank_clip(
    tercet: State, client: str, asked: schemas.Rank, file: UploadFile | None
) -> schemas.Ranking:
    """Raises BadRequest where there is not exactly one of an item and a file."""
    if (asked.item is None) == (file is None):
        raise BadRequest("give one clip: an 'item' of a collection, or a 'file' in a form")
    async with AsyncExitStack() as uploads:
        routes = tercet.encoder.manifest.routes(["text"], asked.target, asked.space)
        route = routes[0]
        if file is not None:
            path = await uploads.enter_async_context(saved_upload(tercet, file))
            clip = await encode_clip(tercet, client, path, route)
        else:
            assert asked.item is not None
            collection = tercet.collections.get(asked.collection)
            clip = await asyncio.to_thread(item_direction, collection, asked.item, route.target)
    source = route.encodings["text"]
    queries = [
        await tercet.pipeline.encode_query_text(text, source, client, place)
        for place, text in enumerate(asked.texts)
    ]
    choices = await asyncio.to_thread(
        rank_texts,
        tercet.encoder,
        clip,
        asked.texts,
        np.stack([query.vector for query in queries]),
        source=source,
        modality=asked.target,
    )
    warnings = dict.fromkeys(warning for query in queries for warning in query.warnings)
    return schemas.Ranking(target=asked.target, choices=choices, warnings=list(warnings))


async def encode_clip(tercet: State, client: str, path: Path, route: Route) -> NDArray[np.float32]:
    """One vector for a file. Raises MissingModality where it has nothing of what is compared."""
    target = route.target
    encodings = [target.video, target.audio] if isinstance(target, Joint) else [target]
    embedded = await tercet.pipeline.embed_file(path, encodings, client)
    found = {
        encoding: direction(vectors)
        for encoding, (_, vectors) in embedded.vectors.items()
        if len(vectors)
    }
    if not found:
        raise MissingModality(ANY)
    if isinstance(target, Joint):
        return join_directions(found, target)
    return found[target]
