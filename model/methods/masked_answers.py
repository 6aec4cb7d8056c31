"""Answers against masked ones, after contrast for video question answering (arXiv 2009.08043).

The paper masks part of the input that belongs to the right answer. What comes of it shall be nearer
to the answer itself than to the other ones. Here (ours) a row's question is its recording with its
caption, some of whose words are left out, and the answers are the captions of the batch. With
recordings x, captions y and captions m without some of their words:

    q_i = unit(x_i + m_i),  L = - mean_i log (e^{s q_i.y_i} / sum_j e^{s q_i.y_j})

What the words do not say any more has to come from the recording. Captions of rows of one group
are right alike. There are no questions in words: no manifest has any.

n rows, E embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from media.manifest import Row

from ..settings import NotNegative, PartOfAll
from ..training.losses import TermInputs
from ..training.tables import CAPTIONS, ExtraText, LossTerm, Rows


@dataclass(frozen=True, kw_only=True)
class Settings:
    weight: NotNegative = 2.0
    left_out: PartOfAll = 0.5  # share of a caption's words


def leave_out_words(
    row: Row, known: str | None, random: np.random.Generator, *, share: float
) -> str | None:
    """The drawn caption without a share of its words, at least one of which goes and one stays.
    None of a caption of one word.
    """
    words = (known or "").split()
    if len(words) < 2:
        return None
    count = min(max(1, round(share * len(words))), len(words) - 1)
    gone = set(random.choice(len(words), count, replace=False).tolist())
    return " ".join(word for place, word in enumerate(words) if place not in gone)


def answer(
    recordings: Tensor, masked: Tensor, captions: Tensor, group_ids: Tensor, scale: Tensor | float
) -> Tensor:
    """Of unit vectors [n, E] and groups int64 [n]; a scalar."""
    questions = F.normalize(recordings + masked, dim=-1)
    same = (group_ids[:, None] == group_ids[None]).to(captions.dtype)
    return F.cross_entropy(scale * questions @ captions.T, same / same.sum(1, keepdim=True))


def answer_term(inputs: TermInputs, recording: str, masked: str, caption: str) -> Tensor | None:
    selected = inputs.select(recording, masked, caption)
    if selected is None:
        return None
    (x, m, y), group_ids = selected
    return answer(x, m, y, group_ids, inputs.model.scale)


def rows(settings: Settings) -> Rows:
    draw = partial(leave_out_words, share=settings.left_out)
    texts = []
    terms = []
    for modality, caption in CAPTIONS.items():
        text = ExtraText(name=f"masked_{caption}", about=modality, draw=draw)
        term = LossTerm(
            name=f"{modality}_answers",
            needs=(modality, text.name, caption),
            weight=settings.weight,
            loss=answer_term,
        )
        texts.append(text)
        terms.append(term)
    return Rows(terms=tuple(terms), texts=tuple(texts))
