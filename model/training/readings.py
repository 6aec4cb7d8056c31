"""How the readings of published stems are fitted, and their strengths chosen on rows that were held
out.

N rows, D features, C classes, E embedding. No torch: matrices and least squares.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
SHARPNESS = (0.4, 0.6, 0.8)  # what logits are multiplied by before their softmax
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # of a ridge, times the number of rows
WEIGHTS = (0.25, 0.5, 0.75, 1.0)  # of the captions' map beside the classes' reading
AUDIO_WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)  # of a sound beside its picture


def unit(vectors: NDArray[np.floating[Any]]) -> Matrix:
    """Vectors [..., E] brought to length one."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


def softmax(logits: Matrix, sharpness: float) -> Matrix:
    """Of each row of [N, C], logits times the sharpness."""
    raised = np.exp(sharpness * (logits - logits.max(axis=1, keepdims=True)))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float32)


@dataclass(frozen=True)
class Linear:
    """Features [N, D] -> unit vectors [N, E]: unit(features @ matrix + offset)."""

    matrix: Matrix
    offset: Matrix

    def __call__(self, features: Matrix) -> Matrix:
        return unit(features @ self.matrix + self.offset)


def ridge(features: Matrix, targets: Matrix, strength: float, centred: bool = False) -> Linear:
    """Ridge regression on standardised features (Hoerl and Kennard): the least |X W - Y|^2 +
    strength N |W|^2.

    The mean of the targets is left out of the result where it is to be `centred`.

    >>> features = np.array([[0.0], [2.0]], np.float32)
    >>> fitted = ridge(features, features + 1, strength=1.0)
    >>> fitted.matrix.round(3).tolist(), fitted.offset.round(3).tolist()
    ([[0.5]], [1.5])
    """
    mean = features.mean(axis=0, dtype=np.float64)
    scale = features.std(axis=0, dtype=np.float64) + 1e-6
    common = targets.mean(axis=0, dtype=np.float64)
    x = (features - mean) / scale
    square = x.T @ x + strength * len(x) * np.eye(x.shape[1])
    matrix = np.linalg.solve(square, x.T @ (targets - common)) / scale[:, None]
    offset = -mean @ matrix
    if not centred:
        offset = offset + common
    return Linear(matrix.astype(np.float32), offset.astype(np.float32))


def log_ranks(queries: Matrix, gallery: Matrix, names: Sequence[str]) -> NDArray[np.float64]:
    """For each query, the logarithm of the rank of the best entry of its own name [N]; ties get
    their average rank.
    """
    scores = queries @ gallery.T
    same = np.array(names)[:, None] == np.array(names)[None]
    best = np.where(same, scores, -np.inf).max(axis=1, keepdims=True)
    above = (scores > best).sum(axis=1)
    equal = (scores == best).sum(axis=1)
    ranks: NDArray[np.float64] = np.log(above + (equal + 1) / 2)
    return ranks


def mean_reciprocal_rank(queries: Matrix, gallery: Matrix, names: Sequence[str]) -> float:
    """How near the top the best entry of each query's own name is, 1 for first [N]: it counts the
    first places most.
    """
    return float(np.exp(-log_ranks(queries, gallery, names)).mean())


def held_out(
    features: Matrix, targets: Matrix, parts: NDArray[np.int64], strength: float, centred: bool
) -> Matrix:
    """What a ridge gives for each row [N, E] when all rows of that row's part were left out of its
    fit.
    """
    vectors = np.zeros_like(targets)
    for part in np.unique(parts):
        left_out = parts == part
        fitted = ridge(features[~left_out], targets[~left_out], strength, centred)
        vectors[left_out] = fitted(features[left_out])
    return vectors


@dataclass(frozen=True)
class Tried:
    """Strengths and what they give on rows that were held out: the mean logarithm of the rank, or
    another loss.
    """

    strengths: tuple[float, ...]
    loss: float


def best_of(tried: Iterable[Tried]) -> Tried:
    return min(tried, key=lambda one: one.loss)


def mean_within(
    queries: Matrix, vectors: Matrix, parts: NDArray[np.int64], names: Sequence[str]
) -> float:
    """The mean log rank, each part's rows searched among themselves."""
    found = []
    for part in np.unique(parts):
        rows = np.flatnonzero(parts == part).tolist()
        found.append(log_ranks(queries[rows], vectors[rows], [names[i] for i in rows]))
    return float(np.concatenate(found).mean())
