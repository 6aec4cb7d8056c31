"""Batch building: files are decoded, encoded and written at the same time. A build that was
stopped goes on where it was, and every file that failed is reported.
"""

from __future__ import annotations

import errno
import tempfile
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from export.encoder import Encoder
from media.containers import Budget
from media.errors import BadMedia, DecoderFailed, DecodersClosed
from media.sandbox import Decoders, return_freed_memory

from ..collection import Collection
from ..records.item import Failure, Item, NewItem, Origin
from .content import is_other, may_be_same
from .decoding import decode_sources, decode_with_digests
from .encoding import WINDOWS, Ready, encode_items, fills_batch
from .identity import fits
from .plan import BuildOptions, BuildPlan, Report, plan_build, settle_doubtful, take_texts
from .source import Source

SOON = 4  # windows, while a core has nothing to encode
COPIED = 64  # items that are copied together


def build(
    encoder: Encoder,
    collection: Collection,
    paths: Iterable[Path],
    decoders: Decoders,
    budget: Budget,
    options: BuildOptions = BuildOptions(),
    at_once: int = 1,
) -> Generator[tuple[int, int, Report], None, None]:
    """Index what is new or changed. Yields (done, total, report so far) as it goes, and once more
    at the end. While `at_once` batches are encoded, the next files are decoded and the batch before
    is written.
    """
    plan = plan_build(collection, paths, options)
    total = plan.total
    report = plan.report
    for _ in settle_doubtful(collection, plan):
        yield plan.done, total, report
    done = plan.done
    for step in embed(encoder, collection, plan, decoders, budget, options, at_once):
        yield done + step, total, report
    done = total - len(plan.copies)
    for copied in copy_items(collection, plan):
        done += copied
        yield done, total, report
    for step in embed(encoder, collection, plan, decoders, budget, options, at_once):
        yield done + step, total, report
    yield total, total, report


def embed(
    encoder: Encoder,
    collection: Collection,
    plan: BuildPlan,
    decoders: Decoders,
    budget: Budget,
    options: BuildOptions,
    at_once: int,
) -> Iterator[int]:
    """Decode, encode and write what the plan has to do; yields how many are done."""
    if not plan.todo:
        return
    return_freed_memory()
    report = plan.report
    done = 0
    with (
        ThreadPoolExecutor(at_once) as device,
        ThreadPoolExecutor(1) as writer,
        tempfile.TemporaryDirectory() as folder,
    ):
        encoding: deque[Future[list[NewItem]]] = deque()
        writing: Future[None] | None = None

        def write() -> int:
            """Have the oldest batch written when the one before it has been; returns how many items
            it has.
            """
            nonlocal writing
            items = encoding.popleft().result()
            if writing is not None:
                writing.result()
            writing = writer.submit(collection.put, items)
            report.count_written(items, plan.catalog.ids)
            return sum(not item.partial for item in items)

        ready: list[Ready] = []
        decode = partial(
            decode_sources,
            encoder=encoder,
            decoders=decoders,
            budget=budget,
            folder=Path(folder),
            overlap=options.overlap,
            readers=options.readers,
        )
        for source, stamp, outcome in decode_with_digests(plan.todo, decode):
            if isinstance(outcome, BadMedia):
                note_failure(collection, report, source, stamp, outcome)
                done += 1
            else:
                ready.append((source, stamp, outcome))
            busy = sum(not future.done() for future in encoding)
            if fills_batch(ready, WINDOWS if busy == at_once else SOON):
                encoding.append(device.submit(encode_items, encoder, ready))
                ready = []
            if len(encoding) > at_once:
                done += write()
            yield done
        if ready:
            encoding.append(device.submit(encode_items, encoder, ready))
        while encoding:
            write()
        if writing is not None:
            writing.result()


def copy_items(collection: Collection, plan: BuildPlan) -> Iterator[int]:
    """Add the copies of what is indexed by now: items of their own, with the same vectors. Those of
    which nothing is there are left to be decoded, in `todo`. Yields how many were done.
    """
    copies = plan.copies
    plan.copies = []
    plan.todo = []
    if not copies:
        return
    known, _ = collection.sources()
    originals: dict[str, list[tuple[str, str]]] = {}
    for id, item in known.items():
        if item.digest and item.origin == Origin.FILE and item.partial is None:
            originals.setdefault(item.digest, []).append((id, item.stamp))
    made: list[NewItem] = []
    for source, stamp, digest in copies:
        fitting = [id for id, was in originals.get(digest, []) if fits(was, stamp, told=False)]
        copied = collection.copy_media(fitting[0]) if fitting else None
        if copied is None:
            plan.todo.append((take_texts(collection, source), stamp))
            continue
        made.append(
            replace(
                copied,
                id=source.id,
                filename=source.filename,
                origin=source.origin,
                source=source.file,
                stamp=stamp,
                digest=digest,
                root=source.root,
                mount=source.mount,
                metadata=copied.metadata | source.metadata,
                keep_edits=source.keep_edits,
            )
        )
        if len(made) >= COPIED:
            yield write_copies(collection, plan, made)
            made = []
    yield write_copies(collection, plan, made)


def write_copies(collection: Collection, plan: BuildPlan, made: list[NewItem]) -> int:
    collection.put(made)
    plan.report.count_written(made, plan.catalog.ids)
    plan.report.copied += len(made)
    return len(made)


def note_failure(
    collection: Collection, report: Report, source: Source, stamp: str, fault: BadMedia
) -> None:
    """Report and store what is wrong with a source. An item that was made from another content of
    its file is deleted.
    """
    report.failed[source.name] = str(fault)
    if isinstance(fault, DecodersClosed):
        return
    item = collection.find(source.id)
    if (
        item is not None
        and item.origin == source.origin
        and item.source == source.file
        and was_replaced(item, source, stamp, fault)
    ):
        collection.delete(source.id)
    # that may have been the machine's fault, or the file could not be read: try again next time
    if isinstance(fault, DecoderFailed) or (source.path is not None and not source.digest):
        stamp = ""
    failure = Failure(
        stamp=stamp,
        reason=str(fault),
        name=source.name,
        source=str(source.path or ""),
        digest=source.digest or None,
    )
    collection.note_failure(source.id, failure)


def was_replaced(item: Item, source: Source, stamp: str, fault: BadMedia) -> bool:
    """Whether an item's file exists and surely has another content now."""
    was = item.stamp or ""
    if is_other(was, stamp):
        return True
    if not source.digest:  # it is missing, or cannot be read at the moment
        return False
    if item.digest:
        return source.digest != item.digest
    return may_be_same(was, stamp) and not isinstance(fault, DecoderFailed)


def is_gone(file: str) -> bool:
    """Whether nothing is there; False where that cannot be told."""
    try:
        Path(file).stat()
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
    return False


def list_failures(collection: Collection) -> dict[str, str]:
    """Why files could not be indexed, in this build or an earlier one, by their names. Failures of
    files that no longer exist, or were indexed under another id, are forgotten.
    """
    known, failures = collection.sources()
    indexed = {item.source for id, item in known.items() if id not in failures}
    standing: dict[str, str] = {}
    settled: list[str] = []
    for id, failure in failures.items():
        if not failure.source or failure.name is None:
            continue
        if is_gone(failure.source) or (
            failure.name == failure.source and failure.source in indexed
        ):
            settled.append(id)
        else:
            standing[failure.name] = failure.reason
    if settled:
        collection.forget_failures(settled)
    return standing
