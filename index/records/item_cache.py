"""What hits say of their items, held in memory: a search's ten are rarely those of the search
before.
"""

from __future__ import annotations

import marshal
from bisect import bisect_left
from typing import Any

import numpy as np

from ..columns import Column

LONG = 512  # bytes of a row; a longer one is not held
NOTHING = marshal.dumps(None)


class ItemCache:
    """Rows about items, by their numbers, which ascend; packed, so that a million of them are no
    million objects.
    """

    def __init__(self) -> None:
        self._numbers, self._ends = Column(np.empty(0, np.int64)), Column(np.zeros(1, np.int64))
        self._packed = Column(np.empty(0, np.uint8))
        self._gone: set[int] = set()
        self.looked = 0  # how many there were when it was last seen how many are gone
        self.read_at = -1  # which change of the records

    def __len__(self) -> int:
        return len(self._numbers.values)

    @property
    def last(self) -> int:
        return int(self._numbers.values[-1]) if len(self) else 0

    def append(self, rows: list[tuple[Any, ...]]) -> None:
        """Rows of (item, metadata as JSON, ...), of numbers, strings and None."""
        packed = [one if len(one := marshal.dumps(row)) <= LONG else NOTHING for row in rows]
        self._ends.append(len(self._packed.values) + np.cumsum([len(row) for row in packed]))
        self._packed.append(np.frombuffer(b"".join(packed), np.uint8))
        self._numbers.append(np.fromiter((row[0] for row in rows), np.int64, len(rows)))

    def forget(self, items: list[int]) -> None:
        self._gone.update(items)

    def of(self, items: list[int]) -> tuple[list[tuple[Any, ...]], list[int]]:
        """The rows of those items that are there, and those of them whose rows are not held."""
        rows, long = list[tuple[Any, ...]](), list[int]()
        numbers, ends, packed = (
            self._numbers.values.data,
            self._ends.values.data,
            self._packed.values.data,
        )
        first, last, most = numbers[0] if len(self) else 1, self.last, len(self) - 1
        for item in items:
            if item in self._gone or not first <= item <= last:
                continue
            # ascending numbers lie no further from either end than they differ from what is there
            at = bisect_left(numbers, item, max(0, most - (last - item)), min(most, item - first))
            if numbers[at] != item:
                continue
            row = marshal.loads(packed[ends[at] : ends[at + 1]])
            if row is None:
                long.append(item)
            else:
                rows.append(row)
        return rows, long
