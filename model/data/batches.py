"""Clips to batches: which rows, which of their captions, and how they are augmented.

B batch, F frames, H height, W width, T tokens of a caption.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.clips import Clip, LazyClip
from media.errors import BadConfig
from media.manifest import Row

from ..config import EncoderConfig
from ..training.tables import CAPTIONS, PLAIN, Rows, View, draw_turn, step_seed
from .source import Source

ABSENT = "?"  # what is tokenised where a row has no caption; `Batch.has` tells it apart


@dataclass(kw_only=True)
class Batch:
    """Rows of a step.

    What a row lacks is zeros, and `has` says so. Nothing is computed from it.
    """

    frames: Tensor  # uint8 [B, F, H, W, 3]
    waveforms: Tensor  # float32 [B, samples]
    video_caption: Tensor  # int64 [B, T], a caption about what is seen
    audio_caption: Tensor  # int64 [B, T], a caption about what is heard
    has: dict[str, Tensor]  # bool [B] for video, audio, video_caption, audio_caption
    group_ids: Tensor  # int64 [B]: rows of one group mean the same
    ids: list[str]
    # what methods add, by names that are in `has`, too
    texts: dict[str, Tensor] = field(default_factory=dict)  # int64 [B, T]
    views: dict[str, Tensor] = field(default_factory=dict)  # as `frames` or `waveforms`
    boxes: dict[str, Tensor] = field(default_factory=dict)  # float32 [B, 4], see `View`

    @property
    def all_texts(self) -> dict[str, Tensor]:
        """The captions and the texts of methods, int64 [B, T] each."""
        captions = {"video_caption": self.video_caption, "audio_caption": self.audio_caption}
        return captions | self.texts

    def take(self, rows: list[int] | slice) -> Batch:
        return Batch(
            frames=self.frames[rows],
            waveforms=self.waveforms[rows],
            video_caption=self.video_caption[rows],
            audio_caption=self.audio_caption[rows],
            has={name: x[rows] for name, x in self.has.items()},
            group_ids=self.group_ids[rows],
            ids=self.ids[rows] if isinstance(rows, slice) else [self.ids[i] for i in rows],
            texts={name: x[rows] for name, x in self.texts.items()},
            views={name: x[rows] for name, x in self.views.items()},
            boxes={name: x[rows] for name, x in self.boxes.items()},
        )

    def to(self, device: torch.device) -> Batch:
        return replace(
            self,
            frames=self.frames.to(device, non_blocking=True),
            waveforms=self.waveforms.to(device, non_blocking=True),
            video_caption=self.video_caption.to(device, non_blocking=True),
            audio_caption=self.audio_caption.to(device, non_blocking=True),
            has={name: x.to(device) for name, x in self.has.items()},
            group_ids=self.group_ids.to(device, non_blocking=True),
            texts={name: x.to(device) for name, x in self.texts.items()},
            views={name: x.to(device) for name, x in self.views.items()},
            boxes={name: x.to(device) for name, x in self.boxes.items()},
        )


@dataclass(frozen=True)
class Inputs:
    """What a batch holds of each clip: shape and type of its arrays, and how they are augmented.

    `frames` and `waveform` are called as `augment_frames` and `augment_waveform` are.
    """

    shapes: Mapping[str, tuple[tuple[int, ...], Any]]  # of "video" and "audio"
    frames: Callable[[NDArray[Any], np.random.Generator], NDArray[Any]]
    waveform: Callable[[Clip, NDArray[Any] | None, np.random.Generator], NDArray[Any]]

    @classmethod
    def of(cls, encoder: EncoderConfig) -> Inputs:
        """Pixels and samples, as a network for them takes them."""
        shapes = {
            "video": (encoder.video.shape, np.uint8),
            "audio": ((encoder.audio.samples,), np.float32),
        }
        return cls(shapes, augment_frames, augment_waveform)

    def blank(self, modality: str, count: int) -> NDArray[Any]:
        """Zeros for so many rows."""
        shape, dtype = self.shapes[modality]
        return np.zeros((count, *shape), dtype)

    def view(
        self, clip: Clip, view: View, random: np.random.Generator, other: Clip | None = None
    ) -> NDArray[Any] | None:
        """A clip's frames or waveform, augmented once more; None if it has none. `other` is what a
        view may mix in.
        """
        values = values_of(clip, view.of)
        if values is None:
            return None
        changed = values if view.change is None else view.change(values, random)
        mixed_in = None if other is None else values_of(other, view.of)
        if view.mix is not None and mixed_in is not None:
            changed = view.mix(changed, mixed_in, random)
        if view.of == "video":
            return self.frames(changed, random)
        return self.waveform(replace(clip, waveform=changed), None, random)


def values_of(clip: Clip, modality: str) -> NDArray[Any] | None:
    """The frames or the waveform of a clip; None if it has none."""
    return clip.frames if modality == "video" else clip.waveform


class Mixture:
    """Draws batches from several sources. A batch is a function of the seed and the step alone.

    `shares` says how much of each batch comes from each source. Sources get whole rows; the first
    one takes what rounding leaves. `tokens` makes ids int64 [n, T] of texts.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        shares: Sequence[float],
        tokens: Callable[[Sequence[str]], NDArray[np.int64]],
        inputs: Inputs,
        *,
        batch: int,
        seed: int,
        methods: Rows = PLAIN,
    ) -> None:
        self.given = list(sources)
        instead = [extra for extra in methods.sources if extra.replaces]
        beside = [extra for extra in methods.sources if not extra.replaces]
        if instead:
            sources = [extra.make(self.given) for extra in instead]
            shares = [extra.share for extra in instead]
        self.sources = [*sources, *(extra.make(self.given) for extra in beside)]
        self.tokens = tokens
        self.inputs = inputs
        self.seed = seed
        self.methods = methods
        self.counts = share_out(batch, shares, [extra.share for extra in beside])
        for turn in methods.turns:
            if not set(turn.sources) <= set(range(len(self.sources))):
                raise BadConfig(f"{turn.name}: there are {len(self.sources)} sources, from 0")
        self.pool = ThreadPoolExecutor(os.cpu_count())

    def draw_clips(self, step: int) -> list[LazyClip]:
        """The clips of a step, source by source."""
        drawn: list[LazyClip] = []
        for i, (source, count) in enumerate(zip(self.sources, self.counts_of(step), strict=True)):
            if count:
                drawn += source.draw(step, count, (self.seed, i))
        return drawn

    def counts_of(self, step: int) -> list[int]:
        """How many rows of a step each source gives: where its turn names some, they give all."""
        turn = draw_turn(self.methods.turns, step_seed(self.seed, step))
        if turn is None or not turn.sources:
            return self.counts
        named = sorted(set(turn.sources))
        shares = [self.counts[i] for i in named]
        given = dict(zip(named, share_out(sum(self.counts), shares, []), strict=True))
        return [given.get(i, 0) for i in range(len(self.sources))]

    def read_batch(self, step: int, rows: list[int] | None = None) -> Batch:
        """The batch of a step, or some rows of it."""
        drawn = self.draw_clips(step)
        rows = list(range(len(drawn))) if rows is None else rows
        clips = list(self.pool.map(lambda i: drawn[i].open(), rows))
        read = dict(zip(rows, clips, strict=True))
        frames = self.inputs.blank("video", len(clips))
        waveforms = self.inputs.blank("audio", len(clips))
        captions: dict[str, list[str | None]] = {name: [] for name in CAPTIONS.values()}
        for at, (row, clip) in enumerate(zip(rows, clips, strict=True)):
            random = np.random.default_rng([self.seed, step, row])
            for modality, name in CAPTIONS.items():
                captions[name].append(draw_caption(clip.row, modality, random))
            if clip.frames is not None:
                frames[at] = self.inputs.frames(clip.frames, random)
            if clip.waveform is not None:
                place = int(random.integers(len(drawn)))
                # Only sounds without a picture get one; opening a clip may mean decoding it.
                other = None if clip.frames is not None else open_row(drawn, read, place)
                background = None if other is None else other.waveform
                waveforms[at] = self.inputs.waveform(clip, background, random)
        # Methods have their own chance, so that they change nothing of the rest.
        chances = [np.random.default_rng([self.seed, step, row, 1]) for row in rows]
        captions |= self.draw_extra_texts(clips, captions, chances)
        every = [text or ABSENT for texts in captions.values() for text in texts]
        token_ids = torch.from_numpy(self.tokens(every)).split(len(clips))
        texts = dict(zip(captions, token_ids, strict=True))
        has = {
            "video": torch.tensor([clip.frames is not None for clip in clips]),
            "audio": torch.tensor([clip.waveform is not None for clip in clips]),
        }
        for name, said in captions.items():
            has[name] = torch.tensor([text is not None for text in said])
        for mark in self.methods.marks:
            has[mark.name] = torch.tensor([mark.holds(clip.row) for clip in clips])
        views = self.draw_views(drawn, read, chances)
        crops, boxes = self.draw_crops(frames, clips, chances)
        return Batch(
            frames=torch.from_numpy(frames),
            waveforms=torch.from_numpy(waveforms),
            video_caption=texts.pop("video_caption"),
            audio_caption=texts.pop("audio_caption"),
            has=has | {view.name: has[view.of] for view in self.methods.views},
            group_ids=torch.tensor(number_groups(drawn, rows)),
            ids=[clip.row.id for clip in clips],
            texts=texts,
            views=views | crops,
            boxes=boxes,
        )

    def draw_extra_texts(
        self,
        clips: list[Clip],
        captions: Mapping[str, list[str | None]],
        chances: list[np.random.Generator],
    ) -> dict[str, list[str | None]]:
        """The further texts of methods, of each clip."""
        found = {}
        for text in self.methods.texts:
            known = captions[CAPTIONS[text.about]]
            found[text.name] = [
                text.draw(clip.row, drawn, random)
                for clip, drawn, random in zip(clips, known, chances, strict=True)
            ]
        return found

    def draw_views(
        self, drawn: list[LazyClip], clips: dict[int, Clip], chances: list[np.random.Generator]
    ) -> dict[str, Tensor]:
        """The further views of methods, of each clip, by its row."""
        found = {}
        for view in self.methods.views:
            if view.crop is not None:
                continue
            values = self.inputs.blank(view.of, len(clips))
            for at, (clip, random) in enumerate(zip(clips.values(), chances, strict=True)):
                other = None
                if view.mix is not None:
                    other = open_row(drawn, clips, int(random.integers(len(drawn))))
                made = self.inputs.view(clip, view, random, other)
                if made is not None:
                    values[at] = made
            found[view.name] = torch.from_numpy(values)
        return found

    def draw_crops(
        self, frames: NDArray[Any], clips: list[Clip], chances: list[np.random.Generator]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Those views that are crops of each clip's augmented frames, and their boxes."""
        crops = {}
        boxes = {}
        for view in self.methods.views:
            if view.crop is None:
                continue
            values = np.zeros_like(frames)
            places = np.zeros((len(frames), 4), np.float32)
            for at, (clip, random) in enumerate(zip(clips, chances, strict=True)):
                if clip.frames is not None:
                    values[at], places[at] = view.crop(frames[at], random)
            crops[view.name] = torch.from_numpy(values)
            boxes[view.box] = torch.from_numpy(places)
        return crops, boxes


def open_row(drawn: Sequence[LazyClip], clips: Mapping[int, Clip], row: int) -> Clip:
    """The clip of a row of the whole batch, of which this process has read `clips`."""
    return clips[row] if row in clips else drawn[row].open()


def share_out(batch: int, shares: Sequence[float], extra: Sequence[float]) -> list[int]:
    """How many rows of a batch each source gives. `extra` are shares of the whole batch; the other
    sources divide the rest by `shares`. The first takes what rounding leaves.

    >>> share_out(8, [3, 1], [0.25])
    [4, 2, 2]

    Raises:
        BadConfig: not every source can give a row.
    """
    rest = 1 - sum(extra)
    total = sum(shares)
    counts = [max(1, round(batch * rest * share / total)) for share in shares]
    counts += [max(1, round(batch * share)) for share in extra]
    counts[0] += batch - sum(counts)
    if counts[0] < 1:
        raise BadConfig(f"a batch of {batch} is too small for {len(counts)} sources and its shares")
    return counts


def number_groups(drawn: Sequence[LazyClip], rows: Sequence[int]) -> list[int]:
    """A number for the group of each of the rows, the same in every process of a step."""
    numbers: dict[str, int] = {}
    for clip in drawn:
        numbers.setdefault(clip.row.group, len(numbers))
    return [numbers[drawn[i].row.group] for i in rows]


def draw_caption(row: Row, modality: str, random: np.random.Generator) -> str | None:
    """One of a row's captions about a modality; None if it has none."""
    captions = row.captions_about(modality)
    return captions[int(random.integers(len(captions)))].text if captions else None


def augment_frames(frames: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Flip, shift and brighten all frames of a clip alike, uint8 [F, H, W, 3].

    The shift is at most a twentieth of the picture, the brightness 0.85 to 1.15.
    """
    if random.uniform() < 0.5:
        frames = frames[:, :, ::-1]
    size = frames.shape[1]
    reach = size // 20
    down, right = random.integers(-reach, reach + 1, 2)
    rows = np.clip(np.arange(size) + down, 0, size - 1)
    columns = np.clip(np.arange(size) + right, 0, size - 1)
    brightness = np.clip(np.arange(256) * random.uniform(0.85, 1.15), 0, 255).astype(np.uint8)
    return brightness[frames[:, rows[:, None], columns]]


def augment_waveform(
    clip: Clip, background: NDArray[np.floating] | None, random: np.random.Generator
) -> NDArray[np.float32]:
    """Shift a clip's waveform [samples] in its window and change its loudness by -10 to 5 dB.

    A sound without a picture also changes its speed and tilt. Half of the time it gets `background`
    behind it, at 2 to 25 % of its own level.
    """
    assert clip.waveform is not None
    waveform = clip.waveform.astype(np.float32)
    length = clip.heard
    if clip.frames is None:
        waveform, length = change_speed_and_tilt(waveform, length, random)
    padding = len(waveform) - length
    # With little padding the sound goes round: its end comes before its beginning.
    longest_shift = padding if padding > len(waveform) // 10 else len(waveform)
    shift = int(random.integers(longest_shift))
    waveform = np.roll(waveform, shift) * np.float32(10 ** random.uniform(-0.5, 0.25))
    if clip.frames is None and background is not None and random.uniform() < 0.5:
        gain = random.uniform(0.02, 0.25) * rms_level(waveform) / rms_level(background)
        waveform = waveform + gain * background
    return np.asarray(np.clip(waveform, -1, 1), np.float32)


def rms_level(waveform: NDArray[np.floating]) -> np.float32:
    """The root mean square of a waveform [samples], never zero."""
    return np.float32(np.sqrt((waveform.astype(np.float32) ** 2).mean() + 1e-9))


def change_speed_and_tilt(
    waveform: NDArray[np.float32], length: int, random: np.random.Generator
) -> tuple[NDArray[np.float32], int]:
    """Play the first `length` samples of [samples] at 0.85 to 1.18 times their speed.

    Then tilt them by up to 6 dB between bass and treble. Returns the waveform, as long as before
    with its padding, and how many samples are no padding.
    """
    speed = float(2 ** random.uniform(-0.24, 0.24))
    at = np.arange(min(len(waveform), int(length / speed))) * speed
    faster = np.zeros_like(waveform)
    faster[: len(at)] = np.interp(at, np.arange(len(waveform)), waveform)
    smooth = np.convolve(faster, np.full(9, 1 / 9, np.float32), "same")
    tilt = np.float32(random.uniform(-0.5, 0.5))
    return faster + tilt * (faster - smooth), len(at)
