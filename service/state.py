"""What routes work with, and how another takes its place while requests come in."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, Request
from numpy.typing import NDArray
from starlette.types import Scope

from export.bundle import Manifest, modality_of
from export.encoder import Encoder
from index.collection import FingerprintConflict, RecordsLost
from index.ingest.build import build
from index.library import Collections
from index.query_bank import ensure_query_bank
from index.reserve import is_full
from index.vectors.faiss_index import Sizing
from media.containers import Budget
from media.modality import MODALITY_TABLE, TEXT
from media.sandbox import Decoders
from media.text import Reading, TextSpec

from .batching import Batcher, QueueSpec
from .errors import DiskFull, ShuttingDown, body, entry
from .jobs import FAILURES, Failure, Job, Jobs, Progress, below
from .metrics import Metrics
from .pipeline import Pipeline
from .quotas import Quotas
from .settings import Settings

LOG = logging.getLogger("tercet")
FAILING = 3  # batches that fail one after the other before the encoder itself is doubted
DRAIN_S = 10.0
UPLOADS = "uploads"  # in the data folder
WRITERS = 2  # threads that change collections
IMPORT_BUDGET = Budget(seconds=2 * 3600.0, frames=2 * 3600 * 60, samples=2 * 3600 * 48_000 * 8)
IMPORT_MEMORY_MB, IMPORT_FILE_S = 6144, 600.0


@dataclass
class State:
    settings: Settings
    encoder: Encoder
    collections: Collections
    batcher: Batcher
    pipeline: Pipeline
    metrics: Metrics
    jobs: Jobs
    decoders: Decoders
    quotas: Quotas
    gone: str = ""  # why nobody has taken its place after it was closed
    writers: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(WRITERS, "write")
    )

    @property
    def uploads(self) -> Path:
        """Where uploads lie while they are read: where there is room."""
        folder = self.settings.data / UPLOADS
        return Path(tempfile.gettempdir()) if self.full or not folder.is_dir() else folder

    @property
    def full(self) -> bool:
        return is_short(self.settings)

    def check_room(self) -> None:
        """Raises DiskFull: nothing is to be added."""
        if self.full:
            raise DiskFull(self.settings.free_disk_mb)

    async def write(self, work: Callable[..., None], *args: Any) -> None:
        """Change a collection, in a thread that searches do not
        need: it may wait for a snapshot.
        """
        try:
            done = asyncio.get_running_loop().run_in_executor(self.writers, work, *args)
        except RuntimeError:  # it has been closed
            raise ShuttingDown from None
        await done

    async def problems(self) -> list[str]:
        """Why the service is not ready; empty when it is."""
        found, stall = [self.gone] if self.gone else [], self.settings.stall_s
        if not self.jobs.alive:
            found.append("the jobs have stopped")
        if self.batcher.stuck_s > stall:
            found.append("the encoder has not moved for a while")
        if self.pipeline.stuck_s > stall + self.settings.decode_max_s:
            found.append("the decoders have not moved for a while")
        if self.batcher.failing >= FAILING and not await asyncio.to_thread(sound, self.encoder):
            found.append("the encoder fails")
        if self.full:
            found.append("the disk is full")
        return found + [str(conflict) for conflict in self.collections.conflicts.values()]

    async def close(self) -> None:
        """Let what is being done end, for a while; then let go of everything."""
        await asyncio.to_thread(self.jobs.close)
        await self.batcher.close()
        await asyncio.to_thread(self.decoders.close)
        await asyncio.to_thread(self.writers.shutdown)
        await asyncio.to_thread(self.collections.close)


def is_short(settings: Settings) -> bool:
    """Whether less is free on the disk of the data folder than there is to be."""
    return shutil.disk_usage(settings.data).free < settings.free_disk_mb * 1_000_000


def sound(encoder: Encoder) -> bool:
    """Whether an encoder still gives what it gave when its bundle was made."""
    try:
        encoder.check()
    except Exception:  # whatever a lost device raises
        LOG.exception("the encoder fails its check")
        return False
    return True


def lanes_of(manifest: Manifest) -> dict[str, QueueSpec]:
    """The encodings, the quickest first, and what a row of each costs."""

    def rank(encoding: str) -> int:
        return MODALITY_TABLE[modality_of(encoding)].queue_rank

    lanes = {}
    for encoding in sorted(manifest.graphs, key=rank):
        spec = manifest.spec(encoding)
        if isinstance(spec, TextSpec):
            lanes[encoding] = QueueSpec(pad=spec.pad_id)
        else:
            lanes[encoding] = QueueSpec(tokens=spec.tokens)
    return lanes


def new_decoders(settings: Settings) -> Decoders:
    """The decoding processes, started."""
    decoders = Decoders(settings.decode_workers, settings.decode_memory_mb, settings.decode_max_s)
    decoders.warm()
    return decoders


def open_data(settings: Settings, encoder: Encoder) -> Collections:
    """The data folder with a collection to start with. Raises CollectionError."""
    settings.data.mkdir(parents=True, exist_ok=True)
    sizing = Sizing(
        settings.index, settings.index_memory_mb, settings.index_latency_ms, settings.milvus
    )
    collections = Collections(
        settings.data, encoder.manifest.fingerprint, encoder.manifest.dims, sizing
    )
    try:
        try:
            # told of by /readyz, and to whoever asks for it
            with suppress(FingerprintConflict, RecordsLost):
                collections.ensure("default")
            for collection in collections.all():
                ensure_query_bank(collection, encoder)
        except (OSError, sqlite3.OperationalError) as error:
            if not is_full(error):
                raise
            LOG.warning("the disk is full: what is there can be searched")
        for conflict in collections.conflicts.values():
            LOG.warning("%s", conflict)
    except BaseException:
        collections.close()
        raise
    return collections


async def opened(
    settings: Settings,
    encoder: Encoder,
    decoders: Decoders,
    before: State | Metrics,
    collections: Collections | None = None,
) -> State:
    """Everything that serves an encoder and its collections, after another state or as the first
    one. What it was given is closed where it fails.
    """
    metrics = before if isinstance(before, Metrics) else before.metrics
    async with AsyncExitStack() as undo:
        undo.callback(decoders.close)
        if collections is None:
            collections = await asyncio.to_thread(open_data, settings, encoder)
        undo.callback(collections.close)
        lanes = lanes_of(encoder.manifest)
        quotas = Quotas(settings, None if isinstance(before, Metrics) else before.quotas)
        most, waiting = settings.batch_max_tokens, settings.queue_max_tokens
        quick = [e for e in lanes if modality_of(e) == TEXT and settings.provider == "cpu"]
        batcher = Batcher(encoder.embed, lanes, most, waiting, metrics.batch, quick)
        undo.push_async_callback(batcher.close)
        pipeline = Pipeline(encoder, batcher, decoders, settings, metrics, quotas.media)
        importing = Importing(
            settings, Bulk(encoder, batcher, asyncio.get_running_loop()), collections
        )
        jobs = Jobs(settings.data / "jobs", importing, public_message)
        undo.pop_all()
    return State(settings, encoder, collections, batcher, pipeline, metrics, jobs, decoders, quotas)


def public_message(error: Exception) -> str:
    """What clients may read of an error that ended a job."""
    known = entry(type(error))[1] != "internal"
    return str(body(error)["message"]) if known else "an internal error; the log says which"


@dataclass(frozen=True)
class Bulk:
    """The encoder as batch building knows it, behind the requests of people."""

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
        work = self.batcher.submit(encoding, arrays, who="import", bulk=True)
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def check(self) -> None:
        self.encoder.check()


def listed(reasons: dict[str, str], root: Path) -> list[Failure]:
    """The first of them, without the import folder's place."""
    first = islice(reasons.items(), FAILURES)
    return [Failure(name.replace(f"{root}/", ""), reason) for name, reason in first]


