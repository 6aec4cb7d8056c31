"""Batch building: files are decoded, encoded and written at the same time. A build that was
stopped goes on where it was, and every file that failed is reported.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections import Counter, deque
from collections.abc import Container, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from export.bundle import parse_modality
from export.encoder import Encoder
from media.containers import Budget
from media.errors import BadMedia, DecoderFailed, DecodersClosed, NotMedia
from media.films import WHOLE_S, Survey
from media.manifest import Member, Row, read_manifest, read_shard
from media.readers import NO_READERS, WordReaders
from media.sandbox import Decoders, return_freed_memory
from media.subtitles import Sidecars
from media.text import list_warnings, pad_tokens
from media.windows import DecodeOptions, Media, WordOptions

from ..collection import Collection
from ..records.database import Failure, Item, KnownSource, NewItem, Origin
from .content import Stamp, hash_content, is_other, may_be_same
from .identity import Catalog, Unsettled, fits
from .items import media_item
from .names import make_id, make_printable
from .passages import add_passages, read_passages
from .source import Source, hash_description
from .walk import OTHER, TEXT, find_mount, walk

AHEAD = 16  # files being decoded or waiting to be encoded
AHEAD_BYTES = 256_000_000  # of memory that the decoded ones may take
WINDOWS = 32  # encoded and written together
SOON = 4  # windows, while a core has nothing to encode
READERS = 2  # threads that read files whose content is in doubt
RESTAMPED = 256  # items whose new stamps are written together
COPIED = 64  # items that are copied together
FOLDER = "folder"  # in place of the stamp, of a failure that is a folder's


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What a build reads, and how."""

    overlap: float = 0.0  # the share of each window that the next one covers too
    retry: bool = False  # what failed before is tried again
    check: bool = False  # files whose size and time have not changed are read, too
    readers: WordReaders = NO_READERS  # of words in sound and pictures
    # Nothing outside this folder is read, whatever links and manifests say, and the ids of files
    # are their paths in it.
    within: Path | None = None
    # of folders, only these files, and what lies below these folders
    only: frozenset[Path] | None = None


@dataclass
class Report:
    """What a build did. `indexed` counts those that were `copied` or `changed`, and `unchanged`
    those that were `moved`.
    """

    indexed: int = 0
    unchanged: int = 0
    moved: int = 0  # items whose file or shard has another path now
    copied: int = 0  # new items whose vectors are those of an item with the same content
    changed: int = 0  # items that replaced one of their id
    ignored: int = 0
    left_out: dict[str, int] = field(default_factory=dict)  # files and folders, by kind
    failed: dict[str, str] = field(default_factory=dict)
    # by id: what was indexed, though some of its words are not known, say
    warned: dict[str, str] = field(default_factory=dict)
    rewritten: int = 0  # files of other content that kept size and time; counted where checked

    def count_written(self, items: list[NewItem], known: Container[str] = ()) -> None:
        whole = [item for item in items if not item.partial]
        self.indexed += len(whole)
        self.changed += sum(item.id in known for item in whole)
        self.warned |= {item.id: "; ".join(item.warnings) for item in items if item.warnings}


@dataclass(kw_only=True)
class BuildPlan:
    """What a build has to do, as sources with their stamps. Those in `doubtful` must be read: their
    content tells whether they are what the item, or the failure, was made from.
    """

    total: int
    report: Report
    catalog: Catalog
    todo: list[tuple[Source, str]] = field(default_factory=list)
    # None of a source that may be a file that was moved, or a copy
    doubtful: deque[tuple[Source, str, KnownSource | Failure | None]] = field(default_factory=deque)
    unsettled: list[Unsettled] = field(default_factory=list)
    copies: list[Unsettled] = field(default_factory=list)
    places: dict[str, KnownSource] = field(default_factory=dict)  # by id, to be noted
    present: set[str] = field(default_factory=set)  # ids of items whose files are as they were

    @property
    def done(self) -> int:
        left = len(self.todo) + len(self.doubtful) + len(self.unsettled) + len(self.copies)
        return self.total - left


Decoded = tuple[Source, str, Media | BadMedia]  # with the stamp from before it was read
Decodable = Media | Survey | BadMedia  # what a decoder gives
Ready = tuple[Source, str, Media]  # to be encoded


