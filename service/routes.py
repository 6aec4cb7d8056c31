"""The HTTP contract, version 1. Each route says what it takes, does one thing, and lets errors pass."""

from __future__ import annotations

import asyncio
import base64
import codecs
import io
import json
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import numpy as np
from fastapi import APIRouter, File, Form, Query, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.json_schema import SkipJsonSchema
from starlette.datastructures import UploadFile as StarletteFile

from export.bundle import ANY, Route
from index.bank import stock
from index.build import read_words
from index.collection import Collection, UnknownCollection
from index.items import media_item
from index.records import Item, NewItem, UnknownItem, modalities_of
from index.search import Aim, Answer, Options, direction, search
from media.containers import MEDIA
from media.errors import BadMedia, BadText
from media.manifest import checked_metadata
from media.modality import MODALITIES
from media.text import LETTERS_MAX, Reading, warnings_of

from . import schemas
from .errors import BadRequest, Overloaded, OverQuota, ShuttingDown, TimedOut, UnknownModel, body
from .forms import Fields, form_of, only
from .jobs import Job, below
from .links import address
from .media import Picture, Stored
from .mediatypes import media_type
from .pipeline import Asked, Embedded, Vectors, on_disk
from .settings import TOP_K_MAX
from .state import State, Tercet
from .trace import stage, who

Request_ = TypeVar("Request_", bound=schemas.Strict)
Text = TypeVar("Text")
Handler = TypeVar("Handler", bound=Callable[..., Any])

router = APIRouter(
    responses={s: {"model": schemas.ErrorResponse} for s in (400, 401, 404, 408, 409, 413, 415, 422, 429, 503)}
)


def serving(request: Request) -> State:
    found: State = request.app.state.tenure.state
    return found


def get_and_head(path: str, **said: Any) -> Callable[[Handler], Handler]:
    """A route that answers HEAD as it does GET, without the body."""

    def both(handler: Handler) -> Handler:
        router.head(path, **said)(handler)
        return router.get(path, **said)(handler)

    return both


# ---------------------------------------------------------------- the page

PAGE = Path(__file__).parent / "page"
CONTENT = {"script-src": "'self'", "style-src": "'self'", "connect-src": "'self'", "media-src": "'self' blob:"}
CONTENT |= {"img-src": "'self' data: blob:", "form-action": "'none'", "frame-ancestors": "'none'", "base-uri": "'none'"}
POLICY = "; ".join(["default-src 'none'", *(f"{part} {sources}" for part, sources in CONTENT.items())])


@get_and_head("/", include_in_schema=False)
async def page() -> Stored:
    """The search page."""
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
    return Stored(PAGE / "index.html", "text/html", headers=headers)


@get_and_head("/page/{name}", include_in_schema=False)
async def page_part(name: Literal["page.css", "page.js", "seekable.js"]) -> Stored:
    kind = "text/css" if name.endswith(".css") else "text/javascript"
    return Stored(PAGE / name, kind, headers={"Cache-Control": "no-cache"})


# ---------------------------------------------------------------- health


@router.get("/healthz", response_class=PlainTextResponse, tags=["health"])
async def healthz() -> str:
    return "ok"


@router.get("/readyz", tags=["health"])
async def readyz(request: Request) -> JSONResponse:
    """Whether every stage moves; said even while another bundle takes over."""
    problems = await serving(request).problems()
    return JSONResponse({"ready": not problems, "reasons": problems}, 503 if problems else 200)


