"""Windows of sound: mono samples at the encoder's rate, all of one length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SILENT_PEAK = 10 ** (-70 / 20)  # -70 dB, about ten steps of 16 bits
TOKEN_S = 0.04  # seconds that one token covers
LOUDEST = 2.0**31  # some programmes write 32-bit integer samples as floats without scaling


@dataclass(frozen=True)
class AudioSpec:
    """What the audio graph takes: waveform float32 [batch, samples]."""

    sample_rate: int
    samples: int
    # what follows a sound that is too short: "zeros", or "repeat", complete repetitions of it
    fill: str = "zeros"

    @property
    def shape(self) -> tuple[int]:
        return (self.samples,)

    @property
    def tokens(self) -> int:
        """An estimate: a token for each TOKEN_S seconds, as in a tiny VLSA."""
        return max(1, round(self.samples / self.sample_rate / TOKEN_S))

    def golden_input(self, n: int) -> NDArray[np.float32]:
        """Slowly rising tones from 220 Hz and its multiples, float32 [n, samples]."""
        t = np.arange(self.samples, dtype=np.float64) / self.sample_rate
        tones = [0.3 * np.sin(2 * np.pi * 220 * (i + 1) * t * (1 + 0.1 * t)) for i in range(n)]
        return np.stack(tones).astype(np.float32)

    def random_inputs(self, n: int, random: np.random.Generator) -> NDArray[np.float32]:
        """Noise of random loudness, float32 [n, samples]."""
        loudness = random.uniform(0.001, 0.5, (n, 1))
        noise = loudness * random.normal(size=(n, self.samples))
        return noise.clip(-1, 1).astype(np.float32)

    def odd_inputs(self) -> list[NDArray[np.float32]]:
        """Silence, a faint, a loud and a clipped tone, and a click."""
        tone = np.sin(0.05 * np.arange(self.samples), dtype=np.float32)
        click = np.zeros_like(tone)
        click[len(click) // 2] = 1.0
        return [np.zeros_like(tone), 1e-4 * tone, tone, np.sign(tone), click]


def silence_invalid_samples(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """The waveform [samples] with zeros for NaN, infinity and values beyond LOUDEST, which float
    files may hold.
    """
    kept = np.abs(waveform) <= LOUDEST
    return waveform if kept.all() else np.where(kept, waveform, np.float32(0))


def limit_to_full_scale(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """The waveform [samples], divided by its peak if that is above 1.

    >>> limit_to_full_scale(np.array([0.5, -2.0], np.float32)).tolist()
    [0.25, -1.0]
    """
    peak = max(waveform.max(initial=0.0), -waveform.min(initial=0.0))
    return waveform / np.float32(peak) if peak > 1.0 else waveform


def cut_window(
    waveform: NDArray[np.float32], start_s: float, end_s: float, spec: AudioSpec
) -> NDArray[np.float32] | None:
    """The samples of [start_s, end_s), filled up to [spec.samples]; None where there are none.

    >>> cut_window(np.ones(3, np.float32), 0.0, 2.0, AudioSpec(sample_rate=2, samples=4)).tolist()
    [1.0, 1.0, 1.0, 0.0]
    """
    start = round(start_s * spec.sample_rate)
    piece = waveform[start : min(round(end_s * spec.sample_rate), start + spec.samples)]
    if len(piece) == 0:
        return None
    if spec.fill == "repeat":
        piece = np.tile(piece, spec.samples // len(piece))
    return np.pad(piece, (0, spec.samples - len(piece)))


def is_silent(waveform: NDArray[np.float32]) -> bool:
    """Whether nothing in [samples] is louder than -70 dB of full scale; a constant offset does not
    count.
    """
    return bool(np.ptp(waveform) <= 2 * SILENT_PEAK)
