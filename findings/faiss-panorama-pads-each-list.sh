#!/usr/bin/env bash
# faiss-cpu 1.15.1: "IVF256,FlatPanorama8" stores each list in batches of 1,024 vectors and pads the last one. 20,000
# vectors of 64 dimensions in 256 lists of about 78 take some 3,800 bytes each when written, where "IVF256,Flat" takes
# 267. The size of a batch can be named: with "FlatPanorama8_32" it is 32 vectors, and they take some 365 bytes each.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check faiss-cpu==1.15.1 numpy==2.4.6
"$place/venv/bin/python" - <<'PY'
import faiss
import numpy as np

x = np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float32)
sizes = {}
for name in ("IVF256,Flat", "IVF256,FlatPanorama8", "IVF256,FlatPanorama8_32"):
    index = faiss.index_factory(64, name, faiss.METRIC_L2)
    index.train(x)
    index.add(x)
    sizes[name] = len(faiss.serialize_index(index)) / len(x)
    print(f"{faiss.__version__} {name}: {sizes[name]:.0f} bytes a vector")
plain, padded, small = sizes.values()
assert plain < 300 and padded > 10 * plain and small < 1.5 * plain, sizes
PY
