"""Matching with hard negatives, after ALBEF (arXiv 2107.07651) and CoAVT.

The core's matching replaces one side of a pair by a row some way off, which is seldom hard. Here
each side is replaced by the row of another group that is most like its partner:

    L = mean of BCE(match(a_i, b_i), 1), BCE(match(a_i, b_h(i)), 0), BCE(match(a_g(i), b_i), 0)

with h(i) = argmax_j a_i.b_j and g(i) = argmax_j a_j.b_i of the unit vectors. ALBEF draws the
negatives by their likeness; the likest one (ours) needs no chance.

`match` is the core's head, linear on the product of the two vectors. With `parts` it is a small
transformer over the trunk's states of both sides, as ALBEF's multimodal encoder is. Of each side it
sees that many means of successive states (ours): all states of all rows of a batch would have to be
gathered from its pieces and processes.

n rows, m pairs of them, E embedding, T states, D their width, K parts, W the matcher's width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from media.errors import BadConfig

from ..config import EncoderConfig
from ..network.transformer import TrunkPass, initialise, random_rows
from ..settings import Count, CountOrZero, NotNegative
from ..training.losses import TermInputs
from ..training.tables import Encoded, LossTerm, Reading, Rows, TermPart

PAIRS = {"audio_video": ("audio", "video"), "audio_text": ("audio", "audio_caption")}
PART = "matcher"


@dataclass(frozen=True, kw_only=True)
class Settings:
    weight: NotNegative = 5.0
    parts: CountOrZero = 0  # of the states of a side; 0: its vector
    width: Count = 128  # of the transformer, and its heads and layers
    heads: Count = 4
    depth: Count = 1


class Matcher(nn.Module):
    """Parts of the states of both sides of pairs, [m, K, D] each -> logits [m] of whether the two
    belong together.
    """

    def __init__(self, inputs: int, settings: Settings) -> None:
        super().__init__()
        width = settings.width
        self.enter = nn.Linear(inputs, width)
        self.places = random_rows(2 * settings.parts, width)
        self.pair = random_rows(1, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, settings.heads, 4 * width, 0.0, F.gelu, batch_first=True, norm_first=True
            )
            for _ in range(settings.depth)
        )
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, 1)
        self.apply(initialise)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        seen = self.enter(torch.cat([a, b], dim=1)) + self.places
        x = torch.cat([self.pair.expand(len(seen), 1, -1), seen], dim=1)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.leave(self.norm(x[:, 0])).squeeze(-1)
        return logits


def mean_parts(states: TrunkPass, parts: int) -> Tensor:
    """The means of `parts` even stretches of each row's states, in their order; [n, K, D]. A
    stretch without states is zeros.
    """
    tokens = states.tokens
    present = states.present
    if present is None:
        present = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
    rank = present.cumsum(1) - 1
    stretch = rank * parts // present.sum(1, keepdim=True).clamp(min=1)
    belongs = F.one_hot(stretch.clamp(min=0), parts).to(tokens.dtype) * present[..., None]
    counts = belongs.sum(1).clamp(min=1)  # [n, K]
    return belongs.transpose(1, 2) @ tokens / counts[..., None]


def hard_matching(
    match: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, group_ids: Tensor
) -> Tensor:
    """Of unit vectors [n, E] and groups int64 [n]; a scalar. `match` takes rows of a and rows of b,
    int64 [m] each, to logits [m]. Rows without another group have no negatives.
    """
    with torch.no_grad():
        same = group_ids[:, None] == group_ids[None]
        likeness = (a @ b.T).masked_fill(same, -torch.inf)  # [n, n]
        others = (~same).any(1).nonzero().squeeze(1)
        rows = torch.arange(len(a), device=a.device)
        rows_a = torch.cat([rows, others, likeness.argmax(0)[others]])
        rows_b = torch.cat([rows, likeness.argmax(1)[others], others])
    logits = match(rows_a, rows_b)
    labels = (torch.arange(len(logits), device=a.device) < len(a)).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, labels)


def vector_term(inputs: TermInputs, a: str, b: str, *, head: str) -> Tensor | None:
    pairs = inputs.select_pairs(a, b)
    if pairs is None:
        return None

    def match(rows_a: Tensor, rows_b: Tensor) -> Tensor:
        logits: Tensor = inputs.model.match[head](pairs.a[rows_a] * pairs.b[rows_b])
        return logits.squeeze(-1)

    return hard_matching(match, pairs.a, pairs.b, pairs.group_ids)


def state_term(
    inputs: TermInputs, a: str, b: str, states_a: str, states_b: str, *, parts: int
) -> Tensor | None:
    pairs = inputs.select_pairs(a, b)
    if pairs is None:
        return None
    both = inputs.has[a] & inputs.has[b]
    seen_a, seen_b = (
        inputs.vectors[name][both].reshape(len(pairs.a), parts, -1) for name in (states_a, states_b)
    )

    def match(rows_a: Tensor, rows_b: Tensor) -> Tensor:
        logits: Tensor = inputs.model.parts[PART](seen_a[rows_a], seen_b[rows_b])
        return logits

    return hard_matching(match, pairs.a, pairs.b, pairs.group_ids)


def read_states(network: Any, _: Encoded, *, parts: int) -> Tensor:
    """What the matcher sees of each row that was encoded; [n, K D]."""
    return mean_parts(network.last_pass, parts).flatten(1)


def width_of(encoder: EncoderConfig, *, parts: int) -> int:
    return parts * encoder.width


def make_matcher(network: Any, *, settings: Settings) -> Matcher:
    return Matcher(network.config.width, settings)


def states_of(side: str) -> str:
    return f"{side}_states"


def match_vectors(settings: Settings) -> Rows:
    terms = (
        LossTerm(
            name=f"{pair}_hard_match",
            needs=sides,
            weight=settings.weight,
            loss=partial(vector_term, head=pair),
            replaces=(f"{pair}_match",),
        )
        for pair, sides in PAIRS.items()
    )
    return Rows(terms=tuple(terms))


def match_states(settings: Settings) -> Rows:
    readings = (
        Reading(
            name=states_of(side),
            of=side,
            width=partial(width_of, parts=settings.parts),
            read=partial(read_states, parts=settings.parts),
        )
        for side in dict.fromkeys(side for sides in PAIRS.values() for side in sides)
    )
    terms = (
        LossTerm(
            name=f"{pair}_hard_match",
            needs=(*sides, *map(states_of, sides)),
            weight=settings.weight,
            loss=partial(state_term, parts=settings.parts),
            replaces=(f"{pair}_match",),
        )
        for pair, sides in PAIRS.items()
    )
    part = TermPart(name=PART, make=partial(make_matcher, settings=settings))
    return Rows(terms=tuple(terms), readings=tuple(readings), parts=(part,))


def rows(settings: Settings) -> Rows:
    if settings.width % settings.heads:
        raise BadConfig("hard_matching: width is a multiple of heads")
    return match_states(settings) if settings.parts else match_vectors(settings)
