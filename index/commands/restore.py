"""Puts the collections of a backup into a data folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from media.commands import Commands, add_command

from ..backup import restore
from .backup import print_saved
from .flags import add_data


def add_parser(commands: Commands) -> None:
    restoring = add_command(
        commands,
        "restore",
        "put the collections of a backup into a data folder",
        "--data mine backups/monday",
    )
    restoring.add_argument("backup", type=Path, metavar="FOLDER", help="the backup's folder")
    add_data(restoring)


def run(args: argparse.Namespace) -> int:
    return print_saved(args.data, restore(args.backup, args.data), args.json)
