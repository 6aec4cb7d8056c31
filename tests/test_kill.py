"""kill -9 before every step that changes the disk, one after the other, and at random moments: what
was acknowledged is there, and whole. Each life is a process of its own, forked from one that has
everything imported.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index import library as data
from index.backup import BadBackup, backup, restore
from index.collection import Collection
from index.ingest import reembed
from index.ingest.adopt import adopt
from index.library import Collections
from index.records.database import Records
from index.records.item import NewItem
from index.vectors import codes, sizing, snapshot
from index.vectors.faiss_index import FaissIndex
from media.containers import Budget
from media.sandbox import Decoders
from media.windows import DecodeOptions

from .makers import ROOT, FakeEncoder, dims, make_wav, small_disk, wait_until
from .test_index import ask, cloud
from .test_index import item as made_of

OPENS_WITHIN_S = 10.0
STEPS: tuple[tuple[Any, str], ...] = (
    (os, "fsync"),
    (snapshot, "digest"),
    (FaissIndex, "save"),
    (Path, "rename"),
    (Path, "unlink"),
    (Path, "touch"),
    (Path, "mkdir"),
    (shutil, "rmtree"),
    (shutil, "copyfile"),
    (Records, "put"),
    (Records, "_remove"),
    (Records, "_insert_metadata_values"),
    (Records, "set_meta"),
    (Records, "set_bank"),
    (Records, "set_copied_versions"),
    (Records, "forget_tombstones"),
    (Records, "forget_copied_versions"),
    (Collection, "_update_indexes"),
    (Collection, "delete_media"),
)
# What deleting a folder takes, file by file, and the lives in which that counts.
DELETIONS = ((os, "unlink"), (os, "rmdir"))
DELETING = ("life_of_a_dropper", "life_of_a_newcomer")


def acknowledge(*items: tuple[str, int | None]) -> None:
    """In one write: all of them or none."""
    print("\n".join(json.dumps({"id": id, "n": n}) for id, n in items), flush=True)


def codes_from(count: int) -> None:
    """Have vectors of 8 dimensions kept in lists of codes as soon as there are so many."""
    sizing.COMPARED_PER_MS = int(8 * count / sizing.EXACT_MS)
    sizing.LEARNABLE = count
    codes.ONE_LIST = count // 4


def life_of_a_writer(folder: Path) -> None:
    """Add, replace and delete with media, snapshots between them, until an index of another kind
    takes over.
    """
    codes_from(40)
    media = folder.parent / "m.wav"
    box = Collection(folder, "f1", dims(8))

    def put(id: str, n: int) -> None:
        media.write_bytes(b"%d" % n)
        box.put_media(made(id, n), media)
        acknowledge((id, n))

    for n in range(3):
        put(f"i{n}", n)
    box.snapshot()
    put("i1", 11)
    box.delete("i2")
    acknowledge(("i2", None))
    box.snapshot()
    box.put([made(f"m{n}", 100 + n) for n in range(45)])
    acknowledge(*((f"m{n}", 100 + n) for n in range(45)))
    wait_until(lambda: not box.busy)
    with box.hold_for_reading():
        assert box.index("video").kind == "ivf"
    put("i3", 3)
    box.close()


def restless_life(folder: Path, seed: int) -> None:
    """Put, replace, delete and snapshot for ever."""
    codes_from(40)
    rng, box, n = random.Random(seed), Collection(folder, "f1", dims(8)), seed * 10_000
    media = folder.parent / "m.wav"
    while True:
        n += 1
        id, act = f"i{rng.randrange(60)}", rng.random()
        if act < 0.75:
            media.write_bytes(b"%d" % n)
            box.put_media(made(id, n), media)
            acknowledge((id, n))
        elif act < 0.9:
            if any(i.id == id for i in box.page(100)):
                box.delete(id)
                acknowledge((id, None))
        else:
            box.snapshot()


def life_of_a_successor(folder: Path) -> None:
    """Make a collection anew for another encoder while it changes, and swap."""
    old, new, decoders = FakeEncoder(), FakeEncoder("another"), Decoders(1)
    opened = Collections(folder, "fake", old.manifest.dims)
    box = opened.ensure("a")
    for n in range(2):
        box.put([words(f"w{n}")])
        acknowledge((f"w{n}", n))
    list(reembed.reembed(folder, "a", new, decoders, Budget()))
    box.delete("w1")
    acknowledge(("w1", None))
    box.put([words("w2")])
    acknowledge(("w2", 2))
    list(reembed.reembed(folder, "a", new, decoders, Budget()))
    opened.close()
    reembed.swap(folder, "a")
    decoders.close()


def life_of_a_rescuer(folder: Path) -> None:
    """Begin a collection anew whose records are lost, and take its media in."""
    encoder, decoders = FakeEncoder(), Decoders(1)
    opened = Collections(folder, "fake", encoder.manifest.dims)
    opened.adopt("a")
    list(adopt(encoder, opened.get("a"), decoders, Budget()))
    opened.close()
    decoders.close()


def life_of_an_heir(folder: Path) -> None:
    """Open a collection whose records say less than its folder has, and put another one in its
    place.
    """
    Collections(folder, "fake", FakeEncoder().manifest.dims).close()
    reembed.swap(folder, "a")


def life_of_a_restorer(folder: Path) -> None:
    """Put the collections of a backup into a data folder."""
    restore(folder.parent / "saved", folder)


def life_of_a_dropper(folder: Path) -> None:
    """Delete what is staged of a collection."""
    reembed.drop(folder, "a")


def life_of_a_deleter(folder: Path) -> None:
    """Delete a collection, and what is staged of it."""
    opened = Collections(folder, "fake", FakeEncoder().manifest.dims)
    opened.delete("a")
    opened.close()


def life_of_a_newcomer(folder: Path) -> None:
    """Open the collections with another encoder: what is empty starts over."""
    Collections(folder, "another", FakeEncoder().manifest.dims).close()


def made(id: str, n: int) -> NewItem:
    return made_of(id, cloud(1, 8, n)[0], n=n)


def words(id: str) -> NewItem:
    vector = FakeEncoder().embed("text", np.array([[1]]))
    return NewItem(
        id=id,
        kind="text",
        duration_s=0.0,
        windows=[(0.0, 0.0)],
        vectors={"text": ([0], vector)},
        metadata={"n": int(id[1:])},
        texts=("red",),
    )


def dying(die_at: int, steps_of_life: tuple[tuple[Any, str], ...]) -> None:
    """Have this process die before its step of that number."""
    steps = 0

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        return call

    for owner, name in steps_of_life:
        setattr(owner, name, deadly(getattr(owner, name)))


def nursery() -> None:
    """For each line that comes in, [life, arguments, die before which step, or after how many
    seconds, where its words go], a process that lives so, and a line with how it ended.
    """
    for line in sys.stdin:
        life, args, die_at, after_s, told = json.loads(line)
        if not (process := os.fork()):
            os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
            dying(die_at, STEPS + DELETIONS if life in DELETING else STEPS)
            try:
                globals()[life](Path(args[0]), *args[1:])
            except BaseException as fault:
                traceback.print_exception(fault)
                os._exit(1)
            os._exit(0)
        if after_s:
            time.sleep(after_s)
            os.kill(process, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


class Lives:
    def __init__(self, place: Path) -> None:
        self.told = place / "told"
        command = [sys.executable, "-c", "from tests.test_kill import nursery; nursery()"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def live(
        self, life: str, *args: Any, die_at: int = 0, after_s: float = 0.0
    ) -> tuple[int, list[dict[str, Any]]]:
        """How it ended, and what it acknowledged."""
        assert self.process.stdin and self.process.stdout
        line = [life, [str(args[0]), *args[1:]], die_at, after_s, str(self.told)]
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        ended = int(self.process.stdout.readline())
        return ended, [
            json.loads(line) for line in self.told.read_text().splitlines() if line.endswith("}")
        ]

    def deaths(self, life: str, whole: Path, more_than: int) -> Iterator[Path]:
        """For each step of a life, a copy of a folder in which it ended before that step; in the
        last one it lived to its end. It has `more_than` so many steps.
        """
        ended, step = -signal.SIGKILL, 0
        while ended:
            step += 1
            folder = whole.with_name(str(step))
            shutil.copytree(whole, folder)
            ended, _ = self.live(life, folder, die_at=step)
            assert ended in (0, -signal.SIGKILL)
            yield folder
            shutil.rmtree(folder)
        assert step > more_than

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[Lives]:
    found = Lives(tmp_path)
    yield found
    found.close()


def differing(items: dict[str, Any], expected: dict[str, int]) -> list[str]:
    return [
        id
        for id in {*items, *expected}
        if (items[id].metadata["n"] if id in items else None) != expected.get(id)
    ]


def check(folder: Path, expected: dict[str, int], unsure: int = 1) -> None:
    """Every acknowledged item is whole and found; at most those that were being written may be
    newer or gone.
    """
    began = time.monotonic()
    box = Collection(folder, "f1", dims(8))
    assert time.monotonic() - began < OPENS_WITHIN_S
    items = {item.id: item for item in box.page(1000)}
    changed = differing(items, expected)
    assert len(changed) in (0, 1, unsure), changed
    kept = set()
    for id, item in items.items():
        n = item.metadata["n"]
        if item.media:
            path, _ = box.media(id)
            kept.add(path.name)
            assert path.read_bytes() == b"%d" % n
        assert np.abs(box.vectors(id, "video") - cloud(1, 8, n)).max() < 1e-6
        assert id in [hit.id for hit in ask(box, cloud(1, 8, n)[0], top_k=3).hits]
        if id in changed:
            expected[id] = n
    for id in changed:
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


def test_killed_before_each_step_of_writing(tmp_path: Path, lives: Lives) -> None:
    """From the first to the last that a writer's life has, rebuilds and snapshots included."""
    ended, step = -signal.SIGKILL, 0
    while ended:
        step += 1
        folder, expected = tmp_path / str(step) / "box", dict[str, int]()
        folder.mkdir(parents=True)
        ended, told = lives.live("life_of_a_writer", folder, die_at=step)
        assert ended in (0, -signal.SIGKILL)
        follow(expected, told)
        check(folder, expected, unsure=45)
        shutil.rmtree(folder.parent)
    assert step > 60 and len(expected) == 48


