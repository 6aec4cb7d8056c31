"""What a score means: how surely a query that nothing matches would have found less.

Queries for things that few archives have are asked of a collection. The best score that each finds
is taken for that of a non-match. No more than half of these queries may match something: where the
scores lie, and how they spread, is read from the shortest interval that holds half of them (the
shorth), whatever the rest does. The best of many scores follows Gumbel's distribution; a match
stands out from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .columns import Ids
from .records.database import Records
from .records.window_table import WindowTable
from .vectors.base import Found, VectorIndex, Vectors

# Queries of the bank that are asked.
ASKED = 64
# Windows drawn by chance.
SAMPLE = 1000
# With fewer windows or queries a collection is too small to tell.
LEAST_WINDOWS = 50
LEAST_ASKED = 16
# A window that is a query finds itself: one of another item is looked for among so many.
NEAR = 64
# Of cosines: a smaller spread is taken for this one.
LEAST_SCALE = 0.005
# The confidence from which on a hit is a good match.
GOOD = 0.985
# From here on it is likely to be one. The search page has the same (service/page/results.js).
LIKELY = 0.8
# The shortest interval that holds half of the standard Gumbel distribution: its width, and the
# distribution's mean within it. With the quantile q(p) = -ln(-ln p), the interval from q(p) to
# q(p + 1/2) is shortest where p = 0.14691; the mean is that of q over these p.
HALF_WIDTH = 1.48240
HALF_MEAN = 0.08373


@dataclass(frozen=True)
class Calibration:
    """What a route's scores mean. `typical` is a window's drawn by chance. `non_match` is the
    median of the best that queries find which nothing matches, `good` what three in two hundred of
    them reach.
    """

    typical: float
    non_match: float
    good: float

    def confidence(self, score: float) -> float:
        """How surely a query that nothing matches would have found less, in [0, 1]: the Gumbel
        distribution that is 0.5 at `non_match` and 0.985 at `good`.
        """
        share = (score - self.non_match) / (self.good - self.non_match)
        above = AT_HALF + share * (AT_GOOD - AT_HALF)
        return math.exp(-math.exp(min(-above, 700.0)))


@dataclass(frozen=True)
class RouteStats:
    """What a bank of queries tells of a route: its calibration, the bank's everyday queries [n,
    dim], and the windows that these find best (`popular`).
    """

    calibration: Calibration
    popular: Ids
    bank: Vectors


def gumbel_quantile(share: float) -> float:
    """What a share of the standard Gumbel distribution lies below."""
    return -math.log(-math.log(share))


AT_GOOD = gumbel_quantile(GOOD)
AT_HALF = gumbel_quantile(0.5)


def fit_gumbel(values: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Mode and scale of the Gumbel distribution that the shortest half of some numbers comes from.

    >>> quantiles = [gumbel_quantile((n + 0.5) / 1000) for n in range(1000)]
    >>> mode, scale = fit_gumbel(np.array(quantiles))
    >>> round(mode, 2) + 0.0, round(scale, 2)
    (0.0, 1.0)
    """
    ordered = np.sort(values)
    half = len(values) // 2
    widths = ordered[half:] - ordered[: len(values) - half]
    at = int(widths.argmin())
    scale = float(widths[at]) / HALF_WIDTH
    mean = float(ordered[at : at + half + 1].mean())
    return mean - HALF_MEAN * scale, scale


def calibrate(
    records: Records, index: VectorIndex, table: WindowTable, sample: Vectors, source: str
) -> RouteStats | None:
    """What is known of the route from an encoding to an index, whose windows are in `table` and of
    whose vectors `sample` [n, dim] are some by chance. None where the collection is too small.

    Rare queries of the collection's bank calibrate it; where there are none, all of its queries.
    Where it has no bank, queries are its own vectors of that encoding: those find themselves, and
    the best of another item counts.
    """
    bank = records.banks.queries(source, index.dim)
    if len(bank):
        bank = thin_out(bank)
        rare = thin_out(records.banks.rare(source, index.dim))
        found = [index.search(query, 1) for query in bank]
        unmatched = [index.search(query, 1) for query in rare] if len(rare) else found
    else:
        ids, bank = records.vectors_among(source, index.dim, ASKED, seed=1)
        sources = records.window_table(source)
        owners = sources.items[sources.find(ids)]
        found = [
            leave_out(index.search(query, NEAR), table, owner)
            for query, owner in zip(bank, owners, strict=True)
        ]
        unmatched = found
    scores = [float(best.scores[0]) for best in unmatched if len(best.ids)]
    if len(sample) < LEAST_WINDOWS or len(scores) < LEAST_ASKED:
        return None
    mode, scale = fit_gumbel(np.array(scores))
    scale = max(scale, LEAST_SCALE)
    calibration = Calibration(
        typical=float((bank @ sample.T).mean()),
        non_match=mode + AT_HALF * scale,
        good=mode + AT_GOOD * scale,
    )
    popular = np.unique([int(best.ids[0]) for best in found if len(best.ids)])
    return RouteStats(calibration, popular, bank)


def thin_out(queries: Vectors) -> Vectors:
    """No more than `ASKED` of them, evenly spread."""
    return queries[:: max(1, -(-len(queries) // ASKED))]


def leave_out(found: Found, table: WindowTable, item: int) -> Found:
    """What is found, without the windows of an item and those that are gone."""
    rows = table.find(found.ids)
    kept = (rows >= 0) & (table.items[rows] != item)
    return found._replace(ids=found.ids[kept], scores=found.scores[kept])