class Importing:
    """What an import job does: batch building of what lies below the import folder."""

    def __init__(self, settings: Settings, encoder: Bulk, collections: Collections) -> None:
        self._settings, self._encoder, self._collections = settings, encoder, collections
        self._decoders: Decoders | None = None

    def __call__(self, job: Job) -> Iterator[Progress]:
        path, root = below(self._settings.imports, job.path), below(self._settings.imports, ".")
        collection = self._collections.get(job.collection)
        self._decoders = Decoders(
            self._settings.decode_workers, IMPORT_MEMORY_MB, IMPORT_FILE_S, nice=10
        )
        try:
            overlap = self._settings.overlap
            for done, total, report in build(
                self._encoder,
                collection,
                [path],
                self._decoders,
                IMPORT_BUDGET,
                overlap=overlap,
                within=root,
            ):
                if is_short(self._settings):
                    raise DiskFull(self._settings.free_disk_mb)
                yield Progress(
                    done,
                    total,
                    report.indexed,
                    report.unchanged,
                    len(report.failed),
                    listed(report.failed, root),
                    len(report.warned),
                    listed(report.warned, root),
                )
        finally:
            self._decoders.close()

    def stop(self) -> None:
        """Do not wait for the files that are being decoded."""
        if self._decoders is not None:
            self._decoders.close()


class ActiveState:
    """Who serves at present. Requests that come in while another takes over wait for it."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._serving = asyncio.Event()
        self._serving.set()
        self._in_use = 0
        self._turn = asyncio.Lock()

    async def enter(self) -> State:
        """The state, held until `leave`."""
        await self._serving.wait()
        self._in_use += 1
        return self.state

    def leave(self) -> None:
        self._in_use -= 1

    @asynccontextmanager
    async def handing_over(self) -> AsyncIterator[None]:
        """Hold new requests back, once those that are being answered have been, or have had their
        time.
        """
        async with self._turn:
            self._serving.clear()
            try:
                end = asyncio.get_running_loop().time() + DRAIN_S
                while self._in_use and asyncio.get_running_loop().time() < end:
                    await asyncio.sleep(0.01)
                yield
            finally:
                self._serving.set()


async def state(request: Request) -> State:
    """Who serves, held until the request is answered."""
    tenure: ActiveState = request.app.state.tenure
    found = await tenure.enter()
    request.scope["tercet.leave"] = tenure.leave
    return found


def leave(scope: Scope) -> None:
    """The request needs nothing more of who serves: its answer has begun, so that a long download
    holds nobody up.
    """
    if hold := scope.pop("tercet.leave", None):
        hold()


Tercet = Annotated[State, Depends(state)]
