#!/usr/bin/env bash
# faiss-cpu 1.15.1: where some vectors of an HNSW index are equal, other vectors can no longer be found, whatever efSearch
# is. Of 2,000 random unit vectors all are found by themselves. If 600 of them are one and the same (silence, black
# pictures, a station's logo), a quarter of the other 1,400 are not, even with an efSearch of 2,000, which keeps every
# vector that the walk reaches. The links of equal vectors go to each other and to nothing else. FAISS's FAQ says only that
# duplicates are slow to search. Qdrant met the same in its own HNSW (qdrant pull request 10239) and changed it.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check faiss-cpu==1.15.1 numpy==2.4.6
"$place/venv/bin/python" - <<'PY'
import faiss
import numpy as np

faiss.omp_set_num_threads(1)
rng = np.random.default_rng(0)
vectors = rng.normal(size=(2000, 32)).astype(np.float32)
faiss.normalize_L2(vectors)


def share_found(equal):
    """Of the vectors that differ from all others, how many a search by themselves finds first."""
    x = vectors.copy()
    x[:equal] = x[0]
    order = rng.permutation(len(x))
    index = faiss.IndexHNSWFlat(32, 16, faiss.METRIC_INNER_PRODUCT)
    index.add(x[order])
    index.hnsw.efSearch = len(x)
    asked = np.flatnonzero(order >= equal)[:200]
    _, found = index.search(x[order][asked], 1)
    return float(np.mean(found[:, 0] == asked))


seen = {equal: share_found(equal) for equal in (0, 600)}
for equal, share in seen.items():
    print(f"{faiss.__version__}: {equal} of 2000 equal: {share:.0%} of the others found")
assert seen[0] > 0.99 and seen[600] < 0.9, seen
PY
