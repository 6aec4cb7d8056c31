"""Step two: every window of the items that were found is compared with the query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from export.bundle import Joint, parse_modality

from ..collection import Collection
from ..records.database import Records
from ..records.window_table import Place
from ..vectors.base import inner_products
from ..vectors.joint import JointIndex
from .query import TargetQuery, Vectors
from .retrieve import TargetMatches

Target = str | Joint


@dataclass(frozen=True)
class Windows:
    """The windows of items in one encoding, side by side: the n-th item's lie from bounds[n] to
    before bounds[n + 1], [items + 1]. `rows` are theirs in the encoding's window table.
    """

    bounds: list[int]
    rows: list[int]
    places: list[Place]


class ItemWindows:
    """The windows and vectors that some items have, read from the collection while it is held."""

    def __init__(
        self,
        collection: Collection,
        records: Records,
        items: list[int],
        matches: list[TargetMatches],
    ) -> None:
        self._collection = collection
        self._records = records
        self._items = items
        self._windows: dict[Target, Windows] = {}
        self._vectors: dict[Target, Vectors] = {}
        searched = [found.query.target for found in matches]
        for target in dict.fromkeys([*collection.dims, *searched]):
            if len(collection.window_table(target)):
                self._windows[target] = self._read_windows(target)

    @property
    def count(self) -> int:
        """How many items there are."""
        return len(self._items)

    @property
    def targets(self) -> list[Target]:
        """The encodings of which the collection has any windows."""
        return list(self._windows)

    def windows(self, target: Target) -> Windows:
        return self._windows[target]

    def _read_windows(self, target: Target) -> Windows:
        table = self._collection.window_table(target)
        bounds = [0]
        rows: list[int] = []
        for own in table.rows_of(self._items):
            rows += own
            bounds.append(len(rows))
        return Windows(bounds, rows, table.places(rows))

    def vectors(self, target: Target) -> Vectors:
        """Vectors [windows, dim] as they were given, in the order of the windows."""
        if target not in self._vectors:
            self._vectors[target] = self._read_vectors(target)
        return self._vectors[target]

    def _read_vectors(self, target: Target) -> Vectors:
        index = self._collection.index(target)
        ids = self._collection.window_table(target).ids[self._windows[target].rows]
        if index.stores_original_vectors:
            vectors = index.vectors(ids)
            if len(vectors) == len(ids):
                return vectors
        known, vectors = self._records.read_vectors(np.sort(ids), index.dim)
        return vectors[np.searchsorted(known, ids)]

    def score(self, target: Target, found: TargetMatches) -> list[float]:
        """Scores [windows] in [-1, 1], whatever the rounding. Those that the search has given, if
        it has given all of them by the vectors themselves.
        """
        rows = self._windows[target].rows
        query = found.query
        index = self._collection.index(target)
        given = target == query.target and index.stores_original_vectors
        if given and found.scores.keys() >= set(rows):
            scores = [found.scores[row] for row in rows]
        elif isinstance(index, JointIndex):
            ids = self._collection.window_table(target).ids[rows]
            scores = index.scores(query.query, ids).tolist()
        elif target == query.target:
            scores = inner_products(self.vectors(target), query.query).tolist()
        else:  # nothing is ordered by these
            scores = (self.vectors(target) @ query.query).tolist()
        return [min(max(score, -1.0), 1.0) for score in scores]

    def contributions(self, query: TargetQuery) -> list[list[float]] | None:
        """What each part of a composed query contributes to scores, [windows][parts] of its
        target; None for a query of one part.
        """
        if len(query.weights) == 1:
            return None
        inner = self.vectors(query.target) @ query.vectors.T
        contributions: list[list[float]] = (inner * query.shares).tolist()
        return contributions


@dataclass(frozen=True)
class ExactMatch:
    """How sure it is that a passage has a query's words by intent, and its score by meaning."""

    confidence: float
    by_meaning: float


@dataclass(frozen=True)
class EncodingScores:
    """The scores [windows] of items' windows in one encoding. Of passages, by the numbers of their
    windows: those that have the query's words, and the texts of those that may be shown.
    """

    modality: str
    windows: Windows
    scores: list[float]
    exact: Mapping[int, ExactMatch] = field(default_factory=dict)
    texts: Mapping[int, str] = field(default_factory=dict)

    def span(self, n: int) -> range:
        """The n-th item's windows."""
        return range(self.windows.bounds[n], self.windows.bounds[n + 1])


@dataclass(frozen=True, kw_only=True)
class ItemScores:
    """What a query for one target finds in items.

    `target` is None where the collection has no window of it. `comparable` has all encodings that
    the query can be compared with, the target's too. `modalities` says which the n-th item has.
    """

    matches: TargetMatches
    target: EncodingScores | None
    comparable: list[EncodingScores]
    contributions: list[list[float]] | None
    modalities: list[list[str]]


def score(windows: ItemWindows, found: TargetMatches) -> ItemScores:
    """Compare a query with all windows of the items, in every encoding that it can be compared
    with.
    """
    query = found.query
    scores = {
        target: EncodingScores(
            parse_modality(target), windows.windows(target), windows.score(target, found)
        )
        for target in windows.targets
        if target == query.target or target in query.comparable
    }
    return ItemScores(
        matches=found,
        target=scores.get(query.target),
        comparable=list(scores.values()),
        contributions=windows.contributions(query) if query.target in scores else None,
        modalities=item_modalities(windows),
    )


def item_modalities(windows: ItemWindows) -> list[list[str]]:
    """The modalities that each item has windows of, in alphabetical order."""
    encodings = [encoding for encoding in windows.targets if isinstance(encoding, str)]
    encodings.sort(key=parse_modality)
    found: list[list[str]] = [[] for _ in range(windows.count)]
    for encoding in encodings:
        bounds = windows.windows(encoding).bounds
        for n, modalities in enumerate(found):
            modality = parse_modality(encoding)
            if bounds[n] < bounds[n + 1] and modality not in modalities:
                modalities.append(modality)
    return found