def hash_files(paths: Iterable[Path]) -> str:
    """Eight hex digits that change with the suffix, size or time of one of the files."""
    described = json.dumps([describe_file(path) for path in paths]).encode()
    return hashlib.sha256(described).hexdigest()[:8]


def describe_file(path: Path) -> list[str | int]:
    """A file's suffix, size and time; its suffix alone where it is missing."""
    try:
        stat = path.stat()
    except OSError:
        return [path.suffix]
    return [path.suffix, stat.st_size, stat.st_mtime_ns]


@dataclass
class Discovery:
    """What there is to index, and what was met beside it. `folders` are those that were walked."""

    sources: list[Source] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def ignored(self) -> int:
        """How many files are not media."""
        return sum(n for kind, n in self.left_out.items() if kind.startswith((OTHER, TEXT)))


def find_sources(
    paths: Iterable[Path], within: Path | None = None, only: frozenset[Path] | None = None
) -> Discovery:
    """Everything to index in the given folders, files, manifests and tar shards. A file's id is its
    path from the parent of the given path, or from the folder `within`. See `BuildOptions.only`.

    Raises:
        FileNotFoundError: a path that does not exist.
        BadManifest: see `read_manifest` and `read_shard`.
    """
    discovery = Discovery()
    found = discovery.sources
    mount_of = lru_cache(maxsize=None)(find_mount)
    for path in paths:
        base = within or path.resolve().parent
        if path.is_dir():
            walked = walk(path, within, only)
            root = path.resolve()
            discovery.folders.append(root)
            discovery.failed |= walked.failed
            discovery.left_out += walked.left_out
            for file in walked.files:
                found.append(
                    Source(
                        id=make_id(file.path.relative_to(base).as_posix()),
                        path=file.real,
                        root=str(root),
                        mount=mount_of(file.real.parent),
                    )
                )
        elif not path.exists():
            raise FileNotFoundError(f"{make_printable(str(path))} does not exist")
        elif path.suffix == ".jsonl":
            for row in read_manifest(path):
                file_path = row.path and row.path.resolve()
                found.append(
                    Source(
                        id=row.id,
                        path=file_path,
                        metadata=row.metadata,
                        texts=list_captions(row),
                        named=row.path is None or row.path != path.parent / row.id,
                        told=True,
                        root=str(path.resolve().parent),
                        mount=None if file_path is None else mount_of(file_path.parent),
                    )
                )
        elif path.suffix == ".tar":
            for row, member in read_shard(path):
                texts = list_captions(row)
                found.append(
                    Source(
                        id=row.id,
                        path=path.resolve(),
                        metadata=row.metadata,
                        texts=texts,
                        member=member,
                        named=True,
                        told=True,
                        root=str(path.resolve().parent),
                        mount=mount_of(path.resolve().parent),
                    )
                )
        else:
            shown = path.parent.resolve() / path.name
            real = path.resolve()
            found.append(
                Source(
                    id=make_id(shown.relative_to(base).as_posix()),
                    path=real,
                    root=str(shown.parent),
                    mount=mount_of(real.parent),
                )
            )
    return discovery


def list_captions(row: Row) -> tuple[str, ...]:
    """A row's captions, each as one line: people are shown an item's texts a line each."""
    lines = (" ".join(caption.text.splitlines()).strip() for caption in row.captions)
    return tuple(line for line in lines if line)


def keep_distinct(found: list[Source], report: Report) -> Iterator[Source]:
    """The sources whose ids are their own; where an id was given twice, the second is reported as
    failed. A file that is found twice is one source.
    """
    taken: dict[str, Source] = {}
    files: set[str] = set()
    for source in found:
        if not source.named and source.file is not None:
            if source.file not in files:
                files.add(source.file)
                yield source
        elif source.id not in taken:
            taken[source.id] = source
            yield source
        elif taken[source.id] != source:
            name = make_printable(f"{source.path} ({source.id})")
            report.failed[name] = "its id is taken by another file"


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
        for source, stamp, outcome in decode_with_digests(
            plan.todo,
            encoder,
            decoders,
            budget,
            folder=Path(folder),
            overlap=options.overlap,
            readers=options.readers,
        ):
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


