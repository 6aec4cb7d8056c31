"""Re-embedding: a collection in another bundle's vectors, made beside the old one, which goes on
serving; compared with it; then put in its place.

The new collection grows in `reembed/NAME` of the data folder, under a lock of its own. A
re-embedding that was stopped is resumed, and follows what has changed in the old collection
meanwhile. The swap is two renames. One that was interrupted is completed when the data folder is
opened next.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from export.encoder import Encoder
from media.containers import Budget
from media.errors import BadMedia
from media.manifest import BadManifest, Member, read_shard
from media.sandbox import Decoders

from ..collection import (
    MEDIA,
    NAME,
    Collection,
    CollectionError,
    RecordsLost,
    UnknownCollection,
    has_lost_records,
)
from ..durable import sync
from ..library import READY, STAGED, complete_swaps, lock_file, remove_whole, replaced_path
from ..query_bank import ensure_query_bank
from ..records.database import VOCABULARY_KEY, Records
from ..records.item import Item, Origin, UnknownItem
from ..search import direction
from ..vectors.base import Vectors
from ..vectors.faiss_index import FaissIndex
from ..vectors.rebuild import replay
from ..vocabulary import ensure_vocabulary, parse_source
from .decoding import decode_sources
from .encoding import Ready, encode_items, fills_batch
from .source import Source

ROUNDS = 5  # at most, over a collection that is written meanwhile
SAMPLED = 100  # items by which the two are compared
TEN = 10


class NotReady(CollectionError):
    detail_fields = ("name", "problem")

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name!r} cannot be swapped: {problem}")
        self.name = name
        self.problem = problem


@dataclass
class Progress:
    """How many items are done, and why others failed, by id: their media cannot be read any more,
    say.
    """

    done: int = 0
    total: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def reembed(
    data: Path,
    name: str,
    encoder: Encoder,
    decoders: Decoders,
    budget: Budget,
    overlap: float | None = None,
) -> Iterator[Progress]:
    """Bring the staged collection to where the old one is, which may be in use. If `overlap` is
    None, windows overlap as they do in the old one.

    Raises:
        UnknownCollection: there is no such collection.
        RecordsLost: nothing is known of its items.
        DataInUse: another process is re-embedding.
    """
    old_folder = data / "collections" / check_name(name)
    folder = data / STAGED / name
    if has_lost_records(old_folder):
        raise RecordsLost(name)
    if not (old_folder / "records.sqlite").is_file():
        raise UnknownCollection(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        closing(lock_file(data / STAGED / "lock")),
        closing(Records(old_folder / "records.sqlite")) as old,
    ):
        (folder / READY).unlink(missing_ok=True)
        staged = Collection(folder, encoder.manifest.fingerprint, encoder.manifest.dims)
        try:
            ensure_query_bank(staged, encoder)
            kept = old.meta().get(VOCABULARY_KEY)
            if kept is not None:
                ensure_vocabulary(staged, encoder, parse_source(kept))
            share = old.window_overlap() if overlap is None else overlap
            work = Work(
                old=old,
                old_folder=old_folder,
                staged=staged,
                encoder=encoder,
                decoders=decoders,
                budget=budget,
                overlap=share,
            )
            progress = Progress()
            for _ in range(ROUNDS):
                changed = yield from work.run_round(progress)
                if not changed:
                    break
            with staged.hold_for_reading() as new:
                ready = not is_stale(old, new)
        finally:
            staged.close()
        if ready:
            (folder / READY).touch()
            sync(folder)
    yield progress


def check_name(name: str) -> str:
    """The name, if it is one of a collection and no path to elsewhere. Raises UnknownCollection."""
    if not NAME.fullmatch(name):
        raise UnknownCollection(name)
    return name


def is_stale(old: Records, new: Records) -> bool:
    """Whether the new collection lacks an item of the old one, has it as it was before, or has one
    that the old one no longer has.
    """
    wanted = old.versions()
    if wanted.keys() != new.versions().keys():
        return True
    copied = new.copied_versions(old.meta()["id"])
    return any(copied.get(id) != version for id, version in wanted.items())


@dataclass(kw_only=True)
class Work:
    """Two collections, and what it takes to bring the items of one into the other."""

    old: Records
    old_folder: Path
    staged: Collection
    encoder: Encoder
    decoders: Decoders
    budget: Budget
    overlap: float

    def run_round(self, progress: Progress) -> Generator[Progress, None, bool]:
        """Embed every item that is not in the staged collection as it is in the old one. Returns
        whether there was any that could be read.
        """
        wanted = self.old.versions()
        progress.failed.clear()  # their media may be back by now, or they may be deleted
        with self.staged.hold_for_reading() as records:
            copied = records.copied_versions(self.old.meta()["id"])
            there = set(records.versions())
        for id in there - wanted.keys():
            self.staged.delete(id)
        behind = [
            id for id, version in wanted.items() if copied.get(id) != version or id not in there
        ]
        todo: dict[str, Item] = {}
        for id in behind:
            item = self.old.find(id)
            if item is not None:  # else it was deleted meanwhile
                todo[id] = item
        progress.done = len(wanted) - len(todo)
        progress.total = len(wanted)
        yield progress
        ready: list[Ready] = []
        with tempfile.TemporaryDirectory() as folder:
            for source, version, outcome in decode_sources(
                self.list_sources(todo, wanted),
                self.encoder,
                self.decoders,
                self.budget,
                folder=Path(folder),
                overlap=self.overlap,
            ):
                progress.done += isinstance(outcome, BadMedia) or outcome.last
                if isinstance(outcome, BadMedia):
                    progress.failed[source.id] = str(outcome)
                else:
                    ready.append((source, version, outcome))
                if fills_batch(ready):
                    self.write(ready, todo)
                    ready = []
                yield progress
        self.write(ready, todo)
        return len(behind) > len(progress.failed)

    def list_sources(
        self, items: dict[str, Item], versions: dict[str, str]
    ) -> list[tuple[Source, str]]:
        """Where the media of items are read: in the old collection, or where batch building found
        them. With the version of each item.
        """
        found: list[tuple[Source, str]] = []
        shards: dict[Path, dict[str, Member]] = {}
        for id, item in items.items():
            path = self.stored_copy(item)
            member: Member | None = None
            if path is None and item.source is not None:
                path = Path(item.source)
            if item.origin == Origin.MEMBER:
                assert path is not None
                if path not in shards:
                    shards[path] = {}
                    with suppress(BadManifest, OSError):
                        shards[path] = {row.id: part for row, part in read_shard(path)}
                member = shards[path].get(id)
            source = Source(
                id=id,
                path=path,
                metadata=item.metadata,
                texts=item.texts,
                member=member,
                passages=self.old.passages.of_item(id),
            )
            found.append((source, versions[id]))
        return found

    def stored_copy(self, item: Item) -> Path | None:
        return self.old_folder / "media" / item.media if item.media else None

    def write(self, ready: list[Ready], items: dict[str, Item]) -> None:
        """Encode what is ready and write it, with all that the old items say beside vectors."""
        if not ready:
            return
        made = []
        edited = self.old.edited()
        for new in encode_items(self.encoder, ready):
            item = items[new.id]
            was_edited = new.id in edited
            copy = self.stored_copy(item)
            media: str | None = None
            if copy is not None and not new.first_window:  # later parts of a film need no copy
                try:
                    media = self.staged.store_media(copy, item.filename or "")
                except FileNotFoundError:  # deleted or replaced meanwhile: left to the next round
                    continue
            made.append(
                replace(
                    new,
                    filename=item.filename,
                    origin=item.origin,
                    media=media,
                    source=item.source,
                    stamp=item.stamp,
                    digest=None if new.partial else item.digest,
                    root=item.root,
                    mount=item.mount,
                    texts=item.texts,
                    metadata=item.metadata if was_edited else new.metadata,
                    edited=was_edited,
                    added=item.added,
                )
            )
        self.staged.put(made)
        written = {new.id for new in made}
        versions = {
            source.id: version
            for source, version, media in ready
            if source.id in written and media.last
        }
        self.staged.note_copied_versions(versions, self.old.meta()["id"])


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """The share of the ten best items that two collections have in common, as a mean over queries
    of one route.
    """

    route: str
    queries: int
    at_10: float


Query = tuple[Vectors, Vectors, str]  # in the vectors of either side, and the item it was made from


def measure_overlaps(data: Path, name: str, compares: Callable[[str, str], bool]) -> list[Overlap]:
    """Compare the staged collection with the old one: by the queries that both have in their banks
    and that compare with the target, and by items drawn at random.

    Raises:
        NotReady: nothing is staged.
    """
    staged = data / STAGED / name / "records.sqlite"
    if not staged.is_file():
        raise NotReady(name, "nothing is staged")
    overlaps: list[Overlap] = []
    with (
        closing(Records(data / "collections" / name / "records.sqlite")) as old,
        closing(Records(staged)) as new,
    ):
        sources = sorted(set(old.banks.encodings()) & set(new.banks.encodings()))
        for target in sorted(set(old.encodings()) & set(new.encodings())):
            sides = [Neighbours(records, target) for records in (old, new)]
            for source in sources:
                comparable = all(side.records.banks.dim(source) == side.dim for side in sides)
                if comparable and compares(source, target):
                    banks = [side.records.banks.queries(source, side.dim) for side in sides]
                    queries = [(a, b, "") for a, b in zip(*banks, strict=False)]
                    overlaps.append(compare_sides(f"{source}-{target}", sides, queries))
            overlaps.append(compare_sides(f"{target}-{target}", sides, sample_items(sides)))
    return [overlap for overlap in overlaps if overlap.queries]


def sample_items(sides: list[Neighbours]) -> list[Query]:
    """Items that both sides have, drawn at random, as queries."""
    ids = sorted(set(sides[0].items) & set(sides[1].items))
    chosen = np.random.default_rng(0).permutation(len(ids))[:SAMPLED]
    queries: list[Query] = []
    for position in sorted(chosen.tolist()):
        id = ids[position]
        with suppress(UnknownItem):  # deleted meanwhile
            a, b = (side.item_vectors(id) for side in sides)
            if len(a) and len(b):
                queries.append((direction(a), direction(b), id))
    return queries


class Neighbours:
    """One encoding of a collection's records, searched exactly."""

    def __init__(self, records: Records, encoding: str) -> None:
        self.records = records
        self.encoding = encoding
        self.dim = records.dim(encoding)
        self.index = FaissIndex(self.dim)
        replay(records, encoding, self.index, 0)
        self.items = records.ids_with(encoding)

    def item_vectors(self, id: str) -> Vectors:
        return self.records.item_vectors(id, self.encoding, self.dim)

    def find_best(self, query: Vectors, excluded: str) -> list[str]:
        """The ids of the ten best items, one left out."""
        ids = self.index.search(query, 20 * TEN).ids
        table = self.records.window_table(self.encoding)
        numbers = list(table.owners(table.find(ids).tolist()))[: TEN + 1]
        about = self.records.about(numbers)
        found = [about[number].id for number in numbers if number in about]
        return [id for id in found if id != excluded][:TEN]


