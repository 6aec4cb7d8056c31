#!/usr/bin/env bash
# MediaInfo 24.12, as pymediainfo 7.0.1 brings it, tells wrong lengths of uncompressed sound in AU and CAF files, and no error. Of
# AU it takes the samples a second for the bytes a second, so the length is multiplied by channels and bytes of a sample. Of CAF
# it divides the 61,440 bytes that it has read so far by the bytes a second, so every file that is longer than that is told to
# be equally short. Seen for 5 and 50 seconds of stereo with 16 bits at 44,100 Hz: AU 20 and 200 seconds, CAF 0.348 both times.
# WAV and AIFF, and ALAC in CAF, are right. libsndfile 1.2.2 tells 5 and 50 of all of them.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check pymediainfo==7.0.1 soundfile==0.14.0 numpy==2.4.6
"$place/venv/bin/python" - "$place/sound" <<'PY'
import json
import sys

import numpy as np
import soundfile
from pymediainfo import MediaInfo

path = sys.argv[1]
RATE, LENGTHS = 44_100, (5, 50)
due = {"WAV": [5, 50], "AIFF": [5, 50], "AU": [20, 200], "CAF": [0.348, 0.348], "CAF of ALAC": [5, 50]}
for name, wrong_or_right in due.items():
    container = name.split()[0]
    subtype = "ALAC_16" if "ALAC" in name else "PCM_16"
    told = []
    for seconds in LENGTHS:
        sound = np.random.default_rng(0).normal(size=(seconds * RATE, 2)) / 10
        file = f"{path}.{container.lower()}"
        soundfile.write(file, sound, RATE, format=container, subtype=subtype)
        assert soundfile.info(file).frames == seconds * RATE
        told.append(MediaInfo.parse(file).audio_tracks[0].duration / 1000)
    version = json.loads(MediaInfo.parse(file, output="JSON"))["creatingLibrary"]["version"]
    print(f"MediaInfo {version}, {name}: {told} s, of {list(LENGTHS)} s")
    assert told == wrong_or_right, (name, told)
PY
