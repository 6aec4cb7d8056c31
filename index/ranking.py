"""Which of several texts fits a clip best, as probabilities over these choices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.bundle import ANY, Joint
from export.encoder import Encoder
from media.modality import AUDIO, VIDEO

from .collection import Collection, NoVectors
from .search import direction
from .vocabulary import background, calibrate_names

# By what standard deviations are divided to become log-odds. Chosen on open pictures and sounds.
TEMPERATURES = {VIDEO: 0.7, ANY: 0.7, AUDIO: 1.0}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A text by its place among those given, its probability, and its score: how many standard
    deviations it is above what other names score.
    """

    index: int
    text: str
    probability: float
    score: float


def rank_texts(
    encoder: Encoder,
    clip: NDArray[np.float32],
    texts: list[str],
    vectors: NDArray[np.float32],
    *,
    source: str,
    modality: str,
) -> list[Choice]:
    """Texts with `vectors` [n, dim] of the encoding `source`, best first, for a clip whose vector
    [dim] is of pictures, of sound, or of both.
    """
    others = background(encoder, source, None if modality == ANY else modality)
    directions, offsets = calibrate_names(vectors, others, 0.0)
    scores = (directions @ clip + offsets).astype(np.float64)
    odds = scores / TEMPERATURES[modality]
    weights = np.exp(odds - odds.max())
    shares = weights / weights.sum()
    return [
        Choice(index=n, text=texts[n], probability=float(shares[n]), score=float(scores[n]))
        for n in np.argsort(-scores, kind="stable").tolist()
    ]


def item_direction(collection: Collection, id: str, target: str | Joint) -> NDArray[np.float32]:
    """One vector for an item; of a joint target its pictures and its sound together, or what it
    has of both. Raises UnknownItem, NoVectors.
    """
    if not isinstance(target, Joint):
        return direction(collection.vectors(id, target))
    found: dict[str, NDArray[np.float32]] = {}
    for encoding in (target.video, target.audio):
        try:
            found[encoding] = direction(collection.vectors(id, encoding))
        except NoVectors:
            continue
    if not found:
        raise NoVectors(id, ANY)
    return join_directions(found, target)


def join_directions(found: dict[str, NDArray[np.float32]], joint: Joint) -> NDArray[np.float32]:
    """Vectors [dim] of pictures and of sound, by encoding, as one; of either alone that."""
    if len(found) == 1:
        return next(iter(found.values()))
    video = found[joint.video][None]
    audio = found[joint.audio][None]
    return direction(joint.add(video, audio, np.ones(1, bool)))
