"""The page's library, results, items and addresses, over the sample's recordings and the default
encoder, as the command serves them.
"""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect

from .makers import ROOT, free_port, wait_ready
from .test_page import CHROMIUM, browser, until

__all__ = ["browser"]
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SAMPLE = ROOT / "sample"
SHOWN = ("dog-barking.mp4", "sailboat.mp4", "rooster-crowing.mp4", "rain.ogg", "thunderstorm.mp4")
NOTES = 30
ITEMS = "/v1/collections/default/items"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    place = tmp_path_factory.mktemp("views")
    (place / "imports").mkdir()
    (place / "imports" / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(300))
    flags = {"data": place / "data", "imports": place / "imports", "port": port}
    command = [sys.executable, "-m", "service", "--bundle", str(ROOT / "bundles" / "default")]
    command += [f"--{name}={value}" for name, value in flags.items()]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=address, timeout=300) as client:
            wait_ready(client, process)
            for n in range(NOTES):
                note = {"text": f"note {n} of a walk by the river", "id": f"note-{n:02d}"}
                client.post(ITEMS, json=note).raise_for_status()
            for n, name in enumerate(SHOWN):
                fields = {"id": name.split(".")[0], "metadata": json.dumps({"date": f"202{n}-05"})}
                file = {"file": (name, (SAMPLE / name).read_bytes())}
                client.post(ITEMS, files=file, data=fields).raise_for_status()
            client.get("/v1/collections/default/tags").raise_for_status()
        yield address
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page; afterwards the console has said nothing and no request has left the origin."""
    context = browser.new_context()
    context.grant_permissions(["clipboard-read", "clipboard-write"])
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
    page.set_default_timeout(60_000)
    expect.set_options(timeout=30_000)
    page.goto(address)
    expect(page.locator("#hits h2").first).to_be_visible()
    yield page
    context.close()
    expect.set_options(timeout=5_000)
    refused = "responded with a status of 4"  # what a browser says by itself
    assert [line for line in said if refused not in line] == []


def search(page: Page, text: str) -> None:
    page.get_by_role("combobox", name="Search words").fill(text)
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page).to_have_url(re.compile(rf"[?&]q={re.escape(quote(text).replace('%20', '+'))}"))
    expect(page.get_by_role("status")).to_contain_text("moment")


def first(page: Page) -> str:
    """The first card's title. Its text, not what is drawn: a card may not be drawn yet."""
    return page.locator("#hits h2").first.text_content() or ""


# ---------------------------------------------------------------- addresses


def test_a_link_shows_another_person_the_same(page: Page, browser: Browser) -> None:
    """The query with its parts, filters, look, order, item and second."""
    search(page, "a dog barking")
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Kind").select_option("Video")
    page.get_by_role("combobox", name="Sort").select_option("Name")
    page.get_by_role("button", name="As a list").click()
    expect(page.locator("#hits.lines")).to_be_visible()
    expect(page.locator("#hits h2").first).to_have_text("dog-barking.mp4")
    names = page.locator("#hits h2").all_text_contents()
    assert names == sorted(names) and "rain.ogg" not in names
    page.locator("#hits .cover").nth(1).click()
    expect(page.locator("#item .title")).to_have_text(names[1])
    other = browser.new_context().new_page()
    other.goto(page.url)
    expect(other.locator("#item .title")).to_have_text(names[1])
    expect(other.get_by_role("combobox", name="Search words")).to_have_value("a dog barking")
    expect(other.locator("#item .matches button").first).to_be_visible()
    other.get_by_role("link", name="Back to the results").click()
    expect(other.locator("#hits h2")).to_have_text(names)
    expect(other.locator("#active")).to_contain_text("Video")
    expect(other.locator("#hits.lines")).to_be_visible()
    other.context.close()


