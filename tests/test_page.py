"""The search page in a real browser: words, files, playing from the moment, adding, filters,
keyboard, dark, small.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from urllib.parse import quote_plus

import av
import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, Response, Route, expect, sync_playwright

from service.settings import Settings

from .makers import BLUE, GREEN, RED, make_clip, make_spoken_film, make_wav
from .test_operate import listening

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("clips")
    (place / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(300))
    return {
        "red": make_clip(place / "red.mp4", [RED, RED], hz=None),
        "story": make_clip(place / "story.mp4", [GREEN] * 4 + [BLUE] * 4, hz=330.0),
        "tone": make_wav(place / "tone.wav", 3.0),
        "late": make_clip(place / "late.mp4", [RED, GREEN], hz=None),
        "broken": place / "broken.mp4",
    }


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, library: dict[str, Path]) -> Iterator[str]:
    with listening(Settings(data=tmp_path_factory.mktemp("page") / "data")) as port:
        address = f"http://127.0.0.1:{port}"
        for n, name in enumerate(("red", "story", "tone")):
            with library[name].open("rb") as file:
                fields = {"id": name, "metadata": json.dumps({"year": 2020 + n, "by": "<b>me</b>"})}
                answer = httpx.post(
                    f"{address}/v1/collections/default/items", files={"file": file}, data=fields
                )
                answer.raise_for_status()
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        flags.append("--use-fake-device-for-media-stream")  # a microphone that beeps each second
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page, opened; afterwards nothing was said on the console and no request has left the
    origin.
    """
    context = browser.new_context()
    page = context.new_page()
    said: list[str] = []
    page.on(
        "console", lambda message: said.append(message.text) if message.type == "error" else None
    )
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((address, "data:", "blob:"))
            else said.append(request.url)
        ),
    )
    page.goto(address)
    expect(page.locator("#collection")).to_contain_text("default")
    yield page
    context.close()
    refused = "status of 415"  # what a browser says by itself of a file that was turned down
    assert [line for line in said if refused not in line] == []


def until(page: Page, truth: str) -> None:
    """Wait for an expression; the page's own policy forbids Playwright's way to."""
    end = time.monotonic() + 15
    while not page.evaluate(truth):
        assert time.monotonic() < end, truth
        page.wait_for_timeout(50)


def middle_of(page: Page, image: str) -> str:
    """The strongest colour in the middle of a picture."""
    pixel = page.evaluate(
        """image => { const seen = document.querySelector(image);
        const canvas = document.createElement('canvas');
        canvas.width = canvas.height = 9;
        const ink = canvas.getContext('2d'); ink.drawImage(seen, 0, 0, 9, 9);
        return [...ink.getImageData(4, 4, 1, 1).data].slice(0, 3); }""",
        image,
    )
    return ["red", "green", "blue"][pixel.index(max(pixel))]


def find(page: Page, text: str) -> None:
    page.get_by_role("combobox", name="Search words").fill(text)
    expect(page).to_have_url(re.compile(f"q={re.escape(quote_plus(text))}(&|$)"))
    expect(page.get_by_role("status")).to_contain_text("moment")


def choose_filters(page: Page) -> None:
    page.get_by_role("button", name="Filters").click()


def test_words_find_a_moment_that_plays_from_where_it_matches(page: Page) -> None:
    find(page, "blue")
    first = page.locator("#hits > li").first
    expect(first.get_by_role("heading")).to_have_text("story.mp4")
    expect(first.locator(".when")).to_have_text("0:04 – 0:08")
    expect(first.locator(".why")).to_contain_text("Seen")
    until(page, "document.querySelector('#hits .cover img')?.naturalWidth > 1")
    assert middle_of(page, "#hits .cover img") == "blue"  # of the moment, not of its start in green
    first.get_by_role("link", name="Play story.mp4 from 0:04").click()
    until(page, "document.querySelector('#item video')?.currentTime > 4.1")
    assert page.evaluate("!document.querySelector('#item video')?.paused")
    assert page.evaluate("document.querySelector('#item video')?.currentTime") < 8.1


