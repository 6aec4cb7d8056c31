"""Cuts a moment of an item into a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from media.convert import Made, clip_name, clip_order
from media.errors import MissingModality
from media.modality import RECORDED, VIDEO
from media.sandbox import MIB, Converters

from .collection import Collection


class ClipLimits(NamedTuple):
    """Of the process that cuts: its memory in MiB, seconds, and the size of the file in MiB."""

    memory_mb: int
    max_s: float
    file_mb: int = 4096


def cut_clip(
    collection: Collection,
    id: str,
    *,
    start_s: float,
    end_s: float,
    out: Path | None,
    limits: ClipLimits,
) -> tuple[Path, Made]:
    """Write [start_s, end_s) of an item to a new file, or else to one in the current folder that is
    named after the item. Returns the file.

    Raises:
        UnknownItem: no such item, or its file is gone.
        MissingModality: it is neither a video nor a sound.
        BadStretch: it has no such stretch.
        FileExistsError: there is a file of that name.
        BadMedia: what else is wrong with its file.
    """
    item = collection.item(id)
    if item.kind not in RECORDED:
        raise MissingModality("video or audio")
    path, filename = collection.media(id)
    order = clip_order(
        start_s,
        end_s,
        duration_s=item.duration_s,
        pictures=item.kind == VIDEO,
        longest_s=item.duration_s,
    ).limited_to(limits.file_mb * MIB)
    target = out or Path(clip_name(filename, order))
    target.touch(exist_ok=False)
    converters = Converters(1, limits.memory_mb, limits.max_s, limits.file_mb)
    try:
        made = converters.finish(converters.start(path.resolve(), target.resolve(), order))
    except BaseException:
        target.unlink()
        raise
    finally:
        converters.close()
    return target, made
