"""tercet keys: make, list and revoke the keys that open a service."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from media.commands import epilog

from .audit import write_line
from .keys import ROLES, Key, KeyFile, KeyProblem

UNITS_S = {"h": 3600, "d": 86_400, "w": 604_800}
DURATION = re.compile(rf"([1-9][0-9]{{0,5}})([{''.join(UNITS_S)}])")


def arguments(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Make, list and revoke the keys that open a service. A running service knows"
        " of a change at its next request.",
        epilog=epilog("make phone --role read --data mine", "list --data mine --json"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="action", required=True)
    make = commands.add_parser("make", help="make a key, and print it once")
    make.add_argument("name", metavar="NAME", help="what the key goes by in lists and the audit")
    make.add_argument(
        "--role",
        choices=ROLES,
        default="read",
        help="what it may do: search and look (read, the default), add items and imports, too"
        " (add), or everything (admin)",
    )
    make.add_argument(
        "--collection",
        action="append",
        type=parse_collection,
        metavar="NAME",
        dest="collections",
        help="a collection that the key may see; may be given several times; default: all",
    )
    make.add_argument(
        "--expires",
        type=parse_expiry,
        metavar="WHEN",
        help="when it ends: after a time (12h, 30d, 8w), or at a date (2027-01-31); default: never",
    )
    listing = commands.add_parser("list", help="list the keys, without their secrets")
    revoke = commands.add_parser("revoke", help="take a key away")
    revoke.add_argument("name", metavar="NAME", help="the name that the key was made with")
    for command in (make, listing, revoke):
        add_data(command)
    return parser


def add_data(command: argparse.ArgumentParser) -> None:
    data = os.environ.get("TERCET_DATA")
    command.add_argument(
        "--data",
        type=Path,
        default=data,
        required=data is None,
        help="the data folder of the service; default: TERCET_DATA",
    )
    command.add_argument("--json", action="store_true", help="print one JSON document")


def parse_collection(text: str) -> str:
    from index.collection import NAME  # not before: it loads what searches

    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a collection")
    return text


def parse_expiry(text: str) -> float:
    """A time from now on, or a date, as seconds since 1970. A date without a time of day is its
    begin, in UTC.
    """
    duration = DURATION.fullmatch(text)
    if duration is not None:
        return time.time() + int(duration[1]) * UNITS_S[duration[2]]
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a time, as in 30d, nor a date, as in 2027-01-31"
        ) from None
    moment = date if date.tzinfo else date.replace(tzinfo=UTC)
    if moment.timestamp() <= time.time():
        raise argparse.ArgumentTypeError(f"{text} is over")
    return moment.timestamp()


def main(argv: Sequence[str], prog: str) -> int:
    """Returns the exit status."""
    args = arguments(prog).parse_args(argv)
    keys = KeyFile(args.data)
    try:
        if args.action == "make":
            make_key(keys, args)
        elif args.action == "revoke":
            revoke_key(keys, args)
        else:
            list_keys(keys, as_json=args.json)
    except (KeyProblem, OSError) as error:
        print(f"keys: {error}", file=sys.stderr)
        return 1
    return 0


def make_key(keys: KeyFile, args: argparse.Namespace) -> None:
    collections = None if args.collections is None else tuple(dict.fromkeys(args.collections))
    key, secret = keys.make(args.name, args.role, collections, args.expires)
    audit("key.make", key)
    if args.json:
        print(json.dumps({**key.described(), "key": secret}, indent=1))
        return
    print(f"This is the key {key.name}. It is shown once, and kept nowhere:", file=sys.stderr)
    print(secret)


def revoke_key(keys: KeyFile, args: argparse.Namespace) -> None:
    key = keys.revoke(args.name)
    audit("key.revoke", key)
    if args.json:
        print(json.dumps({"revoked": key.described()}, indent=1))
        return
    print(f"{key.name} opens nothing any more")
    if not keys.read():
        print(
            f"This was the last key. The service still asks for one: make another, or delete"
            f" {keys.path} to serve this machine without keys.",
            file=sys.stderr,
        )


def list_keys(keys: KeyFile, *, as_json: bool) -> None:
    found = keys.read() or ()
    if as_json:
        print(json.dumps({"keys": [key.described() for key in found]}, indent=1))
        return
    print(f"{'name':20s}  {'role':5s}  {'expires':16s}  collections")
    for key in found:
        seen = "all" if key.collections is None else " ".join(key.collections)
        print(f"{key.name:20s}  {key.role:5s}  {expiry(key):16s}  {seen}")


def expiry(key: Key) -> str:
    if key.expires is None:
        return "never"
    when = datetime.fromtimestamp(key.expires, UTC).strftime("%Y-%m-%d %H:%M")
    return when if key.holds(time.time()) else "expired"


def audit(action: str, key: Key) -> None:
    """Tell the file of the audit, if the environment names one."""
    file = os.environ.get("TERCET_AUDIT")
    if file:
        subject: dict[str, Any] = {"action": action, "key": None, "by": "command"}
        subject |= {"identity": getpass.getuser(), "changed_key": key.name, "role": key.role}
        write_line(Path(file), {**subject, "outcome": "done"})
