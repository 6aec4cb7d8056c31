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
from .fuse import conclude, fuse_hits
from .group import group_hit
from .learned import use_learned
from .order import ITEM, search_in_order
from .query import Feedback, Mark, Options, TargetQuery, direction, score_options
from .retrieve import count_candidates, find_nothing, retrieve
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
    where there are more.

    Raises:
        BadFilter: the filter is outside the subset.
        UnknownItem: the feedback marks an item that is not there.
    """
    with collection.hold_for_reading() as records:
        several = options.aggregate == ITEM and any(len(query.weights) > 1 for query in queries)
        if several or any(query.following for query in queries):
            return search_in_order(collection, records, queries, options)
        has_words = len(records.passages.windows()) > 0
        queries = prepare(collection, records, queries, options, has_words)
        exact = find_exact(records, queries, options) if has_words else {}
        own = score_options(options, queries)
        overfetch = len(queries) > 1 or options.rerank is not None or bool(exact)
        matches = [
            retrieve(collection, records, query, own, overfetch, whole_ties=not overfetch)
            if options.known_share and query.query.any()
            else find_nothing(query)
            for query in queries
        ]
        items = list(dict.fromkeys(item for found in matches for item in found.items))
        if len(matches) == 1 and not exact:
            items = items[: options.top_k]
        surest = list(exact)[: count_candidates(options)]
        # of equal scores, those with the words come first
        items = list(dict.fromkeys([*surest, *items]))
        about = records.about(items)
        items = [item for item in items if item in about]
        tags = tag_items(records, items) if options.tags else {}
        windows = ItemWindows(collection, records, items, matches)
        scores = [score(windows, found) for found in matches]
        rounded = any(
            not collection.index(query.target).stores_original_vectors for query in queries
        )
        if has_words:
            scores = [add_words(records, found, items, exact) for found in scores]
    hits = []
    for n, item in enumerate(items):
        candidates = [group_hit(n, about[item], one, own.min_score) for one in scores]
        if item in exact and own.min_score is not None:
            candidates = [hit if hit and hit.score >= own.min_score else None for hit in candidates]
        hit = fuse_hits(matches, candidates)
        if hit is not None and options.tags:
            hit.tags = tags[item]
        hits.append(hit)
    sure = {
        about[item].id: max(passage.confidence for passage in exact[item])
        for item in items
        if item in exact
    }
    found_hits = [hit for hit in hits if hit is not None]
    if rounded and options.rerank is None:
        found_hits.sort(key=lambda hit: -hit.score)
    return conclude(matches, found_hits, options, sure)


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
