"""The batcher: what leaves together and whose turn it is, what is told of it, and an answer for
everyone.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.batching import (
    INTERACTIVE_S,
    MIN_BATCH_TOKENS,
    RETRY_S,
    Batcher,
    BatchStats,
    QueueSpec,
    stack,
)
from service.exceptions import Overloaded, ShuttingDown, TimedOut

from .makers import Clock

ROW = QueueSpec(tokens=1)
SPECS = {"text": ROW, "video": ROW}
PATIENCE_S = 20


class Device:
    """Doubles its rows, and refuses batches that hold a negative number. While `gate` is closed a
    batch stays on the device.
    """

    def __init__(self) -> None:
        self.batches: list[tuple[str, int]] = []  # of each that began: encoding, rows
        self.arrays: list[NDArray[Any]] = []
        self.threads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self._begun = threading.Semaphore(0)

    def __call__(self, encoding: str, rows: NDArray[Any]) -> NDArray[np.float32]:
        self.batches.append((encoding, len(rows)))
        self.arrays.append(rows)
        self.threads.append(threading.current_thread().name)
        self._begun.release()
        assert self.gate.wait(PATIENCE_S)
        if (rows < 0).any():
            raise ValueError("poison")
        return np.asarray(rows[:, :1] * 2, np.float32)

    async def begun(self, batches: int = 1) -> None:
        """Wait until so many more batches are on the device, or have been."""
        for _ in range(batches):
            assert await asyncio.to_thread(self._begun.acquire, timeout=PATIENCE_S)


def run(test: Callable[[Device], Awaitable[None]]) -> None:
    async def within_time() -> None:
        device = Device()
        try:
            await asyncio.wait_for(test(device), PATIENCE_S)
        finally:
            device.gate.set()

    asyncio.run(within_time())


async def queue(*requests: Awaitable[NDArray[np.float32]]) -> list[asyncio.Future[Any]]:
    """Requests that have been submitted when this returns."""
    tasks = [asyncio.ensure_future(request) for request in requests]
    await asyncio.sleep(0)  # each runs up to the future that it awaits
    return tasks


def rows(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)[:, None]


def tokens(count: int, length: int) -> NDArray[np.int64]:
    """Texts of so many tokens each."""
    return np.ones((count, length), np.int64)


def test_rows_are_stacked() -> None:
    assert stack([np.array([[1, 2]]), np.array([[3], [4]])]).tolist() == [[1, 2], [3, 0], [4, 0]]
    # of one shape but for how many there are
    assert stack([np.zeros((1, 2, 2)), np.ones((2, 2, 2))]).shape == (3, 2, 2)
    assert QueueSpec() == QueueSpec(tokens=None, pad=0)


def test_waiting_requests_leave_together() -> None:
    async def work(device: Device) -> None:
        batcher = Batcher(device, SPECS, max_tokens=8, max_waiting=100)
        device.gate.clear()
        first = await queue(batcher.submit("text", rows(0)))
        await device.begun()
        rest = await queue(*(batcher.submit("text", rows(i)) for i in range(1, 10)))
        device.gate.set()
        results = await asyncio.gather(*first, *rest)
        assert [result.item() for result in results] == [2 * i for i in range(10)]
        assert device.batches == [("text", 1), ("text", 8), ("text", 1)]
        await batcher.close()

    run(work)


def test_rows_of_differing_length_are_padded_as_their_queue_says() -> None:
    async def work(device: Device) -> None:
        batcher = Batcher(device, {"text@clap": QueueSpec(pad=1)}, max_tokens=32, max_waiting=100)
        device.gate.clear()
        first = await queue(batcher.submit("text@clap", np.array([[0, 2]])))
        await device.begun()
        texts = [np.array([[0, 7, 8, 2]]), np.array([[0, 9, 2]]), np.array([[0, 5, 2]])]
        rest = await queue(*(batcher.submit("text@clap", ids) for ids in texts))
        device.gate.set()
        await asyncio.gather(*first, *rest)
        assert device.arrays[1].tolist() == [[0, 9, 2, 1], [0, 5, 2, 1], [0, 7, 8, 2]]
        await batcher.close()

    run(work)


def test_one_bad_row_never_hurts_its_neighbours() -> None:
    async def work(device: Device) -> None:
        batcher = Batcher(device, SPECS, max_tokens=32, max_waiting=100)
        device.gate.clear()
        values = [-1 if i == 5 else i for i in range(16)]
        tasks = await queue(*(batcher.submit("video", rows(value)) for value in values))
        device.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results.pop(5), ValueError)
        good = [value for value in values if value >= 0]
        assert [result.item() for result in results] == [2 * value for value in good]  # type: ignore[union-attr]
        assert (await batcher.submit("video", rows(3))).item() == 6
        await batcher.close()

    run(work)


def test_a_large_request_is_served_in_parts_and_in_order() -> None:
    async def work(device: Device) -> None:
        batcher = Batcher(device, SPECS, max_tokens=4, max_waiting=5)
        out = await batcher.submit("video", rows(*range(11)))
        assert out.ravel().tolist() == [2 * i for i in range(11)]
        assert max(n for _, n in device.batches) == 4
        await batcher.close()

    run(work)


def test_texts_share_a_batch_with_those_about_as_long() -> None:
    """Three and four tokens together; forty alone, so that nobody pays for their padding."""

    async def work(device: Device) -> None:
        batcher = Batcher(device, {"text": QueueSpec()}, max_tokens=1000, max_waiting=1000)
        device.gate.clear()
        first = await queue(batcher.submit("text", tokens(1, 2)))
        await device.begun()
        lengths = [(2, 40), (1, 3), (1, 4), (1, 3)]
        rest = await queue(*(batcher.submit("text", tokens(n, length)) for n, length in lengths))
        device.gate.set()
        results = await asyncio.gather(*first, *rest)
        assert [len(result) for result in results] == [1, 2, 1, 1, 1]
        assert sorted(array.shape for array in device.arrays) == [(1, 2), (2, 40), (3, 4)]
        await batcher.close()

    run(work)


def test_short_texts_of_differing_length_share_a_queue() -> None:
    """Three and twelve tokens together: nine of padding cost less than a call. Twenty alone."""

    async def work(device: Device) -> None:
        batcher = Batcher(device, {"text": QueueSpec()}, max_tokens=1000, max_waiting=1000)
        device.gate.clear()
        first = await queue(batcher.submit("text", tokens(1, 2)))
        await device.begun()
        rest = await queue(*(batcher.submit("text", tokens(1, n)) for n in (20, 12, 3)))
        device.gate.set()
        await asyncio.gather(*first, *rest)
        assert [array.shape for array in device.arrays] == [(1, 2), (2, 12), (1, 20)]
        await batcher.close()

    run(work)


def test_a_batch_is_cut_where_padding_costs_more_than_another_call() -> None:
    """Four texts of 3 tokens beside some of 5: eight tokens of padding, less than the sixteen that
    a call costs. Eight of 3: padding would cost sixteen, so they are a call of their own.
    """

    async def work(device: Device) -> None:
        batcher = Batcher(device, {"text": QueueSpec()}, max_tokens=1000, max_waiting=1000)
        for few, shapes in ((4, [(1, 2), (6, 5)]), (8, [(1, 2), (2, 5), (8, 3)])):
            device.arrays.clear()
            device.gate.clear()
            first = await queue(batcher.submit("text", tokens(1, 2)))
            await device.begun()
            lengths = [5, *[3] * few, 5]
            rest = await queue(*(batcher.submit("text", tokens(1, length)) for length in lengths))
            device.gate.set()
            results = await asyncio.gather(*first, *rest)
            assert [len(result) for result in results] == [1] * (few + 3)
            assert sorted(array.shape for array in device.arrays) == shapes
            await device.begun(len(shapes) - 1)
        await batcher.close()

    run(work)


def test_a_batch_is_as_large_as_its_tokens_allow() -> None:
    async def work(device: Device) -> None:
        specs = {"text": QueueSpec(), "video": QueueSpec(tokens=30)}
        batcher = Batcher(device, specs, max_tokens=100, max_waiting=10_000)
        await asyncio.gather(
            batcher.submit("video", rows(*range(7))), batcher.submit("text", tokens(25, 8))
        )
        assert [n for encoding, n in device.batches if encoding == "video"] == [3, 3, 1]
        assert [n for encoding, n in device.batches if encoding == "text"] == [12, 12, 1]
        too_large_for_any = await batcher.submit("text", tokens(1, 150))
        assert len(too_large_for_any) == 1
        await batcher.close()

    run(work)


def test_clients_have_turns() -> None:
    """One client asks twenty times, then another once: it is served second."""

    async def work(device: Device) -> None:
        batcher = Batcher(device, SPECS, max_tokens=1, max_waiting=1000)
        device.gate.clear()
        greedy = await queue(*(batcher.submit("text", rows(1), "greedy") for _ in range(20)))
        modest = await queue(batcher.submit("text", rows(7), "modest"))
        device.gate.set()
        await asyncio.gather(*greedy, *modest)
        assert [array.item() for array in device.arrays].index(7) <= 2
        await batcher.close()

    run(work)


def test_background_work_goes_last_and_is_not_refused() -> None:
    async def work(device: Device) -> None:
        batcher = Batcher(device, SPECS, max_tokens=1, max_waiting=2)
        device.gate.clear()
        imported = (batcher.submit("text", rows(i), background=True) for i in range(12))
        tasks = await queue(*imported)
        await device.begun()
        tasks += await queue(batcher.submit("video", rows(0)))
        device.gate.set()
        await asyncio.gather(*tasks)
        assert [encoding for encoding, _ in device.batches].index("video") == 1
        await batcher.close()

    run(work)


def test_background_batches_are_small_while_interactive_requests_are_recent() -> None:
    """Of 64 rows a batch: four at a time, as a sixteenth, until nobody has asked for a while; then
    all that wait.
    """

    async def work(device: Device) -> None:
        clock = Clock()
        batcher = Batcher(device, SPECS, max_tokens=64, max_waiting=100, clock=clock)
        await batcher.submit("text", rows(1))
        clock.now_s += INTERACTIVE_S - 0.25
        await batcher.submit("video", rows(*range(20)), background=True)
        assert [n for _, n in device.batches] == [1, 4, 4, 4, 4, 4]
        clock.now_s += 0.25
        await batcher.submit("video", rows(*range(20)), background=True)
        assert [n for _, n in device.batches[6:]] == [20]
        await batcher.close()

    run(work)


def test_background_batches_are_large_before_anybody_has_asked() -> None:
    """Though the clock, which counts from the start of the machine, is below the time that an
    interactive request is recent for. The first piece of a share is in the queue alone.
    """

    async def work(device: Device) -> None:
        batcher = Batcher(device, SPECS, max_tokens=64, max_waiting=100, clock=Clock(0.5))
        device.gate.clear()
        tasks = await queue(batcher.submit("video", rows(1), background=True))
        await device.begun()
        tasks += await queue(batcher.submit("video", rows(*range(20)), background=True))
        device.gate.set()
        await asyncio.gather(*tasks)
        assert [n for _, n in device.batches] == [1, 20]
        await batcher.close()

    run(work)


def test_a_clients_rows_leave_in_order_and_in_what_fits() -> None:
    """Of eight tokens a batch: the first six leave alone, though the last two would fit twice."""

    async def work(device: Device) -> None:
        batcher = Batcher(device, SPECS, max_tokens=8, max_waiting=100)
        device.gate.clear()
        tasks = await queue(batcher.submit("text", rows(0)))
        await device.begun()
        for count in (6, 7, 2):
            tasks += await queue(batcher.submit("text", rows(*range(count)), client="one"))
        device.gate.set()
        await asyncio.gather(*tasks)
        assert [n for _, n in device.batches] == [1, 6, 7, 2]
        await batcher.close()

    run(work)


def test_a_request_past_its_deadline_is_dropped_before_work() -> None:
    async def work(device: Device) -> None:
        batcher = Batcher(device, SPECS, max_tokens=1, max_waiting=100)
        device.gate.clear()
        first = await queue(batcher.submit("text", rows(1)))
        await device.begun()
        with pytest.raises(TimedOut):
            await batcher.submit("text", rows(2), max_s=0)
        device.gate.set()
        assert (await first[0]).item() == 2
        assert (await batcher.submit("text", rows(3))).item() == 6
        assert [array.item() for array in device.arrays] == [1, 3]
        await batcher.close()

    run(work)


def test_text_goes_first_but_every_fourth_batch_is_of_a_queue_behind() -> None:
    """The first is on the device already: two more of texts, one of pictures, three of texts."""

    async def work(device: Device) -> None:
        batcher = Batcher(device, SPECS, max_tokens=1, max_waiting=1000)
        device.gate.clear()
        tasks = await queue(batcher.submit("text", rows(0)))
        await device.begun()
        tasks += await queue(*(batcher.submit("video", rows(i)) for i in range(4)))
        tasks += await queue(*(batcher.submit("text", rows(i)) for i in range(8)))
        device.gate.set()
        await asyncio.gather(*tasks)
        first_letters = "".join(encoding[0] for encoding, _ in device.batches)
        assert first_letters == "tttvtttvtttvv"
        await batcher.close()

    run(work)


def test_a_quick_encoding_does_not_wait_for_a_long_batch() -> None:
    """Pictures hold the device; a text is answered beside them, other pictures are not."""

    async def work(device: Device) -> None:
        slow = Device()
        slow.gate.clear()

        def either(encoding: str, array: NDArray[Any]) -> NDArray[np.float32]:
            return (slow if encoding == "video" else device)(encoding, array)

        batcher = Batcher(either, SPECS, max_tokens=1, max_waiting=100, quick=["text"])
        pictures = await queue(*(batcher.submit("video", rows(i)) for i in (1, 2)))
        await slow.begun()
        assert (await batcher.submit("text", rows(3))).item() == 6
        assert slow.batches == [("video", 1)]
        slow.gate.set()
        assert [(await picture).item() for picture in pictures] == [2, 4]
        await batcher.close()

    run(work)


def test_a_small_text_batch_waits_for_a_short_running_one() -> None:
    """Texts of 4 tokens. Beside a running text seven others wait for more, eight leave. One waits
    beside 40 texts, but not beside pictures, nor beside 41 texts, whose end is far.
    """

    async def work(device: Device) -> None:
        specs = {"text": QueueSpec(), "video": ROW}
        batcher = Batcher(device, specs, max_tokens=400, max_waiting=900, quick=["text"])

        device.gate.clear()
        tasks = await queue(batcher.submit("text", tokens(1, 4)))
        await device.begun()
        tasks += await queue(*(batcher.submit("text", tokens(1, 4)) for _ in range(7)))
        assert batcher.waiting()["text"] == 28 and device.batches == [("text", 1)]
        tasks += await queue(batcher.submit("text", tokens(1, 4)))
        await device.begun()
        assert device.batches == [("text", 1), ("text", 8)]
        device.gate.set()
        await asyncio.gather(*tasks)

        device.batches.clear()
        device.gate.clear()
        tasks = await queue(batcher.submit("video", rows(1)))
        await device.begun()
        tasks += await queue(batcher.submit("text", tokens(1, 4)))
        await device.begun()
        assert device.batches == [("video", 1), ("text", 1)]
        device.gate.set()
        await asyncio.gather(*tasks)

        device.batches.clear()
        device.gate.clear()
        tasks = await queue(batcher.submit("text", tokens(40, 4)))
        await device.begun()
        tasks += await queue(batcher.submit("text", tokens(1, 4)))
        assert batcher.waiting()["text"] == 4
        device.gate.set()
        await asyncio.gather(*tasks)

        device.batches.clear()
        device.gate.clear()
        await device.begun()  # of the one that has waited
        tasks = await queue(batcher.submit("text", tokens(41, 4)))
        await device.begun()
        tasks += await queue(batcher.submit("text", tokens(1, 4)))
        await device.begun()
        assert device.batches == [("text", 41), ("text", 1)]
        device.gate.set()
        await asyncio.gather(*tasks)
        await batcher.close()

    run(work)


def test_interactive_texts_do_not_wait_for_a_running_background_batch() -> None:
    async def work(device: Device) -> None:
        slow = Device()
        slow.gate.clear()

        def either(encoding: str, array: NDArray[Any]) -> NDArray[np.float32]:
            return (slow if array.shape[1] == 6 else device)(encoding, array)

        specs = {"text": QueueSpec()}
        batcher = Batcher(either, specs, max_tokens=400, max_waiting=900, quick=["text"])
        imported = await queue(batcher.submit("text", tokens(1, 6), background=True))
        await slow.begun()
        assert len(await batcher.submit("text", tokens(1, 4))) == 1
        slow.gate.set()
        await imported[0]
        await batcher.close()

    run(work)


def test_endless_texts_leave_pictures_every_fourth_batch_of_the_first_thread() -> None:
    async def work(device: Device) -> None:
        large = QueueSpec(tokens=MIN_BATCH_TOKENS)  # no text waits for more of them
        specs = {"text": large, "video": large}
        batcher = Batcher(device, specs, max_tokens=1, max_waiting=10_000, quick=["text"])
        device.gate.clear()
        texts = await queue(*(batcher.submit("text", rows(1)) for _ in range(100)))
        pictures = await queue(*(batcher.submit("video", rows(1)) for _ in range(100)))
        await device.begun(2)  # a text of each thread
        device.gate.set()
        await asyncio.gather(*texts, *pictures)
        by_thread: dict[str, list[str]] = {"encode": [], "encode-quick": []}
        for thread, (encoding, _) in zip(device.threads, device.batches, strict=True):
            by_thread[thread].append(encoding)
        assert set(by_thread["encode-quick"]) <= {"text"}
        first = by_thread["encode"]
        while_texts_wait = first[: len(first) - first[::-1].index("text")]
        assert set(while_texts_wait[3::4]) <= {"video"}
        assert while_texts_wait.count("video") == len(while_texts_wait) // 4
        await batcher.close()

    run(work)


def test_background_work_is_not_run_beside_interactive_work() -> None:
    """A picture is on the device: an import's text waits for it, an interactive one does not."""

    async def work(device: Device) -> None:
        slow = Device()
        slow.gate.clear()
        order: list[float] = []

        def either(encoding: str, array: NDArray[Any]) -> NDArray[np.float32]:
            result = (slow if encoding == "video" else device)(encoding, array)
            order.append(array.item())
            return result

        batcher = Batcher(either, SPECS, max_tokens=1, max_waiting=100, quick=["text"])
        picture = await queue(batcher.submit("video", rows(1)))
        await slow.begun()
        imported = await queue(batcher.submit("text", rows(2), background=True))
        assert (await batcher.submit("text", rows(3))).item() == 6
        slow.gate.set()
        await asyncio.gather(*picture, *imported)
        assert order == [3, 1, 2]
        await batcher.close()

    run(work)


