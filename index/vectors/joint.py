"""Pictures and sound counted together: each window scored by the joint vector unit(video +
audio_weight * audio).

Nothing is indexed a third time: candidates come from the indexes of both modalities, their joint
scores from the stored vectors. What is kept for each window is which vectors it has and how long
their sum is, in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..columns import Column, Ids
from ..records.window_table import PLACE, WindowTable
from .base import Found, VectorIndex, Vectors

# windows by their pictures for each one that is wanted, and so many by their sound as it weighs
CANDIDATES = 4
LEAST_WANTED = 10
WIDENING = 4  # of the candidates, where what they leave out might be better
FILTERS_KEPT = 4
SHORTEST = 1e-4  # of a sum of vectors that has a direction
CHUNK = 16_384  # windows whose vectors are in memory at a time
NONE = -1


@dataclass(frozen=True)
class Side:
    """One modality of a collection: its index, where its vectors belong, and how to read vectors
    [n, dim] of ids that the index has no exact copy of, zeros where they have been deleted.
    """

    index: VectorIndex
    places: WindowTable
    read: Callable[[Ids], Vectors]


class JointIndex:
    """A VectorIndex whose ids are the numbers of windows. `follow` brings it to where the two sides
    are.
    """

    kind = "joint"
    bytes_per_vector: int | None = None
    stores_original_vectors = True

    def __init__(self, dim: int, audio_weight: float) -> None:
        self.dim = dim
        self.audio_weight = audio_weight
        self._begin()

    def _begin(self) -> None:
        self.places = WindowTable()
        # of each window, or NONE
        self._vectors = [Column(np.empty(0, np.int64)), Column(np.empty(0, np.int64))]
        self._lengths = Column(np.empty(0, np.float32))  # of video + audio_weight * audio
        self._seen = [(0, NONE), (0, NONE)]  # of each side: how many vectors, and the last of them
        self._allowed: dict[int, tuple[Ids, list[Ids]]] = {}
        self._shortest = 1.0
        self._counted: tuple[tuple[int, ...], int] = (), 0

    # ------------------------------------------------------------ following the two sides

    def follow(self, video: Side, audio: Side, alive: Callable[[Ids], NDArray[np.bool_]]) -> None:
        """Take in the windows that were added since; `alive` says of items [n] which are there
        still.
        """
        self._sides = (video, audio)
        self._alive = alive
        counts = [len(side.places) for side in self._sides]
        if counts == [count for count, _ in self._seen]:
            return
        kept = [
            has_kept(side.places, *seen) for side, seen in zip(self._sides, self._seen, strict=True)
        ]
        if not all(kept):  # the places were read anew
            self._begin()
        fresh = [
            side.places.after(count)
            for side, (count, _) in zip(self._sides, self._seen, strict=True)
        ]
        windows = np.union1d(fresh[0].windows, fresh[1].windows)
        items = np.empty(len(windows), np.int64)
        rows = np.empty(len(windows), PLACE)
        vectors = [np.full(len(windows), NONE), np.full(len(windows), NONE)]
        for side, ids in zip(fresh, vectors, strict=True):
            at = windows.searchsorted(side.windows)
            items[at], rows[at], ids[at] = side.items, side.places, side.ids
        rows["plain"] &= vectors[1] == NONE  # there is a sound to match, too
        self.places.append_columns(windows, items, rows)
        for column, ids in zip(self._vectors, vectors, strict=True):
            column.append(ids)
        self._lengths.append(self._sum_lengths(*vectors))
        self._shortest = min(float(self._lengths.values.min(initial=1.0)), 1.0)
        self._seen = [(len(side.places), side.places.last) for side in self._sides]
        self._allowed.clear()

    def _sum_lengths(self, video: Ids, audio: Ids) -> NDArray[np.float32]:
        """How long the sums of windows [n] are; 1 where there is one vector only."""
        lengths = np.ones(len(video), np.float32)
        both = np.flatnonzero((video != NONE) & (audio != NONE))
        for first in range(0, len(both), CHUNK):
            at = both[first : first + CHUNK]
            seen, heard = (
                stored(side, ids[at]) for side, ids in zip(self._sides, (video, audio), strict=True)
            )
            lengths[at] = np.linalg.norm(seen + self.audio_weight * heard, axis=1)
        # deleted, or cancelling each other
        return np.where(lengths > SHORTEST, lengths, np.float32(1.0))

    # ------------------------------------------------------------ as a VectorIndex

    def __len__(self) -> int:
        """How many windows have any of the two; deleted ones are
        among the places, but not counted.
        """
        if not self._has_deleted():
            return len(self.places)
        state = (*(len(side.index) for side in self._sides), len(self.places))
        if self._counted[0] != state:
            self._counted = state, int(self._alive(self.places.items).sum())
        return self._counted[1]

    def _has_deleted(self) -> bool:
        return any(len(side.index) != len(side.places) for side in self._sides)

    def add(self, ids: Ids, vectors: Vectors) -> None:
        raise NotImplementedError("a joint index follows its sides")

    def remove(self, ids: Ids) -> None:
        raise NotImplementedError("a joint index follows its sides")

    def vectors(self, ids: Ids) -> Vectors:
        """The joint vectors [n, dim] of windows."""
        rows = self.places.find(ids)
        sums = np.zeros((len(rows), self.dim), np.float32)
        for side, column, weight in zip(
            self._sides, self._vectors, (1.0, self.audio_weight), strict=True
        ):
            of = column.values[rows]
            has = np.flatnonzero(of != NONE)
            sums[has] += np.float32(weight) * stored(side, of[has])
        return np.asarray(
            sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12), np.float32
        )

    def sample(self, most: int) -> Vectors:
        """Joint vectors [n, dim] of at most so many windows, by chance; deleted ones left out."""
        ids = (
            self.places.ids[self._alive(self.places.items)]
            if self._has_deleted()
            else self.places.ids
        )
        if len(ids) > most:
            ids = np.sort(np.random.default_rng(0).choice(ids, most, replace=False))
        return self.vectors(ids)

    def search(
        self,
        query: Vectors,
        k: int,
        allowed: Ids | None = None,
        exact: bool = False,
        rough: bool = False,
    ) -> Found:
        """The best windows, candidates taken from both sides; where the sides compare everything,
        so many that nothing is missed (the threshold algorithm of Fagin, Lotem and Naor).
        """
        parts = self._parts(allowed)
        compared = 0
        wanted = max(k, LEAST_WANTED)
        while True:
            counts = (
                CANDIDATES * wanted,
                max(math.ceil(CANDIDATES * self.audio_weight * wanted), wanted),
            )
            found = [
                side.index.search(query, count, part, exact, rough=count >= CANDIDATES * wanted)
                for side, count, part in zip(self._sides, counts, parts, strict=True)
            ]
            compared += sum(one.compared for one in found)
            whole = all(one.exact for one in found)
            rows, scores = self._joint_scores(query, found)
            best = np.argsort(-scores, kind="stable")[:k]
            unseen = self._most_unseen(found, counts)
            enough = len(best) == k and scores[best[-1]] >= unseen
            if enough or unseen == -np.inf or not whole:
                way = "+".join(dict.fromkeys(one.way for one in found))
                return Found(self.places.ids[rows[best]], scores[best], way, compared, whole)
            wanted *= WIDENING

    def _parts(self, allowed: Ids | None) -> list[Ids | None]:
        """The vectors of each side that allowed windows have; kept, since people ask with one
        filter more than once.
        """
        if allowed is None:
            return [None, None]
        if id(allowed) not in self._allowed:
            rows = self.places.find(allowed)
            parts = [column.values[rows] for column in self._vectors]
            while len(self._allowed) >= FILTERS_KEPT:
                self._allowed.pop(next(iter(self._allowed)))
            self._allowed[id(allowed)] = allowed, [part[part != NONE] for part in parts]
        return list(self._allowed[id(allowed)][1])

    def _joint_scores(self, query: Vectors, found: list[Found]) -> tuple[Ids, Vectors]:
        """The rows of every window found on either side, and their joint scores."""
        rows_found = []
        scores_found = []
        for side, one in zip(self._sides, found, strict=True):
            ids, near = one.ids, one.scores
            at = side.places.find(ids)
            known = np.flatnonzero(at >= 0)
            rows_found.append(self.places.find(side.places.windows[at[known]]))
            scores_found.append(
                near[known]
                if side.index.stores_original_vectors
                else np.full(len(known), np.nan, np.float32)
            )
        rows = np.array(sorted({*rows_found[0].tolist(), *rows_found[1].tolist()}), np.int64)
        both = np.ones(len(rows), bool)
        scores = []
        for side, column, at, near in zip(
            self._sides, self._vectors, rows_found, scores_found, strict=True
        ):
            of = column.values[rows]
            known = np.full(len(rows), np.nan, np.float32)
            known[rows.searchsorted(at)] = near
            missing = np.flatnonzero(np.isnan(known) & (of != NONE))
            known[missing] = stored(side, of[missing]) @ query
            both &= of != NONE
            scores.append(np.where(of == NONE, np.float32(0.0), known))
        sums = (
            scores[0] + np.where(both, np.float32(self.audio_weight), np.float32(1.0)) * scores[1]
        )
        return rows, sums / self._lengths.values[rows]

    def _most_unseen(self, found: list[Found], counts: tuple[int, int]) -> float:
        """The highest score that a window can have which neither side has found; -inf where there
        is none.
        """
        ends = [
            float(one.scores[-1]) if len(one.ids) == n else None
            for n, one in zip(counts, found, strict=True)
        ]
        known = [end for end in ends if end is not None]
        if not known:
            return -np.inf
        # of a side that has told of all it has, what is unseen on the other has none
        if len(known) == 1:
            return known[0]
        together = known[0] + self.audio_weight * known[1]
        return max(*known, together / self._shortest if together > 0 else together)


def has_kept(places: WindowTable, count: int, last: int) -> bool:
    """Whether the first so many places are those that were there before."""
    return count == 0 or (len(places) >= count and int(places.ids[count - 1]) == last)


def stored(side: Side, ids: Ids) -> Vectors:
    """The vectors [n, dim] of ids, in their order."""
    if side.index.stores_original_vectors and len(own := side.index.vectors(ids)) == len(ids):
        return own
    return side.read(ids)
