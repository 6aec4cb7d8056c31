"""What is searched for: a query of one or several parts in the space of one target.

The parts have weights, negative ones for what is not wanted. The score of a window is the weighted
mean of its inner products with the parts, so that each part's contribution can be told.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bundle import Joint, Route
from media.modality import MODALITIES

Vectors = NDArray[np.float32]


def direction(vectors: Vectors) -> Vectors:
    """The mean of unit vectors [n, dim] as a unit vector [dim]: one query for an example of several
    windows.
    """
    mean = vectors.mean(axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)


@dataclass(frozen=True)
class TargetQuery:
    """A query for one target: an encoding, or pictures and sound together.

    `vectors` [parts, dim] are the query's parts as unit vectors in the target's space, `weights`
    what each counts. `source` is the encoding that the first part was made by; `comparable` names
    the encodings whose windows can be compared with the parts. With `passages_only` no other texts
    are searched than what is said or shown in files. `following` are the queries of the steps that
    come after this one, see `order`. `learned`: it was moved by what was learned from kept marks.
    """

    target: str | Joint
    vectors: Vectors
    weights: tuple[float, ...] = (1.0,)
    source: str = "text"
    comparable: Collection[str | Joint] = MODALITIES
    passages_only: bool = False
    following: tuple[TargetQuery, ...] = ()
    learned: bool = False

    @classmethod
    def along(
        cls, route: Route, source: str, vectors: Vectors, weights: tuple[float, ...] = (1.0,)
    ) -> TargetQuery:
        """For a route: vectors [parts, dim], of which the first is of modality `source`."""
        comparable = (*route.encodings.values(), route.target)
        return cls(route.target, vectors, weights, route.encodings[source], comparable)

    @cached_property
    def shares(self) -> Vectors:
        """The weights [parts], scaled so that their absolute values sum to one."""
        weights = np.array(self.weights, np.float64)
        return np.asarray(weights / np.abs(weights).sum(), np.float32)

    @cached_property
    def query(self) -> Vectors:
        """[dim], whose inner product with a window is its score."""
        if len(self.weights) == 1 and self.weights[0] > 0:
            return np.asarray(self.vectors[0], np.float32)
        return np.asarray(self.shares @ self.vectors, np.float32)


@dataclass(frozen=True)
class Mark:
    """A moment of an item; without `start_s`, the item's best moment for the query."""

    id: str
    start_s: float | None = None


@dataclass(frozen=True)
class Feedback:
    """Marks on what was found: moments that are right, and wrong ones."""

    right: tuple[Mark, ...] = ()
    wrong: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class Options:
    """What is asked beside the query. `min_confidence` holds where scores are calibrated."""

    top_k: int = 10
    filter: dict[str, Any] | None = None
    min_score: float | None = None
    min_confidence: float | None = None
    exact: bool = False
    # Another order of what was found, see `rerank`.
    rerank: str | None = None
    # The share of the query's words that are known. Where not all are, no hit is sure.
    known_share: float = 1.0
    # What hits name as their target, where it is not what was searched.
    target_name: str | None = None
    # Marks on what was found before.
    feedback: Feedback | None = None
    # "item": each part of a query is looked for by itself, anywhere in an item.
    aggregate: str = "moment"
    # Whether queries are moved by what was learned from kept marks.
    learned: bool = True
    # Whether hits have the tags of their items.
    tags: bool = False
    # The query's words, if it is a text alone: passages that have them are found, too.
    words: str | None = None


def score_options(options: Options, queries: Sequence[TargetQuery]) -> Options:
    """The options for the scores of each target by itself: where several are fused, `min_score` is
    about what they are fused to.
    """
    return options if len(queries) == 1 else replace(options, min_score=None)
