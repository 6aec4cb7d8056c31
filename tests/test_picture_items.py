"""Pictures as items and as queries: over HTTP, in builds, on the command line and for clients."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
from PIL import Image
from starlette.testclient import TestClient

from index.__main__ import main
from index.ingest.build import build
from index.library import Collections
from media.containers import Budget
from media.sandbox import Decoders
from service.app import create_app
from service.client import Client as TypedClient
from service.settings import Settings

from .makers import BLUE, GREEN, RED, ROOT, FakeEncoder, make_clip, make_wav


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Films that are red, green and blue, a picture of each, a sound, and a red, then green GIF."""
    place = tmp_path_factory.mktemp("files")
    made = {"tone": make_wav(place / "tone.wav")}
    for name, colour, suffix in (
        ("red", RED, ".jpg"),
        ("green", GREEN, ".webp"),
        ("blue", BLUE, ".png"),
    ):
        made[name] = make_clip(place / f"{name}.mp4", [colour, colour], hz=None)
        made[f"{name} picture"] = place / f"{name}{suffix}"
        Image.new("RGB", (64, 64), colour).save(made[f"{name} picture"])
    made["moving"] = place / "moving.gif"
    red, green = (Image.new("RGB", (64, 64), colour) for colour in (RED, GREEN))
    red.save(made["moving"], save_all=True, append_images=[green], duration=1000)
    return made


@pytest.fixture(scope="module")
def client(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, Path]
) -> Iterator[TestClient]:
    app = create_app(Settings(data=tmp_path_factory.mktemp("service") / "data"), FakeEncoder())
    with TestClient(app, base_url="http://localhost") as client:
        for id, path in files.items():
            if id != "blue picture":
                add(client, path, id)
        yield client


def add(client: TestClient, path: Path, id: str) -> dict[str, Any]:
    answer = client.post(
        "/v1/collections/default/items",
        files={"file": (path.name, path.read_bytes())},
        data={"id": id},
    )
    assert answer.status_code == 201, answer.text
    added: dict[str, Any] = answer.json()
    return added


def search(client: TestClient, route: str, path: Path, **options: Any) -> list[dict[str, Any]]:
    answer = client.post(
        f"/v1/search/{route}", files={"file": (path.name, path.read_bytes())}, data=options
    )
    assert answer.status_code == 200, answer.text
    hits: list[dict[str, Any]] = answer.json()["hits"]
    return hits


