"""python -m export checkpoint | verify | evaluate"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from model.config import BadConfig
from model.manifest import BadManifest
from model.report import add_arguments, run

from .bundle import BadBundle
from .encoder import PROVIDERS, NoProvider, OnnxEncoder


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    checkpoint = commands.add_parser("checkpoint", help="write the bundle of a training run")
    checkpoint.add_argument("checkpoint", type=Path)
    checkpoint.add_argument("--out", type=Path, required=True)
    verify = commands.add_parser("verify", help="open a bundle with every check and compare its vectors")
    verify.add_argument("bundle", type=Path)
    verify.add_argument("--provider", choices=list(PROVIDERS), default="cpu")
    verify.add_argument("--checkpoint", type=Path, help="compare with the network it came from, too")
    evaluate = commands.add_parser("evaluate", help="measure retrieval of a bundle on a manifest")
    evaluate.add_argument("--bundle", type=Path, required=True)
    add_arguments(evaluate)
    return parser


def main() -> int:
    args = arguments().parse_args()
    commands = {"checkpoint": checkpoint_command, "verify": verify_command, "evaluate": evaluate_command}
    try:
        return commands[args.command](args)
    except (BadBundle, BadConfig, BadManifest, NoProvider, OSError) as error:
        print(f"{args.command}: {error}", file=sys.stderr)
        return 1


def checkpoint_command(args: argparse.Namespace) -> int:
    from .to_onnx import export_checkpoint

    bundle = export_checkpoint(args.checkpoint, args.out)
    total = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"{args.out}: fingerprint {bundle.manifest.fingerprint}, {total / 1e6:.1f} MB")
    return 0


def verify_command(args: argparse.Namespace) -> int:
    from .verify import PARITY, verify

    checks = verify(args.bundle, args.provider, args.checkpoint)
    for check in checks:
        mark = "good" if check.good else "BAD"
        print(f"{check.modality:6s} {check.what:28s} max abs {check.error:.2e}  {mark}")
    print(f"checksums and golden vectors good; the limit above is {PARITY:g}")
    return 0 if all(check.good for check in checks) else 1


def evaluate_command(args: argparse.Namespace) -> int:
    encoder = OnnxEncoder.open(args.bundle)
    run(encoder.embed, encoder.tokens, encoder.manifest.inputs, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