def test_a_device_that_hangs_is_noticed_and_left_behind() -> None:
    async def work(device: Device) -> None:
        clock = Clock()
        batcher = Batcher(device, SPECS, max_tokens=1, max_waiting=100, quick=["text"], clock=clock)
        assert batcher.stuck_s == 0
        device.gate.clear()
        hung = await queue(*(batcher.submit("text", rows(i)) for i in range(3)))
        await device.begun()
        clock.now_s += 40
        assert batcher.stuck_s == 40
        await batcher.close(drain_s=0)
        results = await asyncio.gather(*hung, return_exceptions=True)
        assert all(isinstance(result, ShuttingDown) for result in results)

    run(work)


def test_what_a_batch_took_is_observed() -> None:
    async def work(device: Device) -> None:
        clock = Clock(2.0)
        seen: list[BatchStats] = []
        batcher = Batcher(
            device, SPECS, max_tokens=8, max_waiting=100, observe=seen.append, clock=clock
        )
        device.gate.clear()
        tasks = await queue(batcher.submit("video", rows(1)))
        await device.begun()
        tasks += await queue(batcher.submit("video", rows(2, 2)))
        clock.now_s += 3
        tasks += await queue(batcher.submit("video", rows(3)))
        device.gate.set()
        await asyncio.gather(*tasks)
        await batcher.close()
        assert seen == [
            BatchStats(encoding="video", rows=1, seconds=3.0, waits=[0.0]),
            BatchStats(encoding="video", rows=3, seconds=0.0, waits=[3.0, 0.0]),
        ]

    run(work)


