"""The windows that vectors are of, held in memory: their items, when they start and end."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..columns import Column, Ids

UNKNOWN_S = math.inf


class Place(NamedTuple):
    """The window that a vector is of: its number, when it starts and ends, whether its pictures
    show one colour only, and from which second of the item they come. UNKNOWN_S where there are
    none, or where they were written by earlier versions.
    """

    window: int
    start_s: float
    end_s: float
    one_colour: bool
    shown_s: float = UNKNOWN_S


PLACE = np.dtype(
    [
        ("window", np.int64),
        ("start_s", np.float64),
        ("end_s", np.float64),
        ("one_colour", np.bool_),
        ("shown_s", np.float64),
    ]
)


class PlaceColumns(NamedTuple):
    """Rows of the table as columns, each [n]: the numbers of vectors, of their items and of their
    windows, and their places as PLACE rows.
    """

    ids: Ids
    items: Ids
    windows: Ids
    places: NDArray[Any]


class WindowTable:
    """A row for each vector of an encoding, in the order of the vectors' numbers. The rows of one
    item are neighbours, and the numbers of items ascend, too, but for files that were written in
    parts while others were added. Rows of deleted vectors remain.
    """

    def __init__(self) -> None:
        self._ids = Column(np.empty(0, np.int64))
        self._items = Column(np.empty(0, np.int64))
        self._places = Column(np.empty(0, PLACE))
        # the same numbers as a memoryview, from which a single one is read faster
        self._owners = self.items.data
        self._in_order = True  # whether the numbers of items ascend
        # where they do not: the rows in the order of their items, and these
        self._by_item: tuple[Ids, Ids] | None = None
        self.counted_at = 0  # how many rows there were when the deleted ones were last counted
        self.read_at = -1  # the connection's count of changes when it was last read on

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def last(self) -> int:
        """The highest number of a vector; 0 where there is none."""
        return int(self.ids[-1]) if len(self) else 0

    @property
    def ids(self) -> Ids:
        return self._ids.values

    @property
    def items(self) -> Ids:
        return self._items.values

    @property
    def windows(self) -> Ids:
        """The number of each vector's window."""
        numbers: Ids = self._places.values["window"]
        return numbers

    def after(self, count: int) -> PlaceColumns:
        """All rows but the first so many."""
        places = self._places.values[count:]
        return PlaceColumns(self.ids[count:], self.items[count:], places["window"], places)

    def append_columns(self, ids: Ids, items: Ids, places: NDArray[Any]) -> None:
        """Numbers of vectors [n], higher than those there are and ascending, of their items [n],
        and PLACE rows [n].
        """
        joined = np.concatenate([self.items[-1:], items])
        self._in_order = self._in_order and bool((joined[1:] >= joined[:-1]).all())
        self._places.append(places)
        self._items.append(items)
        self._ids.append(ids)
        self._owners = self.items.data
        self._by_item = None

    def append(self, rows: list[tuple[int, int, int, float, float, int, float]]) -> None:
        """Rows of (vector, item, window, start_s, end_s, one_colour, shown_s). Numbers are below 2
        ** 53: a float64 holds those exactly.
        """
        numbers = np.fromiter(chain.from_iterable(rows), np.float64, 7 * len(rows)).reshape(-1, 7)
        places = np.empty(len(rows), PLACE)
        for column, name in enumerate(PLACE.names or (), 2):
            places[name] = numbers[:, column]
        self.append_columns(numbers[:, 0].astype(np.int64), numbers[:, 1].astype(np.int64), places)

    def find(self, ids: Ids) -> Ids:
        """The rows of vectors [n]; -1 for one that has none."""
        if not len(self):
            return np.full(len(ids), -1)
        at = self.ids.searchsorted(ids)
        return np.where(self.ids.take(at, mode="clip") == ids, at, -1)

    def owners(self, rows: Iterable[int]) -> dict[int, int]:
        """The items of rows, in the order of the rows, and the first of its rows that each had."""
        first: dict[int, int] = {}
        for row in rows:
            first.setdefault(self._owners[row], row)
        return first

    def rows_of(self, items: list[int]) -> list[list[int]]:
        """The rows of each item, ascending; none of one that has no vector.

        >>> table = WindowTable()
        >>> ends = [(1, 7, 1, 0.0, 5.0), (2, 7, 2, 5.0, 10.0), (3, 9, 3, 0.0, 5.0)]
        >>> table.append([(*row, 0, UNKNOWN_S) for row in ends])
        >>> table.rows_of([9, 7, 8])
        [[2], [0, 1], []]
        """
        wanted = np.array(items, np.int64)
        if self._in_order:
            return [list(range(*ends)) for ends in find_ranges(self.items, wanted)]
        if self._by_item is None:
            order = np.argsort(self.items, kind="stable")
            self._by_item = order, self.items[order]
        rows, owners = self._by_item
        return [rows[first:end].tolist() for first, end in find_ranges(owners, wanted)]

    def places(self, rows: list[int]) -> list[Place]:
        return [Place._make(place) for place in self._places.values[rows].tolist()]


def find_ranges(ascending: Ids, wanted: Ids) -> list[tuple[int, int]]:
    """Where each number that is wanted [n] stands among others, as [first, end)."""
    first = ascending.searchsorted(wanted, "left").tolist()
    end = ascending.searchsorted(wanted, "right").tolist()
    return list(zip(first, end, strict=True))
