"""The HTTP contract, with real media and an encoder whose vectors can be worked out."""

from __future__ import annotations

import asyncio
import base64
import codecs
import gzip
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from export.bundle import Space
from service.app import create_app
from service.links import LINKED_PARTS
from service.routes import ROUTES, takes_files
from service.schemas import ITEM_PARTS
from service.settings import Settings

from .makers import BLUE, GREEN, RED, FakeEncoder, make_clip, make_wav


class Client(TestClient):
    """Asks as someone on this machine does; errors are answered, not raised."""

    def __init__(self, app: Any) -> None:
        super().__init__(app, base_url="http://localhost", raise_server_exceptions=False)


def settings(data: Path, **changes: Any) -> Settings:
    return Settings(data=data, **changes)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("clips")
    return {
        "red": make_clip(place / "red.mp4", [RED, RED]),
        "green": make_clip(place / "green.mp4", [GREEN, GREEN], hz=None),
        "story": make_clip(place / "story.mkv", [BLUE, BLUE, BLUE, BLUE, RED, RED]),
        "tone": make_wav(place / "tone.wav", 3.0),
    }


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, clips: dict[str, Path]) -> Iterator[Client]:
    app = create_app(
        settings(tmp_path_factory.mktemp("service") / "data", media_max_s=20.0), FakeEncoder()
    )
    with Client(app) as client:
        for id, path in clips.items():
            add(client, path, id=id, metadata=json.dumps({"name": id, "n": len(id)}))
        client.post(
            "/v1/collections/default/items", json={"text": "green blue", "id": "words"}
        ).raise_for_status()
        yield client


def upload(path: Path) -> dict[str, tuple[str, bytes]]:
    return {"file": (path.name, path.read_bytes())}


def add(client: Client, path: Path, collection: str = "default", **fields: str) -> dict[str, Any]:
    answer = client.post(f"/v1/collections/{collection}/items", files=upload(path), data=fields)
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


