"""The whole line with real processes: train, export, build, serve, find; damage, crowds and kill
-9.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from .makers import (
    RED,
    ROOT,
    SHARED,
    make_clip,
    make_wav,
    needs_shared,
    serving,
    small_disk,
    wait_ready,
)

BUNDLE = ROOT / "bundles" / "default"


def run(*command: str) -> str:
    result = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=400
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_train_export_build_serve_find(tmp_path: Path) -> None:
    """Twenty steps teach little; what is asserted is that every part meets the next."""
    out, bundle, data = tmp_path / "run", tmp_path / "bundle", tmp_path / "data"
    run("model", "train", "--config", "smoke", "--out", str(out))
    run("export", "checkpoint", str(out), "--out", str(bundle))
    assert "good" in run("export", "verify", str(bundle), "--checkpoint", str(out / "checkpoint"))
    clips = out / "world" / "validation-16" / "validation"
    by_checkpoint = run(
        "model",
        "evaluate",
        "--checkpoint",
        str(out / "checkpoint"),
        str(clips / "manifest.jsonl"),
        "--cache",
        str(tmp_path / "c"),
        "--json",
    )
    by_bundle = run(
        "export",
        "evaluate",
        "--bundle",
        str(bundle),
        str(clips / "manifest.jsonl"),
        "--cache",
        str(tmp_path / "c"),
        "--json",
    )
    assert json.loads(by_checkpoint) == json.loads(by_bundle)
    run("index", "build", "--bundle", str(bundle), "--data", str(data), str(clips))
    with serving(data, "--bundle", str(bundle), port=8461) as (client, _):
        assert client.get("/v1/collections/default").json()["items"] == 16
        path = clips / "validation-00003.mp4"
        for route in ("video-video", "audio-audio"):
            answer = client.post(
                f"/v1/search/{route}", files={"file": (path.name, path.read_bytes())}
            ).json()
            assert (
                answer["hits"][0]["id"] == f"validation/{path.name}"
                and answer["hits"][0]["score"] > 0.999
            )
        words = client.post(
            "/v1/search/text-video", json={"query": "a red ball bouncing", "top_k": 3}
        ).json()
        assert (
            len(words["hits"]) == 3
            and words["fingerprint"] == client.get("/v1/models").json()["data"][0]["fingerprint"]
        )


def test_sixteen_at_once_one_of_them_damaged(tmp_path: Path) -> None:
    good = make_clip(tmp_path / "good.mp4", [RED, RED]).read_bytes()
    with serving(tmp_path / "data", "--bundle", str(BUNDLE), port=8462) as (client, _):
        ready: list[int] = []
        stop = threading.Event()

        def watch() -> None:
            while not stop.is_set():
                try:
                    ready.append(
                        httpx.get(str(client.base_url) + "/readyz", timeout=20).status_code
                    )
                except httpx.HTTPError:
                    ready.append(0)
                time.sleep(0.05)

        def upload(n: int) -> httpx.Response:
            content = good[: len(good) // 3] if n == 7 else good
            return client.post(
                "/v1/collections/default/items",
                files={"file": (f"{n}.mp4", content)},
                data={"id": f"i{n}"},
            )

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(upload, range(16)))
        stop.set()
        watcher.join()
        assert [a.status_code for n, a in enumerate(answers) if n != 7] == [201] * 15
        assert answers[7].status_code in (415, 422) and answers[7].json()["error"]["code"]
        assert set(ready) == {200}
        assert client.post("/v1/embed/text", json={"texts": ["still here"]}).status_code == 200
        assert client.get("/v1/collections/default").json()["items"] == 15


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    """500 items from four clients, killed ten times at random: every 201 is there, and nothing is
    half there.
    """
    data, port, rng = tmp_path / "data", 8463, random.Random(5)
    wav = make_wav(tmp_path / "t.wav", 0.5, rate=8000).read_bytes()
    todo, done, lock = list(range(500)), set[int](), threading.Lock()

    def client_loop() -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            while True:
                with lock:
                    if not todo:
                        return
                    n = todo.pop()
                try:
                    if add(client, n).status_code == 201:
                        with lock:
                            done.add(n)
                        continue
                except httpx.HTTPError:
                    time.sleep(0.1)
                with lock:
                    todo.append(n)

    def add(client: httpx.Client, n: int) -> httpx.Response:
        url = "/v1/collections/default/items"
        if n % 5 == 0:
            return client.post(
                url,
                files={"file": ("t.wav", wav)},
                data={"id": f"i{n}", "metadata": f'{{"n": {n}}}'},
            )
        return client.post(url, json={"text": f"number {n}", "id": f"i{n}", "metadata": {"n": n}})

    threads = [threading.Thread(target=client_loop, daemon=True) for _ in range(4)]
    for kill in range(11):
        with serving(data, "--bundle", str(BUNDLE), port=port) as (_, process):
            if kill == 0:
                for thread in threads:
                    thread.start()
            if kill < 10:
                target = len(done) + rng.randrange(10, 45)
                while len(done) < min(target, 499) and process.poll() is None:
                    time.sleep(0.005)
                acknowledged = set(done)
                process.kill()
                process.wait()
                continue
            for thread in threads:
                thread.join()
            assert_whole(
                httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60),
                done | acknowledged,
                data,
            )
    assert done == set(range(500))


def assert_whole(client: httpx.Client, expected: set[int], data: Path) -> None:
    with client:
        items = client.get("/v1/collections/default/items", params={"limit": 1000}).json()["items"]
        assert {i["id"] for i in items} == {f"i{n}" for n in expected}
        for i in items:
            assert i["windows"] == 1 and i["modalities"] == (
                ["text"] if i["kind"] == "text" else ["audio"]
            )
        stored = [i for i in items if i["kind"] == "audio"]
        assert len(list((data / "collections" / "default" / "media").iterdir())) == len(stored)
        for target, kind in (("text", "text"), ("audio", "audio")):
            wanted = {i["id"] for i in items if i["kind"] == kind}
            answer = client.post(
                f"/v1/search/text-{target}", json={"query": "number", "top_k": 1000}
            ).json()
            assert {h["id"] for h in answer["hits"]} == wanted
        one = client.post(
            "/v1/search/text-text", json={"query": "number 7", "filter": {"n": 7}}
        ).json()["hits"]
        assert [h["id"] for h in one] == ["i7"]


@needs_shared
def test_the_odd_files_amid_good_traffic(tmp_path: Path) -> None:
    """32 clients at once, on routes that take files: an answer or an error of the contract for each
    odd file, the right answer for each good request between them; within 2 GiB, ready all the time.
    """
    rows = [
        json.loads(line)
        for line in (SHARED / "odd" / "manifest.jsonl").read_text("utf-8").splitlines()
    ]
    codes = {
        "not_media",
        "damaged",
        "missing_modality",
        "too_large",
        "too_long",
        "decoder_failed",
        "beyond_budget",
    }
    routes = [
        "embed/video",
        "embed/audio",
        "collections/default/items",
        "search/video-video",
        "search/audio-audio",
    ]
    clip = make_clip(tmp_path / "good.mp4", [RED, RED], hz=300.0).read_bytes()
    with serving(tmp_path / "data", "--bundle", str(BUNDLE), port=8464) as (client, process):
        peak, stop = [0], threading.Event()
        watcher = threading.Thread(target=watch_memory, args=(process.pid, peak, stop), daemon=True)
        watcher.start()

        def good(n: int) -> Any:
            if n % 3 == 0:
                return client.post("/v1/embed/text", json={"texts": [f"number {n % 7}"]}).json()[
                    "data"
                ][0]["embedding"]
            if n % 3 == 1:
                answer = client.post("/v1/embed/video", files={"file": ("good.mp4", clip)})
                return answer.json()["data"][0]["embedding"]
            asked = {"query": f"number {n % 7}", "filter": {"n": n % 7}}
            return client.post("/v1/search/text-text", json=asked).json()["hits"][0]["id"]

        for n in range(7):
            said = {"text": f"number {n}", "id": f"n{n}", "metadata": {"n": n}}
            client.post("/v1/collections/default/items", json=said).raise_for_status()
        expected = [good(n) for n in range(21)]

        def send(job: tuple[int, dict[str, Any] | None]) -> None:
            n, row = job
            if row is None:
                found = good(n)
                assert found == expected[n % 21] or np.allclose(
                    found, expected[n % 21], atol=1e-3
                ), n
                assert client.get("/readyz").status_code == 200
                return
            path, route = SHARED / row["path"], routes[n % len(routes)]
            answer = client.post(f"/v1/{route}", files={"file": (path.name, path.read_bytes())})
            if answer.status_code < 300:
                assert row["expect"] not in (
                    "must not read other files",
                    "must not open sockets",
                ), path
            else:
                assert (
                    answer.status_code in (413, 415, 422)
                    and answer.json()["error"]["code"] in codes
                ), answer.text

        jobs = [(n + shift, row) for shift in (0, 1) for n, row in enumerate(rows)]
        random.Random(0).shuffle(jobs)
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(send, [job for n, odd in enumerate(jobs) for job in (odd, (n, None))]))
        stop.set()
        watcher.join()
        assert process.poll() is None and client.get("/readyz").status_code == 200
        assert peak[0] < 2 * 1024**3, f"{peak[0] / 1e6:.0f} MB"


def watch_memory(pid: int, peak: list[int], stop: threading.Event) -> None:
    """The largest resident memory of a process and its children together."""
    while not stop.is_set() and psutil.pid_exists(pid):
        with suppress(psutil.NoSuchProcess):
            family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
            peak[0] = max(peak[0], sum(process.memory_info().rss for process in family))
        time.sleep(0.05)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "24m") as place:
        yield place


def test_a_full_disk_is_told_and_loses_nothing(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data folder of 24 MB, filled with sounds of one: what was answered 201 is there, and
    searches go on.
    """
    monkeypatch.setenv("TERCET_FREE_DISK_MB", "2")
    sound, kept, n = make_wav(tmp_path / "s.wav", 16.0).read_bytes(), [], 0

    def add(client: httpx.Client, id: str) -> httpx.Response:
        return client.post(
            "/v1/collections/default/items", files={"file": ("s.wav", sound)}, data={"id": id}
        )

    with serving(disk / "data", "--bundle", str(BUNDLE), port=8468) as (client, process):
        while (answer := add(client, f"i{n}")).status_code == 201:
            kept.append(f"i{n}")
            n += 1
            assert n < 40
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage") and len(
            kept
        ) > 5
        for _ in range(20):  # and again
            assert add(client, "more").status_code == 503
        found = client.post("/v1/search/text-audio", json={"query": "a tone", "top_k": 100}).json()[
            "hits"
        ]
        assert {hit["id"] for hit in found} == set(kept)
        assert "the disk is full" in client.get("/readyz").json()["reasons"]
        for id in kept[:6]:
            assert client.delete(f"/v1/collections/default/items/{id}").status_code < 300
        assert add(client, "again").status_code == 201 and client.get("/readyz").status_code == 200
        process.kill()
        process.wait()
    with serving(disk / "data", "--bundle", str(BUNDLE), port=8468) as (client, process):
        items = client.get("/v1/collections/default/items", params={"limit": 100}).json()["items"]
        assert {item["id"] for item in items} == {*kept[6:], "again"}


