"""Fits kernel maps from the features of published networks to sentence vectors, and predicts rows
that were held out.

A linear map weighs each feature once. A kernel map compares a picture with every picture that it
was fitted to, so it can tell apart what no single direction separates. N rows, M centres, D
features, E embedding. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .linear_maps import Matrix, unit

SHARPNESSES = (2.0, 2.5, 3.0)  # of the kernel: the values that are tried
PENALTIES = (0.05, 0.1, 0.2)


@dataclass(frozen=True)
class KernelMap:
    """Features [N, D], none below zero -> unit vectors [N, E]: unit(K @ coefficients).

    K [N, M] are the similarities to `centres` [M, D], which are directions, see `find_directions`:
    exp(sharpness (cosine - 1)), a Gaussian of their distance. `mean` [D] is that of the features'
    square roots. `coefficients` are [M, E].
    """

    mean: Matrix
    centres: Matrix
    coefficients: Matrix
    sharpness: float

    def __call__(self, features: Matrix) -> Matrix:
        kernel = compare(find_directions(features, self.mean), self.centres, self.sharpness)
        return unit(kernel @ self.coefficients)


def find_directions(features: Matrix, mean: Matrix) -> Matrix:
    """Square roots of features [N, D], less their mean [D], at length one.

    The roots keep a few strong features from deciding alone (Hellinger's kernel); the mean is what
    all pictures have in common.
    """
    return unit(np.sqrt(np.maximum(features, 0)) - mean)


def mean_of_roots(features: Matrix) -> Matrix:
    """The mean of the square roots of features [N, D]: [D]."""
    return np.asarray(np.sqrt(np.maximum(features, 0)).mean(axis=0), np.float32)


def compare(directions: Matrix, centres: Matrix, sharpness: float) -> Matrix:
    """Gaussian similarities [N, M] of directions [N, D] and [M, D], 1 where they are equal.

    >>> directions = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    >>> compare(directions, directions, sharpness=2.0).astype(float).round(3).tolist()
    [[1.0, 0.135], [0.135, 1.0]]
    """
    similarities = np.exp(sharpness * (directions @ centres.T - 1))
    return np.asarray(similarities, np.float32)


def kernel_ridge(
    features: Matrix, targets: Matrix, sharpness: float, *, penalty: float
) -> KernelMap:
    """Kernel ridge regression of targets Y [N, E], less their mean, on features [N, D]: the
    coefficients are (K + penalty I)^-1 Y.

    The mean is not part of the result, so it predicts what sets a picture apart.
    """
    mean = mean_of_roots(features)
    centres = find_directions(features, mean)
    regularised = regularise(compare(centres, centres, sharpness), penalty)
    coefficients = np.linalg.solve(regularised, targets - targets.mean(axis=0))
    return KernelMap(mean, centres, coefficients.astype(np.float32), sharpness)


def kernel_held_out(
    kernel: Matrix, targets: Matrix, parts: NDArray[np.int64], penalty: float
) -> Matrix:
    """Cross-validated predictions [N, E] of targets, less the mean of all of them: each row is
    predicted without the rows of its part. `kernel` [N, N] compares the rows, `parts` [N] are
    labels.

    One inverse G of the regularised kernel serves all parts: what is left over of part S is
    (G_SS)^-1 (G Y)_S. With S of one row it is the known formula for leave-one-out.
    """
    rest = targets - targets.mean(axis=0, dtype=np.float64)
    inverse = np.linalg.inv(regularise(kernel, penalty))
    weights = inverse @ rest
    vectors = np.zeros_like(targets)
    for part in np.unique(parts):
        rows = np.flatnonzero(parts == part)
        left_over = np.linalg.solve(inverse[np.ix_(rows, rows)], weights[rows])
        vectors[rows] = unit(rest[rows] - left_over)
    return vectors


def regularise(kernel: Matrix, penalty: float) -> NDArray[Any]:
    """The kernel with the penalty on its diagonal, in double precision [N, N]."""
    return kernel.astype(np.float64) + penalty * np.eye(len(kernel))
