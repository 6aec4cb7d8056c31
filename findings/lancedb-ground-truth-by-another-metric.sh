#!/usr/bin/env bash
# lancedb 0.40.0: a search takes its metric from the index, so a table with a "cosine" or "dot" index needs no metric named.
# bypass_vector_index(), which is "to give you ground truth results which you can use to calculate your recall", bypasses
# the metric of the index with it: the exhaustive search then ranks by L2. Seen with vectors of several lengths and an index
# that holds them exactly (IvfFlat): a recall of 0.33 and 0, where distance_type() named gives 1.0. No warning
# is given.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check lancedb==0.40.0 numpy==2.4.6
"$place/venv/bin/python" - "$place/db" <<'PY'
import sys

import lancedb
import numpy as np
from lancedb.index import IvfFlat

rng = np.random.default_rng(0)
vectors = rng.normal(size=(1000, 16)).astype(np.float32) * rng.uniform(0.2, 3, size=(1000, 1)).astype(np.float32)
queries = rng.normal(size=(20, 16)).astype(np.float32)
database = lancedb.connect(sys.argv[1])


def best(search):
    return {row["number"] for row in search.limit(10).to_list()}


def recall(table, exhaustive):
    """What a user takes for the recall of the index: how many of the exhaustive search's ten it finds."""
    shares = [len(best(table.search(query).nprobes(1)) & best(exhaustive(table.search(query)))) / 10 for query in queries]
    return round(float(np.mean(shares)), 2)


for metric in ("l2", "cosine", "dot"):
    rows = [{"number": number, "vector": vector.tolist()} for number, vector in enumerate(vectors)]
    table = database.create_table(metric, rows)
    table.create_index("vector", config=IvfFlat(distance_type=metric, num_partitions=1))
    unnamed = recall(table, lambda search: search.bypass_vector_index())
    named = recall(table, lambda search: search.bypass_vector_index().distance_type(metric))
    print(f"lancedb {lancedb.__version__}, index by {metric}: recall {unnamed}, with the metric named {named}")
    assert named == 1.0, named
    assert unnamed == 1.0 if metric == "l2" else unnamed < 0.4, unnamed
PY
