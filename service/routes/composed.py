"""Search by several parts, each a text, a file or an item, with a weight."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
from fastapi import Query, Request
from fastapi.responses import Response
from starlette.datastructures import UploadFile

from export.bundle import Joint, Route
from index.collection import Collection
from index.formats import TITLE, Format, format_csv, format_edl
from index.search import TargetQuery, direction

from .. import schemas
from ..access import needs
from ..active import ClientId, Tercet
from ..error_responses import tell_which
from ..exceptions import BadRequest
from ..forms import Fields, read_form
from ..keys import READ
from ..pipeline import EncodedQuery
from ..state import State
from .bodies import content_type, parse_body, saved_upload
from .router import Router
from .search import can_find_by_words, parse_options, run_search, search_response

router = Router()

Part = schemas.TextPart | schemas.FilePart | schemas.ItemPart

FILE_TYPES = {"csv": "text/csv", "edl": "text/plain"}
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


@router.post_files(
    "/v1/search",
    tags=["search"],
    openapi_extra=COMPOSED_BODY,
    response_model=schemas.SearchResult,
    responses={200: {"content": {kind: {} for kind in FILE_TYPES.values()}}},
)
@needs(READ)
async def composed_search(
    tercet: Tercet,
    client: ClientId,
    request: Request,
    format: Annotated[
        Format, Query(description="csv: a table; edl: a list of marks for video editors")
    ] = "json",
) -> schemas.SearchResult | Response:
    """A query of several parts: texts, files and items of the collection. Each has a weight,
    negative for what is not wanted. A part with `then` is looked for after those before it. Several
    targets are fused. Where no part is a file, the request may be JSON.
    """
    if content_type(request) == "application/json":
        composed = parse_body(schemas.ComposedSearch, await request.body())
        found = await search_by_parts(tercet, client, composed, {})
        return format_result(found, composed, format)
    async with read_form(request, COMPOSED_FORM) as form:
        text = form.get("request")
        if not isinstance(text, str):
            raise BadRequest("there is no field 'request'")
        files = {name: part for name, part in form.multi_items() if not isinstance(part, str)}
        composed = parse_body(schemas.ComposedSearch, text.encode())
        found = await search_by_parts(tercet, client, composed, files)
        return format_result(found, composed, format)


def format_result(
    found: schemas.SearchResult, request: schemas.ComposedSearch, format: Format
) -> schemas.SearchResult | Response:
    """What a search has found, as the kind of file that was asked for."""
    if format == "json":
        return found
    if format == "csv":
        text = format_csv(found.hits)
    else:
        words = [part.text for part in request.parts if isinstance(part, schemas.TextPart)]
        text = format_edl(found.hits, ", ".join(words) or TITLE)
    headers = {"Content-Disposition": f'attachment; filename="hits.{format}"'}
    return Response(text, media_type=FILE_TYPES[format], headers=headers)


async def search_by_parts(
    tercet: State,
    client: str,
    request: schemas.ComposedSearch,
    files: Mapping[str, UploadFile],
) -> schemas.SearchResult:
    began = time.perf_counter()
    options = parse_options(tercet, request)
    collection = tercet.collections.get(request.collection)
    check_files(request.parts, files)
    sources = [source_modality(part) for part in request.parts]
    targets = list(dict.fromkeys(request.targets))
    # by target: "any" may lead to one that is named beside it
    by_target: dict[str | Joint, Route] = {}
    for target in targets:
        for route in tercet.encoder.manifest.routes(sources, target, request.space):
            by_target[route.target] = route
    routes = list(by_target.values())
    unknown = len(request.parts) == 1 and can_find_by_words(collection, targets)
    encoded = await encode_parts(
        tercet, client, collection, request.parts, routes, files, unknown=unknown
    )
    steps = schemas.split_steps(request.parts)
    target_queries = []
    for route in routes:
        first, *following = [make_query(request.parts, step, encoded, route) for step in steps]
        target_queries.append(replace(first, following=tuple(following)))
    queries = [query for by_encoding in encoded for query in by_encoding.values()]
    known_share = min(query.known_share for query in queries)
    target_name = targets[0] if len(targets) == 1 else None
    only = request.parts[0] if len(request.parts) == 1 else None
    options = replace(
        options,
        aggregate=request.aggregate,
        known_share=known_share,
        target_name=target_name,
        words=only.text if isinstance(only, schemas.TextPart) else None,
    )
    answer = await run_search(tercet, collection, target_queries, options)
    return search_response(
        collection=collection,
        name=f"composed-{'+'.join(targets)}",
        routes=routes,
        answer=answer,
        queries=queries,
        began=began,
    )


def make_query(
    parts: list[Part], step: range, encoded: list[dict[str, EncodedQuery]], route: Route
) -> TargetQuery:
    """What one step of the query asks of a route."""
    leading = next(source_modality(parts[place]) for place in step if parts[place].weight > 0)
    vectors = [
        encoded[place][route.encodings[source_modality(parts[place])]].vector for place in step
    ]
    weights = tuple(parts[place].weight for place in step)
    return TargetQuery.along(route, leading, np.stack(vectors), weights)


def check_files(parts: list[Part], files: Mapping[str, UploadFile]) -> None:
    """Raises BadRequest where a part's file is missing, or no part names a file."""
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
    client: str,
    collection: Collection,
    parts: list[Part],
    routes: list[Route],
    files: Mapping[str, UploadFile],
    *,
    unknown: bool,
) -> list[dict[str, EncodedQuery]]:
    """Each part in every encoding that the routes need it in. A file that several parts name is
    saved once. `unknown` as in `Pipeline.encode_query_text`.
    """
    async with AsyncExitStack() as uploads:
        paths = {}
        for name, file in files.items():
            paths[name] = await uploads.enter_async_context(saved_upload(tercet, file))
        waiting = []
        for place, part in enumerate(parts):
            source = source_modality(part)
            encodings = list(dict.fromkeys(route.encodings[source] for route in routes))
            index = place if len(parts) > 1 else None
            if isinstance(part, schemas.TextPart):
                waiting.append(encode_text(tercet, client, part, encodings, index, unknown=unknown))
            elif isinstance(part, schemas.ItemPart):
                waiting.append(read_item(collection, part, encodings))
            else:
                queries = encode_file(tercet, client, paths[part.file], encodings)
                waiting.append(tell_which(queries, index))
        return await asyncio.gather(*waiting)


async def encode_text(
    tercet: State,
    client: str,
    part: schemas.TextPart,
    encodings: list[str],
    index: int | None,
    *,
    unknown: bool,
) -> dict[str, EncodedQuery]:
    """`index` is the part's place among several."""
    queries = {}
    for encoding in encodings:
        queries[encoding] = await tercet.pipeline.encode_query_text(
            part.text, encoding, client, index, unknown=unknown
        )
    return queries


async def read_item(
    collection: Collection, part: schemas.ItemPart, encodings: list[str]
) -> dict[str, EncodedQuery]:
    """An item by the vectors that are stored of it. Raises UnknownItem, NoVectors."""
    queries = {}
    for encoding in encodings:
        vectors = await asyncio.to_thread(collection.vectors, part.item, encoding)
        queries[encoding] = EncodedQuery(direction(vectors))
    return queries


async def encode_file(
    tercet: State, client: str, path: Path, encodings: list[str]
) -> dict[str, EncodedQuery]:
    embedded = await tercet.pipeline.embed_file(path, encodings, client)
    queries = {}
    for encoding in encodings:
        _, vectors = embedded.vectors[encoding]
        queries[encoding] = EncodedQuery(direction(vectors))
    return queries
