"""Searches by one text or one file, a route for each pair
of what is given and what is looked for.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any

from fastapi import File, Form, UploadFile
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from export.bundle import ANY, Route
from index.collection import Collection
from index.search import Answer, Options, TargetQuery, search
from media.modality import MODALITIES

from .. import schemas
from ..faults import BadRequest
from ..forms import Fields, only
from ..pipeline import Asked
from ..settings import TOP_K_MAX
from ..state import State, Tercet
from ..trace import stage
from .bodies import parse_json, parse_value, save_upload
from .router import Router

router = Router()


# ---------------------------------------------------------------- for every kind of query


def search_options(tercet: State, request: schemas.SearchOptions) -> Options:
    """Raises BadRequest."""
    if request.top_k > tercet.settings.top_k_max:
        raise BadRequest(f"top_k is at most {tercet.settings.top_k_max}")
    return Options(
        top_k=request.top_k,
        filter=request.filter,
        min_score=request.min_score,
        min_confidence=request.min_confidence,
        exact=request.exact,
        qb_norm=request.qb_norm,
    )


async def run_search(
    tercet: State, collection: Collection, aims: list[TargetQuery], options: Options
) -> Answer:
    """The answer; of some searches it is then measured how it
    compares with every vector compared.
    """
    with stage("search"):
        answer = await asyncio.to_thread(search, collection, aims, options)
    if answer.hits and not answer.plan.exact and random.random() < tercet.settings.recall_sample:
        exact = await asyncio.to_thread(search, collection, aims, replace(options, exact=True))
        found = {hit.id for hit in answer.hits}
        recall = tercet.metrics.recall.labels(
            "+".join(answer.plan.ways), "yes" if options.filter else "no"
        )
        recall.observe(sum(hit.id in found for hit in exact.hits) / max(len(exact.hits), 1))
    return answer


def search_response(
    collection: Collection,
    name: str,
    routes: list[Route],
    answer: Answer,
    queries: list[Asked],
    began: float,
) -> schemas.SearchResult:
    """`name` says what was searched by and for, `began` when, as `time.perf_counter` tells it."""
    return schemas.SearchResult(
        collection=collection.name,
        fingerprint=collection.fingerprint,
        route=name,
        space="+".join(dict.fromkeys(route.space for route in routes)),
        took_ms=round((time.perf_counter() - began) * 1000, 3),
        plan=answer.plan,
        good_match=answer.good_match,
        calibration=answer.calibration,
        warnings=list(dict.fromkeys(warning for query in queries for warning in query.warnings)),
        hits=answer.hits,
    )


# ---------------------------------------------------------------- one text or file


async def search_with(
    tercet: State,
    request: schemas.SearchOptions,
    encode_query: Callable[[str], Awaitable[Asked]],
    *,
    source: str,
    target: str,
) -> schemas.SearchResult:
    """Search for `target` by one query of the modality `source`. It is made into a vector for each
    encoding needed.
    """
    began = time.perf_counter()
    routes = tercet.encoder.manifest.routes([source], target, request.space)
    options = search_options(tercet, request)
    collection = tercet.collections.get(request.collection)
    encodings = dict.fromkeys(route.encodings[source] for route in routes)
    queries = {encoding: await encode_query(encoding) for encoding in encodings}
    aims = [
        TargetQuery.along(route, source, queries[route.encodings[source]].vector[None])
        for route in routes
    ]
    known = min(query.known for query in queries.values())
    answer = await run_search(
        tercet, collection, aims, replace(options, known=known, called=target)
    )
    return search_response(
        collection, f"{source}-{target}", routes, answer, list(queries.values()), began
    )


def search_by_text(target: str) -> Callable[..., Awaitable[schemas.SearchResult]]:
    async def route(tercet: Tercet, request: schemas.TextSearch) -> schemas.SearchResult:
        async def encode_query(encoding: str) -> Asked:
            return await tercet.pipeline.asked(request.query, encoding)

        return await search_with(tercet, request, encode_query, source="text", target=target)

    return route


def search_by_file(source: str, target: str) -> Callable[..., Awaitable[schemas.SearchResult]]:
    async def route(
        tercet: Tercet,
        file: Annotated[UploadFile, File()],
        collection: Annotated[str, Form()] = "default",
        top_k: Annotated[int, Form(ge=1, le=TOP_K_MAX)] = 10,
        filter: Annotated[str | SkipJsonSchema[None], Form(description="a filter as JSON")] = None,
        min_score: Annotated[float | SkipJsonSchema[None], Form(allow_inf_nan=False)] = None,
        min_confidence: Annotated[
            Annotated[float, Field(ge=0, le=1)] | SkipJsonSchema[None], Form()
        ] = None,
        exact: Annotated[bool, Form()] = False,
        qb_norm: Annotated[bool, Form()] = False,
        space: Annotated[str | SkipJsonSchema[None], Form()] = None,
    ) -> schemas.SearchResult:
        request = schemas.SearchOptions(
            collection=collection,
            top_k=top_k,
            filter=parse_value(dict[str, Any], parse_json("filter", filter)) if filter else None,
            min_score=min_score,
            min_confidence=min_confidence,
            exact=exact,
            qb_norm=qb_norm,
            space=space,
        )

        async def encode_query(encoding: str) -> Asked:
            async with save_upload(tercet, file) as path:
                return Asked(await tercet.pipeline.query(path, encoding))

        return await search_with(tercet, request, encode_query, source=source, target=target)

    return route


SEARCH_FORM = Fields(texts=frozenset(schemas.SearchOptions.model_fields), files=frozenset({"file"}))


def add_routes(source: str, target: str) -> None:
    path = f"/v1/search/{source}-{target}"
    names: dict[str, Any] = {"name": f"{source}-{target}", "summary": f"{source} to {target}"}
    if source == "text":
        router.post(path, tags=["search"], **names)(search_by_text(target))
    else:
        by_file = search_by_file(source, target)
        only_known = [only(SEARCH_FORM)]
        router.post_files(path, tags=["search"], dependencies=only_known, **names)(by_file)


for _target in (*MODALITIES, ANY):
    for _source in MODALITIES:
        add_routes(_source, _target)
