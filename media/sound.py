"""Decodes a file's sound into one waveform, placed by its times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

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
    tracks, fault = 1, Damaged("the audio stream holds no samples")
    number = 0
    while number < tracks:
        sound = SoundReader(sample_rate, budget)
        try:
            for span in find_ogg_links(path):
                tracks = max(tracks, read_link(path, span, sound, number, clock))
            return sound.finish()
        except Damaged as error:
            fault = fault if number else error
        number, clock = number + 1, None
    raise fault


def read_link(
    path: Path, span: Span | None, sound: SoundReader, number: int, clock: Clock | None
) -> int:
    """Add an audio track of a file, or of a span of it, to `sound`. Returns how many there are.

    Where its times are in doubt, all packets are asked for them.
    """
    budget = sound.budget
    mark = sound.mark()
    with open_container(path, budget, span) as container:
        streams = audio_streams(container)
        if number >= len(streams):
            return len(streams)
        if clock is None:
            if sound.add(container, streams[number], None):
                return len(streams)
            sound.reset(mark)
    if clock is None:
        clock = read_clock(path, budget, span, number)
    with open_container(path, budget, span) as container:
        sound.add(container, audio_streams(container)[number], clock)
    return len(streams)


class Place:
    """Where the next frame of a sound belongs, `next_s`, in seconds of the waveform."""

    def __init__(self, container: InputContainer, began_s: float) -> None:
        self.next_s = began_s
        self._zero_s = origin_s(container) - began_s
        self._first = True
        self._bare, self._rate = container.format.name in BARE, 0

    def measure_late(self, frame: av.AudioFrame) -> float:
        """By how many seconds a frame comes too late, or too early (below 0). It is 0 if the frame
        follows the one before, or has no time.
        """
        first, self._first = self._first, False
        self._rate = self._rate or frame.sample_rate
        if self._bare and frame.sample_rate != self._rate:
            self._rate = -1  # from now on times are wrong
        if frame.time is None or self._rate < 0:
            return 0.0
        late_s = float(frame.time - self._zero_s - self.next_s)
        return 0.0 if -APART_S < late_s < (LATE_S if first else APART_S) else late_s


class SoundReader:
    """Decodes audio streams one after the other into one waveform."""

    def __init__(self, sample_rate: int, budget: Budget) -> None:
        self._sample_rate, self.budget = sample_rate, budget
        self._pieces: list[NDArray[np.float32]] = []
        self._holes: list[tuple[float, float]] = []
        self._streams, self._decoded_samples, self._samples, self._dropped = 0, 0, 0, 0

    def mark(self) -> tuple[int, ...]:
        """Where it is now, for `reset`."""
        return (
            len(self._pieces),
            len(self._holes),
            self._streams,
            self._decoded_samples,
            self._samples,
        )

    def reset(self, mark: tuple[int, ...]) -> None:
        """Forget what was added since the mark."""
        pieces, holes, self._streams, self._decoded_samples, self._samples = mark
        del self._pieces[pieces:], self._holes[holes:]

    def add(self, container: InputContainer, stream: av.AudioStream, clock: Clock | None) -> bool:
        """Append a stream, with holes in its times as silence. What comes a second time is left
        out. False if it has no `clock` and its times are far off.

        Raises:
            Damaged, TooLong, BeyondBudget: what is wrong with it.
        """
        self._streams += 1
        self._dropped = 0
        layout, resampler = None, None
        back_s = BACK_DISCONTINUOUS_S if may_restart(container) else BACK_S
        place = Place(container, self._samples / self._sample_rate)
        for frame in decode_frames(container, stream, clock or RIGHT):
            assert isinstance(frame, av.AudioFrame)
            self._decoded_samples += frame.samples * len(frame.layout.channels)
            if self._decoded_samples > self.budget.samples:
                raise BeyondBudget("samples", self._decoded_samples, self.budget.samples)
            late_s = place.measure_late(frame)
            if clock is None and not -back_s < late_s < DOUBT_S:
                return False
            now = (frame.format.name, frame.layout.name, frame.sample_rate)
            if layout != now or late_s:
                if resampler is not None:
                    self._keep(resampler(None))
                resampler, layout = MonoResampler(self._sample_rate), now
            if late_s:
                place.next_s += late_s
                self._move(place.next_s)
            place.next_s += frame.samples / frame.sample_rate
            assert resampler is not None
            frame.pts = None
            self._keep(resampler(frame))
        if resampler is not None:
            self._keep(resampler(None))
        return True

    def _move(self, to_s: float) -> None:
        """Go on at another second of the waveform."""
        silent = round(to_s * self._sample_rate) - self._samples
        self._dropped = max(-silent, 0)
        if silent <= 0:
            return
        self._check(self._samples + silent)
        from_s = self._samples / self._sample_rate + HOLD_S
        if from_s < to_s:
            self._holes.append((from_s, to_s))
        self._keep([np.zeros(silent, np.float32)])

    def _keep(self, pieces: list[NDArray[np.float32]]) -> None:
        for piece in pieces:
            kept = piece[self._dropped :]
            self._dropped -= len(piece) - len(kept)
            self._pieces.append(kept)
            self._samples += len(kept)
        self._check(self._samples)

    def _check(self, samples: int) -> None:
        if samples > self.budget.seconds * self._sample_rate:
            raise TooLong(round(samples / self._sample_rate, 1), self.budget.seconds)

    def finish(self) -> Sound | None:
        """All that was added; None if no stream was added.

        Raises:
            Damaged: nothing of the streams decoded.
        """
        if not self._streams:
            return None
        if not self._decoded_samples:
            raise Damaged("the audio stream holds no samples")
        if not self._samples:
            return Sound(np.zeros(1, np.float32))  # less than one sample at our rate
        return Sound(limit_to_full_scale(np.concatenate(self._pieces)), self._holes)


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
