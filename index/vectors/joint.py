"""Pictures and sound scored together: a window's score is that of the joint vector
unit(video + weight * audio). The weight is the same for all windows, or what a graph of the bundle
says of each, see `Joint`.

Nothing is indexed a third time. Candidates come from the indexes of both modalities, their joint
scores from the stored vectors. For each window, memory holds which vectors it has, what its sound
weighs and how long their sum is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.bundle import Joint

from ..columns import Allowed, Column, Ids
from ..records.window_table import PLACE, WindowTable
from .base import Found, VectorIndex, Vectors, inner_products

# Candidates by their pictures for each window that is wanted; by their sound, as it weighs.
CANDIDATES = 4
LEAST_WANTED = 10
# How many times as many candidates are asked for, where those left out might be better.
WIDENING = 4
FILTERS_KEPT = 4
# Shorter sums of vectors have no direction.
SHORTEST = 1e-4
# Windows whose vectors are in memory at a time.
CHUNK = 16_384
# A window that has no vector of a modality.
NONE = -1


@dataclass(frozen=True)
class JointSide:
    """One of the two modalities that are scored together: its index and its window table. `read`
    gives vectors [n, dim] of ids that the index has no exact copy of, zeros where they have been
    deleted.
    """

    index: VectorIndex
    places: WindowTable
    read: Callable[[Ids], Vectors]

    def vectors(self, ids: Ids) -> Vectors:
        """The vectors [n, dim] of ids, in their order."""
        if self.index.stores_original_vectors:
            own = self.index.vectors(ids)
            if len(own) == len(ids):
                return own
        return self.read(ids)


@dataclass(frozen=True)
class Followed:
    """How many rows of a side's table have been taken in, and the id of the last of them."""

    count: int = 0
    last: int = NONE

    def is_kept(self, table: WindowTable) -> bool:
        """Whether these rows are there still: a table may have been read anew."""
        if self.count == 0:
            return True
        return len(table) >= self.count and int(table.ids[self.count - 1]) == self.last