def test_before_anything_is_asked_the_library_is_shown(page: Page, address: str) -> None:
    """The items that were added last come first, each by its highlight; and how to begin."""
    expect(page.locator("#hits h2")).to_have_text(["tone.wav", "story.mp4", "red.mp4"])
    story = page.locator("#hits > li").nth(1)
    story.scroll_into_view_if_needed()
    expect(story.locator(".when")).to_have_text("0:08")
    until(page, "document.querySelectorAll('#hits .cover img')[0]?.naturalWidth > 1")
    expect(page.get_by_role("heading", name="Added last")).to_be_visible()
    expect(page.locator("#collections")).to_contain_text("default")
    find(page, "blue")
    expect(page.locator("#hits h2").first).to_have_text("story.mp4")
    expect(page.locator("#library")).to_be_hidden()
    page.get_by_role("button", name="Clear the search").click()
    expect(page.locator("#hits h2")).to_have_text(["tone.wav", "story.mp4", "red.mp4"])
    expect(page.get_by_role("status")).to_have_text("")
    assert page.url == f"{address}/"


def test_where_it_matches_is_drawn_over_the_picture(page: Page) -> None:
    find(page, "blue")
    page.goto(f"{page.url}&item=story&t=4")
    item = page.locator("#item")
    item.locator(".cover img").wait_for()
    item.locator(".timeline .waveform").wait_for()
    item.get_by_role("button", name="Show where").click()
    expect(item.locator(".cover .map rect")).to_have_count(4)
    expect(item.locator(".timeline .map rect")).to_have_count(8)
    # the picture has one colour, so no quarter of it matches better
    shades = item.locator(".cover .map rect").evaluate_all(
        "cells => cells.map((cell) => Number(cell.getAttribute('fill-opacity')))"
    )
    assert len(shades) == 4 and min(shades) >= 0.0
    expect(item.locator(".note")).to_have_text("")
    item.get_by_role("button", name="Play story.mp4 from 0:04").click()
    expect(item.locator(".media .map")).to_have_count(0)


def drop(page: Page, path: Path, kind: str, place: str) -> None:
    """A file, on one of the two places that appear."""
    data = page.evaluate_handle(
        """([bytes, name, type]) => { const data = new DataTransfer();
        const file = new File([new Uint8Array(bytes)], name, {type});
        data.items.add(file); return data; }""",
        [list(path.read_bytes()), f"dropped{path.suffix}", kind],
    )
    page.dispatch_event("body", "dragenter", {"dataTransfer": data})
    expect(page.locator(f"[data-drop={place}]")).to_be_visible()
    page.dispatch_event(f"[data-drop={place}]", "drop", {"dataTransfer": data})
    expect(page.locator(f"[data-drop={place}]")).to_be_hidden()


def test_a_dropped_sound_and_more_like_this(page: Page, library: dict[str, Path]) -> None:
    choose_filters(page)
    page.get_by_role("checkbox", name="pictures").uncheck()
    page.locator("#example").set_input_files(library["tone"])
    expect(page.locator("#chips")).to_contain_text("like tone.wav")
    titles = {"tone.wav", "story.mp4"}
    expect(page.locator("#hits > li")).to_have_count(2)
    expect(page.get_by_role("status")).to_have_text("2 moments.")
    assert set(page.locator("#hits h2").all_text_contents()) == titles
    drop(page, library["tone"], "audio/wav", "search")
    expect(page.locator("#chips")).to_contain_text("like dropped.wav")
    expect(page.locator("#chips li")).to_have_count(1)
    expect(page.locator("#hits > li")).to_have_count(2)
    page.get_by_role("checkbox", name="pictures").check()
    page.get_by_role("checkbox", name="sound").uncheck()
    page.get_by_role("button", name="Remove like dropped.wav").click()
    find(page, "red")
    expect(page.locator("#hits h2").first).to_have_text("red.mp4")
    page.locator("#hits > li").first.get_by_role("button", name="More like this").click()
    expect(page.locator("#chips")).to_contain_text("like red")
    expect(page.locator("#hits h2").first).to_have_text("red.mp4")


