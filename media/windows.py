"""A file to the windows that get vectors: one time grid for both modalities."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .audio import AudioSpec, cut_window, is_silent
from .containers import Budget
from .decode import PictureTimes, read_frames, read_picture_times, read_waveform
from .errors import Damaged, MissingModality
from .modality import AUDIO, RECORDED, VIDEO, Spec
from .preview import compute_peaks
from .video import VideoSpec, frame_times, is_plain

TAIL = 0.1  # an end shorter than this share of a window gets no window of its own
DRIFT_S = 0.05  # where packets end this far from what was decoded, the frames are chosen again


@dataclass(frozen=True)
class InputSpecs:
    """How files become inputs: the length of a window, and the spec of each modality that is read
    from files. Scaling and normalisation are inside the graphs.
    """

    window_s: float
    video: VideoSpec | None
    audio: AudioSpec | None

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> InputSpecs:
        """What `dataclasses.asdict` has made of specs. Raises KeyError or TypeError."""
        video = values["video"]
        audio = values["audio"]
        return cls(
            values["window_s"],
            VideoSpec(**video) if video else None,
            AudioSpec(**audio) if audio else None,
        )

    def recorded(self) -> dict[str, Spec]:
        """The specs there are, by the modality's name."""
        found = {name: getattr(self, name) for name in RECORDED}
        return {name: spec for name, spec in found.items() if spec is not None}


@dataclass(frozen=True)
class Part:
    """One modality of an item: `windows` [n] says to which window each row of `array` [n, ...]
    belongs; `empty` are those windows in which nothing is heard, or nothing seen but one colour.
    """

    windows: list[int]
    array: NDArray[np.generic]
    empty: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Media:
    """One decoded item: its windows as (start_s, end_s) and the arrays of each modality it has;
    where previews were asked for, a JPEG for each window that has pictures, and the peaks of its
    sound.
    """

    duration_s: float
    windows: list[tuple[float, float]]
    parts: dict[str, Part]
    pictures: dict[int, bytes] = field(default_factory=dict)
    peaks: bytes = b""


def plan_windows(
    duration_s: float, window_s: float, overlap: float = 0.0
) -> list[tuple[float, float]]:
    """Windows that cover an item: whole ones side by side, or each lying on a share `overlap` of
    the one before; the last one moved back to end with the item.

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
    path: Path,
    specs: InputSpecs,
    budget: Budget,
    wanted: Collection[str] = RECORDED,
    overlap: float = 0.0,
    previews: bool = False,
) -> Media:
    """Decode a file into windows of the wanted modalities, see `plan_windows`.

    Raises:
        BadMedia: nothing of what is wanted can be had. A file with one good and one broken stream
            yields the good one.
    """
    waveform, audio_s, faults = None, 0.0, []
    if AUDIO in wanted and specs.audio:
        try:
            waveform = read_waveform(path, specs.audio.sample_rate, budget)
        except Damaged as fault:
            faults.append(fault)
        if waveform is not None:
            audio_s = len(waveform) / specs.audio.sample_rate
    if VIDEO in wanted and specs.video and (told := read_picture_times(path, budget)) is not None:
        try:
            duration_s, windows, video, pictures = read_video(
                path,
                specs.video,
                partial(plan_windows, window_s=specs.window_s, overlap=overlap),
                budget,
                audio_s,
                told,
                previews,
            )
        except Damaged as fault:
            faults.append(fault)
        else:
            parts = {VIDEO: video} | make_audio_part(waveform, windows, specs)
            return Media(
                duration_s,
                windows,
                parts,
                pictures,
                make_peaks(waveform, duration_s, specs, previews),
            )
    if waveform is None:
        if faults:
            raise faults[0]
        known = specs.recorded()
        raise MissingModality(" or ".join(name for name in wanted if name in known))
    windows = plan_windows(audio_s, specs.window_s, overlap)
    parts = make_audio_part(waveform, windows, specs)
    return Media(audio_s, windows, parts, peaks=make_peaks(waveform, audio_s, specs, previews))


def make_peaks(
    waveform: NDArray[np.float32] | None, duration_s: float, specs: InputSpecs, wanted: bool
) -> bytes:
    """The peaks of an item's sound, where it has any and they are wanted."""
    return (
        compute_peaks(waveform, specs.audio.sample_rate, duration_s)
        if wanted and waveform is not None and specs.audio
        else b""
    )


def read_video(
    path: Path,
    spec: VideoSpec,
    plan: Callable[[float], list[tuple[float, float]]],
    budget: Budget,
    audio_s: float,
    told: PictureTimes,
    previews: bool,
) -> tuple[float, list[tuple[float, float]], Part, dict[int, bytes]]:
    """Duration, windows and frames of a file with pictures, and a JPEG of each window's middle for
    people.

    Frames are chosen by what the packets tell; where what was decoded shows it to be wrong, they
    are chosen again.
    """
    video_s = told.end_s
    for _ in range(2):
        duration_s = max(audio_s, video_s)
        windows = plan(duration_s)
        chosen = [frame_times(start, end, spec.frames) for start, end in windows]
        times = sorted({t for row in chosen for t in row})
        middles = [row[len(row) // 2] for row in chosen] if previews else []
        frames, true_s, jpegs = read_frames(path, times, spec, budget, set(middles), told)
        if abs(true_s - video_s) <= DRIFT_S:
            break
        video_s = true_s
    place = {t: i for i, t in enumerate(times)}
    seen = [i for i, (start, _) in enumerate(windows) if start < true_s]
    rows = np.array([[place[t] for t in chosen[i]] for i in seen])
    pictures = {i: jpegs[middles[i]] for i in seen if previews and middles[i] in jpegs}
    plain = frozenset(i for i, row in zip(seen, rows, strict=True) if is_plain(frames[row]))
    return duration_s, windows, Part(seen, frames[rows], plain), pictures


def make_audio_part(
    waveform: NDArray[np.float32] | None, windows: list[tuple[float, float]], specs: InputSpecs
) -> dict[str, Part]:
    if waveform is None or specs.audio is None:
        return {}
    heard, silent = list[int](), set[int]()
    # filled in place: an hour is 600 MB
    array = np.empty((len(windows), specs.audio.samples), np.float32)
    for i, (start, end) in enumerate(windows):
        piece = cut_window(waveform, start, end, specs.audio)
        if piece is not None:
            array[len(heard)] = piece
            heard.append(i)
            if is_silent(piece):
                silent.add(i)
    return {AUDIO: Part(heard, array[: len(heard)], frozenset(silent))}
