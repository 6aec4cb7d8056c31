"""Measures retrieval by the field's conventions, of a checkpoint or of a bundle. No torch here.

Ranks are 1-based and ties get the average rank, so that a collapsed encoder scores chance and not
100 %.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from media.errors import BadConfig
from media.manifest import Row
from media.modality import AUDIO, MODALITIES, MODALITY_TABLE, RECORDED, TEXT, VIDEO
from media.windows import InputSpecs

from .clips import Clips, decode_rows

# Joint vectors [n, dim] of any length, of windows: from the vectors of their pictures and of their
# sound, [n, dim] each with zeros where there is none, and which have both, bool [n].
Join = Callable[[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]], NDArray[np.float32]]


@dataclass(frozen=True)
class Embedder:
    """What is evaluated, an embedding space: `embed(modality, raw arrays [n, ...])` gives unit
    vectors [n, dim] of the modalities it holds, `tokens(texts)` the ids that it takes for texts.
    """

    embed: Callable[[str, NDArray[Any]], NDArray[np.float32]]
    tokens: Callable[[list[str]], NDArray[np.int64]]
    modalities: tuple[str, ...] = MODALITIES
    join: Join | None = None  # pictures and sound of windows; without it both weigh the same

    def texts(self, texts: list[str], size: int = 64) -> NDArray[np.float32]:
        pages = [self.tokens(texts[at : at + size]) for at in range(0, len(texts), size)]
        return np.concatenate([self.embed(TEXT, page) for page in pages])

    def media(
        self, modality: str, array: NDArray[Any], rows: list[int], size: int = 32
    ) -> NDArray[np.float32]:
        """The vectors of some rows of stored frames or waveforms."""
        dtype = MODALITY_TABLE[modality].dtype
        pages = [array[rows[at : at + size]].astype(dtype) for at in range(0, len(rows), size)]
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


def ranking_metrics(
    scores: NDArray[np.floating[Any]], relevant: NDArray[np.bool_]
) -> dict[str, float]:
    """R@1, R@5, R@10, median rank (all of the best-ranked relevant entry) and mAP@10, over queries
    with any relevant.

    scores and relevant are [queries, gallery]. mAP@10 = mean over queries of (sum over relevant
    entries in the top ten of (their place among the relevant) / rank) / min(number relevant, 10).

    >>> ranking_metrics(np.array([[0.9, 0.1], [0.8, 0.2]]), np.eye(2, dtype=bool))["R@1"]
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
    """QB-Norm with its dynamic inverted softmax (Bogolin et al., 2112.12777), as logarithms over
    beta, so that they compare with cosines: scores [queries, gallery] less what a bank of other
    queries, [bank, gallery], finds in each entry. A query whose best entry is no bank query's best
    is left as it is. One number for each gallery entry, so it works for one query at a time.

    >>> scores, bank_scores = np.array([[0.9, 0.8]]), np.array([[0.9, 0.1]])
    >>> querybank_normalised(scores, bank_scores, beta=1.0).round(2).tolist()
    [[0.0, 0.7]]
    """
    popular = np.zeros(scores.shape[1], dtype=bool)
    popular[bank.argmax(axis=1)] = True
    return np.where(
        popular[scores.argmax(axis=1)][:, None], scores - popularity(bank, beta), scores
    )


def popularity(bank: NDArray[np.floating[Any]], beta: float = 20.0) -> NDArray[np.floating[Any]]:
    """What a bank of queries finds in each entry of a gallery, [bank, gallery] -> [gallery]: the
    logarithm, over beta, of the sum of exp(beta score).
    """
    peak = bank.max(axis=0)
    return np.asarray(peak + np.log(np.exp(beta * (bank - peak)).sum(axis=0)) / beta)


def dual_softmax(
    scores: NDArray[np.floating[Any]], temperature: float = 0.01
) -> NDArray[np.float64]:
    """Scores times their softmax over the queries (Cheng et al., 2109.04290). It needs every query
    at once, so it is no way to serve: to be reported apart.
    """
    raised = np.exp((scores - scores.max(axis=0)) / temperature)
    return np.asarray(scores * raised / raised.sum(axis=0))


