"""Tags of windows: read by a vocabulary, kept with their items, counted, searched by and shown."""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from export.bundle import DEFAULT, open_bundle
from index.backup import backup, restore
from index.collection import Collection
from index.description import describe, make_sentence, read_bank
from index.ingest.reembed import reembed, swap
from index.library import Collections
from index.records.database import NewItem
from index.records.tags import Readings
from index.search import Options, TargetQuery, search
from index.tag_scales import find_scale, read_scales
from index.tagging import list_tags
from index.vocabulary import (
    BadVocabulary,
    apply_vocabulary,
    default_vocabulary,
    ensure_vocabulary,
    make_readings,
    parse_vocabulary,
    read_parents,
    read_vocabulary,
    vocabulary_of,
)
from media.containers import Budget
from media.sandbox import Decoders
from media.video import Choice
from service.app import create_app
from service.settings import Settings

from .makers import BLUE as MADE_BLUE
from .makers import RED as MADE_RED
from .makers import FakeEncoder, dims, make_clip

RED, GREEN, BLUE, SOUND = np.eye(4, dtype=np.float32)
COLOURS = parse_vocabulary("red\nvideo: green\nblue\naudio: loud", "own")


def film(id: str, *colours: Any, heard: bool = False, **fields: Any) -> NewItem:
    """A window of five seconds for each colour, with a sound or none."""
    places = list(range(len(colours)))
    vectors = {"video": (places, np.stack(colours))}
    if heard:
        vectors["audio"] = (places, np.stack([SOUND] * len(colours)))
    windows = [(5.0 * n, 5.0 * n + 5.0) for n in places]
    return NewItem(
        id=id, kind="video", duration_s=windows[-1][1], windows=windows, vectors=vectors, **fields
    )


@pytest.fixture
def box(tmp_path: Path) -> Collection:
    return Collection(tmp_path / "box", "fake", dims(4))


def counts(box: Collection, modality: str | None = None) -> dict[str, tuple[int, int]]:
    return {tag.name: (tag.items, tag.windows) for tag in list_tags(box, modality).tags}


def found(box: Collection, filter: dict[str, Any]) -> list[str]:
    query = TargetQuery("video", np.ones((1, 4), np.float32) / 2)
    return sorted(hit.id for hit in search(box, [query], Options(filter=filter)).hits)


def test_windows_are_tagged_by_what_they_show_and_sound_like(box: Collection) -> None:
    box.put([film("a", RED, RED, BLUE)])
    apply_vocabulary(box, FakeEncoder(), COLOURS)
    box.put([film("b", BLUE, heard=True)])  # tagged as it is written
    assert counts(box) == {"blue": (2, 2), "red": (1, 2), "loud": (1, 1)}
    assert counts(box, "audio") == {"loud": (1, 1)}
    tags = {tag.name: tag for tag in list_tags(box).tags}
    assert list(tags["blue"].modalities) == ["video"]
    assert list_tags(box).vocabulary == "own"


def test_tags_go_with_their_items(box: Collection) -> None:
    apply_vocabulary(box, FakeEncoder(), COLOURS)
    box.put([film("a", RED), film("b", RED)])
    box.put([film("a", BLUE)])
    assert counts(box) == {"blue": (1, 1), "red": (1, 1)}
    box.delete("b")
    assert counts(box) == {"blue": (1, 1)}


def test_another_vocabulary_tags_what_is_stored(box: Collection) -> None:
    box.put([film("a", RED, GREEN)])
    ensure_vocabulary(box, FakeEncoder())
    assert {"red fox", "green snake"} <= set(counts(box))
    assert vocabulary_of(box) == default_vocabulary()
    own = parse_vocabulary("green", "own")
    apply_vocabulary(box, FakeEncoder(), own)
    assert counts(box) == {"green": (1, 1)}
    ensure_vocabulary(box, FakeEncoder())  # it stays
    assert vocabulary_of(box) == own


def test_an_earlier_default_vocabulary_is_replaced(box: Collection) -> None:
    apply_vocabulary(box, FakeEncoder(), parse_vocabulary("red", "default"))
    ensure_vocabulary(box, FakeEncoder())
    assert vocabulary_of(box) == default_vocabulary()


def test_pictures_of_one_colour_have_no_tags(box: Collection) -> None:
    box.put([film("before", RED, one_colour={0})])
    apply_vocabulary(box, FakeEncoder(), COLOURS)
    box.put([film("after", RED, RED, one_colour={1})])
    assert counts(box) == {"red": (1, 1)}