def fills_batch(ready: list[Ready], windows: int = WINDOWS) -> bool:
    """Whether there are so many windows to encode; words alone count as one."""
    return sum(max(len(media.windows), 1) for _, _, media in ready) >= windows


def plan_build(collection: Collection, paths: Iterable[Path], options: BuildOptions) -> BuildPlan:
    """Compare the sources that there are with what is known of earlier builds."""
    within = options.within
    discovery = find_sources(paths, within, options.only)
    report = Report(ignored=discovery.ignored, left_out=dict(sorted(discovery.left_out.items())))
    known, failures = collection.sources()
    catalog = Catalog(known, failures, collection.ids(), None if within is None else str(within))
    found = list(keep_distinct(discovery.sources, report))
    catalog.reserve(found)
    note_folders(collection, discovery, report, failures, whole=options.only is None)
    plan = BuildPlan(total=len(found) + len(report.failed), report=report, catalog=catalog)
    unknown: list[tuple[Source, str]] = []
    sidecars = Sidecars()
    for source in found:
        source = replace(source, sidecars=find_sidecars(source, sidecars, within))
        if within and source.path and not source.path.is_relative_to(within):
            report.failed[source.id] = "it is outside the folder"
            continue
        source = take_about(catalog.name(source), known)
        stamp = source.stamp
        if options.overlap:
            stamp += f":{options.overlap}"
        if options.readers.stamp:
            stamp += f":{options.readers.stamp}"
        if source.sidecars:
            stamp += f":{hash_files(source.sidecars)}"
        item = known.get(source.id)
        failure = failures.get(source.id)
        here = item is not None and item.source == source.file
        if here and item is not None and item.stamp == stamp and item.partial is not None:
            unknown.append((replace(source, resume=item.partial), stamp))
        elif here and item is not None and item.stamp == stamp:
            if options.check and source.path is not None:
                plan.doubtful.append((source, stamp, item))
            else:
                report.unchanged += 1
                plan.present.add(source.id)
                note_place(plan, source, stamp, item.digest)
        elif (
            failure is not None
            and failure.name
            and failure.stamp == stamp
            and not (options.retry or options.check)
        ):
            report.failed[source.name] = failure.reason
        elif (
            failure is not None
            and failure.digest
            and may_be_same(failure.stamp, stamp)
            and not options.retry
        ):
            plan.doubtful.append((source, stamp, failure))
        elif item is not None and item.digest and may_be_same(item.stamp, stamp):
            plan.doubtful.append((source, stamp, item))
        else:
            unknown.append((source, stamp))
    sizes = catalog.may_know(unknown)
    for source, stamp in unknown:
        parts = Stamp.read(stamp)
        if parts is not None and source.member is None and parts.size in sizes:
            plan.doubtful.append((source, stamp, None))
        else:
            plan.unsettled.append((source, stamp, ""))
    return plan


def take_about(source: Source, known: dict[str, KnownSource]) -> Source:
    """A source whose texts and metadata nobody tells, with what its item says of them."""
    item = known.get(source.id)
    if source.told or item is None:
        return source
    stamp = Stamp.read(item.stamp)
    if stamp is None or stamp.description == hash_description(source.texts, source.metadata):
        return source
    return replace(source, about=stamp.description)


def take_texts(collection: Collection, source: Source) -> Source:
    """A source whose texts and metadata nobody tells, with those of its item."""
    item = collection.find(source.id) if source.about else None
    if item is None:
        return source
    return replace(source, texts=item.texts, metadata=item.metadata)


def note_place(plan: BuildPlan, source: Source, stamp: str, digest: str | None) -> None:
    """Have it noted where the file of an item lies, if that is not what is known."""
    place = source.place(stamp, digest)
    if place != plan.catalog.known[source.id]:
        plan.places[source.id] = place


def note_folders(
    collection: Collection,
    discovery: Discovery,
    report: Report,
    failures: dict[str, Failure],
    whole: bool,
) -> None:
    """Report and store which folders could not be read. Those of earlier builds that could be read
    now are forgotten, where the `whole` of a folder was walked.
    """
    failed = {str(path) for path in discovery.failed}
    for path, reason in discovery.failed.items():
        name = make_printable(str(path))
        report.failed[name] = reason
        failure = Failure(stamp=FOLDER, reason=reason, name=name, source=str(path))
        collection.note_failure(f"{make_id(str(path))}/", failure)
    settled = [
        id
        for id, failure in failures.items()
        if failure.stamp == FOLDER
        and failure.source not in failed
        and any(Path(failure.source or "").is_relative_to(root) for root in discovery.folders)
    ]
    if settled and whole:
        collection.forget_failures(settled)


