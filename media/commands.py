"""What the commands of all packages share: their help, and the error for a missing package."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

# packages of this repository that every installation has
ALWAYS_INSTALLED = ("media", "evaluation", "export", "index", "service")

# %(prog)s is what the command was called by: `tercet search`, or `python -m index search`.
Commands = Any  # what `ArgumentParser.add_subparsers` gives; argparse has no public name for it


def epilog(*examples: str) -> str:
    """The end of a command's help. Each example is given as its arguments, without the command."""
    lines = "\n".join(f"  %(prog)s {arguments}".rstrip() for arguments in examples)
    return f"{'Example' if len(examples) == 1 else 'Examples'}:\n{lines}"


def add_command(
    commands: Commands, name: str, summary: str, *examples: str
) -> argparse.ArgumentParser:
    """Add a command to `commands` and return its parser; for `examples` see `epilog`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=epilog(*examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(parser=parser)
    return parser


def parse_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> Any:
    """The arguments of one of the commands that `add_command` added, its own parser among them. A
    usage error shows how that command is called, where argparse would show how all are.
    """
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


def report_missing_package(command: str, error: ImportError, extra: str) -> int:
    """Print to stderr which package a command needs, and the extra that installs it.

    Returns the exit status, 2.

    Raises:
        ImportError: `error` itself, if the missing package is one of ours: that is a bug.
    """
    if (error.name or "").split(".")[0] in ALWAYS_INSTALLED:
        raise error
    print(
        f"{command}: it needs {error.name}, which is not installed (extra '{extra}'):"
        f" {pip_command(extra)}",
        file=sys.stderr,
    )
    return 2


def pip_command(extra: str) -> str:
    """What installs an extra."""
    return f"python -m pip install 'tercet[{extra}]'"


def add_frames(parser: argparse.ArgumentParser) -> None:
    """Add `--frames`, of commands that open a bundle."""
    from .video import Choice  # not before: a command's name alone needs no numpy

    parser.add_argument(
        "--frames",
        choices=list(Choice),
        default=os.environ.get("TERCET_FRAMES", ""),
        help="which frames stand for a window: those on screen then, or keyframes near by (in films"
        " of more than 30 s); default: TERCET_FRAMES, else as the bundle says",
    )
