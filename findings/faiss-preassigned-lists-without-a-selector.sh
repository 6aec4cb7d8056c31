#!/usr/bin/env bash
# faiss-cpu 1.15.1: an inverted-list index can search lists that its caller has chosen, search_preassigned. In C++ it takes search
# parameters, and with them a selector of ids. The Python method has an argument `params`, too, and refuses any value but
# None: "params not supported". The wrapped C++ function, search_preassigned_c with pointers, takes them and leaves out
# what the selector leaves out.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check faiss-cpu==1.15.1 numpy==2.4.6
"$place/venv/bin/python" - <<'PY'
import faiss
import numpy as np

x = np.random.default_rng(0).normal(size=(2000, 16)).astype(np.float32)
index = faiss.index_factory(16, "IVF8,PQ8x4fs", faiss.METRIC_INNER_PRODUCT)
index.train(x)
index.add(x)
query = x[:1]
near, lists = index.quantizer.search(query, 8)
even = faiss.SearchParametersIVF(nprobe=8, sel=faiss.IDSelectorBatch(np.arange(0, 2000, 2)))
try:
    index.search_preassigned(query, 10, lists, near, params=even)
    refused = None
except AssertionError as error:
    refused = str(error)
scores, found = np.empty((1, 10), np.float32), np.empty((1, 10), np.int64)
p = faiss.swig_ptr
index.search_preassigned_c(1, p(query), 10, p(lists), p(near), p(scores), p(found), False, even, None)
print(faiss.__version__, "search_preassigned with params:", refused)
print("search_preassigned_c with the same:", found[0].tolist())
assert refused == "params not supported"
assert (found >= 0).all() and (found % 2 == 0).all()
PY