class JointIndex:
    """A VectorIndex whose ids are the numbers of windows. `follow` brings it up to date with its
    two sides. Deleted windows stay in its table, but are not found.
    """

    kind = "joint"
    bytes_per_vector: int | None = None
    stores_original_vectors = True

    def __init__(self, dim: int, joint: Joint) -> None:
        self.dim = dim
        self.joint = joint
        self._clear()

    def _clear(self) -> None:
        self.places = WindowTable()
        # Which vector of each side a window has, or NONE.
        self._vector_ids = [Column(np.empty(0, np.int64)), Column(np.empty(0, np.int64))]
        # What the sound weighs; 1 where a window has one vector only.
        self._weights = Column(np.empty(0, np.float32))
        # Lengths of video + weight * audio.
        self._lengths = Column(np.empty(0, np.float32))
        self._shortest = 1.0
        # The least, the mean and the largest weight of windows that have both.
        self._weight_range = (0.0, self.joint.audio_weight, 0.0)
        self._followed = [Followed(), Followed()]
        self._allowed: dict[Allowed, list[Allowed]] = {}  # of each side
        self._counted_at: tuple[int, ...] = ()
        self._counted = 0

    # ------------------------------------------------------------ following the two sides

    def follow(
        self, video: JointSide, audio: JointSide, alive: Callable[[Ids], NDArray[np.bool_]]
    ) -> None:
        """Take in the windows that were added since. `alive` says of items [n] which have not been
        deleted.
        """
        self._sides = (video, audio)
        self._alive = alive
        sides = list(zip(self._sides, self._followed, strict=True))
        if all(len(side.places) == followed.count for side, followed in sides):
            return
        if not all(followed.is_kept(side.places) for side, followed in sides):
            self._clear()
        self._append()
        self._followed = [Followed(len(side.places), side.places.last) for side in self._sides]
        self._allowed.clear()

    def _append(self) -> None:
        """Add the windows of both sides' new rows."""
        added = [
            side.places.after(followed.count)
            for side, followed in zip(self._sides, self._followed, strict=True)
        ]
        windows = np.union1d(added[0].windows, added[1].windows)
        items = np.empty(len(windows), np.int64)
        places = np.empty(len(windows), PLACE)
        vector_ids = [np.full(len(windows), NONE), np.full(len(windows), NONE)]
        for rows, ids in zip(added, vector_ids, strict=True):
            at = windows.searchsorted(rows.windows)
            items[at] = rows.items
            places[at] = rows.places
            ids[at] = rows.ids
        # Where there is a sound, too, a window is of more than one colour: its sound may match.
        places["one_colour"] &= vector_ids[1] == NONE
        self.places.append_columns(windows, items, places)
        for column, ids in zip(self._vector_ids, vector_ids, strict=True):
            column.append(ids)
        weights, lengths = self._weigh(vector_ids[0], vector_ids[1])
        self._weights.append(weights)
        self._lengths.append(lengths)
        self._shortest = min(float(self._lengths.values.min(initial=1.0)), 1.0)
        together = (self._vector_ids[0].values != NONE) & (self._vector_ids[1].values != NONE)
        of_both = self._weights.values[together]
        if len(of_both):
            self._weight_range = (
                float(of_both.min()),
                float(of_both.mean()),
                float(of_both.max()),
            )

    def _weigh(self, video: Ids, audio: Ids) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What the sound of windows [n] weighs, and how long their sums are; 1 and 1 where a window
        has one vector only.
        """
        weights = np.ones(len(video), np.float32)
        lengths = np.ones(len(video), np.float32)
        both = np.flatnonzero((video != NONE) & (audio != NONE))
        for first in range(0, len(both), CHUNK):
            at = both[first : first + CHUNK]
            pictures = self._sides[0].vectors(video[at])
            sounds = self._sides[1].vectors(audio[at])
            weights[at] = self.joint.weights(pictures, sounds)
            lengths[at] = np.linalg.norm(pictures + weights[at, None] * sounds, axis=1)
        # Shorter are deleted ones, and those that cancel each other.
        return weights, np.where(lengths > SHORTEST, lengths, np.float32(1.0))

    # ------------------------------------------------------------ as a VectorIndex

    def __len__(self) -> int:
        """How many windows have any of the two vectors; deleted ones are not counted."""
        if not self._has_deleted():
            return len(self.places)
        state = (*(len(side.index) for side in self._sides), len(self.places))
        if self._counted_at != state:
            self._counted_at = state
            self._counted = int(self._alive(self.places.items).sum())
        return self._counted

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
        weights = (np.ones(len(rows), np.float32), self._weights.values[rows])
        for side, column, weight in zip(self._sides, self._vector_ids, weights, strict=True):
            vector_ids = column.values[rows]
            has = np.flatnonzero(vector_ids != NONE)
            sums[has] += weight[has, None] * side.vectors(vector_ids[has])
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        return np.asarray(sums / np.maximum(lengths, 1e-12), np.float32)

    def sample(self, most: int) -> Vectors:
        """Joint vectors [n, dim] of at most so many windows, by chance; none of deleted ones."""
        ids = self.places.ids
        if self._has_deleted():
            ids = ids[self._alive(self.places.items)]
        if len(ids) > most:
            ids = np.sort(np.random.default_rng(0).choice(ids, most, replace=False))
        return self.vectors(ids)

    def search(
        self,
        query: Vectors,
        k: int,
        *,
        allowed: Allowed | None = None,
        exact: bool = False,
        for_reranking: bool = False,
    ) -> Found:
        """The best windows, of candidates from both sides. Where the sides compare everything, so
        many candidates are taken that nothing is missed (the threshold algorithm of Fagin, Lotem
        and Naor, 2003).
        """
        parts = self._parts(allowed)
        compared = 0
        wanted = max(k, LEAST_WANTED)
        while True:
            by_sound = math.ceil(CANDIDATES * self._weight_range[1] * wanted)
            counts = (CANDIDATES * wanted, max(by_sound, wanted))
            found = [
                side.index.search(
                    query,
                    count,
                    allowed=part,
                    exact=exact,
                    for_reranking=count >= CANDIDATES * wanted,
                )
                for side, count, part in zip(self._sides, counts, parts, strict=True)
            ]
            compared += sum(one.compared for one in found)
            whole = all(one.exact for one in found)
            rows, scores = self._joint_scores(query, found)
            best = np.argsort(-scores, kind="stable")[:k]
            unseen = self._best_unseen(found, counts)
            enough = len(best) == k and scores[best[-1]] >= unseen
            if enough or unseen == -np.inf or not whole:
                way = "+".join(dict.fromkeys(one.way for one in found))
                rounded = any(one.rounded for one in found)
                ids = self.places.ids[rows[best]]
                return Found(ids, scores[best], way, compared, whole, rounded)
            wanted *= WIDENING

    def _parts(self, allowed: Allowed | None) -> Sequence[Allowed | None]:
        """The vectors of each side that allowed windows have. The last few are kept, since people
        ask with one filter more than once.
        """
        if allowed is None:
            return [None, None]
        parts = self._allowed.get(allowed)
        if parts is None:
            rows = self.places.find(allowed.ids)
            parts = []
            for column in self._vector_ids:
                vector_ids = column.values[rows]
                parts.append(Allowed(vector_ids[vector_ids != NONE]))
            while len(self._allowed) >= FILTERS_KEPT:
                self._allowed.pop(next(iter(self._allowed)))
            self._allowed[allowed] = parts
        return parts

    def _joint_scores(self, query: Vectors, found: list[Found]) -> tuple[Ids, Vectors]:
        """The rows [n] of every window that was found on either side, and their joint scores."""
        known = [
            self._known_scores(side, one) for side, one in zip(self._sides, found, strict=True)
        ]
        rows = np.array(sorted({*known[0][0].tolist(), *known[1][0].tolist()}), np.int64)
        of_sides = []
        for known_rows, known_scores in known:
            of_side = np.full(len(rows), np.nan, np.float32)
            of_side[rows.searchsorted(known_rows)] = known_scores
            of_sides.append(of_side)
        return rows, self._join_scores(query, rows, of_sides)

    def scores(self, query: Vectors, ids: Ids) -> Vectors:
        """The scores [n] of windows, as a search gives them."""
        rows = self.places.find(ids)
        unknown = np.full(len(rows), np.nan, np.float32)
        return self._join_scores(query, rows, [unknown, unknown])

    def _join_scores(self, query: Vectors, rows: Ids, known: Sequence[Vectors]) -> Vectors:
        """The joint scores [n] of rows, of whose vectors of each side scores are `known` [n], or
        NaN.
        """
        scores = []
        for side, column, of_side in zip(self._sides, self._vector_ids, known, strict=True):
            vector_ids = column.values[rows]
            has = vector_ids != NONE
            missing = np.flatnonzero(np.isnan(of_side) & has)
            whole = np.where(has, of_side, np.float32(0.0))
            whole[missing] = inner_products(side.vectors(vector_ids[missing]), query)
            scores.append(whole)
        weights = self._weights.values[rows]
        joint: Vectors = (scores[0] + weights * scores[1]) / self._lengths.values[rows]
        return joint

    def _known_scores(self, side: JointSide, found: Found) -> tuple[Ids, Vectors]:
        """The rows [n] of windows that a side has found, and their scores; NaN where an index gives
        rounded ones.
        """
        at = side.places.find(found.ids)
        known = np.flatnonzero(at >= 0)
        rows = self.places.find(side.places.windows[at[known]])
        if side.index.stores_original_vectors:
            return rows, found.scores[known]
        return rows, np.full(len(known), np.nan, np.float32)

    def _best_unseen(self, found: list[Found], counts: tuple[int, int]) -> float:
        """The highest score that a window can have which neither side has found; -inf where there
        is none. A side that gave fewer than it was asked for has given all it has.
        """
        ends = [
            float(one.scores[-1])
            for one, count in zip(found, counts, strict=True)
            if len(one.ids) == count
        ]
        if not ends:
            return -np.inf
        if len(ends) == 1:
            return ends[0]
        least, _, most = self._weight_range
        together = ends[0] + (most if ends[1] > 0 else least) * ends[1]
        return max(*ends, together / self._shortest if together > 0 else together)
