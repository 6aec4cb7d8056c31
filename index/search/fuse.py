"""Step four: hits of several targets become one, and the answer says what they are worth.

What two targets have both found, they have found more surely: confidences a and b are fused to
1 - (1 - a)(1 - b).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from export.bundle import parse_modality
from media.modality import TEXT

from ..calibration import GOOD
from .answer import Answer, Hit, Moment, Plan
from .query import Options
from .retrieve import TargetMatches

# That a hit can be where a word of the query is not known; below a good match.
SUREST = 0.9
WORDS = "words"  # the way of what is found by the words themselves


def fuse_hits(matches: Sequence[TargetMatches], hits: Sequence[Hit | None]) -> Hit | None:
    """One item's hits, one of each target's matches, as one; None where there is none."""
    if len(hits) == 1:
        return hits[0]
    found = [(target, hit) for target, hit in zip(matches, hits, strict=True) if hit is not None]
    if not found:
        return None
    confidences = [
        target.confidence(hit.score) if hit.confidence is None else hit.confidence
        for target, hit in found
    ]
    fused = fuse(confidences)
    if not all(target.calibration for target, _ in found) and any(
        target.query.passages_only for target, _ in found
    ):
        # A film says much: some passage is near to every query, and no calibration tells.
        fused = max(confidences)
    surest = found[confidences.index(max(confidences))][1]
    evidence = fuse_evidence([hit for _, hit in found])
    named = [target for target, _ in found if not target.query.passages_only]
    named = named or [target for target in matches if not target.query.passages_only]
    calibrated = all(target.calibration for target in named)
    return replace(
        surest,
        score=fused,
        confidence=fused if calibrated else None,
        scores={modality: moment.score for modality, moment in evidence.items()},
        evidence=evidence,
    )


def fuse(confidences: Sequence[float]) -> float:
    """
    >>> fuse([0.5, 0.5])
    0.75
    """
    return 1.0 - math.prod(1.0 - confidence for confidence in confidences)


def sort_hits(
    found: Mapping[int, Sequence[Hit | None]],
    hits: Mapping[int, Hit],
    sure: Mapping[int, float],
) -> list[Hit]:
    """The hits of items, by their numbers, best first. Of equal scores, those that are `sure` to
    have the query's words come first, then those which a target has `found` by a higher score, then
    those that were added first.
    """

    def place(item: int) -> tuple[float, float, float, int]:
        highest = max(hit.score for hit in found[item] if hit is not None)
        return -hits[item].score, -sure.get(item, 0.0), -highest, item

    return [hits[item] for item in sorted(hits, key=place)]


def can_miss(
    matches: Sequence[TargetMatches], hits: Sequence[Hit], options: Options, *, ties: bool = False
) -> bool:
    """Whether an item that no target has found may score higher than the last of `top_k` hits, best
    first; with `ties`, or the same.
    """
    left = [found for found in matches if found.unseen > -math.inf]
    if not left:
        return False
    most = left[0].unseen
    if len(matches) > 1:
        most = fuse([found.confidence(found.unseen) for found in left])
    if options.min_score is not None and most < options.min_score:
        return False
    if len(hits) < options.top_k:
        return True
    last = hits[options.top_k - 1].score
    return last <= most if ties else last < most


def fuse_evidence(hits: list[Hit]) -> dict[str, Moment]:
    """Each modality's moment by the query that was made for it, else by the first that has one."""
    evidence: dict[str, Moment] = {}
    for hit in reversed(hits):
        evidence |= hit.evidence
    for hit in hits:
        if hit.target in hit.evidence:
            evidence[hit.target] = hit.evidence[hit.target]
    return evidence


def is_exact(found: TargetMatches) -> bool:
    return found.exact and (found.complete or not found.rounded)


def conclude(
    matches: list[TargetMatches],
    hits: list[Hit],
    options: Options,
    sure: Mapping[str, float],
    missed: bool,
) -> Answer:
    """The answer: hits in their order, those that are not sure enough left out. `sure` has, by
    id, how sure it is that an item has the query's words. `missed`: a better one may have been.
    """
    if len(matches) > 1 and options.min_score is not None:
        hits = [hit for hit in hits if hit.score >= options.min_score]
    calibrations = {
        parse_modality(found.query.target): found.calibration
        for found in matches
        if found.calibration is not None and not found.query.passages_only
    }
    good_match = None
    if len(calibrations) == sum(not found.query.passages_only for found in matches):
        good_match = any(hit.confidence is not None and hit.confidence >= GOOD for hit in hits)
    if options.known_share < 1.0:
        good_match = any(sure.get(hit.id, 0.0) >= GOOD for hit in hits)
        hits = [
            hit if sure.get(hit.id, 0.0) >= GOOD else lower_confidence(hit, options.known_share)
            for hit in hits
        ]
    if options.min_confidence is not None:
        hits = [hit for hit in hits if is_sure(hit, options.min_confidence)]
    if options.target_name:
        # words that a file has are told from its pictures and sound
        hits = [
            hit if hit.target == TEXT else replace(hit, target=options.target_name) for hit in hits
        ]
    ways = set().union(*(found.ways for found in matches))
    plan = Plan(
        exact=not missed and all(is_exact(found) for found in matches),
        candidates=sum(found.candidates for found in matches),
        ways=sorted(ways | {WORDS} if sure else ways),
        compared=sum(found.compared for found in matches),
        learned=any(found.query.learned for found in matches),
    )
    return Answer(hits, plan, good_match, calibrations)


def is_sure(hit: Hit, min_confidence: float) -> bool:
    """Whether a hit is sure enough, or nobody can tell."""
    return hit.confidence is None or hit.confidence >= min_confidence


def lower_confidence(hit: Hit, known_share: float) -> Hit:
    """A hit of a query of which only a share is known: less sure, and never a good match."""
    if hit.confidence is None:
        return hit
    return replace(hit, confidence=hit.confidence * min(known_share, SUREST))