@dataclass(frozen=True)
class GroupedCaption:
    """A caption in the evaluation: its words, what it commits to, and the group it belongs to."""

    text: str
    states: dict[str, Any]
    group: str


def is_relevant(text: GroupedCaption, row: Row) -> bool:
    """A caption is right for a clip of its own group, or for one that has every attribute it
    states.
    """
    if text.states:
        return all(row.metadata.get(k) == v for k, v in text.states.items())
    return text.group == row.group


def relevance(texts: list[GroupedCaption], rows: list[Row]) -> NDArray[np.bool_]:
    """bool [texts, rows]."""
    return np.array([[is_relevant(t, row) for row in rows] for t in texts], dtype=bool).reshape(
        len(texts), len(rows)
    )


@dataclass(frozen=True)
class Gallery:
    """What items have of one modality: unit vectors [n, dim] of their windows. `owners` [n],
    ascending, says which of `rows` each window belongs to, and `windows` [n] which window of that
    row it is.
    """

    rows: list[Row]
    vectors: NDArray[np.float32]
    owners: NDArray[np.int64]
    windows: NDArray[np.int64]

    @property
    def items(self) -> list[Row]:
        """The rows that have any window, in their order."""
        return [self.rows[i] for i in np.unique(self.owners)]

    @property
    def entries(self) -> NDArray[np.int64]:
        """The place in `items` that each window belongs to, [n]."""
        return np.unique(self.owners, return_inverse=True)[1].astype(np.int64)

    def directions(self) -> NDArray[np.float32]:
        """Each item as a query [items, dim]: the mean of its windows, unit length."""
        sums = np.add.reduceat(self.vectors, first_places(self.entries))
        return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True), np.float32)


