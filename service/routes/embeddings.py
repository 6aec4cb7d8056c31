"""Embed texts and files: in OpenAI's shape, and in our own with a vector for each window."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar, cast

import numpy as np
from fastapi import File, Form, UploadFile
from pydantic.json_schema import SkipJsonSchema

from export.bundle import Space
from index.search import direction
from media.errors import BadMedia, BadText
from media.text import Reading, list_warnings

from .. import schemas
from ..access import needs
from ..active import ClientId, Tercet
from ..error_responses import error_body, tell_which
from ..exceptions import BadRequest, Overloaded, OverQuota, ShuttingDown, TimedOut
from ..forms import Fields, check_fields
from ..keys import READ
from ..pipeline import EmbeddedMedia, Vectors, temporary_file
from ..state import State
from .bodies import saved_upload
from .models import check_model
from .router import Router

Text = TypeVar("Text")

router = Router()

FileContent = schemas.AudioContent | schemas.ImageContent
FILE_CONTENT = (schemas.AudioContent, schemas.ImageContent)


# ---------------------------------------------------------------- OpenAI's shape


@router.post("/v1/embeddings", tags=["embed"])
@needs(READ)
async def openai_embeddings(
    tercet: Tercet, client: ClientId, request: schemas.OpenAIEmbeddings
) -> dict[str, Any]:
    """Embeddings of texts, and of sounds and pictures as content parts, in OpenAI's shape."""
    manifest = tercet.encoder.manifest
    parts: list[str | schemas.TextContent | schemas.AudioContent | schemas.ImageContent]
    if isinstance(request.input, str):
        parts = [request.input]
    else:
        parts = check_count(tercet, request.input)
    files = {i: part for i, part in enumerate(parts) if isinstance(part, FILE_CONTENT)}
    texts = {
        i: part if isinstance(part, str) else part.text
        for i, part in enumerate(parts)
        if not isinstance(part, FILE_CONTENT)
    }
    if len(files) > tercet.settings.files_max:
        raise BadRequest(
            f"{len(files)} sounds and pictures, the limit is {tercet.settings.files_max}"
        )
    modalities = dict.fromkeys(content_modality(part) for part in files.values())
    space = manifest.spaces[manifest.space_for(("text", *modalities))]
    check_model(tercet, request.model)
    if request.dimensions not in (None, space.dim):
        raise BadRequest(f"this model gives {space.dim} dimensions only")
    if not parts:
        raise BadRequest("input is empty")
    vectors: dict[int, Vectors] = {}
    answer: dict[str, Any] = {
        "object": "list",
        "model": manifest.name,
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
    }
    if texts:
        encoding = space.encodings["text"]
        readings = await read_texts(tercet, texts, encoding, alone=not files)
        rows = [reading.rows[0] for reading in readings]
        text_vectors = await tercet.pipeline.encode_tokens(rows, encoding, client)
        vectors |= zip(texts, text_vectors, strict=True)
        answer["usage"] = count_tokens(readings)
        warnings = list_warnings(dict(zip(texts, readings, strict=True)), len(parts) > 1, cut=True)
        if warnings:
            answer["warnings"] = warnings
    if files:
        vectors |= await embed_contents(tercet, client, files, space, alone=len(parts) == 1)
    answer["data"] = [
        {
            "object": "embedding",
            "index": i,
            "embedding": encode_vector(vectors[i], request.encoding_format),
        }
        for i in range(len(parts))
    ]
    return answer


def count_tokens(readings: list[Reading]) -> dict[str, int]:
    """The `usage` of an answer: tokens that were read, and tokens in all."""
    return {
        "prompt_tokens": sum(reading.read for reading in readings),
        "total_tokens": sum(reading.tokens for reading in readings),
    }


def check_count(tercet: State, texts: list[Text]) -> list[Text]:
    """Raises BadRequest when there are more than a request may have."""
    if len(texts) > tercet.settings.texts_max:
        raise BadRequest(f"{len(texts)} texts, the limit is {tercet.settings.texts_max}")
    return texts


async def read_texts(
    tercet: State, texts: dict[int, str], encoding: str, alone: bool = True
) -> list[Reading]:
    """Texts, by their places in the request, as windows of token ids. `alone`: there is nothing
    beside texts in the request.

    A text without a known word is refused only where nothing else in the request can be read:
    among others it would cost them their vectors.

    Raises:
        BadText: with its place, where there are several.
    """
    places = list(texts)
    try:
        readings = await tercet.pipeline.read_texts(list(texts.values()), encoding)
    except BadText as error:  # its index is among the texts, without the sounds between them
        raise error if error.index is None else BadText(error.reason, places[error.index]) from None
    if alone and not any(reading.known for reading in readings):
        readings[0].check(places[0] if len(readings) > 1 else None)
    return readings


def content_modality(part: FileContent) -> str:
    return "audio" if isinstance(part, schemas.AudioContent) else "video"


async def embed_contents(
    tercet: State, client: str, files: dict[int, FileContent], space: Space, *, alone: bool
) -> dict[int, Vectors]:
    """A vector for each sound and picture, by their places in the request. `alone`: there is one,
    and nothing beside it.
    """
    waiting = []
    for place, part in files.items():
        vector = embed_content(tercet, client, part, space)
        waiting.append(tell_which(vector, None if alone else place))
    return dict(zip(files, await asyncio.gather(*waiting), strict=True))