@router.get("/metrics", response_class=PlainTextResponse, tags=["health"])
async def metrics(request: Request) -> Response:
    tercet = serving(request)
    for lane, tokens in tercet.batcher.waiting().items():
        tercet.metrics.waiting.labels(lane).set(tokens)
    tercet.metrics.items.clear()
    tercet.metrics.vectors.clear()
    for collection in tercet.collections.all():
        with suppress(UnknownCollection):
            counts = await asyncio.to_thread(collection.counts)
            tercet.metrics.items.labels(collection.name).set(counts["items"])
            for encoding in collection.dims:
                tercet.metrics.vectors.labels(collection.name, encoding).set(counts.get(encoding, 0))
    return Response(generate_latest(tercet.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/models", tags=["models"])
async def models(tercet: Tercet) -> dict[str, Any]:
    m, settings = tercet.encoder.manifest, tercet.settings
    limits = {
        "window_s": m.inputs.window_s,
        "tokens": max((t.spec.tokens for t in m.tokenizers.values()), default=0),
        "letters": LETTERS_MAX,
        "media_max_s": settings.media_max_s,
        "upload_max_mb": settings.upload_max_mb,
        "files_max": settings.files_max,
        "texts_max": settings.texts_max,
        "suffixes": sorted(MEDIA),
    }
    spaces = {name: {"dim": s.dim, "modalities": list(s.encodings)} for name, s in m.spaces.items()}
    model = {
        "id": m.name,
        "object": "model",
        "name": m.name,
        "fingerprint": m.fingerprint,
        "modalities": list(m.modalities),
        "spaces": spaces,
        "dim": m.spaces[m.meeting((m.modalities[0],))].dim,
        "limits": limits,
        "provenance": m.provenance,
    }
    return {"object": "list", "data": [model]}


# ---------------------------------------------------------------- embeddings


def few_enough(tercet: State, texts: list[Text]) -> list[Text]:
    if len(texts) > tercet.settings.texts_max:
        raise BadRequest(f"{len(texts)} texts, the limit is {tercet.settings.texts_max}")
    return texts


@router.post("/v1/embeddings", tags=["embed"])
async def openai_embeddings(tercet: Tercet, request: schemas.OpenAIEmbeddings) -> dict[str, Any]:
    """Embeddings of texts, and of sounds as content parts, in OpenAI's shape."""
    m = tercet.encoder.manifest
    given = [request.input] if isinstance(request.input, str) else few_enough(tercet, request.input)
    sounds = {i: part for i, part in enumerate(given) if isinstance(part, schemas.AudioContent)}
    texts = {
        i: part if isinstance(part, str) else part.text
        for i, part in enumerate(given)
        if not isinstance(part, schemas.AudioContent)
    }
    if len(sounds) > tercet.settings.files_max:
        raise BadRequest(f"{len(sounds)} sounds, the limit is {tercet.settings.files_max}")
    space = m.spaces[m.meeting(("text", "audio") if sounds else ("text",))]
    if request.model not in (None, m.name):
        raise UnknownModel(request.model or "", m.name)
    if request.dimensions not in (None, space.dim):
        raise BadRequest(f"this model gives {space.dim} dimensions only")
    if not given:
        raise BadRequest("input is empty")
    vectors: dict[int, Vectors] = {}
    answer: dict[str, Any] = {"object": "list", "model": m.name, "usage": {"prompt_tokens": 0, "total_tokens": 0}}
    if texts:
        encoding = space.encodings["text"]
        readings = await readings_of(tercet, texts, encoding, alone=not sounds)
        vectors |= zip(texts, await tercet.pipeline.rows([r.rows[0] for r in readings], encoding), strict=True)
        read, there = sum(r.read for r in readings), sum(r.tokens for r in readings)
        answer["usage"] = {"prompt_tokens": read, "total_tokens": there}
        if told := warnings_of(dict(zip(texts, readings, strict=True)), len(given) > 1, cut=True):
            answer["warnings"] = told
    heard = (sound_of(tercet, part, space.encodings["audio"]) for part in sounds.values())
    vectors |= zip(sounds, await asyncio.gather(*heard), strict=True)
    data = [{"object": "embedding", "index": i, "embedding": coded(vectors[i], request)} for i in range(len(given))]
    return answer | {"data": data}


async def readings_of(tercet: State, texts: dict[int, str], encoding: str, alone: bool = True) -> list[Reading]:
    """Texts, by their places in the request, as they are read. One with no word that is known is refused where nothing
    beside it can be read: among others it would cost them their vectors.

    Raises:
        BadText: with its place, where there are several.
    """
    places = list(texts)
    try:
        readings = await tercet.pipeline.read(list(texts.values()), encoding)
    except BadText as error:  # its index is among the texts, without the sounds between them
        raise error if error.index is None else BadText(error.reason, places[error.index]) from None
    if alone and not any(reading.known for reading in readings):
        readings[0].check(places[0] if len(readings) > 1 else None)
    return readings


async def sound_of(tercet: State, part: schemas.AudioContent, encoding: str) -> Vectors:
    """One unit vector [dim] for a sound that came in base64."""
    try:
        data = base64.b64decode(part.input_audio.data, validate=True)
    except ValueError as error:
        raise BadRequest("input_audio.data is not base64") from error
    name = f"sound.{part.input_audio.format}" if part.input_audio.format else None
    async with on_disk(io.BytesIO(data), tercet.uploads, name) as path:
        return await tercet.pipeline.query(path, encoding)


def coded(vector: Vectors, request: schemas.OpenAIEmbeddings) -> list[float] | str:
    if request.encoding_format == "base64":
        return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()
    return floats(vector)


def floats(vector: Vectors) -> list[float]:
    return cast(list[float], vector.tolist())


def answered(
    tercet: State, space: str, data: list[schemas.Embedding], warnings: list[str] | None = None
) -> schemas.Embeddings:
    m = tercet.encoder.manifest
    dim = m.spaces[space].dim
    return schemas.Embeddings(fingerprint=m.fingerprint, space=space, dim=dim, data=data, warnings=warnings or [])


@router.post("/v1/embed/text", tags=["embed"], response_model_exclude_none=True)
async def embed_text(tercet: Tercet, request: schemas.Texts) -> schemas.Embeddings:
    manifest = tercet.encoder.manifest
    space = manifest.meeting(("text",), request.space)
    encoding = manifest.spaces[space].encodings["text"]
    texts = dict(enumerate(few_enough(tercet, request.texts)))
    readings = await readings_of(tercet, texts, encoding)
    vectors = await tercet.pipeline.rows([reading.rows[0] for reading in readings], encoding)
    data = [schemas.Embedding(index=i, embedding=floats(v)) for i, v in enumerate(vectors)]
    return answered(tercet, space, data, warnings_of(dict(enumerate(readings)), len(texts) > 1, cut=True))


async def embed_files(tercet: State, files: list[UploadFile], modality: str, named: str | None) -> schemas.Embeddings:
    """Every file on its own: a bad one has its error in its place. One bad file alone is the request's error."""
    space = tercet.encoder.manifest.meeting((modality,), named)
    encoding = tercet.encoder.manifest.spaces[space].encodings[modality]
    if len(files) > tercet.settings.files_max:
        raise BadRequest(f"{len(files)} files, the limit is {tercet.settings.files_max}")

    async def one(index: int, file: UploadFile) -> schemas.Embedding:
        try:
            embedded = await embed_upload(tercet, file, (encoding,))
        except (BadMedia, Overloaded, OverQuota, TimedOut, ShuttingDown) as error:
            if len(files) == 1:
                raise
            return schemas.Embedding(index=index, filename=file.filename, error=schemas.ErrorBody(**body(error)))
        which, vectors = embedded.vectors[encoding]
        times = embedded.media.windows
        windows = [
            schemas.WindowVector(start_s=times[w][0], end_s=times[w][1], embedding=floats(v))
            for w, v in zip(which, vectors, strict=True)
        ]
        vector = floats(direction(vectors))
        return schemas.Embedding(index=index, filename=file.filename, embedding=vector, windows=windows)

    return answered(tercet, space, await asyncio.gather(*(one(i, file) for i, file in enumerate(files))))


async def embed_upload(tercet: State, file: UploadFile, wanted: tuple[str, ...]) -> Embedded:
    async with upload_of(tercet, file) as path:
        return await tercet.pipeline.file(path, wanted)


EMBED_FORM = Fields(texts=frozenset({"space"}), files=frozenset({"file"}), repeated=True)


@router.post("/v1/embed/audio", tags=["embed"], response_model_exclude_none=True, dependencies=[only(EMBED_FORM)])
async def embed_audio(
    tercet: Tercet,
    file: Annotated[list[UploadFile], File(min_length=1)],
    space: Annotated[str | SkipJsonSchema[None], Form()] = None,
) -> schemas.Embeddings:
    """The sound of each file: a vector for each window and one for the whole."""
    return await embed_files(tercet, file, "audio", space)


@router.post("/v1/embed/video", tags=["embed"], response_model_exclude_none=True, dependencies=[only(EMBED_FORM)])
async def embed_video(
    tercet: Tercet,
    file: Annotated[list[UploadFile], File(min_length=1)],
    space: Annotated[str | SkipJsonSchema[None], Form()] = None,
) -> schemas.Embeddings:
    """The pictures of each file: a vector for each window and one for the whole."""
    return await embed_files(tercet, file, "video", space)


# ---------------------------------------------------------------- collections


def described(collection: Collection) -> schemas.CollectionFound:
    counts = collection.counts()
    vectors = {e: counts[e] for e in collection.dims if e in counts}
    return schemas.CollectionFound(
        name=collection.name,
        fingerprint=collection.fingerprint,
        items=counts["items"],
        windows=counts["windows"],
        vectors=vectors,
    )


@router.post("/v1/collections", status_code=201, tags=["collections"])
async def create_collection(tercet: Tercet, request: schemas.NewCollection) -> schemas.CollectionFound:
    tercet.check_room()
    return described(await asyncio.to_thread(stocked, tercet, request.name))


def stocked(tercet: State, name: str) -> Collection:
    """A new collection with its bank of queries: both or neither."""
    collection = tercet.collections.create(name)
    try:
        stock(collection, tercet.encoder)
    except BaseException:
        tercet.collections.delete(name)
        raise
    return collection


@router.get("/v1/collections", tags=["collections"])
async def list_collections(tercet: Tercet) -> schemas.CollectionList:
    found = []
    for collection in tercet.collections.all():
        with suppress(UnknownCollection):  # deleted in the meantime
            found.append(await asyncio.to_thread(described, collection))
    return schemas.CollectionList(collections=found)


@router.get("/v1/collections/{name}", tags=["collections"])
async def get_collection(tercet: Tercet, name: str) -> schemas.CollectionFound:
    return await asyncio.to_thread(described, tercet.collections.get(name))


@router.delete("/v1/collections/{name}", status_code=204, tags=["collections"])
async def delete_collection(tercet: Tercet, name: str) -> None:
    await tercet.write(tercet.collections.delete, name)


# ---------------------------------------------------------------- items

ITEM_FORM = Fields(texts=frozenset({"id", "metadata"}), files=frozenset({"file"}))
ITEM_BODIES = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "id": {"type": "string"},
                        "metadata": {"type": "string", "description": "a JSON object"},
                    },
                }
            },
            "application/json": {"schema": schemas.whole_schema(schemas.TextItem)},
        },
    }
}


