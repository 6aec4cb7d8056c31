"""Searches by several parts, each a text, a file or an item with a weight."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from fastapi import Request
from starlette.datastructures import UploadFile

from export.bundle import Route
from index.collection import Collection
from index.search import TargetQuery, direction

from .. import schemas
from ..faults import BadRequest
from ..forms import Fields, form_of
from ..pipeline import Asked
from ..state import State, Tercet
from .bodies import content_type, parse_body, save_upload
from .router import Router
from .search import run_search, search_options, search_response

router = Router()

Part = schemas.TextPart | schemas.FilePart | schemas.ItemPart

COMPOSED_FORM = Fields(texts=frozenset({"request"}), any_file=True)
COMPOSED_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["request"],
                    "properties": {
                        "request": {"type": "string", "description": "a ComposedSearch as JSON"}
                    },
                    "additionalProperties": {"type": "string", "format": "binary"},
                }
            },
            "application/json": {"schema": schemas.whole_schema(schemas.ComposedSearch)},
        },
    }
}


@router.post_files("/v1/search", tags=["search"], openapi_extra=COMPOSED_BODY)
async def composed_search(tercet: Tercet, request: Request) -> schemas.SearchResult:
    """A query of several parts, texts, files and items of the collection, each with a weight,
    negative for what is not wanted; over one target or several, fused. JSON will do where no part
    is a file.
    """
    if content_type(request) == "application/json":
        return await search_by_parts(
            tercet, parse_body(schemas.ComposedSearch, await request.body()), {}
        )
    async with form_of(request, COMPOSED_FORM) as form:
        text = form.get("request")
        if not isinstance(text, str):
            raise BadRequest("there is no field 'request'")
        files = {name: part for name, part in form.multi_items() if not isinstance(part, str)}
        return await search_by_parts(
            tercet, parse_body(schemas.ComposedSearch, text.encode()), files
        )


async def search_by_parts(
    tercet: State, request: schemas.ComposedSearch, files: Mapping[str, UploadFile]
) -> schemas.SearchResult:
    began = time.perf_counter()
    options = search_options(tercet, request)
    collection = tercet.collections.get(request.collection)
    check_files(request.parts, files)
    sources = [source_modality(part) for part in request.parts]
    targets = list(dict.fromkeys(request.targets))
    found_routes = [
        route
        for target in targets
        for route in tercet.encoder.manifest.routes(sources, target, request.space)
    ]
    # "any" may lead to what is named beside it
    routes = list({route.target: route for route in found_routes}.values())
    encoded = await encode_parts(tercet, collection, request.parts, sources, routes, files)
    leading = next(
        source for part, source in zip(request.parts, sources, strict=True) if part.weight > 0
    )
    weights = tuple(part.weight for part in request.parts)
    aims = []
    for route in routes:
        vectors = [
            found[route.encodings[source]].vector
            for found, source in zip(encoded, sources, strict=True)
        ]
        aims.append(TargetQuery.along(route, leading, np.stack(vectors), weights))
    queries = [query for found in encoded for query in found.values()]
    known = min(query.known for query in queries)
    called = targets[0] if len(targets) == 1 else None
    answer = await run_search(
        tercet, collection, aims, replace(options, known=known, called=called)
    )
    return search_response(
        collection, f"composed-{'+'.join(targets)}", routes, answer, queries, began
    )


def check_files(parts: list[Part], files: Mapping[str, UploadFile]) -> None:
    """Raises BadRequest: a part's file is not there, or a file is of no part."""
    named = [part.file for part in parts if isinstance(part, schemas.FilePart)]
    unknown = [name for name in named if name not in files]
    if unknown:
        raise BadRequest(f"there is no part {unknown[0]!r} with a file name")
    unused = [name for name in files if name not in named]
    if unused:
        raise BadRequest(f"no part of the request names the file {unused[0][:80]!r}")


def source_modality(part: Part) -> str:
    return "text" if isinstance(part, schemas.TextPart) else part.modality


async def encode_parts(
    tercet: State,
    collection: Collection,
    parts: list[Part],
    sources: list[str],
    routes: list[Route],
    files: Mapping[str, UploadFile],
) -> list[dict[str, Asked]]:
    """Each part in every encoding that the routes need it in. `sources` are the parts' modalities.
    A file that several parts name is saved once.
    """
    async with AsyncExitStack() as uploads:
        paths = {
            name: await uploads.enter_async_context(save_upload(tercet, file))
            for name, file in files.items()
        }
        waiting = []
        for place, (part, source) in enumerate(zip(parts, sources, strict=True)):
            encodings = list(dict.fromkeys(route.encodings[source] for route in routes))
            index = place if len(parts) > 1 else None
            waiting.append(encode_part(tercet, collection, part, encodings, paths, index))
        return await asyncio.gather(*waiting)


async def encode_part(
    tercet: State,
    collection: Collection,
    part: Part,
    encodings: list[str],
    paths: Mapping[str, Path],
    index: int | None,
) -> dict[str, Asked]:
    """One part in each of the encodings; `index` is its place among several."""
    if isinstance(part, schemas.TextPart):
        return {e: await tercet.pipeline.asked(part.text, e, index) for e in encodings}
    if isinstance(part, schemas.ItemPart):
        return {
            e: Asked(direction(await asyncio.to_thread(collection.vectors, part.item, e)))
            for e in encodings
        }
    embedded = await tercet.pipeline.file(paths[part.file], encodings)
    return {e: Asked(direction(embedded.vectors[e][1])) for e in encodings}