def search(client: Client, route: str, query: str | Path, **options: Any) -> dict[str, Any]:
    if isinstance(query, str):
        answer = client.post(f"/v1/search/{route}", json={"query": query, **options})
    else:
        answer = client.post(f"/v1/search/{route}", files=upload(query), data=options)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def refused(answer: Any, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["code"] == code and error["message"] and isinstance(error["detail"], dict)
    assert "Traceback" not in answer.text and "/tmp" not in answer.text
    return error


def test_adding_answers_what_was_stored(client: Client, clips: dict[str, Path]) -> None:
    answer = add(client, clips["story"], id="story", metadata='{"name": "story", "n": 5}')
    assert answer["windows"] == 3 and answer["modalities"] == ["audio", "video"]
    assert answer["duration_s"] == pytest.approx(6.0, abs=0.2)


def test_text_finds_the_right_moment(client: Client) -> None:
    result = search(client, "text-video", "red")
    assert result["route"] == "text-video"
    assert result["plan"] == {
        "exact": True,
        "candidates": 5,
        "ways": ["scan"],
        "compared": 5,
        "learned": False,
    }
    assert {h["id"] for h in result["hits"][:2]} == {"red", "story"} and result["hits"][2][
        "id"
    ] == "green"
    story = next(h for h in result["hits"] if h["id"] == "story")
    assert story["start_s"] == pytest.approx(4.0, abs=0.2) and story["end_s"] == pytest.approx(
        6.0, abs=0.2
    )
    assert story["moments"][0]["score"] == story["score"] == story["scores"]["video"] > 0.95
    assert story["scores"]["audio"] == 0.0 and story["metadata"] == {"name": "story", "n": 5}


def test_every_pair_of_modalities_can_be_searched(client: Client, clips: dict[str, Path]) -> None:
    files = {"video": clips["green"], "audio": clips["tone"]}
    best = {
        ("text", "video"): "green",
        ("text", "text"): "words",
        ("video", "video"): "green",
        ("video", "text"): "words",
    }
    alike = {
        ("text", "audio"): 0,
        ("audio", "text"): 0,
        ("audio", "video"): 0,
        ("video", "audio"): 0,
    }
    alike[("audio", "audio")] = 1  # every sound is the fourth axis, which nothing else has
    for query in ("text", "audio", "video"):
        for target in ("text", "audio", "video"):
            result = search(
                client, f"{query}-{target}", "green" if query == "text" else files[query]
            )
            assert result["hits"] and all(h["target"] == target for h in result["hits"])
            if (query, target) in best:
                assert result["hits"][0]["id"] == best[(query, target)]
            else:
                scores = [hit["score"] for hit in result["hits"]]
                assert scores == pytest.approx([alike[(query, target)]] * len(scores), abs=1e-3)


def test_a_bundle_of_two_spaces(tmp_path: Path, clips: dict[str, Path]) -> None:
    """Words are encoded once for pictures and once for sounds; a route takes the space that holds
    both its ends.
    """
    spaces = {
        "sight": Space(4, {"text": "text@sight", "video": "video"}),
        "sound": Space(2, {"text": "text@sound", "audio": "audio"}),
    }
    with Client(create_app(settings(tmp_path / "data"), FakeEncoder(spaces=spaces))) as client:
        model = client.get("/v1/models").json()["data"][0]
        assert model["modalities"] == ["text", "video", "audio"]
        assert model["spaces"]["sound"] == {"dim": 2, "modalities": ["text", "audio"]}
        assert add(client, clips["red"], id="red")["modalities"] == ["audio", "video"]
        add(client, clips["green"], id="green")
        client.post(
            "/v1/collections/default/items", json={"text": "red", "id": "words"}
        ).raise_for_status()
        assert client.get("/v1/collections/default").json()["vectors"] == {
            "text@sight": 1,
            "video": 2,
            "text@sound": 1,
            "audio": 1,
        }
        found = search(client, "text-video", "red")
        assert found["space"] == "sight" and [h["id"] for h in found["hits"]] == ["red", "green"]
        assert set(found["hits"][0]["scores"]) == {"video"}  # its sound is in another space
        refused(
            client.post("/v1/search/text-video", json={"query": "red", "space": "sound"}),
            422,
            "no_route",
        )
        assert search(client, "text-text", "red", space="sound")["space"] == "sound"
        found = search(client, "text-audio", "noise")
        assert found["space"] == "sound" and [h["id"] for h in found["hits"]] == ["red"]
        assert search(client, "audio-text", clips["tone"])["hits"][0]["id"] == "words"
        answer = client.post("/v1/search/audio-video", files=upload(clips["tone"]))
        assert "video lives in sight" in refused(answer, 422, "no_route")["message"]
        for space, dim in ((None, 4), ("sight", 4), ("sound", 2)):
            answer = client.post("/v1/embed/text", json={"texts": ["red"], "space": space}).json()
            assert (
                (answer["space"], answer["dim"])
                == (space or "sight", dim)
                == (answer["space"], len(answer["data"][0]["embedding"]))
            )
        refused(
            client.post("/v1/embed/audio", files=upload(clips["tone"]), data={"space": "sight"}),
            422,
            "no_route",
        )


def test_a_composed_search(client: Client, clips: dict[str, Path]) -> None:
    """Worked out by the fake's axes, red, green, blue, sound."""

    def compose(
        parts: list[dict[str, Any]], targets: list[str], files: Any = None, **options: Any
    ) -> dict[str, Any]:
        request = {"parts": parts, "targets": targets, **options}
        sent: dict[str, Any] = (
            {"data": {"request": json.dumps(request)}, "files": files}
            if files
            else {"json": request}
        )
        answer = client.post("/v1/search", **sent)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    found = compose([{"text": "red"}], ["video"])
    plain = search(client, "text-video", "red")
    assert found["route"] == "composed-video" and found["space"] == "vlsa"
    assert [h["id"] for h in found["hits"]] == [h["id"] for h in plain["hits"]]
    found = compose([{"text": "red"}, {"text": "green", "weight": -0.5}], ["video"])
    assert found["hits"][-1]["id"] == "green" and found["hits"][-1]["score"] < 0
    best = found["hits"][0]
    assert sum(best["parts"]) == pytest.approx(best["score"]) and best["parts"][0] == pytest.approx(
        2 / 3, abs=0.05
    )
    files = {"tone": ("t.wav", clips["tone"].read_bytes())}
    parts = [{"text": "red", "weight": 1.0}, {"file": "tone", "modality": "audio", "weight": 1.0}]
    found = compose(parts, ["video", "audio"], files, top_k=3)
    first = found["hits"][0]
    assert set(first["scores"]) == {"video", "audio"} and first["evidence"]["audio"][
        "score"
    ] == pytest.approx(0.5)
    # five windows tell nothing
    assert found["route"] == "composed-video+audio" and found["good_match"] is None
    twice = [
        {"file": "clip", "modality": "video"},
        {"file": "clip", "modality": "audio", "weight": 0.1},
    ]
    both = {"clip": ("c.mp4", clips["red"].read_bytes())}
    assert {h["id"] for h in compose(twice, ["video"], both, top_k=2)["hits"]} == {"red", "story"}
    like = compose([{"item": "green", "modality": "video"}], ["video"], top_k=1)
    assert like["hits"][0]["id"] == "green"
    marks = {"right": [{"id": "story", "start_s": 0.0}], "wrong": [{"id": "red"}]}
    marked = client.post(
        "/v1/search/text-video", json={"query": "green", "feedback": marks, "top_k": 4}
    ).json()
    assert [hit["id"] for hit in marked["hits"]] == ["green", "story", "red"]
    steps = [{"text": "blue"}, {"text": "red", "then": True}]
    bad_marks = {"parts": steps, "targets": ["video"], "feedback": marks}
    refused(client.post("/v1/search", json=bad_marks), 400, "bad_request")
    absent = {"query": "red", "feedback": {"wrong": [{"id": "absent"}]}}
    refused(client.post("/v1/search/text-video", json=absent), 404, "unknown_item")
    # the story is blue for four seconds, in windows of two, then red
    (story, *_) = compose([{"text": "blue"}, {"text": "red", "then": True}], ["video"])["hits"]
    assert story["id"] == "story" and story["parts"] == [pytest.approx(0.5, abs=0.05)] * 2
    assert story["moments"][1]["start_s"] == 4.0 and story["start_s"] in (0.0, 2.0)
    hits = compose([{"text": "red"}, {"text": "blue", "then": True}], ["video"])["hits"]
    assert hits[0]["score"] < 0.6

    def bad(status: int, code: str, **request: Any) -> None:
        refused(client.post("/v1/search", json=request), status, code)

    bad(400, "bad_request", parts=[], targets=["video"])
    bad(400, "bad_request", parts=[{"text": "red", "weight": -1}], targets=["video"])
    bad(400, "bad_request", parts=[{"text": "red", "weight": 1e39}], targets=["video"])
    bad(400, "bad_request", parts=[{"text": "red", "then": True}], targets=["video"])
    unwanted = {"text": "blue", "then": True, "weight": -1}
    bad(400, "bad_request", parts=[{"text": "red"}, unwanted], targets=["video"])
    bad(400, "bad_request", parts=[{"file": "absent", "modality": "audio"}], targets=["video"])
    bad(404, "unknown_item", parts=[{"item": "absent", "modality": "video"}], targets=["video"])
    bad(422, "no_vectors", parts=[{"item": "words", "modality": "video"}], targets=["video"])
    bad(400, "bad_request", parts=[{"text": "red"}], targets=["smell"])
    refused(client.post("/v1/search", files={"x": ("x.wav", b"x")}), 400, "bad_request")
    refused(
        client.post("/v1/search", data={"request": "{"}, files={"x": ("x.wav", b"x")}),
        400,
        "bad_request",
    )


def test_search_options(client: Client, clips: dict[str, Path]) -> None:
    assert [
        h["id"] for h in search(client, "text-video", "red", filter={"name": "green"})["hits"]
    ] == ["green"]
    assert search(client, "text-video", "red", min_score=0.9999)["hits"] == []
    assert len(search(client, "text-video", "red", top_k=1)["hits"]) == 1
    assert (
        len(
            search(
                client,
                "video-video",
                clips["red"],
                top_k=2,
                filter='{"n": {"$gte": 5}}',
                exact=True,
            )["hits"]
        )
        == 2
    )


def test_embeddings(client: Client, clips: dict[str, Path]) -> None:
    answer = client.post("/v1/embed/text", json={"texts": ["red", "red green"]}).json()
    assert answer["dim"] == 4 and answer["space"] == "vlsa" and answer["fingerprint"] == "fake"
    assert np.allclose(answer["data"][1]["embedding"], [2**-0.5, 2**-0.5, 0, 0])
    story = client.post("/v1/embed/video", files=upload(clips["story"])).json()["data"][0]
    assert [round(w["start_s"]) for w in story["windows"]] == [0, 2, 4] and len(
        story["embedding"]
    ) == 4
    assert (
        np.argmax(story["windows"][0]["embedding"]) == 2
        and np.argmax(story["windows"][2]["embedding"]) == 0
    )
    sound = client.post("/v1/embed/audio", files=upload(clips["tone"])).json()["data"][0]
    assert sound["embedding"] == [0, 0, 0, 1] and sound["filename"] == "tone.wav"


def test_one_bad_file_among_good_ones(client: Client, clips: dict[str, Path]) -> None:
    files = [
        ("file", ("a.mp4", clips["red"].read_bytes())),
        ("file", ("b.mp4", b"junk")),
        ("file", ("c.mp4", clips["green"].read_bytes())),
    ]
    data = client.post("/v1/embed/video", files=files).json()["data"]
    assert [d["index"] for d in data] == [0, 1, 2]
    assert "embedding" in data[0] and "embedding" in data[2]
    assert data[1]["error"]["code"] == "not_media" and data[1]["filename"] == "b.mp4"
    refused(client.post("/v1/embed/video", files=[files[1]]), 415, "not_media")


def test_openai_shape(client: Client) -> None:
    plain = client.post(
        "/v1/embeddings", json={"input": ["red", "blue"], "model": "fake", "user": "x"}
    ).json()
    assert plain["object"] == "list" and [d["index"] for d in plain["data"]] == [0, 1]
    packed = client.post(
        "/v1/embeddings", json={"input": "red", "encoding_format": "base64"}
    ).json()
    assert np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4").tolist() == [
        1,
        0,
        0,
        0,
    ]
    refused(
        client.post("/v1/embeddings", json={"input": "x", "model": "other"}), 404, "model_not_found"
    )
    refused(client.post("/v1/embeddings", json={"input": []}), 400, "bad_request")
    null = client.post("/v1/embeddings", json={"input": "red", "encoding_format": None}).json()
    assert null["data"][0]["embedding"] == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("ids", [[5], [[1, 2], [3]], [[1], "red"], ["red", 7]])