@router.post("/v1/collections/{name}/items", status_code=201, tags=["items"], openapi_extra=ITEM_BODIES)
async def add_item(tercet: Tercet, name: str, request: Request) -> schemas.ItemAdded:
    """Add a video or a sound (multipart) or a text (JSON). Answered when it is on disk; the same id again replaces."""
    collection = tercet.collections.get(name)
    kind = body_type(request)
    if kind == "multipart/form-data":
        item = await add_media(tercet, collection, request)
    elif kind == "application/json":
        text = parsed(schemas.TextItem, await request.body())
        tercet.check_room()
        item = await text_item(tercet, text)
        with stage("write"):
            await tercet.write(collection.put, [item])
    else:
        raise BadRequest("an item is multipart/form-data with a file, or JSON with a text")
    found = list(modalities_of(item.vectors))
    return schemas.ItemAdded(
        id=item.id,
        windows=len(item.windows),
        modalities=found,
        duration_s=item.duration_s,
        warnings=list(item.warnings),
    )


def body_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def add_media(tercet: State, collection: Collection, request: Request) -> NewItem:
    async with form_of(request, ITEM_FORM) as form:
        tercet.check_room()  # once the body is here: few clients read an answer while they send
        file, metadata = form.get("file"), form.get("metadata")
        if file is None or isinstance(file, str):
            raise BadRequest("there is no part 'file' with a file name")
        id = parsed_value(schemas.ItemId, form.get("id") or uuid.uuid4().hex)
        about = checked_metadata(as_json("metadata", metadata)) if metadata else {}
        async with upload_of(tercet, file) as path:
            m = tercet.encoder.manifest
            embedded = await tercet.pipeline.file(
                path, [*m.encodings("video"), *m.encodings("audio")], tercet.settings.overlap, previews=True
            )
            item = media_item(
                id,
                embedded.media,
                embedded.vectors,
                metadata=about,
                filename=(file.filename or "").encode("utf-8", "replace").decode(),
            )
            with stage("write"):
                await tercet.write(collection.put_media, item, path)
    return item


