"""Metadata that is changed after an item was added, and items listed by when they were."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

from index.records.database import Records
from service.app import create_app

from .makers import GREEN, RED, FakeEncoder, make_clip, make_wav
from .test_records import item, records
from .test_service import Client, add, refused, search, settings

__all__ = ["records"]
ITEMS = "/v1/collections/default/items"


def test_metadata_is_changed_found_and_outlasts_a_restart(tmp_path: Path) -> None:
    red, green = (
        make_clip(tmp_path / f"{name}.mp4", [colour, colour], hz=None)
        for name, colour in (("red", RED), ("green", GREEN))
    )
    with Client(create_app(settings(tmp_path / "data"), FakeEncoder())) as client:
        add(client, red, id="a/red", metadata='{"shelf": "old", "year": 2020}')
        add(client, green, id="green", metadata='{"shelf": "old"}')
        old = {"filter": {"shelf": "old"}}
        assert len(search(client, "text-video", "red", **old)["hits"]) == 2
        answer = client.patch(f"{ITEMS}/a/red", json={"metadata": {"shelf": "new", "by": ["me"]}})
        assert answer.status_code == 200
        assert answer.json()["metadata"] == {"shelf": "new", "by": ["me"]}
        assert answer.json()["windows"] == 1
        (hit,) = search(client, "text-video", "red", filter={"shelf": "new"})["hits"]
        assert (hit["id"], hit["metadata"]) == ("a/red", {"shelf": "new", "by": ["me"]})
        assert [hit["id"] for hit in search(client, "text-video", "red", **old)["hits"]] == [
            "green"
        ]
        assert search(client, "text-video", "red", filter={"year": 2020})["hits"] == []
        refused(client.patch(f"{ITEMS}/nobody", json={"metadata": {}}), 404, "unknown_item")
        refused(client.patch(f"{ITEMS}/green", json={"metadata": [1]}), 400, "bad_request")
        refused(client.patch(f"{ITEMS}/green", json={}), 400, "bad_request")
    with Client(create_app(settings(tmp_path / "data"), FakeEncoder())) as client:
        assert client.get(f"{ITEMS}/a/red").json()["metadata"] == {"shelf": "new", "by": ["me"]}
        assert client.get(f"{ITEMS}/green").json()["metadata"] == {"shelf": "old"}


def test_a_change_of_metadata_is_another_version(records: Records) -> None:
    """So that an item is copied anew before another bundle's vectors take over."""
    records.put([item("a"), item("b")], {"video": 2})
    before = records.versions()
    records.set_metadata("a", {"x": 1})
    once = records.versions()
    records.set_metadata("a", {"x": 2})
    assert once["b"] == before["b"]
    assert len({before["a"], once["a"], records.versions()["a"]}) == 3
    records.remove("a")
    assert "edited:a" not in records.meta()


def test_items_are_listed_by_when_they_were_added(tmp_path: Path) -> None:
    with Client(create_app(settings(tmp_path / "data"), FakeEncoder())) as client:
        for n, id in enumerate(("m", "z", "a", "k")):
            tone = make_wav(tmp_path / f"{id}.wav", 1.0 + n)
            add(client, tone, id=id, metadata=json.dumps({"odd": n % 2}))

        def listed(query: str) -> tuple[list[str], str | None]:
            page = client.get(f"{ITEMS}?{query}").json()
            return [each["id"] for each in page["items"]], page["next"]

        assert listed("limit=3") == (["a", "k", "m"], "m")
        assert listed("order=newest&limit=3") == (["k", "a", "z"], "before:2")
        assert listed("order=newest&limit=3&after=before:2") == (["m"], None)
        assert listed("order=newest&limit=3&after=z") == (["m"], None)
        wanted = quote('{"duration_s": {"$gt": 1.5}, "odd": 1}')
        assert listed(f"order=newest&filter={wanted}") == (["k", "z"], None)
        assert listed(f"order=newest&filter={wanted}&after=k") == (["z"], None)
        add(client, tmp_path / "m.wav", id="m")
        assert listed("order=newest&limit=1") == (["m"], "before:5")
        refused(client.get(f"{ITEMS}?order=newest&after=nobody"), 404, "unknown_item")
        refused(client.get(f"{ITEMS}?order=newest&filter=x"), 400, "bad_request")
        refused(client.get(f"{ITEMS}?order=newest&filter=[]"), 400, "bad_request")
        refused(client.get(f"{ITEMS}?filter={wanted}"), 400, "bad_request")
        broken = quote('{"a": {"$near": 1}}')
        refused(client.get(f"{ITEMS}?order=newest&filter={broken}"), 400, "bad_filter")


def test_the_list_goes_on_where_its_last_item_was_deleted_or_added_anew(tmp_path: Path) -> None:
    """Who deletes what a page has shown, and scrolls on, sees each other item once."""
    with Client(create_app(settings(tmp_path / "data"), FakeEncoder())) as client:
        for n in range(6):
            client.post(ITEMS, json={"text": "red", "id": f"t{n}"}).raise_for_status()

        def page(after: str) -> tuple[list[str], str | None]:
            fields = {"order": "newest", "limit": 2, "after": after}
            found = client.get(ITEMS, params=fields).json()
            return [each["id"] for each in found["items"]], found["next"]

        first, place = page("")
        assert first == ["t5", "t4"]
        client.delete(f"{ITEMS}/t4").raise_for_status()
        second, place = page(place or "")
        assert second == ["t3", "t2"]
        client.post(ITEMS, json={"text": "green", "id": "t2"}).raise_for_status()
        third, place = page(place or "")
        assert third == ["t1", "t0"]
        assert page(place or "") == ([], None)