def test_killed_at_random_moments(tmp_path: Path, lives: Lives) -> None:
    """One collection through all of them: a fault that one kill leaves would be found after a later
    one.
    """
    expected: dict[str, int] = {}
    rng = random.Random(0)
    for seed in range(1, 101):
        ended, told = lives.live(
            "restless_life", tmp_path / "box", seed, after_s=rng.uniform(0.05, 0.3)
        )
        assert ended == -signal.SIGKILL
        follow(expected, told)
        check(tmp_path / "box", expected)
    assert len(expected) > 10


def test_killed_before_each_step_of_reembedding(tmp_path: Path, lives: Lives) -> None:
    """Every acknowledged item is there in the old encoder's vectors or in the new one's; what was
    cut short goes on.
    """
    ended, step = -signal.SIGKILL, 0
    while ended:
        step += 1
        folder, expected = tmp_path / str(step), dict[str, int]()
        ended, told = lives.live("life_of_a_successor", folder, die_at=step)
        assert ended in (0, -signal.SIGKILL)
        follow(expected, told)
        opened = Collections(folder, "fake", FakeEncoder().manifest.dims)
        fingerprint = "another" if opened.conflicts else "fake"
        opened.close()
        opened = Collections(folder, fingerprint, FakeEncoder().manifest.dims)
        assert not opened.conflicts
        items = {item.id: item for item in opened.ensure("a").page(10)}
        assert len(differing(items, expected)) <= 1
        assert all(len(opened.get("a").vectors(id, "text")) == 1 for id in items)
        opened.close()
        if fingerprint == "fake":
            list(reembed.reembed(folder, "a", FakeEncoder("another"), Decoders(1), Budget()))
            reembed.swap(folder, "a")
        opened = Collections(folder, "another", FakeEncoder().manifest.dims)
        assert {item.id for item in opened.get("a").page(10)} == items.keys()
        opened.close()
        assert [path.name for path in (folder / data.STAGED).iterdir()] == ["lock"]
    assert step > 40