async def text_item(tercet: State, request: schemas.TextItem) -> NewItem:
    words = await asyncio.to_thread(read_words, tercet.encoder, [request.text])
    vectors = {e: (which, await tercet.pipeline.rows(rows, e)) for e, (which, rows) in words.rows.items()}
    return NewItem(
        id=request.id or uuid.uuid4().hex,
        kind="text",
        duration_s=0.0,
        windows=[(0.0, 0.0)] * words.windows,
        vectors=vectors,
        metadata=request.metadata,
        text=request.text,
        warnings=words.warnings,
    )


def parsed(model: type[Request_], raw: bytes) -> Request_:
    try:
        return model.model_validate_json(raw.removeprefix(codecs.BOM_UTF8))
    except ValidationError as error:
        raise BadRequest(complaint(error)) from error


def parsed_value(kind: Any, value: Any) -> Any:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise BadRequest(complaint(error)) from error


def complaint(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())[:2000]


def as_json(field: str, value: Any) -> Any:
    try:
        return json.loads(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"{field} is not JSON") from error


def shown(item: Item) -> schemas.ItemFound:
    return schemas.ItemFound(
        id=item.id,
        windows=item.windows,
        modalities=list(item.modalities),
        duration_s=item.duration_s,
        kind=item.kind,
        filename=item.filename,
        text=item.text,
        metadata=item.metadata,
    )


