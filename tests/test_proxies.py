"""nginx and Caddy in front of the service, with the settings that the guide gives."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import expect, sync_playwright

from service.client import Client
from service.settings import Settings

from .makers import BLUE, GREEN, RED, ROOT, free_port, make_clip, make_wav
from .test_operate import listening
from .test_page import CHROMIUM, find, until

pytestmark = pytest.mark.foreign
GUIDE = (ROOT / "docs" / "guides" / "proxies.md").read_text("utf-8")
PROXIES = ("nginx", "caddy")
# What Debian's nginx.conf has around a site, with folders of the test's own.
NGINX = """
user {user};
daemon off;
worker_processes 1;
pid {place}/pid;
error_log {place}/errors;
events {{}}
http {{
    sendfile on;
    tcp_nopush on;
    gzip on;
    access_log off;
    client_body_temp_path {place}/bodies;
    proxy_temp_path {place}/answers;
    fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi;
    scgi_temp_path {place}/scgi;
    {site}
}}
"""
# Certificates of its own, and no way for others to change it.
CADDY = """
{{
    admin off
    local_certs
    skip_install_trust
    auto_https disable_redirects
}}
{site}
"""


def box(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.S | re.M)
    return str(found)


def nginx_command(place: Path, port: int, upstream: str) -> list[str]:
    site = box("nginx").replace("listen 80;", f"listen 127.0.0.1:{port};")
    site = site.replace("http://127.0.0.1:8000/", f"http://{upstream}/")
    user = "root" if os.geteuid() == 0 else "nobody"
    (place / "nginx.conf").write_text(NGINX.format(user=user, place=place, site=site))
    return ["-c", str(place / "nginx.conf"), "-p", str(place), "-e", str(place / "errors")]


def caddy_command(place: Path, port: int, upstream: str) -> list[str]:
    site = box("caddy").replace("127.0.0.1:8000", upstream.replace("unix:", "unix/").rstrip(":"))
    site = site.replace("media.example {", f"https://localhost:{port} {{\n    bind 127.0.0.1")
    (place / "Caddyfile").write_text(CADDY.format(site=site))
    return ["run", "--config", str(place / "Caddyfile"), "--adapter", "caddyfile"]


COMMANDS = {"nginx": nginx_command, "caddy": caddy_command}
SCHEMES = {"nginx": "http", "caddy": "https"}


@contextmanager
def proxy(name: str, place: Path, upstream: str) -> Iterator[str]:
    """A proxy before `upstream`, which is written as nginx has it; where it serves."""
    program = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip(f"{name} is not installed")
    place.mkdir(exist_ok=True)
    port = free_port()
    command = [program, *COMMANDS[name](place, port, upstream)]
    env = {**os.environ, "HOME": str(place), "XDG_DATA_HOME": str(place)}
    with (place / "output").open("wb") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output)
    address = f"{SCHEMES[name]}://localhost:{port}/tercet"
    try:
        wait_for(f"{address}/healthz", process, place)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def wait_for(address: str, process: subprocess.Popen[bytes], place: Path) -> None:
    for _ in range(200):
        assert process.poll() is None, (place / "output").read_text()
        try:
            if httpx.get(address, verify=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"{address} does not answer: {(place / 'output').read_text()}")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "story.mp4", [GREEN, RED, BLUE, RED])


@pytest.fixture(scope="module", params=PROXIES)
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp(request.param)
    settings = Settings(data=place / "data", api_keys="k", root_path="/tercet")
    with (
        listening(settings) as port,
        proxy(request.param, place / "proxy", f"127.0.0.1:{port}") as address,
    ):
        yield address


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    key = {"authorization": "Bearer k"}
    with httpx.Client(base_url=address, headers=key, verify=False, timeout=30) as client:
        yield client


def test_adding_searching_and_playing(client: httpx.Client, clip: Path) -> None:
    with clip.open("rb") as file:
        items = "/v1/collections/default/items"
        added = client.post(items, files={"file": file}, data={"id": "story"})
    assert added.status_code == 201
    hits = client.post("/v1/search/text-video", json={"query": "red"}).json()["hits"]
    assert hits[0]["id"] == "story"
    head = client.head(f"{items}/story/media")
    assert head.headers["content-length"] == str(clip.stat().st_size)
    part = client.get(f"{items}/story/media", headers={"range": "bytes=100-199"})
    assert part.status_code == 206 and part.content == clip.read_bytes()[100:200]
    assert part.headers["content-range"] == f"bytes 100-199/{clip.stat().st_size}"
    whole = client.get(f"{items}/story/media")
    assert whole.content == clip.read_bytes() and whole.headers["accept-ranges"] == "bytes"


def test_a_link_opens_media_without_a_key(client: httpx.Client, clip: Path) -> None:
    items = "/v1/collections/default/items"
    with clip.open("rb") as file:
        client.post(items, files={"file": file}, data={"id": "linked"}).raise_for_status()
    link = client.post(f"{items}/linked/link").json()
    origin = str(client.base_url).removesuffix("/tercet/")
    for part in ("media", "poster"):
        assert httpx.get(origin + link[part], verify=False).status_code == 200
        assert httpx.get(origin + link[part].split("?")[0], verify=False).status_code == 401


@pytest.mark.parametrize("announced", [True, False])
def test_an_upload_larger_than_proxies_take_by_themselves(
    client: httpx.Client, tmp_path: Path, announced: bool
) -> None:
    """With its length before it, and in chunks."""
    sound = make_wav(tmp_path / "long.wav", seconds=40.0).read_bytes()
    assert len(sound) > 2_000_000
    form = httpx.Request("POST", client.base_url, files={"file": ("long.wav", sound)})
    body = form.read()
    pieces = (body[at : at + 65_536] for at in range(0, len(body), 65_536))
    answer = client.post(
        "/v1/search/audio-audio",
        content=body if announced else pieces,
        headers={"content-type": form.headers["content-type"]},
    )
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("id", ["a/b", "50% of ü?#&+;=", "a%2Fb", "x\\y", "'\"<>"])
def test_ids_come_through(client: httpx.Client, id: str) -> None:
    items = "/v1/collections/default/items"
    client.post(items, json={"text": "red", "id": id}).raise_for_status()
    found = client.get(f"{items}/{quote(id)}")
    assert found.status_code == 200 and found.json()["id"] == id
    client.delete(f"{items}/{quote(id)}").raise_for_status()


def test_two_slashes_in_an_id(client: httpx.Client, address: str) -> None:
    """Caddy makes one of them where it takes a path off."""
    client.post("/v1/collections/default/items", json={"text": "red", "id": "a//b"})
    found = client.get("/v1/collections/default/items/a//b")
    assert found.status_code == (404 if address.startswith("https") else 200)


def test_refusals_are_the_service_s_own(client: httpx.Client) -> None:
    wrong = {"authorization": "Bearer wrong"}
    refused = client.get("/v1/collections", headers=wrong)
    assert refused.status_code == 401 and refused.json()["error"]["code"] == "unauthorized"
    again = client.get("/tercet/v1/collections", headers=wrong)
    assert again.status_code == 404
    assert client.get("/v1/none").json()["error"]["code"] == "not_found"


def test_what_wants_no_key_is_kept_from_strangers(client: httpx.Client) -> None:
    assert client.get("/healthz").status_code == 200
    for path in ("metrics", "readyz", "/metrics", "metrics/", "%6detrics", "x/../metrics"):
        answer = client.get(f"{client.base_url}{path}")
        assert answer.status_code in (307, 403, 404), path


def test_the_api_page_is_written_for_where_it_is_served(client: httpx.Client) -> None:
    assert client.get("/openapi.json").json()["servers"] == [{"url": "/tercet"}]
    page = client.get("/docs").text
    base = str(client.base_url).rstrip("/")
    parts = set(re.findall(r'(?:src|href)="([^"]+)"', page))
    assert parts and all(part.startswith(f"{base}/swagger/") for part in parts), parts
    assert "url: '/tercet/openapi.json'" in page
    slash = client.get("/v1/collections/")
    assert slash.status_code == 307 and slash.headers["location"] == f"{base}/v1/collections"


def test_our_own_client_takes_the_path_as_it_is(tmp_path: Path, clip: Path) -> None:
    with (
        listening(Settings(data=tmp_path / "data", api_keys="k", root_path="/tercet")) as port,
        proxy("nginx", tmp_path / "proxy", f"127.0.0.1:{port}") as address,
        Client(address, key="k") as tercet,
    ):
        tercet.add("default", clip, "story")
        assert tercet.search("red")["hits"][0]["id"] == "story"


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", PROXIES)
def test_the_page_works_below_a_path(tmp_path: Path, clip: Path, name: str) -> None:
    """Opened without the slash at the end. It adds, finds and plays, and asks for nothing above."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with (
        listening(Settings(data=tmp_path / "data", root_path="/tercet")) as port,
        proxy(name, tmp_path / "proxy", f"127.0.0.1:{port}") as address,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(ignore_https_errors=True).new_page()
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        expect(page.locator("#collection")).to_contain_text("default")
        page.locator("#add").set_input_files(clip)
        expect(page.get_by_role("list", name="Uploads")).to_contain_text("Added")
        find(page, "blue")
        until(page, "document.querySelector('#hits .cover img')?.naturalWidth > 1")
        page.locator("#hits .cover").first.click()
        until(page, "document.querySelector('#item video')?.currentTime > 2")
        browser.close()
    assert said == []
    own = (f"{address}/", "data:", "blob:")
    assert [url for url in asked[1:] if not url.startswith(own)] == []


@pytest.mark.parametrize("name", PROXIES)
def test_over_a_unix_socket(tmp_path: Path, name: str) -> None:
    """The proxy is believed: it alone can open the socket."""
    socket = tmp_path / "s"
    settings = Settings(data=tmp_path / "data", api_keys="k", root_path="/tercet", socket=socket)
    with (
        listening(settings),
        proxy(name, tmp_path / "proxy", f"unix:{socket}:") as address,
        httpx.Client(base_url=address, verify=False) as client,
    ):
        key = {"authorization": "Bearer k"}
        assert client.get("/v1/models", headers=key).json()["data"][0]["id"] == "fake"
        assert client.get("/v1/models").status_code == 401
        assert f'href="{address}/swagger/' in client.get("/docs").text


@pytest.mark.parametrize("name", PROXIES)
def test_over_ipv6(tmp_path: Path, name: str) -> None:
    settings = Settings(data=tmp_path / "data", host="::1")
    with (
        listening(settings) as port,
        proxy(name, tmp_path / "proxy", f"[::1]:{port}") as address,
    ):
        assert httpx.get(f"{address}/v1/models", verify=False).status_code == 200
