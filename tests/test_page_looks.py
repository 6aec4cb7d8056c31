"""How the page looks, state by state, from a phone to a wide screen, light and dark, over real
recordings and the default encoder. The pictures are kept where TERCET_SCREENSHOTS says:

    TERCET_SCREENSHOTS=FOLDER python -m pytest tests/test_page_looks.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from service.settings import Settings

from .makers import ROOT, SHARED, free_port, wait_ready
from .test_operate import listening
from .test_page import CHROMIUM, browser

__all__ = ["browser"]
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.slow,
]

RECORDINGS = 8  # of those beside this checkout, where they are there
STATES = {
    "empty": "?collection=empty",
    "library": "",
    "results": "?q=a+dog+barking",
    "results-list": "?q=a+dog+barking&view=list",
    "filters": "?q=music&part=without~1~text~text~speech&kind=video&length=moment",
    "item": "?q=a+dog+barking",
    "no-match": "?q=quantum+chromodynamics+lecture",
    "german": "?q=a+train",
}

# Pairs of controls of which one lies over another, and controls whose text is cut.
FAULTS = """
const CONTROLS = "button, select, input:not([type=file]), summary, main a";
const shown = (node) => {
  const { width, top, bottom } = node.getBoundingClientRect();
  const inside = width > 0 && bottom > 0 && top < innerHeight; // what is below is not laid out yet
  return inside && node.checkVisibility({ visibilityProperty: true });
};
const name = (node) => node.getAttribute("aria-label") ?? (node.id || node.textContent.trim());
const controls = [...document.querySelectorAll(CONTROLS)].filter(shown);
const cut = controls.filter(
  (node) => node.matches("button, summary") && node.scrollWidth > node.clientWidth + 1,
);
const faults = cut.map((node) => `${name(node)} is cut`);

// What is sticky lies over what is scrolled away, and neighbours of a timeline touch.
const apart = (one, other) =>
  one.contains(other) || one.closest(".top") !== other.closest(".top") || one.closest(".track");
const overlaps = (one, other) =>
  Math.min(one.right, other.right) - Math.max(one.left, other.left) > 1 &&
  Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top) > 1;
const boxes = controls.map((node) => node.getBoundingClientRect());
controls.forEach((one, n) => controls.slice(n + 1).forEach((other, m) => {
  if (!apart(one, other) && overlaps(boxes[n], boxes[n + 1 + m])) {
    faults.push(`${name(one)} lies over ${name(other)}`);
  }
}));
return faults;
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data, port = tmp_path_factory.mktemp("looks") / "data", free_port()
    bundle = ["--bundle", str(ROOT / "bundles" / "default"), "--data", str(data)]
    files = [*sorted((ROOT / "sample").glob("*.mp4")), ROOT / "sample" / "rain.ogg"]
    files += sorted((SHARED / "videos").glob("*.mp4"))[:RECORDINGS]
    build = [sys.executable, "-m", "index", "build", *bundle, *map(str, files)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    serve = [sys.executable, "-m", "service", *bundle, "--port", str(port)]
    process = subprocess.Popen(serve, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as client:
            wait_ready(client, process)
            client.post("/v1/collections", json={"name": "empty"}).raise_for_status()
            client.get("/v1/collections/default/tags").raise_for_status()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 768, 1280, 1920])
def test_each_state_can_be_read_by_everyone(
    browser: Browser, address: str, tmp_path: Path, scheme: Literal["light", "dark"], width: int
) -> None:
    """No violation that axe knows of, nothing wider than the screen, no control over another, no
    control whose text is cut.
    """
    place = Path(os.environ.get("TERCET_SCREENSHOTS", tmp_path))
    place.mkdir(parents=True, exist_ok=True)
    for state, query in STATES.items():
        locale = "de" if state == "german" else "en-GB"
        viewport = {"width": width, "height": 740 if width < 700 else 900}
        context = browser.new_context(color_scheme=scheme, viewport=viewport, locale=locale)  # type: ignore[arg-type]
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"{address}/{query}")
        show(page, state)
        check(page, place / f"{state}-{scheme}-{width}.png")
        context.close()


def show(page: Page, state: str) -> None:
    """Wait until a state is there."""
    expect.set_options(timeout=60_000)
    if state == "empty":
        expect(
            page.get_by_role("heading", name="Nothing is in this collection yet")
        ).to_be_visible()
    elif state == "item":
        page.locator("#hits .cover").first.click()
        expect(page.locator("#item .alike .card").first).to_be_visible()
        expect(page.locator("#item .track.tags").first).to_be_visible()
    else:
        expect(page.locator("#hits .cover :is(img, svg)").first).to_be_visible()
    if state == "library":
        expect(page.locator("#tags a").first).to_be_visible()
    if state == "filters":
        page.locator("#filter").click()
        expect(page.locator("#filters")).to_be_visible()
    if state == "no-match":
        expect(page.locator("#advice")).to_be_visible()
    page.wait_for_load_state("networkidle")
    expect.set_options(timeout=5_000)


def check(page: Page, picture: Path) -> None:
    page.screenshot(path=picture)
    found = Axe().run(page)
    assert found.violations_count == 0, f"{picture.name}: {found.generate_report()}"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), picture.name
    assert page.evaluate(f"(() => {{{FAULTS}}})()") == [], picture.name


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_signing_in_can_be_read_by_everyone(
    browser: Browser, tmp_path: Path, scheme: Literal["light", "dark"], width: int
) -> None:
    place = Path(os.environ.get("TERCET_SCREENSHOTS", tmp_path))
    place.mkdir(parents=True, exist_ok=True)
    viewport = {"width": width, "height": 740}
    with listening(Settings(data=tmp_path / "data", api_keys="secret")) as port:
        context = browser.new_context(color_scheme=scheme, viewport=viewport)  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{port}/sign-in")
        expect(page.get_by_role("textbox", name="Key")).to_be_visible()
        check(page, place / f"sign-in-{scheme}-{width}.png")
        context.close()
