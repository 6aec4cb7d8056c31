"""A file to frames and a waveform, under a budget.

Headers lie: every limit is checked on what is decoded, not on what is announced. Damage in the middle of a stream
costs the damaged part only; what decodes is kept.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.stream import Discard, Disposition
from numpy.typing import NDArray

from .audio import clean
from .errors import BeyondBudget, Damaged, NotMedia, TooLong
from .preview import picture
from .video import VideoSpec, square

# A demuxer outside this list is never tried: playlists and concat scripts would open other files.
# fmt: off
MEDIA = frozenset((
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".3gp", ".flv",
    ".wmv", ".asf", ".ogv", ".gif", ".mxf", ".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac",
    ".wma", ".aiff", ".aif", ".au", ".caf", ".ac3", ".eac3", ".dts", ".mka", ".wv", ".tta", ".w64", ".amr",
))
# fmt: on
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,ogg,flac,mp3,wav,aiff,aac,flv,asf,gif,apng,"
    "ac3,eac3,dts,truehd,w64,caf,au,wv,tta,amr,rm,mxf,ivf,h264,hevc,obu,m4v"
)
TIMED = {"mp4", "matroska", "mpegts"}  # containers that say when each packet is shown
MICROSECONDS = 1_000_000  # FFmpeg's AV_TIME_BASE
GAP_S = 0.05  # a stream that starts later than this after its file is padded
RESAMPLED = 32_768  # samples of each channel at once


@dataclass(frozen=True)
class Budget:
    """How much may be decoded from one file."""

    seconds: float = 600.0
    frames: int = 36_000
    frame_pixels: int = 8192 * 8192
    samples: int = 600 * 48_000 * 8
    streams: int = 64


@contextmanager
def opened(path: Path, budget: Budget) -> Iterator[InputContainer]:
    """The container at `path`, its announced length and number of streams within the budget.

    Raises:
        NotMedia: no listed demuxer takes it.
        TooLong, BeyondBudget: it announces more than the budget allows.
    """
    try:
        # "file:" keeps a name such as "-x.mp4" or "a:b.mp4" from being read as a protocol.
        container = av.open(
            f"file:{path}",
            container_options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"},
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise NotMedia(reason(error)) from error
    with container:
        if len(container.streams) > budget.streams:
            raise BeyondBudget("streams", len(container.streams), budget.streams)
        announced = (container.duration or 0) / MICROSECONDS
        if announced > budget.seconds:
            raise TooLong(round(announced, 1), budget.seconds)
        yield container


def reason(error: Exception) -> str:
    """FFmpeg's words for a fault, without the path of the file."""
    return getattr(error, "strerror", None) or type(error).__name__


def video_stream(container: InputContainer) -> av.VideoStream | None:
    """The first stream that is moving pictures: cover art is not video."""
    for stream in container.streams.video:
        if getattr(stream, "codec_context", None) is None or stream.disposition & Disposition.attached_pic:
            continue
        return stream
    return None


def audio_stream(container: InputContainer) -> av.AudioStream | None:
    for stream in container.streams.audio:
        if getattr(stream, "codec_context", None) is not None:
            return stream
    return None


def packets_of(container: InputContainer, stream: av.VideoStream | av.AudioStream) -> Iterator[av.Packet[Any]]:
    """Packets of one stream; where the container has them apart, those of others are not even read."""
    for other in container.streams:
        other.discard = Discard.default if other is stream else Discard.all
    return container.demux(stream)


def decoded(
    container: InputContainer, stream: av.VideoStream | av.AudioStream
) -> Iterator[av.VideoFrame | av.AudioFrame]:
    """Frames of one stream, skipping packets that do not decode and ending at the first fault of the container."""
    stream.codec_context.thread_count = 1
    packets = packets_of(container, stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError):
            return
        if packet is None:
            return
        try:
            frames = packet.decode()
        except (av.FFmpegError, ValueError):
            continue
        yield from (frame for frame in frames if isinstance(frame, av.VideoFrame | av.AudioFrame))


def origin_s(container: InputContainer) -> float:
    """When the file's own clock starts: a broadcast capture may start at 10,000 s."""
    return (container.start_time or 0) / MICROSECONDS


