"""Who asks, and what they may do: by a key, a link that a key has made, or a session of the page.

Routes below /v1/ ask for a role. `needs` says which; where nothing is said it is the highest.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Scope

from .exceptions import BadHost, BadKey, CrossOrigin, Forbidden, LimitedKey
from .keys import ADMIN, READ, BadKeyFile, Key, Keys, Role, digest_of, find_key, may
from .links import Links, token_in
from .sessions import Sessions, session_in
from .settings import Settings, is_loopback

CALLER = "tercet.caller"  # in a request's scope: its `Caller`
CHANGE = "tercet.change"  # ... and its `Change`, where its route changes something
PEER = "tercet.peer"  # in the scope's "state": the address that has connected, a proxy's perhaps
KEYED = "/v1/"  # what asks for a key
# what needs no key, and names collections only to those whose key may see them
SELECTIVE = ("/metrics", "/readyz")
SAFE = ("GET", "HEAD", "OPTIONS")
NAME_MAX = 200  # letters of a name that a proxy gives

RawHeaders = dict[bytes, bytes]
Handler = TypeVar("Handler", bound=Callable[..., Any])


# ---------------------------------------------------------------- what a caller may


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who asks. `client` is "" without keys, `name` that of the key. `role` is None of one who has
    sent no key where keys are asked for. `collections` are those that may be seen; None: all.
    `identity` is the person that a proxy has named.
    """

    client: str = ""
    name: str | None = None
    role: Role | None = ADMIN
    collections: frozenset[str] | None = None
    by: Literal["nothing", "key", "link", "session"] = "nothing"
    identity: str | None = None


STRANGER = Caller(role=None, collections=frozenset())


def caller_with(key: Key, by: Literal["key", "link", "session"], identity: str | None) -> Caller:
    return Caller(
        client=key.client,
        name=key.name,
        role=READ if by == "link" else key.role,
        collections=None if key.collections is None else frozenset(key.collections),
        by=by,
        identity=identity,
    )


@dataclass
class Change:
    """What a request changes, as the audit tells it. Routes add what the path does not say."""

    action: str
    about: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rule:
    """What a route asks of its callers. `change` names what it changes, "" where nothing.
    `everything`: it is about all collections, so a key for some of them is not enough.
    """

    role: Role
    change: str = ""
    everything: bool = False

    def check(self, caller: Caller) -> None:
        """Raises Forbidden, LimitedKey."""
        if not may(caller.role, self.role):
            raise Forbidden(str(caller.role), self.role)
        if self.everything and caller.collections is not None:
            raise LimitedKey


STRICTEST = Rule(ADMIN, everything=True)


def needs(
    role: Role, change: str = "", *, everything: bool = False
) -> Callable[[Handler], Handler]:
    """Says what a route's function asks of its callers."""

    def mark(handler: Handler) -> Handler:
        setattr(handler, "rule", Rule(role, change, everything))  # noqa: B010 (functions have no such attribute)
        return handler

    return mark


def rule_of(route: APIRoute) -> Rule | None:
    """None where no key is needed."""
    if not route.path.startswith(KEYED):
        return None
    rule: Rule = getattr(route.endpoint, "rule", STRICTEST)
    return rule


