"""The state that serves now, and the handover to another while requests come in.

`Tercet` and `ClientId` are parameters of routes: the state that serves, with what the caller may
see of it, and who asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, Request

from .access import CALLER, Caller
from .state import State

DRAIN_S = 10.0  # for requests that are being answered when another state takes over
HOLD = "tercet.hold"  # in a request's scope: its `Hold`


class ActiveState:
    """The state that serves. Requests that come in while another takes over wait for it."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._serving = asyncio.Event()
        self._serving.set()
        self._in_use = 0
        self._handover = asyncio.Lock()

    async def enter(self) -> State:
        """The state, in use until `leave`."""
        await self._serving.wait()
        self._in_use += 1
        return self.state

    def leave(self) -> None:
        self._in_use -= 1

    @asynccontextmanager
    async def handing_over(self) -> AsyncIterator[None]:
        """Hold new requests back. Begins once those under way are answered, or `DRAIN_S` later."""
        async with self._handover:
            self._serving.clear()
            try:
                end = asyncio.get_running_loop().time() + DRAIN_S
                while self._in_use and asyncio.get_running_loop().time() < end:
                    await asyncio.sleep(0.01)
                yield
            finally:
                self._serving.set()


class Hold:
    """One request's use of the state. A takeover waits until it is released."""

    def __init__(self, active: ActiveState) -> None:
        self._active = active
        self._held = False

    async def acquire(self) -> State:
        """The state that serves, once a takeover under way has ended."""
        state = await self._active.enter()
        self._held = True
        return state

    def release(self) -> None:
        """Let a takeover begin. Does nothing where nothing is held."""
        if self._held:
            self._held = False
            self._active.leave()


async def acquire_state(request: Request) -> State:
    """The state that serves, held until the request's answer begins."""
    hold: Hold = request.scope[HOLD]
    caller: Caller = request.scope[CALLER]
    return (await hold.acquire()).limited_to(caller.collections)


async def client_id(request: Request) -> str:
    """A digest of the key that asks, or that made the link by which is asked; "" without keys."""
    caller: Caller = request.scope[CALLER]
    return caller.client


Tercet = Annotated[State, Depends(acquire_state)]
ClientId = Annotated[str, Depends(client_id)]
