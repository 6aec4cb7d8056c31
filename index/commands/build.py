"""Builds a collection from files; with `--watch` it goes on as they change."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from export.encoder import OnnxEncoder
from media.commands import Commands, add_command
from media.containers import WHOLE_BUDGET
from media.hardware import OFF

from ..collection import FingerprintConflict
from ..ingest.adopt import adopt
from ..ingest.build import list_failures
from ..ingest.gone import find_missing
from ..ingest.names import make_printable
from ..ingest.plan import Report
from ..ingest.reembed import Progress, swap
from ..library import Collections
from ..query_bank import ensure_query_bank
from .flags import (
    OVERLAP,
    add_collection,
    add_data,
    add_decoding,
    add_sizing,
    open_collections,
    open_decoders,
    parse_overlap,
)
from .missing import missing_document, report_missing
from .reembed import reembed_with_progress
from .running import follow_build, report_build, run_build
from .watch import watch_data, watch_service


def add_parser(commands: Commands) -> None:
    building = add_command(
        commands,
        "build",
        "index folders, files, JSONL manifests and tar shards",
        "--data mine PATH",
        "--data mine --retry-failed PATH",
    )
    building.add_argument(
        "paths", type=Path, nargs="*", metavar="PATH", help="a folder, file, manifest or tar shard"
    )
    building.add_argument(
        "--adopt",
        action="store_true",
        help="make items of media in the collection's folder that no item names, and start it over"
        " if its records are lost",
    )
    building.add_argument(
        "--check",
        "--verify-content",
        action="store_true",
        help="read files of unchanged size and time, too",
    )
    building.add_argument(
        "--reembed",
        action="store_true",
        help="re-embed the collection first if it was embedded with another bundle",
    )
    building.add_argument(
        "--retry-failed", action="store_true", help="try again what failed in earlier builds"
    )
    building.add_argument(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="ray: on a Ray cluster, --workers actors",
    )
    add_decoding(building)
    building.add_argument("--overlap", type=parse_overlap, default=0.0, help=OVERLAP)
    add_watching(building)
    add_readers(building)
    add_data(building, required=False)
    add_collection(building)
    add_sizing(building)


def add_watching(building: argparse.ArgumentParser) -> None:
    building.add_argument(
        "--watch",
        action="store_true",
        help="go on, and index what is added or changed, until SIGTERM or ^C",
    )
    building.add_argument(
        "--url", help="with --watch: have the service there import the changes, by jobs"
    )
    building.add_argument(
        "--key",
        default=os.environ.get("TERCET_KEY"),
        help="API key of the service; default $TERCET_KEY",
    )
    building.add_argument(
        "--import-path",
        default=".",
        metavar="PATH",
        help="where the folder lies below the service's import folder; default: it is that folder",
    )


def add_readers(building: argparse.ArgumentParser) -> None:
    building.add_argument(
        "--screen-text", action="store_true", help="read text in pictures, too (extra 'screen')"
    )
    building.add_argument(
        "--speech",
        default="",
        metavar="MODEL",
        help="write down what is said, by a Whisper model: a folder, or a name to fetch from the"
        " hub (extra 'speech')",
    )


def check(args: argparse.Namespace) -> None:
    """Ends with a usage error where the arguments of `build` do not go together."""
    parser: argparse.ArgumentParser = args.parser
    if not (args.paths or args.adopt):
        parser.error("a PATH is needed, or --adopt")
    if args.url is not None:
        if not args.watch or len(args.paths) != 1:
            parser.error("--url goes with --watch and one PATH")
        address = urlsplit(args.url)
        if address.scheme not in ("http", "https") or not address.hostname:
            parser.error("--url takes an address as http://HOST:PORT")
        if args.screen_text or args.speech:
            parser.error(
                "with --url, words are read as TERCET_SCREEN_TEXT and TERCET_SPEECH"
                " of the service say"
            )
    elif args.data is None:
        parser.error("the following arguments are required: --data")
    if args.engine == "ray" and args.hardware_decoding != OFF:
        parser.error("--hardware-decoding does not go with --engine ray")
    if args.watch and (args.adopt or args.reembed or args.engine != "local"):
        parser.error("--watch does not go with --adopt, --reembed and --engine ray")


def run(args: argparse.Namespace) -> int:
    if args.watch:
        check_paths(args.paths)
        return watch_service(args) if args.url else watch_data(args)
    if not args.json:
        return build_and_report(args)[0]
    with redirect_stdout(sys.stderr):  # the lines for people
        status, document = build_and_report(args)
    print(json.dumps(document, indent=1))
    return status


def check_paths(paths: list[Path]) -> None:
    """Raises FileNotFoundError."""
    nowhere = [path for path in paths if not path.exists()]
    if nowhere:
        raise FileNotFoundError(f"{make_printable(str(nowhere[0]))} does not exist")


def build_and_report(args: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """Build as the arguments say. Returns the exit status and what was done."""
    check_paths(args.paths)
    # a core for each of the batches that are encoded at once
    encoder = OnnxEncoder.open(args.bundle, threads=1, frames=args.frames)
    collections = open_collections(args, encoder.manifest, make=not args.adopt)
    if args.reembed and isinstance(collections.conflicts.get(args.collection), FingerprintConflict):
        collections.close()
        reembedded = reembed_and_swap(args, encoder)
        if reembedded.failed:
            return 1, {"reembed": asdict(reembedded)}
        collections = open_collections(args, encoder.manifest)
    try:
        adopted = adopt_media(args, encoder, collections) if args.adopt else Report()
        collection = collections.ensure(args.collection)
        ensure_query_bank(collection, encoder)
        report = follow_build(run_build(args, encoder, collection)) if args.paths else Report()
        before = {
            name: why
            for name, why in list_failures(collection).items()
            if name not in report.failed
        }
        missing = find_missing(collection)
    finally:
        collections.close()
    report_build(args.data / f"{args.collection}-failures.jsonl", report, before, bool(args.paths))
    report_missing(missing)
    done = asdict(report) | {"failed_before": before} | missing_document(missing)
    if args.adopt:
        done |= {"adopted": asdict(adopted)}
    return (1 if report.failed or adopted.failed else 0), done


def reembed_and_swap(args: argparse.Namespace, encoder: OnnxEncoder) -> Progress:
    """Re-embed the collection with this bundle, and swap it in unless something failed."""
    reembedded = reembed_with_progress(args, encoder, overlap=None)
    if reembedded.failed:
        print(
            f"{args.collection}: {len(reembedded.failed)} of {reembedded.total} items could not"
            " be read, so nothing was swapped: put their files back, or delete these items with"
            " the bundle they were made by; then run this again",
            file=sys.stderr,
        )
        return reembedded
    print(f"{args.collection}: {reembedded.total} items re-embedded with this bundle")
    swap(args.data, args.collection)
    return reembedded


def adopt_media(args: argparse.Namespace, encoder: OnnxEncoder, collections: Collections) -> Report:
    """Tell what will be taken in, then take it in."""
    collections.adopt(args.collection)
    collection = collections.get(args.collection)
    ensure_query_bank(collection, encoder)
    files = collection.set_aside()
    print(
        f"{args.collection}: {len(files)} media files that no item names will be taken in as items"
    )
    for file in files:
        print(f"  {file} ({file.stat().st_size} bytes)")
    decoders = open_decoders(args)
    try:
        report = follow_build(adopt(encoder, collection, decoders, WHOLE_BUDGET, args.overlap))
    finally:
        decoders.close()
    for name, reason in report.failed.items():
        print(f"failed: {name}: {reason}; it stays where it is", file=sys.stderr)
    print(f"{report.indexed} taken in, {len(report.failed)} failed")
    return report
