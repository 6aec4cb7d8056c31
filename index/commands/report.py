"""Reports near-duplicates, files that are gone, and the quality of the indexes."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from export.encoder import OnnxEncoder
from media.commands import Commands, add_command

from ..agreement import list_agreement
from ..collection import Collection
from ..duplicates import find_duplicates, format_duplicates
from ..ingest.build import list_failures
from ..ingest.gone import Missing, find_missing
from ..ingest.names import make_printable
from ..records.marks import group_marks
from ..report import format_stats, report
from .flags import add_collection, add_data, add_sizing, open_collections
from .missing import missing_document

REPORTED = ("duplicates", "files", "indexes", "marks")


def add_parser(commands: Commands) -> None:
    reporting = add_command(
        commands,
        "report",
        "a collection's near-duplicates, gone files, indexes and marks; or its agreement",
        "--data mine --agreement",
        "--data mine --only duplicates --json",
    )
    reporting.add_argument(
        "--only", choices=REPORTED, help="one part of the report; default: all of it"
    )
    reporting.add_argument(
        "--agreement",
        action="store_true",
        help="instead, list every item by how well its sound and picture agree, lowest first",
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
        if args.agreement:
            found = list_agreement(collection, encoder.manifest, lowest=True, limit=sys.maxsize)
            print_agreement(document | asdict(found), args.json)
            return 0
        if args.only in (None, "duplicates"):
            pairs = find_duplicates(collection)
            document["near_duplicates"] = [asdict(pair) for pair in pairs]
        if args.only in (None, "files"):
            missing = find_missing(collection)
            document |= missing_document(missing)
            document["failed"] = list_failures(collection)
        if args.only in (None, "indexes"):
            stats = report(collection, encoder.manifest.compares)
            document["indexes"] = [asdict(one) for one in stats]
        if args.only in (None, "marks"):
            document["marks"] = count_marks(collection)
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
        print(format_stats(stats))
    if "marks" in document:
        print(
            "marks: {marks} of {queries} queries; versions learned: {learned}".format_map(
                document["marks"]
            )
        )
    return 0


def count_marks(collection: Collection) -> dict[str, int]:
    """How many marks are kept, of how many queries, and how often was learned from them."""
    with collection.hold_for_reading() as records:
        marks = records.marks.all()
    return {
        "marks": len(marks),
        "queries": len(group_marks(marks)),
        "learned": len(collection.adapters.versions()),
    }


def print_agreement(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(document, indent=1))
        return
    print(f"{'agreement':>9s} {'cosine':>7s} {'windows':>8s}  item")
    for item in document["items"]:
        print(
            f"{item['agreement']:9.2f} {item['cosine']:7.3f} {item['windows']:8d}"
            f"  {make_printable(item['id'])}"
        )
    print(
        f"{document['total']} items with pictures and sound; by chance {document['by_chance']:.3f}"
    )


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
