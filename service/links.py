"""Short-lived addresses of one item's media and pictures, for players that send no key."""

from __future__ import annotations

import base64
import hmac
import json
import math
import re
import secrets
import time
from collections.abc import Iterable
from urllib.parse import parse_qs, quote

from .faults import BadLink

LINKED_PARTS = ("media", "poster")  # of an item, what its link opens
COVERED = re.compile(rf"/v1/collections/([^/]+)/items/(.+)/(?:{'|'.join(LINKED_PARTS)})")
TOKEN = re.compile(r"([1-9][0-9]{0,10})\.([A-Za-z0-9_-]{43})")


class Links:
    """Makes and checks the tokens of links. Their secret is of this process: a restart ends them
    all.
    """

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def token(self, who: str, collection: str, id: str, seconds: float) -> str:
        """What lets GET and HEAD of an item's media and pictures through for so long, on behalf of
        a key.
        """
        ends = math.ceil(time.time() + seconds)
        return f"{ends}.{self._signature(who, collection, id, ends)}"

    def maker(self, token: str, method: str, path: str, keys: Iterable[str]) -> str:
        """Which of the keys made a token that opens a path. Each is compared, in constant time.

        Raises:
            BadLink: it has ended, was made for something else or by a key that is no more, or was
                not made here.
        """
        place, parts = COVERED.fullmatch(path), TOKEN.fullmatch(token)
        if method not in ("GET", "HEAD") or place is None or parts is None:
            raise BadLink
        ends, signature = int(parts[1]), parts[2]
        same = [
            key
            for key in keys
            if hmac.compare_digest(signature, self._signature(key, place[1], place[2], ends))
        ]
        if not same or time.time() >= ends:
            raise BadLink
        return same[0]

    def _signature(self, who: str, collection: str, id: str, ends: int) -> str:
        said = json.dumps(["link", who, collection, id, ends]).encode()
        return (
            base64.urlsafe_b64encode(hmac.digest(self._secret, said, "sha256"))
            .rstrip(b"=")
            .decode()
        )


def token_in(query: bytes) -> str | None:
    """The token that a URL's query carries, if any; one that no
    link has where it carries several.
    """
    found = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("link")
    return None if found is None else found[0] if len(found) == 1 else ""


def address(collection: str, id: str, part: str, token: str | None) -> str:
    """The path of a part of an item, with its token."""
    path = f"/v1/collections/{quote(collection, safe='')}/items/{quote(id)}/{part}"
    return path if token is None else f"{path}?link={token}"
