"""Windows of frames: a fixed number, evenly spaced in the window, square, upright, RGB."""

from __future__ import annotations

import math
import struct
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import av
import numpy as np
from av.sidedata.sidedata import SideData
from numpy.typing import NDArray

from .hdr import exceeds_bt709, to_bt709
from .matrices import convert

PLAIN_RANGE = 12  # of 255; how much compression and noise vary one colour
FEW = 16  # rows or columns of which one is looked at first
# the longest side over the shortest; a wider or taller frame is squeezed to it before cropping
MAX_STRETCH = 4
PATCH = 16  # pixels, the side of the square that one token covers
# of a short film every frame may be decoded: a clip of a few seconds often has one keyframe only
SHORT_S = 30.0
KEY_BEFORE_S = 10.0  # a keyframe that lies further before a window does not stand for it
# A keyframe that lies further before a window's middle does not stand for it alone.
NEAR_S = 2.0
# The frames that stand for a window instead lie so far after the keyframe, at most. Nearer ones
# find fewer moments, later ones take longer to decode.
SOON_S = 1.5


class Choice(StrEnum):
    """Which frames of a file stand for the times at which a window is looked at."""

    EXACT = "exact"  # those on screen then
    # In films longer than SHORT_S, keyframes near by, which decode without the frames before them,
    # and frames soon after them.
    KEYFRAMES = "keyframes"


