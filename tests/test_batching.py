"""The batcher: company for the good, isolation for the bad, an answer for everyone."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service import batching
from service.batching import Batcher, QueueSpec
from service.faults import Overloaded, ShuttingDown, TimedOut

ROW = QueueSpec(tokens=1)
LANES = {"text": ROW, "video": ROW}


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


class Device:
    """Doubles its rows; refuses batches that hold a negative
    number; remembers what it was given.
    """

    def __init__(self) -> None:
        self.batches: list[tuple[str, int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, lane: str, rows: NDArray[Any]) -> NDArray[np.float32]:
        self.gate.wait(15)
        self.batches.append((lane, len(rows)))
        if (rows < 0).any():
            raise ValueError("poison")
        return np.asarray(rows * 2, np.float32)


def rows(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)[:, None]


def test_waiting_requests_leave_together() -> None:
    async def work() -> None:
        device = Device()
        batcher = Batcher(device, LANES, max_tokens=8, max_waiting=100)
        device.gate.clear()
        tasks = [asyncio.create_task(batcher.submit("text", rows(i))) for i in range(9)]
        await asyncio.sleep(0.05)
        device.gate.set()
        results = await asyncio.gather(*tasks)
        assert [r.item() for r in results] == [2 * i for i in range(9)]
        assert sum(n for _, n in device.batches) == 9 and len(device.batches) <= 3
        await batcher.close()

    run(work())


def test_rows_of_differing_length_are_padded_as_their_lane_says() -> None:
    async def work() -> None:
        seen = []

        def device(lane: str, array: NDArray[np.int64]) -> NDArray[np.float32]:
            seen.append(array.tolist())
            time.sleep(0.05)
            return np.ones((len(array), 2), np.float32)

        batcher = Batcher(device, {"text@clap": QueueSpec(pad=1)}, max_tokens=32, max_waiting=100)
        texts = [np.array([[0, 7, 8, 2]]), np.array([[0, 9, 2]]), np.array([[0, 5, 2]])]
        await asyncio.gather(*(batcher.submit("text@clap", ids) for ids in texts))
        rows_seen = [row for batch in seen for row in batch]
        assert sorted("".join(map(str, row)).rstrip("1") for row in rows_seen) == [
            "052",
            "0782",
            "092",
        ]
        assert any(row[-1] == 1 for row in rows_seen)
        await batcher.close()

    run(work())


def test_one_bad_row_never_hurts_its_neighbours() -> None:
    async def work() -> None:
        device = Device()
        batcher = Batcher(device, LANES, max_tokens=32, max_waiting=100)
        device.gate.clear()
        tasks = [
            asyncio.create_task(batcher.submit("video", rows(-1 if i == 5 else i)))
            for i in range(16)
        ]
        await asyncio.sleep(0.05)
        device.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[5], ValueError)
        assert [r.item() for i, r in enumerate(results) if i != 5] == [
            2 * i for i in range(16) if i != 5
        ]  # type: ignore[union-attr]
        assert (await batcher.submit("video", rows(3))).item() == 6
        await batcher.close()

    run(work())


def test_a_large_request_is_served_in_parts_and_in_order() -> None:
    async def work() -> None:
        device = Device()
        batcher = Batcher(device, LANES, max_tokens=4, max_waiting=5)
        out = await batcher.submit("video", rows(*range(11)))
        assert out.ravel().tolist() == [2 * i for i in range(11)]
        assert max(n for _, n in device.batches) == 4
        await batcher.close()

    run(work())


def test_texts_share_a_batch_with_those_about_as_long() -> None:
    """Three and four tokens together; forty alone, so that nobody pays for their padding."""

    async def work() -> None:
        shapes: list[tuple[int, ...]] = []
        gate = threading.Event()

        def device(lane: str, array: NDArray[np.int64]) -> NDArray[np.float32]:
            gate.wait(15)
            shapes.append(array.shape)
            return np.asarray(array[:, :1], np.float32)

        batcher = Batcher(device, {"text": QueueSpec()}, max_tokens=1000, max_waiting=1000)
        first = asyncio.create_task(batcher.submit("text", np.array([[9, 9]])))
        await asyncio.sleep(0.05)  # it is on the device
        long = asyncio.create_task(batcher.submit("text", np.full((2, 40), 6)))
        short = [asyncio.create_task(batcher.submit("text", np.full((1, n), n))) for n in (3, 4, 3)]
        await asyncio.sleep(0.05)
        gate.set()
        await first
        assert [(await task).item() for task in short] == [3, 4, 3] and (
            await long
        ).ravel().tolist() == [6, 6]
        assert sorted(shapes) == [(1, 2), (2, 40), (3, 4)]
        await batcher.close()

    run(work())


def test_a_batch_is_as_large_as_its_tokens_allow() -> None:
    async def work() -> None:
        device = Device()
        batcher = Batcher(
            device,
            {"text": QueueSpec(), "video": QueueSpec(tokens=30)},
            max_tokens=100,
            max_waiting=10_000,
        )
        await asyncio.gather(
            batcher.submit("video", rows(*range(7))), batcher.submit("text", np.ones((25, 8)))
        )
        assert [n for lane, n in device.batches if lane == "video"] == [3, 3, 1]
        assert [n for lane, n in device.batches if lane == "text"] == [12, 12, 1]
        # too large for any batch: alone
        assert (await batcher.submit("text", np.ones((1, 150)))).shape == (1, 150)
        await batcher.close()

    run(work())


def test_those_who_ask_have_turns() -> None:
    """One key asks twenty times, then another once: it is served second."""

    async def work() -> None:
        device = Device()
        batcher = Batcher(device, LANES, max_tokens=1, max_waiting=1000)
        device.gate.clear()
        done: list[str] = []

        async def ask(who: str) -> None:
            await batcher.submit("text", rows(1), who)
            done.append(who)

        tasks = [asyncio.create_task(ask("greedy")) for _ in range(20)]
        await asyncio.sleep(0.05)
        tasks.append(asyncio.create_task(ask("modest")))
        await asyncio.sleep(0.05)
        device.gate.set()
        await asyncio.gather(*tasks)
        assert done.index("modest") <= 2
        await batcher.close()

    run(work())


def test_bulk_work_goes_behind_people_and_is_not_refused() -> None:
    async def work() -> None:
        device = Device()
        batcher = Batcher(device, LANES, max_tokens=1, max_waiting=2)
        device.gate.clear()
        tasks = [asyncio.create_task(batcher.submit("text", rows(i), bulk=True)) for i in range(12)]
        await asyncio.sleep(0.05)
        tasks.append(asyncio.create_task(batcher.submit("video", rows(0))))
        await asyncio.sleep(0.05)
        device.gate.set()
        await asyncio.gather(*tasks)
        assert [lane for lane, _ in device.batches].index("video") == 1
        await batcher.close()

    run(work())


def test_bulk_leaves_in_small_parts_while_people_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 rows a batch: four at a time, as a sixteenth, until nobody has asked for a while; then
    all that wait.
    """

    async def work() -> None:
        device = Device()
        batcher = Batcher(device, LANES, max_tokens=64, max_waiting=100)
        await batcher.submit("text", rows(1))
        await batcher.submit("video", rows(*range(20)), bulk=True)
        assert [n for _, n in device.batches] == [1, 4, 4, 4, 4, 4]
        monkeypatch.setattr(batching, "PEOPLE_S", 0.0)
        await batcher.submit("video", rows(*range(20)), bulk=True)
        assert [n for _, n in device.batches[6:]] == [20]
        await batcher.close()

    run(work())