def test_back_and_forward(page: Page, address: str) -> None:
    search(page, "a sailing boat")
    found = first(page)
    page.locator("#hits .cover").first.click()
    expect(page.locator("#item .title")).to_have_text(found)
    page.go_back()
    expect(page.locator("#item")).to_be_hidden()
    expect(page.locator("#hits h2").first).to_have_text(found)
    page.go_back()
    expect(page.locator("#library")).to_be_visible()
    assert page.url == f"{address}/"
    expect(page.get_by_role("combobox", name="Search words")).to_have_value("")
    page.go_forward()
    page.go_forward()
    expect(page.locator("#item .title")).to_have_text(found)
    page.keyboard.press("Escape")
    expect(page.locator("#item")).to_be_hidden()


@pytest.mark.parametrize(
    "text",
    [
        "?part=x&part=and~0~text~text~a&where=a~b&t=-1&look=x&kind=y&length=z",
        "?q=<img src=x onerror=alert(1)>&item=<b>no</b>&t=x&tag=<i>",
    ],
)
def test_addresses_that_mean_nothing_are_harmless(page: Page, address: str, text: str) -> None:
    page.goto(address + "/" + text)
    expect(page.locator("h1")).to_contain_text("Tercet")
    page.wait_for_timeout(300)
    assert page.locator("main img[src=x]").count() == 0 and page.locator("#item b").count() == 0
    page.goto(address)


# ---------------------------------------------------------------- the library


def test_the_library_at_first_sight(page: Page) -> None:
    """What was added last; tags that lead to their items; queries that something answers."""
    assert first(page) == "thunderstorm.mp4"
    tags = page.locator("#tags a")
    expect(tags.first).to_contain_text("item")
    tags.filter(has_text=re.compile("^Animal")).first.click()
    expect(page.locator("#active li").first).to_be_visible()
    assert "dog-barking.mp4" in page.locator("#hits h2").all_text_contents()
    assert "tag=" in page.url and "q=" in page.url
    page.go_back()
    page.locator("#examples a").first.click()
    expect(page.get_by_role("status")).to_contain_text("moment")
    page.go_back()
    expect(page.locator("#collections")).to_contain_text("35 items")


def test_more_comes_on_scrolling(page: Page) -> None:
    """Of the list of items, and of what a search finds; nothing twice."""
    expect(page.locator("#hits > li")).to_have_count(24)
    page.locator("#end").scroll_into_view_if_needed()
    expect(page.locator("#hits > li")).to_have_count(len(SHOWN) + NOTES)
    page.get_by_role("button", name="Filters").click()
    page.get_by_role("checkbox", name="words").check()
    page.get_by_role("checkbox", name="pictures").uncheck()
    page.get_by_role("checkbox", name="sound").uncheck()
    search(page, "a walk by the river")
    expect(page.locator("#hits > li")).to_have_count(24)
    before = page.locator("#hits h2").all_text_contents()
    page.locator("#end").scroll_into_view_if_needed()
    expect(page.locator("#hits > li")).to_have_count(NOTES)
    after = page.locator("#hits h2").all_text_contents()
    assert after[:24] == before and len(set(after)) == NOTES


def test_an_empty_library_says_how_to_add(page: Page, address: str, tmp_path: Path) -> None:
    page.once("dialog", lambda dialog: dialog.accept("holiday"))
    page.get_by_role("button", name="New collection").click()
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#empty")).to_contain_text("tercet build")
    assert Axe().run(page).violations_count == 0
    for name in ("rain.ogg", "notes.txt"):
        (tmp_path / name).write_bytes((SAMPLE / "rain.ogg").read_bytes())
    page.locator("#add-folder").set_input_files(tmp_path)
    expect(page.locator("#uploads")).to_contain_text("1 file added; 1 skipped")
    expect(page.locator("#hits h2")).to_have_text(["rain.ogg"])
    expect(page.locator("#empty")).to_be_hidden()
    page.locator("#add").set_input_files(SAMPLE / "bee.ogg")
    page.locator("#uploads").get_by_role("link", name="bee.ogg").click()
    expect(page.locator("#item .title")).to_have_text("bee.ogg")
    httpx.delete(f"{address}/v1/collections/holiday").raise_for_status()


