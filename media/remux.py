"""Copies pictures that browsers can decode into a container that they can open, as they are.

Their sound is copied along if it fits. What cannot be copied raises Damaged, and is then encoded
(see `convert`).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.container import InputContainer, OutputContainer

from .containers import (
    MICROSECONDS,
    Budget,
    audio_stream,
    open_container,
    origin_s,
    read_packets,
    video_stream,
)
from .cut import go_to, lead_ins, packet_s
from .encode import Timed
from .errors import Damaged

# containers whose packets say when they are shown, by FFmpeg's names
TIMED = {"mov", "matroska", "mpegts", "flv"}
HEAD_BYTES = 4096  # the start of a Matroska file, in which WebM names itself
WEBM = b"webm"
UNKNOWN_MOST = 32  # packets at the start whose decoding time is not known
UNFIT = "its packets cannot be copied"
COPIED_BYTES = 48_000_000  # at once, about
COPIED_S = 600.0  # at once, at most


class Fit(NamedTuple):
    """Where pictures of a codec are copied to: FFmpeg's name of the container, its media type, the
    pixels that browsers show, and the codecs of sound that are copied along.
    """

    container: str
    media_type: str
    pixels: frozenset[str]
    sounds: frozenset[str]


EIGHT_BITS = frozenset(("yuv420p", "yuvj420p"))
MP4_SOUNDS = frozenset(("aac", "opus", "flac"))
WEBM_SOUNDS = frozenset(("opus", "vorbis"))
FITS = {
    "h264": Fit("mp4", "video/mp4", EIGHT_BITS, MP4_SOUNDS),
    "vp8": Fit("webm", "video/webm", EIGHT_BITS, WEBM_SOUNDS),
    "vp9": Fit("webm", "video/webm", EIGHT_BITS, WEBM_SOUNDS),
    "av1": Fit("webm", "video/webm", EIGHT_BITS | {"yuv420p10le"}, WEBM_SOUNDS),
}


class CopyPlan(NamedTuple):
    """How a film is copied: where to, whether its sound is, too, and how many seconds at once."""

    fit: Fit
    with_sound: bool
    length_s: float


def plan_copy(
    path: Path, container: InputContainer, film: av.VideoStream, sound: av.AudioStream | None
) -> CopyPlan | None:
    """How to copy a film; None where browsers do not know its codec, or where the copy would be
    what the file is.
    """
    names = set(container.format.name.split(","))
    fit = FITS.get(codec_name(film))
    if fit is None or film.codec_context.pix_fmt not in fit.pixels or not names & TIMED:
        return None
    fits = sound is not None and codec_name(sound) in fit.sounds
    if (fits or sound is None) and is_native(path, names):
        return None
    whole_s = max((container.duration or 0) / MICROSECONDS, 1.0)
    length_s = COPIED_BYTES * whole_s / path.stat().st_size
    return CopyPlan(fit, fits, min(length_s, COPIED_S))


def codec_name(stream: av.VideoStream | av.AudioStream) -> str:
    """FFmpeg's name of a codec, whichever decoder it has."""
    return str(stream.codec_context.codec.canonical_name)


def is_native(path: Path, names: set[str]) -> bool:
    """Whether a file is MP4 or WebM, which browsers open."""
    if "matroska" not in names:
        return "mov" in names
    with path.open("rb") as file:
        return WEBM in file.read(HEAD_BYTES)


def find_keyframe(path: Path, at_s: float, budget: Budget) -> float:
    """The second of a keyframe at or before another second, not far from it. Raises Damaged."""
    for early_s in lead_ins(at_s):
        with open_container(path, budget) as container:
            stream = video_stream(container)
            if stream is None or (early_s is not None and not go_to(container, at_s - early_s)):
                continue
            found = -1.0
            for packet in read_packets(container, stream):
                if packet.pts is None or not packet.size:
                    continue
                now_s = packet_s(packet, container)
                if now_s > at_s:
                    break
                if packet.is_keyframe:
                    found = now_s
            if found >= 0.0:
                return found
    raise Damaged(UNFIT)


def copy_packets(
    made: OutputContainer, path: Path, modality: str, stretch: tuple[float, float], budget: Budget
) -> Timed:
    """Add a stream like that of a file, "video" or "audio", and copy the packets of a stretch for
    it. Pictures begin with a keyframe at the stretch's start, or a little before.
    """
    with open_container(path, budget) as container:
        template = choose_stream(container, modality)
        added = made.add_stream_from_template(template)
    return copied_packets(added, path, modality, stretch, budget)


def choose_stream(container: InputContainer, modality: str) -> av.VideoStream | av.AudioStream:
    stream = video_stream(container) if modality == "video" else audio_stream(container)
    if stream is None:
        raise Damaged(UNFIT)
    return stream


def copied_packets(
    added: Any, path: Path, modality: str, stretch: tuple[float, float], budget: Budget
) -> Timed:
    start_s, end_s = stretch
    for early_s in lead_ins(start_s):
        with open_container(path, budget) as container:
            stream = choose_stream(container, modality)
            if early_s is not None and not go_to(container, start_s - early_s):
                continue
            packets = read_packets(container, stream)
            first = next(packets, None)
            if first is None or (early_s is not None and packet_s(first, container) > start_s):
                continue
            shift_s = start_s + origin_s(container)
            for decoded_s, packet in shifted(chain([first], packets), shift_s):
                if decoded_s >= end_s - start_s:
                    break
                packet.stream = added
                yield decoded_s, packet
            return
    raise Damaged(UNFIT)


def shifted(packets: Iterator[av.Packet[Any]], shift_s: float) -> Timed:
    """Packets with times from `shift_s` on, which becomes 0. Raises Damaged where they do not
    say when they are shown and decoded, and where an edit list hides some that others need.
    """
    last: int | None = None
    for packet in with_decoding_times(packet for packet in packets if packet.size):
        if packet.pts is None or packet.dts is None or not packet.time_base or packet.is_discard:
            raise Damaged(UNFIT)
        shift = round(shift_s / float(packet.time_base))
        if packet.pts < shift:
            continue
        if last is not None and packet.dts <= last:  # a clock that was set back
            raise Damaged(UNFIT)
        last = packet.dts
        packet.pts -= shift
        packet.dts -= shift
        yield float(packet.dts * packet.time_base), packet


def with_decoding_times(packets: Iterator[av.Packet[Any]]) -> Iterator[av.Packet[Any]]:
    """Packets; the first of Matroska, which has no decoding times, get those that lead up to what
    FFmpeg has found out by later ones.
    """
    first: list[av.Packet[Any]] = []
    for packet in packets:
        first.append(packet)
        if packet.dts is not None:
            break
        if len(first) > UNKNOWN_MOST:
            raise Damaged(UNFIT)
    for after, packet in pairwise(reversed(first)):
        if after.dts is not None:
            packet.dts = after.dts - max(packet.duration or 0, 1)
    yield from first
    yield from packets
