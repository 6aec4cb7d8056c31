"""What the commands of every package share: how a command is described, and how a package that is
missing is named.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

# the packages of every installation
ALWAYS_INSTALLED = ("media", "evaluation", "export", "index", "service")

# %(prog)s is what the command was called by: `tercet search`, or `python -m index search`.
Commands = Any  # what `ArgumentParser.add_subparsers` gives; argparse has no public name for it


def epilog(*examples: str) -> str:
    """The end of a command's help: the arguments of each example, behind the command's own name."""
    lines = "\n".join(f"  %(prog)s {arguments}".rstrip() for arguments in examples)
    return f"{'Example' if len(examples) == 1 else 'Examples'}:\n{lines}"


def add_command(
    commands: Commands, name: str, summary: str, *examples: str
) -> argparse.ArgumentParser:
    """The parser of one command among others; `examples` are arguments, as `epilog` takes them."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=epilog(*examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def report_missing_package(command: str, error: ImportError, extra: str) -> int:
    """Say on stderr which package a command needs, and the extra that installs it. Returns the exit
    status, 2.

    Raises:
        ImportError: what was given, if it is a fault of packages that every installation has.
    """
    if (error.name or "").split(".")[0] in ALWAYS_INSTALLED:
        raise error
    print(
        f"{command}: it needs {error.name}, which is not installed (extra '{extra}')",
        file=sys.stderr,
    )
    return 2
