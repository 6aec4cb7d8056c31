"""Reports of an evaluation: tables, JSON, and a page of the worst failures with their media."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from media.manifest import Row
from media.modality import AUDIO
from media.windows import InputSpecs

from .clips import Clips, load_rows
from .folds import cross_validate
from .retrieval import (
    Embedder,
    Gallery,
    GroupedCaption,
    Route,
    attribute_accuracy,
    build_routes,
    dual_softmax,
    embed_every_window,
    embed_first_windows,
    find_gained,
    find_worst,
    format_table,
    normalise_by_bank,
    ranking_metrics,
    ranks,
    summarise,
)

GalleriesOf = Callable[[Embedder], dict[str, Gallery]]  # of a space, by modality
HITS_SHOWN = 3  # hits shown of each query
GAINED_SHOWN = 4  # queries shown of each route that training has brought
STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { text-align: right; padding: .15rem .8rem;
  border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent) }
th:first-child, td:first-child { text-align: left }
article { display: grid; grid-template-columns: repeat(5, minmax(0, 1fr)); gap: .8rem;
  margin: 1.2rem 0;
  padding-top: .8rem; border-top: 1px solid color-mix(in srgb, currentColor 30%, transparent) }
video, audio { width: 100% }
small { opacity: .75; display: block; overflow-wrap: anywhere }
.right small::before { content: "\\2713\\a0 " }
.wrong small::before { content: "\\2717\\a0 " }
"""
HEADS = ("R@1", "R@5", "R@10", "mAP@10", "median_rank", "queries", "gallery")


def write_report(
    routes: list[Route], out: Path, count: int = 12, before: list[Route] | None = None
) -> Path:
    """Write `out`/index.html with the `count` worst queries of each route; the media it needs go
    into `out`/media. With the routes of the encoder `before` its training, also what training has
    changed, and what is found now.
    """
    (out / "media").mkdir(parents=True, exist_ok=True)
    title = "What is found, and what is not" if before else "Where retrieval fails"
    body = [f"<h1>{title}</h1>"]
    body += ["<h2>Before training</h2>", render_summary(before), "<h2>After</h2>"] if before else []
    body.append(render_summary(routes))
    for n, route in enumerate(routes):
        if before:
            body.append(f"<h2>{route.name}: found now</h2>")
            body += [
                render_query(route, i, out / "media", before[n])
                for i in find_gained(before[n], route, GAINED_SHOWN)
            ]
        failed = find_worst(route, count)
        body.append(f"<h2>{route.name}: not found</h2>" if before else f"<h2>{route.name}</h2>")
        body += [render_query(route, i, out / "media") for i in failed] or [
            "<p>Every best hit is right.</p>"
        ]
    page = out / "index.html"
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f"<title>{title}</title><style>{STYLE}</style>"
    page.write_text(
        f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>',
        encoding="utf-8",
    )
    return page


def render_summary(routes: list[Route]) -> str:
    rows = [
        (route.name, ranking_metrics(route.scores, route.relevant))
        for route in routes
        if route.relevant.any()
    ]
    head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in ("route", *HEADS))
    lines = [
        f"<tr><td>{name}</td>{''.join(f'<td>{m[k]:.4g}</td>' for k in HEADS)}</tr>"
        for name, m in rows
    ]
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def render_query(route: Route, i: int, media: Path, before: Route | None = None) -> str:
    """HTML of query `i` of a route: its best-ranked right answer and its best hits. With the route
    `before` training, also the best hit of that time.
    """
    place = ranks(route.scores[i : i + 1])[0]
    expected = int(np.where(route.relevant[i], route.scores[i], -np.inf).argmax())
    found = [
        int(j)
        for j in np.argsort(-route.scores[i], kind="stable")[: HITS_SHOWN - (before is not None)]
    ]
    kinds = route.name.split("-")
    cells = [render_cell("asked", render_entry(route.queries[i], kinds[0], media), "")]
    if before is None:
        label = f"expected, rank {place[expected]:g}"
        cells.append(
            render_cell(label, render_entry(route.gallery[expected], kinds[1], media), "right")
        )
    else:
        first = int(before.scores[i].argmax())
        was = ranks(before.scores[i : i + 1])[0][expected]
        for label, j in (
            ("found before training", first),
            (f"expected, then at rank {was:g}", expected),
        ):
            kind = "right" if route.relevant[i, j] else "wrong"
            cells.append(render_cell(label, render_entry(route.gallery[j], kinds[1], media), kind))
    cells += [
        render_cell(
            f"found, {route.scores[i, j]:.2f}",
            render_entry(route.gallery[j], kinds[1], media),
            "right" if route.relevant[i, j] else "wrong",
        )
        for j in found
    ]
    return f"<article>{''.join(cells)}</article>"


def render_cell(label: str, content: str, kind: str) -> str:
    return f'<div class="{kind}"><small>{label}</small>{content}</div>'


def render_entry(entry: GroupedCaption | Row, kind: str, media: Path) -> str:
    """HTML of an entry: a text, or a player of a clip with its captions. The clip is copied into
    `media`.
    """
    if isinstance(entry, GroupedCaption):
        return f"<p>{escape(entry.text)}</p>"
    captions = list(entry.captions) if kind == "any" else entry.captions_about(kind)
    said = "; ".join(c.text for c in captions[:2]) or entry.id
    if entry.path is None:
        return f"<p>{escape(said)}</p>"
    copy = media / f"{hashlib.sha256(str(entry.path).encode()).hexdigest()[:12]}{entry.path.suffix}"
    if not copy.exists():
        shutil.copy(entry.path, copy)
    tag = "audio" if kind == AUDIO else "video"  # which plays a sound, too
    return (
        f'<{tag} controls preload="metadata" src="media/{copy.name}"></{tag}><p>{escape(said)}</p>'
    )