def delete_added(address: str, filename: str) -> None:
    items = httpx.get(f"{address}/v1/collections/default/items").json()["items"]
    added = next(item["id"] for item in items if item["filename"] == filename)
    httpx.delete(f"{address}/v1/collections/default/items/{added}").raise_for_status()


def test_a_picture_is_added_shown_and_searched_by(page: Page, tmp_path: Path, address: str) -> None:
    """It has no length and nothing to play."""
    picture = tmp_path / "sky.webp"
    Image.new("RGB", (64, 48), BLUE).save(picture)
    page.locator("#add").set_input_files(picture)
    expect(page.get_by_role("list", name="Uploads")).to_contain_text("Added.")
    expect(page.locator("#hits h2").first).to_have_text("sky.webp")
    page.locator("#example").set_input_files(picture)
    expect(page.locator("#chips")).to_contain_text("like sky.webp")
    expect(page.get_by_role("status")).to_contain_text("moment")
    shown = page.locator("#hits > li").filter(has=page.get_by_role("heading", name="sky.webp"))
    until(page, "document.querySelector('#hits .cover.image img')?.naturalWidth > 1")
    assert middle_of(page, "#hits .cover.image img") == "blue"
    expect(shown.locator(".when")).to_have_text("Picture")
    expect(shown.get_by_role("button")).to_have_text("More like this")
    # the film with this scene is found beside the picture itself
    assert set(page.locator("#hits h2").all_text_contents()[:2]) == {"sky.webp", "story.mp4"}
    shown.get_by_role("link", name="Open sky.webp").click()
    until(page, "document.querySelector('#item .media > img')?.naturalWidth === 64")
    expect(page.locator("#item .media .cover")).to_have_count(0)
    page.go_back()
    expect(page.locator("#item")).to_be_hidden()
    delete_added(address, "sky.webp")


def test_what_is_added_is_found_and_what_is_broken_is_told(
    page: Page, library: dict[str, Path], address: str
) -> None:
    page.locator("#add").set_input_files([library["broken"], library["late"]])
    uploads = page.get_by_role("list", name="Uploads")
    expect(uploads).to_contain_text("Added, 0:02.")
    expect(uploads.locator(".bad")).to_contain_text("broken.mp4")
    expect(uploads.locator(".bad")).to_contain_text("media file")
    with page.expect_response(lambda answer: answer.status == 415):
        uploads.get_by_role("button", name="Try again").click()
    expect(uploads.locator(".bad")).to_contain_text("media file")
    uploads.get_by_role("button", name="Remove broken.mp4").click()
    expect(uploads.locator(".bad")).to_have_count(0)
    find(page, "red green")
    expect(page.locator("#hits h2").first).to_have_text("late.mp4")
    delete_added(address, "late.mp4")


def test_a_dropped_clip_is_added_and_one_finds_its_like(
    page: Page, library: dict[str, Path], address: str
) -> None:
    drop(page, library["late"], "video/mp4", "add")
    expect(page.get_by_role("list", name="Uploads")).to_contain_text("Added, 0:02.")
    drop(page, library["late"], "video/mp4", "search")
    expect(page.locator("#chips")).to_contain_text("like dropped.mp4")
    expect(page.locator("#hits h2").first).to_have_text("dropped.mp4")
    delete_added(address, "dropped.mp4")


def test_filters(page: Page) -> None:
    find(page, "red")
    choose_filters(page)
    page.get_by_label("Field").fill("year")
    page.get_by_label("Relation").select_option("is above")
    page.get_by_label("Value").fill("2020")
    page.get_by_label("Value").press("Tab")
    expect(page.locator("#hits h2").filter(has_text="red.mp4")).to_have_count(0)
    expect(page.locator("#hits h2").first).to_be_visible()
    page.get_by_label("Value").fill("2030")
    page.get_by_label("Value").press("Tab")
    expect(page.get_by_role("status")).to_have_text("No moments found.")
    expect(page.get_by_role("button", name="Without filters")).to_be_visible()
    page.get_by_role("button", name="Remove this condition").click()
    expect(page.locator("#hits h2").first).to_have_text("red.mp4")


