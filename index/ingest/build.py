"""Batch building: read, decode, encode, write, all at once. Resumes where it stopped; names every
file that failed.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from export.bundle import modality_of
from export.encoder import Encoder
from media.containers import MEDIA, Budget
from media.errors import BadMedia, DecoderFailed, DecodersClosed, NotMedia
from media.manifest import Member, Row, check_string, read_manifest, read_shard
from media.sandbox import Decoders
from media.text import list_warnings, pad_tokens
from media.windows import Media

from ..collection import Collection
from ..records.database import Failure, Item, KnownSource, NewItem, Origin
from .content import digest_of, is_other, may_be_same
from .items import media_item

AHEAD = 16  # files being decoded or waiting to be encoded, and
AHEAD_BYTES = 256_000_000  # what those that are decoded may hold
WINDOWS = 32  # windows encoded and committed together
READERS = 2  # threads that read files whose content is in doubt
RESTAMPED = 256  # items whose new times are written together


@dataclass(frozen=True)
class Source:
    """One thing to index: a file, one inside a tar shard, or
    words alone; and what is said of it.
    """

    id: str
    path: Path | None
    metadata: dict[str, Any] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    member: Member | None = None
    digest: str = ""  # the sum of its content, once that has been read

    @property
    def name(self) -> str:
        """As people know it."""
        return (
            self.id
            if self.path is None
            else f"{self.path} ({self.id})"
            if self.member
            else str(self.path)
        )

    @property
    def origin(self) -> Origin:
        if self.path is None:
            return Origin.LINE
        return Origin.FILE if self.member is None else Origin.MEMBER

    @property
    def file(self) -> str | None:
        """The path of its file, or of its shard; None of words alone."""
        return None if self.path is None else str(self.path)

    @property
    def stamp(self) -> str:
        """Changes when the file or what is said of it does."""
        said = hash_of(self.texts, self.metadata)
        if self.path is None:
            return said
        try:
            stat = self.path.stat()
        except OSError:
            return "missing"
        return (
            f"{stat.st_size}:{stat.st_mtime_ns}:{self.member.offset if self.member else ''}:{said}"
        )


@dataclass
class Report:
    """What a build did."""

    indexed: int = 0
    unchanged: int = 0
    ignored: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    # by id, what was indexed but not understood
    warned: dict[str, str] = field(default_factory=dict)
    rewritten: int = 0  # other content in the size and time that a file had, where that was checked

    def wrote(self, items: list[NewItem]) -> None:
        self.indexed += len(items)
        self.warned |= {item.id: "; ".join(item.warnings) for item in items if item.warnings}


@dataclass
class BuildPlan:
    """What a build has to do. Of sources in `doubtful`, with their stamps, the content tells:
    whether it is that of the item, or of the failure, that is known.
    """

    total: int
    report: Report
    todo: list[tuple[Source, str]] = field(default_factory=list)
    doubtful: deque[tuple[Source, str, KnownSource | Failure]] = field(default_factory=deque)

    @property
    def done(self) -> int:
        return self.total - len(self.todo) - len(self.doubtful)


Decoded = tuple[Source, str, Media | BadMedia]  # and its stamp, from before it was read


def hash_of(texts: tuple[str, ...], metadata: dict[str, Any]) -> str:
    said = json.dumps([texts, metadata], sort_keys=True).encode()
    return hashlib.sha256(said).hexdigest()[:8]


def sources(paths: Iterable[Path], within: Path | None = None) -> tuple[list[Source], int]:
    """Everything to index in the given folders, files, manifests and tar shards, and how many other
    files there were. A file's id is its path from the parent of what was given, or from the folder
    `within`.

    Raises:
        FileNotFoundError: a path that does not exist.
        BadManifest: see `read_manifest` and `read_shard`.
    """
    found: list[Source] = []
    ignored = 0
    for path in paths:
        base = within or path.resolve().parent
        if path.is_dir():
            for file in sorted(
                p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")
            ):
                if file.suffix.lower() in MEDIA:
                    id = (path.resolve() / file.relative_to(path)).relative_to(base).as_posix()
                    found.append(Source(id, file.resolve()))
                else:
                    ignored += 1
        elif not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        elif path.suffix == ".jsonl":
            for row in read_manifest(path):
                texts = one_line(row)
                found.append(
                    Source(
                        id=row.id,
                        path=row.path and row.path.resolve(),
                        metadata=row.metadata,
                        texts=texts,
                    )
                )
        elif path.suffix == ".tar":
            for row, member in read_shard(path):
                texts = one_line(row)
                found.append(
                    Source(
                        id=row.id,
                        path=path.resolve(),
                        metadata=row.metadata,
                        texts=texts,
                        member=member,
                    )
                )
        else:
            found.append(
                Source(
                    (path.resolve().parent / path.name).relative_to(base).as_posix(), path.resolve()
                )
            )
    return found, ignored


def one_line(row: Row) -> tuple[str, ...]:
    """A row's captions, each as one line: people are shown an item's texts a line each."""
    lines = (" ".join(caption.text.splitlines()).strip() for caption in row.captions)
    return tuple(line for line in lines if line)


def distinct(found: list[Source], report: Report) -> Iterator[Source]:
    """The sources that can be told apart and stored; the others are reported as failed."""
    taken: dict[str, Source] = {}
    for source in found:
        try:
            check_string(source.id)
            check_string(str(source.path))
        except ValueError:
            report.failed[ascii(source.name)] = "its name is not UTF-8"
            continue
        if source.id not in taken:
            taken[source.id] = source
            yield source
        elif taken[source.id] != source:
            report.failed[f"{source.path} ({source.id})"] = "its id is taken by another"


def build(
    encoder: Encoder,
    collection: Collection,
    paths: Iterable[Path],
    decoders: Decoders,
    budget: Budget,
    retry: bool = False,
    overlap: float = 0.0,
    within: Path | None = None,
    at_once: int = 1,
    check: bool = False,
) -> Iterator[tuple[int, int, Report]]:
    """Index what is new or changed, and what failed before where `retry`, each window lying on a
    share `overlap` of the one before; yields (done, total, report so far) as it goes, and once more
    at the end. While batches are encoded, so many `at_once`, the next files are decoded and the
    last batch is written. Where there is a folder `within`, nothing outside of it is read, whatever
    links and manifests say, and files go by their path in it. To `check` is to read every file
    whose size and time are those it had, too.
    """
    plan = plan_build(collection, paths, retry, overlap, within, check)
    total, report = plan.total, plan.report
    for _ in settle_doubtful(collection, plan):
        yield plan.done, total, report
    done, todo = plan.done, plan.todo
    with (
        ThreadPoolExecutor(at_once) as device,
        ThreadPoolExecutor(1) as writer,
        tempfile.TemporaryDirectory() as place,
    ):
        encoding: deque[Future[list[NewItem]]] = deque()
        writing: Future[None] | None = None

        def write() -> int:
            """Have the oldest batch written once the one before it has
            been; how many items it has.
            """
            nonlocal writing
            items = encoding.popleft().result()
            if writing is not None:
                writing.result()
            writing = writer.submit(collection.put, items)
            report.wrote(items)
            return len(items)

        ready: list[tuple[Source, str, Media]] = []
        for source, stamp, outcome in decode_with_digests(
            todo, encoder, decoders, budget, Path(place), overlap
        ):
            if isinstance(outcome, BadMedia):
                note_failure(collection, report, source, stamp, outcome)
                done += 1
            else:
                ready.append((source, stamp, outcome))
            if sum(max(len(media.windows), 1) for _, _, media in ready) >= WINDOWS:
                encoding.append(device.submit(encoded, encoder, ready))
                ready = []
            if len(encoding) > at_once:
                done += write()
            yield done, total, report
        if ready:
            encoding.append(device.submit(encoded, encoder, ready))
        while encoding:
            write()
        if writing is not None:
            writing.result()
    yield total, total, report


def plan_build(
    collection: Collection,
    paths: Iterable[Path],
    retry: bool,
    overlap: float,
    within: Path | None = None,
    check: bool = False,
) -> BuildPlan:
    """What is to be done with the sources that there are, by what is known of them."""
    found, ignored = sources(paths, within)
    report = Report(ignored=ignored)
    plan = BuildPlan(total=len(found), report=report)
    known, failures = collection.sources()
    for source in distinct(found, report):
        if within and source.path and not source.path.is_relative_to(within):
            report.failed[source.id] = "it lies outside of the folder"
            continue
        stamp = f"{source.stamp}:{overlap}" if overlap else source.stamp
        item, failure = known.get(source.id), failures.get(source.id)
        if item is not None and item.source != source.file:
            item = None
        if item is not None and item.stamp == stamp:
            if check and source.path is not None:
                plan.doubtful.append((source, stamp, item))
            else:
                report.unchanged += 1
        elif (
            failure is not None and failure.name and failure.stamp == stamp and not (retry or check)
        ):
            report.failed[source.name] = failure.reason
        elif (
            failure is not None
            and failure.digest
            and may_be_same(failure.stamp, stamp)
            and not retry
        ):
            plan.doubtful.append((source, stamp, failure))
        elif item is not None and item.digest and may_be_same(item.stamp, stamp):
            plan.doubtful.append((source, stamp, item))
        else:
            plan.todo.append((source, stamp))
    return plan


def settle_doubtful(collection: Collection, plan: BuildPlan) -> Iterator[None]:
    """Read what is doubtful: what has the content that is known goes by the time it has now, the
    rest is to be done. Yields as it goes, and once more at the end.
    """
    readers, stamps = ThreadPoolExecutor(READERS), dict[str, tuple[str, str]]()
    try:
        sums = readers.map(lambda doubt: digest_of(doubt[0].path, doubt[0].member), plan.doubtful)
        for digest in sums:
            source, stamp, known = plan.doubtful.popleft()
            if not digest or digest != (known.digest or digest):
                plan.report.rewritten += stamp == known.stamp
                plan.todo.append((source, stamp))
            elif isinstance(known, KnownSource):
                plan.report.unchanged += 1
                if (stamp, digest) != (known.stamp, known.digest):
                    stamps[source.id] = stamp, digest
            else:
                plan.report.failed[source.name] = known.reason
                collection.note_failure(source.id, known._replace(stamp=stamp, digest=digest))
            if len(stamps) >= RESTAMPED:
                collection.restamp(stamps)
                stamps = {}
            yield
        if stamps:
            collection.restamp(stamps)
        yield
    finally:
        readers.shutdown(cancel_futures=True)


def note_failure(
    collection: Collection, report: Report, source: Source, stamp: str, fault: BadMedia
) -> None:
    """Keep what is wrong with a source. An item that was made
    from what its file was before goes.
    """
    report.failed[source.name] = str(fault)
    if isinstance(fault, DecodersClosed):
        return
    item = collection.find(source.id)
    if (
        item is not None
        and item.origin == source.origin
        and item.source == source.file
        and replaced(item, source, stamp, fault)
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


def replaced(item: Item, source: Source, stamp: str, fault: BadMedia) -> bool:
    """Whether an item's file is there, and without doubt another one now."""
    was = item.stamp or ""
    if is_other(was, stamp):
        return True
    if not source.digest:  # it is missing, or cannot be read at the moment
        return False
    if item.digest:
        return source.digest != item.digest
    return may_be_same(was, stamp) and not isinstance(fault, DecoderFailed)


