"""Several things in one item: sequences by worked-out values, and against trying all of them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from export.bundle import Joint
from index.calibration import Calibration
from index.collection import Collection
from index.commands.search import add_parser, encode_query
from index.records.item import NewItem
from index.records.window_table import Place
from index.search import Answer, Options, TargetQuery, search
from index.search.order import GAP_S, find_sequence
from service import schemas

from .makers import FakeEncoder, dims
from .test_search import turned

FIRST, SECOND = 0.0, 90.0


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Collection]:
    collection = Collection(tmp_path / "box", "f1", dims(2))
    yield collection
    collection.close()


def film(
    id: str, *degrees: float, starts: list[float] | None = None, kind: str = "video"
) -> NewItem:
    """Windows of five seconds, one after another or at the given starts."""
    starts = starts or [5.0 * n for n in range(len(degrees))]
    return NewItem(
        id=id,
        kind=kind,
        duration_s=starts[-1] + 5.0,
        windows=[(start, start + 5.0) for start in starts],
        vectors={kind: (list(range(len(degrees))), turned(*degrees))},
    )


def one_after_another(*degrees: float, target: str | Joint = "video") -> TargetQuery:
    first, *others = [TargetQuery(target, turned(angle)) for angle in degrees]
    return replace(first, following=tuple(others))


def ask(box: Collection, *degrees: float, **options: object) -> Answer:
    return search(box, [one_after_another(*degrees)], Options(**options))  # type: ignore[arg-type]


def test_the_order_decides(box: Collection) -> None:
    box.put([film("ab", FIRST, SECOND), film("ba", SECOND, FIRST)])
    answer = ask(box, FIRST, SECOND)
    assert [hit.id for hit in answer.hits] == ["ab", "ba"]
    best, other = answer.hits
    assert best.score == pytest.approx(1.0) and other.score == pytest.approx(0.0, abs=1e-6)
    assert [(moment.start_s, moment.end_s) for moment in best.moments] == [(0, 5), (5, 10)]
    assert (best.start_s, best.end_s) == (0.0, 10.0)
    assert best.parts == [pytest.approx(0.5), pytest.approx(0.5)]
    assert best.scores == {"video": pytest.approx(1.0)}
    assert [hit.id for hit in ask(box, SECOND, FIRST).hits] == ["ba", "ab"]
    assert answer.plan.exact and answer.plan.candidates == 4 and answer.plan.compared == 8


def test_one_moment_alone_is_no_order(box: Collection) -> None:
    box.put([film("one", 45.0), film("two", 60.0, 30.0)])
    assert [hit.id for hit in ask(box, FIRST, SECOND).hits] == ["two"]
    assert ask(box, FIRST, SECOND, FIRST).hits == []
    assert ask(box, FIRST, SECOND, min_score=0.99).hits == []


def test_the_next_moment_is_a_neighbour(box: Collection) -> None:
    """It begins when the one before has ended, and half a minute later at most."""
    near, far = 5.0 + GAP_S, 5.0 + GAP_S + 1.0
    box.put([film("near", FIRST, SECOND, starts=[0.0, near])])
    box.put([film("far", FIRST, SECOND, starts=[0.0, far])])
    box.put([film("both at once", FIRST, SECOND, starts=[0.0, 4.0])])
    (hit,) = ask(box, FIRST, SECOND).hits
    assert hit.id == "near" and [m.start_s for m in hit.moments] == [0.0, near]


def test_three_steps_and_parts_with_weights(box: Collection) -> None:
    box.put([film("aba", FIRST, SECOND, FIRST), film("aab", FIRST, FIRST, SECOND)])
    assert [hit.id for hit in ask(box, FIRST, SECOND, FIRST).hits] == ["aba", "aab"]
    # first what is like the first axis and not the second: (3 * 1 - 1 * 0) / 4
    step = TargetQuery("video", turned(FIRST, SECOND), (3.0, -1.0))
    query = replace(step, following=(TargetQuery("video", turned(SECOND)),))
    hit = search(box, [query]).hits[0]
    assert hit.score == pytest.approx((0.75 + 1.0) / 2)
    assert hit.parts == [pytest.approx(0.375), pytest.approx(0.0, abs=1e-6), pytest.approx(0.5)]


def test_pictures_and_sound_together(box: Collection) -> None:
    """The first window is heard, the second seen."""
    windows = [(0.0, 5.0), (5.0, 10.0)]
    vectors = {"audio": ([0], turned(FIRST)), "video": ([1], turned(SECOND))}
    box.put([NewItem(id="a", kind="video", duration_s=10.0, windows=windows, vectors=vectors)])
    joint = Joint("video", "audio", 0.5)
    query = replace(
        one_after_another(FIRST, SECOND, target=joint), comparable=("video", "audio", joint)
    )
    (hit,) = search(box, [query], Options(target_name="any")).hits
    assert hit.score == pytest.approx(1.0) and hit.target == "any"
    assert hit.scores == {}


def test_it_looks_wider_until_nothing_can_be_missed(box: Collection) -> None:
    """Hundreds of films have one of the two things exactly. One has both, a little off."""
    box.put([film(f"a{n}", FIRST, FIRST) for n in range(300)])
    box.put([film(f"b{n}", SECOND, SECOND) for n in range(300)])
    box.put([film("both", 10.0, 80.0)])
    assert [hit.id for hit in ask(box, FIRST, SECOND, top_k=1).hits] == ["both"]


def test_a_sequence_is_as_sure_as_its_least_sure_step(
    box: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.put([film("a", FIRST, 60.0)])
    calibration = Calibration(typical=0.0, non_match=0.5, good=1.0)
    stats = type("Stats", (), {"calibration": calibration})
    monkeypatch.setattr(box, "route_stats", lambda *_: stats)
    answer = ask(box, FIRST, FIRST)
    # the second step finds a cosine of 0.5, which half of all non-matches reach
    assert answer.hits[0].confidence == pytest.approx(0.5) and answer.good_match is False
    assert answer.hits[0].score == pytest.approx(0.75)


def test_the_best_sequence_against_trying_all() -> None:
    random = np.random.default_rng(3)
    for _ in range(200):
        count, steps = int(random.integers(1, 7)), int(random.integers(2, 4))
        starts = np.sort(random.integers(0, 60, count)).astype(float)
        places = [
            Place(n, s, s + float(random.integers(0, 12)), False) for n, s in enumerate(starts)
        ]
        scores = random.random((steps, count))

        def follows(before: int, after: int, places: list[Place] = places) -> bool:
            gap_s = places[after].start_s - places[before].end_s
            return before != after and -1e-6 <= gap_s <= GAP_S + 1e-6

        every = [
            at
            for at in product(range(count), repeat=steps)
            if all(follows(at[k], at[k + 1]) for k in range(steps - 1))
        ]
        found = find_sequence(places, scores)
        if not every:
            assert found == []
            continue
        best = max(sum(scores[k, i] for k, i in enumerate(at)) for at in every)
        assert tuple(found) in every
        assert sum(scores[k, i] for k, i in enumerate(found)) == pytest.approx(best)


def ask_together(box: Collection, *degrees: float, **options: object) -> Answer:
    """A query of parts of equal weight, each with its own window."""
    weights = options.pop("weights", (1.0,) * len(degrees))
    query = TargetQuery("video", turned(*degrees), weights)  # type: ignore[arg-type]
    return search(box, [query], Options(aggregate="item", **options))  # type: ignore[arg-type]


def test_all_parts_must_occur_in_an_item(box: Collection) -> None:
    """One window between both is nearest to their mean, and has neither."""
    box.put([film("both", SECOND, FIRST), film("between", 45.0), film("one", FIRST, FIRST)])
    assert (
        search(box, [TargetQuery("video", turned(FIRST, SECOND), (1.0, 1.0))], Options()).hits[0].id
        == "between"
    )
    answer = ask_together(box, FIRST, SECOND)
    assert [hit.id for hit in answer.hits] == ["both", "between", "one"]
    best = answer.hits[0]
    assert best.score == pytest.approx(1.0)
    assert [(moment.start_s, moment.end_s) for moment in best.moments] == [(5, 10), (0, 5)]
    assert best.parts == [pytest.approx(0.5), pytest.approx(0.5)]
    assert (best.end_s - best.start_s) == 5.0
    weighed = ask_together(box, FIRST, SECOND, weights=(3.0, 1.0))
    assert {hit.id: hit.score for hit in weighed.hits}["one"] == pytest.approx(0.75, abs=1e-6)
    assert ask_together(box, FIRST, SECOND, min_score=0.9).hits[0].id == "both"
    assert len(ask_together(box, FIRST, SECOND, min_score=0.9).hits) == 1


def test_parts_are_found_in_items_that_lack_a_target(box: Collection) -> None:
    box.put([film("seen", SECOND, FIRST), film("heard", 30.0, SECOND, kind="audio")])
    queries = [
        TargetQuery(target, turned(FIRST, SECOND), (1.0, 1.0)) for target in ("video", "audio")
    ]
    answer = search(box, queries, Options(aggregate="item"))
    assert [(hit.id, hit.target) for hit in answer.hits] == [("seen", "video"), ("heard", "audio")]
    both = (1.0 + np.cos(np.radians(30.0))) / 2
    assert [hit.score for hit in answer.hits] == [pytest.approx(1.0), pytest.approx(both)]


def test_no_item_with_all_parts_is_missed(box: Collection) -> None:
    box.put([film(f"a{n}", FIRST, FIRST) for n in range(300)])
    box.put([film(f"b{n}", SECOND, SECOND) for n in range(300)])
    box.put([film("both", 10.0, 80.0)])
    assert [hit.id for hit in ask_together(box, FIRST, SECOND, top_k=1).hits] == ["both"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"parts": [{"text": "a"}, {"text": "b", "then": True}]},
        {"parts": [{"text": "a"}, {"text": "b", "weight": -0.5}]},
        {"parts": [{"text": "a"}, {"text": "b"}], "feedback": {"right": [{"id": "i"}]}},
    ],
)
def test_what_does_not_go_with_parts_by_themselves(wrong: dict[str, Any]) -> None:
    request = {"targets": ["any"], **wrong}
    schemas.ComposedSearch.model_validate(request)
    with pytest.raises(ValidationError, match="aggregate"):
        schemas.ComposedSearch.model_validate(request | {"aggregate": "item"})


def test_a_command_counts_the_known_words_of_every_step() -> None:
    """As the service does: half of the second step's words are known."""
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    asked = [
        "search",
        "--data",
        "d",
        "--text",
        "red",
        "--then",
        "green собака",
        "--target",
        "video",
    ]
    query = encode_query(parser.parse_args(asked), FakeEncoder())  # type: ignore[arg-type]
    assert query.known_share == 0.5 and len(query.aims[0].following) == 1
    assert any("собака" in warning for warning in query.warnings)
    with pytest.raises(SystemExit):  # over HTTP, they are refused together, too
        parser.parse_args([*asked, "--rerank", "gram"])


def test_steps_and_parts_by_themselves_have_one_order() -> None:
    parts = [{"text": "red"}, {"text": "green"}]
    request = {"parts": parts, "targets": ["any"], "rerank": "gram"}
    schemas.ComposedSearch.model_validate(request)
    for wrong in ({"aggregate": "item"}, {"parts": [parts[0], {**parts[1], "then": True}]}):
        with pytest.raises(ValidationError, match="`rerank` goes with neither"):
            schemas.ComposedSearch.model_validate(request | wrong)