def test_by_keyboard_alone(page: Page) -> None:
    page.keyboard.type("blue")
    page.keyboard.press("Enter")
    expect(page.locator("#hits h2").first).to_have_text("story.mp4")
    page.locator("#hits .cover img").first.wait_for()
    for _ in range(40):
        page.keyboard.press("Tab")
        label = page.evaluate("document.activeElement.getAttribute('aria-label')")
        if label == "Play story.mp4 from 0:04":
            break
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#item video')?.currentTime > 4.1")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 768, 1280, 1920])
def test_it_can_be_read_by_everyone(
    browser: Browser, address: str, tmp_path: Path, scheme: str, width: int
) -> None:
    """No violation that axe knows of, and nothing wider than the screen, in the library, in
    results and in an item; the pictures are kept where CI wants them.
    """
    place = Path(os.environ.get("TERCET_SCREENSHOTS", tmp_path))
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(address)
    page.locator("#hits .cover img").first.wait_for()
    check_view(page, place / f"page-library-{scheme}-{width}.png")
    find(page, "red")
    choose_filters(page)
    for card in page.locator("#hits > li").all():  # which are filled as they come into view
        card.scroll_into_view_if_needed()
        card.locator(".cover :is(img, svg)").first.wait_for()
    page.locator("#hits .cover svg").first.wait_for()
    check_view(page, place / f"page-{scheme}-{width}.png")
    page.goto(f"{address}/?q=blue&item=story&t=4")
    alike = page.locator("#item .alike .card").first
    alike.scroll_into_view_if_needed()
    alike.locator(".cover :is(img, svg)").first.wait_for()
    check_view(page, place / f"page-item-{scheme}-{width}.png")
    context.close()


def check_view(page: Page, picture: Path) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.screenshot(path=picture, full_page=True)


def test_a_card_asks_for_its_picture_when_it_comes_into_view(
    browser: Browser, address: str
) -> None:
    """On a small phone the first of three cards is in view, and the second nearly."""
    page = browser.new_page(viewport={"width": 320, "height": 320})
    asked: list[str] = []
    page.on(
        "request", lambda request: asked.append(request.url) if "/items/" in request.url else None
    )
    page.goto(f"{address}/?q=red")
    page.locator("#hits .cover").first.wait_for()
    page.wait_for_timeout(300)
    assert not any("tone" in url for url in asked)
    page.locator("#hits > li").last.scroll_into_view_if_needed()
    page.locator("#hits > li").last.locator(".cover svg").wait_for()
    assert any("tone" in url and url.endswith("/waveform") for url in asked)
    page.close()


