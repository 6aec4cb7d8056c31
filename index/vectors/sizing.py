"""Which kind of index a collection gets, by how many vectors it has and what a user allows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .kinds import KINDS

# Vectors, below which there is nothing to learn codes or lists from.
LEARNABLE = 1_000
# Numbers that an exact scan gets through, about (two cores with AVX2).
COMPARED_PER_MS = 5_000_000
# A search that takes no longer compares every vector: reading codes first gains nothing.
EXACT_MS = 0.25


@dataclass(frozen=True)
class Sizing:
    """What a user says of the indexes: a kind, or "auto"; how much memory one may take (0: no
    limit), and how long one search of it.
    """

    kind: str = "auto"
    memory_mb: int = 0
    latency_ms: float = 2.0
    # The address of a Milvus that keeps the vectors instead.
    milvus: str = ""

    def kind_for(self, count: int, dim: int, now: str = "exact") -> str:
        """The kind for so many vectors: the simplest that is quick enough, within the memory.

        A kind that is no longer needed stays until half of what it was needed for is left.

        >>> [Sizing().kind_for(count, dim=256) for count in (1_000, 100_000, 3_000_000)]
        ['exact', 'ivf', 'ivf']
        >>> Sizing().kind_for(4_000, dim=256, now="ivf")
        'ivf'
        >>> Sizing(memory_mb=40).kind_for(100_000, dim=256)
        'small'
        >>> Sizing("exact").kind_for(100_000, dim=256)
        'exact'
        """
        if self.kind != "auto":
            enough = count >= LEARNABLE or not KINDS[self.kind].learned
            return self.kind if enough else "exact"
        room = self.memory_mb * 1_000_000 or math.inf
        needed = count if KINDS[now].method.exhaustive else 2 * count
        quick = needed * dim <= min(self.latency_ms, EXACT_MS) * COMPARED_PER_MS
        fits = {
            kind: KINDS[kind].bytes_per_vector(dim) * count <= room for kind in ("exact", "ivf")
        }
        if count < LEARNABLE or (quick and fits["exact"]):
            return "exact"
        return "ivf" if fits["ivf"] else "small"
