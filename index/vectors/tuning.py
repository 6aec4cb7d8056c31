"""Search parameters: how many lists are read, how many vectors compared, how far a graph is walked.

FAISS's ParameterSpace measures combinations of them by queries whose true hits are known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..columns import Ids
from .base import Vectors, faiss

TUNED_FOR = 10  # hits
RECALL = 0.99  # of those ten, that tuning wants found
LEAST_TUNED = 100  # vectors, below which nothing is tuned
TIMED_S = 0.01  # a combination's queries are asked again for so long, since short times are noise


@dataclass(frozen=True)
class Tuning:
    """Search parameters in FAISS's notation, the number of vectors they were found with (0: they
    are a kind's defaults), and a digest of the queries they were found by ("": its own vectors).
    """

    key: str
    count: int = 0
    queries: str = ""

    @cached_property
    def values(self) -> dict[str, float]:
        """The parameters by name.

        >>> Tuning("nprobe=8,k_factor_rf=16").values
        {'nprobe': 8.0, 'k_factor_rf': 16.0}
        """
        pairs = [pair.split("=") for pair in self.key.split(",") if pair]
        return {name: float(value) for name, value in pairs}


@dataclass(frozen=True)
class Goal:
    """How long a search may take on one thread, in milliseconds, and which share of the true ten it
    should find.
    """

    latency_ms: float = math.inf
    recall: float = RECALL


class Tried(NamedTuple):
    """Search parameters, the recall that they give and how long a search takes with them."""

    recall: float
    ms: float
    key: str


def leave_out_below(space: Any, name: str, lowest: float) -> None:
    """Have FAISS's ParameterSpace try a parameter from `lowest` on; only its highest value where
    that is lower.
    """
    values = space.add_range(name).values
    every = faiss.vector_to_array(values)
    kept = every[every >= min(lowest, every.max())]
    faiss.copy_array_to_vector(kept, values)


def choose(tried: list[Tried], goal: Goal) -> Tried:
    """The quickest that finds enough in time. Where none does, the best that is in time; where none
    is in time, the quickest of all.

    >>> tried = [Tried(0.9, 1.0, "low"), Tried(0.95, 2.0, "middle"), Tried(0.99, 4.0, "high")]
    >>> goals = [Goal(9, 0.94), Goal(9, 1.0), Goal(3, 0.98), Goal(0.5, 0.98)]
    >>> [choose(tried, goal).key for goal in goals]
    ['middle', 'high', 'middle', 'low']
    """
    in_time = [one for one in tried if one.ms <= goal.latency_ms]
    enough = [one for one in in_time if one.recall >= goal.recall]
    if enough or not in_time:
        return min(enough or tried, key=lambda one: one.ms)
    return max(in_time)


def explore(
    space: Any,
    index: Any,
    queries: Vectors,
    truth: Ids,
    *,
    threads: int = 1,
    least: dict[str, float] | None = None,
) -> list[Tried]:
    """The combinations that FAISS finds worth choosing from, by queries [n, dim] whose true hits
    are the rows `truth` [n, TUNED_FOR]. A call of all queries used so many threads. No parameter is
    tried below what `least` has for it.
    """
    criterion = faiss.IntersectionCriterion(len(queries), TUNED_FOR)
    criterion.set_groundtruth(None, np.ascontiguousarray(truth, np.int64))
    space.verbose = 0
    space.min_test_duration = TIMED_S
    space.initialize(index)
    for name, lowest in (least or {}).items():
        leave_out_below(space, name, lowest)
    points = space.explore(index, queries, criterion)  # owns its points
    tried = [points.optimal_pts.at(i) for i in range(points.optimal_pts.size())]
    return [
        Tried(one.perf, 1000 * threads * one.t / len(queries), one.key) for one in tried if one.key
    ]
