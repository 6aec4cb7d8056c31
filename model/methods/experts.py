"""A mixture of experts in the trunk: sparse MLPs, the idea of IMP (arXiv 2305.06324).

In every second block, n MLPs take the place of one. A router sends each token to the k that it
finds likest, so that the trunk has more weights and not much more compute. The router is that of
the Switch Transformer (2101.03961), for k = 2 that of GShard (2006.16668):

    p = softmax(W x),  y = sum over the k largest p_i of g_i E_i(x)

with g_i = p_i for k = 1, and p_i over their sum for more. The load is balanced by Switch's
auxiliary loss (its equations 4 to 6), for each such block over all tokens of the batch:

    L = n sum_i f_i P_i

f_i is the share of choices that fell on expert i, P_i the mean of p_i. It is 1 where the load is
even. Every pass for contrast counts, the joint pass of masked modelling does not.

There is no capacity: no token is dropped, so a vector does not depend on what shares its batch.
Each expert's tokens are gathered, and what it gives is added back where they were. It is the same
in training and in the graph.

B batch, T tokens, N tokens of all rows, D width, n experts, k chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from media.errors import BadConfig

from ..config import EncoderConfig
from ..network.transformer import Mlp
from ..settings import Count, NotNegative
from ..training.losses import TermInputs
from ..training.tables import Encoded, LossTerm, Reading, Rows, TrunkMlp

COUNTED = ("video", "audio", "video_caption", "audio_caption")


@dataclass(frozen=True, kw_only=True)
class Settings:
    experts: Count = 4
    chosen: Count = 1  # of them, for each token: 1 (Switch) or 2 (GShard)
    every: Count = 2  # blocks; the others keep their MLP
    weight: NotNegative = 0.05  # of the balance, 0.01 in Switch where the loss itself has 1


class Experts(nn.Module):
    """Tokens [B, T, D], each through `chosen` of several MLPs."""

    def __init__(self, width: int, experts: int, chosen: int) -> None:
        super().__init__()
        self.chosen = chosen
        self.router = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(Mlp(width) for _ in range(experts))
        self.load: Tensor | None = None  # of the last pass in training, see `count_load`

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        probabilities, gates, chosen = self.route(x)
        if self.training:
            self.load = count_load(probabilities, chosen, bias)
        tokens = x.flatten(0, 1)  # [N, D]
        choices = chosen.flatten(0, 1)  # [N, k]
        weights = gates.flatten(0, 1).to(x.dtype)  # [N, k]
        out = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            rows, choice = (choices == number).nonzero(as_tuple=True)
            given = expert(tokens[rows]) * weights[rows, choice][:, None]
            out = out.index_add(0, rows, given.to(out.dtype))
        return out.view_as(x)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """p [B, T, n], and of the experts chosen the gates and the numbers, [B, T, k].

        It is done in fp32 where the network is in bf16, as in the Switch Transformer.
        """
        wide = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            probabilities = F.linear(x.to(wide), self.router.weight.to(wide)).softmax(-1)
        gates, chosen = probabilities.topk(self.chosen, dim=-1)
        if self.chosen > 1:
            gates = gates / gates.sum(-1, keepdim=True)
        return probabilities, gates, chosen


def layers_of(model: Any) -> list[Experts]:
    return [module for module in model.blocks.modules() if isinstance(module, Experts)]


def load_width(config: EncoderConfig, *, settings: Settings) -> int:
    return 2 * settings.experts * (-(-config.depth // settings.every))


def count_load(probabilities: Tensor, chosen: Tensor, bias: Tensor | None) -> Tensor:
    """How the tokens of each row were routed, [B, 2 n]: the sums of p [B, T, n] over them, and how
    often each expert was chosen [B, T, k]. Tokens that `bias` leaves out are not counted.
    """
    times = F.one_hot(chosen, probabilities.shape[-1]).sum(2)  # [B, T, n]
    both = torch.cat([probabilities, times.to(probabilities.dtype)], dim=2)
    if bias is not None:
        both = both * (bias[:, 0, 0, :, None] == 0)
    return both.sum(1)


def read_load(model: Any, rows: Encoded) -> Tensor:
    """The load of each row just encoded, [B, 2 n layers]."""
    return torch.cat([layer.load for layer in layers_of(model) if layer.load is not None], dim=1)


def balance(load: Tensor, experts: int) -> Tensor:
    """The loss of a batch's load, [2 n layers], summed over the layers.

    Four tokens, of which two experts get three and one:

    >>> loss = balance(torch.tensor([2.8, 1.2, 3.0, 1.0]), 2)
    >>> round(loss.item(), 4)  # 2 (0.75 0.7 + 0.25 0.3)
    1.2
    """
    sums, times = load.view(-1, 2, experts).unbind(1)  # [layers, n]
    means = sums / sums.detach().sum(1, keepdim=True)  # p of a token sums to 1
    shares = times.detach() / times.detach().sum(1, keepdim=True)
    return experts * (shares * means).sum()


def balance_term(inputs: TermInputs, *names: str, experts: int) -> Tensor | None:
    load = torch.stack([inputs.vectors[name].sum(0) for name in names]).sum(0)
    return balance(load, experts) if load.any() else None


def make_experts(width: int, place: int, *, settings: Settings) -> nn.Module | None:
    """The first of each `every` blocks has experts, so that one has however few there are."""
    if place % settings.every:
        return None
    return Experts(width, settings.experts, settings.chosen)


def rows(settings: Settings) -> Rows:
    if settings.chosen > settings.experts:
        raise BadConfig("experts: chosen lies between 1 and experts")
    mlp = TrunkMlp(name="experts", make=partial(make_experts, settings=settings))
    readings = tuple(
        Reading(
            name=f"{name}_load",
            of=name,
            width=partial(load_width, settings=settings),
            read=read_load,
        )
        for name in COUNTED
    )
    term = LossTerm(
        name="expert_balance",
        needs=tuple(reading.name for reading in readings),
        weight=settings.weight,
        loss=partial(balance_term, experts=settings.experts),
    )
    return Rows(terms=(term,), mlps=(mlp,), readings=readings)
