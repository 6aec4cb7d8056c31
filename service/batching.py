"""Gathers single requests into batches. Knows nothing about models or HTTP."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .faults import Overloaded, ShuttingDown, TimedOut

Run = Callable[[str, NDArray[Any]], NDArray[np.float32]]
TURN = 4  # batches of a queue before one behind it gets its turn
OVERLOADED_S = 1  # until a full queue is worth asking again
# people's tokens in a lane that make a batch worth reading the weights for, beside another of
# theirs
MIN_BATCH_TOKENS = 40
SHORT_BATCH_TOKENS = 160  # tokens of that other one, at most: it will soon be done
# bulk leaves in so small a part of a batch while people have asked in the last seconds
BULK_SHARE, PEOPLE_S = 16, 2.0


@dataclass(frozen=True)
class QueueSpec:
    """One kind of array: what a row costs and what pads rows of differing length."""

    tokens: int | None = None  # of every row; None: rows are token ids, as long as they are
    pad: int = 0


class QueueKey(NamedTuple):
    """A queue's place in line: people's requests before bulk, the quickest lane first, short rows
    before long ones.
    """

    bulk: bool
    rank: int
    lane: str
    length: int


@dataclass
class Job:
    """Rows of one request and the future that its caller awaits."""

    array: NDArray[Any]
    cost: int
    future: asyncio.Future[NDArray[np.float32]]
    since: float = field(default_factory=time.monotonic)


class RoundRobinQueue:
    """Jobs by who asks, each in turn."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, deque[Job]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._of)

    def add(self, who: str, job: Job) -> None:
        self._of.setdefault(who, deque()).append(job)

    def next(self) -> Job:
        return next(iter(self._of.values()))[0]

    def take(self) -> Job:
        """The job of `next`; whose it was asks again behind everyone else."""
        who, jobs = next(iter(self._of.items()))
        job = jobs.popleft()
        self._of.move_to_end(who)
        if not jobs:
            del self._of[who]
        return job


class Running(NamedTuple):
    """What a thread of the device is at."""

    order: QueueKey
    jobs: list[Job]

    @property
    def tokens(self) -> int:
        return sum(job.cost for job in self.jobs)


@dataclass(frozen=True)
class Batch:
    """What has been run together."""

    lane: str
    rows: int
    seconds: float
    waits: list[float]  # of each job in the queue, seconds


def stack(arrays: Sequence[NDArray[Any]], pad: int = 0) -> NDArray[Any]:
    """Arrays [n, ...] one below the other; rows of differing length are padded.

    >>> stack([np.array([[1, 2]]), np.array([[3]])], pad=9).tolist()
    [[1, 2], [3, 9]]
    """
    if len({a.shape[1:] for a in arrays}) == 1:
        return np.concatenate(arrays)
    width = max(a.shape[1] for a in arrays)
    return np.concatenate(
        [np.pad(a, ((0, 0), (0, width - a.shape[1])), constant_values=pad) for a in arrays]
    )