def make_film(path: Path, codec: str, pixels: str, sound: str | None, size: int = 64) -> Path:
    """Four seconds of blue with a tone, in codecs that no browser need have."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=8)
        video.width = video.height = size
        video.pix_fmt = pixels
        audio = container.add_stream(sound, rate=48_000, layout="stereo") if sound else None
        image = np.full((size, size, 3), BLUE, np.uint8)
        for _ in range(32):
            container.mux(
                video.encode(
                    av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
                )
            )
        container.mux(video.encode(None))
        if audio:
            encode_tone(container, audio, [440.0] * 4)
    return path


def encode_tone(
    container: av.container.OutputContainer, stream: av.AudioStream, hz: list[float]
) -> None:
    """A second of each tone."""
    rate, resampler = (
        stream.rate,
        av.AudioResampler(stream.format.name, stream.layout.name, stream.rate),
    )
    t = np.arange(rate) / rate
    for second, tone in enumerate(hz):
        samples = (9000 * np.sin(2 * np.pi * tone * t)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, second * rate, Fraction(1, rate)
        for part in resampler.resample(frame):
            container.mux(stream.encode(part))
    container.mux(stream.encode(None))


def make_bare_mp3(path: Path) -> Path:
    """40 s, each of a tone of its own (300 Hz, 350, ...): half of them in few bits, half in many,
    and no table.
    """
    whole = b""
    for kbits, begin in ((32, 0), (160, 20)):
        part = path.with_name(f"{kbits}.mp3")
        with av.open(
            str(part), "w", options={"write_xing": "0", "id3v2_version": "0"}
        ) as container:
            stream = container.add_stream(
                "libmp3lame", rate=48_000, layout="mono", bit_rate=1000 * kbits
            )
            encode_tone(
                container, stream, [300.0 + 50 * second for second in range(begin, begin + 20)]
            )
        whole += part.read_bytes()
    path.write_bytes(whole)
    return path


def add_file(address: str, path: Path, **headers: str) -> None:
    with path.open("rb") as file:
        answer = httpx.post(
            f"{address}/v1/collections/default/items",
            files={"file": file},
            data={"id": path.name},
            headers=headers,
        )
    answer.raise_for_status()


def play_hit(page: Page) -> None:
    page.locator("#hits .cover").first.click()


def open_hit(page: Page, address: str, id: str, at_s: float, **headers: str) -> None:
    """The page with one hit: that item, from that second on."""
    item = httpx.get(f"{address}/v1/collections/default/items/{id}", headers=headers).json()
    moment = {"start_s": at_s, "end_s": at_s + 2, "score": 0.5}
    target = "video" if "video" in item["modalities"] else "audio"

    def answer(route: Route) -> None:
        found = route.fetch().json()
        assert "hits" in found, found
        found["hits"] = [
            {**found["hits"][0], **item, **moment, "target": target, "moments": [moment]}
        ]
        route.fulfill(json=found)

    page.route("**/v1/search", answer)
    page.goto(address)
    expect(page.locator("#collection")).to_contain_text("default")
    find(page, "blue")


HEARD = """async () => {
  const media = document.querySelector('#item audio');
  const context = new AudioContext(), ear = context.createAnalyser();
  ear.fftSize = 16384;
  context.createMediaElementSource(media).connect(ear).connect(context.destination);
  await new Promise((done) => setTimeout(done, 700));
  const levels = new Float32Array(ear.frequencyBinCount), step = context.sampleRate / ear.fftSize;
  ear.getFloatFrequencyData(levels);
  const loudest = levels.indexOf(Math.max(...levels));
  return [media.currentTime, (loudest * step - 300) / 50];
}"""


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A service of films and sounds that Chromium plays wrongly, or not at all; and where the files
    are.
    """
    place = tmp_path_factory.mktemp("odd")
    with listening(Settings(data=place / "data")) as port:
        address = f"http://127.0.0.1:{port}"
        make_film(place / "unseen.mov", "prores_ks", "yuv422p10le", "pcm_s16le")
        make_film(place / "unheard.mp4", "libx264", "yuv420p", "ac3")
        make_film(place / "neither.mov", "prores_ks", "yuv422p10le", None)
        make_film(place / "both.mp4", "libx264", "yuv420p", "aac")
        make_bare_mp3(place / "bare.mp3")
        story = make_clip(place / "story.mp4", [GREEN] * 4 + [BLUE] * 4, hz=330.0)
        with (
            av.open(str(story)) as source,
            av.open(str(place / "fragments.mp4"), "w", options=FRAGMENTS) as copy,
        ):
            streams = {stream: copy.add_stream_from_template(stream) for stream in source.streams}
            for packet in source.demux():
                if packet.dts is not None:
                    packet.stream = streams[packet.stream]
                    copy.mux(packet)
        for name in (
            "unseen.mov",
            "unheard.mp4",
            "neither.mov",
            "both.mp4",
            "bare.mp3",
            "fragments.mp4",
        ):
            add_file(address, place / name)
        yield address, place


FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
TOLD = {
    "unseen.mov": "This browser cannot show the pictures of unseen.mov. A converted version plays.",
    "unheard.mp4": "This browser cannot play the sound of unheard.mp4. A converted version plays.",
    "neither.mov": "This browser cannot play neither.mov. A converted version plays.",
    "both.mp4": "",
}


