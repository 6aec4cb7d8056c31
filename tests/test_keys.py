"""Keys with roles, and for some collections only: each route against each role, and what a key
that may not see a collection can learn of it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.routing import Match

from index.reserve import RESERVE, Reserve
from service import protocol
from service.app import create_app
from service.keys import BadKeyFile, BadKeyName, KeyExists, KeyFile, Keys, UnknownKey
from service.routes import ROUTES
from service.settings import Settings

from .makers import RED, ROOT, Clock, FakeEncoder, make_clip, make_wav, small_disk, wait_until
from .test_operate import listening
from .test_security import exchanged
from .test_service import Client, refused, upload

ITEM = "/v1/collections/{name}/items/{id:path}"
SEARCHES = [f"/v1/search/{q}-{t}" for q in ("video", "audio", "text") for t in ("video", "audio")]
SEARCHES += [f"/v1/search/{q}-{t}" for q in ("video", "audio", "text") for t in ("text", "any")]
NOBODY, READ, ADD, ADMIN = "no key", "read", "add", "admin"
CALLERS = (NOBODY, READ, ADD, ADMIN)
# Who may ask for a route at the least. A new route needs a row.
LEAST = {
    ("GET", "/"): NOBODY,
    ("HEAD", "/"): NOBODY,
    ("GET", "/page/{name}"): NOBODY,
    ("HEAD", "/page/{name}"): NOBODY,
    ("GET", "/sign-in"): NOBODY,
    ("POST", "/sign-in"): NOBODY,
    ("POST", "/sign-out"): NOBODY,
    ("GET", "/v1/session"): READ,
    ("GET", "/healthz"): NOBODY,
    ("GET", "/readyz"): NOBODY,
    ("GET", "/metrics"): NOBODY,
    ("GET", "/v1/models"): READ,
    ("GET", "/v1/models/"): READ,
    ("GET", "/v1/models/{model:path}"): READ,
    ("POST", "/v1/embeddings"): READ,
    ("POST", "/v1/embed/text"): READ,
    ("POST", "/v1/embed/audio"): READ,
    ("POST", "/v1/embed/video"): READ,
    ("POST", "/v1/collections"): ADMIN,
    ("GET", "/v1/collections"): READ,
    ("GET", "/v1/collections/{name}"): READ,
    ("DELETE", "/v1/collections/{name}"): ADMIN,
    ("GET", "/v1/collections/{name}/tags"): READ,
    ("GET", "/v1/collections/{name}/agreement"): READ,
    ("POST", "/v1/feedback"): ADD,
    ("GET", "/v1/feedback"): READ,
    ("DELETE", "/v1/feedback/{number}"): ADD,
    ("POST", "/v1/collections/{name}/items"): ADD,
    ("GET", "/v1/collections/{name}/items"): READ,
    **{
        (method, f"{ITEM}/{part}"): READ
        for part in ("media", "playable", "clip", "poster", "waveform")
        for method in ("GET", "HEAD")
    },
    ("GET", f"{ITEM}/description"): READ,
    ("GET", f"{ITEM}/highlights"): READ,
    ("POST", f"{ITEM}/where"): READ,
    ("POST", f"{ITEM}/link"): READ,
    ("GET", ITEM): READ,
    ("GET", f"{ITEM}/agreement"): READ,
    ("PATCH", ITEM): ADD,
    ("DELETE", ITEM): ADMIN,
    ("POST", "/v1/search"): READ,
    **{("POST", path): READ for path in SEARCHES},
    ("POST", "/v1/rank"): READ,
    ("POST", "/v1/jobs"): ADD,
    ("GET", "/v1/jobs"): READ,
    ("GET", "/v1/jobs/{id}"): READ,
    ("DELETE", "/v1/jobs/{id}"): ADD,
    ("POST", "/v1/admin/reload"): ADMIN,
}


def routes() -> set[tuple[str, str]]:
    found = set()
    for route in ROUTES:
        assert isinstance(route, APIRoute)
        found |= {(method, route.path) for method in route.methods or ()}
    return found


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@contextmanager
def guarded(data: Path, **changes: Any) -> Iterator[tuple[Client, KeyFile]]:
    """A service that a key of the settings opens, `root`, and the keys of its data folder."""
    settings = Settings(data=data, api_keys="root", **changes)
    with Client(create_app(settings, FakeEncoder())) as client:
        yield client, KeyFile(data)


def test_every_route_has_a_row() -> None:
    assert routes() == set(LEAST)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, dict[str, Any]]]:
    """A service, and what each caller sends."""
    with guarded(tmp_path_factory.mktemp("roles") / "data") as (client, keys):
        sent: dict[str, Any] = {NOBODY: {}}
        for role in (READ, ADD, ADMIN):
            sent[role] = bearer(keys.make(role, role)[1])
        yield client, sent


@pytest.mark.parametrize(("method", "path"), sorted(LEAST))
def test_each_route_against_each_role(
    opened: tuple[Client, dict[str, Any]], method: str, path: str
) -> None:
    """Whoever may not is told so, before anything is looked for: nothing here is there."""
    client, sent = opened
    filled = re.sub(r"{name}", "page.js" if path.startswith("/page") else "none", path)
    address = re.sub(r"{\w+(:path)?}", "none", filled)
    for caller in CALLERS:
        own_page = {"Origin": "http://localhost"}  # signing in and out asks for it
        answer = client.request(method, address, headers=sent[caller] | own_page)
        told = answer.status_code in (401, 403)
        allowed = CALLERS.index(caller) >= CALLERS.index(LEAST[method, path])
        assert told != allowed, (caller, answer.status_code, answer.text)
        if told:
            assert answer.status_code == (401 if caller == NOBODY else 403)
            code = "unauthorized" if caller == NOBODY else "forbidden"
            assert method == "HEAD" or answer.json()["error"]["code"] == code


def test_a_refusal_says_what_is_needed(tmp_path: Path) -> None:
    with guarded(tmp_path / "data") as (client, keys):
        _, secret = keys.make("reader", "read")
        answer = client.delete("/v1/collections/default", headers=bearer(secret))
        error = refused(answer, 403, "forbidden")
        assert error["detail"] == {"role": "read", "needs": "admin"}
        assert error["message"] == "This key's role is 'read'. This needs 'admin'."


def test_a_body_is_not_read_of_who_may_not_send_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader's upload is refused by its head: the server does not wait for the file."""
    monkeypatch.setattr(protocol, "LINGER_S", 0.1)
    _, secret = KeyFile(tmp_path / "data").make("reader", "read")
    with listening(Settings(data=tmp_path / "data")) as port:
        lines = [
            "POST /v1/collections/default/items HTTP/1.1",
            "Host: localhost",
            f"Authorization: Bearer {secret}",
            "Content-Type: multipart/form-data; boundary=b",
            "Content-Length: 1000",
        ]
        head = "\r\n".join(lines) + "\r\n\r\n"
        assert exchanged(port, head.encode()).startswith(b"HTTP/1.1 403")


