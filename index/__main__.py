"""python -m index build | search | items | clip | report | learn | tags | prune | reembed |
backup | restore
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
from collections.abc import Sequence
from typing import Protocol

from export.bundle import BadBundle, NoRoute
from export.encoder import EncoderError
from media.commands import Commands, parse_arguments
from media.errors import BadMedia, describe_error
from media.manifest import BadManifest
from media.readers import ReaderMissing

from .collection import CollectionError
from .commands import (
    backup,
    build,
    clip,
    items,
    learn,
    prune,
    reembed,
    report,
    restore,
    search,
    tags,
)
from .records.filters import BadFilter
from .records.item import UnknownItem
from .records.schema import UnknownSchema
from .vectors.store import VectorStoreFailed

PROG = "python -m index"


class Command(Protocol):
    """A module of `commands`."""

    def add_parser(self, commands: Commands, /) -> None: ...

    def run(self, args: argparse.Namespace, /) -> int:
        """Returns the exit status."""


COMMANDS: dict[str, Command] = {
    "build": build,
    "search": search,
    "items": items,
    "clip": clip,
    "report": report,
    "prune": prune,
    "tags": tags,
    "learn": learn,
    "reembed": reembed,
    "backup": backup,
    "restore": restore,
}


def arguments(prog: str = PROG) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS.values():
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    args = parse_arguments(arguments(prog), argv)
    if args.command == "build":
        build.check(args)
    try:
        return COMMANDS[args.command].run(args)
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (
        BadBundle,
        BadFilter,
        BadManifest,
        BadMedia,
        CollectionError,
        EncoderError,
        NoRoute,
        OSError,
        UnknownItem,
        ReaderMissing,
        UnknownSchema,
        VectorStoreFailed,
        sqlite3.Error,
    ) as error:
        print(f"{args.command}: {describe_error(error)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
