"""Other orders for the windows that an index has found, one row of `RERANKERS` each.

QB-Norm (arXiv 2112.12777) ranks lower what all queries of a bank find. GRAM (arXiv 2412.11959) and
TRIANGLE (arXiv 2509.24734) look at three vectors at once: the text t, the pictures v and the sound
a of a window. The volume of the parallelepiped that they span, or the area of the triangle between
their ends, is small where all three agree. Both need t.v, t.a and v.a only.

A window without pictures or without sound has no volume. By its score, it has a place among the
candidates that have both, and it keeps that place. Where no candidate has both, the order stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.retrieval import popularity
from export.bundle import Joint, parse_modality
from media.modality import AUDIO, TEXT, VIDEO

from ..calibration import RouteStats
from ..collection import Collection
from ..records.database import Records
from ..vectors.base import Found
from .query import TargetQuery, Vectors, direction

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What a target's index has found for a query, best first, in a collection held for reading."""

    collection: Collection
    records: Records
    query: TargetQuery
    found: Found
    stats: RouteStats | None

    def side(self, modality: str) -> Vectors | None:
        """The vectors [n, dim] of one modality of the windows found, NaN where a window has none;
        None where the query cannot be compared with it.
        """
        encoding = self.encoding(modality)
        if encoding is None:
            return None
        own = self.collection.window_table(self.query.target)
        rows = own.find(self.found.ids)
        table = self.collection.window_table(encoding)
        of_window: dict[int, int] = {}
        for beside in table.rows_of(own.items[rows].tolist()):
            ids = table.ids[beside].tolist()
            of_window |= dict(zip(table.windows[beside].tolist(), ids, strict=True))
        wanted = np.array([of_window.get(n, -1) for n in own.windows[rows].tolist()], np.int64)
        dim = self.collection.dims[encoding]
        known, vectors = self.records.read_vectors(np.unique(wanted[wanted >= 0]), dim)
        sides = np.full((len(wanted), dim), np.nan, np.float32)
        there = np.flatnonzero(np.isin(wanted, known))
        sides[there] = vectors[known.searchsorted(wanted[there])]
        return sides

    def encoding(self, modality: str) -> str | None:
        """That of a modality which the query can be compared with."""
        target = self.query.target
        if isinstance(target, Joint):
            return target.video if modality == VIDEO else target.audio
        there = [one for one in self.query.comparable if isinstance(one, str)]
        named = [one for one in there if parse_modality(one) == modality]
        return named[0] if named and named[0] in self.collection.dims else None

    def inner_products(self) -> tuple[Values, Values, Values] | None:
        """t.v, t.a and v.a of the windows found, [n] each, NaN where a window lacks one; None where
        none has all three.
        """
        video = self.side(VIDEO)
        audio = self.side(AUDIO)
        if video is None or audio is None or parse_modality(self.query.target) == TEXT:
            return None
        query = direction(self.query.query[None])
        with_sound = np.einsum("nd,nd->n", video, audio)
        if np.isnan(with_sound).all():
            return None
        products = (video @ query, audio @ query, with_sound)
        seen, heard, agreed = (one.astype(np.float64) for one in products)
        return seen, heard, agreed


def gram_volume(tv: Values, ta: Values, va: Values) -> Values:
    """The volume that unit vectors t, v and a span, from their inner products: the root of the
    determinant of their Gram matrix.

    >>> gram_volume(np.array([0.0]), np.array([0.0]), np.array([0.0])).tolist()
    [1.0]
    """
    squared = 1.0 + 2.0 * tv * ta * va - tv**2 - ta**2 - va**2
    return np.sqrt(np.maximum(squared, 0.0))


def triangle_area(tv: Values, ta: Values, va: Values) -> Values:
    """The area of the triangle between the ends of unit vectors t, v and a.

    >>> area = triangle_area(np.array([0.0]), np.array([0.0]), np.array([0.0]))
    >>> area.round(4).tolist()  # equal sides of the length root 2
    [0.866]
    """
    squared = (2.0 - 2.0 * tv) * (2.0 - 2.0 * ta) - (1.0 - tv - ta + va) ** 2
    return 0.5 * np.sqrt(np.maximum(squared, 0.0))


def by_volume(candidates: Candidates) -> list[int]:
    return smallest_first(candidates, gram_volume)


def by_area(candidates: Candidates) -> list[int]:
    return smallest_first(candidates, triangle_area)


def smallest_first(
    candidates: Candidates, measure: Callable[[Values, Values, Values], Values]
) -> list[int]:
    products = candidates.inner_products()
    scores = candidates.found.scores
    if products is None:
        return list(range(len(scores)))
    values = measure(*products)
    whole = ~np.isnan(values)
    places = np.sort(-scores[whole]).searchsorted(-scores[~whole])
    values[~whole] = np.append(np.sort(values[whole]), np.inf)[places]
    order: list[int] = np.lexsort((-scores, values)).tolist()
    return order


def by_qb_norm(candidates: Candidates) -> list[int]:
    """Windows by their score for the query above what all queries of the bank find in them, where
    the best is popular.
    """
    found = candidates.found
    stats = candidates.stats
    if stats is None or not is_popular(found, stats):
        return list(range(len(found.ids)))
    index = candidates.collection.index(candidates.query.target)
    vectors = index.vectors(found.ids)
    above = popularity(stats.bank @ vectors.T) - vectors @ candidates.query.query
    order: list[int] = np.argsort(above, kind="stable").tolist()
    return order


def is_popular(found: Found, stats: RouteStats) -> bool:
    """Whether the best window is one that queries of the bank like best, too."""
    return len(found.ids) > 0 and found.ids[0] in stats.popular


# By the name that a search asks for: the order [n] of windows that were found.
RERANKERS: dict[str, Callable[[Candidates], list[int]]] = {
    "qb_norm": by_qb_norm,
    "gram": by_volume,
    "triangle": by_area,
}
