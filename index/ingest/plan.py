"""What a build has to do: what there is compared with what earlier builds made of it."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from media.readers import NO_READERS, WordReaders
from media.subtitles import Sidecars

from ..collection import Collection
from ..records.item import Failure, KnownSource, NewItem, real_path
from .content import Stamp, hash_content, may_be_same
from .discovery import Discovery, find_sources
from .identity import Catalog, Unsettled
from .names import make_id, make_printable
from .source import Source, hash_description

READERS = 2  # threads that read files whose content is in doubt
RESTAMPED = 256  # items whose new stamps are written together
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
        stamp = stamp_with(source, options)
        item = known.get(source.id)
        if item is not None and item.source == source.file and item.stamp == stamp:
            if item.partial is None:
                plan_unchanged(plan, source, item, check=options.check)
            else:
                unknown.append((replace(source, resume=item.partial), stamp))
        elif not plan_by_content(plan, source, stamp, failures.get(source.id), options):
            unknown.append((source, stamp))
    sizes = catalog.may_know(unknown)
    for source, stamp in unknown:
        parts = Stamp.read(stamp)
        if parts is not None and source.member is None and parts.size in sizes:
            plan.doubtful.append((source, stamp, None))
        else:
            plan.unsettled.append((source, stamp, ""))
    return plan


def plan_unchanged(plan: BuildPlan, source: Source, item: KnownSource, check: bool) -> None:
    """Plan for a source whose file has the size and time that its item was made from; `check` has
    its content read, too.
    """
    if check and source.path is not None:
        plan.doubtful.append((source, item.stamp, item))
        return
    plan.report.unchanged += 1
    plan.present.add(source.id)
    note_place(plan, source, item.stamp, item.digest)


def plan_by_content(
    plan: BuildPlan, source: Source, stamp: str, failure: Failure | None, options: BuildOptions
) -> bool:
    """Plan for a source that failed before, or whose content may be that of its item. Returns
    whether it is one.
    """
    if failure is not None and not options.retry:
        if failure.name and failure.stamp == stamp and not options.check:
            plan.report.failed[source.name] = failure.reason
            return True
        if failure.digest and may_be_same(failure.stamp, stamp):
            plan.doubtful.append((source, stamp, failure))
            return True
    item = plan.catalog.known.get(source.id)
    if item is not None and item.digest and may_be_same(item.stamp, stamp):
        plan.doubtful.append((source, stamp, item))
        return True
    return False


def stamp_with(source: Source, options: BuildOptions) -> str:
    """A source's stamp with the options and the files beside it that change what is made of it."""
    stamp = source.stamp
    if options.overlap:
        stamp += f":{options.overlap}"
    if options.readers.stamp:
        stamp += f":{options.readers.stamp}"
    if source.sidecars:
        stamp += f":{hash_files(source.sidecars)}"
    return stamp


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


def keep_distinct(found: list[Source], report: Report) -> Iterator[Source]:
    """The sources whose ids are their own; where an id was given twice, the second is reported as
    failed. A file that is found twice is one source, with what manifests tell of it.
    """
    told = join_lines(found, report)
    taken: dict[str, Source] = {}
    files: set[str] = set()
    for each in found:
        source = told.get((each.file, each.given_id), each)
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


def join_lines(found: list[Source], report: Report) -> dict[tuple[str | None, str | None], Source]:
    """Of each file and given id what lines of manifests tell: the texts of all lines. A line with
    other metadata than the first is reported as failed.
    """
    told: dict[tuple[str | None, str | None], Source] = {}
    for source in found:
        if not source.told or source.file is None or source.member is not None:
            continue
        key = source.file, source.given_id
        first = told.setdefault(key, source)
        if first.metadata != source.metadata:
            name = make_printable(f"{source.path} (again)")
            report.failed[name] = "a manifest has it twice, with other metadata"
        else:
            texts = tuple(dict.fromkeys(first.texts + source.texts))
            told[key] = replace(first, texts=texts)
    return told


def take_about(source: Source, known: dict[str, KnownSource]) -> Source:
    """A source with what its item says: of its texts and metadata, where nobody tells them; and
    that edits of its metadata stay, where nobody tells other ones.
    """
    item = known.get(source.id)
    if item is None:
        return source
    stamp = Stamp.read(item.stamp)
    description = hash_description(source.texts, source.metadata)
    same = stamp is not None and stamp.description == description
    source = replace(source, keep_edits=same or not source.told)
    if source.told or stamp is None or same:
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
    found = [real_path(path) for path in sidecars.beside(source.path)]
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
