"""Step three: an item's windows become a hit with its moments."""

from __future__ import annotations

from export.bundle import ANY
from media.modality import TEXT

from ..records.item import About
from ..records.window_table import UNKNOWN_S
from .answer import Hit, Moment
from .score import EncodingScores, ItemScores

# A window belongs to a moment when it scores this share of its item's best.
MOMENT_SHARE = 0.8
# Windows whose ends are no further apart touch.
TOUCHING_S = 1e-6


def group_hit(n: int, about: About, scores: ItemScores, min_score: float | None) -> Hit | None:
    """The n-th item as a hit; None where it has no window of the target."""
    target = scores.target
    if target is None or not target.span(n):
        return None
    span = target.span(n)
    places = target.windows.places
    best = max(span, key=lambda i: target.scores[i])
    best_score = target.scores[best]
    calibration = scores.matches.calibration
    exact = target.exact.get(places[best].window)
    by_meaning = exact.by_meaning if exact else best_score
    confidence = calibration.confidence(by_meaning) if calibration else None
    if confidence is not None and exact:
        confidence = either(confidence, exact.confidence)
    if calibration and places[best].one_colour and target.modality in ("video", ANY):
        confidence = 0.0  # pictures of one colour are near much that they do not show
    least = best_score * MOMENT_SHARE if best_score > 0 else best_score
    if min_score is not None:
        # The index may have rounded the best score to the other side of the minimum.
        least = min(max(least, min_score), best_score)
    good = [i for i in span if target.scores[i] >= least]
    matching = [window_moment(target, i) for i in good]
    moments = keep_apart(matching) if target.modality == TEXT else merge_moments(matching)
    contributions = scores.contributions
    return Hit(
        id=about.id,
        kind=about.kind,
        duration_s=about.duration_s,
        filename=about.filename,
        modalities=list(scores.modalities[n]),
        score=best_score,
        confidence=confidence,
        target=target.modality,
        start_s=moments[0].start_s,
        end_s=moments[0].end_s,
        scores=window_scores(n, places[best].window, scores),
        evidence=collect_evidence(n, scores),
        metadata=about.metadata,
        moments=moments,
        parts=None if contributions is None else contributions[best],
        text=moments[0].text,
        shown_s=None if places[best].shown_s == UNKNOWN_S else places[best].shown_s,
    )


def either(a: float, b: float) -> float:
    """The confidence of what two signs speak for."""
    return 1.0 - (1.0 - a) * (1.0 - b)


def window_moment(scores: EncodingScores, i: int) -> Moment:
    """One window as a moment."""
    place = scores.windows.places[i]
    return Moment(place.start_s, place.end_s, scores.scores[i], scores.texts.get(place.window))


def window_scores(n: int, window: int, scores: ItemScores) -> dict[str, float]:
    """How one window of the n-th item scores in each modality."""
    found = {}
    for encoding in scores.comparable:
        if encoding.modality != ANY:
            for i in encoding.span(n):
                if encoding.windows.places[i].window == window:
                    found[encoding.modality] = encoding.scores[i]
    return found


def collect_evidence(n: int, scores: ItemScores) -> dict[str, Moment]:
    """The n-th item's best window in each modality."""
    found: dict[str, Moment] = {}
    for encoding in scores.comparable:
        span = encoding.span(n)
        if not span or encoding.modality == ANY:
            continue
        best = max(span, key=lambda i: encoding.scores[i])
        score = encoding.scores[best]
        if encoding.modality not in found or score > found[encoding.modality].score:
            found[encoding.modality] = window_moment(encoding, best)
    return found


def keep_apart(windows: list[Moment]) -> list[Moment]:
    """Windows of words, best first, the best of those with the same times: what is said next is
    another thing.
    """
    best: dict[tuple[float, float], Moment] = {}
    for window in sorted(windows, key=lambda moment: -moment.score):
        best.setdefault((window.start_s, window.end_s), window)
    return list(best.values())


def merge_moments(windows: list[Moment]) -> list[Moment]:
    """Windows that touch or overlap become one moment with the best score; best moment first.

    >>> merged = merge_moments([Moment(0, 5, 0.2), Moment(9, 14, 0.4), Moment(5, 10, 0.3)])
    >>> [(moment.start_s, moment.end_s, moment.score) for moment in merged]
    [(0, 14, 0.4)]
    """
    if len(windows) == 1:
        return windows
    moments: list[Moment] = []
    for window in sorted(windows, key=lambda moment: (moment.start_s, moment.end_s, moment.score)):
        if moments and window.start_s <= moments[-1].end_s + TOUCHING_S:
            last = moments[-1]
            last.end_s = max(last.end_s, window.end_s)
            last.score = max(last.score, window.score)
        else:
            moments.append(window)
    return sorted(moments, key=lambda moment: -moment.score)