@pytest.mark.parametrize("name", TOLD)
def test_what_the_browser_cannot_play_is_told(
    browser: Browser, odd: tuple[str, Path], tmp_path: Path, name: str
) -> None:
    """On a phone, too, and the original can be had."""
    address, place = odd
    page = browser.new_page(viewport={"width": 375, "height": 800}, accept_downloads=True)
    open_hit(page, address, name, 0.0)
    page.locator("#hits .cover img").wait_for()
    play_hit(page)
    said = page.locator("#item .note")
    if TOLD[name]:
        expect(said).to_contain_text(TOLD[name])
        with page.expect_download() as download:
            said.get_by_role("link", name="Download the original").click()
        assert Path(download.value.path()).read_bytes() == (place / name).read_bytes()
        assert download.value.suggested_filename == name
    until(page, "document.querySelector('#item video')?.currentTime > 1.6")
    assert page.evaluate("document.querySelector('#item video')?.videoWidth") == 64
    if name != "neither.mov":
        until(page, "document.querySelector('#item video')?.webkitAudioDecodedByteCount > 0")
    expect(said).to_contain_text(TOLD[name])
    assert bool(said.inner_text()) == bool(TOLD[name])
    assert Axe().run(page).violations_count == 0
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.screenshot(
        path=Path(os.environ.get("TERCET_SCREENSHOTS", tmp_path)) / f"told-{Path(name).stem}.png"
    )
    page.close()


@pytest.mark.parametrize("at_s", [12, 31])
def test_a_sound_without_a_table_is_heard_from_the_second_asked_for(
    browser: Browser, odd: tuple[str, Path], at_s: int
) -> None:
    page = browser.new_page()
    open_hit(page, odd[0], "bare.mp3", at_s)
    play_hit(page)
    until(page, f"document.querySelector('#item audio')?.currentTime > {at_s}")
    shown, heard = page.evaluate(HEARD)
    assert at_s < shown < at_s + 4
    assert heard == pytest.approx(int(shown), abs=1.1)
    assert page.evaluate("document.querySelector('#item audio')?.duration") == pytest.approx(
        40.0, abs=0.2
    )
    expect(page.locator("#item .note")).to_have_text("")
    page.close()


LIKE_FIREFOX = """() => {
  // What has come is taken for the whole, and a jump ends there.
  const own = HTMLMediaElement.prototype;
  const time = Object.getOwnPropertyDescriptor(own, 'currentTime');
  window.come = 2;
  const set = function (at) { time.set.call(this, Math.min(at, window.come)); };
  Object.defineProperty(own, 'currentTime', { get: time.get, set });
  Object.defineProperty(own, 'duration', { get: () => window.come });
  const nothing = { get: () => ({ length: 0 }) };
  for (const name of ['buffered', 'seekable']) Object.defineProperty(own, name, nothing);
  Object.defineProperty(own, 'networkState', { get: () => HTMLMediaElement.NETWORK_LOADING });
}"""
MORE = """seconds => {
  window.come = seconds;
  document.querySelector('#item video').dispatchEvent(new Event('progress'));
}"""


def test_a_jump_is_repeated_until_it_is_reached(browser: Browser, odd: tuple[str, Path]) -> None:
    page = browser.new_page()
    open_hit(page, odd[0], "fragments.mp4", 6.0)
    page.evaluate(LIKE_FIREFOX)
    play_hit(page)
    said, film = page.locator("#item .note"), "document.querySelector('#item video')"
    expect(said).to_have_text("Loading up to 0:06: the file does not state its length …")
    assert page.evaluate(f"[{film}.currentTime, {film}.paused]") == [2, True]
    page.evaluate(MORE, 4)
    page.wait_for_timeout(200)
    assert page.evaluate(f"[{film}.currentTime, {film}.paused]") == [2, True]
    page.evaluate(MORE, 8)
    until(page, f"{film}.currentTime > 6.1 && !{film}.paused")
    expect(said).to_have_text("")
    page.close()


