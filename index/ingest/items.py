"""A decoded file and its vectors as an item to be written."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bundle import parse_modality
from media.windows import Media

from ..records.item import NewItem

WindowVectors = tuple[list[int], NDArray[np.float32]]  # which windows, their unit vectors [n, dim]


def media_item(id: str, media: Media, vectors: dict[str, WindowVectors], **fields: Any) -> NewItem:
    """A file as an item, with vectors by encoding; `fields` are further ones of `NewItem`.

    Silent windows get no vector of sound: it would be near queries that have nothing to do with
    silence. The file's tags and chapters go into the metadata, where its own say nothing else.
    """
    fields["metadata"] = media.metadata | fields.get("metadata", {})
    silent = media.parts["audio"].empty if "audio" in media.parts else frozenset()
    audible: dict[str, WindowVectors] = {}
    for encoding, (windows, rows) in vectors.items():
        if parse_modality(encoding) == "audio":
            audible[encoding] = drop_windows(silent, windows, rows)
        else:
            audible[encoding] = windows, rows
    return NewItem(
        id=id,
        kind="image" if media.still else "video" if "video" in media.parts else "audio",
        duration_s=media.duration_s,
        windows=list(media.windows),
        vectors=audible,
        one_colour=media.parts["video"].empty if "video" in media.parts else (),
        pictures=media.pictures,
        shown_s=media.shown_s,
        peaks=media.peaks,
        **fields,
    )


def drop_windows(
    dropped: frozenset[int], windows: list[int], vectors: NDArray[np.float32]
) -> WindowVectors:
    """Windows and their vectors [n, dim] but for those `dropped`.

    >>> drop_windows(frozenset({4}), [3, 4], np.eye(2, dtype=np.float32))
    ([3], array([[1., 0.]], dtype=float32))
    """
    kept = [row for row, window in enumerate(windows) if window not in dropped]
    return [windows[row] for row in kept], vectors[kept]
