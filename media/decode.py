"""Decodes a file into frames and a waveform, within a budget (see `containers`)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from .clock import BACK_DISCONTINUOUS_S, BACK_S, HOLD_S, RIGHT, Clock, may_jump
from .containers import (
    MICROSECONDS,
    Budget,
    describe_fault,
    make_decoder,
    may_restart,
    open_container,
    origin_s,
    read_clock,
    read_packets,
    read_tracks,
    video_stream,
)
from .errors import BeyondBudget, Damaged, TooLong
from .preview import encode_jpeg
from .video import VideoSpec, fit_square

TIMED = {"mp4", "matroska", "mpegts"}  # containers whose presentation times are reliable


@dataclass(frozen=True)
class PictureTimes:
    """When pictures are shown, in seconds from the file's start, as the packets tell it.

    `starts` are (pts, seconds) of every picture, ascending, if the container's times are reliable.
    `ticks_s` are the seconds at which the first picture, the second and so on are shown, if packets
    only have decoding times. Both are empty if only decoding can tell. The first picture starts at
    `start_s`, the last one ends at `end_s`, as far as the packets tell. `pauses` are the stretches
    in which a picture has stayed for longer than HOLD_S. Packets' times are those of `clock`.
    """

    starts: list[tuple[int, float]]
    ticks_s: list[float]
    end_s: float
    start_s: float = 0.0
    pauses: list[tuple[float, float]] = field(default_factory=list)
    clock: Clock = RIGHT


def read_picture_times(path: Path, budget: Budget) -> PictureTimes | None:
    """When a file's pictures are shown, from its packets alone; None without pictures.

    Raises:
        NotMedia, TooLong, BeyondBudget: see `open_container`.
    """
    with open_container(path, budget) as container:
        stream = video_stream(container)
        if stream is None:
            return None
        [track] = read_tracks(container, [stream])
        beyond_s = float(max((p.dts or 0 for p in track.packets), default=0) * track.base)
        back_s = BACK_DISCONTINUOUS_S if may_restart(container) else BACK_S
        doubted = may_jump(track, back_s) or beyond_s - origin_s(container) > budget.seconds
        clock = read_clock(path, budget) if doubted else RIGHT
        packets = [
            PacketTimes(
                *clock.times(stream.index, i, track.base, packet.pts, packet.dts), packet.duration
            )
            for i, packet in enumerate(track.packets)
            if packet.shown
        ]
        found = compute_picture_times(packets, container, stream)
        if found.starts and found.starts[-1][1] > budget.seconds:
            raise TooLong(round(found.starts[-1][1], 1), budget.seconds)
        shown_s = found.ticks_s or [seconds for _, seconds in found.starts]
        whole = len(packets) <= budget.frames and not any(
            packet.corrupt for packet in track.packets
        )
        trusted = whole and TIMED & set(container.format.name.split(","))
        return PictureTimes(
            starts=found.starts if trusted else [],
            ticks_s=found.ticks_s,
            end_s=min(found.end_s, budget.seconds),
            start_s=max(shown_s[0], 0.0) if shown_s else 0.0,
            pauses=find_pauses([*shown_s, found.end_s]),
            clock=clock,
        )


def find_pauses(shown_s: Sequence[float]) -> list[tuple[float, float]]:
    """Where nothing new has been shown for longer than HOLD_S.

    >>> find_pauses([0.0, 70.0, 100.0])
    [(60.0, 70.0)]
    """
    return [(a + HOLD_S, b) for a, b in pairwise(shown_s) if b > a + HOLD_S]


class PacketTimes(NamedTuple):
    """Times of a packet, in units of the stream's time base."""

    pts: int | None
    dts: int | None
    duration: int


def compute_picture_times(
    packets: list[PacketTimes], container: InputContainer, stream: av.VideoStream
) -> PictureTimes:
    """The times that packets tell, whether the container is reliable or not."""
    base, zero_s, frame_s = (
        stream.time_base or Fraction(0),
        origin_s(container),
        1.0 / frame_rate(stream),
    )

    def seconds(ticks: int) -> float:
        # The same rounding as for frames, so that both choose the same frame for a time.
        return ticks * base.numerator / base.denominator - zero_s

    if has_only_decoding_order(packets, container, stream):
        decoded_at = [packet.dts for packet in packets if packet.dts is not None]
        lengths_s = [float(packet.duration * base) or frame_s for packet in packets]
        if len(decoded_at) == len(packets) and all(a < b for a, b in pairwise(decoded_at)):
            early_s = min(seconds(decoded_at[0]), 0.0) if decoded_at else 0.0
            ticks_s = [seconds(dts) - early_s for dts in decoded_at]
        else:
            ticks_s = list(accumulate(lengths_s, initial=0.0))[:-1]
        return PictureTimes([], ticks_s, ticks_s[-1] + lengths_s[-1] if ticks_s else 0.0)
    shown = sorted((packet.pts, packet.duration) for packet in packets if packet.pts is not None)
    starts = [(pts, seconds(pts)) for pts, _ in shown]
    last_s, lasts_s = max(starts[-1][1], 0.0), seconds(shown[-1][1]) + zero_s or frame_s
    end_s = picture_end_s(last_s, lasts_s, announced_end_s(container, stream))
    return PictureTimes(starts if len(shown) == len(packets) else [], [], end_s)


