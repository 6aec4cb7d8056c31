#!/usr/bin/env bash
# FFmpeg 8.1.2 as PyAV 18.1.0 brings it: an edit of an MP4 or QuickTime file may have a rate of 0. Then the picture at its time
# stays for its length (ISO 14496-12, 8.6.6: a "dwell"). FFmpeg plays the media on in it, as if the rate were 1, and then again
# in the next edit. Seen: of a picture a second, two seconds, two seconds of the third picture, and the rest from that one on,
# the fourth picture is shown in the still edit. An edit with a rate of 2 is played at 1, and ends half way through its media.
# No error is raised.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check av==18.1.0 numpy==2.4.6
"$place/venv/bin/python" - "$place/film.mov" <<'PY'
import struct
import sys

import av
import numpy as np

path = sys.argv[1]
STEP = 20  # of grey, from one picture to the next
with av.open(path, "w") as container:
    stream = container.add_stream("png", rate=1)
    stream.width, stream.height, stream.pix_fmt = 64, 64, "rgb24"
    for number in range(8):
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), STEP * number, np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
    scale = stream.time_base.denominator
with open(path, "rb") as file:
    plain = file.read()
INSIDE = (b"moov", b"trak", b"edts")


def with_edits(content, edits):
    """The boxes of a file with another edit list: (seconds, the media's second, rate)."""
    made, at = b"", 0
    while at < len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        body = content[at + 8 : at + size]
        if kind in INSIDE:
            body = with_edits(body, edits)
        elif kind == b"elst":
            rows = [struct.pack(">IihH", 1000 * length, scale * media, rate, 0) for length, media, rate in edits]
            body = struct.pack(">II", 0, len(rows)) + b"".join(rows)
        made += struct.pack(">I4s", 8 + len(body), kind) + body
        at += size
    return made


def seen(edits):
    """The number of the picture on screen in the middle of every second."""
    assert plain.index(b"mdat") < plain.index(b"moov")  # so the pictures stay where they are
    with open(path, "wb") as file:
        file.write(with_edits(plain, edits))
    with av.open(path) as container:
        shown = [(frame.time, round(frame.to_ndarray(format="rgb24").mean() / STEP)) for frame in container.decode(video=0)]
    seconds = sum(length for length, _, _ in edits)
    return [[number for time, number in shown if time <= second + 0.5][-1] for second in range(seconds)]


usual = seen([(2, 0, 1), (2, 4, 1)])
still = seen([(2, 0, 1), (2, 2, 0), (4, 2, 1)])
fast = seen([(4, 0, 2)])
print(av.__version__, av.ffmpeg_version_info, "rates of 1:", usual)
print("a rate of 0 for the third and fourth second:", still, "a rate of 2:", fast)
assert usual == [0, 1, 4, 5], usual
assert still == [0, 1, 2, 3, 2, 3, 4, 5], still  # right: 0, 1, 2, 2, 2, 3, 4, 5
assert fast == [0, 1, 2, 3], fast  # right, in the middle of each second: 1, 3, 5, 7
PY
