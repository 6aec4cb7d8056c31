"""What was learned from kept marks, used on the queries of a search."""

from __future__ import annotations

from dataclasses import replace

from ..adapters import Adapter
from .query import TargetQuery

# The source of a query that was moved: no encoding, so nothing is calibrated by it.
LEARNED = "learned"


def use_learned(adapter: Adapter | None, query: TargetQuery) -> TargetQuery:
    """The query, moved where the adapter knows such queries. One of several parts, for
    what files say, or without a known word, stays as it is.
    """
    if adapter is None or query.passages_only or len(query.weights) > 1 or not query.query.any():
        return query
    moved = adapter.move(query.source, query.target, query.query)
    if moved is None:
        return query
    return replace(query, vectors=moved[None], weights=(1.0,), source=LEARNED, learned=True)