def has_only_decoding_order(
    packets: list[PacketTimes], container: InputContainer, stream: av.VideoStream
) -> bool:
    """Whether packets tell when they are decoded, but not when they are shown.

    So it is in AVI and bare streams. It is also so if both times always differ by the same amount,
    although the stream has B-frames, which are shown in another order.
    """
    if container.format.name == "avi" or not any(packet.pts is not None for packet in packets):
        return True
    steps = {
        packet.pts - packet.dts
        for packet in packets
        if packet.pts is not None and packet.dts is not None
    }
    return bool(stream.codec_context.has_b_frames) and len(packets) > 1 and len(steps) == 1


def frame_rate(stream: av.VideoStream) -> float:
    """Pictures a second."""
    return float(stream.average_rate or 0) or 25.0


def announced_end_s(container: InputContainer, stream: av.VideoStream) -> float:
    """The header's end of the pictures, in seconds from the file's start; 0 if it has none."""
    if not stream.duration or not stream.time_base:
        return (container.duration or 0) / MICROSECONDS
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - origin_s(
        container
    )


def picture_end_s(last_s: float, lasts_s: float, announced_s: float) -> float:
    """When the last picture ends, which is shown at `last_s` for `lasts_s` seconds.

    In MP4 with B-frames that duration may be another picture's. So an end by the header counts,
    `announced_s`, if it is earlier and lies after `last_s`.
    """
    return min(last_s + lasts_s, announced_s) if announced_s > last_s else last_s + lasts_s


@dataclass(frozen=True, kw_only=True)
class FrameRequest:
    """Which frames of a file are wanted.

    For each of the ascending `times_s` the frame on screen then, scaled by `spec`. The times among
    `preview_times_s` get a JPEG as well. `picture_times` is what `read_picture_times` found, if it
    was asked before. `budget` limits what is decoded.
    """

    times_s: Sequence[float]
    spec: VideoSpec
    budget: Budget
    preview_times_s: Collection[float] = ()
    picture_times: PictureTimes | None = None


# uint8 [times, size, size, 3]; when the last frame ends, in seconds; JPEGs by their times
Frames = tuple[NDArray[np.uint8], float, dict[float, bytes]]


def read_frames(path: Path, request: FrameRequest) -> Frames:
    """The frames that a request asks for: uint8 [times, size, size, 3].

    Also returns the second at which the file's last frame ends, and the JPEGs by their times. A
    time before the first frame gets the first one, a time after the last frame gets the last.

    Where packets tell when each frame is shown, it skips frames that are neither wanted nor needed
    to decode wanted ones.

    Raises:
        NotMedia, TooLong, BeyondBudget: see `open_container`.
        Damaged: no frame decodes.
    """
    told = request.picture_times or read_picture_times(path, request.budget)
    if told is None:
        raise Damaged("no video stream")
    found = read_few_frames(path, request, told)
    return found if found is not None else read_every_frame(path, request, told)


def read_few_frames(path: Path, request: FrameRequest, told: PictureTimes) -> Frames | None:
    """`read_frames` that skips frames. None where packets do not tell when each frame is shown, or
    where something does not decode.
    """
    times_s, shown_s, budget = request.times_s, request.preview_times_s, request.budget
    if not told.starts or not times_s:
        return None
    starts_s = [start_s for _, start_s in told.starts]
    wanted = [told.starts[max(bisect_right(starts_s, t) - 1, 0)][0] for t in times_s]
    shown = {pts for pts, t in zip(wanted, times_s, strict=True) if t in shown_s}
    frames: dict[int, NDArray[np.uint8]] = {}
    jpegs: dict[int, bytes | None] = {}
    with open_container(path, budget) as container:
        stream = video_stream(container)
        assert stream is not None
        missing, decoder, aspect = set(wanted), make_decoder(stream), pixel_aspect(stream)
        assert isinstance(decoder, av.VideoCodecContext)
        try:
            for packet in read_packets(container, stream, clock=told.clock):
                decoder.skip_frame = (
                    "DEFAULT" if packet.pts in missing or packet.pts is None else "NONREF"
                )
                for frame in decoder.decode(packet):
                    check_size(frame, budget)
                    if frame.pts in missing:
                        frames[frame.pts] = scale_frame(frame, request.spec, aspect)
                        if frame.pts in shown:
                            jpegs[frame.pts] = encode_jpeg(frame, aspect)
                        missing.discard(frame.pts)
                if not missing:
                    asked = [
                        (t, jpegs[pts])
                        for t, pts in zip(times_s, wanted, strict=True)
                        if t in shown_s
                    ]
                    seen = {t: made for t, made in asked if made is not None}
                    return np.stack([frames[pts] for pts in wanted]), told.end_s, seen
        except (av.FFmpegError, OSError, ValueError):
            return None
    return None


