"""Retrieval, measured by the field's conventions (no torch here: it scores a checkpoint and a bundle alike).

Ranks are 1-based and ties get the average rank, so that a collapsed encoder scores chance and not 100 %.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .clips import Clips
from .config import MODALITIES
from .inputs.text import TextTokens

Embed = Callable[[str, NDArray[Any]], NDArray[np.float32]]


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


@dataclass(frozen=True)
class Text:
    """A caption in the evaluation: its words, the row it comes from, and what it says of any row."""

    text: str
    row: int
    states: dict[str, Any]
    group: str


@dataclass(frozen=True)
class Subject:
    """What relevance needs to know of a clip."""

    group: str
    metadata: dict[str, Any]


def agrees(text: Text, subject: Subject) -> bool:
    """A caption is right for a clip of its own group, or for one that has every attribute it states."""
    if text.states:
        return all(subject.metadata.get(k) == v for k, v in text.states.items())
    return text.group == subject.group


def relevance(texts: list[Text], subjects: list[Subject]) -> NDArray[np.bool_]:
    """bool [texts, subjects]."""
    return np.array([[agrees(t, s) for s in subjects] for t in texts], dtype=bool).reshape(len(texts), len(subjects))


def routes(
    vectors: dict[str, NDArray[np.float32]],
    rows: dict[str, list[int]],
    texts: dict[str, list[Text]],
    text_vectors: dict[str, NDArray[np.float32]],
    subjects: list[Subject],
) -> dict[str, dict[str, float]]:
    """Metrics of every route between the modalities at hand.

    vectors[m] float32 [n, dim] are the clips of modality m, rows[m] says which subject each is; texts[m] and
    text_vectors[m] are the captions about m.
    """
    out = {}
    for query, target in permutations(MODALITIES, 2):
        medium = target if query == "text" else query
        if "text" in (query, target):
            if not len(texts.get(medium, [])) or medium not in vectors:
                continue
            matrix = text_vectors[medium] @ vectors[medium].T
            right = relevance(texts[medium], [subjects[i] for i in rows[medium]])
            out[f"{query}-{target}"] = metrics(*((matrix, right) if query == "text" else (matrix.T, right.T)))
        elif query in vectors and target in vectors:
            groups = {m: np.array([subjects[i].group for i in rows[m]]) for m in (query, target)}
            right = groups[query][:, None] == groups[target][None]
            out[f"{query}-{target}"] = metrics(vectors[query] @ vectors[target].T, right)
    return out


def score(embed: Embed, tokens: TextTokens, clips: Clips, every_caption: bool = False) -> dict[str, dict[str, float]]:
    """Every route over a set of clips. Of each clip the first caption about a modality is used, or every one.

    Captions of the same words and group count once, so that a set of ten classes has a gallery of ten texts.
    """
    subjects = [Subject(row.group, row.metadata) for row in clips.rows]
    rows = {m: [int(i) for i in np.flatnonzero(clips.has[m])] for m in ("video", "audio")}
    arrays = {"video": clips.frames, "audio": clips.waveforms}
    vectors = {m: in_batches(embed, m, arrays[m], which) for m, which in rows.items() if which}
    texts: dict[str, list[Text]] = {}
    for m, which in rows.items():
        found: dict[tuple[str, str], Text] = {}
        for i in which:
            fitting = clips.rows[i].said_of(m)
            for c in fitting if every_caption else fitting[:1]:
                found.setdefault((c.text, clips.rows[i].group), Text(c.text, i, c.states, clips.rows[i].group))
        texts[m] = list(found.values())
    text_vectors = {m: embed("text", tokens([t.text for t in said])) for m, said in texts.items() if said}
    return routes(vectors, rows, texts, text_vectors, subjects)


def measure(results: dict[str, dict[str, float]], name: str) -> float:
    """One number of the results by name: a route and a measure, or the "mean" of a measure over the routes with text.

    >>> measure({"text-video": {"R@1": 0.2}, "text-audio": {"R@1": 0.4}, "audio-video": {"R@1": 0.9}}, "mean R@1")
    0.30000000000000004
    """
    route, _, what = name.partition(" ")
    if route != "mean":
        return results[route][what]
    return float(np.mean([m[what] for r, m in results.items() if "text" in r]))


def in_batches(
    embed: Embed, modality: str, array: NDArray[Any], rows: list[int], size: int = 32
) -> NDArray[np.float32]:
    wide = np.float32 if modality == "audio" else np.uint8
    return np.concatenate([embed(modality, array[rows[i : i + size]].astype(wide)) for i in range(0, len(rows), size)])


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