def standing_failures(collection: Collection) -> dict[str, str]:
    """What could not be indexed, in this build or an earlier one, and why, by the names of the
    files. Of files that are gone, or were indexed under another id, nothing is kept.
    """
    known, failures = collection.sources()
    indexed = {item.source for id, item in known.items() if id not in failures}
    found, over = {}, []
    for id, failure in failures.items():
        if not failure.source or failure.name is None:
            continue
        if not Path(failure.source).exists() or (
            failure.name == failure.source and failure.source in indexed
        ):
            over.append(id)
        else:
            found[failure.name] = failure.reason
    if over:
        collection.forget_failures(over)
    return found


def decode_with_digests(
    todo: list[tuple[Source, str]],
    encoder: Encoder,
    decoders: Decoders,
    budget: Budget,
    place: Path,
    overlap: float = 0.0,
) -> Iterator[Decoded]:
    """As `decoded`; the sources come with the sums of their contents, which are read meanwhile."""
    sums: deque[Future[str]] = deque()
    with ThreadPoolExecutor(1) as reader:

        def reading() -> Iterator[tuple[Source, str]]:
            for source, stamp in todo:
                sums.append(reader.submit(digest_of, source.path, source.member))
                yield source, stamp

        for source, stamp, outcome in decoded(reading(), encoder, decoders, budget, place, overlap):
            digest = sums.popleft().result()
            # else one of the two may have read what came before
            still = stamp.startswith(source.stamp)
            yield replace(source, digest=digest if still else ""), stamp, outcome


