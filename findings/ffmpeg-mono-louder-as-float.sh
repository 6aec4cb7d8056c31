#!/usr/bin/env bash
# FFmpeg 8.1.2 as PyAV 18.1.0 brings it: how loud a mix to mono is depends on the sample format that is asked for. As
# integers (s16, s32) a sound that all channels share keeps its level. As floats (flt, fltp) stereo comes out 1.41 times
# as large and 5.1 comes out 3.41 times, far beyond 1.0. The format of the input makes no difference. FFmpeg makes
# the gains of a mix sum to 1 for integers only; the documentation of the option `rematrix_maxval` does not say so. A model
# that gets floats from one decoder and integers from another hears 3 to 11 dB between them.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check av==18.1.0 numpy==2.4.6
"$place/venv/bin/python" - <<'PY'
import av
import numpy as np

LEVEL = 8000  # of 32768, in every channel


def gain(layout, channels, given, asked):
    sample = np.int16(LEVEL) if given == "s16" else np.float32(LEVEL / 32768)
    frame = av.AudioFrame.from_ndarray(np.full((1, 4800 * channels), sample), format=given, layout=layout)
    frame.sample_rate = 48_000
    resampler = av.AudioResampler(format=asked, layout="mono", rate=48_000)
    mixed = np.concatenate([part.to_ndarray().ravel() for part in resampler.resample(frame)])
    scale = {"s16": 2**15, "s32": 2**31}.get(asked, 1)
    return round(float(mixed[2000]) / scale / (LEVEL / 32768), 2)


print(av.__version__, av.ffmpeg_version_info)
for layout, channels, louder in (("stereo", 2, 1.41), ("5.1", 6, 3.41)):
    for given in ("s16", "flt"):
        seen = {asked: gain(layout, channels, given, asked) for asked in ("s16", "s32", "flt", "fltp")}
        print(layout, "from", given, "to mono:", seen)
        assert seen == {"s16": 1.0, "s32": 1.0, "flt": louder, "fltp": louder}, seen
PY
