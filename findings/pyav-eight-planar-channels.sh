#!/usr/bin/env bash
# PyAV 18.1.0: AudioFrame.from_ndarray with a planar format and exactly eight channels (7.1, and other layouts of eight)
# raises IndexError, "index 8 is out of bounds for axis 0 with size 8". Six, seven and sixteen planar channels work, and so do
# eight in a packed format. What reads planar frames of eight channels should convert them to a packed format first.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check av==18.1.0 numpy==2.4.6
"$place/venv/bin/python" - <<'PY'
import av
import numpy as np

def made(layout, channels, planar):
    shape = (channels, 64) if planar else (1, 64 * channels)
    try:
        av.AudioFrame.from_ndarray(np.zeros(shape, np.float32), format="fltp" if planar else "flt", layout=layout)
    except IndexError as error:
        return str(error)
    return "made"

layouts = {"5.1": 6, "7.0": 7, "7.1": 8, "octagonal": 8, "hexadecagonal": 16}
seen = {(layout, planar): made(layout, n, planar) for layout, n in layouts.items() for planar in (True, False)}
for key, value in seen.items():
    print(*key, "->", value)
fails = {key for key, value in seen.items() if value != "made"}
assert fails == {("7.1", True), ("octagonal", True)}, seen
PY
