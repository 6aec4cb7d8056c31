"""What routes work with: an encoder, its collections, and what stands between them and requests;
opened and closed as one.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from export.bundle import ANY, Manifest, NoRoute, parse_modality
from export.encoder import Encoder
from index.collection import UnknownCollection
from index.library import CONFLICTS, Collections
from index.query_bank import ensure_query_bank
from index.reserve import is_full
from index.vectors.sizing import Sizing
from index.vectors.store import VectorStoreFailed
from media.modality import MODALITY_TABLE, TEXT
from media.sandbox import Converters, Decoders
from media.text import TextSpec

from .audit import record_job
from .batching import Batcher, QueueSpec
from .conversions import Conversions
from .error_responses import error_body, status_and_code
from .exceptions import DiskFull, ShuttingDown
from .folder_import import BackgroundEncoder, FolderImport
from .jobs import Jobs
from .metrics import Metrics
from .pipeline import Pipeline
from .quotas import Quotas
from .settings import Settings
from .visible import VisibleCollections, VisibleJobs

LOG = logging.getLogger("tercet")
FAILING_BATCHES = 3  # in a row, before the encoder itself is checked
UPLOADS = "uploads"  # in the data folder
WRITERS = 2  # threads that change collections


@dataclass(kw_only=True)
class State:
    settings: Settings
    encoder: Encoder
    collections: VisibleCollections
    batcher: Batcher
    pipeline: Pipeline
    metrics: Metrics
    jobs: VisibleJobs
    decoders: Decoders
    quotas: Quotas
    conversions: Conversions
    reload_error: str = ""  # why no other state has replaced this one, which is closed
    writers: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(WRITERS, "write")
    )

    def limited_to(self, names: frozenset[str] | None) -> State:
        """The same state with the collections of these names only; None: all."""
        if names is None:
            return self
        collections = VisibleCollections(self.collections.all_of_them, names)
        jobs = VisibleJobs(self.jobs.all_of_them, collections)
        return replace(self, collections=collections, jobs=jobs)

    @property
    def uploads(self) -> Path:
        """The folder for uploads while they are read. On a full disk it is the system's own."""
        folder = self.settings.data / UPLOADS
        return Path(tempfile.gettempdir()) if self.disk_full or not folder.is_dir() else folder

    @property
    def disk_full(self) -> bool:
        """Whether nothing can be added. What is only kept for players goes first."""
        if lacks_room(self.settings):
            self.conversions.clear()
        return lacks_room(self.settings)

    def check_room(self) -> None:
        """Raises DiskFull where nothing is to be added."""
        if self.disk_full:
            raise DiskFull(self.settings.free_disk_mb)

    async def write(self, work: Callable[..., None], *args: Any) -> None:
        """Change a collection. It may wait for a snapshot, so it has threads of its own, which no
        search needs.
        """
        try:
            done = asyncio.get_running_loop().run_in_executor(self.writers, work, *args)
        except RuntimeError:  # the threads have been closed
            raise ShuttingDown from None
        await done

    async def problems(self) -> list[str]:
        """Why the service is not ready; empty when it is. What is not seen is not named."""
        stall_s = self.settings.stall_s
        found = [self.reload_error] if self.reload_error else []
        if not self.jobs.all_of_them.alive:
            found.append("the jobs have stopped")
        if self.batcher.stuck_s > stall_s:
            found.append("the encoder has not moved for a while")
        if self.pipeline.stuck_s > stall_s + self.settings.decode_max_s:
            found.append("the decoders have not moved for a while")
        doubtful = self.batcher.failing >= FAILING_BATCHES
        if doubtful and not await asyncio.to_thread(passes_check, self.encoder):
            found.append("the encoder fails")
        if self.disk_full:
            found.append("the disk is full")
        shown = self.collections.conflicts
        found += [str(conflict) for conflict in shown.values()]
        if len(shown) < len(self.collections.all_of_them.conflicts):
            found.append("not all data can be used: the log has more")
        return found

    async def close(self) -> None:
        """Give running work some time to end. Then release everything."""
        await asyncio.to_thread(self.jobs.all_of_them.close)
        await self.batcher.close()
        await asyncio.to_thread(self.conversions.close)
        await asyncio.to_thread(self.decoders.close)
        await asyncio.to_thread(self.writers.shutdown)
        await asyncio.to_thread(self.collections.all_of_them.close)


def lacks_room(settings: Settings) -> bool:
    """Whether the disk of the data folder has less free than `free_disk_mb`."""
    return shutil.disk_usage(settings.data).free < settings.free_disk_mb * 1_000_000


def passes_check(encoder: Encoder) -> bool:
    """Whether an encoder still gives the vectors that its bundle has on file."""
    try:
        encoder.check()
    except Exception:  # whatever a lost device raises
        LOG.exception("the encoder fails its check")
        return False
    return True


def queue_specs(manifest: Manifest) -> dict[str, QueueSpec]:
    """The batcher's queues: by encoding, the quickest first, what a row costs in tokens."""

    def rank(encoding: str) -> int:
        return MODALITY_TABLE[parse_modality(encoding)].queue_rank

    specs = {}
    for encoding in sorted(manifest.graphs, key=rank):
        spec = manifest.spec(encoding)
        if isinstance(spec, TextSpec):
            specs[encoding] = QueueSpec(pad=spec.pad_id)
        else:
            specs[encoding] = QueueSpec(tokens=spec.tokens)
    return specs


