"""All windows of a target, read from the records and compared with queries exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.bundle import Joint

from .columns import Ids
from .records.database import Records
from .records.item import UnknownItem
from .records.marks import StoredMark
from .spread import Vectors, unit

# Windows that are read at most; those of marked items are always among them.
WINDOWS_MAX = 100_000


@dataclass(frozen=True)
class Gallery:
    """Windows [n]: the ids of their items, when they start in seconds, and their vectors [n, dim].
    Windows of one item are neighbours.
    """

    ids: list[str]
    starts_s: NDArray[np.float64]
    vectors: Vectors

    def best(self, query: Vectors, count: int) -> list[str]:
        """The ids of the best items for a query [dim]."""
        found: dict[str, None] = {}
        for n in np.argsort(-(self.vectors @ query), kind="stable").tolist():
            found[self.ids[n]] = None
            if len(found) == count:
                break
        return list(found)

    def stands_out(self, query: Vectors, item: str) -> float:
        """By how many standard deviations of all windows' scores for a query [dim] an item's best
        lies above their mean; 0 for an item that is not here.
        """
        scores = self.vectors @ query
        own = scores[self.rows(item)]
        if not len(own):
            return 0.0
        return float((own.max() - scores.mean()) / max(float(scores.std()), 1e-9))

    def rows(self, item: str) -> NDArray[np.int64]:
        """Which windows are of an item."""
        return np.array([n for n, id in enumerate(self.ids) if id == item], np.int64)

    def marked(self, query: Vectors, marks: Sequence[StoredMark]) -> Vectors:
        """The vectors [k, dim] of marked windows: nearest to a mark's second, or the item's best
        for the query. Marks of items that have none are left out.
        """
        found: list[Vectors] = []
        for mark in marks:
            rows = self.rows(mark.item)
            if not len(rows):
                continue
            if mark.start_s is None:
                best = int((self.vectors[rows] @ query).argmax())
            else:
                best = int(np.abs(self.starts_s[rows] - mark.start_s).argmin())
            found.append(self.vectors[rows[best]])
        return np.array(found, np.float32).reshape(len(found), self.vectors.shape[1])

    def sample(self, most: int) -> Vectors:
        """Some of the vectors, by chance."""
        if len(self.vectors) <= most:
            return self.vectors
        chosen = np.random.default_rng(0).choice(len(self.vectors), most, replace=False)
        return self.vectors[np.sort(chosen)]


def read_gallery(
    records: Records, target: str | Joint, dims: Mapping[str, int], wanted: Sequence[str] = ()
) -> Gallery:
    """A target's windows; of more than `WINDOWS_MAX`, some by chance, and those of wanted items."""
    sides = [target.video, target.audio] if isinstance(target, Joint) else [target]
    tables = [records.window_table(encoding) for encoding in sides]
    windows = np.unique(np.concatenate([table.windows for table in tables]))
    items = np.zeros(len(windows), np.int64)
    starts_s = np.zeros(len(windows))
    for table in tables:
        at = windows.searchsorted(table.windows)
        items[at] = table.items
        starts_s[at] = [place.start_s for place in table.places(list(range(len(table))))]
    chosen = choose(items, records, wanted)
    windows, items, starts_s = windows[chosen], items[chosen], starts_s[chosen]
    parts = np.zeros((len(sides), len(windows), dims[sides[0]]), np.float32)
    has = np.zeros((len(sides), len(windows)), bool)
    for side, (encoding, table) in enumerate(zip(sides, tables, strict=True)):
        rows = np.flatnonzero(np.isin(table.windows, windows))
        known, vectors = records.read_vectors(table.ids[rows], dims[encoding])
        rows = table.find(known)
        at = windows.searchsorted(table.windows[rows])
        parts[side, at] = vectors
        has[side, at] = True
    there = np.flatnonzero(has.any(axis=0))
    if isinstance(target, Joint):
        sums = target.add(parts[0], parts[1], has[0] & has[1])
    else:
        sums = parts[0]
    about = records.about(sorted(set(items[there].tolist())))
    there = np.array([n for n in there.tolist() if int(items[n]) in about], np.int64)
    ids = [about[int(items[n])].id for n in there]
    return Gallery(ids, starts_s[there], unit(sums[there]))


def choose(items: Ids, records: Records, wanted: Sequence[str]) -> NDArray[np.int64]:
    """Which of windows [n], by their items, are read."""
    if len(items) <= WINDOWS_MAX:
        return np.arange(len(items))
    kept = np.zeros(len(items), bool)
    kept[np.random.default_rng(0).choice(len(items), WINDOWS_MAX, replace=False)] = True
    numbers = []
    for id in wanted:
        try:
            numbers.append(records.number(id))
        except UnknownItem:  # deleted meanwhile
            continue
    return np.flatnonzero(kept | np.isin(items, numbers))
