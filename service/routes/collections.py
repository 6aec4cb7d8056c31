"""Create, list and delete collections."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from index.collection import Collection, UnknownCollection
from index.query_bank import ensure_query_bank

from .. import schemas
from ..access import ChangeOf, needs
from ..active import Tercet
from ..keys import ADMIN, READ
from ..state import State
from .router import Router

router = Router()


@router.post("/v1/collections", status_code=201, tags=["collections"])
@needs(ADMIN, "collection.create")
async def create_collection(
    tercet: Tercet, request: schemas.NewCollection, change: ChangeOf
) -> schemas.CollectionFound:
    """Create an empty collection."""
    change.about["collection"] = request.name
    tercet.check_room()
    return collection_response(await asyncio.to_thread(create_with_bank, tercet, request.name))


def create_with_bank(tercet: State, name: str) -> Collection:
    """A new collection with its bank of queries, both or neither."""
    collection = tercet.collections.create(name)
    try:
        ensure_query_bank(collection, tercet.encoder)
    except BaseException:
        tercet.collections.delete(name)
        raise
    return collection


def collection_response(collection: Collection) -> schemas.CollectionFound:
    counts = collection.counts()
    encodings = [encoding for encoding in collection.dims if encoding in counts.vectors]
    return schemas.CollectionFound(
        name=collection.name,
        fingerprint=collection.fingerprint,
        items=counts.items,
        windows=counts.windows,
        vectors={encoding: counts.vectors[encoding] for encoding in encodings},
    )


@router.get("/v1/collections", tags=["collections"])
@needs(READ)
async def list_collections(tercet: Tercet) -> schemas.CollectionList:
    """Every collection, with how much is in it."""
    found = []
    for collection in tercet.collections.all():
        with suppress(UnknownCollection):  # deleted in the meantime
            found.append(await asyncio.to_thread(collection_response, collection))
    return schemas.CollectionList(collections=found)


@router.get("/v1/collections/{name}", tags=["collections"])
@needs(READ)
async def get_collection(tercet: Tercet, name: str) -> schemas.CollectionFound:
    """How much is in a collection."""
    return await asyncio.to_thread(collection_response, tercet.collections.get(name))


@router.delete("/v1/collections/{name}", status_code=204, tags=["collections"])
@needs(ADMIN, "collection.delete")
async def delete_collection(tercet: Tercet, name: str) -> None:
    """Delete a collection with all of its items and uploads."""
    await tercet.write(tercet.collections.delete, name)
