"""Step one: ask a target's index for windows, until they are of as many items as are wanted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..calibration import Calibration
from ..collection import Collection
from ..columns import Allowed
from ..records.database import Records
from ..records.filters import compile_filter
from ..records.window_table import WindowTable
from ..vectors.base import Found
from .query import Options, TargetQuery
from .rerank import RERANKERS, Candidates

# How many times as many windows each further try asks for.
OVERFETCH_FACTOR = 4
# Windows, at least, that are put into another order.
MIN_RERANK_CANDIDATES = 32


@dataclass(frozen=True, kw_only=True)
class TargetMatches:
    """What was found for one target.

    `scores` has windows by their rows in the target's window table, best first; `items` the items
    of these, best first, each with the first of its rows. Of equal scores, what was added first
    comes first. No window that was left out scores higher than `unseen`, if the search is exact;
    -inf where none was. `rounded` is as in `Found`, the rest as in `Plan`. `complete`: `items` has
    all items that may be found, so rounding has left none out.
    """

    query: TargetQuery
    calibration: Calibration | None
    exact: bool
    rounded: bool
    complete: bool
    candidates: int
    ways: list[str]
    compared: int
    scores: dict[int, float]
    items: dict[int, int]
    unseen: float

    def confidence(self, score: float) -> float:
        """How surely a score is a match. Where nothing is calibrated, the score itself."""
        if self.calibration is None:
            return min(max(score, 0.0), 1.0)
        return self.calibration.confidence(score)


def retrieve(
    collection: Collection,
    records: Records,
    query: TargetQuery,
    options: Options,
    least_windows: int | None = None,
) -> TargetMatches:
    """Search one target. Where its windows are of fewer items than are wanted, search again for
    more of them. All are looked at that score the same as the last one, so that it does not depend
    on how many are wanted which of them are found. With `least_windows`, at least so many come into
    another order, and no more than these are kept.
    """
    index = collection.index(query.target)
    table = collection.window_table(query.target)
    allowed = find_allowed(records, query, options, table)
    candidates = len(index) if allowed is None else len(allowed)
    kept = options.top_k if least_windows is None else least_windows
    wanted = kept + 1  # one below shows whether others score the same
    least = -math.inf if options.min_score is None else options.min_score
    compared = 0
    while True:
        best = index.search(query.query, wanted, allowed=allowed, exact=options.exact)
        best = oldest_first(best)
        compared += best.compared
        rows = table.find(best.ids).tolist()
        scores = {
            row: score
            for row, score in zip(rows, best.scores.tolist(), strict=True)
            if row >= 0 and score >= least
        }
        items = table.owners(scores)
        nothing_more = len(best.ids) < wanted or wanted >= candidates
        if nothing_more or best.scores[-1] < least:
            break
        if best.scores[-1] < last_score(best, kept, items, scores, options):
            break
        wanted *= OVERFETCH_FACTOR
    unseen = -math.inf if nothing_more else float(best.scores[-1])
    complete = nothing_more and len(items) <= options.top_k and options.min_score is None
    if least_windows is not None and len(items) >= options.top_k:
        of_items = list(items.values())[: options.top_k]
        kept = max(kept, rows.index(of_items[-1]) + 1)
        if len(rows) > kept:
            unseen = float(best.scores[kept])
        best = best._replace(ids=best.ids[:kept], scores=best.scores[:kept])
        rows = rows[:kept]
        scores = {row: scores[row] for row in rows if row in scores}
        items = table.owners(scores)
    # the later parts of a film may have come after other items
    items = dict(sorted(items.items(), key=lambda found: (-scores[found[1]], found[0])))
    stats = collection.route_stats(query.source, query.target)
    if options.rerank is not None:
        to_rerank = Candidates(
            collection=collection, records=records, query=query, found=best, stats=stats
        )
        order = RERANKERS[options.rerank](to_rerank)
        scores = {rows[n]: scores[rows[n]] for n in order if rows[n] in scores}
        items = table.owners(scores)
    return TargetMatches(
        query=query,
        calibration=stats.calibration if stats else None,
        exact=best.exact,
        rounded=best.rounded,
        complete=complete,
        candidates=candidates,
        ways=best.way.split("+"),
        compared=compared,
        scores=scores,
        items=items,
        unseen=unseen,
    )


def find_allowed(
    records: Records, query: TargetQuery, options: Options, table: WindowTable
) -> Allowed | None:
    """The windows that a query may find; None where it may find all. Raises BadFilter."""
    allowed = None
    if options.filter:
        allowed = records.matching(*compile_filter(options.filter), query.target, table)
    if query.passages_only:
        allowed = records.among_passages(allowed, query.target, table)
    return allowed


def count_candidates(options: Options) -> int:
    """How many are looked at, at least, where what is found is put into another order."""
    return max(OVERFETCH_FACTOR * options.top_k, MIN_RERANK_CANDIDATES)


def oldest_first(found: Found) -> Found:
    """Windows of equal scores in the order in which they were added, however many are asked for.
    Rounding may bring the inner product of unit vectors above one.
    """
    scores = np.maximum(np.minimum(found.scores, np.float32(1)), np.float32(-1))
    order = np.lexsort((found.ids, -scores))
    return found._replace(ids=found.ids[order], scores=scores[order])


def last_score(
    best: Found, kept: int, items: dict[int, int], scores: dict[int, float], options: Options
) -> float:
    """The score of the last window that is needed: there are so many to be `kept`, and these are of
    `top_k` items. -inf where there are fewer items.
    """
    if len(items) < options.top_k:
        return -math.inf
    last_item = list(items.values())[options.top_k - 1]
    return min(float(best.scores[kept - 1]), scores[last_item])


def find_nothing(query: TargetQuery) -> TargetMatches:
    """For a query whose vector says nothing: no word of it is known, or its parts cancel out."""
    return TargetMatches(
        query=query,
        calibration=None,
        exact=True,
        rounded=False,
        complete=True,
        candidates=0,
        ways=[],
        compared=0,
        scores={},
        items={},
        unseen=-math.inf,
    )