def read_waveform(path: Path, sample_rate: int, budget: Budget) -> NDArray[np.float32] | None:
    """The file's sound as mono float32 [samples] in [-1, 1] at `sample_rate`; None where it has none.

    Raises:
        NotMedia, TooLong, BeyondBudget: see `opened`.
        Damaged: it has an audio stream of which nothing decodes.
    """
    with opened(path, budget) as container:
        stream = audio_stream(container)
        if stream is None:
            return None
        pieces: list[NDArray[np.float32]] = []
        layout, raw_samples, total = None, 0, 0
        resampler: Resampler | None = None

        def keep(frame: av.AudioFrame | None) -> None:
            nonlocal total
            assert resampler is not None
            pieces.extend(new := resampler(frame))
            total += sum(map(len, new))
            if total > budget.seconds * sample_rate:
                raise TooLong(round(total / sample_rate, 1), budget.seconds)

        for frame in decoded(container, stream):
            assert isinstance(frame, av.AudioFrame)
            if layout is None and frame.time is not None:
                late = frame.time - origin_s(container)
                if GAP_S < late < budget.seconds:
                    pieces.append(np.zeros(round(late * sample_rate), np.float32))
            raw_samples += frame.samples * len(frame.layout.channels)
            if raw_samples > budget.samples:
                raise BeyondBudget("samples", raw_samples, budget.samples)
            if layout != (now := (frame.format.name, frame.layout.name, frame.sample_rate)):
                if resampler is not None:
                    keep(None)
                resampler, layout = Resampler(sample_rate), now
            frame.pts = None
            keep(frame)
        if resampler is not None:
            keep(None)
        if layout is None:
            raise Damaged("the audio stream holds no samples")
        if not any(map(len, pieces)):
            pieces = [np.zeros(1, np.float32)]  # less than one sample at our rate
        return np.concatenate(pieces)


class Resampler:
    """Frames of one format to mono at a rate, many at once: a call of FFmpeg's costs more than a frame's samples."""

    def __init__(self, sample_rate: int) -> None:
        self._waiting = av.AudioFifo()
        self._resampler = av.AudioResampler("flt", "mono", sample_rate, frame_size=sample_rate)

    def __call__(self, frame: av.AudioFrame | None) -> list[NDArray[np.float32]]:
        """What a frame completes, float32 [samples] each; at the end (None) the rest. Raises Damaged."""
        try:
            if frame is not None:
                self._waiting.write(frame)
            whole = self._waiting.read_many(RESAMPLED, partial=frame is None)
            ready = [out for piece in whole for out in self._resampler.resample(piece)]
            if frame is None:
                ready += self._resampler.resample(None)
            return [clean(out.to_ndarray()[0]) for out in ready]
        except (av.FFmpegError, ValueError, MemoryError) as error:
            raise Damaged(f"its audio cannot be resampled ({reason(error)})") from error


def announced_video_s(path: Path, budget: Budget) -> float | None:
    """How long the header says that the pictures last, in seconds from the file's start; None without pictures."""
    with opened(path, budget) as container:
        stream = video_stream(container)
        if stream is None:
            return None
        own = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
        return min(own or (container.duration or 0) / MICROSECONDS, budget.seconds)


Frames = tuple[NDArray[np.uint8], float, dict[float, bytes]]


def read_frames(
    path: Path, times_s: Sequence[float], spec: VideoSpec, budget: Budget, shown_s: Collection[float] = ()
) -> Frames:
    """For each of the ascending `times_s`, the frame on screen then: uint8 [times, size, size, 3].

    Also returns the second at which the last frame of the file ends, and a JPEG for each of `shown_s`, which are among
    the times. A time before the first frame gets the first, one after the last gets the last.

    Frames that neither are asked for nor help to decode others are not decoded, where packets tell their times.

    Raises:
        NotMedia, TooLong, BeyondBudget: see `opened`.
        Damaged: no frame decodes.
    """
    found = read_few_frames(path, times_s, spec, budget, shown_s)
    return found if found is not None else read_every_frame(path, times_s, spec, budget, shown_s)


