"""What one caller sees of the collections and the jobs. What a key may not see is answered as what
is not there.
"""

from __future__ import annotations

from dataclasses import dataclass

from index.collection import Collection, UnknownCollection
from index.library import Collections, Conflict

from .exceptions import LimitedKey
from .jobs import Job, Jobs, UnknownJob


@dataclass(frozen=True)
class VisibleCollections:
    """The collections of these names; None: all."""

    all_of_them: Collections
    names: frozenset[str] | None = None

    def shows(self, name: str) -> bool:
        return self.names is None or name in self.names

    @property
    def conflicts(self) -> dict[str, Conflict]:
        """Those that could not be opened, and why."""
        found = self.all_of_them.conflicts.items()
        return {name: conflict for name, conflict in found if self.shows(name)}

    def all(self) -> list[Collection]:
        return [one for one in self.all_of_them.all() if self.shows(one.name)]

    def get(self, name: str) -> Collection:
        """Raises UnknownCollection, FingerprintConflict, RecordsLost, UnknownSchema."""
        if not self.shows(name):
            raise UnknownCollection(name)
        return self.all_of_them.get(name)

    def create(self, name: str) -> Collection:
        """Raises LimitedKey, BadName, CollectionExists."""
        if not self.shows(name):
            raise LimitedKey
        return self.all_of_them.create(name)

    def delete(self, name: str) -> None:
        """Raises UnknownCollection."""
        if not self.shows(name):
            raise UnknownCollection(name)
        self.all_of_them.delete(name)


@dataclass(frozen=True)
class VisibleJobs:
    """The jobs of the collections that are seen."""

    all_of_them: Jobs
    collections: VisibleCollections

    def all(self) -> list[Job]:
        """The latest first."""
        return [job for job in self.all_of_them.all() if self.collections.shows(job.collection)]

    def get(self, id: str) -> Job:
        """Raises UnknownJob."""
        job = self.all_of_them.get(id)
        if not self.collections.shows(job.collection):
            raise UnknownJob(id)
        return job

    def add(self, collection: str, path: str) -> Job:
        """Raises UnknownCollection, TooManyJobs."""
        self.collections.get(collection)
        return self.all_of_them.add(collection, path)

    def cancel(self, id: str) -> None:
        """Raises UnknownJob."""
        self.get(id)
        self.all_of_them.cancel(id)
