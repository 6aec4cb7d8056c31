"""What hits say of their items, held in memory: the items of one search are rarely those of the
search before, so SQLite would read most of them from the disk.
"""

from __future__ import annotations

import marshal
from typing import Any

import numpy as np

from ..columns import Column

ROW_MAX = 512  # bytes of a packed row; a longer one is not held
NOT_HELD = marshal.dumps(None)


class ItemCache:
    """Rows about items, by their numbers, which ascend. They are packed into one array: a million
    rows as Python objects would take several times the memory.
    """

    def __init__(self) -> None:
        self._numbers = Column(np.empty(0, np.int64))
        self._ends = Column(np.zeros(1, np.int64))  # of the packed rows, after a first 0
        self._packed = Column(np.empty(0, np.uint8))
        self._deleted: set[int] = set()
        self._changed: set[int] = set()
        self.counted_at = 0  # how many rows there were when the deleted ones were last counted
        self.read_at = -1  # the connection's count of changes when it was last read on

    def __len__(self) -> int:
        return len(self._numbers.values)

    @property
    def last(self) -> int:
        """The highest number; 0 where there is none."""
        return int(self._numbers.values[-1]) if len(self) else 0

    def append(self, rows: list[tuple[Any, ...]]) -> None:
        """Rows of (item, metadata as JSON, ...), of numbers, strings and None."""
        packed = []
        for row in rows:
            one = marshal.dumps(row)
            packed.append(one if len(one) <= ROW_MAX else NOT_HELD)
        ends = np.cumsum([len(one) for one in packed])
        self._ends.append(len(self._packed.values) + ends)
        self._packed.append(np.frombuffer(b"".join(packed), np.uint8))
        self._numbers.append(np.fromiter((row[0] for row in rows), np.int64, len(rows)))

    def forget(self, items: list[int]) -> None:
        """Answer for these items, which were deleted, no more."""
        self._deleted.update(items)

    def drop(self, item: int) -> None:
        """Hold the row of an item no longer, as it was changed."""
        self._changed.add(item)

    def get(self, items: list[int]) -> tuple[list[tuple[Any, ...]], list[int]]:
        """The rows of those items that are there, and the numbers of those that are there but not
        held: too long, or changed.
        """
        rows: list[tuple[Any, ...]] = []
        not_held: list[int] = []
        numbers = self._numbers.values
        ends = self._ends.values.data  # one number is read faster from a memoryview
        packed = self._packed.values.data
        found = numbers.searchsorted(np.array(items, np.int64)).tolist()
        for item, at in zip(items, found, strict=True):
            if at == len(numbers) or numbers[at] != item or item in self._deleted:
                continue
            row = marshal.loads(packed[ends[at] : ends[at + 1]])
            if row is None or item in self._changed:
                not_held.append(item)
            else:
                rows.append(row)
        return rows, not_held