def test_imports_by_the_service_are_followed(page: Page, address: str) -> None:
    """What failed, and why; it can be tried again, and is not told of twice."""

    def wait_for_jobs(count: int) -> None:
        end = time.monotonic() + 60
        states: list[str] = []
        while len(states) < count or {"queued", "running"} & set(states):
            assert time.monotonic() < end, states
            time.sleep(0.2)
            jobs = httpx.get(f"{address}/v1/jobs").json()["jobs"]
            states = [job["state"] for job in jobs]

    httpx.post(f"{address}/v1/jobs", json={"collection": "default", "path": "."})
    wait_for_jobs(1)
    page.reload()
    told = page.get_by_role("list", name="Imports")
    expect(told).to_contain_text("0 added, 1 failed")
    told.get_by_text("What failed, and why").click()
    expect(told).to_contain_text("broken.mp4")
    told.get_by_role("button", name="Try again").click()
    wait_for_jobs(2)
    page.wait_for_timeout(2000)  # until the page has asked how it ended
    expect(told.locator(".bad")).to_have_count(1)
    told.get_by_role("button", name="Dismiss").click()
    expect(page.locator("#jobs > li")).to_have_count(0)
    page.reload()
    expect(page.locator("#hits h2").first).to_be_visible()
    expect(page.locator("#jobs > li")).to_have_count(0)
    assert len(httpx.get(f"{address}/v1/jobs").json()["jobs"]) == 2


def test_filters_without_words_list_items(page: Page) -> None:
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Kind").select_option("Sound")
    expect(page.locator("#hits h2")).to_have_text(["rain.ogg"])
    page.get_by_label("Kind").select_option("any")
    page.get_by_label("Recorded from").fill("2022-01-01")
    page.get_by_label("Recorded from").press("Tab")
    names = ["thunderstorm.mp4", "rain.ogg", "rooster-crowing.mp4"]
    expect(page.locator("#hits h2")).to_have_text(names)
    page.get_by_label("Recorded to").fill("2023-12-31")
    page.get_by_label("Recorded to").press("Tab")
    expect(page.locator("#hits h2")).to_have_text(names[1:])
    page.get_by_label("Length").select_option("10 min and more")
    expect(page.get_by_role("status")).to_have_text("Nothing here has these filters.")


# ---------------------------------------------------------------- results


def test_a_card_says_why_it_is_there_and_moves_when_pointed_at(page: Page) -> None:
    search(page, "a dog barking")
    dog = page.locator("#hits > li").filter(has_text="dog-barking.mp4")
    expect(dog.locator(".why")).to_contain_text(re.compile("Seen|Heard"))
    assert not re.search(r"\d", dog.locator(".why").inner_text())
    dog.locator(".scores").wait_for(state="attached")
    expect(dog.locator(".scores")).to_be_hidden()
    dog.get_by_text("Details").click()
    expect(dog.locator(".scores")).to_be_visible()
    dog.locator(".cover").hover()
    until(page, "document.querySelector('#hits .preview')?.currentTime > 0.05")
    assert page.evaluate("document.querySelector('#hits .preview').muted")
    page.mouse.move(0, 0)
    expect(page.locator("#hits .preview")).to_have_count(0)
    page.emulate_media(reduced_motion="reduce")
    dog.locator(".cover").hover()
    page.wait_for_timeout(600)
    expect(page.locator("#hits .preview")).to_have_count(0)


def test_nothing_jumps_while_pictures_come(page: Page, address: str) -> None:
    page.add_init_script(
        """window.shift = 0; window.moved = []; new PerformanceObserver((list) =>
        list.getEntries().filter((entry) => !entry.hadRecentInput).forEach((entry) => {
          window.shift += entry.value;
          for (const { node } of entry.sources) window.moved.push(`${node?.id} ${node?.className}`);
        })).observe({type: 'layout-shift', buffered: true});"""
    )
    page.goto(f"{address}/?q=a+dog+barking")
    page.locator("#hits .cover img").first.wait_for()
    page.wait_for_timeout(800)
    assert page.evaluate("window.shift") < 0.05, page.evaluate("window.moved")


