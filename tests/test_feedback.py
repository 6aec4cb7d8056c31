"""Marks on hits, used in the next search, by worked-out values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from index.collection import Collection
from index.records.item import UnknownItem
from index.search import Answer, Feedback, Mark, Options, TargetQuery, search
from index.search.feedback import RIGHT, WRONG, move
from index.spread import measure_spread

from .makers import dims
from .test_search import item, turned


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Collection]:
    collection = Collection(tmp_path / "box", "f1", dims(2))
    yield collection
    collection.close()


def ask(box: Collection, right: tuple[Mark, ...] = (), wrong: tuple[Mark, ...] = ()) -> Answer:
    feedback = Feedback(right, wrong) if right or wrong else None
    return search(box, [TargetQuery("video", turned(0))], Options(feedback=feedback))


def test_marks_move_a_query(box: Collection) -> None:
    """Items at 40 and -40 degrees score the same, until one is marked."""
    box.put([item("up", 40.0), item("down", -41.0), item("far", 90.0, -90.0)])
    assert [hit.id for hit in ask(box).hits[:2]] == ["up", "down"]
    answer = ask(box, right=(Mark("down"),))
    assert [hit.id for hit in answer.hits[:2]] == ["down", "up"]
    # (1, 0) + 0.5 (cos 41, -sin 41)
    turn = math.radians(-41)
    x, y = 1 + RIGHT * math.cos(turn), RIGHT * math.sin(turn)
    score = (x * math.cos(turn) + y * math.sin(turn)) / math.hypot(x, y)
    assert answer.hits[0].score == pytest.approx(score)
    assert answer.hits[0].confidence is None and answer.good_match is None
    answer = ask(box, wrong=(Mark("up"),))
    scores = {hit.id: hit.score for hit in answer.hits}
    assert answer.hits[0].id == "down"
    turn = math.radians(40)
    x, y = 1 - WRONG * math.cos(turn), -WRONG * math.sin(turn)
    score = (x * math.cos(turn) + y * math.sin(turn)) / math.hypot(x, y)
    assert scores["up"] == pytest.approx(score)
    # the next search knows nothing of it
    assert [hit.id for hit in ask(box).hits[:2]] == ["up", "down"]


def test_a_mark_is_of_a_moment(box: Collection) -> None:
    """The item's windows point up and down. Without a second, the one nearest to the query."""
    box.put([item("both", 50.0, -60.0), item("up", 40.0), item("down", -40.0)])

    def best(mark: Mark) -> str:
        return next(hit.id for hit in ask(box, right=(mark,)).hits if hit.id != "both")

    assert best(Mark("both", 0.0)) == "up" and best(Mark("both", 5.0)) == "down"
    assert best(Mark("both")) == "up"


def test_what_has_no_window_of_the_target_says_nothing(box: Collection) -> None:
    box.put([item("up", 40.0), item("sound", 10.0, modality="audio")])
    before, after = ask(box), ask(box, right=(Mark("sound"),))
    assert after.hits == before.hits
    with pytest.raises(UnknownItem):
        ask(box, wrong=(Mark("absent"),))


def test_what_all_windows_share_counts_less() -> None:
    """Sixty vectors that vary along the first axis alone: there the spread is 2 of a trace of 2, so
    the level is 1 and the inverses are 1 / 5 and 1 / 3.
    """
    half = np.tile(np.array([[2**0.5, 1.0], [-(2**0.5), 1.0]], np.float32), (30, 1))
    spread = measure_spread(half)
    assert spread is not None
    assert np.allclose(spread.inverse, np.diag([1 / 5, 1 / 3]), atol=1e-6)
    assert np.allclose(spread.mean, [0, 1])
    plain = np.array([1.0, 0.0], np.float32)
    right = np.array([[1.0, 2.0]], np.float32)
    apart = np.array([1 / 5, 1 / 3]) / math.hypot(1 / 5, 1 / 3)
    moved = plain + RIGHT * apart  # the query itself lies on an axis, so dividing turns it nowhere
    expected = moved / np.linalg.norm(moved)
    assert np.allclose(move(plain, right, right[:0], spread), expected, atol=1e-6)
    assert (
        measure_spread(half[:10]) is None and measure_spread(np.ones((60, 2), np.float32)) is None
    )
