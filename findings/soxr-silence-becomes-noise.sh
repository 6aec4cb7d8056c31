#!/usr/bin/env bash
# soxr 1.1.0 (Python): digital silence does not stay silent if it is resampled as int16. libsoxr dithers 16-bit output, and
# the Python functions have no argument to turn that off. Seen: a second of zeros comes out with values of -1, 0 and 1; int32
# and float32 stay zero. What tells silence by zeros, or equal sounds by their samples, should resample floats.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check soxr==1.1.0 numpy==2.4.6
"$place/venv/bin/python" - <<'PY'
import inspect

import numpy as np
import soxr

seen = {}
for kind in (np.int16, np.int32, np.float32):
    silence = soxr.resample(np.zeros(48_000, kind), 48_000, 16_000)
    seen[kind.__name__] = np.unique(silence).tolist()
    print(soxr.__version__, kind.__name__, seen[kind.__name__], np.count_nonzero(silence), "of", len(silence), "not zero")
arguments = set(inspect.signature(soxr.resample).parameters) | set(inspect.signature(soxr.ResampleStream).parameters)
print("arguments:", sorted(arguments))
assert seen == {"int16": [-1, 0, 1], "int32": [0], "float32": [0.0]}, seen
assert not any("dither" in name for name in arguments), arguments
PY
