"""Flags that commands share, and the data folder that they name."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

from export.bundle import Manifest
from media.commands import add_frames
from media.hardware import CHOICES, HELP, OFF
from media.sandbox import Decoders

from ..library import Collections
from ..vectors.kinds import KINDS
from ..vectors.sizing import Sizing

OVERLAP_MAX = 0.9
OVERLAP = "share of a window that the next one covers too, 0 to 0.9"
DECODE_MEMORY_MB = 6144  # a few copies of two hours of sound at 44.1 kHz, 1.3 GB each
LINE_S = 5.0  # between two lines of progress where there is no terminal


def add_data(command: argparse.ArgumentParser, required: bool = True) -> None:
    """Add `--data` and `--json`, which every command has."""
    data = os.environ.get("TERCET_DATA")
    command.add_argument(
        "--data",
        type=Path,
        default=data,
        required=required and data is None,
        help="the data folder; default: TERCET_DATA",
    )
    command.add_argument("--json", action="store_true", help="print one JSON document")


def add_collection(command: argparse.ArgumentParser) -> None:
    """Add `--bundle` and `--collection`, of commands for one collection."""
    bundle = os.environ.get("TERCET_BUNDLE", "bundles/default")
    command.add_argument(
        "--bundle",
        type=Path,
        default=bundle,
        help="the bundle's folder; default: TERCET_BUNDLE, else bundles/default",
    )
    add_frames(command)
    command.add_argument(
        "--collection", default="default", help="the collection's name; default: default"
    )


def add_sizing(command: argparse.ArgumentParser) -> None:
    """Add the flags of commands that open the vector indexes."""
    command.add_argument(
        "--index", choices=["auto", *KINDS], default="auto", help="kind of the vector indexes"
    )
    command.add_argument(
        "--index-memory-mb",
        type=parse_memory_mb,
        default=0,
        help="memory that one index may take, in MB; 0: no limit",
    )
    command.add_argument(
        "--index-latency-ms",
        type=parse_positive,
        default=2.0,
        help="milliseconds that a search of one index should take; default: 2",
    )
    command.add_argument(
        "--milvus",
        default="",
        help="address of a Milvus server that keeps the vectors instead of FAISS",
    )


def add_decoding(command: argparse.ArgumentParser) -> None:
    """Add the flags of commands that decode files by `open_decoders`."""
    command.add_argument(
        "--workers", type=parse_count, default=2, help="decoding processes; default: 2"
    )
    command.add_argument(
        "--file-max-s",
        type=parse_positive,
        default=600.0,
        help="seconds one file may take to decode; default: 600",
    )
    command.add_argument(
        "--hardware-decoding",
        choices=CHOICES,
        default=os.environ.get("TERCET_HARDWARE_DECODING", OFF),
        help=f"{HELP}; default: TERCET_HARDWARE_DECODING, else off",
    )


def open_decoders(args: argparse.Namespace) -> Decoders:
    return Decoders(
        args.workers, DECODE_MEMORY_MB, args.file_max_s, hardware=args.hardware_decoding
    )


def open_collections(
    args: argparse.Namespace, manifest: Manifest, make: bool = False
) -> Collections:
    """Open the data folder; one that does not exist is created if `make`. Raises
    FileNotFoundError, CollectionError.
    """
    if not make and not args.data.is_dir():
        raise FileNotFoundError(f"{args.data} does not exist")
    sizing = Sizing(args.index, args.index_memory_mb, args.index_latency_ms, args.milvus)
    return Collections(args.data, manifest.fingerprint, manifest.dims, sizing)


def parse_count(text: str) -> int:
    """Raises argparse.ArgumentTypeError."""
    return parse_whole(text, 1)


def parse_memory_mb(text: str) -> int:
    """Raises argparse.ArgumentTypeError."""
    return parse_whole(text, 0)


def parse_whole(text: str, least: int) -> int:
    """Raises argparse.ArgumentTypeError."""
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
    return value


def parse_positive(text: str) -> float:
    """Raises argparse.ArgumentTypeError."""
    value = parse_number(text)
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def parse_overlap(text: str) -> float:
    """Raises argparse.ArgumentTypeError."""
    value = parse_number(text)
    if not 0.0 <= value <= OVERLAP_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {OVERLAP_MAX}")
    return value


def parse_number(text: str) -> float:
    """NaN where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
