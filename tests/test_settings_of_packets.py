"""What a packet brings for those after it counts, even if its own picture is not looked at."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from media.containers import Budget
from media.cut import read_pictures
from media.decode import FrameRequest, read_frames
from media.video import VideoSpec, fit_square

PICTURE = VideoSpec(frames=1, size=32)
TABLE = (b"moov", b"trak", b"mdia", b"minf", b"stbl")  # the boxes around a track's tables


def seen_at(path: Path, *times_s: float) -> NDArray[np.uint8]:
    request = FrameRequest(times_s=times_s, spec=PICTURE, budget=Budget())
    return read_frames(path, request)[0]


def test_a_palette_that_comes_with_the_first_picture_is_that_of_all(tmp_path: Path) -> None:
    """QuickTime tells a palette once."""
    path = tmp_path / "film.mov"
    palette = np.full((256, 4), 255, np.uint8)
    palette[5] = (255, 200, 60, 40)  # opaque, red, green, blue
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "pal8"
        for _ in range(30):
            indexes = np.full((64, 64), 5, np.uint8)
            frame = av.VideoFrame.from_ndarray((indexes, palette), format="pal8")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert (seen_at(path, 2.0)[0] == (200, 60, 40)).all()
    clip = list(read_pictures(path, 2.0, 3.0, Budget()))
    assert len(clip) == 10
    for shown in clip:
        assert (fit_square(shown.frame, PICTURE, shown.aspect) == (200, 60, 40)).all()


def make_film(path: Path, picture: NDArray[np.uint8], qp: str) -> bytes:
    """Two seconds of one picture with a keyframe each second. With `qp` the parameters differ."""
    with av.open(str(path), "w") as container:
        options = {"qp": qp, "profile": "baseline", "g": "10", "x264-params": "keyint=10:threads=1"}
        stream = container.add_stream("libx264", rate=10, options=options)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path.read_bytes()


def read_boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        yield kind, data[at + 8 : at + size]
        at += size


def find(data: bytes, *kinds: bytes) -> bytes:
    for kind in kinds:
        data = dict(read_boxes(data))[kind]
    return data


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def replaced(data: bytes, kinds: tuple[bytes, ...], new: bytes) -> bytes:
    """The boxes `data` with other contents of the one below `kinds`."""
    made = b""
    for kind, content in read_boxes(data):
        if kind == kinds[0]:
            content = replaced(content, kinds[1:], new) if kinds[1:] else new
        made += box(kind, content)
    return made


def join_films(first: bytes, second: bytes) -> bytes:
    """Two films of 20 pictures as one of two sample descriptions (ISO 14496-12, 8.5.2)."""
    descriptions = [find(film, *TABLE, b"stsd")[8:] for film in (first, second)]
    sizes = [find(film, *TABLE, b"stsz")[12:] for film in (first, second)]
    media = [find(film, b"mdat") for film in (first, second)]
    ftyp = box(b"ftyp", find(first, b"ftyp"))
    begin = len(ftyp) + 8
    delta = struct.unpack_from(">I", find(first, *TABLE, b"stts"), 12)[0]
    tables = b"".join(
        (
            box(b"stsd", struct.pack(">II", 0, 2) + b"".join(descriptions)),
            box(b"stts", struct.pack(">4I", 0, 1, 40, delta)),
            box(b"stss", struct.pack(">6I", 0, 4, 1, 11, 21, 31)),
            box(b"stsc", struct.pack(">8I", 0, 2, 1, 20, 1, 2, 20, 2)),
            box(b"stsz", struct.pack(">3I", 0, 0, 40) + b"".join(sizes)),
            box(b"stco", struct.pack(">4I", 0, 2, begin, begin + len(media[0]))),
        )
    )
    head = bytearray(find(first, *TABLE[:3], b"mdhd"))
    struct.pack_into(">I", head, 16, 40 * delta)
    movie = box(b"moov", find(first, b"moov"))
    movie = replaced(movie, TABLE, tables)
    movie = replaced(movie, (*TABLE[:3], b"mdhd"), bytes(head))
    movie = replaced(movie, (*TABLE[:2], b"edts"), b"")
    return ftyp + box(b"mdat", b"".join(media)) + movie


def test_a_film_may_change_its_parameters_where_nothing_is_looked_at(tmp_path: Path) -> None:
    """The parameters of the second half come with its first keyframe, at 2 s. Of the film, the
    second keyframe of that half is looked at, alone and after all others.
    """
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    picture = noise.repeat(8, axis=0).repeat(8, axis=1)
    first = make_film(tmp_path / "first.mp4", picture, "10")
    second = make_film(tmp_path / "second.mp4", picture[::-1].copy(), "40")
    path = tmp_path / "both.mp4"
    path.write_bytes(join_films(first, second))
    alone = seen_at(path, 3.5)[0]
    expected = seen_at(tmp_path / "second.mp4", 1.5)[0]
    assert (alone == expected).all()
    assert (seen_at(path, 0.5, 1.5, 2.5, 3.5)[3] == expected).all()