def test_a_query_in_another_language_is_told_that_english_is_understood(page: Page) -> None:
    hint = page.locator("#english")
    expect(hint).to_be_hidden()
    page.get_by_role("combobox", name="Search words").fill("собака лает")
    expect(hint).to_be_visible()
    expect(hint).to_contain_text("English")
    search(page, "a dog barking")
    expect(hint).to_be_hidden()


def test_what_was_found_leaves_as_files(page: Page, tmp_path: Path) -> None:
    search(page, "a dog barking")
    shown = page.locator("#hits h2").all_text_contents()
    texts = {}
    for name in ("Table (CSV)", "Data (JSON)", "Marks for video editors (EDL)"):
        page.locator("#menu summary").click()
        with page.expect_download() as download:
            page.get_by_role("button", name=name).click()
        place = tmp_path / download.value.suggested_filename
        download.value.save_as(place)
        texts[place.name] = place.read_text("utf-8")
    assert set(texts) == {f"tercet-a-dog-barking.{end}" for end in ("csv", "json", "edl")}
    rows = list(csv.DictReader(texts["tercet-a-dog-barking.csv"].splitlines()))
    found = json.loads(texts["tercet-a-dog-barking.json"])["hits"]
    names = [hit["filename"] or hit["id"] for hit in found]
    assert [row["filename"] or row["id"] for row in rows] == names == shown
    assert texts["tercet-a-dog-barking.edl"].startswith("TITLE: a dog barking\n")
    assert f"* FROM CLIP NAME: {shown[0]}" in texts["tercet-a-dog-barking.edl"]


# ---------------------------------------------------------------- an item


def test_an_item_has_a_view_of_its_own(page: Page, address: str) -> None:
    page.goto(f"{address}/?q=a+dog+barking&item=dog-barking")
    item = page.locator("#item")
    expect(item.locator(".lane .name").first).to_have_text("Sound")
    expect(item.locator(".lane .name", has_text="Matches")).to_be_visible()
    expect(item.locator(".lane .name", has_text="Highlights")).to_be_visible()
    expect(item.locator(".tags button").first).to_be_visible()
    item.get_by_role("button", name="Spectrogram").click()
    item.locator("canvas.spectrogram").wait_for()
    bright = item.locator("canvas.spectrogram").evaluate(
        "canvas => Math.max(...canvas.getContext('2d').getImageData(0, 0, canvas.width, 96).data"
        ".filter((_, n) => n % 4 === 0))"
    )
    assert bright > 200
    expect(item.locator(".alike .card").first).to_be_visible()
    assert Axe().run(page).violations_count == 0
    item.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("status")).to_have_text("The link is copied.")
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    item.locator("summary", has_text="Download").click()
    expect(item.get_by_role("link", name="Download the original")).to_be_visible()
    with page.expect_download() as download:
        item.get_by_role("link", name="Download this moment").click()
    assert download.value.suggested_filename.endswith(".webm")
    item.locator(".matches button").first.click()
    until(page, "document.querySelector('#item video')?.currentTime > 0.1")
    assert "t=0" in page.url


def test_metadata_are_edited(page: Page, address: str) -> None:
    path = f"{address}{ITEMS}/sailboat"
    page.goto(f"{address}/?item=sailboat")
    form = page.locator("#item .metadata")
    form.get_by_role("button", name="Edit").click()
    form.get_by_role("button", name="Add a field").click()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    form.get_by_label("Field", exact=True).last.fill("place")
    form.get_by_label("Value").last.fill("<b>sea</b>")
    form.get_by_role("button", name="Save").click()
    expect(form.locator("dd").last).to_have_text("<b>sea</b>")
    expected = {"date": "2021-05", "place": "<b>sea</b>"}
    assert httpx.get(path).json()["metadata"] == expected
    form.get_by_role("button", name="Edit").click()
    form.get_by_role("button", name="Remove place").click()
    form.get_by_role("button", name="Save").click()
    expect(form.locator("dd")).to_have_count(1)
    assert httpx.get(path).json()["metadata"] == {"date": "2021-05"}


