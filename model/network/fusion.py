"""What a window's sound weighs beside its pictures in their joint vector, learned.

B batch, E embedding, R rank.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluation.retrieval import Join

MOST = 2.0  # no sound weighs more
START = 0.5  # what every sound weighs at first
RANK = 16
HIDDEN = 16
SHARPNESS = 3.0  # brings projections of unit vectors into the bend of tanh
LIKENESS = 5.0  # cosines of pictures and sound are small


class SoundGate(nn.Module):
    """Unit vectors [B, E] of pictures v and of sound a -> the weight w of each sound, [B].

        x = tanh(3 P v + p),  y = tanh(3 Q a + q),  w = MOST sigmoid(MLP[x, y, x y, 5 v.a])

    The joint vector is unit(v + w a). It is a gated multimodal unit (Arevalo et al., 1702.01992)
    whose gate is one number for a window. So a joint vector stays a sum of two stored ones, and
    nothing is indexed a third time.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.seen = nn.Linear(dim, RANK)
        self.heard = nn.Linear(dim, RANK)
        self.up = nn.Linear(3 * RANK + 1, HIDDEN)
        self.down = nn.Linear(HIDDEN, 1)
        nn.init.zeros_(self.down.weight)
        nn.init.constant_(self.down.bias, math.log(START / (MOST - START)))

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        x = torch.tanh(SHARPNESS * self.seen(video))
        y = torch.tanh(SHARPNESS * self.heard(audio))
        likeness = LIKENESS * (video * audio).sum(-1, keepdim=True)
        hidden = torch.tanh(self.up(torch.cat([x, y, x * y, likeness], dim=1)))
        return MOST * torch.sigmoid(self.down(hidden).squeeze(-1))


def join(video: Tensor, audio: Tensor, weight: Tensor | float) -> Tensor:
    """Unit vectors [B, E] of pictures and sound together; a row that lacks one has zeros for it.

    `weight` is [B], or one for all.

    >>> join(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.75).tolist()
    [[0.800000011920929, 0.6000000238418579]]
    """
    weights = torch.as_tensor(weight, dtype=video.dtype, device=video.device).reshape(-1, 1)
    return F.normalize(video + weights * audio, dim=-1)


def learned_join(fusion: nn.Module) -> Join:
    """Joint vectors whose sound weighs what a network says of it, see `Embedder`."""

    @torch.no_grad()
    def add(
        video: NDArray[np.float32], audio: NDArray[np.float32], has_both: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        weights = np.ones(len(video), np.float32)
        both = np.flatnonzero(has_both)
        device = next(fusion.parameters()).device
        sides = [torch.from_numpy(x[both]).to(device) for x in (video, audio)]
        weights[both] = fusion(*sides).cpu().numpy()
        return video + weights[:, None] * audio

    return add
