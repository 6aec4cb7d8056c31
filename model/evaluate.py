"""Retrieval, measured by the field's conventions (no torch here: it scores a checkpoint and a bundle alike).

Ranks are 1-based and ties get the average rank, so that a collapsed encoder scores chance and not 100 %.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .clips import Clips
from .config import MODALITIES, BadConfig
from .manifest import Row


@dataclass(frozen=True)
class Embedder:
    """What is evaluated, an embedding space: `embed(modality, raw arrays [n, ...])` gives unit vectors [n, dim] of the
    modalities it holds, `tokens(texts)` the ids that it takes for texts.
    """

    embed: Callable[[str, NDArray[Any]], NDArray[np.float32]]
    tokens: Callable[[list[str]], NDArray[np.int64]]
    modalities: tuple[str, ...] = MODALITIES

    def texts(self, texts: list[str], size: int = 64) -> NDArray[np.float32]:
        pages = [self.tokens(texts[at : at + size]) for at in range(0, len(texts), size)]
        return np.concatenate([self.embed("text", page) for page in pages])

    def media(self, modality: str, array: NDArray[Any], rows: list[int], size: int = 32) -> NDArray[np.float32]:
        """The vectors of some rows of stored frames or waveforms."""
        wide = np.float32 if modality == "audio" else np.uint8
        pages = [array[rows[at : at + size]].astype(wide) for at in range(0, len(rows), size)]
        return np.concatenate([self.embed(modality, page) for page in pages])


def ranks(scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """For scores [queries, gallery], the rank of every entry in its row, 1 best, ties averaged.

    >>> ranks(np.array([[0.9, 0.5, 0.5, 0.1]])).tolist()
    [[1.0, 2.5, 2.5, 4.0]]
    """
    out = np.empty(scores.shape)
    for row, line in zip(out, scores, strict=True):
        ordered = np.sort(line)
        below = np.searchsorted(ordered, line, "left")
        upto = np.searchsorted(ordered, line, "right")
        row[:] = len(line) - (below + upto - 1) / 2
    return out


def metrics(scores: NDArray[np.floating[Any]], relevant: NDArray[np.bool_]) -> dict[str, float]:
    """R@1, R@5, R@10, median rank (all of the best-ranked relevant entry) and mAP@10, over queries with any relevant.

    scores and relevant are [queries, gallery]. mAP@10 = mean over queries of (sum over relevant entries in the top ten
    of (their place among the relevant) / rank) / min(number relevant, 10).

    >>> metrics(np.array([[0.9, 0.1], [0.8, 0.2]]), np.eye(2, dtype=bool))["R@1"]
    0.5
    """
    asked = relevant.any(axis=1)
    rank = ranks(scores[asked])
    wanted = relevant[asked]
    best = np.where(wanted, rank, np.inf).min(axis=1)
    precision = []
    for row, hit in zip(rank, wanted, strict=True):
        found = np.sort(row[hit])
        places = np.arange(1, len(found) + 1)
        precision.append((places / found)[found <= 10].sum() / min(len(found), 10))
    return {
        "R@1": float((best <= 1).mean()),
        "R@5": float((best <= 5).mean()),
        "R@10": float((best <= 10).mean()),
        "median_rank": float(np.median(best)),
        "mAP@10": float(np.mean(precision)),
        "queries": int(asked.sum()),
        "gallery": scores.shape[1],
    }


def querybank_normalised(
    scores: NDArray[np.floating[Any]], bank: NDArray[np.floating[Any]], beta: float = 20.0
) -> NDArray[np.float64]:
    """QB-Norm with its dynamic inverted softmax (Bogolin et al., 2112.12777), as logarithms over beta, so that they
    compare with cosines: scores [queries, gallery] less what a bank of other queries, [bank, gallery], finds in each
    entry. A query whose best entry is no bank query's best is left as it is. One number for each gallery entry, so it
    works for one query at a time.

    >>> querybank_normalised(np.array([[0.9, 0.8]]), np.array([[0.9, 0.1]]), beta=1.0).round(2).tolist()
    [[0.0, 0.7]]
    """
    popular = np.zeros(scores.shape[1], dtype=bool)
    popular[bank.argmax(axis=1)] = True
    return np.where(popular[scores.argmax(axis=1)][:, None], scores - popularity(bank, beta), scores)


def popularity(bank: NDArray[np.floating[Any]], beta: float = 20.0) -> NDArray[np.floating[Any]]:
    """What a bank of queries finds in each entry of a gallery, [bank, gallery] -> [gallery]: the logarithm, over beta,
    of the sum of exp(beta score).
    """
    peak = bank.max(axis=0)
    return np.asarray(peak + np.log(np.exp(beta * (bank - peak)).sum(axis=0)) / beta)


def dual_softmax(scores: NDArray[np.floating[Any]], temperature: float = 0.01) -> NDArray[np.float64]:
    """Scores times their softmax over the queries (Cheng et al., 2109.04290). It needs every query at once, so it is no
    way to serve: to be reported apart.
    """
    raised = np.exp((scores - scores.max(axis=0)) / temperature)
    return np.asarray(scores * raised / raised.sum(axis=0))


@dataclass(frozen=True)
class Text:
    """A caption in the evaluation: its words, what it commits to, and the group it belongs to."""

    text: str
    states: dict[str, Any]
    group: str


def agrees(text: Text, row: Row) -> bool:
    """A caption is right for a clip of its own group, or for one that has every attribute it states."""
    if text.states:
        return all(row.metadata.get(k) == v for k, v in text.states.items())
    return text.group == row.group


def relevance(texts: list[Text], rows: list[Row]) -> NDArray[np.bool_]:
    """bool [texts, rows]."""
    return np.array([[agrees(t, row) for row in rows] for t in texts], dtype=bool).reshape(len(texts), len(rows))


@dataclass(frozen=True)
class Route:
    """Queries against a gallery: scores and relevant, [queries, gallery], what each of them is, and the gallery's
    vectors [gallery, dim].
    """

    name: str
    scores: NDArray[np.floating[Any]]
    relevant: NDArray[np.bool_]
    queries: list[Text] | list[Row]
    gallery: list[Text] | list[Row]
    vectors: NDArray[np.float32]


def texts_about(rows: list[Row], modality: str, every: bool) -> list[Text]:
    """Of each row the first caption about a modality, or every one. Captions of the same words and group count once,
    so that a set of ten classes has a gallery of ten texts.
    """
    found: dict[tuple[str, str], Text] = {}
    for row in rows:
        fitting = row.said_of(modality)
        for c in fitting if every else fitting[:1]:
            found.setdefault((c.text, row.group), Text(c.text, c.states, row.group))
    return list(found.values())


def evaluate(
    space: Embedder,
    clips: Clips,
    every_caption: bool = False,
    phrases: dict[str, list[str]] | None = None,
) -> list[Route]:
    """Every route over a set of clips. `phrases`, by group, take the place of the clips' own captions."""
    rows = {m: [int(i) for i in np.flatnonzero(clips.has[m])] for m in ("video", "audio")}
    arrays = {"video": clips.frames, "audio": clips.waveforms}
    vectors = {m: space.media(m, arrays[m], which) for m, which in rows.items() if which and m in space.modalities}
    subjects = {m: [clips.rows[i] for i in rows[m]] for m in vectors}
    out = []
    for m, media in vectors.items():
        if "text" not in space.modalities:
            break
        if phrases is None:
            texts = texts_about(subjects[m], m, every_caption)
        else:
            texts = [Text(said, {}, group) for group, each in phrases.items() for said in each]
        if texts:
            said = space.texts([t.text for t in texts])
            scores, right = said @ media.T, relevance(texts, subjects[m])
            out.append(Route(f"text-{m}", scores, right, texts, subjects[m], media))
            out.append(Route(f"{m}-text", scores.T, right.T, subjects[m], texts, said))
    for query, target in permutations(vectors, 2):
        groups = [np.array([row.group for row in subjects[m]]) for m in (query, target)]
        right = groups[0][:, None] == groups[1][None]
        scores = vectors[query] @ vectors[target].T
        out.append(Route(f"{query}-{target}", scores, right, subjects[query], subjects[target], vectors[target]))
    return out


