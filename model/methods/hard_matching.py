"""Matching with hard negatives, after ALBEF (arXiv 2107.07651) and CoAVT.

The core's matching replaces one side of a pair by a row some way off, which is seldom hard. Here
each side is replaced by the row of another group that is most like its partner:

    L = mean of BCE(match(a_i, b_i), 1), BCE(match(a_i, b_h(i)), 0), BCE(match(a_g(i), b_i), 0)

with h(i) = argmax_j a_i.b_j and g(i) = argmax_j a_j.b_i of the unit vectors. ALBEF draws the
negatives by their likeness; the likest one (ours) needs no chance.

`match` is the core's head, linear on the product of the two vectors. With `states` it is a small
transformer over the trunk's states of both sides, as ALBEF's multimodal encoder is. Of each side it
sees that many means of successive states (ours): all states of all rows of a batch would have to be
gathered from its pieces and processes.

n rows, m pairs of them, E embedding, D the width of a state, K means of states.
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
    states: CountOrZero = 0  # means of a side's states that are seen; 0: its vector is
    width: Count = 128  # of the transformer, and its heads and layers
    heads: Count = 4
    depth: Count = 1


class Matcher(nn.Module):
    """Means of the states of both sides of pairs, [m, K, D] each -> logits [m] of whether the two
    belong together.
    """

    def __init__(self, inputs: int, settings: Settings) -> None:
        super().__init__()
        width = settings.width
        self.enter = nn.Linear(inputs, width)
        self.places = random_rows(2 * settings.states, width)
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


def mean_states(states: TrunkPass, means: int) -> Tensor:
    """The means of so many even stretches of each row's states, in their order; [n, K, D]. That of
    a stretch without states is zeros.
    """
    tokens = states.tokens
    present = states.present
    if present is None:
        present = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
    rank = present.cumsum(1) - 1
    stretch = rank * means // present.sum(1, keepdim=True).clamp(min=1)
    belongs = F.one_hot(stretch.clamp(min=0), means).to(tokens.dtype) * present[..., None]
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
    inputs: TermInputs, a: str, b: str, states_a: str, states_b: str, *, means: int
) -> Tensor | None:
    pairs = inputs.select_pairs(a, b)
    if pairs is None:
        return None
    both = inputs.has[a] & inputs.has[b]
    seen_a, seen_b = (
        inputs.vectors[name][both].reshape(len(pairs.a), means, -1) for name in (states_a, states_b)
    )

    def match(rows_a: Tensor, rows_b: Tensor) -> Tensor:
        logits: Tensor = inputs.model.parts[PART](seen_a[rows_a], seen_b[rows_b])
        return logits

    return hard_matching(match, pairs.a, pairs.b, pairs.group_ids)


def read_states(network: Any, _: Encoded, *, means: int) -> Tensor:
    """What the matcher sees of each row that was encoded; [n, K D]."""
    return mean_states(network.last_pass, means).flatten(1)


def width_of(encoder: EncoderConfig, *, means: int) -> int:
    return means * encoder.width


def make_matcher(network: Any, *, settings: Settings) -> Matcher:
    return Matcher(network.config.width, settings)


def states_of(side: str) -> str:
    return f"{side}_states"


def make_term(pair: str, sides: tuple[str, str], settings: Settings) -> LossTerm:
    needs: tuple[str, ...] = sides
    loss: Callable[..., Tensor | None] = partial(vector_term, head=pair)
    if settings.states:
        needs = (*sides, *map(states_of, sides))
        loss = partial(state_term, means=settings.states)
    return LossTerm(
        name=f"{pair}_hard_match",
        needs=needs,
        weight=settings.weight,
        loss=loss,
        replaces=(f"{pair}_match",),
    )


def rows(settings: Settings) -> Rows:
    if settings.width % settings.heads:
        raise BadConfig("hard_matching: width is a multiple of heads")
    terms = tuple(make_term(pair, sides, settings) for pair, sides in PAIRS.items())
    if not settings.states:
        return Rows(terms=terms)
    readings = (
        Reading(
            name=states_of(side),
            of=side,
            width=partial(width_of, means=settings.states),
            read=partial(read_states, means=settings.states),
        )
        for side in sorted({side for sides in PAIRS.values() for side in sides})
    )
    part = TermPart(name=PART, make=partial(make_matcher, settings=settings))
    return Rows(terms=terms, readings=tuple(readings), parts=(part,))
