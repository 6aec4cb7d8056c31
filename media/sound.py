"""Decodes a file's sound into one waveform, placed by its times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from .audio import limit_to_full_scale
from .clock import BACK_DISCONTINUOUS_S, BACK_S, DOUBT_S, HOLD_S, RIGHT, Clock
from .containers import (
    BARE,
    Budget,
    audio_streams,
    make_decoder,
    may_restart,
    open_container,
    origin_s,
    read_clock,
    read_packets,
)
from .errors import BeyondBudget, Damaged, TooLong
from .mono import MonoResampler
from .repair import Span, find_ogg_links

LATE_S = 0.05  # a sound that starts later than this in its file gets silence in front
# Sound that comes earlier or later than this is placed anew, as FFmpeg's aresample does it.
APART_S = 0.1
SILENCE_AT_ONCE = 2**20  # samples


@dataclass(frozen=True)
class Stretch:
    """An audio track to be read, of a file or of a span of it. `clock` is that of its packets; None
    where its frames' own times are right.
    """

    span: Span | None
    number: int
    clock: Clock | None


@dataclass(frozen=True)
class SoundSurvey:
    """What reading a file's sound once has shown: how many samples it has, and the holes in it that
    are longer than HOLD_S, as (start_s + HOLD_S, end_s). The `stretches` tell how it is read again.
    """

    sample_rate: int
    samples: int
    holes: list[tuple[float, float]]
    stretches: list[Stretch]

    @property
    def duration_s(self) -> float:
        return self.samples / self.sample_rate


@dataclass(frozen=True)
class Sound:
    """A file's sound, mono float32 [samples] in [-1, 1], and the holes in it that are longer than
    HOLD_S, as (start_s + HOLD_S, end_s).
    """

    waveform: NDArray[np.float32]
    holes: list[tuple[float, float]] = field(default_factory=list)


def read_waveform(path: Path, sample_rate: int, budget: Budget) -> NDArray[np.float32] | None:
    """`read_sound`'s waveform."""
    sound = read_sound(path, sample_rate, budget)
    return None if sound is None else sound.waveform


def read_sound(
    path: Path, sample_rate: int, budget: Budget, clock: Clock | None = None
) -> Sound | None:
    """The file's sound as mono at `sample_rate`, placed by its times; None where it has none.

    It is mixed to mono as `ffmpeg -ac 1` does. A file that goes beyond full scale is turned down as
    a whole. If a track holds nothing, the next one is read. `clock` is what `survey` found, if it
    was asked before.

    Raises:
        NotMedia, TooLong, BeyondBudget: see `open_container`.
        Damaged: it has an audio stream, but nothing of it decodes.
    """
    kept = Kept()
    found = survey_sound(path, sample_rate, budget, clock, kept)
    if found is None:
        return None
    return Sound(limit_to_full_scale(np.concatenate(kept.pieces)), found.holes)


class Sink(Protocol):
    """What a sound is given to, piece by piece."""

    def add(self, piece: NDArray[np.float32]) -> None: ...

    def mark(self) -> tuple[int, ...]:
        """Where it is now."""
        ...

    def reset(self, mark: tuple[int, ...]) -> None:
        """Forget what came since the mark."""
        ...


class Kept:
    """Keeps all pieces."""

    def __init__(self) -> None:
        self.pieces: list[NDArray[np.float32]] = []

    def add(self, piece: NDArray[np.float32]) -> None:
        self.pieces.append(piece)

    def mark(self) -> tuple[int, ...]:
        return (len(self.pieces),)

    def reset(self, mark: tuple[int, ...]) -> None:
        del self.pieces[mark[0] :]


def survey_sound(
    path: Path, sample_rate: int, budget: Budget, clock: Clock | None, sink: Sink
) -> SoundSurvey | None:
    """Read a file's sound, as `read_sound` does, into a sink. It is not turned down.

    Raises:
        NotMedia, TooLong, BeyondBudget: see `open_container`.
        Damaged: it has an audio stream, but nothing of it decodes.
    """
    tracks = 1
    number = 0
    fault = Damaged("the audio stream holds no samples")
    begin = sink.mark()
    while number < tracks:
        sound = SoundReader(sample_rate, budget)
        stretches: list[Stretch] = []
        sink.reset(begin)
        try:
            for span in find_ogg_links(path):
                count, stretch = survey_link(path, Stretch(span, number, clock), sound, sink)
                tracks = max(tracks, count)
                stretches += [stretch] if count > number else []
            if not stretches:
                return None
            if not sound.decoded_samples:
                raise fault
            if not sound.samples:  # less than one sample at our rate
                sink.add(np.zeros(1, np.float32))
            return SoundSurvey(sample_rate, max(sound.samples, 1), sound.holes, stretches)
        except Damaged as error:
            fault = fault if number else error
        number = number + 1
        clock = None
    raise fault


def survey_link(
    path: Path, stretch: Stretch, sound: SoundReader, sink: Sink
) -> tuple[int, Stretch]:
    """Read an audio track into a sink. Returns how many there are, and the stretch with its clock.

    Where its times are in doubt, all packets are asked for them.
    """
    span = stretch.span
    number = stretch.number
    clock = stretch.clock
    begin = sink.mark()
    mark = sound.mark()
    with open_container(path, sound.budget, span) as container:
        streams = audio_streams(container)
        if number >= len(streams):
            return len(streams), stretch
        if clock is None:
            for piece in sound.read(container, streams[number], None):
                sink.add(piece)
            if not sound.in_doubt:
                return len(streams), stretch
            sound.reset(mark)
            sink.reset(begin)
    if clock is None:
        stretch = replace(stretch, clock=read_clock(path, sound.budget, span, number))
    for piece in read_stretch(path, stretch, sound):
        sink.add(piece)
    return len(streams), stretch


