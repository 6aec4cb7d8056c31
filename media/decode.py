"""Decodes a file into frames and a waveform, within a budget (see `containers`)."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, cast

import av
import numpy as np
from av.container import InputContainer
from av.packet import PktSideDataT
from numpy.typing import NDArray

from .clock import BACK_DISCONTINUOUS_S, BACK_S, HOLD_S, RIGHT, UNKNOWN, Clock, Track, may_jump
from .containers import (
    MICROSECONDS,
    UNTIMED,
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
from .errors import BeyondBudget, Damaged, NotMedia, TooLong
from .hardware import find_device, note_fault
from .matrices import read_told_colours
from .preview import encode_jpeg
from .video import VideoSpec, fit_square

TIMED = {"mp4", "matroska", "mpegts"}  # containers whose presentation times are reliable
SHOWN = TIMED | {"flv", "mpeg"}  # those that tell when pictures are shown; FFmpeg guesses in others
SQUARE = {"gif", "apng"}  # whose pixels browsers show as squares, whatever the header says
MISSING = "a frame that its packets tell of does not come"
# side data of a packet that count for the packets after it, too: colours of a palette, parameters
SETTINGS: tuple[PktSideDataT, ...] = ("palette", "new_extradata", "param_change")
NEVER = int(np.iinfo(np.int64).max)  # later than any time of a stream


@dataclass(frozen=True)
class PictureTimes:
    """When pictures are shown, in seconds from the file's start, as the packets tell it.

    `pts` [n] and `starts_s` [n] are the times of every picture, ascending, if the container's times
    are reliable; `is_key` [n] says which are keyframes. `ticks_s` are the seconds at which the
    first picture, the second and so on are shown, if packets only have decoding times. All are
    empty if only decoding can tell. The first picture starts at `start_s`, the last one ends at
    `end_s`, as far as the packets tell. `pauses` are the stretches in which a picture has stayed
    for longer than HOLD_S. Packets' times are those of `clock`.
    """

    ticks_s: NDArray[np.float64]
    end_s: float
    pts: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    starts_s: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    is_key: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, bool))
    start_s: float = 0.0
    pauses: list[tuple[float, float]] = field(default_factory=list)
    clock: Clock = RIGHT

    def keep(self, times_s: Iterable[float]) -> PictureTimes:
        """Only the keyframes, and the pictures that are on screen at some times: of ten hours, the
        others would take 15 MB wherever this is sent.
        """
        if not len(self.pts):
            return self
        kept = self.is_key.copy()
        kept[self.on_screen(list(times_s))] = True
        return replace(
            self, pts=self.pts[kept], starts_s=self.starts_s[kept], is_key=self.is_key[kept]
        )

    def on_screen(self, times_s: Sequence[float]) -> NDArray[np.int64]:
        """Which pictures are on screen at times: numbers [times]. Before the first, that one is."""
        following = np.searchsorted(self.starts_s, times_s, side="right")
        return np.maximum(following - 1, 0)


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
        last = max(track.dts.max(initial=0), 0)
        back_s = BACK_DISCONTINUOUS_S if may_restart(container) else BACK_S
        beyond = float(last * track.base) - origin_s(container) > budget.seconds
        clock = read_clock(path, budget) if may_jump(track, back_s) or beyond else RIGHT
        found = compute_picture_times(clock.correct(track), container, stream)
        if len(found.starts_s) and found.starts_s[-1] > budget.seconds:
            raise TooLong(round(float(found.starts_s[-1]), 1), budget.seconds)
        shown_s = found.ticks_s if len(found.ticks_s) else found.starts_s
        whole = np.count_nonzero(track.shown) <= budget.frames and not track.corrupt.any()
        trusted = whole and TIMED & set(container.format.name.split(","))
        return replace(
            found if trusted else PictureTimes(found.ticks_s, found.end_s),
            end_s=min(found.end_s, budget.seconds),
            start_s=max(float(shown_s[0]), 0.0) if len(shown_s) else 0.0,
            pauses=find_pauses(np.append(shown_s, found.end_s)),
            clock=clock,
        )


def find_pauses(shown_s: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Where nothing new has been shown for longer than HOLD_S.

    >>> find_pauses(np.array([0.0, 70.0, 100.0]))
    [(60.0, 70.0)]
    """
    long = np.flatnonzero(np.diff(shown_s) > HOLD_S).tolist()
    return [(float(shown_s[i]) + HOLD_S, float(shown_s[i + 1])) for i in long]


def compute_picture_times(
    track: Track, container: InputContainer, stream: av.VideoStream
) -> PictureTimes:
    """The times that packets tell, whether the container is reliable or not."""
    track = track.only_shown()
    base = track.base
    zero_s = origin_s(container)
    frame_s = 1.0 / frame_rate(stream)

    def seconds(ticks: NDArray[np.int64]) -> NDArray[np.float64]:
        # The same rounding as for frames, so that both choose the same frame for a time.
        exact: NDArray[np.float64] = ticks * base.numerator / base.denominator - zero_s
        return exact

    if has_only_decoding_order(track, container, stream):
        told_s = track.duration * float(base)
        lengths_s = np.where(told_s > 0, told_s, frame_s)
        names = set(container.format.name.split(","))
        ticks = track.pts if names & SHOWN and ascends(track.pts) else track.dts
        if ascends(ticks):
            ticks_s = seconds(ticks)
            ticks_s = ticks_s - min(ticks_s[0], 0.0) if len(ticks_s) else ticks_s
        else:
            ticks_s = np.cumsum(np.append(0.0, lengths_s))[:-1]
        return PictureTimes(ticks_s, float(ticks_s[-1] + lengths_s[-1]) if len(ticks_s) else 0.0)
    known = track.pts != UNKNOWN
    order = np.lexsort((track.duration[known], track.pts[known]))
    pts = track.pts[known][order]
    starts_s = seconds(pts)
    lasts_s = float(track.duration[known][order][-1] * base) or frame_s
    last_s = max(float(starts_s[-1]), 0.0)
    end_s = picture_end_s(last_s, lasts_s, announced_end_s(container, stream))
    if not known.all():
        return PictureTimes(np.empty(0), end_s)
    return PictureTimes(np.empty(0), end_s, pts, starts_s, track.key[order])


def ascends(ticks: NDArray[np.int64]) -> bool:
    """Whether all of a stream's times are known, each later than the one before."""
    return bool((ticks != UNKNOWN).all() and (np.diff(ticks) > 0).all())


def has_only_decoding_order(
    track: Track, container: InputContainer, stream: av.VideoStream
) -> bool:
    """Whether packets tell when they are decoded, but not when they are shown.

    So it is in AVI, ASF and bare streams. It is also so if both times always differ by the same
    amount, although the stream has B-frames, which are shown in another order.
    """
    if container.format.name in UNTIMED or not (track.pts != UNKNOWN).any():
        return True
    both = (track.pts != UNKNOWN) & (track.dts != UNKNOWN)
    steps = track.pts[both] - track.dts[both]
    alike = len(steps) > 0 and bool((steps == steps[0]).all())
    return bool(stream.codec_context.has_b_frames) and len(track.pts) > 1 and alike


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


class Picture(NamedTuple):
    """The frame that a request asks for at a time: uint8 [size, size, 3], and a JPEG of it."""

    frame: NDArray[np.uint8]
    jpeg: bytes | None


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
    end = End(told.end_s)
    try:
        found = list(read_few_frames(path, request, told))
    except Damaged:
        found = list(read_every_frame(path, request, told, end))
    shown = zip(request.times_s, found, strict=True)
    jpegs = {time_s: picture.jpeg for time_s, picture in shown if picture.jpeg is not None}
    return np.stack([picture.frame for picture in found]), end.seconds, jpegs


