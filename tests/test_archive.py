"""An archive that changes: files moved, copied, changed, gone, named oddly, left out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from index import duplicates
from index.collection import Collection
from index.duplicates import find_duplicates
from index.ingest.build import build, list_failures
from index.ingest.discovery import find_sources
from index.ingest.gone import find_missing, remove
from index.ingest.names import RESERVED, find_free_id
from index.ingest.plan import BuildOptions, Report
from index.ingest.walk import walk
from index.library import Collections
from index.records.item import NewItem, NoMedia, Origin
from media.containers import Budget
from media.sandbox import Decoders
from service.schemas import ITEM_PARTS
from service.settings import Settings

from .makers import (
    BLUE,
    GREEN,
    RED,
    ROOT,
    FakeEncoder,
    make_clip,
    make_wav,
    wait_until,
)
from .test_operate import listening


class Counting(FakeEncoder):
    """Counts the windows it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.embedded = 0

    def embed(self, encoding: str, arrays: NDArray[Any]) -> NDArray[np.float32]:
        self.embedded += len(arrays)
        return super().embed(encoding, arrays)


class Archive:
    """A collection, and what is built into it."""

    def __init__(self, place: Path, decoders: Decoders) -> None:
        self.encoder = Counting()
        self.decoders = decoders
        self.box = Collection(place, "fake", self.encoder.manifest.dims)

    def build(self, *paths: Path, **options: Any) -> Report:
        self.encoder.embedded = 0
        report = Report()
        for step in build(
            self.encoder, self.box, paths, self.decoders, Budget(), BuildOptions(**options)
        ):
            report = step[2]
        return report

    def sources(self) -> dict[str, str | None]:
        return {item.id: item.source for item in self.box.page(100)}

    def vector_numbers(self) -> list[int]:
        with self.box.hold_for_reading() as records:
            return [n for name in self.box.dims for n in records.window_table(name).ids.tolist()]


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    pool = Decoders(1)
    yield pool
    pool.close()


@pytest.fixture
def archive(tmp_path: Path, decoders: Decoders) -> Iterator[Archive]:
    made = Archive(tmp_path / "box", decoders)
    yield made
    made.box.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "one" / "films"
    (place / "deep").mkdir(parents=True)
    make_clip(place / "red.mp4", [RED, RED])
    make_clip(place / "deep" / "green.mp4", [GREEN, GREEN])
    make_wav(place / "tone.wav", 2.0)
    return place


# ---------------------------------------------------------------- which item a file is


def test_what_is_moved_keeps_its_item(archive: Archive, root: Path, tmp_path: Path) -> None:
    """A renamed file, and then the whole folder under another: ids, metadata and vectors stay."""
    rows = [{"path": "red.mp4", "text": "red", "metadata": {"year": 2020}}]
    (root / "m.jsonl").write_text(json.dumps(rows[0]) + "\n")
    archive.build(root / "m.jsonl")
    archive.build(root)
    before = archive.vector_numbers()
    (root / "red.mp4").rename(root / "deep" / "scarlet.mp4")
    report = archive.build(root)
    assert (report.indexed, report.unchanged, report.moved) == (0, 3, 1)
    (tmp_path / "two").mkdir()
    (tmp_path / "one").rename(tmp_path / "two" / "disk")
    there = tmp_path / "two" / "disk" / "films"
    report = archive.build(there)
    assert (report.indexed, report.unchanged, report.moved) == (0, 3, 3)
    assert archive.encoder.embedded == 0 and archive.vector_numbers() == before
    assert archive.sources() == {
        "red.mp4": str(there / "deep" / "scarlet.mp4"),
        "films/deep/green.mp4": str(there / "deep" / "green.mp4"),
        "films/tone.wav": str(there / "tone.wav"),
    }
    item = archive.box.item("red.mp4")
    assert (item.metadata, item.texts, item.filename) == ({"year": 2020}, ("red",), "scarlet.mp4")
    assert archive.box.media("red.mp4")[1] == "scarlet.mp4"
    assert archive.build(there).moved == 0


