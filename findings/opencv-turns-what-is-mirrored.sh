#!/usr/bin/env bash
# OpenCV 5.0.0.93 (its wheel's FFmpeg): VideoCapture turns a film as its display matrix says, by the angle alone. A matrix that
# mirrors left and right (selfies, cameras that look back) is taken for a turn by 180 degrees: the film stands on its head.
# One that mirrors top and bottom is not applied. One that swaps both axes is taken for a turn by 90 degrees, so it is
# mirrored. CAP_PROP_ORIENTATION_META says 180, 0 and 90. FFmpeg itself and browsers mirror.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check opencv-python-headless==5.0.0.93 av==18.1.0 numpy==2.4.6
"$place/venv/bin/python" - "$place/film.mp4" <<'PY'
import struct
import sys

import av
import cv2
import numpy as np

path = sys.argv[1]
WIDTH, HEIGHT = 128, 64
CORNERS = np.array([[20, 90], [160, 230]], np.uint8)  # grey, upper left to lower right
with av.open(path, "w") as container:
    stream = container.add_stream("libx264", rate=10, options={"qp": "5"})
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    picture = np.kron(CORNERS, np.ones((HEIGHT // 2, WIDTH // 2), np.uint8))
    frame = av.VideoFrame.from_ndarray(np.repeat(picture[..., None], 3, axis=2), format="rgb24")
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
with open(path, "rb") as file:
    plain = file.read()


def read_with(a, b, c, d, x, y):
    """The corners as OpenCV shows them, and the angle it tells, with a matrix in the track's header (ISO 14496-12)."""
    one = 1 << 16
    matrix = [a * one, b * one, 0, c * one, d * one, 0, x * one, y * one, 1 << 30]
    content = bytearray(plain)
    struct.pack_into(">9i", content, plain.index(b"tkhd") + 44, *matrix)
    with open(path, "wb") as file:
        file.write(content)
    capture = cv2.VideoCapture(path)
    shown = capture.read()[1][..., 0]
    height, width = shown.shape
    corners = shown[[height // 4, 3 * height // 4]][:, [width // 4, 3 * width // 4]]
    nearest = np.abs(corners[..., None].astype(int) - CORNERS.ravel()).argmin(axis=-1)
    return CORNERS.ravel()[nearest].tolist(), capture.get(cv2.CAP_PROP_ORIENTATION_META)


whole, turned = CORNERS.tolist(), CORNERS[::-1, ::-1].tolist()
cases = {
    "as it is": (read_with(1, 0, 0, 1, 0, 0), CORNERS, (whole, 0)),
    "turned by 180 degrees": (read_with(-1, 0, 0, -1, WIDTH, HEIGHT), CORNERS[::-1, ::-1], (turned, 180)),
    "left and right": (read_with(-1, 0, 0, 1, WIDTH, 0), CORNERS[:, ::-1], (turned, 180)),
    "top and bottom": (read_with(1, 0, 0, -1, 0, HEIGHT), CORNERS[::-1], (whole, 0)),
    "both axes swapped": (read_with(0, 1, 1, 0, 0, 0), CORNERS.T, (CORNERS[::-1].T.tolist(), 90)),
}
for name, (seen, right, expected) in cases.items():
    print(f"OpenCV {cv2.__version__}, {name}: {seen}, right {right.tolist()}")
    assert seen == expected, (name, seen, expected)
PY