def find_sidecars(source: Source, sidecars: Sidecars, within: Path | None) -> tuple[Path, ...]:
    """The files of subtitles beside a source's file; those that lead out of `within` are left
    out.
    """
    if source.path is None or source.member is not None:
        return ()
    found = [path.resolve() for path in sidecars.beside(source.path)]
    return tuple(path for path in found if within is None or path.is_relative_to(within))


def settle_doubtful(collection: Collection, plan: BuildPlan) -> Iterator[None]:
    """Read the doubtful sources. Those of known content get the stamp and place they have now; the
    others are added to what is to be decoded or copied. Yields as it goes, and once more at the
    end.
    """
    readers = ThreadPoolExecutor(READERS)
    report = plan.report
    try:
        doubtful = [source for source, _, _ in plan.doubtful]
        digests = readers.map(lambda source: hash_content(source.path, source.member), doubtful)
        for digest in digests:
            source, stamp, known = plan.doubtful.popleft()
            if known is None:
                plan.unsettled.append((source, stamp, digest))
            elif not digest or digest != (known.digest or digest):
                report.rewritten += stamp == known.stamp
                plan.unsettled.append((source, stamp, digest))
            elif isinstance(known, KnownSource):
                report.unchanged += 1
                report.moved += known.source != source.file
                plan.present.add(source.id)
                note_place(plan, source, stamp, digest)
            else:
                report.failed[source.name] = known.reason
                collection.note_failure(source.id, known._replace(stamp=stamp, digest=digest))
            if len(plan.places) >= RESTAMPED:
                collection.relocate(plan.places)
                plan.places = {}
            yield
        moved, todo, plan.copies = plan.catalog.settle(plan.unsettled, plan.present)
        plan.unsettled = []
        plan.todo = [(take_texts(collection, source), stamp) for source, stamp, _ in todo]
        plan.places |= moved
        report.unchanged += len(moved)
        report.moved += len(moved)
        if plan.places:
            collection.relocate(plan.places)
            plan.places = {}
        yield
    finally:
        readers.shutdown(cancel_futures=True)


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
        copied = collection.copy_item(fitting[0]) if fitting else None
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
    # that may have been the machine's fault: try again next time
    if isinstance(fault, DecoderFailed):
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
        if not Path(failure.source).exists() or (
            failure.name == failure.source and failure.source in indexed
        ):
            settled.append(id)
        else:
            standing[failure.name] = failure.reason
    if settled:
        collection.forget_failures(settled)
    return standing


def decode_with_digests(
    todo: list[tuple[Source, str]],
    encoder: Encoder,
    decoders: Decoders,
    budget: Budget,
    *,
    folder: Path,
    overlap: float = 0.0,
    readers: WordReaders = NO_READERS,
) -> Iterator[Decoded]:
    """As `decode_sources`; the sources get the hashes of their contents, computed meanwhile."""
    digests: deque[Future[str]] = deque()
    digest = ""
    begun: Source | None = None  # a long file, of which parts have come
    reader = ThreadPoolExecutor(1)

    def read_along() -> Iterator[tuple[Source, str]]:
        for source, stamp in todo:
            digests.append(reader.submit(hash_content, source.path, source.member))
            yield source, stamp

    try:
        for source, stamp, outcome in decode_sources(
            read_along(),
            encoder,
            decoders,
            budget,
            folder=folder,
            overlap=overlap,
            readers=readers,
        ):
            if source is not begun:
                digest = digests.popleft().result()
            begun = source
            if not stamp.startswith(source.stamp):
                digest = ""  # it has changed, and the two may have read different contents
            yield replace(source, digest=digest), stamp, outcome
    finally:
        reader.shutdown(cancel_futures=True)