def test_token_ids_are_refused_in_a_sentence(client: Client, ids: list[Any]) -> None:
    """LangChain sends them unless it is told not to."""
    answer = client.post("/v1/embeddings", json={"input": ids})
    refused(answer, 400, "bad_request")
    message = answer.json()["error"]["message"]
    assert message.startswith("body.input: token ids are not taken")
    assert message.endswith("check_embedding_ctx_length=False")


def test_what_is_no_text_and_no_token_id_is_refused_as_such(client: Client) -> None:
    for input in (True, [True], [[]], [None], 5, 0.5):
        answer = client.post("/v1/embeddings", json={"input": input})
        refused(answer, 400, "bad_request")
        assert "token ids" not in answer.json()["error"]["message"]


def test_a_model_in_openais_shape(client: Client) -> None:
    (listed,) = client.get("/v1/models").json()["data"]
    shape = {"id": "fake", "object": "model", "created": 0, "owned_by": "tercet"}
    assert {name: listed[name] for name in shape} == shape
    assert client.get("/v1/models/fake").json() == listed
    assert client.get("/v1/models/").json()["data"] == [listed]
    assert client.get("/v1/models/openai/fake").json() == listed
    refused(client.get("/v1/models/some/other"), 404, "model_not_found")
    refused(client.get("/v1/models/notfake"), 404, "model_not_found")


def test_a_model_by_an_alias(tmp_path: Path) -> None:
    app = create_app(settings(tmp_path / "data", model_aliases="text-one, Other"), FakeEncoder())
    with Client(app) as client:
        for name in ("fake", "text-one", "openai/text-one", "Other"):
            assert client.get(f"/v1/models/{name}").json()["id"] == "fake"
            answer = client.post("/v1/embeddings", json={"input": "red", "model": name})
            assert answer.json()["model"] == "fake"
        refused(client.get("/v1/models/other"), 404, "model_not_found")


def test_words_that_are_not_known_are_told(client: Client) -> None:
    """A query of which nothing is known is refused; of which some is, answered, and nothing is
    sure.
    """
    for query in ("собака лает", "🐶"):
        refused(client.post("/v1/search/text-video", json={"query": query}), 400, "bad_text")
    assert search(client, "text-video", "red")["warnings"] == []
    found = search(client, "text-video", "red собака")
    assert found["hits"][0]["id"] in ("red", "story") and found["good_match"] is False
    assert len(found["warnings"]) == 1 and "собака" in found["warnings"][0]
    request = {"parts": [{"text": "red"}, {"text": "лает", "weight": -0.5}], "targets": ["video"]}
    error = client.post("/v1/search", json=request).json()["error"]
    assert error["code"] == "bad_text" and error["detail"]["index"] == 1
    request["parts"] = [{"text": "red"}, {"text": "green лает", "weight": -0.5}]
    found = client.post("/v1/search", json=request).json()
    assert found["good_match"] is False and "лает" in found["warnings"][0]


