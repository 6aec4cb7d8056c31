"""Gathers single requests into batches. Knows nothing about models or HTTP."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .exceptions import Overloaded, ShuttingDown, TimedOut

Run = Callable[[str, NDArray[Any]], NDArray[np.float32]]
FIRST_QUEUE_BATCHES = 4  # of these batches, the last is from a queue behind the first
RETRY_S = 1  # when to ask again after a full queue
# Reading the weights for a small batch beside a running one is worth it from this many tokens.
MIN_BATCH_TOKENS = 30
# A call of the encoder costs, beside its tokens, about as much as this many.
CALL_TOKENS = 16
# Texts of up to this many tokens share a queue. Longer ones share it with those about as long.
SHORT_TEXT_TOKENS = 16
# A running batch of no more tokens will soon be done: waiting for it costs little.
SHORT_BATCH_TOKENS = 160
# Background batches are this many times smaller while interactive requests are recent.
BACKGROUND_SHARE = 16
INTERACTIVE_S = 2.0


@dataclass(frozen=True)
class QueueSpec:
    """The arrays of one encoding: what a row costs, and what pads rows of differing length."""

    tokens: int | None = None  # of every row; None: rows are token ids, and cost their length
    pad: int = 0


class QueueKey(NamedTuple):
    """A queue's place in line: interactive before background, then by encoding, then by length."""

    background: bool
    rank: int  # of the encoding
    encoding: str
    length: int


@dataclass(kw_only=True)
class PendingRows:
    """Rows of one request, and the future that its caller awaits."""

    array: NDArray[Any]
    tokens: int
    future: asyncio.Future[NDArray[np.float32]]
    since: float  # when they were queued, in seconds of the batcher's clock


class RoundRobinQueue:
    """Pending rows by client. Each client has its turn."""

    def __init__(self) -> None:
        self._by_client: OrderedDict[str, deque[PendingRows]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._by_client)

    def add(self, client: str, rows: PendingRows) -> None:
        self._by_client.setdefault(client, deque()).append(rows)

    def peek(self) -> PendingRows:
        return next(iter(self._by_client.values()))[0]

    def pop(self) -> PendingRows:
        """Remove what `peek` returns. Its client goes to the end of the line."""
        client, waiting = next(iter(self._by_client.items()))
        rows = waiting.popleft()
        self._by_client.move_to_end(client)
        if not waiting:
            del self._by_client[client]
        return rows


class RunningBatch(NamedTuple):
    """What a thread of the device runs now."""

    key: QueueKey
    rows: list[PendingRows]

    @property
    def tokens(self) -> int:
        return sum(rows.tokens for rows in self.rows)


