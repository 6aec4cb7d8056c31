"""What filters leave, kept for whoever asks with the same filter again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from ..columns import Allowed

MOST = 16  # filters
LARGE = 1_000_000  # ids
MOST_LARGE = 4  # filters that leave more than so many: as many as an index keeps


class KeptFilters:
    """Of each filter the ids that it leaves, or None where it leaves all. The filter that was asked
    for longest ago goes first.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, Allowed | None] = OrderedDict()

    def __contains__(self, filter: Hashable) -> bool:
        return filter in self._kept

    def get(self, filter: Hashable) -> Allowed | None:
        """None also where it is not kept."""
        if filter in self._kept:
            self._kept.move_to_end(filter)
        return self._kept.get(filter)

    def keep(self, filter: Hashable, allowed: Allowed | None) -> None:
        self._kept[filter] = allowed
        if len(self._kept) > MOST:
            self._kept.popitem(last=False)
        large = [each for each, ids in self._kept.items() if ids is not None and len(ids) > LARGE]
        if len(large) > MOST_LARGE:
            del self._kept[large[0]]

    def clear(self) -> None:
        self._kept.clear()
