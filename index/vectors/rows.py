"""The rows of an index of FAISS: which id each has, and which are deleted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..columns import Column, Ids

# An index is made anew when so large a share of its rows is deleted.
DELETED_SHARE = 0.2


class Rows:
    """A row is a vector's position in FAISS's index. Ids ascend with rows; deleted rows stay."""

    def __init__(self, ids: Ids, deleted: NDArray[np.bool_]) -> None:
        self._ids = Column(ids)
        self._deleted = Column(deleted)
        self.shown = int((~deleted).sum())

    @classmethod
    def none(cls) -> Rows:
        return cls(np.empty(0, np.int64), np.empty(0, bool))

    def __len__(self) -> int:
        """All rows, deleted ones too."""
        return len(self._ids.values)

    @property
    def ids(self) -> Ids:
        return self._ids.values

    @property
    def deleted(self) -> NDArray[np.bool_]:
        return self._deleted.values

    @property
    def state(self) -> tuple[int, int]:
        """Changes with every addition and removal."""
        return len(self), self.shown

    @property
    def needs_compaction(self) -> bool:
        return len(self) - self.shown > DELETED_SHARE * max(len(self), 1)

    def check(self, ids: Ids) -> None:
        """That ids [n > 0] ascend, and are higher than all there are."""
        assert (np.diff(ids) > 0).all()
        assert not len(self) or ids[0] > self.ids[-1]

    def append(self, ids: Ids) -> None:
        """Give the next rows ids [n]."""
        self._ids.append(ids)
        self._deleted.append(np.zeros(len(ids), bool))
        self.shown += len(ids)

    def delete(self, ids: Ids) -> Ids:
        """Mark the rows of ids as deleted. Returns those rows [n] that were not deleted before."""
        rows = np.unique(self.find(ids))
        rows = rows[~self.deleted[rows]]
        self.deleted[rows] = True
        self.shown -= len(rows)
        return rows

    def find(self, ids: Ids) -> Ids:
        """The rows of those ids that are there, deleted or not, in their order."""
        at = np.searchsorted(self.ids, ids)
        inside = at < len(self)
        at = at[inside]
        ids = ids[inside]
        return np.asarray(at[self.ids[at] == ids], np.int64)

    def all_shown(self) -> Ids:
        return np.flatnonzero(~self.deleted)

    def allowed(self, ids: Ids | None) -> Ids:
        """The rows that may be found: those of ids (None: of all) that are not deleted."""
        if ids is None:
            return self.all_shown()
        rows = self.find(ids)
        return rows[~self.deleted[rows]]
