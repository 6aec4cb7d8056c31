"""Searches of every kind against a twin that compares everything, where many scores are equal."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from index.collection import Collection
from index.records.item import NewItem
from index.search import Answer, Options, TargetQuery, search
from index.search.order import GAP_S
from index.vectors.base import Vectors

from .makers import dims

# How many of its numbers are negative says where a vector points. No two of these are as far apart
# as two others, so that only the same two score the same.
DIM = 64
POINTS = (0, 3, 12, 30, 36, 51)
TARGETS = ("video", "audio")
WINDOW_S = 5.0

points = st.sampled_from(POINTS)
# Of each window, when it starts and where its vectors of either target point.
windows = st.tuples(st.sampled_from((0.0, 5.0, 10.0, 50.0)), st.none() | points, st.none() | points)
items = st.lists(st.lists(windows, min_size=1, max_size=3), min_size=1, max_size=12)
Film = list[tuple[float, int | None, int | None]]


@dataclass(frozen=True)
class Asked:
    """A search for points: one step after another, or each anywhere, in some targets."""

    steps: list[int]
    targets: tuple[str, ...]
    aggregate: str


asked = st.builds(
    Asked,
    steps=st.lists(points, min_size=1, max_size=2),
    targets=st.sampled_from((("video",), TARGETS, TARGETS[::-1])),
    aggregate=st.sampled_from(("moment", "item")),
)


def pointing(*points: int) -> Vectors:
    """Unit vectors [n, DIM]. Their products have no rounding, in whatever order they are summed."""
    negative = np.arange(DIM) < np.array(points)[:, None]
    return np.where(negative, -1, 1).astype(np.float32) / np.float32(math.sqrt(DIM))


def score_of(one: int, other: int) -> float:
    """The product of two of these vectors."""
    return 1.0 - 2.0 * abs(one - other) / DIM


def make_film(id: str, film: Film) -> NewItem:
    vectors = {}
    for place, target in enumerate(TARGETS, 1):
        which = [n for n, window in enumerate(film) if window[place] is not None]
        if which:
            vectors[target] = (which, pointing(*(film[n][place] or 0 for n in which)))
    return NewItem(
        id=id,
        kind="video",
        duration_s=60.0,
        windows=[(start_s, start_s + WINDOW_S) for start_s, *_ in film],
        vectors=vectors,
    )


def best_score(film: Film, query: Asked, target: str) -> float | None:
    """The mean of the best windows of a film, one for each step; None where it has none."""
    place = 1 + TARGETS.index(target)
    there = [(window[0], point) for window in film if (point := window[place]) is not None]
    found = []
    for chosen in product(there, repeat=len(query.steps)):
        gaps = [b[0] - a[0] - WINDOW_S for a, b in pairwise(chosen)]
        if query.aggregate == "item" or all(0.0 <= gap_s <= GAP_S for gap_s in gaps):
            each = zip(chosen, query.steps, strict=True)
            scores = [score_of(window[1], step) for window, step in each]
            found.append(sum(scores) / len(scores))
    return max(found, default=None)


def expected(films: dict[str, Film], query: Asked) -> list[tuple[str, float]]:
    """All hits and their scores, the best first: of equal ones that which a target finds by more,
    then that which was added first.
    """
    ranked = []
    for number, (id, film) in enumerate(films.items()):
        scores = [best_score(film, query, target) for target in query.targets]
        known = [score for score in scores if score is not None]
        if known:
            fused = 1.0 - math.prod(1.0 - min(max(score, 0.0), 1.0) for score in known)
            score = fused if len(scores) > 1 else known[0]
            ranked.append((-score, -max(known), number, id, score))
    return [(id, score) for *_, id, score in sorted(ranked)]


def ask(box: Collection, query: Asked, top_k: int, exact: bool) -> Answer:
    queries = []
    for target in query.targets:
        vectors = pointing(*query.steps)
        one = TargetQuery(target, vectors, (1.0,) * len(vectors))
        if query.aggregate == "moment":
            first, *others = [
                replace(one, vectors=vectors[n : n + 1], weights=(1.0,))
                for n in range(len(vectors))
            ]
            one = replace(first, following=tuple(others))
        queries.append(one)
    return search(box, queries, Options(top_k=top_k, exact=exact, aggregate=query.aggregate))


@contextmanager
def filled(films: dict[str, Film]) -> Iterator[Collection]:
    with TemporaryDirectory() as folder:
        box = Collection(Path(folder) / "box", "f1", dims(DIM))
        box.put([make_film(id, film) for id, film in films.items()])
        yield box
        box.close()


@settings(max_examples=25, deadline=None, phases=[Phase.generate])
@given(items, st.lists(asked, min_size=1, max_size=3))
def test_the_best_are_found_in_one_order_however_many_are_asked_for(
    films: list[Film], queries: list[Asked]
) -> None:
    """Few candidates are looked at, so that some are left out."""
    named = {f"i{n}": film for n, film in enumerate(films)}
    with pytest.MonkeyPatch.context() as patch, filled(named) as box:
        patch.setattr(sys.modules["index.search.retrieve"], "MIN_RERANK_CANDIDATES", 1)
        patch.setattr("index.search.order.MIN_CANDIDATES", 1)
        for query in queries:
            best = expected(named, query)
            for top_k, exact in product((1, 2, 20), (True, False)):
                answer = ask(box, query, top_k, exact)
                assert answer.plan.exact or not exact
                if answer.plan.exact:
                    assert [hit.id for hit in answer.hits] == [id for id, _ in best[:top_k]]
                    scores = [score for _, score in best[:top_k]]
                    assert np.allclose([hit.score for hit in answer.hits], scores, atol=1e-6)
