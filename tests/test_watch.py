"""Folders that are followed as they change, here and through a service."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from queue import SimpleQueue
from typing import Any

import pytest

from index.ingest.remote import CannotImport, NoAnswer, Remote, list_paths
from index.ingest.watch import Changed, Pending, follow

from .makers import RED, ROOT, Clock, free_port, make_clip, make_wav, wait_until
from .test_archive import run


def test_files_are_waited_for_until_they_are_whole(tmp_path: Path) -> None:
    clock = Clock()
    pending = Pending(clock=clock, settle_s=2.0)
    file = tmp_path / "growing.wav"
    file.write_bytes(b"a")
    pending.note([tmp_path, tmp_path / "nowhere"])
    clock.now_s += 1.0
    file.write_bytes(b"aa")
    assert pending.take_whole() == frozenset()
    clock.now_s += 1.9
    assert pending.take_whole() == frozenset() and len(pending) == 1
    clock.now_s += 0.1
    assert pending.take_whole() == frozenset({file}) and len(pending) == 0
    pending.note([file])
    file.unlink()
    assert pending.take_whole() == frozenset() and len(pending) == 0


def watching(
    *arguments: str | Path, env: dict[str, str] | None = None, within: list[str] | None = None
) -> subprocess.Popen[str]:
    command = [
        *(within or []),
        sys.executable,
        "-m",
        "index",
        "build",
        "--watch",
        "--json",
        *map(str, arguments),
    ]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> list[dict[str, Any]]:
    """The documents that a command printed until a signal ended it."""
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


def lines_of(process: subprocess.Popen[str]) -> Callable[[], dict[str, Any]]:
    assert process.stdout is not None
    stream = process.stdout
    return lambda: dict(json.loads(stream.readline()))


def test_a_folder_is_followed(tmp_path: Path) -> None:
    """What is added, moved in and renamed is indexed; what is deleted stays. The data folder lies
    in the folder that is followed.
    """
    place = tmp_path / "in"
    place.mkdir()
    make_wav(place / "a.wav", 1.0, 300.0)
    process = watching("--data", place / ".data", place)
    try:
        next_line = lines_of(process)
        assert next_line()["indexed"] == 1
        make_wav(place / "b.wav", 1.0, 500.0)
        assert next_line()["indexed"] == 1
        (tmp_path / "new").mkdir()
        make_wav(tmp_path / "new" / "c.wav", 1.0, 700.0)
        (tmp_path / "new").rename(place / "new")
        assert next_line()["indexed"] == 1
        (place / "a.wav").rename(place / "z.wav")
        (place / "b.wav").unlink()
        assert next_line()["moved"] == 1
    finally:
        rest = ended(process)
    assert rest == []
    items = json.loads(run("items", "--data", place / ".data", "--json").stdout)["items"]
    assert [item["id"] for item in items] == ["in/a.wav", "in/b.wav", "in/new/c.wav"]


def test_a_folder_is_followed_through_a_service(tmp_path: Path) -> None:
    place = tmp_path / "in"
    place.mkdir()
    make_wav(place / "a.wav", 1.0, 300.0)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = {
        **os.environ,
        "TERCET_PORT": str(port),
        "TERCET_DATA": str(tmp_path / "data"),
        "TERCET_IMPORTS": str(place),
        "TERCET_API_KEYS": "a-key-of-this-test",
    }
    refused = watching("--url", url, place, env={"TERCET_KEY": ""})
    service = subprocess.Popen(
        [sys.executable, "-m", "service"], cwd=ROOT, env=env, stderr=subprocess.DEVNULL
    )
    try:
        # it waits for the service, and learns then that a key is needed
        assert refused.wait(120) == 1
        process = watching("--url", url, place, env={"TERCET_KEY": "a-key-of-this-test"})
        try:
            next_line = lines_of(process)
            first = next_line()
            assert (first["path"], first["indexed"], first["state"]) == (".", 1, "done")
            (place / "sub").mkdir()
            make_wav(place / "sub" / "b.wav", 1.0, 500.0)
            second = next_line()
            assert (second["path"], second["indexed"]) == ("sub/b.wav", 1)
        finally:
            ended(process, signal.SIGINT)
    finally:
        service.terminate()
        service.wait(60)
        refused.kill()
        refused.communicate()


def test_what_a_service_answers_to_a_job() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        remote = Remote(f"http://127.0.0.1:{nobody.getsockname()[1]}", None, "default")
        with pytest.raises(NoAnswer):
            remote.start(".")
    assert "did not take the job: no" in str(CannotImport("http://x", "no"))


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Something that answers one request with these bytes; its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer_one() -> None:
            with server.accept()[0] as client:
                client.recv(65_536)
                client.sendall(answer)

        thread = threading.Thread(target=answer_one)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", CannotImport),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>", CannotImport),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]", CannotImport),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", NoAnswer),
        (b"", NoAnswer),
    ],
)
def test_what_is_no_service_is_not_asked_again(answer: bytes, error: type[Exception]) -> None:
    """One that ends in the middle of an answer is."""
    with answering(answer) as url, pytest.raises(error) as told:
        Remote(url, None, "default").start(".")
    assert error is NoAnswer or "no Tercet" in str(told.value)


def test_arguments_of_watching_that_do_not_go_together(tmp_path: Path) -> None:
    for arguments in (
        ["--watch"],
        ["--url", "http://127.0.0.1", "."],
        ["--watch", "--adopt", "--data", "d", "."],
        ["--watch", "--engine", "ray", "--data", "d", "."],
        ["--watch", "--url", "http://127.0.0.1", "--screen-text", "."],
        ["--watch", "--url", "localhost:8000", "."],
        ["--watch", "--url", "http://", "."],
    ):
        assert run("build", *arguments).returncode == 2, arguments


def test_what_is_watched_is_read_in_the_manner_asked_for(tmp_path: Path) -> None:
    """A reader of words whose model is missing ends it, as it ends a build."""
    empty = tmp_path / "model"
    empty.mkdir()
    for arguments in ([], ["--watch"]):
        ended = run("build", "--data", tmp_path / "d", "--speech", empty, *arguments, tmp_path)
        assert ended.returncode == 1 and "the reader of speech" in ended.stderr


@contextmanager
def following(folder: Path) -> Iterator[Callable[[], Changed]]:
    """Follows a folder in a thread; calls return what changed next."""
    stop = threading.Event()
    told: SimpleQueue[Changed] = SimpleQueue()

    def run_thread() -> None:
        for changed in follow([folder], stop, settle_s=0.2, poll_s=0.2):
            told.put(changed)

    thread = threading.Thread(target=run_thread)
    thread.start()
    try:
        yield lambda: told.get(timeout=60)
    finally:
        stop.set()
        thread.join()


def test_names_that_are_not_utf8_are_followed(tmp_path: Path) -> None:
    """The system's news of them cannot be read (by watchfiles), so the folder is looked at."""
    with following(tmp_path) as changed:
        assert changed() is None
        folder = tmp_path / os.fsdecode(b"caf\xe9")
        folder.mkdir()
        assert changed() is None
        (folder / "a.wav").write_bytes(b"a")
        assert changed() == {folder / "a.wav"}
        (tmp_path / os.fsdecode(b"b\xff.wav")).write_bytes(b"b")
        assert changed() == {tmp_path / os.fsdecode(b"b\xff.wav")}


