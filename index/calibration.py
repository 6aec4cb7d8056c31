"""What a search finds where there is nothing to find: from this, what a score means.

A bank of queries is asked of a collection. The best that each of them finds is what a non-match
looks like, so long as no more than half of them do match something: the shortest interval that
holds half of these scores (the shorth) says where they lie and how they spread, whatever the rest
does. The best of many follows Gumbel's distribution; a match is what stands out from it.
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
from .vectors.faiss_index import VectorIndex, Vectors

ASKED = 64  # queries of the bank
SAMPLE = 1000  # windows by chance
LEAST_WINDOWS, LEAST_ASKED = 50, 16  # with fewer there is nothing to go by
NEAR = 64  # best windows of a query among which one of another item is looked for
LEAST_SCALE = 0.005  # of a cosine
GOOD = 0.95
# of the shortest interval with half of the standard Gumbel distribution
HALF_WIDTH, HALF_MEAN = 1.48240, 0.08373


@dataclass(frozen=True)
class Calibration:
    """What a route's scores mean: `typical` is a window by chance, `non_match` the best that a
    query finds that nothing matches, `good` a score that such a query reaches one time in twenty.
    """

    typical: float
    non_match: float
    good: float

    def confidence(self, score: float) -> float:
        """How surely a query that nothing matches would have found less, in [0, 1]."""
        above = (score - self.non_match) / (self.good - self.non_match) * (
            AT_GOOD - AT_HALF
        ) + AT_HALF
        return math.exp(-math.exp(min(-above, 700.0)))


@dataclass(frozen=True)
class Background:
    """A route's calibration, and the windows that queries of its bank [n, dim] like best."""

    calibration: Calibration
    popular: Ids
    bank: Vectors


def quantile(share: float) -> float:
    """Of the standard Gumbel distribution."""
    return -math.log(-math.log(share))


AT_GOOD, AT_HALF = quantile(GOOD), quantile(0.5)


def gumbel(values: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Mode and scale of the Gumbel distribution that the shortest half of some numbers comes from.

    >>> mode, scale = gumbel(np.array([quantile((n + 0.5) / 1000) for n in range(1000)]))
    >>> round(mode, 2) + 0.0, round(scale, 2)
    (0.0, 1.0)
    """
    ordered, half = np.sort(values), len(values) // 2
    widths = ordered[half:] - ordered[: len(values) - half]
    at = int(widths.argmin())
    scale = float(widths[at]) / HALF_WIDTH
    return float(ordered[at : at + half + 1].mean()) - HALF_MEAN * scale, scale


def background(
    records: Records, index: VectorIndex, places: WindowTable, sample: Vectors, source: str
) -> Background | None:
    """Of the route from an encoding to an index whose vectors belong to `places`, of which `sample`
    [n, dim] are some by chance; None where the collection is too small to tell.

    Queries are the collection's bank, or where it has none its own vectors of that encoding: those
    find themselves, and the best of another item counts.
    """
    dim = index.dim
    bank = records.bank(source, dim)
    own = np.empty(0, np.int64)
    if not len(bank):
        own, bank = records.vectors_among(source, dim, ASKED, seed=1)
    bank = bank[:: -(-len(bank) // ASKED)] if len(bank) > ASKED else bank
    asking = records.window_table(source)
    owners = asking.items[asking.find(own)]
    best, popular = [], []
    for i, query in enumerate(bank):
        found = index.search(query, NEAR if len(own) else 1)
        ids, scores = found.ids, found.scores
        if len(own):
            at = places.find(ids)
            other = (at >= 0) & (places.items[at] != owners[i])
            ids, scores = ids[other], scores[other]
        if len(ids):
            best.append(float(scores[0]))
            popular.append(int(ids[0]))
    if len(sample) < LEAST_WINDOWS or len(best) < LEAST_ASKED:
        return None
    mode, scale = gumbel(np.array(best))
    non_match, good = (mode + quantile(share) * max(scale, LEAST_SCALE) for share in (0.5, GOOD))
    return Background(
        Calibration(float((bank @ sample.T).mean()), non_match, good), np.unique(popular), bank
    )
