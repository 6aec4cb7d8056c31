"""Bound halves: a vector of two parts in their order, so that it can hold what comes first.

Two vectors become one by matrix binding of additive terms (Gallant and Okaywe, arXiv 1501.07627):

    v = unit(x + R y)

x is of what comes first, y of what comes second, unit vectors each. R is a fixed rotation, by a
right angle in random planes (`evaluation.composed.rotation`). So y is turned to where nothing of x
is, and x then y has another vector than y then x. What has no order is bound with itself, x = y.
Two such vectors have the cosine that their x have: (I + R)' (I + R) = 2 I.

Ours is what the parts are of:

- The parts of a sound are the halves of its window. A token counts for the half that it is in, one
  in the middle for both by halves. If nothing is left of a half, the other one takes its place.
- A video is bound with itself: its pictures are compared with all of a sound, and with texts.
- A token t of a text counts for the second part by g = sigmoid(w t), and for the first by 1 - g.
  With w = 0, as at first, a text is bound with itself. Which words come second is to be learned.

What the trunk gives for a part is its mean over the part's tokens, projected as ever. The real bed
adds it to the stem's reading of the part, and there the two sides of "then", "before" or "after"
have a reading each.

Gallant and Okaywe bind words of a sentence by one matrix for each place, unlearned and of any kind.

B batch, T tokens, D width, E embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluation.composed import rotation
from media.errors import BadConfig
from media.modality import AUDIO, TEXT

from ..config import EncoderConfig
from ..network.transformer import Halves
from ..training.tables import Rows, TwoParts


@dataclass(frozen=True, kw_only=True)
class Settings:
    """There are none."""


class Split(nn.Module):
    """What each token counts for in each part, see `Halves`."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.columns = config.grid[AUDIO][1]  # of time, in each row of a sound's tokens
        self.comes_second = nn.Parameter(torch.zeros(config.width))  # w

    def forward(
        self, modality: str, tokens: Tensor, places: Tensor | None, present: Tensor | None
    ) -> Tensor:
        there = torch.ones_like(tokens[..., 0]) if present is None else present.to(tokens.dtype)
        second = torch.full_like(there, 0.5)
        if modality == TEXT:
            second = torch.sigmoid(tokens @ self.comes_second.to(tokens.dtype))
        elif modality == AUDIO:
            second = self.in_second_half(tokens, places)
        shares = torch.stack([1 - second, second], dim=1) * there[:, None]  # [B, 2, T]
        counted = shares.sum(-1, keepdim=True)
        # A half of which nothing is left: all that is there is in the other one.
        shares = torch.where(counted > 0, shares, there[:, None])
        return shares / shares.sum(-1, keepdim=True).clamp(min=1e-9)

    def in_second_half(self, tokens: Tensor, places: Tensor | None) -> Tensor:
        """How much of each token of a sound is in the second half, [B, T]."""
        if places is None:
            places = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[:2])
        column = (places % self.columns).to(tokens.dtype)
        return (column + 1 - self.columns / 2).clamp(0.0, 1.0)


class Bind(nn.Module):
    """Unit vectors of what comes first and second, [B, E] each -> unit vectors [B, E]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.turn: Tensor
        self.register_buffer("turn", torch.from_numpy(rotation(dim).copy()), persistent=False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return F.normalize(first + second @ self.turn.to(second.dtype), dim=-1)


def make_halves(config: EncoderConfig) -> Halves:
    if config.dim % 2:
        raise BadConfig("bound_halves needs an embedding of an even number of dimensions")
    return Halves(Split(config), Bind(config.dim))


def rows(settings: Settings) -> Rows:
    return Rows(two_parts=(TwoParts(name="bound_halves", make=make_halves),))
