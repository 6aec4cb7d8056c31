"""HTTP by uvicorn and httptools, with limits that they leave open: how large the head of a request
may be, how long it may take to arrive, and that it names a host. Refusals have the shape of every
other error.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

from httptools import HttpParserError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .access import PEER

HEAD_BYTES = 65_536
HEAD_S = 20.0
LINGER_S = 5.0
LINGER_BYTES = 500_000  # of a body in LINGER_S: a client that sends less is not waited for
LINGER_MOST_S = 600.0


class LastingTransport:
    """A connection's transport for one request, whose `close` is its protocol's."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


class Protocol(HttpToolsProtocol):
    """One connection. Trailers, headers after a body, are dropped: nothing has checked them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._reading_head = True
        self._timer: asyncio.TimerHandle | None = None
        self._unread_bytes = 0  # of a body, since its answer or the last look
        self._linger_end = 0.0  # by the loop's clock
        self._ended = False  # nothing more is written

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        # uvicorn puts the address that a proxy names in its place
        self.scope["state"][PEER] = self.client

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_bytes = 0
        self._stop_waiting()
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_BYTES:
            self._refuse_large_head()
            raise HttpParserError  # nothing more of it is read
        hosts = sum(name == b"host" for name, _ in self.headers)
        if self.parser.get_http_version() == "1.1" and hosts != 1:  # RFC 9112, 3.2
            self._refuse(400, "bad_request", "A request needs exactly one Host header.")
            raise HttpParserError
        if self.parser.get_http_version() == "1.0":  # RFC 9110, 10.1.1
            self.expect_100_continue = False
        super().on_headers_complete()
        self._reading_head = False
        lasting = LastingTransport(self.transport, self._close)
        self.cycle.transport = cast(asyncio.Transport, lasting)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._reading_head = True
        self._stop_waiting()
        if self._ended:
            self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # read on for a while: most clients read no answer before they have sent their body
        if not self._reading_head:
            self._stop_waiting()
            self._linger_end = self.loop.time() + LINGER_MOST_S
            self._linger()

    def data_received(self, data: bytes) -> None:
        self._unread_bytes += len(data)
        if self._reading_head:
            self._head_bytes += len(data)
            if self._timer is None:
                self._wait_for_head()
        super().data_received(data)
        if self._reading_head and self._head_bytes > HEAD_BYTES:
            self._refuse_large_head()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "bad_request", msg)

    def _close(self) -> None:
        """Close the connection after an answer. While the request's body still comes, end only the
        answer: see `on_response_complete`.
        """
        if self._reading_head or not self.transport.can_write_eof():
            self.transport.close()
        else:
            self._ended = True
            self.transport.write_eof()

    def _linger(self) -> None:
        self._unread_bytes = 0
        self._timer = self.loop.call_later(LINGER_S, self._on_lingered)

    def _on_lingered(self) -> None:
        if self._unread_bytes < LINGER_BYTES or self.loop.time() > self._linger_end:
            self.transport.close()
        else:
            self._linger()

    def _wait_for_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_S, self._on_timeout)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait_for_head()  # the request before it is still being answered
        else:
            message = f"The head of a request took longer than {HEAD_S:g} s to arrive."
            self._refuse(408, "too_slow", message)

    def _refuse_large_head(self) -> None:
        message = f"The head of a request may have at most {HEAD_BYTES} bytes."
        self._refuse(431, "head_too_large", message)

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer with an error and close the connection. Where another answer is due before, or has
        begun, only close it.
        """
        if self.transport.is_closing():
            return
        if self._ended:
            self.transport.close()
            return
        in_its_body = not self._reading_head and not self.pipeline
        if (
            self.cycle is None
            or self.cycle.response_complete
            or (in_its_body and not self.cycle.response_started)
        ):
            error = {"code": code, "message": message, "detail": {}}
            body = json.dumps({"error": error}).encode()
            lines = [
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
                "content-type: application/json",
                f"content-length: {len(body)}",
                "connection: close",
            ]
            head = "".join(f"{line}\r\n" for line in lines) + "\r\n"
            self.transport.write(head.encode() + body)
        self.transport.close()
