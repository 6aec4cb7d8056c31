"""Cuts a moment of an item into a file."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from export.bundle import open_bundle
from media.commands import Commands, add_command

from ..clip import ClipLimits, cut_clip
from .flags import (
    DECODE_MEMORY_MB,
    add_collection,
    add_data,
    add_sizing,
    open_collections,
    parse_positive,
)


def add_parser(commands: Commands) -> None:
    cutting = add_command(
        commands,
        "clip",
        "cut a moment of an item into a file of its own, exactly",
        "--data mine film.mkv --start-s 12 --end-s 17.5",
        "--data mine film.mkv --start-s 12 --end-s 17.5 --out moment.webm --json",
    )
    cutting.add_argument("id", metavar="ID", help="the item's id")
    cutting.add_argument("--start-s", type=float, required=True, help="where it begins, in seconds")
    cutting.add_argument("--end-s", type=float, required=True, help="where it ends, in seconds")
    cutting.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="a new file: WebM, or FLAC of a sound; default: in this folder, named after the item",
    )
    cutting.add_argument(
        "--file-max-s",
        type=parse_positive,
        default=600.0,
        help="seconds that it may take; default: 600",
    )
    add_data(cutting)
    add_collection(cutting)
    add_sizing(cutting)


def run(args: argparse.Namespace) -> int:
    collections = open_collections(args, open_bundle(args.bundle, args.frames).manifest)
    try:
        out, made = cut_clip(
            collections.get(args.collection),
            args.id,
            start_s=args.start_s,
            end_s=args.end_s,
            out=args.out,
            limits=ClipLimits(DECODE_MEMORY_MB, args.file_max_s),
        )
    finally:
        collections.close()
    if args.json:
        print(json.dumps({"id": args.id, "file": str(out)} | asdict(made), indent=1))
    else:
        print(out)
    return 0
