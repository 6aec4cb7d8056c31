"""Where vectors belong, held in memory: their items, their windows and when these are."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..columns import Column, Ids


class Place(NamedTuple):
    """Where a vector belongs: which window, when it starts and ends, and whether only one colour is
    seen there.
    """

    window: int
    start_s: float
    end_s: float
    plain: bool


PLACE = np.dtype(
    [("window", np.int64), ("start_s", np.float64), ("end_s", np.float64), ("plain", np.bool_)]
)


class PlaceColumns(NamedTuple):
    """Vectors by their numbers, items, windows, and all that is known of where they belong; each
    [n].
    """

    ids: Ids
    items: Ids
    windows: Ids
    places: NDArray[Any]


class WindowTable:
    """Where every vector of an encoding belongs, as columns in the order of their ids: an item's
    lie side by side, and items ascend, too. Deleted ones are among them.
    """

    def __init__(self) -> None:
        self._ids, self._items = Column(np.empty(0, np.int64)), Column(np.empty(0, np.int64))
        self._places = Column(np.empty(0, PLACE))
        # one number of which is read more quickly than one of an array
        self._owners = self.items.data
        self.looked = 0  # how many there were when it was last seen how many are gone
        self.read_at = -1  # which change of the records

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def last(self) -> int:
        return int(self.ids[-1]) if len(self) else 0

    @property
    def ids(self) -> Ids:
        return self._ids.values

    @property
    def items(self) -> Ids:
        return self._items.values

    @property
    def windows(self) -> Ids:
        """Which window each vector is of."""
        found: Ids = self._places.values["window"]
        return found

    def after(self, count: int) -> PlaceColumns:
        """Everything but the first so many vectors."""
        places = self._places.values[count:]
        return PlaceColumns(self.ids[count:], self.items[count:], places["window"], places)

    def append_columns(self, ids: Ids, items: Ids, places: NDArray[Any]) -> None:
        """Numbers [n] that ascend beyond those there are, their items [n], and PLACE rows [n]."""
        self._places.append(places)
        self._items.append(items)
        self._ids.append(ids)
        self._owners = self.items.data

    def append(self, rows: list[tuple[int, int, int, float, float, int]]) -> None:
        """Rows of (vector, item, window, start_s, end_s, plain); numbers below 2 ** 53, which a
        float holds whole.
        """
        numbers = np.fromiter(chain.from_iterable(rows), np.float64, 6 * len(rows)).reshape(-1, 6)
        places = np.empty(len(rows), PLACE)
        for column, name in enumerate(PLACE.names or (), 2):
            places[name] = numbers[:, column]
        self.append_columns(numbers[:, 0].astype(np.int64), numbers[:, 1].astype(np.int64), places)

    def find(self, ids: Ids) -> Ids:
        """The places of vectors [n]; -1 for one that nothing is known of."""
        if not len(self):
            return np.full(len(ids), -1)
        at = self.ids.searchsorted(ids)
        return np.where(self.ids.take(at, mode="clip") == ids, at, -1)

    def owners(self, places: Iterable[int]) -> dict[int, int]:
        """The items that places are of, in their order, and the first place of each."""
        found: dict[int, int] = {}
        for at in places:
            found.setdefault(self._owners[at], at)
        return found

    def run(self, item: int, near: int | None) -> tuple[int, int]:
        """From which place to before which one an item's vectors lie; `near` is one of them, where
        one is known.
        """
        owners, end = self._owners, len(self._owners)
        if near is None:
            near = bisect_left(owners, item)
            if near == end or owners[near] != item:
                return near, near
        first = bisect_left(owners, item, 0, near) if near and owners[near - 1] == item else near
        return first, bisect_right(owners, item, near, end) if owners[
            min(near + 1, end - 1)
        ] == item else near + 1

    def where(self, places: list[int]) -> list[Place]:
        return list(map(Place._make, self._places.values[places].tolist()))