# ---------------------------------------------------------------- collections that a key may see


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Client, dict[str, str], dict[str, str]]]:
    """A service with the collections `open` and `secret`, each with a clip, a text and what a job
    has imported; what root sends, and what a key sends that may do everything in `open`.
    """
    (tmp_path / "library").mkdir()
    clip = make_clip(tmp_path / "library" / "red.mp4", [RED, RED], hz=None)
    with guarded(tmp_path / "data", imports=clip.parent) as (client, keys):
        root = bearer("root")
        for name in ("open", "secret"):
            client.post("/v1/collections", json={"name": name}, headers=root)
            items = f"/v1/collections/{name}/items"
            added = client.post(items, files=upload(clip), data={"id": "clip"}, headers=root)
            assert added.status_code == 201
            client.post(items, json={"text": f"red {name}", "id": "text"}, headers=root)
            job = {"kind": "import", "collection": name, "path": "."}
            assert client.post("/v1/jobs", json=job, headers=root).status_code == 202
        wait_until(lambda: all_jobs_ended(client, root))
        _, secret = keys.make("limited", "admin", collections=("open", "later"))
        yield client, root, bearer(secret)


Two = tuple[Client, dict[str, str], dict[str, str]]


def all_jobs_ended(client: Client, headers: dict[str, str]) -> bool:
    jobs = client.get("/v1/jobs", headers=headers).json()["jobs"]
    return not any(job["state"] in ("queued", "running") for job in jobs)