def test_a_query_that_is_cut_says_so(client: Client) -> None:
    """Eight words are read, the ninth is not."""
    found = search(client, "text-video", "red " * 8 + "green")
    assert found["hits"][0]["score"] == pytest.approx(1.0, abs=0.01)
    assert found["warnings"] == ["only the beginning was read, 8 of 9 tokens"]


def test_embeddings_of_what_is_not_known_or_too_long(client: Client) -> None:
    """Alone it is refused; among others it costs them nothing, and its place is told."""
    refused(client.post("/v1/embeddings", json={"input": "собака"}), 400, "bad_text")
    both = client.post("/v1/embeddings", json={"input": ["собака", "лает"]}).json()["error"]
    assert both["param"] == "input[0]"
    answer = client.post(
        "/v1/embeddings", json={"input": ["red", "собака", "green " * 8 + "red"]}
    ).json()
    assert [row["embedding"] for row in answer["data"]][::2] == [[1, 0, 0, 0], [0, 1, 0, 0]]
    assert answer["warnings"] == [
        "the text of index 1: none of its words is known: собака",
        "the text of index 2: only the beginning was read, 8 of 9 tokens",
    ]
    assert answer["usage"] == {"prompt_tokens": 10, "total_tokens": 11}
    assert "warnings" not in client.post("/v1/embeddings", json={"input": "red"}).json()
    refused(client.post("/v1/embed/text", json={"texts": ["🐶"]}), 400, "bad_text")
    answer = client.post("/v1/embed/text", json={"texts": ["red", "red 🐶"]}).json()
    assert (
        len(answer["data"]) == 2
        and "index 1" in answer["warnings"][0]
        and "🐶" in answer["warnings"][0]
    )


def test_long_and_unknown_text_items(tmp_path: Path) -> None:
    """Nine words are two windows, of which the better counts; what says nothing is kept, and found
    by nothing.
    """
    with Client(create_app(settings(tmp_path / "data"), FakeEncoder())) as client:
        items = "/v1/collections/default/items"
        long = client.post(items, json={"text": "green " * 8 + "red", "id": "long"})
        assert long.status_code == 201
        assert long.json() == {
            "id": "long",
            "windows": 2,
            "modalities": ["text"],
            "duration_s": 0,
            "warnings": [],
        }
        mixed = client.post(items, json={"text": "blue собака", "id": "mixed"}).json()
        assert mixed["windows"] == 1 and "собака" in mixed["warnings"][0]
        strange = client.post(items, json={"text": "собака лает", "id": "strange"})
        assert strange.status_code == 201 and strange.json()["modalities"] == []
        assert "none of its words is known" in strange.json()["warnings"][0]
        assert client.get(f"{items}/strange").json()["text"] == "собака лает"
        (hit, other) = search(client, "text-text", "red")["hits"]
        assert (hit["id"], hit["score"], other["id"]) == ("long", 1.0, "mixed")
        assert [(m["start_s"], m["end_s"]) for m in hit["moments"]] == [(0, 0)]
        assert client.delete(f"{items}/strange").status_code == 204


def test_items(client: Client, clips: dict[str, Path]) -> None:
    first = client.get("/v1/collections/default/items", params={"limit": 3}).json()
    rest = client.get(
        "/v1/collections/default/items", params={"limit": 3, "after": first["next"]}
    ).json()
    ids = [i["id"] for i in first["items"] + rest["items"]]
    assert (
        ids == sorted(ids)
        and set(ids) >= {"red", "green", "story", "tone", "words"}
        and rest["next"] is None
    )
    words = client.get("/v1/collections/default/items/words").json()
    assert (
        words["kind"] == "text"
        and words["text"] == "green blue"
        and words["modalities"] == ["text"]
    )
    media = client.get("/v1/collections/default/items/red/media", headers={"range": "bytes=4-7"})
    assert media.status_code == 206 and media.content == clips["red"].read_bytes()[4:8] == b"ftyp"
    assert (
        media.headers["content-type"] == "video/mp4"
        and media.headers["x-content-type-options"] == "nosniff"
    )
    poster = client.get("/v1/collections/default/items/red/poster", params={"at_s": 1.0})
    assert poster.headers["content-type"] == "image/jpeg" and poster.content[:2] == b"\xff\xd8"
    heard = client.get("/v1/collections/default/items/tone/waveform").json()["peaks"]
    assert len(heard) > 10 and np.median(heard) == pytest.approx(127, abs=12)
    refused(client.get("/v1/collections/default/items/tone/poster"), 404, "no_preview")
    refused(client.get("/v1/collections/default/items/words/waveform"), 404, "no_preview")
    refused(client.get("/v1/collections/default/items/nobody/poster"), 404, "unknown_item")
    refused(client.get("/v1/collections/default/items/nobody"), 404, "unknown_item")
    told = refused(client.get("/v1/collections/default/items/words/media"), 404, "unknown_item")
    assert "has no media: it is a text" in told["message"]


def test_ids_may_look_like_paths(client: Client, clips: dict[str, Path]) -> None:
    add(client, clips["green"], id="a/../b ü.mp4")
    assert (
        client.get("/v1/collections/default/items/a%2F..%2Fb%20%C3%BC.mp4").json()["id"]
        == "a/../b ü.mp4"
    )
    assert client.delete("/v1/collections/default/items/a%2F..%2Fb%20%C3%BC.mp4").status_code == 204


def test_collections(client: Client, clips: dict[str, Path]) -> None:
    made = client.post("/v1/collections", json={"name": "second"})
    assert made.status_code == 201 and made.json()["items"] == 0
    add(client, clips["red"], "second", id="x")
    assert search(client, "text-video", "red", collection="second")["hits"][0]["id"] == "x"
    assert client.get("/v1/collections/second").json()["vectors"] == {"audio": 1, "video": 1}
    assert client.delete("/v1/collections/second/items/x").status_code == 204
    assert search(client, "text-video", "red", collection="second")["hits"] == []
    refused(client.post("/v1/collections", json={"name": "second"}), 409, "collection_exists")
    refused(client.post("/v1/collections", json={"name": "../x"}), 400, "bad_name")
    assert client.delete("/v1/collections/second").status_code == 204
    assert "second" not in [c["name"] for c in client.get("/v1/collections").json()["collections"]]
    refused(client.get("/v1/collections/second"), 404, "unknown_collection")


