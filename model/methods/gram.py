"""GRAM (arXiv 2412.11959): a text, its pictures and its sound are near if they span little volume.

With the cosines l_v = t.v, l_a = t.a and c = v.a of unit vectors, the volume of t_i, v_j, a_j is

    Vol^2 = 1 + 2 l_v l_a c - l_v^2 - l_a^2 - c^2

and -Vol takes the place of the cosine in InfoNCE. It has faults. It is 0 wherever v = a, whatever
t is, and it is the same for t and -t. So (ours) `same_weight` holds v and a of a row apart,
(c - `same_from`)_+^2, and `side_weight` holds t on their side, (-t.(v + a))_+. Its slope is
infinite at 0, so FLOOR is added below the root. The pairs' own contrast stays on.

n rows, E embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ..settings import NotNegative, Number
from ..training.losses import TermInputs, contrast_logits
from ..training.tables import LossTerm, Rows

FLOOR = 1e-4


@dataclass(frozen=True, kw_only=True)
class Settings:
    weight: NotNegative = 2.0
    same_weight: NotNegative = 0.5
    same_from: Number = 0.9
    side_weight: NotNegative = 0.5


def volumes(text: Tensor, video: Tensor, audio: Tensor) -> Tensor:
    """Vol of text i with the pictures and the sound j, from unit vectors [n, E]; [n, n]."""
    to_video = text @ video.T
    to_audio = text @ audio.T
    between = (video * audio).sum(-1)  # [n]
    square = 1 + 2 * to_video * to_audio * between
    square = square - to_video.square() - to_audio.square() - between.square()
    return (square.clamp(min=0.0) + FLOOR).sqrt()


def keep_apart(video: Tensor, audio: Tensor, same_from: float) -> Tensor:
    """The penalty for pictures and sound that become one vector; a scalar."""
    return ((video * audio).sum(-1) - same_from).clamp(min=0.0).square().mean()


def keep_on_side(text: Tensor, video: Tensor, audio: Tensor) -> Tensor:
    """The penalty for a text that points away from its recording; a scalar."""
    return (-(text * (video + audio)).sum(-1)).clamp(min=0.0).mean()


def volume_term(
    inputs: TermInputs, text: str, video: str, audio: str, *, settings: Settings
) -> Tensor | None:
    selected = inputs.select(text, video, audio)
    if selected is None:
        return None
    (t, v, a), group_ids = selected
    logits = -inputs.model.scale * volumes(t, v, a)
    loss = contrast_logits(logits, group_ids, inputs.smoothing)
    loss = loss + settings.same_weight * keep_apart(v, a, settings.same_from)
    return loss + settings.side_weight * keep_on_side(t, v, a)


def rows(settings: Settings) -> Rows:
    terms = tuple(
        LossTerm(
            name=f"volume_{caption}",
            needs=(caption, "video", "audio"),
            weight=settings.weight,
            loss=partial(volume_term, settings=settings),
        )
        for caption in ("video_caption", "audio_caption")
    )
    return Rows(terms=terms)
