"""A build as its arguments say: its options, its progress, and what it reports."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path

from tqdm import tqdm

from export.encoder import OnnxEncoder
from media.containers import ARCHIVE_BUDGET, WHOLE_BUDGET
from media.readers import choose_readers
from media.sandbox import Decoders

from ..collection import Collection
from ..ingest.build import build
from ..ingest.plan import BuildOptions, Report
from .flags import DECODE_MEMORY_MB, LINE_S, open_decoders


def build_options(args: argparse.Namespace) -> BuildOptions:
    """Raises ReaderMissing."""
    return BuildOptions(
        overlap=args.overlap,
        retry=args.retry_failed,
        check=args.check,
        readers=choose_readers(args.screen_text, args.speech),
    )


def run_build(
    args: argparse.Namespace, encoder: OnnxEncoder, collection: Collection
) -> Iterator[tuple[int, int, Report]]:
    """Build with the chosen engine; yields (done, total, report so far)."""
    options = build_options(args)
    if args.engine == "ray":
        from ..ingest import ray_build

        yield from ray_build.build(
            args.bundle,
            collection,
            args.paths,
            budget=WHOLE_BUDGET,
            memory_mb=DECODE_MEMORY_MB,
            max_s=args.file_max_s,
            workers=args.workers,
            options=options,
            frames=args.frames,
        )
        return
    decoders = open_decoders(args)
    try:
        yield from run_local(args, encoder, collection, decoders, options)
    finally:
        decoders.close()


def run_local(
    args: argparse.Namespace,
    encoder: OnnxEncoder,
    collection: Collection,
    decoders: Decoders,
    options: BuildOptions,
) -> Generator[tuple[int, int, Report], None, None]:
    return build(
        encoder,
        collection,
        args.paths,
        decoders,
        ARCHIVE_BUDGET,
        options,
        at_once=os.cpu_count() or 1,
    )


def follow_build(progress: Iterator[tuple[int, int, Report]]) -> Report:
    """Show a bar on a terminal, or now and then a line with the rate and the time left; returns the
    last report.
    """
    report = Report()
    began = time.monotonic()
    printed = began
    first = -1
    with tqdm(unit="file", desc="indexing", disable=not sys.stderr.isatty()) as bar:
        for done, total, now in progress:
            report = now
            bar.total = total
            bar.update(done - bar.n)
            first = done if first < 0 else first
            if bar.disable and time.monotonic() - printed > LINE_S:
                printed = time.monotonic()
                rate = (done - first) / (printed - began)
                left = "no rate yet"
                if rate:
                    left = f"{rate:.1f} files/s, {(total - done) / rate:.0f} s left"
                print(f"{done} of {total} files, {left}", file=sys.stderr)
    return report


def report_build(
    failures: Path,
    report: Report,
    before: dict[str, str],
    built: bool,
    standing: dict[str, str] | None = None,
) -> None:
    """Print what a build did. What failed in it and `before` is written to a file, too; in place of
    the latter what is `standing`, if that is given.
    """
    every = report.failed | (before if standing is None else standing)
    write_failures(failures, every)
    for name, reason in report.failed.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    for name, warning in report.warned.items():
        print(f"warning: {name}: {warning}", file=sys.stderr)
    for name, reason in before.items():
        print(f"failed before: {name}: {reason}", file=sys.stderr)
    if built:
        print(
            f"{report.indexed} indexed, {report.unchanged} unchanged, {len(report.failed)} failed, "
            f"{report.ignored} other files passed over"
        )
    print_counts(report)
    if before:
        print(f"{len(before)} that failed in earlier builds still stand as they were")
    if every:
        print(f"those that failed are listed in {failures}; --retry-failed tries them again")


def write_failures(file: Path, failed: dict[str, str]) -> None:
    lines = [
        json.dumps({"source": name, "reason": reason}) + "\n" for name, reason in failed.items()
    ]
    file.write_text("".join(lines), encoding="utf-8")


def print_counts(report: Report) -> None:
    """Print what else came of files than being indexed or not."""
    if report.moved:
        print(f"moved or renamed, with the vectors they had: {report.moved}")
    if report.copied:
        print(f"exact copies, which have the same vectors: {report.copied}")
    if report.changed:
        print(f"replaced what their items held before: {report.changed}")
    for kind, count in report.left_out.items():
        print(f"left out: {count} {kind}")
    if report.rewritten:
        print(f"other content in the same size and time as before: {report.rewritten}")
