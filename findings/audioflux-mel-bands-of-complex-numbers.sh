#!/usr/bin/env bash
# audioflux 0.1.9: the filters of BFT (mel, Bark, ERB) add up complex numbers by default (result_type=0), the spectrum or, for
# powers, its squares. Neighbouring frequencies have opposite signs behind a Hann window and cancel. np.abs of the result, as in
# the documentation's examples, is no mel spectrogram. mfcc(), bfcc() and gtcc() do the same inside. Seen: a tone of 1,000 Hz at
# 16,000 Hz has the magnitude 0 in all bands, where result_type=1 gives 585. Of white noise 2 percent of the magnitudes and 44 of
# the powers are left. The first two coefficients of mfcc() for noise are 5.4 and 1.1 on average; by mel_spectrogram(), which
# takes result_type=1, they are 9.4 and -0.4.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check audioflux==0.1.9 numpy==2.4.6
"$place/venv/bin/python" - <<'PY'
from importlib.metadata import version

import audioflux
import numpy as np
from audioflux.type import SpectralDataType, SpectralFilterBankNormalType, SpectralFilterBankScaleType

RATE = 16_000
common = {"radix2_exp": 11, "samplate": RATE, "low_fre": 0, "high_fre": 8000, "slide_length": 512}
tone = np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE).astype(np.float32)
noise = np.random.default_rng(0).normal(size=2 * RATE).astype(np.float32) / 10


def mel(sound, bands, kind, result_type):
    scale = SpectralFilterBankScaleType.MEL
    return np.abs(audioflux.BFT(num=bands, scale_type=scale, data_type=kind, **common).bft(sound, result_type))


loudest = [float(mel(tone, 40, SpectralDataType.MAG, result_type).max()) for result_type in (0, 1)]
print(f"audioflux {version('audioflux')}, tone: greatest magnitude of a band {loudest[0]:.4f}, as real numbers {loudest[1]:.0f}")
assert loudest[0] < 0.001 and 580 < loudest[1] < 590, loudest
left = {}
for kind in (SpectralDataType.MAG, SpectralDataType.POWER):
    left[kind] = float(mel(noise, 128, kind, 0).sum() / mel(noise, 128, kind, 1).sum())
    print(f"noise: of what is in all bands ({kind.name}) {left[kind]:.3f} is left")
assert left[SpectralDataType.MAG] < 0.03 and 0.4 < left[SpectralDataType.POWER] < 0.5, left

area = SpectralFilterBankNormalType.AREA
coefficients, _ = audioflux.mfcc(noise, cc_num=13, mel_num=128, **common)
bands, _ = audioflux.mel_spectrogram(noise, num=128, normal_type=area, data_type=SpectralDataType.POWER, **common)
cepstrum = audioflux.XXCC(num=128)
cepstrum.set_time_length(bands.shape[1])
due = cepstrum.xxcc(bands, cc_num=13)
means = coefficients.mean(axis=1).round(1), due.mean(axis=1).round(1)
print("mean coefficients of noise: mfcc()", means[0][:3], "and of mel_spectrogram()", means[1][:3])
assert means[0][0] < 6 and means[1][0] > 9 and means[0][1] > 0.9 and means[1][1] < 0, means
PY