def read_few_frames(
    path: Path, times_s: Sequence[float], spec: VideoSpec, budget: Budget, shown_s: Collection[float]
) -> Frames | None:
    """The same by skipping frames that others do not refer to; None where the packets do not tell or one is damaged."""
    with opened(path, budget) as container:
        stream = video_stream(container)
        packets = packet_times(container, stream, budget) if stream is not None else []
        if stream is None or not packets or not times_s:
            return None
        base, zero_s = stream.time_base or Fraction(0), origin_s(container)
        # rounded as the times of frames are, so that a time between two frames falls to the same one
        starts = [pts * base.numerator / base.denominator - zero_s for pts, _ in packets]
        last_s = float(packets[-1][1] * base) or 1.0 / (float(stream.average_rate or 0) or 25.0)
        end_s = max(starts[-1], 0.0) + last_s
        if starts[-1] > budget.seconds:
            raise TooLong(round(starts[-1], 1), budget.seconds)
        wanted = [packets[max(bisect_right(starts, t) - 1, 0)][0] for t in times_s]
    shown = {pts for pts, t in zip(wanted, times_s, strict=True) if t in shown_s}
    frames: dict[int, NDArray[np.uint8]] = {}
    jpegs: dict[int, bytes | None] = {}
    with opened(path, budget) as container:
        stream = video_stream(container)
        assert stream is not None
        missing, codec = set(wanted), stream.codec_context
        codec.thread_count = 1
        try:
            for packet in packets_of(container, stream):
                codec.skip_frame = "DEFAULT" if packet.pts in missing or packet.pts is None else "NONREF"
                for frame in packet.decode():
                    assert isinstance(frame, av.VideoFrame)
                    if frame.width * frame.height > budget.frame_pixels:
                        raise BeyondBudget("pixels in a frame", frame.width * frame.height, budget.frame_pixels)
                    if frame.pts in missing:
                        frames[frame.pts] = squared(frame, spec)
                        if frame.pts in shown:
                            jpegs[frame.pts] = picture(frame)
                        missing.discard(frame.pts)
                if not missing:
                    asked = [(t, jpegs[pts]) for t, pts in zip(times_s, wanted, strict=True) if t in shown_s]
                    seen = {t: made for t, made in asked if made is not None}
                    return np.stack([frames[pts] for pts in wanted]), end_s, seen
        except (av.FFmpegError, OSError, ValueError):
            return None
    return None


def packet_times(container: InputContainer, stream: av.VideoStream, budget: Budget) -> list[tuple[int, int]]:
    """(start, duration) of every packet of a stream in its time base, ascending; empty where one does not tell, or the
    container is of a kind that guesses.
    """
    found: list[tuple[int, int]] = []
    if not TIMED & set(container.format.name.split(",")):
        return found
    try:
        for packet in packets_of(container, stream):
            if packet.size:  # the last one only says that there are no more
                if packet.pts is None or packet.is_corrupt or len(found) > budget.frames:
                    return []
                found.append((packet.pts, packet.duration or 0))
    except (av.FFmpegError, OSError):
        return []
    return sorted(found)


def read_every_frame(
    path: Path, times_s: Sequence[float], spec: VideoSpec, budget: Budget, shown_s: Collection[float]
) -> Frames:
    """See `read_frames`."""
    with opened(path, budget) as container:
        stream = video_stream(container)
        if stream is None:
            raise Damaged("no video stream")
        chosen: list[NDArray[np.uint8]] = []
        jpegs: dict[float, bytes] = {}
        rate = float(stream.average_rate or 0) or 25.0
        shown: av.VideoFrame | None = None
        last_s = 0.0

        def choose(frame: av.VideoFrame, times: Sequence[float]) -> None:
            chosen.extend([squared(frame, spec)] * len(times))
            if (asked := [t for t in times if t in shown_s]) and (made := picture(frame)):
                jpegs.update(dict.fromkeys(asked, made))

        for count, frame in enumerate(decoded(container, stream), 1):
            assert isinstance(frame, av.VideoFrame)
            if count > budget.frames:
                raise BeyondBudget("frames", count, budget.frames)
            if frame.width * frame.height > budget.frame_pixels:
                raise BeyondBudget("pixels in a frame", frame.width * frame.height, budget.frame_pixels)
            now_s = frame.time - origin_s(container) if frame.time is not None else (count - 1) / rate
            if now_s > budget.seconds:
                raise TooLong(round(now_s, 1), budget.seconds)
            if shown is not None and (due := times_s[len(chosen) : bisect_left(times_s, now_s)]):
                choose(shown, due)
            shown, last_s = frame, now_s
        if shown is None:
            raise Damaged("no frame decodes")
        if len(chosen) < len(times_s):
            choose(shown, times_s[len(chosen) :])
        return np.stack(chosen), max(last_s, 0.0) + frame_s(shown, rate), jpegs


def frame_s(frame: av.VideoFrame, rate: float) -> float:
    """How long a frame stays on screen, in seconds, by its own word or else by the stream's rate."""
    if frame.duration and frame.time_base:
        return float(frame.duration * frame.time_base)
    return 1.0 / rate


def squared(frame: av.VideoFrame, spec: VideoSpec) -> NDArray[np.uint8]:
    try:
        return square(frame, spec)
    except (av.FFmpegError, ValueError, MemoryError) as error:
        raise Damaged(f"its frames cannot be scaled ({reason(error)})") from error
