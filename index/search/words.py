"""The words of files: found by their meaning, as all texts are, and by the words themselves.

The rarer a query's words are, the less likely it is that a passage has them by chance. If words
came independently, it would have them all with the product of their shares. The share of a word
that `count` of `total` passages have is taken as p = (count + 0.5) / (total + 1); the half is that
of Robertson and Spärck Jones (1976), and -log p is an inverse document frequency. The confidence of
a phrase is one minus that product. That of a passage with only some of the words is less, by the
square of their share of the weight.

What speaks for a passage by meaning and by words is fused as confidences are: 1 - (1 - a)(1 - b).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from export.bundle import ANY, Joint, parse_modality
from media.modality import TEXT
from media.passages import fold_words

from ..records.database import Records
from ..records.filters import compile_filter
from ..records.passages import Candidate, Candidates
from ..records.window_table import Place
from .group import MOMENT_SHARE, either
from .query import Options, TargetQuery
from .score import EncodingScores, ExactMatch, ItemScores, Windows

SCATTERED = 0.9  # of the confidence of words that are there, but not as a phrase
LEAST = 0.1  # passages of less confidence have the words by chance


@dataclass(frozen=True)
class ExactPassage:
    """A passage that has words of the query, and how sure it is that they are meant."""

    place: Place
    confidence: float


def add_passages_query(queries: list[TargetQuery], options: Options) -> list[TargetQuery]:
    """The queries, with one for what files say if the query is a text and its target is any."""
    if not options.words:
        return queries
    wants_any = options.target_name == ANY or any(isinstance(q.target, Joint) for q in queries)
    if not wants_any or any(parse_modality(query.target) == TEXT for query in queries):
        return queries
    first = queries[0]
    return [*queries, replace(first, target=first.source, passages_only=True)]


def find_exact(
    records: Records, queries: Sequence[TargetQuery], options: Options
) -> dict[int, list[ExactPassage]]:
    """The passages that have the query's words, by their items, the surest items first."""
    words = fold_words(options.words or "")
    if not words or not any(parse_modality(query.target) == TEXT for query in queries):
        return {}
    where, params = compile_filter(options.filter) if options.filter else ("", [])
    candidates = records.passages.match(words, where, params)
    found: dict[int, list[ExactPassage]] = {}
    for candidate in candidates.found:
        confidence = rate(words, candidate, candidates)
        if confidence >= LEAST:
            place = Place(candidate.window, candidate.start_s, candidate.end_s, False)
            found.setdefault(candidate.item, []).append(ExactPassage(place, confidence))
    best = sorted(found, key=lambda item: -max(each.confidence for each in found[item]))
    return {item: found[item] for item in best}


def rate(words: list[str], candidate: Candidate, candidates: Candidates) -> float:
    """How sure it is that a passage has the words of a query not by chance, in [0, 1]."""
    own = len(fold_words(candidate.text))
    weights = {
        word: -math.log2((count + 0.5) / (candidates.total + 1))
        for word, count in candidates.counts.items()
    }
    if has_phrase(candidate.words, words, own):
        return 1.0 - 2.0 ** -sum(weights.values())
    there = set(candidate.words[:own])
    weight = sum(weights[word] for word in weights if word in there)
    share = weight / max(sum(weights.values()), 1e-9)
    return SCATTERED * share**2 * (1.0 - 2.0**-weight)


def has_phrase(words: list[str], phrase: list[str], own: int) -> bool:
    """Whether a phrase begins among the first `own` words."""
    size = len(phrase)
    return any(words[at : at + size] == phrase for at in range(own))


def add_words(
    records: Records,
    scores: ItemScores,
    items: Sequence[int],
    exact: Mapping[int, list[ExactPassage]],
) -> ItemScores:
    """The scores of items [n], with those of passages that have the query's words, where texts are
    searched.
    """
    query = scores.matches.query
    if parse_modality(query.target) != TEXT:
        return scores
    before = scores.target or EncodingScores(TEXT, Windows([0] * (len(items) + 1), [], []), [])
    searched = before.windows.places
    wanted = [True] * len(searched)
    if query.passages_only:
        wanted = records.passages.has([place.window for place in searched])
    bounds = [0]
    places: list[Place] = []
    values: list[float] = []
    matches: dict[int, ExactMatch] = {}
    shown: list[int] = []
    for n, item in enumerate(items):
        by_window = {each.place.window: each for each in exact.get(item, ())}
        scored = [(searched[i], before.scores[i]) for i in before.span(n) if wanted[i]]
        without_vectors = by_window.keys() - {place.window for place, _ in scored}
        scored += [(by_window[window].place, 0.0) for window in sorted(without_vectors)]
        for place, by_meaning in scored:
            found = by_window.get(place.window)
            score = by_meaning
            if found is not None:
                matches[place.window] = ExactMatch(found.confidence, by_meaning)
                score = either(max(by_meaning, 0.0), found.confidence)
            places.append(place)
            values.append(score)
        of_item = range(bounds[-1], len(values))
        best = max((values[i] for i in of_item), default=0.0)
        shown += [places[i].window for i in of_item if values[i] >= min(MOMENT_SHARE * best, best)]
        bounds.append(len(values))
    target = EncodingScores(
        modality=TEXT,
        windows=Windows(bounds, [], places),
        scores=values,
        exact=matches,
        texts=records.passages.texts(shown),
    )
    others = [each for each in scores.comparable if each is not before]
    return replace(scores, target=target, comparable=[target, *others])
