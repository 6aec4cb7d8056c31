"""Growing arrays of numbers, ids, and which ids a search may find."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


class Column:
    """An array [n, ...] that is appended to in place. Its capacity doubles when it is full."""

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values
        self._capacity = values

    def append(self, values: NDArray[Any]) -> None:
        """Add values [k, ...] at the end."""
        before = len(self.values)
        after = before + len(values)
        if after > len(self._capacity):
            capacity = max(after, 2 * len(self._capacity))
            grown = np.empty((capacity, *values.shape[1:]), self._capacity.dtype)
            grown[:before] = self.values
            self._capacity = grown
        self._capacity[before:after] = values
        self.values = self._capacity[:after]


@dataclass(frozen=True, eq=False)
class Allowed:
    """The ids [n], ascending, that a search may find, as a filter leaves them.

    An index keeps what it prepares for one. So what asks again with the same filter passes the same
    object: two are never equal, whatever they hold, and `ids` are not changed.
    """

    ids: Ids

    def __len__(self) -> int:
        return len(self.ids)