@router.get("/v1/collections/{name}/items", tags=["items"])
async def list_items(
    tercet: Tercet, name: str, limit: Annotated[int, Query(ge=1, le=1000)] = 100, after: str = ""
) -> schemas.ItemPage:
    items = await asyncio.to_thread(tercet.collections.get(name).page, limit, after)
    return schemas.ItemPage(items=[shown(i) for i in items], next=items[-1].id if len(items) == limit else None)


@get_and_head("/v1/collections/{name}/items/{id:path}/media", tags=["items"], response_class=FileResponse)
async def item_media(tercet: Tercet, name: str, id: str) -> Stored:
    """The stored media, with range requests."""
    return await asyncio.to_thread(stored, tercet.collections.get(name), id)


def stored(collection: Collection, id: str) -> Stored:
    """Raises UnknownItem."""
    path, filename = collection.media(id)
    item = collection.item(id)
    pictures = item.kind == "video" or "video" in item.modalities
    try:
        return Stored(path, media_type(path, pictures), filename)
    except FileNotFoundError:  # deleted or replaced at this moment
        raise UnknownItem(id) from None


@get_and_head(
    "/v1/collections/{name}/items/{id:path}/poster",
    tags=["items"],
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}},
)
async def item_poster(tercet: Tercet, name: str, id: str, at_s: Annotated[float, Query(ge=0)] = 0.0) -> Picture:
    """A small picture of an item around that second, made when it was added."""
    jpeg = await asyncio.to_thread(tercet.collections.get(name).picture, id, at_s)
    return Picture(jpeg, "image/jpeg", {"Cache-Control": "private, max-age=60"})


@get_and_head("/v1/collections/{name}/items/{id:path}/waveform", tags=["items"])
async def item_waveform(tercet: Tercet, name: str, id: str) -> schemas.Waveform:
    """How loud an item is from its start to its end, made when it was added."""
    return schemas.Waveform(peaks=list(await asyncio.to_thread(tercet.collections.get(name).peaks, id)))


