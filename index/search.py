"""Vectors to moments: one query vector against one encoding of a collection, windows grouped into items."""

from __future__ import annotations

from collections.abc import Collection as Collection_
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bundle import modality_of
from model.config import MODALITIES

from .collection import Collection
from .filters import compile_filter
from .records import Place, Stored

WIDEN = 4  # windows asked for per item wanted, and how much wider each further try is
MOMENT_SHARE = 0.8  # a window belongs to a moment when it scores this share of its item's best


def direction(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of unit vectors [n, dim] as a unit vector [dim]: one query for an example of several windows."""
    mean = vectors.mean(axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)


@dataclass(frozen=True)
class Moment:
    """Neighbouring windows that match, merged; the score is the best of them."""

    start_s: float
    end_s: float
    score: float


@dataclass(frozen=True)
class Hit:
    """An item that matches: its best moment, that moment's score in each modality, and all its moments."""

    id: str
    score: float
    target: str
    start_s: float
    end_s: float
    scores: dict[str, float]
    metadata: dict[str, Any]
    moments: list[Moment]


@dataclass(frozen=True)
class Plan:
    """How a search was answered: whether nothing could be missed, and among how many windows it looked."""

    exact: bool
    candidates: int


def search(
    collection: Collection,
    query: NDArray[np.float32],
    target: str,
    top_k: int = 10,
    filter: dict[str, Any] | None = None,
    min_score: float | None = None,
    exact: bool = False,
    comparable: Collection_[str] = MODALITIES,
) -> tuple[list[Hit], Plan]:
    """The best items for a unit vector [dim] among the vectors of the encoding `target`, best first; a hit also tells
    its scores in the other encodings that are `comparable` with the query.

    Raises:
        BadFilter: the filter is outside the subset.
    """
    with collection.held() as records:
        index = collection.index(target)
        allowed = records.matching(*compile_filter(filter), target) if filter else None
        candidates = len(index) if allowed is None else len(allowed)
        wanted = max(WIDEN * top_k, 32)
        while True:
            ids, scores = index.search(query, wanted, allowed, exact)
            if min_score is not None:
                ids = ids[scores >= min_score]
            places = records.places(ids.tolist())
            items = list(dict.fromkeys(places[i].item for i in ids.tolist()))
            if len(items) >= top_k or len(ids) < wanted or wanted >= candidates:
                break
            wanted *= WIDEN
        hits = [hit_of(records.stored(item), query, target, comparable, min_score) for item in items[:top_k]]
        return hits, Plan(index.exact or index.scans(allowed, exact), candidates)


def score_of(vector: NDArray[np.float32], query: NDArray[np.float32]) -> float:
    """The inner product of unit vectors, in [-1, 1] whatever the rounding."""
    return float(np.clip(vector @ query, -1.0, 1.0))


def hit_of(
    stored: Stored, query: NDArray[np.float32], target: str, comparable: Collection_[str], min_score: float | None
) -> Hit:
    scored = [(place, score_of(vector, query)) for encoding, place, vector in stored.vectors if encoding == target]
    best_place, best = max(scored, key=lambda pair: pair[1])
    scores = {
        modality_of(encoding): score_of(vector, query)
        for encoding, place, vector in stored.vectors
        if place.window == best_place.window and encoding in comparable
    }
    least = max(best * MOMENT_SHARE if best > 0 else best, min_score if min_score is not None else -1.0)
    least = min(least, best)  # the index may have rounded its score the other way
    moments = merged([(place, score) for place, score in scored if score >= least])
    first = moments[0]
    return Hit(stored.id, best, modality_of(target), first.start_s, first.end_s, scores, stored.metadata, moments)


def merged(windows: list[tuple[Place, float]]) -> list[Moment]:
    """Windows that touch or overlap become one moment; best moment first."""
    moments: list[Moment] = []
    for place, score in sorted(windows, key=lambda pair: pair[0].start_s):
        if moments and place.start_s <= moments[-1].end_s + 1e-6:
            last = moments[-1]
            moments[-1] = Moment(last.start_s, max(last.end_s, place.end_s), max(last.score, score))
        else:
            moments.append(Moment(place.start_s, place.end_s, score))
    return sorted(moments, key=lambda moment: -moment.score)
