"""The media of a stored item as that of a new one."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from export.bundle import parse_modality

from .item import NewItem
from .passages import Passages

FILE_METADATA = ("tags", "chapters")  # what a file says of itself


class StoredWindow(NamedTuple):
    """A window as it is stored, with its preview and the second that this shows."""

    number: int
    start_s: float
    end_s: float
    one_colour: bool
    picture: bytes | None
    shown_s: float | None


@dataclass
class CopiedVectors:
    """Vectors of an encoding, and the places of their windows in the new item."""

    places: list[int] = field(default_factory=list)
    blobs: list[bytes] = field(default_factory=list)

    def read(self, dim: int) -> tuple[list[int], NDArray[np.float32]]:
        """The places [n], and vectors [n, dim]."""
        vectors = np.frombuffer(b"".join(self.blobs), "<f4").reshape(len(self.places), dim)
        return self.places, vectors


def copy_media(
    db: sqlite3.Connection, passages: Passages, id: str, dims: Mapping[str, int]
) -> NewItem | None:
    """An item's windows, vectors, previews and passages, and what its file says of itself, without
    its texts and other metadata. `dims` has the dimensions of each encoding. None where there is no
    such item.
    """
    row = db.execute(
        "select n, kind, duration_s, exists (select 1 from texts where item = n), metadata,"
        " (select peaks from sounds where item = n) from items where id = ?",
        (id,),
    ).fetchone()
    if row is None:
        return None
    number, kind, duration_s, has_texts, metadata, peaks = row
    vectors = db.execute(
        "select v.window, v.encoding, v.vector from vectors v join windows w on w.n = v.window"
        " where w.item = ? order by v.n",
        (number,),
    ).fetchall()
    windows = read_windows(db, number)
    copied_passages = passages.of_item(id)
    media = windows[: len(windows) - len(copied_passages)]  # the windows of passages come last
    if has_texts:
        said = {window for window, encoding, _ in vectors if parse_modality(encoding) == "text"}
        media = leave_out_texts(media, said, duration_s)
    kept = media + windows[len(windows) - len(copied_passages) :]
    return NewItem(
        id=id,
        kind=kind,
        duration_s=duration_s,
        windows=[(window.start_s, window.end_s) for window in kept],
        vectors=copy_vectors(vectors, kept, dims),
        one_colour=frozenset(n for n, window in enumerate(kept) if window.one_colour),
        pictures={n: window.picture for n, window in enumerate(kept) if window.picture is not None},
        shown_s={n: window.shown_s for n, window in enumerate(kept) if window.shown_s is not None},
        peaks=peaks or b"",
        metadata={key: v for key, v in json.loads(metadata).items() if key in FILE_METADATA},
        passages=copied_passages,
    )


def read_windows(db: sqlite3.Connection, item: int) -> list[StoredWindow]:
    rows = db.execute(
        "select w.n, w.start_s, w.end_s, w.plain, p.jpeg, w.shown_s from windows w"
        " left join pictures p on p.window = w.n where w.item = ? order by w.n",
        (item,),
    )
    return [StoredWindow(*row) for row in rows]


def leave_out_texts(
    windows: list[StoredWindow], said: set[int], duration_s: float
) -> list[StoredWindow]:
    """Without the windows of texts: those in `said`, and those that span the whole item. Before
    these only the first window of media may span it.
    """
    return [
        window
        for position, window in enumerate(windows)
        if window.number not in said
        and not (position and (window.start_s, window.end_s) == (0.0, duration_s))
    ]


def copy_vectors(
    rows: list[tuple[int, str, bytes]], kept: list[StoredWindow], dims: Mapping[str, int]
) -> dict[str, tuple[list[int], NDArray[np.float32]]]:
    """By encoding, the vectors of the windows that are kept."""
    places = {window.number: place for place, window in enumerate(kept)}
    copied: dict[str, CopiedVectors] = {}
    for window, encoding, blob in rows:
        if window in places:
            vectors = copied.setdefault(encoding, CopiedVectors())
            vectors.places.append(places[window])
            vectors.blobs.append(blob)
    return {encoding: vectors.read(dims[encoding]) for encoding, vectors in copied.items()}
