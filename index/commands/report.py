"""Reports near-duplicates, files that are gone, and the quality of the indexes."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from export.encoder import OnnxEncoder
from media.commands import Commands, add_command

from ..duplicates import find_duplicates, format_duplicates
from ..ingest.build import list_failures
from ..ingest.gone import Missing, find_missing
from ..ingest.names import make_printable
from ..report import format_stats, report
from .flags import add_collection, add_data, add_sizing, open_collections
from .missing import missing_document

REPORTED = ("duplicates", "files", "indexes")


def add_parser(commands: Commands) -> None:
    reporting = add_command(
        commands,
        "report",
        "a collection's near-duplicates, files that are gone, and the quality of its indexes",
        "--data mine",
        "--data mine --only duplicates --json",
    )
    reporting.add_argument(
        "--only", choices=REPORTED, help="one part of the report; default: all of it"
    )
    add_data(reporting)
    add_collection(reporting)
    add_sizing(reporting)


def run(args: argparse.Namespace) -> int:
    encoder = OnnxEncoder.open(args.bundle, frames=args.frames)
    collections = open_collections(args, encoder.manifest)
    try:
        collection = collections.get(args.collection)
        document: dict[str, Any] = {"collection": args.collection}
        if args.only in (None, "duplicates"):
            pairs = find_duplicates(collection)
            document["near_duplicates"] = [asdict(pair) for pair in pairs]
        if args.only in (None, "files"):
            missing = find_missing(collection)
            document |= missing_document(missing)
            document["failed"] = list_failures(collection)
        if args.only in (None, "indexes"):
            found = report(collection, encoder.manifest.compares)
            document["indexes"] = [asdict(stats) for stats in found]
    finally:
        collections.close()
    if args.json:
        print(json.dumps(document, indent=1))
        return 0
    if "near_duplicates" in document:
        print(format_duplicates(pairs))
    if "gone" in document:
        print(format_files(missing, document["failed"]))
    if "indexes" in document:
        print(format_stats(found))
    return 0


def format_files(missing: Missing, failed: dict[str, str]) -> str:
    lines = [
        f"gone: {make_printable(item.id)}: {make_printable(item.source)}" for item in missing.gone
    ]
    lines += [
        f"out of reach: {len(items)} items: {make_printable(reason)}"
        for reason, items in missing.out_of_reach.items()
    ]
    lines += [f"failed: {name}: {reason}" for name, reason in failed.items()]
    return "\n".join(lines or ["every item's file is there"])
