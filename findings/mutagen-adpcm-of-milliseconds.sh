#!/usr/bin/env bash
# mutagen 1.48.1: the length of a WAV file of ADPCM (IMA or Microsoft's, as telephones, recorders and games write) comes out
# as about a thousandth of what it is. mutagen divides the bytes by the size of a block (nBlockAlign) and takes each block
# for one sample, where a block of ADPCM holds hundreds or thousands. Seen: 5 seconds are told as less than 0.02; PCM, u-law
# and float are right. tinytag 2.3.2 and libsndfile tell 5. No error is raised, so such files look empty to what sorts, cuts
# or skips by length. Issue 578 of mutagen met "0.00 seconds" in 2022 and was closed with a change of the bitrate.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check \
  mutagen==1.48.1 tinytag==2.3.2 soundfile==0.14.0 numpy==2.4.6
"$place/venv/bin/python" - "$place/sound.wav" <<'PY'
import sys

import mutagen
import numpy as np
import soundfile
import tinytag

path = sys.argv[1]
SECONDS = 5
sound = np.random.default_rng(0).normal(size=SECONDS * 44_100) / 10
for subtype in ("PCM_16", "ULAW", "FLOAT", "IMA_ADPCM", "MS_ADPCM"):
    soundfile.write(path, sound, 44_100, subtype=subtype)
    told = mutagen.File(path).info.length
    other, decoded = tinytag.TinyTag.get(path).duration, soundfile.info(path).duration
    print(f"{subtype}: mutagen {mutagen.version_string} {told:.4f} s, tinytag {other:.2f} s, libsndfile {decoded:.2f} s")
    assert abs(other - SECONDS) < 0.1 and abs(decoded - SECONDS) < 0.1, (subtype, other, decoded)
    if subtype.endswith("ADPCM"):
        assert told < 0.02, (subtype, told)
    else:
        assert told == SECONDS, (subtype, told)
PY