def test_a_request_past_its_deadline_is_dropped_before_work() -> None:
    async def work() -> None:
        device = Device()
        batcher = Batcher(device, LANES, max_tokens=1, max_waiting=100)
        device.gate.clear()
        first = asyncio.create_task(batcher.submit("text", rows(1)))
        await asyncio.sleep(0.02)
        late = asyncio.create_task(batcher.submit("text", rows(2), max_s=0.01))
        await asyncio.sleep(0.05)
        device.gate.set()
        assert (await first).item() == 2
        with pytest.raises(TimedOut):
            await late
        assert len(device.batches) == 1
        await batcher.close()

    run(work())


def test_text_goes_first_but_nobody_starves() -> None:
    async def work() -> None:
        device = Device()
        batcher = Batcher(device, LANES, max_tokens=1, max_waiting=1000)
        device.gate.clear()
        tasks = [asyncio.create_task(batcher.submit("video", rows(i))) for i in range(6)]
        await asyncio.sleep(0.02)
        tasks += [asyncio.create_task(batcher.submit("text", rows(i))) for i in range(6)]
        await asyncio.sleep(0.02)
        device.gate.set()
        await asyncio.gather(*tasks)
        lanes = [lane for lane, _ in device.batches[1:9]]
        assert lanes.count("text") > lanes.count("video") >= 1
        await batcher.close()

    run(work())


