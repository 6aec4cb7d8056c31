"""What an operator meets: ids, logs and metrics, readiness, another bundle, clients that behave
oddly.
"""

from __future__ import annotations

import gc
import json
import logging
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from pydantic import ValidationError

from export.encoder import Encoder
from index.ingest.reembed import reembed
from media.containers import Budget
from media.sandbox import Decoders
from service.__main__ import server_config
from service.app import create_app
from service.links import Links
from service.settings import TOP_K_MAX, Settings
from service.trace import CURRENT, JsonLines, Trace

from .makers import RED, FakeEncoder, free_port, make_clip, make_wav, wait_until
from .test_service import Client, add, refused, search, upload

DATA = Path(__file__).parent / "data"


def test_ids_timings_logs_and_metrics(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = make_clip(tmp_path / "red.mp4", [RED, RED])
    app = create_app(
        Settings(data=tmp_path / "data", recall_sample=1.0, index="hnsw"), FakeEncoder()
    )
    with caplog.at_level(logging.INFO, "tercet.requests"), Client(app) as client:
        answer = client.post(
            "/v1/embed/video", files=upload(clip), headers={"X-Request-ID": "my-id.7"}
        )
        assert answer.headers["x-request-id"] == "my-id.7"
        timing = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
        assert timing.keys() == {"decode", "encode", "total"}
        assert 0 < float(timing["decode"]) + float(timing["encode"]) <= float(timing["total"])
        other = client.get("/v1/none", headers={"X-Request-ID": "a b\\"})
        assert (
            len(other.headers["x-request-id"]) == 32 and other.headers["x-frame-options"] == "DENY"
        )
        assert any("/v1/embed/video 200" in record.getMessage() for record in caplog.records)
        add(client, clip, id="red")
        # until the index has been made
        wait_until(lambda: not search(client, "text-video", "red")["plan"]["exact"])
        text = client.get("/metrics").text
        for line in (
            'tercet_errors_total{code="not_found"} 1.0',
            'tercet_stage_seconds_count{stage="decode"} 2.0',
            'tercet_queue_seconds_count{encoding="text"}',
            'tercet_search_recall_sum{filtered="no",ways="graph"} 1.0',
            'tercet_requests_total{route="unmatched",status="404"} 1.0',
        ):
            assert line in text, line


def test_log_lines_are_json() -> None:
    token = CURRENT.set(Trace("some-id"))
    try:
        record = logging.makeLogRecord(
            {"name": "n", "levelname": "INFO", "msg": "a %s\n", "args": ("b",), "created": 0.0}
        )
        row = json.loads(JsonLines().format(record))
    finally:
        CURRENT.reset(token)
    assert (
        row["message"] == "a b\n"
        and row["request_id"] == "some-id"
        and row["time"].startswith("1970-01-01T00:00:00")
    )


def test_media_by_range(tmp_path: Path) -> None:
    tone = make_wav(tmp_path / "tone.wav", 1.0)
    with Client(create_app(Settings(data=tmp_path / "data"), FakeEncoder())) as client:
        add(client, tone, id="tone")
        media, size = "/v1/collections/default/items/tone/media", tone.stat().st_size
        part = client.get(media, headers={"Range": "bytes=10-19"})
        assert part.status_code == 206 and part.content == tone.read_bytes()[10:20]
        assert part.headers["content-range"] == f"bytes 10-19/{size}"
        head = client.head(media)
        assert (
            head.status_code == 200
            and head.headers["content-length"] == str(size)
            and not head.content
        )
        refused(client.get(media, headers={"Range": "bytes=9-2"}), 400, "bad_range")
        beyond = client.get(media, headers={"Range": f"bytes={size}-"})
        refused(beyond, 416, "bad_range")
        assert beyond.headers["content-range"] == f"bytes */{size}"


def test_a_full_disk_refuses_what_would_fill_it_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items can be deleted and found, by a file too; a collection that was refused is not there
    after a restart.
    """
    data, encoder, tone = (
        tmp_path / "data",
        FakeEncoder(),
        make_wav(tmp_path / "tone.wav").read_bytes(),
    )
    (data / "uploads" / "upload-left").mkdir(parents=True)
    (data / "uploads" / "mine.mp4").write_bytes(b"mine")
    with Client(create_app(Settings(data=data), encoder)) as client:
        assert [path.name for path in (data / "uploads").iterdir()] == ["mine.mp4"]
        for id in ("a", "b"):
            client.post(
                "/v1/collections/default/items", json={"text": "red", "id": id}
            ).raise_for_status()

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("service.routes.collections.ensure_query_bank", fail)
        half = client.post("/v1/collections", json={"name": "half"})
        assert (half.status_code, half.json()["error"]["code"]) == (503, "storage")
        assert client.get("/v1/collections/half").status_code == 404
        monkeypatch.undo()
    with Client(
        create_app(Settings(data=data, imports=tmp_path, free_disk_mb=10**9), encoder)
    ) as client:
        items = "/v1/collections/default/items"
        for full in (
            client.post(items, json={"text": "red"}),
            client.post(items, files={"file": ("t.wav", tone)}),
            client.post("/v1/collections", json={"name": "another"}),
            client.post("/v1/jobs", json={"kind": "import", "collection": "default", "path": "."}),
        ):
            assert (full.status_code, full.json()["error"]["code"]) == (503, "storage")
            assert "items can be found and deleted." in full.json()["error"]["message"]
        assert client.post("/v1/search/text-text", json={"query": "red"}).json()["hits"]
        assert (
            client.post("/v1/search/audio-audio", files={"file": ("t.wav", tone)}).status_code
            == 200
        )
        assert client.delete(f"{items}/a").status_code == 204
    with Client(create_app(Settings(data=data), encoder)) as client:
        assert [found["name"] for found in client.get("/v1/collections").json()["collections"]] == [
            "default"
        ]
        assert [item["id"] for item in client.get(items).json()["items"]] == ["b"]
    assert (data / "uploads" / "mine.mp4").read_bytes() == b"mine"


def test_readiness_tells_the_truth(tmp_path: Path) -> None:
    encoder, ready = FakeEncoder(), {"ready": True, "reasons": []}
    data = tmp_path / "data"
    with Client(create_app(Settings(data=data), encoder)) as client:
        encoder.poison = "text"
        for _ in range(4):
            assert client.post("/v1/embed/text", json={"texts": ["red"]}).status_code == 500
        assert client.get("/readyz").json() == ready  # its check passes: the requests were at fault
        encoder.poison = "all"
        refused_ = client.get("/readyz")
        assert refused_.status_code == 503 and refused_.json()["reasons"] == ["the encoder fails"]
        encoder.poison = None
        assert client.post("/v1/embed/text", json={"texts": ["red"]}).status_code == 200
        assert client.get("/readyz").json() == ready
    with Client(create_app(Settings(data=data, free_disk_mb=10**9), encoder)) as client:
        assert client.get("/readyz").json()["reasons"] == ["the disk is full"]
        assert client.get("/healthz").status_code == 200


def test_scores_that_cannot_be_measured_at_start_are_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for that: without a line the first search would be the first to tell."""
    data = tmp_path / "data"
    with Client(create_app(Settings(data=data), FakeEncoder())) as client:
        add(client, make_clip(tmp_path / "red.mp4", [RED, RED]), id="red")
    with closing(sqlite3.connect(data / "collections" / "default" / "records.sqlite")) as db:
        db.execute("update bank set vector = x'00'")
        db.commit()
    with Client(create_app(Settings(data=data), FakeEncoder())) as client:
        assert client.get("/readyz").status_code == 200
        wait_until(lambda: "default: scores could not be measured" in caplog.text)


def test_a_hung_encoder_is_not_ready(tmp_path: Path) -> None:
    class Hung(FakeEncoder):
        gate = threading.Event()

        def embed(self, encoding: str, arrays: Any) -> Any:
            self.gate.wait(20)
            return super().embed(encoding, arrays)

    Hung.gate.set()
    app = create_app(Settings(data=tmp_path / "data", stall_s=0.2, request_max_s=0.1), Hung())
    with Client(app) as client:
        Hung.gate.clear()
        codes: list[int] = []

        def ask() -> None:
            codes.append(client.post("/v1/embed/text", json={"texts": ["red"]}).status_code)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_until(lambda: client.get("/readyz").status_code == 503)
        assert client.get("/readyz").json()["reasons"] == ["the encoder has not moved for a while"]
        for thread in threads:
            thread.join()
        assert codes == [503, 503, 503]  # nobody waits for what may never come
        Hung.gate.set()
        wait_until(lambda: client.get("/readyz").status_code == 200)


# ---------------------------------------------------------------- another bundle


def test_a_new_bundle_takes_over_while_the_old_one_serves(tmp_path: Path) -> None:
    data, clip = tmp_path / "data", make_clip(tmp_path / "red.mp4", [RED, RED])
    current: dict[str, Encoder] = {"encoder": FakeEncoder("one")}
    settings = Settings(data=data)
    with Client(
        create_app(
            settings, current["encoder"], reload_config=lambda: (settings, current["encoder"])
        )
    ) as client:
        add(client, clip, id="red")
        client.post("/v1/collections", json={"name": "empty"}).raise_for_status()
        assert client.post("/v1/admin/reload").json() == {"fingerprint": "one"}
        current["encoder"] = FakeEncoder("two")
        # its collection has not been made anew
        refused(client.post("/v1/admin/reload"), 409, "not_ready")
        assert client.get("/v1/models").json()["data"][0]["fingerprint"] == "one"
        assert search(client, "text-video", "red")["hits"][0]["id"] == "red"
        decoders = Decoders(1)
        list(reembed(data, "default", FakeEncoder("two"), decoders, Budget()))
        decoders.close()

        stop, answers = threading.Event(), set()

        def asking() -> None:
            while not stop.is_set():
                found = client.post("/v1/search/text-video", json={"query": "red"})
                answers.add((found.status_code, found.json().get("fingerprint")))

        thread = threading.Thread(target=asking)
        thread.start()
        wait_until(lambda: answers)
        assert client.post("/v1/admin/reload").json() == {"fingerprint": "two"}
        wait_until(lambda: (200, "two") in answers)
        stop.set()
        thread.join()
        assert answers == {(200, "one"), (200, "two")}
        assert client.get("/readyz").status_code == 200
        assert {c["name"] for c in client.get("/v1/collections").json()["collections"]} == {
            "default",
            "empty",
        }
        add(client, clip, id="later")


def test_an_app_starts_again_with_what_a_reload_brought(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data")
    app = create_app(
        settings, FakeEncoder("one"), reload_config=lambda: (settings, FakeEncoder("two"))
    )

    def fingerprint(client: Client) -> str:
        return str(client.get("/v1/models").json()["data"][0]["fingerprint"])

    with Client(app) as client:
        assert fingerprint(client) == "one"
    with Client(app) as client:
        assert fingerprint(client) == "one"
        assert client.post("/v1/admin/reload").json() == {"fingerprint": "two"}
    with Client(app) as client:
        assert fingerprint(client) == "two"


def test_a_reload_frees_the_encoder_before(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data")
    first = FakeEncoder("one")
    seen = weakref.ref(first)
    app = create_app(settings, first, reload_config=lambda: (settings, FakeEncoder("two")))
    del first
    with Client(app) as client:
        assert seen() is not None
        assert client.post("/v1/admin/reload").json() == {"fingerprint": "two"}
        gc.collect()
        assert seen() is None


def test_what_cannot_be_opened_does_not_take_over(tmp_path: Path) -> None:
    def broken() -> tuple[Settings, Encoder]:
        raise OSError(2, "no such bundle")

    with Client(
        create_app(Settings(data=tmp_path / "data"), FakeEncoder(), reload_config=broken)
    ) as client:
        refused(client.post("/v1/admin/reload"), 503, "storage")
        assert client.post("/v1/embed/text", json={"texts": ["red"]}).status_code == 200
    with Client(create_app(Settings(data=tmp_path / "data"), FakeEncoder())) as client:
        refused(client.post("/v1/admin/reload"), 409, "cannot_reload")


def test_nothing_that_was_answered_is_lost_by_a_reload(tmp_path: Path) -> None:
    """A first item is on its way into an empty collection when another bundle is to take over: it
    stays, as does the old bundle.
    """

    class Slow(FakeEncoder):
        gate, asked = threading.Event(), threading.Event()

        def embed(self, encoding: str, arrays: Any) -> Any:
            self.asked.set()
            self.gate.wait(10)
            return super().embed(encoding, arrays)

    Slow.gate.set()
    settings = Settings(data=tmp_path / "data")
    app = create_app(settings, Slow("one"), reload_config=lambda: (settings, FakeEncoder("two")))
    with Client(app) as client, ThreadPoolExecutor(2) as pool:
        Slow.gate.clear()
        Slow.asked.clear()
        text = {"text": "red", "id": "first"}
        adding = pool.submit(client.post, "/v1/collections/default/items", json=text)
        assert Slow.asked.wait(10)
        reloading = pool.submit(client.post, "/v1/admin/reload")
        wait_until(lambda: not app.state.owner.active._serving.is_set())
        Slow.gate.set()
        assert adding.result().status_code == 201 and reloading.result().status_code == 409
        assert client.get("/v1/collections/default/items/first").status_code == 200
        assert client.get("/readyz").status_code == 200


def test_a_takeover_that_fails_leaves_the_old_one_serving(tmp_path: Path) -> None:
    class Broken(FakeEncoder):
        def embed(self, encoding: str, arrays: Any) -> Any:
            raise RuntimeError("lost")

    settings = Settings(data=tmp_path / "data")
    with Client(
        create_app(settings, FakeEncoder("one"), reload_config=lambda: (settings, Broken("two")))
    ) as client:
        client.post("/v1/collections", json={"name": "other"}).raise_for_status()
        assert client.post("/v1/admin/reload").status_code == 500
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/collections/default/items", json={"text": "red"}).status_code == 201
        assert client.get("/v1/models").json()["data"][0]["fingerprint"] == "one"


@pytest.mark.parametrize("change", [{}, {"socket": Path("s")}, {"host": "127.0.0.1"}])
def test_a_reload_does_not_open_the_door(change: dict[str, Any], tmp_path: Path) -> None:
    """Settings that would be safe at another address, while the old one is listened on."""
    guarded = Settings(data=tmp_path / "data", host="0.0.0.0", api_keys="k")
    bare = Settings(data=tmp_path / "data", **change)
    with Client(
        create_app(guarded, FakeEncoder(), reload_config=lambda: (bare, FakeEncoder()))
    ) as client:
        key = {"Authorization": "Bearer k"}
        refused(client.post("/v1/admin/reload", headers=key), 409, "cannot_reload")
        assert client.get("/v1/models").status_code == 401


# ---------------------------------------------------------------- clients


@contextmanager
def listening(settings: Settings, clock: Callable[[], float] = time.time) -> Iterator[int]:
    """A real server in a thread, for clients that do not speak HTTP as they should; its port. Links
    expire by `clock`, which returns seconds since 1970.
    """
    port = free_port()
    app = create_app(settings, FakeEncoder())
    app.state.owner.gate.links = Links(clock)
    config = server_config(app, settings.model_copy(update={"port": port}), logs=None)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    wait_until(lambda: running.started)
    try:
        yield port
    finally:
        running.should_exit = True
        thread.join()


def test_below_a_path_the_same_is_asked_for_with_a_key(tmp_path: Path) -> None:
    """A proxy takes the path off. What comes with it is another path, and opens nothing."""
    settings = Settings(data=tmp_path / "data", api_keys="k", root_path="/tercet/")
    key = {"authorization": "Bearer k"}
    with (
        listening(settings) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        assert client.get("/v1/models").status_code == 401
        assert client.get("/v1/models", headers=key).status_code == 200
        assert client.get("/tercet/v1/models", headers=key).status_code == 404
        wrong = client.post("/v1/embeddings", json={"input": "red", "model": "other"}, headers=key)
        assert wrong.json()["error"]["type"] == "invalid_request_error"
        assert client.get("/openapi.json").json()["servers"] == [{"url": "/tercet"}]
        files = {"file": make_clip(tmp_path / "red.mp4", [RED]).read_bytes()}
        items = "/v1/collections/default/items"
        client.post(items, files=files, data={"id": "a"}, headers=key).raise_for_status()
        link = client.post(f"{items}/a/link", headers=key).json()
        for part in ("media", "poster"):
            assert link[part].startswith(f"/tercet{items}/a/{part}?link=")
            assert client.get(link[part].removeprefix("/tercet")).status_code == 200
            assert client.get(link[part]).status_code == 404


@pytest.mark.parametrize(
    ("proxies", "believed"),
    [("127.0.0.1", True), ("10.0.0.5, 127.0.0.0/8", True), ("10.0.0.5", False), ("", False)],
)
def test_only_a_named_proxy_is_believed(tmp_path: Path, proxies: str, believed: bool) -> None:
    forwarded = {"x-forwarded-proto": "https", "host": "localhost"}
    with listening(Settings(data=tmp_path / "data", proxies=proxies)) as port:
        page = httpx.get(f"http://127.0.0.1:{port}/docs", headers=forwarded).text
        assert ('href="https://localhost/swagger' in page) is believed
        assert ('href="http://localhost/swagger' in page) is not believed


def test_a_unix_socket(tmp_path: Path) -> None:
    """Nobody else can reach it, so it wants no keys, whatever the address is."""
    place = tmp_path / "socket"
    settings = Settings(data=tmp_path / "data", socket=place, host="0.0.0.0")
    assert not settings.exposed
    with (
        listening(settings) as port,
        httpx.Client(transport=httpx.HTTPTransport(uds=str(place))) as client,
    ):
        assert client.get("http://localhost/v1/models").status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/v1/models")


def test_ipv6(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
    with listening(Settings(data=tmp_path / "data", host="::1")) as port:
        assert httpx.get(f"http://[::1]:{port}/v1/models").status_code == 200


@pytest.mark.parametrize(
    "wrong", [{"root_path": "tercet"}, {"root_path": "/a b"}, {"proxies": "10.0.0.0/8,nowhere"}]
)
def test_a_setting_of_a_proxy_that_means_nothing_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[int]:
    with listening(Settings(data=tmp_path / "data", upload_max_s=1.0)) as port:
        yield port


@pytest.mark.foreign
@pytest.mark.parametrize("key", ["", "secret"])
def test_the_api_document_is_kept(tmp_path: Path, key: str) -> None:
    """Schemathesis over the whole of it, requests in sequence too: no check fails, nothing answers
    5xx.
    """
    pytest.importorskip("schemathesis")
    (tmp_path / "library").mkdir()
    settings = Settings(
        data=tmp_path / "data", imports=tmp_path / "library", api_keys=key, top_k_max=TOP_K_MAX
    )
    with listening(settings) as port:
        command = [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "--config-file",
            str(DATA / "schemathesis.toml"),
        ]
        command += [
            "run",
            f"http://127.0.0.1:{port}/openapi.json",
            "--max-examples",
            "10",
            "--seed",
            "1",
            "--no-color",
        ]
        command += ["-H", f"Authorization: Bearer {key}"] if key else []
        found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]


def test_a_body_that_trickles_in_is_ended(server: int) -> None:
    with socket.create_connection(("127.0.0.1", server), timeout=10) as client:
        client.sendall(
            b"POST /v1/embed/text HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        )
        client.sendall(b"Content-Length: 500\r\n\r\n")
        began = time.monotonic()
        client.settimeout(0.2)
        answer = b""
        while b"too_slow" not in answer and time.monotonic() - began < 8:
            try:
                client.sendall(b" ")
                answer += client.recv(4096)
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408") and b'"code":"too_slow"' in answer
        assert time.monotonic() - began < 4


def test_a_thousand_clients_that_vanish_leave_nothing_behind(server: int) -> None:
    import httpx
    import psutil

    def vanish() -> None:
        with socket.create_connection(("127.0.0.1", server), timeout=10) as client:
            client.sendall(
                b"POST /v1/embed/text HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{"
            )

    for _ in range(50):
        vanish()
    time.sleep(0.3)
    files, threads = psutil.Process().num_fds(), threading.active_count()
    for _ in range(1000):
        vanish()
    wait_until(lambda: psutil.Process().num_fds() <= files)
    wait_until(lambda: threading.active_count() <= threads)
    assert (
        httpx.post(f"http://127.0.0.1:{server}/v1/embed/text", json={"texts": ["red"]}).status_code
        == 200
    )


def test_the_log_has_no_line_for_a_file_that_takes_too_long(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is told. asyncio logs errors that nobody looked at."""
    late: Future[Any] = Future()
    late.set_exception(TimeoutError("Task timeout"))
    monkeypatch.setattr(Decoders, "start", lambda *args, **options: late)
    tone = make_wav(tmp_path / "tone.wav")
    with Client(create_app(Settings(data=tmp_path / "data"), FakeEncoder())) as client:
        refused(client.post("/v1/embed/audio", files=upload(tone)), 422, "decoder_failed")
    gc.collect()
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []
