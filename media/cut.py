"""The pictures and the sound of a stretch of a file, on the stretch's own clock, which begins at 0.

A stretch is [start_s, end_s) of the file's time line. What lies before it is decoded only as far as
decoders need it. In a file whose clock jumps nothing can be sought by its times, so it is read from
its start on (see `clock`).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from .animations import animation_format, timed_pictures
from .audio import silence_invalid_samples
from .clock import RIGHT, Clock
from .containers import (
    MICROSECONDS,
    UNTIMED,
    Budget,
    audio_stream,
    describe_fault,
    make_decoder,
    may_restart,
    open_container,
    origin_s,
    read_clock,
    read_packets,
    video_stream,
)
from .decode import SETTINGS, check_size, frame_rate, pixel_aspect
from .errors import Damaged
from .matrices import read_told_colours
from .mono import Mixer
from .repair import find_ogg_links

# containers in which a seek lands where their packets then say; in others packets are skipped
SEEKABLE = {
    *("mov", "matroska", "mpegts", "mpeg", "avi", "asf", "flv", "ogg", "flac"),
    *("wav", "w64", "aiff", "caf", "mxf"),
}
# in which FFmpeg seeks by the bytes a second that the header tells, which is often wrong
BY_RATE = {"wav", "w64"}
COMPANDED_BITS = 8  # of a sample in A-law or mu-law, whose names at FFmpeg tell none
NEAR_S = 1.0  # how long before a stretch it is sought
FAR_S = 12.0  # the same, if that was late
HOLE_S = 0.05  # a jump of a sound's timestamps that is believed; less is jitter
ROUNDING_S = 0.0006  # containers that count milliseconds place pictures so much too early or late
DECODER_THREADS = 2
# files that are asked for their clock, although their format's may not restart: half a second each
ASKED_BYTES = 500_000_000


class Shown(NamedTuple):
    """A picture and when it is shown, in seconds of the stretch. A pixel's width is `aspect` times
    its height.
    """

    frame: av.VideoFrame
    at_s: float
    aspect: float


def find_clock(path: Path, budget: Budget) -> Clock:
    """The clock that a file's windows are placed by. It is not looked for in files of more than
    ASKED_BYTES, unless they are broadcasts.
    """
    about = path.stat()
    with open_container(path, budget) as container:
        if not may_restart(container) and about.st_size > ASKED_BYTES:
            return RIGHT
    return read_clock_once(path, budget, (about.st_size, about.st_mtime_ns))


@lru_cache(maxsize=16)
def read_clock_once(path: Path, budget: Budget, version: tuple[int, int]) -> Clock:
    """`read_clock`, for the stretches of a film that one process makes. `version` tells whether the
    file is the same.
    """
    clock = read_clock(path, budget)
    return clock if clock.steps or clock.single else RIGHT


def read_pictures(
    path: Path, start_s: float, end_s: float, budget: Budget, clock: Clock = RIGHT
) -> Iterator[Shown]:
    """The pictures of a stretch, by the file's clock. The first is the one on screen at its start,
    if there is one then. Where pictures have ended before, that is the last one.

    Raises:
        NotMedia, TooLong, BeyondBudget: see `open_container`.
        Damaged: no picture decodes.
    """
    if animation_format(path) is not None:
        yield from cut_pictures(timed_pictures(path, budget), start_s, end_s, 1.0)
        return
    for early_s in lead_ins(start_s, clock):
        with open_container(path, budget) as container:
            stream = video_stream(container)
            if stream is None:
                raise Damaged("no video stream")
            settings = None
            if early_s is not None:
                settings = read_settings(container, stream)
                if not go_to(container, start_s - early_s):
                    continue
            aspect = pixel_aspect(stream)
            packets = read_packets(container, stream, clock=clock)
            if clock is not RIGHT:
                packets = islice(packets, count_skipped(path, start_s, budget, clock), None)
            pictures = read_timed_pictures(container, stream, packets, budget, settings)
            first = next(pictures, None)
            if first is None or (early_s is not None and first[1] > start_s):
                continue
            yield from cut_pictures(chain([first], pictures), start_s, end_s, aspect)
            return
    raise Damaged("no frame decodes")


def cut_pictures(
    pictures: Iterable[tuple[av.VideoFrame, float]], start_s: float, end_s: float, aspect: float
) -> Iterator[Shown]:
    """Those of some pictures that are shown in a stretch."""
    before: av.VideoFrame | None = None
    for frame, now_s in pictures:
        at_s = now_s - start_s
        if at_s <= ROUNDING_S:
            before = frame
            continue
        if before is not None:
            yield Shown(before, 0.0, aspect)
            before = None
        if now_s >= end_s - ROUNDING_S:
            return
        yield Shown(frame, at_s, aspect)
    if before is not None:
        yield Shown(before, 0.0, aspect)


def read_settings(container: InputContainer, stream: av.VideoStream) -> av.Packet[Any] | None:
    """The first packet of a stream, if it brings what counts for those after it: see SETTINGS."""
    first = next(read_packets(container, stream), None)
    brings = first is not None and any(first.has_sidedata(kind) for kind in SETTINGS)
    return first if brings else None


def count_skipped(path: Path, start_s: float, budget: Budget, clock: Clock) -> int:
    """How many packets of pictures lie before the last keyframe at or before a second."""
    skipped = 0
    with open_container(path, budget) as container:
        stream = video_stream(container)
        if stream is None:
            return 0
        for number, packet in enumerate(read_packets(container, stream, clock=clock)):
            if packet.pts is None or not packet.size:
                continue
            if packet_s(packet, container) > start_s + FAR_S:
                break
            if packet.is_keyframe and packet_s(packet, container) <= start_s:
                skipped = number
    return skipped


def lead_ins(start_s: float, clock: Clock = RIGHT) -> list[float | None]:
    """How many seconds before a stretch to begin, in order of trial; None: at the file's start."""
    if clock is not RIGHT:
        return [None]
    return [early_s for early_s in (NEAR_S, FAR_S) if start_s > early_s] + [None]


def go_to(container: InputContainer, at_s: float) -> bool:
    """Seek to a second of the file's time line, or before. Whether that can be done."""
    names = set(container.format.name.split(","))
    if not SEEKABLE & names or (BY_RATE & names and not has_right_rate(container)):
        return False
    try:
        container.seek(round((at_s + origin_s(container)) * MICROSECONDS))
    except (av.FFmpegError, OSError, ValueError):
        return False
    return True


def has_right_rate(container: InputContainer) -> bool:
    """Whether a WAV has plain samples, and as many bytes a second of them as its header says."""
    stream = audio_stream(container)
    if stream is None or not stream.codec_context.name.startswith("pcm_"):
        return False
    codec = stream.codec_context
    bits = int("".join(filter(str.isdigit, codec.name)) or COMPANDED_BITS)
    return codec.bit_rate in (None, 0, codec.sample_rate * codec.layout.nb_channels * bits)


def read_timed_pictures(
    container: InputContainer,
    stream: av.VideoStream,
    packets: Iterable[av.Packet[Any]],
    budget: Budget,
    settings: av.Packet[Any] | None = None,
) -> Iterator[tuple[av.VideoFrame, float]]:
    """Every picture of a stream's packets that decodes, and its second; these ascend. `settings` is
    a packet from before, of which the picture is not wanted.

    AVI and ASF have decoding times only: the n-th picture shown gets the n-th of them.
    """
    colours = read_told_colours(stream)
    decoder = make_decoder(stream)
    assert isinstance(decoder, av.VideoCodecContext)
    with suppress(av.FFmpegError, ValueError, RuntimeError):
        decoder.thread_count = DECODER_THREADS
    if settings is not None:
        with suppress(av.FFmpegError, ValueError):
            decoder.decode(settings)
        decoder.flush_buffers()
    zero_s = origin_s(container)
    step_s = 1.0 / frame_rate(stream)
    base = float(stream.time_base or 0)
    by_order = container.format.name in UNTIMED
    decoded_at: list[int] = []
    last: av.VideoFrame | None = None
    last_s = -step_s
    for packet in packets:
        if by_order and packet.dts is not None:
            heapq.heappush(decoded_at, packet.dts)
        try:
            if packet.size or (packet.pts is None and packet.dts is None):
                frames = decoder.decode(packet)
            else:
                frames = [last] if last else []
        except (av.FFmpegError, ValueError):
            continue
        for frame in frames:
            check_size(frame, budget)
            colours.complete(frame)
            if by_order and decoded_at:
                now_s = heapq.heappop(decoded_at) * base - zero_s
            elif frame is last and packet.pts is not None:
                now_s = packet.pts * base - zero_s
            else:
                now_s = last_s + step_s if frame.time is None else frame.time - zero_s
            if last is not None and now_s <= last_s:
                now_s = last_s + 0.001
            yield frame, now_s
            last = frame
            last_s = now_s


class SoundForm(NamedTuple):
    """How samples are wanted: FFmpeg's name of a packed sample format, a layout, a rate."""

    format: str
    layout: str
    rate: int

    @property
    def channels(self) -> int:
        return int(av.AudioLayout(self.layout).nb_channels)


Samples = NDArray[Any]  # [samples, channels]
DTYPES: dict[str, type[np.generic]] = {"s16": np.int16, "s32": np.int32, "flt": np.float32}


def read_sound(
    path: Path,
    start_s: float,
    end_s: float,
    form: SoundForm,
    budget: Budget,
    clock: Clock = RIGHT,
) -> Iterator[Samples]:
    """The sound of a stretch in pieces [samples, channels], round((end_s - start_s) * rate) samples
    in all, placed by the file's clock. Where the file has no sound, there is silence.

    Raises:
        NotMedia, TooLong, BeyondBudget: see `open_container`.
        Damaged: it cannot be resampled.
    """
    line = SoundLine(round((end_s - start_s) * form.rate), form)
    links = find_ogg_links(path)
    if len(links) > 1:
        at_s = -start_s
        for link in links:
            with open_container(path, budget, link) as container:
                stream = audio_stream(container)
                if stream is None:
                    continue
                packets = read_packets(container, stream)
                yield from line.add(make_decoder(stream), packets, at_s, timed=False)
            at_s = line.end_s
    else:
        for early_s in lead_ins(start_s, clock):
            with open_container(path, budget) as container:
                stream = audio_stream(container)
                if stream is None:
                    break
                if early_s is not None and not go_to(container, start_s - early_s):
                    continue
                packets = read_packets(container, stream, clock=clock)
                first = next(packets, None)
                ended = first is None or not first.size  # as pictures were sought that come later
                late = first is not None and packet_s(first, container) > start_s
                if early_s is not None and (ended or late):
                    continue
                shift_s = -start_s - origin_s(container)
                started = packets if first is None else chain([first], packets)
                yield from line.add(make_decoder(stream), started, shift_s)
                break
    yield from line.rest()


def packet_s(packet: av.Packet[Any], container: InputContainer) -> float:
    """When a packet is shown or heard, in seconds of the file's time line; 0 if it does not say."""
    now_s = clock_s(packet)
    return 0.0 if now_s is None else now_s - origin_s(container)


def clock_s(packet: av.Packet[Any]) -> float | None:
    """When a packet is shown or heard by its container's clock, in seconds."""
    if packet.pts is None or packet.time_base is None:
        return None
    return float(packet.pts * packet.time_base)


