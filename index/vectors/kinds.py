"""The kinds of index that a collection can have; a new one is a row here and a method.

| kind    | is                                                   | bytes a vector of D dimensions |
|---------|------------------------------------------------------|--------------------------------|
| exact   | every vector compared                                | 4 D                            |
| hnsw    | a graph of neighbours (arXiv 1603.09320)             | 4 D + 272                      |
| ivf     | 4-bit codes, the best of them compared anew          | 4 D + D / 2 + 12               |
| small   | the same, compared anew as 8 bits a number           | D + D / 2 + 12                 |
| gpu     | every vector compared by a GPU; filtered ones here   | 4 D, and as many there         |
| gpu-ivf | the nearest lists compared by a GPU; filtered ones,  | 4 D, and as many there         |
|         | every one of them, here                              |                                |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .codes import described
from .gpu import GpuFlat, GpuLists
from .methods import HNSW_LINKS, Coded, Flat, Graph, Small

CODED_BY_DEFAULT = "nprobe=32,k_factor_rf=32"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """`factory` gives FAISS's name for an index of a dimension and an expected number of vectors;
    `extra_bytes` what a vector of a dimension takes beside four bytes a number.
    """

    method: type[Flat]
    factory: Callable[[int, int], str] = lambda dim, expected: "Flat"
    extra_bytes: Callable[[int], int] = lambda dim: 0
    # FAISS's search parameters until they are tuned.
    parameters: str = ""
    # Whether it is learned from a sample of the vectors.
    learned: bool = False

    def bytes_per_vector(self, dim: int) -> int:
        return 4 * dim + self.extra_bytes(dim)


KINDS = {
    "exact": Kind(method=Flat),
    "hnsw": Kind(
        method=Graph,
        factory=lambda dim, expected: f"HNSW{HNSW_LINKS},Flat",
        extra_bytes=lambda dim: 272,
        parameters="efSearch=128",
    ),
    "ivf": Kind(
        method=Coded,
        factory=lambda dim, expected: f"{described(dim, expected)},RFlat",
        extra_bytes=lambda dim: dim // 2 + 12,
        parameters=CODED_BY_DEFAULT,
        learned=True,
    ),
    "small": Kind(
        method=Small,
        factory=lambda dim, expected: f"{described(dim, expected)},Refine(SQ8)",
        extra_bytes=lambda dim: dim // 2 + 12 - 3 * dim,
        parameters=CODED_BY_DEFAULT,
        learned=True,
    ),
    "gpu": Kind(method=GpuFlat),
    "gpu-ivf": Kind(method=GpuLists, parameters="nprobe=32", learned=True),
}
GPU_KINDS = [name for name, kind in KINDS.items() if issubclass(kind.method, GpuFlat)]
