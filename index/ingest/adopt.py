"""Media that no item of a collection names, taken in as new items: records were lost, or put back
from an older copy. No file is deleted or changed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from export.encoder import Encoder
from media.containers import Budget
from media.errors import BadMedia
from media.sandbox import Decoders
from media.windows import Media

from ..collection import Collection
from ..records.database import Origin
from .build import WINDOWS, Report, Source, decoded, distinct, encoded


def adopt(
    encoder: Encoder,
    collection: Collection,
    decoders: Decoders,
    budget: Budget,
    overlap: float = 0.0,
) -> Iterator[tuple[int, int, Report]]:
    """Make an item of each file that is set aside, by its name there; yields (done, total, report
    so far), and once more at the end. A file that cannot be read stays where it is.
    """
    report, found = Report(), collection.set_aside()
    sources = list(distinct(unused(collection, found), report))
    done, ready = len(found) - len(sources), list[tuple[Source, str, Media]]()
    yield done, len(found), report
    with tempfile.TemporaryDirectory() as place:
        todo = [(source, "") for source in sources]
        for source, stamp, outcome in decoded(
            todo, encoder, decoders, budget, Path(place), overlap
        ):
            done += 1
            if isinstance(outcome, BadMedia):
                report.failed[source.name] = str(outcome)
            else:
                ready.append((source, stamp, outcome))
            if sum(max(len(media.windows), 1) for _, _, media in ready) >= WINDOWS:
                take_in(encoder, collection, ready, report)
                ready = []
            yield done, len(found), report
    take_in(encoder, collection, ready, report)
    yield done, len(found), report


def unused(collection: Collection, files: Iterable[Path]) -> list[Source]:
    """The files as sources, with ids that no item has: their names, with a number where one is
    taken.
    """
    ids = collection.ids()
    sources = []
    for file in files:
        id, n = file.name, 1
        while id in ids:
            id, n = f"{file.stem}-{n}{file.suffix}", n + 1
        ids.add(id)
        sources.append(Source(id, file.resolve()))
    return sources


def take_in(
    encoder: Encoder, collection: Collection, ready: list[tuple[Source, str, Media]], report: Report
) -> None:
    if not ready:
        return
    items = encoded(encoder, ready)
    collection.take_in(
        [
            replace(item, origin=Origin.UPLOAD, media=item.filename, source=None, stamp=None)
            for item in items
        ]
    )
    report.wrote(items)
