"""What a score means: how surely a query that nothing matches would have found less.

A bank of queries is asked of a collection. The best score that each finds is taken for that of a
non-match. No more than half of the queries may match something: where the scores lie, and how they
spread, is read from the shortest interval that holds half of them (the shorth), whatever the rest
does. The best of many scores follows Gumbel's distribution; a match stands out from it.
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
from .vectors.base import VectorIndex, Vectors

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
GOOD = 0.95
# The shortest interval that holds half of the standard Gumbel distribution: its width, and the
# distribution's mean within it. With the quantile q(p) = -ln(-ln p), the interval from q(p) to
# q(p + 1/2) is shortest where p = 0.14691; the mean is that of q over these p.
HALF_WIDTH = 1.48240
HALF_MEAN = 0.08373


@dataclass(frozen=True)
class Calibration:
    """What a route's scores mean. `typical` is a window's drawn by chance. `non_match` is the
    median of the best that queries find which nothing matches, `good` what one in twenty of them
    reaches.
    """

    typical: float
    non_match: float
    good: float

    def confidence(self, score: float) -> float:
        """How surely a query that nothing matches would have found less, in [0, 1]: the Gumbel
        distribution that is 0.5 at `non_match` and 0.95 at `good`.
        """
        share = (score - self.non_match) / (self.good - self.non_match)
        above = AT_HALF + share * (AT_GOOD - AT_HALF)
        return math.exp(-math.exp(min(-above, 700.0)))


@dataclass(frozen=True)
class RouteStats:
    """What a bank of queries tells of a route: its calibration, the bank [n, dim], and the windows
    that these queries find best (`popular`).
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

    Queries are the collection's bank. Where it has none, they are its own vectors of that encoding:
    those find themselves, and the best of another item counts.
    """
    bank = records.banks.queries(source, index.dim)
    own = len(bank) == 0
    ids = np.empty(0, np.int64)
    if own:
        ids, bank = records.vectors_among(source, index.dim, ASKED, seed=1)
    elif len(bank) > ASKED:
        bank = bank[:: -(-len(bank) // ASKED)]
    sources = records.window_table(source)
    owners = sources.items[sources.find(ids)]
    scores = []
    popular = []
    for n, query in enumerate(bank):
        found = index.search(query, NEAR if own else 1)
        at = np.arange(len(found.ids))
        if own:
            rows = table.find(found.ids)
            at = np.flatnonzero((rows >= 0) & (table.items[rows] != owners[n]))
        if len(at):
            scores.append(float(found.scores[at[0]]))
            popular.append(int(found.ids[at[0]]))
    if len(sample) < LEAST_WINDOWS or len(scores) < LEAST_ASKED:
        return None
    mode, scale = fit_gumbel(np.array(scores))
    scale = max(scale, LEAST_SCALE)
    calibration = Calibration(
        typical=float((bank @ sample.T).mean()),
        non_match=mode + AT_HALF * scale,
        good=mode + AT_GOOD * scale,
    )
    return RouteStats(calibration, np.unique(popular), bank)
