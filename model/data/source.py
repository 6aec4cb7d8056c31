"""What training draws clips from."""

from __future__ import annotations

from typing import Protocol

from evaluation.clips import LazyClip
from media.manifest import Row


class Source(Protocol):
    """Something to draw clips from."""

    @property
    def rows(self) -> list[Row]: ...

    def __len__(self) -> int: ...

    def draw(self, step: int, count: int, seed: tuple[int, ...]) -> list[LazyClip]:
        """The `count` clips of a step: the same ones for the same arguments, on every machine."""
        ...
