"""The jobs of a data folder: which wait, how far the one is that runs, what became of the others.

A job is long work on a user's behalf. There is one kind, the import of a folder: `folder_import`
does it. Each is kept in a file of its own, so that it goes on after a restart.

JobError
├── NoImports      no import folder is configured
├── UnknownPath    a path that leads out of it, or to nothing
├── TooManyJobs    as many as may wait already
└── UnknownJob
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Literal, Protocol

from pydantic import TypeAdapter, ValidationError

from index.durable import write_durably

LOG = logging.getLogger("tercet.jobs")
LISTED_MAX = 100  # failures of a job, and warnings; all are counted
ENDED_MAX = 500  # jobs that have ended and are kept, the latest of them
WAITING_MAX = 100  # jobs that have not ended
SAVE_EVERY_S = 1.0  # how far a job is
JobState = Literal["queued", "running", "done", "failed", "cancelled"]


class JobError(Exception):
    """What is wrong with a request about jobs."""


class NoImports(JobError):
    def __init__(self) -> None:
        super().__init__("No import folder is configured. Set TERCET_IMPORTS.")


class UnknownPath(JobError):
    detail_fields = ("path",)

    def __init__(self, path: str) -> None:
        super().__init__(f"Nothing is at {path!r} in the import folder.")
        self.path = path


class TooManyJobs(JobError):
    retry_s = 60
    detail_fields = ("limit",)

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} jobs are waiting already. Try again later.")
        self.limit = limit


class UnknownJob(JobError):
    detail_fields = ("id",)

    def __init__(self, id: str) -> None:
        super().__init__(f"No job {id!r}.")
        self.id = id


@dataclass(frozen=True)
class Failure:
    source: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job and how far it is. Times are seconds since 1970."""

    id: str
    kind: Literal["import"]
    collection: str
    path: str  # below the import folder
    created: float
    state: JobState = "queued"
    done: int = 0
    total: int = 0
    indexed: int = 0
    unchanged: int = 0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)
    warned: int = 0  # indexed, but with words that are not known
    warnings: list[Failure] = field(default_factory=list)
    moved: int = 0  # unchanged, at another path than before
    copied: int = 0  # indexed, with the vectors of an item of the same content
    changed: int = 0  # indexed, in place of what their items held before
    left_out: dict[str, int] = field(default_factory=dict)  # files and folders, by kind
    gone: int = 0  # items whose files are not there any more
    gone_ids: list[str] = field(default_factory=list)  # of the first of them
    error: str | None = None  # why the whole job failed
    finished: float | None = None

    @property
    def ended(self) -> bool:
        return self.state not in ("queued", "running")


