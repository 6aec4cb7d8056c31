"""Which item a file is. An item is what its content is: a file that was renamed or moved keeps its
item, an exact copy gets one of its own with the same vectors, and two files of one name are two
items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from ..records.item import Failure, KnownSource, Origin
from .content import Stamp
from .gone import Places
from .names import find_free_id
from .source import Source

Unsettled = tuple[Source, str, str]  # with its stamp and, if it was read, its digest


class Catalog:
    """What is known of a collection: which file each item was made from, and which ids are
    taken.
    """

    def __init__(
        self,
        known: dict[str, KnownSource],
        failures: dict[str, Failure],
        ids: set[str],
        within: str | None,
    ) -> None:
        self.known = known
        self.failures = failures
        self.ids = ids
        self._within = within
        self._taken = ids | set(failures)
        self._by_file: dict[str, list[str]] = {}
        self._failed_by_file: dict[str, str] = {}
        self._by_digest: dict[str, list[str]] = {}
        self._sizes: set[str] = set()
        for id, item in known.items():
            if item.origin != Origin.FILE or item.source is None:
                continue
            self._by_file.setdefault(item.source, []).append(id)
            stamp = Stamp.read(item.stamp)
            if item.digest and stamp is not None:
                self._by_digest.setdefault(item.digest, []).append(id)
                self._sizes.add(stamp.size)
        for id, failure in failures.items():
            if failure.source and id not in ids:
                self._failed_by_file[failure.source] = id

    def name(self, source: Source) -> Source:
        """The source with the id of the item, or of the failure, that its file has; a new one where
        it has none. An id that somebody gave stays as it is.
        """
        if source.named or source.file is None:
            self._taken.add(source.id)
            return source
        ids = self._by_file.get(source.file, [])
        if source.id in ids:
            return source
        id = ids[0] if ids else self._failed_by_file.get(source.file)
        return replace(source, id=id) if id is not None else self.rename(source)

    def rename(self, source: Source) -> Source:
        """The source with an id that nothing has."""
        assert source.file is not None
        id = find_free_id(source.file, source.id, self._taken, self._within)
        self._taken.add(id)
        return replace(source, id=id)

    def reserve(self, sources: list[Source]) -> None:
        """Keep the ids that somebody gave to these sources from being made up for others."""
        self._taken.update(source.id for source in sources if source.named)

    def may_know(self, sources: list[tuple[Source, str]]) -> set[str]:
        """The sizes of those sources whose content an item, or another of them, may have."""
        seen: set[str] = set()
        sizes = set(self._sizes)
        for source, stamp in sources:
            parts = Stamp.read(stamp)
            if parts is None or source.member is not None:
                continue
            if parts.size in seen:
                sizes.add(parts.size)
            seen.add(parts.size)
        return sizes

    def settle(
        self, unsettled: list[Unsettled], present: set[str]
    ) -> tuple[dict[str, KnownSource], list[Unsettled], list[Unsettled]]:
        """Find out what files are that are new, or whose content is not that of their item.
        `present` has the ids of items whose files are as they were.

        Returns the places, by id, of items whose files were moved; what has to be decoded; and what
        is a copy of an item, or of something that has to be decoded.
        """
        claimed = self._keep_whole(unsettled, dict(self._claim(unsettled, present)))
        moved: dict[str, KnownSource] = {}
        todo: list[Unsettled] = []
        copies: list[Unsettled] = []
        decoded: set[str] = set()
        for source, stamp, digest in unsettled:
            id = claimed.get(source.path_id)
            if id is not None:
                was = self.known[id]
                source = replace(source, id=id)
                if fits(was.stamp, stamp, told=source.told):
                    stamp = keep_about(was.stamp, stamp)
                    moved[id] = source.place(stamp, digest)
                else:
                    todo.append((source, stamp, digest))
                continue
            if source.id in claimed.values() and not source.named:
                source = self.rename(source)  # its item was moved elsewhere
            if digest and not source.texts and (digest in self._by_digest or digest in decoded):
                copies.append((source, stamp, digest))
            else:
                todo.append((source, stamp, digest))
                decoded.add(digest)
        return moved, todo, copies

    def _keep_whole(self, unsettled: list[Unsettled], claimed: dict[str, str]) -> dict[str, str]:
        """Those claims that leave no item behind whose file is another item now: a file that took
        the place of another is that one, changed.
        """
        own = {source.path_id: source.id for source, _, _ in unsettled if source.id in self.known}
        while True:
            moved = set(claimed.values())
            left = {file: id for file, id in claimed.items() if own.get(file, id) in moved}
            if len(left) == len(claimed):
                return left
            claimed = left

    def _claim(self, unsettled: list[Unsettled], present: set[str]) -> Iterator[tuple[str, str]]:
        """Files that are items whose own file is gone, or has another content now, as (the file,
        the item's id). Where several could be, the time, the id and the name decide, in this order.
        """
        places = Places()
        changed = {source.id for source, _, _ in unsettled}
        free: dict[str, list[str]] = {}
        for digest in {digest for _, _, digest in unsettled if digest}:
            for id in self._by_digest.get(digest, []):
                file = self.known[id].source
                assert file is not None
                if id not in present and (id in changed or not places.holds(file)):
                    free.setdefault(digest, []).append(id)
        waiting = [
            (source, stamp, digest)
            for source, stamp, digest in unsettled
            if digest in free and not source.named
        ]
        for key in CLAIM_KEYS:
            offered: dict[tuple[str, ...], list[str]] = {}
            for digest, ids in free.items():
                for id in ids:
                    known = self.known[id]
                    offered.setdefault((digest, *key(id, known.stamp, known.filename)), []).append(
                        id
                    )
            left = []
            for source, stamp, digest in waiting:
                found = offered.get((digest, *key(source.wanted_id, stamp, source.filename)))
                if not found:
                    left.append((source, stamp, digest))
                    continue
                id = found.pop(0)
                free[digest].remove(id)
                yield source.path_id, id
            waiting = left


Key = Callable[[str, str, str | None], tuple[str, ...]]  # of an id, a stamp and a file name


def file_time(stamp: str) -> str:
    parts = Stamp.read(stamp)
    return parts.time if parts is not None else ""


CLAIM_KEYS: tuple[Key, ...] = (
    lambda id, stamp, name: (file_time(stamp), id),
    lambda id, stamp, name: (file_time(stamp), name or ""),
    lambda id, stamp, name: (file_time(stamp),),
    lambda id, stamp, name: (id,),
    lambda id, stamp, name: (name or "",),
    lambda id, stamp, name: (),
)


def fits(was: str, now: str, told: bool) -> bool:
    """Whether the vectors of an item are those that its file would get now: it is read in the same
    manner, and its texts and metadata are the same if they are `told` anew.
    """
    old = Stamp.read(was)
    new = Stamp.read(now)
    if old is None or new is None or old.manner != new.manner:
        return False
    return not told or old.description == new.description


def keep_about(was: str, now: str) -> str:
    """The stamp that a file has now, with what an earlier one says of its texts and metadata."""
    old = Stamp.read(was)
    new = Stamp.read(now)
    assert old is not None and new is not None
    return f"{new.size}:{new.time}:{new.offset}:{old.about}"