def archive(folder: Path, sounds: Path, hz: float = 300.0) -> set[bytes]:
    """A data folder with a collection of three sounds; what these are."""
    encoder, decoders = FakeEncoder(), Decoders(1)
    opened = Collections(folder, "fake", encoder.manifest.dims)
    sounds.mkdir()
    for n in range(3):
        sound = make_wav(sounds / f"{n}.wav", 1.0, hz * (n + 1))
        options = DecodeOptions(specs=encoder.manifest.inputs, budget=Budget())
        media = decoders.finish(decoders.start(sound, options))
        vectors = {
            m: (part.windows, encoder.embed(m, part.array)) for m, part in media.parts.items()
        }
        new = NewItem(
            id=f"i{n}",
            kind="audio",
            duration_s=media.duration_s,
            windows=media.windows,
            vectors=vectors,
            filename=sound.name,
        )
        opened.ensure("a").put_media(new, sound)
    opened.close()
    decoders.close()
    return {sound.read_bytes() for sound in sounds.iterdir()}


def kept(folder: Path) -> set[bytes]:
    return {path.read_bytes() for path in folder.rglob("*.wav")}


def test_killed_before_each_step_of_adopting(tmp_path: Path, lives: Lives) -> None:
    """Every original is there at any time, and an item in the end; what is left of the records is
    kept.
    """
    sounds = archive(tmp_path / "whole", tmp_path / "sounds")
    (tmp_path / "whole" / "collections" / "a" / "records.sqlite").write_bytes(b"")
    for folder in lives.deaths("life_of_a_rescuer", tmp_path / "whole", more_than=15):
        assert kept(folder) == sounds
        life_of_a_rescuer(folder)
        opened = Collections(folder, "fake", FakeEncoder().manifest.dims)
        box = opened.get("a")
        assert {
            box.media(item.id)[0].read_bytes() for item in box.page(10)
        } == sounds and box.counts().items == 3
        assert box.set_aside() == [] and list((box.folder / "set-aside" / "records").iterdir())
        opened.close()


