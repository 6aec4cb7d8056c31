"""What is kept of an item, and what is read of it.

UnknownItem    there is no item of that id
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from export.bundle import parse_modality
from media.passages import Passage


class UnknownItem(Exception):
    detail_fields = ("id",)

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.id = id

    def __str__(self) -> str:
        return f"no item {self.id!r}"


class NoMedia(UnknownItem):
    """An item that is there, without media that could be sent."""

    def __str__(self) -> str:
        return f"item {self.id!r} has no media: it is a text, or its file is not there any more"


def current_time() -> str:
    """The time in UTC, to the second, as ISO 8601 writes it: texts that sort as times do."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Origin(StrEnum):
    """Where an item comes from, and so where its media can be read again."""

    UPLOAD = "upload"  # added one by one: its media, if any, were copied into the collection
    FILE = "file"  # a file that lies where batch building found it
    MEMBER = "member"  # of a tar shard that lies where batch building found it
    LINE = "line"  # words alone, on a line of a manifest


@dataclass(frozen=True, kw_only=True)
class NewItem:
    """What is written in one transaction. `vectors` has by encoding (which windows, unit vectors
    [n, dim]).
    """

    id: str
    kind: str
    duration_s: float
    windows: list[tuple[float, float]]
    vectors: dict[str, tuple[list[int], NDArray[np.float32]]]
    metadata: dict[str, Any] = field(default_factory=dict)
    filename: str | None = None
    origin: Origin = Origin.UPLOAD
    media: str | None = None  # the stored copy, relative to the collection
    source: str | None = None  # the file or shard that batch building read
    stamp: str | None = None  # the size and time it had there
    digest: str | None = None  # SHA-256 of its content there, where it is known
    root: str | None = None  # the folder that it was found by
    mount: str | None = None  # where the file system that it lay on was mounted
    texts: tuple[str, ...] = ()
    # words with their times; that of the last window is the last, and so on
    passages: tuple[Passage, ...] = ()
    one_colour: Collection[int] = ()  # windows whose pictures show that and nothing else
    pictures: dict[int, bytes] = field(default_factory=dict)  # by window, as JPEG
    shown_s: dict[int, float] = field(default_factory=dict)  # by window, when its picture is shown
    peaks: bytes = b""  # see `media.preview`
    warnings: tuple[str, ...] = ()  # for whoever adds it; not stored
    edited: bool = False  # its metadata were changed after it was added
    keep_edits: bool = False  # where the item that it replaces was edited, that one's metadata stay
    # A long file is written part by part: the first of these windows, and whether more follow.
    first_window: int = 0
    partial: bool = False
    added: str | None = field(default_factory=current_time)  # None: before this was kept


@dataclass(frozen=True, kw_only=True)
class Item:
    id: str
    kind: str
    duration_s: float
    filename: str | None
    origin: Origin
    media: str | None
    source: str | None
    stamp: str | None
    digest: str | None
    root: str | None
    mount: str | None
    texts: tuple[str, ...]
    metadata: dict[str, Any]
    windows: int
    modalities: tuple[str, ...]
    partial: bool = False  # whether the rest of its file is still to be read
    added: str | None = None  # when, in UTC; None: by a version that did not keep it

    @property
    def text(self) -> str | None:
        """Its texts, a line each; None where it has none."""
        return "\n".join(self.texts) or None


class KnownSource(NamedTuple):
    """What batch building made an item from; `source` is None for a line of a manifest. `filename`
    is None where the item has none, as a member of a shard.
    """

    source: str | None
    stamp: str
    digest: str | None
    filename: str | None = None
    root: str | None = None
    mount: str | None = None
    origin: Origin = Origin.FILE
    partial: int | None = None  # windows that there are of a file that was not read to its end


class MediaRow(NamedTuple):
    """What tells one item of media from another, and its number."""

    n: int
    id: str
    kind: str
    duration_s: float
    digest: str | None


class WindowVectors(NamedTuple):
    """The windows of an item that have a vector of an encoding: (start_s, end_s) [n, 2], whether
    their pictures show one colour only [n], and the vectors [n, dim].
    """

    times_s: NDArray[np.float64]
    one_colour: NDArray[np.bool_]
    vectors: NDArray[np.float32]


class Failure(NamedTuple):
    """A source that could not be indexed. Failures noted by earlier versions have no name, source
    and digest.
    """

    stamp: str
    reason: str
    name: str | None = None
    source: str | None = None
    digest: str | None = None


@dataclass(frozen=True, kw_only=True)
class Counts:
    items: int
    windows: int
    vectors: dict[str, int]  # by encoding; those that have any


class About(NamedTuple):
    """What a hit says of its item."""

    metadata: dict[str, Any]
    id: str
    kind: str
    duration_s: float
    filename: str | None


def real_path(path: Path) -> Path:
    """Where a path leads over its links; as far as they lead where they lead to one another."""
    return Path(os.path.realpath(path))


def encode_path(path: str | None) -> bytes | None:
    return None if path is None else os.fsencode(path)


def decode_path(path: bytes | None) -> str | None:
    return None if path is None else os.fsdecode(path)


def make_item(*row: Any) -> Item:
    """An item from a row of `Records._items`."""
    id, kind, duration_s, filename, origin, media, source, stamp, digest, root, mount = row[:11]
    metadata, partial, added, texts, windows, encodings = row[11:]
    return Item(
        id=id,
        kind=kind,
        duration_s=duration_s,
        filename=filename,
        origin=Origin(origin),
        media=media,
        source=decode_path(source),
        stamp=stamp,
        digest=digest,
        root=decode_path(root),
        mount=decode_path(mount),
        texts=tuple(json.loads(texts)),
        metadata=json.loads(metadata),
        windows=windows,
        modalities=list_modalities((encodings or "").split(",")),
        partial=bool(partial),
        added=added,
    )


def list_modalities(encodings: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({parse_modality(e) for e in encodings if e}))