def data_url(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def test_a_picture_is_an_item_of_one_window(client: TestClient, files: dict[str, Path]) -> None:
    added = add(client, files["red picture"], "red picture")
    assert (added["windows"], added["modalities"], added["duration_s"]) == (1, ["video"], 0.0)
    item = client.get("/v1/collections/default/items/red picture").json()
    assert (item["kind"], item["filename"], item["duration_s"]) == ("image", "red.jpg", 0.0)
    listed = client.get("/v1/collections/default/items").json()["items"]
    kinds = {item["id"]: item["kind"] for item in listed}
    assert kinds["green picture"] == "image" and kinds["moving"] == "video"
    path = "/v1/collections/default/items/red picture"
    media = client.get(f"{path}/media")
    assert media.headers["content-type"] == "image/jpeg"
    assert media.content == files["red picture"].read_bytes()
    poster = client.get(f"{path}/poster").content
    with Image.open(io.BytesIO(poster)) as small:
        assert small.getpixel((32, 32)) == pytest.approx(RED, abs=12)
    assert client.post(f"{path}/link").json()["poster"] == path.replace(" ", "%20") + "/poster"
    assert client.get(f"{path}/waveform").status_code == 404


@pytest.mark.parametrize("target", ["any", "video"])
def test_a_picture_finds_the_film_with_its_scene(
    client: TestClient, files: dict[str, Path], target: str
) -> None:
    hits = search(client, f"video-{target}", files["blue picture"])
    assert hits[0]["id"] == "blue" and hits[0]["score"] == pytest.approx(1.0, abs=0.01)


def test_a_picture_is_found_at_zero_seconds(client: TestClient) -> None:
    answer = client.post(
        "/v1/search/text-any", json={"query": "green", "filter": {"kind": "image"}}
    )
    assert [hit["id"] for hit in answer.json()["hits"]] == ["green picture", "red picture"]
    best = answer.json()["hits"][0]
    assert (best["kind"], best["start_s"], best["end_s"]) == ("image", 0.0, 0.0)
    moments = [(moment["start_s"], moment["end_s"]) for moment in best["moments"]]
    assert moments == [(0.0, 0.0)]


def test_a_moving_picture_is_searched_by_both_of_its_scenes(
    client: TestClient, files: dict[str, Path]
) -> None:
    hits = search(client, "video-video", files["moving"])
    assert hits[0]["id"] == "moving" and hits[0]["end_s"] == pytest.approx(2.0, abs=0.05)


def test_a_picture_in_a_composed_search(client: TestClient, files: dict[str, Path]) -> None:
    parts = [{"file": "scene", "modality": "video"}, {"text": "green", "weight": 0.2}]
    request = {"parts": parts, "targets": ["any"]}
    answer = client.post(
        "/v1/search",
        files={"scene": ("blue.png", files["blue picture"].read_bytes())},
        data={"request": json.dumps(request)},
    )
    assert answer.json()["hits"][0]["id"] == "blue"
    like = {"parts": [{"item": "red picture", "modality": "video"}], "targets": ["video"]}
    found = client.post("/v1/search", json=like).json()["hits"]
    assert {hit["id"] for hit in found[:2]} == {"red", "red picture"}


def test_pictures_are_embedded(client: TestClient, files: dict[str, Path]) -> None:
    def embed(name: str) -> dict[str, Any]:
        file = {"file": (files[name].name, files[name].read_bytes())}
        one: dict[str, Any] = client.post("/v1/embed/video", files=file).json()["data"][0]
        return one

    one = embed("blue picture")
    assert [(w["start_s"], w["end_s"]) for w in one["windows"]] == [(0.0, 0.0)]
    assert one["embedding"] == pytest.approx(embed("blue")["embedding"], abs=0.02)
    file = {"file": ("a.png", files["blue picture"].read_bytes())}
    refused = client.post("/v1/embed/audio", files=file)
    assert refused.status_code == 422
    assert refused.json()["error"]["code"] == "missing_modality"


def test_pictures_in_openais_shape(client: TestClient, files: dict[str, Path]) -> None:
    picture = {"type": "image_url", "image_url": {"url": data_url(files["red picture"])}}
    answer = client.post("/v1/embeddings", json={"input": ["red", picture]})
    assert answer.status_code == 200, answer.text
    text, seen = (one["embedding"] for one in answer.json()["data"])
    assert sum(a * b for a, b in zip(text, seen, strict=True)) > 0.95
    elsewhere = picture | {"image_url": {"url": "https://example.com/a.png"}}
    refused = client.post("/v1/embeddings", json={"input": [elsewhere]})
    assert refused.status_code == 400 and "data URL" in refused.json()["error"]["message"]
    broken = picture | {"image_url": {"url": "data:image/png;base64,%%%"}}
    refused = client.post("/v1/embeddings", json={"input": [broken]})
    assert refused.status_code == 400 and "base64" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "not_media"),
        (b"%PDF-1.7", 415, "not_media"),
        (b"\xff\xd8\xff\xe0" + bytes(20), 422, "damaged"),
        (b"RIFF\x20\0\0\0WEBPVP8L" + bytes(20), 422, "damaged"),
    ],
)
def test_bad_pictures_get_an_answer(
    client: TestClient, data: bytes, status: int, code: str
) -> None:
    answer = client.post("/v1/collections/default/items", files={"file": ("a.png", data)})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "/tmp" not in answer.text