def ways_to(name: str, job: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Every request that names a collection, or a job of it."""
    place, item = f"/v1/collections/{name}", f"/v1/collections/{name}/items/clip"
    texts = {"query": "red", "collection": name}
    part = {"parts": [{"item": "clip", "modality": "video"}], "targets": ["video"]}
    return [
        ("GET", place, {}),
        ("DELETE", place, {}),
        ("GET", f"{place}/tags", {}),
        ("GET", f"{place}/agreement", {}),
        ("GET", f"{place}/items", {}),
        ("GET", f"{place}/items?order=newest", {}),
        ("POST", f"{place}/items", {"json": {"text": "red"}}),
        ("GET", item, {}),
        ("PATCH", item, {"json": {"metadata": {"year": 2024}}}),
        ("DELETE", item, {}),
        *(("GET", f"{item}/{part}", {}) for part in ("media", "poster", "playable", "waveform")),
        *(("GET", f"{item}/{part}", {}) for part in ("description", "highlights", "agreement")),
        ("GET", f"{item}/clip?start_s=0&end_s=1", {}),
        ("POST", f"{item}/link", {}),
        ("POST", f"{item}/where", {"json": {"query": "red"}}),
        ("POST", "/v1/search/text-video", {"json": texts}),
        ("POST", "/v1/search/text-any", {"json": texts | {"tags": True}}),
        ("POST", "/v1/search", {"json": part | {"collection": name}}),
        (
            "POST",
            "/v1/rank",
            {"json": {"item": "clip", "texts": ["red", "blue"], "collection": name}},
        ),
        ("POST", "/v1/feedback", {"json": texts | {"right": [{"id": "clip"}]}}),
        ("GET", f"/v1/feedback?collection={name}", {}),
        ("DELETE", f"/v1/feedback/1?collection={name}", {}),
        ("POST", "/v1/jobs", {"json": {"kind": "import", "collection": name, "path": "."}}),
        ("GET", f"/v1/jobs/{job}", {}),
        ("DELETE", f"/v1/jobs/{job}", {}),
    ]


# What tells nothing of collections, or has a test of its own (metrics, readiness).
ABOUT_NONE = (
    "/sign",
    "/page",
    "/healthz",
    "/readyz",
    "/metrics",
    "/v1/models",
    "/v1/embed",
    "/v1/session",
    "/v1/admin",
)
LISTS = {("GET", "/v1/collections"), ("POST", "/v1/collections"), ("GET", "/v1/jobs")}


def test_every_route_about_a_collection_is_asked_for() -> None:
    asked = set()
    for method, address, _ in ways_to("secret", "0"):
        scope = {"type": "http", "method": method, "path": address.partition("?")[0]}
        scope |= {"root_path": "", "headers": []}
        route = next(route for route in ROUTES if route.matches(scope)[0] == Match.FULL)
        assert isinstance(route, APIRoute)
        asked.add((method, route.path))
    about = {
        (method, path)
        for method, path in LEAST
        if method != "HEAD" and path != "/" and not path.startswith(ABOUT_NONE)
    }
    of_one_kind = {("POST", path) for path in SEARCHES}
    assert about - LISTS - of_one_kind <= asked


def test_what_may_not_be_seen_is_answered_as_what_is_not_there(two: Two) -> None:
    """Byte for byte, but for the name that was asked for."""
    client, root, limited = two
    jobs = client.get("/v1/jobs", headers=root).json()["jobs"]
    job = next(job["id"] for job in jobs if job["collection"] == "secret")
    unknown = "0" * len(job)
    hidden = ways_to("secret", job)
    absent = ways_to("absent", unknown)
    for (method, there, body), (_, nowhere, other) in zip(hidden, absent, strict=True):
        seen = client.request(method, there, headers=limited, **body)
        plain = client.request(method, nowhere, headers=limited, **other)
        assert (seen.status_code, plain.status_code) == (404, 404), (method, there, seen.text)
        said = seen.text.replace("secret", "absent").replace(job, unknown)
        assert said == plain.text, (method, there)
        named = seen.headers.keys()
        assert named == plain.headers.keys()
    assert client.get("/v1/collections/secret", headers=root).json()["items"] == 3


def test_lists_and_counts_leave_out_what_may_not_be_seen(two: Two) -> None:
    client, root, limited = two
    shown = client.get("/v1/collections", headers=limited).json()["collections"]
    assert [one["name"] for one in shown] == ["open"]
    jobs = client.get("/v1/jobs", headers=limited).json()["jobs"]
    assert [job["collection"] for job in jobs] == ["open"]
    assert len(client.get("/v1/jobs", headers=root).json()["jobs"]) == 2
    for headers, names in ((root, {"default", "open", "secret"}), (limited, {"open"}), ({}, set())):
        metrics = client.get("/metrics", headers=headers)
        assert set(re.findall(r'collection="(\w+)"', metrics.text)) == names
        assert "tercet_requests_total" in metrics.text and "limited" not in metrics.text
    refused(client.get("/metrics", headers=bearer("wrong")), 401, "unauthorized")


def test_a_limited_key_makes_only_what_it_may_see(two: Two) -> None:
    """Whether a name is taken is not told."""
    client, _, limited = two
    for name in ("secret", "absent"):
        answer = client.post("/v1/collections", json={"name": name}, headers=limited)
        assert refused(answer, 403, "forbidden")["detail"] == {}
    made = client.post("/v1/collections", json={"name": "later"}, headers=limited)
    assert made.status_code == 201
    assert client.delete("/v1/collections/later", headers=limited).status_code == 204
    refused(client.post("/v1/admin/reload", headers=limited), 403, "forbidden")


def test_readiness_names_only_what_may_be_seen(tmp_path: Path) -> None:
    with guarded(tmp_path / "data") as (client, _):
        client.post("/v1/collections", json={"name": "secret"}, headers=bearer("root"))
        item = {"text": "red", "id": "a"}
        client.post("/v1/collections/secret/items", json=item, headers=bearer("root"))
    other = Settings(data=tmp_path / "data", api_keys="root")
    with Client(create_app(other, FakeEncoder("other"))) as client:
        reasons = client.get("/readyz", headers=bearer("root")).json()["reasons"]
        assert any("secret" in reason for reason in reasons)
        hidden = client.get("/readyz")
        assert hidden.status_code == 503 and "secret" not in hidden.text
        assert hidden.json()["reasons"] == ["not all data can be used: the log has more"]


def test_a_link_of_a_limited_key_ends_with_its_sight(two: Two) -> None:
    client, _, limited = two
    link = client.post("/v1/collections/open/items/clip/link", headers=limited).json()["media"]
    assert client.get(link).status_code == 200
    refused(client.get(link.replace("/open/", "/secret/")), 401, "bad_link")


# ---------------------------------------------------------------- the file


def test_keys_come_and_go_while_the_service_runs(tmp_path: Path) -> None:
    """Without a restart. The last key that is revoked does not open the service to everyone."""
    data = tmp_path / "data"
    with Client(create_app(Settings(data=data), FakeEncoder())) as client:
        assert client.get("/v1/models").status_code == 200
        keys = KeyFile(data)
        _, first = keys.make("first", "read")
        refused(client.get("/v1/models"), 401, "unauthorized")
        assert client.get("/v1/models", headers=bearer(first)).status_code == 200
        _, second = keys.make("second", "read")
        assert client.get("/v1/models", headers=bearer(second)).status_code == 200
        keys.revoke("first")
        refused(client.get("/v1/models", headers=bearer(first)), 401, "unauthorized")
        keys.revoke("second")
        refused(client.get("/v1/models"), 401, "unauthorized")


def test_a_file_that_goes_away_does_not_open_the_service(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Client(create_app(Settings(data=data, host="0.0.0.0"), FakeEncoder())) as client:
        _, secret = KeyFile(data).make("reader", "read")
        assert client.get("/v1/models", headers=bearer(secret)).status_code == 200
        (data / "keys.json").unlink()
        refused(client.get("/v1/models"), 401, "unauthorized")


@pytest.mark.parametrize("damage", ["", "{", '{"format": 9, "keys": []}', '{"format": 1}'])
def test_a_damaged_file_lets_nobody_in(tmp_path: Path, damage: str) -> None:
    data = tmp_path / "data"
    with guarded(data) as (client, keys):
        _, secret = keys.make("reader", "read")
        (data / "keys.json").write_text(damage)
        for key in (secret, "root"):
            refused(client.get("/v1/models", headers=bearer(key)), 503, "bad_keys")
        with pytest.raises(BadKeyFile):
            keys.make("other", "read")
        assert (data / "keys.json").read_text() == damage
        assert client.get("/healthz").status_code == 200


def test_a_key_is_kept_as_its_hash_and_for_its_owner(tmp_path: Path) -> None:
    key, secret = KeyFile(tmp_path).make("phone", "add", ("open",), expires=5.0)
    stored = (tmp_path / "keys.json").read_text()
    assert secret.startswith("tercet_") and len(secret) == 50
    assert secret not in stored and key.digest in stored
    assert (tmp_path / "keys.json").stat().st_mode & 0o777 == 0o600
    again = KeyFile(tmp_path).read()
    assert again == (key,) and again[0].collections == ("open",)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root's rights")
def test_keys_that_root_makes_are_the_data_folders_owners(tmp_path: Path) -> None:
    os.chown(tmp_path, 12_345, 12_345)
    KeyFile(tmp_path).make("phone", "read")
    stat = (tmp_path / "keys.json").stat()
    assert (stat.st_uid, stat.st_gid) == (12_345, 12_345)


def test_a_key_expires(tmp_path: Path) -> None:
    clock = Clock()
    KeyFile(tmp_path, clock).make("guest", "read", expires=clock() + 60)
    keys = Keys(tmp_path, clock)
    current = keys.current(())
    assert current is not None and [key.name for key in current] == ["guest"]
    clock.now_s += 60
    assert keys.current(()) == ()


def test_names_are_plain_and_given_once(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path)
    keys.make("phone", "read")
    with pytest.raises(KeyExists):
        keys.make("phone", "read")
    for name in ("", "TERCET_API_KEYS:1", "a b", "-a", "x" * 64, "a\n"):
        with pytest.raises(BadKeyName):
            keys.make(name, "read")
    with pytest.raises(UnknownKey):
        keys.revoke("tablet")


def test_quotas_are_of_each_key_of_the_file(tmp_path: Path) -> None:
    with guarded(tmp_path / "data", quota_requests="2/hour") as (client, keys):
        first, second = (bearer(keys.make(name, "read")[1]) for name in ("first", "second"))
        assert [client.get("/v1/models", headers=first).status_code for _ in range(3)] == [
            200,
            200,
            429,
        ]
        assert client.get("/v1/models", headers=second).status_code == 200


# ---------------------------------------------------------------- the command


def keys_command(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.cli", "keys", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if "TERCET" not in name}
    return subprocess.run(
        command, cwd=ROOT, env=environment | env, capture_output=True, text=True, timeout=60
    )


def test_a_key_is_revoked_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        keys = KeyFile(disk)
        keys.make("kept", "read")
        keys.make("leaked", "read")
        Reserve(disk / RESERVE).allocate()
        with pytest.raises(OSError, match="No space left"):
            (disk / "all the room").write_bytes(bytes(2_000_000))
        with pytest.raises(OSError, match="No space left"):
            keys.make("new", "read")
        assert keys.revoke("leaked").name == "leaked"
        found = KeyFile(disk).read()
        assert found is not None and [key.name for key in found] == ["kept"]
        assert (disk / RESERVE).exists()


def test_the_command_makes_lists_and_revokes(tmp_path: Path) -> None:
    data = tmp_path / "data"
    made = keys_command("make", "phone", "--data", data, "--expires", "2999-01-31")
    assert made.returncode == 0 and re.fullmatch(r"tercet_[\w-]{43}\n", made.stdout)
    limits = ("--role", "add", "--collection", "a", "--collection", "b", "--json")
    other = json.loads(keys_command("make", "tablet", "--data", data, *limits).stdout)
    assert (other["name"], other["role"], other["collections"]) == ("tablet", "add", ["a", "b"])
    assert other["key"].startswith("tercet_") and other["expires"] is None
    listed = keys_command("list", "--data", data, "--json")
    assert other["key"] not in listed.stdout
    rows = json.loads(listed.stdout)["keys"]
    assert [(row["name"], row["role"], row["expires"]) for row in rows] == [
        ("phone", "read", 32_474_736_000.0),
        ("tablet", "add", None),
    ]
    table = keys_command("list", "--data", data).stdout.splitlines()
    assert table[1].split() == ["phone", "read", "2999-01-31", "00:00", "all"]
    gone = json.loads(keys_command("revoke", "phone", "--data", data, "--json").stdout)
    assert gone["revoked"]["name"] == "phone"
    last = keys_command("revoke", "tablet", "--data", data)
    assert last.returncode == 0 and "This was the last key" in last.stderr


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    unknown = keys_command("revoke", "phone", "--data", tmp_path)
    assert unknown.returncode == 1 and unknown.stderr.startswith("keys: There is no key 'phone'")
    for arguments in (
        ("make", "a", "--role", "owner"),
        ("make", "a", "--expires", "soon"),
        ("make", "a", "--expires", "2001-01-01"),
        ("make", "a", "--collection", "../x"),
        ("make",),
        (),
    ):
        ran = keys_command(*arguments, "--data", tmp_path)
        assert ran.returncode == 2 and "usage: tercet keys" in ran.stderr, ran.stderr
    assert not list(tmp_path.iterdir())


def test_a_sound_is_added_by_a_key_that_may(tmp_path: Path) -> None:
    """The whole way: a command's key, a real server, an upload."""
    tone = make_wav(tmp_path / "tone.wav", 1.0)
    secret = keys_command(
        "make", "phone", "--role", "add", "--data", tmp_path / "data"
    ).stdout.strip()
    with listening(Settings(data=tmp_path / "data")) as port, tone.open("rb") as file:
        items = f"http://127.0.0.1:{port}/v1/collections/default/items"
        added = httpx.post(items, files={"file": file}, headers=bearer(secret))
        assert added.status_code == 201
