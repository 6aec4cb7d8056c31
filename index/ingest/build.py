"""Batch building: files are decoded, encoded and written at the same time. A build that was
stopped goes on where it was, and every file that failed is reported.
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

from export.bundle import parse_modality
from export.encoder import Encoder
from media.containers import MEDIA, Budget
from media.errors import BadMedia, DecoderFailed, DecodersClosed, NotMedia
from media.manifest import Member, Row, check_string, read_manifest, read_shard
from media.passages import Passage
from media.readers import NO_READERS, WordReaders
from media.sandbox import Decoders
from media.subtitles import Sidecars
from media.text import list_warnings, pad_tokens
from media.windows import DecodeOptions, Media, WordOptions

from ..collection import Collection
from ..records.database import Failure, Item, KnownSource, NewItem, Origin
from .content import hash_content, is_other, may_be_same
from .items import media_item
from .passages import add_passages, read_passages

AHEAD = 16  # files being decoded or waiting to be encoded
AHEAD_BYTES = 256_000_000  # of memory that the decoded ones may take
WINDOWS = 32  # encoded and written together
READERS = 2  # threads that read files whose content is in doubt
RESTAMPED = 256  # items whose new stamps are written together


@dataclass(frozen=True)
class Source:
    """One thing to index: a file, a member of a tar shard, or words alone; with its texts and its
    metadata.
    """

    id: str
    path: Path | None
    metadata: dict[str, Any] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    member: Member | None = None
    digest: str = ""  # SHA-256 of its content, once that has been read
    sidecars: tuple[Path, ...] = ()  # files of subtitles or lyrics beside it
    # what it says, where that is known: it is not read again
    passages: tuple[Passage, ...] = ()

    @property
    def name(self) -> str:
        """How messages call it."""
        if self.path is None:
            return self.id
        return f"{self.path} ({self.id})" if self.member else str(self.path)

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
        """Changes when the file, what lies beside it, its texts or its metadata change; see
        `content.Stamp`.
        """
        description = hash_description(self.texts, self.metadata, self.sidecars)
        if self.path is None:
            return description
        try:
            stat = self.path.stat()
        except OSError:
            return "missing"
        offset = self.member.offset if self.member else ""
        return f"{stat.st_size}:{stat.st_mtime_ns}:{offset}:{description}"


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


@dataclass
class Report:
    """What a build did."""

    indexed: int = 0
    unchanged: int = 0
    ignored: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    # by id: what was indexed, though some of its words are not known, say
    warned: dict[str, str] = field(default_factory=dict)
    rewritten: int = 0  # files of other content that kept size and time; counted where checked

    def count_written(self, items: list[NewItem]) -> None:
        self.indexed += len(items)
        self.warned |= {item.id: "; ".join(item.warnings) for item in items if item.warnings}


@dataclass(kw_only=True)
class BuildPlan:
    """What a build has to do, as sources with their stamps. Those in `doubtful` must be read: their
    content tells whether they are what the item, or the failure, was made from.
    """

    total: int
    report: Report
    todo: list[tuple[Source, str]] = field(default_factory=list)
    doubtful: deque[tuple[Source, str, KnownSource | Failure]] = field(default_factory=deque)

    @property
    def done(self) -> int:
        return self.total - len(self.todo) - len(self.doubtful)


Decoded = tuple[Source, str, Media | BadMedia]  # with the stamp from before it was read
Ready = tuple[Source, str, Media]  # to be encoded


def hash_description(
    texts: tuple[str, ...], metadata: dict[str, Any], sidecars: tuple[Path, ...] = ()
) -> str:
    """Eight hex digits."""
    parts: list[Any] = [texts, metadata]
    if sidecars:
        parts.append([describe_file(path) for path in sidecars])
    described = json.dumps(parts, sort_keys=True).encode()
    return hashlib.sha256(described).hexdigest()[:8]


def describe_file(path: Path) -> list[str | int]:
    """A file's name, size and time; its name alone where it is missing."""
    try:
        stat = path.stat()
    except OSError:
        return [ascii(path.name)]
    return [ascii(path.name), stat.st_size, stat.st_mtime_ns]


