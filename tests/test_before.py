"""A data folder that an earlier version left when it was killed: nothing of it is lost to this one.

`tests/data/make_before.py` says what is in it.
"""

from __future__ import annotations

import shutil
import sqlite3
import tarfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from index.backup import backup, restore
from index.collection import Collection, NoVectors
from index.ingest.build import build
from index.ingest.reembed import NotReady, reembed, swap
from index.library import Collections
from index.records.item import Origin, UnknownItem
from media.containers import Budget
from media.sandbox import Decoders

from .makers import ROOT, FakeEncoder
from .test_index import found

PREFIX = "/before"  # what the records have in place of the folder of the sources
RED, GREEN, BLUE, SOUND = np.eye(4, dtype=np.float32)
MODALITIES = {
    "clips/red.mp4": ("audio", "video"),
    "clips/tone.wav": ("audio",),
    "line": ("text",),
    "told": ("audio", "text", "video"),
    "member": ("audio", "text"),
    "film": ("video",),
    "sound": ("audio",),
    "replaced": ("video",),
    "note": ("text",),
}
ORIGINS = {
    "clips/red.mp4": Origin.FILE,
    "clips/tone.wav": Origin.FILE,
    "line": Origin.LINE,
    "told": Origin.FILE,
    "member": Origin.MEMBER,
    "film": Origin.UPLOAD,
    "sound": Origin.UPLOAD,
    "replaced": Origin.UPLOAD,
    "note": Origin.UPLOAD,
}
TEXTS = {
    "line": ("blue",),
    "told": ("a blue film", "loud"),
    "member": ("noise",),
    "note": ("green\nand loud",),
}


@dataclass
class Before:
    """The data folder, and the sources that its records name."""

    data: Path
    sources: Path

    def open(self, fingerprint: str = "before") -> Collections:
        return Collections(self.data, fingerprint, FakeEncoder().manifest.dims)


@pytest.fixture
def before(tmp_path: Path) -> Before:
    with tarfile.open(ROOT / "tests" / "data" / "before.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    data, sources = tmp_path / "data", tmp_path / "sources"
    for folder in (data / "collections" / "a", data / "reembed" / "a"):
        with closing(sqlite3.connect(folder / "records.sqlite")) as db:
            assert db.execute("pragma user_version").fetchone() == (4,)
            db.execute("update items set source = replace(source, ?, ?)", (PREFIX, str(sources)))
            db.commit()
    return Before(data, sources)


def check_whole(box: Collection) -> None:
    """Every item is listed, asked for by its id, found by its vectors and gives its media; what was
    deleted is and does none of it.
    """
    items = {item.id: item for item in box.page(100)}
    assert {id: item.modalities for id, item in items.items()} == MODALITIES
    assert {id: item.origin for id, item in items.items()} == ORIGINS
    assert {id: item.texts for id, item in items.items() if item.texts} == TEXTS
    for id, modalities in MODALITIES.items():
        assert box.item(id) == items[id]
        for modality in modalities:
            vectors = box.vectors(id, modality)
            assert len(vectors) and id in found(box, vectors[0], modality, top_k=20)
    assert found(box, RED, top_k=1) == ["clips/red.mp4"]
    assert found(box, BLUE, top_k=1) == ["told"]
    assert set(found(box, GREEN, top_k=2)) == {"film", "replaced"}
    sounds = {"clips/red.mp4", "clips/tone.wav", "told", "member", "sound"}
    assert set(found(box, SOUND, "audio", top_k=20)) == sounds
    assert found(box, GREEN, filter={"year": {"$gte": 2019}}) == ["film"]
    assert found(box, BLUE, "text", filter={"lang": "en"}) == ["line"]
    for id in ("film", "sound", "replaced", "clips/red.mp4", "told"):
        path, name = box.media(id)
        assert path.stat().st_size and name == items[id].filename
    for id in ("line", "note", "member"):
        with pytest.raises(UnknownItem):
            box.media(id)
    assert box.picture("film", 0.0).startswith(b"\xff\xd8")
    assert box.peaks("sound") == b"\x80" * 5  # a quarter of a second, half as loud as can be
    for id in ("gone early", "gone late"):
        with pytest.raises(UnknownItem):
            box.item(id)
        assert box.find(id) is None
    with pytest.raises(NoVectors):
        box.vectors("replaced", "audio")  # of what it was before it was replaced


def test_a_folder_of_an_earlier_version_opens_whole(before: Before) -> None:
    """Opened twice: the second time, its records are of this version and its snapshot is new."""
    for _ in range(2):
        collections = before.open()
        box = collections.get("a")
        check_whole(box)
        assert box.counts().items == len(MODALITIES)
        collections.close()
    assert not list(before.data.glob("collections/a/set-aside/*"))  # nothing was unnamed


def test_what_an_earlier_version_built_is_not_built_again(before: Before) -> None:
    """The files are what they were; one that could not be read is tried anew, and fails again."""
    collections, decoders = before.open(), Decoders(1)
    paths = [before.sources / name for name in ("clips", "rows.jsonl", "shard.tar")]
    box = collections.get("a")
    _, _, report = list(build(FakeEncoder("before"), box, paths, decoders, Budget()))[-1]
    assert (report.unchanged, report.indexed) == (5, 0)
    assert list(report.failed) == [str(before.sources / "clips" / "broken.mp4")]
    check_whole(box)
    collections.close()
    decoders.close()


def test_a_reembedding_of_an_earlier_version_is_resumed(before: Before) -> None:
    """Five of nine items are staged: they stay, the others follow, and all take the old ones'
    place.
    """
    with pytest.raises(NotReady, match="not complete"):
        swap(before.data, "a")
    seen: list[tuple[int, int]] = []
    failed: dict[str, str] = {}
    with closing(Decoders(1)) as decoders:
        for progress in reembed(before.data, "a", FakeEncoder("after"), decoders, Budget()):
            seen.append((progress.done, progress.total))
            failed = progress.failed
    assert seen[0] == (5, 9) and seen[-1] == (9, 9) and not failed
    swap(before.data, "a")
    collections = before.open("after")
    check_whole(collections.get("a"))
    collections.close()
    assert not (before.data / "reembed" / "a").exists()


@pytest.mark.parametrize("opened", [False, True])
def test_a_backup_of_an_earlier_version_restores(
    before: Before, tmp_path: Path, opened: bool
) -> None:
    """Taken of the folder as it was left, and after this version has opened it."""
    if opened:
        before.open().close()
    saved = backup(before.data, tmp_path / "saved")
    assert (saved["a"].items, saved["a"].fingerprint) == (len(MODALITIES), "before")
    shutil.rmtree(before.data)
    restore(tmp_path / "saved", before.data)
    collections = before.open()
    check_whole(collections.get("a"))
    collections.close()
