"""The worst failures of an evaluation as a page to look at and listen to: asked, expected, found instead."""

from __future__ import annotations

import hashlib
import shutil
from html import escape
from pathlib import Path

import numpy as np

from .evaluate import Route, Text, metrics, ranks, worst
from .manifest import Row

FOUND = 3  # hits shown of each query
STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { text-align: right; padding: .15rem .8rem;
  border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent) }
th:first-child, td:first-child { text-align: left }
article { display: grid; grid-template-columns: repeat(5, minmax(0, 1fr)); gap: .8rem; margin: 1.2rem 0;
  padding-top: .8rem; border-top: 1px solid color-mix(in srgb, currentColor 30%, transparent) }
video, audio { width: 100% }
small { opacity: .75; display: block; overflow-wrap: anywhere }
.right small::before { content: "\\2713 " }
.wrong small::before { content: "\\2717 " }
"""
HEADS = ("R@1", "R@5", "R@10", "mAP@10", "median_rank", "queries", "gallery")


def write_report(routes: list[Route], out: Path, count: int = 12) -> Path:
    """Write `out`/index.html with the `count` worst queries of each route; the media it needs go into `out`/media."""
    (out / "media").mkdir(parents=True, exist_ok=True)
    body = ["<h1>Where retrieval fails</h1>", summary(routes)]
    for route in routes:
        failed = worst(route, count)
        body.append(f"<h2>{route.name}</h2>")
        body += [article(route, i, out / "media") for i in failed] or ["<p>Every best hit is right.</p>"]
    page = out / "index.html"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
    page.write_text(
        f'<!doctype html><html lang="en"><head><title>Where retrieval fails</title>{head}</head>'
        f"<body>{''.join(body)}</body></html>",
        encoding="utf-8",
    )
    return page


def summary(routes: list[Route]) -> str:
    rows = [(route.name, metrics(route.scores, route.relevant)) for route in routes if route.relevant.any()]
    head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in ("route", *HEADS))
    lines = [f"<tr><td>{name}</td>{''.join(f'<td>{m[k]:.4g}</td>' for k in HEADS)}</tr>" for name, m in rows]
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def article(route: Route, i: int, media: Path) -> str:
    """One query, its best-ranked right answer, and what came before it."""
    place = ranks(route.scores[i : i + 1])[0]
    expected = int(np.where(route.relevant[i], route.scores[i], -np.inf).argmax())
    found = [int(j) for j in np.argsort(-route.scores[i], kind="stable")[:FOUND]]
    kinds = route.name.split("-")
    cells = [
        cell("asked", shown(route.queries[i], kinds[0], media), ""),
        cell(f"expected, rank {place[expected]:g}", shown(route.gallery[expected], kinds[1], media), "right"),
    ]
    cells += [
        cell(
            f"found, {route.scores[i, j]:.2f}",
            shown(route.gallery[j], kinds[1], media),
            "right" if route.relevant[i, j] else "wrong",
        )
        for j in found
    ]
    return f"<article>{''.join(cells)}</article>"


def cell(label: str, content: str, kind: str) -> str:
    return f'<div class="{kind}"><small>{label}</small>{content}</div>'


def shown(entry: Text | Row, kind: str, media: Path) -> str:
    """Words as words, a clip as a player of a copy of it, with its captions."""
    if isinstance(entry, Text):
        return f"<p>{escape(entry.text)}</p>"
    said = "; ".join(c.text for c in entry.said_of(kind)[:2]) or entry.id
    if entry.path is None:
        return f"<p>{escape(said)}</p>"
    copy = media / f"{hashlib.sha256(str(entry.path).encode()).hexdigest()[:12]}{entry.path.suffix}"
    if not copy.exists():
        shutil.copy(entry.path, copy)
    tag = "video" if kind == "video" else "audio"
    return f'<{tag} controls preload="metadata" src="media/{copy.name}"></{tag}><p>{escape(said)}</p>'
