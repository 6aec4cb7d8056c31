"""Opens files within a budget: the containers allowed, the streams that are read, their packets.

Headers can be wrong, so limits are also checked on what is decoded. If a stream is damaged in the
middle, everything that decodes is kept.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.stream import Discard, Disposition

from .clock import RIGHT, UNKNOWN, Clock, Track, compute_clock
from .errors import BeyondBudget, NotMedia, TooLong
from .hardware import make_accelerator
from .repair import PatchedFile, Span, open_repaired

# No other demuxer is tried: playlists and concat scripts would open other files.
# fmt: off
MEDIA = frozenset((
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg",
    ".3gp", ".flv", ".wmv", ".asf", ".ogv", ".gif", ".mxf", ".wav", ".flac", ".mp3", ".ogg",
    ".oga", ".opus", ".m4a", ".aac", ".wma", ".aiff", ".aif", ".au", ".caf", ".ac3", ".eac3",
    ".dts", ".mka", ".wv", ".tta", ".w64", ".amr", ".ape", ".mpc", ".dsf", ".dff", ".png", ".apng",
    ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".heic", ".heif",
    ".vob", ".m4b", ".3g2", ".weba", ".f4v", ".mp2", ".m2v", ".m1v", ".mpv", ".mpe", ".divx", ".rm",
    ".rmvb", ".ogm", ".ogx", ".aifc", ".spx", ".mk3d", ".qt", ".insv", ".lrv",
    ".dv", ".mlp", ".thd", ".h264", ".264", ".h265", ".265", ".hevc", ".ivf", ".obu",
    ".nut", ".y4m", ".gxf", ".wtv", ".voc", ".sph", ".nist", ".sox",
))
# fmt: on
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,ogg,flac,mp3,wav,aiff,aac,flv,asf,gif,apng,"
    "ac3,eac3,dts,truehd,mlp,dv,loas,w64,caf,au,wv,tta,amr,rm,mxf,ivf,h264,hevc,obu,m4v,ape,mpc,mpc8,dsf,iff,"
    "nut,yuv4mpegpipe,gxf,wtv,voc,nistsphere,sox"
)
# Bare sound has no times; those that FFmpeg gives it are wrong once its rate changes.
# FFmpeg estimates the length of these from the bit rate of their first packets
BARE = {"mp3", "aac", "loas", "ac3", "eac3", "dts"}
GUESSED = {*BARE, "mpeg"}
# Formats whose headers do not tell which streams follow. If sound or pictures are missing in what
# FFmpeg reads at once (5 MB), it is to read further.
UNTOLD_STREAMS = {"mpeg"}
FURTHER = {"probesize": str(2**26), "analyzeduration": "120000000"}  # bytes, microseconds
PACKET_MOST_S = 10.0  # of a packet's length, which may be a lie, to tell a file's
COVER = Disposition.attached_pic
SIDE_TRACKS = (
    Disposition.comment
    | Disposition.hearing_impaired
    | Disposition.visual_impaired
    | Disposition.karaoke
)
# containers that tell when pictures are decoded; FFmpeg guesses when they are shown
UNTIMED = {"avi", "asf", "gxf"}
BITMAP = "\0\0\0\0"  # the tag of a codec: Windows' BI_RGB
TS_DISCONT = 0x200  # FFmpeg's AVFMT_TS_DISCONT
MICROSECONDS = 1_000_000  # FFmpeg's AV_TIME_BASE
COLUMNS = "qqqqbbb"  # of a stream's packets: four numbers and three marks, see `make_track`


@dataclass(frozen=True)
class Budget:
    """The most that is decoded from one file. `samples` counts those of all channels together,
    `frame_pixels` is for one frame.
    """

    seconds: float = 600.0
    frames: int = 36_000
    frame_pixels: int = 8192 * 8192
    samples: int = 600 * 48_000 * 8
    streams: int = 64


# For files of the service's owner: of any length where they are read part by part, and two hours
# of eight channels where they are held as a whole.
ARCHIVE_BUDGET = Budget(seconds=math.inf, frames=sys.maxsize, samples=sys.maxsize)
WHOLE_BUDGET = Budget(seconds=2 * 3600.0, frames=2 * 3600 * 60, samples=2 * 3600 * 48_000 * 8)


@contextmanager
def open_container(
    path: Path, budget: Budget, span: Span | None = None, device: str | None = None
) -> Iterator[InputContainer]:
    """Open the container at `path`, or the one in a span of its bytes. With a `device`, pictures
    are decoded by that, or it is not opened: see `hardware`.

    Raises:
        NotMedia: none of the demuxers reads it.
        TooLong: its header has a length beyond the budget, and so have its packets.
        BeyondBudget: its header has a number of streams of sound and pictures beyond the budget.
    """
    with open_unchecked(path, span, device) as container:
        pictures = [s for s in container.streams.video if not s.disposition & COVER]
        streams = len(container.streams.audio) + len(pictures)
        if streams > budget.streams:
            raise BeyondBudget("streams", streams, budget.streams)
        announced_s = (container.duration or 0) / MICROSECONDS
        guessed = container.format.name in GUESSED
        if announced_s > budget.seconds and not guessed and is_longer(path, budget.seconds, span):
            raise TooLong(round(announced_s, 1), budget.seconds)
        yield container


@contextmanager
def open_unchecked(
    path: Path, span: Span | None, device: str | None = None
) -> Iterator[InputContainer]:
    """`open_container` without the budget."""
    with open_repaired(path, span) as file:
        container = open_by_ffmpeg(path, file, device, {})
        if container.format.name in UNTOLD_STREAMS and lacks_streams(container):
            container.close()
            container = open_by_ffmpeg(path, file, device, FURTHER)
        with container:
            yield container


def open_by_ffmpeg(
    path: Path, file: PatchedFile | None, device: str | None, options: dict[str, str]
) -> InputContainer:
    """Open a file, or what is to be read in its place, with further options of FFmpeg."""
    only = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        # "file:" keeps a name such as "-x.mp4" or "a:b.mp4" from being read as a protocol.
        return av.open(
            file or f"file:{path}",
            "r",
            container_options=only | options,
            metadata_errors="replace",
            hwaccel=make_accelerator(device),
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise NotMedia(describe_refusal(path, error)) from error
    except RuntimeError as error:  # of a device that does not decode what is there
        raise NotMedia(str(error)) from error


def lacks_streams(container: InputContainer) -> bool:
    """Whether no sound, or no pictures, have been found."""
    return not (container.streams.audio and container.streams.video)


def describe_refusal(path: Path, error: Exception) -> str:
    """Why a file cannot be opened, without its path."""
    if isinstance(error, av.ArgumentError):  # what FFmpeg says of a format outside the whitelist
        return "its container is none of those that are read, or broken"
    empty = path.is_file() and path.stat().st_size == 0
    return "it is empty" if empty else describe_fault(error)


def is_longer(path: Path, limit_s: float, span: Span | None) -> bool:
    """Whether the packets of its pictures, or those of its sound, together last longer."""
    lasted: dict[int, float] = {}
    with open_unchecked(path, span) as container:
        found = [video_stream(container), audio_stream(container)]
        streams = [stream for stream in found if stream is not None]
        for packet in read_packets(container, *streams):
            index = packet.stream.index
            seconds = float((packet.duration or 0) * (packet.time_base or 0))
            if not packet.is_discard:
                lasted[index] = lasted.get(index, 0.0) + min(seconds, PACKET_MOST_S)
            if lasted.get(index, 0.0) > limit_s:
                return True
    return False


def describe_fault(error: Exception) -> str:
    """FFmpeg's message for an error, without the path of the file."""
    return getattr(error, "strerror", None) or type(error).__name__


