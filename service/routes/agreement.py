"""How well sound and picture of items agree."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Literal

from fastapi import Query

from index.agreement import WindowAgreement, list_agreement, window_agreement

from .. import schemas
from ..access import needs
from ..active import Tercet
from ..keys import READ
from .router import Router

router = Router()

LIST_MAX = 10_000


@router.get("/v1/collections/{name}/agreement", tags=["collections"])
@needs(READ)
async def collection_agreement(
    tercet: Tercet,
    name: str,
    first: Annotated[Literal["lowest", "highest"], Query(description="the order")] = "lowest",
    limit: Annotated[int, Query(ge=1, le=LIST_MAX)] = 100,
    skip: Annotated[int, Query(ge=0, le=2**31)] = 0,
) -> schemas.Agreement:
    """The items with pictures and sound, by how well these agree: from 0 to 1, and 0.5 is chance.
    Those that disagree come first: voices over pictures, music, mistakes.
    """
    collection = tercet.collections.get(name)
    ask = partial(list_agreement, lowest=first == "lowest", limit=limit, skip=skip)
    found = await asyncio.to_thread(ask, collection, tercet.encoder.manifest)
    return schemas.Agreement(
        collection=name, by_chance=found.by_chance, total=found.total, items=found.items
    )


@router.get("/v1/collections/{name}/items/{id:path}/agreement", tags=["items"])
@needs(READ)
async def item_agreement(tercet: Tercet, name: str, id: str) -> list[WindowAgreement]:
    """How well sound and picture agree in each window of an item, in the order of time."""
    collection = tercet.collections.get(name)
    return await asyncio.to_thread(window_agreement, collection, tercet.encoder.manifest, id)
