"""New items of media that no item of a collection names, since its records were lost or put back
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

from ..collection import Collection
from ..records.item import Origin
from .decoding import decode_sources
from .encoding import Ready, encode_items, fills_batch
from .plan import Report, keep_distinct
from .source import Source


def adopt(
    encoder: Encoder,
    collection: Collection,
    decoders: Decoders,
    budget: Budget,
    overlap: float = 0.0,
) -> Iterator[tuple[int, int, Report]]:
    """Make an item of each file that is set aside, with its name there as the id. Yields (done,
    total, report so far), and once more at the end. A file that cannot be read stays where it is.
    """
    report = Report()
    files = collection.set_aside()
    sources = list(keep_distinct(name_sources(collection, files), report))
    done = len(files) - len(sources)
    ready: list[Ready] = []
    yield done, len(files), report
    with tempfile.TemporaryDirectory() as folder:
        todo = [(source, "") for source in sources]
        for source, stamp, outcome in decode_sources(
            todo, encoder, decoders, budget, folder=Path(folder), overlap=overlap
        ):
            done += 1
            if isinstance(outcome, BadMedia):
                report.failed[source.name] = str(outcome)
            else:
                ready.append((source, stamp, outcome))
            if fills_batch(ready):
                add_items(encoder, collection, ready, report)
                ready = []
            yield done, len(files), report
    add_items(encoder, collection, ready, report)
    yield done, len(files), report


def name_sources(collection: Collection, files: Iterable[Path]) -> list[Source]:
    """The files as sources, with ids that no item has: their names, with a number where one is
    taken.
    """
    taken = collection.ids()
    sources = []
    for file in files:
        id = file.name
        number = 1
        while id in taken:
            id = f"{file.stem}-{number}{file.suffix}"
            number += 1
        taken.add(id)
        sources.append(Source(id, file.resolve()))
    return sources


def add_items(encoder: Encoder, collection: Collection, ready: list[Ready], report: Report) -> None:
    if not ready:
        return
    items = encode_items(encoder, ready)
    uploads = [
        replace(item, origin=Origin.UPLOAD, media=item.filename, source=None, stamp=None)
        for item in items
    ]
    collection.take_in(uploads)
    report.count_written(items)
