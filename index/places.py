"""Where vectors belong, held in memory: their items, their windows and when these are."""

from __future__ import annotations

from itertools import accumulate, chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


class Column:
    """Numbers that are appended to, in place: what is behind the last one doubles when it is used up."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._room, self._n = values, len(values)

    @property
    def values(self) -> NDArray[Any]:
        return self._room[: self._n]

    def append(self, values: NDArray[Any]) -> None:
        n = self._n + len(values)
        if n > len(self._room):
            room = np.empty(max(n, 2 * len(self._room)), self._room.dtype)
            room[: self._n] = self.values
            self._room = room
        self._room[self._n : n] = values
        self._n = n


class Place(NamedTuple):
    """Where a vector belongs."""

    window: int
    start_s: float
    end_s: float


PLACE = np.dtype([("window", np.int64), ("start_s", np.float64), ("end_s", np.float64)])


class Places:
    """Where every vector of an encoding belongs, as columns in the order of their ids: an item's lie side by side, and
    items ascend, too. Deleted ones are among them.
    """

    def __init__(self) -> None:
        self._ids, self._items = Column(np.empty(0, np.int64)), Column(np.empty(0, np.int64))
        self._places = Column(np.empty(0, PLACE))
        self.whole = 0  # how many there were when all were read
        self.read_at = -1  # which change of the records

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def ids(self) -> Ids:
        return self._ids.values

    @property
    def items(self) -> Ids:
        return self._items.values

    def append(self, rows: list[tuple[int, int, int, float, float]]) -> None:
        """Rows of (vector, item, window, start_s, end_s); numbers below 2 ** 53, which a float holds whole."""
        numbers = np.fromiter(chain.from_iterable(rows), np.float64, 5 * len(rows)).reshape(-1, 5)
        places = np.empty(len(rows), PLACE)
        for column, name in enumerate(PLACE.names or (), 2):
            places[name] = numbers[:, column]
        self._places.append(places)
        self._items.append(numbers[:, 1].astype(np.int64))
        self._ids.append(numbers[:, 0].astype(np.int64))

    def of(self, items: list[int]) -> tuple[list[int], Ids, list[Place]]:
        """The vectors of items, and where they belong: of the i-th from the i-th bound [items + 1] to the next."""
        if not len(self):
            return [0] * (len(items) + 1), np.empty(0, np.int64), []
        numbers = np.array(items, np.int64)
        first = np.searchsorted(self.items, np.concatenate([numbers, numbers + 1])).tolist()
        runs = [range(*run) for run in zip(first[: len(items)], first[len(items) :], strict=True)]
        bounds = list(accumulate(map(len, runs), initial=0))
        at = np.fromiter(chain.from_iterable(runs), np.int64, bounds[-1])
        return bounds, self.ids[at], list(map(Place._make, self._places.values[at].tolist()))
