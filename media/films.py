"""Long files, decoded part by part: memory does not grow with their length.

A file is surveyed first: the times of its pictures, from its packets, and its sound, which is
decoded once. Then its windows are known, and the parts that they are decoded in. Several processes
may decode parts of one file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
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

WHOLE_S = 60.0  # of a file that is best decoded as a whole
KEPT_S = 600.0  # of a sound that is kept when it is surveyed; a longer one is decoded twice
# windows of a part: of a short film few, so that it is decoded and encoded at the same time
LEAST_PART = 4
MOST_PART = 32
PARTS = 8  # of a film that is neither short nor long


@dataclass(frozen=True)
class Survey:
    """What is known of a long file before its windows are decoded: the times of its pictures and
    how its sound is read again, as far as it has them; the sound's loudest sample, and its peaks
    (see `compute_peaks`); its windows, and for each of them the seconds of the file whose frames it
    gets, if it has pictures. `heard` is the sound [samples], not turned down, if it is no longer
    than KEPT_S.
    """

    duration_s: float
    windows: list[tuple[float, float]]
    told: PictureTimes | None
    sound: SoundSurvey | None
    loudest: float
    peaks: bytes
    chosen: list[list[float]] = field(default_factory=list)
    heard: NDArray[np.float32] | None = None

    @property
    def nbytes(self) -> int:
        """Of memory that it takes, but for some bytes a window."""
        return 0 if self.heard is None else self.heard.nbytes


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
        else:
            self.pieces.clear()

    @property
    def whole(self) -> NDArray[np.float32] | None:
        """All samples; None if they were too many to be kept."""
        kept = sum(map(len, self.pieces))
        return np.concatenate(self.pieces) if kept == self._samples else None

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
    specs = options.specs
    budget = options.budget
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
    kept: SurveyedSound | None = None
    survey: SoundSurvey | None = None
    if AUDIO in options.modalities and specs.audio is not None:
        kept = SurveyedSound(specs.audio.sample_rate, max(options.whole_s, KEPT_S))
        clock = None if told is None or told.clock is RIGHT else told.clock
        try:
            survey = survey_sound(path, specs.audio.sample_rate, budget, clock, kept)
        except Damaged as fault:
            faults.append(fault)
    heard = kept.whole if kept and survey else None
    if heard is None and survey and survey.duration_s <= options.whole_s:
        heard = np.concatenate(list(read_again(path, survey, budget)))
    audio_s = survey.duration_s if survey else 0.0
    video_s = told.end_s if told else 0.0
    holes = survey.holes if survey else []
    if max(audio_s, video_s) <= options.whole_s:
        sound = None if heard is None else Sound(limit_to_full_scale(heard), holes)
        return add_words(decode_surveyed(path, options, told, sound, faults), path, options)
    windows, duration_s = plan_filled(options, audio_s, holes, told, video_s)
    chosen: list[list[float]] = []
    if told is not None and specs.video is not None:
        chosen = choose_times(windows, specs.video, told)
        told = told.keep(time_s for row in chosen for time_s in row)
    return Survey(
        duration_s=duration_s,
        windows=windows,
        told=told,
        sound=survey,
        loudest=kept.levels.loudest if kept and survey else 0.0,
        peaks=kept.levels.peaks(duration_s) if kept and survey and options.previews else b"",
        chosen=chosen,
        heard=heard,
    )


def split_parts(survey: Survey, first: int = 0) -> list[range]:
    """The windows of each part of a long file, from its window `first` on.

    A part ends where the next window needs none of the same group of pictures, if there is such a
    place near: then no group is decoded for two parts.
    """
    count = len(survey.windows)
    size = min(max(count // PARTS, LEAST_PART), MOST_PART // 2)
    groups = list_groups(survey)
    parts: list[range] = []
    while first < count:
        ends = range(first + size, min(first + 2 * size, count))
        end = next((n for n in ends if groups[n][0] > groups[n - 1][1]), min(ends.stop, count))
        parts.append(range(first, end))
        first = end
    return parts


def can_be_shared(survey: Survey, parts: Sequence[range]) -> bool:
    """Whether several processes can decode the pictures of some parts without doing much twice: the
    keyframes are known, and at most of the borders a group of pictures ends.
    """
    if survey.told is None or not survey.told.is_key.any():
        return False
    groups = list_groups(survey)
    borders = [part.start for part in parts[1:]]
    ends = sum(groups[window][0] > groups[window - 1][1] for window in borders)
    return 2 * ends >= len(borders)


def list_groups(survey: Survey) -> list[tuple[int, int]]:
    """For each window the first and the last group of pictures that its frames are in, by number;
    of a file without known keyframes, each window has one of its own.
    """
    told = survey.told
    if told is None or not told.is_key.any():
        return [(n, n) for n in range(len(survey.windows))]
    keys_s = told.starts_s[told.is_key]
    ends_s = np.array([(row[0], row[-1]) for row in survey.chosen])
    return [tuple(row) for row in np.searchsorted(keys_s, ends_s, side="right").tolist()]


def decode_parts(
    path: Path, options: DecodeOptions, survey: Survey, parts: Sequence[range]
) -> Iterator[Media]:
    """Some parts of a long file, ascending, see `split_parts`. Where it has sound, but no picture
    decodes, they have no pictures.

    Raises:
        BadMedia: nothing more of it can be read.
    """
    pictures = sound = None
    if survey.told and VIDEO in options.modalities:
        pictures = PictureWindows(path, options, survey, parts)
    if survey.sound and AUDIO in options.modalities:
        sound = SoundWindows(path, options, survey)
    for numbers in parts:
        windows = survey.windows[numbers.start : numbers.stop]
        found: dict[str, Part] = {}
        previews: dict[int, bytes] = {}
        shown_s: dict[int, float] = {}
        if pictures is not None:
            try:
                found[VIDEO], previews = pictures.take(numbers)
            except Damaged:
                if survey.sound is None:
                    raise
                pictures = None
            shown_s = {place: middle_s(survey.chosen[numbers[place]]) for place in previews}
        if sound is not None:
            found[AUDIO] = sound.take(windows)
        yield Media(
            duration_s=survey.duration_s,
            windows=windows,
            parts=found,
            pictures=previews,
            shown_s=shown_s,
            peaks=b"" if numbers.start else survey.peaks,
            first_window=numbers.start,
            last=False,
        )


def end_parts(path: Path, options: DecodeOptions, survey: Survey) -> Media:
    """What comes after the parts of a long file: no windows, but the file's words."""
    end = len(survey.windows)
    last = Media(duration_s=survey.duration_s, windows=[], parts={}, first_window=end)
    return add_words(last, path, options)


