"""Search: a query against the vectors of one or several targets, windows grouped into items.

Four steps, a module each: `retrieve` asks the indexes for windows, `score` compares every window
of the items that were found, `group` makes hits of them, and `fuse` brings the hits of several
targets together and says what the answer is worth.
"""

from __future__ import annotations

from ..collection import Collection
from .answer import Answer, Hit, Moment, Plan
from .fuse import conclude, fuse_hits
from .group import group_hit
from .query import Options, TargetQuery, direction
from .retrieve import retrieve
from .score import ItemWindows, score

__all__ = ["Answer", "Hit", "Moment", "Options", "Plan", "TargetQuery", "direction", "search"]


def search(
    collection: Collection, queries: list[TargetQuery], options: Options = Options()
) -> Answer:
    """The best items for a query, best first: by score where there is one target, by confidence
    where there are more.

    Raises:
        BadFilter: the filter is outside the subset.
    """
    overfetch = len(queries) > 1 or options.qb_norm
    with collection.hold_for_reading() as records:
        matches = [retrieve(collection, records, query, options, overfetch) for query in queries]
        items = list(dict.fromkeys(item for found in matches for item in found.items))
        if len(matches) == 1:
            items = items[: options.top_k]
        about = records.about(items)
        items = [item for item in items if item in about]
        windows = ItemWindows(collection, records, items, matches)
        scores = [score(windows, found) for found in matches]
    hits = []
    for n, item in enumerate(items):
        candidates = [group_hit(n, about[item], one, options.min_score) for one in scores]
        hits.append(fuse_hits(matches, candidates))
    return conclude(matches, [hit for hit in hits if hit is not None], options)