def read_every_frame(path: Path, request: FrameRequest, told: PictureTimes) -> Frames:
    """`read_frames` that decodes every frame."""
    times_s, shown_s, budget = request.times_s, request.preview_times_s, request.budget
    with open_container(path, budget) as container:
        stream = video_stream(container)
        if stream is None:
            raise Damaged("no video stream")
        chosen: list[NDArray[np.uint8]] = []
        jpegs: dict[float, bytes] = {}
        aspect = pixel_aspect(stream)
        shown: av.VideoFrame | None = None
        last_s = 0.0

        def choose(frame: av.VideoFrame, times: Sequence[float]) -> None:
            chosen.extend([scale_frame(frame, request.spec, aspect)] * len(times))
            if (asked := [t for t in times if t in shown_s]) and (
                made := encode_jpeg(frame, aspect)
            ):
                jpegs.update(dict.fromkeys(asked, made))

        for frame, now_s in timed_frames(container, stream, budget, told):
            if now_s > budget.seconds:
                raise TooLong(round(now_s, 1), budget.seconds)
            if shown is not None and (due := times_s[len(chosen) : bisect_left(times_s, now_s)]):
                choose(shown, due)
            shown, last_s = frame, now_s
        if shown is None:
            raise Damaged("no frame decodes")
        if len(chosen) < len(times_s):
            choose(shown, times_s[len(chosen) :])
        lasts_s = frame_s(shown, frame_rate(stream))
        end_s = picture_end_s(max(last_s, 0.0), lasts_s, announced_end_s(container, stream))
        return np.stack(chosen), end_s, jpegs


def timed_frames(
    container: InputContainer, stream: av.VideoStream, budget: Budget, told: PictureTimes
) -> Iterator[tuple[av.VideoFrame, float]]:
    """Every frame that decodes, and when it is shown, in seconds from the file's start.

    Decoders give frames in the order shown, so the n-th frame gets the n-th of `told.ticks_s`,
    if there are any.

    Raises:
        BeyondBudget: too many frames, or too large ones.
    """
    decoder, zero_s, rate = make_decoder(stream), origin_s(container), frame_rate(stream)
    assert isinstance(decoder, av.VideoCodecContext)
    count, last, ticks_s = 0, None, told.ticks_s
    for packet in read_packets(container, stream, clock=told.clock):
        try:
            frames = (
                decoder.decode(packet)
                if packet.size or packet.pts is None
                else [last]
                if last
                else []
            )
        except (av.FFmpegError, ValueError):
            continue
        for frame in frames:
            check_size(frame, budget)
            time_s: float | None = None if frame.time is None else frame.time - zero_s
            if frame is last and packet.pts is not None:
                time_s = float(packet.pts * (stream.time_base or 0)) - zero_s
            if ticks_s:
                time_s = ticks_s[min(count, len(ticks_s) - 1)]
            yield frame, count / rate if time_s is None else time_s
            count, last = count + 1, frame
            if count > budget.frames:
                raise BeyondBudget("frames", count, budget.frames)


def check_size(frame: av.VideoFrame, budget: Budget) -> None:
    if frame.width * frame.height > budget.frame_pixels:
        raise BeyondBudget("pixels in a frame", frame.width * frame.height, budget.frame_pixels)


def pixel_aspect(stream: av.VideoStream) -> float:
    """Width of a shown pixel over its height, from the container or else from the codec."""
    return float(stream.sample_aspect_ratio or 0) or 1.0


def frame_s(frame: av.VideoFrame, rate: float) -> float:
    """How long a frame is shown, in seconds: its own duration, or else 1 / `rate`."""
    if frame.duration and frame.time_base:
        return float(frame.duration * frame.time_base)
    return 1.0 / rate


def scale_frame(frame: av.VideoFrame, spec: VideoSpec, aspect: float) -> NDArray[np.uint8]:
    try:
        return fit_square(frame, spec, aspect)
    except (av.FFmpegError, ValueError, MemoryError) as error:
        raise Damaged(f"its frames cannot be scaled ({describe_fault(error)})") from error
