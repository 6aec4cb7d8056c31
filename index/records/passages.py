"""The words of items with their times: kept beside the vectors, and found by the words themselves.

SQLite's full-text index FTS5 holds them in the same database. So they are written, and removed, in
the same transaction as their item.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from media.passages import Kind, Passage, find_next, fold_words

from ..columns import Column, Ids

# Words that more than this share of the passages have are looked for together with others only.
COMMON_SHARE = 0.1
MATCHES_MAX = 256  # passages that are compared with a query word by word
WORDS_MAX = 32  # of a query that count
FEW = 1000  # passages in which any word is looked for


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A passage that shares words with a query: its window, its item, and its folded words with
    those of the passage that goes on from it.
    """

    window: int
    item: int
    start_s: float
    end_s: float
    text: str
    words: list[str]


@dataclass(frozen=True)
class Candidates:
    """Passages that share words with a query, and how many of all `total` have each word."""

    found: list[Candidate]
    counts: dict[str, int]
    total: int


class Passages:
    """The passages of one collection's records, on their connection."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._windows = Column(np.empty(0, np.int64))
        self._read_at = -1  # the connection's count of changes when they were last read on

    def insert(self, windows: Sequence[int], passages: Sequence[Passage]) -> None:
        """Passages [n] of windows [n] of one item, within a transaction.

        A passage is found by the beginning of the next one, too: a phrase may go on there.
        """
        for n, (window, passage) in enumerate(zip(windows, passages, strict=True)):
            self._db.execute(
                "insert into passages values (?, ?, ?)", (window, passage.kind, passage.text)
            )
            words = fold_words(passage.text)
            following = find_next(passages, n)
            if following is not None:
                words += fold_words(following.text)
            self._db.execute(
                "insert into passage_words (rowid, words) values (?, ?)", (window, " ".join(words))
            )

    def windows(self) -> Ids:
        """The numbers of windows that are passages [n], ascending."""
        if self._read_at != self._db.total_changes:
            last = int(self._windows.values[-1]) if len(self._windows.values) else 0
            rows = self._db.execute(
                "select window from passages where window > ? order by window", (last,)
            )
            self._windows.append(np.fromiter((n for (n,) in rows), np.int64))
            self._read_at = self._db.total_changes
        return self._windows.values

    def of(self, id: str) -> list[int]:
        """The numbers of an item's windows that are passages."""
        rows = self._db.execute(
            "select p.window from items i join windows w on w.item = i.n"
            " join passages p on p.window = w.n where i.id = ?",
            (id,),
        )
        return [window for (window,) in rows]

    def forget(self, windows: Sequence[int]) -> None:
        """Windows that have been deleted."""
        known = self._windows.values
        if len(windows) and len(known):
            self._windows = Column(known[np.isin(known, windows, invert=True)])

    def has(self, windows: Sequence[int]) -> list[bool]:
        """Which of these windows [n] are passages."""
        known = self.windows()
        wanted = np.array(windows, np.int64)
        if not len(known):
            return [False] * len(wanted)
        there: list[bool] = (known.take(known.searchsorted(wanted), mode="clip") == wanted).tolist()
        return there

    def match(self, words: Sequence[str], where: str, params: list[Any]) -> Candidates:
        """The passages that have a phrase, and the best of those that have some of its words
        (BM25). `words` are folded; `where` is a condition on items, see `filters`.
        """
        words = words[:WORDS_MAX]
        total = len(self.windows())
        counts = {word: self._count(word) for word in dict.fromkeys(words)}
        phrase = " ".join(words)
        found = {each.window: each for each in self._search(f'"{phrase}"', where, params)}
        rare = [
            word
            for word, count in counts.items()
            if count and (total <= FEW or count <= COMMON_SHARE * total)
        ]
        if rare and len(words) > 1:
            some = " OR ".join(f'"{word}"' for word in rare)
            found |= {each.window: each for each in self._search(some, where, params)}
        return Candidates(list(found.values()), counts, total)

    def _count(self, word: str) -> int:
        row = self._db.execute("select doc from passage_terms where term = ?", (word,)).fetchone()
        return int(row[0]) if row else 0

    def _search(self, query: str, where: str, params: list[Any]) -> Iterator[Candidate]:
        among = f" and w.item in (select n from items where {where})" if where else ""
        rows = self._db.execute(
            "select p.window, w.item, w.start_s, w.end_s, p.text, f.words from passage_words f"
            " join passages p on p.window = f.rowid join windows w on w.n = p.window"
            f" where passage_words match ?{among} order by f.rank limit ?",
            (query, *params, MATCHES_MAX),
        )
        for window, item, start_s, end_s, text, words in rows.fetchall():
            yield Candidate(
                window=window,
                item=item,
                start_s=start_s,
                end_s=end_s,
                text=text,
                words=words.split(),
            )

    def texts(self, windows: Sequence[int]) -> dict[int, str]:
        """The words of those windows that are passages."""
        found: dict[int, str] = {}
        for at in range(0, len(windows), 500):
            part = windows[at : at + 500]
            marks = ",".join("?" * len(part))
            found |= dict(
                self._db.execute(
                    f"select window, text from passages where window in ({marks})", part
                )
            )
        return found

    def of_item(self, id: str) -> tuple[Passage, ...]:
        """The passages of an item, in the order in which they were given."""
        rows = self._db.execute(
            "select w.start_s, w.end_s, p.text, p.kind from items i join windows w on w.item = i.n"
            " join passages p on p.window = w.n where i.id = ? order by w.n",
            (id,),
        )
        return tuple(
            Passage(start_s, end_s, text, Kind(kind)) for start_s, end_s, text, kind in rows
        )
