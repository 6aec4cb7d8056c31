"""What a collection has learned from kept marks: adapters, and their versions on disk.

An adapter moves queries that are like marked ones. Its versions lie in a folder beside the records,
and the last one serves. The list of versions is read anew when it has changed, so that a running
service follows what a command writes.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import logging
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.bundle import Joint

from .durable import write_durably

Vectors = NDArray[np.float32]
LEARNED = "learned"  # in a collection's folder
VERSIONS = "versions.json"  # there
LOCK = "lock"  # there
FORMAT = 1
# Two queries are alike by exp((cosine - 1) / WIDTH).
WIDTH = 0.3
# Of a ridge regression: a marked query is moved nearly as its marks say.
PENALTY = 0.1
# A query that would be moved by less stays exactly as it is.
LEAST_MOVE = 0.1
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QueryMoves:
    """How queries of one route are moved: by sum_i exp((q . anchors_i - 1) / WIDTH) weights_i, for
    anchors [n, dim] and weights [n, dim].
    """

    anchors: Vectors
    weights: Vectors

    def move(self, query: Vectors) -> Vectors | None:
        """A unit query [dim], moved, at length one; None where it is unlike any marked one."""
        move = likeness(query[None], self.anchors)[0] @ self.weights
        if float(np.linalg.norm(move)) < LEAST_MOVE:
            return None
        moved = query + move
        return np.asarray(moved / max(float(np.linalg.norm(moved)), 1e-12), np.float32)


def likeness(queries: Vectors, others: Vectors) -> Vectors:
    """How alike unit queries are, [n, m]: 1 for the same."""
    return np.asarray(np.exp((queries @ others.T - 1.0) / WIDTH), np.float32)


def fit_moves(queries: Vectors, moves: Vectors, replay: Vectors) -> QueryMoves:
    """Kernel ridge regression (Saunders, Gammerman and Vovk, 1998): marked queries [n, dim] get
    their moves [n, dim], and queries that are replayed [m, dim] none. So what these find stays.
    """
    anchors = np.concatenate([queries, replay])
    wanted = np.concatenate([moves, np.zeros_like(replay)])
    kernel = likeness(anchors, anchors) + PENALTY * np.eye(len(anchors), dtype=np.float32)
    return QueryMoves(anchors, np.asarray(np.linalg.solve(kernel, wanted), np.float32))


def route_name(source: str, target: str | Joint) -> str:
    """A route from an encoding of queries to a target, as one string.

    >>> route_name("text", Joint("video", "audio", 0.5))
    'text>video+audio'
    """
    name = f"{target.video}+{target.audio}" if isinstance(target, Joint) else target
    return f"{source}>{name}"


@dataclass(frozen=True)
class Adapter:
    """What was learned, by `route_name`."""

    routes: Mapping[str, QueryMoves]

    def move(self, source: str, target: str | Joint, query: Vectors) -> Vectors | None:
        """A unit query [dim] of a route, moved; None where nothing was learned of such queries."""
        moves = self.routes.get(route_name(source, target))
        return None if moves is None else moves.move(query)

    def to_bytes(self) -> bytes:
        arrays = {}
        for name, moves in self.routes.items():
            arrays[f"{name}/anchors"] = moves.anchors
            arrays[f"{name}/weights"] = moves.weights
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Adapter:
        """Raises ValueError, KeyError, zipfile.BadZipFile."""
        routes = {}
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            for name in arrays.files:
                route, _, part = name.rpartition("/")
                if part == "anchors":
                    routes[route] = QueryMoves(arrays[name], arrays[f"{route}/weights"])
        return cls(routes)


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of what was learned. `sha256` is of its file, `measured` what it was worth."""

    file: str
    sha256: str
    fingerprint: str
    created: float
    marks: int
    queries: int
    measured: dict[str, Any] = field(default_factory=dict)


class Adapters:
    """The versions of one collection's adapters. `fingerprint` is of the bundle that serves."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder = folder / LEARNED
        self._list = self._folder / VERSIONS
        self._fingerprint = fingerprint
        self._stamp: tuple[int, ...] | None = None
        self._adapter: Adapter | None = None

    def versions(self) -> list[Version]:
        """The versions there are, the last one serves."""
        try:
            document = json.loads(self._list.read_text("utf-8"))
            return [Version(**one) for one in document["versions"]]
        except FileNotFoundError:
            return []

    def current(self) -> Adapter | None:
        """The adapter that serves; None where nothing is learned, or what was cannot be used."""
        try:
            found = self._list.stat()
        except FileNotFoundError:
            self._stamp = None
            self._adapter = None
            return None
        except OSError as error:
            if self._stamp != ():
                log.warning("what was learned in %s cannot be read: %s", self._folder, error)
            self._stamp = ()
            self._adapter = None
            return None
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if stamp != self._stamp:
            self._stamp = stamp
            self._adapter = self._read()
        return self._adapter

    def _read(self) -> Adapter | None:
        """The last version. One that is altered, or of another bundle, is not used."""
        try:
            versions = self.versions()
            if not versions:
                return None
            last = versions[-1]
            if last.fingerprint != self._fingerprint:
                log.warning("what was learned in %s is of another bundle", self._folder)
                return None
            data = (self._folder / last.file).read_bytes()
            if hashlib.sha256(data).hexdigest() != last.sha256:
                log.warning("%s is not what was learned: it has changed", self._folder / last.file)
                return None
            return Adapter.from_bytes(data)
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            log.warning("what was learned in %s cannot be read: %s", self._folder, error)
            return None

    def add(
        self, adapter: Adapter, *, created: float, marks: int, queries: int, measured: Any
    ) -> Version:
        """Have an adapter serve from now on. It is on the disk when this returns."""
        self._folder.mkdir(exist_ok=True)
        data = adapter.to_bytes()
        version = Version(
            file=f"{uuid.uuid4().hex}.npz",
            sha256=hashlib.sha256(data).hexdigest(),
            fingerprint=self._fingerprint,
            created=created,
            marks=marks,
            queries=queries,
            measured=asdict(measured),
        )
        with self._changing():
            write_durably(self._folder / version.file, data)
            self._write([*self.versions(), version])
        return version

    def undo(self) -> Version | None:
        """Have the version before the last serve again, or none; returns the one taken away."""
        if not self.versions():
            return None
        with self._changing():
            versions = self.versions()
            if not versions:
                return None
            last = versions.pop()
            self._write(versions)
            (self._folder / last.file).unlink(missing_ok=True)
        return last

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Be the only process that changes the list. Others wait."""
        with (self._folder / LOCK).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, versions: list[Version]) -> None:
        document = {"format": FORMAT, "versions": [asdict(one) for one in versions]}
        write_durably(self._list, (json.dumps(document, indent=1) + "\n").encode())
