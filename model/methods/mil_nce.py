"""MIL-NCE with several texts a clip, as in VATT (arXiv 2104.11178; the loss is of 1912.06430).

With recordings x, P texts y_ip of each, of which some may be missing, and s = scale x.y:

    L = - mean_i log (sum over the texts of row i of e^s / sum over all texts of e^s)

Texts of rows of one group count as row i's. The other direction (ours) asks each text for its
recording, and the mean of both is taken. It takes the place of the core's contrast with words.

n rows, P texts of a row, E embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from media.manifest import Row

from ..settings import Count, NotNegative
from ..training.losses import TermInputs
from ..training.tables import ExtraText, LossTerm, Rows


@dataclass(frozen=True, kw_only=True)
class Settings:
    weight: NotNegative = 5.0
    texts: Count = 4  # of a clip, the drawn caption among them


def mil_nce(
    x: Tensor, texts: Tensor, there: Tensor, group_ids: Tensor, scale: Tensor | float
) -> Tensor:
    """Recordings [n, E] with texts [n, P, E], of which bool [n, P] are there; a scalar."""
    logits = scale * torch.einsum("ie,jpe->ijp", x, texts)  # [n, n, P]
    logits = logits.masked_fill(~there, -torch.inf)
    same = (group_ids[:, None] == group_ids[None])[..., None]  # [n, n, 1]
    own = logits.masked_fill(~same, -torch.inf).flatten(1).logsumexp(1)
    return (logits.flatten(1).logsumexp(1) - own).mean()


def ask_back(
    x: Tensor, texts: Tensor, there: Tensor, group_ids: Tensor, scale: Tensor | float
) -> Tensor:
    """Each text's own recording among all of them; a scalar."""
    said = texts[there]  # [m, E]
    rows = torch.arange(len(x), device=x.device)[:, None].expand(there.shape)[there]
    same = (group_ids[rows][:, None] == group_ids[None]).to(x.dtype)  # [m, n]
    return F.cross_entropy(scale * said @ x.T, same / same.sum(1, keepdim=True))


def several_texts_term(inputs: TermInputs, recording: str, *captions: str) -> Tensor | None:
    rows = inputs.has[recording] & inputs.has[captions[0]]
    if rows.sum() < 2:
        return None
    x = inputs.vectors[recording][rows]
    texts = torch.stack([inputs.vectors[name][rows] for name in captions], dim=1)
    there = torch.stack([inputs.has[name][rows] for name in captions], dim=1)
    arguments = (x, texts, there, inputs.group_ids[rows], inputs.model.scale)
    return (mil_nce(*arguments) + ask_back(*arguments)) / 2


def draw_other(
    row: Row, known: str | None, random: np.random.Generator, *, about: str, number: int
) -> str | None:
    """A caption of the row beside the one already drawn: the `number`-th of the others."""
    others = [caption.text for caption in row.captions_about(about) if caption.text != known]
    return others[number] if number < len(others) else None


def rows(settings: Settings) -> Rows:
    terms = []
    texts = []
    for about in ("audio", "video"):
        caption = f"{about}_caption"
        further = [f"{caption}_{number + 2}" for number in range(settings.texts - 1)]
        texts += [
            ExtraText(name=name, about=about, draw=partial(draw_other, about=about, number=number))
            for number, name in enumerate(further)
        ]
        terms.append(
            LossTerm(
                name=f"several_{about}_texts",
                needs=(about, caption, *further),
                weight=settings.weight,
                loss=several_texts_term,
                replaces=(f"{about}_text",),
            )
        )
    return Rows(terms=tuple(terms), texts=tuple(texts))
