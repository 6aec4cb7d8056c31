"""Right and wrong marks on hits, kept for learning."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Path, Query

from index.collection import Collection
from index.records.marks import MarkedQuery, NewMark, StoredMark

from .. import schemas
from ..access import ChangeOf, needs
from ..active import Tercet
from ..keys import ADD, READ
from .router import Router

router = Router()

PAGE_MAX = 1000
NUMBER_MAX = 2**63 - 1  # of SQLite


@router.post("/v1/feedback", status_code=201, tags=["feedback"])
@needs(ADD, "feedback.add")
async def add_feedback(
    tercet: Tercet, request: schemas.NewFeedback, change: ChangeOf
) -> schemas.FeedbackKept:
    """Keep marks on the hits of a search. They are durable when this is answered. A mark takes the
    place of an earlier one of the same moment for the same query. It goes when its item goes.
    `tercet learn` learns from them.
    """
    tercet.check_room()
    collection = tercet.collections.get(request.collection)
    change.about["collection"] = collection.name
    query = read_query(request)
    route = tercet.encoder.manifest.routes([query.modality], query.target)[0]
    if query.text is not None:  # refused as a search by it is
        await tercet.pipeline.read_texts([query.text], route.encodings[query.modality])
    marks = [
        NewMark(query=query, item=mark.id, right=right, start_s=mark.start_s)
        for right, some in ((True, request.right), (False, request.wrong))
        for mark in some
    ]
    numbers: list[int] = []

    def keep(collection: Collection) -> None:
        numbers.extend(collection.add_marks(marks))

    await tercet.write(keep, collection)
    return schemas.FeedbackKept(collection=collection.name, numbers=numbers)


def read_query(request: schemas.NewFeedback) -> MarkedQuery:
    query = request.query
    if isinstance(query, str):
        return MarkedQuery(request.target, query)
    return MarkedQuery(request.target, None, query.item, query.modality)


@router.get("/v1/feedback", tags=["feedback"])
@needs(READ)
async def list_feedback(
    tercet: Tercet,
    collection: str = "default",
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 100,
    after: Annotated[int, Query(ge=0, le=NUMBER_MAX)] = 0,
) -> schemas.FeedbackPage:
    """The marks of a collection, in the order in which they were given."""
    box = tercet.collections.get(collection)
    marks = await asyncio.to_thread(box.marks, limit, after)
    return schemas.FeedbackPage(
        collection=collection,
        marks=[show_mark(mark) for mark in marks],
        next=marks[-1].number if len(marks) == limit else None,
    )


def show_mark(mark: StoredMark) -> schemas.KeptMark:
    query: str | schemas.ItemQuery
    if mark.query.text is not None:
        query = mark.query.text
    else:
        assert mark.query.item is not None
        query = schemas.ItemQuery.model_validate(
            {"item": mark.query.item, "modality": mark.query.modality}
        )
    return schemas.KeptMark(
        number=mark.number,
        query=query,
        target=mark.query.target,
        id=mark.item,
        start_s=mark.start_s,
        right=mark.right,
        created=mark.created,
    )


@router.delete("/v1/feedback/{number}", status_code=204, tags=["feedback"])
@needs(ADD, "feedback.delete")
async def delete_feedback(
    tercet: Tercet,
    number: Annotated[int, Path(ge=1, le=NUMBER_MAX)],
    change: ChangeOf,
    collection: str = "default",
) -> None:
    """Forget a mark. What was learned from it stays until something else is learned."""
    box = tercet.collections.get(collection)
    change.about["collection"] = box.name
    await tercet.write(box.delete_mark, number)
