"""The search page."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..media import Stored
from .router import Router

router = Router()

PAGE = Path(__file__).parent.parent / "page"
KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
PartName = Literal[
    "address.js",
    "dom.js",
    "imports.js",
    "item.js",
    "library.js",
    "mark.svg",
    "page.css",
    "page.js",
    "pictures.js",
    "player.js",
    "query.js",
    "results.js",
    "seekable.js",
    "service.js",
    "texts.js",
]
CONTENT = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "media-src": "'self' blob:",
    "img-src": "'self' data: blob:",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "base-uri": "'none'",
}
POLICY = "; ".join(f"{part} {sources}" for part, sources in CONTENT.items())


@router.get_and_head("/", include_in_schema=False)
async def page() -> Stored:
    """The search page."""
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
    return Stored(PAGE / "index.html", "text/html", headers=headers)


@router.get_and_head("/page/{name}", include_in_schema=False)
async def page_part(name: PartName) -> Stored:
    kind = KINDS[Path(name).suffix]
    return Stored(PAGE / name, kind, headers={"Cache-Control": "no-cache"})
