"""Follows folders as they change. What was added or changed is handed on once it is whole: when its
size and time have stayed for a while. Nothing is removed, and nothing is known here of what is
done with the files.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

from watchfiles import watch

from media.subtitles import find_spoken

from ..collection import CollectionError

SETTLE_S = 2.0  # how long a file stays as it is before it counts as whole
RESCAN_S = 3600.0  # between looks at everything: network storage tells of no changes
POLL_S = 10.0  # between looks for changes where the system's news of them cannot be read
POLL_SHARE = 0.1  # of the time, at most, that these looks take
TICK_S = 0.25
UNREAD = "Unable to decode path"  # how watchfiles' error for a name that is not UTF-8 begins
TOLD_MOST = 4096  # files that are named; of more, everything is looked at
Signature = tuple[int, int]  # a file's size and time of change
Changed = frozenset[Path] | None  # None: anything may have changed


class CannotWatch(CollectionError):
    detail_fields = ("problem",)

    def __init__(self, problem: str) -> None:
        super().__init__(f"the folder cannot be watched: {problem}")
        self.problem = problem


@dataclass
class Pending:
    """Files that changed, and since when each has been as it is."""

    clock: Callable[[], float] = time.monotonic
    settle_s: float = SETTLE_S
    _files: dict[Path, tuple[Signature, float]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._files)

    def note(self, paths: Iterable[Path]) -> None:
        """Wait for these files, for those in these folders, and for the media files whose subtitles
        these are: they are read anew where their subtitles are new, changed or gone.
        """
        changed = list(paths)
        for path in [*changed, *find_spoken(changed)]:
            for file in list_files(path):
                signature = read_signature(file)
                if signature is not None:
                    self._files[file] = signature, self.clock()

    def take_whole(self) -> frozenset[Path]:
        """The files that have stayed as they are for long enough; they are waited for no more."""
        now = self.clock()
        whole = set()
        for file, (was, since) in list(self._files.items()):
            signature = read_signature(file)
            if signature is None:
                del self._files[file]
            elif signature != was:
                self._files[file] = signature, now
            elif now - since >= self.settle_s:
                whole.add(file)
                del self._files[file]
        return frozenset(whole)


def list_files(path: Path) -> Iterator[Path]:
    """A path that is no folder, or everything below one. A folder that was moved here is told of,
    and not what it holds.
    """
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for folder, _, names in os.walk(path):
        for name in names:
            yield Path(folder) / name


def read_signature(file: Path) -> Signature | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def read_identity(path: Path) -> tuple[int, int] | None:
    """Changes when another folder, or another disk, is in a path's place; None where nothing can
    be read there, as where a network disk is away.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def wait_for(paths: list[Path], stop: threading.Event) -> None:
    """Return once all paths are there, or `stop` is set."""
    while any(read_identity(path) is None for path in paths) and not stop.wait(TICK_S):
        pass


class Watcher:
    """Collects the changes below some paths in a thread, from its beginning on. Changes below
    `ignored` do not count. It is `blind` once the system has told of a name that is not UTF-8,
    which watchfiles cannot read: it learns no more then.
    """

    def __init__(self, paths: list[Path], ignored: Path | None = None) -> None:
        self._paths = [path.resolve() for path in paths]
        self._ignored = None if ignored is None else ignored.resolve()
        self.blind = False
        self._stop = threading.Event()
        self._changes: SimpleQueue[set[Path] | CannotWatch] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for changes in watch(
                *self._paths,
                watch_filter=None,
                debounce=400,
                stop_event=self._stop,
                rust_timeout=500,
                raise_interrupt=False,
                ignore_permission_denied=True,
            ):
                self._changes.put({Path(path) for _, path in changes if self._counts(Path(path))})
        except (OSError, RuntimeError) as error:
            if str(error).startswith(UNREAD):
                self.blind = True
            else:
                self._changes.put(CannotWatch(str(error)))

    def _counts(self, path: Path) -> bool:
        return self._ignored is None or not path.is_relative_to(self._ignored)

    def take(self) -> set[Path]:
        """What has changed since the last call. Raises CannotWatch."""
        changed: set[Path] = set()
        while True:
            try:
                found = self._changes.get_nowait()
            except Empty:
                return changed
            if isinstance(found, CannotWatch):
                raise found
            changed |= found

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


class Poller:
    """Finds the changes below some paths by looking at everything now and then. It takes the place
    of a `Watcher` that is blind.
    """

    blind = False

    def __init__(self, paths: list[Path], ignored: Path | None, every_s: float) -> None:
        self._paths = [path.resolve() for path in paths]
        self._ignored = None if ignored is None else ignored.resolve()
        self._every_s = every_s
        self._files = self._look()

    def _look(self) -> dict[Path, Signature | None]:
        began = time.monotonic()
        files = {
            file: read_signature(file)
            for path in self._paths
            for file in list_files(path)
            if self._ignored is None or not file.is_relative_to(self._ignored)
        }
        now = time.monotonic()
        self._next = now + max(self._every_s, (now - began) / POLL_SHARE)
        return files

    def take(self) -> set[Path]:
        """What has changed since the last look, if it is time for another."""
        if time.monotonic() < self._next:
            return set()
        before = self._files
        self._files = self._look()
        gone = before.keys() - self._files.keys()
        return gone | {file for file, was in self._files.items() if before.get(file) != was}

    def close(self) -> None:
        pass


def follow(
    paths: list[Path],
    stop: threading.Event,
    ignored: Path | None = None,
    settle_s: float = SETTLE_S,
    poll_s: float = POLL_S,
) -> Iterator[Changed]:
    """Yields at once, and then whenever there are new or changed files that are whole, until `stop`
    is set. The first time, every hour, and when a folder is replaced (a disk is mounted, say),
    anything may have changed.

    Raises:
        CannotWatch: there are more folders than the system watches, say.
    """
    watcher: Watcher | Poller = Watcher(paths, ignored)
    try:
        while not stop.is_set():
            identities = [read_identity(path) for path in paths]
            scanned = time.monotonic()
            yield None
            pending = Pending(settle_s=settle_s)
            while not stop.wait(TICK_S):
                if [read_identity(path) for path in paths] != identities:
                    watcher.close()
                    wait_for(paths, stop)
                    watcher = Watcher(paths, ignored)
                    break
                if watcher.blind:
                    watcher.close()
                    watcher = Poller(paths, ignored, poll_s)
                    break
                pending.note(watcher.take())
                whole = pending.take_whole()
                if whole:
                    yield whole if len(whole) <= TOLD_MOST else None
                elif time.monotonic() - scanned > RESCAN_S:
                    break
    finally:
        watcher.close()


@contextmanager
def stop_at_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, in place of what they do otherwise."""
    stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def call_at(stop: threading.Event, action: Callable[[], None]) -> Iterator[None]:
    """Have something done as soon as `stop` is set, in a thread, and at the end in any case."""
    over = threading.Event()

    def wait() -> None:
        while not over.is_set():
            if stop.wait(TICK_S):
                action()
                return

    thread = threading.Thread(target=wait, name="stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        action()
