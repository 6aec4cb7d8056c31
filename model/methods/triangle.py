"""TRIANGLE: a text, its pictures and its sound are near if the triangle of their ends is small.

See arXiv 2509.24734. With the cosines l_v = t.v, l_a = t.a and c = v.a of unit vectors, the area of
the triangle t_i, v_j, a_j is

    4 Area^2 = (2 - 2 l_v) (2 - 2 l_a) - (1 - l_v - l_a + c)^2

and -Area takes the place of the cosine in InfoNCE. Unlike GRAM's volume it tells t from -t. It is
still 0 wherever v = a, so (ours) `same_weight` holds v and a of a row apart,
(c - `same_from`)_+^2. FLOOR keeps the slope of the root finite. The pairs' own contrast stays on.

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


def areas(text: Tensor, video: Tensor, audio: Tensor) -> Tensor:
    """The area of text i with the pictures and the sound j, from unit vectors [n, E]; [n, n]."""
    to_video = text @ video.T
    to_audio = text @ audio.T
    between = (video * audio).sum(-1)  # [n]
    square = (2 - 2 * to_video) * (2 - 2 * to_audio)
    square = square - (1 - to_video - to_audio + between).square()
    return (square.clamp(min=0.0) + FLOOR).sqrt() / 2


def keep_apart(video: Tensor, audio: Tensor, same_from: float) -> Tensor:
    """The penalty for pictures and sound that become one vector; a scalar."""
    return ((video * audio).sum(-1) - same_from).clamp(min=0.0).square().mean()


def area_term(
    inputs: TermInputs, text: str, video: str, audio: str, *, settings: Settings
) -> Tensor | None:
    selected = inputs.select(text, video, audio)
    if selected is None:
        return None
    (t, v, a), group_ids = selected
    loss = contrast_logits(-inputs.model.scale * areas(t, v, a), group_ids, inputs.smoothing)
    return loss + settings.same_weight * keep_apart(v, a, settings.same_from)


def rows(settings: Settings) -> Rows:
    terms = tuple(
        LossTerm(
            name=f"area_{caption}",
            needs=(caption, "video", "audio"),
            weight=settings.weight,
            loss=partial(area_term, settings=settings),
        )
        for caption in ("video_caption", "audio_caption")
    )
    return Rows(terms=terms)
