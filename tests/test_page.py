"""The search page in a real browser: words, files, playing from the moment, adding, filters, keyboard, dark, small."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from service.settings import Settings

from .makers import BLUE, GREEN, RED, make_clip, make_wav
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
                answer = httpx.post(f"{address}/v1/collections/default/items", files={"file": file}, data=fields)
                answer.raise_for_status()
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page, opened; afterwards nothing was said on the console and no request has left the origin."""
    context = browser.new_context()
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith((address, "data:", "blob:")) else said.append(request.url),
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
        """image => { const seen = document.querySelector(image), canvas = document.createElement('canvas');
        canvas.width = canvas.height = 9; const ink = canvas.getContext('2d'); ink.drawImage(seen, 0, 0, 9, 9);
        return [...ink.getImageData(4, 4, 1, 1).data].slice(0, 3); }""",
        image,
    )
    return ["red", "green", "blue"][pixel.index(max(pixel))]


def find(page: Page, text: str) -> None:
    page.get_by_role("searchbox").fill(text)
    expect(page.get_by_role("status")).to_contain_text("moment")


def test_words_find_a_moment_that_plays_from_where_it_matches(page: Page) -> None:
    find(page, "blue")
    first = page.locator("#hits > li").first
    expect(first.get_by_role("heading")).to_have_text("story.mp4")
    expect(first.locator(".where")).to_have_text("0:04 – 0:08")
    until(page, "document.querySelector('#hits .cover img')?.naturalWidth > 1")
    assert middle_of(page, "#hits .cover img") == "blue"  # of the moment, not of its start in green
    first.get_by_role("button", name="Play story.mp4 from 0:04").click()
    until(page, "document.querySelector('#hits video').currentTime > 4.1")
    assert page.evaluate("!document.querySelector('#hits video').paused")
    assert page.evaluate("document.querySelector('#hits video').currentTime") < 8.1


def test_a_dropped_sound_and_more_like_this(page: Page, library: dict[str, Path]) -> None:
    page.get_by_role("checkbox", name="words").uncheck()
    page.get_by_role("checkbox", name="pictures").uncheck()
    page.locator("#example").set_input_files(library["tone"])
    expect(page.get_by_role("status")).to_contain_text("like tone.wav")
    titles = {"tone.wav", "story.mp4"}
    expect(page.locator("#hits > li")).to_have_count(2)
    assert set(page.locator("#hits h2").all_inner_texts()) == titles
    data = page.evaluate_handle(
        """bytes => { const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], 'dropped.wav', {type: 'audio/wav'})); return data; }""",
        list(library["tone"].read_bytes()),
    )
    page.dispatch_event("body", "dragenter", {"dataTransfer": data})
    expect(page.get_by_text("Search with it")).to_be_visible()
    page.dispatch_event("[data-drop=search]", "drop", {"dataTransfer": data})
    expect(page.get_by_role("status")).to_contain_text("like dropped.wav")
    expect(page.get_by_text("Search with it")).to_be_hidden()
    page.get_by_role("checkbox", name="pictures").check()
    page.get_by_role("checkbox", name="sound").uncheck()
    find(page, "red")
    expect(page.locator("#hits h2").first).to_have_text("red.mp4")
    page.locator("#hits > li").first.get_by_role("button", name="More like this").click()
    expect(page.get_by_role("status")).to_contain_text("like red")
    expect(page.locator("#hits h2").first).to_have_text("red.mp4")


def test_what_is_added_is_found_and_what_is_broken_is_told(page: Page, library: dict[str, Path], address: str) -> None:
    page.locator("#add").set_input_files([library["broken"], library["late"]])
    uploads = page.get_by_role("list", name="Uploads")
    expect(uploads).to_contain_text("Added, 0:02.")
    expect(uploads.locator(".bad")).to_contain_text("broken.mp4")
    expect(uploads.locator(".bad")).to_contain_text("media file")
    find(page, "red green")
    expect(page.locator("#hits h2").first).to_have_text("late.mp4")
    items = httpx.get(f"{address}/v1/collections/default/items").json()["items"]
    added = next(item["id"] for item in items if item["filename"] == "late.mp4")
    httpx.delete(f"{address}/v1/collections/default/items/{added}").raise_for_status()


