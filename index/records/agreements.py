"""How well sound and picture of items agree: one row an item, kept until its windows change."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple


class Agreed(NamedTuple):
    """The mean cosine of an item's pictures and sound, over so many windows, and how that compares
    with pairs by chance, in [0, 1].
    """

    item: int
    windows: int
    cosine: float
    score: float


class Agreements:
    """The rows of one collection's records, on their connection."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def all(self) -> dict[int, Agreed]:
        """By the items' numbers."""
        rows = self._db.execute("select item, windows, cosine, score from agreement")
        return {row[0]: Agreed(*row) for row in rows}

    def replace(self, rows: Iterable[Agreed]) -> None:
        """Other rows in the place of all there are, of items that are there; within a
        transaction.
        """
        self._db.execute("delete from agreement")
        self._db.executemany(
            "insert into agreement select n, ?2, ?3, ?4 from items where n = ?1", rows
        )
