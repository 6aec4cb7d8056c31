"""What windows show and sound like, in names of a vocabulary.

A tag is read from a vector by an inner product and an offset, so that windows are tagged as they
are written, in the same transaction, and stored ones again when the vocabulary changes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from export.bundle import parse_modality

CHUNK = 4096  # vectors read at once
NO_PARENTS = np.zeros((0, 2), np.int64)


@dataclass(frozen=True)
class Readings:
    """How the names [n] of a vocabulary are read from an encoding: by `odds`. Of a vector no more
    than the best `most` are kept, those whose probability is at least `threshold`.

    `parents` [p, 2] are places of names: what is the first is the second, too.
    """

    names: tuple[str, ...]
    directions: NDArray[np.float32]
    offsets: NDArray[np.float32]
    threshold: float
    most: int
    contrast: float = 0.0
    parents: NDArray[np.int64] = field(default_factory=NO_PARENTS.copy)

    def own_odds(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """The log-odds [k, n] of each name in vectors [k, dim], by itself: directions [n, dim] v +
        offsets [n], less `contrast` times the best of them. So a name counts less where another is
        far better.
        """
        own = vectors @ self.directions.T + self.offsets
        own -= np.float32(self.contrast) * own.max(axis=1, keepdims=True)
        return np.asarray(own, np.float32)

    def odds(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """The log-odds [k, n] that vectors [k, dim] have each tag: the name's own, or those of the
        best of its children, if they are better.
        """
        own = self.own_odds(vectors)
        if not len(self.parents):
            return own
        children, parents = self.parents[np.argsort(self.parents[:, 1], kind="stable")].T
        places, starts = np.unique(parents, return_index=True)
        best = np.maximum.reduceat(own[:, children], starts, axis=1)
        odds = own.copy()
        odds[:, places] = np.maximum(own[:, places], best)
        return odds

    def read(
        self, vectors: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """The tags of vectors [k, dim], as [m] rows of vectors, names by their places, and
        probabilities.
        """
        odds = self.odds(vectors)
        least = np.log(self.threshold / (1.0 - self.threshold))
        if len(self.names) > self.most:
            best = np.partition(odds, -self.most, axis=1)[:, -self.most, None]
            odds = np.where(odds >= best, odds, -np.inf)
        rows, tags = np.nonzero(odds >= least)
        return rows, tags, 1.0 / (1.0 + np.exp(-odds[rows, tags].astype(np.float64)))


class TagCount(NamedTuple):
    """How many items and windows have a tag in an encoding."""

    name: str
    encoding: str
    items: int
    windows: int


class TaggedWindow(NamedTuple):
    """A tag of a window of an item."""

    name: str
    encoding: str
    start_s: float
    end_s: float
    score: float


class TagRows(NamedTuple):
    """Rows to be [n]: the windows' numbers, the tags', and their scores."""

    windows: NDArray[np.int64]
    tags: NDArray[np.int64]
    scores: NDArray[np.float64]


class Tags:
    """The vocabulary and the tags of one collection's records, on their connection."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._readings: dict[str, tuple[int, Readings]] | None = None

    def readings(self) -> dict[str, tuple[int, Readings]]:
        """By encoding the number of its first tag, and how its tags are read."""
        if self._readings is None:
            rows = self._db.execute(
                "select encoding, n, name, direction, offset, threshold, most, contrast"
                " from tag_names join tag_encodings using (encoding) order by n"
            ).fetchall()
            by_encoding: dict[str, list[Any]] = {}
            for encoding, *row in rows:
                by_encoding.setdefault(encoding, []).append(row)
            pairs = self._db.execute("select child, parent from tag_parents").fetchall()
            parents = np.array(pairs, np.int64).reshape(-1, 2)
            self._readings = {
                encoding: (found[0][0], make_readings(found, parents))
                for encoding, found in by_encoding.items()
            }
        return self._readings

    def forget(self) -> None:
        """Read the vocabulary anew: a transaction that wrote it is over."""
        self._readings = None

    def insert(
        self,
        encoding: str,
        windows: Sequence[int],
        vectors: NDArray[np.float32],
        left_out: Collection[int] = (),
    ) -> None:
        """Tag vectors [n, dim] of windows [n], by their numbers, but for windows `left_out`; within
        a transaction.
        """
        if encoding in self.readings() and len(windows):
            wanted = [n for n, window in enumerate(windows) if window not in left_out]
            owners = np.array([windows[n] for n in wanted], np.int64)
            self.write(list_tags(self.readings()[encoding], owners, vectors[wanted]))

    def write(self, rows: TagRows) -> None:
        """Write tags of windows, of those that are there, within a transaction."""
        self._db.executemany(
            "insert or replace into tags select ?1, ?2, item, ?3 from windows where n = ?1",
            zip(rows.windows.tolist(), rows.tags.tolist(), rows.scores.tolist(), strict=True),
        )

    def replace(self, readings: dict[str, Readings]) -> None:
        """Another vocabulary, without the tags that it gives; within a transaction."""
        self._db.execute("delete from tags")
        self._db.execute("delete from tag_names")
        self._db.execute("delete from tag_encodings")
        self._db.execute("delete from tag_parents")
        for encoding, (first, found) in number_readings(readings).items():
            self._db.execute(
                "insert into tag_encodings values (?, ?, ?, ?)",
                (encoding, found.threshold, found.most, found.contrast),
            )
            self._db.executemany(
                "insert into tag_parents values (?, ?)", (found.parents + first).tolist()
            )
            rows = zip(found.names, found.directions, found.offsets.tolist(), strict=True)
            self._db.executemany(
                "insert into tag_names values (?, ?, ?, ?, ?)",
                (
                    (first + n, encoding, name, np.asarray(direction, "<f4").tobytes(), offset)
                    for n, (name, direction, offset) in enumerate(rows)
                ),
            )

    def read_vectors(
        self, encoding: str, after: int
    ) -> tuple[int, NDArray[np.int64], NDArray[np.float32]] | None:
        """The next vectors of an encoding whose number is higher: the last number, windows [k] and
        vectors [k, dim]. Pictures of one colour are left out. None where there are no more.
        """
        rows = self._db.execute(
            "select v.n, v.window, v.vector, w.plain from vectors v"
            " join windows w on w.n = v.window where v.encoding = ? and v.n > ?"
            " order by v.n limit ?",
            (encoding, after, CHUNK),
        ).fetchall()
        if not rows:
            return None
        seen = parse_modality(encoding) == "video"
        kept = [row for row in rows if not (seen and row[3])]
        dim = len(rows[0][2]) // 4
        vectors = np.frombuffer(b"".join(row[2] for row in kept), "<f4").reshape(len(kept), dim)
        return rows[-1][0], np.array([row[1] for row in kept], np.int64), vectors

    def counts(self) -> list[TagCount]:
        """How many items and windows have each tag, by encoding, in the vocabulary's order."""
        rows = self._db.execute(
            "select name, encoding, count(distinct item), count(*)"
            " from tags join tag_names on tag_names.n = tags.tag group by tag order by tag"
        )
        return [TagCount(*row) for row in rows]

    def counts_together(self) -> dict[str, tuple[int, int]]:
        """By name the items and windows that have it in any encoding."""
        rows = self._db.execute(
            "select name, count(distinct item), count(distinct window)"
            " from tags join tag_names on tag_names.n = tags.tag group by name"
        )
        return {name: (items, windows) for name, items, windows in rows}

    def of_item(self, item: int) -> list[TaggedWindow]:
        """The tags of the windows of an item, by its number, in the order of time."""
        rows = self._db.execute(
            "select name, encoding, start_s, end_s, score from windows w"
            " join tags on tags.window = w.n join tag_names on tag_names.n = tags.tag"
            " where w.item = ? order by start_s, end_s, score desc",
            (item,),
        )
        return [TaggedWindow(*row) for row in rows]


