"""What a search finds where there is nothing to find: from this, what a score means.

A bank of queries is asked of a collection. In units of how a query's own scores spread over windows taken by chance,
the best that each of them finds has a middle and a spread (median and median absolute deviation, so that it does no
harm if some do match). A match is what stands out from that.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .records import Ids, Records
from .vectors import VectorIndex, Vectors

ASKED = 64  # queries of the bank
SAMPLE = 1000  # windows by chance
LEAST_WINDOWS, LEAST_ASKED = 50, 16  # with fewer there is nothing to go by
NEAR = 64  # best windows of a query among which one of another item is looked for
MAD = 1.4826  # times the median absolute deviation: the standard deviation of a normal distribution
LEAST_SPREAD = 0.2
GOOD = 0.95
NORMAL = NormalDist()
FAR = NORMAL.inv_cdf(GOOD)


@dataclass(frozen=True)
class Calibration:
    """What the scores of one query mean: `typical` is a window by chance, `non_match` the best that a query finds that
    nothing matches, `good` a score that such a query reaches one time in twenty.
    """

    typical: float
    non_match: float
    good: float

    def confidence(self, score: float) -> float:
        """How surely a query that nothing matches would have found less, in [0, 1]."""
        return NORMAL.cdf((score - self.non_match) / (self.good - self.non_match) * FAR)


@dataclass(frozen=True)
class Background:
    """A route's: windows by chance [n, dim], where the best of a non-match lies in standard deviations of a query's
    scores over them, and the windows that queries of the bank like best.
    """

    sample: Vectors
    middle: float
    spread: float
    popular: Ids
    bank: Vectors

    def of(self, query: Vectors) -> Calibration:
        mean, deviation = moments(self.sample @ query)
        return Calibration(
            typical=mean,
            non_match=mean + deviation * self.middle,
            good=mean + deviation * (self.middle + FAR * self.spread),
        )


def moments(scores: NDArray[np.floating[Any]]) -> tuple[float, float]:
    return float(scores.mean()), max(float(scores.std()), 1e-6)


def background(records: Records, index: VectorIndex, source: str, target: str, dim: int) -> Background | None:
    """Of the route from one encoding to another; None where the collection is too small to tell.

    Queries are the collection's bank, or where it has none its own vectors of that encoding: those find themselves,
    and the best of another item counts.
    """
    _, sample = records.vectors_among(target, dim, SAMPLE)
    bank = records.bank(source, dim)
    own = np.empty(0, np.int64)
    if not len(bank):
        own, bank = records.vectors_among(source, dim, ASKED, seed=1)
    bank = bank[:: -(-len(bank) // ASKED)] if len(bank) > ASKED else bank
    best, popular = [], []
    for i, query in enumerate(bank):
        ids, scores = index.search(query, NEAR if len(own) else 1)
        if len(own):
            other = records.of_other_items(ids, int(own[i]))
            ids, scores = ids[other], scores[other]
        if len(ids):
            mean, deviation = moments(sample @ query)
            best.append((float(scores[0]) - mean) / deviation)
            popular.append(int(ids[0]))
    if len(sample) < LEAST_WINDOWS or len(best) < LEAST_ASKED:
        return None
    middle = float(np.median(best))
    spread = max(MAD * float(np.median(np.abs(np.array(best) - middle))), LEAST_SPREAD)
    return Background(sample, middle, spread, np.unique(popular), bank)