def decode_sources(
    todo: Iterable[tuple[Source, str]],
    encoder: Encoder,
    decoders: Decoders,
    budget: Budget,
    *,
    folder: Path,
    overlap: float = 0.0,
    readers: WordReaders = NO_READERS,
) -> Iterator[Decoded]:
    """Decode in order, some files ahead. Members of shards are extracted into `folder` for that
    time.
    """
    queue: deque[tuple[Source, str, Future[Decodable] | None, Path | None]] = deque()
    rest = iter(todo)
    options = DecodeOptions(
        specs=encoder.manifest.inputs,
        budget=budget,
        overlap_share=overlap,
        previews=True,
        whole_s=WHOLE_S if budget.seconds == math.inf else math.inf,
    )

    def choose(source: Source) -> DecodeOptions:
        words = None if source.passages else WordOptions(sidecars=source.sidecars, readers=readers)
        return replace(options, words=words)

    def start(source: Source) -> tuple[Future[Decodable] | None, Path | None]:
        """A source's media to come, None of words alone; and the file made for a member."""
        if source.path is None:
            return None, None
        path = source.path
        extracted: Path | None = None
        fault: BadMedia | None = None
        if source.member is not None:
            name = hashlib.sha256(source.id.encode()).hexdigest() + source.member.suffix
            path = extracted = folder / name
            fault = extract_member(source.path, source.member, extracted)
        if fault is None and path != path.resolve():
            fault = NotMedia("a link has taken its place")
        if fault is not None:
            failed: Future[Decodable] = Future()
            failed.set_result(fault)
            return failed, extracted
        return decoders.start(path, choose(source)), extracted

    def fill() -> None:
        held = sum(decoded_bytes(future) for _, _, future, _ in queue)
        while len(queue) < AHEAD and held < AHEAD_BYTES:
            following = next(rest, None)
            if following is None:
                return
            source, stamp = following
            queue.append((source, stamp, *start(source)))

    fill()
    while queue:
        source, stamp, future, extracted = queue.popleft()
        try:
            media = (
                decoders.finish_or_survey(future)
                if future is not None
                else Media(duration_s=0.0, windows=[], parts={})
            )
            if source.texts:
                # so that words that cannot be read fail alone, and not with their batch
                for encoding in encoder.manifest.encodings("text"):
                    encoder.read(list(source.texts), encoding)
            if isinstance(media, Survey):
                path = extracted or source.path
                assert path is not None
                for part in decoders.parts(path, choose(source), media, source.resume):
                    yield source, stamp, part
            else:
                yield source, stamp, media
        except BadMedia as fault:
            yield source, stamp, fault
        if extracted is not None:
            extracted.unlink(missing_ok=True)
        fill()


def extract_member(shard: Path, member: Member, target: Path) -> BadMedia | None:
    """Write a shard's member to a file of its own; returns what is wrong if that fails."""
    try:
        data = member.read(shard)
        target.write_bytes(data)
    except OSError as error:
        target.unlink(missing_ok=True)
        return DecoderFailed(f"it could not be read from its shard ({error.strerror})")
    return None if len(data) == member.size else DecoderFailed("its shard ends before it does")


def decoded_bytes(future: Future[Decodable] | None) -> int:
    """Bytes of memory that a decoded file takes; 0 while it is not decoded."""
    if future is None or not future.done() or future.cancelled() or future.exception() is not None:
        return 0
    outcome = future.result()
    if isinstance(outcome, Survey):
        return outcome.nbytes
    if not isinstance(outcome, Media):
        return 0
    return sum(part.array.nbytes for part in outcome.parts.values())


def encode_items(encoder: Encoder, ready: list[Ready]) -> list[NewItem]:
    """Decoded sources as items with their vectors, encoded in batches by modality."""
    vectors = encode_all(encoder, [media for _, _, media in ready])
    items = []
    for (source, stamp, media), item_vectors in zip(ready, vectors, strict=True):
        item = media_item(
            source.id,
            media,
            item_vectors,
            metadata=source.metadata,
            filename=source.filename,
            origin=source.origin,
            source=source.file,
            stamp=stamp,
            digest=(source.digest or None) if media.last else None,
            root=source.root,
            mount=source.mount,
            texts=source.texts,
            first_window=media.first_window,
            partial=not media.last,
        )
        item = add_text_windows(item, source, encoder)
        passages = source.passages or media.passages
        words = read_passages(encoder, passages)
        rows = {e: (which, embed_rows(encoder, e, ids)) for e, (which, ids) in words.items()}
        items.append(add_passages(item, passages, rows))
    return items


