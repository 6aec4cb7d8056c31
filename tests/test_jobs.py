"""Jobs: folders imported through the service, through stops, full disks and cancellation."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.app import create_app
from service.jobs import WAITING_MAX, Job, Jobs, Progress, TooManyJobs
from service.settings import Settings

from .makers import GREEN, RED, Clock, FakeEncoder, make_clip, make_wav, wait_until
from .test_service import Client, refused, search


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An import folder: two clips, a sound, a note, a damaged file, and a link that leads out."""
    root = tmp_path_factory.mktemp("library")
    (root / "year" / "may").mkdir(parents=True)
    make_clip(root / "year" / "red.mp4", [RED, RED])
    make_clip(root / "year" / "may" / "green.mp4", [GREEN, GREEN], hz=None)
    make_wav(root / "tone.wav", 2.0)
    (root / "notes.md").write_text("no media")
    (root / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(200))
    secret = make_wav(tmp_path_factory.mktemp("elsewhere") / "secret.wav", 1.0)
    (root / "out.wav").symlink_to(secret)
    (root / "sly.jsonl").write_text(json.dumps({"path": str(secret), "id": "sly"}) + "\n")
    return root


def finished(client: Client, id: str) -> dict[str, Any]:
    """A job, once it has ended."""

    def job() -> dict[str, Any]:
        return dict(client.get(f"/v1/jobs/{id}").json())

    wait_until(lambda: job()["state"] not in ("queued", "running"))
    return job()