def test_a_quick_lane_does_not_wait_for_a_long_batch() -> None:
    """Pictures hold the device; a text is answered beside them, other pictures are not."""

    async def work() -> None:
        gate, seen = threading.Event(), []

        def device(lane: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
            if lane == "video":
                gate.wait(15)
            seen.append(lane)
            return array

        batcher = Batcher(device, LANES, max_tokens=1, max_waiting=100, quick=["text"])
        pictures = [asyncio.create_task(batcher.submit("video", rows(i))) for i in range(2)]
        await asyncio.sleep(0.05)
        assert (await batcher.submit("text", rows(7))).item() == 7
        assert seen == ["text"] and not any(task.done() for task in pictures)
        gate.set()
        await asyncio.gather(*pictures)
        assert seen == ["text", "video", "video"]
        await batcher.close()

    run(work())


def test_a_few_words_wait_for_company_beside_words_and_not_beside_pictures() -> None:
    """Ten rows of four tokens are worth a batch beside a short one of texts, nine wait for its end.
    Beside a long batch or one of pictures, one leaves at once.
    """

    async def work() -> None:
        batches: list[tuple[str, int]] = []
        gates = {"text": threading.Event(), "video": threading.Event()}

        def device(lane: str, array: NDArray[Any]) -> NDArray[np.float32]:
            batches.append((lane, len(array)))
            gates[lane].wait(15)
            return np.ones((len(array), 2), np.float32)

        async def seen(*expected: tuple[str, int]) -> None:
            while len(batches) < len(expected):
                await asyncio.sleep(0.01)
            assert batches == list(expected)

        words = np.ones((1, 4), np.int64)
        batcher = Batcher(
            device,
            {"text": QueueSpec(), "video": ROW},
            max_tokens=400,
            max_waiting=900,
            quick=("text",),
        )
        tasks = [asyncio.create_task(batcher.submit("text", words))]
        await seen(("text", 1))
        tasks += [asyncio.create_task(batcher.submit("text", words)) for _ in range(9)]
        await asyncio.sleep(0.05)
        assert batches == [("text", 1)]
        tasks.append(asyncio.create_task(batcher.submit("text", words)))
        await seen(("text", 1), ("text", 10))
        gates["text"].set()
        await asyncio.gather(*tasks)
        batches.clear()
        tasks = [asyncio.create_task(batcher.submit("video", rows(1)))]
        await seen(("video", 1))
        tasks.append(asyncio.create_task(batcher.submit("text", words)))
        await tasks[-1]
        await seen(("video", 1), ("text", 1))
        gates["video"].set()
        await asyncio.gather(*tasks)
        batches.clear()
        gates["text"].clear()
        tasks = [asyncio.create_task(batcher.submit("text", np.ones((41, 4), np.int64)))]
        await seen(("text", 41))
        tasks.append(asyncio.create_task(batcher.submit("text", words)))
        await seen(("text", 41), ("text", 1))
        gates["text"].set()
        await asyncio.gather(*tasks)
        await batcher.close()

    run(work())


def test_people_do_not_wait_for_the_words_of_an_import() -> None:
    async def work() -> None:
        gate = threading.Event()

        def device(lane: str, array: NDArray[Any]) -> NDArray[np.float32]:
            if array.shape[1] == 6:
                gate.wait(15)
            return np.ones((len(array), 2), np.float32)

        batcher = Batcher(
            device, {"text": QueueSpec()}, max_tokens=400, max_waiting=900, quick=("text",)
        )
        imported = asyncio.create_task(batcher.submit("text", np.ones((1, 6), np.int64), bulk=True))
        await asyncio.sleep(0.05)
        await asyncio.wait_for(batcher.submit("text", np.ones((1, 4), np.int64)), 5)
        gate.set()
        await imported
        await batcher.close()

    run(work())


def test_texts_that_never_end_leave_pictures_their_turn() -> None:
    """Sixteen ask for texts without a pause and two for pictures: those have every fourth batch of
    the first thread.
    """

    async def work() -> None:
        seen: list[str] = []

        def device(lane: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
            time.sleep(0.004)
            seen.append(lane)
            return array

        batcher = Batcher(device, LANES, max_tokens=4, max_waiting=100, quick=["text"])
        end = time.monotonic() + 0.8

        async def ask(lane: str) -> None:
            while time.monotonic() < end:
                await batcher.submit(lane, rows(1))

        await asyncio.gather(*(ask("text") for _ in range(16)), *(ask("video") for _ in range(2)))
        assert seen.count("video") * 12 > len(seen) > 30  # an eighth of what both threads do
        await batcher.close()

    run(work())


def test_imports_are_not_run_beside_what_people_wait_for() -> None:
    """A picture of theirs is on the device; an import's words
    wait for it, their own words do not.
    """

    async def work() -> None:
        gate, seen = threading.Event(), []

        def device(lane: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
            if lane == "video":
                gate.wait(15)
            seen.append((lane, array.item()))
            return array

        batcher = Batcher(device, LANES, max_tokens=1, max_waiting=100, quick=["text"])
        picture = asyncio.create_task(batcher.submit("video", rows(1)))
        await asyncio.sleep(0.05)
        words = asyncio.create_task(batcher.submit("text", rows(2), bulk=True))
        assert (await batcher.submit("text", rows(3))).item() == 3
        gate.set()
        await asyncio.gather(picture, words)
        assert seen == [("text", 3), ("video", 1), ("text", 2)]
        await batcher.close()

    run(work())


def test_a_device_that_hangs_is_told_of_and_left_behind() -> None:
    async def work() -> None:
        device = Device()
        batcher = Batcher(device, LANES, max_tokens=1, max_waiting=100, quick=["text"])
        assert batcher.stuck_s == 0
        device.gate.clear()
        hung = [asyncio.create_task(batcher.submit("text", rows(i))) for i in range(3)]
        await asyncio.sleep(0.2)
        assert 0.1 < batcher.stuck_s < 5
        await batcher.close(drain_s=0.1)
        results = await asyncio.gather(*hung, return_exceptions=True)
        assert all(isinstance(result, ShuttingDown) for result in results)
        device.gate.set()

    run(work())


def test_the_middle_lane_gets_its_turn() -> None:
    async def work() -> None:
        device = Device()
        batcher = Batcher(
            device, dict.fromkeys(("text", "audio", "video"), ROW), max_tokens=1, max_waiting=1000
        )
        device.gate.clear()
        tasks = [asyncio.create_task(batcher.submit("text", rows(i))) for i in range(40)]
        tasks += [asyncio.create_task(batcher.submit("video", rows(i))) for i in range(20)]
        tasks.append(asyncio.create_task(batcher.submit("audio", rows(0))))
        await asyncio.sleep(0.05)
        device.gate.set()
        await asyncio.gather(*tasks)
        assert [lane for lane, _ in device.batches].index("audio") < 12
        await batcher.close()

    run(work())


def test_a_full_queue_says_so_and_recovers() -> None:
    async def work() -> None:
        device = Device()
        batcher = Batcher(device, LANES, max_tokens=1, max_waiting=3)
        device.gate.clear()
        tasks = [asyncio.create_task(batcher.submit("text", rows(0)))]
        await asyncio.sleep(0.05)  # it is on the device; three more may wait
        tasks += [asyncio.create_task(batcher.submit("text", rows(i))) for i in range(1, 4)]
        await asyncio.sleep(0.05)
        with pytest.raises(Overloaded):
            await batcher.submit("text", rows(9))
        device.gate.set()
        assert [r.item() for r in await asyncio.gather(*tasks)] == [0, 2, 4, 6]
        assert (await batcher.submit("text", rows(9))).item() == 18
        await batcher.close()

    run(work())


def test_a_caller_that_leaves_takes_its_work_along() -> None:
    async def work() -> None:
        device = Device()
        batcher = Batcher(device, LANES, max_tokens=1, max_waiting=100)
        device.gate.clear()
        first = asyncio.create_task(batcher.submit("text", rows(1)))
        await asyncio.sleep(0.02)
        gone = asyncio.create_task(batcher.submit("text", rows(2)))
        last = asyncio.create_task(batcher.submit("text", rows(3)))
        await asyncio.sleep(0.02)
        gone.cancel()
        await asyncio.sleep(0.02)
        device.gate.set()
        assert (await first).item() == 2 and (await last).item() == 6
        assert len(device.batches) == 2
        await batcher.close()

    run(work())


def test_shutdown_leaves_nobody_waiting() -> None:
    async def work() -> None:
        device = Device()
        batcher = Batcher(device, LANES, max_tokens=1, max_waiting=100)
        device.gate.clear()
        tasks = [asyncio.create_task(batcher.submit("text", rows(i))) for i in range(5)]
        await asyncio.sleep(0.05)
        assert batcher.stuck_s > 0
        await batcher.close(drain_s=0.1)
        device.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(r, ShuttingDown) for r in results)
        with pytest.raises(ShuttingDown):
            await batcher.submit("text", rows(1))

    run(work())


def test_a_short_answer_is_an_error_not_a_wrong_vector() -> None:
    async def work() -> None:
        batcher = Batcher(
            lambda lane, x: np.zeros((1, 2), np.float32), LANES, max_tokens=8, max_waiting=100
        )
        with pytest.raises(RuntimeError):
            await batcher.submit("text", rows(1, 2))
        await batcher.close()

    run(work())
