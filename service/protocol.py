"""HTTP by uvicorn and httptools, with what they leave open: how large the head of a request may be
and how long it may take to arrive, that it names a host; and refusals in the shape of every other
error.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

from httptools import HttpParserError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 65_536
HEAD_S = 20.0
LINGER_S = 5.0


class Protocol(HttpToolsProtocol):
    """One connection. Headers that come after a body are dropped: nobody has checked them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head, self._reading_head = 0, True
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head, self._reading_head = 0, False
        self._stop_waiting()
        hosts = sum(name == b"host" for name, _ in self.headers)
        if self.parser.get_http_version() == "1.1" and hosts != 1:  # RFC 9112, 3.2
            self._refuse(
                400, "bad_request", "a request has one header Host, which names whom it asks"
            )
            raise HttpParserError  # nothing more is read of it
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._reading_head = True
        self._stop_waiting()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # of a body that nobody wants any more, some is let in, so that the answer is heard
        if not self._reading_head:
            self._stop_waiting()
            self._timer = self.loop.call_later(LINGER_S, self.transport.close)

    def data_received(self, data: bytes) -> None:
        if self._reading_head:
            self._head += len(data)
            if self._timer is None:
                self._wait_for_head()
        super().data_received(data)
        if self._reading_head and self._head > HEAD_BYTES:
            self._refuse(
                431, "head_too_large", f"the head of a request has at most {HEAD_BYTES} bytes"
            )

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "bad_request", msg)

    def _wait_for_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_S, self._late)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait_for_head()  # the one before it is still being answered
        else:
            self._refuse(408, "too_slow", f"the head of a request takes at most {HEAD_S:g} s")

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Say so and hang up; in the middle of another answer, only hang up."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            said = json.dumps({"error": {"code": code, "message": message, "detail": {}}}).encode()
            head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            head += f"content-length: {len(said)}\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode() + said)
        self.transport.close()
