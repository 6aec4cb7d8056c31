#!/usr/bin/env bash
# imageio 2.38.1 with its plugin "pyav": imread(film, index=n) is to give the n-th frame. It seeks to n divided by the frame rate, and
# counts from there as if the first frame stood at zero seconds. Where it stands later, as after a cut or where the sound begins
# first, the frame is another one. Seen with 12 frames at 10 a second from 0.5 s on: indices 0 to 11 give frames 0 1 0 0 0 0
# 1 2 3 4 5 6. From 0 s on all are right. With constant_framerate=False, which decodes from the beginning and counts, they
# are right, too, but the rate of this film is constant. imiter() gives all in order. No error is raised.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check imageio==2.38.1 av==18.1.0 numpy==2.4.6
"$place/venv/bin/python" - "$place/film.mp4" <<'PY'
import sys
from fractions import Fraction

import av
import imageio
import imageio.v3 as iio
import numpy as np

path = sys.argv[1]
FRAMES, RATE = 12, 10


def write(first):
    """Frames whose grey tells their number, the first of them after so many tenths of a second."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"qp": "5", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 64, "yuv420p", 5
        stream.codec_context.time_base = Fraction(1, RATE)
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = first + number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def by_index(**options):
    pictures = [iio.imread(path, index=index, plugin="pyav", **options) for index in range(FRAMES)]
    return [round(float(picture[32, 32, 0]) / 20) for picture in pictures]


seen = {}
for first in (0, 5):
    write(first)
    in_order = [round(float(picture[32, 32, 0]) / 20) for picture in iio.imiter(path, plugin="pyav")]
    seen[first] = by_index()
    counted = by_index(constant_framerate=False)
    print(f"imageio {imageio.__version__}, first frame at {first / RATE} s: {seen[first]}, counted {counted}")
    assert in_order == counted == list(range(FRAMES)), (in_order, counted)
assert seen[0] == list(range(FRAMES)), seen
assert seen[5] == [0, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6], seen
PY
