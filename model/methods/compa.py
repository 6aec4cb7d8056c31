"""CompA (arXiv 2310.08753): which of two sounds comes first, or is louder, as negatives.

Two sounds are put together, and so are their captions. Of the kind "order" they follow each other:
"rain, then a dog". Of the kind "attribute" both are there at once and one is in the background:
"rain close by and a dog far away". The caption of the same sounds put together the other way round
is a further negative, but only in the softmax of that sound. With sounds a, captions y and swapped
captions z:

    L = - mean_i log (e^{s a_i.y_i} / (sum_j e^{s a_i.y_j} + e^{s a_i.z_i}))

With `both_ways` (ours) a pair is in the batch both ways round, and each caption asks for its sound
among all of them: - mean_i log (e^{s a_i.y_i} / sum_j e^{s a_j.y_i}) is added. CompA takes other
sounds' captions as negatives, no sounds.

`evaluation/composed.py` has how sounds and captions are put together, and the benchmarks.

n rows, E embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from evaluation.clips import Clip, Clips, LazyClip
from evaluation.composed import COMPOSITIONS
from media.errors import BadConfig
from media.manifest import Caption, Row
from media.modality import AUDIO

from ..data.source import Source
from ..settings import Count, NotNegative, PartOfAll
from ..training.losses import TermInputs
from ..training.tables import ExtraSource, ExtraText, LossTerm, Rows

SWAPPED = "swapped_caption"
Members = list[tuple[Clips, int]]


@dataclass(frozen=True, kw_only=True)
class Settings:
    weight: NotNegative = 2.0
    share: PartOfAll = 0.2  # of each batch that is put together
    pairs: Count = 600  # that are put together, both ways round
    kinds: tuple[str, ...] = ("order",)  # of `COMPOSITIONS`, which the pairs take in turn
    both_ways: bool = False


@dataclass(frozen=True)
class Composed:
    """Two sounds to be put together, and the row of what comes of it."""

    row: Row
    kind: str
    members: Members

    def open(self) -> Clip:
        ready = self.members[0][0].composed.get(self.row.id)
        waveform = self.put_together() if ready is None else ready
        heard = int(len(waveform) * (1 - COMPOSITIONS[self.kind].tail))
        return Clip(self.row, None, waveform, heard)

    def put_together(self) -> NDArray[Any]:
        first, second = (source.clip(i).waveform for source, i in self.members)
        assert first is not None and second is not None
        return COMPOSITIONS[self.kind].put(first, second)


class ComposedSounds:
    """Pairs of a source's captioned sounds, put together both ways round, as a source."""

    def __init__(
        self,
        sources: Sequence[Source],
        pairs: int,
        kinds: Sequence[str] = ("order",),
        both_ways: bool = False,
    ) -> None:
        self.both_ways = both_ways
        clips = [source for source in sources if isinstance(source, Clips)]
        heard = [
            (source, i)
            for source in clips
            for i in np.flatnonzero(source.has[AUDIO])
            if source.rows[i].captions_about(AUDIO)
        ]
        if len(heard) < 2:
            raise BadConfig("compa needs a manifest with captioned sounds")
        random = np.random.default_rng(0)
        self.composed: list[Composed] = []
        for number in range(pairs):
            chosen = [heard[k] for k in random.choice(len(heard), 2, replace=False)]
            kind = kinds[number % len(kinds)]
            for members in (chosen, chosen[::-1]):
                self.composed.append(Composed(compose_row(members, kind, number), kind, members))
        self.check_ready()
        self.order = lru_cache(maxsize=2)(self.epoch_order)

    def check_ready(self) -> None:
        """Raises BadConfig: only some of these sounds were put together beforehand."""
        for one in self.composed:
            ready = one.members[0][0].composed
            if ready and one.row.id not in ready:
                raise BadConfig(f"compa: at most {len(ready)} sounds were put together beforehand")

    @property
    def rows(self) -> list[Row]:
        return [one.row for one in self.composed]

    def __len__(self) -> int:
        return len(self.composed)

    def epoch_order(self, epoch: int, seed: tuple[int, ...]) -> NDArray[np.int64]:
        """By chance; with `both_ways` pairs by chance, of which both ways follow each other."""
        random = np.random.default_rng([*seed, epoch])
        if not self.both_ways:
            return random.permutation(len(self))
        pairs = random.permutation(len(self) // 2)
        return np.stack([2 * pairs, 2 * pairs + 1], axis=1).ravel()

    def draw(self, step: int, count: int, seed: tuple[int, ...]) -> list[LazyClip]:
        places = (divmod(at, len(self)) for at in range(step * count, (step + 1) * count))
        chosen = [self.composed[int(self.order(epoch, seed)[place])] for epoch, place in places]
        return [LazyClip(one.row, one.open) for one in chosen]


def compose_row(members: Members, kind: str, number: int) -> Row:
    """The row of two sounds put together; its metadata has the caption of the other way round."""
    first, second = (source.rows[i] for source, i in members)
    names = [row.captions_about(AUDIO)[0].text for row in (first, second)]
    right, swapped = COMPOSITIONS[kind].say(names[0], names[1], number)
    return replace(
        first,
        id=f"{kind} {first.id}+{second.id}",
        path=None,
        captions=(Caption(right, (AUDIO,)),),
        group=right,
        metadata={SWAPPED: swapped},
    )


def draw_swapped(row: Row, known: str | None, random: np.random.Generator) -> str | None:
    swapped: str | None = row.metadata.get(SWAPPED)
    return swapped


def order_loss(audio: Tensor, captions: Tensor, swapped: Tensor, scale: Tensor | float) -> Tensor:
    """Of unit vectors [n, E] of composed sounds, their captions and the swapped ones; a scalar."""
    logits = scale * audio @ captions.T  # [n, n]
    against = scale * (audio * swapped).sum(-1, keepdim=True)  # [n, 1]
    own = torch.arange(len(audio), device=audio.device)
    return F.cross_entropy(torch.cat([logits, against], dim=1), own)


def ask_back(audio: Tensor, captions: Tensor, scale: Tensor | float) -> Tensor:
    """Each caption's sound among those [n, E] of all rows; a scalar."""
    own = torch.arange(len(audio), device=audio.device)
    return F.cross_entropy(scale * captions @ audio.T, own)


def order_term(
    inputs: TermInputs, audio: str, caption: str, swapped: str, *, both_ways: bool = False
) -> Tensor | None:
    selected = inputs.select(audio, caption, swapped)
    if selected is None:
        return None
    (a, y, z), _ = selected
    scale = inputs.model.scale
    loss = order_loss(a, y, z, scale)
    return loss + ask_back(a, y, scale) if both_ways else loss


def rows(settings: Settings) -> Rows:
    unknown = [kind for kind in settings.kinds if kind not in COMPOSITIONS]
    if unknown or not settings.kinds:
        raise BadConfig(f"compa: kinds are some of {', '.join(COMPOSITIONS)}")
    source = ExtraSource(
        name="composed_sounds",
        share=settings.share,
        make=partial(
            ComposedSounds,
            pairs=settings.pairs,
            kinds=tuple(settings.kinds),
            both_ways=settings.both_ways,
        ),
    )
    text = ExtraText(name=SWAPPED, about=AUDIO, draw=draw_swapped)
    term = LossTerm(
        name="order",
        needs=("audio", "audio_caption", SWAPPED),
        weight=settings.weight,
        loss=partial(order_term, both_ways=settings.both_ways),
    )
    return Rows(terms=(term,), texts=(text,), sources=(source,))
