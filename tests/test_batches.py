"""Batching by worked-out values: whose turn it is, what leaves together, what is told of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.batching import Batcher, BatchStats, QueueSpec, stack
from service.faults import Overloaded

ROW = QueueSpec(tokens=1)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 20))


class Gated:
    """A device that notes each batch as (encoding, rows), then waits until it may go on; rows below
    zero fail.
    """

    def __init__(self) -> None:
        self.batches: list[tuple[str, int]] = []
        self.gate = threading.Event()

    def __call__(self, encoding: str, rows: NDArray[Any]) -> NDArray[np.float32]:
        self.batches.append((encoding, len(rows)))
        if not self.gate.wait(60):  # longer than any test may take
            raise TimeoutError
        if (rows < 0).any():
            raise ValueError("below zero")
        return np.asarray(rows[:, :1], np.float32)

    async def seen(self, *expected: tuple[str, int]) -> None:
        while len(self.batches) < len(expected):
            await asyncio.sleep(0.005)
        assert self.batches == list(expected)


@asynccontextmanager
async def batcher_of(device: Gated, **options: Any) -> AsyncIterator[Batcher]:
    specs = {"text": ROW, "video": ROW}
    batcher = Batcher(device, **{"specs": specs, "max_tokens": 1, "max_waiting": 100} | options)
    try:
        yield batcher
    finally:
        device.gate.set()
        await batcher.close()


def rows(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)[:, None]


async def started(*work: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    """Tasks that have got as far as they can without the device."""
    tasks = [asyncio.create_task(one) for one in work]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


def test_rows_are_stacked() -> None:
    assert stack([np.array([[1, 2]]), np.array([[3], [4]])]).tolist() == [[1, 2], [3, 0], [4, 0]]
    # of one shape but for how many there are
    assert stack([np.zeros((1, 2, 2)), np.ones((2, 2, 2))]).shape == (3, 2, 2)
    assert QueueSpec() == QueueSpec(tokens=None, pad=0)


def test_every_fourth_batch_is_of_a_queue_behind() -> None:
    """The first is on the device already: two more of texts, one of pictures, three of texts."""

    async def work() -> None:
        device = Gated()
        async with batcher_of(device) as batcher:
            tasks = await started(batcher.submit("text", rows(0)))
            await device.seen(("text", 1))
            tasks += await started(*(batcher.submit("text", rows(n)) for n in range(8)))
            tasks += await started(*(batcher.submit("video", rows(n)) for n in range(4)))
            device.gate.set()
            await asyncio.gather(*tasks)
        first_letters = "".join(encoding[0] for encoding, _ in device.batches)
        assert first_letters == "tttvtttvtttvv"

    run(work)


def test_tokens_that_wait_are_counted_by_lane() -> None:
    async def work() -> None:
        device = Gated()
        async with batcher_of(
            device, specs={"text": ROW, "video": QueueSpec(tokens=30)}
        ) as batcher:
            tasks = await started(batcher.submit("text", rows(0)))
            await device.seen(("text", 1))
            assert batcher.waiting() == {"text": 0, "video": 0}
            tasks += await started(
                batcher.submit("text", rows(1, 2)),
                batcher.submit("text", rows(1, 2, 3), background=True),
                batcher.submit("video", rows(1, 2)),
            )
            assert batcher.waiting() == {"text": 5, "video": 60}
            device.gate.set()
            await asyncio.gather(*tasks)
            assert batcher.waiting() == {"text": 0, "video": 0}

    run(work)


def test_failures_are_counted_until_one_succeeds() -> None:
    async def work() -> None:
        device = Gated()
        device.gate.set()
        async with batcher_of(device) as batcher:
            assert batcher.failing == 0
            for count in (1, 2):
                with pytest.raises(ValueError, match="below zero"):
                    await batcher.submit("text", rows(-1))
                assert batcher.failing == count
            await batcher.submit("text", rows(1))
            assert batcher.failing == 0

    run(work)


def test_a_full_queue_is_worth_asking_again_in_a_second() -> None:
    """Three tokens may wait: a request that finds none waiting may be of more, alone."""

    async def work() -> None:
        device = Gated()
        async with batcher_of(device, max_tokens=10, max_waiting=3) as batcher:
            tasks = await started(batcher.submit("text", rows(0)))
            await device.seen(("text", 1))
            tasks += await started(batcher.submit("text", rows(1, 2, 3, 4)))
            with pytest.raises(Overloaded) as refused:
                await batcher.submit("text", rows(5))
            assert (refused.value.queue, refused.value.retry_s) == ("text", 1)
            # another encoding's queue is another one
            tasks += await started(batcher.submit("video", rows(1)))
            device.gate.set()
            await asyncio.gather(*tasks)
            # exactly three
            device.gate.clear()
            device.batches.clear()
            tasks = await started(batcher.submit("text", rows(0)))
            await device.seen(("text", 1))
            tasks += await started(*(batcher.submit("text", rows(n)) for n in range(3)))
            with pytest.raises(Overloaded):
                await batcher.submit("text", rows(5))
            device.gate.set()
            await asyncio.gather(*tasks)

    run(work)


def test_what_is_observed_of_a_batch() -> None:
    async def work() -> None:
        device = Gated()
        observed: list[BatchStats] = []
        async with batcher_of(device, max_tokens=3, observe=observed.append) as batcher:
            tasks = await started(batcher.submit("text", rows(0)))
            await device.seen(("text", 1))
            tasks += await started(
                batcher.submit("text", rows(1, 2)), batcher.submit("text", rows(3))
            )
            device.gate.set()
            await asyncio.gather(*tasks)
        first, second = observed
        assert (first.encoding, first.rows, len(first.waits)) == ("text", 1, 1)
        assert (second.encoding, second.rows, len(second.waits)) == ("text", 3, 2)
        assert first.seconds > 0 and second.seconds > 0
        assert all(0 <= wait < 20 for wait in (*first.waits, *second.waits))

    run(work)