def started(client: Client, path: str, collection: str = "default") -> str:
    answer = client.post(
        "/v1/jobs", json={"kind": "import", "collection": collection, "path": path}
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def test_a_folder_is_imported_and_nothing_outside_of_it(tmp_path: Path, library: Path) -> None:
    with Client(
        create_app(Settings(data=tmp_path / "data", imports=library), FakeEncoder())
    ) as client:
        job = finished(client, started(client, "."))
        assert (job["state"], job["indexed"], job["total"]) == ("done", 3, 5), job
        failures = {failure["source"]: failure["reason"] for failure in job["failures"]}
        assert failures.keys() == {"broken.mp4", "out.wav"} and "outside" in failures["out.wav"]
        ids = {item["id"] for item in client.get("/v1/collections/default/items").json()["items"]}
        assert ids == {"year/red.mp4", "year/may/green.mp4", "tone.wav"}
        assert search(client, "text-video", "green")["hits"][0]["id"] == "year/may/green.mp4"
        assert client.get("/v1/collections/default/items/tone.wav/media").status_code == 200
        again = finished(client, started(client, "year"))
        # known by their place, not by job
        assert (again["indexed"], again["unchanged"], again["failed"]) == (0, 2, 0)
        sly = finished(client, started(client, "sly.jsonl"))
        assert (sly["indexed"], sly["failed"]) == (0, 1)
        assert (
            str(library) not in client.get("/v1/jobs").text
            and len(client.get("/v1/jobs").json()["jobs"]) == 3
        )
        assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
        refused(client.get(f"/v1/jobs/{job['id']}"), 404, "unknown_job")


def test_a_job_tells_of_words_that_are_not_known(tmp_path: Path, library: Path) -> None:
    rows = [
        {"text": "red собака", "id": "mixed"},
        {"text": "лает", "id": "strange"},
        {"text": "red", "id": "plain"},
    ]
    (library / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Client(
        create_app(Settings(data=tmp_path / "data", imports=library), FakeEncoder())
    ) as client:
        job = finished(client, started(client, "words.jsonl"))
        assert (job["state"], job["indexed"], job["failed"], job["warned"]) == ("done", 3, 0, 2)
        told = {warning["source"]: warning["reason"] for warning in job["warnings"]}
        assert told.keys() == {"mixed", "strange"} and "собака" in told["mixed"]
        assert client.get("/v1/collections/default/items/strange").status_code == 200


@pytest.mark.parametrize("path", ["..", "/etc", "nowhere", "out.wav", "year/../../elsewhere"])
def test_paths_that_lead_out_are_refused(tmp_path: Path, library: Path, path: str) -> None:
    with Client(
        create_app(Settings(data=tmp_path / "data", imports=library), FakeEncoder())
    ) as client:
        refused(client.post("/v1/jobs", json={"path": path}), 404, "unknown_path")


def test_jobs_need_a_folder_a_collection_and_sense(tmp_path: Path, library: Path) -> None:
    with Client(create_app(Settings(data=tmp_path / "data"), FakeEncoder())) as client:
        refused(client.post("/v1/jobs", json={"path": "."}), 400, "no_imports")
    with Client(
        create_app(Settings(data=tmp_path / "data", imports=library), FakeEncoder())
    ) as client:
        refused(
            client.post("/v1/jobs", json={"path": ".", "collection": "none"}),
            404,
            "unknown_collection",
        )
        refused(client.post("/v1/jobs", json={"path": ".", "kind": "export"}), 400, "bad_request")
        refused(client.post("/v1/jobs", json={"path": "a\0b"}), 400, "bad_request")
        refused(client.delete("/v1/jobs/none"), 404, "unknown_job")


def progress(done: int, total: int) -> Progress:
    return Progress(done=done, total=total, indexed=done, unchanged=0, failed=0, failures=[])


def test_a_job_goes_on_after_a_stop_and_can_be_cancelled(tmp_path: Path) -> None:
    """Stopped after two steps of five and opened again, it is done anew; one that waits or runs can
    be cancelled.
    """
    gate = threading.Event()
    steps: list[tuple[str, int]] = []

    class Steps:
        def __call__(self, job: Job) -> Iterator[Progress]:
            for n in range(5):
                steps.append((job.path, n))
                yield progress(n, 5)
                if n == 1:
                    gate.wait(10)

        def stop(self) -> None:
            gate.set()

    work = Steps()
    jobs = Jobs(tmp_path / "jobs", work)
    first, second = jobs.add("default", "a"), jobs.add("default", "b")
    wait_until(lambda: ("a", 1) in steps)
    jobs.cancel(second.id)
    assert jobs.get(first.id).state == "running" and jobs.get(second.id).state == "cancelled"
    jobs.close()
    assert ("a", 3) not in steps
    steps.clear()
    again = Jobs(tmp_path / "jobs", work)
    wait_until(lambda: again.get(first.id).ended)
    assert again.get(first.id).state == "done" and again.get(first.id).indexed == 4
    assert steps == [("a", n) for n in range(5)] and again.get(second.id).state == "cancelled"
    gate.clear()
    third = again.add("default", "c")
    wait_until(lambda: ("c", 1) in steps)
    again.cancel(third.id)
    gate.set()
    wait_until(lambda: again.get(third.id).ended)
    assert again.get(third.id).state == "cancelled"
    (tmp_path / "jobs" / "torn.json").write_text('{"id": "to')
    again.close()
    assert [job.path for job in Jobs(tmp_path / "jobs", work).all()] == ["c", "b", "a"]


def test_a_job_that_was_cancelled_does_not_go_on_after_a_stop(tmp_path: Path) -> None:
    """The stop comes before the job's next step; a copy of its folder is what a crash leaves."""
    gate, begun = threading.Event(), threading.Event()

    class LongStep:
        def __call__(self, job: Job) -> Iterator[Progress]:
            begun.set()
            gate.wait(10)
            yield progress(1, 2)
            yield progress(2, 2)

        def stop(self) -> None:
            gate.set()

    jobs = Jobs(tmp_path / "jobs", LongStep())
    id = jobs.add("default", "a").id
    assert begun.wait(30)
    jobs.cancel(id)
    assert jobs.get(id).state == "running"
    shutil.copytree(tmp_path / "jobs", tmp_path / "after a crash")
    jobs.close()
    for folder in ("jobs", "after a crash"):
        again = Jobs(tmp_path / folder, LongStep())
        assert again.get(id).state == "cancelled" and again.get(id).finished is not None
        again.close()


def test_a_job_is_cancelled_while_it_is_planned_and_a_full_disk_ends_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, begun = threading.Event(), threading.Event()

    class Planning:
        def __call__(self, job: Job) -> Iterator[Progress]:
            begun.set()
            gate.wait(10)
            yield progress(1, 1)

        def stop(self) -> None:
            gate.set()

    jobs = Jobs(tmp_path / "jobs", Planning())
    first = jobs.add("default", "a")
    assert begun.wait(30)
    jobs.cancel(first.id)
    gate.set()
    wait_until(lambda: jobs.get(first.id).ended)
    assert jobs.get(first.id).state == "cancelled"
    second = jobs.add("default", "b")
    gate.clear()

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("service.jobs.write_durably", full)
    gate.set()
    wait_until(lambda: jobs.get(second.id).ended)
    assert jobs.get(second.id).state == "done" and jobs.alive
    with pytest.raises(OSError):
        jobs.add("default", "c")  # what is not on disk is not acknowledged
    assert len(jobs.all()) == 2
    monkeypatch.undo()
    gate.clear()
    running = jobs.add("default", "d")
    wait_until(lambda: jobs.get(running.id).state == "running")
    waiting = [jobs.add("default", str(n)) for n in range(WAITING_MAX - 1)]
    assert jobs.add("default", "0") == waiting[0]
    with pytest.raises(TooManyJobs):
        jobs.add("default", "one too many")
    jobs.close()


def test_what_is_no_job_hinders_none(tmp_path: Path) -> None:
    """Files of another program, of a text editor, or torn; they stay where they are."""

    class Nothing:
        def __call__(self, job: Job) -> Iterator[Progress]:
            yield progress(0, 0)

        def stop(self) -> None:
            pass

    folder = tmp_path / "jobs"
    jobs = Jobs(folder, Nothing())
    good = jobs.add("default", "a")
    wait_until(lambda: jobs.get(good.id).ended)
    jobs.close()
    row = json.loads((folder / f"{good.id}.json").read_text())
    wrong = {"list": [1], "number": 5, "time": row | {"id": "time", "created": "now"}, "copy": row}
    for name, content in wrong.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "folder.json").mkdir()
    again = Jobs(folder, Nothing())
    assert [job.id for job in again.all()] == [good.id]
    again.close()
    assert len(list(folder.iterdir())) == 7


def test_the_times_of_a_job_and_how_often_its_progress_is_written(tmp_path: Path) -> None:
    """At second 1,000 it is added, each of three steps takes 0.75 s: what the first two have done
    is on the disk before the third.
    """
    clock = Clock(1000.0)
    on_disk: list[int] = []

    class Steps:
        def __call__(self, job: Job) -> Iterator[Progress]:
            for n in range(1, 4):
                file = tmp_path / "jobs" / f"{job.id}.json"
                on_disk.append(json.loads(file.read_text())["done"])
                clock.now_s += 0.75
                yield progress(n, 3)

        def stop(self) -> None:
            pass

    jobs = Jobs(tmp_path / "jobs", Steps(), clock=clock)
    added = jobs.add("default", "a")
    wait_until(lambda: jobs.get(added.id).ended)
    jobs.close()
    ended = jobs.get(added.id)
    assert (ended.created, ended.finished, ended.done) == (1000.0, 1002.25, 3)
    assert on_disk == [0, 0, 2]
