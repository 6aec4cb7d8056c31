"""The parts of a search by worked-out values: queries, moments, wider tries, fused targets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.bundle import Joint, Route
from index.calibration import Calibration, RouteStats
from index.collection import Collection
from index.ingest.passages import add_passages
from index.records.item import NewItem
from index.search import (
    Answer,
    Hit,
    Moment,
    Options,
    TargetQuery,
    direction,
    search,
)
from index.search.group import merge_moments
from index.search.rerank import is_popular
from index.vectors.base import NOTHING, Found
from index.vectors.sizing import Sizing
from media.modality import MODALITIES
from media.passages import Kind, Passage

from .makers import dims, wait_until

Array = NDArray[np.float32]


def merged(windows: list[tuple[float, float, float]]) -> list[Moment]:
    return merge_moments([Moment(*window) for window in windows])


def vector(*values: float) -> Array:
    return np.array(values, np.float32)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Collection]:
    collection = Collection(tmp_path / "box", "f1", dims(2))
    yield collection
    collection.close()


def turned(*degrees: float) -> Array:
    """Unit vectors [n, 2], whose cosine with the first axis is that of the angle."""
    turns = np.deg2rad(degrees)
    return np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)


def item(id: str, *degrees: float, modality: str = "video", step_s: float = 5.0) -> NewItem:
    """An item of windows of five seconds, each `step_s` after the one before."""
    windows = [(step_s * n, step_s * n + 5.0) for n in range(len(degrees))]
    vectors = {modality: (list(range(len(degrees))), turned(*degrees))}
    return NewItem(
        id=id, kind=modality, duration_s=windows[-1][1], windows=windows, vectors=vectors
    )


def make_pair(id: str, vectors: dict[str, Any]) -> NewItem:
    """An item of one window."""
    return NewItem(id=id, kind="video", duration_s=5.0, windows=[(0.0, 5.0)], vectors=vectors)


def ask(box: Collection, target: str = "video", **options: Any) -> Answer:
    """What lies near the first axis."""
    return search(box, [TargetQuery(target, turned(0))], Options(**options))


def test_the_direction_of_several_windows() -> None:
    assert direction(turned(0, 90)).tolist() == pytest.approx([2**-0.5, 2**-0.5])
    assert direction(turned(30)).tolist() == pytest.approx([math.cos(math.pi / 6), 0.5])
    # opposite ones have none
    assert direction(np.array([[1, 0], [-1, 0]], np.float32)).tolist() == [0.0, 0.0]


def test_a_query_is_the_weighted_mean_of_its_parts() -> None:
    parts = turned(0, 90)
    assert TargetQuery("video", parts, (3.0, -1.0)).shares.tolist() == [0.75, -0.25]
    assert TargetQuery("video", parts, (3.0, -1.0)).query.tolist() == pytest.approx([0.75, -0.25])
    # one part alone is asked as it is, whatever it weighs, and turned round below zero
    assert TargetQuery("video", parts[:1], (0.5,)).query.tolist() == [1.0, 0.0]
    assert TargetQuery("video", parts[:1], (-0.5,)).query.tolist() == [-1.0, 0.0]
    assert TargetQuery("video", parts).comparable == MODALITIES


def test_a_query_along_a_route() -> None:
    """It is asked in the route's encodings, and compared with the windows of all of them."""
    route = Route("video", {"text": "words", "video": "video"}, "video")
    aim = TargetQuery.along(route, "text", turned(0, 90), (2.0, 1.0))
    assert (aim.target, aim.source, aim.weights) == ("video", "words", (2.0, 1.0))
    assert aim.comparable == ("words", "video", "video")
    assert TargetQuery.along(route, "video", turned(0)).weights == (1.0,)


def test_options_unless_told() -> None:
    assert Options() == Options(
        top_k=10,
        filter=None,
        min_score=None,
        min_confidence=None,
        exact=False,
        rerank=None,
        tags=False,
        known_share=1.0,
        target_name=None,
    )


