"""Backups: taken while another process writes, refused when a byte is wrong, complete when
restored.
"""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path

import pytest

from index.backup import BadBackup, backup, restore, verify
from index.collection import CollectionExists, DataInUse, DataUnusable
from index.learning import learn
from index.library import Collections

from .makers import FakeEncoder, dims, small_disk
from .test_index import cloud, found, item


def filled(data: Path, count: int = 20) -> Collections:
    collections = Collections(data, "f1", dims(8))
    box = collections.create("a")
    for n, vector in enumerate(cloud(count, 8)):
        file = data / "m.wav"
        file.write_bytes(bytes([n]) * 100)
        box.put_media(item(f"i{n}", vector, n=n), file)
    collections.create("empty")
    return collections


def test_a_backup_taken_in_use_is_restored_whole(tmp_path: Path) -> None:
    """Items are replaced and deleted all the while: each backup holds whole items with their media,
    of one moment.
    """
    collections = filled(tmp_path / "data")
    box, stop, rounds = collections.get("a"), threading.Event(), 0

    def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            (tmp_path / "new").write_bytes(b"%d" % n)
            box.put_media(item(f"w{n % 5}", cloud(1, 8, n)[0], n=n), tmp_path / "new")
            if n % 3 == 0:
                box.delete(f"w{n % 5}")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for rounds in range(5):
            backup(tmp_path / "data", tmp_path / f"b{rounds}")
    finally:
        stop.set()
        writer.join()
    with pytest.raises(DataInUse):
        restore(tmp_path / "b0", tmp_path / "data")
    collections.close()
    for n in range(rounds + 1):
        saved = restore(tmp_path / f"b{n}", tmp_path / f"back{n}")
        again = Collections(tmp_path / f"back{n}", "f1", dims(8))
        held = again.get("a")
        items = held.page(100)
        assert len(items) == saved["a"].items >= 20 and again.get("empty").counts().items == 0
        for one in items:
            file, _ = held.media(one.id)
            expected = (
                b"%d" % one.metadata["n"]
                if one.id.startswith("w")
                else bytes([one.metadata["n"]]) * 100
            )
            assert file.read_bytes() == expected
        assert found(held, cloud(20, 8)[7])[0] == "i7"
        again.close()


def test_what_is_no_whole_backup_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    filled(tmp_path / "data", 3).close()
    backup(tmp_path / "data", tmp_path / "b")
    manifest = (tmp_path / "b" / "backup.json").read_bytes()
    with pytest.raises(BadBackup, match="exists already"):
        backup(tmp_path / "data", tmp_path / "b")
    with pytest.raises(BadBackup, match="not a data folder"):
        backup(tmp_path / "nowhere", tmp_path / "c")
    with pytest.raises(CollectionExists):
        restore(tmp_path / "b", tmp_path / "data")
    for path in sorted(p for p in (tmp_path / "b").rglob("*") if p.is_file()):
        whole = path.read_bytes()
        path.write_bytes(
            whole[:-1] + bytes([whole[-1] ^ 1]) if path.name != "backup.json" else whole[:-20]
        )
        with pytest.raises(BadBackup):
            restore(tmp_path / "b", tmp_path / "back")
        path.unlink()
        with pytest.raises(BadBackup):
            restore(tmp_path / "b", tmp_path / "back")
        path.write_bytes(whole)
    for name, file in (
        ("../x", "records.sqlite"),
        (".a", "records.sqlite"),
        ("a", "../../m.wav"),
        ("a", "media/../../m"),
    ):
        stolen = {
            "format": 1,
            "collections": {name: {"fingerprint": "f1", "items": 0, "files": {file: "0"}}},
        }
        (tmp_path / "b" / "backup.json").write_text(json.dumps(stolen))
        with pytest.raises(BadBackup, match=r"not a name|does not belong"):
            restore(tmp_path / "b", tmp_path / "back")
    one = {"fingerprint": "f1", "items": 0}
    for odd in ([1], {"a": 5}, {"a": [1]}, {"a": one}, {"a": one | {"files": [1]}}):
        foreign = {"format": 1, "collections": odd}
        (tmp_path / "b" / "backup.json").write_text(json.dumps(foreign))
        with pytest.raises(BadBackup, match="is not a backup"):
            restore(tmp_path / "b", tmp_path / "back")
    foreign = {"format": 1, "collections": {"a": one | {"files": {}}}}
    (tmp_path / "b" / "backup.json").write_text(json.dumps(foreign))
    with pytest.raises(BadBackup, match=r"records\.sqlite is not named"):
        restore(tmp_path / "b", tmp_path / "back")
    (tmp_path / "b" / "backup.json").write_bytes(manifest)
    assert not list(tmp_path.glob("back/collections/*")) and verify(tmp_path / "b")["a"].items == 3
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_read_only_file_system_is_named(tmp_path: Path) -> None:
    """SQLite says no more than that it cannot open a file."""
    with small_disk(tmp_path / "disk", "16m") as disk:
        data = disk / "data"
        filled(data, 3).close()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(DataUnusable, match="read-only"):
            backup(data, tmp_path / "b")
        with pytest.raises(DataUnusable, match="read-only"):
            learn(data, "a", FakeEncoder("f1"))
    assert not (tmp_path / "b").exists()
