"""Reloads settings and bundle without a stop. The new ones are opened and checked while the old
ones serve. Then requests wait while the data folder changes hands.
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

from .active import ActiveState
from .exceptions import CannotReload
from .keys import is_unguarded
from .settings import Settings
from .state import State, new_decoders, open_state

LOG = logging.getLogger("tercet")
# settings of the running server, which last until a restart
LISTENING = ("host", "port", "socket", "root_path", "proxies")
ReloadConfig = Callable[[], tuple[Settings, Encoder]]  # reads settings, opens the encoder anew


class Reloader:
    """Reloads when SIGHUP comes or a route asks, unless a reload is under way."""

    def __init__(self, active: ActiveState, reload_config: ReloadConfig | None) -> None:
        self._active = active
        self._reload_config = reload_config
        self._task: asyncio.Task[State] | None = None
        self._closed = False

    def listen(self) -> None:
        """Reload on SIGHUP, where the platform has signals."""
        with suppress(NotImplementedError, RuntimeError, ValueError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_signal)

    def _on_signal(self) -> None:
        try:
            self._begin().add_done_callback(log_outcome)
        except CannotReload as error:
            LOG.error("not reloaded: %s", error)

    def _begin(self) -> asyncio.Task[State]:
        if self._reload_config is None:
            raise CannotReload("this service was not started by its command")
        if self._closed:
            raise CannotReload("the service is shutting down")
        if self._task is not None and not self._task.done():
            raise CannotReload("a reload is under way")
        self._task = asyncio.create_task(self._reload(self._reload_config))
        return self._task

    async def reload(self) -> State:
        """Serve with new settings and a newly opened bundle, and with every collection that has
        been re-embedded for that bundle. Goes on when its caller leaves.

        The old ones serve on where it fails.

        Raises:
            CannotReload: this process cannot read its settings again, a reload is under way, or the
                new settings are unsafe.
            NotReady: a collection has not been re-embedded for the new bundle.
            Whatever is wrong with the new settings or bundle.
        """
        return await asyncio.shield(self._begin())

    async def close(self) -> None:
        """Let a reload under way end. No other begins."""
        self._closed = True
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _reload(self, reload_config: ReloadConfig) -> State:
        settings, encoder = await asyncio.to_thread(reload_config)
        old = self._active.state
        settings = check_settings(settings, old.settings)
        data = settings.data
        fingerprint_before = old.encoder.manifest.fingerprint
        fingerprint = encoder.manifest.fingerprint
        await asyncio.to_thread(check_all, data, fingerprint_before, fingerprint)
        decoders = await asyncio.to_thread(new_decoders, settings)
        async with self._active.handing_over():
            await old.close()
            swapped = False
            try:
                names = await asyncio.to_thread(check_all, data, fingerprint_before, fingerprint)
                for name in names:
                    await asyncio.to_thread(swap, data, name)
                    swapped = True
                self._active.state = await open_state(
                    settings, encoder, decoders, old.metrics, quotas_before=old.quotas
                )
            except Exception as error:
                LOG.exception("the new bundle could not take over")
                await asyncio.to_thread(decoders.close)
                # unset by the state that `_go_back` opens, if it can
                old.reload_error = f"a reload failed: {type(error).__name__}"
                if not swapped:
                    await self._go_back(old, old.settings, old.encoder)
                    raise
                # some collections are the new bundle's already
                await self._go_back(old, settings, encoder)
        LOG.info("serving bundle %s", fingerprint)
        return self._active.state

    async def _go_back(self, old: State, settings: Settings, encoder: Encoder) -> None:
        decoders = await asyncio.to_thread(new_decoders, settings)
        self._active.state = await open_state(
            settings, encoder, decoders, old.metrics, quotas_before=old.quotas
        )


def check_settings(new: Settings, old: Settings) -> Settings:
    """The new settings, but for how the service is reached already: see `LISTENING`.

    Raises:
        CannotReload: they name another data folder, or would leave the service open to others.
    """
    if new.data.resolve() != old.data.resolve():
        raise CannotReload("the data folder cannot change")
    kept = new.model_copy(update={name: getattr(old, name) for name in LISTENING})
    if is_unguarded(kept):
        raise CannotReload("other machines may connect, and the new settings have no keys")
    return kept


def check_all(data: Path, fingerprint_before: str, fingerprint: str) -> list[str]:
    """The collections with items of the bundle that served before, if another serves now. Raises
    NotReady where one has not been re-embedded.
    """
    if fingerprint_before == fingerprint:
        return []
    names = []
    for folder in sorted((data / "collections").iterdir()):
        database = folder / "records.sqlite"
        hidden = folder.name.startswith(".")
        if hidden or not database.is_file() or has_lost_records(folder):
            continue
        with closing(Records(database)) as records:
            of_before = records.meta().get("fingerprint") == fingerprint_before
            if of_before and records.counts().items:
                names.append(folder.name)
    for name in names:
        check_ready(data, name, fingerprint)
    return names


def log_outcome(task: asyncio.Task[State]) -> None:
    if task.cancelled():
        return
    error = task.exception()
    if error is not None:
        LOG.error("not reloaded: %s", error)
