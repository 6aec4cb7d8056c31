"""A collection in another bundle's vectors: made beside the old one, which serves on; compared;
then put in its place.

The new one grows in `reembed/NAME` of the data folder, under a lock of its own. It resumes where it
was stopped, and follows what has changed in the old one meanwhile. The swap is two renames; one
that was cut short is completed when the data folder is opened next.
"""

from __future__ import annotations

import shutil
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
from media.windows import Media

from ..collection import (
    NAME,
    Collection,
    CollectionError,
    RecordsLost,
    UnknownCollection,
    has_lost_records,
)
from ..library import READY, STAGED, complete_swaps, hold, old_of
from ..query_bank import ensure_query_bank
from ..records.database import Item, Origin, Records, UnknownItem
from ..search import direction
from ..vectors.base import Vectors
from ..vectors.faiss_index import FaissIndex
from ..vectors.snapshot import sync
from ..vectors.store import replay
from .build import WINDOWS, Source, decoded, encoded

ROUNDS = 5  # of following a collection that is being written
SAMPLED = 100  # queries that the two are compared by
TEN = 10


class NotReady(CollectionError):
    detail_fields = ("name", "problem")

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name!r} cannot be swapped: {problem}")
        self.name, self.problem = name, problem


@dataclass
class Progress:
    """How far it is, and which items have no media that can be read any more."""

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
    """Bring the staged collection to where the old one is; the old one may be in use. Windows
    overlap as they do there, if nothing else is said.

    Raises:
        UnknownCollection: there is no such collection. RecordsLost: nothing is known of its items.
            DataInUse: another
        process is at it.
    """
    old_folder, folder = data / "collections" / named(name), data / STAGED / name
    if has_lost_records(old_folder):
        raise RecordsLost(name)
    if not (old_folder / "records.sqlite").is_file():
        raise UnknownCollection(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        closing(hold(data / STAGED / "lock")),
        closing(Records(old_folder / "records.sqlite")) as old,
    ):
        (folder / READY).unlink(missing_ok=True)
        staged = Collection(folder, encoder.manifest.fingerprint, encoder.manifest.dims)
        try:
            ensure_query_bank(staged, encoder)
            share = old.window_overlap() if overlap is None else overlap
            work, progress = (
                Work(old, old_folder, staged, encoder, decoders, budget, share),
                Progress(),
            )
            for _ in range(ROUNDS):
                if not (yield from work.round(progress)):
                    break
            with staged.hold_for_reading() as new:
                ready = not stale(old, new)
        finally:
            staged.close()
        if ready:
            (folder / READY).touch()
            sync(folder)
    yield progress


def named(name: str) -> str:
    """A collection's name, and nothing that leads elsewhere. Raises UnknownCollection."""
    if not NAME.fullmatch(name):
        raise UnknownCollection(name)
    return name


def stale(old: Records, new: Records) -> bool:
    """Whether the old collection has an item that the new one has not as it is now, or has one no
    more.
    """
    wanted, held, made_from = old.versions(), new.versions().keys(), new.copied_versions()
    return wanted.keys() != held or any(
        made_from.get(id) != version for id, version in wanted.items()
    )


@dataclass
class Work:
    """Two collections and what brings the one's items into the other."""

    old: Records
    old_folder: Path
    staged: Collection
    encoder: Encoder
    decoders: Decoders
    budget: Budget
    overlap: float

    def round(self, progress: Progress) -> Generator[Progress, None, bool]:
        """Every item that is not in the staged collection as it is in the old one; returns whether
        there was any.
        """
        wanted = self.old.versions()
        progress.failed.clear()  # by now it may be there, or gone
        with self.staged.hold_for_reading() as records:
            there, held = records.copied_versions(), set(records.versions())
        for id in held - wanted.keys():
            self.staged.delete(id)
        behind = [
            id for id, version in wanted.items() if there.get(id) != version or id not in held
        ]
        todo = {id: item for id in behind if (item := self.old.find(id)) is not None}
        progress.done, progress.total = len(wanted) - len(todo), len(wanted)
        yield progress
        ready: list[tuple[Source, str, Media]] = []
        with tempfile.TemporaryDirectory() as place:
            sources = list(self.sources(todo, wanted))
            for source, version, outcome in decoded(
                sources, self.encoder, self.decoders, self.budget, Path(place), self.overlap
            ):
                progress.done += 1
                if isinstance(outcome, BadMedia):
                    progress.failed[source.id] = str(outcome)
                else:
                    ready.append((source, version, outcome))
                if sum(max(len(media.windows), 1) for _, _, media in ready) >= WINDOWS:
                    self.write(ready, todo)
                    ready = []
                yield progress
        self.write(ready, todo)
        return len(behind) > len(progress.failed)

    def sources(
        self, items: dict[str, Item], versions: dict[str, str]
    ) -> Iterator[tuple[Source, str]]:
        """Where each item's media are now: in the old collection, where batch building found them,
        in a shard.
        """
        shards: dict[Path, dict[str, Member]] = {}
        for id, item in items.items():
            path = self.kept(item)
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
            yield (
                Source(id=id, path=path, metadata=item.metadata, texts=item.texts, member=member),
                versions[id],
            )

    def kept(self, item: Item) -> Path | None:
        return self.old_folder / "media" / item.media if item.media else None

    def write(self, ready: list[tuple[Source, str, Media]], items: dict[str, Item]) -> None:
        if not ready:
            return
        made = []
        for new in encoded(self.encoder, ready):
            item = items[new.id]
            kept = self.kept(item)
            try:
                media = self.staged.store_media(kept, item.filename or "") if kept else None
            except FileNotFoundError:  # deleted or replaced meanwhile: the next round sees to it
                continue
            made.append(
                replace(
                    new,
                    kind=item.kind,
                    filename=item.filename,
                    origin=item.origin,
                    media=media,
                    source=item.source,
                    stamp=item.stamp,
                    digest=item.digest,
                    texts=item.texts,
                )
            )
        self.staged.put(made)
        there = {new.id for new in made}
        self.staged.note_copied_versions(
            {source.id: version for source, version, _ in ready if source.id in there}
        )