async def embed_content(tercet: State, client: str, part: FileContent, space: Space) -> Vectors:
    """One unit vector [dim] for a sound or a picture that came in base64."""
    if isinstance(part, schemas.AudioContent):
        data = decode_base64("input_audio.data", part.input_audio.data)
        name = f"sound.{part.input_audio.format}" if part.input_audio.format else None
    else:
        about, _, written = part.image_url.url.partition(",")
        if not about.startswith("data:") or not about.endswith(";base64"):
            raise BadRequest(
                "image_url.url is not a data URL: send the picture itself, as"
                " 'data:image/png;base64,...'; nothing is fetched from elsewhere"
            )
        data = decode_base64("image_url.url", written)
        name = None
    encoding = space.encodings[content_modality(part)]
    async with temporary_file(io.BytesIO(data), tercet.uploads, name) as path:
        query = await tercet.pipeline.encode_query_file(path, encoding, client)
    return query.vector


def decode_base64(field: str, written: str | bytes) -> bytes:
    """Raises BadRequest, which names the field."""
    try:
        return base64.b64decode(written, validate=True)
    except ValueError as error:
        raise BadRequest(f"{field} is not base64") from error


def encode_vector(vector: Vectors, encoding_format: str | None) -> list[float] | str:
    """A vector as numbers, or as base64 of little-endian float32."""
    if encoding_format == "base64":
        return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()
    return to_floats(vector)


def to_floats(vector: Vectors) -> list[float]:
    return cast(list[float], vector.tolist())


# ---------------------------------------------------------------- our own


@router.post("/v1/embed/text", tags=["embed"], response_model_exclude_none=True)
@needs(READ)
async def embed_text(
    tercet: Tercet, client: ClientId, request: schemas.Texts
) -> schemas.Embeddings:
    """A vector for each text, of as much of it as the encoder reads at once."""
    manifest = tercet.encoder.manifest
    space = manifest.space_for(("text",), request.space)
    encoding = manifest.spaces[space].encodings["text"]
    texts = dict(enumerate(check_count(tercet, request.texts)))
    readings = await read_texts(tercet, texts, encoding)
    rows = [reading.rows[0] for reading in readings]
    vectors = await tercet.pipeline.encode_tokens(rows, encoding, client)
    data = [
        schemas.Embedding(index=i, embedding=to_floats(vector)) for i, vector in enumerate(vectors)
    ]
    warnings = list_warnings(dict(enumerate(readings)), len(texts) > 1, cut=True)
    return embeddings_response(tercet, space, data, warnings)


def embeddings_response(
    tercet: State, space: str, data: list[schemas.Embedding], warnings: list[str]
) -> schemas.Embeddings:
    manifest = tercet.encoder.manifest
    return schemas.Embeddings(
        fingerprint=manifest.fingerprint,
        space=space,
        dim=manifest.spaces[space].dim,
        data=data,
        warnings=warnings,
    )


def embed_by_file(modality: str) -> Callable[..., Awaitable[schemas.Embeddings]]:
    @needs(READ)
    async def route(
        tercet: Tercet,
        client: ClientId,
        file: Annotated[list[UploadFile], File(min_length=1)],
        space: Annotated[str | SkipJsonSchema[None], Form(description=schemas.SPACE_OF_ONE)] = None,
    ) -> schemas.Embeddings:
        return await embed_files(tercet, client, file, modality, space)

    return route


async def embed_files(
    tercet: State, client: str, files: list[UploadFile], modality: str, wanted_space: str | None
) -> schemas.Embeddings:
    """Every file on its own, in the wanted space or the first that has the modality. A bad file has
    its error in its place. One bad file alone is the request's error.
    """
    manifest = tercet.encoder.manifest
    space = manifest.space_for((modality,), wanted_space)
    encoding = manifest.spaces[space].encodings[modality]
    if len(files) > tercet.settings.files_max:
        raise BadRequest(f"{len(files)} files, the limit is {tercet.settings.files_max}")

    async def embed_one(index: int, file: UploadFile) -> schemas.Embedding:
        try:
            async with saved_upload(tercet, file) as path:
                embedded = await tercet.pipeline.embed_file(path, (encoding,), client)
        except (BadMedia, Overloaded, OverQuota, TimedOut, ShuttingDown) as error:
            if len(files) == 1:
                raise
            return schemas.Embedding(
                index=index, filename=file.filename, error=schemas.ErrorBody(**error_body(error))
            )
        return file_embedding(index, file.filename, embedded, encoding)

    data = await asyncio.gather(*(embed_one(i, file) for i, file in enumerate(files)))
    return embeddings_response(tercet, space, data, warnings=[])


def file_embedding(
    index: int, filename: str | None, embedded: EmbeddedMedia, encoding: str
) -> schemas.Embedding:
    windows, vectors = embedded.vectors[encoding]
    times = [embedded.media.windows[window] for window in windows]
    return schemas.Embedding(
        index=index,
        filename=filename,
        embedding=to_floats(direction(vectors)),
        windows=[
            schemas.WindowVector(start_s=start_s, end_s=end_s, embedding=to_floats(vector))
            for (start_s, end_s), vector in zip(times, vectors, strict=True)
        ],
    )


FILE_FORM = Fields(texts=frozenset({"space"}), files=frozenset({"file"}), repeated=True)
FILE_ROUTES = {"audio": "sound", "video": "pictures"}  # of a video, or one still picture

for _modality, _content in FILE_ROUTES.items():
    router.post_files(
        f"/v1/embed/{_modality}",
        tags=["embed"],
        name=f"embed_{_modality}",
        description=f"The {_content} of each file: a vector for each window and one for the whole.",
        response_model_exclude_none=True,
        dependencies=[check_fields(FILE_FORM)],
    )(embed_by_file(_modality))