def test_the_middle_queue_gets_its_turn() -> None:
    async def work(device: Device) -> None:
        specs = dict.fromkeys(("text", "audio", "video"), ROW)
        batcher = Batcher(device, specs, max_tokens=1, max_waiting=1000)
        device.gate.clear()
        tasks = await queue(*(batcher.submit("text", rows(i)) for i in range(40)))
        tasks += await queue(*(batcher.submit("video", rows(i)) for i in range(20)))
        tasks += await queue(batcher.submit("audio", rows(0)))
        device.gate.set()
        await asyncio.gather(*tasks)
        assert [encoding for encoding, _ in device.batches].index("audio") < 12
        await batcher.close()

    run(work)


def test_a_full_queue_is_refused_and_recovers() -> None:
    async def work(device: Device) -> None:
        batcher = Batcher(device, SPECS, max_tokens=1, max_waiting=3)
        device.gate.clear()
        tasks = await queue(batcher.submit("text", rows(0)))
        await device.begun()  # three more may wait
        tasks += await queue(*(batcher.submit("text", rows(i)) for i in range(1, 4)))
        with pytest.raises(Overloaded) as refused:
            await batcher.submit("text", rows(9))
        assert (refused.value.queue, refused.value.retry_s) == ("text", RETRY_S)
        # each encoding has room of its own
        tasks += await queue(batcher.submit("video", rows(4)))
        device.gate.set()
        results = await asyncio.gather(*tasks)
        assert [result.item() for result in results] == [0, 2, 4, 6, 8]
        assert (await batcher.submit("text", rows(9))).item() == 18
        await batcher.close()

    run(work)


