"""CompA (arXiv 2310.08753): which of two sounds comes first, as negatives in their own row.

Two sounds are put one after the other, and so are their captions: "rain, then a dog". The caption
of the other order is a further negative, but only in the softmax of that sound. With sounds a,
captions y and swapped captions z:

    L = - mean_i log (e^{s a_i.y_i} / (sum_j e^{s a_i.y_j} + e^{s a_i.z_i}))

`evaluation/composed.py` has how sounds and captions are put together, and the benchmark.

n rows, E embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from evaluation.clips import Clip, Clips, LazyClip
from evaluation.composed import SILENT_TAIL, put_together, say_in_order
from media.errors import BadConfig
from media.manifest import Caption, Row
from media.modality import AUDIO

from ..data.batches import Source
from ..training.losses import LossTerm, TermInputs
from ..training.tables import ExtraSource, ExtraText, Rows

SWAPPED = "swapped_caption"


@dataclass(frozen=True, kw_only=True)
class Settings:
    weight: float = 5.0
    share: float = 0.25  # of each batch that is put together
    pairs: int = 600  # that are put together, in both orders


class ComposedSounds:
    """Pairs of a source's captioned sounds, put together in both orders, as a source."""

    def __init__(self, sources: Sequence[Source], pairs: int) -> None:
        self.clips = [source for source in sources if isinstance(source, Clips)]
        heard = [
            (source, i)
            for source in self.clips
            for i in np.flatnonzero(source.has[AUDIO])
            if source.rows[i].captions_about(AUDIO)
        ]
        if len(heard) < 2:
            raise BadConfig("compa needs a manifest with captioned sounds")
        random = np.random.default_rng(0)
        self.composed: list[tuple[Row, list[tuple[Clips, int]]]] = []
        for number in range(pairs):
            chosen = [heard[k] for k in random.choice(len(heard), 2, replace=False)]
            for members in (chosen, chosen[::-1]):
                self.composed.append((compose_row(members, number), members))
        self.order = lru_cache(maxsize=2)(self.epoch_order)

    @property
    def rows(self) -> list[Row]:
        return [row for row, _ in self.composed]

    def __len__(self) -> int:
        return len(self.composed)

    def epoch_order(self, epoch: int, seed: tuple[int, ...]) -> NDArray[np.int64]:
        """Pairs by chance. Both orders of a pair follow each other, mostly into one batch."""
        pairs = np.random.default_rng([*seed, epoch]).permutation(len(self) // 2)
        return np.stack([2 * pairs, 2 * pairs + 1], axis=1).ravel()

    def draw(self, step: int, count: int, seed: tuple[int, ...]) -> list[LazyClip]:
        places = (divmod(at, len(self)) for at in range(step * count, (step + 1) * count))
        chosen = [self.composed[int(self.order(epoch, seed)[place])] for epoch, place in places]
        return [LazyClip(row, partial(open_composed, row, members)) for row, members in chosen]


def compose_row(members: list[tuple[Clips, int]], number: int) -> Row:
    """The row of two sounds in their order; its metadata has the caption of the other order."""
    first, second = (source.rows[i] for source, i in members)
    names = [row.captions_about(AUDIO)[0].text for row in (first, second)]
    right, swapped = say_in_order(names[0], names[1], number)
    name = f"{first.id}+{second.id}"
    return replace(
        first,
        id=name,
        path=None,
        captions=(Caption(right, (AUDIO,)),),
        group=right,
        metadata={SWAPPED: swapped},
    )


def open_composed(row: Row, members: list[tuple[Clips, int]]) -> Clip:
    first, second = (source.clip(i).waveform for source, i in members)
    assert first is not None and second is not None
    waveform = put_together(first, second)
    return Clip(row, None, waveform, int(len(waveform) * (1 - SILENT_TAIL)))


def draw_swapped(row: Row, known: str | None, random: np.random.Generator) -> str | None:
    swapped: str | None = row.metadata.get(SWAPPED)
    return swapped


def order_loss(audio: Tensor, captions: Tensor, swapped: Tensor, scale: Tensor | float) -> Tensor:
    """Of unit vectors [n, E] of composed sounds, their captions and the swapped ones; a scalar."""
    logits = scale * audio @ captions.T  # [n, n]
    against = scale * (audio * swapped).sum(-1, keepdim=True)  # [n, 1]
    own = torch.arange(len(audio), device=audio.device)
    return F.cross_entropy(torch.cat([logits, against], dim=1), own)


def order_term(inputs: TermInputs, audio: str, caption: str, swapped: str) -> Tensor | None:
    selected = inputs.select(audio, caption, swapped)
    if selected is None:
        return None
    (a, y, z), _ = selected
    return order_loss(a, y, z, inputs.model.scale)


def rows(settings: Settings) -> Rows:
    source = ExtraSource(
        name="composed_sounds",
        share=settings.share,
        make=partial(ComposedSounds, pairs=settings.pairs),
    )
    text = ExtraText(name=SWAPPED, about=AUDIO, draw=draw_swapped)
    term = LossTerm(
        name="order",
        needs=("audio", "audio_caption", SWAPPED),
        weight=settings.weight,
        loss=order_term,
    )
    return Rows(terms=(term,), texts=(text,), sources=(source,))