def test_bad_requests_are_told_what_is_wrong(
    client: Client, clips: dict[str, Path], tmp_path: Path
) -> None:
    items = "/v1/collections/default/items"
    red = {"file": ("red.mp4", clips["red"].read_bytes())}
    refused(
        client.post("/v1/search/text-video", json={"query": "x", "topk": 3}), 400, "bad_request"
    )
    refused(
        client.post("/v1/search/text-video", json={"query": "x", "filter": {"$where": 1}}),
        400,
        "bad_filter",
    )
    refused(
        client.post("/v1/search/text-video", json={"query": "x", "collection": "no"}),
        404,
        "unknown_collection",
    )
    refused(
        client.post("/v1/search/text-video", json={"query": "x", "top_k": 10**6}),
        400,
        "bad_request",
    )
    refused(client.post("/v1/search/text-video", content=b"{"), 400, "bad_request")
    refused(client.post("/v1/search/text-smell", json={"query": "x"}), 404, "not_found")
    refused(client.get("/v1/search/text-video"), 405, "method_not_allowed")
    refused(client.post("/v1/search/video-video", data={"top_k": 1}), 400, "bad_request")
    refused(client.post(items, files=red, data={"metadata": "{"}), 400, "bad_request")
    refused(client.post(items, files=red, data={"metadata": "[1]"}), 400, "bad_metadata")
    refused(client.post(items, files=red, data={"id": "x" * 600}), 400, "bad_request")
    refused(client.post(items, data={"id": "x"}), 400, "bad_request")
    refused(client.post(items, json={"txt": "x"}), 400, "bad_request")
    refused(
        client.post(items, content=b"x", headers={"content-type": "text/plain"}), 400, "bad_request"
    )
    refused(client.post("/v1/embed/video", files=upload(clips["tone"])), 422, "missing_modality")
    long = make_wav(tmp_path / "long.wav", 30.0, rate=8000)
    detail = refused(client.post("/v1/embed/audio", files=upload(long)), 413, "too_long")["detail"]
    assert detail == {"seconds": 30.0, "limit": 20.0}


@pytest.mark.parametrize(
    "metadata",
    [
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": "\\ud800"}',
        '{"a":' * 300 + "1" + "}" * 300,
        '{"a":' + "[" * 700 + "]" * 700 + "}",
        '{"a": "' + "x" * 70_000 + '"}',
    ],
)
def test_metadata_that_could_not_be_given_back_is_refused(
    client: Client, clips: dict[str, Path], metadata: str
) -> None:
    items = "/v1/collections/default/items"
    assert (
        client.post(
            items, files=upload(clips["tone"]), data={"metadata": metadata, "id": "m"}
        ).status_code
        == 400
    )
    assert (
        client.post(
            items,
            content=f'{{"text": "x", "id": "m", "metadata": {metadata}}}',
            headers={"content-type": "application/json"},
        ).status_code
        == 400
    )
    refused(client.get(f"{items}/m"), 404, "unknown_item")


@pytest.mark.parametrize("id", ["w/media", ".", "..", "a\nb", "\ud800", ""])
def test_ids_that_could_not_be_asked_for_are_refused(client: Client, id: str) -> None:
    answer = client.post(
        "/v1/collections/default/items",
        content=json.dumps({"text": "x", "id": id}),
        headers={"content-type": "application/json"},
    )
    refused(answer, 400, "bad_request")


def test_an_extended_file_name_alone_is_refused_in_a_sentence(client: Client) -> None:
    """RFC 7578, 4.2: it may not be sent. Some clients do for names that are not ASCII."""
    head = "--X\r\nContent-Disposition: form-data; name=\"file\"; filename*=UTF-8''a.wav\r\n\r\n"
    kind = {"content-type": "multipart/form-data; boundary=X"}
    answer = client.post(
        "/v1/embed/audio", content=head.encode() + b"RIFF\r\n--X--\r\n", headers=kind
    )
    refused(answer, 400, "bad_request")
    assert "filename*= has no meaning in a form" in answer.json()["error"]["message"]


def test_every_path_below_an_item_is_a_reserved_ending() -> None:
    item = "/v1/collections/{name}/items/{id:path}/"
    readable = [
        route.path for route in ROUTES if isinstance(route, APIRoute) and "GET" in route.methods
    ]
    below = {path.removeprefix(item) for path in readable if path.startswith(item)}
    assert below == set(ITEM_PARTS) >= set(LINKED_PARTS)


@pytest.mark.parametrize("part", ITEM_PARTS)
def test_parts_of_an_item_cannot_be_changed(client: Client, part: str) -> None:
    path = f"/v1/collections/default/items/red/{part}"
    for address in (path, f"{path}?start_s=0"):
        answer = client.patch(address, json={"metadata": {}})
        refused(answer, 405, "method_not_allowed")
        assert answer.headers["Allow"].startswith("GET")


@pytest.mark.parametrize(
    "path, expected",
    [
        ("/v1/embed/audio", True),
        ("/v1/embed/video/", True),
        ("/v1/embed/text", False),
        ("/v1/embeddings", False),
        ("/v1/collections/a b/items", True),
        ("/v1/collections/a/items/b", False),
        ("/v1/collections", False),
        ("/v1/search", True),
        ("/v1/search/video-any", True),
        ("/v1/search/text-video", False),
        ("/v1/jobs", False),
    ],
)
def test_forms_with_files_have_their_own_limit(path: str, expected: bool) -> None:
    assert takes_files(path) is expected


