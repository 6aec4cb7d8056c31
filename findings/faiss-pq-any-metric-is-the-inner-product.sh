#!/usr/bin/env bash
# faiss-cpu 1.15.1: a product quantizer ("PQ16x4", IndexPQ) knows two metrics, L2 and the inner product. Made with any other (L1,
# Linf, Canberra, BrayCurtis), it is built, trained and searched without an error, and searches by the inner product: the
# "distances" are products, the greatest first. Seen: with METRIC_L1 it gives the three vectors of the greatest products,
# and none of the three nearest ones. A scalar quantizer refuses these metrics. Issue 3458 of faiss asks how to search by
# L1, and the example that a maintainer answers with is such an index.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check faiss-cpu==1.15.1 numpy==2.4.6 scipy==1.17.1
"$place/venv/bin/python" - <<'PY'
import faiss
import numpy as np
from scipy.spatial.distance import cdist

rng = np.random.default_rng(0)
vectors = rng.uniform(size=(700, 16)).astype(np.float32)
query = rng.uniform(size=(1, 16)).astype(np.float32)
products = (query @ vectors.T)[0]
metrics = {"L1": "cityblock", "Linf": "chebyshev", "Canberra": "canberra", "BrayCurtis": "braycurtis"}


def search(description, metric):
    index = faiss.index_factory(16, description, metric)
    index.train(vectors)
    index.add(vectors)
    distances, found = index.search(query, 3)
    return found[0], distances[0]


l2, _ = search("PQ16x4", faiss.METRIC_L2)
assert set(l2[:2]) <= set(np.argsort(cdist(query, vectors)[0])[:3]), l2
for name, of_scipy in metrics.items():
    metric = getattr(faiss, f"METRIC_{name}")
    by_hand = cdist(query, vectors, of_scipy)[0]
    nearest = np.argsort(by_hand)[:3]
    found, distances = search("PQ16x4", metric)
    print(f"faiss {faiss.__version__}, {name}: nearest {nearest} at {by_hand[nearest].round(2)},", end=" ")
    print(f"PQ gives {found} at {distances.round(2)}, whose products are {products[found].round(2)}")
    assert list(search("Flat", metric)[0]) == list(nearest)
    assert np.abs(distances - products[found]).max() < 0.1 and list(found) == list(np.argsort(-products)[:3]), found
    assert not set(found) & set(nearest), (found, nearest)
    try:
        search("SQ8", metric)
        raise AssertionError("the scalar quantizer takes the metric")
    except RuntimeError as error:
        assert "METRIC_L2 ||" in str(error), error
PY