class GuardedRoute(APIRoute):
    """A route that refuses who may not use it before it reads a request's body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()
        rule = rule_of(self)
        if rule is None:
            return answer

        async def guarded(request: Request) -> Response:
            if rule.change:
                request.scope[CHANGE] = Change(rule.change)
            rule.check(request.scope[CALLER])
            return await answer(request)

        return guarded


async def caller_of(request: Request) -> Caller:
    caller: Caller = request.scope[CALLER]
    return caller


async def change_of(request: Request) -> Change:
    change: Change = request.scope[CHANGE]
    return change


CallerOf = Annotated[Caller, Depends(caller_of)]
ChangeOf = Annotated[Change, Depends(change_of)]


# ---------------------------------------------------------------- who asks


class Gate:
    """Tells who asks, by a request's head."""

    def __init__(self, keys: Keys, links: Links, sessions: Sessions) -> None:
        self.keys = keys
        self.links = links
        self.sessions = sessions

    def identify(self, scope: Scope, path: str, headers: RawHeaders, settings: Settings) -> Caller:
        """Who asks for a path.

        Raises BadHost, CrossOrigin, BadKey, BadLink, BadKeyFile.
        """
        try:
            keys = self.keys.current(settings.api_keys)
        except BadKeyFile:
            if path.startswith(KEYED):
                raise
            return STRANGER
        if keys is None:
            if settings.exposed:  # the file of keys is gone, and others can connect
                raise BadKey
            if not settings.allow_open:
                check_same_origin(scope["method"], headers, settings.hosts)
            return Caller(identity=identity_in(scope, headers, settings))
        if path.startswith(KEYED):
            return self._holder(scope, path, headers, settings, keys)
        carries = b"authorization" in headers or session_in(headers) is not None
        if path in SELECTIVE and carries:
            return self._holder(scope, path, headers, settings, keys)
        return STRANGER

    def _holder(
        self,
        scope: Scope,
        path: str,
        headers: RawHeaders,
        settings: Settings,
        keys: tuple[Key, ...],
    ) -> Caller:
        identity = identity_in(scope, headers, settings)
        if b"authorization" in headers:
            return caller_with(authenticate(headers[b"authorization"], keys), "key", identity)
        token = token_in(scope["query_string"])
        if token is not None:
            by_client = {key.client: key for key in keys}
            maker = self.links.maker(token, scope["method"], path, by_client)
            return caller_with(by_client[maker], "link", identity)
        session = session_in(headers)
        key = None if session is None else find_key(keys, self.sessions.digest(session))
        if key is None:
            raise BadKey
        check_own_page(scope["method"], headers)
        return caller_with(key, "session", identity)


def authenticate(header: bytes, keys: tuple[Key, ...]) -> Key:
    """The key that a request carries. Raises BadKey."""
    scheme, _, secret = header.partition(b" ")
    key = find_key(keys, digest_of(secret.strip()))
    if scheme.lower() != b"bearer" or key is None:
        raise BadKey
    return key


def check_same_origin(method: str, headers: RawHeaders, hosts: tuple[str, ...]) -> None:
    """Without keys only this machine may ask, and no page that was loaded from elsewhere.

    Raises:
        BadHost: the request names another host, as from a page whose name has been pointed here.
        CrossOrigin: a page of another origin wants to change something.
    """
    host = headers.get(b"host", b"localhost").decode("latin-1").lower()
    name = parts_of(f"//{host}").hostname or ""
    if not is_loopback(name) and name not in hosts:
        raise BadHost(host)
    origin = headers.get(b"origin", b"").decode("latin-1").lower()
    if method not in SAFE and origin and not is_own(origin, host, headers.get(b"sec-fetch-site")):
        raise CrossOrigin(origin)


def is_own(origin: str, host: str, site: bytes | None) -> bool:
    """Whether a page's origin is the host that it asks. A proxy may have left the port out, as
    nginx's `$host` does: then the browser has to say so by `site`, which no page can change.
    """
    page = parts_of(origin)
    asked = parts_of(f"//{host}")
    if page.netloc == asked.netloc:
        return True
    return page.hostname == asked.hostname and site == b"same-origin"


def parts_of(address: str) -> SplitResult:
    """What an address consists of; nothing where it is none, as "http://[::1"."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def check_own_page(method: str, headers: RawHeaders) -> None:
    """A browser sends its cookie by itself. So what is asked with one, and changes something, has
    to come from a page of this service: browsers say so.

    Raises:
        CrossOrigin: it comes from elsewhere, or does not say.
    """
    if method in SAFE or headers.get(b"sec-fetch-site") == b"same-origin":
        return
    host = headers.get(b"host", b"").decode("latin-1").lower()
    origin = headers.get(b"origin", b"").decode("latin-1").lower()
    if not origin or parts_of(origin).netloc != host:
        raise CrossOrigin(origin or "unknown origin")


def identity_in(scope: Scope, headers: RawHeaders, settings: Settings) -> str | None:
    """The person that a proxy names. Others who have connected are not believed."""
    name = settings.identity_header.lower().encode()
    said = sum(header == name for header, _ in scope["headers"])
    if said != 1 or not is_proxy(scope, settings):  # a proxy replaces what a client has sent
        return None
    given = headers[name].decode("utf-8", "replace")
    printable = "".join(letter if letter.isprintable() else "?" for letter in given)
    return printable.strip()[:NAME_MAX] or None


def is_proxy(scope: Scope, settings: Settings) -> bool:
    """Whether a proxy of the settings has connected. Through a Unix socket everyone is one."""
    if settings.socket is not None:
        return True
    peer = scope.get("state", {}).get(PEER)
    if peer is None:
        return False
    address = ipaddress.ip_address(peer[0].partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return any((mapped or address) in ipaddress.ip_network(one) for one in settings.proxies)
