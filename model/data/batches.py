"""Clips to batches: which rows, which of their captions, and how they are varied."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.clips import Clip, LazyClip
from media.manifest import Row
from media.text import TextTokens

from ..config import EncoderConfig


class Source(Protocol):
    """Something to draw clips from."""

    @property
    def rows(self) -> list[Row]: ...

    def __len__(self) -> int: ...

    def draw(self, step: int, count: int, key: tuple[int, ...]) -> list[LazyClip]:
        """The clips of a step, `count` of them: the same ones for the same arguments, on every
        machine.
        """
        ...


@dataclass
class Batch:
    """Rows of a step. Absent modalities are zeros that `has` tells apart; nothing is computed from
    them.
    """

    frames: Tensor  # uint8 [B, F, H, W, 3]
    waveforms: Tensor  # float32 [B, samples]
    sight: Tensor  # int64 [B, T], a caption about what is seen
    sound: Tensor  # int64 [B, T], a caption about what is heard
    has: dict[str, Tensor]  # bool [B] for video, audio, sight, sound
    group: Tensor  # int64 [B]: rows of one group mean the same
    ids: list[str]

    def take(self, rows: list[int] | slice) -> Batch:
        return Batch(
            self.frames[rows],
            self.waveforms[rows],
            self.sight[rows],
            self.sound[rows],
            {k: v[rows] for k, v in self.has.items()},
            self.group[rows],
            self.ids[rows] if isinstance(rows, slice) else [self.ids[i] for i in rows],
        )

    def to(self, device: torch.device) -> Batch:
        frames, waveforms, sight, sound, group = (
            x.to(device, non_blocking=True)
            for x in (self.frames, self.waveforms, self.sight, self.sound, self.group)
        )
        return Batch(
            frames,
            waveforms,
            sight,
            sound,
            {k: v.to(device) for k, v in self.has.items()},
            group,
            self.ids,
        )


class Mixture:
    """Draws batches from several sets of clips. The batch of a step is a function of (seed, step)
    alone.
    """

    def __init__(
        self,
        sets: Sequence[Source],
        shares: Sequence[float],
        tokens: TextTokens,
        encoder: EncoderConfig,
        batch: int,
        seed: int,
    ) -> None:
        self.sets, self.tokens, self.encoder, self.seed = sets, tokens, encoder, seed
        total = sum(shares)
        self.counts = [max(1, round(batch * share / total)) for share in shares]
        self.counts[0] += batch - sum(self.counts)
        self.pool = ThreadPoolExecutor(os.cpu_count())

    def batch(self, step: int, chosen: list[int] | None = None) -> Batch:
        """The batch of a step, or the chosen rows of it."""
        drawn: list[LazyClip] = []
        for s, (source, count) in enumerate(zip(self.sets, self.counts, strict=True)):
            drawn += source.draw(step, count, (self.seed, s))
        groups = {g: n for n, g in enumerate(dict.fromkeys(d.row.group for d in drawn))}
        chosen = list(range(len(drawn))) if chosen is None else chosen
        clips = list(self.pool.map(lambda i: drawn[i].open(), chosen))
        frames = np.zeros((len(clips), *self.encoder.video.shape), np.uint8)
        waveforms = np.zeros((len(clips), self.encoder.audio.samples), np.float32)
        sight: list[str | None] = []
        sound: list[str | None] = []
        for at, (i, clip) in enumerate(zip(chosen, clips, strict=True)):
            random = np.random.default_rng([self.seed, step, i])
            sight.append(caption_about(clip.row, "video", random))
            sound.append(caption_about(clip.row, "audio", random))
            if clip.frames is not None:
                frames[at] = seen(clip.frames, random)
            if clip.waveform is not None:
                waveforms[at] = heard(
                    clip, clips[int(random.integers(len(clips)))].waveform, random
                )
        ids = torch.from_numpy(self.tokens([text or "?" for text in sight + sound]))
        return Batch(
            frames=torch.from_numpy(frames),
            waveforms=torch.from_numpy(waveforms),
            sight=ids[: len(clips)],
            sound=ids[len(clips) :],
            has={
                "video": torch.tensor([clip.frames is not None for clip in clips]),
                "audio": torch.tensor([clip.waveform is not None for clip in clips]),
                "sight": torch.tensor([text is not None for text in sight]),
                "sound": torch.tensor([text is not None for text in sound]),
            },
            group=torch.tensor([groups[clip.row.group] for clip in clips]),
            ids=[clip.row.id for clip in clips],
        )


def caption_about(row: Row, modality: str, random: np.random.Generator) -> str | None:
    fitting = row.captions_about(modality)
    return fitting[int(random.integers(len(fitting)))].text if fitting else None


def seen(frames: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Frames with one flip, one shift of at most a twentieth of the picture and one brightness for
    the whole clip.
    """
    if random.uniform() < 0.5:
        frames = frames[:, :, ::-1]
    reach = frames.shape[1] // 20
    down, right = random.integers(-reach, reach + 1, 2)
    rows, columns = (
        np.clip(np.arange(frames.shape[1]) + by, 0, frames.shape[1] - 1) for by in (down, right)
    )
    lights = np.clip(np.arange(256) * random.uniform(0.85, 1.15), 0, 255).astype(np.uint8)
    return lights[frames[:, rows[:, None], columns]]


def heard(
    clip: Clip, other: NDArray[np.floating] | None, random: np.random.Generator
) -> NDArray[np.float32]:
    """A waveform shifted in its window and played at another loudness. A sound without a picture is
    also played a little faster or slower, with its bass or treble turned up or down, and half of
    the time with `other` behind it.
    """
    assert clip.waveform is not None
    waveform, length = clip.waveform.astype(np.float32), clip.heard
    if clip.frames is None:
        waveform, length = retold(waveform, length, random)
    room = len(waveform) - length
    shift = (
        int(random.integers(room))
        if room > len(waveform) // 10
        else int(random.integers(len(waveform)))
    )
    waveform = np.roll(waveform, shift) * np.float32(10 ** random.uniform(-0.5, 0.25))
    if clip.frames is None and other is not None and random.uniform() < 0.5:
        waveform = waveform + random.uniform(0.02, 0.25) * level(waveform) / level(other) * other
    return np.asarray(np.clip(waveform, -1, 1), np.float32)


def level(waveform: NDArray[np.floating]) -> np.float32:
    return np.float32(np.sqrt((waveform.astype(np.float32) ** 2).mean() + 1e-9))


def retold(
    waveform: NDArray[np.float32], length: int, random: np.random.Generator
) -> tuple[NDArray[np.float32], int]:
    """The first `length` samples at 0.85 to 1.18 times their speed, tilted by up to 6 dB between
    bass and treble.
    """
    speed = float(2 ** random.uniform(-0.24, 0.24))
    at = np.arange(min(len(waveform), int(length / speed))) * speed
    faster = np.zeros_like(waveform)
    faster[: len(at)] = np.interp(at, np.arange(len(waveform)), waveform)
    smooth = np.convolve(faster, np.full(9, 1 / 9, np.float32), "same")
    return faster + np.float32(random.uniform(-0.5, 0.5)) * (faster - smooth), len(at)
