"""Lists the items whose files are gone, and removes them."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

from export.bundle import open_bundle
from media.commands import Commands, add_command

from ..ingest.gone import find_missing, remove
from ..ingest.names import make_printable
from .flags import add_collection, add_data, add_sizing, open_collections
from .missing import make_rows, tell_out_of_reach


def add_parser(commands: Commands) -> None:
    pruning = add_command(
        commands,
        "prune",
        "list the items whose files are gone, and remove them",
        "--data mine",
        "--data mine --yes --json",
    )
    pruning.add_argument(
        "paths", type=Path, nargs="*", metavar="PATH", help="only files below; default: all"
    )
    pruning.add_argument("--yes", action="store_true", help="do not ask")
    pruning.add_argument(
        "--unreachable",
        action="store_true",
        help="also items whose folder is missing or empty, or whose disk is not mounted",
    )
    add_data(pruning)
    add_collection(pruning)
    add_sizing(pruning)


def run(args: argparse.Namespace) -> int:
    """List what is gone, ask, and remove it. Without --yes and without a terminal nothing is
    removed.
    """
    collections = open_collections(args, open_bundle(args.bundle, args.frames).manifest)
    try:
        collection = collections.get(args.collection)
        missing = find_missing(collection, args.paths)
        chosen = list(missing.every()) if args.unreachable else missing.gone
        kept = {} if args.unreachable else missing.out_of_reach
        with redirect_stdout(sys.stderr if args.json else sys.stdout):
            for item in chosen:
                print(f"gone: {make_printable(item.id)}: {make_printable(item.source)}")
        tell_out_of_reach(kept, "not removed: ")
        agreed = bool(chosen) and (args.yes or confirm(f"Remove {len(chosen)} items? [y/N] "))
        removed = remove(collection, chosen) if agreed else 0
    finally:
        collections.close()
    if args.json:
        done = {"collection": args.collection, "removed": removed, "gone": make_rows(chosen)}
        done["out_of_reach"] = {reason: make_rows(items) for reason, items in kept.items()}
        print(json.dumps(done, indent=1))
    elif chosen or kept:
        print(f"{removed} of {len(chosen)} items removed")
    else:
        print("every item's file is there")
    if chosen and not agreed:
        print("nothing was removed: --yes removes what is listed", file=sys.stderr)
    return 1 if kept or removed < len(chosen) else 0


def confirm(question: str) -> bool:
    """Whether a person at a terminal agrees."""
    if not sys.stdin.isatty():
        return False
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