def test_filters_find_tags(box: Collection) -> None:
    apply_vocabulary(box, FakeEncoder(), COLOURS)
    own = film("own", RED, metadata={"tag": "mine"})
    box.put([film("a", RED, BLUE), film("b", BLUE, heard=True), film("c", GREEN), own])
    assert found(box, {"tag": "blue"}) == ["a", "b"]
    assert found(box, {"tag": "Blue"}) == ["a", "b"]
    assert found(box, {"tag": {"$in": ["green", "loud"]}}) == ["b", "c"]
    assert found(box, {"tag": {"$all": ["red", "blue"]}}) == ["a"]
    assert found(box, {"tag": {"$ne": "blue"}}) == ["c", "own"]
    assert found(box, {"tag": "red"}) == ["a"]
    assert found(box, {"tag": "mine"}) == ["own"]
    assert found(box, {"tag": {"$exists": True}}) == ["a", "b", "c", "own"]
    assert found(box, {"tag": 3}) == []


def test_the_letters_case_of_a_tag_does_not_count_in_any_script(box: Collection) -> None:
    """Nor does its form in Unicode: a vocabulary written on a Mac may have two letters for Ä."""
    names = {"A\u0308pfel": RED, "Straße": BLUE, "собака": GREEN}
    directions = np.stack([8 * vector for vector in names.values()])
    readings = Readings(tuple(names), directions, np.full(3, -4, np.float32), 0.5, 3)
    box.set_vocabulary({"video": readings}, "own")
    box.put([film("a", RED), film("b", BLUE), film("c", GREEN)])
    assert found(box, {"tag": "äpfel"}) == found(box, {"tag": "ÄPFEL"}) == ["a"]
    assert found(box, {"tag": {"$in": ["STRASSE", "Собака"]}}) == ["b", "c"]
    assert found(box, {"tag": {"$nin": ["straße", "СОБАКА"]}}) == ["a"]


def test_a_filter_sees_another_vocabulary(box: Collection) -> None:
    box.put([film("a", RED)])
    apply_vocabulary(box, FakeEncoder(), COLOURS)
    assert found(box, {"tag": "red"}) == ["a"]
    apply_vocabulary(box, FakeEncoder(), parse_vocabulary("blue", "own"))
    assert found(box, {"tag": "red"}) == []


def test_hits_have_tags_with_their_seconds(box: Collection) -> None:
    apply_vocabulary(box, FakeEncoder(), COLOURS)
    box.put([film("a", RED, RED, BLUE, RED)])
    query = TargetQuery("video", RED[None])
    (hit,) = search(box, [query], Options(tags=True)).hits
    assert hit.tags is not None
    assert sorted((tag.name, tag.start_s, tag.end_s) for tag in hit.tags) == [
        ("blue", 10.0, 15.0),
        ("red", 0.0, 10.0),
        ("red", 15.0, 20.0),
    ]
    (hit,) = search(box, [query]).hits
    assert hit.tags is None


def test_a_window_keeps_its_best_tags_alone() -> None:
    readings = Readings(
        ("a", "b", "c"), np.eye(3, dtype=np.float32), np.zeros(3, np.float32), 0.5, 2
    )
    rows, tags, scores = readings.read(np.array([[3.0, 1.0, 2.0], [-1.0, 0.5, -2.0]], np.float32))
    assert [rows.tolist(), tags.tolist()] == [[0, 0, 1], [0, 2, 1]]
    assert scores.round(3).tolist() == [0.953, 0.881, 0.622]


def test_a_name_counts_less_where_another_is_far_better() -> None:
    readings = Readings(
        ("a", "b"), np.eye(2, dtype=np.float32), np.zeros(2, np.float32), 0.5, 2, contrast=0.5
    )
    vectors = np.array([[4.0, 3.0], [4.0, 1.0], [-1.0, -2.0]], np.float32)
    assert readings.odds(vectors).tolist() == [[2.0, 1.0], [2.0, -1.0], [-0.5, -1.5]]
    rows, tags, _ = readings.read(vectors)
    assert [rows.tolist(), tags.tolist()] == [[0, 0, 1], [0, 1, 0]]


