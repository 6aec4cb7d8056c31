#!/usr/bin/env bash
# PyAV 18.1.0 (FFmpeg 8.1.2): a film whose header names the matrix YCgCo (8), BT.2020 with constant luminance (10) or ICtCp (14)
# decodes, and none of its frames can be turned into RGB: to_ndarray and reformat raise OSError, "Operation not supported".
# A caller who has tested with the usual matrices meets this in the middle of a batch. To write another matrix to
# `frame.colorspace` first gives pictures, converted by the wrong matrix. Seen with H.264 from libx264.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check av==18.1.0 numpy==2.4.6
"$place/venv/bin/python" - "$place/film.mp4" <<'PY'
import sys

import av
import numpy as np

path = sys.argv[1]


def convert(matrix):
    """What the first frame of a film with this matrix converts to, as it is and with BT.709 written into it."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.colorspace = matrix
        frame = av.VideoFrame.from_ndarray(np.full((96, 64), 128, np.uint8), format="yuv420p")
        frame.colorspace = matrix
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(path) as container:
        frame = next(container.decode(video=0))
    assert frame.colorspace == matrix, frame.colorspace
    try:
        first = frame.to_ndarray(format="rgb24")[5, 5].tolist()
    except OSError as error:
        first = error.strerror
    frame.colorspace = 1
    return first, frame.to_ndarray(format="rgb24")[5, 5].tolist()


seen = {matrix: convert(matrix) for matrix in (1, 6, 9, 8, 10, 14)}
for matrix, results in seen.items():
    print(f"PyAV {av.__version__}, matrix {matrix}: {results[0]}; with BT.709 written into the frame: {results[1]}")
for matrix, (first, second) in seen.items():
    assert first == ("Operation not supported" if matrix in (8, 10, 14) else [130, 130, 130]), seen
    assert second == [130, 130, 130], seen
PY