@dataclass(frozen=True)
class Overlap:
    """How much of the ten best items two collections share, on average, for the same queries."""

    route: str
    queries: int
    at_10: float


def overlaps(data: Path, name: str, compares: Callable[[str, str], bool]) -> list[Overlap]:
    """The staged collection against the old one: by the everyday queries that both have in their
    banks and that compare with what is searched, and by items taken by chance.

    Raises:
        NotReady: nothing is staged.
    """
    place = data / STAGED / name / "records.sqlite"
    if not place.is_file():
        raise NotReady(name, "nothing is staged")
    found = []
    with (
        closing(Records(data / "collections" / name / "records.sqlite")) as old,
        closing(Records(place)) as new,
    ):
        shared = sorted(set(old.encodings()) & set(new.encodings()))
        for target in shared:
            sides = [Neighbours(records, target) for records in (old, new)]
            for source in sorted(set(old.bank_encodings()) & set(new.bank_encodings())):
                if compares(source, target) and all(
                    side.records.bank_dim(source) == side.dim for side in sides
                ):
                    asked = zip(
                        *(side.records.bank(source, side.dim) for side in sides), strict=False
                    )
                    found.append(
                        compared(f"{source}-{target}", sides, [(a, b, "") for a, b in asked])
                    )
            ids = sorted(set(sides[0].items) & set(sides[1].items))
            chosen = np.random.default_rng(0).permutation(len(ids))[:SAMPLED]
            own = []
            for id in (ids[i] for i in sorted(chosen.tolist())):
                with suppress(UnknownItem):  # deleted meanwhile
                    a, b = (side.of(id) for side in sides)
                    own += [(direction(a), direction(b), id)] if len(a) and len(b) else []
            found.append(compared(f"{target}-{target}", sides, own))
    return [overlap for overlap in found if overlap.queries]


class Neighbours:
    """One encoding of a collection's records, searched exactly."""

    def __init__(self, records: Records, encoding: str) -> None:
        self.records, self.encoding, self.dim = records, encoding, records.dim(encoding)
        self.index = FaissIndex(self.dim)
        replay(records, encoding, self.index, 0)
        self.items = records.ids_with(encoding)

    def of(self, id: str) -> Vectors:
        return self.records.item_vectors(id, self.encoding, self.dim)

    def best(self, query: Vectors, but: str) -> list[str]:
        """The ten best items but one."""
        ids = self.index.search(query, 20 * TEN).ids
        places = self.records.window_table(self.encoding)
        numbers = list(places.owners(places.find(ids).tolist()))[: TEN + 1]
        about = self.records.about(numbers)
        return [about[n].id for n in numbers if n in about and about[n].id != but][:TEN]


def compared(
    route: str, sides: list[Neighbours], asked: list[tuple[Vectors, Vectors, str]]
) -> Overlap:
    shares = []
    for a, b, but in asked:
        best = [set(side.best(query, but)) for side, query in zip(sides, (a, b), strict=True)]
        if any(best):
            shares.append(len(best[0] & best[1]) / max(len(best[0]), len(best[1])))
    return Overlap(route, len(shares), float(np.mean(shares)) if shares else 0.0)


def swap(data: Path, name: str) -> None:
    """Put the staged collection in the old one's place, which is then gone.

    Raises:
        NotReady: it is not complete. DataInUse: a service has the data folder open.
    """
    if not (data / STAGED / named(name)).is_dir():
        raise NotReady(name, "nothing is staged")
    with closing(hold(data / "lock")), closing(hold(data / STAGED / "lock")):
        complete_swaps(data)
        check_ready(data, name)
        (data / "collections" / name).rename(old_of(data, name))
        complete_swaps(data)


def check_ready(data: Path, name: str, fingerprint: str | None = None) -> None:
    """Raises NotReady: what is staged is not all that the old collection is, or not in this
    bundle's vectors. RecordsLost: nothing is known of the old one's items.
    """
    staged, there = data / STAGED / name, data / "collections" / name
    if has_lost_records(there):
        raise RecordsLost(name)
    if not (staged / READY).is_file():
        raise NotReady(name, "it has not been made anew" if fingerprint else "it is not complete")
    with (
        closing(Records(there / "records.sqlite")) as old,
        closing(Records(staged / "records.sqlite")) as new,
    ):
        if fingerprint not in (None, new.meta()["fingerprint"]):
            raise NotReady(name, "it was made anew for another bundle")
        if stale(old, new):
            raise NotReady(name, "the old collection has changed since: run reembed again")


def drop(data: Path, name: str) -> None:
    """Forget what is staged. Raises NotReady: nothing is."""
    staged = data / STAGED / named(name)
    if not staged.is_dir():
        raise NotReady(name, "nothing is staged")
    with closing(hold(data / STAGED / "lock")):
        if old_of(data, name).exists():
            raise NotReady(name, "its swap was cut short: start the service, or swap again")
        (staged / READY).unlink(missing_ok=True)
        shutil.rmtree(staged)