def score(routes: list[Route]) -> dict[str, dict[str, float]]:
    return {route.name: metrics(route.scores, route.relevant) for route in routes if route.relevant.any()}


def stated_right(route: Route) -> dict[str, float]:
    """Of each attribute that queries of words state, how often the best hit has it."""
    right: dict[str, list[bool]] = {}
    for text, line in zip(route.queries, route.scores, strict=True):
        best = route.gallery[int(line.argmax())]
        if isinstance(text, Text) and isinstance(best, Row):
            for key, value in text.states.items():
                right.setdefault(key, []).append(best.metadata.get(key) == value)
    return {key: float(np.mean(found)) for key, found in right.items()}


def worst(route: Route, count: int) -> list[int]:
    """The queries whose best right answer ranks worst, worst first."""
    best = np.where(route.relevant, ranks(route.scores), np.inf).min(axis=1)
    missed = np.where(np.isfinite(best) & (best > 1), best, 0)
    return [int(i) for i in np.argsort(-missed, kind="stable")[:count] if missed[i]]


def gained(before: Route, after: Route, count: int) -> list[int]:
    """The queries that now find something right first and were furthest from it before, the furthest first."""
    was, now = (np.where(r.relevant, ranks(r.scores), np.inf).min(axis=1) for r in (before, after))
    further = np.where(np.isfinite(now) & (now == 1), was - now, 0)
    return [int(i) for i in np.argsort(-further, kind="stable")[:count] if further[i] > 0]


