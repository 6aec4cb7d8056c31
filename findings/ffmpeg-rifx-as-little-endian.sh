#!/usr/bin/env bash
# FFmpeg 8.1.2 as PyAV 18.1.0 brings it: a RIFX file is a WAV whose numbers begin with their highest byte. FFmpeg reads its
# header so, and its samples as if their lowest byte came first: integers become noise, floats of 0.5 become values up to 3e38
# or nothing. The codec is pcm_s24le or pcm_f32le, the length is right, and no error is raised. libsndfile 1.2.2 reads the
# files exactly.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check av==18.1.0 soundfile==0.14.0 numpy==2.4.6
"$place/venv/bin/python" - "$place/sine.wav" <<'PY'
import sys

import av
import numpy as np
import soundfile

path = sys.argv[1]
sine = (np.sin(np.arange(48_000) * 0.05) / 2).astype(np.float32)
seen = {}
for subtype in ("PCM_24", "FLOAT", "DOUBLE"):
    soundfile.write(path, sine, 48_000, format="WAV", subtype=subtype, endian="BIG")
    with open(path, "rb") as file:
        assert file.read(4) == b"RIFX"
    exact = np.abs(soundfile.read(path)[0] - sine).max() < 1e-6
    with av.open(path) as container:
        codec = container.streams.audio[0].codec_context.name
        resampler = av.AudioResampler(format="dbl", layout="mono", rate=48_000)
        parts = [part.to_ndarray().ravel() for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    decoded = np.concatenate(parts)
    right = len(decoded) == len(sine) and bool(np.abs(decoded - sine).max() < 1e-6)
    seen[subtype] = codec, right
    print(f"{subtype}: FFmpeg {codec}, right: {right}; libsndfile right: {exact}")
    assert exact
print(av.__version__, av.ffmpeg_version_info, "libsndfile", soundfile.__libsndfile_version__)
assert seen == {"PCM_24": ("pcm_s24le", False), "FLOAT": ("pcm_f32le", False), "DOUBLE": ("pcm_f64le", False)}, seen
PY
