"""python -m model world | sample | prepare | train | ablation | evaluate"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

from evaluation.report import add_arguments
from media.errors import BadConfig
from media.manifest import BadManifest

from .prepare import PREPARERS, prepare


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    world = commands.add_parser("world", help="render a split of the procedural world to MP4 files and a manifest")
    world.add_argument("split", choices=["train", "validation", "test"])
    world.add_argument("count", type=int)
    world.add_argument("--out", type=Path, required=True)
    sample = commands.add_parser("sample", help="render a small library of the procedural world")
    sample.add_argument("--out", type=Path, required=True)
    prepare = commands.add_parser("prepare", help="write a manifest for a public set as its owners distribute it")
    prepare.add_argument("set", choices=list(PREPARERS))
    prepare.add_argument("folder", type=Path)
    prepare.add_argument("--part", choices=["train", "validation", "test"], default="train")
    prepare.add_argument("--fold", type=int, default=5, help="the fold that is the test part of esc50 and esc10")
    prepare.add_argument("--out", type=Path, required=True, help="the manifest to write")
    train = commands.add_parser("train", help="train an encoder")
    train.add_argument("--config", required=True, help="a preset's name or a JSON file")
    train.add_argument("--out", type=Path, required=True)
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint in OUT")
    ablation = commands.add_parser("ablation", help="the paper's ablation in miniature: tables and a plot")
    ablation.add_argument("--config", default="miniature", help="a preset's name or a JSON file")
    ablation.add_argument("--seeds", type=int, default=3)
    ablation.add_argument("--out", type=Path, required=True)
    evaluate = commands.add_parser("evaluate", help="measure retrieval on a manifest")
    which = evaluate.add_mutually_exclusive_group(required=True)
    which.add_argument("--checkpoint", type=Path)
    which.add_argument("--bundle", type=Path)
    add_arguments(evaluate)
    evaluate.add_argument(
        "--before", action="store_true", help="of a checkpoint: show beside it what it was before its training"
    )
    return parser


def main() -> int:
    args = arguments().parse_args()
    try:
        return run(args)
    except (BadConfig, BadManifest, OSError) as error:
        print(f"{args.command}: {error}", file=sys.stderr)
        return 1


def run(args: argparse.Namespace) -> int:
    if args.command == "world":
        from evaluation.world import render_split

        render_split(args.out, args.split, args.count)
    elif args.command == "sample":
        from evaluation.world import render_sample

        render_sample(args.out)
    elif args.command == "prepare":
        written, absent = prepare(args.set, args.folder, args.part, args.out, args.fold)
        print(f"{written} rows in {args.out}; {absent} listed whose media are not there")
    elif args.command == "train":
        return train_command(args)
    elif args.command == "ablation":
        from .ablation import Plan, ablation
        from .config import TrainConfig

        ablation(Plan(TrainConfig.load(args.config), seeds=args.seeds), args.out)
    elif args.bundle:
        # A bundle is run by export, which stands on this room: hand the command over, import nothing upwards.
        runpy.run_module("export", run_name="__main__", alter_sys=True)
    else:
        return evaluate_command(args)
    return 0


def train_command(args: argparse.Namespace) -> int:
    from .config import TrainConfig
    from .train import Diverged, train

    try:
        train(TrainConfig.load(args.config), args.out, args.resume)
    except Diverged as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    return 0


def evaluate_command(args: argparse.Namespace) -> int:
    from evaluation import report
    from media.text import TextTokens

    from . import checkpoint
    from .train import embedder, new_model

    model, config, state = checkpoint.load(args.checkpoint)
    file = state["folder"] / "tokenizer.json"
    tokens = TextTokens(file, config.encoder.text)
    before = embedder(new_model(config, file).eval(), tokens) if args.before else None
    report.run([embedder(model, tokens)], config.encoder.inputs, args, before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
