"""Batch building from the command line: everything indexed or named, and never twice."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
import tarfile
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.encoder import OnnxEncoder
from index.collection import Collection
from index.ingest.build import build as build_all
from index.ingest.build import list_failures, note_failure
from index.ingest.plan import Report
from index.ingest.source import Source
from index.library import Collections
from index.records.item import NewItem
from media.containers import Budget
from media.errors import BadMedia, DecoderFailed, NotMedia
from media.sandbox import Decoders

from .makers import BLUE, GREEN, RED, ROOT, FakeEncoder, make_clip, make_tone, make_wav, write_wav

BUNDLE = ROOT / "bundles" / "default"


def build(
    data: Path, *paths: Path | str, collection: str = "default"
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "index", "build", "--bundle", str(BUNDLE), "--data", str(data)]
    command += ["--collection", collection, *map(str, paths)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def contents(
    data: Path, collection: str = "default"
) -> dict[str, tuple[str, int, tuple[str, ...]]]:
    manifest = OnnxEncoder.open(BUNDLE).manifest
    held = Collections(data, manifest.fingerprint, manifest.dims)
    try:
        items = held.get(collection).page(100_000)
        return {item.id: (item.kind, item.windows, item.modalities) for item in items}
    finally:
        held.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "clips"
    (place / "deep" / "er").mkdir(parents=True)
    make_clip(place / "a.mp4", [RED])
    make_clip(place / "deep" / "b.MKV", [GREEN] * 12)
    make_wav(place / "deep" / "er" / "c.wav", 7.0, hz=1700.0)
    (place / "broken.mp4").write_bytes(b"not a video")
    (place / "notes.txt").write_text("hello")
    (place / ".hidden.mp4").write_bytes(b"x")
    return place


def test_a_folder(folder: Path, tmp_path: Path) -> None:
    first = build(tmp_path / "data", folder)
    assert first.returncode == 1, first.stderr
    assert "3 indexed, 0 unchanged, 1 failed, 1 other files passed over" in first.stdout
    assert re.search(r"failed: .*broken\.mp4: not a media file", first.stderr)
    assert contents(tmp_path / "data") == {
        "clips/a.mp4": ("video", 1, ("audio", "video")),
        "clips/deep/b.MKV": ("video", 3, ("audio", "video")),
        "clips/deep/er/c.wav": ("audio", 2, ("audio",)),
    }
    again = build(tmp_path / "data", folder)
    assert "0 indexed, 3 unchanged, 1 failed" in again.stdout and again.returncode == 1
    make_clip(folder / "a.mp4", [BLUE] * 12)  # a file that changed is indexed again, under its id
    (folder / "broken.mp4").unlink()
    changed = build(tmp_path / "data", folder)
    assert "1 indexed, 2 unchanged, 0 failed" in changed.stdout and changed.returncode == 0
    assert contents(tmp_path / "data")["clips/a.mp4"][1] == 3
    assert build(tmp_path / "finer", "--overlap", "0.5", folder / "a.mp4").returncode == 0
    assert contents(tmp_path / "finer")["a.mp4"][1] == 4  # of 12 s: at 0, 2.5, 5 and 7 s
    assert build(tmp_path / "finer", "--overlap", "1.5", folder / "a.mp4").returncode == 2


def test_silence_gets_no_vector_and_stays_an_item(tmp_path: Path) -> None:
    """Seven seconds, of which the last five are silent, and a sound that is nothing but silence."""
    tone = make_tone(7.0, 440.0, 16_000)
    write_wav(tmp_path / "ends.wav", np.where(np.arange(len(tone)) < 30_000, tone, 0), 16_000)
    write_wav(tmp_path / "none.wav", 0 * tone, 16_000)
    built = build(tmp_path / "data", tmp_path / "ends.wav", tmp_path / "none.wav")
    assert built.returncode == 0, built.stderr
    assert contents(tmp_path / "data") == {
        "ends.wav": ("audio", 2, ("audio",)),
        "none.wav": ("audio", 2, ()),
    }
    manifest = OnnxEncoder.open(BUNDLE).manifest
    held = Collections(tmp_path / "data", manifest.fingerprint, manifest.dims)
    try:
        [encoding] = manifest.encodings("audio")
        assert len(held.get("default").index(encoding)) == 1
    finally:
        held.close()


def test_ids_that_collide_are_told_where_they_were_given(tmp_path: Path) -> None:
    """Two files of one name are two items; a file that is found twice is one."""
    for place in ("p", "q"):
        (tmp_path / place).mkdir()
        make_wav(tmp_path / place / "c.wav", hz=300.0 if place == "p" else 500.0)
    paths = (tmp_path / "p" / "c.wav", tmp_path / "q" / "c.wav", tmp_path / "p")
    assert said(tmp_path / "data", *paths).startswith("2 indexed, 0 unchanged, 0 failed")
    assert contents(tmp_path / "data").keys() == {"c.wav", "q/c.wav"}
    rows = [{"path": f"{place}/c.wav", "id": "mine"} for place in ("p", "q")]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = build(tmp_path / "given", tmp_path / "m.jsonl")
    assert result.returncode == 1 and "1 indexed, 0 unchanged, 1 failed" in result.stdout
    assert "is taken by" in result.stderr


def test_a_manifest_with_text_and_metadata(folder: Path, tmp_path: Path) -> None:
    rows = [
        {"path": "a.mp4", "id": "first", "text": "a red clip", "metadata": {"lang": "de"}},
        {"path": "gone.mp4", "id": "gone"},
    ]
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = build(tmp_path / "data", folder / "m.jsonl")
    assert result.returncode == 1 and "gone.mp4" in result.stderr
    assert contents(tmp_path / "data") == {"first": ("video", 2, ("audio", "text", "video"))}
    odd = [
        {"path": "a.mp4", "id": "x", "text": "line\u2028break"},
        {"path": "a.mp4", "id": "y", "metadata": {"ä": "ö"}},
    ]
    (folder / "odd.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in odd), "utf-8"
    )
    assert "2 indexed" in build(tmp_path / "data", folder / "odd.jsonl").stdout
    assert "0 indexed, 2 unchanged" in build(tmp_path / "data", folder / "odd.jsonl").stdout
    for row in (
        {"path": "a\0b"},
        {"path": "a.mp4", "captions": ["\ud800"]},
        {"path": "a.mp4", "metadata": ["x"]},
        [1],
    ):
        (folder / "bad.jsonl").write_text(json.dumps(row))
        assert "bad.jsonl, line 1" in build(tmp_path / "data", folder / "bad.jsonl").stderr
    (folder / "bad.jsonl").write_text('{"path": "a.mp4"}\n{"no": "path"}\n')
    bad = build(tmp_path / "data", folder / "bad.jsonl")
    assert bad.returncode == 1 and "bad.jsonl, line 2" in bad.stderr
    assert build(tmp_path / "data", folder / "nowhere").returncode == 1
    assert build(tmp_path / "data").returncode == 2


def test_shards_and_words_alone(folder: Path, tmp_path: Path) -> None:
    """A tar shard is read as it lies; a manifest row without a path is a text."""
    (folder / "a.json").write_text(
        json.dumps({"text": "a red clip", "metadata": {"n": 1}, "path": "/etc/passwd"})
    )
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, source in (
            ("x/one.mp4", "a.mp4"),
            ("x/one.json", "a.json"),
            ("two.flac", "broken.mp4"),
        ):
            tar.add(folder / source, name)
        tar.add(folder / "deep/er/c.wav", "three.wav")
    (tmp_path / "m.jsonl").write_text(
        '{"text": "waves on a beach", "id": "words", "metadata": {"n": 2}}\n'
    )
    data = tmp_path / "data"
    first = build(data, tmp_path / "s.tar", tmp_path / "m.jsonl")
    assert "3 indexed, 0 unchanged, 1 failed" in first.stdout, first.stdout + first.stderr
    assert contents(data) == {
        "three": ("audio", 2, ("audio",)),
        "words": ("text", 1, ("text",)),
        "x/one": ("video", 2, ("audio", "text", "video")),
    }
    (row,) = map(json.loads, (data / "default-failures.jsonl").read_text().splitlines())
    assert row["source"].endswith("s.tar (two)") and row["reason"]
    assert (
        "0 indexed, 3 unchanged, 1 failed"
        in build(data, tmp_path / "s.tar", tmp_path / "m.jsonl").stdout
    )
    long = (
        "a man walks through a park on a quiet afternoon while people sit on benches and talk. " * 9
    )
    rows = [{"text": long, "id": "long"}, {"text": "собака лает", "id": "strange"}]
    (tmp_path / "n.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    odd = build(tmp_path / "odd", tmp_path / "n.jsonl")
    assert (
        odd.returncode == 0
        and "warning: strange: none of its words is known: собака, лает" in odd.stderr
    )
    assert contents(tmp_path / "odd") == {
        "long": ("text", 2, ("text",)),
        "strange": ("text", 1, ()),
    }
    (tmp_path / "bad.tar").write_bytes(b"no tar")
    assert "bad.tar" in build(data, tmp_path / "bad.tar").stderr


def test_what_failed_before_is_tried_again_when_told(tmp_path: Path) -> None:
    """Nothing about the file has changed as far as its size and time tell: a codec was missing,
    say.
    """
    good = make_wav(tmp_path / "good.wav").read_bytes()
    file = tmp_path / "f.wav"
    file.write_bytes(b"x" * len(good))
    stat = file.stat()
    assert "0 indexed, 0 unchanged, 1 failed" in build(tmp_path / "data", file).stdout
    file.write_bytes(good)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert "0 indexed, 0 unchanged, 1 failed" in build(tmp_path / "data", file).stdout
    assert (
        "1 indexed, 0 unchanged, 0 failed"
        in build(tmp_path / "data", "--retry-failed", file).stdout
    )
    assert "0 indexed, 1 unchanged, 0 failed" in build(tmp_path / "data", file).stdout
    assert (tmp_path / "data" / "default-failures.jsonl").read_text() == ""


def items_in(records: Path) -> int:
    """How many items another process has written; 0 while there is nothing to read."""
    with (
        suppress(sqlite3.OperationalError),
        closing(sqlite3.connect(f"file:{records}?mode=ro", uri=True)) as db,
    ):
        return int(db.execute("select count(*) from items").fetchone()[0])
    return 0


def test_killed_and_run_again_gives_the_same_set(tmp_path: Path) -> None:
    place = tmp_path / "clips"
    place.mkdir()
    for n in range(150):
        make_wav(place / f"{n:03d}.wav", 0.5 + n / 40, 200 + n)
    (place / "z.wav").write_bytes(b"broken")
    assert "150 indexed, 0 unchanged, 1 failed" in build(tmp_path / "whole", place).stdout
    data = tmp_path / "killed"
    command = [
        sys.executable,
        "-m",
        "index",
        "build",
        "--bundle",
        str(BUNDLE),
        "--data",
        str(data),
        str(place),
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        records = data / "collections" / "default" / "records.sqlite"
        while process.poll() is None and not items_in(records):
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert 0 < len(contents(data)) < 150
    resumed = build(data, place)
    assert re.search(r"[1-9]\d* indexed, [1-9]\d* unchanged, 1 failed", resumed.stdout), (
        resumed.stdout
    )
    assert contents(data) == contents(tmp_path / "whole")


def test_searching_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    build(tmp_path / "data", folder)
    command = [
        sys.executable,
        "-m",
        "index",
        "search",
        "--bundle",
        str(BUNDLE),
        "--data",
        str(tmp_path / "data"),
    ]

    def search(*query: str) -> str:
        result = subprocess.run(
            [*command, *query], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert (
        "clips/a.mp4"
        in search("--video", str(folder / "a.mp4"), "--target", "video").splitlines()[1]
    )
    assert (
        "clips/deep/er/c.wav"
        in search("--audio", str(folder / "deep/er/c.wav"), "--target", "audio").splitlines()[1]
    )
    assert "s  clips/" in search("--text", "something red")
    run = subprocess.run(
        [*command, "--text", "собака лает"], cwd=ROOT, capture_output=True, text=True
    )
    assert (
        run.returncode == 1
        and "none of its words is known: собака, лает" in run.stderr
        and not run.stdout
    )
    run = subprocess.run(
        [*command, "--text", "a red мяч"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0 and "No confident match: " in run.stdout and "мяч" in run.stderr
    wrong = subprocess.run(
        [*command, "--audio", str(folder / "broken.mp4")], cwd=ROOT, capture_output=True, text=True
    )
    assert wrong.returncode == 1 and "not a media file" in wrong.stderr


def said(data: Path, *paths: Path | str) -> str:
    """The line that a build ends with."""
    return next(line for line in build(data, *paths).stdout.splitlines() if " indexed, " in line)


def later(path: Path, seconds: int = 3600) -> None:
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + seconds * 10**9))


def in_place(path: Path, hz: float) -> None:
    """Other content, of the size and time that a file has."""
    stat = path.stat()
    make_wav(path, 2.0, hz)
    assert path.stat().st_size == stat.st_size
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_content_tells_where_the_time_does_not(tmp_path: Path) -> None:
    """Times that all moved by an hour cost nothing; other content in the same size and time is
    found when asked for.
    """
    place, data = tmp_path / "clips", tmp_path / "data"
    place.mkdir()
    for n in range(3):
        make_wav(place / f"{n}.wav", 2.0, 300.0 * (n + 1))
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(make_wav(tmp_path / "m.wav", 2.0, 250.0), "member.wav")
    every = (place, tmp_path / "s.tar")
    assert said(data, *every).startswith("4 indexed, 0 unchanged, 0 failed")
    for path in (*place.iterdir(), tmp_path / "s.tar"):
        later(path)
    with tarfile.open(tmp_path / "s.tar", "a") as tar:
        tar.add(make_wav(tmp_path / "n.wav", 2.0, 260.0), "another.wav")
    assert said(data, *every).startswith("1 indexed, 4 unchanged, 0 failed")
    assert said(data, *every).startswith("0 indexed, 5 unchanged, 0 failed")
    later(place / "0.wav")
    make_wav(place / "1.wav", 2.0, 1234.0)
    assert said(data, *every).startswith("1 indexed, 4 unchanged, 0 failed")
    in_place(place / "2.wav", 777.0)
    assert said(data, *every).startswith("0 indexed, 5 unchanged, 0 failed")
    checked = build(data, "--check", *every)
    assert (
        "1 indexed, 4 unchanged, 0 failed" in checked.stdout
        and "other content in the same size and time as before: 1" in checked.stdout
    )
    assert said(data, "--check", *every).startswith("0 indexed, 5 unchanged, 0 failed")


def test_records_without_sums_get_them_when_they_are_checked(tmp_path: Path) -> None:
    """Those of an earlier version: nothing is read until then."""
    file, data = make_wav(tmp_path / "a.wav", 2.0), tmp_path / "data"
    assert said(data, file).startswith("1 indexed")

    def sums(change: str = "") -> list[Any]:
        with closing(sqlite3.connect(data / "collections" / "default" / "records.sqlite")) as db:
            if change:
                db.execute(change)
                db.commit()
            return [row[0] for row in db.execute("select digest from items")]

    assert sums() == [hashlib.sha256(file.read_bytes()).hexdigest()]
    sums("update items set digest = null")
    assert said(data, file).startswith("0 indexed, 1 unchanged") and sums() == [None]
    assert said(data, "--check", file).startswith("0 indexed, 1 unchanged")
    assert sums() == [hashlib.sha256(file.read_bytes()).hexdigest()]
    later(file)
    assert said(data, file).startswith("0 indexed, 1 unchanged")


def test_what_a_broken_file_replaced_is_not_found_and_the_failure_stays_listed(
    tmp_path: Path,
) -> None:
    place, other, data = tmp_path / "a", tmp_path / "b", tmp_path / "data"
    place.mkdir()
    other.mkdir()
    for name in ("x", "y"):
        make_wav(place / f"{name}.wav", 2.0)
    make_wav(other / "z.wav", 2.0)
    good = (place / "x.wav").read_bytes()
    assert said(data, place).startswith("2 indexed")
    for broken in (b"", bytes(len(good))):
        (place / "x.wav").write_bytes(broken)
        later(place / "x.wav", 60)
        assert said(data, place).startswith("0 indexed, 1 unchanged, 1 failed")
        assert "a/x.wav" not in contents(data)
        elsewhere = build(data, other)
        assert elsewhere.returncode == 0 and ", 0 failed" in elsewhere.stdout
        assert f"failed before: {place / 'x.wav'}: not a media file" in elsewhere.stderr
        assert "--retry-failed tries them again" in elsewhere.stdout
        (row,) = map(json.loads, (data / "default-failures.jsonl").read_text().splitlines())
        assert row["source"] == str(place / "x.wav") and "not a media file" in row["reason"]
        (place / "x.wav").write_bytes(good)
        assert said(data, place).startswith("1 indexed, 1 unchanged, 0 failed")
        assert (data / "default-failures.jsonl").read_text() == ""
    (place / "x.wav").write_bytes(b"broken")
    assert said(data, place).startswith("0 indexed, 1 unchanged, 1 failed")
    (place / "x.wav").unlink()
    assert said(data, other).startswith("0 indexed, 1 unchanged, 0 failed")
    assert (data / "default-failures.jsonl").read_text() == ""


def test_an_item_stays_where_its_file_may_still_be_what_it_was(tmp_path: Path) -> None:
    """One that is missing, that a decoder gave up on, or whose id is that of an upload."""
    encoder, file = FakeEncoder(), make_wav(tmp_path / "a.wav", 2.0)
    box = Collection(tmp_path / "box", "fake", encoder.manifest.dims)
    decoders, source = Decoders(1), Source("a.wav", file)

    def built() -> list[str]:
        for _ in build_all(encoder, box, [file], decoders, Budget()):
            pass
        return [item.id for item in box.page(10)]

    def failing(fault: BadMedia, digest: str = "") -> list[str]:
        note_failure(box, Report(), replace(source, digest=digest), source.stamp, fault)
        return [item.id for item in box.page(10)]

    assert built() == ["a.wav"]
    was = hashlib.sha256(file.read_bytes()).hexdigest()
    later(file)
    assert failing(DecoderFailed("it ran out of memory"), was) == ["a.wav"]
    assert failing(NotMedia("Permission denied")) == ["a.wav"]
    file.rename(tmp_path / "b.wav")
    assert failing(NotMedia("No such file")) == ["a.wav"]
    assert list_failures(box) == {}  # it is gone
    (tmp_path / "b.wav").rename(file)
    assert failing(DecoderFailed("it ran out of memory"), "another") == []
    box.put_media(
        NewItem(
            id="a.wav",
            kind="audio",
            duration_s=2.0,
            windows=[(0.0, 2.0)],
            vectors={},
            filename="a.wav",
        ),
        file,
    )
    file.write_bytes(b"broken")
    assert built() == ["a.wav"] and box.media("a.wav")[0].read_bytes() != b"broken"
    decoders.close()
    box.close()


@pytest.mark.parametrize("lost", ["empty", "missing"])
def test_a_collection_whose_records_are_lost_is_adopted(tmp_path: Path, lost: str) -> None:
    """Refused until then; what is taken in is listed; every original is there afterwards, and what
    cannot be read.
    """
    data, sounds = (
        tmp_path / "data",
        [make_wav(tmp_path / f"{n}.wav", 2.0, 300.0 * (n + 1)) for n in range(2)],
    )
    manifest = OnnxEncoder.open(BUNDLE).manifest
    held = Collections(data, manifest.fingerprint, manifest.dims)
    box = held.ensure("default")
    names = [box.store_media(sound, sound.name) for sound in sounds]
    odd = box.store_media(tmp_path / "0.wav", "odd.wav")
    (box.folder / "media" / odd).write_bytes(b"broken")
    held.close()
    originals = {path.read_bytes() for path in (box.folder / "media").iterdir()}
    records = box.folder / "records.sqlite"
    records.unlink()
    if lost == "empty":
        records.touch()
    refused = build(data, tmp_path / "0.wav")
    assert refused.returncode == 1 and "--adopt" in refused.stderr
    assert records.exists() == (lost == "empty") and not (
        records.exists() and records.stat().st_size
    )
    adopted = build(data, "--adopt")
    assert adopted.returncode == 1 and "2 taken in, 1 failed" in adopted.stdout, (
        adopted.stdout + adopted.stderr
    )
    assert all(name in adopted.stdout for name in (*names, odd)) and odd in adopted.stderr
    assert contents(data) == dict.fromkeys(names, ("audio", 1, ("audio",)))
    assert {path.read_bytes() for path in box.folder.rglob("*.wav")} == originals
    again = build(data, "--adopt", sounds[0])
    assert (
        "0 taken in, 1 failed" in again.stdout
        and "1 indexed, 0 unchanged, 0 failed" in again.stdout
    )
    assert {path.read_bytes() for path in box.folder.rglob("*.wav")} == originals
    assert (
        build(tmp_path / "nowhere", "--adopt").returncode == 1
        and not (tmp_path / "nowhere").exists()
    )
