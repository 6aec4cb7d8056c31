"""Sessions of the page: a browser that has sent a key once is known by a cookie from then on.

A session is kept in memory by the SHA-256 of its token. It ends when one signs out, when its time
is over, with its key, and when the service stops.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie

from .keys import digest_of

COOKIE = "tercet_session"
SESSIONS_MAX = 10_000  # the oldest end first


class Sessions:
    """`clock` returns seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._open: dict[str, tuple[str, float]] = {}  # by token's digest: the key's, and its end

    def begin(self, digest: str, seconds: float) -> str:
        """A token that stands for the key of a digest for so many seconds."""
        now = self._clock()
        while self._open:
            oldest = next(iter(self._open))
            if now < self._open[oldest][1] and len(self._open) < SESSIONS_MAX:
                break
            del self._open[oldest]
        token = secrets.token_urlsafe(32)
        self._open[digest_of(token.encode())] = (digest, now + seconds)
        return token

    def digest(self, token: str) -> str:
        """The digest of the key that a token stands for, "" where it stands for none."""
        digest, ends = self._open.get(digest_of(token.encode()), ("", 0.0))
        return digest if self._clock() < ends else ""

    def end(self, token: str) -> None:
        self._open.pop(digest_of(token.encode()), None)


def session_in(headers: dict[bytes, bytes]) -> str | None:
    """The token in a request's cookies."""
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load(headers.get(b"cookie", b"").decode("latin-1"))
    except CookieError:
        return None
    found = cookies.get(COOKIE)
    return None if found is None else found.value


def cookie_header(token: str, seconds: float, *, path: str, https: bool) -> str:
    """A cookie that only this service's own pages send, and that no script can read. It is deleted
    where the seconds are 0.
    """
    cookie: SimpleCookie = SimpleCookie()
    cookie[COOKIE] = token
    morsel = cookie[COOKIE]
    morsel["path"] = path
    morsel["max-age"] = int(seconds)
    morsel["httponly"] = True
    morsel["samesite"] = "Strict"
    morsel["secure"] = https
    return morsel.OutputString()
