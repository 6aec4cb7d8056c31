"""Attacks that docs/security.md lists, where no other test has them."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
import time
import zipfile
from concurrent import futures
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import psutil
import pytest

from media.containers import Budget
from media.errors import BadMedia
from media.sandbox import ConfinedPool, Decoders
from media.windows import DecodeOptions
from service import protocol
from service.app import create_app
from service.exceptions import BadLink
from service.links import Links
from service.settings import Settings

from .makers import (
    RED,
    ROOT,
    SPECS,
    Clock,
    FakeEncoder,
    make_clip,
    make_wav,
    wait_until,
    write_hours,
    write_wav,
)
from .test_jobs import finished, started
from .test_operate import listening
from .test_service import Client, add, refused, search, upload

SITE = "Sec-Fetch-Site"  # what browsers say of who asks
# more than any file has
ENDLESS = DecodeOptions(specs=SPECS, budget=Budget(seconds=1e9, samples=10**12))


def exchanged(port: int, *pieces: bytes) -> bytes:
    """What a server answers to bytes, until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=15) as client:
        answer = b""
        try:
            for piece in pieces:
                client.sendall(piece)
            while part := client.recv(65_536):
                answer += part
        except (ConnectionResetError, BrokenPipeError):
            pass
        return answer


def test_heads_are_neither_endless_nor_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 1.0)
    with listening(Settings(data=tmp_path / "data")) as port:
        before = psutil.Process().memory_info().rss
        one_header = exchanged(port, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 200_000)
        many = exchanged(
            port, b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(20_000))
        )
        long_url = exchanged(port, b"GET /" + b"z" * 200_000)
        # whole, so that it may arrive in one piece
        end = b" HTTP/1.1\r\nHost: localhost\r\n"
        whole_url = exchanged(port, b"GET /" + b"z" * 70_000 + end + b"\r\n")
        whole_header = exchanged(port, b"GET /" + end + b"X: " + b"y" * 70_000 + b"\r\n\r\n")
        for answer in (one_header, many, long_url, whole_url, whole_header):
            assert answer.startswith(b"HTTP/1.1 431") and b'"head_too_large"' in answer, answer[:80]
        assert psutil.Process().memory_info().rss - before < 50e6
        began = time.monotonic()
        assert exchanged(port, b"GET / HTTP/1.1\r\nHo").startswith(b"HTTP/1.1 408")
        assert exchanged(port).startswith(b"HTTP/1.1 408")  # not a byte
        assert time.monotonic() - began < 6
        garbage = exchanged(port, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        assert garbage.startswith(b"HTTP/1.1 400") and b'"bad_request"' in garbage
        two = (
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2
            + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        assert exchanged(port, two).count(b"HTTP/1.1 200") == 3


def test_a_head_or_body_that_is_wrong_is_answered(tmp_path: Path) -> None:
    with listening(Settings(data=tmp_path / "data")) as port:

        def answered(head: str, body: bytes = b"") -> bytes:
            lines = f"{head}\r\nConnection: close\r\n\r\n".encode()
            return exchanged(port, lines + body)

        for host in ("[::1", "[localhost]"):
            answer = answered(f"GET /healthz HTTP/1.1\r\nHost: {host}")
            assert answer.startswith(b"HTTP/1.1 421") and b'"bad_host"' in answer
        post = "POST /v1/embed/text HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
        answer = answered(f"{post}\r\nOrigin: http://[::1\r\nContent-Length: 2", b"{}")
        assert answer.startswith(b"HTTP/1.1 403") and b'"cross_origin"' in answer
        chunks = b'2\r\n{"no length\r\n'
        answer = answered(f"{post}\r\nTransfer-Encoding: chunked", chunks)
        assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1") == 1
        assert b'"bad_request"' in answer
        # never in the place of the answer before
        first = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for second in (b"GET / HTTP/1.1\r\n\r\n", b"GET /" + b"z" * 70_000 + b" HTTP/1.1\r\n\r\n"):
            both = exchanged(port, first + second)
            assert not both or both.startswith(b"HTTP/1.1 200"), both[:80]
        # only HTTP/1.1 has it (RFC 9110, 10.1.1)
        old = f"{post}\r\nExpect: 100-continue\r\nContent-Length: 2".replace("1.1", "1.0", 1)
        assert answered(old, b"{}").startswith(b"HTTP/1.1 400")
        assert answered("GET /healthz HTTP/1.1\r\nHost: localhost").startswith(b"HTTP/1.1 200")


def test_headers_after_a_body_and_bodies_that_nobody_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trailers are dropped: they cannot say who asks. What is left of a body after its answer has
    little time.
    """
    monkeypatch.setattr(protocol, "LINGER_S", 0.5)
    monkeypatch.setattr(protocol, "HEAD_S", 1.0)
    with listening(Settings(data=tmp_path / "data", api_keys="sesame")) as port:
        head = b"POST /v1/collections HTTP/1.1\r\nHost: localhost\r\n"
        head += b"Transfer-Encoding: chunked\r\n\r\n"
        late = b"2\r\n{}\r\n0\r\nAuthorization: Bearer sesame\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(head + late)
            assert client.recv(65_536).startswith(b"HTTP/1.1 401")
        for unread in (head, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            began = time.monotonic()
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                client.sendall(unread)
                client.settimeout(0.1)
                while time.monotonic() - began < 8:
                    try:
                        client.sendall(b"\r\n" if unread.startswith(b"GET") else b"1\r\nx\r\n")
                        if not client.recv(65_536):
                            break
                    except TimeoutError:
                        continue
                    except OSError:
                        break
            assert time.monotonic() - began < 6


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("connection", ["close", "keep-alive"])
def test_who_sends_a_body_that_is_refused_gets_to_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, connection: str
) -> None:
    """Most clients read it after they have sent all, which may take longer than LINGER_S."""
    monkeypatch.setattr(protocol, "LINGER_S", 0.5)
    monkeypatch.setattr(protocol, "LINGER_BYTES", 1000)
    body = bytes(6_000_000)
    head = f"POST /v1/collections HTTP/{version}\r\nHost: localhost\r\nConnection: {connection}\r\n"
    with (
        listening(Settings(data=tmp_path / "data", api_keys="sesame")) as port,
        socket.create_connection(("127.0.0.1", port), timeout=10) as client,
    ):
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        for at in range(0, len(body), 20_000):
            client.sendall(body[at : at + 20_000])
            time.sleep(0.005)  # 1.5 s in all, or more
        answer = client.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 401") and b'"unauthorized"' in answer
        if connection == "keep-alive" and version == "1.1":
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(65_536).startswith(b"HTTP/1.1 200")
        else:
            assert client.recv(65_536) == b""


def test_without_keys_only_this_machine_is_answered(tmp_path: Path) -> None:
    """Not a page whose name was made to point here, nor one that sends a form across."""
    with Client(
        create_app(Settings(data=tmp_path / "data", hosts="archive.home"), FakeEncoder())
    ) as client:
        refused(client.get("/v1/collections", headers={"Host": "evil.example"}), 421, "bad_host")
        refused(
            client.get("/v1/collections", headers={"Host": "[::ffff:9.9.9.9]"}), 421, "bad_host"
        )
        own = ("localhost:8000", "localhost.:8000", "127.0.0.1", "[::1]:8000", "[::ffff:127.0.0.1]")
        for host in (*own, "archive.home"):
            assert client.get("/v1/collections", headers={"Host": host}).status_code == 200
        across = {"Origin": "https://evil.example"}
        refused(client.post("/v1/admin/reload", headers=across), 403, "cross_origin")
        refused(client.delete("/v1/collections/default", headers=across), 403, "cross_origin")
        own = {"Origin": "http://localhost"}
        assert (
            client.post("/v1/embed/text", json={"texts": ["red"]}, headers=own).status_code == 200
        )


def test_whose_pages_may_change_something(tmp_path: Path) -> None:
    tries = [
        ("http://localhost:8000", "localhost:8000", None, 200),
        # nginx's $host has no port, and its $server_port is another one where ports are mapped
        ("http://localhost:8443", "localhost", None, 403),
        ("http://localhost:8443", "localhost", "same-origin", 200),
        ("https://archive.home:8443", "archive.home:443", "same-origin", 200),
        # another page of this machine
        ("http://localhost:3000", "localhost", "same-site", 403),
        ("http://localhost:3000", "localhost:8000", None, 403),
        ("http://localhost:3000", "localhost:8000", "same-site", 403),
        ("https://evil.example", "localhost", "same-origin", 403),
        ("https://localhost.evil.example", "localhost", None, 403),
        ("null", "localhost", None, 403),
    ]
    own = Settings(data=tmp_path / "data", hosts="archive.home")
    with Client(create_app(own, FakeEncoder())) as client:
        for origin, host, site, status in tries:
            said = {"Origin": origin, "Host": host} | ({} if site is None else {SITE: site})
            answer = client.post("/v1/embed/text", json={"texts": ["red"]}, headers=said)
            assert answer.status_code == status, (origin, host, site)


def test_a_link_in_the_place_of_an_imported_file_is_not_followed(tmp_path: Path) -> None:
    library, secret = tmp_path / "library", tmp_path / "secret.txt"
    library.mkdir()
    secret.write_text("secret")
    tone = make_wav(library / "tone.wav", 1.0)
    with Client(
        create_app(Settings(data=tmp_path / "data", imports=library), FakeEncoder())
    ) as client:
        finished(client, started(client, "."))
        media = "/v1/collections/default/items/tone.wav/media"
        assert client.get(media).status_code == 200
        tone.unlink()
        tone.symlink_to(secret)
        refused(client.get(media), 404, "unknown_item")


def test_closed_decoders_leave_nobody_waiting(tmp_path: Path) -> None:
    long = tmp_path / "long.wav"
    write_hours(long)
    decoders = Decoders(1, max_s=60.0)
    futures = [decoders.start(long, ENDLESS) for _ in range(4)]
    wait_until(futures[0].running)
    decoders.close()
    for future in futures:
        with pytest.raises(BadMedia):
            decoders.finish(future)


def test_forms_with_too_many_parts_are_refused(tmp_path: Path) -> None:
    with Client(create_app(Settings(data=tmp_path / "data", files_max=4), FakeEncoder())) as client:
        tone = make_wav(tmp_path / "tone.wav", 1.0).read_bytes()
        many = [("file", (f"{n}.wav", tone)) for n in range(5)]
        refused(client.post("/v1/embed/audio", files=many), 400, "bad_request")
        fields = {f"field{n}": "x" for n in range(2000)}
        refused(
            client.post("/v1/collections/default/items", data=fields, files={"file": tone}),
            400,
            "bad_request",
        )
        part = (
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\nX: '
            + b"y" * 500_000
        )
        answer = client.post(
            "/v1/embed/audio",
            content=part,
            headers={"content-type": "multipart/form-data; boundary=b"},
        )
        assert answer.status_code == 400 and list((tmp_path / "data" / "uploads").iterdir()) == []


def test_json_that_explodes_is_refused(tmp_path: Path) -> None:
    with Client(
        create_app(Settings(data=tmp_path / "data", json_max_mb=1), FakeEncoder())
    ) as client:
        as_json = {"content-type": "application/json"}
        for body in (
            "[" * 100_000,
            '{"query":' * 50_000,
            '{"query": "a", "filter": ' + '{"$not":' * 500 + "1" + "}" * 501,
        ):
            assert (
                client.post("/v1/search/text-video", content=body, headers=as_json).status_code
                == 400
            )
        wide = {"$or": [{"a": n} for n in range(20_000)]}
        assert client.post(
            "/v1/search/text-video", json={"query": "a", "filter": wide}
        ).status_code in (200, 400)
        assert (
            client.post(
                "/v1/search/text-video", content=b" " * 2_000_000, headers=as_json
            ).status_code
            == 413
        )
        assert client.get("/readyz").status_code == 200


def test_media_that_explode_cost_one_request(tmp_path: Path) -> None:
    """An hour of silence that packs into nothing, headers that lie, an archive, playlists."""
    silence = tmp_path / "hour.wav"
    write_wav(silence, np.zeros(3600 * 1000, np.float32), 1000)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.mp4", bytes(50_000_000))
    liar = bytearray(make_wav(tmp_path / "tone.wav", 1.0).read_bytes())
    liar[4:8] = liar[40:44] = b"\xff\xff\xff\xff"
    clip = bytearray(make_clip(tmp_path / "red.mp4", [RED, RED]).read_bytes())
    at = clip.find(b"avc1") + 28  # width and height of the sample entry
    clip[at : at + 4] = b"\xff\xff\xff\xff"
    playlist = b"ffconcat version 1.0\nfile '/etc/passwd'\n"
    with Client(
        create_app(Settings(data=tmp_path / "data", media_max_s=60.0), FakeEncoder())
    ) as client:
        refused(client.post("/v1/embed/audio", files=upload(silence)), 413, "too_long")
        for data in (bomb.getvalue(), playlist, b"#EXTM3U\nhttp://127.0.0.1/x.ts\n"):
            refused(
                client.post("/v1/embed/video", files={"file": ("a.mp4", data)}), 415, "not_media"
            )
        for data in (bytes(liar), bytes(clip)):
            answer = client.post("/v1/embed/audio", files={"file": ("a", data)})
            assert answer.status_code in (200, 413, 415, 422), answer.text
        assert client.post("/v1/embed/text", json={"texts": ["red"]}).status_code == 200


def test_names_and_metadata_are_data(tmp_path: Path) -> None:
    """Names that lead elsewhere, markup and SQL come back as they were, and nothing is written
    outside of the data.
    """
    tone = make_wav(tmp_path / "tone.wav", 1.0)
    evil = (
        "../../../etc/passwd",
        "<script>alert(1)</script>",
        "'; DROP TABLE items; --",
        "a\\..\\b",
        "%2e%2e%2f",
    )
    before = {p.name for p in tmp_path.iterdir()} | {"data"}
    with Client(create_app(Settings(data=tmp_path / "data"), FakeEncoder())) as client:
        for name in evil:
            files = {"file": (name, tone.read_bytes())}
            answer = client.post("/v1/collections/default/items", files=files, data={"id": name})
            assert answer.status_code == 201 and answer.json()["id"] == name
            client.post(
                "/v1/collections/default/items",
                json={"text": "x", "id": f"t{name}", "metadata": {"name": name}},
            )
            found = search(client, "text-text", "x", filter={"name": name})
            assert [hit["metadata"] for hit in found["hits"]] == [{"name": name}]
        ids = {item["id"] for item in client.get("/v1/collections/default/items").json()["items"]}
        assert ids == {*evil, *(f"t{name}" for name in evil)}
        for path in (
            "/v1/collections/..%2f..%2fetc/items",
            "/v1/collections/default/items/..%2f..%2fnone/media",
        ):
            assert client.get(path).status_code == 404
        kinds = {
            client.get("/v1/collections", headers={"accept": "text/html"}).headers["content-type"]
        }
        assert kinds == {"application/json"}
    assert {p.name for p in tmp_path.iterdir()} <= before


def test_keys_are_not_guessed_by_time_or_shape(tmp_path: Path) -> None:
    with Client(
        create_app(Settings(data=tmp_path / "data", api_keys="sesame"), FakeEncoder())
    ) as client:
        for header in (
            "",
            "Bearer",
            "Bearer ",
            "bearer sesam",
            "Basic sesame",
            "Bearer sesame, x",
            "Bearer \xff",
            "sesame",
        ):
            answer = client.get("/v1/models", headers={"Authorization": header.encode("latin-1")})
            assert refused(answer, 401, "unauthorized")["detail"] == {}
        for path in ("/v1/jobs", "/v1/admin/reload", "/v1/collections", "/v1/search/text-video"):
            assert client.post(path, json={}).status_code == 401
        assert client.get("/v1//models").status_code in (401, 404)
        assert (
            client.get("/v1/models", headers={"Authorization": "bearer sesame"}).status_code == 200
        )


def altered(link: str) -> list[str]:
    """Addresses that nobody made, next to one that somebody did."""
    path, _, token = link.partition("?link=")
    ends, _, signature = token.partition(".")
    other = "B" if signature[0] == "A" else "A"
    tokens = [
        f"{int(ends) + 1}.{signature}",
        f"{ends}.{other}{signature[1:]}",
        f"{ends}.{signature[:-1]}",
        f"{ends}.",
    ]
    tokens += [
        f".{signature}",
        signature,
        "",
        f"{token}&link={token}",
        f"{token}=",
        f"0{token}",
        f"{token}%0A",
    ]
    return [f"{path}?link={token}" for token in tokens]


def test_a_link_opens_one_item_for_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    red = make_clip(tmp_path / "red.mp4", [RED])
    items, key = "/v1/collections/default/items", {"Authorization": "Bearer sesame"}
    settings = Settings(data=tmp_path / "data", api_keys="sesame", link_s=1.0)
    clock = Clock()
    with (
        listening(settings, clock) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        client.post("/v1/collections", json={"name": "other"}, headers=key).raise_for_status()
        for place in (items, "/v1/collections/other/items"):
            for id in ("a b/red", "a b/red2"):
                with red.open("rb") as file:
                    client.post(
                        place, files={"file": file}, data={"id": id}, headers=key
                    ).raise_for_status()
        refused(client.post(f"{items}/a b/red/link"), 401, "unauthorized")
        refused(client.post(f"{items}/none/link", headers=key), 404, "unknown_item")
        made = client.post(f"{items}/a b/red/link", headers=key)
        link = made.json()
        assert made.status_code == 201 and link["expires_s"] == pytest.approx(2.0, abs=0.1)
        assert link["media"].startswith(f"{items}/a%20b/red/media?link=")
        part = client.get(link["media"], headers={"Range": "bytes=10-19"})
        assert part.status_code == 206 and part.content == red.read_bytes()[10:20]
        assert part.headers["cache-control"] == "private"
        head = client.head(link["media"])
        assert head.status_code == 200 and head.headers["content-length"] == str(red.stat().st_size)
        assert client.get(f"{link['poster']}&at_s=0.5").headers["content-type"] == "image/jpeg"
        query = link["media"].partition("?")[2]
        for path in (
            f"{items}/a b/red2/media",
            "/v1/collections/other/items/a b/red/media",
            f"{items}/a b/red",
            f"{items}/a b/red/waveform",
            f"{items}/a b/red/media/",
            items,
            "/v1/models",
        ):
            refused(client.get(f"{path}?{query}"), 401, "bad_link")
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            refused(client.request(method, link["media"]), 401, "bad_link")
        refused(client.delete(f"{items}/a b/red?{query}"), 401, "bad_link")
        refused(client.post(f"{items}/a b/red/link?{query}"), 401, "bad_link")
        for address in altered(link["media"]):
            refused(client.get(address), 401, "bad_link")
        refused(
            client.get(link["media"], headers={"Authorization": "Bearer guess"}),
            401,
            "unauthorized",
        )
        clock.now_s += 3
        ended = client.get(link["media"], headers={"Range": "bytes=10-19"})
        refused(ended, 401, "bad_link")
        assert ended.headers["www-authenticate"] == "Bearer"
        again = client.post(f"{items}/a b/red/link", headers=key).json()["media"]
        assert client.get(again).content == red.read_bytes()
    others = ("http", "uvicorn.access")  # the client's own, and what `__main__` turns off
    ours = [record for record in caplog.records if not record.name.startswith(others)]
    assert any(record.name == "tercet.requests" for record in ours)
    tokens = [made["media"].partition("link=")[2] for made in (link, {"media": again})]
    assert not [
        r
        for r in ours
        for token in tokens
        if token in r.getMessage() or token in json.dumps(str(vars(r)))
    ]


def test_a_link_ends_with_its_key_and_its_process() -> None:
    links, path = Links(), "/v1/collections/default/items/red/media"
    token = links.token("key a", "default", "red", 60.0)
    assert links.maker(token, "GET", path, ["key b", "key a"]) == "key a"
    with pytest.raises(BadLink):
        links.maker(token, "GET", path, ["key b"])
    with pytest.raises(BadLink):
        Links().maker(token, "GET", path, ["key a"])


@pytest.mark.parametrize("id", ["../x/red", "a/../red", "a/.", "./red", "a/..b"])
def test_a_link_leads_to_an_id_that_looks_like_a_path(tmp_path: Path, id: str) -> None:
    """Clients resolve what lies between slashes, and would ask for another item."""
    red = make_clip(tmp_path / "red.mp4", [RED])
    items, key = "/v1/collections/default/items", {"Authorization": "Bearer sesame"}
    with (
        listening(Settings(data=tmp_path / "data", api_keys="sesame")) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        with red.open("rb") as file:
            form = {"files": {"file": file}, "data": {"id": id}, "headers": key}
            client.post(items, **form).raise_for_status()
        link = client.post(f"{items}/{quote(id, safe='')}/link", headers=key).json()
        assert client.get(link["media"]).content == red.read_bytes()


def test_requests_by_a_link_are_of_the_key_that_made_it(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data", api_keys="a,b", quota_requests="4/hour")
    with Client(create_app(settings, FakeEncoder())) as client:
        headers = {"Authorization": "Bearer a"}
        tone = make_wav(tmp_path / "tone.wav", 1.0)
        added = client.post(
            "/v1/collections/default/items",
            files=upload(tone),
            data={"id": "tone"},
            headers=headers,
        )
        assert added.status_code == 201
        link = client.post("/v1/collections/default/items/tone/link", headers=headers).json()
        assert link["poster"] is None
        assert [client.get(link["media"]).status_code for _ in range(3)] == [200, 200, 429]
        assert client.get("/v1/models", headers={"Authorization": "Bearer b"}).status_code == 200


def test_where_no_key_is_wanted_a_link_is_the_plain_address(tmp_path: Path) -> None:
    with Client(create_app(Settings(data=tmp_path / "data"), FakeEncoder())) as client:
        add(client, make_wav(tmp_path / "tone.wav", 1.0), id="tone")
        link = client.post("/v1/collections/default/items/tone/link").json()
        assert link == {
            "media": "/v1/collections/default/items/tone/media",
            "poster": None,
            "playable": "/v1/collections/default/items/tone/playable",
            "clip": "/v1/collections/default/items/tone/clip",
            "expires_s": None,
        }
        client.post("/v1/collections/default/items", json={"text": "red", "id": "words"})
        refused(client.post("/v1/collections/default/items/words/link"), 404, "unknown_item")


def test_no_origin_is_let_in(tmp_path: Path) -> None:
    with Client(create_app(Settings(data=tmp_path / "data"), FakeEncoder())) as client:
        answer = client.get("/v1/models", headers={"Origin": "https://elsewhere.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")]
        asked = client.options(
            "/v1/models", headers={"Origin": "https://x", "Access-Control-Request-Method": "GET"}
        )
        assert asked.status_code == 405
        add(client, make_wav(tmp_path / "page.html", 1.0), id="page")
        media = client.get("/v1/collections/default/items/page/media")
        assert media.headers["content-type"] == "audio/x-wav"  # what it is, never a page of ours
        assert media.headers["x-content-type-options"] == "nosniff"


def probed(port: int) -> str:
    """Run where decoders run: what can be reached and written from there."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return "network"
    except OSError:
        pass
    try:
        Path("/tmp/written-by-a-decoder").write_bytes(b"x")
        return "disk"
    except OSError:
        return "nothing"


def test_decoders_make_no_connection_and_write_no_file() -> None:
    decoders = Decoders(1)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        try:
            assert decoders._pool.schedule(probed, args=(port,)).result() == "nothing"
        finally:
            decoders.close()


def test_a_decoder_that_burns_its_processor_is_ended(tmp_path: Path) -> None:
    decoders = Decoders(1, max_s=0.3)
    try:
        long = tmp_path / "long.wav"
        write_hours(long)
        with pytest.raises(BadMedia, match="longer than"):
            decoders.finish(decoders.start(long, ENDLESS))
        short = make_wav(tmp_path / "tone.wav", 1.0)
        assert decoders.finish(
            decoders.start(short, DecodeOptions(specs=SPECS, budget=Budget()))
        ).parts
    finally:
        decoders.close()


def doze(seconds: float, max_s: float) -> float:
    """Work of a confined process."""
    time.sleep(seconds)
    return seconds


def test_a_clock_that_is_set_ends_no_work_and_holds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour forward, as after a sleep of the machine, then an hour back."""
    pool = ConfinedPool(doze, 1, 1024, max_s=3.0)
    try:
        pool.warm()
        now = time.time
        short = pool.begin(1.0)
        wait_until(short.running)
        monkeypatch.setattr(time, "time", lambda: now() + 3600)
        assert pool.finish(short) == 1.0
        endless = pool.begin(60.0)
        wait_until(endless.running)
        monkeypatch.setattr(time, "time", now)
        assert futures.wait([endless], timeout=20).done
        with pytest.raises(BadMedia, match="longer than 3 s"):
            pool.finish(endless)
    finally:
        pool.close()


def test_the_page_of_attacks_names_tests_that_exist() -> None:
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "security.md").read_text("utf-8"))
    there = {
        name
        for file in (ROOT / "tests").glob("*.py")
        for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    assert len(named) > 20 and set(named) <= there, set(named) - there
