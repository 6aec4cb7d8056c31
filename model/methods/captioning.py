"""Captions told beside contrast, after CoCa (arXiv 2205.01917) and cMIM (2502.19642).

A small decoder tells the caption y of a recording x, each token from those before it:

    L = - sum_t log P(y_t | y_1 ... y_t-1, x), the mean over the tokens of all rows

The lower half of its layers sees the words alone, as CoCa's does. In the upper half words also
attend to the trunk's states of the pictures or of the sound. With `from_vector` there is one state
to attend to, the recording's vector. That is cMIM's idea: what is told and what contrast compares
are one code. Its bound of mutual information is not here, nor is CoCa's pooling by attention.
Texts have an encoder of their own, the trunk, so (ours) the lower half gives no vector.

The decoder is for training alone, one for pictures and sound. CoCa weighs captions twice as much as
contrast, whose weight is 5 here.

n rows, T tokens of a caption, S states, D their width, W the decoder's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from media.errors import BadConfig
from media.text import PAD_ID

from ..network.transformer import TrunkPass, initialise, random_rows
from ..settings import Count, NotNegative
from ..training.losses import TermInputs
from ..training.tables import CAPTIONS, Encoded, LossTerm, Reading, Rows, TermPart

PART = "captioner"


@dataclass(frozen=True, kw_only=True)
class Settings:
    weight: NotNegative = 10.0
    from_vector: bool = False  # which tells from the vector in place of the states
    width: Count = 128
    heads: Count = 4
    depth: Count = 2  # layers, of which the lower half sees words alone


class Captioner(nn.Module):
    """Captions int64 [n, T] and states of n recordings -> logits of every next token
    [n, T - 1, vocabulary].
    """

    def __init__(self, vocabulary: int, tokens: int, inputs: int, settings: Settings) -> None:
        super().__init__()
        width = settings.width
        shape: dict[str, Any] = {"dim_feedforward": 4 * width, "dropout": 0.0, "activation": F.gelu}
        shape |= {"batch_first": True, "norm_first": True}
        alone = settings.depth // 2
        self.words = nn.Embedding(vocabulary, width)
        self.positions = random_rows(tokens, width)
        self.states = nn.Linear(inputs, width)
        self.alone = nn.ModuleList(
            nn.TransformerEncoderLayer(width, settings.heads, **shape) for _ in range(alone)
        )
        self.attending = nn.ModuleList(
            nn.TransformerDecoderLayer(width, settings.heads, **shape)
            for _ in range(settings.depth - alone)
        )
        self.norm = nn.LayerNorm(width)
        self.apply(initialise)

    def forward(self, captions: Tensor, states: TrunkPass) -> Tensor:
        given = captions[:, :-1]  # padding comes last, so no word sees it
        length = given.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=given.device).triu(1)
        absent = None if states.present is None else ~states.present
        seen = self.states(states.tokens)
        x = self.words(given) + self.positions[:length]
        for layer in self.alone:
            x = layer(x, src_mask=later)
        for layer in self.attending:
            x = layer(x, seen, tgt_mask=later, memory_key_padding_mask=absent)
        logits: Tensor = self.norm(x) @ self.words.weight.T
        return logits


def make_captioner(network: Any, *, settings: Settings) -> Captioner:
    config = network.config
    inputs = config.dim if settings.from_vector else config.width
    return Captioner(config.vocabulary, config.tokens, inputs, settings)


def tell(captioner: nn.Module, captions: Tensor, states: TrunkPass) -> Tensor:
    """What each caption int64 [n, T] costs its recording: the sum of -log P over its tokens, and
    how many there are; [n, 2].
    """
    targets = captions[:, 1:]
    logits = captioner(captions, states).transpose(1, 2)  # [n, vocabulary, T - 1]
    wide = torch.promote_types(logits.dtype, torch.float32)
    losses = F.cross_entropy(logits.to(wide), targets, ignore_index=PAD_ID, reduction="none")
    return torch.stack([losses.sum(1), (targets != PAD_ID).sum(1)], dim=1)


def read_told(network: Any, rows: Encoded, *, caption: str, from_vector: bool) -> Tensor:
    """`tell` of each row's caption, zeros where there is none; [n, 2]."""
    told = torch.zeros(len(rows.vectors), 2, device=rows.vectors.device)
    having = rows.has[caption].nonzero().squeeze(1)
    if not len(having):
        return told
    states = TrunkPass(rows.vectors[:, None]) if from_vector else network.last_pass
    present = None if states.present is None else states.present[having]
    states = TrunkPass(states.tokens[having], present=present)
    costs = tell(network.parts[PART], rows.captions[caption][having], states)
    return told.index_put((having,), costs)


def caption_term(inputs: TermInputs, *names: str) -> Tensor | None:
    """The mean over all tokens, of the last of `names`."""
    cost, count = inputs.vectors[names[-1]].sum(0)
    return cost / count.detach() if count else None


def rows(settings: Settings) -> Rows:
    if settings.width % settings.heads:
        raise BadConfig("captioning: width is a multiple of heads")
    readings = tuple(
        Reading(
            name=f"{modality}_told",
            of=modality,
            width=lambda _: 2,
            read=partial(read_told, caption=caption, from_vector=settings.from_vector),
        )
        for modality, caption in CAPTIONS.items()
    )
    terms = tuple(
        LossTerm(
            name=f"{reading.of}_captioning",
            needs=(reading.of, CAPTIONS[reading.of], reading.name),
            weight=settings.weight,
            loss=caption_term,
        )
        for reading in readings
    )
    part = TermPart(name=PART, make=partial(make_captioner, settings=settings))
    return Rows(terms=terms, readings=readings, parts=(part,))