def test_windows_that_touch_are_one_moment() -> None:
    assert merged([(0.0, 5.0, 0.3)]) == [Moment(0.0, 5.0, 0.3)]
    # the first two touch, the next two overlap, the last is apart; the best comes first
    windows = [(30.0, 35.0, 0.9), (0.0, 5.0, 0.3), (12.0, 17.0, 0.5), (5.0, 10.0, 0.4)]
    windows.append((15.0, 16.0, 0.6))
    assert merged(windows) == [
        Moment(30.0, 35.0, 0.9),
        Moment(12.0, 17.0, 0.6),
        Moment(0.0, 10.0, 0.4),
    ]
    # a gap below a millionth of a second is rounding
    assert len(merged([(0.0, 5.0, 0.1), (5.0000005, 9.0, 0.1)])) == 1
    assert len(merged([(0.0, 5.0, 0.1), (5.00001, 9.0, 0.1)])) == 2


def test_a_moment_holds_windows_of_eight_tenths_of_the_best(box: Collection) -> None:
    """Cosines of 1, 0.82, 0.78, 1: the third window is no part of any moment."""
    angles = [math.degrees(math.acos(cosine)) for cosine in (1.0, 0.82, 0.78, 1.0)]
    box.put([item("a", *angles)])
    (hit,) = ask(box).hits
    assert [(m.start_s, m.end_s) for m in hit.moments] == [(0.0, 10.0), (15.0, 20.0)]
    assert hit.evidence["video"] == Moment(0.0, 5.0, pytest.approx(1.0))
    # asked for more than that, by a score
    (hit,) = ask(box, min_score=0.9).hits
    assert [(m.start_s, m.end_s) for m in hit.moments] == [(0.0, 5.0), (15.0, 20.0)]
    # below zero there is no share: only the best window
    box.put([item("a", 120.0, 121.0)])
    (hit,) = ask(box).hits
    assert hit.score == pytest.approx(-0.5) and [m.end_s for m in hit.moments] == [5.0]


def test_what_a_hit_says_of_its_item(box: Collection) -> None:
    box.put([item("a", 60.0, 0.0), item("s", 0.0, modality="audio")])
    (hit,) = ask(box).hits
    assert (hit.id, hit.kind, hit.duration_s, hit.filename) == ("a", "video", 10.0, None)
    assert (hit.modalities, hit.target, hit.metadata) == (["video"], "video", {})
    assert (hit.start_s, hit.end_s) == (5.0, 10.0)
    assert hit.scores == {"video": pytest.approx(1.0)} and hit.parts is None
    assert (hit.confidence, ask(box).good_match) == (None, None)
    assert [h.target for h in ask(box, target_name="any").hits] == ["any"]
    assert ask(box, min_confidence=0.99).hits  # uncalibrated, it does not hold


def test_it_looks_wider_until_there_are_items_enough(box: Collection) -> None:
    """Forty windows of one item come before the others': of three hits, tries of 3, 12 and 48."""
    box.put([item("many", *np.linspace(0, 8, 40))])
    box.put([item(f"i{n}", 10.0 + n) for n in range(10)])
    answer = ask(box, top_k=3)
    assert [hit.id for hit in answer.hits] == ["many", "i0", "i1"]
    assert answer.plan.candidates == 50 and answer.plan.exact and answer.plan.ways == ["scan"]
    assert answer.plan.compared == 3 * 50
    # one try is enough where there are items enough, or nothing more good enough
    assert ask(box, top_k=1).plan.compared == 50
    answer = ask(box, top_k=3, min_score=math.cos(math.radians(0.3)))  # two windows of "many"
    assert [hit.id for hit in answer.hits] == ["many"] and answer.plan.compared == 50


def test_equal_scores_come_in_the_order_of_adding_however_many_are_asked_for(
    box: Collection,
) -> None:
    """Twenty items at 30 degrees from the query, one nearer that was added in between."""
    box.put([item(f"same-{n:02}", 30.0) for n in range(10)])
    box.put([item("near", 10.0)])
    box.put([item(f"same-{n:02}", 30.0) for n in range(10, 20)])
    every = ["near", *(f"same-{n:02}" for n in range(20))]
    for top_k in (1, 2, 5, 11, 20, 21, 50):
        for exact in (False, True):
            hits = ask(box, top_k=top_k, exact=exact).hits
            assert [hit.id for hit in hits] == every[:top_k]
        sequences = ask_in_order(box, top_k=top_k)
        assert [hit.id for hit in sequences] == every[:top_k]


def ask_in_order(box: Collection, **options: Any) -> list[Hit]:
    """What has something near the first axis, and something near it anywhere."""
    parts = TargetQuery("video", turned(0, 0), (1.0, 1.0))
    return search(box, [parts], Options(aggregate="item", **options)).hits


