"""Ranks, metrics and relevance, worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evaluation.folds import cross_validate
from evaluation.report import write_report
from evaluation.retrieval import (
    Embedder,
    Gallery,
    GroupedCaption,
    Route,
    attribute_accuracy,
    build_routes,
    dual_softmax,
    find_gained,
    find_worst,
    querybank_normalised,
    ranking_metrics,
    ranks,
    relevance,
    summarise,
)
from media.manifest import Caption, Row


def test_ties_get_the_average_rank() -> None:
    assert ranks(np.array([[3.0, 1.0, 3.0, 2.0]])).tolist() == [[1.5, 4.0, 1.5, 3.0]]


@given(arrays(np.float64, (3, 7), elements=st.sampled_from([0.0, 0.5, 1.0])))
def test_ranks_add_up(scores: np.ndarray) -> None:  # type: ignore[type-arg]
    assert np.allclose(ranks(scores).sum(axis=1), 7 * 8 / 2)


def test_a_collapsed_encoder_scores_chance() -> None:
    result = ranking_metrics(np.ones((100, 100)), np.eye(100, dtype=bool))
    assert result["R@1"] == result["R@10"] == 0 and result["median_rank"] == 50.5


def test_metrics_by_hand() -> None:
    scores = np.array([[0.9, 0.8, 0.7], [0.1, 0.2, 0.3], [0.5, 0.4, 0.3]])
    # the third query has no right answer
    relevant = np.array([[0, 1, 1], [0, 0, 1], [0, 0, 0]], bool)
    result = ranking_metrics(scores, relevant)
    assert result["queries"] == 2 and result["gallery"] == 3
    assert result["R@1"] == 0.5 and result["R@5"] == 1.0 and result["median_rank"] == 1.5
    assert result["mAP@10"] == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1) / 2)


def row(name: str, **metadata: str) -> Row:
    return Row(id=name, path=None, captions=(), group=name, metadata=metadata)


def test_a_caption_is_right_for_whatever_it_describes() -> None:
    texts = [
        GroupedCaption("a red thing", {"colour": "red"}, "a"),
        GroupedCaption("a dog", {}, "dog"),
    ]
    rows = [row("a", colour="red"), row("b", colour="red"), row("dog", colour="blue")]
    assert relevance(texts, rows).tolist() == [[True, True, False], [False, False, True]]


def test_five_captions_a_clip() -> None:
    """AudioCaps and Clotho: each caption asks; a clip asked for captions is as good as its
    best-ranked one.
    """
    # one clip against six captions, five of them its own
    scores = np.array([[0.9, 0.2, 0.8, 0.1, 0.7, 0.6]])
    own = np.array([[True, True, True, True, True, False]])
    result = ranking_metrics(scores, own)
    assert result["R@1"] == 1.0
    assert result["mAP@10"] == pytest.approx((1 / 1 + 2 / 2 + 3 / 3 + 4 / 5 + 5 / 6) / 5)


def test_a_query_bank_lowers_what_everything_finds() -> None:
    """The first entry is every bank query's best, a hub. A query that finds it is normalised, and
    finds its own.
    """
    scores = np.array([[0.80, 0.78, 0.1], [0.1, 0.2, 0.9]])
    bank = np.array([[0.9, 0.3, 0.2], [0.8, 0.1, 0.3]])
    fair = querybank_normalised(scores, bank, beta=20.0)
    assert fair[0].argmax() == 1 and np.array_equal(fair[1], scores[1])
    assert fair[0, 1] == pytest.approx(0.78 - np.log(np.exp(6.0) + np.exp(2.0)) / 20)


def test_dual_softmax_gives_each_entry_to_one_query() -> None:
    scores = np.array([[0.9, 0.8], [0.85, 0.2]])
    assert dual_softmax(scores, temperature=0.1).argmax(axis=1).tolist() == [1, 0]


@pytest.mark.parametrize("other, joined", [("audio", True), ("depth", False)])
def test_only_pictures_and_sound_are_joined(other: str, joined: bool) -> None:
    """Whatever else a gallery has, target `any` is of these two."""
    rows = [replace(row(name), captions=(Caption(name),)) for name in ("a", "b")]
    vectors = np.eye(2, dtype=np.float32)
    gallery = Gallery(rows, vectors, np.arange(2), np.zeros(2, np.int64))
    space = Embedder(
        lambda modality, given: vectors[given[:, 0]], lambda texts: np.array([[0], [1]])
    )
    routes = build_routes(space, {"video": gallery, other: gallery})
    found = {one.name: one.scores for one in routes}
    expected = {
        f"{a}-{b}" for a in ("text", "video", other) for b in ("text", "video", other) if a != b
    }
    assert found.keys() == expected | ({"text-any"} if joined else set())
    assert all(np.allclose(scores, np.eye(2)) for scores in found.values())


@pytest.fixture
def route() -> Route:
    texts = [
        GroupedCaption("a red ball", {"colour": "red", "shape": "ball"}, "x"),
        GroupedCaption("a box", {"shape": "box"}, "y"),
    ]
    rows = [row("p", colour="red", shape="box"), row("q", colour="red", shape="ball")]
    scores = np.array([[0.9, 0.1], [0.9, 0.1]])
    return Route(
        "text-video",
        scores,
        relevance(texts, rows),
        texts,
        rows,
        np.eye(2, dtype=np.float32),
        np.arange(2),
    )


def test_what_is_stated_and_what_fails(route: Route) -> None:
    assert attribute_accuracy(route) == {"colour": 1.0, "shape": 0.5}
    assert find_worst(route, 5) == [0]
    assert summarise([route])["text-video"]["R@1"] == 0.5


def test_the_report_shows_what_fails(route: Route, tmp_path: Path) -> None:
    page = write_report([route], tmp_path).read_text("utf-8")
    assert "a red ball" in page and "expected, rank 2" in page and "a box" not in page


def test_the_report_shows_what_training_has_brought(route: Route, tmp_path: Path) -> None:
    """Before, the second text found the wrong row and the first
    the right one; after, each its own.
    """
    after = replace(route, scores=np.array([[0.1, 0.9], [0.9, 0.1]]))
    before = replace(route, scores=np.array([[0.1, 0.9], [0.1, 0.9]]))
    assert find_gained(before, after, 5) == [1] and find_gained(after, after, 5) == []
    page = write_report([after], tmp_path, before=[before]).read_text("utf-8")
    assert (
        "found before training" in page
        and "expected, then at rank 2" in page
        and "Every best hit is right" in page
    )
    assert page.count("<table>") == 2


def test_a_map_behind_a_frozen_encoder_is_fitted_for_each_fold() -> None:
    """Sounds lie where the texts of other groups lie: as they are, none is nearest to its own. In
    the fifth fold two of the four have changed places, which no map of the others can know.
    """
    texts = np.eye(4, 6, dtype=np.float32)
    turned = np.roll(texts, 1, axis=0)
    rows, vectors = [], []
    for fold in range(1, 6):
        for group in range(4):
            place = {0: 1, 1: 0}.get(group, group) if fold == 5 else group
            vectors.append(turned[place])
            said = (Caption(f"text {group}"),)
            name = f"{fold}-{group}"
            rows.append(
                Row(id=name, path=None, captions=said, group=str(group), metadata={}, fold=fold)
            )
    space = Embedder(
        lambda modality, ids: texts[ids[:, 0]],
        lambda said: np.array([[int(text[-1])] for text in said]),
    )
    owners = np.arange(20)
    gallery = Gallery(rows, np.array(vectors, np.float32), owners, np.zeros(20, np.int64))
    found = cross_validate(space, gallery)
    right = {f"fold {fold}": 1.0 for fold in range(1, 5)}
    assert found == right | {"fold 5": 0.5, "mean": pytest.approx(0.9)}
    alone = [replace(row, fold=None) for row in rows]
    assert cross_validate(space, replace(gallery, rows=alone)) == {}
