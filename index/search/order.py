"""Several things in one item: moments that match the steps of a query, in their order or anywhere.

A sequence has a window for each step. Each begins when the one before has ended, at most `GAP_S`
seconds later. It scores the mean of its windows' scores, each for its own step. The best sequence
of an item is found exactly, over all its stored windows, by dynamic programming.

Without an order, each part of a query has its own best window of the item, and the item scores
their weighted mean.

Items are found by any of the steps. An item that none of them has found scores at most the mean of
the lowest scores that were found (the threshold algorithm of Fagin, Lotem and Naor, 2003). Where
the indexes compare everything, more are looked at until no such item can be missed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from export.bundle import ANY

from ..collection import Collection
from ..records.database import Records
from ..records.item import About
from ..records.window_table import Place
from .answer import Answer, Hit, Moment
from .fuse import can_miss, conclude, fuse_hits, sort_hits
from .group import TOUCHING_S, collect_evidence, window_moment, window_scores
from .query import Options, TargetQuery, score_options
from .retrieve import OVERFETCH_FACTOR, TargetMatches, retrieve
from .score import ItemScores, ItemWindows, score

# Seconds at most from the end of one moment to the start of the next.
GAP_S = 30.0
# Items, at least, that each step finds.
MIN_CANDIDATES = 64

Steps = Sequence[TargetQuery]
ITEM = "item"  # of `Options.aggregate`: each part has its own window
Found = list[list[TargetMatches]]  # [targets][steps]


def search_in_order(
    collection: Collection, records: Records, queries: list[TargetQuery], options: Options
) -> Answer:
    """The best items for queries with steps, or with parts that are looked for each by itself, one
    query of each target. Raises BadFilter.
    """
    if options.aggregate == ITEM:
        queries = [split_parts(query) for query in queries]
    targets: list[Steps] = [(replace(query, following=()), *query.following) for query in queries]
    own = score_options(options, queries)
    wanted = max(OVERFETCH_FACTOR * options.top_k, MIN_CANDIDATES)
    while True:
        wide = replace(options, top_k=wanted, min_score=None, rerank=None)
        matches = [retrieve_steps(collection, records, steps, wide) for steps in targets]
        merged = [merge_steps(steps, options) for steps in matches]
        found = group_items(collection, records, matches, own)
        fused = {item: fuse_hits(merged, of_item) for item, of_item in found.items()}
        hits = sort_hits(found, {item: hit for item, hit in fused.items() if hit}, {})
        # of equal scores, an older one may be left out: others' best windows are in no sequence
        missed = can_miss(merged, hits, options, ties=True)
        if not missed or not all(target.exact for target in merged):
            break
        wanted *= OVERFETCH_FACTOR
    return conclude(merged, hits[: options.top_k], options, {}, missed)


def retrieve_steps(
    collection: Collection, records: Records, steps: Steps, options: Options
) -> list[TargetMatches]:
    return [retrieve(collection, records, step, options, options.top_k) for step in steps]


def split_parts(query: TargetQuery) -> TargetQuery:
    """A query of several parts as one whose parts are steps."""
    first, *others = [
        replace(query, vectors=query.vectors[n : n + 1], weights=query.weights[n : n + 1])
        for n in range(len(query.weights))
    ]
    return replace(first, following=tuple(others))


def group_items(
    collection: Collection, records: Records, matches: Found, options: Options
) -> dict[int, list[Hit | None]]:
    """For every item that any step has found, by its number, its hit of each target."""
    every = [step for steps in matches for step in steps]
    items = list(dict.fromkeys(item for step in every for item in step.items))
    about = records.about(items)
    items = [item for item in items if item in about]
    windows = ItemWindows(collection, records, items, every)
    of_items: dict[int, list[Hit | None]] = {item: [] for item in items}
    for steps in matches:
        scores = [score(windows, step) for step in steps]
        for n, item in enumerate(items):
            of_items[item].append(group_sequence(n, about[item], scores, options))
    return of_items


def step_shares(steps: Steps, options: Options) -> list[float]:
    """What each step counts, 1 in all. Steps in an order count the same, parts by their weights."""
    if options.aggregate != ITEM:
        return [1.0 / len(steps)] * len(steps)
    weights = [step.weights[0] for step in steps]
    return [weight / sum(weights) for weight in weights]


def merge_steps(steps: list[TargetMatches], options: Options) -> TargetMatches:
    """What all steps have searched, as one. An item that none of them has found scores at most the
    mean of what each has not seen; there is none where a step has seen everything.
    """
    shares = step_shares([step.query for step in steps], options)
    return replace(
        steps[0],
        exact=all(step.exact for step in steps),
        rounded=any(step.rounded for step in steps),
        complete=all(step.complete for step in steps),
        unseen=sum(share * step.unseen for share, step in zip(shares, steps, strict=True)),
        ways=list(dict.fromkeys(way for step in steps for way in step.ways)),
        compared=sum(step.compared for step in steps),
    )


def group_sequence(n: int, about: About, steps: list[ItemScores], options: Options) -> Hit | None:
    """The n-th item as a hit whose moments are one for each step, in their order; None where it
    has no such sequence.
    """
    anywhere = options.aggregate == ITEM
    target = steps[0].target
    if target is None:
        return None
    span = target.span(n)
    own = slice(span.start, span.stop)
    places = target.windows.places[own]
    if not places:  # another target has found it
        return None
    scores = np.array([step.target.scores[own] for step in steps if step.target], np.float64)
    chosen = scores.argmax(axis=1).tolist() if anywhere else find_sequence(places, scores)
    if not chosen:
        return None
    at = [span[i] for i in chosen]
    moments = [
        window_moment(step.target, i) for step, i in zip(steps, at, strict=True) if step.target
    ]
    shares = step_shares([step.matches.query for step in steps], options)
    best_score = sum(share * moment.score for share, moment in zip(shares, moments, strict=True))
    if options.min_score is not None and best_score < options.min_score:
        return None
    best = max(moments, key=lambda moment: moment.score)
    evidence: dict[str, Moment] = {}
    for step in steps:
        for modality, moment in collect_evidence(n, step).items():
            if modality not in evidence or moment.score > evidence[modality].score:
                evidence[modality] = moment
    return Hit(
        id=about.id,
        kind=about.kind,
        duration_s=about.duration_s,
        filename=about.filename,
        modalities=list(steps[0].modalities[n]),
        score=best_score,
        confidence=sequence_confidence(steps, moments, [places[i] for i in chosen]),
        target=target.modality,
        start_s=best.start_s if anywhere else moments[0].start_s,
        end_s=best.end_s if anywhere else moments[-1].end_s,
        scores=mean_scores(n, [places[i].window for i in chosen], steps),
        evidence=evidence,
        metadata=about.metadata,
        moments=moments,
        parts=part_contributions(steps, at, shares),
    )


def find_sequence(places: Sequence[Place], scores: NDArray[np.float64]) -> list[int]:
    """The windows [steps], one for each step, with the highest sum of scores [steps, windows], of
    those that begin when the one before has ended and at most `GAP_S` later. Empty where there are
    none.

    >>> places = [Place(n, 5.0 * n, 5.0 * n + 5, False) for n in range(3)]
    >>> find_sequence(places, np.array([[0.1, 0.2, 0.9], [0.8, 0.3, 0.7]]))
    [1, 2]
    """
    starts = np.array([place.start_s for place in places])
    ends = np.array([place.end_s for place in places])
    by_end = np.argsort(ends, kind="stable")
    first = ends[by_end].searchsorted(starts - GAP_S - TOUCHING_S)
    after = ends[by_end].searchsorted(starts + TOUCHING_S, "right")
    most = int((after - first).max())
    sums = scores[0]
    before: list[NDArray[np.int64]] = []
    for own in scores[1:]:
        best = np.full(len(places), -math.inf)
        which = np.full(len(places), -1)
        for offset in range(most):
            there = np.flatnonzero(first + offset < after)
            earlier = by_end[first[there] + offset]
            # a window without length ends when it begins, and cannot follow itself
            better = (sums[earlier] > best[there]) & (earlier != there)
            best[there[better]] = sums[earlier[better]]
            which[there[better]] = earlier[better]
        sums = best + own
        before.append(which)
    last = int(sums.argmax())
    if sums[last] == -math.inf:
        return []
    chosen = [last]
    for which in reversed(before):
        chosen.append(int(which[chosen[-1]]))
    return chosen[::-1]


def sequence_confidence(
    steps: list[ItemScores], moments: list[Moment], places: list[Place]
) -> float | None:
    """How sure the least sure step is; None where nothing is calibrated."""
    calibration = steps[0].matches.calibration
    if calibration is None:
        return None
    shows = steps[0].target is not None and steps[0].target.modality in ("video", ANY)
    if shows and any(place.one_colour for place in places):
        return 0.0
    return min(calibration.confidence(moment.score) for moment in moments)


def mean_scores(n: int, windows: list[int], steps: list[ItemScores]) -> dict[str, float]:
    """The mean score of a sequence's windows in each modality that all of them have."""
    each = [window_scores(n, window, step) for window, step in zip(windows, steps, strict=True)]
    return {
        modality: sum(scores[modality] for scores in each) / len(each)
        for modality in each[0]
        if all(modality in scores for scores in each)
    }


def part_contributions(steps: list[ItemScores], at: list[int], shares: list[float]) -> list[float]:
    """What each part of all steps contributes to a sequence of windows."""
    found: list[float] = []
    for share, step, i in zip(shares, steps, at, strict=True):
        assert step.target is not None
        own = [step.target.scores[i]] if step.contributions is None else step.contributions[i]
        found += [share * part for part in own]
    return found