def test_a_query_whose_parts_cancel_out_finds_nothing(tmp_path: Path) -> None:
    """Whatever the index: codes of no direction would find nothing, a scan anything."""
    for kind in ("exact", "ivf"):
        box = Collection(tmp_path / kind, "f1", dims(2), Sizing(kind))
        angles = np.linspace(0, 180, 1200).tolist()
        box.put([item(f"i{n}", angle) for n, angle in enumerate(angles)])
        wait_until(lambda box=box: not box.busy)  # type: ignore[misc]
        query = TargetQuery("video", turned(30, 30), (1.0, -1.0))
        answer = search(box, [query], Options())
        assert answer.hits == [] and answer.plan.compared == 0
        box.close()


def test_hits_of_rounded_vectors_are_in_the_order_of_their_scores(tmp_path: Path) -> None:
    """Vectors of 8 bits a number: the index orders by rounded scores, hits have exact ones."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(1500, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    box = Collection(tmp_path / "small", "f1", dims(16), Sizing("small"))
    box.put([make_pair(f"i{n}", {"video": ([0], vectors[n : n + 1])}) for n in range(1500)])
    wait_until(lambda: not box.busy)
    with box.hold_for_reading():
        assert box.index("video").kind == "small"
    for query in vectors[:20]:
        scores = [hit.score for hit in search(box, [TargetQuery("video", query[None])]).hits]
        assert len(scores) == 10 and scores == sorted(scores, reverse=True)
    # every vector was compared, but as it was rounded
    for target in ("video", Joint("video", "audio", 0.5)):
        plan = search(box, [TargetQuery(target, vectors[:1])], Options(exact=True)).plan
        assert (plan.exact, plan.ways) == (False, ["scan"])
    box.close()


def test_the_lowest_score_of_two_targets_is_what_they_are_fused_to(box: Collection) -> None:
    """Of 0.3 and 0.4 that is 1 - 0.7 x 0.6 = 0.58, and of 0.2 and 0.2 0.36."""
    for id, seen, heard in (("both", 0.3, 0.4), ("neither", 0.2, 0.2), ("seen", 0.6, 0.0)):
        angles = [math.degrees(math.acos(cosine)) for cosine in (seen, heard)]
        video, audio = turned(angles[0]), turned(angles[1])
        box.put([make_pair(id, {"video": ([0], video), "audio": ([0], audio)})])
    queries = [TargetQuery(target, turned(0)) for target in ("video", "audio")]
    hits = search(box, queries, Options(min_score=0.5)).hits
    assert [hit.id for hit in hits] == ["seen", "both"]
    assert [hit.score for hit in hits] == pytest.approx([0.6, 0.58])


def test_a_hit_has_its_words_however_few_are_asked_for(box: Collection) -> None:
    """Seven films say the word; the last of them is nearest by its meaning, too. 60 say another."""
    for n in range(67):
        said = Passage(0.0, 5.0, "blue" if n < 7 else "red", Kind.SPEECH)
        near = turned(math.degrees(math.acos(0.5 if n == 6 else 0.1)))
        film = make_pair(f"i{n}", {})
        box.put([add_passages(film, [said], {"text": ([0], near)})])
    query = TargetQuery("text", turned(0))
    for top_k in (1, 3, 50):
        hits = search(box, [query], Options(top_k=top_k, words="blue")).hits
        # the share of passages with the word is 7.5 / 68
        assert hits[0].id == "i6" and hits[0].score == pytest.approx(1 - 0.5 * 7.5 / 68)


def test_words_are_as_rare_as_among_the_passages_that_are_left(box: Collection) -> None:
    """One of twenty films says the word; then one of five, and 1.5 / 6 is its share."""
    for n in range(20):
        said = Passage(0.0, 5.0, "red" if n else "blue", Kind.SPEECH)
        film = make_pair(f"i{n}", {})
        box.put([add_passages(film, [said], {"text": ([0], turned(60.0))})])
    query, options = TargetQuery("text", turned(0)), Options(words="blue", top_k=1)
    (hit,) = search(box, [query], options).hits
    assert hit.score == pytest.approx(1 - 0.5 * 1.5 / 21)
    for n in range(5, 20):
        box.delete(f"i{n}")
    answer = search(box, [query], options)
    assert answer.hits[0].score == pytest.approx(1 - 0.5 * 1.5 / 6)
    for n in range(5):
        box.delete(f"i{n}")
    assert not box.has_passages


def test_items_between_the_parts_of_a_long_file_are_found(box: Collection) -> None:
    """The second part of a film is written after another item was added, as after a stop."""
    told = {"stamp": "5:6::00", "filename": "film.mp4"}
    box.put([replace(item("film", 80, 70), partial=True, **told)])
    box.put([item("between", 60)])
    later = replace(item("film", 0, 75), windows=[(10.0, 15.0), (15.0, 20.0)])
    box.put([replace(later, first_window=2, **told)])
    box.put([item("after", 40)])
    hits = ask(box).hits
    assert [hit.id for hit in hits] == ["film", "after", "between"]
    assert [hit.score for hit in hits] == pytest.approx([1.0, math.cos(math.radians(40)), 0.5])
    assert (hits[0].start_s, hits[0].end_s) == (10.0, 15.0)


def test_two_targets_look_wider_where_many_hits_are_wanted(box: Collection) -> None:
    """Of 40 hits, 160 windows are looked at in each."""
    box.put([item(f"v{n}", 30 + n / 20) for n in range(150)])
    box.put([item(f"a{n}", 30 + n / 20, modality="audio") for n in range(150)])
    both = {"video": ([0], turned(45.0)), "audio": ([0], turned(45.0))}
    box.put([make_pair("both", both)])
    aims = [TargetQuery("video", turned(0)), TargetQuery("audio", turned(0))]
    assert search(box, aims, Options(top_k=40)).hits[0].id == "both"


def test_nothing_is_found_where_nothing_is_allowed(box: Collection) -> None:
    box.put([item(f"v{n}", float(n)) for n in range(8)])
    assert ask(box, filter={"n": 1}).hits == []


def test_only_what_is_found_can_be_popular() -> None:
    stats = RouteStats(Calibration(0.0, 1.0, 0.0), np.array([3, 5]), turned(0))
    assert is_popular(Found(np.array([5, 1]), turned(0)[0]), stats)
    assert not is_popular(Found(np.array([1, 5]), turned(0)[0]), stats)
    assert not is_popular(NOTHING, stats)


def test_a_query_that_can_be_compared_with_nothing_else_finds_its_target(box: Collection) -> None:
    """The other encodings of the item are not told."""
    box.put([make_pair("a", {"video": ([0], turned(0)), "audio": ([0], turned(30))})])
    for target, cosine in (("video", 1.0), ("audio", 3**0.5 / 2)):
        (hit,) = search(box, [TargetQuery(target, turned(0), comparable=())]).hits
        assert hit.scores == {target: pytest.approx(cosine, abs=1e-6)}


def test_each_hit_tells_its_own_modalities(box: Collection) -> None:
    """Pictures and words, with no sound between them in the order of modalities."""
    box.put([make_pair("a", {"video": ([0], turned(0)), "text": ([0], turned(60))})])
    box.put([make_pair("b", {"video": ([0], turned(10)), "audio": ([0], turned(60))})])
    box.put([make_pair("c", {"video": ([0], turned(20))})])
    hits = ask(box).hits
    found = [["video", "text"], ["video", "audio"], ["video"]]
    assert [sorted(hit.modalities) for hit in hits] == [sorted(one) for one in found]
    assert [sorted(hit.evidence) for hit in hits] == [sorted(one) for one in found]


def test_a_hit_tells_what_its_window_shows_and_sounds_like(box: Collection) -> None:
    """The second window of pictures is the best. The sound ends before it."""
    windows = [(0.0, 5.0), (5.0, 10.0)]
    vectors = {"video": ([0, 1], turned(60, 0)), "audio": ([0], turned(60))}
    box.put([NewItem(id="a", kind="video", duration_s=10.0, windows=windows, vectors=vectors)])
    (hit,) = ask(box).hits
    assert hit.scores == {"video": pytest.approx(1.0)}
    assert hit.evidence["audio"].score == pytest.approx(0.5) and hit.evidence["audio"].end_s == 5.0


def test_two_targets_look_wider_from_the_beginning(box: Collection) -> None:
    """Of one hit, 32 windows are looked at in each, so that the best of both together is found."""
    box.put([item(f"v{n}", 40.0 + n) for n in range(40)])
    both = {"video": ([0], turned(50.5)), "audio": ([0], turned(45.0))}
    box.put([make_pair("both", both)])
    aims = [TargetQuery("video", turned(0)), TargetQuery("audio", turned(0))]
    (hit,) = search(box, aims, Options(top_k=1)).hits
    assert hit.id == "both" and hit.target == "audio"
    seen, heard = math.cos(math.radians(50.5)), math.cos(math.radians(45.0))
    assert hit.score == pytest.approx(1 - (1 - seen) * (1 - heard), abs=1e-6)
    assert hit.scores == pytest.approx({"video": seen, "audio": heard}, abs=1e-6)
    assert hit.evidence["audio"].score == pytest.approx(heard, abs=1e-6)
    assert hit.confidence is None


def test_a_plan_tells_whether_two_targets_may_have_missed_an_item(box: Collection) -> None:
    """Of one hit, 32 windows are looked at in each, and 60 are nearer than those of the best item.
    It is found where an exact search is asked for: 1 - (1 - cos 56)^2 = 0.806 against cos 40.
    """
    for modality in ("video", "audio"):
        box.put([item(f"{modality}{n}", 40 + n / 4, modality=modality) for n in range(60)])
    box.put([make_pair("both", {"video": ([0], turned(56.0)), "audio": ([0], turned(56.0))})])
    aims = [TargetQuery("video", turned(0)), TargetQuery("audio", turned(0))]
    found = search(box, aims, Options(top_k=1))
    assert [hit.id for hit in found.hits] == ["video0"] and not found.plan.exact
    found = search(box, aims, Options(top_k=1, exact=True))
    assert [hit.id for hit in found.hits] == ["both"] and found.plan.exact
    assert found.hits[0].score == pytest.approx(1 - (1 - math.cos(math.radians(56))) ** 2)
    # nothing that both may have left out scores 0.96
    sure = search(box, aims, Options(top_k=1, min_score=0.96))
    assert sure.hits == [] and sure.plan.exact


def test_scores_outside_of_shares_are_no_confidences(box: Collection) -> None:
    """Uncalibrated: a score below zero counts as no confidence at all, not as a negative one."""
    pair = {"video": ([0], turned(120.0)), "audio": ([0], turned(60.0))}
    box.put([make_pair("a", pair)])
    aims = [TargetQuery("video", turned(0)), TargetQuery("audio", turned(0))]
    (hit,) = search(box, aims).hits
    assert hit.score == pytest.approx(0.5, abs=1e-6) and hit.target == "audio"


def test_the_evidence_of_two_targets_is_each_ones_own(box: Collection) -> None:
    """Pictures at 0 degrees are asked for at 0, sounds at 60 at 90: cosines 1 and 0.866. What
    either query finds in the other's windows, 0 and 0.5, is not told.
    """
    pair = {"video": ([0], turned(0.0)), "audio": ([0], turned(60.0))}
    box.put([make_pair("a", pair)])
    for order in (1, -1):
        aims = [TargetQuery("video", turned(0)), TargetQuery("audio", turned(90))][::order]
        (hit,) = search(box, aims).hits
        assert hit.scores == pytest.approx({"video": 1.0, "audio": 3**0.5 / 2}, abs=1e-6)


def test_what_neither_of_two_queries_is_for_is_told_by_the_first(box: Collection) -> None:
    """A text at 30 degrees, beside pictures asked for at 0 and sounds asked for at 90."""
    all_three = {"video": ([0], turned(0)), "audio": ([0], turned(90)), "text": ([0], turned(30))}
    box.put([make_pair("a", all_three)])
    aims = [TargetQuery("video", turned(0)), TargetQuery("audio", turned(90))]
    for order, cosine in ((1, 3**0.5 / 2), (-1, 0.5)):
        (hit,) = search(box, aims[::order]).hits
        assert hit.scores == pytest.approx({"video": 1.0, "audio": 1.0, "text": cosine}, abs=1e-6)


def test_a_hit_tells_from_which_second_the_picture_of_its_best_window_comes(
    box: Collection,
) -> None:
    box.put([replace(item("film", 0.0, 90.0), shown_s={0: 2.5, 1: 6.0}), item("other", 60.0)])
    answer = search(box, [TargetQuery("video", turned(85.0))])
    assert [(hit.id, hit.shown_s) for hit in answer.hits] == [("film", 6.0), ("other", None)]
    copied = box.copy_media("film")
    assert copied is not None and copied.shown_s == {0: 2.5, 1: 6.0}
