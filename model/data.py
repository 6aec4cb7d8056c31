"""Clips to batches: which rows, which of their captions, and how they are varied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .clips import Clips
from .inputs.text import TextTokens
from .manifest import Row


@dataclass
class Batch:
    """Rows of a step. Absent modalities are zeros that `has` tells apart; nothing is learned from them."""

    frames: Tensor  # uint8 [B, F, H, W, 3]
    waveforms: Tensor  # float32 [B, samples]
    sight: Tensor  # int64 [B, T], a caption about what is seen
    sound: Tensor  # int64 [B, T], a caption about what is heard
    has: dict[str, Tensor]  # bool [B] for video, audio, sight, sound
    group: Tensor  # int64 [B]
    ids: list[str]


class Mixture:
    """Draws batches from several sets of clips. The batch of a step is a function of (seed, step) alone."""

    def __init__(self, sets: list[Clips], shares: list[float], tokens: TextTokens, batch: int, seed: int) -> None:
        self.sets, self.tokens, self.seed = sets, tokens, seed
        total = sum(shares)
        self.counts = [max(1, round(batch * share / total)) for share in shares]
        self.counts[0] += batch - sum(self.counts)

    def batch(self, step: int) -> Batch:
        random = np.random.default_rng([self.seed, step])
        pieces = []
        for s, (clips, count) in enumerate(zip(self.sets, self.counts, strict=True)):
            pieces += [(clips, i) for i in epoch_rows(len(clips), count, step, [self.seed, s])]
        return self.collate(pieces, random)

    def collate(self, pieces: list[tuple[Clips, int]], random: np.random.Generator) -> Batch:
        rows = [clips.rows[i] for clips, i in pieces]
        groups = {g: n for n, g in enumerate(dict.fromkeys(row.group for row in rows))}
        said = {k: [caption_about(row, m, random) for row in rows] for k, m in (("sight", "video"), ("sound", "audio"))}
        ids = self.tokens([text or "?" for texts in said.values() for text in texts])
        has = {m: torch.tensor([bool(clips.has[m][i]) for clips, i in pieces]) for m in ("video", "audio")}
        has |= {k: torch.tensor([text is not None for text in texts]) for k, texts in said.items()}
        waveforms = np.stack([heard(clips, i, random) for clips, i in pieces])
        return Batch(
            frames=torch.from_numpy(np.stack([seen(clips, i, random) for clips, i in pieces])),
            waveforms=torch.from_numpy(mixed(waveforms, ~has["video"].numpy(), random)),
            sight=torch.from_numpy(ids[: len(rows)]),
            sound=torch.from_numpy(ids[len(rows) :]),
            has=has,
            group=torch.tensor([groups[row.group] for row in rows]),
            ids=[row.id for row in rows],
        )


def epoch_rows(size: int, count: int, step: int, key: list[int]) -> Iterator[int]:
    """`count` rows for a step, going through a new shuffle of all rows each epoch."""
    for at in range(step * count, (step + 1) * count):
        epoch, place = divmod(at, size)
        yield int(shuffled(size, epoch, tuple(key))[place])


_shuffles: dict[tuple[int, int, tuple[int, ...]], NDArray[np.int64]] = {}


def shuffled(size: int, epoch: int, key: tuple[int, ...]) -> NDArray[np.int64]:
    name = (size, epoch, key)
    if name not in _shuffles:
        for old in [k for k in _shuffles if k[0] == size and k[2] == key and k[1] < epoch - 1]:
            del _shuffles[old]
        _shuffles[name] = np.random.default_rng([*key, epoch]).permutation(size)
    return _shuffles[name]


def caption_about(row: Row, modality: str, random: np.random.Generator) -> str | None:
    fitting = [c.text for c in row.captions if not c.about or modality in c.about]
    return fitting[int(random.integers(len(fitting)))] if fitting else None


def seen(clips: Clips, i: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """Frames with one flip and one brightness for the whole clip."""
    frames = clips.frames[i]
    if random.uniform() < 0.5:
        frames = frames[:, :, ::-1]
    bright = random.uniform(0.85, 1.15)
    return np.clip(frames * np.float32(bright), 0, 255).astype(np.uint8)


def heard(clips: Clips, i: int, random: np.random.Generator) -> NDArray[np.float32]:
    """A waveform shifted in its window and played at another loudness."""
    waveform = clips.waveforms[i].astype(np.float32)
    room = len(waveform) - int(clips.heard[i])
    shift = int(random.integers(room)) if room > len(waveform) // 10 else int(random.integers(len(waveform)))
    return np.roll(waveform, shift) * np.float32(10 ** random.uniform(-0.5, 0.25))


def mixed(waveforms: NDArray[np.float32], which: NDArray[np.bool_], random: np.random.Generator) -> NDArray[np.float32]:
    """Half of the chosen clips with another one softly behind them."""
    others = np.roll(waveforms, int(random.integers(1, max(2, len(waveforms)))), axis=0)
    gain = np.where(which & (random.uniform(size=len(waveforms)) < 0.5), random.uniform(0.02, 0.25, len(waveforms)), 0)
    loud = np.sqrt((waveforms**2).mean(1) + 1e-9) / np.sqrt((others**2).mean(1) + 1e-9)
    return np.clip(waveforms + (gain * loud)[:, None] * others, -1, 1).astype(np.float32)
