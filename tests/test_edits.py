"""Edit lists of MP4 with stretches without media, in which nothing new is shown or heard."""

from __future__ import annotations

import io
import struct
from functools import partial
from pathlib import Path

import pytest

from media.containers import Budget
from media.edits import BEHIND, find_edit_patches

from .test_times import GRID_S, Situation, by_us, edited, write

BEFORE = edited((0.0, 2.0), (3.0, 4.5), (4.0, 7.9))


def change_second_edit(path: Path, place: int, value: int) -> None:
    """Write another number at a place of the second edit of every track."""
    BEFORE(path)
    data = bytearray(path.read_bytes())
    at = data.find(b"elst")
    while at >= 0:
        struct.pack_into(">i", data, at + 24 + place, value)
        at = data.find(b"elst", at + 4)
    path.write_bytes(data)


@pytest.mark.parametrize(("place", "value"), [(4, -1), (8, 0)], ids=["empty", "dwell"])
def test_nothing_new_is_shown_or_heard_in_an_edit_without_media(
    tmp_path: Path, place: int, value: int
) -> None:
    """Media of [0, 2) s, nothing for 1.5 s, then from the media's fourth second on. Of the beeps at
    1.0, 4.6 and 6.5 s and the flashes at 0.5, 4.2, 5.7 and 7.0 s, those after 4 s come 0.5 s
    earlier.
    """
    after = partial(change_second_edit, place=place, value=value)
    made = Situation("edits", ".mp4", b_frames=2, group=200, after=after)
    heard, seen = by_us(write(tmp_path / "film.mp4", made), Budget())
    assert heard == pytest.approx([1.0, 4.1, 6.0], abs=0.05)
    assert seen == pytest.approx([0.5, 3.7, 5.2, 6.5], abs=GRID_S)


def box(kind: bytes, *contents: bytes) -> bytes:
    content = b"".join(contents)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def make_movie(times: list[int], version: int = 0) -> bytes:
    """A file with an edit list only: the time of each edit in its media."""
    row = ">QqI" if version else ">IiI"
    rows = b"".join(struct.pack(row, 1000, time, 1 << 16) for time in times)
    table = box(b"elst", struct.pack(">B3xI", version, len(times)), rows)
    track = box(b"trak", box(b"edts", table))
    return box(b"ftyp", b"isom") + box(b"mdat", b"elst") + box(b"moov", box(b"mvhd"), track)


@pytest.mark.parametrize("version", [0, 1])
def test_empty_edits_behind_others_are_found(version: int) -> None:
    data = make_movie([-1, 0, -1, 500, -1], version)
    patches = find_edit_patches(io.BytesIO(data), len(data))
    first = data.rindex(b"elst") + 12
    row = 20 if version else 12
    time_at = 8 if version else 4
    assert patches == [(first + n * row + time_at, BEHIND) for n in (2, 4)]


def test_rates_of_nothing_but_0_are_no_dwells() -> None:
    """A writer that does not know the field."""
    data = make_movie([0, 500, 900]).replace((1 << 16).to_bytes(4), bytes(4))
    assert find_edit_patches(io.BytesIO(data), len(data)) == []


@pytest.mark.parametrize("times", [[], [0], [-1, 0], [-1, 0, 500]])
def test_other_edit_lists_stay_as_they_are(times: list[int]) -> None:
    data = make_movie(times)
    assert find_edit_patches(io.BytesIO(data), len(data)) == []


def test_broken_boxes_have_no_patches() -> None:
    whole = make_movie([0, -1])
    for data in (b"", whole[:6], *(whole[:-cut] for cut in range(8, 40))):
        assert find_edit_patches(io.BytesIO(data), len(data)) == []
    assert len(find_edit_patches(io.BytesIO(whole), len(whole))) == 1
