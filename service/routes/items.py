"""Add, list, read, change and delete a collection's items, their media and their pictures."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request
from fastapi.responses import FileResponse, Response
from pydantic.json_schema import SkipJsonSchema
from starlette.exceptions import HTTPException

from index.collection import Collection
from index.description import describe, make_sentence, read_bank, tag_readings
from index.ingest.encoding import read_words
from index.ingest.items import media_item
from index.ingest.passages import add_passages, read_passages
from index.records.item import Item, NewItem, list_modalities
from index.vocabulary import ensure_vocabulary
from media.convert import SUFFIXES, Order, clip_name, clip_order
from media.errors import BadMedia, BadStretch, MissingModality
from media.manifest import check_metadata
from media.mediatypes import media_type
from media.modality import RECORDED
from media.passages import Passage

from .. import schemas
from ..access import Change, ChangeOf, needs
from ..active import ClientId, Tercet
from ..conversions import Converted
from ..exceptions import BadRequest
from ..forms import Fields, read_form
from ..keys import ADD, ADMIN, READ
from ..links import Links, item_address
from ..media import Picture, Stored, Version
from ..state import State
from ..trace import stage
from .bodies import (
    content_type,
    parse_body,
    parse_filter,
    parse_json,
    parse_value,
    saved_upload,
)
from .router import Router
from .search import prepare_filter

router = Router()

Seconds = Annotated[float, Query(ge=0, allow_inf_nan=False)]
CONVERTED_PARTS = ("playable", "clip")
SEEN = ("video", "image")  # kinds of items that have a poster
ITEM_FORM = Fields(texts=frozenset({"id", "metadata"}), files=frozenset({"file"}))
BYTES = {"schema": {"type": "string", "format": "binary"}}
FILE_CONTENT = dict.fromkeys(("video/*", "audio/*", "image/*"), BYTES)
FILE_ANSWERS: dict[int | str, dict[str, Any]] = {  # RFC 9110
    200: {"content": FILE_CONTENT},
    206: {"description": "The range that was asked for", "content": FILE_CONTENT},
    304: {"description": "Not Modified"},
    412: {"model": schemas.ErrorResponse},
    416: {"model": schemas.ErrorResponse},
}
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


@router.post_files(
    "/v1/collections/{name}/items", status_code=201, tags=["items"], openapi_extra=ITEM_BODIES
)
@needs(ADD, "item.add")
async def add_item(
    tercet: Tercet, client: ClientId, name: str, request: Request, change: ChangeOf
) -> schemas.ItemAdded:
    """Add a video, a picture or a sound (multipart), or a text (JSON). Answered when it is on disk.
    The same id again replaces the item.
    """
    collection = tercet.collections.get(name)
    kind = content_type(request)
    if kind == "multipart/form-data":
        item = await add_media(tercet, client, collection, request, change)
    elif kind == "application/json":
        item = await add_text(tercet, client, collection, request, change)
    else:
        raise BadRequest("send an item as multipart/form-data with a file, or as JSON with a text")
    return schemas.ItemAdded(
        id=item.id,
        windows=len(item.windows),
        modalities=list(list_modalities(item.vectors)),
        duration_s=item.duration_s,
        warnings=list(item.warnings),
    )


async def add_media(
    tercet: State, client: str, collection: Collection, request: Request, change: Change
) -> NewItem:
    async with read_form(request, ITEM_FORM) as form:
        tercet.check_room()  # after the body: few clients read an answer while they send
        file = form.get("file")
        if file is None or isinstance(file, str):
            raise BadRequest("there is no part 'file' with a file name")
        id = parse_value("id", schemas.ItemId, form.get("id", uuid.uuid4().hex))
        change.about["item"] = id
        given = form.get("metadata")
        metadata = check_metadata(parse_json("metadata", str(given))) if given else {}
        manifest = tercet.encoder.manifest
        encodings = [*manifest.encodings("video"), *manifest.encodings("audio")]
        overlap = tercet.settings.overlap
        async with saved_upload(tercet, file) as path:
            embedded = await tercet.pipeline.embed_file(
                path, encodings, client, overlap=overlap, previews=True
            )
            item = media_item(
                id,
                embedded.media,
                embedded.vectors,
                metadata=metadata,
                filename=(file.filename or "").encode("utf-8", "replace").decode(),
            )
            item = await encode_passages(tercet, client, item, embedded.media.passages)
            with stage("write"):
                await tercet.write(collection.put_media, item, path)
    return item


async def encode_passages(
    tercet: State, client: str, item: NewItem, passages: tuple[Passage, ...]
) -> NewItem:
    """An item with what its file says in words."""
    words = await asyncio.to_thread(read_passages, tercet.encoder, passages)
    vectors = {}
    for encoding, (which, rows) in words.items():
        vectors[encoding] = (which, await tercet.pipeline.encode_tokens(rows, encoding, client))
    return add_passages(item, passages, vectors)


async def add_text(
    tercet: State, client: str, collection: Collection, request: Request, change: Change
) -> NewItem:
    text = parse_body(schemas.TextItem, await request.body())
    tercet.check_room()
    item = await encode_text_item(tercet, client, text)
    change.about["item"] = item.id
    with stage("write"):
        await tercet.write(collection.put, [item])
    return item


async def encode_text_item(tercet: State, client: str, request: schemas.TextItem) -> NewItem:
    words = await asyncio.to_thread(read_words, tercet.encoder, [request.text])
    vectors = {}
    for encoding, (windows, rows) in words.rows.items():
        vectors[encoding] = (windows, await tercet.pipeline.encode_tokens(rows, encoding, client))
    return NewItem(
        id=request.id or uuid.uuid4().hex,
        kind="text",
        duration_s=0.0,
        windows=[(0.0, 0.0)] * words.windows,
        vectors=vectors,
        metadata=request.metadata,
        texts=(request.text,),
        warnings=words.warnings,
    )


@router.get("/v1/collections/{name}/items", tags=["items"])
@needs(READ)
async def list_items(
    tercet: Tercet,
    name: str,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str, Query(description="`next` of the page before, or an item's id")] = "",
    order: Annotated[
        Literal["id", "newest"], Query(description="newest: those added last come first")
    ] = "id",
    filter: Annotated[
        str | SkipJsonSchema[None], Query(description="a filter as JSON; goes with `newest`")
    ] = None,
) -> schemas.ItemPage:
    """A collection's items, a page at a time."""
    collection = tercet.collections.get(name)
    if filter is not None and order == "id":
        raise BadRequest("a filter goes with order=newest")
    if order == "newest":
        wanted = parse_filter(filter)
        await prepare_filter(tercet, collection, wanted)
        items, place = await asyncio.to_thread(collection.newest, limit, after, wanted)
    else:
        items = await asyncio.to_thread(collection.page, limit, after)
        place = items[-1].id if items else after
    return schemas.ItemPage(
        items=[item_response(item) for item in items], next=place if len(items) == limit else None
    )