def test_a_search_does_not_wait_until_the_collection_is_tagged(page: Page, address: str) -> None:
    held: list[Route] = []
    page.route(f"{address}/v1/collections/default/tags*", lambda route: held.append(route))
    page.goto(f"{address}/?q=a+dog+barking")
    names = page.locator("#hits > li").first.locator(".why bdi").first
    expect(names).to_have_text("")
    held[0].continue_()
    expect(names).to_have_text(re.compile(r"\w"))


def test_what_is_sure_to_some_degree_is_not_called_unfit(page: Page, address: str) -> None:
    """A best hit that is likely, and no good match: the list says so and advises nothing."""

    def doubt(route: Route) -> None:
        answer = route.fetch()
        found = answer.json()
        found["good_match"] = False
        found["hits"] = [hit | {"confidence": sure, "tags": []} for hit in found["hits"][:1]]
        route.fulfill(response=answer, json=found)

    page.route(f"{address}/v1/search", doubt)
    for sure, said in ((0.8, "Likely moments"), (0.2, "No confident match")):
        page.goto(f"{address}/?q=a+dog+barking")
        expect(page.get_by_role("status")).to_contain_text(said)
        expect(page.locator("#advice")).to_be_visible(visible=sure < 0.5)
        expect(page.locator("#hits .why bdi").first).to_have_text("(no tag)")


def test_an_item_that_was_not_searched_for_has_plain_tags(page: Page, address: str) -> None:
    page.goto(f"{address}/?item=sailboat")
    tags = page.locator("#item .side .tag")
    expect(tags.filter(has_text="Schooner")).to_have_text("Schooner")
    expect(page.locator("#item .lane .name", has_text="Schooner")).to_be_visible()
    expect(page.locator("#item .facts")).to_contain_text("added ")


def test_a_deletion_can_be_undone_for_a_while(page: Page, address: str) -> None:
    note = {"text": "to be deleted", "id": "away"}
    httpx.post(address + ITEMS, json=note).raise_for_status()
    page.goto(f"{address}/?item=away")
    page.get_by_role("button", name="Delete").click()
    expect(page.locator("#uploads")).to_contain_text("is deleted in 8 seconds")
    page.get_by_role("button", name="Undo").click()
    page.wait_for_timeout(8500)
    assert httpx.get(f"{address}{ITEMS}/away").status_code == 200
    page.goto(f"{address}/?item=away")
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("status")).to_have_text("away is deleted.")
    assert httpx.get(f"{address}{ITEMS}/away").status_code == 404


# ---------------------------------------------------------------- queries of parts


def test_a_query_of_several_parts(page: Page, address: str) -> None:
    words = page.get_by_role("combobox", name="Search words")
    words.fill("rain")
    page.get_by_role("button", name="And", exact=True).click()
    words.fill("-music")
    words.press("Enter")
    page.locator("#example").set_input_files(SAMPLE / "rain.ogg")
    chips = page.locator("#chips li")
    expect(chips).to_have_count(3)
    expect(chips.nth(1)).to_contain_text("music")
    page.evaluate(
        """() => { const fetch = window.fetch; window.sent = [];
        window.fetch = (path, options) => {
          if (path === 'v1/search') window.sent.push(options.body.get('request'));
          return fetch(path, options);
        }; }"""
    )
    page.get_by_label("How much rain counts").select_option("strongly")
    expect(page.get_by_role("status")).to_contain_text("moment")
    parts = json.loads(page.evaluate("window.sent.at(-1)"))["parts"]
    assert [part["weight"] for part in parts] == [2, -0.5, 1]
    assert [part.get("text") for part in parts] == ["rain", "music", None]
    assert first(page) == "rain.ogg"
    address_of_all = page.url
    page.get_by_role("button", name="Remove like rain.ogg").click()
    expect(chips).to_have_count(2)
    page.reload()
    expect(chips).to_have_count(2)
    expect(page.get_by_label("How music counts")).to_have_value("without")
    page.goto(address_of_all)  # a file is in no address
    expect(page.get_by_role("status")).to_contain_text("The file rain.ogg is not part of a link.")


