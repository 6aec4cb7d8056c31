"""Lists the items of a collection."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any

from export.bundle import open_bundle
from media.commands import Commands, add_command
from media.passages import Passage

from ..collection import Collection
from ..records.item import Item
from .flags import add_collection, add_data, add_sizing, open_collections, parse_count

PAGE = 1000  # items read at once


def add_parser(commands: Commands) -> None:
    listing = add_command(
        commands,
        "items",
        "list the items of a collection, by id",
        "--data mine --limit 20",
        "--data mine --limit 20 --after clip-20.mp4 --json",
    )
    listing.add_argument("--limit", type=parse_count, help="how many at most; default: all")
    listing.add_argument(
        "--after", default="", metavar="ID", help="only items whose ids come after this one"
    )
    listing.add_argument(
        "--words", action="store_true", help="also what each file says and shows in words"
    )
    add_data(listing)
    add_collection(listing)
    add_sizing(listing)


def run(args: argparse.Namespace) -> int:
    collections = open_collections(args, open_bundle(args.bundle, args.frames).manifest)
    try:
        collection = collections.get(args.collection)
        items = list(islice(list_items_after(collection, args.after), args.limit))
        following = bool(items) and bool(collection.page(1, items[-1].id))
        words = {item.id: collection.passages(item.id) for item in items if args.words}
    finally:
        collections.close()
    if args.json:
        page = {
            "items": [item_document(item, words.get(item.id)) for item in items],
            "next": items[-1].id if following else None,
        }
        print(json.dumps(page, indent=1))
        return 0
    print(f"{'length':>10s}  {'modalities':18s}  item")
    for item in items:
        print(f"{item.duration_s:8.1f} s  {' '.join(item.modalities):18s}  {item.id}")
        for passage in words.get(item.id, ()):
            print(f"{passage.start_s:12.1f} - {passage.end_s:.1f} s  {passage.text}")
    if following:
        print(f"there are more: --after {items[-1].id}", file=sys.stderr)
    return 0


def list_items_after(collection: Collection, id: str) -> Iterator[Item]:
    """Every item whose id comes after one, in order."""
    page = collection.page(PAGE, id)
    while page:
        yield from page
        page = collection.page(PAGE, page[-1].id)


def item_document(item: Item, words: tuple[Passage, ...] | None) -> dict[str, Any]:
    """An item as the service describes it over HTTP."""
    passages = None if words is None else [asdict(passage) for passage in words]
    return {
        "id": item.id,
        "windows": item.windows,
        "modalities": item.modalities,
        "duration_s": item.duration_s,
        "partial": item.partial,
        "added": item.added,
        "kind": item.kind,
        "filename": item.filename,
        "text": item.text,
        "metadata": item.metadata,
        "words": passages,
    }
