#!/usr/bin/env bash
# miniaudio 1.71 (Python): decode(), decode_file() and convert_frames() with a lower sample_rate let through what the new rate
# cannot hold, as other, lower tones. miniaudio's resampler is a linear one behind a weak low-pass, and the Python functions
# have no argument for it. Seen from 48,000 Hz to the 16,000 of many speech and sound models: 9 kHz comes out as 7 kHz of half
# the amplitude, 10 kHz as 6 kHz of 0.31 and 12 kHz as 4 kHz of 0.11. soxr 1.1.0 leaves none of them. Consonants, cymbals
# and insects are there, so spectra made with this decoder differ from those that the model was trained with.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check miniaudio==1.71 soxr==1.1.0 numpy==2.4.6
"$place/venv/bin/python" - "$place/tone.wav" <<'PY'
import sys
import wave
from importlib.metadata import version

import miniaudio
import numpy as np
import soxr

path = sys.argv[1]
HIGH, LOW = 48_000, 16_000


def strongest(sound):
    """The frequency and amplitude of the strongest tone in a second in the middle."""
    spectrum = np.abs(np.fft.rfft(sound[LOW // 2 :][:LOW])) / (LOW / 2)
    return int(spectrum.argmax()), round(float(spectrum.max()), 2)


seen = {}
for pitch in (2000, 9000, 10_000, 12_000):
    tone = np.round(32_767 * 0.9 * np.sin(2 * np.pi * pitch * np.arange(2 * HIGH) / HIGH)).astype("<i2")
    with wave.open(path, "wb") as file:
        file.setparams((1, 2, HIGH, 0, "NONE", "not compressed"))
        file.writeframes(tone.tobytes())
    decoded = miniaudio.decode_file(path, miniaudio.SampleFormat.FLOAT32, nchannels=1, sample_rate=LOW)
    seen[pitch] = strongest(np.array(decoded.samples) / 0.9)
    other = strongest(soxr.resample(tone / np.float32(32_767 * 0.9), HIGH, LOW))
    print(f"{pitch} Hz: miniaudio {version('miniaudio')} {seen[pitch]}, soxr {soxr.__version__} {other}")
    assert other[1] == (1.0 if pitch < LOW / 2 else 0.0), other
frequencies = {pitch: frequency for pitch, (frequency, _) in seen.items()}
assert frequencies == {2000: 2000, 9000: 7000, 10_000: 6000, 12_000: 4000}, seen
assert seen[2000][1] > 0.95 and seen[9000][1] > 0.4 and seen[10_000][1] > 0.25 and seen[12_000][1] > 0.08, seen
PY