def item_response(item: Item) -> schemas.ItemFound:
    return schemas.ItemFound(
        id=item.id,
        windows=item.windows,
        modalities=list(item.modalities),
        duration_s=item.duration_s,
        kind=item.kind,
        filename=item.filename,
        text=item.text,
        metadata=item.metadata,
        partial=item.partial,
        added=item.added,
    )


@router.get_and_head(
    "/v1/collections/{name}/items/{id:path}/media",
    tags=["items"],
    response_class=FileResponse,
    responses=FILE_ANSWERS,
)
@needs(READ)
async def item_media(tercet: Tercet, name: str, id: str) -> Stored:
    """The stored media, with range requests."""
    return await asyncio.to_thread(media_response, tercet.collections.get(name), id)


def media_response(collection: Collection, id: str) -> Stored:
    """Raises UnknownItem, NoMedia."""
    while True:
        item, path = collection.item_media(id)
        with suppress(FileNotFoundError):  # deleted or replaced at this moment: look again
            # browsers send a path below the folder that was chosen
            filename = Path(item.filename or "").name or path.name
            return Stored(path, media_type(path, has_pictures(item)), filename)


@router.get_and_head(
    "/v1/collections/{name}/items/{id:path}/playable",
    tags=["items"],
    response_class=FileResponse,
    responses=FILE_ANSWERS,
)
@needs(READ)
async def item_playable(
    tercet: Tercet, client: ClientId, name: str, id: str, start_s: Seconds = 0.0
) -> Stored:
    """A version that browsers play of a video or a sound whose format they do not. It holds the
    second `start_s`: all of a short item, of a long one a stretch. The headers `tercet-start-s` and
    `tercet-end-s` say which.
    """

    def order_of(item: Item) -> Order:
        if start_s >= item.duration_s:
            raise BadStretch(start_s, item.duration_s, item.duration_s)
        return Order(start_s, item.duration_s, clip=False, pictures=has_pictures(item))

    filename, _, converted = await convert_item(tercet, client, name, id, order_of)
    made = converted.made
    headers = {"Tercet-Start-S": str(made.start_s), "Tercet-End-S": str(made.end_s)}
    named = f"{Path(filename).stem}{SUFFIXES[made.media_type]}"
    version = Version(converted.tag)
    return Stored(converted.path, made.media_type, named, headers, version=version)