def test_a_folder_that_was_away_is_followed_again(tmp_path: Path) -> None:
    """It is the same folder as before, as that of a network disk is."""
    folder = tmp_path / "in"
    folder.mkdir()
    with following(folder) as changed:
        assert changed() is None
        folder.rename(tmp_path / "away")
        wait_until(lambda: all(thread.name != "watch" for thread in threading.enumerate()))
        (tmp_path / "away").rename(folder)
        assert changed() is None
        (folder / "a.wav").write_bytes(b"a")
        assert changed() == {folder / "a.wav"}


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root's rights")
def test_a_folder_that_cannot_be_asked_about_is_waited_for(tmp_path: Path) -> None:
    """The folder above it may not be entered for a while; a dead mount answers as this does."""
    place = tmp_path / "mount" / "in"
    place.mkdir(parents=True)
    make_wav(place / "a.wav", 1.0, 300.0)
    limited = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    process = watching("--data", tmp_path / "data", place, within=limited)
    try:
        next_line = lines_of(process)
        assert next_line()["indexed"] == 1
        (tmp_path / "mount").chmod(0o000)
        with pytest.raises(subprocess.TimeoutExpired):  # it goes on
            process.wait(2)
        (tmp_path / "mount").chmod(0o755)
        assert next_line()["unchanged"] == 1
    finally:
        ended(process)


def test_what_is_told_of_is_read_though_its_size_and_time_stayed(tmp_path: Path) -> None:
    """Another sound of the same length moves in with the old one's time; a film gets subtitles,
    which change and go.
    """
    place = tmp_path / "in"
    place.mkdir()
    sound = make_wav(place / "a.wav", 1.0, 300.0)
    make_clip(place / "film.mp4", [RED], hz=None)
    process = watching("--data", tmp_path / "data", place)
    try:
        next_line = lines_of(process)
        assert next_line()["indexed"] == 2
        other = make_wav(tmp_path / "a.wav", 1.0, 900.0)
        time_ns = sound.stat().st_mtime_ns
        os.utime(other, ns=(time_ns, time_ns))
        other.rename(sound)
        replaced = next_line()
        assert (replaced["changed"], replaced["rewritten"]) == (1, 1)
        subtitles = place / "film.en.srt"
        subtitles.write_text("1\n00:00:00,000 --> 00:00:01,000\nA red wall\n")
        assert next_line()["changed"] == 1
        subtitles.unlink()
        assert next_line()["changed"] == 1
    finally:
        ended(process)


def test_a_service_is_told_what_an_import_of_the_folder_would_take(tmp_path: Path) -> None:
    names = ["a.wav", "sub/b.wav", ".hidden.wav", "@eaDir/c.wav", "notes.txt", "code.ts", "x.part"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("export const a = 1;")
    changed = frozenset(tmp_path / name for name in [*names, "gone.wav"])
    assert list_paths(changed, tmp_path, PurePosixPath("in")) == ["in/a.wav", "in/sub/b.wav"]
    assert list_paths(None, tmp_path, PurePosixPath("in")) == ["in"]