def sent_by(page: Page) -> list[list[dict[str, object]]]:
    """The parts of each search that the page asks for from now on."""
    sent: list[list[dict[str, object]]] = []

    def note(route: Route) -> None:
        body = route.request.post_data or ""
        found = re.search(r'name="request"\s+(\{.*\})', body)
        assert found, body
        sent.append(json.loads(found[1])["parts"])
        route.continue_()

    page.route("**/v1/search", note)
    return sent


def test_without_and_then_are_about_what_is_typed_next(page: Page) -> None:
    """What is typed already counts as it did."""
    sent = sent_by(page)
    words = page.get_by_role("combobox", name="Search words")
    sign = page.get_by_label("How the next words count")
    expect(sign).to_be_hidden()
    search(page, "rain")
    page.get_by_role("button", name="Without").click()
    expect(words).to_be_focused()
    expect(words).to_have_value("")
    expect(words).to_have_attribute("placeholder", "what to leave out")
    expect(sign).to_have_value("without")
    expect(page.locator("#chips li bdi")).to_have_text(["rain"])
    words.fill("music")
    expect(page).to_have_url(re.compile("sign=without"))
    expect(page.get_by_role("status")).to_contain_text("Asked for: rain, without music.")
    expect(page.locator("#chips li bdi")).to_have_text(["rain"])
    assert sent[-1] == [{"text": "rain", "weight": 1}, {"text": "music", "weight": -0.5}]
    page.reload()
    expect(sign).to_have_value("without")
    expect(words).to_have_value("music")
    sign.select_option("then")
    expect(page.get_by_role("status")).to_contain_text("Asked for: rain, then music.")
    assert sent[-1][1] == {"text": "music", "weight": 1, "then": True}
    page.get_by_role("button", name="Then").click()
    words.fill("wind")
    expect(page.get_by_role("status")).to_contain_text("Asked for: rain, then music, then wind.")
    words.fill("")
    words.press("Backspace")
    expect(words).to_have_attribute("placeholder", re.compile("a dog barking"))
    page.get_by_role("button", name="Clear the search").click()
    expect(sign).to_be_hidden()


def test_typed_words_are_shown_beside_a_file(page: Page) -> None:
    """They count, and so they are seen as a part, and named."""
    page.get_by_role("combobox", name="Search words").fill("wind")
    page.locator("#example").set_input_files(SAMPLE / "rain.ogg")
    expect(page.locator("#chips li bdi")).to_have_text(["wind", "like rain.ogg"])
    expect(page.get_by_role("combobox", name="Search words")).to_have_value("")
    expect(page.get_by_role("status")).to_contain_text("Asked for: wind, and like rain.ogg.")


def test_a_query_by_an_item_has_its_name(page: Page, address: str) -> None:
    """In a link, too, of which only its id is known."""
    page.goto(f"{address}/?part=and~1~item~video~dog-barking")
    expect(page.locator("#chips li bdi")).to_have_text("like dog-barking.mp4")


def test_a_recording_is_a_query(page: Page) -> None:
    page.context.grant_permissions(["microphone"])
    page.locator("#record").click()
    expect(page.locator("#status")).to_have_text("Recording …")
    page.wait_for_timeout(2500)
    with page.expect_response(lambda answer: "/v1/search" in answer.url) as searched:
        page.locator("#record").click()
    assert searched.value.status == 200
    expect(page.locator("#chips li bdi")).to_contain_text("the recording")
    expect(page.locator("#hits h2").first).to_be_visible()
    expect(page.locator("#record")).to_have_text("Record")


def test_how_many_were_found_is_said(page: Page, address: str) -> None:
    page.goto(f"{address}/?q=a+walk+by+the+river&look=text")
    expect(page.get_by_role("status")).to_contain_text("24 moments so far, more below.")
    page.locator("#end").scroll_into_view_if_needed()
    expect(page.get_by_role("status")).to_contain_text(f"{NOTES} moments.")
    page.goto(f"{address}/?kind=audio")
    expect(page.get_by_role("status")).to_have_text("1 item.")
    page.goto(f"{address}/?kind=video")
    expect(page.get_by_role("status")).to_have_text("4 items.")