def decoded(
    todo: Iterable[tuple[Source, str]],
    encoder: Encoder,
    decoders: Decoders,
    budget: Budget,
    place: Path,
    overlap: float = 0.0,
) -> Iterator[Decoded]:
    """Decode in order, some files ahead; files of shards are laid out in the folder `place` while
    they are read.
    """
    queue: deque[tuple[Source, str, Future[Media | BadMedia] | None, Path | None]] = deque()
    rest = iter(todo)

    def fill() -> None:
        held = sum(size_of(future) for _, _, future, _ in queue)
        while (
            len(queue) < AHEAD
            and held < AHEAD_BYTES
            and (following := next(rest, None)) is not None
        ):
            source, stamp = following
            fault: BadMedia | None = None
            path = source.path
            if path is not None and source.member is not None:
                shard, path = (
                    path,
                    place
                    / f"{hashlib.sha256(source.id.encode()).hexdigest()}{source.member.suffix}",
                )
                fault = laid_out_at(path, shard, source.member)
            future: Future[Media | BadMedia] | None = None
            if fault is not None:
                future = Future()
                future.set_result(fault)
            elif path is not None and path != path.resolve():
                future = Future()
                future.set_result(NotMedia("a link has taken its place"))
            elif path is not None:
                future = decoders.start(
                    path, encoder.manifest.inputs, budget, overlap=overlap, previews=True
                )
            queue.append((source, stamp, future, path if source.member is not None else None))

    fill()
    while queue:
        source, stamp, future, laid_out = queue.popleft()
        try:
            media = decoders.finish(future) if future is not None else Media(0.0, [], {})
            for encoding in encoder.manifest.encodings("text") if source.texts else ():
                # what cannot be read is its fault, not a batch's
                encoder.read(list(source.texts), encoding)
            yield source, stamp, media
        except BadMedia as fault:
            yield source, stamp, fault
        if laid_out is not None:
            laid_out.unlink(missing_ok=True)
        fill()


