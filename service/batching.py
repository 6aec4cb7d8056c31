"""Gathers single requests into batches. Knows nothing about models or HTTP."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import Overloaded, ShuttingDown

Run = Callable[[str, NDArray[Any]], NDArray[np.float32]]
TURN = 4  # batches of a lane before a lane behind it gets one


@dataclass
class Job:
    """Rows of one request and the future that its caller awaits."""

    array: NDArray[Any]
    future: asyncio.Future[NDArray[np.float32]]


def stack(arrays: Sequence[NDArray[Any]], pad: int = 0) -> NDArray[Any]:
    """Arrays [n, ...] one below the other; rows of differing length are padded.

    >>> stack([np.array([[1, 2]]), np.array([[3]])], pad=9).tolist()
    [[1, 2], [3, 9]]
    """
    if len({a.shape[1:] for a in arrays}) == 1:
        return np.concatenate(arrays)
    width = max(a.shape[1] for a in arrays)
    return np.concatenate([np.pad(a, ((0, 0), (0, width - a.shape[1])), constant_values=pad) for a in arrays])


class Batcher:
    """A lane for each kind of array, the first lane first; one batch at a time on the device. `lanes` says with what
    rows of differing length are padded.

    A batch leaves when the device is free, with all that waits in its lane up to `max_rows`. When it fails it is halved
    until the row that fails is alone. Every future is completed on every path, shutdown included.
    """

    def __init__(
        self,
        run: Run,
        lanes: Mapping[str, int],
        max_rows: int,
        max_waiting: int,
        observe: Callable[[str, int, float], None] = lambda lane, rows, seconds: None,
    ) -> None:
        self._pads = lanes
        self._run, self._max_rows, self._max_waiting, self._observe = run, max_rows, max_waiting, observe
        self._lanes: dict[str, deque[Job]] = {lane: deque() for lane in lanes}
        self._waiting = dict.fromkeys(lanes, 0)
        self._wake = asyncio.Event()
        self._device = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._busy_since: float | None = None
        self._served = 0
        self._closing = False
        self._task = asyncio.create_task(self._serve())

    async def submit(self, lane: str, array: NDArray[Any]) -> NDArray[np.float32]:
        """Rows [n, ...] to vectors [n, dim], in company.

        Raises:
            Overloaded: too many rows wait already.
            ShuttingDown: it has been closed.
            Whatever running these rows alone raises.
        """
        if self._closing:
            raise ShuttingDown
        if self._waiting[lane] and self._waiting[lane] + len(array) > self._max_waiting:
            raise Overloaded(lane)
        loop = asyncio.get_running_loop()
        jobs = [Job(array[i : i + self._max_rows], loop.create_future()) for i in range(0, len(array), self._max_rows)]
        self._lanes[lane].extend(jobs)
        self._waiting[lane] += len(array)
        self._wake.set()
        try:
            return np.concatenate([await job.future for job in jobs])
        finally:
            for job in jobs:  # a caller that went away takes its rows with it
                job.future.cancel()

    def waiting(self) -> dict[str, int]:
        return dict(self._waiting)

    @property
    def stuck_s(self) -> float:
        """How long the device has been at one batch; more than anything if the loop itself has died."""
        if self._task.done() and not self._closing:
            return float("inf")
        return time.monotonic() - self._busy_since if self._busy_since is not None else 0.0

    async def close(self, drain_s: float = 5.0) -> None:
        """Serve what waits for a while, then fail the rest."""
        self._closing = True
        self._wake.set()
        await asyncio.wait([self._task], timeout=drain_s)
        self._task.cancel()
        for lane, jobs in self._lanes.items():
            fail(list(jobs), ShuttingDown())
            jobs.clear()
            self._waiting[lane] = 0
        self._device.shutdown(wait=False, cancel_futures=True)

    async def _serve(self) -> None:
        while True:
            lane = self._next_lane()
            if lane is None:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            jobs = self._take(lane)
            try:
                await self._answer(lane, jobs)
            except asyncio.CancelledError:
                fail(jobs, ShuttingDown())
                raise

    def _next_lane(self) -> str | None:
        """The first lane with work; now and then one behind it, each in turn, so that no lane starves."""
        busy = [lane for lane, jobs in self._lanes.items() if jobs]
        if not busy:
            return None
        self._served += 1
        turn, rest = divmod(self._served, TURN)
        behind = busy[1:]
        return behind[turn % len(behind)] if behind and rest == 0 else busy[0]

    def _take(self, lane: str) -> list[Job]:
        """What leaves now: live jobs up to `max_rows`."""
        taken: list[Job] = []
        rows = 0
        queue = self._lanes[lane]
        while queue and rows + len(queue[0].array) <= self._max_rows:
            job = queue.popleft()
            self._waiting[lane] -= len(job.array)
            if not job.future.done():
                taken.append(job)
                rows += len(job.array)
        return taken

    async def _answer(self, lane: str, jobs: list[Job]) -> None:
        if not jobs:
            return
        loop = asyncio.get_running_loop()
        began = self._busy_since = time.monotonic()
        try:
            array = stack([job.array for job in jobs], self._pads[lane])
            vectors = await loop.run_in_executor(self._device, self._run, lane, array)
            if len(vectors) != len(array):
                raise RuntimeError(f"{len(array)} rows gave {len(vectors)} vectors")
        except Exception as error:
            if len(jobs) == 1:
                fail(jobs, error)
            else:
                await self._answer(lane, jobs[: len(jobs) // 2])
                await self._answer(lane, jobs[len(jobs) // 2 :])
            return
        finally:
            self._busy_since = None
        self._observe(lane, len(array), time.monotonic() - began)
        at = 0
        for job in jobs:
            if not job.future.done():
                job.future.set_result(vectors[at : at + len(job.array)])
            at += len(job.array)


def fail(jobs: list[Job], error: Exception) -> None:
    for job in jobs:
        if not job.future.done():
            job.future.set_exception(error)
