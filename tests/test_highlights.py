"""The stretches of an item worth looking at first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from index.collection import Collection
from index.highlights import activate, choose, find_highlights
from index.records.item import NewItem, UnknownItem, WindowVectors
from media.errors import MissingModality
from service.app import create_app
from service.settings import Settings

from .makers import BLUE, RED, FakeEncoder, dims, make_clip

AXES = np.eye(4, dtype=np.float32)
EAST, NORTH, UP, SOUND = AXES


def windows(vectors: list[np.ndarray], one_colour: tuple[int, ...] = ()) -> WindowVectors:
    """Windows of 5 s, one after another."""
    count = len(vectors)
    starts = 5.0 * np.arange(count)
    plain = np.isin(np.arange(count), one_colour)
    return WindowVectors(np.stack([starts, starts + 5.0], axis=1), plain, np.stack(vectors))


SILENT = np.zeros(0)


def test_what_an_item_shows_once_is_its_first_highlight() -> None:
    film = windows([EAST] * 6 + [NORTH] * 2 + [EAST] * 12)
    first, *others = choose(activate({"video": film}, SILENT, 100.0), 5)
    assert (first.start_s, first.end_s) == (30.0, 40.0)
    assert first.why == ["new picture"]
    # its first window is as new as can be, and as unlike the one before
    assert first.score == pytest.approx(1.0)
    # that it is over is a change, of a fifth of that: too little for a highlight
    assert others == []


def test_a_change_is_a_highlight_where_nothing_is_new() -> None:
    film = windows([EAST] * 10 + [NORTH] * 10)
    (only,) = choose(activate({"video": film}, SILENT, 100.0), 5)
    assert (only.start_s, only.end_s, only.why) == (50.0, 55.0, ["change of picture"])
    assert only.score == pytest.approx(0.25 / 1.25)


def test_sound_weighs_what_it_is_told_to() -> None:
    pictures = windows([EAST] * 5 + [NORTH] + [EAST] * 14)
    sounds = windows([EAST] * 12 + [UP] + [EAST] * 7)
    found = {"video": pictures, "audio": sounds}
    quiet = [one.start_s for one in choose(activate(found, SILENT, 100.0, 0.5), 5)]
    assert quiet == [25.0, 60.0]
    loud = [one.start_s for one in choose(activate(found, SILENT, 100.0, 2.0), 5)]
    assert loud == [60.0, 25.0]


def test_one_colour_and_silence_are_no_highlights() -> None:
    film = windows([EAST] * 5 + [NORTH] + [EAST] * 5 + [UP] + [EAST] * 8, one_colour=(5,))
    assert [one.start_s for one in choose(activate({"video": film}, SILENT, 100.0), 5)] == [55.0]
    loudness = np.full(20, 0.5)
    loudness[11] = 0.0
    sound = windows([EAST] * 5 + [NORTH] + [EAST] * 5 + [UP] + [EAST] * 8)
    assert [one.start_s for one in choose(activate({"audio": sound}, loudness, 100.0), 5)] == [25.0]


def test_a_loud_window_of_an_even_sound() -> None:
    loudness = np.full(20, 0.5)
    loudness[7] = 1.0
    (only,) = choose(activate({"audio": windows([EAST] * 20)}, loudness, 100.0), 5)
    assert (only.start_s, only.end_s, only.why) == (35.0, 40.0, ["loud"])
    assert only.score == pytest.approx(0.5 * 0.25 / 1.25)


def test_a_highlight_is_no_longer_than_half_a_minute() -> None:
    film = windows([EAST] * 80 + [AXES[k % 3 + 1] for k in range(9)] + [EAST] * 80)
    first = choose(activate({"video": film}, SILENT, 845.0), 1)[0]
    assert first.end_s - first.start_s == 30.0
    assert first.start_s >= 400.0 and first.end_s <= 445.0


def test_of_what_never_changes_the_beginning_is_shown() -> None:
    (only,) = choose(activate({"video": windows([EAST] * 4)}, SILENT, 20.0), 5)
    assert (only.start_s, only.end_s, only.score, only.why) == (0.0, 5.0, 0.0, [])
    assert choose(activate({}, SILENT, 20.0), 5) == []


def test_long_items_are_compared_with_a_part_of_them() -> None:
    film = windows([EAST] * 4000 + [NORTH] * 2 + [EAST] * 1000)
    (first,) = choose(activate({"video": film}, SILENT, 25_010.0), 1)
    assert (first.start_s, first.end_s) == (20_000.0, 20_010.0)


def test_highlights_come_from_what_is_stored(tmp_path: Path) -> None:
    box = Collection(tmp_path / "box", "f", dims(4))
    spans = [(5.0 * k, 5.0 * k + 5.0) for k in range(20)]
    pictures = np.stack([EAST] * 12 + [NORTH] + [EAST] * 7)
    box.put(
        [
            NewItem(
                id="film",
                kind="video",
                duration_s=100.0,
                windows=spans,
                vectors={"video": (list(range(20)), pictures)},
            ),
            NewItem(
                id="words",
                kind="text",
                duration_s=0.0,
                windows=[(0.0, 0.0)],
                vectors={"text": ([0], EAST[None])},
                texts=("a dog",),
            ),
        ]
    )
    assert [one.start_s for one in find_highlights(box, "film", 5)] == [60.0]
    with pytest.raises(UnknownItem):
        find_highlights(box, "none", 5)
    with pytest.raises(MissingModality):
        find_highlights(box, "words", 5)
    box.close()


def test_over_http(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "film.mp4", [RED] * 12 + [BLUE] * 2 + [RED] * 8, hz=None)
    items = "/v1/collections/default/items"
    app = create_app(Settings(data=tmp_path / "data"), FakeEncoder())
    with TestClient(app, base_url="http://127.0.0.1") as client:
        added = client.post(items, files={"file": ("a.mp4", clip.read_bytes())}, data={"id": "a/b"})
        assert added.status_code == 201
        # its colours fill the whole picture, so its windows show one colour each
        (only,) = client.get(f"{items}/a/b/highlights").json()
        assert only == {"start_s": 0.0, "end_s": 2.0, "score": 0.0, "why": []}
        assert client.get(f"{items}/a/b/highlights?limit=0").status_code == 400
        assert client.get(f"{items}/none/highlights").status_code == 404
        client.post(items, json={"text": "green", "id": "words"})
        refused = client.get(f"{items}/words/highlights")
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "missing_modality")
