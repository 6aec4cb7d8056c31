"""The command `tercet`: every command of every package under one name.

A command's parser and its work are those of `python -m service`, `index`, `export` and `model`.
Their packages are imported only when the command is called, so that the others need no more than
they use.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from media.commands import add_frames, epilog, report_missing_package


@dataclass(frozen=True)
class Command:
    """`run` takes the arguments after the name and returns the exit status. `extra` is the extra of
    the package that installs what it needs.
    """

    summary: str
    run: Callable[[list[str]], int]
    extra: str


def serve(argv: list[str]) -> int:
    from .__main__ import serve

    return serve(argv, "tercet serve")


def mcp(argv: list[str]) -> int:
    from .__main__ import mcp_command

    return mcp_command(argv, "tercet mcp")


def keys(argv: list[str]) -> int:
    from .keys_command import main

    return main(argv, "tercet keys")


def doctor(argv: list[str]) -> int:
    from .doctor import main

    return main(argv, "tercet doctor")


def index_command(name: str, summary: str) -> Command:
    def run(argv: list[str]) -> int:
        from index.__main__ import main

        return main([name, *argv], "tercet")

    return Command(summary, run, "cpu")


def model_command(name: str, summary: str) -> Command:
    def run(argv: list[str]) -> int:
        from model.__main__ import main

        return main([name, *argv], "tercet")

    return Command(summary, run, "train")


def verify(argv: list[str]) -> int:
    from export.__main__ import main

    return main(["verify", *argv], "tercet")


def export(argv: list[str]) -> int:
    from export.__main__ import main

    return main(argv, "tercet export")


def evaluate(argv: list[str]) -> int:
    """Measure a bundle as `python -m export evaluate` does, or a checkpoint as `python -m model
    evaluate` does.
    """
    from evaluation.report import add_arguments, add_before
    from export.__main__ import add_precision
    from export.__main__ import perform as perform_export
    from export.bundle import MANIFEST

    parser = argparse.ArgumentParser(
        prog="tercet evaluate",
        description="Measure retrieval of a bundle, or of a training run's checkpoint, on a"
        " manifest.",
        epilog=epilog("bundles/default sample/manifest.jsonl", "runs/tiny world:test:100 --json"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "encoder",
        type=Path,
        metavar="BUNDLE|CHECKPOINT",
        help="a bundle's folder, or a training run's folder or checkpoint",
    )
    add_arguments(parser)
    add_precision(parser)
    add_frames(parser)
    add_before(parser)
    args = parser.parse_args(
        argv, argparse.Namespace(command="evaluate", bundle=None, checkpoint=None)
    )
    if not args.encoder.exists():
        print(f"evaluate: {args.encoder} does not exist", file=sys.stderr)
        return 1
    if (args.encoder / MANIFEST).is_file():
        if args.before:
            parser.error("--before is for a checkpoint, and this is a bundle")
        args.bundle = args.encoder
        return perform_export(args)
    if args.precision != "fp32":
        parser.error("--precision is for a bundle, and this is a checkpoint")
    args.checkpoint = args.encoder
    try:
        from model.__main__ import perform as perform_model
    except ModuleNotFoundError as error:
        return report_missing_package("evaluate", error, "train")
    return perform_model(args)


# Completes the commands' names, then a command's flags as its --help lists them, else files.
COMPLETION = """\
_tercet() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" command="${{COMP_WORDS[1]}}"
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{names}" -- "$word"))
  elif [ "${{word#-}}" != "$word" ]; then
    local help="$(tercet "$command" --help 2>/dev/null)"
    local flags="$(grep -oE -e '--[a-z][a-z0-9-]*' <<< "$help" | sort -u)"
    COMPREPLY=($(compgen -W "$flags" -- "$word"))
  fi
}}
complete -o bashdefault -o default -F _tercet tercet
"""
ZSH_FIRST = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"


def completion(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="tercet completion",
        description="Print a script that completes commands and flags in a shell.",
        epilog=epilog("bash >> ~/.bashrc", "zsh >> ~/.zshrc"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=("bash", "zsh"), help="the shell to write for")
    args = parser.parse_args(argv)
    script = COMPLETION.format(names=" ".join(COMMANDS))
    print((ZSH_FIRST if args.shell == "zsh" else "") + script, end="")
    return 0


GROUPS = {
    "Serve and search": {
        "serve": Command("serve a data folder over HTTP, with the search page", serve, "cpu"),
        "search": index_command("search", "search a collection"),
        "items": index_command("items", "list the items of a collection"),
        "tags": index_command("tags", "what is in a collection, in names of a vocabulary"),
        "learn": index_command("learn", "learn from the marks on what searches found"),
        "clip": index_command("clip", "cut a moment of an item into a file of its own"),
        "keys": Command("make, list and revoke the keys that open a service", keys, "cpu"),
        "doctor": Command("what this machine has for serving, and what is missing", doctor, "cpu"),
        "mcp": Command("let an assistant search and fill an archive", mcp, "mcp"),
    },
    "Build": {
        "build": index_command("build", "index folders, files, manifests and tar shards"),
        "report": index_command(
            "report", "a collection's near-duplicates, gone files, indexes, marks"
        ),
        "prune": index_command("prune", "list the items whose files are gone, and remove them"),
        "reembed": index_command("reembed", "re-embed a collection with another bundle"),
        "backup": index_command("backup", "copy every collection of a data folder"),
        "restore": index_command("restore", "put the collections of a backup into a data folder"),
    },
    "Train": {
        "sample": model_command("sample", "render a small library of the procedural world"),
        "prepare": model_command("prepare", "write a manifest for a public data set"),
        "train": model_command("train", "train an encoder"),
        "distil": model_command("distil", "train a sound classifier on what a teacher hears"),
        "ablation": model_command(
            "ablation", "measure what terms of the objective, or methods, contribute"
        ),
        "evaluate": Command("measure retrieval of a bundle or a checkpoint", evaluate, "cpu"),
        "export": Command(
            "write a bundle, or a repository for Triton, from an encoder", export, "cpu"
        ),
        "verify": Command("open a bundle with every check and compare its vectors", verify, "cpu"),
    },
    "Shell": {
        "completion": Command("print a script that completes commands", completion, "cpu"),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


def command_parser() -> argparse.ArgumentParser:
    """Parses the command's name. Its help lists the commands by group."""
    lines = []
    for title, commands in GROUPS.items():
        lines += [
            f"{title}:",
            *(f"  {name:10s} {command.summary}" for name, command in commands.items()),
            "",
        ]
    parser = argparse.ArgumentParser(
        prog="tercet",
        usage="tercet COMMAND ...",
        description="Find moments of video and sound. See `tercet COMMAND --help` for a command.",
        epilog="\n".join(lines).rstrip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tercet {version()}")
    parser.add_argument(
        "command", choices=list(COMMANDS), metavar="COMMAND", help=argparse.SUPPRESS
    )
    return parser


def version() -> str:
    try:
        return metadata.version("tercet")
    except metadata.PackageNotFoundError:
        return "(run from its source, not installed)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns 0 when all is done, 1 when something failed, 2 where packages that the
    command needs are not installed.

    Raises:
        SystemExit: with status 2 after a usage error, 0 after help.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    name: str = command_parser().parse_args(arguments[:1]).command
    try:
        return COMMANDS[name].run(arguments[1:])
    except ModuleNotFoundError as error:
        return report_missing_package(name, error, COMMANDS[name].extra)


if __name__ == "__main__":
    sys.exit(main())
