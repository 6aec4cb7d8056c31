"""Another bundle or other settings without a stop: opened and checked while the old ones serve;
then requests wait for the moment in which the data folder changes hands.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from export.encoder import Encoder
from index.collection import has_lost_records
from index.ingest.reembed import check_ready, swap
from index.records.database import Records

from .faults import CannotReload
from .settings import Settings
from .state import ActiveState, State, new_decoders, opened

LOG = logging.getLogger("tercet")


class Reloader:
    def __init__(
        self, tenure: ActiveState, again: Callable[[], tuple[Settings, Encoder]] | None
    ) -> None:
        self._tenure, self._again = tenure, again
        self._task: asyncio.Task[State] | None = None
        self._closed = False

    def listen(self) -> None:
        """Reload on SIGHUP, where signals can be had."""
        with suppress(NotImplementedError, RuntimeError, ValueError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._signalled)

    def _signalled(self) -> None:
        try:
            self._begin().add_done_callback(tell)
        except CannotReload as error:
            LOG.error("not reloaded: %s", error)

    def _begin(self) -> asyncio.Task[State]:
        if self._again is None:
            raise CannotReload("this service was not started by its command")
        if self._closed or (self._task is not None and not self._task.done()):
            raise CannotReload(
                "the service is shutting down" if self._closed else "a reload is under way"
            )
        self._task = asyncio.create_task(self._reload(self._again))
        return self._task

    async def reload(self) -> State:
        """Put new settings and a newly opened bundle in place, with every collection that has been
        made anew for that bundle (`python -m index reembed`). It goes on when its caller leaves.

        Raises:
            CannotReload: this process cannot read its settings again, or a reload is under way, or
                they are unsafe.
            NotReady: a collection that has not been made anew for the new bundle.
            Whatever is wrong with the new settings or bundle. The old ones then serve on.
        """
        return await asyncio.shield(self._begin())

    async def close(self) -> None:
        """Let a reload that is under way end; begin no other."""
        self._closed = True
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _reload(self, again: Callable[[], tuple[Settings, Encoder]]) -> State:
        settings, encoder = await asyncio.to_thread(again)
        old = self._tenure.state
        before, fingerprint = old.encoder.manifest.fingerprint, encoder.manifest.fingerprint
        if settings.data.resolve() != old.settings.data.resolve():
            raise CannotReload("the data folder cannot change")
        settings = settings.model_copy(
            update={"host": old.settings.host, "port": old.settings.port}
        )
        if settings.unguarded:
            raise CannotReload(
                "others than this machine may connect, and the new settings have no keys"
            )
        await asyncio.to_thread(check_all, settings.data, before, fingerprint)
        decoders = await asyncio.to_thread(new_decoders, settings)
        async with self._tenure.handing_over():
            await old.close()
            swapped = False
            try:
                for name in await asyncio.to_thread(check_all, settings.data, before, fingerprint):
                    await asyncio.to_thread(swap, settings.data, name)
                    swapped = True
                self._tenure.state = await opened(settings, encoder, decoders, old)
            except Exception as error:
                LOG.exception("the new bundle could not take over")
                await asyncio.to_thread(decoders.close)
                back = (settings, encoder) if swapped else (old.settings, old.encoder)
                # until what follows has succeeded
                old.gone = f"a reload failed: {type(error).__name__}"
                self._tenure.state = await opened(
                    *back, await asyncio.to_thread(new_decoders, back[0]), old
                )
                if not swapped:
                    raise
        LOG.info("serving bundle %s", fingerprint)
        return self._tenure.state


def check_all(data: Path, before: str, fingerprint: str) -> list[str]:
    """The collections with items of the bundle that served before. Raises NotReady: one has not
    been made anew.
    """
    names: list[str] = []
    if before == fingerprint:
        return names
    for folder in sorted((data / "collections").iterdir()):
        if (
            folder.name.startswith(".")
            or not (folder / "records.sqlite").is_file()
            or has_lost_records(folder)
        ):
            continue
        with closing(Records(folder / "records.sqlite")) as records:
            if records.meta().get("fingerprint") == before and records.counts()["items"]:
                names.append(folder.name)
    for name in names:
        check_ready(data, name, fingerprint)
    return names


def tell(task: asyncio.Task[State]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        LOG.error("not reloaded: %s", error)
