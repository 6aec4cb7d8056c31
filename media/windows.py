"""Cuts a file into the windows that get vectors. Pictures and sound share the same windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from .animations import animation_format, read_animation, read_animation_times
from .audio import AudioSpec, cut_window, is_silent
from .clock import HOLD_S, RIGHT
from .containers import Budget, has_unknown_codec
from .decode import (
    FrameRequest,
    Frames,
    PictureTimes,
    read_frames,
    read_picture_times,
    scale_frame,
)
from .errors import Damaged, MissingModality
from .modality import AUDIO, RECORDED, VIDEO, Spec
from .passages import Passage
from .pictures import read_still
from .preview import compute_peaks, encode_jpeg
from .readers import NO_READERS, WordReaders
from .sound import Sound, read_sound
from .video import SHORT_S, Choice, VideoSpec, choose_near_keyframes, frame_times, is_plain

TAIL = 0.1  # share of a window; a rest of a file that is shorter gets no window
DRIFT_S = 0.05  # if packets and decoded frames end further apart, frames are chosen again


@dataclass(frozen=True)
class InputSpecs:
    """How files become inputs: the length of a window in seconds, and a spec for each modality.
    Scaling and normalisation are inside the graphs.
    """

    window_s: float
    video: VideoSpec | None
    audio: AudioSpec | None

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> InputSpecs:
        """The specs from the output of `dataclasses.asdict`. Raises KeyError or TypeError."""
        video = values["video"]
        audio = values["audio"]
        return cls(
            values["window_s"],
            VideoSpec(**video) if video else None,
            AudioSpec(**audio) if audio else None,
        )

    def recorded(self) -> dict[str, Spec]:
        """The specs that are not None, by modality."""
        found = {name: getattr(self, name) for name in RECORDED}
        return {name: spec for name, spec in found.items() if spec is not None}


@dataclass(frozen=True, kw_only=True)
class WordOptions:
    """Which words of a file are read: those of its streams and tags, of its `sidecars`, the files
    of subtitles beside it, and what the `readers` find in its sound and pictures.
    """

    sidecars: tuple[Path, ...] = ()
    readers: WordReaders = NO_READERS


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How a file is decoded into windows.

    `specs` are the encoder's inputs, `budget` limits what is decoded. Of `modalities`, those are
    read that the file has. Each window covers `overlap_share`, in [0, 1), of the one before it.
    With `previews`, a JPEG of each window and the peaks of the sound are made, too. `words` says
    which words are read with it; none if it is None.
    """

    specs: InputSpecs
    budget: Budget
    modalities: tuple[str, ...] = RECORDED
    overlap_share: float = 0.0
    previews: bool = False
    words: WordOptions | None = None
    # A longer file is only surveyed, to be decoded part by part: see `films`.
    whole_s: float = math.inf


