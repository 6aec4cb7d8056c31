"""What lives as long as the application: the metrics, what tells who asks, and the
state that it opens when it starts and closes when it ends.
"""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from export.encoder import Encoder
from index.library import Collections

from .access import Gate
from .active import ActiveState
from .keys import Keys
from .links import Links
from .metrics import Metrics
from .pipeline import UPLOAD_PREFIX
from .reload import ReloadConfig, Reloader
from .sessions import Sessions
from .settings import Settings
from .state import UPLOADS, new_decoders, open_state


@dataclass(frozen=True)
class Start:
    """What the next opening serves. Collections are opened where there are none."""

    settings: Settings
    encoder: Encoder
    collections: Collections | None = None


class Owner:
    """Opens a state and closes it, as often as the application starts. After a reload the next
    start serves what the reload brought.
    """

    def __init__(self, start: Start, reload_config: ReloadConfig | None = None) -> None:
        self.metrics = Metrics()
        self.gate = Gate(Keys(start.settings.data), Links(), Sessions())
        # None while open: nothing but the state refers to the encoder, so that a reload frees it
        self._start: Start | None = start
        self._reload_config = reload_config
        self._uploads = start.settings.data / UPLOADS
        self._active: ActiveState | None = None
        self._reloader: Reloader | None = None

    @property
    def active(self) -> ActiveState:
        assert self._active is not None, "the application has not been started"
        return self._active

    @property
    def reloader(self) -> Reloader:
        assert self._reloader is not None, "the application has not been started"
        return self._reloader

    async def open(self) -> None:
        """Open the state that serves. Reload it from now on when SIGHUP comes."""
        start = self._start
        assert start is not None, "the application has been started already"
        self._start = None
        empty_uploads(self._uploads)  # of a process that was killed
        decoders = await asyncio.to_thread(new_decoders, start.settings)
        state = await open_state(
            start.settings, start.encoder, decoders, self.metrics, collections=start.collections
        )
        self._active = ActiveState(state)
        self._reloader = Reloader(self._active, self._reload_config)
        self._reloader.listen()

    async def close(self) -> None:
        """Let a reload under way end, then close the state."""
        await self.reloader.close()
        state = self.active.state
        await state.close()
        empty_uploads(self._uploads)
        self._start = Start(state.settings, state.encoder)


def empty_uploads(folder: Path) -> None:
    """Delete what this service has put into the folder. Make the folder where it is missing."""
    for left in folder.glob(f"{UPLOAD_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)
    with suppress(OSError):  # a full disk: uploads then lie elsewhere
        folder.mkdir(parents=True, exist_ok=True)