def test_a_dropped_clip_is_added_and_one_finds_its_like(page: Page, library: dict[str, Path], address: str) -> None:
    data = page.evaluate_handle(
        """bytes => { const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], 'dropped.mp4', {type: 'video/mp4'})); return data; }""",
        list(library["late"].read_bytes()),
    )
    page.dispatch_event("body", "dragenter", {"dataTransfer": data})
    page.dispatch_event("[data-drop=add]", "drop", {"dataTransfer": data})
    expect(page.get_by_role("list", name="Uploads")).to_contain_text("Added, 0:02.")
    page.dispatch_event("body", "dragenter", {"dataTransfer": data})
    page.dispatch_event("[data-drop=search]", "drop", {"dataTransfer": data})
    expect(page.get_by_role("status")).to_contain_text("like dropped.mp4")
    expect(page.locator("#hits h2").first).to_have_text("dropped.mp4")
    items = httpx.get(f"{address}/v1/collections/default/items").json()["items"]
    added = next(item["id"] for item in items if item["filename"] == "dropped.mp4")
    httpx.delete(f"{address}/v1/collections/default/items/{added}").raise_for_status()


def test_filters(page: Page) -> None:
    find(page, "red")
    page.get_by_text("Filter").click()
    page.get_by_label("Field").fill("year")
    page.get_by_label("Relation").select_option("is above")
    page.get_by_label("Value").fill("2020")
    page.get_by_label("Value").press("Tab")
    expect(page.locator("#hits h2").filter(has_text="red.mp4")).to_have_count(0)
    expect(page.locator("#hits h2").first).to_be_visible()
    page.get_by_label("Value").fill("2030")
    page.get_by_label("Value").press("Tab")
    expect(page.get_by_role("status")).to_have_text("Nothing is there to be found.")
    page.get_by_role("button", name="Remove this condition").click()
    expect(page.locator("#hits h2").first).to_have_text("red.mp4")


def test_by_keyboard_alone(page: Page) -> None:
    page.keyboard.type("blue")
    page.keyboard.press("Enter")
    expect(page.locator("#hits h2").first).to_have_text("story.mp4")
    page.locator("#hits .cover img").first.wait_for()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('aria-label')") == "Play from 0:04":
            break
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#hits video').currentTime > 4.1")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 375), ("dark", 375)])
def test_it_can_be_read_by_everyone(browser: Browser, address: str, tmp_path: Path, scheme: str, width: int) -> None:
    """No violation that axe knows of, and nothing wider than the screen; the pictures are kept where CI wants them."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(address)
    find(page, "red")
    page.get_by_text("Filter").click()
    for card in page.locator("#hits > li").all():  # which are filled as they come into view
        card.scroll_into_view_if_needed()
        card.locator(".cover :is(img, svg)").first.wait_for()
    page.locator("#hits .cover svg").first.wait_for()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    place = Path(os.environ.get("TERCET_SCREENSHOTS", tmp_path))
    page.screenshot(path=place / f"page-{scheme}-{width}.png", full_page=True)
    context.close()


def test_a_card_asks_for_its_picture_when_it_comes_into_view(browser: Browser, address: str) -> None:
    """On a phone the first of three cards is in view, and the second nearly."""
    page = browser.new_page(viewport={"width": 375, "height": 400})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/items/" in request.url else None)
    page.goto(address)
    find(page, "red")
    page.locator("#hits .cover").first.wait_for()
    page.wait_for_timeout(300)
    assert not any("tone" in url for url in asked)
    page.locator("#hits > li").last.scroll_into_view_if_needed()
    page.locator("#hits > li").last.locator(".cover svg").wait_for()
    assert any("tone" in url and url.endswith("/waveform") for url in asked)
    page.close()


def test_a_key_is_asked_for(browser: Browser, tmp_path: Path, library: dict[str, Path]) -> None:
    with listening(Settings(data=tmp_path / "data", api_keys="sesame")) as port:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}")
        page.get_by_role("textbox", name="This service wants a key").fill("sesame")
        page.keyboard.press("Enter")
        expect(page.locator("#collection")).to_contain_text("default")
        page.locator("#add").set_input_files(library["red"])
        expect(page.get_by_role("list", name="Uploads")).to_contain_text("Added")
        find(page, "red")
        until(page, "document.querySelector('#hits .cover img')?.naturalWidth > 1")
        page.locator("#hits .cover").first.click()
        until(page, "document.querySelector('#hits video').currentTime > 0.1")
        page.close()