def compare_sides(route: str, sides: list[Neighbours], queries: list[Query]) -> Overlap:
    shares = []
    for a, b, excluded in queries:
        old = set(sides[0].find_best(a, excluded))
        new = set(sides[1].find_best(b, excluded))
        if old or new:
            shares.append(len(old & new) / max(len(old), len(new)))
    mean = float(np.mean(shares)) if shares else 0.0
    return Overlap(route=route, queries=len(shares), at_10=mean)


def swap(data: Path, name: str) -> None:
    """Put the staged collection in the place of the old one, which is deleted.

    Raises:
        NotReady: it is not complete.
        DataInUse: another process, a service say, has the data folder open.
    """
    if not (data / STAGED / check_name(name)).is_dir():
        raise NotReady(name, "nothing is staged")
    with closing(lock_file(data / "lock")), closing(lock_file(data / STAGED / "lock")):
        complete_swaps(data)
        check_ready(data, name)
        (data / "collections" / name).rename(replaced_path(data, name))
        complete_swaps(data)


def check_ready(data: Path, name: str, fingerprint: str | None = None) -> None:
    """Check that a staged collection can take the old one's place.

    Raises:
        NotReady: it is not complete, or not in the vectors of the bundle of that fingerprint.
        RecordsLost: nothing is known of the old one's items.
    """
    staged = data / STAGED / name
    live = data / "collections" / name
    if has_lost_records(live):
        raise RecordsLost(name)
    if not (staged / READY).is_file():
        raise NotReady(name, "it has not been re-embedded" if fingerprint else "it is not complete")
    with (
        closing(Records(live / "records.sqlite")) as old,
        closing(Records(staged / "records.sqlite")) as new,
    ):
        if fingerprint not in (None, new.meta()["fingerprint"]):
            raise NotReady(name, "it was re-embedded for another bundle")
        if is_stale(old, new):
            raise NotReady(name, "the old collection has changed since: run reembed again")
        if not all((staged / MEDIA / file).is_file() for file in new.media_files()):
            raise NotReady(name, "media files are missing: use --drop, then run reembed again")


def drop(data: Path, name: str) -> None:
    """Delete what is staged. Raises NotReady: nothing is."""
    staged = data / STAGED / check_name(name)
    if not staged.is_dir():
        raise NotReady(name, "nothing is staged")
    with closing(lock_file(data / STAGED / "lock")):
        if replaced_path(data, name).exists():
            raise NotReady(name, "its swap was interrupted: start the service, or swap again")
        remove_whole(staged)
