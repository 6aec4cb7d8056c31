"""A decoded file and its vectors as an item to be written."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bundle import modality_of
from media.windows import Media

from ..records.database import NewItem

OfWindows = tuple[list[int], NDArray[np.float32]]  # which windows, and their unit vectors [n, dim]


def media_item(id: str, media: Media, vectors: dict[str, OfWindows], **said: Any) -> NewItem:
    """A file as an item; `said` are further fields of `NewItem`.

    Windows of silence get no vector of sound: silence lies near phrases that have nothing to do
    with it.
    """
    silent = media.parts["audio"].empty if "audio" in media.parts else frozenset()
    heard = {
        encoding: without(silent, *found) if modality_of(encoding) == "audio" else found
        for encoding, found in vectors.items()
    }
    return NewItem(
        id=id,
        kind="video" if "video" in media.parts else "audio",
        duration_s=media.duration_s,
        windows=list(media.windows),
        vectors=heard,
        plain=media.parts["video"].empty if "video" in media.parts else (),
        pictures=media.pictures,
        peaks=media.peaks,
        **said,
    )


def without(
    left_out: frozenset[int], windows: list[int], vectors: NDArray[np.float32]
) -> OfWindows:
    """Windows and their vectors but for some.

    >>> without(frozenset({4}), [3, 4], np.eye(2, dtype=np.float32))
    ([3], array([[1., 0.]], dtype=float32))
    """
    kept = [row for row, window in enumerate(windows) if window not in left_out]
    return [windows[row] for row in kept], vectors[kept]
