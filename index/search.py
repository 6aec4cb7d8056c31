"""Vectors to moments: a query of one or many parts against the vectors of one or many modalities, windows grouped into
items.

A query's parts have weights, negative ones for what is not wanted. The score of a window is the weighted mean of its
inner products with the parts, so that each part's contribution can be told. Several target modalities are fused by
their confidences (see `calibration`): what either has found, both have found more surely.
"""

from __future__ import annotations

from collections.abc import Collection as Collection_
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bundle import modality_of
from model.config import MODALITIES
from model.evaluate import popularity

from .calibration import GOOD, Background, Calibration
from .collection import Collection
from .filters import compile_filter
from .records import Ids, Place, Records, Stored

WIDEN = 4  # how much wider each further try is, where windows were of fewer items than are wanted
WIDE = 32  # windows, at least, that another order is made of
MOMENT_SHARE = 0.8  # a window belongs to a moment when it scores this share of its item's best
Vectors = NDArray[np.float32]


def direction(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of unit vectors [n, dim] as a unit vector [dim]: one query for an example of several windows."""
    mean = vectors.mean(axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)


@dataclass(frozen=True)
class Aim:
    """One encoding to be searched: what the query's parts, unit vectors [parts, dim], are in its space and what each
    weighs; by which encoding the first was made; what else they can be compared with.
    """

    target: str
    vectors: Vectors
    weights: tuple[float, ...] = (1.0,)
    source: str = "text"
    comparable: Collection_[str] = MODALITIES

    @cached_property
    def shares(self) -> NDArray[np.float32]:
        """The weights [parts], absolutely summing to one."""
        weights = np.array(self.weights, np.float64)
        return np.asarray(weights / np.abs(weights).sum(), np.float32)

    @cached_property
    def query(self) -> Vectors:
        """[dim], whose inner product with a window is its score."""
        return np.asarray(self.shares @ self.vectors, np.float32)


@dataclass(frozen=True)
class Options:
    """What is asked beside the query. `min_confidence` holds where scores are calibrated."""

    top_k: int = 10
    filter: dict[str, Any] | None = None
    min_score: float | None = None
    min_confidence: float | None = None
    exact: bool = False
    qb_norm: bool = False


@dataclass(frozen=True)
class Moment:
    """Neighbouring windows that match, merged; the score is the best of them."""

    start_s: float
    end_s: float
    score: float


@dataclass(frozen=True)
class Hit:
    """An item that matches: its best moment, that window's score in each modality, each modality's own best moment, and
    all its moments. `confidence` is None where the collection is too small to tell.
    """

    id: str
    score: float
    confidence: float | None
    target: str
    start_s: float
    end_s: float
    scores: dict[str, float]
    evidence: dict[str, Moment]
    metadata: dict[str, Any]
    moments: list[Moment]
    parts: list[float] | None = None  # what each part of a composed query contributes to the best window's score


@dataclass(frozen=True)
class Plan:
    """How a search was answered: whether nothing could be missed, and among how many windows it looked."""

    exact: bool
    candidates: int


@dataclass(frozen=True)
class Answer:
    """`good_match` says whether any hit stands out from what a search finds where there is nothing to find; None where
    that cannot be told. Calibrations are by target modality.
    """

    hits: list[Hit]
    plan: Plan
    good_match: bool | None
    calibration: dict[str, Calibration] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """What one aim has found: windows in the order they rank, and the numbers of their items in that order."""

    aim: Aim
    calibration: Calibration | None
    exact: bool
    candidates: int
    items: list[int]

    def confidence(self, score: float) -> float:
        """Uncalibrated, the score itself must do."""
        return self.calibration.confidence(score) if self.calibration else min(max(score, 0.0), 1.0)


def search(collection: Collection, aims: list[Aim], options: Options = Options()) -> Answer:
    """The best items for a query, best first: by score where there is one aim, by confidence where there are more.

    Raises:
        BadFilter: the filter is outside the subset.
    """
    with collection.held() as records:
        looks = [look(collection, records, aim, options, wide=len(aims) > 1 or options.qb_norm) for aim in aims]
        items = list(dict.fromkeys(item for found in looks for item in found.items))
        if len(looks) == 1:
            items = items[: options.top_k]
        stored = records.stored(items)
    hits = [hit for item in items if (hit := hit_of(stored[item], looks, options.min_score)) is not None]
    if len(looks) > 1:
        hits = sorted(hits, key=lambda hit: -hit.score)[: options.top_k]
    known = {modality_of(found.aim.target): found.calibration for found in looks if found.calibration}
    good = any((hit.confidence or 0.0) >= GOOD for hit in hits) if len(known) == len(looks) else None
    if options.min_confidence is not None:
        hits = [hit for hit in hits if hit.confidence is None or hit.confidence >= options.min_confidence]
    plan = Plan(all(found.exact for found in looks), sum(found.candidates for found in looks))
    return Answer(hits, plan, good, known)


def look(collection: Collection, records: Records, aim: Aim, options: Options, wide: bool) -> Look:
    """Search one encoding, wider and wider until there are items enough; `wide` from the beginning where what is found
    will be put in another order.
    """
    index, query = collection.index(aim.target), aim.query
    allowed = records.matching(*compile_filter(options.filter), aim.target) if options.filter else None
    candidates = len(index) if allowed is None else len(allowed)
    about = collection.background(aim.source, aim.target)
    wanted = max(WIDEN * options.top_k, WIDE) if wide else options.top_k
    while True:
        ids, scores = index.search(query, wanted, allowed, options.exact)
        if options.min_score is not None:
            ids = ids[scores.astype(np.float64) >= options.min_score]
        items = list(dict.fromkeys(records.items_of(aim.target, ids)))
        if len(items) >= options.top_k or len(ids) < wanted or wanted >= candidates:
            break
        wanted *= WIDEN
    if options.qb_norm and about is not None and len(ids) and ids[0] in about.popular:
        ids = less_popular(ids, index.vectors(ids), query, about)
        items = list(dict.fromkeys(records.items_of(aim.target, ids)))
    exact = index.exact or index.scans(allowed, options.exact)
    return Look(aim, about.calibration if about else None, exact, candidates, items)


def less_popular(ids: Ids, vectors: Vectors, query: Vectors, about: Background) -> Ids:
    """Windows in the order of QB-Norm: less of what every query of the bank finds in them."""
    return np.asarray(ids[np.argsort(-(vectors @ query - popularity(about.bank @ vectors.T)), kind="stable")])


def scores_of(vectors: Vectors, query: Vectors) -> list[float]:
    """Inner products with vectors [n, dim], in [-1, 1] whatever the rounding."""
    return [min(max(score, -1.0), 1.0) for score in (vectors @ query).tolist()]


def hit_of(stored: Stored, looks: list[Look], min_score: float | None) -> Hit | None:
    """What an item has to show for itself; None where it has nothing of what was looked for."""
    found = [(seen, hit) for seen in looks if (hit := hit_in(stored, seen, min_score)) is not None]
    if not found:
        return None
    sure = [seen.confidence(hit.score) for seen, hit in found]
    best = found[sure.index(max(sure))][1]
    if len(looks) == 1:
        return best
    evidence = {modality: moment for _, hit in reversed(found) for modality, moment in hit.evidence.items()}
    for _, hit in found:
        evidence[hit.target] = hit.evidence[hit.target]
    fused = 1.0 - float(np.prod([1.0 - confidence for confidence in sure]))
    calibrated = all(seen.calibration for seen, _ in found)
    scores = {modality: moment.score for modality, moment in evidence.items()}
    return replace(best, score=fused, confidence=fused if calibrated else None, scores=scores, evidence=evidence)


def hit_in(stored: Stored, seen: Look, min_score: float | None) -> Hit | None:
    aim = seen.aim
    if aim.target not in stored.vectors:
        return None
    scored = {
        encoding: (places, scores_of(vectors, aim.query))
        for encoding, (places, vectors) in stored.vectors.items()
        if encoding == aim.target or encoding in aim.comparable
    }
    places, mine = scored[aim.target]
    best = max(mine)
    at = mine.index(best)
    scores: dict[str, float] = {}
    evidence: dict[str, Moment] = {}
    for encoding, (there, found) in scored.items():
        modality, top = modality_of(encoding), max(found)
        if modality not in evidence or top > evidence[modality].score:
            where = there[found.index(top)]
            evidence[modality] = Moment(where.start_s, where.end_s, top)
        for place, score in zip(there, found, strict=True):
            if place.window == places[at].window:
                scores[modality] = score
    least = max(best * MOMENT_SHARE if best > 0 else best, min_score if min_score is not None else -1.0)
    least = min(least, best)  # the index may have rounded its score the other way
    moments = merged([(place, score) for place, score in zip(places, mine, strict=True) if score >= least])
    return Hit(
        id=stored.id,
        score=best,
        confidence=seen.calibration.confidence(best) if seen.calibration else None,
        target=modality_of(aim.target),
        start_s=moments[0].start_s,
        end_s=moments[0].end_s,
        scores=scores,
        evidence=evidence,
        metadata=stored.metadata,
        moments=moments,
        parts=(aim.shares * (aim.vectors @ stored.vectors[aim.target][1][at])).tolist()
        if len(aim.weights) > 1
        else None,
    )


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
