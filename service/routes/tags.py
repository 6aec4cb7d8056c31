"""What is in a collection, in names of its vocabulary."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import Query

from index.tagging import list_tags
from index.vocabulary import ensure_vocabulary

from .. import schemas
from ..access import needs
from ..active import Tercet
from ..keys import READ
from ..state import State
from .router import Router

router = Router()


@router.get("/v1/collections/{name}/tags", tags=["collections"])
@needs(READ)
async def get_tags(
    tercet: Tercet,
    name: str,
    modality: Annotated[
        Literal["video", "audio"] | None, Query(description="tags of pictures, or of sound, alone")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
) -> schemas.TagList:
    """The tags of a collection, those of most items first. A collection is read against its
    vocabulary when its tags are first asked for, and from then on as items are added.
    """
    return await asyncio.to_thread(find_tags, tercet, name, modality, limit)


def find_tags(tercet: State, name: str, modality: str | None, limit: int) -> schemas.TagList:
    collection = tercet.collections.get(name)
    ensure_vocabulary(collection, tercet.encoder)
    found = list_tags(collection, modality)
    return schemas.TagList(
        collection=name, vocabulary=found.vocabulary, total=len(found.tags), tags=found.tags[:limit]
    )