@router.post("/v1/collections/{name}/items/{id:path}/link", status_code=201, tags=["items"])
async def link_item(request: Request, tercet: Tercet, name: str, id: str) -> schemas.ItemLink:
    """Addresses of one item's media and pictures that open without a key for a while, for players."""
    collection = tercet.collections.get(name)
    item = await asyncio.to_thread(collection.item, id)
    await asyncio.to_thread(collection.media, id)
    token, seconds = None, None
    if tercet.settings.api_keys:
        seconds = tercet.settings.link_s + item.duration_s
        token = request.app.state.links.token(who(), collection.name, item.id, seconds)
    poster = address(name, id, "poster", token) if item.kind == "video" else None
    return schemas.ItemLink(media=address(name, id, "media", token), poster=poster, expires_s=seconds)


@router.get("/v1/collections/{name}/items/{id:path}", tags=["items"])
async def get_item(tercet: Tercet, name: str, id: str) -> schemas.ItemFound:
    return shown(await asyncio.to_thread(tercet.collections.get(name).item, id))


@router.delete("/v1/collections/{name}/items/{id:path}", status_code=204, tags=["items"])
async def delete_item(tercet: Tercet, name: str, id: str) -> None:
    await tercet.write(tercet.collections.get(name).delete, id)


# ---------------------------------------------------------------- search


def chosen(tercet: State, request: schemas.SearchOptions) -> Options:
    if request.top_k > tercet.settings.top_k_max:
        raise BadRequest(f"top_k is at most {tercet.settings.top_k_max}")
    return Options(
        request.top_k, request.filter, request.min_score, request.min_confidence, request.exact, request.qb_norm
    )


def told(
    collection: Collection, route: str, space: str, began: float, answer: Answer, asked: list[Asked]
) -> schemas.SearchResult:
    return schemas.SearchResult(
        collection=collection.name,
        fingerprint=collection.fingerprint,
        route=route,
        space=space,
        took_ms=round((time.perf_counter() - began) * 1000, 3),
        plan=answer.plan,
        good_match=answer.good_match,
        calibration=answer.calibration,
        warnings=list(dict.fromkeys(warning for one in asked for warning in one.warnings)),
        hits=answer.hits,
    )


async def find(
    tercet: State, request: schemas.SearchOptions, query: Callable[[str], Awaitable[Asked]], source: str, target: str
) -> schemas.SearchResult:
    """`query` makes what is searched by, by the encoding it gets."""
    began = time.perf_counter()
    routes = tercet.encoder.manifest.routes([source], target, request.space)
    options, collection = chosen(tercet, request), tercet.collections.get(request.collection)
    asked = {encoding: await query(encoding) for encoding in dict.fromkeys(r.encodings[source] for r in routes)}
    aims = [Aim.along(route, source, asked[route.encodings[source]].vector[None]) for route in routes]
    known = min(one.known for one in asked.values())
    found = await searched(tercet, collection, aims, replace(options, known=known, called=target))
    return told(collection, f"{source}-{target}", spaces_of(routes), began, found, list(asked.values()))


def spaces_of(routes: list[Route]) -> str:
    return "+".join(dict.fromkeys(route.space for route in routes))


async def searched(tercet: State, collection: Collection, aims: list[Aim], options: Options) -> Answer:
    """The answer; of some searches it is then measured how it compares with every vector compared."""
    with stage("search"):
        found = await asyncio.to_thread(search, collection, aims, options)
    if found.hits and not found.plan.exact and random.random() < tercet.settings.recall_sample:
        right = await asyncio.to_thread(search, collection, aims, replace(options, exact=True))
        there = {hit.id for hit in found.hits}
        recall = tercet.metrics.recall.labels("+".join(found.plan.ways), "yes" if options.filter else "no")
        recall.observe(sum(hit.id in there for hit in right.hits) / max(len(right.hits), 1))
    return found


def search_by_text(target: str) -> Callable[..., Awaitable[schemas.SearchResult]]:
    async def route(tercet: Tercet, request: schemas.TextSearch) -> schemas.SearchResult:
        async def query(encoding: str) -> Asked:
            return await tercet.pipeline.asked(request.query, encoding)

        return await find(tercet, request, query, "text", target)

    return route