def test_what_is_one_of_several_is_what_they_are() -> None:
    readings = Readings(
        ("beagle", "boat", "dog", "pug"),
        np.eye(4, dtype=np.float32),
        np.zeros(4, np.float32),
        0.5,
        4,
        parents=np.array([[0, 2], [3, 2]]),
    )
    vectors = np.array([[2.0, -1.0, 0.5, 1.0], [-3.0, 1.0, -1.0, -2.0]], np.float32)
    assert readings.odds(vectors).tolist() == [[2.0, -1.0, 2.0, 1.0], [-3.0, 1.0, -1.0, -2.0]]
    assert readings.own_odds(vectors).tolist() == vectors.tolist()


def test_parents_are_kept_with_the_records(tmp_path: Path) -> None:
    names = parse_vocabulary("green\nDog\nbeagle\npug", "own")
    with closing(Collection(tmp_path / "box", "fake", dims(4))) as box:
        apply_vocabulary(box, FakeEncoder(), names)
    box = Collection(tmp_path / "box", "fake", dims(4))
    with box.hold_for_reading() as records:
        kept = {encoding: found for encoding, (_, found) in records.tags.readings().items()}
    box.close()
    made = make_readings(names, FakeEncoder())
    assert kept["video"].parents.tolist() == made["video"].parents.tolist() == [[2, 1], [3, 1]]
    assert kept["audio"].parents.tolist() == []
    assert kept["video"].contrast == made["video"].contrast > 0


def test_names_above_others_are_of_the_default_vocabulary() -> None:
    names = {name.casefold() for name in default_vocabulary().names["video"]}
    parents = read_parents()
    assert set(parents) <= names
    assert {above for some in parents.values() for above in some} <= names
    assert "dog" in parents["beagle"] and "dog" not in parents["tabby"]