def test_killed_before_each_step_of_succeeding(tmp_path: Path, lives: Lives) -> None:
    """Media that no item of a collection names outlives that another one takes its place."""
    whole, new = tmp_path / "whole", FakeEncoder("another")
    sounds = archive(whole, tmp_path / "sounds")
    old = whole / "collections" / "a"
    (old / "set-aside").mkdir()
    sounds |= {b"unnamed", b"aside", b"aside, too"}
    for name, content in (
        ("media/x", b"unnamed"),
        ("set-aside/x", b"aside"),
        ("set-aside/y", b"aside, too"),
    ):
        (old / f"{name}.wav").write_bytes(content)
    decoders = Decoders(1)
    list(reembed.reembed(whole, "a", new, decoders, Budget()))
    decoders.close()
    for folder in lives.deaths("life_of_an_heir", whole, more_than=10):
        assert kept(folder) == sounds
        opened = Collections(folder, "another", new.manifest.dims)
        if opened.conflicts:
            opened.close()
            reembed.swap(folder, "a")
            opened = Collections(folder, "another", new.manifest.dims)
        box = opened.get("a")
        assert kept(folder) == sounds and box.counts().items == 3
        assert {path.read_bytes() for path in box.set_aside()} == {
            b"unnamed",
            b"aside",
            b"aside, too",
        }
        opened.close()
        assert [path.name for path in (folder / data.STAGED).iterdir()] == ["lock"]


def test_killed_before_each_step_of_restoring(tmp_path: Path, lives: Lives) -> None:
    """All collections of a backup are there, or none; nothing else is left of them."""
    expected = {"a": 1, "b": 1}
    opened = Collections(tmp_path / "whole", "f1", dims(8))
    media = tmp_path / "m.wav"
    media.write_bytes(b"7")
    for name in expected:
        opened.ensure(name).put_media(made("i7", 7), media)
    opened.close()
    backup(tmp_path / "whole", tmp_path / "saved")
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder in lives.deaths("life_of_a_restorer", empty, more_than=15):
        if (folder / data.RESTORED).exists():
            with pytest.raises(BadBackup, match="a restore was interrupted"):
                backup(folder, tmp_path / "more")
        opened = Collections(folder, "f1", dims(8))
        found = {box.name: box.counts().items for box in opened.all()}
        opened.close()
        assert found in ({}, expected)
        if not found:
            restore(tmp_path / "saved", folder)
        for name in expected:
            check(folder / "collections" / name, {"i7": 7})
        assert {path.name for path in folder.iterdir()} == {"collections", "lock", "reserve"}
        assert {path.name for path in (folder / "collections").iterdir()} == expected.keys()


def reembed_and_swap(folder: Path, decoders: Decoders) -> None:
    """For another encoder."""
    list(reembed.reembed(folder, "a", FakeEncoder("another"), decoders, Budget()))
    reembed.swap(folder, "a")