SEARCH_FORM = Fields(texts=frozenset(schemas.SearchOptions.model_fields), files=frozenset({"file"}))


def search_by_file(source: str, target: str) -> Callable[..., Awaitable[schemas.SearchResult]]:
    async def route(
        tercet: Tercet,
        file: Annotated[UploadFile, File()],
        collection: Annotated[str, Form()] = "default",
        top_k: Annotated[int, Form(ge=1, le=TOP_K_MAX)] = 10,
        filter: Annotated[str | SkipJsonSchema[None], Form(description="a filter as JSON")] = None,
        min_score: Annotated[float | SkipJsonSchema[None], Form(allow_inf_nan=False)] = None,
        min_confidence: Annotated[Annotated[float, Field(ge=0, le=1)] | SkipJsonSchema[None], Form()] = None,
        exact: Annotated[bool, Form()] = False,
        qb_norm: Annotated[bool, Form()] = False,
        space: Annotated[str | SkipJsonSchema[None], Form()] = None,
    ) -> schemas.SearchResult:
        request = schemas.SearchOptions(
            collection=collection,
            top_k=top_k,
            filter=parsed_value(dict[str, Any], as_json("filter", filter)) if filter else None,
            min_score=min_score,
            min_confidence=min_confidence,
            exact=exact,
            qb_norm=qb_norm,
            space=space,
        )

        async def query(encoding: str) -> Asked:
            async with upload_of(tercet, file) as path:
                return Asked(await tercet.pipeline.query(path, encoding))

        return await find(tercet, request, query, source, target)

    return route


COMPOSED_FORM = Fields(texts=frozenset({"request"}), any_file=True)
COMPOSED_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["request"],
                    "properties": {"request": {"type": "string", "description": "a ComposedSearch as JSON"}},
                    "additionalProperties": {"type": "string", "format": "binary"},
                }
            },
            "application/json": {"schema": schemas.whole_schema(schemas.ComposedSearch)},
        },
    }
}


@router.post("/v1/search", tags=["search"], openapi_extra=COMPOSED_BODY)
async def composed_search(tercet: Tercet, request: Request) -> schemas.SearchResult:
    """A query of several parts, texts, files and items of the collection, each with a weight, negative for what is not
    wanted; over one target or several, fused. JSON will do where no part is a file.
    """
    if body_type(request) == "application/json":
        return await compose(tercet, parsed(schemas.ComposedSearch, await request.body()), {})
    async with form_of(request, COMPOSED_FORM) as form:
        asked = form.get("request")
        if not isinstance(asked, str):
            raise BadRequest("there is no field 'request'")
        files = {name: part for name, part in form.multi_items() if not isinstance(part, str)}
        return await compose(tercet, parsed(schemas.ComposedSearch, asked.encode()), files)


async def compose(
    tercet: State, request: schemas.ComposedSearch, files: Mapping[str, StarletteFile]
) -> schemas.SearchResult:
    began = time.perf_counter()
    manifest, parts, targets = tercet.encoder.manifest, request.parts, list(dict.fromkeys(request.targets))
    options, collection = chosen(tercet, request), tercet.collections.get(request.collection)
    if unknown := [part.file for part in parts if isinstance(part, schemas.FilePart) and part.file not in files]:
        raise BadRequest(f"there is no part {unknown[0]!r} with a file name")
    named = {part.file for part in parts if isinstance(part, schemas.FilePart)}
    if unused := [name for name in files if name not in named]:
        raise BadRequest(f"no part of the request names the file {unused[0][:80]!r}")
    sources = [source_of(part) for part in parts]
    found_routes = [route for target in targets for route in manifest.routes(sources, target, request.space)]
    routes = list({route.target: route for route in found_routes}.values())  # "any" may lead to what is named beside it
    needed = [
        (part, list(dict.fromkeys(route.encodings[source] for route in routes)))
        for part, source in zip(parts, sources, strict=True)
    ]
    async with AsyncExitStack() as uploads:
        used = dict.fromkeys(part.file for part in parts if isinstance(part, schemas.FilePart))
        paths = {name: await uploads.enter_async_context(upload_of(tercet, files[name])) for name in used}
        made = await asyncio.gather(
            *(
                asked_part(tercet, collection, part, es, paths, i if len(parts) > 1 else None)
                for i, (part, es) in enumerate(needed)
            )
        )
    leading = next(source for part, source in zip(parts, sources, strict=True) if part.weight > 0)
    weights = tuple(part.weight for part in parts)
    aims = []
    for route in routes:
        vectors = [found[route.encodings[source]].vector for found, source in zip(made, sources, strict=True)]
        aims.append(Aim.along(route, leading, np.stack(vectors), weights))
    called = targets[0] if len(targets) == 1 else None
    asked = [one for found in made for one in found.values()]
    known = min(one.known for one in asked)
    found = await searched(tercet, collection, aims, replace(options, known=known, called=called))
    return told(collection, f"composed-{'+'.join(targets)}", spaces_of(routes), began, found, asked)