def test_names_that_are_passed_on_do_not_mix_items_up(archive: Archive, root: Path) -> None:
    """Two files that change names, and one that takes the place of another."""
    archive.build(root)
    numbers = archive.vector_numbers()
    (root / "red.mp4").rename(root / "x")
    (root / "deep" / "green.mp4").rename(root / "red.mp4")
    (root / "x").rename(root / "deep" / "green.mp4")
    report = archive.build(root)
    assert (report.indexed, report.moved) == (0, 2) and archive.vector_numbers() == numbers
    assert archive.sources()["films/red.mp4"] == str(root / "deep" / "green.mp4")
    make_wav(root / "other.wav", 3.0, 900.0)
    archive.build(root)
    (root / "other.wav").rename(root / "tone.wav")
    report = archive.build(root)
    assert (report.indexed, report.changed, report.copied) == (1, 1, 1)
    assert archive.encoder.embedded == 0
    assert archive.box.item("films/tone.wav").duration_s == 3.0
    assert [item.id for item in find_missing(archive.box).gone] == ["films/other.wav"]


def test_a_copy_is_an_item_with_the_same_vectors(archive: Archive, root: Path) -> None:
    """One that is added later, and several that come at once; texts are not copied."""
    (root / "m.jsonl").write_text('{"path": "red.mp4", "id": "told", "text": "red"}\n')
    archive.build(root / "m.jsonl")
    shutil.copy(root / "red.mp4", root / "again.mp4")
    for n in range(3):
        make_wav(root / f"same-{n}.wav", 2.0, 700.0)
    report = archive.build(root)
    # red.mp4 is "told", green.mp4, tone.wav and one of three are encoded
    assert (report.indexed, report.copied, report.unchanged) == (6, 3, 1)
    copied, told = archive.box.item("films/again.mp4"), archive.box.item("told")
    assert (copied.texts, copied.windows, told.windows) == ((), 1, 2)
    for encoding in ("video", "audio"):
        assert (
            archive.box.vectors(copied.id, encoding) == archive.box.vectors("told", encoding)
        ).all()
    assert archive.box.picture(copied.id, 0.0) == archive.box.picture("told", 0.0)
    assert archive.box.peaks(copied.id) == archive.box.peaks("told") != b""
    assert len({archive.box.vectors(f"films/same-{n}.wav", "audio").tobytes() for n in "012"}) == 1
    assert archive.build(root).unchanged == 7


def test_two_files_of_one_name_are_two_items(archive: Archive, tmp_path: Path) -> None:
    """Two cards, built one after the other; an upload; and a folder of imports, which is not named
    to clients.
    """
    for card, hz in (("card1", 300.0), ("card2", 500.0), ("card3", 700.0)):
        (tmp_path / card / "DCIM").mkdir(parents=True)
        make_wav(tmp_path / card / "DCIM" / "1.wav", 2.0, hz)
    archive.build(tmp_path / "card1" / "DCIM")
    archive.build(tmp_path / "card2" / "DCIM")
    assert archive.sources().keys() == {"DCIM/1.wav", "card2/DCIM/1.wav"}
    for card in ("card1", "card2"):
        assert archive.build(tmp_path / card / "DCIM").unchanged == 1
    archive.box.put(
        [NewItem(id="1.wav", kind="text", duration_s=0.0, windows=[], vectors={}, texts=("a",))]
    )
    archive.build(tmp_path / "card3" / "DCIM", within=tmp_path / "card3" / "DCIM")
    assert archive.box.item("1.wav").texts == ("a",)
    assert archive.sources()["1-2.wav"] == str(tmp_path / "card3" / "DCIM" / "1.wav")


