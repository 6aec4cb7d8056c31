"""CoMix (arXiv 2110.15128): a video finds itself at another speed, and with another's background.

The second view of a video plays a stretch of 1 / `speed` of the window, drawn by chance, in as many
frames. The third plays another such stretch and has a background mixed in. That is the median over
time b of another row's frames, of which nothing is left that moves:

    frame' = (1 - m) frame + m b,  m uniform between 0 and `most_mixed`

Of unit vectors x of the videos, their second views p_1 and their third ones p_2:

    P_i = sum_k e^{s x_i.p_ki},  L = - mean_i log (P_i / (P_i + N_i))

N_i sums e^{s x_i.y_j} over the other rows j at either speed: y is x, p_1 and p_2. Rows of one group
count as one row. The paper adapts to an unlabelled domain: its backgrounds come from the other
domain, and pseudo-labels give a further loss. That is left out. The formula was written from the
abstract and a summary, and not compared with the paper's text.

F frames, n rows, E embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ..settings import NotNegative, ShareAboveZero
from ..training.losses import TermInputs
from ..training.tables import LossTerm, Rows, View

OTHER_SPEED = "other_speed_video"
MIXED = "mixed_video"


@dataclass(frozen=True, kw_only=True)
class Settings:
    weight: NotNegative = 1.0
    # how many times slower the other views play
    speed: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 2.0
    most_mixed: ShareAboveZero = 0.5  # of a frame that is background


def slow_down(frames: NDArray[Any], random: np.random.Generator, *, speed: float) -> NDArray[Any]:
    """A stretch of frames [F, ...] `speed` times slower, in as many frames."""
    last = len(frames) - 1
    length = last / speed
    start = random.uniform(0.0, last - length)
    at = np.linspace(start, start + length, len(frames)).round().astype(int)
    slower: NDArray[Any] = frames[at]
    return slower


def mix_background(
    frames: NDArray[Any], others: NDArray[Any], random: np.random.Generator, *, most: float
) -> NDArray[Any]:
    """Frames [F, ...] with the median over time of another row's behind them, of one type."""
    share = random.uniform(0.0, most)
    mixed = (1 - share) * frames + share * np.median(others, axis=0)
    if np.issubdtype(frames.dtype, np.integer):
        mixed = mixed.round()
    as_before: NDArray[Any] = mixed.astype(frames.dtype)
    return as_before


def find_positives(
    x: Tensor, positives: Tensor, group_ids: Tensor, scale: Tensor | float
) -> Tensor:
    """Unit vectors x [n, E] and several views of each row [n, K, E], see above; a scalar."""
    same = group_ids[:, None] == group_ids[None]  # [n, n]
    to_views = scale * torch.einsum("ie,jke->ijk", x, positives)  # [n, n, K]
    to_videos = (scale * x @ x.T).masked_fill(same, -torch.inf)  # [n, n]
    own = to_views.masked_fill(~same[..., None], -torch.inf).flatten(1).logsumexp(1)
    every = torch.cat([to_views.flatten(1), to_videos], dim=1).logsumexp(1)
    return (every - own).mean()


def speeds_term(inputs: TermInputs, video: str, *views: str) -> Tensor | None:
    selected = inputs.select(video, *views)
    if selected is None:
        return None
    (x, *positives), group_ids = selected
    return find_positives(x, torch.stack(positives, dim=1), group_ids, inputs.model.scale)


def rows(settings: Settings) -> Rows:
    slower = partial(slow_down, speed=settings.speed)
    mix = partial(mix_background, most=settings.most_mixed)
    views = (
        View(name=OTHER_SPEED, of="video", change=slower),
        View(name=MIXED, of="video", change=slower, mix=mix),
    )
    term = LossTerm(
        name="speeds",
        needs=("video", OTHER_SPEED, MIXED),
        weight=settings.weight,
        loss=speeds_term,
    )
    return Rows(terms=(term,), views=views)