@router.get_and_head(
    "/v1/collections/{name}/items/{id:path}/clip",
    tags=["items"],
    response_class=FileResponse,
    responses=FILE_ANSWERS,
)
@needs(READ)
async def item_clip(
    tercet: Tercet, client: ClientId, name: str, id: str, start_s: Seconds, end_s: Seconds
) -> Stored:
    """A moment as a file of its own, cut exactly: of a video WebM, of a sound FLAC."""

    def order_of(item: Item) -> Order:
        return clip_order(
            start_s,
            end_s,
            duration_s=item.duration_s,
            pictures=has_pictures(item),
            longest_s=tercet.settings.clip_max_s,
        )

    filename, order, converted = await convert_item(tercet, client, name, id, order_of)
    return Stored(
        converted.path,
        converted.made.media_type,
        clip_name(filename, order),
        version=Version(converted.tag),
        disposition="attachment",
    )


async def convert_item(
    tercet: State, client: str, name: str, id: str, order_of: Callable[[Item], Order]
) -> tuple[str, Order, Converted]:
    """What is ordered of an item: the name of its file, the order, and what was made of it.

    Raises:
        UnknownItem, NoMedia.
        MissingModality: it is neither a video nor a sound.
        BadMedia, and what `Conversions.get` raises.
    """
    while True:
        item, path = await asyncio.to_thread(playable_media, tercet, name, id)
        order = order_of(item)
        try:
            converted = await tercet.conversions.get(path, order, client)
        except (BadMedia, FileNotFoundError):
            if path.is_file():
                raise
            continue  # it was deleted or replaced meanwhile: look again
        return item.filename or path.name, order, converted


def playable_media(tercet: State, name: str, id: str) -> tuple[Item, Path]:
    """An item that is played, and its file. Raises UnknownItem, NoMedia; MissingModality where it
    is neither a video nor a sound.
    """
    collection = tercet.collections.get(name)
    if collection.item(id).kind not in RECORDED:
        raise MissingModality("video or audio")
    return collection.item_media(id)


def has_pictures(item: Item) -> bool:
    return item.kind in SEEN or "video" in item.modalities


@router.get_and_head(
    "/v1/collections/{name}/items/{id:path}/poster",
    tags=["items"],
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}},
)
@needs(READ)
async def item_poster(tercet: Tercet, name: str, id: str, at_s: Seconds = 0.0) -> Picture:
    """A small picture of an item around that second, made when it was added."""
    jpeg = await asyncio.to_thread(tercet.collections.get(name).picture, id, at_s)
    return Picture(jpeg, "image/jpeg", {"Cache-Control": "private, max-age=60"})


@router.get_and_head("/v1/collections/{name}/items/{id:path}/waveform", tags=["items"])
@needs(READ)
async def item_waveform(tercet: Tercet, name: str, id: str) -> schemas.Waveform:
    """How loud an item is from its start to its end, made when it was added."""
    peaks = await asyncio.to_thread(tercet.collections.get(name).peaks, id)
    return schemas.Waveform(peaks=list(peaks))