def read_few_frames(path: Path, request: FrameRequest, told: PictureTimes) -> Iterator[Picture]:
    """The frames that a request asks for, one after the other, decoding no more than it takes; in
    hardware if this process is to, as far as that gets.

    Raises:
        Damaged: not all of them can be had so.
    """
    device = find_device()
    if device is not None:
        given = 0
        try:
            for picture in read_by_device(path, request, told, device):
                yield picture
                given += 1
            return
        except (Damaged, NotMedia) as fault:
            note_fault(path, device, fault)
        request = replace(request, times_s=request.times_s[given:])
    yield from read_by_device(path, request, told, None)


def read_by_device(
    path: Path, request: FrameRequest, told: PictureTimes, device: str | None
) -> Iterator[Picture]:
    """`read_few_frames` by a device, or in software. Raises NotMedia, too: the device does not
    decode the file.
    """
    times_s = request.times_s
    if not len(told.pts) or not len(times_s):
        raise Damaged("its packets do not tell when pictures are shown")
    wanted = told.pts[told.on_screen(times_s)]
    shown = {pts for pts, t in zip(wanted.tolist(), times_s, strict=True) if needs_jpeg(request, t)}
    with open_container(path, request.budget, device=device) as container:
        stream = video_stream(container)
        assert stream is not None
        made = Picture(np.empty(0, np.uint8), None)
        given = 0
        try:
            frames = decode_wanted(container, stream, np.unique(wanted), told, request.budget)
            for frame in frames:
                aspect = pixel_aspect(stream)
                jpeg = encode_jpeg(frame, aspect) if frame.pts in shown else None
                made = Picture(scale_frame(frame, request.spec, aspect), jpeg)
                while given < len(wanted) and wanted[given] == frame.pts:
                    asked = needs_jpeg(request, times_s[given])
                    yield made if asked else Picture(made.frame, None)
                    given += 1
        except (av.FFmpegError, OSError, ValueError) as error:
            raise Damaged(f"a frame does not decode ({describe_fault(error)})") from error


def needs_jpeg(request: FrameRequest, time_s: float) -> bool:
    return time_s in request.preview_times_s


def decode_wanted(
    container: InputContainer,
    stream: av.VideoStream,
    wanted: NDArray[np.int64],
    told: PictureTimes,
    budget: Budget,
) -> Iterator[av.VideoFrame]:
    """The frames that are shown at the times `wanted` [n], ascending.

    Decoding begins at a keyframe. Groups of pictures in which nothing is wanted are skipped, and of
    those in which the keyframe alone is wanted the rest is. What brings SETTINGS is decoded anyway.

    Raises:
        Damaged: one of them does not come.
    """
    colours = read_told_colours(stream)
    decoder = make_decoder(stream)
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.open(strict=False)  # libdav1d keeps the choice of `skip_frame` that it is opened with
    keys = told.pts[told.is_key]
    left = deque(wanted.tolist())
    missing = set(left)
    until = int(keys[0]) if len(keys) else NEVER  # the next keyframe
    going = left[0] < until  # whether packets are being decoded
    skipped = False  # whether some were not, since the last one that was
    for packet in read_packets(container, stream, clock=told.clock):
        if not left:
            return
        alone = False
        if packet.is_keyframe and packet.pts is not None and packet.size and not packet.is_discard:
            following = np.searchsorted(keys, packet.pts, side="right")
            until = int(keys[following]) if following < len(keys) else NEVER
            if not going or left[0] >= packet.pts:
                going = left[0] < until
                alone = left[0] == packet.pts and (len(left) == 1 or left[1] >= until)
        if not going:
            if any(packet.has_sidedata(kind) for kind in SETTINGS):
                decoder.decode(packet)
            skipped = True
            continue
        if skipped:
            decoder.flush_buffers()
            skipped = False
        needed = packet.pts is None or packet.pts in missing
        decoder.skip_frame = "DEFAULT" if needed else "NONREF"
        frames = decoder.decode(packet)
        if alone:
            frames += decoder.decode(None)
        for frame in frames:
            check_size(frame, budget)
            if left and frame.pts == left[0]:
                if alone and not frame.key_frame:
                    raise Damaged(MISSING)
                colours.complete(frame)
                yield frame
                missing.discard(left.popleft())
        if alone and packet.pts in missing:
            raise Damaged(MISSING)
        if alone or not left or left[0] >= until:
            going = False
            skipped = True
    if left:
        raise Damaged(MISSING)