def laid_out_at(path: Path, shard: Path, member: Member) -> BadMedia | None:
    """Write a shard's member to a file of its own; what is
    wrong if that could not be done whole.
    """
    try:
        data = member.read(shard)
        path.write_bytes(data)
    except OSError as error:
        path.unlink(missing_ok=True)
        return DecoderFailed(f"it could not be taken out of its shard ({error.strerror})")
    return None if len(data) == member.size else DecoderFailed("its shard ends before it does")


def size_of(future: Future[Media | BadMedia] | None) -> int:
    """Bytes that a decoded file holds in memory; none of one that is not there yet."""
    if future is None or not future.done() or future.cancelled() or future.exception() is not None:
        return 0
    outcome = future.result()
    return (
        0
        if isinstance(outcome, BadMedia)
        else sum(part.array.nbytes for part in outcome.parts.values())
    )


def encoded(encoder: Encoder, ready: list[tuple[Source, str, Media]]) -> list[NewItem]:
    """What is decoded as items with their vectors, made in batches by modality."""
    vectors = encode_all(encoder, [media for _, _, media in ready])
    items = []
    for (source, stamp, media), of_item in zip(ready, vectors, strict=True):
        item = media_item(
            source.id,
            media,
            of_item,
            metadata=source.metadata,
            filename=source.path.name if source.path and not source.member else None,
            origin=source.origin,
            source=source.file,
            stamp=stamp,
            digest=source.digest or None,
            texts=source.texts,
        )
        items.append(with_words(item, source, encoder))
    return items


