#!/usr/bin/env bash
# PyAV 18.1.0 (its FFmpeg has SVT-AV1): whoever encodes AV1 with libsvtav1 as root is left with a thread of real-time
# priority. The thread that calls the encoder goes from SCHED_OTHER to SCHED_FIFO, 99, and stays there after the file is
# closed; all processes it starts later inherit that. A browser or a pool of workers started afterwards can then hold all
# processors and starve the rest of the machine. Encode in a thread of its own, or set the policy back afterwards. Needs root.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "not root: nothing to see"; exit 0; }
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check av==18.1.0 numpy==2.4.6
cd "$place"
"$place/venv/bin/python" - <<'PY'
import os

import av
import numpy as np


def policy():
    return os.sched_getscheduler(0), os.sched_getparam(0).sched_priority


def encode(codec):
    with av.open(f"{codec}.mkv", "w") as container:
        stream = container.add_stream(codec, rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))


seen = {"before": policy()}
for codec in ("libvpx-vp9", "libx264", "libsvtav1"):
    encode(codec)
    seen[codec] = policy()
for key, value in seen.items():
    print(key, "->", value)
normal = (os.SCHED_OTHER, 0)
assert seen == {"before": normal, "libvpx-vp9": normal, "libx264": normal, "libsvtav1": (os.SCHED_FIFO, 99)}, seen
PY
