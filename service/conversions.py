"""What items are converted to, for players and downloads: made when it is asked for, kept while
there is room for it. Knows nothing of HTTP.

What was used least recently goes first. A reader that has a file open can go on to read it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import shutil
import uuid
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from media.convert import Made, Order
from media.errors import BadMedia, BeyondBudget
from media.sandbox import MIB, Converters

from .exceptions import DiskFull, Overloaded, OverQuota
from .metrics import Metrics
from .quotas import Quota
from .settings import Settings
from .trace import stage

FOLDER = "converted"  # in the data folder
WAITING_MAX = 32  # orders that are under way or wait
LINGER_S = 2.0  # what has been dropped is deleted later, for answers that are about to open it
AHEAD_S = 5.0  # a version is taken for a second if it goes on for so long


@dataclass(frozen=True)
class Converted:
    """A file that was made of `source`, which tells one content of one file from others. `tag` is
    the same if it is made again.
    """

    path: Path
    made: Made
    size: int
    source: str
    clip: bool
    tag: str

    def holds(self, source: str, order: Order) -> bool:
        """Whether it is a version for browsers that serves an order, too."""
        if self.clip or order.clip or self.source != source or order.start_s < self.made.start_s:
            return False
        ends = self.made.end_s >= order.end_s
        return order.start_s < self.made.end_s - (0.0 if ends else AHEAD_S)


class Making:
    """A file that is being made, who asked for it first, and how many wait for it."""

    def __init__(self, task: asyncio.Task[Converted], client: str) -> None:
        self.task = task
        self.client = client  # whose quota it is taken of
        self.waiting = 0


class Conversions:
    """Makes and keeps converted files, in a folder that it empties when it is opened and closed.
    `check_room` raises DiskFull.
    """

    def __init__(
        self,
        settings: Settings,
        converters: Converters,
        metrics: Metrics,
        quota: Quota,
        check_room: Callable[[], None],
    ) -> None:
        self._folder = settings.data / FOLDER
        self._reserved = settings.free_disk_mb * 1_000_000
        self._most = settings.converted_mb * 1_000_000
        self._converters = converters
        self._metrics = metrics
        self._quota = quota
        self._check_room = check_room
        self._kept: OrderedDict[str, Converted] = OrderedDict()
        self._making: dict[str, Making] = {}
        empty_folder(self._folder)

    async def get(self, path: Path, order: Order, client: str) -> Converted:
        """What is ordered of a file. It is made once, however many ask at once, and given up when
        none of them waits any more.

        Raises:
            FileNotFoundError: the file is gone.
            BadMedia: what is wrong with it.
            DiskFull, Overloaded, OverQuota.
        """
        source = digest_of(str(path), *version_of(path))
        key = digest_of(source, order.clip, order.pictures, order.start_s, order.end_s)
        kept = self._find(key, source, order)
        if kept is not None:
            return kept
        making = self._making.get(key)
        if making is None:
            self._quota.check(client)
            if len(self._making) >= WAITING_MAX:
                raise Overloaded("converting")
            task = asyncio.ensure_future(self._make(key, source, path, order, client))
            task.add_done_callback(retrieve)
            making = self._making[key] = Making(task, client)
        making.waiting += 1
        try:
            return await asyncio.shield(making.task)
        except OverQuota:
            if making.client == client:
                raise
        finally:
            making.waiting -= 1
            if not making.waiting:
                making.task.cancel()
            if self._making.get(key) is making and (not making.waiting or making.task.done()):
                del self._making[key]
        return await self.get(path, order, client)  # that was the quota of somebody else

    def _find(self, key: str, source: str, order: Order) -> Converted | None:
        kept = self._kept.get(key)
        if kept is None:
            holding = (name for name, one in list(self._kept.items()) if one.holds(source, order))
            key = next(holding, "")
            kept = self._kept.get(key)
        if kept is None:
            return None
        with suppress(KeyError):  # cleared at this moment
            self._kept.move_to_end(key)
            if kept.path.is_file():
                return kept
            del self._kept[key]  # somebody has deleted it
        return None

    async def _make(
        self, key: str, source: str, path: Path, order: Order, client: str
    ) -> Converted:
        self._check_room()
        self._folder.mkdir(exist_ok=True)
        room = shutil.disk_usage(self._folder).free - self._reserved
        most = min(self._most, self._converters.file_mb * MIB)
        out = self._folder / uuid.uuid4().hex
        outcome = "cancelled"
        try:
            out.touch()
            with stage("convert"):
                made = await self._convert(path, out, order.limited_to(min(room, most)))
            # before it is kept: else it could be had by asking again
            self._quota.take(client, math.ceil(made.end_s - made.start_s))
            outcome = "good"
        except OverQuota:
            outcome = "over_quota"
            raise
        except BeyondBudget as fault:
            outcome = fault.code
            if room < most:
                raise DiskFull(self._reserved // 1_000_000) from fault
            raise
        except BadMedia as fault:
            outcome = fault.code
            raise
        finally:
            self._metrics.converted.labels(outcome).inc()
            if outcome != "good":
                out.unlink(missing_ok=True)
        size = out.stat().st_size
        kept = Converted(out, made, size, source, order.clip, f'"{key}"')
        self._kept[key] = kept
        self._shrink()
        return kept

    async def _convert(self, path: Path, out: Path, order: Order) -> Made:
        future = self._converters.start(path, out, order)
        try:
            # `finish` raises what it raised
            await asyncio.gather(asyncio.wrap_future(future), return_exceptions=True)
        except asyncio.CancelledError:
            future.cancel()
            raise
        return self._converters.finish(future)

    def _shrink(self) -> None:
        """Drop what was used least recently, until the rest has room."""
        loop = asyncio.get_running_loop()
        while (
            len(self._kept) > 1 and sum(one.size for one in list(self._kept.values())) > self._most
        ):
            _, dropped = self._kept.popitem(last=False)
            loop.call_later(LINGER_S, unlink, dropped.path)

    def clear(self) -> None:
        """Delete what is kept, at once. May be called from any thread."""
        while self._kept:
            with suppress(KeyError):
                unlink(self._kept.popitem(last=False)[1].path)

    def close(self) -> None:
        """Delete everything. What is being made is no longer waited for."""
        self._converters.close()
        self._kept.clear()
        empty_folder(self._folder)


def unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def retrieve(task: asyncio.Task[Converted]) -> None:
    """An error that nobody waited for is no news."""
    if not task.cancelled():
        task.exception()


def version_of(path: Path) -> tuple[int, int, int]:
    """What tells one content of a file from another. Raises OSError."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def digest_of(*parts: str | float | bool) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def empty_folder(folder: Path) -> None:
    """Delete what this service has put into its folder."""
    for left in folder.glob("*"):
        if len(left.name) == len(uuid.UUID(int=0).hex):
            unlink(left)
