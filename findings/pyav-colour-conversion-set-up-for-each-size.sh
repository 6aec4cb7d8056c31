#!/usr/bin/env bash
# PyAV 18.1.0 (FFmpeg 8.1 in its wheel): VideoReformatter.reformat with dst_color_trc and dst_color_primaries converts
# HDR to BT.709. Its first call for a size of picture takes seconds of processor time, also for 64 by 64 pixels and
# also from BT.709 to sRGB; the next calls of that size take a millisecond. A file whose pictures each have a size of
# their own, or a process for each file, pays the set-up every time.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check av==18.1.0 numpy==2.4.6
"$place/venv/bin/python" - <<'PY'
import time

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorTrc, VideoReformatter


def seconds(reformatter, frame):
    began = time.process_time()
    reformatter.reformat(
        frame, format="rgb24", dst_color_trc=ColorTrc.IEC61966_2_1, dst_color_primaries=ColorPrimaries.BT709
    )
    return time.process_time() - began


print(av.__version__)
kinds = {"PQ": (ColorTrc.SMPTE2084, ColorPrimaries.BT2020), "BT.709": (ColorTrc.BT709, ColorPrimaries.BT709)}
for name, (curve, primaries) in kinds.items():
    reformatter = VideoReformatter()
    for size in (64, 260):
        frame = av.VideoFrame.from_ndarray(np.full((size, size, 3), 30_000, np.uint16), format="rgb48le")
        frame.color_trc = curve
        frame.color_primaries = primaries
        first, *later = (seconds(reformatter, frame) for _ in range(4))
        print(f"{name}, {size} by {size}: first {first:.2f} s, later {1000 * min(later):.2f} ms")
        assert first > 100 * min(later), "the set-up has become cheap"
PY