@dataclass
class End:
    """When the last frame ends, in seconds from the file's start."""

    seconds: float


def read_every_frame(
    path: Path, request: FrameRequest, told: PictureTimes, end: End
) -> Iterator[Picture]:
    """The frames that a request asks for, one after the other, decoding every frame. When the last
    one ends is noted in `end`.
    """
    times_s = request.times_s
    budget = request.budget
    with open_container(path, budget) as container:
        stream = video_stream(container)
        if stream is None:
            raise Damaged("no video stream")
        shown: av.VideoFrame | None = None
        aspect = 1.0
        last_s = 0.0
        given = 0

        def choose(frame: av.VideoFrame, times: Sequence[float]) -> Iterator[Picture]:
            square = scale_frame(frame, request.spec, aspect)
            asked = [needs_jpeg(request, time_s) for time_s in times]
            jpeg = encode_jpeg(frame, aspect) if any(asked) else None
            for needs in asked:
                yield Picture(square, jpeg if needs else None)

        for frame, now_s in timed_frames(container, stream, budget, told):
            if now_s > budget.seconds:
                raise TooLong(round(now_s, 1), budget.seconds)
            due = times_s[given : bisect_left(times_s, now_s)]
            if shown is not None and due:
                yield from choose(shown, due)
                given += len(due)
            shown = frame
            aspect = pixel_aspect(stream)
            last_s = now_s
        if shown is None:
            raise Damaged("no frame decodes")
        if given < len(times_s):
            yield from choose(shown, times_s[given:])
        lasts_s = frame_s(shown, frame_rate(stream))
        announced_s = announced_end_s(container, stream)
        end.seconds = picture_end_s(max(last_s, 0.0), lasts_s, announced_s)


def timed_frames(
    container: InputContainer, stream: av.VideoStream, budget: Budget, told: PictureTimes
) -> Iterator[tuple[av.VideoFrame, float]]:
    """Every frame that decodes, and when it is shown, in seconds from the file's start.

    Decoders give frames in the order shown, so the n-th frame gets the n-th of `told.ticks_s`,
    if there are any.

    Raises:
        BeyondBudget: too many frames, or too large ones.
    """
    colours = read_told_colours(stream)
    decoder = make_decoder(stream)
    zero_s = origin_s(container)
    rate = frame_rate(stream)
    assert isinstance(decoder, av.VideoCodecContext)
    count = 0
    last = None
    ticks_s = told.ticks_s
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
            colours.complete(frame)
            time_s: float | None = None if frame.time is None else frame.time - zero_s
            if frame is last and packet.pts is not None:
                time_s = float(packet.pts * (stream.time_base or 0)) - zero_s
            if len(ticks_s):
                time_s = ticks_s[min(count, len(ticks_s) - 1)]
            yield frame, count / rate if time_s is None else time_s
            count += 1
            last = frame
            if count > budget.frames:
                raise BeyondBudget("frames", count, budget.frames)


def check_size(frame: av.VideoFrame, budget: Budget) -> None:
    if frame.width * frame.height > budget.frame_pixels:
        raise BeyondBudget("pixels in a frame", frame.width * frame.height, budget.frame_pixels)


def pixel_aspect(stream: av.VideoStream) -> float:
    """Width of a shown pixel over its height, from the container or else from the codec. In
    broadcasts it may change, and is that of what was decoded last.
    """
    container = cast(InputContainer, stream.container)
    if container.format.name in SQUARE:
        return 1.0
    now = stream.codec_context.sample_aspect_ratio if may_restart(container) else None
    return float(now or stream.sample_aspect_ratio or 0) or 1.0


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
