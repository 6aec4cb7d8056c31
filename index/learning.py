"""Learns from kept marks how to move queries like those that were marked, and measures what that is
worth before it serves.

Each fifth of the marks is held out in turn, and so is each fifth of the query bank. What is learned
from the rest must find the held-out right items better, and must change nothing for the held-out
queries of the bank. Both are measured by comparing everything.

Records are read as a backup reads them, so a service may have the data folder open.

NotLearned    nothing was learned: there is too little, or it would not help
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from export.bundle import Route
from export.encoder import Encoder
from media.errors import BadText

from .adapters import (
    LEARNED,
    VERSIONS,
    Adapter,
    Adapters,
    QueryMoves,
    Version,
    fit_moves,
    route_name,
)
from .calibration import SAMPLE
from .collection import (
    NAME,
    RECORDS,
    CollectionError,
    FingerprintConflict,
    RecordsLost,
    UnknownCollection,
    check_readable,
    has_lost_records,
    name_damage,
)
from .gallery import Gallery, read_gallery
from .ingest.encoding import embed_rows
from .records.database import Records
from .records.marks import MarkedQuery, StoredMark, group_marks
from .search.feedback import move
from .search.query import direction
from .spread import Spread, Vectors, measure_spread

# Parts that are held out in turn.
FOLDS = 5
TEN = 10
# What the mean may fall for queries that are replayed.
KEPT = 0.99
# Queries of the bank that are more like a marked one than this are not replayed: they are meant.
MEANT = 0.5


class NotLearned(CollectionError):
    detail_fields = ("problem", "measured")

    def __init__(self, problem: str, measured: Measured | None = None) -> None:
        super().__init__(f"nothing was learned: {problem}")
        self.problem = problem
        self.measured = None if measured is None else asdict(measured)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What an adapter is worth: mAP@10 of right marks that were held out, before and after, with
    the other marked items left out; by how many standard deviations of all scores right marks lie
    above the mean and wrong ones below it; and the share of the ten best items that stay for
    queries of the bank that were held out.
    """

    held_out: int
    before: float
    after: float
    apart_before: float
    apart_after: float
    replayed: int
    kept: float


@dataclass(frozen=True)
class Example:
    """A marked query [dim] of a route, with its marks."""

    route: Route
    source: str
    query: Vectors
    marks: list[StoredMark]


@dataclass(frozen=True)
class Lesson:
    """What is learned from on one route: marked queries, what they are asked of, and the queries
    [n, dim] that are replayed.
    """

    examples: list[Example]
    gallery: Gallery
    spread: Spread | None
    replay: Vectors


@contextmanager
def open_records(data: Path, name: str, fingerprint: str) -> Iterator[tuple[Records, Path]]:
    """A collection's records and its folder, in use or not.

    Raises:
        UnknownCollection, RecordsLost, FingerprintConflict, DataUnusable.
    """
    folder = data / "collections" / name
    if not NAME.fullmatch(name):
        raise UnknownCollection(name)
    if folder.is_dir():
        check_readable(folder)
    with name_damage(name):
        if has_lost_records(folder):
            raise RecordsLost(name)
    if not (folder / RECORDS).is_file():
        raise UnknownCollection(name)
    with closing(Records(folder / RECORDS)) as records:
        made = records.meta().get("fingerprint", "")
        if made != fingerprint:
            raise FingerprintConflict(name, made, fingerprint)
        yield records, folder


def learn(data: Path, name: str, encoder: Encoder) -> Version:
    """Learn from a collection's marks, and serve what was learned.

    Raises:
        NotLearned: with the figures, if it was measured. What served before serves on.
        UnknownCollection, RecordsLost, FingerprintConflict.
    """
    with open_records(data, name, encoder.manifest.fingerprint) as (records, folder):
        marks = records.marks.all()
        lessons = make_lessons(records, encoder, marks)
        measured = measure(lessons)
        check_worth(measured)
        adapter = fit(lessons)
        adapters = open_adapters(folder, encoder.manifest.fingerprint)
        return adapters.add(
            adapter,
            created=time.time(),
            marks=len(marks),
            queries=len(group_marks(marks)),
            measured=measured,
        )


def undo(data: Path, name: str, encoder: Encoder) -> Version:
    """Serve what served before the last learning. Raises NotLearned: there is nothing to undo."""
    fingerprint = encoder.manifest.fingerprint
    with open_records(data, name, fingerprint) as (_, folder):
        version = open_adapters(folder, fingerprint).undo()
    if version is None:
        raise NotLearned("there is nothing to undo")
    return version