def middle_s(times_s: list[float]) -> float:
    """The second of the frame that a window's preview shows, of those of its frames."""
    return times_s[len(times_s) // 2]


class PictureWindows:
    """The frames of a long file's windows, one part after the other."""

    def __init__(
        self, path: Path, options: DecodeOptions, survey: Survey, parts: Sequence[range]
    ) -> None:
        spec = options.specs.video
        told = survey.told
        assert spec is not None and told is not None
        self._spec = spec
        self._survey = survey
        self._told = told
        self._previews = options.previews
        self._last_use: dict[float, int] = {}
        middles: set[float] = set()
        for numbers in parts:
            for number in numbers:
                row = survey.chosen[number]
                self._last_use.update(dict.fromkeys(row, number))
                if options.previews:
                    middles.add(middle_s(row))
        times = sorted(self._last_use)
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
        times_s = self._survey.chosen[number]
        while not all(time_s in self._held for time_s in times_s):
            following = next(self._frames, None)
            if following is None:
                break
            self._held[following[0]] = following[1]
        start_s, end_s = self._survey.windows[number]
        seen = start_s < self._end.seconds and end_s > self._told.start_s
        found = [self._held[time_s] for time_s in times_s if time_s in self._held]
        for time_s in [t for t in self._held if self._last_use[t] <= number]:
            del self._held[time_s]
        return found if seen and len(found) == len(times_s) else None


def read_on(path: Path, request: FrameRequest, told: PictureTimes, end: End) -> Iterator[Picture]:
    """The frames of a request; where they cannot be had by decoding few, every frame is decoded
    from there on. It ends early where nothing more decodes.

    Raises:
        Damaged: no frame decodes.
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
        for picture in read_every_frame(path, rest, told, end):
            yield picture
            given += 1
    except Damaged:
        if not given:
            raise


class SoundWindows:
    """The sound of a long file's windows, one part after the other."""

    def __init__(self, path: Path, options: DecodeOptions, survey: Survey) -> None:
        spec = options.specs.audio
        assert spec is not None and survey.sound is not None
        self._spec = spec
        self._gain = np.float32(max(survey.loudest, 1.0))
        self._pieces = (
            read_again(path, survey.sound, options.budget)
            if survey.heard is None
            else iter([survey.heard])
        )
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
        self._held = kept[0] if len(kept) == 1 else np.concatenate(kept)
        self._from = self._read - len(self._held)