def first_places(entries: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each run of equal numbers begins.

    >>> first_places(np.array([0, 0, 1, 2, 2])).tolist()
    [0, 2, 3]
    """
    return np.flatnonzero(np.diff(entries, prepend=-1))


def best_of_windows(
    scores: NDArray[np.floating[Any]], entries: NDArray[np.int64]
) -> NDArray[np.floating[Any]]:
    """Scores [queries, windows] -> [queries, items]: an item scores what its best window does.

    >>> best_of_windows(np.array([[0.1, 0.4, 0.3]]), np.array([0, 0, 1])).tolist()
    [[0.4, 0.3]]
    """
    return np.asarray(np.maximum.reduceat(scores, first_places(entries), axis=1))


def add_equally(
    video: NDArray[np.float32], audio: NDArray[np.float32], has_both: NDArray[np.bool_]
) -> NDArray[np.float32]:
    return video + audio


def weigh_sound(weight: float) -> Join:
    """Joint vectors in which the sound weighs the same everywhere."""

    def join(
        video: NDArray[np.float32], audio: NDArray[np.float32], has_both: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        return video + np.float32(weight) * audio

    return join


def join_galleries(video: Gallery, audio: Gallery, join: Join) -> Gallery:
    """Each window as its pictures and sound together, or as the one of them that it has."""
    keys = [
        list(zip(one.owners.tolist(), one.windows.tolist(), strict=True)) for one in (video, audio)
    ]
    every = sorted({*keys[0], *keys[1]})
    places = {key: i for i, key in enumerate(every)}
    has = np.zeros((2, len(every)), bool)
    parts = np.zeros((2, len(every), video.vectors.shape[1]), np.float32)
    for side, one in enumerate((video, audio)):
        rows = [places[key] for key in keys[side]]
        has[side, rows] = True
        parts[side, rows] = one.vectors
    sums = join(parts[0], parts[1], has[0] & has[1])
    vectors = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    owners, windows = np.array(every, np.int64).T
    return Gallery(video.rows, vectors, owners, windows)


def embed_first_windows(space: Embedder, clips: Clips) -> dict[str, Gallery]:
    """The first window of each clip, by modality."""
    found = {}
    for modality, array in clips.arrays.items():
        owners = np.flatnonzero(clips.has[modality]).astype(np.int64)
        if len(owners) and modality in space.modalities:
            vectors = space.media(modality, array, owners.tolist())
            found[modality] = Gallery(clips.rows, vectors, owners, np.zeros(len(owners), np.int64))
    return found


def embed_every_window(space: Embedder, rows: list[Row], specs: InputSpecs) -> dict[str, Gallery]:
    """All windows of each readable row, by modality. Rows that cannot be read are named and left
    out.
    """
    vectors: dict[str, list[NDArray[np.float32]]] = {name: [] for name in RECORDED}
    places: dict[str, list[tuple[int, int]]] = {name: [] for name in RECORDED}
    for i, media in enumerate(decode_rows(rows, specs)):
        if isinstance(media, str):
            tqdm.write(f"left out {rows[i].id}: {media}", file=sys.stderr)
            continue
        for modality, part in media.items():
            if modality in space.modalities:
                vectors[modality].append(
                    space.media(modality, part.array, list(range(len(part.array))))
                )
                places[modality] += [(i, window) for window in part.windows]
    found = {}
    for modality, pages in vectors.items():
        if pages:
            owners, windows = np.array(places[modality], np.int64).T
            found[modality] = Gallery(rows, np.concatenate(pages), owners, windows)
    return found


@dataclass(frozen=True)
class Route:
    """Queries against a gallery: scores and relevant, [queries, gallery], and what each of them is.
    `vectors` [n, dim] are those of the gallery's windows or texts, `entries` [n] the gallery's
    entry that each belongs to.
    """

    name: str
    scores: NDArray[np.floating[Any]]
    relevant: NDArray[np.bool_]
    queries: list[GroupedCaption] | list[Row]
    gallery: list[GroupedCaption] | list[Row]
    vectors: NDArray[np.float32]
    entries: NDArray[np.int64]


def select_captions(rows: list[Row], modality: str, every: bool) -> list[GroupedCaption]:
    """Of each row the first caption about a modality ("any": about whichever), or every one.
    Captions of the same words and group count once, so that a set of ten classes has a gallery of
    ten texts.
    """
    found: dict[tuple[str, str], GroupedCaption] = {}
    for row in rows:
        fitting = list(row.captions) if modality == "any" else row.captions_about(modality)
        for c in fitting if every else fitting[:1]:
            found.setdefault((c.text, row.group), GroupedCaption(c.text, c.states, row.group))
    return list(found.values())


def build_routes(
    space: Embedder,
    galleries: dict[str, Gallery],
    every_caption: bool = False,
    phrases: dict[str, list[str]] | None = None,
) -> list[Route]:
    """Every route over galleries by modality; where there are pictures and sound, text-any over
    their joint vectors, too. An item scores what its best window does. `phrases`, by group, take
    the place of the items' own captions.
    """
    out = []
    targets = dict(galleries)
    if {VIDEO, AUDIO} <= galleries.keys():
        targets["any"] = join_galleries(
            galleries[VIDEO], galleries[AUDIO], space.join or add_equally
        )
    for name, gallery in targets.items():
        if TEXT not in space.modalities:
            break
        if phrases is None:
            texts = select_captions(gallery.items, name, every_caption)
        else:
            texts = [
                GroupedCaption(said, {}, group) for group, each in phrases.items() for said in each
            ]
        if not texts:
            continue
        said = space.texts([t.text for t in texts])
        scores = best_of_windows(said @ gallery.vectors.T, gallery.entries)
        right = relevance(texts, gallery.items)
        out.append(
            Route(
                f"text-{name}",
                scores,
                right,
                texts,
                gallery.items,
                gallery.vectors,
                gallery.entries,
            )
        )
        if name != "any":
            every = np.arange(len(texts))
            out.append(Route(f"{name}-text", scores.T, right.T, gallery.items, texts, said, every))
    for query, target in permutations(galleries, 2):
        asking, asked = galleries[query], galleries[target]
        groups = [np.array([row.group for row in gallery.items]) for gallery in (asking, asked)]
        right = groups[0][:, None] == groups[1][None]
        scores = best_of_windows(asking.directions() @ asked.vectors.T, asked.entries)
        name = f"{query}-{target}"
        out.append(
            Route(name, scores, right, asking.items, asked.items, asked.vectors, asked.entries)
        )
    return out


def build_first_window_routes(space: Embedder, clips: Clips) -> list[Route]:
    return build_routes(space, embed_first_windows(space, clips))


def collect_vectors(
    galleries: dict[str, Gallery], routes: list[Route]
) -> dict[str, NDArray[np.float32]]:
    """The vectors [n, dim] of an evaluation by modality, those of the words among them."""
    found = {modality: gallery.vectors for modality, gallery in galleries.items()}
    words = [route.vectors for route in routes if route.name.endswith(f"-{TEXT}")]
    return found | {TEXT: np.concatenate(words)} if words else found


def summarise(routes: list[Route]) -> dict[str, dict[str, float]]:
    return {
        route.name: ranking_metrics(route.scores, route.relevant)
        for route in routes
        if route.relevant.any()
    }


def attribute_accuracy(route: Route) -> dict[str, float]:
    """Of each attribute that queries of words state, how often the best hit has it."""
    right: dict[str, list[bool]] = {}
    for text, line in zip(route.queries, route.scores, strict=True):
        best = route.gallery[int(line.argmax())]
        if isinstance(text, GroupedCaption) and isinstance(best, Row):
            for key, value in text.states.items():
                right.setdefault(key, []).append(best.metadata.get(key) == value)
    return {key: float(np.mean(found)) for key, found in right.items()}


def find_worst(route: Route, count: int) -> list[int]:
    """The queries whose best right answer ranks worst, worst first."""
    best = np.where(route.relevant, ranks(route.scores), np.inf).min(axis=1)
    missed = np.where(np.isfinite(best) & (best > 1), best, 0)
    return [int(i) for i in np.argsort(-missed, kind="stable")[:count] if missed[i]]


def find_gained(before: Route, after: Route, count: int) -> list[int]:
    """The queries that now find something right first and were furthest from it before, the
    furthest first.
    """
    was, now = (np.where(r.relevant, ranks(r.scores), np.inf).min(axis=1) for r in (before, after))
    further = np.where(np.isfinite(now) & (now == 1), was - now, 0)
    return [int(i) for i in np.argsort(-further, kind="stable")[:count] if further[i] > 0]


def select_metric(results: dict[str, dict[str, float]], name: str) -> float:
    """One number of the results by name: a route and a measure, or the "mean" of a measure over the
    routes with text.

    >>> by_route = {"text-video": 0.25, "text-audio": 0.5, "audio-video": 0.9}
    >>> select_metric({route: {"R@1": value} for route, value in by_route.items()}, "mean R@1")
    0.375

    Raises:
        BadConfig: no such route between what the clips have, or no such measure.
    """
    route, _, what = name.partition(" ")
    if route != "mean":
        if what not in results.get(route, {}):
            raise BadConfig(
                f"{name!r} cannot be measured on clips that have {', '.join(results) or 'no route'}"
            )
        return results[route][what]
    return float(
        np.mean([m[what] for r, m in results.items() if TEXT in r and not r.endswith("-any")])
    )


def format_table(results: dict[str, dict[str, float]]) -> str:
    """Results as lines a person can read."""
    head = f"{'route':14s} {'R@1':>6s} {'R@5':>6s} {'R@10':>6s} {'mAP@10':>7s}"
    head += f" {'median':>7s} {'queries':>8s} {'gallery':>8s}"
    lines = [
        f"{route:14s} {m['R@1']:6.3f} {m['R@5']:6.3f} {m['R@10']:6.3f} {m['mAP@10']:7.3f} "
        f"{m['median_rank']:7.1f}"
        f" {m['queries']:8.0f} {m['gallery']:8.0f}"
        for route, m in results.items()
    ]
    return "\n".join([head, *lines])


def normalise_by_bank(space: Embedder, found: list[Route], bank: list[Row]) -> list[Route]:
    """The routes from words, normalised by the bank's captions about the same modality."""
    out = []
    for route in found:
        query, target = route.name.split("-")
        if query == TEXT and (texts := select_captions(bank, target, every=True)):
            asked = best_of_windows(
                space.texts([t.text for t in texts]) @ route.vectors.T, route.entries
            )
            out.append(replace(route, scores=querybank_normalised(route.scores, asked)))
    return out
