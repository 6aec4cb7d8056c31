"""How the vectors of a collection are spread, and what stands out in them.

What most of a collection has in common says little about what a few marked windows share. Fisher's
linear discriminant (1936) divides by the covariance: what varies much anyway counts less. The
covariance of few vectors is uncertain. So a multiple of the identity is added to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

# Fewer vectors tell nothing of their spread.
LEAST_VECTORS = 50
# What is added to the covariance, in multiples of its mean eigenvalue. Chosen on open recordings.
SHRINKAGE = 3.0


@dataclass(frozen=True)
class Spread:
    """The mean [dim] of vectors, and the inverse [dim, dim] of their shrunk covariance."""

    mean: Vectors
    inverse: Vectors

    def stand_out(self, vectors: Vectors) -> Vectors:
        """Vectors [n, dim] by what sets each apart from the others, at length one."""
        return unit(np.asarray((vectors - self.mean) @ self.inverse, np.float32))

    def reweigh(self, query: Vectors) -> Vectors:
        """A query [dim] that counts less what varies much anyway, at length one."""
        return np.asarray(unit(query[None] @ self.inverse)[0], np.float32)


def measure_spread(vectors: Vectors) -> Spread | None:
    """Of vectors [n, dim]; None where they are too few or all alike."""
    if len(vectors) < LEAST_VECTORS:
        return None
    mean = vectors.mean(axis=0)
    apart = vectors.astype(np.float64) - mean
    covariance = apart.T @ apart / len(vectors)
    level = float(np.trace(covariance)) / len(covariance)
    if level < 1e-9:
        return None
    shrunk = covariance + SHRINKAGE * level * np.eye(len(covariance))
    inverse = np.linalg.inv(shrunk) * level
    return Spread(mean, np.asarray(inverse, np.float32))


def unit(vectors: Vectors) -> Vectors:
    """Vectors [n, dim] at length one; zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)
