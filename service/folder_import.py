"""The work of an import job: batch building of what lies below the import folder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bundle import Manifest
from export.encoder import Encoder
from index.ingest.build import build
from index.ingest.gone import find_missing
from index.ingest.names import make_printable
from index.ingest.plan import BuildOptions
from index.library import Collections
from media.containers import ARCHIVE_BUDGET
from media.readers import choose_readers
from media.sandbox import Decoders
from media.text import Reading

from .batching import Batcher
from .jobs import LISTED_MAX, Failure, Job, Progress, below
from .settings import Settings

IMPORT_MEMORY_MB = 6144
IMPORT_FILE_S = 600.0


@dataclass(frozen=True)
class BackgroundEncoder:
    """The service's encoder as batch building knows it. Its work goes behind that of requests."""

    encoder: Encoder
    batcher: Batcher
    loop: asyncio.AbstractEventLoop

    @property
    def manifest(self) -> Manifest:
        return self.encoder.manifest

    def tokens(self, texts: list[str], encoding: str) -> NDArray[np.int64]:
        return self.encoder.tokens(texts, encoding)

    def read(self, texts: list[str], encoding: str) -> list[Reading]:
        return self.encoder.read(texts, encoding)

    def embed(self, encoding: str, arrays: NDArray[Any]) -> NDArray[np.float32]:
        work = self.batcher.submit(encoding, arrays, client="import", background=True)
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def check(self) -> None:
        self.encoder.check()


class FolderImport:
    """Does import jobs, in the thread that calls it. `check_room` raises DiskFull."""

    def __init__(
        self,
        settings: Settings,
        encoder: BackgroundEncoder,
        collections: Collections,
        check_room: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._encoder = encoder
        self._collections = collections
        self._check_room = check_room
        self._decoders: Decoders | None = None

    def __call__(self, job: Job) -> Iterator[Progress]:
        path = below(self._settings.imports, job.path)
        root = below(self._settings.imports, ".")
        collection = self._collections.get(job.collection)
        self._decoders = Decoders(
            workers=self._settings.decode_workers,
            memory_mb=IMPORT_MEMORY_MB,
            max_s=IMPORT_FILE_S,
            nice=10,
            hardware=self._settings.hardware_decoding,
        )
        progress = Progress(done=0, total=0, indexed=0, unchanged=0, failed=0, failures=[])
        try:
            for done, total, report in build(
                self._encoder,
                collection,
                [path],
                self._decoders,
                ARCHIVE_BUDGET,
                BuildOptions(
                    overlap=self._settings.overlap,
                    within=root,
                    readers=choose_readers(self._settings.screen_text, self._settings.speech),
                ),
            ):
                self._check_room()
                progress = Progress(
                    done=done,
                    total=total,
                    indexed=report.indexed,
                    unchanged=report.unchanged,
                    failed=len(report.failed),
                    failures=first_reasons(report.failed, root),
                    warned=len(report.warned),
                    warnings=first_reasons(report.warned, root),
                    moved=report.moved,
                    copied=report.copied,
                    changed=report.changed,
                    left_out=report.left_out,
                )
                yield progress
            gone = find_missing(collection, [path]).gone
            ids = [item.id for item in gone[:LISTED_MAX]]
            yield replace(progress, gone=len(gone), gone_ids=ids)
        finally:
            self._decoders.close()

    def stop(self) -> None:
        """Do not wait for the files that are being decoded."""
        if self._decoders is not None:
            self._decoders.close()


def first_reasons(reasons: dict[str, str], root: Path) -> list[Failure]:
    """The first of them, by paths in the import folder: clients do not learn where it is."""
    first = islice(reasons.items(), LISTED_MAX)
    prefix = make_printable(f"{root}/")
    return [Failure(name.replace(prefix, ""), reason) for name, reason in first]
