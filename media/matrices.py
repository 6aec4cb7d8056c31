"""Which matrix a frame's colours are stored with, and conversions that FFmpeg lacks.

ITU-T H.273 numbers the matrices. Many films do not say which they have. Players then take the
matrix of HD for large frames, that of SD for small ones, and that of BT.2020 for HDR.
"""

from __future__ import annotations

from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange
from numpy.typing import NDArray

from .hdr import FULL, HDR_CURVES

RGB = 0
BT709 = 1
UNSPECIFIED = 2
FCC = 4
BT601 = 5
BT2020 = 9
YCGCO = 8
BT2020_CONSTANT = 10
DERIVED = 12
DERIVED_CONSTANT = 13
CONVERTED = {RGB, BT709, UNSPECIFIED, FCC, BT601, 6, 7, BT2020}  # by FFmpeg
# of a frame that is HD, as mpv has it
HD_WIDTH = 1280
ABOVE_SD_HEIGHT = 576
STEP = 256  # of 16 bits, in one of 8 bits
# of the limited range, in 8 bits:
BLACK = 16
LUMA_STEPS = 219
CHROMA_STEPS = 224
MIDDLE = 128


class ToldColours(NamedTuple):
    """What a container says of a film's colours. It counts where the film itself says nothing."""

    matrix: int
    primaries: int
    curve: int

    def complete(self, frame: av.VideoFrame) -> None:
        """Tell a decoded frame what it does not say."""
        if frame.colorspace == UNSPECIFIED and self.matrix != RGB:
            frame.colorspace = self.matrix
        if frame.color_primaries == UNSPECIFIED:
            frame.color_primaries = self.primaries
        if frame.color_trc == UNSPECIFIED:
            frame.color_trc = self.curve


def read_told_colours(stream: av.VideoStream) -> ToldColours:
    """What the container of a stream says, before anything of it is decoded."""
    codec = stream.codec_context
    return ToldColours(codec.colorspace, codec.color_primaries, codec.color_trc)


def find_matrix(frame: av.VideoFrame) -> int:
    """The matrix that a frame is converted with, which may be one that FFmpeg lacks."""
    matrix = int(frame.colorspace)
    if frame.format.is_rgb:
        return RGB
    if matrix == UNSPECIFIED:
        if frame.color_trc in HDR_CURVES:
            return BT2020
        is_hd = frame.width >= HD_WIDTH or frame.height > ABOVE_SD_HEIGHT
        return BT709 if is_hd else BT601
    wide = frame.color_primaries == ColorPrimaries.BT2020
    if matrix == BT2020_CONSTANT or (matrix in (DERIVED, DERIVED_CONSTANT) and wide):
        return BT2020
    return BT709 if matrix in (DERIVED, DERIVED_CONSTANT) else matrix


def is_converted(frame: av.VideoFrame) -> bool:
    """Whether FFmpeg brings a frame's colours to RGB."""
    return find_matrix(frame) in CONVERTED and not is_limited_grey(frame)


def is_limited_grey(frame: av.VideoFrame) -> bool:
    """Whether a frame has brightness alone, of the limited range, which FFmpeg takes for the full
    one: HEVC and AV1 in 4:0:0.
    """
    return frame.format.name.startswith("gray") and frame.color_range == ColorRange.MPEG


def convert(frame: av.VideoFrame, width: int, height: int, format: str, way: str) -> av.VideoFrame:
    """A frame scaled to `width` x `height`, in an RGB format. `way` is FFmpeg's interpolation.

    Of a matrix that is not known here, such as ICtCp, only the brightness is taken.
    """
    if is_limited_grey(frame):
        return convert_grey(frame, width, height, format=format, way=way)
    matrix = find_matrix(frame)
    if matrix in CONVERTED:
        return frame.reformat(
            width=width,
            height=height,
            format=format,
            src_colorspace=matrix,
            interpolation=way,
            threads=1,
        )
    planes = frame.reformat(
        width=width,
        height=height,
        format="yuv444p16le",
        src_colorspace=BT709,
        dst_colorspace=BT709,
        interpolation=way,
        threads=1,
    )
    full = frame.color_range == ColorRange.JPEG
    rgb = planes_to_rgb(np.asarray(planes.to_ndarray(), np.uint16).transpose(2, 0, 1), matrix, full)
    return make_rgb(rgb, format)


def convert_grey(
    frame: av.VideoFrame, width: int, height: int, *, format: str, way: str
) -> av.VideoFrame:
    """`convert`, of brightness of the limited range."""
    grey = frame.reformat(
        width=width, height=height, format="gray16le", interpolation=way, threads=1
    )
    luma = (grey.to_ndarray().astype(np.float32) * (255 / FULL) - BLACK) / LUMA_STEPS
    values = np.asarray(np.round(np.clip(luma, 0, 1) * FULL), np.uint16)
    return make_rgb(np.repeat(values[..., None], 3, axis=-1), format)


def make_rgb(rgb: NDArray[np.uint16], format: str) -> av.VideoFrame:
    """RGB [height, width, 3] as a frame in an RGB format."""
    made = av.VideoFrame.from_ndarray(rgb, format="rgb48le")
    return made if format == "rgb48le" else made.reformat(format=format, threads=1)


def planes_to_rgb(planes: NDArray[np.uint16], matrix: int, full: bool) -> NDArray[np.uint16]:
    """Brightness and two colour differences [3, height, width], of the `full` or the limited range,
    as RGB [height, width, 3].

    >>> green = np.array([128, 192, 64], np.uint16)[:, None, None] * np.uint16(STEP)
    >>> (planes_to_rgb(green, YCGCO, full=True) // 257)[0, 0].tolist()
    [0, 192, 128]
    """
    values = planes.astype(np.float32) / np.float32(STEP)
    if full:
        luma = values[0] / 255
        chroma = (values[1:] - MIDDLE) / 255
    else:
        luma = (values[0] - BLACK) / LUMA_STEPS
        chroma = (values[1:] - MIDDLE) / CHROMA_STEPS
    if matrix == YCGCO:
        green, orange = chroma
        rgb = np.stack([luma - green + orange, luma + green, luma - green - orange], axis=-1)
    else:
        rgb = np.repeat(luma[..., None], 3, axis=-1)
    return np.asarray(np.round(np.clip(rgb, 0, 1) * FULL), np.uint16)
