"""Search: a query against the vectors of one or several targets, windows grouped into items.

Four steps, a module each: `retrieve` asks the indexes for windows, `score` compares every window
of the items that were found, `group` makes hits of them, and `fuse` brings the hits of several
targets together and says what the answer is worth. `order` uses them for what comes one after
another.
"""

from __future__ import annotations

from export.bundle import parse_modality
from media.modality import TEXT

from ..collection import Collection
from ..records.database import Records
from ..tagging import tag_items
from .answer import Answer, Hit, Moment, Plan
from .feedback import move_query
from .fuse import can_miss, conclude, fuse_hits, sort_hits
from .group import group_hit
from .learned import use_learned
from .order import ITEM, search_in_order
from .query import Feedback, Mark, Options, TargetQuery, direction, score_options
from .retrieve import OVERFETCH_FACTOR, count_candidates, find_nothing, retrieve
from .score import ItemWindows, score
from .words import add_passages_query, add_words, find_exact

__all__ = [
    "Answer",
    "Feedback",
    "Hit",
    "Mark",
    "Moment",
    "Options",
    "Plan",
    "TargetQuery",
    "direction",
    "search",
]


def search(
    collection: Collection, queries: list[TargetQuery], options: Options = Options()
) -> Answer:
    """The best items for a query, best first: by score where there is one target, by confidence
    where there are more. An exact search of several targets looks wider until nothing can be
    missed.

    Raises:
        BadFilter: the filter is outside the subset.
        UnknownItem: the feedback marks an item that is not there.
    """
    count = count_candidates(options)
    while True:
        answer, missed = search_among(collection, queries, options, count)
        if not missed or not options.exact:
            return answer
        count *= OVERFETCH_FACTOR


def search_among(
    collection: Collection, queries: list[TargetQuery], options: Options, count: int
) -> tuple[Answer, bool]:
    """Search for so many candidates at least, where what is found comes into another order. Also
    says whether a better one may have been missed, and more candidates would tell.
    """
    with collection.hold_for_reading() as records:
        several = options.aggregate == ITEM and any(len(query.weights) > 1 for query in queries)
        if several or any(query.following for query in queries):
            return search_in_order(collection, records, queries, options), False
        has_words = len(records.passages.windows()) > 0
        queries = prepare(collection, records, queries, options, has_words)
        exact = find_exact(records, queries, options) if has_words else {}
        own = score_options(options, queries)
        overfetch = len(queries) > 1 or options.rerank is not None or bool(exact)
        matches = [
            retrieve(collection, records, query, own, count if overfetch else None)
            if options.known_share and query.query.any()
            else find_nothing(query)
            for query in queries
        ]
        items = list(dict.fromkeys(item for found in matches for item in found.items))
        if len(matches) == 1 and not exact:
            items = items[: options.top_k]
        surest = list(exact)[:count]
        # of equal scores, those with the words come first
        items = list(dict.fromkeys([*surest, *items]))
        about = records.about(items)
        items = [item for item in items if item in about]
        tags = tag_items(records, items) if options.tags else {}
        windows = ItemWindows(collection, records, items, matches)
        scores = [score(windows, found) for found in matches]
        if has_words:
            scores = [add_words(records, found, items, exact) for found in scores]
    found = {}  # of each item, what its hit of each target is
    hits = {}
    for n, item in enumerate(items):
        found[item] = [group_hit(n, about[item], one, own.min_score) for one in scores]
        if item in exact:
            found[item] = drop_low(found[item], own.min_score)
        hit = fuse_hits(matches, found[item])
        if hit is None:
            continue
        if options.tags:
            hit.tags = tags[item]
        hits[item] = hit
    sure = {item: max(each.confidence for each in exact[item]) for item in items if item in exact}
    in_order = list(hits.values())
    missed = False
    if len(matches) > 1 or exact:
        in_order = sort_hits(found, hits, sure)
        missed = len(exact) > len(surest) or can_miss(matches, in_order, options)
    elif matches[0].rounded and options.rerank is None:
        in_order = sort_hits(found, hits, {})
    sure_ids = {about[item].id: confidence for item, confidence in sure.items()}
    answer = conclude(matches, in_order[: options.top_k], options, sure_ids, missed)
    return answer, missed


def drop_low(candidates: list[Hit | None], min_score: float | None) -> list[Hit | None]:
    """An item's hits of each target, but for those that score less."""
    if min_score is None:
        return candidates
    return [hit if hit and hit.score >= min_score else None for hit in candidates]


def prepare(
    collection: Collection,
    records: Records,
    queries: list[TargetQuery],
    options: Options,
    has_words: bool,
) -> list[TargetQuery]:
    """The queries as they are asked: one for what files say beside them, where any `has_words`;
    moved by what was learned, and by the marks of this search.

    Raises:
        UnknownItem: a mark is of an item that is not there.
    """
    if has_words:
        queries = add_passages_query(queries, options)
        if not options.known_share:
            queries = [query for query in queries if parse_modality(query.target) == TEXT]
    if options.learned:
        adapter = collection.adapters.current()
        queries = [use_learned(adapter, query) for query in queries]
    if options.feedback is None:
        return queries
    return [
        query if query.passages_only else move_query(collection, records, query, options.feedback)
        for query in queries
    ]
