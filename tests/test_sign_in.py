"""Signing in to the page with a key: sessions by a cookie, and what must not be done with them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from service.app import create_app
from service.keys import KeyFile
from service.sessions import COOKIE, SESSIONS_MAX, Sessions, cookie_header, session_in
from service.settings import Settings

from .makers import RED, Clock, FakeEncoder, make_clip
from .test_keys import bearer
from .test_operate import listening
from .test_service import Client, refused

CHROMIUM = shutil.which("chromium")
OWN = {"Origin": "http://localhost"}  # a page of the service itself
ITEMS = "/v1/collections/default/items"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    settings = Settings(data=tmp_path / "data", audit=tmp_path / "audit.jsonl")
    KeyFile(settings.data).make("other", "read")
    with Client(create_app(settings, FakeEncoder())) as client:
        yield client


def sign_in(client: Client, secret: str, **form: str) -> httpx.Response:
    return client.post(
        "/sign-in", data={"key": secret, **form}, headers=OWN, follow_redirects=False
    )


def test_a_session_does_what_its_key_may(client: Client, tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "data")
    _, secret = keys.make("phone", "add")
    refused(client.get("/v1/models"), 401, "unauthorized")
    answer = sign_in(client, secret)
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=") and secret not in cookie
    for attribute in ("HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"):
        assert attribute in cookie.split("; ")
    assert "Secure" not in cookie  # the request came by http
    who = client.get("/v1/session").json()
    assert who == {"key": "phone", "role": "add", "collections": None, "by": "session"}
    clip = make_clip(tmp_path / "red.mp4", [RED], hz=None)
    with clip.open("rb") as file:
        added = client.post(ITEMS, files={"file": file}, data={"id": "red"}, headers=OWN)
    assert added.status_code == 201
    for part in ("media", "poster"):
        seen = client.get(f"{ITEMS}/red/{part}")
        assert seen.status_code == 200 and "private" in seen.headers["cache-control"]
    refused(client.delete(f"{ITEMS}/red", headers=OWN), 403, "forbidden")
    keys.revoke("phone")
    refused(client.get("/v1/session"), 401, "unauthorized")


def test_over_https_the_cookie_is_secure(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data", root_path="/tercet", api_keys="root")
    with listening(settings) as port:
        answer = httpx.post(
            f"http://127.0.0.1:{port}/sign-in",
            data={"key": "root", "next": "?item=a"},
            headers={"X-Forwarded-Proto": "https", "Sec-Fetch-Site": "same-origin"},
        )
    assert answer.headers["location"] == "/tercet/?item=a"
    parts = answer.headers["set-cookie"].split("; ")
    assert "Secure" in parts and "Path=/tercet/" in parts


def test_another_site_can_do_nothing_with_the_cookie(client: Client, tmp_path: Path) -> None:
    """Neither change something, nor sign one in or out. Reading is the browser's to forbid: no
    answer has a CORS header.
    """
    _, secret = KeyFile(tmp_path / "data").make("root", "admin")
    sign_in(client, secret)
    text = {"text": "red", "id": "a"}
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:9"},
        {"Origin": "http://localhost.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {},
    ):
        refused(client.post(ITEMS, json=text, headers=headers), 403, "cross_origin")
        refused(client.delete("/v1/collections/default", headers=headers), 403, "cross_origin")
        refused(client.post("/sign-out", headers=headers), 403, "cross_origin")
        form = {"key": secret}
        refused(client.post("/sign-in", data=form, headers=headers), 403, "cross_origin")
    assert client.post(ITEMS, json=text, headers=OWN).status_code == 201
    by_browser = {"Sec-Fetch-Site": "same-origin", "Origin": "null"}
    assert client.post(ITEMS, json=text, headers=by_browser).status_code == 201
    read = client.get(ITEMS, headers={"Origin": "https://evil.example"})
    assert not [name for name in read.headers if name.startswith("access-control")]
    # a key in the header is nothing that a browser sends by itself
    assert client.post(ITEMS, json=text, headers=bearer(secret)).status_code == 201


def test_signing_out_ends_the_session_everywhere(client: Client, tmp_path: Path) -> None:
    _, secret = KeyFile(tmp_path / "data").make("phone", "read")
    sign_in(client, secret)
    kept = client.cookies[COOKIE]
    out = client.post("/sign-out", headers=OWN, follow_redirects=False)
    assert out.status_code == 303 and out.headers["location"] == "/sign-in"
    assert "Max-Age=0" in out.headers["set-cookie"]
    stolen = client.get("/v1/models", headers={"Cookie": f"{COOKIE}={kept}"})
    refused(stolen, 401, "unauthorized")
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    told = [(line["action"], line["key"], line["outcome"]) for line in lines]
    assert told == [("session.begin", "phone", "done"), ("session.end", "phone", "done")]


def test_a_wrong_key_is_told_and_opens_nothing(client: Client, tmp_path: Path) -> None:
    answer = sign_in(client, "<b>wrong</b>", next='"><script>')
    assert answer.status_code == 401 and "set-cookie" not in answer.headers
    assert 'class="refused"' in answer.text and "This key is not valid here" in answer.text
    assert "<b>" not in answer.text and "<script" not in answer.text
    [line] = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert json.loads(line)["outcome"] == "refused" and "wrong" not in line


@pytest.mark.parametrize(
    "next", ["//evil.example", "/\\evil.example", "https://evil.example", "\n"]
)
def test_one_is_not_sent_elsewhere(client: Client, tmp_path: Path, next: str) -> None:
    _, secret = KeyFile(tmp_path / "data").make("phone", "read")
    place = sign_in(client, secret, next=next).headers["location"]
    assert httpx.URL("http://localhost").join(place).host == "localhost"


def test_a_session_ends_with_its_time(tmp_path: Path) -> None:
    clock = Clock()
    sessions = Sessions(clock)
    token = sessions.begin("digest", 60.0)
    assert sessions.digest(token) == "digest" and sessions.digest(token + "x") == ""
    clock.now_s += 60
    assert sessions.digest(token) == ""


def test_sessions_are_counted() -> None:
    sessions = Sessions(Clock())
    tokens = [sessions.begin("digest", 60.0) for _ in range(SESSIONS_MAX + 1)]
    assert sessions.digest(tokens[0]) == "" and sessions.digest(tokens[1]) == "digest"


@pytest.mark.parametrize("cookie", ["", "a=b", f"{COOKIE}", "=;;=", '"', f"{COOKIE}[=x"])
def test_odd_cookies_are_none(cookie: str) -> None:
    assert session_in({b"cookie": cookie.encode()}) is None


def test_a_cookie_comes_back() -> None:
    written = cookie_header("a-B_1", 60, path="/", https=True)
    assert session_in({b"cookie": written.partition(";")[0].encode()}) == "a-B_1"


def test_without_keys_there_is_nothing_to_sign_in_to(tmp_path: Path) -> None:
    with Client(create_app(Settings(data=tmp_path / "data"), FakeEncoder())) as client:
        answer = client.get("/sign-in?next=%3Fitem=a", follow_redirects=False)
        assert answer.status_code == 303 and answer.headers["location"] == "/?item=a"
        who = client.get("/v1/session").json()
        assert who == {"key": None, "role": "admin", "collections": None, "by": "nothing"}


def test_the_page_speaks_german_where_a_browser_does(client: Client) -> None:
    german = client.get("/sign-in", headers={"Accept-Language": "fr, de-AT;q=0.8, en;q=0.5"})
    assert '<html lang="de">' in german.text and "Schlüssel" in german.text
    assert '<html lang="en">' in client.get("/sign-in").text


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def found_by_axe(page: Page) -> list[str]:
    """The elements in which it finds something, and what."""
    violations = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['html']} {node['failureSummary']}"
        for one in violations
        for node in one["nodes"]
    ]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_one_signs_in_looks_and_signs_out(browser: Browser, tmp_path: Path, scheme: str) -> None:
    """Pictures and media come by the cookie alone, and the page's policy forbids nothing of it."""
    clip = make_clip(tmp_path / "red.mp4", [RED, RED], hz=None)
    settings = Settings(data=tmp_path / "data", api_keys="root")
    said: list[str] = []
    with listening(settings) as port:
        address = f"http://127.0.0.1:{port}"
        with clip.open("rb") as file:
            form = {"files": {"file": file}, "data": {"id": "red"}}
            httpx.post(f"{address}{ITEMS}", **form, headers=bearer("root")).raise_for_status()
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        page.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
        page.goto(f"{address}/sign-in")
        assert found_by_axe(page) == []
        page.get_by_label("Key").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("not valid here")
        assert found_by_axe(page) == []
        page.get_by_label("Key").fill("root")
        page.get_by_label("Key").press("Enter")
        expect(page.locator("#collection")).to_contain_text("default")
        assert page.evaluate("document.cookie") == ""
        poster = f"{ITEMS}/red/poster"
        assert page.evaluate("async path => (await fetch(path)).status", poster) == 200
        page.goto(f"{address}/sign-in")
        expect(page.get_by_text("You are signed in with the key")).to_be_visible()
        assert found_by_axe(page) == []
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Key")).to_be_visible()
        assert context.request.get(address + poster).status == 401
        context.close()
    # what a browser says by itself of an answer 401: to the wrong key, and to the last picture
    assert [line for line in said if "401" not in line] == []