def test_odd_texts_and_forms_get_answers(client: Client, clips: dict[str, Path]) -> None:
    odd = {"query": "\ud800 \x00", "collection": "default"}
    as_json = {"content-type": "application/json"}
    assert (
        client.post("/v1/search/text-video", content=json.dumps(odd), headers=as_json).status_code
        == 200
    )
    odd["collection"] = "\ud800"
    refused(
        client.post("/v1/search/text-video", content=json.dumps(odd), headers=as_json),
        404,
        "unknown_collection",
    )
    refused(
        client.post("/v1/collections", content='{"name": "\\ud800"}', headers=as_json),
        400,
        "bad_name",
    )
    boundary = "multipart/form-data; boundary=x; charset=undefined"
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nz\r\n--x--\r\n'
    for path in ("/v1/collections/default/items", "/v1/embed/audio"):
        answer = client.post(path, content=form, headers={"content-type": boundary})
        assert answer.status_code in (400, 415) and answer.json()["error"]["code"], answer.text
    plain = client.post(
        "/v1/collections/default/items", data={"file": "no file"}, files={"x": b"1"}
    )
    refused(plain, 400, "bad_request")


def parts(*fields: tuple[str, str | bytes | tuple[str, bytes]]) -> list[tuple[str, Any]]:
    """A form as curl sends it: texts, and files by name and content, in this order, under one name
    as often as said.
    """
    return [(name, value if isinstance(value, tuple) else (None, value)) for name, value in fields]


SLIPS = [  # what is beside the file, and the field that the answer names
    ([("metdata", '{"shelf": "a"}')], "metdata"),
    ([("", "x")], "''"),
    ([("ü" * 300, "x")], "ü" * 100),
    ([(f"field{n}", "x") for n in range(20)], "field0"),
    ([("File", ("a.wav", b"x"))], "File"),
    ([("cover", ("a.jpg", b"x"))], "cover"),
    ([("file", "no file")], "file"),
    ([("metdata", ("m.json", b"{}"))], "metdata"),
]


@pytest.mark.parametrize("beside, named", SLIPS, ids=range(len(SLIPS)))
@pytest.mark.parametrize(
    "route", ["collections/default/items", "search/audio-any", "embed/audio", "embed/video"]
)
def test_a_field_nobody_knows_is_named(
    client: Client, clips: dict[str, Path], route: str, beside: list[tuple[str, Any]], named: str
) -> None:
    file = ("file", ("red.mp4", clips["red"].read_bytes()))
    for form in ([file, *beside], [*beside, file]):
        answer = client.post(f"/v1/{route}", files=parts(*form))
        assert named in refused(answer, 400, "bad_request")["message"]


@pytest.mark.parametrize(
    "route, fields",
    [
        ("collections/default/items", {"id": "x", "metadata": "{}"}),
        (
            "search/video-video",
            {"top_k": "1", "filter": "{}", "collection": "default", "exact": "true"},
        ),
        (
            "search/audio-any",
            {"min_score": "0.1", "min_confidence": "0.1", "rerank": "gram", "space": "vlsa"},
        ),
        ("embed/audio", {"space": "vlsa"}),
        ("embed/video", {"space": "vlsa"}),
    ],
)
def test_a_field_comes_once_and_as_what_it_is(
    client: Client, clips: dict[str, Path], route: str, fields: dict[str, str]
) -> None:
    file = ("file", ("red.mp4", clips["red"].read_bytes()))
    good = client.post(f"/v1/{route}", files=parts(file, *fields.items()))
    assert good.status_code in (200, 201), good.text
    for name, value in fields.items():
        for slip in ([(name, value)] * 2, [(name, (f"{name}.txt", value.encode()))]):
            answer = client.post(f"/v1/{route}", files=parts(file, *slip))
            assert repr(name) in refused(answer, 400, "bad_request")["message"]
    two = client.post(f"/v1/{route}", files=parts(file, file))
    if route.startswith("embed"):  # which takes several
        assert len(two.json()["data"]) == 2
    else:
        assert "'file' comes 2 times" in refused(two, 400, "bad_request")["message"]


def test_fields_of_a_composed_search(client: Client, clips: dict[str, Path]) -> None:
    request = json.dumps({"parts": [{"file": "a", "modality": "video"}], "targets": ["video"]})
    film = ("red.mp4", clips["red"].read_bytes())
    good = [("request", request), ("a", film)]
    assert client.post("/v1/search", files=parts(*good)).status_code == 200
    for slip, named in (
        (("request", request), "request"),
        (("a", film), "a"),
        (("b", film), "b"),
        (("topk", "1"), "topk"),
        (("a", "words"), "a"),
    ):
        answer = client.post("/v1/search", files=parts(*good, slip))
        assert repr(named) in refused(answer, 400, "bad_request")["message"]
    as_file = client.post(
        "/v1/search", files=parts(("request", ("r.json", request.encode())), ("a", film))
    )
    assert "'request'" in refused(as_file, 400, "bad_request")["message"]


def test_bodies_as_editors_and_proxies_leave_them(client: Client) -> None:
    """JSON behind a byte order mark is taken everywhere; what is packed is refused by name (RFC
    9110, 15.5.16).
    """
    as_json = {"content-type": "application/json"}
    for path, body in (
        ("collections/default/items", {"text": "rain", "id": "marked"}),
        ("search/text-text", {"query": "rain"}),
        ("search", {"parts": [{"text": "rain"}], "targets": ["text"]}),
    ):
        marked = codecs.BOM_UTF8 + json.dumps(body).encode()
        assert client.post(f"/v1/{path}", content=marked, headers=as_json).status_code in (200, 201)
        packed = client.post(
            f"/v1/{path}",
            content=gzip.compress(marked),
            headers=as_json | {"content-encoding": "gzip"},
        )
        assert "'gzip'" in refused(packed, 415, "packed_body")["message"]
        assert packed.headers["accept-encoding"] == "identity"
    assert client.delete("/v1/collections/default/items/marked").status_code == 204