@dataclass(frozen=True)
class VideoSpec:
    """What the video graph takes: frames uint8 [batch, frames, size, size, 3]."""

    frames: int
    size: int
    fit: str = "crop"  # short side to `size`, centre cropped; or "squash": both sides to `size`
    interpolation: str = "area"  # or "bilinear", "bicubic"
    choice: str = Choice.EXACT

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.frames, self.size, self.size, 3

    @property
    def tokens(self) -> int:
        """An estimate: a token for each patch of PATCH x PATCH pixels, as in a tiny VLSA."""
        return int(self.frames * (-(-self.size // PATCH)) ** 2)

    def golden_input(self, n: int) -> NDArray[np.uint8]:
        count = n * math.prod(self.shape)
        numbers = np.arange(count, dtype=np.int64) * 37 % 251
        return numbers.astype(np.uint8).reshape(n, *self.shape)

    def random_inputs(self, n: int, random: np.random.Generator) -> NDArray[np.uint8]:
        return random.integers(0, 256, (n, *self.shape), dtype=np.uint8)

    def odd_inputs(self) -> list[NDArray[np.uint8]]:
        """Black, white and a chessboard."""
        board = np.indices(self.shape).sum(axis=0) % 2 * 255
        black = np.zeros(self.shape, np.uint8)
        white = np.full(self.shape, 255, np.uint8)
        return [black, white, board.astype(np.uint8)]


def frame_times(start_s: float, end_s: float, frames: int) -> list[float]:
    """The middles of `frames` equal parts of a window.

    >>> frame_times(0.0, 4.0, 4)
    [0.5, 1.5, 2.5, 3.5]
    """
    step = (end_s - start_s) / frames
    return [start_s + (i + 0.5) * step for i in range(frames)]


def choose_near_keyframes(
    times_s: Sequence[float], start_s: float, end_s: float, keys_s: Sequence[float]
) -> list[float]:
    """For each time of a window, when the frame is shown that stands for it.

    `keys_s` are the times of all keyframes, ascending. If the last one up to the window's middle
    lies within NEAR_S of it, each time gets its own keyframe: see `choose_keyframe`. If it lies
    further back, but no more than KEY_BEFORE_S before the window, the frames stand for it that are
    shown at the ends of equal parts of the SOON_S after it. They differ from each other, and from
    the first frame of a scene, which may be faded out.

    >>> choose_near_keyframes([1.25, 3.75], 0.0, 5.0, [0.0, 2.0, 3.0])
    [0.0, 3.0]
    >>> choose_near_keyframes([6.25, 8.75], 5.0, 10.0, [0.0, 10.0])
    [0.75, 1.5]
    """
    middle_s = (start_s + end_s) / 2
    following = bisect_right(keys_s, middle_s)
    key_s = keys_s[following - 1] if following else -math.inf
    if not start_s - KEY_BEFORE_S <= key_s < middle_s - NEAR_S:
        return [choose_keyframe(time_s, start_s, end_s, keys_s) for time_s in times_s]
    count = len(times_s)
    return [key_s + SOON_S * (n + 1) / count for n in range(count)]


def choose_keyframe(time_s: float, start_s: float, end_s: float, keys_s: Sequence[float]) -> float:
    """When the keyframe is shown that stands for a time of a window.

    It is the last one up to that time. If that lies more than KEY_BEFORE_S before the window, it is
    the first one after that time in the window. If there is none, no keyframe stands for the time,
    and the time itself is returned.

    >>> choose_keyframe(3.75, 0.0, 5.0, [0.0, 3.0])
    3.0
    >>> choose_keyframe(31.25, 30.0, 35.0, [3.0, 32.0])
    32.0
    >>> choose_keyframe(31.25, 30.0, 35.0, [3.0, 40.0])
    31.25
    """
    after = bisect_right(keys_s, time_s)
    before_s = keys_s[after - 1] if after else -math.inf
    after_s = keys_s[after] if after < len(keys_s) else math.inf
    if before_s >= start_s - KEY_BEFORE_S:
        return before_s
    return after_s if after_s < end_s else time_s


def is_plain(frames: NDArray[np.uint8]) -> bool:
    """Whether each frame of uint8 [frames, height, width, 3] has one colour all over."""
    for part in (frames[:, ::FEW, ::FEW], frames):  # few pixels tell of nearly all that have not
        if (np.ptp(part, axis=(1, 2)) > PLAIN_RANGE).any():
            return False
    return True


def fit_square(frame: av.VideoFrame, spec: VideoSpec, aspect: float = 1.0) -> NDArray[np.uint8]:
    """One decoded frame as uint8 [size, size, 3], scaled and cropped as the spec says.

    `aspect` is a pixel's width over its height.
    """
    size = spec.size
    width = height = size
    if spec.fit == "crop":
        shown_width = frame.width * aspect
        scale = size / min(shown_width, frame.height)
        width = min(max(round(shown_width * scale), size), MAX_STRETCH * size)
        height = min(max(round(frame.height * scale), size), MAX_STRETCH * size)
    rgb = render_frame(frame, width, height, spec.interpolation)
    top = (rgb.shape[0] - size) // 2
    left = (rgb.shape[1] - size) // 2
    return np.ascontiguousarray(rgb[top : top + size, left : left + size])


def render_frame(
    frame: av.VideoFrame, width: int, height: int, interpolation: str
) -> NDArray[np.uint8]:
    """A frame as a player shows it: RGB uint8 [height, width, 3], or [width, height, 3] if the
    display matrix turns it by a quarter.

    It is scaled to `width` x `height`, laid over white where it is transparent, brought to BT.709,
    then turned and mirrored. Interlaced frames are not deinterlaced.
    """
    matrix = display_matrix(frame)
    way = interpolation.upper()
    if has_transparency(frame):
        frame = flatten_on_white(frame)
    wide = exceeds_bt709(frame.color_trc, frame.color_primaries)
    pixels = "rgb48le" if wide else "rgb24"
    scaled = convert(frame, width, height, pixels, way).to_ndarray()
    if wide:
        scaled = to_bt709(np.asarray(scaled, np.uint16), frame.color_trc, frame.color_primaries)
    return apply_display_matrix(np.asarray(scaled, np.uint8), matrix)


def has_transparency(frame: av.VideoFrame) -> bool:
    pixels = frame.format
    return pixels.has_palette or any(part.is_alpha for part in pixels.components)


def flatten_on_white(frame: av.VideoFrame) -> av.VideoFrame:
    """Lay a frame over white. This comes before scaling, or hidden colours would bleed into their
    neighbours.
    """
    rgba = convert(frame, frame.width, frame.height, "rgba", "BILINEAR").to_ndarray()
    rgba = rgba.astype(np.uint16)
    alpha = rgba[..., 3:]
    rgb = (rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return av.VideoFrame.from_ndarray(rgb.astype(np.uint8), format="rgb24")


def display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int] | None:
    """a, b, c, d of a frame's display matrix, by which (x, y) is shown at (a x + c y, b x + d y);
    None without one.
    """
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 18.1 does not know the kind of side data that EXIF is
        return None
    if not isinstance(data, SideData):
        return None
    a, b, _, c, d = struct.unpack_from("=5i", bytes(data))
    return a, b, c, d


def apply_display_matrix(
    rgb: NDArray[np.uint8], matrix: tuple[int, int, int, int] | None
) -> NDArray[np.uint8]:
    """A picture turned by quarters and mirrored as a display matrix says.

    >>> picture = np.array([[[1], [2]]], np.uint8)  # one row, from left to right 1, 2
    >>> apply_display_matrix(picture, (0, 1, -1, 0))[..., 0].tolist()  # x is shown downwards
    [[1], [2]]
    """
    if matrix is None:
        return rgb
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        rgb = rgb.transpose(1, 0, 2)
        across = c
        down = b
    else:
        across = a
        down = d
    if across < 0:
        rgb = rgb[:, ::-1]
    if down < 0:
        rgb = rgb[::-1]
    return np.ascontiguousarray(rgb)