STORED_JOB = TypeAdapter(Job)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a job is."""

    done: int
    total: int
    indexed: int
    unchanged: int
    failed: int
    failures: list[Failure]
    warned: int = 0
    warnings: list[Failure] = field(default_factory=list)
    moved: int = 0
    copied: int = 0
    changed: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    gone: int = 0
    gone_ids: list[str] = field(default_factory=list)


class Work(Protocol):
    """Does a job, and yields how far it is."""

    def __call__(self, job: Job) -> Iterator[Progress]: ...

    def stop(self) -> None:
        """Called from another thread: end the job soon."""
        ...


def below(root: Path | None, path: str) -> Path:
    """A path below the import folder, resolved. Raises NoImports, UnknownPath."""
    if root is None:
        raise NoImports
    try:
        found = (root / path).resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UnknownPath(path) from error
    if not found.is_relative_to(root.resolve()):
        raise UnknownPath(path)
    return found


class Jobs:
    """The jobs of a data folder, done one after the other by a thread of their own."""

    def __init__(
        self,
        folder: Path,
        work: Work,
        public_message: Callable[[Exception], str] = str,
        clock: Callable[[], float] = time.time,
        on_end: Callable[[Job], None] = lambda job: None,
    ) -> None:
        """`public_message` returns what clients may read of an error, `clock` seconds since 1970.
        `on_end` is told of each job that has ended.
        """
        self._folder = folder
        self._work = work
        self._public_message = public_message
        self._clock = clock
        self._on_end = on_end
        self._folder.mkdir(exist_ok=True)
        self._lock = threading.RLock()
        self._stopping = False
        self._jobs = {job.id: job for job in sorted(self._stored(), key=lambda job: job.created)}
        self._cancelled: set[str] = set()
        self._queue: SimpleQueue[str | None] = SimpleQueue()
        for job in self._jobs.values():
            if not job.ended:
                self._queue.put(job.id)
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self._thread.start()

    def _stored(self) -> Iterator[Job]:
        for file in self._folder.glob("*.json"):
            try:
                job = STORED_JOB.validate_json(file.read_bytes())
            except OSError as error:
                LOG.warning("%s cannot be read: %s", file.name, error.strerror)
                continue
            except ValidationError as error:
                LOG.warning("%s is not a job: %s", file.name, error.errors()[0]["msg"])
                continue
            if job.id == file.stem:
                yield job
            else:
                LOG.warning("%s is not a job: it has the id %s", file.name, job.id)

    @property
    def alive(self) -> bool:
        return self._stopping or self._thread.is_alive()

    def all(self) -> list[Job]:
        """The latest first."""
        with self._lock:
            return list(reversed(self._jobs.values()))

    def get(self, id: str) -> Job:
        with self._lock:
            if id not in self._jobs:
                raise UnknownJob(id)
            return self._jobs[id]

    def add(self, collection: str, path: str) -> Job:
        """A new job, on disk when this returns. Where the same one waits already, that one.

        Raises TooManyJobs.
        """
        with self._lock:
            waiting = [job for job in self._jobs.values() if not job.ended]
            for job in waiting:
                if (job.collection, job.path, job.state) == (collection, path, "queued"):
                    return job
            if len(waiting) >= WAITING_MAX:
                raise TooManyJobs(WAITING_MAX)
            job = Job(
                id=uuid.uuid4().hex,
                kind="import",
                collection=collection,
                path=path,
                created=self._clock(),
            )
            self._write(job)
            self._jobs[job.id] = job
        self._queue.put(job.id)
        return job

    def cancel(self, id: str) -> None:
        """End a job; it does not go on after a restart either. What it has indexed stays. One that
        has ended already is forgotten.

        Raises UnknownJob.
        """
        with self._lock:
            job = self.get(id)
            if job.ended:
                self._forget(id)
                return
            self._cancelled.add(id)
            if job.state == "queued":
                self._end(job, "cancelled")
            else:
                self._keep(job)

    def close(self, wait_s: float = 10.0) -> None:
        """Stop. The running job goes on when the folder is opened again."""
        self._stopping = True
        self._queue.put(None)
        self._work.stop()
        self._thread.join(wait_s)

    def _write(self, job: Job) -> None:
        if job.state == "running" and job.id in self._cancelled:
            # it runs until its next step, or until a restart
            job = replace(job, state="cancelled", finished=self._clock())
        write_durably(self._folder / f"{job.id}.json", json.dumps(asdict(job)).encode())

    def _end(self, job: Job, state: JobState) -> None:
        ended = replace(job, state=state, finished=self._clock())
        self._keep(ended)
        self._on_end(ended)

    def _keep(self, job: Job) -> None:
        """Remember how far a job is, on disk too. Where the disk cannot be written, the job is done
        again after a restart.
        """
        with self._lock:
            self._jobs[job.id] = job
            try:
                self._write(job)
                ended = [id for id, kept in self._jobs.items() if kept.ended]
                for id in ended[:-ENDED_MAX]:
                    self._forget(id)
            except OSError as error:
                LOG.warning("job %s could not be written: %s", job.id, error.strerror)

    def _forget(self, id: str) -> None:
        self._jobs.pop(id, None)
        (self._folder / f"{id}.json").unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._stopping:
            id = self._queue.get()
            if id is None:
                return
            with self._lock:
                job = self._jobs.get(id)
                if job is None or job.ended:
                    continue
                job = replace(job, state="running", error=None)
                self._keep(job)
            self._do(job)
            self._cancelled.discard(id)

    def _do(self, job: Job) -> None:
        saved = self._clock()
        try:
            for progress in self._work(job):
                job = replace(job, **vars(progress))
                if self._stopping:
                    return
                if job.id in self._cancelled:
                    self._end(job, "cancelled")
                    return
                now = self._clock()
                if abs(now - saved) > SAVE_EVERY_S:  # the clock may have been set back
                    self._keep(job)
                    saved = now
                else:
                    with self._lock:
                        self._jobs[job.id] = job
            self._end(job, "done")
        except Exception as error:  # it ends this job, not the thread
            if self._stopping:
                return
            LOG.exception("job %s failed", job.id)
            self._end(replace(job, error=self._public_message(error)), "failed")