class Batcher:
    """Queues by lane and length, the lanes given first going first; one batch at a time on the
    device, and beside it one of the lanes that are `quick`, which then need not wait for a long
    one.

    A batch leaves when the device is free, with what waits in its queue up to `max_tokens`, taken
    from those who ask in turn: the device's own threads take it, so that the device never waits for
    the event loop. Beside a short batch of its lane it leaves once it is worth it (`MIN_BATCH_TOKENS`). What
    nobody waits for any more is dropped. A batch that fails is halved until the row that fails is
    alone. Every future is completed on every path, shutdown included.
    """

    def __init__(
        self,
        run: Run,
        lanes: Mapping[str, QueueSpec],
        max_tokens: int,
        max_waiting: int,
        observe: Callable[[Batch], None] = lambda batch: None,
        quick: Collection[str] = (),
    ) -> None:
        self._run, self._lanes, self._observe = run, lanes, observe
        self._max_tokens, self._max_waiting = max_tokens, max_waiting
        self._ranks = {lane: rank for rank, lane in enumerate(lanes)}
        self._loop = asyncio.get_running_loop()
        # held by whoever looks at the queues; told of every change
        self._work = threading.Condition()
        self._queues: dict[QueueKey, RoundRobinQueue] = {}
        self._waiting = {(bulk, lane): 0 for lane in lanes for bulk in (False, True)}
        self._running: dict[str, Running] = {}  # by thread
        self._moved: dict[str, float] = {}  # when each thread last began to run something
        self.failing = 0  # batches that failed, one after the other
        self._asked = -PEOPLE_S  # when somebody other than bulk did
        self._closing = False
        own: dict[str, Callable[[QueueKey], bool]] = {"encode": lambda order: True}
        if quick:
            own["encode-quick"] = lambda order: order.lane in quick and not order.bulk
        self._threads = [
            threading.Thread(target=self._serve, args=(name, mine), name=name, daemon=True)
            for name, mine in own.items()
        ]
        for thread in self._threads:
            thread.start()

    async def submit(
        self,
        lane: str,
        array: NDArray[Any],
        who: str = "",
        bulk: bool = False,
        max_s: float | None = None,
    ) -> NDArray[np.float32]:
        """Rows [n, ...] to vectors [n, dim], in company. `who` asks has turns with others; `bulk`
        goes behind everyone, and is never refused for want of room.

        Raises:
            Overloaded: too many tokens wait already.
            TimedOut: it was not done within `max_s`.
            ShuttingDown: it has been closed.
            Whatever running these rows alone raises.
        """
        each = self._lanes[lane].tokens or array.shape[1]
        cost = each * len(array)
        rows = max(1, self._max_tokens // (BULK_SHARE if bulk else 1) // max(each, 1))
        pieces = [array[i : i + rows] for i in range(0, len(array), rows)]
        jobs = [Job(piece, each * len(piece), self._loop.create_future()) for piece in pieces]
        length = 0 if self._lanes[lane].tokens else 1 << (array.shape[1] - 1).bit_length()
        with self._work:
            if self._closing:
                raise ShuttingDown
            if (
                not bulk
                and (wait := self._waiting[False, lane])
                and wait + cost > self._max_waiting
            ):
                raise Overloaded(lane, OVERLOADED_S)
            if not bulk:
                self._asked = time.monotonic()
            queue = self._queues.setdefault(
                QueueKey(bulk, self._ranks[lane], lane, length), RoundRobinQueue()
            )
            for job in jobs:
                queue.add(who, job)
            self._waiting[bulk, lane] += cost
            self._work.notify_all()
        late = None if max_s is None else self._loop.call_later(max_s, fail, jobs, TimedOut(max_s))
        try:
            return np.concatenate([await job.future for job in jobs])
        finally:
            if late is not None:
                late.cancel()
            for job in jobs:  # a caller that went away takes its rows with it
                if not job.future.cancel() and not job.future.cancelled():
                    job.future.exception()  # seen: more than one piece may have failed

    def waiting(self) -> dict[str, int]:
        """Tokens that wait, by lane."""
        return {
            lane: self._waiting[False, lane] + self._waiting[True, lane] for lane in self._lanes
        }

    @property
    def stuck_s(self) -> float:
        """How long the batch has been on the device that is there longest, or, where there is none,
        what waits has waited; more than anything if a thread of the device has died.
        """
        if not self._closing and not all(thread.is_alive() for thread in self._threads):
            return float("inf")
        with self._work:
            now, running = time.monotonic(), [self._moved[name] for name in self._running]
            waiting = [queue.next().since for queue in self._queues.values() if queue]
        return now - min(running, default=min(waiting, default=now))

    async def close(self, drain_s: float = 5.0) -> None:
        """Serve what waits for a while, then fail the rest."""
        end = time.monotonic() + drain_s
        with self._work:
            self._closing = True
            self._work.notify_all()
        for thread in self._threads:
            await asyncio.to_thread(thread.join, max(0.0, end - time.monotonic()))
        with self._work:
            for queue in self._queues.values():
                while queue:
                    fail([queue.take()], ShuttingDown())
            self._waiting = dict.fromkeys(self._waiting, 0)
            for running in self._running.values():
                fail(running.jobs, ShuttingDown())

    def _serve(self, name: str, mine: Callable[[QueueKey], bool]) -> None:
        """What a thread of the device does, with the queues that are its own."""
        for turn in count(1):
            with self._work:
                if self._running.pop(name, None) and any(self._waiting.values()):
                    self._work.notify_all()  # what was too little beside it
                while (order := self._next(mine, turn)) is None:
                    if self._closing:
                        return
                    self._work.wait()
                jobs = self._take(order)
                self._running[name] = Running(order, jobs)
                self._moved[name] = time.monotonic()
            self._answer(order.lane, jobs)

    def _next(self, mine: Callable[[QueueKey], bool], served: int) -> QueueKey | None:
        """The first queue with work; now and then one behind it, each in turn, so that no queue
        starves.
        """
        busy = sorted(
            o for o, queue in self._queues.items() if queue and mine(o) and not self._too_few(o)
        )
        if not busy:
            return None
        turn, rest = divmod(served, TURN)
        behind = busy[1:]
        return behind[turn % len(behind)] if behind and rest == 0 else busy[0]

    def _too_few(self, order: QueueKey) -> bool:
        """Whether it had better wait for others, until a short batch of its lane that is being run
        has ended. Bulk does not wait, as it never would be its turn, nor does anyone for bulk.
        """
        if order.bulk or self._closing or self._waiting[False, order.lane] >= MIN_BATCH_TOKENS:
            return False
        return any(
            running.order.lane == order.lane
            and not running.order.bulk
            and running.tokens <= SHORT_BATCH_TOKENS
            for running in self._running.values()
        )

    def _take(self, order: QueueKey) -> list[Job]:
        """What leaves now: live jobs up to `max_tokens`; of bulk less, where people would wait for
        it.
        """
        taken: list[Job] = []
        tokens, queue, most = 0, self._queues[order], self._max_tokens
        if order.bulk and time.monotonic() - self._asked < PEOPLE_S:
            most //= BULK_SHARE
        while queue and (not taken or tokens + queue.next().cost <= most):
            job = queue.take()
            self._waiting[order.bulk, order.lane] -= job.cost
            if not job.future.done():
                taken.append(job)
                tokens += job.cost
        return taken

    def _answer(self, lane: str, jobs: list[Job]) -> None:
        jobs = [job for job in jobs if not job.future.done()]
        if not jobs:
            return
        began = self._moved[threading.current_thread().name] = time.monotonic()
        try:
            array = stack([job.array for job in jobs], self._lanes[lane].pad)
            vectors = self._run(lane, array)
            if len(vectors) != len(array):
                raise RuntimeError(f"{len(array)} rows gave {len(vectors)} vectors")
        except Exception as error:
            if len(jobs) == 1:
                self.failing += 1
                self._tell(fail, jobs, error)
            else:
                self._answer(lane, jobs[: len(jobs) // 2])
                self._answer(lane, jobs[len(jobs) // 2 :])
            return
        took, self.failing = time.monotonic() - began, 0
        self._tell(deliver, jobs, vectors)
        self._observe(Batch(lane, len(array), took, [began - job.since for job in jobs]))

    def _tell(self, what: Callable[..., None], *args: Any) -> None:
        """Have something done by the event loop, unless that has ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(what, *args)


def deliver(jobs: list[Job], vectors: NDArray[np.float32]) -> None:
    """Give each job its rows."""
    at = 0
    for job in jobs:
        if not job.future.done():
            job.future.set_result(vectors[at : at + len(job.array)])
        at += len(job.array)


def fail(jobs: list[Job], error: Exception) -> None:
    for job in jobs:
        if not job.future.done():
            job.future.set_exception(error)
