"""Import jobs of a running service, asked for over HTTP; for a folder that is followed, one after
the other.

CannotImport    it refused, or what answers is no such service
NoAnswer        it does not answer, or asks to come back later
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from ..collection import CollectionError
from .names import make_printable
from .walk import walk
from .watch import Changed, follow

NO_TERCET = "what answers there is no Tercet"
TIMEOUT_S = 30.0
LATER = (429, 502, 503, 504)
LOOPBACK = ("localhost", "127.0.0.1", "::1")
POLL_S = 0.5  # between looks at a job
ENDED = ("done", "failed", "cancelled")
UNKNOWN = 404
AFTER_S = 5.0  # before a service that did not answer is asked again
ONE_BY_ONE = 8  # files that get a job each; of more, their common folder does


class CannotImport(CollectionError):
    detail_fields = ("url", "problem")

    def __init__(self, url: str, problem: str, status: int = 200) -> None:
        super().__init__(f"the service at {url} did not take the job: {problem}")
        self.url = url
        self.problem = problem
        self.status = status


class NoAnswer(CollectionError):
    detail_fields = ("url", "problem")

    def __init__(self, url: str, problem: str, after_s: float = AFTER_S) -> None:
        super().__init__(f"the service at {url} is not to be had now: {problem}")
        self.url = url
        self.problem = problem
        self.after_s = after_s


@dataclass(frozen=True)
class Remote:
    """A service, and the key that it asks for."""

    url: str
    key: str | None
    collection: str

    def start(self, path: str) -> str:
        """Have it import a path below its import folder; returns the job's id.

        Raises:
            CannotImport, NoAnswer.
        """
        asked = {"kind": "import", "collection": self.collection, "path": path}
        return str(self._ask("POST", "/v1/jobs", asked)["id"])

    def job(self, id: str) -> dict[str, Any]:
        """How far a job is. Raises CannotImport, NoAnswer."""
        return self._ask("GET", f"/v1/jobs/{id}")

    def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        headers = {"content-type": "application/json"}
        if self.key:
            headers["authorization"] = f"Bearer {self.key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url.rstrip("/") + path, data=data, headers=headers, method=method
        )
        # a proxy of the environment does not know this machine's own services
        direct = urlsplit(self.url).hostname in LOOPBACK
        opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if direct else []))
        try:
            with opener.open(request, timeout=TIMEOUT_S) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            message = read_message(error)
            if error.code in LATER:
                after = error.headers.get("retry-after", "")
                after_s = float(after) if after.isdigit() else AFTER_S
                raise NoAnswer(self.url, message, after_s) from error
            raise CannotImport(self.url, message, error.code) from error
        except (OSError, http.client.IncompleteRead) as error:
            raise NoAnswer(self.url, str(error)) from error
        except (ValueError, http.client.HTTPException) as error:  # no JSON, or no HTTP
            raise CannotImport(self.url, NO_TERCET) from error
        if not isinstance(found, dict):
            raise CannotImport(self.url, NO_TERCET)
        return found


def read_message(error: urllib.error.HTTPError) -> str:
    """What an answer says is wrong."""
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"status {error.code}"


def choose_paths(files: list[PurePosixPath]) -> list[str]:
    """The paths to import for files that changed: each, or where they are many their common folder.

    >>> choose_paths([PurePosixPath("a/1.wav"), PurePosixPath("a/2.wav")])
    ['a/1.wav', 'a/2.wav']
    >>> choose_paths([PurePosixPath(f"a/{n}.wav") for n in range(9)])
    ['a']
    """
    if len(files) <= ONE_BY_ONE:
        return [str(file) for file in files]
    parents = [file.parent.parts for file in files]
    common = []
    for parts in zip(*parents, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return [str(PurePosixPath(*common))]


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
    """What to import, by paths below the import folder: of what changed in a folder, that which its
    own import would take. A service takes each path that it is told.
    """
    if changed is None:
        return [str(below)]
    if root.is_dir():
        changed = frozenset(found.path for found in walk(root, only=changed).files)
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
