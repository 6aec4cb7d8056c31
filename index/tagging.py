"""What is in a collection: its tags, counted; and the tags of what a search has found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from export.bundle import parse_modality

from .collection import Collection
from .records.database import Records
from .records.tags import TagCount, TaggedWindow
from .vocabulary import vocabulary_of

# Windows whose ends are no further apart touch.
TOUCHING_S = 1e-6


@dataclass(frozen=True, kw_only=True)
class Count:
    """How many items and windows have a tag."""

    items: int
    windows: int


@dataclass(frozen=True, kw_only=True)
class Tag(Count):
    """A name with its counts: in any modality, and in each."""

    name: str
    modalities: dict[str, Count]


@dataclass(frozen=True, kw_only=True)
class TagOverview:
    """A collection's tags, those of most items first. `vocabulary` says whose the names are:
    "default" or "own".
    """

    vocabulary: str
    tags: list[Tag]


@dataclass(frozen=True, kw_only=True, slots=True)
class TagMoment:
    """A tag of neighbouring windows of an item. The score, the best of theirs, is how probable it
    is.
    """

    name: str
    modality: str
    start_s: float
    end_s: float
    score: float


def list_tags(collection: Collection, modality: str | None = None) -> TagOverview:
    """The tags of a tagged collection, of one modality or of all."""
    counts, together = collection.tag_counts()
    by_name: dict[str, list[TagCount]] = {}
    for count in counts:
        if modality in (None, parse_modality(count.encoding)):
            by_name.setdefault(count.name, []).append(count)
    tags = []
    for name, found in by_name.items():
        items, windows = together[name] if modality is None else max(c[2:] for c in found)
        modalities: dict[str, Count] = {}
        for count in found:
            of = parse_modality(count.encoding)
            before = modalities.get(of)
            if before is None or before.items < count.items:
                modalities[of] = Count(items=count.items, windows=count.windows)
        tags.append(Tag(name=name, items=items, windows=windows, modalities=modalities))
    tags.sort(key=lambda tag: (-tag.items, -tag.windows, tag.name.casefold()))
    vocabulary = vocabulary_of(collection)
    return TagOverview(vocabulary=vocabulary.source if vocabulary else "", tags=tags)


def tag_items(records: Records, items: Iterable[int]) -> dict[int, list[TagMoment]]:
    """The tags of items, by their numbers."""
    return {item: merge_tags(records.tags.of_item(item)) for item in items}


def merge_tags(windows: Iterable[TaggedWindow]) -> list[TagMoment]:
    """Tags of one item's windows, in the order of time: those of windows that touch or overlap
    become one. The surest first.

    >>> rows = [TaggedWindow("dog", "audio", 5.0 * n, 5.0 * n + 5, 0.5 + n / 10) for n in (0, 1)]
    >>> [(tag.start_s, tag.end_s, tag.score) for tag in merge_tags(rows)]
    [(0.0, 10.0, 0.6)]
    """
    moments: dict[tuple[str, str], list[TagMoment]] = {}
    for window in windows:
        modality = parse_modality(window.encoding)
        found = moments.setdefault((window.name, modality), [])
        if found and window.start_s <= found[-1].end_s + TOUCHING_S:
            last = found.pop()
            start_s = last.start_s
            end_s = max(last.end_s, window.end_s)
            score = max(last.score, window.score)
        else:
            start_s = window.start_s
            end_s = window.end_s
            score = window.score
        found.append(
            TagMoment(
                name=window.name, modality=modality, start_s=start_s, end_s=end_s, score=score
            )
        )
    every = [moment for found in moments.values() for moment in found]
    return sorted(every, key=lambda moment: -moment.score)
