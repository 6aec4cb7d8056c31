"""The stretches of an item worth looking at first."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Query

from export.bundle import EQUAL_WEIGHT, Manifest
from index.highlights import Highlight, find_highlights

from ..access import needs
from ..active import Tercet
from ..keys import READ
from .router import Router

router = Router()

HIGHLIGHTS_MAX = 100


@router.get("/v1/collections/{name}/items/{id:path}/highlights", tags=["items"])
@needs(READ)
async def item_highlights(
    tercet: Tercet,
    name: str,
    id: str,
    limit: Annotated[int, Query(ge=1, le=HIGHLIGHTS_MAX)] = 5,
) -> list[Highlight]:
    """The stretches of a video or a sound worth looking at first, the best first: what is new in
    it, where it changes, where it is loud. Each says why.
    """
    collection = tercet.collections.get(name)
    weight = audio_weight(tercet.encoder.manifest)
    return await asyncio.to_thread(find_highlights, collection, id, limit, weight)


def audio_weight(manifest: Manifest) -> float:
    """What sound weighs beside pictures in the first space that has both."""
    joints = [joint for space in manifest.spaces if (joint := manifest.joint(space))]
    return joints[0].audio_weight if joints else EQUAL_WEIGHT