def test_the_typed_client_searches_by_what_a_file_is(files: dict[str, Path]) -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(200, json={"hits": []})

    with TypedClient("http://localhost", transport=httpx.MockTransport(answer)) as tercet:
        for name in ("blue picture", "moving", "tone", "red"):
            tercet.search(files[name])
        tercet.search(files["red"], source="video", target="text")
    paths = ["video-any", "video-any", "audio-any", "audio-any", "video-text"]
    assert asked == [f"/v1/search/{path}" for path in paths]


# ---------------------------------------------------------------- builds


def test_folders_manifests_and_shards_of_pictures(tmp_path: Path, files: dict[str, Path]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("red", "green", "blue"):
        path = files[f"{name} picture"]
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (folder / "drawing.svg").write_bytes(b"<svg/>")
    row = {"path": "photos/red.jpg", "id": "captioned", "text": "green", "metadata": {"year": 1}}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        shard.add(files["blue picture"], "one.png")
        about = b'{"text": "blue"}'
        member = tarfile.TarInfo("one.json")
        member.size = len(about)
        shard.addfile(member, io.BytesIO(about))
    encoder = FakeEncoder()
    collections = Collections(tmp_path / "data", "fake", encoder.manifest.dims)
    decoders = Decoders(1)
    try:
        collection = collections.ensure("default")
        paths = [folder, tmp_path / "rows.jsonl", tmp_path / "shard.tar"]
        *_, (_, _, report) = build(encoder, collection, paths, decoders, Budget())
        items = {item.id: item for item in collection.page(10, "")}
    finally:
        decoders.close()
        collections.close()
    assert report.indexed == 5 and report.ignored == 1
    assert [Path(name).name for name in report.failed] == ["bad.jpg"]
    assert {item.kind for item in items.values()} == {"image"} and len(items) == 5
    assert items["captioned"].modalities == ("text", "video")


def test_a_song_with_a_cover_stays_a_sound(tmp_path: Path, files: dict[str, Path]) -> None:
    """An MP3 and an audio book (M4B's kind) whose cover is an attached picture."""
    app = create_app(Settings(data=tmp_path / "data"), FakeEncoder())
    with TestClient(app, base_url="http://localhost") as client:
        for suffix, container, codec in (("mp3", "mp3", "libmp3lame"), ("m4b", "mp4", "aac")):
            path = tmp_path / f"song.{suffix}"
            with_cover(files["tone"], files["red picture"], path, container, codec)
            assert add(client, path, suffix)["modalities"] == ["audio"]
            item = client.get(f"/v1/collections/default/items/{suffix}").json()
            assert item["kind"] == "audio"


def with_cover(sound: Path, cover: Path, path: Path, container: str, codec: str) -> None:
    with av.open(str(sound)) as heard, av.open(str(path), "w", format=container) as out:
        song = out.add_stream(codec, rate=16_000)
        picture = out.add_stream("mjpeg", rate=1)
        assert isinstance(picture, av.VideoStream) and isinstance(song, av.AudioStream)
        picture.width = picture.height = 64
        picture.pix_fmt = "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        with Image.open(cover) as seen:
            frame = av.VideoFrame.from_image(seen)
        out.mux(picture.encode(frame))
        out.mux(picture.encode(None))
        for one in heard.decode(audio=0):
            out.mux(song.encode(one))
        out.mux(song.encode(None))


def test_the_command_searches_by_a_picture(
    tmp_path: Path, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(tmp_path / "data"), "--bundle", str(ROOT / "bundles" / "default")]
    sources = [str(files[name]) for name in ("red", "green", "blue", "red picture")]
    assert main(["build", *data, *sources]) == 0
    capsys.readouterr()
    picture = str(files["blue picture"])
    assert main(["search", *data, "--image", picture, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["route"] == "video-any" and answer["hits"][0]["id"] == "blue.mp4"
    assert main(["search", *data, "--image", str(files["red picture"])]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.endswith(" red.jpg")]
    assert line.split()[2] == "picture"
    assert main(["search", *data, "--image", str(files["tone"])]) == 1
    assert "this file has no video" in capsys.readouterr().err