def test_a_collection_of_another_bundle(tmp_path: Path) -> None:
    with Client(create_app(settings(tmp_path / "data"), FakeEncoder("one"))) as client:
        client.post("/v1/collections", json={"name": "empty"}).raise_for_status()
        client.post("/v1/collections/default/items", json={"text": "red"}).raise_for_status()
    with Client(create_app(settings(tmp_path / "data"), FakeEncoder("two"))) as client:
        refused(client.get("/v1/collections/default"), 409, "fingerprint_conflict")
        refused(
            client.post("/v1/search/text-video", json={"query": "red"}), 409, "fingerprint_conflict"
        )
        assert (
            client.get("/readyz").status_code == 503 and "bundle one" in client.get("/readyz").text
        )
        assert client.post("/v1/embed/text", json={"texts": ["red"]}).status_code == 200
        # there was nothing to lose
        assert client.get("/v1/collections/empty").json()["fingerprint"] == "two"
        assert client.delete("/v1/collections/default").status_code == 204
        assert client.get("/readyz").status_code == 200


def test_a_client_that_hangs_up_takes_its_work_along(tmp_path: Path) -> None:
    class Slow(FakeEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.rows = threading.Event(), 0

        def embed(self, modality: str, arrays: Any) -> Any:
            self.gate.wait(10)
            self.rows += len(arrays)
            return super().embed(modality, arrays)

    async def work() -> None:
        encoder = Slow()
        encoder.gate.set()
        app = create_app(settings(tmp_path / "data", batch_max_tokens=1), encoder)
        async with app.router.lifespan_context(app):
            encoder.gate.clear()
            encoder.rows = 0
            batcher = app.state.owner.active.state.batcher
            gone, sent = asyncio.Event(), []
            body = [
                {
                    "type": "http.request",
                    "body": b'{"texts": ["a", "b", "c", "d"]}',
                    "more_body": False,
                }
            ]

            async def receive() -> Any:
                if body:
                    return body.pop()
                await gone.wait()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                sent.append(message)

            scope = {
                "type": "http",
                "method": "POST",
                "path": "/v1/embed/text",
                "raw_path": b"/v1/embed/text",
                "query_string": b"",
                "headers": [(b"content-type", b"application/json")],
                "http_version": "1.1",
                "scheme": "http",
                "server": ("test", 80),
                "client": ("test", 1),
                "root_path": "",
                "app": app,
            }
            request = asyncio.create_task(app(scope, receive, send))
            while not batcher.waiting()["text"]:
                await asyncio.sleep(0.01)
            gone.set()
            await asyncio.wait_for(request, 5)
            encoder.gate.set()
            fresh = await app.state.owner.active.state.pipeline.encode_query_text("red", "text", "")
            assert fresh.vector.shape == (4,) and not sent
            # the two on the device, and the fresh one
            assert encoder.rows <= 3 and batcher.waiting()["text"] == 0
            # which waits for whoever is still served
            async with asyncio.timeout(2), app.state.owner.active.handing_over():
                pass

    asyncio.run(asyncio.wait_for(work(), 30))


def test_decoders_killed_from_outside_are_replaced(tmp_path: Path, clips: dict[str, Path]) -> None:
    with Client(create_app(settings(tmp_path / "data"), FakeEncoder())) as client:
        assert client.post("/v1/embed/video", files=upload(clips["red"])).status_code == 200
        for _ in range(2):
            workers = [
                child
                for child in psutil.Process().children(recursive=True)
                if "forkserver" in " ".join(child.cmdline()) and not child.children()
            ]
            for worker in workers:
                worker.kill()
            _, alive = psutil.wait_procs(workers, timeout=30)
            assert not alive
            codes = [
                client.post("/v1/embed/video", files=upload(clips["red"])).status_code
                for _ in range(3)
            ]
            assert codes[-1] == 200 and set(codes) <= {200, 422}


def test_health_models_metrics_and_the_api_page(client: Client) -> None:
    assert client.get("/healthz").text == "ok"
    assert client.get("/readyz").json() == {"ready": True, "reasons": []}
    model = client.get("/v1/models").json()["data"][0]
    assert model["fingerprint"] == "fake" and model["limits"]["media_max_s"] == 20.0
    refused(client.post("/v1/embed/audio", files={"file": ("a.wav", b"none")}), 415, "not_media")
    metrics = client.get("/metrics").text
    assert (
        'tercet_items{collection="default"}' in metrics
        and 'tercet_decoded_files_total{outcome="not_media"}' in metrics
    )
    page = client.get("/docs").text
    assert "swagger" in page and "cdn." not in page
    script = page.split('src="')[1].split('"')[0]
    assert len(client.get(script).content) > 100_000


def test_the_api_document_tells_of_keys_and_files(client: Client) -> None:
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"] == {"type": "http", "scheme": "bearer"}
    paths = document["paths"]
    assert paths["/v1/models"]["get"]["security"] == [{}, {"key": []}]
    assert "security" not in paths["/healthz"]["get"]
    media = paths["/v1/collections/{name}/items/{id}/media"]["get"]["responses"]
    assert {"video/*", "audio/*", "image/*"} == set(media["200"]["content"])
    assert {"206", "304", "412", "416"} <= set(media)
    ready = paths["/readyz"]["get"]["responses"]
    assert ready["200"]["content"] == ready["503"]["content"]


def test_keys(tmp_path: Path) -> None:
    app = create_app(settings(tmp_path / "data", api_keys=("one", "two")), FakeEncoder())
    with Client(app) as client:
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        for header in (
            {},
            {"authorization": "Bearer three"},
            {"authorization": "one"},
            {"authorization": "Bearer "},
        ):
            answer = client.get("/v1/models", headers=header)
            refused(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        for key in ("one", "two"):
            assert (
                client.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code
                == 200
            )


def test_a_body_over_the_limit_is_refused(tmp_path: Path) -> None:
    app = create_app(settings(tmp_path / "data", upload_max_mb=1, json_max_mb=1), FakeEncoder())
    with Client(app) as client:
        big = {"file": ("a.wav", b"\0" * 2_000_000)}
        refused(client.post("/v1/embed/audio", files=big), 413, "too_large")

        def parts() -> Iterator[bytes]:  # chunked: no length is announced
            for _ in range(20):
                yield b"x" * 100_000

        refused(client.post("/v1/embed/text", content=parts()), 413, "too_large")
    app = create_app(settings(tmp_path / "data", json_max_mb=1), FakeEncoder())
    with Client(app) as client:  # calling itself a form does not make a text request a large one
        headers = {"content-type": "multipart/form-data; boundary=x"}
        refused(
            client.post("/v1/embed/text", content=b"x" * 2_000_000, headers=headers),
            413,
            "too_large",
        )
        assert (
            client.post("/v1/embed/audio", files={"file": ("a.wav", b"\0" * 2_000_000)}).status_code
            == 415
        )
        # nor does a second type make JSON a form, of which routes read the first
        text = b'{"text": "%s"}' % (b"x" * 2_000_000)
        twice = [("content-type", "application/json"), *headers.items()]
        items = "/v1/collections/default/items"
        refused(client.post(items, content=text, headers=twice), 413, "too_large")


def test_an_encoder_that_fails_is_one_requests_error(
    tmp_path: Path, clips: dict[str, Path]
) -> None:
    encoder = FakeEncoder()
    with Client(create_app(settings(tmp_path / "data"), encoder)) as client:
        encoder.poison = "video"
        refused(client.post("/v1/embed/video", files=upload(clips["red"])), 500, "internal")
        encoder.poison = None
        assert client.post("/v1/embed/video", files=upload(clips["red"])).status_code == 200
        assert client.get("/readyz").status_code == 200


def test_a_restart_keeps_everything(tmp_path: Path, clips: dict[str, Path]) -> None:
    with Client(create_app(settings(tmp_path / "data"), FakeEncoder())) as client:
        add(client, clips["red"], id="kept")
    with Client(create_app(settings(tmp_path / "data"), FakeEncoder())) as client:
        assert search(client, "text-video", "red")["hits"][0]["id"] == "kept"
        assert (
            client.get("/v1/collections/default/items/kept/media").content
            == clips["red"].read_bytes()
        )
        assert not list((tmp_path / "data" / "uploads").iterdir())


NULLS: list[tuple[str, dict[str, Any]]] = [
    (
        "search/text-video",
        {
            "query": "red",
            "collection": None,
            "top_k": None,
            "filter": None,
            "exact": None,
            "rerank": None,
            "learned": None,
            "tags": None,
            "feedback": None,
        },
    ),
    (
        "search",
        {
            "parts": [{"text": "red", "weight": None, "then": None}],
            "targets": ["video"],
            "collection": None,
            "aggregate": None,
        },
    ),
    ("collections/default/items", {"text": "red", "id": None, "metadata": None}),
    ("embed/text", {"texts": ["red"], "space": None}),
    ("embeddings", {"input": "red", "model": None, "dimensions": None, "encoding_format": None}),
]


@pytest.mark.parametrize("path, body", NULLS, ids=[path for path, _ in NULLS])
def test_null_is_absent(client: Client, path: str, body: dict[str, Any]) -> None:
    answer = client.post(f"/v1/{path}", json=body)
    assert answer.status_code in (200, 201), answer.text
    needed = next(iter(body))
    problem = refused(client.post(f"/v1/{path}", json={**body, needed: None}), 400, "bad_request")
    assert needed in problem["message"]


def test_a_field_in_the_address_is_named(client: Client, clips: dict[str, Path]) -> None:
    """Nothing would read it there, and the file would be stored under another id."""
    items = "/v1/collections/default/items"
    for path, named in (
        (f"{items}?id=mine", "'id'"),
        ("/v1/search/video-video?collection=other", "'collection'"),
    ):
        answer = client.post(path, files=upload(clips["red"]))
        assert named in refused(answer, 400, "bad_request")["message"]
    answer = client.post("/v1/search/text-video?top_k=1", json={"query": "red"})
    assert "'top_k'" in refused(answer, 400, "bad_request")["message"]
    refused(client.get(f"{items}/mine"), 404, "unknown_item")
    # what is nobody's field, as clients of Azure's service send it
    assert client.post("/v1/embeddings?api-version=1", json={"input": "red"}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("embeddings", {"input": 5.5}, "body.input: this is neither a text nor a list"),
        ("embeddings", {"input": ["a", None]}, "body.input.list.1: this is neither a text nor a"),
        ("embeddings", {"input": [["a"]]}, "body.input.list.0: this is neither a text nor a part"),
        ("embeddings", {"input": [{"type": "text"}]}, "body.input.list.0.part.text: Field req"),
        ("search", {"parts": [{}], "targets": ["any"]}, "parts.0: a part is an object with a text"),
        (
            "search",
            {"parts": [{"text": "a", "wieght": 1}], "targets": ["any"]},
            "parts.0.text.wieght: Extra inputs",
        ),
        (
            "search",
            {"parts": [{"file": "a"}], "targets": ["any"]},
            "parts.0.file.modality: Field required",
        ),
        (
            "feedback",
            {"query": 5, "right": [{"id": "a"}]},
            "body.query: this is neither words nor an item",
        ),
        ("collections", ["a"], "the body is a JSON object"),
    ],
)
def test_one_thing_is_said_of_a_value_that_may_have_several_forms(
    client: Client, path: str, body: Any, message: str
) -> None:
    found = refused(client.post(f"/v1/{path}", json=body), 400, "bad_request")["message"]
    assert found.startswith(message) and ";" not in found


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_json_of_another_type_is_told_which_header_it_lacks(client: Client, kind: str) -> None:
    """As curl sends it without -H."""
    for path, body in (("search/text-any", {"query": "red"}), ("collections", {"name": "more"})):
        answer = client.post(
            f"/v1/{path}", content=json.dumps(body), headers={"content-type": kind}
        )
        found = refused(answer, 400, "bad_request")["message"]
        assert found.endswith("send it with the header Content-Type: application/json")


def test_an_empty_file_is_called_empty(client: Client) -> None:
    answer = client.post("/v1/collections/default/items", files={"file": ("a.mp4", b"")})
    assert refused(answer, 415, "not_media")["detail"] == {"reason": "it is empty"}
