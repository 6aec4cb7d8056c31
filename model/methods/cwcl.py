"""CWCL (arXiv 2309.14580): how alike a frozen encoder finds two captions softens the targets.

With unit sentence vectors p of the captions, recordings x and captions y:

    w_ij = p_i.p_j / 2 + 1/2
    L = (S + H) / 2,  S = - mean_i sum_j (w_ij / sum_k w_ik) log softmax_k(scale x_i.y_k)[j]

The soft direction S is from the recording to the text. The other one, H, is InfoNCE of y to x, as
in the core but without smoothing of labels. `soft` can have it the other way round, or both ways
(ours). `power` (ours) raises w, as sentences of nothing in common have w of about 1/2.

n rows, E embedding, D sentence embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from media.errors import BadConfig

from ..settings import NotNegative, Positive
from ..training.losses import TermInputs
from ..training.tables import LossTerm, Rows


@dataclass(frozen=True, kw_only=True)
class Settings:
    weight: NotNegative = 5.0
    power: Positive = 8.0
    soft: tuple[str, ...] = ("recording",)  # what looks for the other by soft targets, or "text"


def cwcl(
    x: Tensor, y: Tensor, sentences: Tensor, *, scale: Tensor | float, power: float = 1.0
) -> Tensor:
    """The soft direction, of unit vectors x and y [n, E] and sentences [n, D]; a scalar."""
    weights = (sentences @ sentences.T / 2 + 0.5).clamp(min=0.0) ** power  # [n, n]
    return F.cross_entropy(scale * x @ y.T, weights / weights.sum(1, keepdim=True))


def soft_term(
    inputs: TermInputs,
    recording: str,
    caption: str,
    sentence: str,
    *,
    power: float,
    soft: tuple[str, ...],
) -> Tensor | None:
    selected = inputs.select(recording, caption)
    if selected is None:
        return None
    (x, y), group_ids = selected
    p = inputs.vectors[sentence][inputs.has[recording] & inputs.has[caption]]
    scale = inputs.model.scale
    same = (group_ids[:, None] == group_ids[None]).to(x.dtype)
    hard = same / same.sum(1, keepdim=True)
    found = [
        cwcl(one, other, p, scale=scale, power=power)
        if asking in soft
        else F.cross_entropy(scale * one @ other.T, hard)
        for asking, one, other in (("recording", x, y), ("text", y, x))
    ]
    return (found[0] + found[1]) / 2


def rows(settings: Settings) -> Rows:
    if not settings.soft or not set(settings.soft) <= {"recording", "text"}:
        raise BadConfig('cwcl: soft is "recording", "text" or both')
    kinds = {"audio": ("audio_caption", "sentence"), "video": ("video_caption", "video_sentence")}
    terms = tuple(
        LossTerm(
            name=f"soft_{modality}_text",
            needs=(modality, caption, sentence),
            weight=settings.weight,
            loss=partial(soft_term, power=settings.power, soft=tuple(settings.soft)),
            replaces=(f"{modality}_text",),
        )
        for modality, (caption, sentence) in kinds.items()
    )
    return Rows(terms=terms)
