"""Makes of a stretch of a file what other programs play: a version for browsers, or an exact clip.

A version for browsers holds the second that is asked for, and more. Pictures that browsers can
decode are copied (see `remux`). All others become VP9, and sound Opus, in WebM.

A clip is always encoded, so that it begins and ends exactly where it is asked to. A clip of a sound
is FLAC.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import av
from av.container import OutputContainer

from .animations import animation_format
from .clock import RIGHT, Clock
from .containers import ARCHIVE_BUDGET, Budget, audio_stream, open_container, video_stream
from .cut import SoundForm, find_clock, read_pictures, read_sound
from .decode import frame_rate
from .encode import Quality, Timed, encode_pictures, encode_sound
from .errors import BadMedia, BadStretch, BeyondBudget, Damaged, MissingModality, TooLong
from .remux import CopyPlan, copy_packets, find_keyframe, plan_copy

FILM = "video/webm"
SOUND = "audio/webm"
FLAC = "audio/flac"
FOR_BROWSERS = Quality(longest=1280, speed=8, crf=36)
FOR_CLIPS = Quality(longest=1920, speed=6, crf=26)
# What is encoded for browsers at once: as many seconds as have so many pixels, within limits.
PIXELS_AT_ONCE = 600_000_000
LEAST_S = 5.0
MOST_S = 60.0
SOUND_S = 600.0  # of a sound alone
ANIMATED_S = 20.0  # of an animated picture, whose pictures are decoded from the first one on
OPUS_RATE = 48_000  # samples a second
FLAC_RATES = range(8_000, 192_001)
FLAC_CHANNELS = 8
SIXTEEN_BITS = {"u8", "u8p", "s16", "s16p"}  # sample formats that lose nothing in 16 bits
TOLERANCE_S = 0.1  # a clip may be asked to end so much after its item
SUFFIXES = {FILM: ".webm", SOUND: ".webm", FLAC: ".flac", "video/mp4": ".mp4"}
BITEXACT = {"fflags": "+bitexact"}  # the same stretch gives the same file


@dataclass(frozen=True)
class Order:
    """What is made, of at most `max_bytes`, if that is given. Of a clip, [start_s, end_s) is the
    stretch. Of a version for browsers `start_s` is a second that it holds, and the item ends at
    `end_s`.

    `pictures` says whether the item has any.
    """

    start_s: float
    end_s: float
    _: KW_ONLY
    clip: bool
    pictures: bool
    max_bytes: int = sys.maxsize
    budget: Budget = ARCHIVE_BUDGET

    def limited_to(self, max_bytes: int) -> Order:
        """The same, in a file of at most so many bytes."""
        return replace(self, max_bytes=min(self.max_bytes, max_bytes))


@dataclass(frozen=True)
class Made:
    """What was made: the stretch that it holds, and its media type."""

    start_s: float
    end_s: float
    media_type: str


@dataclass(frozen=True)
class Plan:
    """How a file is converted. `form` is that of its sound, `length_s` what is encoded at once, and
    `clock` what its times are by. Packets are copied only where they have the right times.
    """

    pictures: bool
    form: SoundForm | None
    length_s: float
    copy: CopyPlan | None
    clock: Clock


def clip_order(
    start_s: float,
    end_s: float,
    *,
    duration_s: float,
    pictures: bool,
    longest_s: float,
) -> Order:
    """The order of a clip of an item.

    Raises:
        BadStretch: the item has no such stretch.
        TooLong: it has more than `longest_s` seconds.
    """
    if not 0.0 <= start_s < min(end_s, duration_s) or end_s > duration_s + TOLERANCE_S:
        raise BadStretch(start_s, end_s, duration_s)
    end_s = min(end_s, duration_s)
    if end_s - start_s > longest_s:
        raise TooLong(round(end_s - start_s, 3), longest_s)
    return Order(start_s, end_s, clip=True, pictures=pictures)


def clip_name(filename: str, order: Order) -> str:
    """The name of a clip's file, by that of its item.

    >>> clip_name("a.mov", Order(12.0, 17.25, clip=True, pictures=True))
    'a_12-17.25s.webm'
    """
    stretch = "-".join(f"{round(second, 3):g}" for second in (order.start_s, order.end_s))
    suffix = SUFFIXES[FILM if order.pictures else FLAC]
    return f"{PurePosixPath(filename).stem}_{stretch}s{suffix}"


def convert(path: Path, out: BinaryIO, order: Order) -> Made:
    """Write what is ordered to an empty file.

    Raises:
        NotMedia, TooLong: see `open_container`.
        MissingModality: the file has neither pictures nor sound.
        Damaged: nothing of the stretch decodes.
        BeyondBudget: too much is decoded, or what is made has more than `max_bytes`.
        OSError: it cannot be written.
    """
    plan = make_plan(path, order)
    if plan.copy is not None:
        try:
            return copy_film(path, out, order, plan.copy, plan.form)
        except (av.FFmpegError, BadMedia, ValueError):
            out.seek(0)
            out.truncate()
    stretch = order.start_s, order.end_s
    if not order.clip:
        stretch = choose_stretch(order.start_s, order.end_s, plan.length_s)
    return encode(path, out, order, plan, stretch)


def make_plan(path: Path, order: Order) -> Plan:
    if animation_format(path) is not None:
        return Plan(pictures=True, form=None, length_s=ANIMATED_S, copy=None, clock=RIGHT)
    clock = find_clock(path, order.budget)
    may_copy = not order.clip and clock is RIGHT
    with open_container(path, order.budget) as container:
        film = video_stream(container) if order.pictures else None
        sound = audio_stream(container)
        if film is None and sound is None:
            raise MissingModality("video or audio")
        lossless = order.clip and film is None
        return Plan(
            pictures=film is not None,
            form=None if sound is None else sound_form(sound, lossless),
            length_s=SOUND_S if film is None else seconds_at_once(film),
            copy=plan_copy(path, container, film, sound) if film and may_copy else None,
            clock=clock,
        )


def sound_form(stream: av.AudioStream, lossless: bool) -> SoundForm:
    """What a stream is brought to: for Opus, mono or stereo; `lossless`, as it is, if FLAC can hold
    that.
    """
    codec = stream.codec_context
    channels = codec.layout.nb_channels
    if not lossless:
        return SoundForm("flt", "mono" if channels == 1 else "stereo", OPUS_RATE)
    bits = "s16" if codec.format is not None and codec.format.name in SIXTEEN_BITS else "s32"
    layout = codec.layout.name if channels <= FLAC_CHANNELS else "stereo"
    return SoundForm(bits, layout, codec.rate if codec.rate in FLAC_RATES else OPUS_RATE)


def seconds_at_once(stream: av.VideoStream) -> float:
    pixels_s = stream.width * stream.height * max(frame_rate(stream), 1.0)
    return min(max(PIXELS_AT_ONCE / max(pixels_s, 1.0), LEAST_S), MOST_S)


def choose_stretch(at_s: float, end_s: float, length_s: float) -> tuple[float, float]:
    """What is made for a second of an item of `end_s` seconds: all of a short item, else `length_s`
    from there on.

    >>> choose_stretch(8.0, 20.0, 60.0), choose_stretch(8.0, 200.0, 60.0)
    ((0.0, 20.0), (8.0, 68.0))
    """
    return (0.0, end_s) if end_s <= length_s else (at_s, min(at_s + length_s, end_s))


def encode(
    path: Path, out: BinaryIO, order: Order, plan: Plan, stretch: tuple[float, float]
) -> Made:
    start_s, end_s = stretch
    form = plan.form
    budget = order.budget
    lossless = form is not None and form.format != "flt"
    with av.open(out, "w", "flac" if lossless else "webm", options=BITEXACT) as made:
        packets: list[Timed] = []
        if plan.pictures:
            pictures = read_pictures(path, start_s, end_s, budget, plan.clock)
            quality = FOR_CLIPS if order.clip else FOR_BROWSERS
            packets.append(encode_pictures(made, pictures, end_s - start_s, quality))
        if form is not None:
            pieces = read_sound(path, start_s, end_s, form, budget, plan.clock)
            packets.append(encode_sound(made, pieces, end_s - start_s, form))
        if not made.streams:
            raise Damaged("it has no picture in this stretch, and no sound")
        write(made, packets, out, order.max_bytes)
    return Made(start_s, end_s, FLAC if lossless else FILM if plan.pictures else SOUND)


def copy_film(
    path: Path, out: BinaryIO, order: Order, plan: CopyPlan, form: SoundForm | None
) -> Made:
    """Raises Damaged."""
    start_s, end_s = choose_stretch(order.start_s, order.end_s, plan.length_s)
    if start_s:
        start_s = find_keyframe(path, start_s, order.budget)
    stretch = start_s, end_s
    with av.open(out, "w", plan.fit.container, options=BITEXACT) as made:
        packets = [copy_packets(made, path, "video", stretch, order.budget)]
        if plan.with_sound:
            packets.append(copy_packets(made, path, "audio", stretch, order.budget))
        elif form is not None:
            pieces = read_sound(path, start_s, end_s, form, order.budget)
            packets.append(encode_sound(made, pieces, end_s - start_s, form))
        write(made, packets, out, order.max_bytes)
    return Made(start_s, end_s, plan.fit.media_type)


def write(made: OutputContainer, packets: Sequence[Timed], out: BinaryIO, max_bytes: int) -> None:
    """Write the packets of all streams in order, and the container's end. Raises BeyondBudget."""
    for _, packet in heapq.merge(*packets, key=lambda timed: timed[0]):
        made.mux(packet)
        check_bytes(out, max_bytes)
    made.close()
    check_bytes(out, max_bytes)


def check_bytes(out: BinaryIO, max_bytes: int) -> None:
    if out.tell() > max_bytes:
        raise BeyondBudget("bytes in what is made of it", out.tell(), max_bytes)