def new_decoders(settings: Settings) -> Decoders:
    """The decoding processes, started."""
    decoders = Decoders(
        workers=settings.decode_workers,
        memory_mb=settings.decode_memory_mb,
        max_s=settings.decode_max_s,
        hardware=settings.hardware_decoding,
    )
    decoders.warm()
    return decoders


def open_data(settings: Settings, encoder: Encoder) -> Collections:
    """The data folder, with a collection to start with. Raises CollectionError."""
    sizing = Sizing(
        kind=settings.index,
        memory_mb=settings.index_memory_mb,
        latency_ms=settings.index_latency_ms,
        milvus=settings.milvus,
    )
    manifest = encoder.manifest
    collections = Collections(settings.data, manifest.fingerprint, manifest.dims, sizing)
    try:
        try:
            # /readyz and requests for this collection report these
            with suppress(*CONFLICTS):
                collections.ensure("default")
            for collection in collections.all():
                ensure_query_bank(collection, encoder)
        except (OSError, sqlite3.OperationalError) as error:
            if not is_full(error):
                raise
            LOG.warning("the disk is full: collections can only be searched")
        for conflict in collections.conflicts.values():
            LOG.warning("%s", conflict)
    except BaseException:
        collections.close()
        raise
    return collections


def make_batcher(settings: Settings, encoder: Encoder, metrics: Metrics) -> Batcher:
    """What shares an encoder among requests, a queue for each of its encodings."""
    specs = queue_specs(encoder.manifest)
    on_cpu = settings.provider == "cpu"
    return Batcher(
        encoder.embed,
        specs,
        max_tokens=settings.batch_max_tokens,
        max_waiting=settings.queue_max_tokens,
        observe=metrics.observe_batch,
        quick=[e for e in specs if parse_modality(e) == TEXT and on_cpu],
    )


async def open_state(
    settings: Settings,
    encoder: Encoder,
    decoders: Decoders,
    metrics: Metrics,
    *,
    collections: Collections | None = None,
    quotas_before: Quotas | None = None,
) -> State:
    """Everything that serves an encoder and its collections. Collections are opened where none are
    given. Quotas go on from those of the state before.

    Closes what it was given where it fails.
    """
    async with AsyncExitStack() as undo:
        undo.callback(decoders.close)
        if collections is None:
            collections = await asyncio.to_thread(open_data, settings, encoder)
        undo.callback(collections.close)
        batcher = make_batcher(settings, encoder, metrics)
        undo.push_async_callback(batcher.close)
        quotas = Quotas(settings, quotas_before)
        pipeline = Pipeline(
            encoder=encoder,
            batcher=batcher,
            decoders=decoders,
            settings=settings,
            metrics=metrics,
            media_quota=quotas.media,
        )
        background = BackgroundEncoder(encoder, batcher, asyncio.get_running_loop())

        converters = Converters(
            workers=settings.convert_workers,
            memory_mb=settings.decode_memory_mb,
            max_s=settings.convert_max_s,
        )
        undo.callback(converters.close)

        def check_room() -> None:
            if lacks_room(settings):
                conversions.clear()
            if lacks_room(settings):
                raise DiskFull(settings.free_disk_mb)

        conversions = Conversions(settings, converters, metrics, quotas.media, check_room)

        work = FolderImport(settings, background, collections, check_room)
        jobs = Jobs(
            settings.data / "jobs", work, public_message, on_end=partial(record_job, settings.audit)
        )
        undo.pop_all()
    visible = VisibleCollections(collections)
    state = State(
        settings=settings,
        encoder=encoder,
        collections=visible,
        batcher=batcher,
        pipeline=pipeline,
        metrics=metrics,
        jobs=VisibleJobs(jobs, visible),
        decoders=decoders,
        quotas=quotas,
        conversions=conversions,
    )
    state.writers.submit(prepare_searches, collections, encoder.manifest)
    return state


def prepare_searches(collections: Collections, manifest: Manifest) -> None:
    """Measure what scores mean, which the first search by words would wait for otherwise. What
    cannot be measured is in the log, and the search that needs it says what is wrong.
    """
    try:
        routes = manifest.routes([TEXT], ANY)
    except NoRoute:
        return
    for collection in collections.all():
        try:
            with collection.hold_for_reading():
                for route in routes:
                    collection.route_stats(route.encodings[TEXT], route.target)
        except UnknownCollection:  # closed meanwhile
            continue
        except VectorStoreFailed as error:
            LOG.warning("%s: scores are not measured yet: %s", collection.name, error)
        except Exception:  # nobody waits for this, and so nobody else would tell
            LOG.exception("%s: scores could not be measured", collection.name)


def public_message(error: Exception) -> str:
    """What clients may read of an error that ended a job."""
    listed = status_and_code(type(error))[1] != "internal"
    return str(error_body(error)["message"]) if listed else "Internal error. See the log."