def open_adapters(folder: Path, fingerprint: str) -> Adapters:
    """What a collection has learned. Raises NotLearned: the list of it is damaged."""
    adapters = Adapters(folder, fingerprint)
    try:
        adapters.versions()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotLearned(
            f"{LEARNED}/{VERSIONS} in the collection's folder cannot be read"
            f" ({type(error).__name__}). Put it back from a backup, or remove the folder {LEARNED}:"
            " the marks are kept elsewhere, and `tercet learn` learns from them anew"
        ) from error
    return adapters


def check_worth(measured: Measured) -> None:
    """Raises NotLearned."""
    if not measured.held_out:
        raise NotLearned("no query has two right marks or more: mark more hits", measured)
    figures = f"mAP@10 of held-out marks {measured.before:.3f} before, {measured.after:.3f} after"
    before = (measured.before, measured.apart_before)
    after = (measured.after, measured.apart_after)
    falls = any(now < then for now, then in zip(after, before, strict=True))
    if falls or after == before:
        raise NotLearned(f"it would not help ({figures})", measured)
    if measured.kept < KEPT:
        raise NotLearned(
            f"it would change others, of whose ten best {measured.kept:.3f} stay ({figures})",
            measured,
        )


# ---------------------------------------------------------------- what is learned from


def make_lessons(
    records: Records, encoder: Encoder, marks: Sequence[StoredMark]
) -> dict[str, Lesson]:
    """By route, what can be learned from marks."""
    examples: dict[str, list[Example]] = {}
    for query, own in group_marks(marks).items():
        for route in encoder.manifest.routes([query.modality], query.target):
            source = route.encodings[query.modality]
            vector = encode_query(records, encoder, query, source)
            if vector is not None:
                example = Example(route, source, vector, own)
                examples.setdefault(route_name(source, route.target), []).append(example)
    return {name: make_lesson(records, encoder, some) for name, some in examples.items()}


def make_lesson(records: Records, encoder: Encoder, examples: list[Example]) -> Lesson:
    """For examples of one route."""
    target = examples[0].route.target
    source = examples[0].source
    marked = sorted({mark.item for example in examples for mark in example.marks})
    gallery = read_gallery(records, target, encoder.manifest.dims, marked)
    replay = records.banks.queries(source, encoder.manifest.dims[source])
    if len(replay):
        queries = np.stack([example.query for example in examples])
        replay = replay[(replay @ queries.T).max(axis=1) <= MEANT]
    return Lesson(examples, gallery, measure_spread(gallery.sample(SAMPLE)), replay)


def encode_query(
    records: Records, encoder: Encoder, query: MarkedQuery, source: str
) -> Vectors | None:
    """A marked query's vector [dim]; None where it says nothing to the encoder."""
    if query.text is not None:
        try:
            (reading,) = encoder.read([query.text], source)
        except BadText:  # of an earlier version, which kept marks of such queries
            return None
        if not reading.known:
            return None
        return np.asarray(embed_rows(encoder, source, reading.rows[:1])[0], np.float32)
    assert query.item is not None
    vectors = records.item_vectors(query.item, source, encoder.manifest.dims[source])
    return direction(vectors) if len(vectors) else None


# ---------------------------------------------------------------- fitting


def fit(lessons: dict[str, Lesson], held_out: int | None = None) -> Adapter:
    """An adapter from all marks and queries, or without those of one fold."""
    routes = {}
    for name, lesson in lessons.items():
        moves = fit_route(lesson, held_out)
        if moves is not None:
            routes[name] = moves
    return Adapter(routes)


def fit_route(lesson: Lesson, held_out: int | None) -> QueryMoves | None:
    """None where no mark has a window of the target."""
    queries: list[Vectors] = []
    moves: list[Vectors] = []
    for example in lesson.examples:
        known, _ = split_marks(example.marks, held_out)
        marked_right = [mark for mark in known if mark.right]
        marked_wrong = [mark for mark in known if not mark.right]
        right = lesson.gallery.marked(example.query, marked_right)
        wrong = lesson.gallery.marked(example.query, marked_wrong)
        if len(right) or len(wrong):
            queries.append(example.query)
            moves.append(move(example.query, right, wrong, lesson.spread) - example.query)
    if not queries:
        return None
    return fit_moves(np.stack(queries), np.stack(moves), without_fold(lesson.replay, held_out))