def test_a_service_on_a_full_disk_deletes_starts_and_searches(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filled from outside to the last byte, again and again; nothing is refused before it fails."""
    monkeypatch.setenv("TERCET_FREE_DISK_MB", "0")
    items = "/v1/collections/default/items"

    def fill() -> None:
        with suppress(OSError), (disk / "filled").open("ab", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    with serving(disk / "data", "--bundle", str(BUNDLE), port=8469) as (client, _):
        for n in range(10):
            client.post(items, json={"text": f"a dog {n}", "id": f"i{n}"}).raise_for_status()
        fill()
        sound = {"file": ("s.wav", bytes(5_000_000))}
        assert client.post("/v1/search/audio-text", files=sound).status_code in (415, 422, 503)
        assert client.post("/v1/collections", json={"name": "more"}).status_code == 503
        for n in range(4):
            assert client.delete(f"{items}/i{n}").status_code == 204
            fill()
    fill()
    for _ in range(2):
        with serving(disk / "data", "--bundle", str(BUNDLE), port=8469) as (client, process):
            fill()
            found = client.post(
                "/v1/search/text-text", json={"query": "a dog", "top_k": 100}
            ).json()["hits"]
            assert {hit["id"] for hit in found} == {f"i{n}" for n in range(4, 10)}
            assert [one["name"] for one in client.get("/v1/collections").json()["collections"]] == [
                "default"
            ]
            process.kill()
            process.wait()
        fill()
    (disk / "filled").unlink()
    with serving(disk / "data", "--bundle", str(BUNDLE), port=8469) as (client, _):
        assert client.post(items, json={"text": "room", "id": "room"}).status_code == 201


def test_an_interrupt_ends_it_cleanly(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--bundle", str(BUNDLE), port=8465) as (client, process):
        children = psutil.Process(process.pid).children(recursive=True)
        client.post(
            "/v1/collections/default/items", json={"text": "kept", "id": "x"}
        ).raise_for_status()
        process.send_signal(2)
        assert process.wait(20) == 0
        # none of its decoders lives on
        assert children and not psutil.wait_procs(children, timeout=10)[1]
    with serving(tmp_path / "data", "--bundle", str(BUNDLE), port=8465) as (client, process):
        assert client.get("/v1/collections/default/items/x").json()["text"] == "kept"
        second = subprocess.run(
            [sys.executable, "-m", "service", "--data", str(tmp_path / "data"), "--port", "8466"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert second.returncode != 0 and "another process" in second.stderr
        wait_ready(client, process)


@pytest.mark.parametrize("damage", ["weights.bin", "manifest.json"])
def test_a_damaged_bundle_is_not_served(tmp_path: Path, damage: str) -> None:
    shutil.copytree(BUNDLE, tmp_path / "bundle")
    raw = bytearray((tmp_path / "bundle" / damage).read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / "bundle" / damage).write_bytes(raw)
    command = [
        sys.executable,
        "-m",
        "service",
        "--data",
        str(tmp_path / "d"),
        "--bundle",
        str(tmp_path / "bundle"),
    ]
    result = subprocess.run(
        [*command, "--port", "8467"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode != 0 and damage in result.stderr
