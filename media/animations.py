"""Animated WebP, PNG and AVIF, read by Pillow and given as frames of a film.

FFmpeg does not read animated WebP. Of animated PNG and AVIF it ignores orientation and
transparency, and it does not know which delays browsers lengthen. Animated AVIF in HDR is left to
it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL.ImageFile import ImageFile

from .containers import Budget, open_container, video_stream
from .decode import FrameRequest, Frames, PictureTimes, scale_frame
from .errors import BadMedia, BeyondBudget, NotMedia, TooLong
from .hdr import exceeds_bt709
from .pictures import (
    FAULTS,
    make_frame,
    may_be_hdr,
    open_picture,
    read_head,
    read_png_chunks,
    read_png_colours,
)
from .preview import encode_jpeg

SHORTEST_MS = 10  # browsers show a picture of up to so long for a tenth of a second
TENTH_MS = 100


def animation_format(path: Path) -> str | None:
    """The format of an animated picture that is read here; None of any other file."""
    head = read_head(path)
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X":
        return "WebP" if len(head) > 20 and head[20] & 2 else None
    if head.startswith(b"\x89PNG"):
        return "PNG" if b"acTL" in read_png_chunks(path) else None
    if head[4:12] == b"ftypavis":
        return None if is_hdr_film(path) else "AVIF"
    return None


def is_hdr_film(path: Path) -> bool:
    if not may_be_hdr(path):
        return False
    try:
        with open_container(path, Budget()) as container:
            stream = video_stream(container)
            codec = stream.codec_context if stream else None
            return codec is not None and exceeds_bt709(codec.color_trc, codec.color_primaries)
    except BadMedia:
        return False


@contextmanager
def open_animation(path: Path, budget: Budget) -> Iterator[ImageFile]:
    """An animated picture. Raises as `open_picture` does, and NotMedia for any other file."""
    name = animation_format(path)
    if name is None:
        raise NotMedia("no animated picture")
    with open_picture(path, name, budget) as picture:
        assert picture is not None
        yield picture


def read_animation_times(path: Path, budget: Budget) -> PictureTimes:
    """When the pictures of an animation are shown: see `read_picture_times`.

    Raises:
        NotMedia, Damaged, TooLong, BeyondBudget.
    """
    lengths_s = []
    with open_animation(path, budget) as picture:
        count = getattr(picture, "n_frames", 1)
        if count > budget.frames:
            raise BeyondBudget("frames", count, budget.frames)
        for _ in each_picture(picture):
            length_ms = picture.info.get("duration", 0)
            lengths_s.append((length_ms if length_ms > SHORTEST_MS else TENTH_MS) / 1000)
            if sum(lengths_s) > budget.seconds:
                raise TooLong(round(sum(lengths_s), 1), budget.seconds)
    starts_s = list(accumulate(lengths_s, initial=0.0))
    return PictureTimes(np.array(starts_s[:-1]), starts_s[-1])


def each_picture(picture: ImageFile) -> Iterator[ImageFile]:
    """The pictures of an animation, up to the first that does not decode; `picture` itself, each
    time at another of them. A PNG may have one in front, for programs that show no animations.
    """
    first = int(getattr(picture, "default_image", False))
    for number in range(first, getattr(picture, "n_frames", 1)):
        try:
            picture.seek(number)
            picture.load()
        except FAULTS:
            if number == first:
                raise
            return
        yield picture


def timed_pictures(path: Path, budget: Budget) -> Iterator[tuple[av.VideoFrame, float]]:
    """Every picture of an animation, and when it is shown, in seconds. Raises as
    `read_animation_times` does.
    """
    told = read_animation_times(path, budget)
    colours = read_png_colours(path)
    with open_animation(path, budget) as picture:
        for shown, at_s in zip(each_picture(picture), told.ticks_s, strict=False):
            yield make_frame(shown, colours), at_s


def read_animation(path: Path, request: FrameRequest) -> Frames:
    """The frames of an animation that a request asks for: see `read_frames`."""
    told = request.picture_times or read_animation_times(path, request.budget)
    ends_s = [*told.ticks_s[1:], float("inf")]
    colours = read_png_colours(path)
    chosen: list[NDArray[np.uint8]] = []
    jpegs: dict[float, bytes] = {}
    with open_animation(path, request.budget) as picture:
        for shown, end_s in zip(each_picture(picture), ends_s, strict=False):
            due = request.times_s[len(chosen) : bisect_left(request.times_s, end_s)]
            if not due:
                continue
            frame = make_frame(shown, colours)
            chosen += [scale_frame(frame, request.spec, 1.0)] * len(due)
            jpeg = encode_jpeg(frame)
            if jpeg is not None:
                jpegs |= {t: jpeg for t in due if t in request.preview_times_s}
    return np.stack(chosen), told.end_s, jpegs
