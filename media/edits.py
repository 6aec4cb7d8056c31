"""Edit lists of MP4 and QuickTime with stretches without media, which FFmpeg reads wrongly.

An empty edit (ISO 14496-12, 8.6.6) shows and sounds nothing for a while. FFmpeg 8.1 plays the
beginning of the media in its place, unless it comes before all others. In a dwell, an edit whose
rate is 0, a picture stays and nothing is heard. FFmpeg plays on. An edit that begins behind the
media's end has the effect that is meant.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

Patch = tuple[int, bytes]  # an offset in a file, and the bytes to read there instead
BOXES_MOST = 4096  # looked at on one level
EDITS_MOST = 65_536
EMPTY = -1  # the time of an empty edit in its media
STARTS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # boxes that such files begin with
BEHIND = (0x7FFF_FFFF).to_bytes(4)  # a time that no media reaches, or its higher half


class Box(NamedTuple):
    """The contents of a box: bytes [start, end) of a file."""

    start: int
    end: int


def find_edit_patches(file: BinaryIO, size: int) -> list[Patch]:
    """Patches of edits without media behind others, in an MP4 or QuickTime file of `size` bytes."""
    file.seek(4)
    if file.read(4) not in STARTS:
        return []
    movie = next(read_boxes(file, Box(0, size), b"moov"), None)
    if movie is None:
        return []
    patches: list[Patch] = []
    for track in read_boxes(file, movie, b"trak"):
        for edits in read_boxes(file, track, b"edts"):
            for table in read_boxes(file, edits, b"elst"):
                patches += find_edits_without_media(file, table)
    return patches


def read_boxes(file: BinaryIO, outer: Box, kind: bytes) -> Iterator[Box]:
    """The boxes of one kind in another box."""
    start, end = outer
    for _ in range(BOXES_MOST):
        file.seek(start)
        head = file.read(16)
        if start + 8 > end or len(head) < 8:
            return
        size, found = struct.unpack_from(">I4s", head)
        length = 8
        if size == 1 and len(head) == 16:
            [size] = struct.unpack_from(">Q", head, 8)
            length = 16
        elif size == 0:
            size = end - start
        if size < length:
            return
        if found == kind:
            yield Box(start + length, min(start + size, end))
        start += size


def find_edits_without_media(file: BinaryIO, table: Box) -> list[Patch]:
    """Patches of the empty edits and the dwells behind others in one edit list."""
    file.seek(table.start)
    data = file.read(min(table.end - table.start, 8 + 20 * EDITS_MOST))
    if len(data) < 8:
        return []
    version = data[0]
    row = struct.Struct(">QqI" if version == 1 else ">IiI")
    time_at = 8 if version == 1 else 4
    patches: list[Patch] = []
    begun = False
    count = min(struct.unpack_from(">I", data, 4)[0], (len(data) - 8) // row.size)
    for number in range(count):
        at = 8 + number * row.size
        _, time, rate = row.unpack_from(data, at)
        if time != EMPTY and rate:
            begun = True
        elif begun:
            patches.append((table.start + at + time_at, BEHIND))
    return patches