def with_words(item: NewItem, source: Source, encoder: Encoder) -> NewItem:
    """An item with what its source says of it; each text is about the whole item."""
    if not source.texts:
        return item
    words = read_words(encoder, list(source.texts))
    first = len(item.windows)
    of_words = {
        encoding: ([first + n for n in which], row_vectors(encoder, encoding, rows))
        for encoding, (which, rows) in words.rows.items()
    }
    return replace(
        item,
        kind="text" if source.path is None else item.kind,
        windows=item.windows + [(0.0, item.duration_s)] * words.windows,
        vectors=item.vectors | of_words,
        warnings=words.warnings,
    )


@dataclass(frozen=True)
class Words:
    """An item's texts as windows, one or more for each text: how many; by encoding, which of them
    say something, and these as token ids; what whoever adds them is to be told.
    """

    windows: int
    rows: dict[str, tuple[list[int], list[list[int]]]]
    warnings: tuple[str, ...]


def read_words(encoder: Encoder, texts: list[str]) -> Words:
    """Texts in every way the bundle reads them. Of a text none of whose words is known there is
    nothing to encode: it would be like every other such text. Raises BadText.
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
    told = [
        warning
        for found in readings.values()
        for warning in list_warnings(dict(enumerate(found)), several, cut=False)
    ]
    return Words(windows, rows, tuple(dict.fromkeys(told)))


def row_vectors(encoder: Encoder, encoding: str, rows: list[list[int]]) -> np.ndarray[Any, Any]:
    """Unit vectors [n, dim] of token ids."""
    spec = encoder.manifest.tokenizers[encoding].spec
    parts = [pad_tokens(rows[at : at + WINDOWS], spec) for at in range(0, len(rows), WINDOWS)]
    return np.concatenate([encoder.embed(encoding, part) for part in parts])


def encode_all(
    encoder: Encoder, items: list[Media]
) -> list[dict[str, tuple[list[int], np.ndarray[Any, Any]]]]:
    """For each item, by encoding, (which windows, vectors [n, dim]); each modality of all items in
    batches.
    """
    out: list[dict[str, tuple[list[int], np.ndarray[Any, Any]]]] = [{} for _ in items]
    for encoding in encoder.manifest.graphs:
        modality = modality_of(encoding)
        having = [
            (i, item.parts[modality]) for i, item in enumerate(items) if modality in item.parts
        ]
        if not having:
            continue
        arrays = np.concatenate([part.array for _, part in having])
        vectors = np.concatenate(
            [
                encoder.embed(encoding, arrays[i : i + WINDOWS])
                for i in range(0, len(arrays), WINDOWS)
            ]
        )
        at = 0
        for i, part in having:
            out[i][encoding] = (part.windows, vectors[at : at + len(part.windows)])
            at += len(part.windows)
    return out
