#!/usr/bin/env bash
# transformers 5.24.0: ClapFeatureExtractor with its default truncation, "fusion", gives a flag `is_longer` for each sound.
# CLAP takes another path for sounds longer than ten seconds. If a batch has none, the extractor picks one of the batch
# at random (numpy's global generator) and marks it as longer. So the flag of a sound of two seconds, and with it the
# embedding of a fused CLAP, changes with its neighbours and from call to call. Alone in its batch it is always marked,
# beside a long sound never. The model's documentation says that the flag tells whether the clip is longer.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==5.24.0 numpy==2.4.6
"$place/venv/bin/python" - <<'PY'
import numpy as np
import transformers
from transformers import ClapFeatureExtractor

extractor = ClapFeatureExtractor()
short = [np.sin(np.arange(96_000) * 0.01 * (i + 1)).astype(np.float32) for i in range(4)]
long = np.sin(np.arange(600_000) * 0.01).astype(np.float32)


def flags(sounds):
    return tuple(map(bool, extractor(sounds, sampling_rate=48_000, return_tensors="np")["is_longer"].ravel()))


np.random.seed(0)
batches = [flags(short) for _ in range(8)]
alone, beside = flags(short[:1]), flags([*short[:1], long])
print(transformers.__version__, "four short sounds, call after call:", [batch.index(True) for batch in batches])
print("one alone:", alone, "and beside a long one:", beside)
assert all(sum(batch) == 1 for batch in batches) and len(set(batches)) > 1, batches
assert alone == (True,) and beside == (False, True), (alone, beside)
PY