def test_items_are_filtered_by_when_they_were_added(page: Page, address: str) -> None:
    """By days as this browser's clock has them."""
    today = page.evaluate("new Date().toLocaleDateString('sv')")  # as 2026-11-30
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Kind").select_option("Sound")
    page.get_by_label("Added from").fill(today)
    page.get_by_label("Added from").press("Tab")
    expect(page.get_by_role("status")).to_have_text("1 item.")
    page.get_by_label("Added to").fill(today)
    page.get_by_label("Added to").press("Tab")
    expect(page).to_have_url(re.compile(f"added_to={today}"))
    expect(page.locator("#active")).to_contain_text(f"added {today} – {today}")
    expect(page.locator("#hits h2")).to_have_text(["rain.ogg"])
    page.get_by_label("Added from").fill("")
    page.get_by_label("Added to").fill("2001-01-01")
    page.get_by_label("Added to").press("Tab")
    expect(page.get_by_role("status")).to_have_text("Nothing here has these filters.")
    page.get_by_role("button", name="Remove added").click()
    expect(page.locator("#hits h2")).to_have_text(["rain.ogg"])


def test_the_last_word_is_completed(page: Page) -> None:
    """The words before it stay."""
    words = page.get_by_role("combobox", name="Search words")
    words.press_sequentially("wind and thu")
    option = page.get_by_role("option").filter(has_text="wind and thunder").first
    expect(option).to_be_visible()
    option.click()
    expect(words).to_have_value(re.compile("^wind and thunder"))
    expect(page).to_have_url(re.compile(r"q=wind\+and\+thunder"))
    words.fill("")
    words.press_sequentially("x t")  # a single letter could be anything
    expect(page.locator("#suggestions li")).to_have_count(0)


def test_suggestions_history_and_saved_searches(page: Page) -> None:
    words = page.get_by_role("combobox", name="Search words")
    words.press_sequentially("thu")
    option = page.get_by_role("option").filter(has_text=re.compile("^thunder", re.I)).first
    expect(option).to_be_visible()
    assert Axe().run(page).violations_count == 0
    words.press("ArrowDown")
    expect(page.locator("[role=option][aria-selected=true]")).to_have_count(1)
    words.press("Enter")
    expect(page.locator("#suggestions")).to_be_hidden()
    expect(page).to_have_url(re.compile("q=[Tt]hunder"))
    expect(page.get_by_role("status")).to_contain_text("moment")
    page.get_by_role("button", name="Save this search").click()
    page.get_by_role("button", name="Clear the search").click()
    expect(page.locator("#saved a")).to_have_count(1)
    words.press("ArrowDown")
    expect(page.get_by_role("option").filter(has_text="searched before")).to_have_count(1)
    words.press("Escape")
    page.locator("#saved a").click()
    expect(page).to_have_url(re.compile("q=[Tt]hunder"))
    page.go_back()
    page.get_by_role("button", name=re.compile("^Remove [Tt]hunder")).click()
    expect(page.locator("#saved a")).to_have_count(0)


# ---------------------------------------------------------------- craft


def test_shortcuts_can_be_seen_and_turned_off(page: Page) -> None:
    page.locator("#hits .cover").first.focus()
    page.keyboard.press("?")
    help = page.get_by_role("dialog")
    expect(help).to_be_visible()
    assert Axe().run(page).violations_count == 0
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.closest('li').matches(':nth-child(2)')")
    page.keyboard.press("g")
    expect(page.locator("#hits.lines")).to_be_visible()
    page.keyboard.press("/")
    expect(page.get_by_role("combobox", name="Search words")).to_be_focused()
    page.get_by_role("button", name="Shortcuts").click()
    help.get_by_role("checkbox").uncheck()
    help.get_by_role("button", name="Close").click()
    page.locator("#hits .cover").first.focus()
    page.keyboard.press("g")
    expect(page.locator("#hits.lines")).to_be_visible()


