"""A file opened under a budget: which container it is, which of its streams are read, their
packets.

Headers lie: every limit is checked on what is decoded, not on what is announced. Damage in the
middle of a stream costs the damaged part only; what decodes is kept.
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

# A demuxer outside this list is never tried: playlists and concat scripts would open other files.
# fmt: off
MEDIA = frozenset((
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg",
    ".3gp", ".flv", ".wmv", ".asf", ".ogv", ".gif", ".mxf", ".wav", ".flac", ".mp3", ".ogg",
    ".oga", ".opus", ".m4a", ".aac", ".wma", ".aiff", ".aif", ".au", ".caf", ".ac3", ".eac3",
    ".dts", ".mka", ".wv", ".tta", ".w64", ".amr", ".ape", ".mpc", ".dsf", ".dff",
))
# fmt: on
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,ogg,flac,mp3,wav,aiff,aac,flv,asf,gif,apng,"
    "ac3,eac3,dts,truehd,w64,caf,au,wv,tta,amr,rm,mxf,ivf,h264,hevc,obu,m4v,ape,mpc,mpc8,dsf,iff"
)
# their length is guessed from the rate of their first packets
GUESSED = {"mp3", "aac", "ac3", "eac3", "dts", "mpeg"}
MICROSECONDS = 1_000_000  # FFmpeg's AV_TIME_BASE


@dataclass(frozen=True)
class Budget:
    """How much may be decoded from one file: seconds, frames, pixels of a frame, samples (those of
    all channels together), and streams.
    """

    seconds: float = 600.0
    frames: int = 36_000
    frame_pixels: int = 8192 * 8192
    samples: int = 600 * 48_000 * 8
    streams: int = 64


# For files that the owner of the service has chosen: two hours of eight channels.
ARCHIVE_BUDGET = Budget(seconds=2 * 3600.0, frames=2 * 3600 * 60, samples=2 * 3600 * 48_000 * 8)


@contextmanager
def open_container(
    path: Path, budget: Budget, span: Span | None = None
) -> Iterator[InputContainer]:
    """The container at `path`, or in a span of its bytes; its announced length and number of
    streams within the budget.

    Raises:
        NotMedia: no listed demuxer takes it.
        TooLong, BeyondBudget: it announces more than the budget allows.
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
    """FFmpeg's words for a fault, without the path of the file."""
    return getattr(error, "strerror", None) or type(error).__name__


def video_stream(container: InputContainer) -> av.VideoStream | None:
    """The moving pictures that players choose: cover art and the tiles of a photo are not video.

    Raises:
        NotMedia: it is a photo in tiles.
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
    """The sound that players choose."""
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
    """What decodes a stream, on one thread. FFmpeg's own decoders of VP8 and VP9 leave transparency
    out; libvpx's, which take twice as long, do not.
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
    """Packets of one stream; where the container has them apart, those of others are not even read.
    Ends at the first fault of the container.
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
    """When the file's own clock starts: a broadcast capture may start at 10,000 s."""
    return (container.start_time or 0) / MICROSECONDS
