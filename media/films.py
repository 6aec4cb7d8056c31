"""Long files, decoded part by part: memory does not grow with their length.

A file is surveyed first: the times of its pictures, from its packets, and its sound, which is
decoded once and dropped. Then its windows are known. The parts are decoded one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .animations import animation_format
from .audio import cut_window, is_silent, limit_to_full_scale
from .clock import RIGHT
from .decode import (
    End,
    FrameRequest,
    Picture,
    PictureTimes,
    read_every_frame,
    read_few_frames,
    read_picture_times,
)
from .decode_words import add_words
from .errors import Damaged
from .modality import AUDIO, VIDEO
from .pictures import read_still
from .preview import Levels
from .sound import Kept, Sound, SoundSurvey, read_again, survey_sound
from .video import is_plain
from .windows import (
    DecodeOptions,
    Media,
    Part,
    choose_times,
    decode_media,
    decode_surveyed,
    plan_filled,
)

WHOLE_S = 600.0  # of a file that is best decoded as a whole
PART = 32  # windows


@dataclass(frozen=True)
class Survey:
    """What is known of a long file before its windows are decoded: the times of its pictures and
    how its sound is read again, as far as it has them; the sound's loudest sample, and its peaks
    (see `compute_peaks`); and its windows.
    """

    duration_s: float
    windows: list[tuple[float, float]]
    told: PictureTimes | None
    sound: SoundSurvey | None
    loudest: float
    peaks: bytes


class SurveyedSound(Kept):
    """Keeps the pieces of a sound while it is short, and the levels of any."""

    def __init__(self, sample_rate: int, most_s: float) -> None:
        super().__init__()
        self._most = round(most_s * sample_rate)
        self._samples = 0
        self.levels = Levels(sample_rate)

    def add(self, piece: NDArray[np.float32]) -> None:
        self._samples += len(piece)
        self.levels.add(piece)
        if self._samples <= self._most:
            self.pieces.append(piece)

    def sound(self, survey: SoundSurvey) -> Sound:
        return Sound(limit_to_full_scale(np.concatenate(self.pieces)), survey.holes)

    def mark(self) -> tuple[int, ...]:
        return len(self.pieces), self._samples, *self.levels.mark()

    def reset(self, mark: tuple[int, ...]) -> None:
        super().reset(mark)
        self._samples = mark[1]
        self.levels.reset(mark[2:])


def decode_or_survey(path: Path, options: DecodeOptions) -> Media | Survey:
    """A file as a whole, or what has to be known to decode a long one by `decode_parts`.

    Raises:
        BadMedia: see `decode_media`.
    """
    specs, budget = options.specs, options.budget
    if (
        options.whole_s == math.inf
        or read_still(path, budget) is not None
        or animation_format(path) is not None
    ):
        return add_words(decode_media(path, options), path, options)
    told = None
    if VIDEO in options.modalities and specs.video is not None:
        told = read_picture_times(path, budget)
    faults: list[Damaged] = []
    heard: SurveyedSound | None = None
    survey: SoundSurvey | None = None
    if AUDIO in options.modalities and specs.audio is not None:
        heard = SurveyedSound(specs.audio.sample_rate, options.whole_s)
        clock = None if told is None or told.clock is RIGHT else told.clock
        try:
            survey = survey_sound(path, specs.audio.sample_rate, budget, clock, heard)
        except Damaged as fault:
            faults.append(fault)
    audio_s = survey.duration_s if survey else 0.0
    video_s = told.end_s if told else 0.0
    if max(audio_s, video_s) <= options.whole_s:
        sound = heard.sound(survey) if heard and survey else None
        return add_words(decode_surveyed(path, options, told, sound, faults), path, options)
    holes = survey.holes if survey else []
    windows, duration_s = plan_filled(options, audio_s, holes, told, video_s)
    if told is not None and specs.video is not None:
        chosen = choose_times(windows, specs.video, told)
        told = told.keep(time_s for row in chosen for time_s in row)
    loudest = heard.levels.loudest if heard and survey else 0.0
    peaks = heard.levels.peaks(duration_s) if heard and survey and options.previews else b""
    return Survey(duration_s, windows, told, survey, loudest, peaks)


def decode_parts(
    path: Path, options: DecodeOptions, survey: Survey, first: int = 0
) -> Iterator[Media]:
    """The parts of a long file, from its window `first` on. The last one has no windows, but the
    file's words.

    Raises:
        BadMedia: nothing more of it can be read.
    """
    pictures = PictureWindows(path, options, survey, first) if survey.told else None
    sound = SoundWindows(path, options, survey) if survey.sound else None
    for at in range(first, len(survey.windows), PART):
        windows = survey.windows[at : at + PART]
        parts: dict[str, Part] = {}
        previews: dict[int, bytes] = {}
        shown_s: dict[int, float] = {}
        if pictures is not None:
            parts[VIDEO], previews = pictures.take(range(at, at + len(windows)))
            shown_s = {place: pictures.middle_s(at + place) for place in previews}
        if sound is not None:
            parts[AUDIO] = sound.take(windows)
        yield Media(
            duration_s=survey.duration_s,
            windows=windows,
            parts=parts,
            pictures=previews,
            shown_s=shown_s,
            peaks=b"" if at else survey.peaks,
            first_window=at,
            last=False,
        )
    end = len(survey.windows)
    last = Media(duration_s=survey.duration_s, windows=[], parts={}, first_window=end)
    yield add_words(last, path, options)


class PictureWindows:
    """The frames of a long file's windows, one part after the other."""

    def __init__(self, path: Path, options: DecodeOptions, survey: Survey, first: int) -> None:
        spec, told = options.specs.video, survey.told
        assert spec is not None and told is not None
        self._spec, self._windows, self._told = spec, survey.windows, told
        self._chosen = choose_times(survey.windows, spec, told)
        self._previews = options.previews
        times = sorted({time_s for row in self._chosen[first:] for time_s in row})
        self._last_use: dict[float, int] = {}
        for window, row in enumerate(self._chosen):
            self._last_use.update(dict.fromkeys(row, window))
        middles: set[float] = set()
        if options.previews:
            middles = {self.middle_s(window) for window in range(first, len(self._chosen))}
        request = FrameRequest(
            times_s=times,
            spec=spec,
            budget=options.budget,
            preview_times_s=middles,
            picture_times=told,
        )
        self._end = End(told.end_s)
        self._frames = zip(times, read_on(path, request, told, self._end), strict=False)
        self._held: dict[float, Picture] = {}

    def middle_s(self, window: int) -> float:
        """The second of the frame that a window's preview shows."""
        row = self._chosen[window]
        return row[len(row) // 2]

    def take(self, numbers: range) -> tuple[Part, dict[int, bytes]]:
        """The frames of these windows, and previews by their place among them."""
        found: list[NDArray[np.uint8]] = []
        shown: list[int] = []
        plain: set[int] = set()
        previews: dict[int, bytes] = {}
        for place, number in enumerate(numbers):
            frames = self._window(number)
            if frames is None:
                continue
            array = np.stack([picture.frame for picture in frames])
            found.append(array)
            shown.append(place)
            if is_plain(array):
                plain.add(place)
            jpeg = frames[len(frames) // 2].jpeg
            if self._previews and jpeg is not None:
                previews[place] = jpeg
        empty = np.empty((0, *self._spec.shape), np.uint8)
        return Part(shown, np.stack(found) if found else empty, frozenset(plain)), previews

    def _window(self, number: int) -> list[Picture] | None:
        """The frames of a window; None where nothing is shown."""
        times_s = self._chosen[number]
        while not all(time_s in self._held for time_s in times_s):
            following = next(self._frames, None)
            if following is None:
                break
            self._held[following[0]] = following[1]
        start_s, end_s = self._windows[number]
        seen = start_s < self._end.seconds and end_s > self._told.start_s
        found = [self._held[time_s] for time_s in times_s if time_s in self._held]
        for time_s in [t for t in self._held if self._last_use[t] <= number]:
            del self._held[time_s]
        return found if seen and len(found) == len(times_s) else None


def read_on(path: Path, request: FrameRequest, told: PictureTimes, end: End) -> Iterator[Picture]:
    """The frames of a request; where they cannot be had by decoding few, every frame is decoded
    from there on. It ends early where nothing decodes.
    """
    given = 0
    try:
        for picture in read_few_frames(path, request, told):
            yield picture
            given += 1
        return
    except Damaged:
        pass
    try:
        rest = replace(request, times_s=request.times_s[given:])
        yield from read_every_frame(path, rest, told, end)
    except Damaged:
        return


class SoundWindows:
    """The sound of a long file's windows, one part after the other."""

    def __init__(self, path: Path, options: DecodeOptions, survey: Survey) -> None:
        spec = options.specs.audio
        assert spec is not None and survey.sound is not None
        self._spec = spec
        self._gain = np.float32(max(survey.loudest, 1.0))
        self._pieces = read_again(path, survey.sound, options.budget)
        self._read = 0  # samples
        self._from = 0  # the first of them that is held
        self._held: NDArray[np.float32] = np.empty(0, np.float32)

    def take(self, windows: list[tuple[float, float]]) -> Part:
        """The sound of these windows, which begin where the ones before did or later."""
        rate = self._spec.sample_rate
        begin = round(windows[0][0] * rate)
        self._read_to(begin, round(windows[-1][1] * rate) + 1)
        heard: list[int] = []
        silent: set[int] = set()
        array = np.empty((len(windows), self._spec.samples), np.float32)
        for place, (start_s, end_s) in enumerate(windows):
            at = round(start_s * rate) - self._from
            length = round(end_s * rate) - round(start_s * rate)
            held = self._held[at : at + length] / self._gain
            piece = cut_window(held, 0.0, length / rate, self._spec)
            if piece is not None:
                array[len(heard)] = piece
                heard.append(place)
                if is_silent(piece):
                    silent.add(place)
        return Part(heard, array[: len(heard)], frozenset(silent))

    def _read_to(self, begin: int, end: int) -> None:
        """Hold the samples from `begin` to `end`, as far as there are such."""
        kept = [self._held[max(begin - self._from, 0) :]]
        while self._read < end:
            piece = next(self._pieces, None)
            if piece is None:
                break
            start = self._read
            self._read += len(piece)
            if self._read > begin:
                kept.append(piece[max(begin - start, 0) :])
        self._held = np.concatenate(kept)
        self._from = self._read - len(self._held)
