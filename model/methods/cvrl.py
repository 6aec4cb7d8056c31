"""CVRL (arXiv 2008.03800): two augmented clips of one recording find each other.

The second clip of a video is of another interval of the window: its frames are drawn evenly from a
stretch of at least `least_share` of it, in their order. Each clip is then augmented with one draw
for all of its frames, so what changes in time is what moved. A sound is augmented anew.

    L = InfoNCE(x, x'), for video and for audio

F frames, E embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..settings import NotNegative, ShareAboveZero
from ..training.losses import contrast_term
from ..training.tables import LossTerm, Rows, View


@dataclass(frozen=True, kw_only=True)
class Settings:
    weight: NotNegative = 1.0
    least_share: ShareAboveZero = 0.5  # of the window


def take_interval(
    frames: NDArray[Any], random: np.random.Generator, *, least_share: float
) -> NDArray[Any]:
    """Frames [F, ...] of a stretch of the window, as many as before."""
    last = len(frames) - 1
    length = random.uniform(least_share, 1.0) * last
    start = random.uniform(0.0, last - length)
    at = np.linspace(start, start + length, len(frames)).round().astype(int)
    taken: NDArray[Any] = frames[at]
    return taken


def rows(settings: Settings) -> Rows:
    change = partial(take_interval, least_share=settings.least_share)
    views = (
        View(name="second_video", of="video", change=change),
        View(name="second_audio", of="audio"),
    )
    terms = tuple(
        LossTerm(
            name=f"{view.of}_views",
            needs=(view.of, view.name),
            weight=settings.weight,
            loss=contrast_term,
        )
        for view in views
    )
    return Rows(terms=terms, views=views)
