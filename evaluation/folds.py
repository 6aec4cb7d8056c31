"""Cross-validation of what follows a frozen encoder: a linear map from its vectors to texts, fitted
for each fold.
"""

from __future__ import annotations

import numpy as np

from .linear_maps import ridge, unit
from .retrieval import Embedder, Gallery

STRENGTH = 0.03  # ridge penalty, for each row


def cross_validate(space: Embedder, gallery: Gallery) -> dict[str, float]:
    """The share of items whose own text is the nearest to their mapped vector: of each fold, named
    "fold 1" and so on, and the mean of the folds.

    A map is fitted to the items of all other folds. The texts are those of the groups, the first
    caption of each. Items without a fold are left out; nothing is returned if there are not two
    folds.
    """
    items = gallery.items
    folds = np.array([-1 if row.fold is None else row.fold for row in items])
    vectors = gallery.directions()
    said = {row.group: row.captions[0].text for row in items if row.captions}
    groups = sorted(said)
    texts = space.texts([said[group] for group in groups])
    texts = unit(texts - texts.mean(axis=0))
    own = np.array([groups.index(row.group) if row.group in said else -1 for row in items])
    found: dict[str, float] = {}
    known = sorted({int(fold) for fold in folds[(folds >= 0) & (own >= 0)]})
    if len(known) < 2:
        return {}
    for fold in known:
        held_out = (folds == fold) & (own >= 0)
        rest = (folds >= 0) & (folds != fold) & (own >= 0)
        mapped = ridge(vectors[rest], texts[own[rest]], STRENGTH)(vectors[held_out])
        nearest = (mapped @ texts.T).argmax(axis=1)
        found[f"fold {fold}"] = float((nearest == own[held_out]).mean())
    return found | {"mean": float(np.mean(list(found.values())))}
