"""Ranks, metrics and relevance, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.evaluate import Subject, Text, metrics, ranks, relevance, routes


def test_ties_get_the_average_rank() -> None:
    assert ranks(np.array([[3.0, 1.0, 3.0, 2.0]])).tolist() == [[1.5, 4.0, 1.5, 3.0]]


@given(arrays(np.float64, (3, 7), elements=st.sampled_from([0.0, 0.5, 1.0])))
def test_ranks_add_up(scores: np.ndarray) -> None:  # type: ignore[type-arg]
    assert np.allclose(ranks(scores).sum(axis=1), 7 * 8 / 2)


def test_a_collapsed_encoder_scores_chance() -> None:
    result = metrics(np.ones((100, 100)), np.eye(100, dtype=bool))
    assert result["R@1"] == result["R@10"] == 0 and result["median_rank"] == 50.5


def test_metrics_by_hand() -> None:
    scores = np.array([[0.9, 0.8, 0.7], [0.1, 0.2, 0.3], [0.5, 0.4, 0.3]])
    relevant = np.array([[0, 1, 1], [0, 0, 1], [0, 0, 0]], bool)  # the third query has no right answer
    result = metrics(scores, relevant)
    assert result["queries"] == 2 and result["gallery"] == 3
    assert result["R@1"] == 0.5 and result["R@5"] == 1.0 and result["median_rank"] == 1.5
    assert result["mAP@10"] == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1) / 2)


def test_a_caption_is_right_for_whatever_it_describes() -> None:
    texts = [Text("a red thing", 0, {"colour": "red"}, "a"), Text("a dog", 1, {}, "dog")]
    subjects = [Subject("a", {"colour": "red"}), Subject("b", {"colour": "red"}), Subject("dog", {"colour": "blue"})]
    assert relevance(texts, subjects).tolist() == [[True, True, False], [False, False, True]]


def test_every_route_is_measured() -> None:
    eye = np.eye(3, dtype=np.float32)
    subjects = [Subject(str(i), {}) for i in range(3)]
    texts = [Text(f"t{i}", i, {}, str(i)) for i in range(3)]
    both = {"video": eye, "audio": eye}
    rows = {"video": [0, 1, 2], "audio": [0, 1, 2]}
    found = routes(both, rows, {"video": texts, "audio": texts}, both, subjects)
    assert set(found) == {"video-audio", "video-text", "audio-video", "audio-text", "text-video", "text-audio"}
    assert all(m["R@1"] == 1.0 for m in found.values())
