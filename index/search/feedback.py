"""Right and wrong marks on what was found, used in the next search.

The query moves towards what the windows that are right have in common, and away from the wrong ones
(Rocchio, 1971). Windows and query are first divided by the spread of the collection's vectors, as
`spread` says. Where the collection is too small for that, they count as they are. Scores are no
longer those of a sentence, so nothing is known of how sure they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..collection import Collection
from ..records.database import Records
from ..records.window_table import Place
from ..spread import Spread
from .query import Feedback, Mark, TargetQuery, Vectors, direction
from .retrieve import find_nothing
from .score import ItemWindows

# What the mean of the windows that are right, and of those that are wrong, weighs beside the query.
# These and REWEIGHED were chosen on open recordings.
RIGHT = 1.0
WRONG = 0.5
# The share of the query that is divided by the spread.
REWEIGHED = 0.5
# The source of a query that was moved: no encoding, so nothing is calibrated by it.
MOVED = "feedback"


def move_query(
    collection: Collection, records: Records, query: TargetQuery, feedback: Feedback
) -> TargetQuery:
    """The query, of one part, moved by marks. Items without a window of its target say nothing.

    Raises:
        UnknownItem: a mark's item is not there.
    """
    right = read_marks(collection, records, query, feedback.right)
    wrong = read_marks(collection, records, query, feedback.wrong)
    if not len(right) and not len(wrong):
        return query
    plain = direction(query.query[None])
    moved = move(plain, right, wrong, collection.spread(query.target))
    return replace(query, vectors=moved[None], weights=(1.0,), source=MOVED)


def move(query: Vectors, right: Vectors, wrong: Vectors, spread: Spread | None) -> Vectors:
    """A unit query [dim], moved by windows that are right [n, dim] and wrong [m, dim]."""
    moved = query
    if spread is not None:
        moved = (1.0 - REWEIGHED) * query + REWEIGHED * spread.reweigh(query)
    for windows, weight in ((right, RIGHT), (wrong, -WRONG)):
        if len(windows):
            apart = windows if spread is None else spread.stand_out(windows)
            moved = moved + np.float32(weight) * apart.mean(axis=0)
    return direction(np.asarray(moved, np.float32)[None])


def read_marks(
    collection: Collection, records: Records, query: TargetQuery, marks: Sequence[Mark]
) -> Vectors:
    """The vectors [n, dim] of marked windows, of those marks that have one. Raises UnknownItem."""
    items = [records.number(mark.id) for mark in marks]
    windows = ItemWindows(collection, records, items, [find_nothing(query)])
    found: list[Vectors] = []
    if marks and query.target in windows.targets:
        vectors = windows.vectors(query.target)
        bounds = windows.windows(query.target).bounds
        places = windows.windows(query.target).places
        for n, mark in enumerate(marks):
            first = bounds[n]
            end = bounds[n + 1]
            if first == end:
                continue
            if mark.start_s is None:
                best = int((vectors[first:end] @ query.query).argmax())
            else:
                best = find_nearest(places[first:end], mark.start_s)
            found.append(vectors[first + best])
    return np.array(found, np.float32).reshape(len(found), len(query.query))


def find_nearest(places: Sequence[Place], start_s: float) -> int:
    """Which window begins nearest to a second.

    >>> find_nearest([Place(1, 0.0, 5.0, False), Place(2, 5.0, 10.0, False)], 4.0)
    1
    """
    return int(np.argmin([abs(place.start_s - start_s) for place in places]))
