"""Pictures and sound scored together, against every joint score worked out by numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.bundle import Joint, NoRoute, Space, draft_manifest
from index.collection import Collection
from index.records.item import NewItem
from index.search import Answer, Options, TargetQuery, search
from index.vectors.base import Vectors
from index.vectors.sizing import Sizing
from media.windows import InputSpecs

from .makers import wait_until

JOINT = Joint("video", "audio", 0.5)
DIMS = {"video": 8, "audio": 8, "text": 8}


def unit(vectors: object) -> Vectors:
    x = np.asarray(vectors, np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def axis(*values: float) -> Vectors:
    return unit([*values, *[0.0] * (8 - len(values))])


def item(id: str, video: Vectors | None, audio: Vectors | None, **metadata: str) -> NewItem:
    """An item with a window for each row of vectors [n, 8]."""
    n = max(len(part) for part in (video, audio) if part is not None)
    parts = {"video": video, "audio": audio}
    vectors = {name: (list(range(len(x))), x) for name, x in parts.items() if x is not None}
    return NewItem(
        id=id,
        kind="video",
        duration_s=5.0 * n,
        windows=[(5.0 * i, 5.0 * i + 5.0) for i in range(n)],
        vectors=vectors,
        metadata=dict(metadata),
    )


def ask(box: Collection, query: Vectors, top_k: int = 10, **options: object) -> Answer:
    return search(
        box, [TargetQuery(JOINT, query[None], comparable=(*DIMS, JOINT))], Options(top_k, **options)
    )  # type: ignore[arg-type]


def expected(items: list[NewItem], query: Vectors, joint: Joint = JOINT) -> dict[str, float]:
    """The best joint score of each item."""
    best = {}
    for one in items:
        scores = []
        for window in range(len(one.windows)):
            both = []
            for encoding in ("video", "audio"):
                which, vectors = one.vectors.get(encoding, ([], np.empty((0, 8))))
                if window in which:
                    both.append(vectors[which.index(window)])
            if len(both) == 2:
                both[1] = joint.weights(both[0][None], both[1][None])[0] * both[1]
            if both:
                scores.append(float(unit(np.sum(both, axis=0)) @ query))
        if scores:
            best[one.id] = max(scores)
    return best


def test_a_window_is_scored_by_the_sum_of_its_vectors(tmp_path: Path) -> None:
    """Query (1, 1, 0): the sum of (1, 0, 0) and half of (0, 1, 0) is (1, 0.5, 0), 1.5 / sqrt(1.25 x
    2) from it.
    """
    box = Collection(tmp_path / "c", "f", DIMS)
    seen_and_heard = item("both", axis(1)[None], axis(0, 1)[None])
    words = NewItem(
        id="words",
        kind="text",
        duration_s=0.0,
        windows=[(0.0, 0.0)],
        vectors={"text": ([0], axis(1, 1)[None])},
    )
    box.put(
        [
            seen_and_heard,
            item("seen", axis(1)[None], None),
            item("heard", None, axis(0, 1, 1)[None]),
            words,
        ]
    )
    hits = ask(box, axis(1, 1)).hits
    assert [hit.id for hit in hits] == ["both", "seen", "heard"]  # and no text
    assert hits[0].score == pytest.approx(1.5 / np.sqrt(2.5)) and hits[0].target == "any"
    assert hits[0].scores == pytest.approx({"video": np.sqrt(0.5), "audio": np.sqrt(0.5)})
    assert hits[1].scores == pytest.approx({"video": np.sqrt(0.5)}) and hits[
        2
    ].score == pytest.approx(0.5)
    assert "any" not in hits[0].modalities and set(hits[0].evidence) == {"video", "audio"}
    box.close()


def test_the_moment_is_where_both_are(tmp_path: Path) -> None:
    """The third window has the picture and the sound, the first the picture only."""
    box = Collection(tmp_path / "c", "f", DIMS)
    video = np.stack([axis(1), axis(0, 0, 1), axis(1)])
    audio = np.stack([axis(0, 0, 0, 1), axis(0, 0, 0, 1), axis(0, 1)])
    box.put([item("film", video, audio)])
    (hit,) = ask(box, axis(1, 1)).hits
    assert (hit.start_s, hit.end_s) == (10.0, 15.0)
    box.close()


def mixed_items(count: int, random: np.random.Generator) -> list[NewItem]:
    """Items of two windows on two shelves; a third of them lacks pictures, and a third sound."""
    items = []
    for i in range(count):
        video = unit(random.normal(size=(2, 8))) if i % 3 != 1 else None
        audio = unit(random.normal(size=(2, 8))) if i % 3 != 2 else None
        items.append(item(f"i{i}", video, audio, shelf="a" if i % 5 else "b"))
    return items


@pytest.mark.parametrize("kind", ["exact", "hnsw", "ivf", "small"])
def test_every_kind_finds_what_the_twin_finds(tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(0)
    items = mixed_items(600, random)
    box = Collection(tmp_path / "c", "f", DIMS, Sizing(kind))
    box.put(items)
    box.delete("i7")
    wait_until(lambda: not box.busy)
    left = [one for one in items if one.id != "i7"]
    for query in unit(random.normal(size=(20, 8))):
        for shelf in (None, "a", "b"):
            twin = expected([one for one in left if shelf in (None, one.metadata["shelf"])], query)
            best = sorted(twin, key=lambda id: -twin[id])[:10]
            wanted = {"shelf": shelf} if shelf else None
            answer = ask(box, query, filter=wanted)
            found = [hit.id for hit in answer.hits]
            assert len(set(found) & set(best)) >= (10 if answer.plan.exact else 9)
            exact = ask(box, query, filter=wanted, exact=True)
            assert [hit.id for hit in exact.hits] == best and exact.plan.exact
            assert exact.hits[0].score == pytest.approx(twin[best[0]], abs=1e-5)
    box.close()


ROW = st.tuples(
    st.integers(0, 5), st.booleans(), st.booleans(), st.integers(1, 3), st.integers(0, 10_000)
)


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(st.one_of(ROW, st.integers(0, 5)), min_size=1, max_size=12))
def test_additions_replacements_and_deletions_are_followed(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, bool, bool, int, int] | int]
) -> None:
    box = Collection(tmp_path_factory.mktemp("joint") / "c", "f", DIMS)
    there: dict[str, NewItem] = {}
    for step in steps:
        if isinstance(step, int):
            if there.pop(f"i{step}", None):
                box.delete(f"i{step}")
        else:
            n, seen, heard, windows, seed = step
            random = np.random.default_rng(seed)
            video, audio = unit(random.normal(size=(2, windows, 8)))
            there[f"i{n}"] = item(
                f"i{n}", video if seen or not heard else None, audio if heard else None
            )
            box.put([there[f"i{n}"]])
        query = axis(1, 2, 3)
        twin = expected(list(there.values()), query)
        answer = ask(box, query)
        assert {hit.id: hit.score for hit in answer.hits} == pytest.approx(twin, abs=1e-5)
        assert answer.plan.candidates == sum(len(one.windows) for one in there.values())
    box.close()


def test_without_a_common_space_any_means_both_of_them(tmp_path: Path) -> None:
    inputs = InputSpecs(5.0, None, None)
    apart = {
        "eye": Space(8, {"video": "video", "text": "text@eye"}),
        "ear": Space(8, {"audio": "audio", "text": "text@ear"}),
    }
    plan = draft_manifest("pair", inputs, apart, {}, {})
    assert [route.target for route in plan.routes(["text"], "any")] == ["video", "audio"]
    assert [route.target for route in plan.routes(["audio"], "any")] == ["audio"]
    with pytest.raises(NoRoute):
        plan.routes(["audio", "video"], "any")
    one = draft_manifest("one", inputs, {"s": Space(8, {m: m for m in DIMS})}, {}, {}, {"s": 0.5})
    assert [route.target for route in one.routes(["text"], "any")] == [JOINT]


def test_sounds_without_pictures_are_found_under_a_filter(tmp_path: Path) -> None:
    """Two clouds of sounds: the queries lie in one, the filter leaves the other. Sounds weigh
    little here.
    """
    random = np.random.default_rng(3)
    near = unit(axis(1, 1) + 0.2 * random.normal(size=(1500, 8)).astype(np.float32))
    far = unit(axis(0, 0, 0, 0, 1, 1) + 0.2 * random.normal(size=(1500, 8)).astype(np.float32))
    items = [item(f"n{i}", None, x[None], shelf="near") for i, x in enumerate(near)]
    items += [item(f"f{i}", None, x[None], shelf="far") for i, x in enumerate(far)]
    box = Collection(tmp_path / "c", "f", DIMS, Sizing("hnsw"))
    box.put(items)
    wait_until(lambda: not box.busy)
    light = Joint("video", "audio", 0.2)
    recall = []
    for query in near[:30]:
        aim = TargetQuery(light, query[None], comparable=(*DIMS, light))
        found = {hit.id for hit in search(box, [aim], Options(10, {"shelf": "far"})).hits}
        right = {f"f{i}" for i in np.argsort(-(far @ query))[:10]}
        recall.append(len(found & right) / 10)
    assert np.mean(recall) >= 0.97
    box.close()
