"""Another bundle or other settings without a stop: opened and checked while the old ones serve; then requests wait for
the moment in which the data folder changes hands.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress

from export.encoder import Encoder
from index.data import Collections
from index.reembed import check_ready, swap

from .errors import CannotReload
from .settings import Settings
from .state import State, Tenure, opened

LOG = logging.getLogger("tercet")
Open = Callable[[Settings, Encoder], Collections]


class Reloader:
    def __init__(self, tenure: Tenure, open_data: Open, again: Callable[[], tuple[Settings, Encoder]] | None) -> None:
        self._tenure, self._open, self._again = tenure, open_data, again
        self._one = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def listen(self) -> None:
        """Reload on SIGHUP, where signals can be had."""
        with suppress(NotImplementedError, RuntimeError, ValueError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._signalled)

    def _signalled(self) -> None:
        task = asyncio.create_task(self._logged())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _logged(self) -> None:
        try:
            await self.reload()
        except Exception as error:
            LOG.error("not reloaded, what was there serves on: %s", error)

    async def reload(self) -> State:
        """Put new settings and a newly opened bundle in place, with every collection that has been made anew for that
        bundle (`python -m index reembed`).

        Raises:
            CannotReload: this process cannot read its settings again, or a reload is under way.
            NotReady: a collection that has not been made anew for the new bundle.
            Whatever is wrong with the new settings or bundle. The old ones then serve on.
        """
        if self._again is None or self._one.locked():
            raise CannotReload(
                "a reload is under way" if self._again else "this service was not started by its command"
            )
        async with self._one:
            settings, encoder = await asyncio.to_thread(self._again)
            old = self._tenure.state
            if settings.data.resolve() != old.settings.data.resolve():
                raise CannotReload("the data folder cannot change")
            fingerprint = encoder.manifest.fingerprint
            other = old.encoder.manifest.fingerprint != fingerprint
            held = old.collections.all() if other else []
            names = [collection.name for collection in held if collection.counts()["items"]]
            empty = [collection.name for collection in held if collection.name not in names]
            for name in names:
                await asyncio.to_thread(check_ready, settings.data, name, fingerprint)
            async with self._tenure.handing_over():
                await old.close()
                try:
                    for name in names:  # all are looked at again, now that nobody writes, before one is swapped
                        await asyncio.to_thread(check_ready, settings.data, name, fingerprint)
                    for name in names:
                        await asyncio.to_thread(swap, settings.data, name)
                    for name in empty:
                        shutil.rmtree(settings.data / "collections" / name)
                    self._tenure.state = await self._opened(settings, encoder, old)
                    for name in empty:
                        await asyncio.to_thread(self._tenure.state.collections.ensure, name)
                except Exception:
                    LOG.exception("the new bundle could not take over")
                    self._tenure.state = await self._opened(old.settings, old.encoder, old)
                    raise
            LOG.info("serving bundle %s", fingerprint)
            return self._tenure.state

    async def _opened(self, settings: Settings, encoder: Encoder, old: State) -> State:
        collections = await asyncio.to_thread(self._open, settings, encoder)
        return await opened(settings, encoder, collections, old.metrics)
