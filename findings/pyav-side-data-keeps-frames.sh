#!/usr/bin/env bash
# PyAV 18.1.0: a video frame whose `side_data` has been read is not freed when it is dropped. Frame and side data refer to
# each other, so only Python's cyclic garbage collector frees the pixels. The collector counts objects and not bytes, so it
# runs seldom: a loop that reads the side data of each frame (to see how a film is turned, say) holds hundreds of megabytes.
# Frames whose side data is not read are freed at once. Collect by hand every few frames.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check av==18.1.0 numpy==2.4.6
"$place/venv/bin/python" - <<'PY'
import gc
from pathlib import Path

import av
import numpy as np


def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def growth_mb(read):
    """What 100 frames of 2.8 MB leave in memory after each has been dropped, and after a collection."""
    gc.collect()
    gc.disable()
    before = resident_mb()
    for _ in range(100):
        frame = av.VideoFrame.from_ndarray(np.zeros((720, 1280, 3), np.uint8), format="rgb24")
        if read:
            frame.side_data
        del frame
    dropped = resident_mb() - before
    gc.enable()
    gc.collect()
    return round(dropped), round(resident_mb() - before)


growth_mb(False)  # what the first frames load is not counted
seen = {"not read": growth_mb(False), "side_data read": growth_mb(True)}
for key, (dropped, collected) in seen.items():
    print(f"{key}: {dropped} MB more after dropping, {collected} MB after collecting")
assert seen["not read"][0] < 30 and seen["side_data read"][0] > 200 and seen["side_data read"][1] < 60, seen
PY
