"""Formats that Chromium does not know play on the page, from the moment asked for."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Response, expect

from service.settings import Settings

from .makers import SHARED, needs_shared
from .test_convert import FILMS, SECONDS, SOUNDS, make_ladder
from .test_operate import listening
from .test_page import CHROMIUM, browser, make_film, open_hit, play_hit, until

__all__ = ["browser"]
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ITEMS = "/v1/collections/default/items"
STATE = """() => {
  const media = document.querySelector("#item video, #item audio");
  if (!media || media.error || media.readyState === 0) return null;
  return {
    at: media.currentTime,
    ended: media.ended,
    pictures: media.videoWidth > 0,
    sound: media.webkitAudioDecodedByteCount > 0,
    source: media.currentSrc,
  };
}"""


class Watched:
    """A page, and where the converted versions that it gets begin."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.begins_s = 0.0
        page.on("response", self._note)

    def _note(self, answer: Response) -> None:
        if "tercet-start-s" in answer.headers:
            self.begins_s = float(answer.headers["tercet-start-s"])

    def play(self, address: str, item: dict[str, Any], at_s: float, patience_s: float) -> str:
        """Play an item from a second on. Returns what of it plays and how, or "" where that second
        does not.
        """
        self.begins_s = 0.0
        open_hit(self.page, address, item["id"], at_s)
        play_hit(self.page)
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            state = self.page.evaluate(STATE)
            converted = bool(state) and "/playable" in state["source"]
            at = state["at"] + (self.begins_s if converted else 0.0) if state else -1.0
            wanted = item["modalities"]
            complete = state and all(
                state[part]
                for part, kind in (("pictures", "video"), ("sound", "audio"))
                if kind in wanted
            )
            if complete and at > at_s - 0.3 and (state["ended"] or at > at_s + 0.02):
                return "converted" if converted else "as it is"
            self.page.wait_for_timeout(50)
        return ""


def add(address: str, path: Path, id: str) -> dict[str, Any] | None:
    """The item that is made of a file; None where the service does not take it."""
    with path.open("rb") as file:
        answer = httpx.post(
            address + ITEMS, files={"file": (path.name, file)}, data={"id": id}, timeout=120
        )
    if answer.status_code != 201:
        return None
    found: dict[str, Any] = httpx.get(f"{address}{ITEMS}/{id}").json()
    return found


HOW = {name: "as it is" if name == "vp9.webm" else "converted" for name in FILMS} | {
    "s.aiff": "converted",
    "s.wma": "converted",
    "s.flac": "as it is",
    "h264.mkv": "as it is",
}


def test_formats_play_from_the_moment_asked_for(browser: Browser, tmp_path: Path) -> None:
    for name, (codec, pixels, sound, _) in FILMS.items():
        make_ladder(tmp_path / name, codec, pixels, sound)
    for name, (sound, _) in SOUNDS.items():
        make_ladder(tmp_path / name, "", "", sound)
    found = {}
    with listening(Settings(data=tmp_path / "data")) as port:
        address = f"http://127.0.0.1:{port}"
        page = browser.new_page()
        watched = Watched(page)
        for name in HOW:
            item = add(address, tmp_path / name, name)
            assert item
            found[name] = watched.play(address, item, SECONDS / 2, 15.0)
        page.close()
    assert found == HOW


def test_an_animated_webp_plays(browser: Browser, tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (64, 48), (20 * n, 0, 0)) for n in range(10)]
    path = tmp_path / "a.webp"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=400)
    with listening(Settings(data=tmp_path / "data")) as port:
        address = f"http://127.0.0.1:{port}"
        item = add(address, path, "moving")
        assert item and item["duration_s"] == pytest.approx(4.0)
        page = browser.new_page()
        assert Watched(page).play(address, item, 2.0, 15.0) == "converted"
        page.close()


def test_a_long_film_goes_on_from_stretch_to_stretch(browser: Browser, tmp_path: Path) -> None:
    """Of 70 s, a minute is converted at once; a mark before it brings another."""
    film = tmp_path / "long.avi"
    with av.open(str(film), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for n in range(280):
            grey = np.full((32, 32, 3), n % 200, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode(None))
    with listening(Settings(data=tmp_path / "data")) as port:
        address = f"http://127.0.0.1:{port}"
        item = add(address, film, "long")
        assert item
        page = browser.new_page()
        watched = Watched(page)
        assert watched.play(address, item, 5.0, 15.0) == "converted"
        assert watched.begins_s == 5.0
        video = "document.querySelector('#item video')"
        until(page, f"{video}.duration > 59.9 && {video}.duration < 60.1")
        page.evaluate(f"{video}.currentTime = 59.5")
        until(page, f"{video}.currentSrc.endsWith('start_s=65') && {video}.currentTime > 0.1")
        assert watched.begins_s == 65.0
        assert not page.evaluate(f"{video}.paused")
        page.locator("#item .timeline .matches button").click()
        until(page, f"{video}.currentSrc.endsWith('start_s=5') && {video}.currentTime > 0.1")
        expect(page.locator("#item .note")).to_contain_text("A converted version plays.")
        page.close()


@pytest.mark.parametrize(
    ("name", "sound", "said"),
    [
        ("unseen.mov", "pcm_s16le", "show the pictures of unseen.mov; only its sound plays."),
        ("neither.mov", None, "play neither.mov."),
    ],
)
def test_what_cannot_be_converted_is_told(
    browser: Browser, tmp_path: Path, name: str, sound: str | None, said: str
) -> None:
    # so large that it is not converted before the limit is looked at
    make_film(tmp_path / name, "prores_ks", "yuv422p10le", sound, size=1280)
    with listening(Settings(data=tmp_path / "data", convert_max_s=0.001)) as port:
        address = f"http://127.0.0.1:{port}"
        item = add(address, tmp_path / name, name)
        assert item
        page = browser.new_page()
        open_hit(page, address, name, 1.0)
        play_hit(page)
        note = page.locator("#item .note")
        expect(note).to_contain_text(f"This browser cannot {said} It could not be converted:")
        expect(note).to_contain_text("Download the original")
        if sound:
            until(page, "document.querySelector('#item video')?.currentTime > 1.1")
        page.close()


@needs_shared
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_odd_files_play(browser: Browser, tmp_path: Path) -> None:
    """Every file of the collection that a robust reader reads, from a second of its own on."""
    rows = [json.loads(line) for line in (SHARED / "odd" / "manifest.jsonl").open()]
    wanted = [row for row in rows if row["expect"].startswith("ok")]
    found: dict[str, str] = {}
    settings = Settings(data=tmp_path / "data", decode_max_s=60.0, media_max_s=7300.0)
    with listening(settings) as port:
        address = f"http://127.0.0.1:{port}"
        page = browser.new_page()
        watched = Watched(page)
        for n, row in enumerate(wanted):
            item = add(address, SHARED / row["path"], f"odd-{n}")
            if item is None:
                found[row["path"]] = "not taken"
                continue
            if item["duration_s"] == 0.0:
                found[row["path"]] = "a picture, which is shown"
                continue
            at_s = round(0.4 * item["duration_s"], 3)
            found[row["path"]] = watched.play(address, item, at_s, 30.0)
        page.close()
    assert [name for name, how in found.items() if not how] == []
    # these two are longer than a minute's decoding reaches, or than an item may be
    refused = [name for name, how in found.items() if how == "not taken"]
    assert refused == ["odd/g_b_silence_6h.flac", "odd/g_b_silence_2h.opus"]
    assert Counter(found.values())["converted"] > 40