@dataclass(frozen=True)
class Part:
    """One modality of an item.

    `windows` [n] says to which window each row of `array` [n, ...] belongs. `empty` are the windows
    that are silent, or whose frames each have one colour all over.
    """

    windows: list[int]
    array: NDArray[np.generic]
    empty: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Media:
    """One decoded item.

    `windows` are (start_s, end_s), `parts` have the arrays of each modality that the item has. With
    previews, `pictures` has a JPEG for each window that has frames, by the window's number,
    `shown_s` says from which second of the file it comes, and
    `peaks` the loudness of the sound (see `compute_peaks`). `passages` are its words, `metadata`
    its tags and the titles of its chapters, if they were asked for. A `still` picture has one
    window, from 0 to 0. A long file comes in several parts: `windows` are those from the item's
    window `first_window` on, and all but the `last` part are followed by others.
    """

    duration_s: float
    windows: list[tuple[float, float]]
    parts: dict[str, Part]
    pictures: dict[int, bytes] = field(default_factory=dict)
    shown_s: dict[int, float] = field(default_factory=dict)
    peaks: bytes = b""
    passages: tuple[Passage, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    still: bool = False
    first_window: int = 0
    last: bool = True


def plan_windows(
    duration_s: float, window_s: float, overlap: float = 0.0
) -> list[tuple[float, float]]:
    """Windows (start_s, end_s) that cover an item of `duration_s`.

    Each covers a share `overlap`, in [0, 1), of the one before. The last one is moved back to end
    with the item. An item shorter than a window has one, of its own length.

    >>> plan_windows(12.0, 5.0)
    [(0.0, 5.0), (5.0, 10.0), (7.0, 12.0)]
    >>> plan_windows(3.0, 5.0)
    [(0.0, 3.0)]
    >>> plan_windows(10.0, 5.0, overlap=0.5)
    [(0.0, 5.0), (2.5, 7.5), (5.0, 10.0)]
    """
    if duration_s <= window_s:
        return [(0.0, duration_s)]
    step = window_s * (1.0 - overlap)
    whole = int((duration_s - window_s) / step + 1e-9) + 1
    windows = [(i * step, i * step + window_s) for i in range(whole)]
    if duration_s - windows[-1][1] > TAIL * window_s:
        windows.append((duration_s - window_s, duration_s))
    return windows


def read_media(
    path: Path, specs: InputSpecs, budget: Budget, wanted: Collection[str] = RECORDED
) -> Media:
    """`decode_media` without overlap and previews."""
    options = DecodeOptions(specs=specs, budget=budget, modalities=tuple(wanted))
    return decode_media(path, options)


def decode_media(path: Path, options: DecodeOptions) -> Media:
    """Decode a file into windows, see `plan_windows`.

    Raises:
        BadMedia: the file has none of the modalities, or none of them decodes. A file with one good
            and one broken stream yields the good one.
    """
    specs = options.specs
    budget = options.budget
    wanted = options.modalities
    picture = read_still(path, budget)
    if picture is not None:
        return make_still(picture, options)
    animated = animation_format(path) is not None
    read_times = read_animation_times if animated else read_picture_times
    sound = None
    told = None
    faults = []
    if VIDEO in wanted and specs.video:
        told = read_times(path, budget)
    if AUDIO in wanted and specs.audio and not animated:
        try:
            # without a doubt about the pictures' times, there may be one about the sound's
            clock = None if told is None or told.clock is RIGHT else told.clock
            sound = read_sound(path, specs.audio.sample_rate, budget, clock)
        except Damaged as fault:
            faults.append(fault)
    return decode_surveyed(path, options, told, sound, faults)


def decode_surveyed(
    path: Path,
    options: DecodeOptions,
    told: PictureTimes | None,
    sound: Sound | None,
    faults: list[Damaged],
) -> Media:
    """`decode_media` of a file of which the times of its pictures and its sound are known, and the
    faults of other streams.
    """
    specs = options.specs
    animated = animation_format(path) is not None
    waveform = None if sound is None else sound.waveform
    if told is not None and specs.video:
        read = read_animation if animated else read_frames
        try:
            duration_s, windows, video, pictures, shown_s = read_video(
                path, specs.video, options, sound=sound, told=told, read=read
            )
        except Damaged as fault:
            faults.append(fault)
        else:
            parts = {VIDEO: video} | make_audio_part(waveform, windows, specs)
            return Media(
                duration_s=duration_s,
                windows=windows,
                parts=parts,
                pictures=pictures,
                shown_s=shown_s,
                peaks=make_peaks(waveform, duration_s, options),
            )
    if sound is None:
        if faults:
            raise faults[0]
        known = specs.recorded()
        missing = [name for name in options.modalities if name in known]
        if has_unknown_codec(path, options.budget, missing):
            raise Damaged(f"its {' or '.join(missing)} is in a codec that is not known here")
        raise MissingModality(" or ".join(missing))
    audio_s = len(sound.waveform) / specs.audio.sample_rate if specs.audio else 0.0
    windows, audio_s = plan_filled(options, audio_s, sound.holes, None, 0.0)
    return Media(
        duration_s=audio_s,
        windows=windows,
        parts=make_audio_part(waveform, windows, specs),
        peaks=make_peaks(waveform, audio_s, options),
    )


def plan_filled(
    options: DecodeOptions,
    audio_s: float,
    holes: list[tuple[float, float]],
    told: PictureTimes | None,
    video_s: float,
) -> tuple[list[tuple[float, float]], float]:
    """The windows of an item in which something is shown or heard, and its length in seconds.

    A picture that stays, or one of the sound's `holes`, counts for its first HOLD_S only. The sound
    ends at `audio_s`, the pictures at `video_s`.
    """
    duration_s = max(audio_s, video_s)
    windows = plan_windows(duration_s, options.specs.window_s, options.overlap_share)
    if duration_s <= HOLD_S:
        return windows, duration_s
    unheard = [*holes, (audio_s, math.inf)]
    unseen = [(video_s, math.inf)]
    if told is not None:
        unseen += [(-math.inf, told.start_s), *told.pauses]
    filled = [
        window for window in windows if not (lies_in(window, unheard) and lies_in(window, unseen))
    ]
    return filled or windows[:1], duration_s


def lies_in(window: tuple[float, float], stretches: list[tuple[float, float]]) -> bool:
    """Whether one of the stretches covers a window.

    >>> lies_in((1.0, 2.0), [(0.0, 3.0)]), lies_in((1.0, 4.0), [(0.0, 3.0)])
    (True, False)
    """
    start_s, end_s = window
    return any(low <= start_s and end_s <= high for low, high in stretches)


def make_still(picture: av.VideoFrame, options: DecodeOptions) -> Media:
    """A picture as a window of frames that are all the same: it gets the vector of a film that
    shows nothing else. Raises MissingModality: no pictures are wanted.
    """
    spec = options.specs.video
    if VIDEO not in options.modalities or spec is None:
        known = options.specs.recorded()
        raise MissingModality(" or ".join(name for name in options.modalities if name in known))
    square = scale_frame(picture, spec, 1.0)
    frames = np.repeat(square[None, None], spec.frames, axis=1)
    plain = frozenset({0}) if is_plain(frames[0]) else frozenset[int]()
    jpeg = encode_jpeg(picture) if options.previews else None
    return Media(
        duration_s=0.0,
        windows=[(0.0, 0.0)],
        parts={VIDEO: Part([0], frames, plain)},
        pictures={0: jpeg} if jpeg else {},
        shown_s={0: 0.0} if jpeg else {},
        still=True,
    )


def make_peaks(
    waveform: NDArray[np.float32] | None, duration_s: float, options: DecodeOptions
) -> bytes:
    """The peaks of an item's sound [samples]; empty without a sound or without previews."""
    audio = options.specs.audio
    if waveform is None or audio is None or not options.previews:
        return b""
    return compute_peaks(waveform, audio.sample_rate, duration_s)


def read_video(
    path: Path,
    spec: VideoSpec,
    options: DecodeOptions,
    *,
    sound: Sound | None,
    told: PictureTimes,
    read: Callable[[Path, FrameRequest], Frames] = read_frames,
) -> tuple[float, list[tuple[float, float]], Part, dict[int, bytes], dict[int, float]]:
    """Duration in seconds, windows and frames of a file with pictures; with previews, a JPEG of the
    middle of each window, and the second that it is from.

    Frames are chosen by the end that the packets tell. If decoding shows another end, they are
    chosen again. A window before the first picture has no frames. `read` gives the frames.
    """
    video_s = told.end_s
    rate = options.specs.audio.sample_rate if options.specs.audio else 1
    audio_s = len(sound.waveform) / rate if sound else 0.0
    holes = sound.holes if sound else []
    for _ in range(2):
        windows, duration_s = plan_filled(options, audio_s, holes, told, video_s)
        chosen = choose_times(windows, spec, told)
        times = sorted({t for row in chosen for t in row})
        middles = [row[len(row) // 2] for row in chosen] if options.previews else []
        request = FrameRequest(
            times_s=times,
            spec=spec,
            budget=options.budget,
            preview_times_s=set(middles),
            picture_times=told,
        )
        frames, true_s, jpegs = read(path, request)
        if abs(true_s - video_s) <= DRIFT_S:
            break
        video_s = true_s
    seen = [i for i, (start, end) in enumerate(windows) if start < true_s and end > told.start_s]
    rows = np.searchsorted(times, [chosen[i] for i in seen])
    pictures = {i: jpegs[middles[i]] for i in seen if options.previews and middles[i] in jpegs}
    shown_s = {i: middles[i] for i in pictures}
    plain = frozenset(i for i, row in zip(seen, rows, strict=True) if is_plain(frames[row]))
    return duration_s, windows, Part(seen, frames[rows], plain), pictures, shown_s


def choose_times(
    windows: list[tuple[float, float]], spec: VideoSpec, told: PictureTimes
) -> list[list[float]]:
    """For each window, the times of the file whose frames it gets, ascending."""
    wanted = [frame_times(start_s, end_s, spec.frames) for start_s, end_s in windows]
    sparse = spec.choice == Choice.KEYFRAMES and told.end_s > SHORT_S
    if not sparse or not told.is_key.any():
        return wanted
    keys_s = told.starts_s[told.is_key].tolist()
    return [
        choose_near_keyframes(times_s, start_s, end_s, keys_s)
        for times_s, (start_s, end_s) in zip(wanted, windows, strict=True)
    ]


def make_audio_part(
    waveform: NDArray[np.float32] | None, windows: list[tuple[float, float]], specs: InputSpecs
) -> dict[str, Part]:
    """The sound [samples] cut into windows, under "audio"; {} without a sound or its spec."""
    if waveform is None or specs.audio is None:
        return {}
    heard = list[int]()
    silent = set[int]()
    # filled in place, without a second copy: an hour takes 600 MB
    array = np.empty((len(windows), specs.audio.samples), np.float32)
    for i, (start, end) in enumerate(windows):
        piece = cut_window(waveform, start, end, specs.audio)
        if piece is not None:
            array[len(heard)] = piece
            heard.append(i)
            if is_silent(piece):
                silent.add(i)
    return {AUDIO: Part(heard, array[: len(heard)], frozenset(silent))}
