#!/usr/bin/env bash
# usearch 2.26.6: with dtype "i8" each vector is brought to length 1 before it is rounded, whatever the metric. So an index
# that was made for the inner product ("ip") or the distance ("l2sq") of vectors of several lengths ranks by the cosine
# instead, without a word, also in an exact search. f16, bf16 and the formats of 8-bit floats keep the lengths. Seen: of
# the ten best by inner product, f16 finds all, i8 four, while i8 finds nearly all of the ten best by cosine. Issue 405
# of usearch met bad results of "i8" with "ip" in 2024, and is closed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check usearch==2.26.6 numpy==2.4.6
"$place/venv/bin/python" - <<'PY'
from importlib.metadata import version

import numpy as np
from usearch.index import Index

rng = np.random.default_rng(0)
directions = rng.normal(size=(2000, 32)).astype(np.float32)
directions /= np.linalg.norm(directions, axis=1, keepdims=True)
vectors = directions * rng.uniform(0.2, 3, size=(2000, 1)).astype(np.float32)
queries = directions[:20]


def best(distances):
    return np.argsort(distances, axis=1)[:, :10]


def share(found, expected):
    return round(float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, expected, strict=True)])), 2)


by_cosine = best(-queries @ directions.T)
due = {
    "ip": best(-queries @ vectors.T),
    "l2sq": best(((queries[:, None] - vectors[None]) ** 2).sum(axis=2)),
}
for metric, expected in due.items():
    for dtype in ("f16", "i8"):
        index = Index(ndim=32, metric=metric, dtype=dtype)
        index.add(np.arange(2000), vectors)
        found = np.array(index.search(queries, 10, exact=True).keys).astype(int)
        as_asked, as_cosine = share(found, expected), share(found, by_cosine)
        print(f"usearch {version('usearch')} {metric} {dtype}: {as_asked} of the best by {metric}, {as_cosine} by cosine")
        if dtype == "f16":
            assert as_asked > 0.95, as_asked
        else:
            assert as_asked < 0.6 and as_cosine > 0.9, (as_asked, as_cosine)
PY
