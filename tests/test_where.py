"""Where in a frame, and where in a sound, a query matches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from export.bundle import Bundle, WrongVectors, open_bundle
from export.cells import GraphCells, NoCells, gaussian, lay_out_patches, widen
from export.encoder import OnnxEncoder
from service.app import create_app
from service.settings import Settings

from .makers import GREEN, RED, ROOT, FakeEncoder, make_wav, write_wav

ITEMS = "/v1/collections/default/items"


class WithoutCells:
    """An encoder that does not tell where it sees or hears something."""

    def __init__(self) -> None:
        inner = FakeEncoder()
        self.manifest = inner.manifest
        self.embed, self.tokens, self.read = inner.embed, inner.tokens, inner.read
        self.check = inner.check


def corner(colour: tuple[int, int, int], row: int, column: int) -> np.ndarray:
    """A red picture, one quarter of which has another colour."""
    picture = np.full((64, 64, 3), RED, np.uint8)
    picture[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = colour
    return picture


def make_film(path: Path, seconds: list[np.ndarray]) -> Path:
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=8)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        for picture in seconds:
            for _ in range(8):
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
    return path


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    place = tmp_path_factory.mktemp("where")
    film = make_film(place / "film.mp4", [corner(RED, 0, 0)] * 3 + [corner(GREEN, 1, 0)] * 3)
    Image.fromarray(corner(GREEN, 0, 1)).save(place / "still.png")
    tone = np.zeros(6 * 8000, np.float32)
    tone[4 * 8000 + 2000 : 4 * 8000 + 4000] = 0.5
    write_wav(place / "late.wav", tone, 8000)
    make_wav(place / "short.wav", 1.0)
    app = create_app(Settings(data=place / "data"), FakeEncoder())
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for path in (film, place / "still.png", place / "late.wav", place / "short.wav"):
            sent = {"file": (path.name, path.read_bytes())}
            client.post(ITEMS, files=sent, data={"id": path.stem}).raise_for_status()
        client.post(ITEMS, json={"text": "green", "id": "words"}).raise_for_status()
        yield client


def ask(client: TestClient, id: str, query: str, **more: float) -> dict:
    answer = client.post(f"{ITEMS}/{id}/where", json={"query": query, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_query_is_found_in_its_quarter_of_each_frame(client: TestClient) -> None:
    found = ask(client, "film", "green", start_s=2.0)
    assert (found["start_s"], found["end_s"], found["audio"]) == (2.0, 4.0, None)
    frames = found["video"]["frames"]
    assert [frame["at_s"] for frame in frames] == [2.25, 2.75, 3.25, 3.75]
    # in the first second all is red, in the next a quarter is green
    assert np.max(frames[0]["map"]) < 0.3
    shown = np.array(frames[3]["map"])
    assert shown.shape == (2, 2) and shown[1, 0] > 0.9
    assert shown.max(initial=-1.0, where=[[True, True], [False, True]]) < 0.3


def test_a_window_at_the_end_is_moved_back(client: TestClient) -> None:
    found = ask(client, "film", "green", start_s=5.5)
    assert (found["start_s"], found["end_s"]) == (4.0, 6.0)
    refused = client.post(f"{ITEMS}/film/where", json={"query": "green", "start_s": 6.5})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "bad_stretch")


def test_a_still_picture_has_one_frame(client: TestClient) -> None:
    (frame,) = ask(client, "still", "green")["video"]["frames"]
    assert frame["at_s"] == 0.0
    assert np.unravel_index(np.argmax(frame["map"]), (2, 2)) == (0, 1)


def test_a_query_is_found_in_its_part_of_a_sound(client: TestClient) -> None:
    found = ask(client, "late", "noise", start_s=4.0)
    assert found["video"] is None
    heard = found["audio"]
    assert heard["times_s"] == [4.125 + 0.25 * k for k in range(8)]
    assert heard["bands_hz"] == [[0.0, 4000.0]]
    assert np.argmax(heard["map"][0]) == 1


def test_columns_beyond_the_end_of_a_sound_are_left_out(client: TestClient) -> None:
    heard = ask(client, "short", "noise")["audio"]
    assert heard["times_s"] == [0.125, 0.375, 0.625, 0.875] and len(heard["map"][0]) == 4


def test_what_cannot_be_located_is_refused(client: TestClient, tmp_path: Path) -> None:
    def code(id: str, body: dict) -> tuple[int, str]:
        answer = client.post(f"{ITEMS}/{id}/where", json=body)
        return answer.status_code, answer.json()["error"]["code"]

    assert code("words", {"query": "green"}) == (422, "missing_modality")
    assert code("none", {"query": "green"}) == (404, "unknown_item")
    assert code("film", {"query": ""}) == (400, "bad_text")
    assert code("film", {"query": "green", "start_s": -1}) == (400, "bad_request")
    assert code("film", {"query": "green", "at": 1}) == (400, "bad_request")


def test_an_encoder_without_cells_is_told_of(tmp_path: Path) -> None:
    app = create_app(Settings(data=tmp_path / "data"), WithoutCells())
    with TestClient(app, base_url="http://127.0.0.1") as client:
        wav = make_wav(tmp_path / "a.wav", 1.0).read_bytes()
        client.post(ITEMS, files={"file": ("a.wav", wav)}, data={"id": "a"}).raise_for_status()
        refused = client.post(f"{ITEMS}/a/where", json={"query": "noise"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "no_cells")


# ---------------------------------------------------------------- cells of a bundle


def bundle(name: str) -> Bundle:
    return open_bundle(ROOT / "bundles" / name)


def test_cells_of_the_default_bundle_see_where_a_picture_is() -> None:
    encoder = OnnxEncoder(bundle("default"), threads=1)
    grey = np.full((2, 260, 260, 3), 127, np.uint8)
    even = encoder.see_cells("video", grey).vectors
    assert even.shape == (2, 9, 9, 384)
    assert np.linalg.norm(even, axis=3) == pytest.approx(1.0, abs=1e-3)
    busy = grey.copy()
    busy[1, :130, 130:] = np.random.default_rng(0).integers(0, 256, (130, 130, 3))
    changed = 1 - (encoder.see_cells("video", busy).vectors * even).sum(axis=3)
    assert changed[0].max() < 1e-4
    row, column = np.unravel_index(changed[1].argmax(), (9, 9))
    assert row < 4 < column


def test_cells_of_the_default_bundle_hear_where_a_sound_is() -> None:
    cells = GraphCells(bundle("default"), threads=1)
    quiet = 0.01 * np.random.default_rng(0).normal(size=80_000).astype(np.float32)
    even = cells.hear_cells("audio", quiet)
    assert even.vectors.shape == (2, 30, 384)
    assert even.times_s[0] == 0.08 and even.times_s[-1] == 4.72
    assert even.bands_hz == [(125.0, 1901.0), (1901.0, 7500.0)]
    tone = quiet.copy()
    tone[48_000:64_000] += 0.5 * np.sin(0.05 * np.arange(16_000, dtype=np.float32))
    heard = cells.hear_cells("audio", tone).vectors
    changed = np.linalg.norm(heard - even.vectors, axis=2)
    assert 2.5 < even.times_s[int(changed.max(axis=0).argmax())] < 4.5
    assert changed[:, : 30 // 3].max() < 1e-3


def test_vlsa_has_no_cells() -> None:
    cells = GraphCells(bundle("world"), threads=1)
    with pytest.raises(NoCells):
        cells.see_cells("video", np.zeros(bundle("world").manifest.spec("video").shape, np.uint8))
    with pytest.raises(NoCells):
        cells.hear_cells("audio", np.zeros(16_000, np.float32))


def test_parts_that_give_other_vectors_are_refused() -> None:
    opened = bundle("default")
    opened.manifest.golden["audio"][0][0] += 0.1
    with pytest.raises(WrongVectors):
        GraphCells(opened, threads=1).hear_cells("audio", np.zeros(80_000, np.float32))


def test_a_cell_is_read_with_those_around_it() -> None:
    assert gaussian(9).sum(axis=1) == pytest.approx(1.0)
    features = np.zeros((1, 1, 9, 9), np.float32)
    features[0, 0, 2, 6] = 1.0
    wide = widen(features)[0, 0]
    assert np.unravel_index(wide.argmax(), (9, 9)) in ((2, 6), (1, 7), (0, 8), (1, 6), (2, 7))
    assert wide[2, 6] > wide[6, 2] > 0


def test_overlapping_patches_lie_on_one_time_line() -> None:
    # two patches of 0.96 s, the second 0.48 s later; one band, two columns of 0.48 s
    vectors = np.array([[[[1.0], [2.0]]], [[[4.0], [8.0]]]], np.float32)
    heard = lay_out_patches(vectors)
    assert heard.times_s == [0.12, 0.36, 0.6, 0.84, 1.08, 1.32]
    assert heard.vectors[0, :, 0].tolist() == [1.0, 1.0, 3.0, 3.0, 8.0, 8.0]