def test_tags_are_made_anew_when_they_are_read_in_another_way(
    box: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.put([film("a", RED)])
    apply_vocabulary(box, FakeEncoder(), COLOURS)
    monkeypatch.setattr("index.vocabulary.digest_of_reading", lambda: "later")
    ensure_vocabulary(box, FakeEncoder())
    assert vocabulary_of(box) == COLOURS  # the names stay
    kept = box.vocabulary_source()
    assert kept is not None and json.loads(kept)["read"] == "later"


def test_names_have_values_of_their_own_with_one_encoder() -> None:
    kept = read_scales()
    for modality in ("video", "audio"):
        scale = find_scale(modality, "another")
        assert scale.names == {}
        assert find_scale(modality, kept["fingerprints"][0]).half_at == scale.half_at
        assert set(kept[modality]["names"]) <= set(default_vocabulary().names[modality])


@pytest.mark.parametrize("choice", list(Choice))
def test_names_have_values_of_their_own_however_frames_are_chosen(choice: Choice) -> None:
    manifest = open_bundle(DEFAULT, choice).manifest
    for modality in ("video", "audio"):
        assert find_scale(modality, manifest.fingerprint).names


def test_re_embedding_keeps_the_vocabulary(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with closing(Collections(data, "fake", dims(4))) as collections:
        box = collections.create("box")
        box.put(
            [
                NewItem(
                    id="t",
                    kind="text",
                    duration_s=0.0,
                    windows=[(0.0, 0.0)],
                    vectors={"text": ([0], RED[None])},
                    texts=("red",),
                )
            ]
        )
        apply_vocabulary(box, FakeEncoder(), COLOURS)
    decoders = Decoders(1)
    try:
        list(reembed(data, "box", FakeEncoder("other"), decoders, Budget()))
    finally:
        decoders.close()
    swap(data, "box")
    with closing(Collections(data, "other", dims(4))) as collections:
        again = collections.get("box")
        assert vocabulary_of(again) == COLOURS
        again.put([film("a", RED)])
        assert counts(again) == {"red": (1, 1)}


def test_backups_carry_tags(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    with closing(Collections(data, "fake", dims(4))) as collections:
        box = collections.create("box")
        apply_vocabulary(box, FakeEncoder(), COLOURS)
        box.put([film("a", RED)])
    backup(data, tmp_path / "saved")
    restore(tmp_path / "saved", copy)
    with closing(Collections(copy, "fake", dims(4))) as collections:
        assert counts(collections.get("box")) == {"red": (1, 1)}


def test_what_no_vocabulary_is(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("# nothing\n\n", encoding="utf-8")
    with pytest.raises(BadVocabulary, match="no names"):
        read_vocabulary(file)
    file.write_bytes(b"caf\xe9\n")
    with pytest.raises(BadVocabulary, match="UTF-8"):
        read_vocabulary(file)
    file.write_text("x" * 201, encoding="utf-8")
    with pytest.raises(BadVocabulary, match="200 characters"):
        read_vocabulary(file)


def test_names_of_the_table_are_in_the_default_vocabulary() -> None:
    table = json.loads((Path(__file__).parent / "data" / "tag_names.json").read_text("utf-8"))
    names = default_vocabulary().names
    for modality in ("video", "audio"):
        for entry in table[modality].values():
            assert {*entry["expected"], *entry["also"]} <= set(names[modality])


def test_tags_over_http(tmp_path: Path) -> None:
    make_clip(tmp_path / "story.mp4", [MADE_BLUE, MADE_BLUE, MADE_RED, MADE_RED])
    app = create_app(Settings(data=tmp_path / "data"), FakeEncoder())
    with TestClient(app, base_url="http://localhost") as client:
        with (tmp_path / "story.mp4").open("rb") as file:
            client.post("/v1/collections/default/items", files={"file": file}, data={"id": "s"})
        apply_vocabulary(
            app.state.owner.active.state.collections.get("default"), FakeEncoder(), COLOURS
        )
        answer = client.get("/v1/collections/default/tags").json()
        names = {tag["name"]: tag["windows"] for tag in answer.pop("tags")}
        assert answer == {"collection": "default", "vocabulary": "own", "total": len(names)}
        assert list(names) == ["loud"]  # pictures of one colour have no tags
        assert client.get("/v1/collections/default/tags?modality=video").json()["tags"] == []
        assert client.get("/v1/collections/default/tags?limit=0").status_code == 400
        request = {"query": "red", "tags": True, "filter": {"tag": "loud"}}
        (hit,) = client.post("/v1/search/text-video", json=request).json()["hits"]
        (tag,) = hit["tags"]
        assert (tag["name"], tag["modality"], tag["start_s"]) == ("loud", "audio", 0.0)
        request = {"query": "red", "filter": {"tag": "green"}}
        assert client.post("/v1/search/text-video", json=request).json()["hits"] == []
        assert client.get("/v1/collections/none/tags").status_code == 404
        file = {"file": (tmp_path / "story.mp4").read_bytes()}
        answer = client.get("/v1/collections/default/items/s/description?limit=1").json()
        assert (answer["id"], answer["bank"]) == ("s", "default")
        texts = {sentence["text"] for sentence in answer["sentences"]}
        assert "the sound of loud" in texts and len(texts) == 2
        assert client.get("/v1/collections/default/items/no/description").status_code == 404
        asked: dict[str, Any] = {"texts": ["red", "loud", "green"], "item": "s"}
        ranked = client.post("/v1/rank", json=asked).json()
        assert sum(choice["probability"] for choice in ranked["choices"]) == pytest.approx(1.0)
        assert ranked["choices"][-1]["text"] == "green"
        heard = client.post("/v1/rank", json=asked | {"target": "audio"}).json()
        best = heard["choices"][0]
        assert (best["index"], best["text"]) == (1, "loud") and best["probability"] > 0.99
        del asked["item"]
        assert client.post("/v1/rank", json=asked).status_code == 400
        form = {"request": json.dumps(asked | {"target": "audio"})}
        sent = client.post("/v1/rank", files=file, data=form).json()
        assert sent["choices"][0]["text"] == "loud"
        assert client.post("/v1/rank", json={"texts": ["red"], "item": "s"}).status_code == 400


def test_sentences_hold_where_they_fit(box: Collection) -> None:
    box.put([film("a", RED, RED, BLUE)])
    readings = make_readings(COLOURS, FakeEncoder())
    found = describe(box, "a", readings, 2, make_sentence)
    stretches = {
        sentence.text: [(moment.start_s, moment.end_s) for moment in sentence.moments]
        for sentence in found
    }
    assert stretches == {"a picture of red": [(0.0, 10.0)], "a picture of blue": [(10.0, 15.0)]}
    names = {sentence.text: {moment.name for moment in sentence.moments} for sentence in found}
    assert names == {"a picture of red": {"red"}, "a picture of blue": {"blue"}}


def test_a_bank_is_read_again_when_its_file_changes(tmp_path: Path) -> None:
    file, encoder = tmp_path / "bank.txt", FakeEncoder()
    file.write_text("red\n", encoding="utf-8")
    assert read_bank(file, encoder)["video"].names == ("red",)
    assert read_bank(file, encoder) is read_bank(file, encoder)
    file.write_text("blue\n", encoding="utf-8")
    os.utime(file, (1, 1))
    assert read_bank(file, encoder)["video"].names == ("blue",)
