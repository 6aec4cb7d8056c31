"""Metadata that is changed after an item was added, and items listed by when they were."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from index.collection import Collection
from index.ingest.build import build
from index.records.database import Records
from media.containers import ARCHIVE_BUDGET
from media.sandbox import Decoders
from service.app import create_app

from .makers import GREEN, RED, FakeEncoder, make_clip, make_wav
from .test_records import item, records
from .test_service import Client, add, refused, search, settings

__all__ = ["records"]
ITEMS = "/v1/collections/default/items"


def build_from(box: Collection, path: Path) -> None:
    with closing(Decoders(1, max_s=60.0)) as decoders:
        for _ in build(FakeEncoder(), box, [path], decoders, ARCHIVE_BUDGET):
            pass


def metadata_of(box: Collection, id: str) -> dict[str, Any]:
    return box.item(id).metadata


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


def test_changed_metadata_stay_when_the_file_changes(tmp_path: Path) -> None:
    """The sound becomes another one twice, of 2 s and 3 s, and then a copy of one that is there."""
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    make_wav(sounds / "a.wav", 1.0)
    make_wav(sounds / "b.wav", 1.5)
    manifest = FakeEncoder().manifest
    with closing(Collection(tmp_path / "c", manifest.fingerprint, manifest.dims)) as box:
        build_from(box, sounds)
        box.set_metadata("sounds/a.wav", {"by": "me"})
        for seconds in (2.0, 3.0):
            make_wav(sounds / "a.wav", seconds)
            build_from(box, sounds)
            assert box.item("sounds/a.wav").duration_s == seconds
            assert metadata_of(box, "sounds/a.wav") == {"by": "me"}
        (sounds / "a.wav").write_bytes((sounds / "b.wav").read_bytes())
        build_from(box, sounds)
        assert box.item("sounds/a.wav").duration_s == 1.5
        assert metadata_of(box, "sounds/a.wav") == {"by": "me"}
        assert metadata_of(box, "sounds/b.wav") == {}


def test_a_manifest_that_says_something_else_replaces_changed_metadata(tmp_path: Path) -> None:
    manifest = FakeEncoder().manifest
    rows = tmp_path / "m.jsonl"

    def say(year: int) -> None:
        row = {"path": "a.wav", "id": "a", "metadata": {"year": year}}
        rows.write_text(json.dumps(row) + "\n")

    make_wav(tmp_path / "a.wav", 1.0)
    say(1999)
    with closing(Collection(tmp_path / "c", manifest.fingerprint, manifest.dims)) as box:
        build_from(box, rows)
        box.set_metadata("a", {"year": 2001})
        make_wav(tmp_path / "a.wav", 2.0)
        build_from(box, rows)
        assert (box.item("a").duration_s, metadata_of(box, "a")) == (2.0, {"year": 2001})
        say(2002)
        build_from(box, rows)
        assert metadata_of(box, "a") == {"year": 2002}


def test_metadata_changed_while_a_film_is_read_stay(records: Records) -> None:
    """Its second part says what the file says, as the first one did."""
    told = {"stamp": "5:6::00", "metadata": {"title": "Film"}}
    records.put([item("a", partial=True, **told), item("b", partial=True, **told)], {"video": 2})
    records.set_metadata("a", {"title": "mine"})
    for id in "ab":
        records.put([item(id, first=1, first_window=1, **told)], {"video": 2})
    assert records.item("a").metadata == {"title": "mine"}
    assert records.item("b").metadata == {"title": "Film"}
    assert records.item("a").windows == 2 and not records.item("a").partial


def test_an_item_that_is_added_anew_has_what_it_is_given(records: Records) -> None:
    records.put([item("a", metadata={"x": 1})], {"video": 2})
    records.set_metadata("a", {"x": 2})
    assert records.edited() == {"a"}
    records.put([item("a", metadata={"x": 3})], {"video": 2})
    assert (records.item("a").metadata, records.edited()) == ({"x": 3}, set())


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
