#!/usr/bin/env bash
# OpenCV 5.0.0.93 (its wheel's FFmpeg): VideoCapture.get(CAP_PROP_POS_MSEC) tells when each frame of a film with a variable
# frame rate is shown. To set it does not lead back there: OpenCV multiplies the time by the mean rate and counts frames.
# Seen: 12 frames at 0 to 0.4, 2 to 2.3 and 4 to 4.2 seconds. Asked for each time in turn, it gives frames 0 0 1 1 1 6 6 6 6 11
# 11 and none for the last. Read one after another, or set by CAP_PROP_POS_FRAMES, the frames are the right ones.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check opencv-python-headless==5.0.0.93 av==18.1.0 numpy==2.4.6
"$place/venv/bin/python" - "$place/film.mp4" <<'PY'
import sys
from fractions import Fraction

import av
import cv2
import numpy as np

path = sys.argv[1]
tenths = [0, 1, 2, 3, 4, 20, 21, 22, 23, 40, 41, 42]
with av.open(path, "w") as container:
    stream = container.add_stream("libx264", rate=10, options={"qp": "5", "bf": "0"})
    stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
    stream.codec_context.time_base = Fraction(1, 10)
    for number, tenth in enumerate(tenths):
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * number, np.uint8), format="rgb24")
        frame.pts, frame.time_base = tenth, Fraction(1, 10)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))

capture = cv2.VideoCapture(path)


def read():
    there, picture = capture.read()
    return round(float(picture[32, 32, 0]) / 20) if there else None


told = []
for _ in tenths:
    number = read()
    told.append((number, round(capture.get(cv2.CAP_PROP_POS_MSEC))))
by_time, by_number = [], []
for number, tenth in enumerate(tenths):
    capture.set(cv2.CAP_PROP_POS_MSEC, 100 * tenth)
    by_time.append(read())
    capture.set(cv2.CAP_PROP_POS_FRAMES, number)
    by_number.append(read())
print(cv2.__version__, "frames and their times:", told)
print("set by time:", by_time, "by number:", by_number)
assert told == [(number, 100 * tenth) for number, tenth in enumerate(tenths)], told
assert by_number == list(range(12)), by_number
assert by_time == [0, 0, 1, 1, 1, 6, 6, 6, 6, 11, 11, None], by_time
PY
