#!/usr/bin/env bash
# ranx 0.3.21: documents with equal scores are ranked by where they stand in the dictionary that makes the Run, through a sort
# that is not stable. So the same scores give another MRR if the documents are put in in another order, and for more than
# some 16 documents even the first one put in may be ranked anywhere. pytrec_eval (trec_eval, which ranx says it is tested
# against) breaks ties by the documents' names, so the order does not matter. Scores of 8 bits and counts have many ties.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check ranx==0.3.21 pytrec_eval-terrier==0.5.11
"$place/venv/bin/python" - <<'PY'
from importlib.metadata import version

import pytrec_eval
from ranx import Qrels, Run, evaluate

wanted = {"q": {"d000": 1}}
trec = pytrec_eval.RelevanceEvaluator(wanted, {"recip_rank"})
seen = {}
for count in (10, 40):
    names = [f"d{i:03d}" for i in range(count)]
    for order, given in (("first", names), ("last", names[::-1])):
        run = {"q": dict.fromkeys(given, 1.0)}
        ours = round(float(evaluate(Qrels(wanted), Run(run), "mrr")), 4)
        seen[count, order] = ours, round(trec.evaluate(run)["q"]["recip_rank"], 4)
        print(f"ranx {version('ranx')}, {count} equal scores, the wanted one {order}: MRR and trec_eval's", seen[count, order])
assert seen[10, "first"][0] == 1 and seen[10, "last"][0] == 0.1, seen
assert seen[40, "first"][0] < 0.1, seen
assert all(seen[count, "first"][1] == seen[count, "last"][1] for count in (10, 40)), seen
PY
