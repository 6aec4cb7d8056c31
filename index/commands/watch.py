"""Builds that go on as files change, here or through a service."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack, closing, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from export.encoder import OnnxEncoder

from ..collection import Collection
from ..ingest.build import list_failures
from ..ingest.gone import Missing, find_missing
from ..ingest.names import make_printable
from ..ingest.plan import Report
from ..ingest.remote import Remote, post_changes
from ..ingest.watch import call_at, follow, stop_at_signals
from ..query_bank import ensure_query_bank
from .flags import open_collections, open_decoders
from .missing import missing_document, report_missing
from .running import build_options, report_build, run_local


def watch_data(args: argparse.Namespace) -> int:
    """Build, and then what is added or changed, until a signal comes."""
    asked = build_options(args)
    failures = args.data / f"{args.collection}-failures.jsonl"
    with stop_at_signals() as stop, ExitStack() as closing_order:
        encoder = OnnxEncoder.open(args.bundle, threads=1, frames=args.frames)
        collections = open_collections(args, encoder.manifest, make=True)
        closing_order.callback(collections.close)
        collection = collections.ensure(args.collection)
        ensure_query_bank(collection, encoder)
        decoders = open_decoders(args)
        closing_order.enter_context(call_at(stop, decoders.close))
        for changed in follow(args.paths, stop, ignored=args.data):
            whole = changed is None
            # what the system tells of has changed, even where size and time are as before
            options = replace(
                asked, retry=asked.retry and whole, check=asked.check or not whole, only=changed
            )
            report = Report()
            with closing(run_local(args, encoder, collection, decoders, options)) as progress:
                for step in progress:
                    report = step[2]
                    if stop.is_set():
                        break
            if stop.is_set():
                break
            if whole or report.indexed or report.moved or report.failed:
                tell_round(args, collection, report, failures, whole)
    return 0


def tell_round(
    args: argparse.Namespace, collection: Collection, report: Report, failures: Path, whole: bool
) -> None:
    """Say what came of one look at the folders, or of some changed files."""
    standing = list_failures(collection)
    before = {name: why for name, why in standing.items() if name not in report.failed}
    missing = find_missing(collection) if whole else Missing()
    with redirect_stdout(sys.stderr if args.json else sys.stdout):
        report_build(failures, report, before if whole else {}, built=True, standing=before)
        report_missing(missing)
    if args.json:
        print(json.dumps(asdict(report) | missing_document(missing)))
    sys.stdout.flush()


def watch_service(args: argparse.Namespace) -> int:
    """Have a service import a folder, and then what is added or changed in it."""

    def tell(job: dict[str, Any]) -> None:
        if args.json:
            print(json.dumps(job), flush=True)
            return
        for failure in job["failures"]:
            print(f"failed: {failure['source']}: {failure['reason']}", file=sys.stderr)
        counts = f"{job['indexed']} indexed, {job['unchanged']} unchanged, {job['failed']} failed"
        print(f"{make_printable(job['path'])}: {counts} ({job['state']})", flush=True)

    with stop_at_signals() as stop:
        remote = Remote(args.url, args.key, args.collection)
        post_changes(remote, args.paths[0], args.import_path, stop, tell)
    return 0
