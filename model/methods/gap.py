"""The contrastive gap (arXiv 2405.18570): terms that close it, and the gap as a metric.

For pairs of unit vectors x_i, y_i of two modalities (after Wang and Isola, 2005.10242):

    L_align    = mean_i ||x_i - y_i||^2
    L_uniform  = 1/2 log mean_{i != j} e^{-2 ||x_i - x_j||^2} + the same of y
    L_xuniform = log mean_{i != j} e^{-2 ||x_i - y_j||^2}

The gap between two modalities is the distance of their mean vectors.

n rows, E embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from evaluation.composed import measure_gaps

from ..settings import NotNegative
from ..training.losses import TermInputs
from ..training.tables import LossTerm, Metric, Rows

PAIRS = (("audio", "video"), ("audio", "audio_caption"), ("video", "video_caption"))


@dataclass(frozen=True, kw_only=True)
class Settings:
    align_weight: NotNegative = 0.5
    uniform_weight: NotNegative = 0.5
    cross_weight: NotNegative = 0.5


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Between unit vectors [n, E] and [m, E]: [n, m]. A product, which has a gradient at zero."""
    return 2 - 2 * x @ y.T


def alignment(x: Tensor, y: Tensor) -> Tensor:
    """The mean squared distance of pairs of unit vectors [n, E]; a scalar.

    >>> alignment(torch.eye(2), torch.eye(2).flip(0)).item()
    2.0
    """
    return (2 - 2 * (x * y).sum(-1)).mean()


def uniformity(x: Tensor, y: Tensor) -> Tensor:
    """log mean e^{-2 d^2} over the pairs of different rows of unit vectors [n, E]; a scalar.

    >>> round(uniformity(torch.eye(2), torch.eye(2)).item(), 4)  # d^2 is 2
    -4.0
    """
    n = len(x)
    others = ~torch.eye(n, dtype=torch.bool, device=x.device)
    total = (-2 * squared_distances(x, y))[others].logsumexp(0)
    return total - math.log(n * (n - 1))


def align_term(inputs: TermInputs, *names: str) -> Tensor | None:
    return mean_over_pairs(inputs, alignment)


def uniform_term(inputs: TermInputs, *names: str) -> Tensor | None:
    return mean_over_pairs(inputs, lambda x, y: (uniformity(x, x) + uniformity(y, y)) / 2)


def cross_term(inputs: TermInputs, *names: str) -> Tensor | None:
    return mean_over_pairs(inputs, uniformity)


def mean_over_pairs(inputs: TermInputs, loss: Any) -> Tensor | None:
    """The mean of a loss over the pairs of modalities of which enough rows have both."""
    selected = [inputs.select_pairs(a, b) for a, b in PAIRS]
    losses = [loss(pairs.a, pairs.b) for pairs in selected if pairs is not None]
    return torch.stack(losses).mean() if losses else None


def rows(settings: Settings) -> Rows:
    needs = tuple(sorted({name for pair in PAIRS for name in pair}))
    weights = {
        "align": (settings.align_weight, align_term),
        "uniform": (settings.uniform_weight, uniform_term),
        "cross_uniform": (settings.cross_weight, cross_term),
    }
    terms = tuple(
        LossTerm(name=name, needs=needs, weight=weight, loss=partial(loss))
        for name, (weight, loss) in weights.items()
        if weight
    )
    metric = Metric(name="gap", measure=lambda found: measure_gaps(found.vectors))
    return Rows(terms=terms, metrics=(metric,))
