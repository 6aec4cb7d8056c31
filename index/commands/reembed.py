"""Re-embeds a collection with another bundle."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict

from tqdm import tqdm

from export.encoder import OnnxEncoder
from media.commands import Commands, add_command
from media.containers import ARCHIVE_BUDGET

from ..ingest.reembed import Overlap, Progress, drop, measure_overlaps, reembed, swap
from .flags import (
    LINE_S,
    OVERLAP,
    add_collection,
    add_data,
    add_decoding,
    open_decoders,
    parse_overlap,
)


def add_parser(commands: Commands) -> None:
    embedding = add_command(
        commands,
        "reembed",
        "re-embed a collection with another bundle, beside the old one",
        "--data mine --bundle bundles/mine",
        "--data mine --swap",
    )
    add_decoding(embedding)
    ending = embedding.add_mutually_exclusive_group()
    ending.add_argument(
        "--swap", action="store_true", help="put the re-embedded collection in the old one's place"
    )
    ending.add_argument("--drop", action="store_true", help="delete the re-embedded collection")
    embedding.add_argument(
        "--overlap", type=parse_overlap, default=None, help=f"{OVERLAP}; default: as in the old one"
    )
    add_data(embedding)
    add_collection(embedding)


def run(args: argparse.Namespace) -> int:
    if args.drop:
        drop(args.data, args.collection)
    if args.swap:
        swap(args.data, args.collection)
    if args.drop or args.swap:
        done = "dropped what was staged" if args.drop else "swapped"
        print(
            json.dumps({"collection": args.collection, "done": done})
            if args.json
            else f"{args.collection}: {done}"
        )
        return 0
    encoder = OnnxEncoder.open(args.bundle, shared=True, frames=args.frames)
    progress = reembed_with_progress(args, encoder, args.overlap)
    found = measure_overlaps(args.data, args.collection, encoder.manifest.compares)
    if args.json:
        print(reembed_document(args.collection, progress, found))
        return 1 if progress.failed else 0
    print(
        f"{progress.total - len(progress.failed)} of {progress.total} items are in the vectors of"
        f" {args.bundle}"
    )
    for overlap in found:
        print(
            f"{overlap.route:24s} {overlap.at_10:6.3f} of the best ten are the same,"
            f" {overlap.queries} queries"
        )
    return 1 if progress.failed else 0


def reembed_document(collection: str, progress: Progress, found: list[Overlap]) -> str:
    done = {"collection": collection, "items": progress.total, "failed": progress.failed}
    return json.dumps(done | {"overlaps": [asdict(overlap) for overlap in found]}, indent=1)


def reembed_with_progress(
    args: argparse.Namespace, encoder: OnnxEncoder, overlap: float | None
) -> Progress:
    """Make the collection anew beside the old one, with a bar or lines of progress; what failed is
    named on stderr.
    """
    progress = Progress()
    decoders = open_decoders(args)
    try:
        printed = time.monotonic()
        with tqdm(unit="item", desc="embedding", disable=not sys.stderr.isatty()) as bar:
            for progress in reembed(
                args.data, args.collection, encoder, decoders, ARCHIVE_BUDGET, overlap
            ):
                bar.total = progress.total
                bar.update(progress.done - bar.n)
                if bar.disable and time.monotonic() - printed > LINE_S:
                    printed = time.monotonic()
                    print(f"{progress.done} of {progress.total} items", file=sys.stderr)
    finally:
        decoders.close()
    for id, reason in progress.failed.items():
        print(f"failed: {id}: {reason}", file=sys.stderr)
    return progress
