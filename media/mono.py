"""Resamples sound with any channels to mono at one rate."""

from __future__ import annotations

import av
import numpy as np
from numpy.typing import NDArray

from .audio import silence_invalid_samples
from .containers import describe_fault
from .errors import Damaged

SAMPLES_AT_ONCE = 32_768  # of each channel; fewer, larger calls of FFmpeg are quicker
# normalises the gains of the mix, which FFmpeg does by default for integer samples only
NORMALISED = {"rematrix_maxval": "1"}


class MonoResampler:
    """Frames of one format to mono at `sample_rate`.

    Channels are mixed with the gains of `ffmpeg -ac 1`. If FFmpeg cannot mix a layout, such as two
    rear channels alone, mono is the mean of the channels.
    """

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._waiting = av.AudioFifo()
        self._resampler = self._new_resampler()
        # whether FFmpeg mixes this layout; None before it was tried
        self._mixes: bool | None = None

    def _new_resampler(self) -> av.AudioResampler:
        return av.AudioResampler(
            "flt", "mono", self._sample_rate, frame_size=self._sample_rate, options=NORMALISED
        )

    def __call__(self, frame: av.AudioFrame | None) -> list[NDArray[np.float32]]:
        """Add a frame, or None at the end. Returns what is ready, pieces of float32 [samples].

        Raises:
            Damaged: the sound cannot be resampled.
        """
        try:
            if frame is not None:
                self._waiting.write(frame)
            ready: list[av.AudioFrame] = []
            for piece in self._waiting.read_many(SAMPLES_AT_ONCE, partial=frame is None):
                ready += self._resampled(piece)
            if frame is None:
                ready += self._resampler.resample(None)
            return [silence_invalid_samples(out.to_ndarray()[0]) for out in ready]
        except (av.FFmpegError, ValueError, MemoryError) as error:
            raise Damaged(f"its audio cannot be resampled ({describe_fault(error)})") from error

    def _resampled(self, piece: av.AudioFrame) -> list[av.AudioFrame]:
        if self._mixes is None:
            try:
                ready = self._resampler.resample(piece)
                self._mixes = True
                return ready
            except (av.FFmpegError, ValueError):
                self._resampler, self._mixes = self._new_resampler(), False
        return self._resampler.resample(piece if self._mixes else average_channels(piece))


def average_channels(frame: av.AudioFrame) -> av.AudioFrame:
    """A mono frame with the mean of a frame's channels."""
    [floats] = av.AudioResampler("flt").resample(frame)
    mean = floats.to_ndarray().reshape(frame.samples, -1).mean(axis=1, dtype=np.float32)
    mono = av.AudioFrame.from_ndarray(mean[None], format="flt", layout="mono")
    mono.sample_rate, mono.time_base = frame.sample_rate, frame.time_base
    return mono
