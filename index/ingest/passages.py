"""The words of a file as windows of an item, found by their meaning and by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from export.encoder import Encoder
from media.passages import Passage, list_meanings

from ..records.item import NewItem
from .items import WindowVectors

Rows = dict[str, tuple[list[int], list[list[int]]]]  # which passages, their token ids


def read_passages(encoder: Encoder, passages: Sequence[Passage]) -> Rows:
    """The token ids of passages by every text encoding of the bundle; of a long one, its beginning.
    One of unknown words only has none: it is found by its words alone.
    """
    if not passages:
        return {}
    meanings = list_meanings(passages)
    found: Rows = {}
    for encoding in encoder.manifest.encodings("text"):
        readings = encoder.read(meanings, encoding)
        known = [n for n, reading in enumerate(readings) if reading.known]
        if known:
            found[encoding] = known, [readings[n].rows[0] for n in known]
    return found


def add_passages(
    item: NewItem, passages: Sequence[Passage], vectors: Mapping[str, WindowVectors]
) -> NewItem:
    """An item with its passages as windows, and their vectors by encoding."""
    first = len(item.windows)
    merged = dict(item.vectors)
    for encoding, (which, rows) in vectors.items():
        windows = [first + n for n in which]
        if encoding in merged:
            before, vectors_before = merged[encoding]
            merged[encoding] = [*before, *windows], np.concatenate([vectors_before, rows])
        else:
            merged[encoding] = windows, rows
    spans = [(passage.start_s, passage.end_s) for passage in passages]
    return replace(item, windows=[*item.windows, *spans], vectors=merged, passages=tuple(passages))
