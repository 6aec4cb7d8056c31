"""Vectors to moments: a query of one or many parts against the vectors of one or many modalities,
windows grouped into items.

A query's parts have weights, negative ones for what is not wanted. The score of a window is the
weighted mean of its inner products with the parts, so that each part's contribution can be told.
Several target modalities are fused by their confidences (see `calibration`): what either has found,
both have found more surely.
"""

from __future__ import annotations

import math
from collections.abc import Collection as Collection_
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluation.retrieval import popularity
from export.bundle import ANY, Joint, Route, modality_of
from media.modality import MODALITIES

from .calibration import GOOD, Background, Calibration
from .collection import Collection
from .records.database import About, Records
from .records.filters import compile_filter
from .records.window_table import Place

OVERFETCH_FACTOR = (
    4  # how much wider each further try is, where windows were of fewer items than are wanted
)
MIN_RERANK_CANDIDATES = 32  # windows, at least, that another order is made of
MOMENT_SHARE = 0.8  # a window belongs to a moment when it scores this share of its item's best
SUREST = 0.9  # that a hit can be where a word of the query is not known; below a good match
Vectors = NDArray[np.float32]


def direction(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of unit vectors [n, dim] as a unit vector [dim]: one query for an example of several
    windows.
    """
    mean = vectors.mean(axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)


@dataclass(frozen=True)
class TargetQuery:
    """One encoding to be searched, or two counted together: what the query's parts, unit vectors
    [parts, dim], are in its space and what each weighs; by which encoding the first was made; what
    else they can be compared with.
    """

    target: str | Joint
    vectors: Vectors
    weights: tuple[float, ...] = (1.0,)
    source: str = "text"
    comparable: Collection_[str | Joint] = MODALITIES

    @classmethod
    def along(
        cls, route: Route, source: str, vectors: Vectors, weights: tuple[float, ...] = (1.0,)
    ) -> TargetQuery:
        """What a route leads to, for vectors [parts, dim] of which the first is of modality
        `source`.
        """
        comparable = (*route.encodings.values(), route.target)
        return cls(route.target, vectors, weights, route.encodings[source], comparable)

    @cached_property
    def shares(self) -> NDArray[np.float32]:
        """The weights [parts], absolutely summing to one."""
        weights = np.array(self.weights, np.float64)
        return np.asarray(weights / np.abs(weights).sum(), np.float32)

    @cached_property
    def query(self) -> Vectors:
        """[dim], whose inner product with a window is its score."""
        if len(self.weights) == 1 and self.weights[0] > 0:
            return np.asarray(self.vectors[0], np.float32)
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
    known: float = 1.0  # how much of the query's words is; where not all, no hit is sure
    called: str | None = None  # what hits name as their target, where it is not what was searched


@dataclass(slots=True)
class Moment:
    """Neighbouring windows that match, merged; the score is the best of them."""

    start_s: float
    end_s: float
    score: float


@dataclass(slots=True)
class Hit:
    """An item that matches: its best moment, that window's score in each modality, each modality's
    own best moment, and all its moments. `confidence` is None where the collection is too small to
    tell.
    """

    id: str
    kind: str
    duration_s: float
    filename: str | None
    modalities: list[str]
    score: float
    confidence: float | None
    target: str
    start_s: float
    end_s: float
    scores: dict[str, float]
    evidence: dict[str, Moment]
    metadata: dict[str, Any]
    moments: list[Moment]
    # what each part of a composed query contributes to the best window's score
    parts: list[float] | None = None


@dataclass(frozen=True)
class Plan:
    """How a search was answered: whether nothing can have been missed; among how many windows; by
    which ways ("scan": each of them compared; "codes", "lists", "graph": some of them, see
    `vectors`); how many vectors or their codes were compared.
    """

    exact: bool
    candidates: int
    ways: list[str]
    compared: int


@dataclass(frozen=True)
class Answer:
    """`good_match` says whether any hit stands out from what a search finds where there is nothing
    to find; None where that cannot be told. Calibrations are by target modality.
    """

    hits: list[Hit]
    plan: Plan
    good_match: bool | None
    calibration: dict[str, Calibration] = field(default_factory=dict)


class Windows(NamedTuple):
    """What items have of one encoding: the i-th from the i-th to the next of the bounds [items +
    1]; where it belongs, and the vectors [n, dim], or where nothing else is asked of them, their
    scores.
    """

    bounds: list[int]
    places: list[Place]
    vectors: Vectors | None
    scores: list[float] | None = None


@dataclass(frozen=True)
class TargetMatches:
    """What one aim has found: the scores of windows by their places, best first; the numbers of
    their items in that order, each with the first of its places.
    """

    aim: TargetQuery
    calibration: Calibration | None
    exact: bool
    candidates: int
    ways: list[str]
    compared: int
    scores: dict[int, float]
    items: dict[int, int]

    def confidence(self, score: float) -> float:
        """Uncalibrated, the score itself must do."""
        return self.calibration.confidence(score) if self.calibration else min(max(score, 0.0), 1.0)


def search(collection: Collection, aims: list[TargetQuery], options: Options = Options()) -> Answer:
    """The best items for a query, best first: by score where there is one aim, by confidence where
    there are more.

    Raises:
        BadFilter: the filter is outside the subset.
    """
    with collection.hold_for_reading() as records:
        matches = [
            retrieve(collection, records, aim, options, wide=len(aims) > 1 or options.qb_norm)
            for aim in aims
        ]
        items = list(dict.fromkeys(item for found in matches for item in found.items))
        if len(matches) == 1:
            items = items[: options.top_k]
        about = records.about(items)
        items = [item for item in items if item in about]
        by_target = {found.aim.target: found for found in matches}
        scored = len(aims) == len(aims[0].weights) == 1  # no other query asks for a window's vector
        targets = dict.fromkeys([*collection.dims, *by_target])
        has = {
            target: windows_of(collection, records, target, items, by_target.get(target), scored)
            for target in targets
            if len(collection.window_table(target))
        }
    views = [ItemScorer(found, has, options.min_score) for found in matches]
    hits = [
        hit for n, item in enumerate(items) if (hit := hit_of(n, about[item], views)) is not None
    ]
    if len(matches) > 1:
        hits = sorted(hits, key=lambda hit: -hit.score)[: options.top_k]
    known = {
        modality_of(found.aim.target): found.calibration for found in matches if found.calibration
    }
    good = (
        any((hit.confidence or 0.0) >= GOOD for hit in hits) if len(known) == len(matches) else None
    )
    if options.known < 1.0:
        good, hits = False, [held_back(hit, options.known) for hit in hits]
    if options.min_confidence is not None:
        hits = [
            hit
            for hit in hits
            if hit.confidence is None or hit.confidence >= options.min_confidence
        ]
    if options.called:
        hits = [replace(hit, target=options.called) for hit in hits]
    plan = Plan(
        all(found.exact for found in matches),
        sum(found.candidates for found in matches),
        sorted({way for found in matches for way in found.ways}),
        sum(found.compared for found in matches),
    )
    return Answer(hits, plan, good, known)


def retrieve(
    collection: Collection, records: Records, aim: TargetQuery, options: Options, wide: bool
) -> TargetMatches:
    """Search one encoding, wider and wider until there are items enough; `wide` from the beginning
    where what is found will be put in another order.
    """
    index, places, query = (
        collection.index(aim.target),
        collection.window_table(aim.target),
        aim.query,
    )
    allowed = (
        records.matching(*compile_filter(options.filter), aim.target, places)
        if options.filter
        else None
    )
    candidates = len(index) if allowed is None else len(allowed)
    about = collection.background(aim.source, aim.target)
    wanted = max(OVERFETCH_FACTOR * options.top_k, MIN_RERANK_CANDIDATES) if wide else options.top_k
    least = -math.inf if options.min_score is None else options.min_score
    compared = 0
    while True:
        best = index.search(query, wanted, allowed, options.exact)
        ids, near, compared = best.ids, best.scores, compared + best.compared
        at, scores = places.find(ids).tolist(), near.tolist()
        found = {
            place: score
            for place, score in zip(at, scores, strict=True)
            if place >= 0 and score >= least
        }
        items = places.owners(found)
        if (
            len(items) >= options.top_k
            or len(ids) < wanted
            or wanted >= candidates
            or scores[-1] < least
        ):
            break
        wanted *= OVERFETCH_FACTOR
    if options.qb_norm and about is not None and len(ids) and ids[0] in about.popular:
        order = less_popular(index.vectors(ids), query, about)
        found = {at[i]: found[at[i]] for i in order if at[i] in found}
        items = places.owners(found)
    calibration = about.calibration if about else None
    return TargetMatches(
        aim, calibration, best.exact, candidates, best.way.split("+"), compared, found, items
    )


def less_popular(vectors: Vectors, query: Vectors, about: Background) -> list[int]:
    """The order of QB-Norm: windows by what is found in them above what every query of the bank
    finds there.
    """
    order: list[int] = np.argsort(
        popularity(about.bank @ vectors.T) - vectors @ query, kind="stable"
    ).tolist()
    return order


def windows_of(
    collection: Collection,
    records: Records,
    target: str | Joint,
    items: list[int],
    retrieve: TargetMatches | None,
    scored: bool,
) -> Windows:
    """All that items have of a target, of which a look may have found some; where scores will do,
    those that it has given, if it has given all.
    """
    index = collection.index(target)
    places = collection.window_table(target)
    bounds, at = [0], list[int]()
    for first, end in places.row_ranges(items):
        at += range(first, end)
        bounds.append(len(at))
    where = places.places(at)
    if scored and retrieve and index.stores_original_vectors and retrieve.scores.keys() >= set(at):
        return Windows(bounds, where, None, [retrieve.scores[place] for place in at])
    ids = places.ids[at]
    if index.stores_original_vectors and len(own := index.vectors(ids)) == len(ids):
        return Windows(bounds, where, own)
    known, vectors = records.read_vectors(np.sort(ids), index.dim)
    return Windows(bounds, where, vectors[np.searchsorted(known, ids)])


def scores_of(windows: Windows, query: Vectors) -> list[float]:
    """Inner products with the query, in [-1, 1] whatever the rounding."""
    scores = windows.scores if windows.vectors is None else (windows.vectors @ query).tolist()
    return [min(max(score, -1.0), 1.0) for score in scores or ()]


class ItemScorer:
    """What items have to show for themselves in the light of one aim."""

    def __init__(
        self, retrieve: TargetMatches, has: dict[str | Joint, Windows], min_score: float | None
    ) -> None:
        aim, self.retrieve, self._least = (
            retrieve.aim,
            retrieve,
            -1.0 if min_score is None else min_score,
        )
        self._target = modality_of(aim.target)
        self._every = sorted(
            (modality_of(of), windows.bounds) for of, windows in has.items() if isinstance(of, str)
        )
        self._seen = {
            encoding: (modality_of(encoding), windows, scores_of(windows, aim.query))
            for encoding, windows in has.items()
            if encoding == aim.target or encoding in aim.comparable
        }

    def hit(self, n: int, about: About) -> Hit | None:
        """The n-th item; None where it has nothing of what was looked for."""
        aim, calibration = self.retrieve.aim, self.retrieve.calibration
        if aim.target not in self._seen:
            return None
        _, (bounds, places, *_), found = self._seen[aim.target]
        first, last = bounds[n], bounds[n + 1]
        if first == last:
            return None
        best = max(found[first:last])
        at = found.index(best, first)
        confidence = calibration.confidence(best) if calibration else None
        if calibration and places[at].plain and self._target in ("video", ANY):
            confidence = 0.0  # pictures of one colour are near much that they do not show
        # the index may have rounded its score the other way
        least = min(max(best * MOMENT_SHARE if best > 0 else best, self._least), best)
        good = [i for i in range(first, last) if found[i] >= least]
        moments = merged([(places[i].start_s, places[i].end_s, found[i]) for i in good])
        scores, evidence = self._evidence(n, places[at].window)
        return Hit(
            about.id,
            about.kind,
            about.duration_s,
            about.filename,
            list(dict.fromkeys([modality for modality, of in self._every if of[n] < of[n + 1]])),
            best,
            confidence,
            self._target,
            moments[0].start_s,
            moments[0].end_s,
            scores,
            evidence,
            about.metadata,
            moments,
            self._parts(at) if len(aim.weights) > 1 else None,
        )

    def _evidence(self, n: int, window: int) -> tuple[dict[str, float], dict[str, Moment]]:
        """How the n-th item's window scores in each modality, and
        the item's best moment in each.
        """
        scores: dict[str, float] = {}
        evidence: dict[str, Moment] = {}
        for modality, (bounds, places, *_), found in self._seen.values():
            first, last = bounds[n], bounds[n + 1]
            if first == last or modality == ANY:
                continue
            top = max(found[first:last])
            if modality not in evidence or top > evidence[modality].score:
                place = places[found.index(top, first)]
                evidence[modality] = Moment(place.start_s, place.end_s, top)
            for i in range(first, last):
                if places[i].window == window:
                    scores[modality] = found[i]
        return scores, evidence

    def _parts(self, at: int) -> list[float]:
        """What each part of the query contributes to the score of one of the target's windows."""
        aim = self.retrieve.aim
        vectors = self._seen[aim.target][1].vectors
        assert vectors is not None
        shares: list[float] = (aim.shares * (aim.vectors @ vectors[at])).tolist()
        return shares


def hit_of(n: int, about: About, views: list[ItemScorer]) -> Hit | None:
    """What the n-th item has to show for itself, all aims taken together."""
    if len(views) == 1:
        return views[0].hit(n, about)
    found = [(view.retrieve, hit) for view in views if (hit := view.hit(n, about)) is not None]
    if not found:
        return None
    sure = [
        seen.confidence(hit.score) if hit.confidence is None else hit.confidence
        for seen, hit in found
    ]
    best = found[sure.index(max(sure))][1]
    evidence = {
        modality: moment for _, hit in reversed(found) for modality, moment in hit.evidence.items()
    }
    for _, hit in found:
        if hit.target in hit.evidence:
            evidence[hit.target] = hit.evidence[hit.target]
    fused = 1.0 - float(np.prod([1.0 - confidence for confidence in sure]))
    calibrated = all(seen.calibration for seen, _ in found)
    scores = {modality: moment.score for modality, moment in evidence.items()}
    return replace(
        best,
        score=fused,
        confidence=fused if calibrated else None,
        scores=scores,
        evidence=evidence,
    )


def held_back(hit: Hit, known: float) -> Hit:
    """A hit of a query of which only a share is known: that
    much less sure, and never a good match.
    """
    return (
        hit
        if hit.confidence is None
        else replace(hit, confidence=hit.confidence * min(known, SUREST))
    )


def merged(windows: list[tuple[float, float, float]]) -> list[Moment]:
    """Windows (start_s, end_s, score) that touch or overlap
    become one moment; best moment first.
    """
    if len(windows) == 1:
        return [Moment(*windows[0])]
    moments: list[Moment] = []
    for start_s, end_s, score in sorted(windows):
        if moments and start_s <= moments[-1].end_s + 1e-6:
            last = moments[-1]
            last.end_s, last.score = max(last.end_s, end_s), max(last.score, score)
        else:
            moments.append(Moment(start_s, end_s, score))
    return sorted(moments, key=lambda moment: -moment.score)
