"""tercet tags: what is in a collection, and by which names it is told."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from export.encoder import Encoder, OnnxEncoder
from media.commands import Commands, add_command
from media.modality import AUDIO, VIDEO

from ..collection import Collection
from ..tagging import TagOverview, list_tags
from ..vocabulary import (
    Vocabulary,
    apply_vocabulary,
    default_vocabulary,
    ensure_vocabulary,
    read_vocabulary,
)
from .flags import add_collection, add_data, add_sizing, open_collections, parse_count


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "tags",
        "what is in a collection, in names of a vocabulary",
        "--data mine --limit 20",
        "--data mine --vocabulary names.txt --json",
    )
    names = parser.add_mutually_exclusive_group()
    names.add_argument(
        "--vocabulary",
        type=Path,
        metavar="FILE",
        help="tag the collection by the names in this file, a line each, from now on",
    )
    names.add_argument(
        "--default-vocabulary",
        action="store_true",
        help="tag it by the names that the default encoder knows, as before any other",
    )
    parser.add_argument(
        "--modality", choices=[VIDEO, AUDIO], help="tags of pictures, or of sound, alone"
    )
    parser.add_argument(
        "--limit", type=parse_count, default=100, help="how many at most; default: 100"
    )
    add_data(parser)
    add_collection(parser)
    add_sizing(parser)


def run(args: argparse.Namespace) -> int:
    encoder = OnnxEncoder.open(args.bundle, frames=args.frames)
    collections = open_collections(args, encoder.manifest)
    try:
        found = find_tags(collections.get(args.collection), encoder, args)
    finally:
        collections.close()
    print_tags(args.collection, found, args.limit, args.json)
    return 0


def find_tags(collection: Collection, encoder: Encoder, args: argparse.Namespace) -> TagOverview:
    """Tag a collection as the arguments say, and count its tags. Raises BadVocabulary, OSError."""
    chosen: Vocabulary | None = None
    if args.vocabulary is not None:
        chosen = read_vocabulary(args.vocabulary)
    elif args.default_vocabulary:
        chosen = default_vocabulary()
    if chosen is not None:
        apply_vocabulary(collection, encoder, chosen)
    ensure_vocabulary(collection, encoder)
    return list_tags(collection, args.modality)


def print_tags(collection: str, found: TagOverview, limit: int, as_json: bool) -> None:
    shown = found.tags[:limit]
    if as_json:
        document = {
            "collection": collection,
            "vocabulary": found.vocabulary,
            "total": len(found.tags),
            "tags": [asdict(tag) for tag in shown],
        }
        print(json.dumps(document, indent=1))
        return
    print(f"{'items':>7s} {'windows':>8s} {'seen in':>8s} {'heard in':>8s}  tag")
    for tag in shown:
        seen, heard = (
            tag.modalities[modality].items if modality in tag.modalities else 0
            for modality in (VIDEO, AUDIO)
        )
        print(f"{tag.items:7d} {tag.windows:8d} {seen:8d} {heard:8d}  {tag.name}")
    if len(shown) < len(found.tags):
        print(f"and {len(found.tags) - len(shown)} more: --limit {len(found.tags)} shows all")