def video_stream(container: InputContainer) -> av.VideoStream | None:
    """The video stream that players choose. Cover art and the tiles of a photo are not video.

    Raises:
        NotMedia: it is a photo in tiles (HEIC, AVIF).
    """
    playable = [
        stream
        for stream in container.streams.video
        if getattr(stream, "codec_context", None) is not None
    ]
    films = [s for s in playable if not s.disposition & (COVER | Disposition.dependent)]
    tiles = [s for s in playable if s.disposition & Disposition.dependent]
    if tiles and not any(film.frames > 1 for film in films):
        raise NotMedia("a photo in tiles, as HEIC and AVIF keep them")
    best = container.streams.best("video")
    return best if best in films else next(iter(films), None)


def audio_streams(container: InputContainer) -> list[av.AudioStream]:
    """The audio streams, in the order in which players choose them: the default one, the first one.
    Those for people who hear or see badly and comments come last, and behind them those of other
    programmes of a broadcast.
    """
    playable = [
        stream
        for stream in container.streams.audio
        if getattr(stream, "codec_context", None) is not None
    ]
    others = other_programmes(container, playable)
    return sorted(
        playable,
        key=lambda stream: (
            stream.index in others,
            bool(stream.disposition & SIDE_TRACKS),
            not stream.disposition & Disposition.default,
        ),
    )


def other_programmes(container: InputContainer, sounds: Sequence[av.AudioStream]) -> set[int]:
    """The indexes of sounds in other programmes than the pictures. FFmpeg is asked for the best
    sound of each one's programme: it is the same for all of a programme.
    """
    pictures = container.streams.best("video")
    if pictures is None or len(sounds) < 2:
        return set()
    own = container.streams.best("audio", related=pictures)
    return {
        sound.index for sound in sounds if container.streams.best("audio", related=sound) is not own
    }


def audio_stream(container: InputContainer) -> av.AudioStream | None:
    """The audio stream that players choose first; None where there is none."""
    return next(iter(audio_streams(container)), None)


def has_unknown_codec(path: Path, budget: Budget, kinds: Sequence[str]) -> bool:
    """Whether a file has a stream of one of these kinds that no decoder knows."""
    with open_container(path, budget) as container:
        return any(
            stream.type in kinds and getattr(stream, "codec_context", None) is None
            for stream in container.streams
        )