def find_sources(paths: Iterable[Path], within: Path | None = None) -> tuple[list[Source], int]:
    """Everything to index in the given folders, files, manifests and tar shards, and how many other
    files there are. A file's id is its path from the parent of the given path, or from the folder
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
            for file in sorted(path.rglob("*")):
                if not file.is_file() or file.name.startswith("."):
                    continue
                if file.suffix.lower() in MEDIA:
                    id = (path.resolve() / file.relative_to(path)).relative_to(base).as_posix()
                    found.append(Source(id, file.resolve()))
                else:
                    ignored += 1
        elif not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        elif path.suffix == ".jsonl":
            for row in read_manifest(path):
                file_path = row.path and row.path.resolve()
                texts = list_captions(row)
                found.append(Source(id=row.id, path=file_path, metadata=row.metadata, texts=texts))
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
                    )
                )
        else:
            id = (path.resolve().parent / path.name).relative_to(base).as_posix()
            found.append(Source(id, path.resolve()))
    return found, ignored


def list_captions(row: Row) -> tuple[str, ...]:
    """A row's captions, each as one line: people are shown an item's texts a line each."""
    lines = (" ".join(caption.text.splitlines()).strip() for caption in row.captions)
    return tuple(line for line in lines if line)


def keep_distinct(found: list[Source], report: Report) -> Iterator[Source]:
    """The sources whose names are text and whose ids are their own; the others are reported as
    failed.
    """
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
            report.failed[f"{source.path} ({source.id})"] = "its id is taken by another file"


def build(
    encoder: Encoder,
    collection: Collection,
    paths: Iterable[Path],
    decoders: Decoders,
    budget: Budget,
    options: BuildOptions = BuildOptions(),
    at_once: int = 1,
) -> Iterator[tuple[int, int, Report]]:
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
            report.count_written(items)
            return len(items)

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
            if fills_batch(ready):
                encoding.append(device.submit(encode_items, encoder, ready))
                ready = []
            if len(encoding) > at_once:
                done += write()
            yield done, total, report
        if ready:
            encoding.append(device.submit(encode_items, encoder, ready))
        while encoding:
            write()
        if writing is not None:
            writing.result()
    yield total, total, report


def fills_batch(ready: list[Ready]) -> bool:
    """Whether there are windows enough to encode; words alone count as one."""
    return sum(max(len(media.windows), 1) for _, _, media in ready) >= WINDOWS


def plan_build(collection: Collection, paths: Iterable[Path], options: BuildOptions) -> BuildPlan:
    """Compare the sources that there are with what is known of earlier builds."""
    within = options.within
    found, ignored = find_sources(paths, within)
    report = Report(ignored=ignored)
    plan = BuildPlan(total=len(found), report=report)
    known, failures = collection.sources()
    sidecars = Sidecars()
    for source in keep_distinct(found, report):
        source = replace(source, sidecars=find_sidecars(source, sidecars, within))
        if within and source.path and not source.path.is_relative_to(within):
            report.failed[source.id] = "it is outside the folder"
            continue
        stamp = source.stamp
        if options.overlap:
            stamp += f":{options.overlap}"
        if options.readers.stamp:
            stamp += f":{options.readers.stamp}"
        item = known.get(source.id)
        failure = failures.get(source.id)
        if item is not None and item.source != source.file:
            item = None
        if item is not None and item.stamp == stamp:
            if options.check and source.path is not None:
                plan.doubtful.append((source, stamp, item))
            else:
                report.unchanged += 1
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
            plan.todo.append((source, stamp))
    return plan


def find_sidecars(source: Source, sidecars: Sidecars, within: Path | None) -> tuple[Path, ...]:
    """The files of subtitles beside a source's file; those that lead out of `within` are left
    out.
    """
    if source.path is None or source.member is not None:
        return ()
    found = [path.resolve() for path in sidecars.beside(source.path)]
    return tuple(path for path in found if within is None or path.is_relative_to(within))


def settle_doubtful(collection: Collection, plan: BuildPlan) -> Iterator[None]:
    """Read the doubtful sources. Those of known content get the stamp they have now; the others are
    added to what is to be done. Yields as it goes, and once more at the end.
    """
    readers = ThreadPoolExecutor(READERS)
    stamps: dict[str, tuple[str, str]] = {}
    try:
        doubtful = [source for source, _, _ in plan.doubtful]
        digests = readers.map(lambda source: hash_content(source.path, source.member), doubtful)
        for digest in digests:
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
    with ThreadPoolExecutor(1) as reader:

        def read_along() -> Iterator[tuple[Source, str]]:
            for source, stamp in todo:
                digests.append(reader.submit(hash_content, source.path, source.member))
                yield source, stamp

        for source, stamp, outcome in decode_sources(
            read_along(),
            encoder,
            decoders,
            budget,
            folder=folder,
            overlap=overlap,
            readers=readers,
        ):
            digest = digests.popleft().result()
            if not stamp.startswith(source.stamp):
                digest = ""  # it has changed, and the two may have read different contents
            yield replace(source, digest=digest), stamp, outcome


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
    queue: deque[tuple[Source, str, Future[Media | BadMedia] | None, Path | None]] = deque()
    rest = iter(todo)
    options = DecodeOptions(
        specs=encoder.manifest.inputs, budget=budget, overlap_share=overlap, previews=True
    )

    def start(source: Source) -> tuple[Future[Media | BadMedia] | None, Path | None]:
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
            failed: Future[Media | BadMedia] = Future()
            failed.set_result(fault)
            return failed, extracted
        words = None if source.passages else WordOptions(sidecars=source.sidecars, readers=readers)
        return decoders.start(path, replace(options, words=words)), extracted

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
                decoders.finish(future)
                if future is not None
                else Media(duration_s=0.0, windows=[], parts={})
            )
            if source.texts:
                # so that words that cannot be read fail alone, and not with their batch
                for encoding in encoder.manifest.encodings("text"):
                    encoder.read(list(source.texts), encoding)
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


def decoded_bytes(future: Future[Media | BadMedia] | None) -> int:
    """Bytes of memory that a decoded file takes; 0 while it is not decoded."""
    if future is None or not future.done() or future.cancelled() or future.exception() is not None:
        return 0
    outcome = future.result()
    if isinstance(outcome, BadMedia):
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
            filename=source.path.name if source.path and not source.member else None,
            origin=source.origin,
            source=source.file,
            stamp=stamp,
            digest=source.digest or None,
            texts=source.texts,
        )
        item = add_text_windows(item, source, encoder)
        passages = source.passages or media.passages
        words = read_passages(encoder, passages)
        rows = {e: (which, embed_rows(encoder, e, ids)) for e, (which, ids) in words.items()}
        items.append(add_passages(item, passages, rows))
    return items


def add_text_windows(item: NewItem, source: Source, encoder: Encoder) -> NewItem:
    """An item with windows for the texts of its source; each is about the whole item."""
    if not source.texts:
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
            if modality in item.parts
        ]
        if not having:
            continue
        arrays = np.concatenate([part.array for _, part in having])
        starts = range(0, len(arrays), WINDOWS)
        batches = [encoder.embed(encoding, arrays[at : at + WINDOWS]) for at in starts]
        vectors = np.concatenate(batches)
        first = 0
        for position, part in having:
            end = first + len(part.windows)
            out[position][encoding] = part.windows, vectors[first:end]
            first = end
    return out
