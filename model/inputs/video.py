"""Windows of frames: a fixed number, uniform in the window, square, upright, RGB."""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np
from numpy.typing import NDArray

MAX_STRETCH = 4  # a very wide or tall frame is squeezed until its long side is this many times its short one


@dataclass(frozen=True)
class VideoSpec:
    """What the video graph takes: frames uint8 [batch, frames, size, size, 3]."""

    frames: int
    size: int
    fit: str = "crop"  # short side to `size`, centre cropped; or "squash": both sides to `size`
    interpolation: str = "area"  # or "bilinear", "bicubic"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.frames, self.size, self.size, 3


def frame_times(start_s: float, end_s: float, frames: int) -> list[float]:
    """The middles of `frames` equal parts of a window.

    >>> frame_times(0.0, 4.0, 4)
    [0.5, 1.5, 2.5, 3.5]
    """
    step = (end_s - start_s) / frames
    return [start_s + (i + 0.5) * step for i in range(frames)]


def square(frame: av.VideoFrame, spec: VideoSpec) -> NDArray[np.uint8]:
    """One decoded frame to uint8 [size, size, 3], scaled and cropped as the spec says, rotation applied."""
    size = spec.size
    width = height = size
    if spec.fit == "crop":
        scale = size / min(frame.width, frame.height)
        width = min(max(round(frame.width * scale), size), MAX_STRETCH * size)
        height = min(max(round(frame.height * scale), size), MAX_STRETCH * size)
    way = spec.interpolation.upper()
    rgb = frame.reformat(width=width, height=height, format="rgb24", interpolation=way).to_ndarray()
    top, left = (height - size) // 2, (width - size) // 2
    upright = np.rot90(rgb[top : top + size, left : left + size], k=frame.rotation // 90)
    return np.ascontiguousarray(upright, dtype=np.uint8)
