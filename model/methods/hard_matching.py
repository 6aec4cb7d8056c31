"""Matching with hard negatives, after ALBEF (arXiv 2107.07651) and CoAVT.

The core's matching replaces one side of a pair by a row some way off, which is seldom hard. Here
each side is replaced by the row of another group that is most like its partner:

    L = mean of BCE(head(a_i b_i), 1), BCE(head(a_i b_h(i)), 0), BCE(head(a_g(i) b_i), 0)

with h(i) = argmax_j a_i.b_j and g(i) = argmax_j a_j.b_i. The head is the core's, linear on the
product. ALBEF draws the negatives by their likeness; the likest one (ours) needs no chance.

n rows, E embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..training.losses import TermInputs
from ..training.tables import LossTerm, Rows


@dataclass(frozen=True, kw_only=True)
class Settings:
    weight: float = 5.0


def hard_matching(head: nn.Module, a: Tensor, b: Tensor, group_ids: Tensor) -> Tensor:
    """Of unit vectors [n, E] and groups int64 [n]; a scalar. Rows without another group do not
    count.
    """
    with torch.no_grad():
        same = group_ids[:, None] == group_ids[None]
        likeness = (a @ b.T).masked_fill(same, -torch.inf)  # [n, n]
        hardest_b = likeness.argmax(1)
        hardest_a = likeness.argmax(0)
        others = (~same).any(1)
    true = head(a * b).squeeze(-1)
    false = torch.cat([head(a * b[hardest_b]), head(a[hardest_a] * b)]).squeeze(-1)
    false = false[torch.cat([others, others])]
    labels = torch.cat([torch.ones_like(true), torch.zeros_like(false)])
    return F.binary_cross_entropy_with_logits(torch.cat([true, false]), labels)


def hard_term(inputs: TermInputs, a: str, b: str, *, head: str) -> Tensor | None:
    pairs = inputs.select_pairs(a, b)
    if pairs is None:
        return None
    return hard_matching(inputs.model.match[head], pairs.a, pairs.b, pairs.group_ids)


def rows(settings: Settings) -> Rows:
    needs = {"audio_video": ("audio", "video"), "audio_text": ("audio", "audio_caption")}
    terms = tuple(
        LossTerm(
            name=f"{pair}_hard_match",
            needs=names,
            weight=settings.weight,
            loss=partial(hard_term, head=pair),
            replaces=(f"{pair}_match",),
        )
        for pair, names in needs.items()
    )
    return Rows(terms=terms)