def upload_of(tercet: State, file: StarletteFile) -> AbstractAsyncContextManager[Path]:
    return on_disk(file.file, tercet.uploads, file.filename)


def source_of(part: schemas.TextPart | schemas.FilePart | schemas.ItemPart) -> str:
    return "text" if isinstance(part, schemas.TextPart) else part.modality


async def asked_part(
    tercet: State,
    collection: Collection,
    part: schemas.TextPart | schemas.FilePart | schemas.ItemPart,
    encodings: list[str],
    paths: Mapping[str, Path],
    index: int | None,
) -> dict[str, Asked]:
    """One part of a composed query in each of the encodings it is needed in; `index` is its place among several."""
    if isinstance(part, schemas.TextPart):
        return {e: await tercet.pipeline.asked(part.text, e, index) for e in encodings}
    if isinstance(part, schemas.ItemPart):
        return {e: Asked(direction(await asyncio.to_thread(collection.vectors, part.item, e))) for e in encodings}
    embedded = await tercet.pipeline.file(paths[part.file], encodings)
    return {e: Asked(direction(embedded.vectors[e][1])) for e in encodings}


# ---------------------------------------------------------------- jobs


@router.post("/v1/jobs", status_code=202, tags=["jobs"])
async def add_job(tercet: Tercet, request: schemas.NewJob) -> Job:
    """Import a folder or a file that lies below the configured import folder. Answered when the job is on disk."""
    tercet.collections.get(request.collection)
    tercet.check_room()
    await asyncio.to_thread(below, tercet.settings.imports, request.path)
    return await asyncio.to_thread(tercet.jobs.add, request.collection, request.path)


@router.get("/v1/jobs", tags=["jobs"])
async def list_jobs(tercet: Tercet) -> schemas.JobList:
    return schemas.JobList(jobs=tercet.jobs.all())


@router.get("/v1/jobs/{id}", tags=["jobs"])
async def get_job(tercet: Tercet, id: str) -> Job:
    return tercet.jobs.get(id)


@router.delete("/v1/jobs/{id}", status_code=204, tags=["jobs"])
async def cancel_job(tercet: Tercet, id: str) -> None:
    """End a job; what it has indexed stays. One that has ended is forgotten."""
    await asyncio.to_thread(tercet.jobs.cancel, id)


@router.post("/v1/admin/reload", tags=["admin"])
async def reload(request: Request) -> dict[str, str]:
    """Open the bundle and read the settings again, as SIGHUP does; answered when they serve."""
    state = await request.app.state.reloader.reload()
    return {"fingerprint": state.encoder.manifest.fingerprint}


for _target in (*MODALITIES, ANY):
    for _source in MODALITIES:
        _route = search_by_text(_target) if _source == "text" else search_by_file(_source, _target)
        _name = f"{_source}-{_target}"
        _checks = [] if _source == "text" else [only(SEARCH_FORM)]
        _said = f"{_source} to {_target}"
        router.post(f"/v1/search/{_name}", tags=["search"], name=_name, summary=_said, dependencies=_checks)(_route)