def add_text_windows(item: NewItem, source: Source, encoder: Encoder) -> NewItem:
    """An item with windows for the texts of its source; each is about the whole item."""
    if not source.texts or item.partial:
        return item
    words = read_words(encoder, list(source.texts))
    first = len(item.windows)
    vectors = dict(item.vectors)
    for encoding, (which, rows) in words.rows.items():
        windows = [first + window for window in which]
        vectors[encoding] = windows, embed_rows(encoder, encoding, rows)
    return replace(
        item,
        kind="text" if source.path is None else item.kind,
        windows=item.windows + [(0.0, item.duration_s)] * words.windows,
        vectors=vectors,
        warnings=words.warnings,
    )


@dataclass(frozen=True)
class Words:
    """An item's texts as windows, one or more for each text."""

    windows: int  # how many there are
    # by encoding: which windows have words that it knows, and the token ids of these
    rows: dict[str, tuple[list[int], list[list[int]]]]
    warnings: tuple[str, ...]  # for whoever adds the item


def read_words(encoder: Encoder, texts: list[str]) -> Words:
    """Read texts by every text encoding of the bundle. A text of unknown words only is not encoded:
    its vector would equal that of every other such text. Raises BadText.
    """
    encodings = encoder.manifest.encodings("text") if texts else []
    readings = {encoding: encoder.read(texts, encoding) for encoding in encodings}
    rows: dict[str, tuple[list[int], list[list[int]]]] = {}
    windows = 0
    for i in range(len(texts)):
        for encoding, found in readings.items():
            if found[i].known:
                which, ids = rows.setdefault(encoding, ([], []))
                which += range(windows, windows + len(found[i].rows))
                ids += found[i].rows
        windows += max((len(found[i].rows) for found in readings.values()), default=1)
    several = len(texts) > 1
    warnings: list[str] = []
    for found in readings.values():
        warnings += list_warnings(dict(enumerate(found)), several, cut=False)
    return Words(windows, rows, tuple(dict.fromkeys(warnings)))


def embed_rows(encoder: Encoder, encoding: str, rows: list[list[int]]) -> np.ndarray[Any, Any]:
    """Unit vectors [n, dim] of n rows of token ids."""
    spec = encoder.manifest.tokenizers[encoding].spec
    parts = [pad_tokens(rows[at : at + WINDOWS], spec) for at in range(0, len(rows), WINDOWS)]
    return np.concatenate([encoder.embed(encoding, part) for part in parts])


def encode_all(
    encoder: Encoder, items: list[Media]
) -> list[dict[str, tuple[list[int], np.ndarray[Any, Any]]]]:
    """For each item, by encoding, (which windows, vectors [n, dim]). Each modality of all items is
    encoded in batches.
    """
    out: list[dict[str, tuple[list[int], np.ndarray[Any, Any]]]] = [{} for _ in items]
    for encoding in encoder.manifest.graphs:
        modality = parse_modality(encoding)
        having = [
            (position, item.parts[modality])
            for position, item in enumerate(items)
            if modality in item.parts and item.parts[modality].windows
        ]
        if not having:
            continue
        arrays = np.concatenate([part.array for _, part in having])
        fresh = find_fresh(arrays)
        distinct = arrays[fresh]
        starts = range(0, len(distinct), WINDOWS)
        batches = [encoder.embed(encoding, distinct[at : at + WINDOWS]) for at in starts]
        vectors = np.concatenate(batches)[np.cumsum(fresh) - 1]
        first = 0
        for position, part in having:
            end = first + len(part.windows)
            out[position][encoding] = part.windows, vectors[first:end]
            first = end
    return out


def find_fresh(arrays: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Which of the arrays [n, ...] differ from the one before. Neighbouring windows of a film often
    have the same keyframe, and are encoded once.

    >>> find_fresh(np.array([[1, 2], [1, 2], [1, 3]])).tolist()
    [True, False, True]
    """
    fresh = np.ones(len(arrays), bool)
    for n in range(1, len(arrays)):
        fresh[n] = not np.array_equal(arrays[n], arrays[n - 1])
    return fresh
