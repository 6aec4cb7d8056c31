"""Right and wrong marks on what searches have found, as people gave them.

A mark keeps the words of its query, or the item that was searched by, and no vector. So it outlasts
another bundle. It goes when an item that it names goes.

UnknownMark    no mark has that number
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


class UnknownMark(Exception):
    detail_fields = ("number",)

    def __init__(self, number: int) -> None:
        super().__init__(f"no mark {number}")
        self.number = number


@dataclass(frozen=True)
class MarkedQuery:
    """What was searched: for a target, by words or by an item's `modality`."""

    target: str
    text: str | None = None
    item: str | None = None
    modality: str = "text"


@dataclass(frozen=True, kw_only=True)
class NewMark:
    """A moment that is right or wrong for a query. Without `start_s`, the item's best is meant."""

    query: MarkedQuery
    item: str
    right: bool
    start_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class StoredMark(NewMark):
    """`created` is in seconds since 1970."""

    number: int
    created: float


ROWS = (
    "select f.n, f.target, f.query, e.id, f.modality, i.id, f.start_s, f.correct, f.created"
    " from feedback f join items i on i.n = f.item left join items e on e.n = f.example"
)
SAME = (
    "delete from feedback where target = ?1 and query is ?2 and modality = ?4 and start_s is ?6"
    " and example is (select n from items where id = ?3)"
    " and item = (select n from items where id = ?5)"
)
INSERT = (
    "insert into feedback (target, query, example, modality, item, start_s, correct, created)"
    " select ?1, ?2, (select n from items where id = ?3), ?4, i.n, ?6, ?7, ?8 from items i"
    " where i.id = ?5 and (?3 is null or exists (select 1 from items where id = ?3))"
)


class Marks:
    """The marks of one collection's records, on their connection."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def insert(self, marks: Iterable[NewMark]) -> list[int]:
        """Keep marks, each in place of an earlier one of the same moment and query; within a
        transaction. Marks of items that are not there are left out. Returns their numbers.
        """
        now = time.time()
        numbers = []
        for mark in marks:
            query = mark.query
            about = (query.target, query.text, query.item, query.modality, mark.item, mark.start_s)
            self._db.execute(SAME, about)
            created = mark.created if isinstance(mark, StoredMark) else now
            written = self._db.execute(INSERT, (*about, mark.right, created))
            if written.rowcount and written.lastrowid is not None:
                numbers.append(written.lastrowid)
        return numbers

    def delete(self, number: int) -> None:
        """Within a transaction. Raises UnknownMark."""
        if not self._db.execute("delete from feedback where n = ?", (number,)).rowcount:
            raise UnknownMark(number)

    def count(self) -> int:
        (count,) = self._db.execute("select count(*) from feedback").fetchone()
        return int(count)

    def page(self, limit: int, after: int = 0) -> list[StoredMark]:
        """Marks in the order of their numbers, those after `after`."""
        rows = self._db.execute(f"{ROWS} where f.n > ? order by f.n limit ?", (after, limit))
        return [make_mark(*row) for row in rows]

    def all(self) -> list[StoredMark]:
        """Every mark, in the order of their numbers."""
        return self.page(-1)


def make_mark(*row: Any) -> StoredMark:
    """A mark from a row of `ROWS`."""
    number, target, text, example, modality, item, start_s, right, created = row
    return StoredMark(
        query=MarkedQuery(target, text, example, modality),
        item=item,
        right=bool(right),
        start_s=start_s,
        number=number,
        created=created,
    )


def group_marks(marks: Sequence[StoredMark]) -> dict[MarkedQuery, list[StoredMark]]:
    """Marks by their queries, in the order in which these were first marked."""
    found: dict[MarkedQuery, list[StoredMark]] = {}
    for mark in marks:
        found.setdefault(mark.query, []).append(mark)
    return found
