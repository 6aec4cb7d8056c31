"""`build --watch`: folders are followed as they change, into a data folder that this process holds
or by import jobs of a running service.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from .ingest.names import make_printable
from .ingest.remote import CannotImport, NoAnswer, Remote, choose_paths
from .ingest.watch import Changed, follow

POLL_S = 0.5  # between looks at a job
ENDED = ("done", "failed", "cancelled")
UNKNOWN = 404


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
            if stop.wait(POLL_S):
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


def post_changes(
    remote: Remote,
    root: Path,
    below: str,
    stop: threading.Event,
    tell: Callable[[dict[str, Any]], None],
) -> None:
    """Have a service import what changes in a folder, which is its import folder, or the folder
    `below` in there. Each job that has ended is told. Files whose service is away for a while are
    not lost.

    Raises:
        CannotWatch, CannotImport.
    """
    for changed in follow([root], stop):
        for path in list_paths(changed, root.resolve(), PurePosixPath(below)):
            try:
                job = import_path(remote, path, stop)
            except CannotImport as error:
                if changed is None or error.status != UNKNOWN:
                    raise
                print(f"{make_printable(path)}: {error}", file=sys.stderr)
                continue
            if job is not None:
                tell(job)


def list_paths(changed: Changed, root: Path, below: PurePosixPath) -> list[str]:
    """What to import, by paths below the import folder."""
    if changed is None:
        return [str(below)]
    files = []
    for file in sorted(changed):
        path = below / file.relative_to(root).as_posix()
        while not is_text(str(path)):  # which JSON cannot name
            path = path.parent
        files.append(path)
    return choose_paths(list(dict.fromkeys(files)))


def is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def import_path(remote: Remote, path: str, stop: threading.Event) -> dict[str, Any] | None:
    """A job that has ended; None where `stop` was set before. A service that is away is waited
    for.

    Raises:
        CannotImport.
    """
    id = ""
    while not stop.is_set():
        try:
            id = id or remote.start(path)
            job = remote.job(id)
        except NoAnswer as error:
            print(f"{error}; trying again in {error.after_s:g} s", file=sys.stderr)
            stop.wait(error.after_s)
            continue
        if job["state"] in ENDED:
            return job
        stop.wait(POLL_S)
    return None
