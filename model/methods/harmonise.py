"""Gradient harmonising (arXiv 2211.02077): realignment and a curriculum by conflict.

The terms of two pairs of modalities share what the trunk gives for one of them. There their
gradients g and h may point against each other. Realignment is PCGrad (2001.06782), by which each
loses its part along the other, over all rows of the batch:

    if g.h < 0:  g' = g - (g.h / h.h) h,  h' = h - (h.g / g.g) g

The curriculum takes conflict within a row for a sign that its modalities do not belong together. A
row learns only while its own gradients agree by more than a threshold, which rises from gamma_0 to
gamma_1 over the run:

    keep row i  if  cos(g_i, h_i) > gamma_0 + (gamma_1 - gamma_0) step / steps

The abstract says what is realigned and that a curriculum goes by the conflict. This formula and
-0.3 and 0 for gamma come from a summary of the paper, and were not compared with its text. Ours: a
row has to agree on each vector that two groups of terms share, and a row without two gradients is
kept. A row that is left out stays a negative of the others.

It is done for each vector that two groups of terms share, in however many pieces or processes the
batch is encoded. The cosines are logged.

B rows of a batch, E embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations, permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from media.errors import BadConfig

from ..settings import Number
from ..training.tables import GradientRule, Rows

Shared = dict[str, list[Tensor]]  # vector -> the gradient [B, E] of each group of terms


@dataclass(frozen=True, kw_only=True)
class Settings:
    # terms that count as one; any other term is one of its own
    groups: tuple[tuple[str, ...], ...] = (
        ("audio_video", "audio_video_match"),
        ("audio_text", "audio_text_match"),
    )
    realign: bool = True
    curriculum: tuple[Number, Number] | None = None  # gamma at the first and at the last step


def project(gradients: list[Tensor]) -> Tensor:
    """The sum of gradients [B, E], each without its part against any of the others; [B, E].

    >>> g, h = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 1.0]])
    >>> project([g, h]).tolist()  # (0.5, 0.5) + (0, 1)
    [[0.5, 1.5]]
    """
    kept = list(gradients)
    for i, j in permutations(range(len(gradients)), 2):
        against = (kept[i] * gradients[j]).sum()
        length = gradients[j].square().sum().clamp(min=1e-20)
        kept[i] = kept[i] - against.clamp(max=0.0) / length * gradients[j]
    return torch.stack(kept).sum(0)


def sum_by_group(
    by_term: Mapping[str, Mapping[str, Tensor]], groups: Iterable[tuple[str, ...]]
) -> Shared:
    """The gradients of each group of terms, for each vector."""
    group_of = {term: group for group in groups for term in group}
    sums: dict[str, dict[tuple[str, ...], Tensor]] = {}
    for term, found in by_term.items():
        group = group_of.get(term, (term,))
        for name, gradient in found.items():
            shared = sums.setdefault(name, {})
            shared[group] = shared[group] + gradient if group in shared else gradient
    return {name: list(shared.values()) for name, shared in sums.items()}


def mean_cosines(shared: Shared) -> dict[str, Tensor]:
    """The mean cosine of the groups' gradients over the batch, on each vector that they share."""
    cosines = {}
    for name, gradients in shared.items():
        if len(gradients) > 1:
            flat = F.normalize(torch.stack([x.flatten() for x in gradients]), dim=1)
            likeness = flat @ flat.T
            pairs = len(flat) * (len(flat) - 1)
            cosines[f"cosine_{name}"] = (likeness.sum() - likeness.trace()) / pairs
    return cosines


def row_cosines(shared: Shared) -> Tensor | None:
    """The least cosine of two gradients of each row, [B]: 1 of a row that has no two of one vector.
    None where no vector is shared.

    >>> g, h = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[-2.0, 0.0], [0.0, 0.0]])
    >>> row_cosines({"video": [g, h]}).tolist()
    [-1.0, 1.0]
    """
    found = []
    for gradients in shared.values():
        for g, h in combinations(gradients, 2):
            has_both = g.any(1) & h.any(1)
            cosines = F.cosine_similarity(g, h, dim=1, eps=1e-20)
            found.append(torch.where(has_both, cosines, torch.ones_like(cosines)))
    return torch.stack(found).amin(0) if found else None


def harmonise(
    by_term: Mapping[str, Mapping[str, Tensor]], progress: float, *, settings: Settings
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The gradients to use, and figures: the cosines, and the share of the rows that learn."""
    shared = sum_by_group(by_term, settings.groups)
    figures = mean_cosines(shared)
    cosines = row_cosines(shared)
    if settings.curriculum is not None and cosines is not None:
        first, last = settings.curriculum
        kept = (cosines > first + (last - first) * progress).to(cosines.dtype)
        shared = {name: keep_rows(gradients, kept) for name, gradients in shared.items()}
        figures["rows_kept"] = kept.mean()
    join = project if settings.realign else sum_gradients
    return {name: join(gradients) for name, gradients in shared.items()}, figures


def keep_rows(gradients: list[Tensor], kept: Tensor) -> list[Tensor]:
    """Gradients [n, dim] times `kept` [n], which is 1 for a row that learns and else 0."""
    return [gradient * kept[:, None] for gradient in gradients]


def sum_gradients(gradients: list[Tensor]) -> Tensor:
    return torch.stack(gradients).sum(0)


def rows(settings: Settings) -> Rows:
    if not settings.realign and settings.curriculum is None:
        raise BadConfig("harmonise: neither realign nor curriculum is on")
    terms = tuple(term for group in settings.groups for term in group)
    if len(set(terms)) < len(terms):
        raise BadConfig("harmonise: a term is in two groups, or twice in one")
    combine = partial(harmonise, settings=settings)
    rule = GradientRule(name="harmonise", combine=combine, terms=terms)
    return Rows(gradient_rules=(rule,))
