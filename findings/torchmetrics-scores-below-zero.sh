#!/usr/bin/env bash
# torchmetrics 1.9.0: RetrievalMAP, RetrievalMRR, RetrievalPrecision and RetrievalRecall take a relevant document whose score is
# zero or less for an irrelevant one, and say nothing. Cosines, logits, log-probabilities and negated distances are such scores,
# and these measures are of the order alone. RetrievalHitRate, RetrievalRPrecision and RetrievalNormalizedDCG do go by it alone.
# Seen: negated distances give 0 for all four, with a hit rate of 1; plus 10, in the same order, they give 0.79, 0.75, 0.5 and
# 0.75. Of random cosines around zero MAP is too high, 0.155 for 0.134: what is below zero is left out of the mean. The
# documentation calls the scores "estimated probabilities"; pull request 3104 of torchmetrics wanted scores of zero to count as
# no prediction.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6
"$place/venv/bin/python" - <<'PY'
import torch
import torchmetrics
from torchmetrics import retrieval

measures = {
    "MAP": (retrieval.RetrievalMAP(), 0.7917),
    "MRR": (retrieval.RetrievalMRR(), 0.75),
    "precision": (retrieval.RetrievalPrecision(top_k=2), 0.5),
    "recall": (retrieval.RetrievalRecall(top_k=2), 0.75),
    "hit rate": (retrieval.RetrievalHitRate(top_k=2), 1.0),
    "R-precision": (retrieval.RetrievalRPrecision(), 0.75),
    "NDCG": (retrieval.RetrievalNormalizedDCG(), 0.8467),
}
# By hand: the first query has its two relevant documents at ranks 2 and 3, the second its one at rank 1. So MAP is
# ((1/2 + 2/3) / 2 + 1) / 2, MRR (1/2 + 1) / 2, precision at 2 (1/2 + 1/2) / 2 and recall at 2 (1/2 + 1) / 2.
queries = torch.tensor([0, 0, 0, 1, 1, 1])
relevant = torch.tensor([0, 1, 1, 1, 0, 0])
negated_distances = torch.tensor([-1.0, -2.0, -3.0, -0.5, -2.0, -9.0])
for name, (measure, due) in measures.items():
    below = round(float(measure(negated_distances, relevant, indexes=queries)), 4)
    above = round(float(measure(negated_distances + 10, relevant, indexes=queries)), 4)
    print(f"torchmetrics {torchmetrics.__version__} {name}: {below} of scores below zero, {above} of the same plus 10")
    assert above == due, (name, above)
    assert below == (0 if name in ("MAP", "MRR", "precision", "recall") else due), (name, below)

random = torch.Generator().manual_seed(0)
cosines = torch.randn(20_000, generator=random) / 10
relevant = (torch.rand(20_000, generator=random) < 0.1).long()
queries = torch.arange(20_000) // 100
found = [float(retrieval.RetrievalMAP()(cosines + shift, relevant, indexes=queries)) for shift in (0, 1)]
print(f"MAP of cosines around zero {found[0]:.3f}, plus 1 {found[1]:.3f}")
assert found[0] > 1.1 * found[1], found
PY
