"""Learns from the marks that are kept of a collection."""

from __future__ import annotations

import argparse
import json

from export.encoder import OnnxEncoder
from media.commands import Commands, add_command

from ..adapters import Version
from ..learning import describe, learn, undo
from .flags import add_collection, add_data


def add_parser(commands: Commands) -> None:
    learning = add_command(
        commands,
        "learn",
        "learn from the marks on what searches found; a running service follows",
        "--data mine --collection default",
        "--data mine --undo",
    )
    learning.add_argument(
        "--undo", action="store_true", help="serve exactly what served before the last learning"
    )
    add_data(learning)
    add_collection(learning)


def run(args: argparse.Namespace) -> int:
    if not args.data.is_dir():
        raise FileNotFoundError(f"{args.data} does not exist")
    encoder = OnnxEncoder.open(args.bundle, frames=args.frames)
    version = (undo if args.undo else learn)(args.data, args.collection, encoder)
    done = "undone" if args.undo else "learned"
    if args.json:
        print(json.dumps({"collection": args.collection, "done": done} | describe(version)))
    else:
        print(format_version(version, done))
    return 0


def format_version(version: Version, done: str) -> str:
    """What was learned or undone, with its figures."""
    measured = version.measured
    return (
        f"{done}: {version.marks} marks of {version.queries} queries\n"
        f"mAP@10 of {measured['held_out']} held-out right marks:"
        f" {measured['before']:.3f} before, {measured['after']:.3f} after\n"
        f"{measured['apart_before']:.2f} standard deviations apart before,"
        f" {measured['apart_after']:.2f} after\n"
        f"{measured['kept']:.3f} of the ten best stay for {measured['replayed']} other queries"
    )