def test_a_request_larger_than_the_queue_is_taken_where_none_waits() -> None:
    async def work(device: Device) -> None:
        batcher = Batcher(device, SPECS, max_tokens=10, max_waiting=3)
        device.gate.clear()
        tasks = await queue(batcher.submit("text", rows(0)))
        await device.begun()
        tasks += await queue(batcher.submit("text", rows(1, 2, 3, 4)))
        with pytest.raises(Overloaded):
            await batcher.submit("text", rows(5))
        device.gate.set()
        assert [len(result) for result in await asyncio.gather(*tasks)] == [1, 4]
        await batcher.close()

    run(work)


def test_tokens_that_wait_are_counted_by_encoding() -> None:
    async def work(device: Device) -> None:
        specs = {"text": ROW, "video": QueueSpec(tokens=30)}
        batcher = Batcher(device, specs, max_tokens=1, max_waiting=100)
        device.gate.clear()
        tasks = await queue(batcher.submit("text", rows(0)))
        await device.begun()
        assert batcher.waiting() == {"text": 0, "video": 0}
        tasks += await queue(
            batcher.submit("text", rows(1, 2)),
            batcher.submit("text", rows(1, 2, 3), background=True),
            batcher.submit("video", rows(1, 2)),
        )
        assert batcher.waiting() == {"text": 5, "video": 60}
        device.gate.set()
        await asyncio.gather(*tasks)
        assert batcher.waiting() == {"text": 0, "video": 0}
        await batcher.close()

    run(work)


