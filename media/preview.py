"""Previews of an item for people: a small picture of each window, and the loudness of its sound."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

from .video import render_frame

LONGER_SIDE = 320  # pixels, the longer side of a picture
JPEG_QUALITY = {"qmin": "5", "qmax": "5"}  # FFmpeg's scale for JPEG: 2 is best, 31 worst
PEAKS_PER_S = 20.0
MAX_PEAKS = 2000


def encode_jpeg(frame: av.VideoFrame, aspect: float = 1.0) -> bytes | None:
    """A frame as a small JPEG, turned and coloured as a player shows it; None if that fails.

    `aspect` is a pixel's width over its height.
    """
    shown_width = frame.width * aspect
    scale = min(1.0, LONGER_SIDE / max(shown_width, frame.height))
    width, height = (max(2 * round(side * scale / 2), 2) for side in (shown_width, frame.height))
    try:
        rgb = render_frame(frame, width, height, "area")
        small = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuvj420p")
        codec = av.CodecContext.create("mjpeg", "w")
        assert isinstance(codec, av.VideoCodecContext)
        codec.width = small.width
        codec.height = small.height
        codec.pix_fmt = "yuvj420p"
        codec.time_base = Fraction(1, 25)
        codec.options = JPEG_QUALITY
        codec.thread_count = 1
        return b"".join(bytes(packet) for packet in [*codec.encode(small), *codec.encode(None)])
    except (av.FFmpegError, ValueError, MemoryError):
        return None


def compute_peaks(waveform: NDArray[np.float32], sample_rate: int, duration_s: float) -> bytes:
    """The peak of each twentieth of a second of an item, a byte each, 255 for full scale.

    An item of more than 100 s gets 2,000 longer stretches instead. `waveform` float32 [samples] may
    be shorter than `duration_s`.

    >>> list(compute_peaks(np.repeat(np.array([0.0, 1.0, -0.5], np.float32), 50), 1000, 0.2))
    [0, 255, 128, 0]
    """
    count = min(max(round(duration_s * PEAKS_PER_S), 1), MAX_PEAKS)
    edges = np.linspace(0, max(duration_s * sample_rate, len(waveform)), count + 1).astype(int)[:-1]
    heard = edges[edges < len(waveform)]
    found = np.zeros(count, np.float32)
    found[: len(heard)] = np.maximum.reduceat(np.abs(waveform), heard)
    return np.round(255 * np.minimum(found, 1.0)).astype(np.uint8).tobytes()


class Levels:
    """The peaks of a sound that comes piece by piece: of each twentieth of a second."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._block = max(round(sample_rate / PEAKS_PER_S), 1)
        self._levels: list[NDArray[np.float32]] = []
        self._rest: NDArray[np.float32] = np.empty(0, np.float32)  # of a block that is not full

    def add(self, piece: NDArray[np.float32]) -> None:
        """Add samples [n]."""
        samples = np.concatenate([self._rest, np.abs(piece)])
        full = len(samples) // self._block * self._block
        self._levels.append(samples[:full].reshape(-1, self._block).max(axis=1))
        self._rest = samples[full:]

    def mark(self) -> tuple[int, ...]:
        """Where it is now, for `reset`; the samples of a block that is not full are left out."""
        return (len(self._levels),)

    def reset(self, mark: tuple[int, ...]) -> None:
        """Forget what was added since the mark."""
        del self._levels[mark[0] :]
        self._rest = self._rest[:0]

    def all(self) -> NDArray[np.float32]:
        rest = [self._rest.max(keepdims=True)] if len(self._rest) else []
        return np.concatenate([*self._levels, *rest, np.empty(0, np.float32)])

    @property
    def loudest(self) -> float:
        return float(self.all().max(initial=0.0))

    def peaks(self, duration_s: float) -> bytes:
        """As `compute_peaks` gives them, of a sound that is turned down to full scale."""
        levels = self.all() / max(self.loudest, 1.0)
        return compute_peaks(levels.astype(np.float32), round(PEAKS_PER_S), duration_s)
