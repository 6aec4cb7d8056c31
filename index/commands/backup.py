"""Copies every collection of a data folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from media.commands import Commands, add_command

from ..backup import Saved, backup
from .flags import add_data


def add_parser(commands: Commands) -> None:
    saving = add_command(
        commands,
        "backup",
        "copy every collection of a data folder, in use or not",
        "--data mine backups/monday",
    )
    saving.add_argument("out", type=Path, metavar="FOLDER", help="a new folder")
    add_data(saving)


def run(args: argparse.Namespace) -> int:
    return print_saved(args.out, backup(args.data, args.out), args.json)


def print_saved(folder: Path, saved: dict[str, Saved], as_json: bool) -> int:
    if as_json:
        counts = {
            name: {"items": one.items, "media_files": one.media_files}
            for name, one in saved.items()
        }
        print(json.dumps({"folder": str(folder), "collections": counts}, indent=1))
        return 0
    for name, one in saved.items():
        print(f"{name}: {one.items} items, {one.media_files} media files")
    print(f"collections in {folder}: {len(saved)}")
    return 0
