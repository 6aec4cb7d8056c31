"""Long files: decoded part by part, as they would be as a whole; indexed so, and resumed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from index.collection import Collection
from index.ingest.build import build
from index.ingest.plan import Report
from media.containers import ARCHIVE_BUDGET
from media.films import (
    LEAST_PART,
    MOST_PART,
    Survey,
    can_be_shared,
    decode_or_survey,
    decode_parts,
    end_parts,
    split_parts,
)
from media.sandbox import Decoders
from media.windows import DecodeOptions, Media, decode_media

from .makers import ROOT, SPECS, FakeEncoder
from .test_build import BUNDLE
from .test_build import build as build_folder

RATE = 8000
SHORT = replace(SPECS, window_s=0.5, audio=replace(SPECS.audio, samples=RATE // 2))
OPTIONS = DecodeOptions(specs=SHORT, budget=ARCHIVE_BUDGET, previews=True, whole_s=20.0)


def make_film(path: Path, seconds: int, fps: int = 4, loud: float = 0.4) -> Path:
    """A film whose grey and whose tone change all the time."""
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=fps, options={"g": "20", "bf": "2"})
        pictures.width, pictures.height, pictures.pix_fmt = 64, 64, "yuv420p"
        sound = container.add_stream("pcm_f32le", rate=RATE)
        sound.layout = "mono"
        for second in range(seconds):
            for n in range(second * fps, (second + 1) * fps):
                y, x = np.mgrid[0:64, 0:64]
                grey = (127 + 100 * np.sin(x / 9 + n / 3) * np.cos(y / 7 - n / 5)).astype(np.uint8)
                frame = av.VideoFrame.from_ndarray(np.stack([grey] * 3, -1), format="rgb24")
                container.mux(pictures.encode(frame))
            t = np.arange(RATE) / RATE + second
            wave = loud * np.sin(2 * np.pi * (100 + second % 40 * 20) * t)
            heard = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), "fltp", "mono")
            heard.sample_rate, heard.pts = RATE, second * RATE
            heard.time_base = Fraction(1, RATE)
            container.mux(sound.encode(heard))
        container.mux([*pictures.encode(None), *sound.encode(None)])
    return path


@pytest.mark.parametrize("loud", [0.4, 1.6])  # the second goes beyond full scale
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_parts_are_what_the_whole_is(tmp_path: Path, overlap: float, loud: float) -> None:
    film = make_film(tmp_path / "f.mkv", 50, loud=loud)
    options = replace(OPTIONS, overlap_share=overlap)
    whole = decode_media(film, options)
    survey = decode_or_survey(film, options)
    assert isinstance(survey, Survey) and survey.windows == whole.windows
    numbers = split_parts(survey)
    assert [n for part in numbers for n in part] == list(range(len(whole.windows)))
    assert len(numbers) > 1 and max(map(len, numbers)) <= MOST_PART
    parts = list(decode_parts(film, options, survey, numbers))
    assert [part.first_window for part in parts] == [part.start for part in numbers]
    assert not any(part.last for part in parts)
    last = end_parts(film, options, survey)
    assert last.last and not last.windows
    for modality in ("video", "audio"):
        assert (join(parts, modality) == whole.parts[modality].array).all()
    jpegs = {part.first_window + n: jpeg for part in parts for n, jpeg in part.pictures.items()}
    assert jpegs == whole.pictures
    shown_s = {part.first_window + n: at_s for part in parts for n, at_s in part.shown_s.items()}
    assert shown_s == whole.shown_s and shown_s.keys() == jpegs.keys()
    heights = np.frombuffer(parts[0].peaks, np.uint8).astype(int)
    assert np.abs(heights - np.frombuffer(whole.peaks, np.uint8)).max() <= 1
    again = list(decode_parts(film, options, survey, numbers[1::2]))  # as one of two processes
    for modality in ("video", "audio"):
        assert (join(again, modality) == join(parts[1::2], modality)).all()
    resumed = split_parts(survey, first=3)
    assert resumed[0].start == 3 and resumed[-1].stop == len(whole.windows)


def join(parts: list[Media], modality: str) -> NDArray[np.generic]:
    return np.concatenate([part.parts[modality].array for part in parts])


def test_parts_are_shared_where_groups_of_pictures_end(tmp_path: Path) -> None:
    survey = decode_or_survey(make_film(tmp_path / "f.mkv", 50), OPTIONS)
    assert isinstance(survey, Survey) and survey.told is not None
    numbers = split_parts(survey)
    # a keyframe every five seconds, ten windows
    assert all(part.start % 10 == 0 for part in numbers) and can_be_shared(survey, numbers)
    is_key = np.arange(len(survey.told.is_key)) == 0
    alone = replace(survey, told=replace(survey.told, is_key=is_key))
    assert not can_be_shared(alone, split_parts(alone))
    unknown = replace(survey, told=replace(survey.told, is_key=is_key & False))
    assert not can_be_shared(unknown, split_parts(unknown))


def test_a_short_file_comes_as_a_whole(tmp_path: Path) -> None:
    film = make_film(tmp_path / "f.mkv", 19)
    found = decode_or_survey(film, OPTIONS)
    assert isinstance(found, Media) and found.last
    assert (found.parts["audio"].array == decode_media(film, OPTIONS).parts["audio"].array).all()


def test_silence_of_hours_is_read_without_holding_it(tmp_path: Path) -> None:
    """A sound alone, and one that has holes."""
    path = tmp_path / "s.mkv"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=RATE)
        sound.layout = "mono"
        for at_s in (0, 200):
            wave = np.full((1, 10 * RATE), 8000, np.int16)
            frame = av.AudioFrame.from_ndarray(wave, "s16p", "mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, at_s * RATE, Fraction(1, RATE)
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    whole = decode_media(path, OPTIONS)
    survey = decode_or_survey(path, OPTIONS)
    assert isinstance(survey, Survey) and survey.windows == whole.windows
    parts = list(decode_parts(path, OPTIONS, survey, split_parts(survey)))
    assert (join(parts, "audio") == whole.parts["audio"].array).all()


class Counting(FakeEncoder):
    """Counts the windows of pictures that it encodes."""

    windows = 0

    def embed(self, encoding: str, arrays: NDArray[np.generic]) -> NDArray[np.float32]:
        if encoding == "video":
            self.windows += len(arrays)
        return super().embed(encoding, arrays)


def open_box(folder: Path, encoder: FakeEncoder) -> Collection:
    return Collection(folder, encoder.manifest.fingerprint, encoder.manifest.dims)


def run(folder: Path, film: Path, encoder: FakeEncoder, stop_at: int | None = None) -> Report:
    """Build; stopped once an item has so many windows."""
    with (
        closing(open_box(folder, encoder)) as box,
        closing(Decoders(1, max_s=60.0)) as decoders,
    ):
        report = Report()
        for _, _, report in build(encoder, box, [film], decoders, ARCHIVE_BUDGET):  # noqa: B007
            item = box.find(film.name)
            if stop_at is not None and item is not None and item.windows >= stop_at:
                break
        return report


def test_a_long_film_is_searchable_early_and_resumed(tmp_path: Path) -> None:
    film = make_film(tmp_path / "f.mkv", 620, fps=2)
    (tmp_path / "f.srt").write_text("1\n00:10:00,000 --> 00:10:02,000\nthe end is near\n")
    broken, unbroken = Counting(), Counting()
    run(tmp_path / "a", film, broken, stop_at=LEAST_PART)
    with closing(
        Collection(tmp_path / "a", broken.manifest.fingerprint, broken.manifest.dims)
    ) as box:
        item = box.find("f.mkv")
        assert item is not None and item.partial and LEAST_PART <= item.windows < 310
        assert item.kind == "video" and item.duration_s == pytest.approx(620, abs=0.1)
    assert run(tmp_path / "a", film, broken).indexed == 1
    assert run(tmp_path / "b", film, unbroken).indexed == 1
    assert broken.windows <= unbroken.windows + 2 * MOST_PART
    found = []
    for name in "ab":
        with closing(
            Collection(tmp_path / name, broken.manifest.fingerprint, broken.manifest.dims)
        ) as box:
            item = box.find("f.mkv")
            assert item is not None and not item.partial and item.digest
            passages = box.passages("f.mkv")
            assert [passage.text for passage in passages] == ["the end is near"]
            with box.hold_for_reading() as records:
                read = records.item_windows("f.mkv", "video", broken.manifest.dims["video"])
            found.append((read.times_s, read.vectors, item.metadata, item.windows))
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other
    assert run(tmp_path / "a", film, broken).unchanged == 1


def read_windows(data: Path) -> list[tuple[object, ...]]:
    """The windows of a data folder that are there, with their vectors; none before its records."""
    records = data / "collections" / "default" / "records.sqlite"
    with (
        suppress(sqlite3.OperationalError),
        closing(sqlite3.connect(f"file:{records}?mode=ro", uri=True)) as db,
    ):
        return db.execute(
            "select v.n, w.n, w.start_s, w.end_s, w.shown_s, v.encoding, v.vector"
            " from vectors v join windows w on w.n = v.window order by v.n"
        ).fetchall()
    return []


def read_items(data: Path) -> list[tuple[object, ...]]:
    records = data / "collections" / "default" / "records.sqlite"
    with closing(sqlite3.connect(records)) as db:
        return db.execute(
            "select id, kind, duration_s, metadata, digest, partial from items"
        ).fetchall()


@pytest.mark.slow
def test_a_long_film_is_killed_half_way_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    film = make_film(tmp_path / "f.mkv", 1500, fps=2)
    build_folder(tmp_path / "whole", film)
    whole = read_windows(tmp_path / "whole")
    data = tmp_path / "killed"
    command = [sys.executable, "-m", "index", "build", "--bundle", BUNDLE, "--data", data, film]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None and len(read_windows(data)) < len(whole) / 2:
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    before = read_windows(data)
    assert len(whole) / 2 <= len(before) < len(whole)
    build_folder(data, film)
    after = read_windows(data)
    assert after[: len(before)] == before  # none of them was encoded again
    assert [row[2:-1] for row in after] == [row[2:-1] for row in whole]
    ours, theirs = (
        np.stack([np.frombuffer(row[-1], "<f4") for row in rows]) for rows in (after, whole)
    )
    assert (ours * theirs).sum(axis=1).min() >= 0.99999
    assert read_items(data) == read_items(tmp_path / "whole")