def measure(results: dict[str, dict[str, float]], name: str) -> float:
    """One number of the results by name: a route and a measure, or the "mean" of a measure over the routes with text.

    >>> measure({"text-video": {"R@1": 0.25}, "text-audio": {"R@1": 0.5}, "audio-video": {"R@1": 0.9}}, "mean R@1")
    0.375

    Raises:
        BadConfig: no such route between what the clips have, or no such measure.
    """
    route, _, what = name.partition(" ")
    if route != "mean":
        if what not in results.get(route, {}):
            raise BadConfig(f"{name!r} cannot be measured on clips that have {', '.join(results) or 'no route'}")
        return results[route][what]
    return float(np.mean([m[what] for r, m in results.items() if "text" in r]))


def table(results: dict[str, dict[str, float]]) -> str:
    """Results as lines a person can read."""
    head = f"{'route':14s} {'R@1':>6s} {'R@5':>6s} {'R@10':>6s} {'mAP@10':>7s} {'median':>7s} {'queries':>8s}"
    head += f" {'gallery':>8s}"
    lines = [
        f"{route:14s} {m['R@1']:6.3f} {m['R@5']:6.3f} {m['R@10']:6.3f} {m['mAP@10']:7.3f} {m['median_rank']:7.1f}"
        f" {m['queries']:8.0f} {m['gallery']:8.0f}"
        for route, m in results.items()
    ]
    return "\n".join([head, *lines])


def with_bank(space: Embedder, found: list[Route], bank: list[Row]) -> list[Route]:
    """The routes from words, normalised by the bank's captions about the same modality."""
    out = []
    for route in found:
        query, target = route.name.split("-")
        if query == "text" and (texts := texts_about(bank, target, every=True)):
            asked = space.texts([t.text for t in texts]) @ route.vectors.T
            out.append(replace(route, scores=querybank_normalised(route.scores, asked)))
    return out
