"""Converts HDR and wide colours to BT.709.

White, 203 nits by ITU-R BT.2408, becomes full scale. Brighter pixels are scaled down to it, so
they keep their hue. FFmpeg's own conversion is not used: it takes two seconds to set up for each
size of picture.
"""

from __future__ import annotations

import numpy as np
from av.video.reformatter import ColorPrimaries, ColorTrc
from numpy.typing import NDArray

WHITE_NITS = 203.0
HLG_PEAK_NITS = 1000.0
FULL = 65_535.0
BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)
FROM_BT2020 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
FROM_P3 = np.array(
    [[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]], np.float32
)
HDR_CURVES = {ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67}  # PQ and HLG
TO_BT709: dict[int, NDArray[np.float32]] = {
    ColorPrimaries.BT2020: FROM_BT2020,
    ColorPrimaries.SMPTE431: FROM_P3,
    ColorPrimaries.SMPTE432: FROM_P3,
}


def exceeds_bt709(curve: int, primaries: int) -> bool:
    """Whether brightness or colours go beyond those of BT.709."""
    return curve in HDR_CURVES or primaries in TO_BT709


def to_bt709(rgb: NDArray[np.uint16], curve: int, primaries: int) -> NDArray[np.uint8]:
    """RGB uint16 [height, width, 3] in the given transfer curve and primaries -> sRGB uint8 of the
    same shape.
    """
    signal = rgb.astype(np.float32) / np.float32(FULL)
    if curve == ColorTrc.SMPTE2084:
        linear = pq_nits(signal) / np.float32(WHITE_NITS)
    elif curve == ColorTrc.ARIB_STD_B67:
        linear = hlg_nits(signal) / np.float32(WHITE_NITS)
    elif curve == ColorTrc.LINEAR:
        linear = signal
    else:
        linear = np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
    unsaid = curve in HDR_CURVES and primaries == ColorPrimaries.UNSPECIFIED
    matrix = FROM_BT2020 if unsaid else TO_BT709.get(primaries)
    shown = np.maximum(linear if matrix is None else linear @ matrix.T, 0.0)
    shown /= np.maximum(shown.max(axis=-1, keepdims=True), 1.0)
    return encode_srgb(shown)


def encode_srgb(light: NDArray[np.float32]) -> NDArray[np.uint8]:
    """IEC 61966-2-1: linear light of [0, 1] as sRGB, uint8 of the same shape.

    >>> encode_srgb(np.array([0.0, 0.5, 1.0], np.float32)).tolist()
    [0, 188, 255]
    """
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.asarray(np.round(255 * encoded), np.uint8)


def pq_nits(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    """ITU-R BT.2100, table 4: the EOTF of PQ, from [0, 1] to cd/m².

    >>> pq_nits(np.array([0.0, 0.5807, 1.0], np.float32)).round(0).tolist()
    [0.0, 203.0, 10000.0]
    """
    root = signal ** np.float32(1 / 78.84375)
    light = np.maximum(root - 0.8359375, 0.0) / (18.8515625 - 18.6875 * root)
    return np.asarray(10_000 * light ** (1 / 0.1593017578125), np.float32)


def hlg_nits(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    """ITU-R BT.2100, table 5: HLG from [0, 1] to cd/m² on a display of 1,000 (system gamma 1.2),
    [..., 3].

    >>> grey = np.array([0.0, 0.75, 1.0], np.float32)[:, None].repeat(3, 1)
    >>> hlg_nits(grey)[:, 0].round(0).tolist()
    [0.0, 203.0, 1000.0]
    """
    a = 0.17883277
    b = 0.28466892
    c = 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luma = np.maximum(scene @ BT2020_LUMA, 1e-9)[..., None]
    return np.asarray(HLG_PEAK_NITS * scene * luma**0.2, np.float32)