def test_the_page_speaks_german(browser: Browser, address: str) -> None:
    page = browser.new_context(locale="de-DE").new_page()
    page.goto(f"{address}/?q=a+dog+barking&look=video,audio")
    expect(page.get_by_role("button", name="Suchen", exact=True)).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("Stellen")
    assert page.evaluate("document.documentElement.lang") == "de"
    page.get_by_label("Sprache").select_option("English")
    expect(page.get_by_role("button", name="Search", exact=True)).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="Search", exact=True)).to_be_visible()
    page.context.close()


def test_every_text_is_in_every_language() -> None:
    """The table has a column for each, and the page asks for no text that is not there."""
    folder = ROOT / "service" / "page"
    texts = (folder / "texts.js").read_text("utf-8")
    table = texts[texts.index("const TEXTS") : texts.index("export const language")]
    keys = set(re.findall(r"^  (\w+): \[", table, re.M))
    script = "".join(path.read_text("utf-8") for path in folder.glob("*.js"))
    asked = set(re.findall(r'\bt\("(\w+)"', script))
    asked |= set(re.findall(r'data-t(?:-\w+)?="(\w+)"', (folder / "index.html").read_text("utf-8")))
    assert asked <= keys and len(keys) > 150
    rows = re.findall(r"^  \w+: (\[.*?\]),$", table, re.M | re.S)
    assert len(rows) == len(keys)
    assert all(len(re.findall(r'"(?:[^"\\]|\\.)*"', row)) == 2 for row in rows)


@pytest.mark.parametrize("locale", ["en-GB", "de-DE"])
def test_on_a_phone_every_tool_is_in_view(browser: Browser, address: str, locale: str) -> None:
    page = browser.new_context(locale=locale, viewport={"width": 375, "height": 800}).new_page()
    page.goto(f"{address}/?q=a+dog+barking")
    expect(page.locator("#hits h2").first).to_be_visible()
    for tool in page.locator(".knobs > *").all():
        box = tool.bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= 375, tool.inner_text()
    page.mouse.wheel(0, 3000)
    page.wait_for_timeout(300)
    field = page.locator("#words").bounding_box()
    assert field and 0 <= field["y"] < 60  # what one searches with stays
    page.context.close()


@pytest.mark.parametrize("width", [375, 1280])
def test_right_to_left_the_page_is_mirrored(browser: Browser, address: str, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(f"{address}/?q=a+dog+barking&item=dog-barking")
    page.locator("#item .waveform").first.wait_for()
    page.evaluate("document.documentElement.dir = 'rtl'")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    brand = page.locator("#brand").bounding_box()
    assert brand and brand["x"] > width / 2
    # time still runs from left to right
    name, track = (
        page.locator(f".lane {part}").first.bounding_box() for part in (".name", ".track")
    )
    assert name and track and name["x"] < track["x"]
    page.close()


def test_the_page_is_small(browser: Browser, address: str) -> None:
    """All that is sent before the first picture, in bytes."""
    page = browser.new_page()
    sizes: list[int] = []
    page.on(
        "response",
        lambda answer: (
            sizes.append(len(answer.body()))
            if "/page/" in answer.url or answer.url == f"{address}/"
            else None
        ),
    )
    page.goto(address)
    expect(page.locator("#hits h2").first).to_be_visible()
    assert len(sizes) >= 12 and sum(sizes) <= 150_000
    page.close()


def test_pictures_stay_while_one_types_on(page: Page) -> None:
    """A card that is found again shows the picture that is there, and does not load it anew."""
    search(page, "a dog barking")
    card = page.locator("#hits > li", has_text="dog-barking.mp4")
    card.locator(".cover img").evaluate("image => (image.mark = 'the same')")
    page.get_by_role("combobox", name="Search words").press_sequentially(" loudly")
    expect(page).to_have_url(re.compile("loudly"))
    expect(page.get_by_role("status")).to_contain_text("moment")
    assert card.locator(".cover img").evaluate("image => image.mark") == "the same"
