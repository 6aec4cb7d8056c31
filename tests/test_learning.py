"""Marks that are kept, what is learned from them, and how it is undone."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.testclient import TestClient

from export.bundle import Joint
from index.adapters import LEARNED, LOCK, VERSIONS, Adapter, Adapters, QueryMoves, fit_moves
from index.backup import BadBackup, backup, restore
from index.collection import Collection, FingerprintConflict, UnknownCollection
from index.gallery import read_gallery
from index.ingest.reembed import reembed, swap
from index.learning import Measured, NotLearned, check_worth, learn, undo
from index.library import Collections
from index.records.item import NewItem, Origin, UnknownItem
from index.records.marks import MarkedQuery, NewMark, UnknownMark
from index.search import Answer, Options, TargetQuery, search
from media.containers import Budget
from media.sandbox import Decoders
from service.app import create_app
from service.settings import Settings

from .makers import FakeEncoder, dims

RED = MarkedQuery("video", "red")


def film(id: str, *colours: tuple[float, float, float, float]) -> NewItem:
    """A window of five seconds for each colour."""
    vectors = np.array(colours, np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    windows = [(5.0 * n, 5.0 * n + 5.0) for n in range(len(colours))]
    return NewItem(
        id=id,
        kind="video",
        duration_s=windows[-1][1],
        windows=windows,
        vectors={"video": (list(range(len(colours))), vectors)},
    )


def mark(id: str, right: bool, start_s: float | None = 0.0, query: MarkedQuery = RED) -> NewMark:
    return NewMark(query=query, item=id, right=right, start_s=start_s)


def fill(box: Collection) -> None:
    """Six reds that are a little blue, and six that are a little less green, so nearer to red."""
    box.put([film(f"blue-{n}", (1.0, 0.0, 0.5 + 0.02 * n, 0.0)) for n in range(6)])
    box.put([film(f"green-{n}", (1.0, 0.3 + 0.02 * n, 0.0, 0.0)) for n in range(6)])


def add_marks(box: Collection) -> None:
    for n in range(3):
        box.add_marks([mark(f"blue-{n}", right=True), mark(f"green-{n}", right=False)])


def ask(box: Collection, axis: int = 0, **options: Any) -> Answer:
    query = TargetQuery("video", np.eye(4, dtype=np.float32)[axis][None])
    return search(box, [query], Options(**options))


def ids(answer: Answer) -> list[str]:
    return [hit.id for hit in answer.hits]


# ---------------------------------------------------------------- marks


def test_marks_are_kept_until_their_items_go(tmp_path: Path) -> None:
    with closing(Collections(tmp_path, "fake", dims(4))) as collections:
        box = collections.create("box")
        fill(box)
        like = MarkedQuery("video", None, "green-1", "video")
        (_, second) = box.add_marks([mark("blue-0", True), mark("blue-1", True, query=like)])
        (again,) = box.add_marks([mark("blue-0", False)])  # takes the first one's place
        assert [one.number for one in box.marks(10)] == [second, again]
        with pytest.raises(UnknownItem):
            box.add_marks([mark("blue-2", True), mark("absent", True)])
        assert len(box.marks(10)) == 2
    with closing(Collections(tmp_path, "fake", dims(4))) as collections:
        box = collections.get("box")
        kept = box.marks(10)
        assert [(one.item, one.right, one.query) for one in kept] == [
            ("blue-1", True, like),
            ("blue-0", False, RED),
        ]
        assert box.marks(1, after=kept[0].number) == kept[1:]
        box.delete("green-1")  # it was searched by
        box.put([film("blue-0", (0.0, 0.0, 1.0, 0.0))])  # another film of that name
        assert box.marks(10) == []
        with pytest.raises(UnknownMark):
            box.delete_mark(kept[0].number)


def test_marks_over_http(tmp_path: Path) -> None:
    app = create_app(Settings(data=tmp_path / "data"), FakeEncoder())
    with TestClient(app, base_url="http://localhost") as client:
        for id in ("a", "b"):
            client.post("/v1/collections/default/items", json={"text": "red", "id": id})
        marks = {"query": "red", "target": "text", "right": [{"id": "a"}]}
        marks |= {"wrong": [{"id": "b", "start_s": 0}]}
        answer = client.post("/v1/feedback", json=marks)
        assert answer.status_code == 201
        right, wrong = answer.json()["numbers"]
        page = client.get("/v1/feedback?limit=1").json()
        (found,) = page["marks"]
        assert found.pop("created") > 0
        assert found == {
            "number": right,
            "query": "red",
            "target": "text",
            "id": "a",
            "start_s": None,
            "right": True,
        }
        assert page["next"] == right
        last = client.get(f"/v1/feedback?after={right}").json()
        assert [one["number"] for one in last["marks"]] == [wrong] and last["next"] is None
        assert client.delete(f"/v1/feedback/{right}").status_code == 204
        gone = client.delete(f"/v1/feedback/{right}")
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "unknown_mark")
        by_item = {"query": {"item": "a", "modality": "text"}, "right": [{"id": "b"}]}
        assert client.post("/v1/feedback", json=by_item | {"target": "text"}).status_code == 201
        shown = client.get("/v1/feedback").json()["marks"][-1]["query"]
        assert shown == {"item": "a", "modality": "text"}
        for bad in (
            {"query": "red"},
            {"query": "red", "right": [{"id": "a"}], "wrong": [{"id": "a"}]},
            {"query": "red", "right": [{"id": "a"}, {"id": "a"}]},
            {"query": " ", "right": [{"id": "a"}]},  # searched by, it is refused
        ):
            assert client.post("/v1/feedback", json=bad).status_code == 400
        absent = client.post("/v1/feedback", json={"query": "red", "right": [{"id": "absent"}]})
        assert absent.status_code == 404


# ---------------------------------------------------------------- moving queries


def test_moves_reach_queries_that_are_alike() -> None:
    axes = np.eye(3, dtype=np.float32)
    wanted = np.array([[-0.2, 0.6, 0.0]], np.float32)
    moves = fit_moves(axes[:1], wanted, axes[2:])
    moved = moves.move(axes[0])
    assert moved is not None
    # the penalty of 0.1 leaves 1 / 1.1 of the move, as the replayed query is far away
    near = axes[0] + wanted[0] / 1.1
    assert np.allclose(moved, near / np.linalg.norm(near), atol=0.01)
    assert moves.move(axes[1]) is None and moves.move(axes[2]) is None
    half = np.array([0.9, 0.0, 0.19**0.5], np.float32)  # exp(-0.1 / 0.3) alike
    there = moves.move(half)
    assert there is not None and 0.2 < there[1] < moved[1]


def test_learning_helps_such_queries_and_is_undone_exactly(tmp_path: Path) -> None:
    with closing(Collections(tmp_path, "fake", dims(4))) as collections:
        box = collections.create("box")
        fill(box)
        add_marks(box)
        before, other = ask(box), ask(box, axis=1)
        assert ids(before)[0].startswith("green") and not before.plan.learned
        version = learn(tmp_path, "box", FakeEncoder())  # while the collection is open
        assert (version.marks, version.queries) == (6, 1)
        assert version.measured["after"] > version.measured["before"]
        after = ask(box)
        assert all(id.startswith("blue") for id in ids(after)[:6]) and after.plan.learned
        assert after.hits[0].confidence is None
        assert ask(box, learned=False) == before
        assert ask(box, axis=1) == other  # unlike the marked query
        learn(tmp_path, "box", FakeEncoder())
        undo(tmp_path, "box", FakeEncoder())
        assert ask(box) == after
        undo(tmp_path, "box", FakeEncoder())
        assert ask(box) == before
        assert {path.name for path in (box.folder / LEARNED).iterdir()} == {LOCK, VERSIONS}
        with pytest.raises(NotLearned, match="nothing to undo"):
            undo(tmp_path, "box", FakeEncoder())


def test_two_who_learn_at_once_lose_nothing(tmp_path: Path) -> None:
    """Each adds its versions to the list that both change."""
    vectors = np.eye(4, dtype=np.float32)
    adapter = Adapter({"text>video": QueryMoves(vectors, vectors)})
    measured = Measured(
        before=0.0, after=1.0, held_out=1, apart_before=0.0, apart_after=1.0, kept=1.0, replayed=1
    )

    def add(marks: int) -> None:
        for _ in range(20):
            Adapters(tmp_path, "f").add(
                adapter, created=0.0, marks=marks, queries=1, measured=measured
            )

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(add, (1, 2)))
    assert sorted(one.marks for one in Adapters(tmp_path, "f").versions()) == [1] * 20 + [2] * 20


def test_a_query_that_cannot_be_read_hinders_no_learning(tmp_path: Path) -> None:
    with closing(Collections(tmp_path, "fake", dims(4))) as collections:
        box = collections.create("box")
        fill(box)
        add_marks(box)
        box.add_marks([mark("blue-0", True, query=MarkedQuery("video", " "))])
        assert learn(tmp_path, "box", FakeEncoder()).measured["after"] > 0.9


def test_what_would_not_help_is_refused_with_its_figures(tmp_path: Path) -> None:
    with closing(Collections(tmp_path, "fake", dims(4))) as collections:
        box = collections.create("box")
        fill(box)
        with pytest.raises(NotLearned, match="two right marks"):
            learn(tmp_path, "box", FakeEncoder())
        # no two of these have anything in common
        box.put([film("up", (0.3, 1.0, 0.0, 0.0)), film("down", (0.3, -1.0, 0.0, 0.0))])
        box.add_marks([mark("up", right=True), mark("down", right=True)])
        with pytest.raises(NotLearned, match="mAP@10") as refused:
            learn(tmp_path, "box", FakeEncoder())
        assert refused.value.measured is not None
        assert refused.value.measured["held_out"] == 2
        assert box.adapters.versions() == []
        with pytest.raises(UnknownCollection):
            learn(tmp_path, "../box", FakeEncoder())
        with pytest.raises(FingerprintConflict):
            learn(tmp_path, "box", FakeEncoder("other"))


def test_one_right_mark_among_wrong_ones_tells_too_little(tmp_path: Path) -> None:
    """What leads away from the wrong ones may lead away from other right ones, too."""
    with closing(Collections(tmp_path, "fake", dims(4))) as collections:
        box = collections.create("box")
        fill(box)
        box.add_marks([mark("blue-0", right=True)])
        box.add_marks([mark(f"green-{n}", right=False) for n in range(4)])
        with pytest.raises(NotLearned, match="two right marks") as refused:
            learn(tmp_path, "box", FakeEncoder())
        assert refused.value.measured is not None
        assert refused.value.measured["held_out"] == 0
        box.add_marks([mark("blue-1", right=True)])
        assert learn(tmp_path, "box", FakeEncoder()).measured["held_out"] == 2


@pytest.mark.parametrize(
    ("before", "after", "apart", "helps"),
    [
        (0.5, 0.6, (1.0, 1.0), True),
        (0.5, 0.5, (1.0, 1.1), True),
        (0.5, 0.5, (1.0, 1.0), False),
        (0.5, 0.4, (1.0, 2.0), False),
        (0.5, 0.6, (1.0, 0.9), False),
    ],
)
def test_what_is_served_makes_nothing_worse(
    before: float, after: float, apart: tuple[float, float], helps: bool
) -> None:
    measured = Measured(
        held_out=3,
        before=before,
        after=after,
        apart_before=apart[0],
        apart_after=apart[1],
        replayed=10,
        kept=1.0,
    )
    if helps:
        check_worth(measured)
    else:
        with pytest.raises(NotLearned, match="would not help"):
            check_worth(measured)


def test_a_version_that_was_altered_is_not_used(tmp_path: Path) -> None:
    with closing(Collections(tmp_path, "fake", dims(4))) as collections:
        box = collections.create("box")
        fill(box)
        add_marks(box)
        version = learn(tmp_path, "box", FakeEncoder())
        assert Adapters(box.folder, "fake").current() is not None
        assert Adapters(box.folder, "other").current() is None
        file = box.folder / LEARNED / version.file
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        assert Adapters(box.folder, "fake").current() is None
        (box.folder / LEARNED / VERSIONS).write_text("{")
        assert Adapters(box.folder, "fake").current() is None
        assert not ask(box).plan.learned


@pytest.mark.parametrize("damage", ["[]", "{", '{"versions": 5}', '{"versions": [1]}'])
def test_a_damaged_list_of_what_was_learned_is_told(tmp_path: Path, damage: str) -> None:
    with closing(Collections(tmp_path / "data", "fake", dims(4))) as collections:
        box = collections.create("box")
        fill(box)
        add_marks(box)
        learn(tmp_path / "data", "box", FakeEncoder())
        (box.folder / LEARNED / VERSIONS).write_text(damage)
        assert not ask(box).plan.learned
        for work in (learn, undo):
            with pytest.raises(NotLearned, match=r"versions\.json .* cannot be read"):
                work(tmp_path / "data", "box", FakeEncoder())
        with pytest.raises(BadBackup, match=r"versions\.json of box is damaged"):
            backup(tmp_path / "data", tmp_path / "copy")
        assert (box.folder / LEARNED / VERSIONS).read_text() == damage


@pytest.mark.parametrize("replaced", ["the folder", "the list"])
def test_searches_go_on_where_what_was_learned_is_out_of_reach(
    tmp_path: Path, replaced: str
) -> None:
    with closing(Collections(tmp_path, "fake", dims(4))) as collections:
        box = collections.create("box")
        fill(box)
        if replaced == "the folder":
            (box.folder / LEARNED).write_text("a file")
        else:
            (box.folder / LEARNED).mkdir()
            (box.folder / LEARNED / VERSIONS).symlink_to(VERSIONS)
        assert not ask(box).plan.learned


def test_backups_carry_marks_and_what_was_learned(tmp_path: Path) -> None:
    data, copy, again = tmp_path / "data", tmp_path / "copy", tmp_path / "again"
    with closing(Collections(data, "fake", dims(4))) as collections:
        box = collections.create("box")
        fill(box)
        add_marks(box)
        learn(data, "box", FakeEncoder())
        after = ask(box)
        backup(data, copy)
    assert restore(copy, again)["box"].media_files == 0
    with closing(Collections(again, "fake", dims(4))) as collections:
        box = collections.get("box")
        assert len(box.marks(10)) == 6
        assert ask(box) == after


def test_another_bundle_keeps_marks_and_learns_anew(tmp_path: Path) -> None:
    with closing(Collections(tmp_path, "fake", dims(4))) as collections:
        box = collections.create("box")
        box.put([said_item(id, np.eye(4, dtype=np.float32)[:1]) for id in ("a", "b")])
        about = MarkedQuery("text", "red")
        box.add_marks([mark("a", True, query=about), mark("b", True, query=about)])
        kept = [(one.item, one.query, one.created) for one in box.marks(10)]
    decoders = Decoders(1)
    try:
        list(reembed(tmp_path, "box", FakeEncoder("other"), decoders, Budget()))
    finally:
        decoders.close()
    swap(tmp_path, "box")
    with closing(Collections(tmp_path, "other", dims(4))) as collections:
        box = collections.get("box")
        assert [(one.item, one.query, one.created) for one in box.marks(10)] == kept
        assert box.adapters.current() is None


def said_item(id: str, vectors: NDArray[np.float32]) -> NewItem:
    return NewItem(
        id=id,
        kind="text",
        duration_s=0.0,
        windows=[(0.0, 0.0)],
        vectors={"text": ([0], vectors)},
        texts=("red",),
        origin=Origin.UPLOAD,
    )


def test_a_gallery_joins_pictures_and_sound(tmp_path: Path) -> None:
    with closing(Collections(tmp_path, "fake", dims(4))) as collections:
        box = collections.create("box")
        axes = np.eye(4, dtype=np.float32)
        both = NewItem(
            id="both",
            kind="video",
            duration_s=5.0,
            windows=[(0.0, 5.0)],
            vectors={"video": ([0], axes[:1]), "audio": ([0], axes[3:])},
        )
        box.put([both, film("seen", (0.0, 1.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0))])
        with box.hold_for_reading() as records:
            gallery = read_gallery(records, Joint("video", "audio", 0.5), box.dims)
    assert gallery.ids == ["both", "seen", "seen"]
    assert gallery.vectors[0].tolist() == pytest.approx([0.8**0.5, 0.0, 0.0, 0.2**0.5])
    assert gallery.best(axes[0], 10) == ["seen", "both"]


def test_what_is_learned_over_http(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with closing(Collections(data, "fake", dims(4))) as collections:
        box = collections.create("box")
        fill(box)
        add_marks(box)
    app = create_app(Settings(data=data), FakeEncoder())
    with TestClient(app, base_url="http://localhost") as client:
        request = {"query": "red", "collection": "box", "top_k": 3}

        def search_words(**options: Any) -> dict[str, Any]:
            answer = client.post("/v1/search/text-video", json=request | options)
            return dict(json.loads(answer.content))

        before = search_words()
        learn(data, "box", FakeEncoder())  # the service has the data folder open
        after = search_words()
        assert not before["plan"]["learned"] and after["plan"]["learned"]
        assert before["hits"][0]["id"].startswith("green")
        assert after["hits"][0]["id"].startswith("blue")
        assert search_words(learned=False)["hits"] == before["hits"]
        undo(data, "box", FakeEncoder())
        assert search_words()["hits"] == before["hits"]