class SoundLine:
    """Puts decoded sound where its timestamps say: silence into holes, and of what overlaps, the
    first. `samples` is the stretch's length.
    """

    def __init__(self, samples: int, form: SoundForm) -> None:
        self._samples = samples
        self._form = form
        self._given = 0  # samples of the stretch that have been given
        self._next = 0  # where the next piece lies
        self._in_order = 0  # where the next frame lies if it follows the one before

    @property
    def end_s(self) -> float:
        """Where what was added ends, in seconds of the stretch; it may lie before the stretch."""
        return self._next / self._form.rate

    def add(
        self,
        decoder: av.AudioCodecContext | av.VideoCodecContext,
        packets: Iterable[av.Packet[Any]],
        shift_s: float,
        *,
        timed: bool = True,
    ) -> Iterator[Samples]:
        """Decode a stream. Its times plus `shift_s` are those of the stretch; if it is not `timed`,
        it begins at `shift_s`, and its frames follow one another.
        """
        rate = self._form.rate
        resampler: Resampler | None = None
        known: tuple[str, str, int] | None = None
        for packet in packets:
            # decoders need only what lies shortly before
            if timed and (now_s := clock_s(packet)) is not None and now_s + shift_s < -NEAR_S:
                continue
            try:
                frames = decoder.decode(packet)
            except (av.FFmpegError, ValueError):
                continue
            for frame in frames:
                assert isinstance(frame, av.AudioFrame)
                at = round(shift_s * rate) if known is None else self._in_order
                if timed and frame.time is not None:
                    at = round((frame.time + shift_s) * rate)
                jumps = known is None or abs(at - self._in_order) > HOLE_S * rate
                now = (frame.format.name, frame.layout.name, frame.sample_rate)
                if resampler is None or now != known or jumps:
                    if resampler is not None:
                        yield from self._place(resampler(None))
                    resampler = Resampler(self._form)
                    known = now
                if jumps:
                    self._next = self._in_order = at
                self._in_order += round(frame.samples * rate / frame.sample_rate)
                yield from self._place(resampler(frame))
                if self._given >= self._samples:
                    return
        if resampler is not None:
            yield from self._place(resampler(None))

    def _place(self, pieces: list[Samples]) -> Iterator[Samples]:
        for piece in pieces:
            at, self._next = self._next, self._next + len(piece)
            yield from self._silence(min(at, self._samples))
            fresh = piece[max(self._given - at, 0) :][: self._samples - self._given]
            if len(fresh):
                self._given += len(fresh)
                yield fresh

    def _silence(self, up_to: int) -> Iterator[Samples]:
        while self._given < up_to:
            count = min(up_to - self._given, self._form.rate)
            self._given += count
            yield np.zeros((count, self._form.channels), DTYPES[self._form.format])

    def rest(self) -> Iterator[Samples]:
        """Silence up to the stretch's end."""
        yield from self._silence(self._samples)


class Resampler:
    """Frames of one format to `form`."""

    def __init__(self, form: SoundForm) -> None:
        self._form = form
        self._mixer = Mixer(form.format, form.layout, form.rate)

    def __call__(self, frame: av.AudioFrame | None) -> list[Samples]:
        """Add a frame, or None at the end. Returns what is ready, [samples, channels] each. Raises
        Damaged.
        """
        try:
            if frame is not None:
                frame.pts = None
            return [self._samples(out) for out in self._mixer(frame)]
        except (av.FFmpegError, ValueError, MemoryError) as error:
            raise Damaged(f"its audio cannot be resampled ({describe_fault(error)})") from error

    def _samples(self, frame: av.AudioFrame) -> Samples:
        samples: Samples = frame.to_ndarray().reshape(-1, self._form.channels)
        if self._form.format == "flt":
            return np.clip(silence_invalid_samples(samples), -1.0, 1.0)
        return samples


def to_frame(samples: Samples, form: SoundForm, at: int) -> av.AudioFrame:
    """Samples [samples, channels] as a frame that begins at sample `at`."""
    packed = np.ascontiguousarray(samples).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(packed, format=form.format, layout=form.layout)
    frame.sample_rate = form.rate
    frame.pts = at
    frame.time_base = Fraction(1, form.rate)
    return frame
