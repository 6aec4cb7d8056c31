"""Where in a moment's frames, and where in its sound, a query matches."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.cells import CellEncoder, NoCells
from index.records.item import Item
from media.convert import clip_order
from media.errors import BadStretch, MissingModality
from media.modality import AUDIO, RECORDED, TEXT, VIDEO
from media.video import frame_times
from media.windows import Media, Part

from .. import schemas
from ..access import needs
from ..active import ClientId, Tercet
from ..keys import READ
from ..state import State
from ..trace import stage
from .items import has_pictures
from .router import Router

router = Router()

DECIMALS = 4


@dataclass(frozen=True)
class Decoded:
    """One window of an item: where it lies, and its arrays."""

    start_s: float
    end_s: float
    media: Media


@router.post("/v1/collections/{name}/items/{id:path}/where", tags=["items"])
@needs(READ)
async def where_it_matches(
    tercet: Tercet, client: ClientId, name: str, id: str, request: schemas.WhereRequest
) -> schemas.WhereFound:
    """Where in the frames, and where in time and frequency, a query matches the window of an item
    that begins at `start_s`. The maps are coarse. Their numbers are scores, as those of a search.
    """
    collection = tercet.collections.get(name)
    item = await asyncio.to_thread(collection.item, id)
    if item.kind == TEXT:
        raise MissingModality(" or ".join((*RECORDED, "image")))
    encoder = tercet.encoder
    if not isinstance(encoder, CellEncoder):
        raise NoCells(next(iter(encoder.manifest.graphs)))
    path, _ = await asyncio.to_thread(collection.media, id)
    decoded = await decode_window(tercet, client, item, path, request.start_s)
    found = schemas.WhereFound(start_s=decoded.start_s, end_s=decoded.end_s)
    refusal: NoCells | None = None
    for modality, part in decoded.media.parts.items():
        route = tercet.encoder.manifest.routes([TEXT], modality)[0]
        query = await tercet.pipeline.encode_query_text(
            request.query, route.encodings[TEXT], client
        )
        found.warnings = list(query.warnings)
        try:
            draw = draw_frames if modality == VIDEO else draw_sound
            async with tercet.pipeline.locating:
                with stage("cells"):
                    await asyncio.to_thread(
                        draw, encoder, route.encodings[modality], part, query.vector, decoded, found
                    )
        except NoCells as error:
            refusal = error
    if refusal is not None and found.video is None and found.audio is None:
        raise refusal
    return found


async def decode_window(
    tercet: State, client: str, item: Item, path: Path, start_s: float
) -> Decoded:
    """The window of an item from a second on, moved back where the item ends before it does.

    Raises:
        BadStretch: the item ends before that second.
        BadMedia: what is wrong with the file.
        DiskFull, Overloaded, OverQuota.
    """
    modalities = [m for m in (VIDEO, AUDIO) if m in tercet.encoder.manifest.inputs.recorded()]
    if item.kind == "image":
        return Decoded(0.0, 0.0, await tercet.pipeline.decode(path, [VIDEO]))
    if start_s >= item.duration_s:
        raise BadStretch(start_s, item.duration_s, item.duration_s)
    window_s = tercet.encoder.manifest.inputs.window_s
    first_s = min(start_s, max(0.0, item.duration_s - window_s))
    order = clip_order(
        first_s,
        min(first_s + window_s, item.duration_s),
        duration_s=item.duration_s,
        pictures=has_pictures(item),
        longest_s=window_s,
    )
    converted = await tercet.conversions.get(path, order, client)
    media = await tercet.pipeline.decode(converted.path, modalities)
    return Decoded(order.start_s, order.end_s, media)


def draw_frames(
    encoder: CellEncoder,
    encoding: str,
    part: Part,
    query: NDArray[np.float32],
    decoded: Decoded,
    found: schemas.WhereFound,
) -> None:
    frames = part.array[0]
    times_s = frame_times(decoded.start_s, decoded.end_s, len(frames))
    if decoded.media.still:
        frames, times_s = frames[:1], times_s[:1]
    maps = encoder.see_cells(encoding, np.asarray(part.array[0], np.uint8)).vectors @ query
    found.video = schemas.SeenWhere(
        frames=[
            schemas.FrameWhere(at_s=at_s, map=rounded(scores))
            for at_s, scores in zip(times_s, maps[: len(frames)], strict=True)
        ]
    )


def draw_sound(
    encoder: CellEncoder,
    encoding: str,
    part: Part,
    query: NDArray[np.float32],
    decoded: Decoded,
    found: schemas.WhereFound,
) -> None:
    cells = encoder.hear_cells(encoding, np.asarray(part.array[0], np.float32))
    length_s = decoded.end_s - decoded.start_s
    kept = [at for at, middle_s in enumerate(cells.times_s) if middle_s < length_s]
    found.audio = schemas.HeardWhere(
        times_s=[round(decoded.start_s + cells.times_s[at], 3) for at in kept],
        bands_hz=cells.bands_hz,
        map=rounded((cells.vectors @ query)[:, kept]),
    )


def rounded(scores: NDArray[np.float32]) -> list[list[float]]:
    rows: list[list[float]] = scores.astype(np.float64).round(DECIMALS).tolist()
    return rows
