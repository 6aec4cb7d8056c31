"""Opens files within a budget: the containers allowed, the streams that are read, their packets.

Headers can be wrong, so limits are also checked on what is decoded. If a stream is damaged in the
middle, everything that decodes is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.stream import Discard, Disposition

from .errors import BeyondBudget, NotMedia, TooLong
from .repair import Span, open_repaired

# No other demuxer is tried: playlists and concat scripts would open other files.
# fmt: off
MEDIA = frozenset((
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg",
    ".3gp", ".flv", ".wmv", ".asf", ".ogv", ".gif", ".mxf", ".wav", ".flac", ".mp3", ".ogg",
    ".oga", ".opus", ".m4a", ".aac", ".wma", ".aiff", ".aif", ".au", ".caf", ".ac3", ".eac3",
    ".dts", ".mka", ".wv", ".tta", ".w64", ".amr", ".ape", ".mpc", ".dsf", ".dff", ".png", ".apng",
    ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".heic", ".heif",
))
# fmt: on
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,ogg,flac,mp3,wav,aiff,aac,flv,asf,gif,apng,"
    "ac3,eac3,dts,truehd,w64,caf,au,wv,tta,amr,rm,mxf,ivf,h264,hevc,obu,m4v,ape,mpc,mpc8,dsf,iff"
)
# FFmpeg estimates the length of these from the bit rate of their first packets
GUESSED = {"mp3", "aac", "ac3", "eac3", "dts", "mpeg"}
MICROSECONDS = 1_000_000  # FFmpeg's AV_TIME_BASE


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


# For files that the service's owner imports: two hours, eight channels.
ARCHIVE_BUDGET = Budget(seconds=2 * 3600.0, frames=2 * 3600 * 60, samples=2 * 3600 * 48_000 * 8)


@contextmanager
def open_container(
    path: Path, budget: Budget, span: Span | None = None
) -> Iterator[InputContainer]:
    """Open the container at `path`, or the one in a span of its bytes.

    Raises:
        NotMedia: none of the demuxers reads it.
        TooLong, BeyondBudget: its header has a length or a number of streams beyond the budget.
    """
    with open_repaired(path, span) as file:
        try:
            # "file:" keeps a name such as "-x.mp4" or "a:b.mp4" from being read as a protocol.
            container = av.open(
                file or f"file:{path}",
                "r",
                container_options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"},
                metadata_errors="replace",
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            raise NotMedia(describe_fault(error)) from error
        with container:
            if len(container.streams) > budget.streams:
                raise BeyondBudget("streams", len(container.streams), budget.streams)
            announced = (container.duration or 0) / MICROSECONDS
            if announced > budget.seconds and container.format.name not in GUESSED:
                raise TooLong(round(announced, 1), budget.seconds)
            yield container


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
    films = [
        s
        for s in playable
        if not s.disposition & (Disposition.attached_pic | Disposition.dependent)
    ]
    tiles = [s for s in playable if s.disposition & Disposition.dependent]
    if tiles and not any(film.frames > 1 for film in films):
        raise NotMedia("a photo in tiles, as HEIC and AVIF keep them")
    best = container.streams.best("video")
    return best if best in films else next(iter(films), None)


def audio_stream(container: InputContainer) -> av.AudioStream | None:
    """The audio stream that players choose."""
    playable = [
        stream
        for stream in container.streams.audio
        if getattr(stream, "codec_context", None) is not None
    ]
    best = container.streams.best("audio")
    return best if best in playable else next(iter(playable), None)


def make_decoder(
    stream: av.VideoStream | av.AudioStream,
) -> av.VideoCodecContext | av.AudioCodecContext:
    """The decoder of a stream, on one thread.

    FFmpeg's own decoders of VP8 and VP9 ignore transparency. Transparent streams therefore get
    libvpx's decoders, which take twice as long.
    """
    codec: Any = stream.codec_context
    tags = {name.lower(): value for name, value in stream.metadata.items()}
    if tags.get("alpha_mode") == "1" and codec.name in ("vp8", "vp9"):
        extradata = codec.extradata
        codec = av.CodecContext.create("libvpx" if codec.name == "vp8" else "libvpx-vp9", "r")
        codec.extradata = extradata
    codec.thread_count = 1
    return codec  # type: ignore[no-any-return]


def read_packets(
    container: InputContainer, stream: av.VideoStream | av.AudioStream
) -> Iterator[av.Packet[Any]]:
    """Packets of one stream, up to the first fault of the container. Other streams are not read,
    where the container allows that.
    """
    for other in container.streams:
        other.discard = Discard.default if other is stream else Discard.all
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError):
            return
        if packet is None:
            return
        yield packet


def origin_s(container: InputContainer) -> float:
    """Where the file's clock starts, in seconds: a broadcast recording may start at 10,000 s."""
    return (container.start_time or 0) / MICROSECONDS
