"""Encodes pictures as VP9, and sound as Opus or FLAC, into a container that is being written."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import PictureType
from av.video.reformatter import (
    ColorPrimaries,
    ColorRange,
    Colorspace,
    ColorTrc,
    VideoReformatter,
)

from .containers import describe_fault
from .cut import Samples, Shown, SoundForm, to_frame
from .errors import Damaged
from .hdr import exceeds_bt709
from .matrices import find_matrix, is_converted
from .video import apply_display_matrix, display_matrix, has_transparency, render_frame

MILLISECOND = Fraction(1, 1000)
ENCODER_THREADS = 2
GARBAGE_EVERY = 16  # frames: one whose side data was read refers to itself, and may have 50 MB
KEYFRAME_S = 2.0  # keyframes are so far apart at most, so that a player can go to any second soon
OPUS_BITS = 128_000  # a second
UNSPECIFIED = 2  # FFmpeg's AVCOL_PRI_UNSPECIFIED
UNTURNED = (1 << 16, 0, 0, 1 << 16)  # a display matrix that changes nothing

# packets, and the second at which each is decoded
Timed = Iterator[tuple[float, "av.Packet[Any]"]]


class Quality(NamedTuple):
    """`longest` is the longer side of pictures at most, in pixels. `speed` and `crf` are libvpx's:
    of speeds 8 is the quickest; of crf 0 is best, 63 worst.
    """

    longest: int
    speed: int
    crf: int


def encode_pictures(
    made: OutputContainer, pictures: Iterator[Shown], length_s: float, quality: Quality
) -> Timed:
    """Add a stream of VP9 to a container, and encode pictures for it. The last one is shown up to
    `length_s`. Without pictures no stream is added.

    Raises:
        What `read_pictures` raises.
        Damaged: a picture cannot be scaled.
    """
    first = next(pictures, None)
    if first is None:
        return iter(())
    painter = Painter(first, quality.longest)
    stream: Any = made.add_stream("libvpx-vp9")
    codec = stream.codec_context
    codec.width, codec.height = painter.size
    codec.pix_fmt = "yuv420p"
    codec.time_base = MILLISECOND
    codec.gop_size = 10_000
    codec.colorspace = Colorspace.ITU709
    codec.color_range = ColorRange.MPEG
    codec.color_primaries = ColorPrimaries.BT709
    codec.color_trc = ColorTrc.BT709
    codec.thread_count = ENCODER_THREADS
    codec.options = {
        "deadline": "realtime",
        "cpu-used": str(quality.speed),
        "crf": str(quality.crf),
        "b": "0",
        "lag-in-frames": "0",
        "auto-alt-ref": "0",
        "row-mt": "1",
    }
    frames = painted_frames(painter, chain([first], pictures))
    return picture_packets(stream, frames, round(1000 * length_s))


def painted_frames(painter: Painter, pictures: Iterator[Shown]) -> Iterator[av.VideoFrame]:
    """Frames to encode, with times in milliseconds that ascend."""
    last_ms = -1
    keyframe_ms = -round(1000 * KEYFRAME_S)
    for number, shown in enumerate(pictures):
        if number % GARBAGE_EVERY == 0:
            gc.collect()
        now_ms = round(1000 * shown.at_s)
        if now_ms <= last_ms:
            continue
        frame = painter.paint(shown.frame)
        frame.pts = now_ms
        frame.time_base = MILLISECOND
        frame.pict_type = PictureType.NONE
        if now_ms - keyframe_ms >= 1000 * KEYFRAME_S:
            frame.pict_type = PictureType.I
            keyframe_ms = now_ms
        last_ms = now_ms
        yield frame


def picture_packets(stream: Any, frames: Iterator[av.VideoFrame], length_ms: int) -> Timed:
    """Packets of a stream, each with its duration: up to the next one, or else the end."""
    encoded = (packet for frame in frames for packet in stream.encode(frame))
    waiting: av.Packet[Any] | None = None
    for packet in chain(encoded, flushed(stream)):
        if waiting is not None:
            waiting.duration = packet.pts - (waiting.pts or 0)
            yield (waiting.pts or 0) / 1000, waiting
        waiting = packet
    if waiting is not None:
        waiting.duration = max(length_ms - (waiting.pts or 0), 1)
        yield (waiting.pts or 0) / 1000, waiting


def flushed(stream: Any) -> Iterator[av.Packet[Any]]:
    """What an encoder still holds, once it is asked for."""
    yield from stream.encode(None)


def encode_sound(
    made: OutputContainer, pieces: Iterator[Samples], length_s: float, form: SoundForm
) -> Timed:
    """Add a stream to a container, and encode pieces of sound [samples, channels] for it,
    `length_s` seconds in all: as FLAC where samples are integers, else as Opus. Raises what
    `read_sound` raises.
    """
    lossy = form.format == "flt"
    stream: Any = made.add_stream("libopus" if lossy else "flac", rate=form.rate)
    codec = stream.codec_context
    codec.layout = form.layout
    codec.format = form.format
    if lossy:
        codec.bit_rate = OPUS_BITS
    return sound_packets(stream, pieces, form, round(length_s * form.rate))


def sound_packets(stream: Any, pieces: Iterator[Samples], form: SoundForm, samples: int) -> Timed:
    """Packets of a stream. None lasts longer than the stretch, which has so many samples; Opus
    begins before it, and players skip that.
    """
    encoded = (
        packet
        for piece, at in placed(pieces)
        for packet in stream.encode(to_frame(piece, form, at))
    )
    early: int | None = None
    for packet in chain(encoded, flushed(stream)):
        if early is None:
            early = -min(packet.pts or 0, 0)
        # FFmpeg takes a duration of no millisecond for one that is not known
        left = max(samples - (packet.pts or 0) - early, form.rate // 1000)
        packet.duration = min(packet.duration or left, left)
        yield float((packet.pts or 0) * packet.time_base), packet


def placed(pieces: Iterator[Samples]) -> Iterator[tuple[Samples, int]]:
    """Pieces, and the sample with which each begins."""
    at = 0
    for piece in pieces:
        yield piece, at
        at += len(piece)


class Painter:
    """Frames as a player shows them (see `render_frame`), all in the size of the first, in yuv420p
    of BT.709. Sides are even, and the longer one is at most `longest` pixels.
    """

    def __init__(self, first: Shown, longest: int) -> None:
        width = first.frame.width * first.aspect
        height = first.frame.height
        scale = min(1.0, longest / max(width, height))
        wide, high = (max(2 * round(side * scale / 2), 2) for side in (width, height))
        self._scaled = wide, high
        self.size = (high, wide) if is_turned(first.frame) else (wide, high)
        self._to_rgb_reformatter = VideoReformatter()
        self._to_yuv_reformatter = VideoReformatter()

    def paint(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Raises Damaged."""
        wide = exceeds_bt709(frame.color_trc, frame.color_primaries)
        matrix = display_matrix(frame)
        try:
            if has_transparency(frame) or not is_converted(frame):
                rgb = render_frame(frame, *self._scaled, "bilinear")
                frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            elif wide or matrix not in (None, UNTURNED):
                rgb = np.asarray(self._to_rgb(frame, wide).to_ndarray(), np.uint8)
                upright = apply_display_matrix(rgb, matrix)
                frame = av.VideoFrame.from_ndarray(upright, format="rgb24")
            return self._to_yuv(frame)
        except (av.FFmpegError, ValueError, MemoryError) as error:
            raise Damaged(f"its frames cannot be scaled ({describe_fault(error)})") from error

    def _to_rgb(self, frame: av.VideoFrame, wide: bool) -> av.VideoFrame:
        """A frame in its size before it is turned. HDR and wide colours are brought to those of
        BT.709 by FFmpeg, as `hdr` does: a moment's preparation for all, and then little for each.
        """
        width, height = self._scaled
        if wide and frame.color_primaries == UNSPECIFIED:
            frame.color_primaries = ColorPrimaries.BT2020
        into = (ColorTrc.IEC61966_2_1, ColorPrimaries.BT709) if wide else (None, None)
        rgb: av.VideoFrame = self._to_rgb_reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="rgb24",
            src_colorspace=find_matrix(frame),
            dst_color_trc=into[0],
            dst_color_primaries=into[1],
            threads=1,
        )
        return rgb

    def _to_yuv(self, frame: av.VideoFrame) -> av.VideoFrame:
        width, height = self.size
        yuv: av.VideoFrame = self._to_yuv_reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="yuv420p",
            src_colorspace=find_matrix(frame),
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )
        return yuv


def is_turned(frame: av.VideoFrame) -> bool:
    """Whether a frame is shown turned by a quarter."""
    matrix = display_matrix(frame)
    if matrix is None:
        return False
    a, b, c, d = matrix
    return abs(b) + abs(c) > abs(a) + abs(d)
