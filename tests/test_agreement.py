"""How well sound and picture agree: items, windows, filters, the report."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from export.bundle import NoRoute, Space
from index.agreement import (
    Compared,
    compare_encodings,
    ensure_agreement,
    list_agreement,
    measure,
    window_agreement,
)
from index.collection import Collection, NoVectors
from index.library import Collections
from index.records.item import NewItem
from index.search import Options, TargetQuery, search
from service.app import create_app
from service.settings import Settings

from .makers import FakeEncoder, dims

AXES = np.eye(4, dtype=np.float32)


def film(id: str, *pairs: tuple[int, int]) -> NewItem:
    """A window of five seconds for each pair: the axes of its pictures and its sound."""
    places = list(range(len(pairs)))
    vectors = {
        "video": (places, AXES[[seen for seen, _ in pairs]]),
        "audio": (places, AXES[[heard for _, heard in pairs]]),
    }
    windows = [(5.0 * n, 5.0 * n + 5.0) for n in places]
    return NewItem(id=id, kind="video", duration_s=windows[-1][1], windows=windows, vectors=vectors)


def fill(box: Collection) -> None:
    """Four films whose sound is that of their pictures, one whose is another's, one without."""
    box.put([film(f"same-{axis}", (axis, axis)) for axis in range(4)])
    box.put([film("half", (0, 0), (0, 1)), film("other", (2, 3))])
    silent = NewItem(
        id="silent",
        kind="video",
        duration_s=5.0,
        windows=[(0.0, 5.0)],
        vectors={"video": ([0], AXES[:1])},
    )
    box.put([silent])


def found(box: Collection, filter: dict[str, object]) -> list[str]:
    ensure_agreement(box, FakeEncoder().manifest)
    query = TargetQuery("video", np.ones((1, 4), np.float32) / 2)
    return sorted(hit.id for hit in search(box, [query], Options(filter=filter)).hits)


def test_items_by_their_agreement(tmp_path: Path) -> None:
    """Cosines are 1 or 0. Pairs by chance are 0 mostly: 1 is above about 6 of 7 of them."""
    manifest = FakeEncoder().manifest
    with closing(Collections(tmp_path, "fake", dims(4))) as collections:
        box = collections.create("box")
        fill(box)
        overview = list_agreement(box, manifest, lowest=True, limit=10)
        assert overview.total == 6
        assert [item.id for item in overview.items[:2]] == ["other", "half"]
        other, half = overview.items[:2]
        assert (other.cosine, other.agreement, half.cosine, half.windows) == (0.0, 0.0, 0.5, 2)
        top = list_agreement(box, manifest, lowest=False, limit=1).items[0]
        assert (top.id, top.cosine) == ("same-0", 1.0)
        # of seven windows, drawn in pairs of different items, 0.15 to 0.25 have one axis
        assert 0.75 < top.agreement < 0.9
        assert half.agreement == pytest.approx(top.agreement / 2, abs=1e-3)
        assert overview.by_chance == pytest.approx(1.0 - top.agreement, abs=1e-3)
        skipped = list_agreement(box, manifest, lowest=True, limit=1, skip=1).items
        assert [item.id for item in skipped] == ["half"]
        windows = window_agreement(box, manifest, "half")
        assert [(one.start_s, one.end_s, one.cosine) for one in windows] == [(0, 5, 1), (5, 10, 0)]
        with pytest.raises(NoVectors):
            window_agreement(box, manifest, "silent")


def test_a_filter_asks_for_agreement(tmp_path: Path) -> None:
    with closing(Collections(tmp_path, "fake", dims(4))) as collections:
        box = collections.create("box")
        fill(box)
        same = [f"same-{axis}" for axis in range(4)]
        assert found(box, {"agreement": {"$gte": 0.7}}) == same
        assert found(box, {"agreement": {"$lt": 0.7}}) == ["half", "other"]
        assert found(box, {"agreement": {"$exists": False}}) == ["silent"]
        box.put([film("other", (2, 2))])  # the next question looks anew
        assert found(box, {"agreement": {"$gte": 0.7}}) == ["other", *same]
        # a field of that name in the metadata is what is meant
        told = film("told", (0, 0))
        box.put([NewItem(**{**vars(told), "metadata": {"agreement": 0.1}})])
        assert "told" not in found(box, {"agreement": {"$gte": 0.7}})


def test_what_is_added_while_agreement_is_measured_is_measured_next(tmp_path: Path) -> None:
    manifest = FakeEncoder().manifest
    with closing(Collections(tmp_path, "fake", dims(4))) as collections:
        box = collections.create("box")
        fill(box)
        state = box.agreement_state(compare_encodings(manifest))
        rows, _ = measure(Compared.of(box, manifest))
        box.put([film("late", (1, 1))])
        box.set_agreement(rows, state)
        assert "late" in found(box, {"agreement": {"$gte": 0.7}})


def test_two_spaces_cannot_be_compared(tmp_path: Path) -> None:
    spaces = {
        "seen": Space(4, {"video": "video", "text": "text@seen"}),
        "heard": Space(4, {"audio": "audio", "text": "text@heard"}),
    }
    manifest = FakeEncoder(spaces=spaces).manifest
    with closing(Collections(tmp_path, "fake", manifest.dims)) as collections:
        box = collections.create("box")
        with pytest.raises(NoRoute):
            list_agreement(box, manifest, lowest=True, limit=1)


def test_agreement_over_http(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with closing(Collections(data, "fake", dims(4))) as collections:
        fill(collections.create("box"))
    app = create_app(Settings(data=data), FakeEncoder())
    with TestClient(app, base_url="http://localhost") as client:
        path = "/v1/collections/box"
        # the first that asks for it
        wanted = {"order": "newest", "filter": '{"agreement": {"$lt": 0.2}}'}
        listed = client.get(f"{path}/items", params=wanted).json()
        assert [item["id"] for item in listed["items"]] == ["other"]
        lowest = client.get(f"{path}/agreement?limit=1").json()
        assert (lowest["total"], [item["id"] for item in lowest["items"]]) == (6, ["other"])
        highest = client.get(f"{path}/agreement?first=highest&limit=2").json()
        assert [item["id"] for item in highest["items"]] == ["same-0", "same-1"]
        windows = client.get(f"{path}/items/half/agreement").json()
        assert [window["cosine"] for window in windows] == [1.0, 0.0]
        request = {"query": "red", "collection": "box", "filter": {"agreement": {"$lt": 0.2}}}
        answer = client.post("/v1/search/text-video", json=request)
        assert [hit["id"] for hit in json.loads(answer.content)["hits"]] == ["other"]
        assert client.get(f"{path}/items/silent/agreement").status_code == 422