@dataclass(frozen=True, kw_only=True)
class BatchStats:
    """What has been run together."""

    encoding: str
    rows: int
    seconds: float
    waits: list[float]  # seconds in the queue, of each request's rows


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
    """Queues rows by encoding and length, and runs one batch at a time on the device.

    - Encodings given first go first. Now and then a queue behind the first gets a batch.
    - The `quick` encodings have a second thread. They need not wait for a long batch of others.
    - A batch leaves when the device is free, with what waits in its queue up to `max_tokens`. The
      device's threads take it themselves, so that the device never waits for the event loop.
    - Clients have turns. Rows that nobody waits for any more are dropped.
    - A batch below `MIN_BATCH_TOKENS` waits while a short one of its encoding runs.
    - A batch that fails is halved until the row that fails is alone.
    - Every future is completed on every path, shutdown included.

    `clock` returns seconds. It only measures: nothing sleeps by it.
    """

    def __init__(
        self,
        run: Run,
        specs: Mapping[str, QueueSpec],
        *,
        max_tokens: int,
        max_waiting: int,
        observe: Callable[[BatchStats], None] = lambda stats: None,
        quick: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._specs = specs
        self._max_tokens = max_tokens
        self._max_waiting = max_waiting
        self._observe = observe
        self._clock = clock
        self._ranks = {encoding: rank for rank, encoding in enumerate(specs)}
        self._loop = asyncio.get_running_loop()
        # guards the fields below, and is notified of every change of the queues
        self._work = threading.Condition()
        self._queues: dict[QueueKey, RoundRobinQueue] = {}
        # tokens, by whether they are background work and by encoding
        self._waiting = {
            (background, encoding): 0 for encoding in specs for background in (False, True)
        }
        self._running: dict[str, RunningBatch] = {}  # by thread
        self._started: dict[str, float] = {}  # when each thread last began to run something
        self.failing = 0  # batches that failed, one after the other
        self._last_interactive = -INTERACTIVE_S
        self._closing = False
        accepts: dict[str, Callable[[QueueKey], bool]] = {"encode": lambda key: True}
        if quick:
            accepts["encode-quick"] = lambda key: key.encoding in quick and not key.background
        self._threads = [
            threading.Thread(target=self._serve, args=(name, accepted), name=name, daemon=True)
            for name, accepted in accepts.items()
        ]
        for thread in self._threads:
            thread.start()

    async def submit(
        self,
        encoding: str,
        array: NDArray[Any],
        client: str = "",
        background: bool = False,
        max_s: float | None = None,
    ) -> NDArray[np.float32]:
        """Rows [n, ...] to vectors [n, dim], batched with the rows of others.

        Clients have turns. Background work goes behind everything else and is never refused for
        want of room.

        Raises:
            Overloaded: too many tokens wait already.
            TimedOut: it was not done within `max_s` seconds.
            ShuttingDown: the batcher has been closed.
            Whatever running these rows alone raises.
        """
        pending = self._split(encoding, array, background)
        tokens = sum(rows.tokens for rows in pending)
        with self._work:
            if self._closing:
                raise ShuttingDown
            if not background:
                waiting = self._waiting[False, encoding]
                if waiting and waiting + tokens > self._max_waiting:
                    raise Overloaded(encoding, RETRY_S)
                self._last_interactive = self._clock()
            queue = self._queues.setdefault(
                self._key(encoding, array, background), RoundRobinQueue()
            )
            for rows in pending:
                queue.add(client, rows)
            self._waiting[background, encoding] += tokens
            self._work.notify_all()
        timer = None
        if max_s is not None:
            timer = self._loop.call_later(max_s, fail, pending, TimedOut(max_s))
        try:
            return np.concatenate([await rows.future for rows in pending])
        finally:
            if timer is not None:
                timer.cancel()
            for rows in pending:  # a caller that went away takes its rows with it
                if not rows.future.cancel() and not rows.future.cancelled():
                    rows.future.exception()  # retrieved: more than one piece may have failed

    def _split(self, encoding: str, array: NDArray[Any], background: bool) -> list[PendingRows]:
        """Rows [n, ...] as pieces that fit into a batch."""
        each = self._specs[encoding].tokens or array.shape[1]
        fit = max(1, self._max_tokens // (BACKGROUND_SHARE if background else 1) // max(each, 1))
        pending = []
        for at in range(0, len(array), fit):
            piece = array[at : at + fit]
            rows = PendingRows(
                array=piece,
                tokens=each * len(piece),
                future=self._loop.create_future(),
                since=self._clock(),
            )
            pending.append(rows)
        return pending

    def _key(self, encoding: str, array: NDArray[Any], background: bool) -> QueueKey:
        of_one_length = self._specs[encoding].tokens is not None
        power_of_two = 1 << (array.shape[1] - 1).bit_length()
        length = 0 if of_one_length else max(SHORT_TEXT_TOKENS, power_of_two)
        return QueueKey(background, self._ranks[encoding], encoding, length)

    def waiting(self) -> dict[str, int]:
        """Tokens that wait, by encoding."""
        return {
            encoding: self._waiting[False, encoding] + self._waiting[True, encoding]
            for encoding in self._specs
        }

    @property
    def stuck_s(self) -> float:
        """Seconds that the longest running batch has run, or, where none runs, that the oldest rows
        have waited. Infinite where a thread of the device has died.
        """
        if not self._closing and not all(thread.is_alive() for thread in self._threads):
            return float("inf")
        with self._work:
            now = self._clock()
            since = [self._started[name] for name in self._running]
            if not since:
                since = [queue.peek().since for queue in self._queues.values() if queue]
        return now - min(since, default=now)

    async def close(self, drain_s: float = 5.0) -> None:
        """Run what waits, for up to `drain_s` seconds. Then fail the rest."""
        end = time.monotonic() + drain_s
        with self._work:
            self._closing = True
            self._work.notify_all()
        for thread in self._threads:
            await asyncio.to_thread(thread.join, max(0.0, end - time.monotonic()))
        with self._work:
            for queue in self._queues.values():
                while queue:
                    fail([queue.pop()], ShuttingDown())
            self._waiting = dict.fromkeys(self._waiting, 0)
            for running in self._running.values():
                fail(running.rows, ShuttingDown())

    def _serve(self, name: str, accepted: Callable[[QueueKey], bool]) -> None:
        """The loop of a device's thread, over the queues that it accepts."""
        for turn in count(1):
            with self._work:
                if self._running.pop(name, None) and any(self._waiting.values()):
                    self._work.notify_all()  # a batch may have waited for this one to end
                key = self._choose_queue(accepted, turn)
                while key is None:
                    if self._closing:
                        return
                    self._work.wait()
                    key = self._choose_queue(accepted, turn)
                batch = self._take_batch(key)
                self._running[name] = RunningBatch(key, batch)
                self._started[name] = self._clock()
            for group in group_by_length(batch):
                self._run_batch(key.encoding, group)

    def _choose_queue(self, accepted: Callable[[QueueKey], bool], turn: int) -> QueueKey | None:
        """The first queue with work. Every few batches one behind it, each in turn, so that no
        queue starves.
        """
        ready = sorted(
            key
            for key, queue in self._queues.items()
            if queue and accepted(key) and not self._should_wait(key)
        )
        if not ready:
            return None
        behind = ready[1:]
        if behind and turn % FIRST_QUEUE_BATCHES == 0:
            return behind[turn // FIRST_QUEUE_BATCHES % len(behind)]
        return ready[0]

    def _should_wait(self, key: QueueKey) -> bool:
        """Whether a small batch waits until a short running one of its encoding has ended.

        More requests may join it meanwhile. Background work does not wait: it might never get its
        turn. Nothing waits for background work either.
        """
        if key.background or self._closing:
            return False
        if self._waiting[False, key.encoding] >= MIN_BATCH_TOKENS:
            return False
        return any(
            running.key.encoding == key.encoding
            and not running.key.background
            and running.tokens <= SHORT_BATCH_TOKENS
            for running in self._running.values()
        )

    def _take_batch(self, key: QueueKey) -> list[PendingRows]:
        """What leaves now: live rows up to `max_tokens`. Fewer of background work, so that
        interactive requests need not wait for long.
        """
        queue = self._queues[key]
        limit = self._max_tokens
        if key.background and self._clock() - self._last_interactive < INTERACTIVE_S:
            limit //= BACKGROUND_SHARE
        batch: list[PendingRows] = []
        tokens = 0
        while queue and (not batch or tokens + queue.peek().tokens <= limit):
            rows = queue.pop()
            self._waiting[key.background, key.encoding] -= rows.tokens
            if not rows.future.done():
                batch.append(rows)
                tokens += rows.tokens
        return batch

    def _run_batch(self, encoding: str, batch: list[PendingRows]) -> None:
        live = [rows for rows in batch if not rows.future.done()]
        if not live:
            return
        began = self._clock()
        self._started[threading.current_thread().name] = began
        try:
            array = stack([rows.array for rows in live], self._specs[encoding].pad)
            vectors = self._run(encoding, array)
            if len(vectors) != len(array):
                raise RuntimeError(f"{len(array)} rows gave {len(vectors)} vectors")
        except Exception as error:
            if len(live) == 1:
                self.failing += 1
                self._call_in_loop(fail, live, error)
            else:
                half = len(live) // 2
                self._run_batch(encoding, live[:half])
                self._run_batch(encoding, live[half:])
            return
        self.failing = 0
        stats = BatchStats(
            encoding=encoding,
            rows=len(array),
            seconds=self._clock() - began,
            waits=[began - rows.since for rows in live],
        )
        self._call_in_loop(deliver, live, vectors)
        self._observe(stats)

    def _call_in_loop(self, function: Callable[..., None], *args: Any) -> None:
        """Have the event loop call a function, unless the loop has ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)


def group_by_length(batch: list[PendingRows]) -> list[list[PendingRows]]:
    """Rows in groups of about one length, shorter ones first. Rows join longer ones where padding
    them costs less than another call of the encoder does.
    """
    groups: list[list[PendingRows]] = []
    for rows in sorted(batch, key=lambda rows: rows.array.shape[1]):
        if groups:
            group = groups[-1]
            longer = rows.array.shape[1] - group[-1].array.shape[1]
            if longer * sum(len(other.array) for other in group) < CALL_TOKENS:
                group.append(rows)
                continue
        groups.append([rows])
    return groups


def deliver(batch: list[PendingRows], vectors: NDArray[np.float32]) -> None:
    """Give each request its rows of the batch's vectors [n, dim]."""
    at = 0
    for rows in batch:
        if not rows.future.done():
            rows.future.set_result(vectors[at : at + len(rows.array)])
        at += len(rows.array)


def fail(batch: list[PendingRows], error: Exception) -> None:
    for rows in batch:
        if not rows.future.done():
            rows.future.set_exception(error)