def test_a_jump_is_given_up_where_one_goes_elsewhere(
    browser: Browser, odd: tuple[str, Path]
) -> None:
    page = browser.new_page()
    open_hit(page, odd[0], "fragments.mp4", 6.0)
    page.evaluate(LIKE_FIREFOX)
    play_hit(page)
    said, film = page.locator("#item .note"), "document.querySelector('#item video')"
    expect(said).to_contain_text("Loading up to 0:06")
    page.evaluate(f"{film}.currentTime = 1")
    expect(said).to_have_text("")
    page.evaluate(MORE, 8)
    page.wait_for_timeout(300)
    assert page.evaluate(f"{film}.currentTime") == 1
    page.close()


def test_a_jump_in_a_film_that_tells_no_length_and_one_beyond_its_end(
    browser: Browser, odd: tuple[str, Path]
) -> None:
    page = browser.new_page()
    film = "document.querySelector('#item video')"
    open_hit(page, odd[0], "fragments.mp4", 6.0)
    play_hit(page)
    until(page, f"{film}?.currentTime > 6.1")
    assert page.evaluate(f"{film}.currentTime") < 8.1
    page.unroute("**/v1/search")
    open_hit(page, odd[0], "fragments.mp4", 60.0)
    play_hit(page)
    expect(page.locator("#item .note")).to_have_text(
        "Playback cannot go beyond 0:08.", timeout=10_000
    )
    page.close()


