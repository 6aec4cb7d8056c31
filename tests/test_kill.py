"""kill -9 before steps that change the disk, the first eleven in turn and then by chance, and at random moments: what
was acknowledged is there, and whole.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.collection import Collection

from .makers import ROOT, dims
from .test_index import ask, cloud

OPENS_WITHIN_S = 10.0


def child(folder: str, seed: int, die_at: int) -> None:
    """Put, replace, delete and snapshot for ever, telling what is acknowledged; die before step `die_at`."""
    import shutil

    from index import snapshot, vectors
    from index.records import Records
    from index.vectors import FaissIndex

    steps = 0

    def deadly(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        setattr(owner, name, call)

    for owner, name in (
        (snapshot, "sync"),
        (snapshot, "digest"),
        (FaissIndex, "save"),
        (Path, "rename"),
        (Path, "unlink"),
        (shutil, "rmtree"),
        (shutil, "copyfile"),
        (Records, "_remove"),
        (Records, "_add_facts"),
        (Records, "forget_removed"),
    ):
        deadly(owner, name)
    vectors.HNSW_FROM = 40
    random_, box = random.Random(seed), Collection(Path(folder), "f1", dims(8))
    media = Path(folder).parent / "m.wav"
    n = seed * 10_000
    while True:
        n += 1
        id, act = f"i{random_.randrange(60)}", random_.random()
        if act < 0.75:
            media.write_bytes(b"%d" % n)
            box.put_media(made(id, n), media)
            print(json.dumps({"id": id, "n": n}), flush=True)
        elif act < 0.9:
            if box.page(1, after="") and any(i.id == id for i in box.page(100)):
                box.delete(id)
                print(json.dumps({"id": id, "n": None}), flush=True)
        else:
            box.snapshot()


def made(id: str, n: int) -> Any:
    from .test_index import item

    return item(id, cloud(1, 8, n)[0], n=n)


def run(folder: Path, seed: int, die_at: int, after_s: float | None = None) -> list[dict[str, Any]]:
    """What a child acknowledged before it died."""
    code = f"from tests.test_kill import child; child({str(folder)!r}, {seed}, {die_at})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if after_s is not None:
        assert process.stdout
        first = process.stdout.readline()
        time.sleep(after_s)
        process.kill()
        said = first + process.communicate()[0]
    else:
        said = process.communicate(timeout=60)[0]
    assert process.returncode == -signal.SIGKILL
    return [json.loads(line) for line in said.splitlines() if line.endswith("}")]


def check(folder: Path, expected: dict[str, int]) -> None:
    """Every acknowledged item is whole and found; at most the one that was being written may be newer or gone."""
    began = time.monotonic()
    box = Collection(folder, "f1", dims(8))
    assert time.monotonic() - began < OPENS_WITHIN_S
    items = {item.id: item for item in box.page(1000)}
    differing = [
        id for id in {*items, *expected} if (items[id].metadata["n"] if id in items else None) != expected.get(id)
    ]
    assert len(differing) <= 1, differing
    kept = set()
    for id, item in items.items():
        n = item.metadata["n"]
        path, _ = box.media(id)
        kept.add(path.name)
        assert path.read_bytes() == b"%d" % n
        assert np.abs(box.vectors(id, "video") - cloud(1, 8, n)).max() < 1e-6
        assert id in [hit.id for hit in ask(box, cloud(1, 8, n)[0], top_k=3).hits]
        if id in differing:
            expected[id] = n
    for id in differing:
        if id not in items:
            expected.pop(id, None)
    assert {path.name for path in (folder / "media").iterdir()} == kept
    assert len(box.index("video")) == len(items)
    box.close(keep=random.Random(len(items)).random() < 0.5)


def follow(expected: dict[str, int], told: list[dict[str, Any]]) -> None:
    for line in told:
        if line["n"] is None:
            expected.pop(line["id"], None)
        else:
            expected[line["id"]] = line["n"]


@pytest.mark.parametrize("kind", ["step", "moment"])
def test_killed_over_and_over(tmp_path: Path, kind: str) -> None:
    """One collection through all of them: a fault that one kill leaves would be found after a later one."""
    expected: dict[str, int] = {}
    luck = random.Random(0)
    rounds = int(os.environ.get("TERCET_KILLS", "24"))
    for seed in range(1, rounds + 1):
        if kind == "step":
            told = run(tmp_path / "box", seed, die_at=seed if seed < 12 else luck.randrange(12, 400))
        else:
            told = run(tmp_path / "box", seed, die_at=0, after_s=luck.uniform(0.0, 0.5))
        follow(expected, told)
        check(tmp_path / "box", expected)
    assert len(expected) > 10


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    """Every write until the disk is full, and again when there is room."""
    box, media = Collection(small_disk / "box", "f1", dims(8)), tmp_path / "m.wav"
    media.write_bytes(b"x" * 100_000)
    acknowledged: list[str] = []
    with pytest.raises((OSError, sqlite3.OperationalError)):
        for n in range(1000):
            box.put_media(made(f"i{n}", n), media)
            acknowledged.append(f"i{n}")
    with pytest.raises((OSError, sqlite3.OperationalError)):
        for n in range(1000, 100_000):
            box.put([made(f"i{n}", n)])
            acknowledged.append(f"i{n}")
    assert sorted(item.id for item in box.page(100_000)) == sorted(acknowledged)
    assert len(list((small_disk / "box" / "media").iterdir())) == sum(len(id) < 4 for id in acknowledged)
    box.close()  # its snapshot may not fit
    box = Collection(small_disk / "box", "f1", dims(8))
    assert sorted(item.id for item in box.page(100_000)) == sorted(acknowledged)
    for id in acknowledged[:10]:
        (small_disk / "box" / "media" / str(box.item(id).media)).write_bytes(b"")  # someone makes room
    for id in acknowledged[:10]:
        box.delete(id)
    box.put([made("new", 7)])
    assert ask(box, cloud(1, 8, 7)[0], top_k=2).hits and box.counts()["items"] == len(acknowledged) - 9
    box.close(keep=False)