def read_stretch(path: Path, stretch: Stretch, sound: SoundReader) -> Iterator[NDArray[np.float32]]:
    """The pieces of an audio track whose clock is known."""
    with open_container(path, sound.budget, stretch.span) as container:
        stream = audio_streams(container)[stretch.number]
        yield from sound.read(container, stream, stretch.clock or RIGHT)


def read_again(path: Path, survey: SoundSurvey, budget: Budget) -> Iterator[NDArray[np.float32]]:
    """The pieces of a sound that was surveyed; it is not turned down."""
    sound = SoundReader(survey.sample_rate, budget)
    for stretch in survey.stretches:
        yield from read_stretch(path, stretch, sound)


class Place:
    """Where the next frame of a sound belongs, `next_s`, in seconds of the waveform."""

    def __init__(self, container: InputContainer, began_s: float) -> None:
        self.next_s = began_s
        self._zero_s = origin_s(container) - began_s
        self._first = True
        self._bare = container.format.name in BARE
        self._rate = 0

    def measure_late(self, frame: av.AudioFrame) -> float:
        """By how many seconds a frame comes too late, or too early (below 0). It is 0 if the frame
        follows the one before, or has no time.
        """
        first = self._first
        self._first = False
        self._rate = self._rate or frame.sample_rate
        if self._bare and frame.sample_rate != self._rate:
            self._rate = -1  # from now on times are wrong
        if frame.time is None or self._rate < 0:
            return 0.0
        late_s = float(frame.time - self._zero_s - self.next_s)
        return 0.0 if -APART_S < late_s < (LATE_S if first else APART_S) else late_s


class SoundReader:
    """Decodes audio streams one after the other into pieces of one waveform."""

    def __init__(self, sample_rate: int, budget: Budget) -> None:
        self._sample_rate = sample_rate
        self.budget = budget
        self.holes: list[tuple[float, float]] = []
        self.decoded_samples = 0
        self.samples = 0
        self._dropped = 0
        self.in_doubt = False  # whether the stream that was read last has times that are far off

    def mark(self) -> tuple[int, int, int]:
        """Where it is now, for `reset`."""
        return len(self.holes), self.decoded_samples, self.samples

    def reset(self, mark: tuple[int, int, int]) -> None:
        """Forget what was read since the mark."""
        holes, self.decoded_samples, self.samples = mark
        del self.holes[holes:]

    def read(
        self, container: InputContainer, stream: av.AudioStream, clock: Clock | None
    ) -> Iterator[NDArray[np.float32]]:
        """The pieces of a stream, with holes in its times as silence. What comes a second time is
        left out. It ends early, `in_doubt`, if it has no `clock` and its times are far off.

        Raises:
            Damaged, TooLong, BeyondBudget: what is wrong with it.
        """
        self._dropped = 0
        self.in_doubt = False
        layout = None
        resampler = None
        back_s = BACK_DISCONTINUOUS_S if may_restart(container) else BACK_S
        place = Place(container, self.samples / self._sample_rate)
        for frame in decode_frames(container, stream, clock or RIGHT):
            assert isinstance(frame, av.AudioFrame)
            self.decoded_samples += frame.samples * len(frame.layout.channels)
            if self.decoded_samples > self.budget.samples:
                raise BeyondBudget("samples", self.decoded_samples, self.budget.samples)
            late_s = place.measure_late(frame)
            if clock is None and not -back_s < late_s < DOUBT_S:
                self.in_doubt = True
                return
            now = (frame.format.name, frame.layout.name, frame.sample_rate)
            if layout != now or late_s:
                if resampler is not None:
                    yield from self._keep(resampler(None))
                resampler = MonoResampler(self._sample_rate)
                layout = now
            if late_s:
                place.next_s += late_s
                yield from self._move(place.next_s)
            place.next_s += frame.samples / frame.sample_rate
            assert resampler is not None
            frame.pts = None
            yield from self._keep(resampler(frame))
        if resampler is not None:
            yield from self._keep(resampler(None))

    def _move(self, to_s: float) -> Iterator[NDArray[np.float32]]:
        """Go on at another second of the waveform."""
        silent = round(to_s * self._sample_rate) - self.samples
        self._dropped = max(-silent, 0)
        if silent <= 0:
            return
        self._check(self.samples + silent)
        from_s = self.samples / self._sample_rate + HOLD_S
        if from_s < to_s:
            self.holes.append((from_s, to_s))
        while silent > 0:  # piece by piece: a hole may last for hours
            piece = np.zeros(min(silent, SILENCE_AT_ONCE), np.float32)
            silent -= len(piece)
            yield from self._keep([piece])

    def _keep(self, pieces: list[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        for piece in pieces:
            kept = piece[self._dropped :]
            self._dropped -= len(piece) - len(kept)
            self.samples += len(kept)
            self._check(self.samples)
            if len(kept):
                yield kept

    def _check(self, samples: int) -> None:
        if samples > self.budget.seconds * self._sample_rate:
            raise TooLong(round(samples / self._sample_rate, 1), self.budget.seconds)


def decode_frames(
    container: InputContainer, stream: av.VideoStream | av.AudioStream, clock: Clock
) -> Iterator[av.VideoFrame | av.AudioFrame]:
    """Frames of one stream. Packets that do not decode are skipped; a fault of the container ends
    it.
    """
    decoder = make_decoder(stream)
    for packet in read_packets(container, stream, clock=clock):
        try:
            frames = decoder.decode(packet)
        except (av.FFmpegError, ValueError):
            continue
        yield from frames
