"""Search by one text or one file. There is a route for each pair of query and target."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import Depends, File, Form, UploadFile
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from export.bundle import ANY, Route
from index.agreement import ensure_agreement
from index.collection import Collection
from index.records.filters import AGREEMENT, TAG, asks_for
from index.search import Answer, Feedback, Mark, Options, TargetQuery, search
from index.vocabulary import ensure_vocabulary
from media.modality import AUDIO, MODALITIES, TEXT, VIDEO

from .. import schemas
from ..access import needs
from ..active import ClientId, Tercet
from ..exceptions import BadRequest
from ..forms import Fields, check_fields
from ..keys import READ
from ..pipeline import EncodedQuery
from ..settings import TOP_K_MAX
from ..state import State
from ..trace import stage
from .bodies import parse_filter, saved_upload
from .router import Router

router = Router()


# ---------------------------------------------------------------- for every kind of query


def parse_options(tercet: State, request: schemas.SearchOptions) -> Options:
    """Raises BadRequest."""
    if request.top_k > tercet.settings.top_k_max:
        raise BadRequest(f"top_k is at most {tercet.settings.top_k_max}")
    return Options(
        top_k=request.top_k,
        filter=request.filter,
        min_score=request.min_score,
        min_confidence=request.min_confidence,
        exact=request.exact,
        rerank=request.rerank,
        feedback=read_marks(request),
        learned=request.learned,
        tags=request.tags,
    )


def read_marks(request: schemas.SearchOptions) -> Feedback | None:
    if not isinstance(request, schemas.MarkedSearch) or request.feedback is None:
        return None
    right = tuple(Mark(mark.id, mark.start_s) for mark in request.feedback.right)
    wrong = tuple(Mark(mark.id, mark.start_s) for mark in request.feedback.wrong)
    return Feedback(right, wrong)


async def prepare_filter(
    tercet: State, collection: Collection, filter: dict[str, Any] | None, tags: bool = False
) -> None:
    """Find out what is only known of a collection once it is asked for: its tags, how well its
    sounds and pictures agree.
    """
    if tags or asks_for(filter, TAG):
        await asyncio.to_thread(ensure_vocabulary, collection, tercet.encoder)
    if asks_for(filter, AGREEMENT):
        await asyncio.to_thread(ensure_agreement, collection, tercet.encoder.manifest)


async def run_search(
    tercet: State, collection: Collection, queries: list[TargetQuery], options: Options
) -> Answer:
    """Search, and for a sample of searches measure recall against comparing every vector."""
    await prepare_filter(tercet, collection, options.filter, tags=options.tags)
    with stage("search"):
        answer = await asyncio.to_thread(search, collection, queries, options)
    if answer.hits and not answer.plan.exact and random.random() < tercet.settings.recall_sample:
        exact = await asyncio.to_thread(search, collection, queries, replace(options, exact=True))
        ids = {hit.id for hit in answer.hits}
        recall = sum(hit.id in ids for hit in exact.hits) / max(len(exact.hits), 1)
        filtered = "yes" if options.filter else "no"
        tercet.metrics.recall.labels("+".join(answer.plan.ways), filtered).observe(recall)
    return answer


def search_response(
    *,
    collection: Collection,
    name: str,
    routes: list[Route],
    answer: Answer,
    queries: list[EncodedQuery],
    began: float,
) -> schemas.SearchResult:
    """`name` is query and target, as in "text-video"; `began` is of `time.perf_counter`."""
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
    encode_query: Callable[[str], Awaitable[EncodedQuery]],
    *,
    source: str,
    target: str,
    words: str | None = None,
) -> schemas.SearchResult:
    """Search for `target` by one query of the modality `source`, in each encoding needed. `words`
    is the query itself, if it is a text.
    """
    began = time.perf_counter()
    routes = tercet.encoder.manifest.routes([source], target, request.space)
    options = parse_options(tercet, request)
    collection = tercet.collections.get(request.collection)
    encodings = dict.fromkeys(route.encodings[source] for route in routes)
    queries = {encoding: await encode_query(encoding) for encoding in encodings}
    target_queries = [
        TargetQuery.along(route, source, queries[route.encodings[source]].vector[None])
        for route in routes
    ]
    known_share = min(query.known_share for query in queries.values())
    options = replace(options, known_share=known_share, target_name=target, words=words)
    answer = await run_search(tercet, collection, target_queries, options)
    return search_response(
        collection=collection,
        name=f"{source}-{target}",
        routes=routes,
        answer=answer,
        queries=list(queries.values()),
        began=began,
    )


def can_find_by_words(collection: Collection, targets: Sequence[str]) -> bool:
    """Whether words that the encoder does not know may be found in what files say."""
    return set(targets) <= {TEXT, ANY} and collection.has_passages


def search_by_text(target: str) -> Callable[..., Awaitable[schemas.SearchResult]]:
    @needs(READ)
    async def route(
        tercet: Tercet, client: ClientId, request: schemas.TextSearch
    ) -> schemas.SearchResult:
        async def encode_query(encoding: str) -> EncodedQuery:
            unknown = can_find_by_words(tercet.collections.get(request.collection), [target])
            return await tercet.pipeline.encode_query_text(
                request.query, encoding, client, unknown=unknown
            )

        return await search_with(
            tercet, request, encode_query, source="text", target=target, words=request.query
        )

    return route


def option_field(name: str, **limits: Any) -> Any:
    """A form's field for an option of `SearchOptions`, with its description."""
    return Form(description=schemas.SearchOptions.model_fields[name].description, **limits)