# ---------------------------------------------------------------- the command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", help="a JSONL file, a folder of media, or world:SPLIT:COUNT")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path("runs/evaluate"),
        help="a folder that keeps decoded first windows and rendered clips",
    )
    parser.add_argument(
        "--windows",
        choices=["all", "first"],
        default="all",
        help="score an item by its best window (all), or by its first",
    )
    parser.add_argument(
        "--every-caption", action="store_true", help="each caption is a query, not only the first"
    )
    parser.add_argument(
        "--phrases",
        type=Path,
        help="a JSON file of phrases by group, which replace the captions as queries",
    )
    parser.add_argument(
        "--bank",
        help="a manifest whose captions are the bank of QB-Norm for text-video and text-audio",
    )
    parser.add_argument(
        "--dual-softmax",
        action="store_true",
        help="report dual softmax, too, in a table of its own",
    )
    parser.add_argument(
        "--report", type=Path, help="a folder for a page with the worst failures and their media"
    )
    parser.add_argument(
        "--folds",
        action="store_true",
        help="cross-validate a linear map behind the frozen encoder: rows have a fold and a group",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def add_before(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--before",
        action="store_true",
        help="for a checkpoint: report also the encoder before its training",
    )


def choose_galleries(manifest: str, specs: InputSpecs, cache: Path, windows: str) -> GalleriesOf:
    """A function that makes the galleries of a manifest in a space, by modality.

    `windows` is "all", or "first" for the first window of each item.
    """
    if windows == "first":
        return partial(
            embed_first_windows, clips=Clips.open(manifest, specs, cache, cache / "world")
        )
    rows, _ = load_rows(manifest, cache / "world")
    return partial(embed_every_window, rows=rows, specs=specs)


@dataclass
class Measured:
    """What was measured. `other_orders` has the metrics of each other order of the hits by its
    name, `stated` by route how often the best hit has what a caption states, `folds` the R@1 of
    each part in cross-validation.
    """

    routes: list[Route] = field(default_factory=list)
    other_orders: dict[str, Any] = field(default_factory=dict)
    stated: dict[str, Any] = field(default_factory=dict)
    folds: dict[str, Any] = field(default_factory=dict)


def run(
    spaces: list[Embedder],
    specs: InputSpecs,
    args: argparse.Namespace,
    before: Embedder | None = None,
) -> None:
    """Measure and print, with the `args` of `add_arguments`.

    If several spaces have a route, the first one is measured. `before` is the encoder before its
    training, for the report.
    """
    phrases = json.loads(args.phrases.read_text(encoding="utf-8")) if args.phrases else None
    galleries_of = choose_galleries(args.manifest, specs, args.cache, args.windows)
    measured = measure_spaces(spaces, galleries_of, args, phrases)
    if args.report:
        earlier = None
        if before:
            earlier = build_routes(before, galleries_of(before), args.every_caption, phrases)
        print(write_report(measured.routes, args.report, before=earlier), file=sys.stderr)
    if args.json:
        document = summarise(measured.routes) | measured.other_orders
        document["stated"] = measured.stated
        if args.folds:
            document["folds"] = measured.folds
        print(json.dumps(document, indent=1))
    else:
        print_measured(measured)


def measure_spaces(
    spaces: list[Embedder], galleries_of: GalleriesOf, args: argparse.Namespace, phrases: Any
) -> Measured:
    bank = load_rows(args.bank, args.cache / "world")[0] if args.bank else []
    measured = Measured()
    normalised: list[Route] = []
    for space in spaces:
        known = {route.name for route in measured.routes}
        galleries = galleries_of(space)
        routes = build_routes(space, galleries, args.every_caption, phrases)
        routes = [route for route in routes if route.name not in known]
        if args.folds:
            for modality, gallery in galleries.items():
                measured.folds.setdefault(f"{modality}-text", cross_validate(space, gallery))
        normalised += normalise_by_bank(space, routes, bank)
        measured.routes += routes
    if args.bank:
        measured.other_orders["qb_norm"] = summarise(normalised)
    if args.dual_softmax:
        reordered = [replace(r, scores=dual_softmax(r.scores)) for r in measured.routes]
        measured.other_orders["dual_softmax"] = summarise(reordered)
    for route in measured.routes:
        shares = attribute_accuracy(route)
        if shares:
            measured.stated[route.name] = shares
    return measured


def print_measured(measured: Measured) -> None:
    print(format_table(summarise(measured.routes)))
    for name, results in measured.other_orders.items():
        print(f"\n{name}\n{format_table(results)}")
    for route, shares in measured.folds.items():
        print(f"\n{route}, R@1 in cross-validation: {format_shares(shares)}")
    for route, shares in measured.stated.items():
        print(f"\n{route}, best hit has what is stated: {format_shares(shares)}")


def format_shares(shares: dict[str, float]) -> str:
    """
    >>> format_shares({"colour": 0.5, "shape": 1.0})
    'colour 0.500, shape 1.000'
    """
    return ", ".join(f"{name} {share:.3f}" for name, share in shares.items())
