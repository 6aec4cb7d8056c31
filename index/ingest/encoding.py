"""Decoded media and words as items with their vectors, encoded in batches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from export.bundle import parse_modality
from export.encoder import Encoder
from media.text import list_warnings, pad_tokens
from media.windows import Media

from ..records.item import NewItem
from .items import media_item
from .passages import add_passages, read_passages
from .source import Source

WINDOWS = 32  # encoded and written together

Ready = tuple[Source, str, Media]  # to be encoded


def fills_batch(ready: list[Ready], windows: int = WINDOWS) -> bool:
    """Whether there are so many windows to encode; words alone count as one."""
    return sum(max(len(media.windows), 1) for _, _, media in ready) >= windows


def encode_items(encoder: Encoder, ready: list[Ready]) -> list[NewItem]:
    """Decoded sources as items with their vectors, encoded in batches by modality."""
    vectors = encode_all(encoder, [media for _, _, media in ready])
    items = []
    for (source, stamp, media), item_vectors in zip(ready, vectors, strict=True):
        item = media_item(
            source.id,
            media,
            item_vectors,
            metadata=source.metadata,
            filename=source.filename,
            origin=source.origin,
            source=source.file,
            stamp=stamp,
            digest=(source.digest or None) if media.last else None,
            root=source.root,
            mount=source.mount,
            texts=source.texts,
            first_window=media.first_window,
            partial=not media.last,
            keep_edits=source.keep_edits,
        )
        item = add_text_windows(item, source, encoder)
        passages = media.passages
        if source.passages and media.last:  # their windows follow those of all parts
            passages = source.passages
        words = read_passages(encoder, passages)
        rows = {e: (which, embed_rows(encoder, e, ids)) for e, (which, ids) in words.items()}
        items.append(add_passages(item, passages, rows))
    return items


def add_text_windows(item: NewItem, source: Source, encoder: Encoder) -> NewItem:
    """An item with windows for the texts of its source; each is about the whole item."""
    if not source.texts or item.partial:
        return item
    words = read_words(encoder, list(source.texts))
    first = len(item.windows)
    vectors = dict(item.vectors)
    for encoding, (which, rows) in words.rows.items():
        windows = [first + window for window in which]
        vectors[encoding] = windows, embed_rows(encoder, encoding, rows)
    return replace(
        item,
        kind="text" if source.path is None else item.kind,
        windows=item.windows + [(0.0, item.duration_s)] * words.windows,
        vectors=vectors,
        warnings=words.warnings,
    )


@dataclass(frozen=True)
class Words:
    """An item's texts as windows, one or more for each text."""

    windows: int  # how many there are
    # by encoding: which windows have words that it knows, and the token ids of these
    rows: dict[str, tuple[list[int], list[list[int]]]]
    warnings: tuple[str, ...]  # for whoever adds the item


def read_words(encoder: Encoder, texts: list[str]) -> Words:
    """Read texts by every text encoding of the bundle. A text of unknown words only is not encoded:
    its vector would equal that of every other such text. Raises BadText.
    """
    encodings = encoder.manifest.encodings("text") if texts else []
    readings = {encoding: encoder.read(texts, encoding) for encoding in encodings}
    rows: dict[str, tuple[list[int], list[list[int]]]] = {}
    windows = 0
    for i in range(len(texts)):
        for encoding, found in readings.items():
            if found[i].known:
                which, ids = rows.setdefault(encoding, ([], []))
                which += range(windows, windows + len(found[i].rows))
                ids += found[i].rows
        windows += max((len(found[i].rows) for found in readings.values()), default=1)
    several = len(texts) > 1
    warnings: list[str] = []
    for found in readings.values():
        warnings += list_warnings(dict(enumerate(found)), several, cut=False)
    return Words(windows, rows, tuple(dict.fromkeys(warnings)))


def embed_rows(encoder: Encoder, encoding: str, rows: list[list[int]]) -> np.ndarray[Any, Any]:
    """Unit vectors [n, dim] of n rows of token ids."""
    spec = encoder.manifest.tokenizers[encoding].spec
    parts = [pad_tokens(rows[at : at + WINDOWS], spec) for at in range(0, len(rows), WINDOWS)]
    return np.concatenate([encoder.embed(encoding, part) for part in parts])


def encode_all(
    encoder: Encoder, items: list[Media]
) -> list[dict[str, tuple[list[int], np.ndarray[Any, Any]]]]:
    """For each item, by encoding, (which windows, vectors [n, dim]). Each modality of all items is
    encoded in batches.
    """
    out: list[dict[str, tuple[list[int], np.ndarray[Any, Any]]]] = [{} for _ in items]
    for encoding in encoder.manifest.graphs:
        modality = parse_modality(encoding)
        having = [
            (position, item.parts[modality])
            for position, item in enumerate(items)
            if modality in item.parts and item.parts[modality].windows
        ]
        if not having:
            continue
        arrays = np.concatenate([part.array for _, part in having])
        fresh = find_fresh(arrays)
        distinct = arrays[fresh]
        starts = range(0, len(distinct), WINDOWS)
        batches = [encoder.embed(encoding, distinct[at : at + WINDOWS]) for at in starts]
        vectors = np.concatenate(batches)[np.cumsum(fresh) - 1]
        first = 0
        for position, part in having:
            end = first + len(part.windows)
            out[position][encoding] = part.windows, vectors[first:end]
            first = end
    return out


def find_fresh(arrays: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Which of the arrays [n, ...] differ from the one before. Neighbouring windows of a film often
    have the same keyframe, and are encoded once.

    >>> find_fresh(np.array([[1, 2], [1, 2], [1, 3]])).tolist()
    [True, False, True]
    """
    fresh = np.ones(len(arrays), bool)
    for n in range(1, len(arrays)):
        fresh[n] = not np.array_equal(arrays[n], arrays[n - 1])
    return fresh