def test_members_of_a_shard_that_was_moved_keep_their_vectors(
    archive: Archive, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for n in range(2):
            tar.add(make_wav(tmp_path / "m.wav", 2.0, 300.0 * (n + 1)), f"{n}.wav")
    archive.build(tmp_path / "s.tar")
    (tmp_path / "s.tar").rename(tmp_path / "other" / "t.tar")
    assert len(list(find_missing(archive.box).every())) == 2
    report = archive.build(tmp_path / "other" / "t.tar")
    assert (report.unchanged, report.moved, archive.encoder.embedded) == (2, 2, 0)
    assert not list(find_missing(archive.box).every())


def test_jobs_tell_what_moved_and_what_is_gone(tmp_path: Path) -> None:
    imports = tmp_path / "in"
    imports.mkdir()
    for n in range(3):
        make_wav(imports / f"{n}.wav", 1.0, 300.0 * (n + 1))
    (imports / ".hidden.wav").touch()
    settings = Settings(data=tmp_path / "data", imports=imports)
    with listening(settings) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:

        def imported() -> dict[str, Any]:
            id = client.post("/v1/jobs", json={"path": "."}).json()["id"]
            wait_until(lambda: client.get(f"/v1/jobs/{id}").json()["state"] == "done")
            return dict(client.get(f"/v1/jobs/{id}").json())

        first = imported()
        assert (first["indexed"], first["left_out"]) == (3, {"hidden": 1})
        (imports / "0.wav").rename(imports / "moved.wav")
        (imports / "1.wav").unlink()
        second = imported()
        assert (second["indexed"], second["unchanged"], second["moved"]) == (0, 2, 1)
        assert (second["gone"], second["gone_ids"]) == (1, ["1.wav"])
        media = client.get("/v1/collections/default/items/0.wav/media")
        assert media.content == (imports / "moved.wav").read_bytes()


def test_content_is_compared_where_it_is_asked_for(archive: Archive, root: Path) -> None:
    archive.build(root)
    file = root / "tone.wav"
    status = file.stat()
    make_wav(file, 2.0, 999.0)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert archive.build(root).unchanged == 3
    report = archive.build(root, check=True)
    assert (report.indexed, report.changed, report.rewritten, report.unchanged) == (1, 1, 1, 2)


# ---------------------------------------------------------------- what is gone


def test_what_is_gone_is_told_and_removed(archive: Archive, root: Path) -> None:
    archive.build(root)
    (root / "red.mp4").unlink()
    missing = find_missing(archive.box)
    assert [item.id for item in missing.gone] == ["films/red.mp4"] and not missing.out_of_reach
    assert find_missing(archive.box, [root / "deep"]).gone == []
    make_clip(root / "red.mp4", [BLUE])  # it is back meanwhile
    assert remove(archive.box, missing.gone) == 0
    (root / "red.mp4").unlink()
    assert remove(archive.box, missing.gone) == 1
    assert archive.sources().keys() == {"films/deep/green.mp4", "films/tone.wav"}


def test_a_folder_without_its_disk_has_lost_nothing(
    archive: Archive, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.build(root)

    def reasons() -> list[str]:
        missing = find_missing(archive.box)
        assert missing.gone == [] and sum(map(len, missing.out_of_reach.values())) == 3
        return list(missing.out_of_reach)

    root.rename(tmp_path / "away")
    assert reasons() == [f"{root} is not there"]
    root.mkdir()
    assert reasons() == [f"{root} is empty"]
    (root / "another disk.txt").touch()
    assert reasons() == [f"none of the 3 files indexed from {root} is there"]
    mount = archive.box.item("films/red.mp4").mount
    monkeypatch.setattr(os.path, "ismount", lambda path: False)
    assert reasons() == [f"nothing is mounted at {mount}"]


def run(*arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.cli", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, input=stdin, timeout=300
    )


def test_the_command_prune(tmp_path: Path) -> None:
    place, data = tmp_path / "sounds", tmp_path / "data"
    place.mkdir()
    for n in range(3):
        make_wav(place / f"{n}.wav", 2.0, 300.0 * (n + 1))
    assert run("build", "--data", data, place).returncode == 0
    (place / "0.wav").unlink()
    built = run("build", "--data", data, place, "--json")
    assert [item["id"] for item in json.loads(built.stdout)["gone"]] == ["sounds/0.wav"]
    assert "items whose files are gone: 1, such as " in run("build", "--data", data, place).stdout
    listed = run("prune", "--data", data, stdin="y\n")  # no terminal: nobody was asked
    assert listed.returncode == 1 and "--yes" in listed.stderr
    assert f"gone: sounds/0.wav: {place / '0.wav'}" in listed.stdout
    pruned = run("prune", "--data", data, "--yes", "--json")
    assert pruned.returncode == 0
    assert json.loads(pruned.stdout) == {
        "collection": "default",
        "removed": 1,
        "gone": [{"id": "sounds/0.wav", "source": str(place / "0.wav")}],
        "out_of_reach": {},
    }
    place.rename(tmp_path / "away")
    refused = run("prune", "--data", data, "--yes")
    assert refused.returncode == 1 and "0 of 0 items removed" in refused.stdout
    assert f"2 items whose files are out of reach: {place} is not there" in refused.stderr
    report = json.loads(run("report", "--data", data, "--only", "files", "--json").stdout)
    assert report["gone"] == [] and len(report["out_of_reach"][f"{place} is not there"]) == 2
    assert run("prune", "--data", data, "--yes", "--unreachable").returncode == 0
    assert run("prune", "--data", data).stdout == "every item's file is there\n"
    assert json.loads(run("items", "--data", data, "--json").stdout)["items"] == []


# ---------------------------------------------------------------- near-duplicates


def loud(pattern: list[int], scale: float = 1.0) -> bytes:
    return bytes(round(scale * value) for value in pattern)


def test_near_duplicates_are_named_with_their_original(archive: Archive) -> None:
    """Vectors alone do not tell: `other` has those of `song` and another course of loudness."""
    rng = np.random.default_rng(0)
    song, other = (rng.integers(0, 255, 120).tolist() for _ in range(2))
    sound = np.array([[0, 0, 0, 1.0]], np.float32)

    def item(id: str, pattern: list[int], duration_s: float = 6.0, scale: float = 1.0) -> NewItem:
        return NewItem(
            id=id,
            kind="audio",
            duration_s=duration_s,
            windows=[(0.0, duration_s)],
            vectors={"audio": ([0], sound)},
            origin=Origin.FILE,
            source=f"/m/{id}",
            stamp="1:2::3",
            digest=id[:4],
            peaks=loud(pattern, scale),
        )

    archive.box.put(
        [
            item("song.wav", song),
            item("other.wav", other),
            item("quiet.mp3", song, scale=0.5),
            item("late.aac", [0, *song[:-1]]),
            item("longer.wav", song, duration_s=7.0),
            item("song again.wav", song),
        ]
    )
    found = [(one.id, one.original, one.same) for one in find_duplicates(archive.box)]
    assert found == [
        ("quiet.mp3", "song.wav", ("audio",)),
        ("late.aac", "song.wav", ("audio",)),
        ("song again.wav", "song.wav", ("content",)),
    ]


def test_films_in_other_containers_and_codecs_are_near_duplicates(
    archive: Archive, tmp_path: Path
) -> None:
    place = tmp_path / "films"
    place.mkdir()
    make_clip(place / "a.mp4", [RED, GREEN, BLUE, RED])
    make_clip(place / "b.mp4", [BLUE, GREEN, RED, BLUE], hz=None)
    archive.build(place)
    assert find_duplicates(archive.box) == []
    for made, options in (("c.mkv", ["-c", "copy"]), ("d.avi", ["-c:v", "mpeg4", "-q:v", "3"])):
        if not shutil.which("ffmpeg"):
            pytest.skip("ffmpeg is not installed")
        command = ["ffmpeg", "-v", "error", "-i", place / "a.mp4", *options, place / made]
        subprocess.run(command, check=True)
    archive.build(place)
    found = {one.id: one.original for one in find_duplicates(archive.box)}
    assert found == {"films/c.mkv": "films/a.mp4", "films/d.avi": "films/a.mp4"}


def test_what_is_asked_of_sounds_and_pictures() -> None:
    first, second = np.array([1.0, 2.0], np.float32), np.array([2.0, 1.0], np.float32)
    assert duplicates.common_share(first, first) == 1.0
    assert duplicates.common_share(first, second) == pytest.approx(1 / 3)
    assert duplicates.correlate(first, second) == pytest.approx(-1.0)
    sound = duplicates.Sound
    assert [sound(0.96, 0.86).is_same(s) for s in (0.5, 2.0, 9.0)] == [False, True, True]
    assert sound(0.99, 0.92).is_same(0.5) and not sound(0.9, 0.7).is_same(9.0)
    assert duplicates.decide_both(sound(0.81, 0.0), 0.99, 10.0) == ("audio", "video")
    assert duplicates.decide_both(sound(0.5, 0.5), 0.99, 10.0) == ("video",)
    assert duplicates.decide_both(sound(0.98, 0.9), 0.5, 10.0) == ("audio",)
    assert duplicates.decide_both(sound(0.98, 0.9), 0.5, 2.0) == ()


# ---------------------------------------------------------------- folders and names


def test_what_lies_in_peoples_folders(tmp_path: Path) -> None:
    place = tmp_path / "in"
    media = make_wav(tmp_path / "a.wav", 0.2).read_bytes()
    for folder in ("#recycle", "$RECYCLE.BIN/S-1-5", "@eaDir/x", ".Trash-1000", "lost+found"):
        (place / folder).mkdir(parents=True)
        (place / folder / "deleted.wav").write_bytes(media)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in (place / ".hidden.wav", place / "good.wav", place / "nothing.mod"):
        path.write_bytes(media)
    (elsewhere / "linked.wav").write_bytes(media)
    (place / "folder").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(place)
    (place / "file.wav").symlink_to(elsewhere / "linked.wav")
    (place / "loop").symlink_to(place)
    (place / "up").symlink_to(tmp_path)
    (place / "self").symlink_to(place / "self")
    (place / "dangling.wav").symlink_to(tmp_path / "nowhere")
    (place / "code.ts").write_text("export const a = 1;\n")
    (place / "notes.txt").write_text("hello")
    (place / "data.bin").write_bytes(bytes(range(256)))
    os.mkfifo(place / "pipe.wav")
    walked = walk(place)
    assert [(file.path.name, file.real.name) for file in walked.files] == [
        ("file.wav", "linked.wav"),
        ("good.wav", "good.wav"),
        ("nothing.mod", "nothing.mod"),
    ]
    assert walked.failed == {} and dict(walked.left_out) == {
        "bins and system folders": 4,
        "hidden": 2,
        "links to a folder above": 1,
        "links to nothing": 2,
        "links to what is reached without them": 3,
        "other files (.bin)": 1,
        "other files (.txt)": 1,
        "pipes, sockets and devices": 1,
        "text files named .ts": 1,
    }
    inside = walk(place, within=place)
    assert inside.failed == {place / "folder": "it is outside the folder"}
    only = walk(place, only=frozenset({place / "good.wav"}))
    assert [file.path.name for file in only.files] == ["good.wav"]


def test_subtitles_that_are_read_with_their_film_are_not_left_out(tmp_path: Path) -> None:
    """A build indexed a film's subtitles and said that it had passed over them."""
    for name in ("film.mp4", "film.en.srt", "film.LRC", "song.wav", "song.lrc", "lost.srt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "film.vtt").write_bytes(b"x")
    walked = walk(tmp_path)
    assert [file.path.name for file in walked.files] == ["film.mp4", "song.wav"]
    assert dict(walked.left_out) == {"other files (.srt)": 1, "other files (.vtt)": 1}


def test_a_data_folder_is_no_media(tmp_path: Path, archive: Archive) -> None:
    """Not its uploads, wherever it lies; a folder with a part of its names is another one."""
    root = tmp_path / "films"
    encoder = archive.encoder.manifest
    sound = make_wav(tmp_path / "a.wav", 0.2)
    with closing(Collections(root / "data", "fake", encoder.dims)) as collections:
        shutil.copyfile(sound, collections.create("a").folder / "media" / f"{1:032x}.wav")
    (root / "mine" / "collections").mkdir(parents=True)
    shutil.copyfile(sound, root / "mine" / "collections" / "a.wav")
    report = archive.build(root)
    assert (report.indexed, report.left_out) == (1, {"data folders": 1})
    assert archive.sources().keys() == {"films/mine/collections/a.wav"}
    assert archive.build(root / "data").left_out == {"data folders": 1}


def test_words_of_a_manifest_are_not_lost(tmp_path: Path, archive: Archive) -> None:
    """Whether its folder or another line names the file first; two lines of one file
    whose metadata differ are told of.
    """
    (tmp_path / "in").mkdir()
    make_wav(tmp_path / "in" / "a.wav", 0.2)
    first, second = tmp_path / "in" / "1.jsonl", tmp_path / "in" / "2.jsonl"
    first.write_text('{"path": "a.wav", "text": "red", "metadata": {"n": 1}}\n' * 2)
    second.write_text('{"path": "./a.wav", "text": "red", "metadata": {"n": 2}}\n')
    assert archive.build(tmp_path / "in", first).failed == {}
    [item] = archive.box.page(10)
    assert (item.id, item.texts, item.metadata) == ("a.wav", ("red",), {"n": 1})
    assert archive.build(first, tmp_path / "in", second).failed == {
        f"{tmp_path}/in/a.wav (again)": "a manifest has it twice, with other metadata"
    }
    assert [item.metadata for item in archive.box.page(10)] == [{"n": 1}]


@pytest.mark.parametrize("id", [{}, {"id": "tone"}])
def test_a_line_for_each_caption_makes_one_item_with_all(
    id: dict[str, str], tmp_path: Path, archive: Archive
) -> None:
    """As data sets of captions have it. Metadata must agree; words alone have an id each."""
    make_wav(tmp_path / "a.wav", 0.2)
    rows = [{"path": "a.wav", "text": words, **id} for words in ("red", "a red ball", "red")]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = archive.build(manifest)
    assert (report.indexed, report.failed) == (1, {})
    [item] = archive.box.page(10)
    assert (item.id, item.texts) == (id.get("id", "a.wav"), ("red", "a red ball"))
    assert archive.build(manifest).unchanged == 1
    with manifest.open("a") as file:
        file.write(json.dumps({"path": "a.wav", "metadata": {"n": 1}, **id}) + "\n")
    assert list(archive.build(manifest).failed.values()) == [
        "a manifest has it twice, with other metadata"
    ]


def test_a_path_that_no_file_can_have_fails_alone(tmp_path: Path, archive: Archive) -> None:
    """A name of more letters than there may be, and a link to itself."""
    make_wav(tmp_path / "a.wav", 0.2)
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    long = f"{'x' * 300}.wav"
    rows = [{"path": name} for name in ("loop.wav", long, "a.wav")]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = archive.build(tmp_path / "m.jsonl")
    assert report.indexed == 1 and report.failed.keys() == {
        f"{tmp_path}/loop.wav",
        f"{tmp_path}/{long}",
    }
    assert list_failures(archive.box) == {}  # there is nothing to mend in these files


def test_a_file_that_a_loop_of_links_replaced_has_no_media(
    tmp_path: Path, archive: Archive
) -> None:
    (tmp_path / "in").mkdir()
    sound = make_wav(tmp_path / "in" / "a.wav", 0.2)
    archive.build(tmp_path / "in")
    sound.unlink()
    sound.symlink_to("a.wav")
    with pytest.raises(NoMedia):
        archive.box.item_media("in/a.wav")
    assert archive.build(tmp_path / "in").left_out == {"links to nothing": 1}
    assert [item.id for item in find_missing(archive.box, [sound]).every()] == ["in/a.wav"]


def test_a_link_to_a_file_of_another_folder_is_given_by_itself(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    real = make_wav(tmp_path / "kept" / "a.wav", 0.2)
    (tmp_path / "link.wav").symlink_to(real)
    (source,) = find_sources([tmp_path / "link.wav"]).sources
    assert (source.id, source.path) == ("link.wav", real)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root's rights")
@pytest.mark.parametrize("mode", [0o700, 0o711, 0o744])
def test_a_folder_that_may_not_be_read_is_a_failure(tmp_path: Path, mode: int) -> None:
    place = tmp_path / "in"
    for name in ("aaa", "bbb", "zzz"):
        (place / name).mkdir(parents=True)
        make_wav(place / name / "a.wav", 1.0, 300.0 if name == "aaa" else 500.0)
    os.chown(place / "bbb", 65534, -1)
    (place / "bbb").chmod(mode)
    tmp_path.chmod(0o755)
    command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", sys.executable, "-m"]
    command += ["index", "build", "--data", str(tmp_path / "data"), str(place)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert built.returncode == 1 and "2 indexed, 0 unchanged, 1 failed" in built.stdout
    failures = (tmp_path / "data" / "default-failures.jsonl").read_text().splitlines()
    assert [json.loads(line)["source"] for line in failures] == [str(place / "bbb")]
    (place / "bbb").chmod(0o755)
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and "1 indexed, 2 unchanged, 0 failed" in again.stdout
    assert (tmp_path / "data" / "default-failures.jsonl").read_text() == ""


ODD = (
    b"caf\xe9.wav", b"two\nlines.wav", b"trailing.wav ", b"a" * 251 + b".wav", b"x#y?z%41.wav",
    b"-rf.wav", b"a:b.wav", b"\xff\xfe.wav", b"caf\\xe9.wav", b"media", b"quote'\".wav", b"%2F.wav",
)  # fmt: skip


def test_any_name_is_indexed_asked_for_played_and_deleted(tmp_path: Path) -> None:
    imports = tmp_path / "in"
    (imports / "..hidden").mkdir(parents=True)
    deep = imports.joinpath(*(f"folder {n} {'y' * 200}" for n in range(10)))
    deep.mkdir(parents=True)
    paths = [imports / os.fsdecode(name) for name in ODD]
    paths += [deep / "end.wav", imports / "..hidden" / "in.wav"]
    contents = set()
    for n, path in enumerate(paths):
        made = make_wav(tmp_path / "made.wav", 1.0, 200.0 + 40 * n)
        contents.add(made.read_bytes())
        made.rename(path)
    settings = Settings(data=tmp_path / "data", imports=imports)
    with listening(settings) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for path in (".", "..hidden"):
            answer = client.post("/v1/jobs", json={"path": path})
            assert answer.status_code == 202, answer.text
            id = answer.json()["id"]
            wait_until(lambda id=id: client.get(f"/v1/jobs/{id}").json()["state"] == "done")
            assert client.get(f"/v1/jobs/{id}").json()["failures"] == []
        items = client.get("/v1/collections/default/items?limit=1000").json()["items"]
        ids = {item["id"] for item in items}
        assert len(ids) == len(paths)
        assert ids > {"caf\\xe9.wav", "caf\\xe9-2.wav", "two\\x0alines.wav", "media-2"}
        played = set()
        for id in ids:
            address = f"/v1/collections/default/items/{quote(id)}"
            found = client.get(address)
            assert found.status_code == 200, (id, found.text)
            assert found.json()["id"] == id
            media = client.get(f"{address}/media")
            assert media.status_code == 200
            played.add(media.content)
            assert client.delete(address).status_code == 204
        assert played == contents


def test_names_are_found_for_files_whose_id_is_taken() -> None:
    assert set(ITEM_PARTS) <= RESERVED
    taken = {"a.wav", "y/a.wav", "x/y/a.wav", "a-2.wav"}
    assert find_free_id("/x/y/a.wav", "a.wav", taken, None) == "a-3.wav"
    assert find_free_id("/q/y/a.wav", "a.wav", taken, None) == "q/y/a.wav"
    assert find_free_id("/q/y/a.wav", "a.wav", taken, "/q/y") == "a-3.wav"
    assert find_free_id("/q/media", "q/media", set(), None) == "q/media-2"


# ---------------------------------------------------------------- folders that are followed


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root's rights")
def test_a_file_that_could_not_be_read_is_tried_again(tmp_path: Path) -> None:
    place = tmp_path / "in"
    place.mkdir()
    file = make_wav(place / "a.wav", 1.0, 300.0)
    file.chmod(0o000)
    command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", sys.executable, "-m"]
    command += ["index", "build", "--data", str(tmp_path / "data"), str(place)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert built.returncode == 1 and "Permission denied" in built.stderr
    file.chmod(0o644)
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and "1 indexed, 0 unchanged, 0 failed" in again.stdout
