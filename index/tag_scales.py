"""How sure a tag is by what its name scores: as `python -m bench.calibrate_tags` has found on open
media. Knows nothing of collections.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCALES = Path(__file__).with_name("tag_scales.json")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Of one modality. A name's score is compared with what it scores in windows of open media: by
    how many `deviation` it is above `mean`. Those of `names` are their own, measured with the
    encoder that has this scale; other names share one.

    At `half_at` the probability is one half; a deviation more is `sharpness` more log-odds. A name
    loses `contrast` times what the best name of the window has: see `Readings.own_odds`.
    """

    mean: float
    deviation: float
    half_at: float
    sharpness: float
    contrast: float
    names: dict[str, tuple[float, float]]

    def odds(
        self,
        names: Sequence[str],
        directions: NDArray[np.float32],
        offsets: NDArray[np.float32],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Directions [n, dim] and offsets [n] of scores, as those of the names' own log-odds. For
        the best name of a window, less its contrast, these are sharpness (z - half_at).

        >>> scale = Scale(
        ...     mean=1.0, deviation=2.0, half_at=3.0, sharpness=0.5, contrast=0.5, names={}
        ... )
        >>> directions, offsets = scale.odds(["dog"], np.ones((1, 1), np.float32), np.zeros(1))
        >>> (directions @ [9.0] + offsets).tolist()  # 4 deviations above: 0.5 (4 - 3) / 0.5
        [1.0]
        """
        shared = (self.mean, self.deviation)
        own = np.array([self.names.get(name, shared) for name in names], np.float32).reshape(-1, 2)
        means, deviations = own.T
        slopes = self.sharpness / (1.0 - self.contrast) / deviations
        moved = slopes * (offsets - means) - self.sharpness / (1.0 - self.contrast) * self.half_at
        return (
            np.asarray(directions * slopes[:, None], np.float32),
            np.asarray(moved, np.float32),
        )


def find_scale(modality: str, fingerprint: str) -> Scale:
    """That of a modality. Names have values of their own with the networks they were measured with
    alone, however these choose frames: they were measured on stills and on sounds.
    """
    kept = read_scales()
    fields = dict(kept[modality])
    if fingerprint not in kept["fingerprints"]:
        fields["names"] = {}
    return Scale(**fields)


@cache
def read_scales() -> dict[str, Any]:
    """What the file has: the fingerprints of an encoder, one for each choice of frames, and by
    modality the fields of a scale.
    """
    kept: dict[str, Any] = json.loads(SCALES.read_text(encoding="utf-8"))
    return kept
