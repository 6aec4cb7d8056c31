"""Animated WebP, PNG and AVIF, read by Pillow and given as frames of a film.

FFmpeg does not read animated WebP. Of animated PNG and AVIF it ignores orientation and
transparency, and it does not know which delays browsers lengthen. Animated AVIF in HDR is left to
it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import Blend, Disposal, PngImageFile

from .containers import Budget, open_container, video_stream
from .decode import FrameRequest, Frames, PictureTimes, scale_frame
from .errors import BadMedia, BeyondBudget, NotMedia, TooLong
from .hdr import exceeds_bt709
from .pictures import (
    FAULTS,
    ORIENTATION,
    Colours,
    draw,
    find_conversion,
    keep_colours,
    make_frame,
    may_be_hdr,
    open_picture,
    read_head,
    read_png_chunks,
    read_png_colours,
    to_srgb,
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
    time at another of them. A PNG may have one in front, for programs that show no animations. Its
    pictures are the pieces that are stored, each at its place: see `compose_png`.
    """
    first = int(getattr(picture, "default_image", False))
    for number in range(first, getattr(picture, "n_frames", 1)):
        try:
            picture.seek(number)
            if isinstance(picture, PngImageFile):
                picture.dispose_op = Disposal.OP_NONE
                picture.blend_op = Blend.OP_SOURCE
            picture.load()
        except FAULTS:
            if number == first:
                raise
            return
        yield picture


def each_frame(
    picture: ImageFile, colours: Colours | None
) -> Iterator[Callable[[], av.VideoFrame]]:
    """What an animation shows, one after the other, as functions that make the frames."""
    if not isinstance(picture, PngImageFile):
        for shown in each_picture(picture):
            yield partial(make_frame, shown, colours)
        return
    turn = picture.getexif().get(ORIENTATION, 1)
    for canvas in compose_png(picture, colours):
        yield partial(draw, canvas, turn, keep_colours)


def compose_png(picture: PngImageFile, colours: Colours | None) -> Iterator[Image.Image]:
    """What an animated PNG shows, in sRGB and RGBA, of the pieces that it is stored in.

    Pillow 13.0 does not do that right: it blends what is half transparent wrongly, does not always
    go back to what was before a piece, and begins with the picture in front of the animation.
    """
    convert = find_conversion(picture, colours)
    before = Image.new("RGBA", picture.size)
    for number, _ in enumerate(each_picture(picture)):
        box, blend, disposal = (picture.info[name] for name in ("bbox", "blend", "disposal"))
        piece = to_srgb(picture.crop(box), convert).convert("RGBA")
        shown = before.copy()
        if blend == Blend.OP_OVER:
            shown.alpha_composite(piece, box[:2])
        else:
            shown.paste(piece, box)
        yield shown
        if disposal == Disposal.OP_NONE:
            before = shown
        elif disposal == Disposal.OP_BACKGROUND or number == 0:
            before = shown.copy()
            before.paste((0, 0, 0, 0), box)


def timed_pictures(path: Path, budget: Budget) -> Iterator[tuple[av.VideoFrame, float]]:
    """Every picture of an animation, and when it is shown, in seconds. Raises as
    `read_animation_times` does.
    """
    told = read_animation_times(path, budget)
    colours = read_png_colours(path)
    with open_animation(path, budget) as picture:
        for make, at_s in zip(each_frame(picture, colours), told.ticks_s, strict=False):
            yield make(), at_s


def read_animation(path: Path, request: FrameRequest) -> Frames:
    """The frames of an animation that a request asks for: see `read_frames`."""
    told = request.picture_times or read_animation_times(path, request.budget)
    ends_s = [*told.ticks_s[1:], float("inf")]
    colours = read_png_colours(path)
    chosen: list[NDArray[np.uint8]] = []
    jpegs: dict[float, bytes] = {}
    with open_animation(path, request.budget) as picture:
        for make, end_s in zip(each_frame(picture, colours), ends_s, strict=False):
            due = request.times_s[len(chosen) : bisect_left(request.times_s, end_s)]
            if not due:
                continue
            frame = make()
            chosen += [scale_frame(frame, request.spec, 1.0)] * len(due)
            jpeg = encode_jpeg(frame)
            if jpeg is not None:
                jpegs |= {t: jpeg for t in due if t in request.preview_times_s}
    return np.stack(chosen), told.end_s, jpegs
