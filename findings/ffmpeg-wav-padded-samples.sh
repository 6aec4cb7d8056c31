#!/usr/bin/env bash
# FFmpeg 8.1.2 as PyAV 18.1.0 brings it: a WAV file (WAVE_FORMAT_EXTENSIBLE) may hold samples of 24 or 20 bits in four bytes
# each. Its header gives both sizes: wBitsPerSample 32, wValidBitsPerSample 24. FFmpeg takes the second for the size of a
# sample. 24 bits are decoded as floats of the codec pcm_f24le, beyond 1e31 for a sine of 0.5. 20 bits are decoded as
# samples of three bytes: noise, and a third more samples than there are. No error is raised. libsndfile 1.2.2 reads both
# exactly.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check av==18.1.0 soundfile==0.14.0 numpy==2.4.6
"$place/venv/bin/python" - "$place/sine.wav" <<'PY'
import struct
import sys

import av
import numpy as np
import soundfile

PCM = bytes.fromhex("0100000000001000800000aa00389b71")  # the sub-format
path = sys.argv[1]


def write(valid_bits):
    sine = np.round(np.sin(np.arange(4800) * 0.05) * 2 ** (valid_bits - 2)).astype(np.int64) << (32 - valid_bits)
    data = sine.astype("<i4").tobytes()
    form = struct.pack("<HHIIHHHHI", 0xFFFE, 1, 48_000, 4 * 48_000, 4, 32, 22, valid_bits, 4) + PCM
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    with open(path, "wb") as file:
        file.write(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
    return sine / 2**31


seen = {}
for valid_bits in (24, 20):
    sine = write(valid_bits)
    with av.open(path) as container:
        codec = container.streams.audio[0].codec_context.name
        resampler = av.AudioResampler(format="flt", layout="mono", rate=48_000)
        parts = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    decoded = np.concatenate([part.to_ndarray().ravel() for part in parts])
    exact = np.array_equal(soundfile.read(path)[0], sine)
    seen[valid_bits] = codec, len(decoded), float(np.abs(decoded).max())
    print(f"{valid_bits} of 32 bits, {len(sine)} samples: FFmpeg {seen[valid_bits]}, libsndfile exact: {exact}")
    assert exact
assert seen[24][0] == "pcm_f24le" and seen[24][2] > 1e30, seen
assert seen[20][0] == "pcm_s24le" and seen[20][1] > 6000 and seen[20][2] > 0.99, seen
print(av.__version__, av.ffmpeg_version_info, "libsndfile", soundfile.__libsndfile_version__)
PY
