"""Sign in to the page with a key, and out; who is asking."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from functools import lru_cache
from string import Template
from typing import Annotated, Literal

from fastapi import Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from .. import schemas
from ..access import CHANGE, CallerOf, Change, Gate, check_own_page, needs
from ..keys import READ, Key, digest_of, find_key
from ..sessions import cookie_header, session_in
from ..settings import Settings
from .page import PAGE
from .router import Router

router = Router()

Shown = Literal["asked", "refused", "known"]
SEE_OTHER = 303
SLASHES = "/\\"  # two at the start of an address lead to another host
STYLE = re.compile(r"<style>(.*?)</style>", re.S)
TEXTS = {
    "en": {
        "title": "Sign in",
        "label": "Key",
        "submit": "Sign in",
        "wrong": "This key is not valid here. It may have expired, or been taken away.",
        "known": "You are signed in with the key {name}.",
        "leave": "Sign out",
        "onward": "To the search",
    },
    "de": {
        "title": "Anmelden",
        "label": "Schlüssel",
        "submit": "Anmelden",
        "wrong": "Dieser Schlüssel gilt hier nicht. Vielleicht ist er abgelaufen oder entzogen.",
        "known": "Angemeldet mit dem Schlüssel {name}.",
        "leave": "Abmelden",
        "onward": "Zur Suche",
    },
}


@router.get("/sign-in", include_in_schema=False)
async def sign_in_page(request: Request, next: str = "") -> Response:
    """Asks for a key, or says who is signed in."""
    keys = valid_keys(request)
    if keys is None:
        return redirect(request, next)
    session = session_in(dict(request.scope["headers"]))
    key = None if session is None else find_key(keys, gate_of(request).sessions.digest(session))
    return page_response(request, next, "asked" if key is None else "known", key)


@router.post("/sign-in", include_in_schema=False)
async def sign_in(
    request: Request, key: Annotated[str, Form()], next: Annotated[str, Form()] = ""
) -> Response:
    """Begin a session, and go on to a place of the page. Raises CrossOrigin."""
    check_own_page("POST", dict(request.scope["headers"]))
    keys = valid_keys(request)
    if keys is None:
        return redirect(request, next)
    change = Change("session.begin")
    request.scope[CHANGE] = change
    found = find_key(keys, digest_of(key.strip().encode()))
    if found is None:
        return page_response(request, next, "refused", status=401)
    change.about = {"key": found.name, "by": "session"}
    seconds = settings_of(request).session_s
    answer = redirect(request, next)
    token = gate_of(request).sessions.begin(found.digest, seconds)
    set_cookie(request, answer, token, seconds)
    return answer


@router.post("/sign-out", include_in_schema=False)
async def sign_out(request: Request) -> Response:
    """End the session. Raises CrossOrigin."""
    headers = dict(request.scope["headers"])
    check_own_page("POST", headers)
    session = session_in(headers)
    if session is not None:
        sessions = gate_of(request).sessions
        key = find_key(valid_keys(request) or (), sessions.digest(session))
        sessions.end(session)
        name = "" if key is None else key.name
        request.scope[CHANGE] = Change("session.end", {"key": name, "by": "session"})
    answer = RedirectResponse(f"{root_of(request)}/sign-in", SEE_OTHER)
    set_cookie(request, answer, "", 0)
    return answer


@router.get("/v1/session", tags=["session"])
@needs(READ)
async def get_session(caller: CallerOf) -> schemas.SessionFound:
    """Who asks, by key or session, and what they may do."""
    collections = None if caller.collections is None else sorted(caller.collections)
    assert caller.role is not None
    return schemas.SessionFound(
        key=caller.name, role=caller.role, collections=collections, by=caller.by
    )


def gate_of(request: Request) -> Gate:
    gate: Gate = request.app.state.owner.gate
    return gate


def settings_of(request: Request) -> Settings:
    settings: Settings = request.app.state.owner.active.state.settings
    return settings


def valid_keys(request: Request) -> tuple[Key, ...] | None:
    """None where no keys are asked for."""
    return gate_of(request).keys.current(settings_of(request).api_keys)


def root_of(request: Request) -> str:
    root: str = request.scope.get("root_path", "")
    return root


def redirect(request: Request, next: str) -> RedirectResponse:
    """To a place of the page: never to another site, whatever `next` says."""
    place = next.lstrip(SLASHES)
    return RedirectResponse(f"{root_of(request)}/{place}", SEE_OTHER)


def set_cookie(request: Request, answer: Response, token: str, seconds: float) -> None:
    https = request.scope["scheme"] == "https"
    cookie = cookie_header(token, seconds, path=f"{root_of(request)}/", https=https)
    answer.headers.append("Set-Cookie", cookie)


@lru_cache
def page_parts() -> tuple[Template, str]:
    """The page, and a policy that lets it do nothing but show itself and send its form."""
    text = (PAGE / "sign-in.html").read_text("utf-8")
    [style] = STYLE.findall(text)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; form-action 'self';"
        " frame-ancestors 'none'; base-uri 'none'"
    )
    return Template(text), policy


def page_response(
    request: Request, next: str, shown: Shown, key: Key | None = None, *, status: int = 200
) -> HTMLResponse:
    page, policy = page_parts()
    language = language_of(request.headers.get("accept-language", ""))
    texts = dict(TEXTS[language])
    texts["known"] = texts["known"].format(name="" if key is None else key.name)
    values = texts | {"lang": language, "state": shown, "next": next}
    written = page.substitute({name: html.escape(value) for name, value in values.items()})
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store"}
    return HTMLResponse(written, status, headers)


def language_of(accepted: str) -> str:
    """The first language of a browser's list that there are texts in, else English."""
    for entry in accepted.split(","):
        language = entry.partition(";")[0].strip().partition("-")[0].lower()
        if language in TEXTS:
            return language
    return "en"
