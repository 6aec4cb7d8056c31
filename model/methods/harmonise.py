"""Gradient harmonising (arXiv 2211.02077) by projection, PCGrad (2001.06782).

The terms of two pairs of modalities share what the trunk gives for one of them. There their
gradients g and h may point against each other. Then each loses its part along the other:

    if g.h < 0:  g' = g - (g.h / h.h) h,  h' = h - (h.g / g.g) g

It is done for each vector that two groups of terms share, over all rows of the batch, in however
many pieces or processes it is encoded. The cosines are logged. The curriculum by conflict is not
built.

B rows of a batch, E embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..training.tables import GradientRule, Rows


@dataclass(frozen=True, kw_only=True)
class Settings:
    # terms that count as one; any other term is one of its own
    groups: tuple[tuple[str, ...], ...] = (
        ("audio_video", "audio_video_match"),
        ("audio_text", "audio_text_match"),
    )


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


def harmonise(
    by_term: Mapping[str, Mapping[str, Tensor]], groups: tuple[tuple[str, ...], ...]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The gradients to use, and the mean cosine on each vector that groups share."""
    group_of = {term: group for group in groups for term in group}
    sums: dict[str, dict[tuple[str, ...], Tensor]] = {}
    for term, found in by_term.items():
        group = group_of.get(term, (term,))
        for name, gradient in found.items():
            shared = sums.setdefault(name, {})
            shared[group] = shared[group] + gradient if group in shared else gradient
    gradients, cosines = {}, {}
    for name, shared in sums.items():
        gradients[name] = project(list(shared.values()))
        if len(shared) > 1:
            flat = F.normalize(torch.stack([x.flatten() for x in shared.values()]), dim=1)
            likeness = flat @ flat.T
            pairs = len(flat) * (len(flat) - 1)
            cosines[f"cosine_{name}"] = (likeness.sum() - likeness.trace()) / pairs
    return gradients, cosines


def rows(settings: Settings) -> Rows:
    groups = tuple(tuple(group) for group in settings.groups)
    rule = GradientRule(name="harmonise", combine=partial(harmonise, groups=groups))
    return Rows(gradient_rules=(rule,))