async def search_form(
    collection: Annotated[str, Form()] = "default",
    top_k: Annotated[int, option_field("top_k", ge=1, le=TOP_K_MAX)] = 10,
    filter: Annotated[str | SkipJsonSchema[None], Form(description="a filter as JSON")] = None,
    min_score: Annotated[
        float | SkipJsonSchema[None], option_field("min_score", allow_inf_nan=False)
    ] = None,
    min_confidence: Annotated[
        Annotated[float, Field(ge=0, le=1)] | SkipJsonSchema[None], option_field("min_confidence")
    ] = None,
    exact: Annotated[bool, option_field("exact")] = False,
    rerank: Annotated[
        Literal["qb_norm", "gram", "triangle"] | SkipJsonSchema[None], option_field("rerank")
    ] = None,
    learned: Annotated[bool, option_field("learned")] = True,
    tags: Annotated[bool, option_field("tags")] = False,
    space: Annotated[str | SkipJsonSchema[None], option_field("space")] = None,
) -> schemas.SearchOptions:
    """`SearchOptions` as fields of a form, where numbers and JSON are text. Raises BadRequest."""
    return schemas.SearchOptions(
        collection=collection,
        top_k=top_k,
        filter=parse_filter(filter),
        min_score=min_score,
        min_confidence=min_confidence,
        exact=exact,
        rerank=rerank,
        learned=learned,
        tags=tags,
        space=space,
    )


def search_by_file(source: str, target: str) -> Callable[..., Awaitable[schemas.SearchResult]]:
    @needs(READ)
    async def route(
        tercet: Tercet,
        client: ClientId,
        file: Annotated[UploadFile, File()],
        request: Annotated[schemas.SearchOptions, Depends(search_form)],
    ) -> schemas.SearchResult:
        async def encode_query(encoding: str) -> EncodedQuery:
            async with saved_upload(tercet, file) as path:
                return await tercet.pipeline.encode_query_file(path, encoding, client)

        return await search_with(tercet, request, encode_query, source=source, target=target)

    return route


SEARCH_FORM = Fields(texts=frozenset(schemas.SearchOptions.model_fields), files=frozenset({"file"}))


# What a route's description calls what is asked with, and what is searched.
ASKED_WITH = {VIDEO: "the pictures of a file", AUDIO: "the sound of a file", TEXT: "words"}
SEARCHED = {
    VIDEO: "pictures",
    AUDIO: "sound",
    TEXT: "texts and what files say",
    ANY: "pictures and sound together",
}


def add_routes(source: str, target: str) -> None:
    path = f"/v1/search/{source}-{target}"
    searched = SEARCHED[target]
    if (source, target) == (TEXT, ANY):
        searched += ", and what files say"
    names: dict[str, Any] = {
        "name": f"{source}-{target}",
        "summary": f"{source} to {target}",
        "description": f"Ask with {ASKED_WITH[source]}, search {searched}.",
    }
    if source == "text":
        router.post(path, tags=["search"], **names)(search_by_text(target))
    else:
        by_file = search_by_file(source, target)
        dependencies = [check_fields(SEARCH_FORM)]
        router.post_files(path, tags=["search"], dependencies=dependencies, **names)(by_file)


for _target in (*MODALITIES, ANY):
    for _source in MODALITIES:
        add_routes(_source, _target)