def test_killed_before_each_step_of_dropping(tmp_path: Path, lives: Lives) -> None:
    """What is left of staged items is no item's media when all are made again and swapped in."""
    whole = tmp_path / "whole"
    sounds = archive(whole, tmp_path / "sounds")
    with closing(Decoders(1)) as decoders:
        list(reembed.reembed(whole, "a", FakeEncoder("another"), decoders, Budget()))
        for folder in lives.deaths("life_of_a_dropper", whole, more_than=8):
            reembed_and_swap(folder, decoders)
            assert kept(folder) == sounds
            assert [path.name for path in (folder / data.STAGED).iterdir()] == ["lock"]


def test_killed_before_each_step_of_deleting(tmp_path: Path, lives: Lives) -> None:
    """The next collection of that name has nothing of it, re-embedded or not."""
    whole = tmp_path / "whole"
    archive(whole, tmp_path / "sounds")
    with closing(Decoders(1)) as decoders:
        list(reembed.reembed(whole, "a", FakeEncoder("another"), decoders, Budget()))
        for folder in lives.deaths("life_of_a_deleter", whole, more_than=5):
            others = archive(folder, tmp_path / f"others {folder.name}", 500.0)
            reembed_and_swap(folder, decoders)
            assert kept(folder) == others


def test_killed_before_each_step_of_starting_over(tmp_path: Path, lives: Lives) -> None:
    """A collection that was made and is empty stays."""
    whole = tmp_path / "whole"
    opened = Collections(whole, "fake", FakeEncoder().manifest.dims)
    opened.create("a")
    opened.close()
    for folder in lives.deaths("life_of_a_newcomer", whole, more_than=5):
        opened = Collections(folder, "another", FakeEncoder().manifest.dims)
        assert [box.name for box in opened.all()] == ["a"] and not opened.conflicts
        opened.close()


@pytest.fixture
def four_mb(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "4m") as place:
        yield place


def test_a_full_disk_loses_nothing(four_mb: Path, tmp_path: Path) -> None:
    """Every write until the disk is full, and again when there is room."""
    box, media = Collection(four_mb / "box", "f1", dims(8)), tmp_path / "m.wav"
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
    assert len(list((four_mb / "box" / "media").iterdir())) == sum(
        len(id) < 4 for id in acknowledged
    )
    box.close()  # its snapshot may not fit
    box = Collection(four_mb / "box", "f1", dims(8))
    assert sorted(item.id for item in box.page(100_000)) == sorted(acknowledged)
    for id in acknowledged[:10]:
        (four_mb / "box" / "media" / str(box.item(id).media)).write_bytes(b"")  # someone makes room
    for id in acknowledged[:10]:
        box.delete(id)
    box.put([made("new", 7)])
    assert ask(box, cloud(1, 8, 7)[0], top_k=2).hits and box.counts().items == len(acknowledged) - 9
    box.close(keep=False)


def fill(disk: Path) -> None:
    """Leave no byte free."""
    with suppress(OSError), (disk / "filled").open("ab", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def test_a_full_disk_has_room_for_deletes_and_serves_searches(
    four_mb: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Filled from outside: every item can be deleted, nothing else is written, and it can be opened
    and searched.
    """
    folder, sizes = four_mb / "data", dims(8)
    box = (opened := Collections(folder, "f1", sizes)).ensure("box")
    for n in range(60):
        box.put([made(f"i{n}", n)])
    fill(four_mb)
    with pytest.raises((OSError, sqlite3.OperationalError)):
        for n in range(1000):  # SQLite's log may have room of its own
            box.put([made(f"more{n}", 100 + n)])
    there = {item.id for item in box.page(10_000)}
    with pytest.raises((OSError, sqlite3.OperationalError)):
        opened.create("another")
    for id in sorted(there - {"i7"}):
        box.delete(id)
        fill(four_mb)
    opened.close()
    fill(four_mb)
    for reserved in (True, False):
        if not reserved:
            (folder / "reserve").unlink()
            fill(four_mb)
        opened = Collections(folder, "f1", sizes)
        assert [box.name for box in opened.all()] == ["box"] and not opened.conflicts
        box = opened.get("box")
        assert [hit.id for hit in ask(box, cloud(1, 8, 7)[0]).hits] == ["i7"]
        assert ("can be searched" in caplog.text) is not reserved
        if reserved:
            opened.close()
            fill(four_mb)
    (four_mb / "filled").unlink()
    box.put([made("new", 3)])
    box.delete("i7")
    assert [hit.id for hit in ask(box, cloud(1, 8, 3)[0]).hits] == ["new"]
    opened.close()
    assert (folder / "reserve").stat().st_size > 100_000