def make_readings(rows: list[Any], parents: NDArray[np.int64]) -> Readings:
    """The readings of one encoding from its rows (n, name, direction, offset, threshold, most,
    contrast), whose numbers follow each other, and from pairs of such numbers [p, 2].
    """
    places = parents - rows[0][0]
    of_these = (places[:, 0] >= 0) & (places[:, 0] < len(rows))
    return Readings(
        names=tuple(row[1] for row in rows),
        directions=np.frombuffer(b"".join(row[2] for row in rows), "<f4").reshape(len(rows), -1),
        offsets=np.array([row[3] for row in rows], np.float32),
        threshold=rows[0][4],
        most=rows[0][5],
        contrast=rows[0][6],
        parents=places[of_these],
    )


def number_readings(readings: dict[str, Readings]) -> dict[str, tuple[int, Readings]]:
    """Each encoding's readings with the number of their first tag."""
    numbered = {}
    first = 1
    for encoding, found in readings.items():
        numbered[encoding] = (first, found)
        first += len(found.names)
    return numbered


def list_tags(
    numbered: tuple[int, Readings], windows: NDArray[np.int64], vectors: NDArray[np.float32]
) -> TagRows:
    """The tags of vectors [n, dim] of windows [n], by their numbers."""
    first, readings = numbered
    rows, tags, scores = readings.read(vectors)
    return TagRows(windows[rows], tags + first, scores)