def make_decoder(
    stream: av.VideoStream | av.AudioStream,
) -> av.VideoCodecContext | av.AudioCodecContext:
    """The decoder of a stream, on one thread.

    FFmpeg's own decoders of VP8 and VP9 ignore transparency. Transparent streams therefore get
    libvpx's decoders, which take twice as long. FFmpeg takes the fourth byte of a pixel in a bitmap
    (AVI) for transparency, which Windows defines as unused; many programmes write 0.
    """
    codec: Any = stream.codec_context
    tags = {name.lower(): value for name, value in stream.metadata.items()}
    if tags.get("alpha_mode") == "1" and codec.name in ("vp8", "vp9"):
        extradata = codec.extradata
        codec = av.CodecContext.create("libvpx" if codec.name == "vp8" else "libvpx-vp9", "r")
        codec.extradata = extradata
    if codec.name == "rawvideo" and codec.pix_fmt == "bgra" and codec.codec_tag == BITMAP:
        codec.pix_fmt = "bgr0"
    codec.thread_count = 1
    return codec  # type: ignore[no-any-return]


def read_packets(
    container: InputContainer, *streams: av.VideoStream | av.AudioStream, clock: Clock = RIGHT
) -> Iterator[av.Packet[Any]]:
    """Packets of some streams with the times of `clock`, up to the first fault of the container.
    Other streams are not read, where the container allows that.

    In a broadcast streams may begin that were not there when it was opened. At its end, PyAV 18.1
    looks for them in a list that is too short, and may raise IndexError; the decoders of `streams`
    have been told of the end before.
    """
    if not streams:
        return
    wanted = {stream.index for stream in streams}
    for other in container.streams:
        other.discard = Discard.default if other.index in wanted else Discard.all
    packets = container.demux(streams)
    count = dict.fromkeys(wanted, 0)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError, IndexError):
            return
        if packet is None:
            return
        clock.set_times(packet, count[packet.stream.index])
        count[packet.stream.index] += 1
        yield packet


def read_tracks(
    container: InputContainer, streams: Sequence[av.VideoStream | av.AudioStream]
) -> list[Track]:
    """The times of the packets of each of `streams`."""
    columns = {stream.index: make_columns() for stream in streams}
    for order, packet in enumerate(read_packets(container, *streams)):
        pts = UNKNOWN if packet.pts is None else packet.pts
        dts = UNKNOWN if packet.dts is None else packet.dts
        # a packet without data but with a time repeats the last picture; edit lists cut some off,
        # and the mark at the end of a stream shows none
        shown = not packet.is_discard and (packet.size > 0 or packet.pts is not None)
        marks = (shown, packet.is_keyframe, packet.is_corrupt)
        row = (order, pts, dts, packet.duration or 0, *marks)
        for column, value in zip(columns[packet.stream.index], row, strict=True):
            column.append(value)
    return [make_track(stream, columns[stream.index]) for stream in streams]


def make_columns() -> list[array[int]]:
    return [array(kind) for kind in COLUMNS]


def make_track(stream: av.VideoStream | av.AudioStream, columns: list[array[int]]) -> Track:
    """A stream's packets: the order, pts, dts and duration of each, and whether it is shown, a
    keyframe, corrupt. The columns are not copied: ten hours have a million packets.
    """
    codec = stream.codec_context
    order, pts, dts, duration = (np.frombuffer(column, np.int64) for column in columns[:4])
    shown, key, corrupt = (np.frombuffer(column, np.bool_) for column in columns[4:])
    return Track(
        index=stream.index,
        base=stream.time_base or Fraction(1),
        order=order,
        pts=pts,
        dts=dts,
        duration=duration,
        shown=shown,
        key=key,
        corrupt=corrupt,
        pictures=stream.type == "video",
        reorders=isinstance(codec, av.VideoCodecContext) and bool(codec.has_b_frames),
    )


def may_restart(container: InputContainer) -> bool:
    """Whether the format's clock may restart anywhere, as in broadcasts."""
    return bool(container.format.flags & TS_DISCONT)


def read_clock(path: Path, budget: Budget, span: Span | None = None, number: int = 0) -> Clock:
    """The clock of a file's pictures and of its audio track of that number."""
    with open_container(path, budget, span) as container:
        return compute_clock(
            read_tracks(container, played_streams(container, number)),
            may_restart(container),
            budget.seconds,
        )


def played_streams(
    container: InputContainer, number: int = 0
) -> list[av.VideoStream | av.AudioStream]:
    """The video stream and the audio stream of that number, as far as there are such."""
    found = [video_stream(container), *audio_streams(container)[number : number + 1]]
    return [stream for stream in found if stream is not None]


def origin_s(container: InputContainer) -> float:
    """Where the file's clock starts, in seconds: a broadcast recording may start at 10,000 s."""
    return (container.start_time or 0) / MICROSECONDS
