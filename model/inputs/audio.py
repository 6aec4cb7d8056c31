"""Windows of samples: mono, at the encoder's rate, of one length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class AudioSpec:
    """What the audio graph takes: waveform float32 [batch, samples]."""

    sample_rate: int
    samples: int
    fill: str = "zeros"  # behind a sound that is shorter; or "repeat": the sound again, as often as it fits whole


def clean(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples a network can take: float files may hold NaN, Inf or 1e30 and decode without an error."""
    finite = np.nan_to_num(waveform, nan=0.0, posinf=1.0, neginf=-1.0)
    return np.asarray(np.clip(finite, -1.0, 1.0), np.float32)


def cut(waveform: NDArray[np.float32], start_s: float, end_s: float, spec: AudioSpec) -> NDArray[np.float32] | None:
    """The samples of [start_s, end_s), filled up to [spec.samples]; None where there are none.

    >>> cut(np.ones(3, np.float32), 0.0, 2.0, AudioSpec(sample_rate=2, samples=4)).tolist()
    [1.0, 1.0, 1.0, 0.0]
    """
    start = round(start_s * spec.sample_rate)
    piece = waveform[start : min(round(end_s * spec.sample_rate), start + spec.samples)]
    if len(piece) == 0:
        return None
    if spec.fill == "repeat":
        piece = np.tile(piece, spec.samples // len(piece))
    return np.pad(piece, (0, spec.samples - len(piece)))
