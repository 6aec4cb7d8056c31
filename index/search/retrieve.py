"""Step one: ask a target's index for windows, until they are of as many items as are wanted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

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


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The best windows of a target, those with equal scores in the order in which they were added.

    `compared` are those that were looked at for them. No other one scores higher than `unseen`;
    -inf where there is none. Windows that score less than `least` are not matches.
    """

    best: Found
    table: WindowTable
    least: float
    compared: int
    unseen: float

    @cached_property
    def rows(self) -> list[int]:
        """Each one's row in the table, -1 where it has been removed."""
        rows: list[int] = self.table.find(self.best.ids).tolist()
        return rows

    @cached_property
    def scores(self) -> dict[int, float]:
        """Those of the matches, by their rows, best first."""
        return {
            row: score
            for row, score in zip(self.rows, self.best.scores.tolist(), strict=True)
            if row >= 0 and score >= self.least
        }

    @cached_property
    def items(self) -> dict[int, int]:
        """The items of the matches, best first, each with the first of its rows."""
        return self.table.owners(self.scores)

    def last_row(self, top_k: int) -> int | None:
        """The first row of the last of `top_k` items; None where there are fewer items."""
        first_rows = list(self.items.values())
        return None if len(first_rows) < top_k else first_rows[top_k - 1]

    def last_score(self, kept: int, top_k: int) -> float:
        """The score of the last window that is needed: there are so many to be `kept`, and these
        are of `top_k` items. -inf where there are fewer items.
        """
        row = self.last_row(top_k)
        if row is None:
            return -math.inf
        return min(float(self.best.scores[kept - 1]), self.scores[row])

    def cut(self, kept: int, top_k: int) -> Windows:
        """The first `kept` of them, or more if these are of fewer than `top_k` items."""
        row = self.last_row(top_k)
        if row is None:
            return self
        kept = max(kept, self.rows.index(row) + 1)
        if len(self.rows) <= kept:
            return self
        best = self.best._replace(ids=self.best.ids[:kept], scores=self.best.scores[:kept])
        return replace(self, best=best, unseen=float(self.best.scores[kept]))


def retrieve(
    collection: Collection,
    records: Records,
    query: TargetQuery,
    options: Options,
    least_windows: int | None = None,
) -> TargetMatches:
    """Search one target. With `least_windows`, at least so many come into another order, and no
    more than these are kept.
    """
    index = collection.index(query.target)
    table = collection.window_table(query.target)
    allowed = find_allowed(records, query, options, table)
    candidates = len(index) if allowed is None else len(allowed)
    kept = options.top_k if least_windows is None else least_windows
    search = partial(index.search, query.query, allowed=allowed, exact=options.exact)
    windows = find_windows(search, table, options, kept=kept, candidates=candidates)
    complete = (
        windows.unseen == -math.inf
        and len(windows.items) <= options.top_k
        and options.min_score is None
    )
    if least_windows is not None:
        windows = windows.cut(kept, options.top_k)
    scores = windows.scores
    # the later parts of a film may have come after other items
    items = dict(sorted(windows.items.items(), key=lambda item: (-scores[item[1]], item[0])))
    stats = collection.route_stats(query.source, query.target)
    if options.rerank is not None:
        to_rerank = Candidates(
            collection=collection, records=records, query=query, found=windows.best, stats=stats
        )
        rows = [windows.rows[place] for place in RERANKERS[options.rerank](to_rerank)]
        scores = {row: scores[row] for row in rows if row in scores}
        items = table.owners(scores)
    return TargetMatches(
        query=query,
        calibration=stats.calibration if stats else None,
        exact=windows.best.exact,
        rounded=windows.best.rounded,
        complete=complete,
        candidates=candidates,
        ways=windows.best.way.split("+"),
        compared=windows.compared,
        scores=scores,
        items=items,
        unseen=windows.unseen,
    )


def find_windows(
    search: Callable[[int], Found],
    table: WindowTable,
    options: Options,
    *,
    kept: int,
    candidates: int,
) -> Windows:
    """The best windows, at least `kept` of them and of `options.top_k` items, where there are so
    many among the `candidates`. All are found that score the same as the last one, so that it does
    not depend on how many are wanted which of them are found.
    """
    least = -math.inf if options.min_score is None else options.min_score
    wanted = kept + 1  # one below shows whether others score the same
    compared = 0
    while True:
        best = oldest_first(search(wanted))
        compared += best.compared
        nothing_more = len(best.ids) < wanted or wanted >= candidates
        windows = Windows(
            best=best,
            table=table,
            least=least,
            compared=compared,
            unseen=-math.inf if nothing_more else float(best.scores[-1]),
        )
        if nothing_more or windows.unseen < least:
            return windows
        if windows.unseen < windows.last_score(kept, options.top_k):
            return windows
        wanted *= OVERFETCH_FACTOR


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