def split_marks(
    marks: Sequence[StoredMark], fold: int | None
) -> tuple[list[StoredMark], list[StoredMark]]:
    """The marks of a query that are learned from, and those that a fold holds out. Right and wrong
    ones are dealt out by themselves, so that no fold holds out all right ones of two or more.
    """
    kept: list[StoredMark] = []
    held: list[StoredMark] = []
    for verdict in (True, False):
        for n, mark in enumerate(mark for mark in marks if mark.right == verdict):
            (held if n % FOLDS == fold else kept).append(mark)
    return kept, held


def without_fold(replay: Vectors, held_out: int | None) -> Vectors:
    return replay if held_out is None else replay[np.arange(len(replay)) % FOLDS != held_out]


# ---------------------------------------------------------------- measuring


@dataclass
class Tally:
    """Figures of held-out marks: of right ones the average precisions of their queries, of all of
    them how far they lie from the mean; [before, after] each.
    """

    held_out: int = 0
    precisions: list[list[float]] = field(default_factory=list)
    apart: list[list[float]] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)


def measure(lessons: dict[str, Lesson]) -> Measured:
    """What learning from the lessons is worth, by cross-validation."""
    tally = Tally()
    for fold in range(FOLDS):
        adapter = fit(lessons, fold)
        for lesson in lessons.values():
            for example in lesson.examples:
                measure_example(lesson.gallery, example, adapter, fold, tally)
            tally.kept += measure_replay(lesson, adapter, fold)
    before, after = mean_pair(tally.precisions)
    apart_before, apart_after = mean_pair(tally.apart)
    return Measured(
        held_out=tally.held_out,
        before=before,
        after=after,
        apart_before=apart_before,
        apart_after=apart_after,
        replayed=len(tally.kept),
        kept=float(np.mean(tally.kept)) if tally.kept else 1.0,
    )


def mean_pair(pairs: list[list[float]]) -> tuple[float, float]:
    """The means of pairs; zeros where there are none."""
    if not pairs:
        return 0.0, 0.0
    first, second = np.mean(pairs, axis=0).tolist()
    return first, second


def measure_example(
    gallery: Gallery, example: Example, adapter: Adapter, fold: int, tally: Tally
) -> None:
    """Add what a fold's held-out marks of one query tell. Where all of its marks are held out,
    nothing is known of it. Right ones tell something only beside another right one: what is learned
    from wrong ones alone leads away from them, and not towards what is wanted.
    """
    learned_from, held = split_marks(example.marks, fold)
    known = {mark.item for mark in learned_from}
    right = {mark.item for mark in held if mark.right} - known
    if not any(mark.right for mark in learned_from):
        right = set()
    wrong = {mark.item for mark in held if not mark.right} - known
    if not known:
        return
    moved = adapter.move(example.source, example.route.target, example.query)
    queries = [example.query, example.query if moved is None else moved]
    if right:
        tally.held_out += len(right)
        precisions = []
        for query in queries:
            found = gallery.best(query, TEN + len(known))
            unknown = [id for id in found if id not in known]
            precisions.append(average_precision(unknown, right))
        tally.precisions.append(precisions)
    for items, sign in ((right, 1.0), (wrong, -1.0)):
        for item in items:
            tally.apart.append([sign * gallery.stands_out(query, item) for query in queries])


def average_precision(found: list[str], right: set[str]) -> float:
    """At ten.

    >>> average_precision(["a", "b", "c"], {"a", "c"})
    0.8333333333333333
    """
    places = [place for place, id in enumerate(found[:TEN], 1) if id in right]
    shares = [n / place for n, place in enumerate(places, 1)]
    return sum(shares) / min(len(right), TEN)


def measure_replay(lesson: Lesson, adapter: Adapter, fold: int) -> list[float]:
    """For each query of the bank that a fold holds out, the share of its ten best that stay."""
    example = lesson.examples[0]
    shares = []
    for query in lesson.replay[np.arange(len(lesson.replay)) % FOLDS == fold]:
        moved = adapter.move(example.source, example.route.target, query)
        old = lesson.gallery.best(query, TEN)
        new = old if moved is None else lesson.gallery.best(moved, TEN)
        if old:
            shares.append(len(set(old) & set(new)) / len(old))
    return shares


def describe(version: Version) -> dict[str, Any]:
    """A version as people see it."""
    return {key: value for key, value in asdict(version).items() if key not in ("file", "sha256")}
