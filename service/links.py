"""Short-lived addresses of one item's media and pictures, for players that send no key."""

from __future__ import annotations

import base64
import hmac
import json
import math
import re
import secrets
import time
from collections.abc import Callable, Iterable
from urllib.parse import parse_qs, quote

from .exceptions import BadLink

LINKED_PARTS = ("media", "poster", "playable", "clip")  # of an item, what its link opens
COVERED = re.compile(rf"/v1/collections/([^/]+)/items/(.+)/(?:{'|'.join(LINKED_PARTS)})")
TOKEN = re.compile(r"([1-9][0-9]{0,10})\.([A-Za-z0-9_-]{43})")


class Links:
    """Makes and checks the tokens of links. Their secret is this process's own: a restart ends them
    all. `clock` returns seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._secret = secrets.token_bytes(32)

    def token(self, client: str, collection: str, id: str, seconds: float) -> str:
        """Opens an item's media and pictures to GET and HEAD for so many seconds, on behalf of a
        client.
        """
        ends = math.ceil(self._clock() + seconds)
        return f"{ends}.{self._signature(client, collection, id, ends)}"

    def maker(self, token: str, method: str, path: str, clients: Iterable[str]) -> str:
        """The client that made a token for this path. Each is compared, in constant time.

        Raises:
            BadLink: the token has expired, was made for something else or by a key that is no
                longer valid, or was not made here.
        """
        item = COVERED.fullmatch(path)
        parts = TOKEN.fullmatch(token)
        if method not in ("GET", "HEAD") or item is None or parts is None:
            raise BadLink
        ends = int(parts[1])
        same = []
        for client in clients:
            expected = self._signature(client, item[1], item[2], ends)
            if hmac.compare_digest(parts[2], expected):
                same.append(client)
        if not same or self._clock() >= ends:
            raise BadLink
        return same[0]

    def _signature(self, client: str, collection: str, id: str, ends: int) -> str:
        message = json.dumps(["link", client, collection, id, ends]).encode()
        digest = hmac.digest(self._secret, message, "sha256")
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def token_in(query: bytes) -> str | None:
    """The token in a URL's query. None where there is none; "", which opens nothing, where
    there are several.
    """
    found = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("link")
    if found is None:
        return None
    return found[0] if len(found) == 1 else ""


def item_address(collection: str, id: str, part: str, token: str | None) -> str:
    """The path of a part of an item, with its token."""
    # clients resolve `..` between slashes, and would ask for another item
    is_dotted = any(piece in (".", "..") for piece in id.split("/"))
    quoted = quote(id, safe="" if is_dotted else "/")
    path = f"/v1/collections/{quote(collection, safe='')}/items/{quoted}/{part}"
    return path if token is None else f"{path}?link={token}"
