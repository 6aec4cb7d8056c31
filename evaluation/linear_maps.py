"""Fits the linear maps from the features of published networks to sentence vectors, and measures
them on rows that were held out.

A row is a picture or a sound with its text. N rows, D features, C classes, E embedding. No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
# The values that are tried:
SHARPNESS = (0.3, 0.4, 0.5, 0.6)  # factor on the logits before their softmax
WEIGHTS = (0.4, 0.5, 0.6, 0.75, 1.0)  # of the map to captions, added to the class vectors


def unit(vectors: NDArray[np.floating[Any]]) -> Matrix:
    """Vectors [..., E] brought to length one."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


def softmax(logits: Matrix, sharpness: float) -> Matrix:
    """Softmax of sharpness x logits over the classes, [N, C] -> [N, C]."""
    raised = np.exp(sharpness * (logits - logits.max(axis=1, keepdims=True)))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float32)


@dataclass(frozen=True)
class Linear:
    """Features [N, D] -> unit vectors [N, E]: unit(features @ matrix + offset)."""

    matrix: Matrix
    offset: Matrix

    def __call__(self, features: Matrix) -> Matrix:
        return unit(features @ self.matrix + self.offset)


def ridge(features: Matrix, targets: Matrix, strength: float) -> Linear:
    """Ridge regression (Hoerl and Kennard) of targets Y [N, E] on features [N, D].

    W minimises |X W - Y|^2 + strength N |W|^2, where X are the features standardised and Y the
    targets minus their mean. That mean is part of the result's offset.

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
    offset = common - mean @ matrix
    return Linear(matrix.astype(np.float32), offset.astype(np.float32))


def find_main_directions(rows: Matrix, count: int) -> Matrix:
    """The orthonormal directions [D, count] along which centred rows [N, D] differ most: the
    eigenvectors of their covariance with the largest eigenvalues. The largest number of each is
    positive.

    >>> rows = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0]], np.float32)
    >>> find_main_directions(rows, 1).tolist()
    [[1.0], [0.0]]
    """
    found = np.linalg.eigh(rows.T @ rows)[1][:, ::-1][:, :count]
    largest = found[np.abs(found).argmax(axis=0), np.arange(count)]
    return np.asarray(found * np.sign(largest), np.float32)


def log_ranks(queries: Matrix, gallery: Matrix, names: Sequence[str]) -> NDArray[np.float64]:
    """For each query the natural logarithm of a rank [N]: that of the best gallery entry with the
    query's own name. Queries and gallery are unit vectors [N, E], and row i of both has names[i].
    Ties get their average rank.
    """
    scores = queries @ gallery.T
    _, numbers = np.unique(np.array(names), return_inverse=True)
    same = numbers[:, None] == numbers[None]
    best = np.where(same, scores, -np.inf).max(axis=1, keepdims=True)
    above = (scores > best).sum(axis=1)
    equal = (scores == best).sum(axis=1)
    ranks: NDArray[np.float64] = np.log(above + (equal + 1) / 2)
    return ranks


@dataclass(frozen=True)
class Tried:
    """Settings that were tried, and their loss on rows that were held out (lower is better)."""

    settings: tuple[float, ...]
    loss: float


def best_of(tried: Iterable[Tried]) -> Tried:
    return min(tried, key=lambda one: one.loss)


def mean_within(
    queries: Matrix, vectors: Matrix, parts: NDArray[np.int64], names: Sequence[str]
) -> float:
    """The mean of `log_ranks`, where queries of a part search the vectors of that part only."""
    found = []
    for part in np.unique(parts):
        rows = np.flatnonzero(parts == part).tolist()
        found.append(log_ranks(queries[rows], vectors[rows], [names[i] for i in rows]))
    return float(np.concatenate(found).mean())