@router.get("/v1/collections/{name}/items/{id:path}/description", tags=["items"])
@needs(READ)
async def item_description(
    tercet: Tercet, name: str, id: str, limit: Annotated[int, Query(ge=1, le=100)] = 5
) -> schemas.Description:
    """The sentences of a bank that fit an item best, in each of its modalities, with where they
    hold.
    """
    return await asyncio.to_thread(find_description, tercet, name, id, limit)


def find_description(tercet: State, name: str, id: str, limit: int) -> schemas.Description:
    collection = tercet.collections.get(name)
    collection.item(id)
    captions = tercet.settings.captions
    if captions is not None:
        readings = read_bank(captions, tercet.encoder)
        sentences = describe(collection, id, readings, limit, lambda text, modality: text)
        return schemas.Description(id=id, bank="own", sentences=sentences)
    ensure_vocabulary(collection, tercet.encoder)
    sentences = describe(collection, id, tag_readings(collection), limit, make_sentence)
    return schemas.Description(id=id, bank="default", sentences=sentences)


@router.post("/v1/collections/{name}/items/{id:path}/link", status_code=201, tags=["items"])
@needs(READ)
async def link_item(
    request: Request, tercet: Tercet, client: ClientId, name: str, id: str
) -> schemas.ItemLink:
    """Addresses of one item's media and pictures that open
    without a key for a while, for players.
    """
    collection = tercet.collections.get(name)
    item = await asyncio.to_thread(collection.item, id)
    await asyncio.to_thread(collection.media, id)
    token = None
    seconds = None
    if client:
        seconds = tercet.settings.link_s + item.duration_s
        links: Links = request.app.state.owner.gate.links
        token = links.token(client, collection.name, item.id, seconds)
    root_path = request.scope.get("root_path", "")
    media = root_path + item_address(name, id, "media", token)
    poster = root_path + item_address(name, id, "poster", token) if item.kind in SEEN else None
    playable, clip = (root_path + item_address(name, id, part, token) for part in CONVERTED_PARTS)
    return schemas.ItemLink(
        media=media, poster=poster, playable=playable, clip=clip, expires_s=seconds
    )


@router.get("/v1/collections/{name}/items/{id:path}", tags=["items"])
@needs(READ)
async def get_item(tercet: Tercet, name: str, id: str, words: bool = False) -> schemas.ItemFound:
    """An item; with `words`, all that its file says and shows in words, by its times."""
    collection = tercet.collections.get(name)
    found = item_response(await asyncio.to_thread(collection.item, id))
    if words:
        passages = await asyncio.to_thread(collection.passages, id)
        found.words = [schemas.Words(**vars(passage)) for passage in passages]
    return found


async def refuse_parts(id: str) -> None:
    """A path that ends like one of an item's parts is that part's, which cannot be changed."""
    if id.endswith(schemas.RESERVED_ENDINGS):
        raise HTTPException(405, headers={"Allow": "GET"})


@router.patch(
    "/v1/collections/{name}/items/{id:path}", tags=["items"], dependencies=[Depends(refuse_parts)]
)
@needs(ADD, "item.change")
async def change_item(
    tercet: Tercet, name: str, id: str, request: schemas.ItemChange
) -> schemas.ItemFound:
    """Put other metadata in the place of an item's own. Its vectors stay. Answered when it is on
    disk.
    """
    collection = tercet.collections.get(name)
    tercet.check_room()
    await tercet.write(collection.set_metadata, id, request.metadata)
    return item_response(await asyncio.to_thread(collection.item, id))


@router.delete("/v1/collections/{name}/items/{id:path}", status_code=204, tags=["items"])
@needs(ADMIN, "item.delete")
async def delete_item(tercet: Tercet, name: str, id: str) -> None:
    """Delete an item and what was uploaded for it. A file that a build has read stays."""
    await tercet.write(tercet.collections.get(name).delete, id)