def drop_folder(page: Page, folder: Path, where: str) -> None:
    """As a file manager does; a script cannot."""
    tools = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}

    def drag(kind: str, x: float, y: float) -> None:
        tools.send("Input.dispatchDragEvent", {"type": kind, "x": x, "y": y, "data": data})

    drag("dragEnter", 300, 300)
    drag("dragOver", 300, 300)
    box = page.locator(f"[data-drop={where}]").bounding_box()
    assert box
    for kind in ("dragEnter", "dragOver", "drop"):
        drag(kind, box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def test_a_dropped_folder_adds_its_files(browser: Browser, tmp_path: Path) -> None:
    """All of them, though Chromium lists a hundred at a time, in folders below, too; the rest is
    named.
    """
    folder = tmp_path / "holiday"
    (folder / "sea" / "deep").mkdir(parents=True)
    tone = make_wav(tmp_path / "tone.wav", 0.2).read_bytes()
    for n in range(103):
        (folder / f"{n}.wav").write_bytes(tone)
    (folder / "sea" / "deep" / "LAST.WAV").write_bytes(tone)
    for name in ("a.txt", "b.pdf", "sea/c.doc", ".hidden", "wav"):
        (folder / name).write_bytes(b"x")
    (folder / "sea" / "broken.wav").write_bytes(b"no sound")
    with listening(Settings(data=tmp_path / "data")) as port:
        address = f"http://127.0.0.1:{port}"
        page = browser.new_page(viewport={"width": 375, "height": 800})
        page.goto(address)
        expect(page.locator("#collection")).to_contain_text("default")
        drop_folder(page, folder, "search")
        expect(page.get_by_role("status")).to_contain_text("A folder cannot be searched by.")
        drop_folder(page, folder, "add")
        uploads = page.get_by_role("list", name="Uploads")
        expect(uploads).to_contain_text("of 105 files")
        expect(uploads).to_contain_text("104 files added; 1 not added; 5 skipped", timeout=60_000)
        expect(uploads).to_contain_text("not audio, video or pictures:")
        expect(uploads.locator("li")).to_have_count(2)
        expect(uploads).to_contain_text("sea/broken.wav")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        page.screenshot(path=Path(os.environ.get("TERCET_SCREENSHOTS", tmp_path)) / "folder.png")
        items = httpx.get(f"{address}/v1/collections/default/items?limit=1000").json()["items"]
        assert {item["filename"] for item in items} == {f"{n}.wav" for n in range(103)} | {
            "LAST.WAV"
        }
        page.close()


def test_behind_a_key_media_play_by_ranges_and_beyond_their_session(
    browser: Browser, tmp_path: Path
) -> None:
    """Nothing but what is played is fetched. Where a session has ended, a key is asked for, and it
    plays on from there.
    """
    story = make_clip(tmp_path / "story.mp4", [GREEN] * 2 + [BLUE] * 2, hz=330.0)
    settings = Settings(data=tmp_path / "data", api_keys="sesame")
    with listening(settings) as port:
        address, key = f"http://127.0.0.1:{port}", {"Authorization": "Bearer sesame"}
        add_file(address, story, **key)
        page = browser.new_page()
        answers: list[Response] = []
        page.on(
            "response", lambda answer: answers.append(answer) if "/media" in answer.url else None
        )
        sign_in(page, address)
        open_hit(page, address, "story.mp4", 2.0, **key)
        play_hit(page)
        film = "document.querySelector('#item video')"
        until(page, f"{film}?.currentTime > 2.1")
        media = f"{address}/v1/collections/default/items/story.mp4/media"
        assert page.evaluate(f"{film}.src") == media
        assert answers and {answer.status for answer in answers} == {206}
        page.context.clear_cookies()
        page.evaluate(f"{film}.load()")
        page.get_by_role("textbox", name="API key").fill("sesame")
        page.keyboard.press("Enter")
        until(page, f"{film}.currentTime > 2.1")
        page.close()


def sign_in(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_role("textbox", name="API key").fill("sesame")
    page.keyboard.press("Enter")
    expect(page.locator("#collection")).to_contain_text("default")


def test_one_can_sign_out_where_one_searches(browser: Browser, tmp_path: Path) -> None:
    """What was searched for is forgotten by the browser, too."""
    with listening(Settings(data=tmp_path / "data", api_keys="sesame")) as port:
        page = browser.new_context().new_page()
        sign_in(page, f"http://127.0.0.1:{port}")
        page.get_by_role("combobox", name="Search words").fill("a secret")
        page.get_by_role("combobox", name="Search words").press("Enter")
        page.reload()
        page.locator("#account summary").click()
        expect(page.locator("#account-name")).to_contain_text("Signed in:")
        assert Axe().run(page).violations_count == 0
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("textbox", name="Key")).to_be_visible()
        assert httpx.get(f"http://127.0.0.1:{port}/v1/session").status_code == 401
        assert page.context.cookies() == []
        assert page.evaluate("localStorage.getItem('tercet-history')") == "[]"
        page.context.close()


def test_a_key_is_asked_for(browser: Browser, tmp_path: Path, library: dict[str, Path]) -> None:
    with listening(Settings(data=tmp_path / "data", api_keys="sesame")) as port:
        page = browser.new_page()
        sign_in(page, f"http://127.0.0.1:{port}")
        page.locator("#add").set_input_files(library["red"])
        expect(page.get_by_role("list", name="Uploads")).to_contain_text("Added")
        find(page, "red")
        until(page, "document.querySelector('#hits .cover img')?.naturalWidth > 1")
        play_hit(page)
        until(page, "document.querySelector('#item video')?.currentTime > 0.1")
        page.close()


def test_words_that_are_said_are_shown_and_play_from_there(
    browser: Browser, tmp_path: Path
) -> None:
    film = make_spoken_film(
        tmp_path / "film.mp4", [(6, 8, "a quiet <i>morning</i>")], codec="mov_text"
    )
    with listening(Settings(data=tmp_path / "data")) as port, film.open("rb") as file:
        address = f"http://127.0.0.1:{port}"
        path = f"{address}/v1/collections/default/items"
        httpx.post(path, files={"file": file}, data={"id": "film"}).raise_for_status()
        page = browser.new_page()
        page.goto(address)
        page.get_by_role("combobox", name="Search words").fill("quiet morning")
        page.get_by_role("combobox", name="Search words").press("Enter")
        card = page.get_by_role("article").first
        expect(card.locator(".why")).to_have_text("Words a quiet morning")
        expect(card.locator(".when")).to_have_text("0:06 – 0:08")
        expect(card.locator(".cover")).to_have_attribute("aria-label", "Play film.mp4 from 0:06")
        card.locator(".cover").click()
        words = page.get_by_role("list", name="Words in it")
        expect(words).to_contain_text("a quiet morning")
        until(page, "document.querySelector('#item video')?.currentTime > 6")
        page.close()