def test_failures_are_counted_until_one_succeeds() -> None:
    async def work(device: Device) -> None:
        batcher = Batcher(device, SPECS, max_tokens=1, max_waiting=100)
        assert batcher.failing == 0
        for count in (1, 2):
            with pytest.raises(ValueError, match="poison"):
                await batcher.submit("text", rows(-1))
            assert batcher.failing == count
        await batcher.submit("text", rows(1))
        assert batcher.failing == 0
        await batcher.close()

    run(work)


def test_a_caller_that_leaves_takes_its_work_along() -> None:
    async def work(device: Device) -> None:
        batcher = Batcher(device, SPECS, max_tokens=1, max_waiting=100)
        device.gate.clear()
        first = await queue(batcher.submit("text", rows(1)))
        await device.begun()
        gone, last = await queue(batcher.submit("text", rows(2)), batcher.submit("text", rows(3)))
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        device.gate.set()
        assert ((await first[0]).item(), (await last).item()) == (2, 6)
        assert len(device.batches) == 2
        await batcher.close()

    run(work)


def test_shutdown_leaves_nobody_waiting() -> None:
    async def work(device: Device) -> None:
        batcher = Batcher(device, SPECS, max_tokens=1, max_waiting=100)
        device.gate.clear()
        tasks = await queue(*(batcher.submit("text", rows(i)) for i in range(5)))
        await device.begun()
        await batcher.close(drain_s=0)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, ShuttingDown) for result in results)
        assert batcher.waiting() == {"text": 0, "video": 0}
        with pytest.raises(ShuttingDown):
            await batcher.submit("text", rows(1))

    run(work)


@pytest.mark.parametrize("answered", [1, 3])
def test_too_few_or_too_many_vectors_are_an_error_not_a_wrong_vector(answered: int) -> None:
    async def work(device: Device) -> None:
        def answer(encoding: str, array: NDArray[Any]) -> NDArray[np.float32]:
            return np.zeros((answered * len(array) // 2, 2), np.float32)

        batcher = Batcher(answer, SPECS, max_tokens=8, max_waiting=100)
        with pytest.raises(RuntimeError):
            await batcher.submit("text", rows(1, 2))
        await batcher.close()

    run(work)
