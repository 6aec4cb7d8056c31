"""python -m index build | search | items | clip | report | tags | prune | reembed | backup |
restore
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, redirect_stdout
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from export.bundle import ANY, BadBundle, Manifest, NoRoute, open_bundle, parse_modality
from export.encoder import EncoderError, OnnxEncoder
from media.commands import Commands, add_command
from media.containers import ARCHIVE_BUDGET, Budget
from media.errors import BadMedia, MissingModality
from media.manifest import BadManifest
from media.modality import MODALITIES, TEXT
from media.passages import Passage
from media.readers import ReaderMissing, choose_readers
from media.sandbox import Decoders
from media.text import Reading
from media.windows import DecodeOptions

from .backup import Saved, backup, restore
from .clip import ClipLimits, cut_clip
from .collection import Collection, CollectionError, FingerprintConflict
from .duplicates import find_duplicates, format_duplicates
from .ingest.adopt import adopt
from .ingest.build import BuildOptions, Report, build, embed_rows, list_failures
from .ingest.gone import GoneItem, Missing, find_missing, remove
from .ingest.names import make_printable
from .ingest.reembed import Overlap, Progress, drop, measure_overlaps, reembed, swap
from .ingest.remote import Remote, post_changes
from .ingest.watch import call_at, follow, stop_at_signals
from .library import Collections
from .query_bank import ensure_query_bank
from .records.database import Item, UnknownItem
from .records.filters import TAG, BadFilter, asks_for
from .records.schema import UnknownSchema
from .report import format_stats, report
from .search import Answer, Hit, Options, TargetQuery, direction, search
from .tags_command import find_tags, print_tags, tags_parser
from .vectors.kinds import KINDS
from .vectors.sizing import Sizing
from .vectors.store import VectorStoreFailed
from .vocabulary import ensure_vocabulary

PROG = "python -m index"
PAGE = 1000  # items read at once
LINE_S = 5.0  # between two lines of progress where there is no terminal
REPORTED = ("duplicates", "files", "indexes")
OVERLAP_MAX = 0.9
OVERLAP = "share of a window that the next one covers too, 0 to 0.9"
DECODE_MEMORY_MB = 6144  # a few copies of two hours of sound at 44.1 kHz, 1.3 GB each


def arguments(prog: str = PROG) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    building = build_parser(commands)
    searching = search_parser(commands)
    listing = items_parser(commands)
    cutting = clip_parser(commands)
    reporting = report_parser(commands)
    pruning = prune_parser(commands)
    tagging = tags_parser(commands)
    embedding = reembed_parser(commands)
    saving = add_command(
        commands,
        "backup",
        "copy every collection of a data folder, in use or not",
        "--data mine backups/monday",
    )
    saving.add_argument("out", type=Path, metavar="FOLDER", help="a new folder")
    restoring = add_command(
        commands,
        "restore",
        "put the collections of a backup into a data folder",
        "--data mine backups/monday",
    )
    restoring.add_argument("backup", type=Path, metavar="FOLDER", help="the backup's folder")
    of_collections = (building, searching, listing, cutting, reporting, pruning, tagging)
    for command in (*of_collections, embedding, saving, restoring):
        data = os.environ.get("TERCET_DATA")
        needed = data is None and command is not building
        command.add_argument(
            "--data",
            type=Path,
            default=data,
            required=needed,
            help="the data folder; default: TERCET_DATA",
        )
        command.add_argument("--json", action="store_true", help="print one JSON document")
    for command in (*of_collections, embedding):
        bundle = os.environ.get("TERCET_BUNDLE", "bundles/default")
        command.add_argument(
            "--bundle",
            type=Path,
            default=bundle,
            help="the bundle's folder; default: TERCET_BUNDLE, else bundles/default",
        )
        command.add_argument(
            "--collection", default="default", help="the collection's name; default: default"
        )
    for command in of_collections:
        add_sizing(command)
    return parser


def add_sizing(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--index", choices=["auto", *KINDS], default="auto", help="kind of the vector indexes"
    )
    command.add_argument(
        "--index-memory-mb",
        type=int,
        default=0,
        help="memory that one index may take, in MB; 0: no limit",
    )
    command.add_argument(
        "--index-latency-ms",
        type=float,
        default=2.0,
        help="milliseconds that a search of one index should take; default: 2",
    )
    command.add_argument(
        "--milvus",
        default="",
        help="address of a Milvus server that keeps the vectors instead of FAISS",
    )


def build_parser(commands: Commands) -> argparse.ArgumentParser:
    building = add_command(
        commands,
        "build",
        "index folders, files, JSONL manifests and tar shards",
        "--data mine PATH",
        "--data mine --retry-failed PATH",
    )
    building.add_argument(
        "paths", type=Path, nargs="*", metavar="PATH", help="a folder, file, manifest or tar shard"
    )
    building.add_argument(
        "--adopt",
        action="store_true",
        help="make items of media in the collection's folder that no item names, and start it over"
        " if its records are lost",
    )
    building.add_argument(
        "--check",
        "--verify-content",
        action="store_true",
        help="read files of unchanged size and time, too",
    )
    building.add_argument(
        "--reembed",
        action="store_true",
        help="re-embed the collection first if it was embedded with another bundle",
    )
    building.add_argument(
        "--retry-failed", action="store_true", help="try again what failed in earlier builds"
    )
    building.add_argument(
        "--workers",
        type=int,
        default=2,
        help="decoding processes; with --engine ray, actors; default: 2",
    )
    building.add_argument(
        "--engine", choices=["local", "ray"], default="local", help="ray: on a Ray cluster"
    )
    building.add_argument(
        "--file-max-s", type=float, default=600.0, help="seconds one file may take to decode"
    )
    building.add_argument("--overlap", type=parse_overlap, default=0.0, help=OVERLAP)
    building.add_argument(
        "--watch",
        action="store_true",
        help="go on, and index what is added or changed, until SIGTERM or ^C",
    )
    building.add_argument(
        "--url", help="with --watch: have the service there import the changes, by jobs"
    )
    building.add_argument(
        "--key",
        default=os.environ.get("TERCET_KEY"),
        help="API key of the service; default $TERCET_KEY",
    )
    building.add_argument(
        "--import-path",
        default=".",
        metavar="PATH",
        help="where the folder lies below the service's import folder; default: it is that folder",
    )
    building.add_argument(
        "--screen-text", action="store_true", help="read text in pictures, too (extra 'screen')"
    )
    building.add_argument(
        "--speech",
        default="",
        metavar="MODEL",
        help="write down what is said, by a Whisper model: a folder, or a name to fetch from the"
        " hub (extra 'speech')",
    )
    return building


def search_parser(commands: Commands) -> argparse.ArgumentParser:
    searching = add_command(
        commands,
        "search",
        "search a collection",
        "--data mine --text 'a dog barking'",
        "--data mine --audio bark.wav --target video --json",
    )
    query = searching.add_mutually_exclusive_group(required=True)
    query.add_argument("--text", help="words to search by")
    query.add_argument("--audio", type=Path, metavar="FILE", help="a sound to search by")
    query.add_argument("--video", type=Path, metavar="FILE", help="a video to search by")
    query.add_argument("--image", type=Path, metavar="FILE", help="a picture to search by")
    searching.add_argument(
        "--target",
        choices=[ANY, *MODALITIES],
        default=ANY,
        help="what is searched; any, the default: pictures and sound together",
    )
    searching.add_argument(
        "--space", help="embedding space of the bundle; default: the first that has both modalities"
    )
    searching.add_argument(
        "--top-k", type=parse_count, default=10, help="how many hits at most; default: 10"
    )
    searching.add_argument("--exact", action="store_true", help="compare every vector")
    searching.add_argument("--filter", type=json.loads, help="a filter as JSON")
    return searching


def items_parser(commands: Commands) -> argparse.ArgumentParser:
    listing = add_command(
        commands,
        "items",
        "list the items of a collection, by id",
        "--data mine --limit 20",
        "--data mine --limit 20 --after clip-20.mp4 --json",
    )
    listing.add_argument("--limit", type=parse_count, help="how many at most; default: all")
    listing.add_argument(
        "--after", default="", metavar="ID", help="only items whose ids come after this one"
    )
    listing.add_argument(
        "--words", action="store_true", help="also what each file says and shows in words"
    )
    return listing


def clip_parser(commands: Commands) -> argparse.ArgumentParser:
    cutting = add_command(
        commands,
        "clip",
        "cut a moment of an item into a file of its own, exactly",
        "--data mine film.mkv --start-s 12 --end-s 17.5",
        "--data mine film.mkv --start-s 12 --end-s 17.5 --out moment.webm --json",
    )
    cutting.add_argument("id", metavar="ID", help="the item's id")
    cutting.add_argument("--start-s", type=float, required=True, help="where it begins, in seconds")
    cutting.add_argument("--end-s", type=float, required=True, help="where it ends, in seconds")
    cutting.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="a new file: WebM, or FLAC of a sound; default: in this folder, named after the item",
    )
    cutting.add_argument("--file-max-s", type=float, default=600.0, help="seconds that it may take")
    return cutting


def report_parser(commands: Commands) -> argparse.ArgumentParser:
    reporting = add_command(
        commands,
        "report",
        "a collection's near-duplicates, files that are gone, and the quality of its indexes",
        "--data mine",
        "--data mine --only duplicates --json",
    )
    reporting.add_argument(
        "--only", choices=REPORTED, help="one part of the report; default: all of it"
    )
    return reporting


def prune_parser(commands: Commands) -> argparse.ArgumentParser:
    pruning = add_command(
        commands,
        "prune",
        "list the items whose files are gone, and remove them",
        "--data mine",
        "--data mine --yes --json",
    )
    pruning.add_argument(
        "paths", type=Path, nargs="*", metavar="PATH", help="only files below; default: all"
    )
    pruning.add_argument("--yes", action="store_true", help="do not ask")
    pruning.add_argument(
        "--unreachable",
        action="store_true",
        help="also items whose folder is missing or empty, or whose disk is not mounted",
    )
    return pruning


def reembed_parser(commands: Commands) -> argparse.ArgumentParser:
    embedding = add_command(
        commands,
        "reembed",
        "re-embed a collection with another bundle, beside the old one",
        "--data mine --bundle bundles/mine",
        "--data mine --swap",
    )
    embedding.add_argument("--workers", type=int, default=2, help="decoding processes")
    embedding.add_argument(
        "--file-max-s", type=float, default=600.0, help="seconds one file may take to decode"
    )
    ending = embedding.add_mutually_exclusive_group()
    ending.add_argument(
        "--swap", action="store_true", help="put the re-embedded collection in the old one's place"
    )
    ending.add_argument("--drop", action="store_true", help="delete the re-embedded collection")
    embedding.add_argument(
        "--overlap", type=parse_overlap, default=None, help=f"{OVERLAP}; default: as in the old one"
    )
    return embedding


def parse_count(text: str) -> int:
    """A count of one or more. Raises ValueError."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def parse_overlap(text: str) -> float:
    """An overlap of windows. Raises ValueError."""
    value = float(text)
    if not 0.0 <= value <= OVERLAP_MAX:
        raise ValueError(text)
    return value


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    parser = arguments(prog)
    args = parser.parse_args(argv)
    if args.command == "build":
        check_build(parser, args)
    try:
        return COMMANDS[args.command](args)
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (
        BadBundle,
        BadFilter,
        BadManifest,
        BadMedia,
        CollectionError,
        EncoderError,
        NoRoute,
        OSError,
        UnknownItem,
        ReaderMissing,
        UnknownSchema,
        VectorStoreFailed,
        sqlite3.Error,
    ) as error:
        print(f"{args.command}: {error}", file=sys.stderr)
        return 1


def check_build(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends with a usage error where the arguments of `build` do not go together."""
    if not (args.paths or args.adopt):
        parser.error("build: a PATH is needed, or --adopt")
    if args.url is not None:
        if not args.watch or len(args.paths) != 1:
            parser.error("build: --url goes with --watch and one PATH")
        if args.screen_text or args.speech:
            parser.error(
                "build: with --url, words are read as TERCET_SCREEN_TEXT and TERCET_SPEECH"
                " of the service say"
            )
    elif args.data is None:
        parser.error("the following arguments are required: --data")
    if args.watch and (args.adopt or args.reembed or args.engine != "local"):
        parser.error("build: --watch does not go with --adopt, --reembed and --engine ray")


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


def build_command(args: argparse.Namespace) -> int:
    if args.watch:
        check_paths(args.paths)
        return watch_service(args) if args.url else watch_data(args)
    if not args.json:
        return build_and_report(args)[0]
    with redirect_stdout(sys.stderr):  # the lines for people
        status, document = build_and_report(args)
    print(json.dumps(document, indent=1))
    return status


def check_paths(paths: list[Path]) -> None:
    """Raises FileNotFoundError."""
    nowhere = [path for path in paths if not path.exists()]
    if nowhere:
        raise FileNotFoundError(f"{make_printable(str(nowhere[0]))} does not exist")


def build_options(args: argparse.Namespace) -> BuildOptions:
    """Raises ReaderMissing."""
    return BuildOptions(
        overlap=args.overlap,
        retry=args.retry_failed,
        check=args.check,
        readers=choose_readers(args.screen_text, args.speech),
    )


def watch_data(args: argparse.Namespace) -> int:
    """Build, and then what is added or changed, until a signal comes."""
    asked = build_options(args)
    failures = args.data / f"{args.collection}-failures.jsonl"
    with stop_at_signals() as stop, ExitStack() as closing_order:
        encoder = OnnxEncoder.open(args.bundle, threads=1)
        collections = open_collections(args, encoder.manifest, make=True)
        closing_order.callback(collections.close)
        collection = collections.ensure(args.collection)
        ensure_query_bank(collection, encoder)
        decoders = Decoders(args.workers, DECODE_MEMORY_MB, args.file_max_s)
        closing_order.enter_context(call_at(stop, decoders.close))
        for changed in follow(args.paths, stop, ignored=args.data):
            whole = changed is None
            options = replace(
                asked, retry=asked.retry and whole, check=asked.check and whole, only=changed
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


def build_and_report(args: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    """Build as the arguments say. Returns the exit status and what was done."""
    check_paths(args.paths)
    # a core for each of the batches that are encoded at once
    encoder = OnnxEncoder.open(args.bundle, threads=1)
    collections = open_collections(args, encoder.manifest, make=not args.adopt)
    if args.reembed and isinstance(collections.conflicts.get(args.collection), FingerprintConflict):
        collections.close()
        reembedded = reembed_with_progress(args, encoder, overlap=None)
        if reembedded.failed:
            print(
                f"{args.collection}: {len(reembedded.failed)} of {reembedded.total} items could not"
                " be read, so nothing was swapped: put their files back, or delete these items with"
                " the bundle they were made by; then run this again",
                file=sys.stderr,
            )
            return 1, {"reembed": asdict(reembedded)}
        print(f"{args.collection}: {reembedded.total} items re-embedded with this bundle")
        swap(args.data, args.collection)
        collections = open_collections(args, encoder.manifest)
    try:
        adopted = adopt_command(args, encoder, collections) if args.adopt else Report()
        collection = collections.ensure(args.collection)
        ensure_query_bank(collection, encoder)
        report = follow_build(run_build(args, encoder, collection)) if args.paths else Report()
        before = {
            name: why
            for name, why in list_failures(collection).items()
            if name not in report.failed
        }
        missing = find_missing(collection)
    finally:
        collections.close()
    report_build(args.data / f"{args.collection}-failures.jsonl", report, before, bool(args.paths))
    report_missing(missing)
    done = asdict(report) | {"failed_before": before} | missing_document(missing)
    if args.adopt:
        done |= {"adopted": asdict(adopted)}
    return (1 if report.failed or adopted.failed else 0), done


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
    lines = [
        json.dumps({"source": name, "reason": reason}) + "\n" for name, reason in every.items()
    ]
    failures.write_text("".join(lines), encoding="utf-8")
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
    if report.moved:
        print(f"{report.moved} had been moved or renamed, and keep their vectors")
    if report.copied:
        print(f"{report.copied} are exact copies, and have the same vectors")
    if report.changed:
        print(f"{report.changed} replaced what their items held before")
    for kind, count in report.left_out.items():
        print(f"left out: {count} {kind}")
    if report.rewritten:
        print(f"{report.rewritten} had other content in the size and time they had before")
    if before:
        print(f"{len(before)} that failed in earlier builds still stand as they were")
    if every:
        print(f"those that failed are listed in {failures}; --retry-failed tries them again")


def report_missing(missing: Missing) -> None:
    """Tell which items' files are not there any more."""
    if missing.gone:
        first = make_printable(missing.gone[0].id)
        print(
            f"{len(missing.gone)} items' files are gone, such as {first}: `tercet prune` lists and"
            " removes them"
        )
    tell_out_of_reach(missing.out_of_reach)


def missing_document(missing: Missing) -> dict[str, Any]:
    """What `build` and `report` say of files that are not there."""
    return {
        "gone": make_rows(missing.gone),
        "out_of_reach": {
            make_printable(reason): make_rows(items)
            for reason, items in missing.out_of_reach.items()
        },
    }


def adopt_command(
    args: argparse.Namespace, encoder: OnnxEncoder, collections: Collections
) -> Report:
    """Tell what will be taken in, then take it in."""
    collections.adopt(args.collection)
    collection = collections.get(args.collection)
    ensure_query_bank(collection, encoder)
    files = collection.set_aside()
    print(
        f"{args.collection}: {len(files)} media files that no item names will be taken in as items"
    )
    for file in files:
        print(f"  {file} ({file.stat().st_size} bytes)")
    decoders = Decoders(args.workers, DECODE_MEMORY_MB, args.file_max_s)
    try:
        report = follow_build(adopt(encoder, collection, decoders, ARCHIVE_BUDGET, args.overlap))
    finally:
        decoders.close()
    for name, reason in report.failed.items():
        print(f"failed: {name}: {reason}; it stays where it is", file=sys.stderr)
    print(f"{report.indexed} taken in, {len(report.failed)} failed")
    return report


def run_build(
    args: argparse.Namespace, encoder: OnnxEncoder, collection: Collection
) -> Iterator[tuple[int, int, Report]]:
    """Build with the chosen engine; yields (done, total, report so far)."""
    options = build_options(args)
    if args.engine == "ray":
        from .ingest import ray_build

        yield from ray_build.build(
            args.bundle,
            collection,
            args.paths,
            budget=ARCHIVE_BUDGET,
            memory_mb=DECODE_MEMORY_MB,
            max_s=args.file_max_s,
            workers=args.workers,
            options=options,
        )
        return
    decoders = Decoders(args.workers, DECODE_MEMORY_MB, args.file_max_s)
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


def search_command(args: argparse.Namespace) -> int:
    encoder = OnnxEncoder.open(args.bundle)
    query = "text" if args.text is not None else "audio" if args.audio else "video"
    file = args.audio or args.video or args.image
    aims = []
    warnings: dict[str, None] = {}  # in order, each once
    known_share = 1.0
    unread: Reading | None = None  # a query of which no word is known
    for route in encoder.manifest.routes([query], args.target, args.space):
        encoding = route.encodings[query]
        if args.text is not None:
            (reading,) = encoder.read([args.text], encoding)
            unread = unread or (None if reading.known else reading)
            vector = embed_rows(encoder, encoding, reading.rows[:1])[0]
            warnings |= dict.fromkeys(reading.warnings(cut=True))
            known_share = min(known_share, reading.share)
        else:
            vector = embed_file(encoder, encoding, file)
        aims.append(TargetQuery.along(route, query, vector[None]))
    collections = open_collections(args, encoder.manifest)
    try:
        collection = collections.get(args.collection)
        ensure_query_bank(collection, encoder)
        if asks_for(args.filter, TAG):
            ensure_vocabulary(collection, encoder)
        if unread and not (unread.words and args.target in (ANY, TEXT) and collection.has_passages):
            unread.check()
        options = Options(
            args.top_k,
            args.filter,
            exact=args.exact,
            known_share=known_share,
            target_name=args.target,
            words=args.text,
        )
        answer = search(collection, aims, options)
    finally:
        collections.close()
    if args.json:
        print(search_document(collection, f"{query}-{args.target}", answer, list(warnings)))
        return 0
    print(format_hits(answer.hits))
    how = "exact" if answer.plan.exact else "approximate"
    ways = " and ".join(answer.plan.ways)
    compared = answer.plan.compared
    print(
        f"{how} among {answer.plan.candidates} windows: {ways}, {compared} compared",
        file=sys.stderr,
    )
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if answer.good_match is False:
        print("No confident match.")
    return 0


def search_document(collection: Collection, route: str, answer: Answer, warnings: list[str]) -> str:
    """An answer as the service gives it over HTTP."""
    about = {"collection": collection.name, "fingerprint": collection.fingerprint, "route": route}
    return json.dumps(about | asdict(answer) | {"warnings": warnings}, indent=1)


def items_command(args: argparse.Namespace) -> int:
    collections = open_collections(args, open_bundle(args.bundle).manifest)
    try:
        collection = collections.get(args.collection)
        items = list(islice(list_items_after(collection, args.after), args.limit))
        following = bool(items) and bool(collection.page(1, items[-1].id))
        words = {item.id: collection.passages(item.id) for item in items if args.words}
    finally:
        collections.close()
    if args.json:
        page = {
            "items": [item_document(item, words.get(item.id)) for item in items],
            "next": items[-1].id if following else None,
        }
        print(json.dumps(page, indent=1))
        return 0
    print(f"{'length':>10s}  {'modalities':18s}  item")
    for item in items:
        print(f"{item.duration_s:8.1f} s  {' '.join(item.modalities):18s}  {item.id}")
        for passage in words.get(item.id, ()):
            print(f"{passage.start_s:12.1f} - {passage.end_s:.1f} s  {passage.text}")
    if following:
        print(f"there are more: --after {items[-1].id}", file=sys.stderr)
    return 0


def list_items_after(collection: Collection, id: str) -> Iterator[Item]:
    """Every item whose id comes after one, in order."""
    page = collection.page(PAGE, id)
    while page:
        yield from page
        page = collection.page(PAGE, page[-1].id)


def item_document(item: Item, words: tuple[Passage, ...] | None) -> dict[str, Any]:
    """An item as the service describes it over HTTP."""
    names = ("id", "windows", "modalities", "duration_s", "kind", "filename", "text", "metadata")
    passages = None if words is None else [asdict(passage) for passage in words]
    return {name: getattr(item, name) for name in names} | {"words": passages}


def embed_file(encoder: OnnxEncoder, encoding: str, file: Path) -> NDArray[np.float32]:
    """One query vector for a file: the mean direction of its windows."""
    modality = parse_modality(encoding)
    decoders = Decoders(1, max_s=60.0)
    try:
        options = DecodeOptions(
            specs=encoder.manifest.inputs, budget=Budget(), modalities=(modality,)
        )
        media = decoders.finish(decoders.start(file, options))
    finally:
        decoders.close()
    if modality not in media.parts:
        raise MissingModality(modality)
    return direction(encoder.embed(encoding, media.parts[modality].array))


def clip_command(args: argparse.Namespace) -> int:
    collections = open_collections(args, open_bundle(args.bundle).manifest)
    try:
        out, made = cut_clip(
            collections.get(args.collection),
            args.id,
            start_s=args.start_s,
            end_s=args.end_s,
            out=args.out,
            limits=ClipLimits(DECODE_MEMORY_MB, args.file_max_s),
        )
    finally:
        collections.close()
    if args.json:
        print(json.dumps({"id": args.id, "file": str(out)} | asdict(made), indent=1))
    else:
        print(out)
    return 0


def report_command(args: argparse.Namespace) -> int:
    encoder = OnnxEncoder.open(args.bundle)
    collections = open_collections(args, encoder.manifest)
    try:
        collection = collections.get(args.collection)
        document: dict[str, Any] = {"collection": args.collection}
        if args.only in (None, "duplicates"):
            pairs = find_duplicates(collection)
            document["near_duplicates"] = [asdict(pair) for pair in pairs]
        if args.only in (None, "files"):
            missing = find_missing(collection)
            document |= missing_document(missing)
            document["failed"] = list_failures(collection)
        if args.only in (None, "indexes"):
            found = report(collection, encoder.manifest.compares)
            document["indexes"] = [asdict(stats) for stats in found]
    finally:
        collections.close()
    if args.json:
        print(json.dumps(document, indent=1))
        return 0
    if "near_duplicates" in document:
        print(format_duplicates(pairs))
    if "gone" in document:
        print(format_files(missing, document["failed"]))
    if "indexes" in document:
        print(format_stats(found))
    return 0


def format_files(missing: Missing, failed: dict[str, str]) -> str:
    lines = [
        f"gone: {make_printable(item.id)}: {make_printable(item.source)}" for item in missing.gone
    ]
    lines += [
        f"out of reach: {len(items)} items: {make_printable(reason)}"
        for reason, items in missing.out_of_reach.items()
    ]
    lines += [f"failed: {name}: {reason}" for name, reason in failed.items()]
    return "\n".join(lines or ["every item's file is there"])


def prune_command(args: argparse.Namespace) -> int:
    """List what is gone, ask, and remove it. Without --yes and without a terminal nothing is
    removed.
    """
    collections = open_collections(args, open_bundle(args.bundle).manifest)
    try:
        collection = collections.get(args.collection)
        missing = find_missing(collection, args.paths)
        chosen = list(missing.every()) if args.unreachable else missing.gone
        kept = {} if args.unreachable else missing.out_of_reach
        with redirect_stdout(sys.stderr if args.json else sys.stdout):
            for item in chosen:
                print(f"gone: {make_printable(item.id)}: {make_printable(item.source)}")
        tell_out_of_reach(kept, "not removed: ")
        agreed = bool(chosen) and (args.yes or confirm(f"Remove {len(chosen)} items? [y/N] "))
        removed = remove(collection, chosen) if agreed else 0
    finally:
        collections.close()
    if args.json:
        done = {"collection": args.collection, "removed": removed, "gone": make_rows(chosen)}
        done["out_of_reach"] = {reason: make_rows(items) for reason, items in kept.items()}
        print(json.dumps(done, indent=1))
    else:
        print(f"{removed} of {len(chosen)} items removed")
    if chosen and not agreed:
        print("nothing was removed: --yes removes what is listed", file=sys.stderr)
    return 1 if kept or removed < len(chosen) else 0


def tags_command(args: argparse.Namespace) -> int:
    encoder = OnnxEncoder.open(args.bundle)
    collections = open_collections(args, encoder.manifest)
    try:
        found = find_tags(collections.get(args.collection), encoder, args)
    finally:
        collections.close()
    print_tags(args.collection, found, args.limit, args.json)
    return 0


def make_rows(items: list[GoneItem]) -> list[dict[str, str]]:
    return [{"id": item.id, "source": make_printable(item.source)} for item in items]


def confirm(question: str) -> bool:
    """Whether a person at a terminal agrees."""
    if not sys.stdin.isatty():
        return False
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def tell_out_of_reach(out_of_reach: dict[str, list[GoneItem]], prefix: str = "") -> None:
    for reason, items in out_of_reach.items():
        print(
            f"{prefix}{len(items)} items whose files are out of reach: {make_printable(reason)}",
            file=sys.stderr,
        )
    if out_of_reach and prefix:
        print("if these files are gone for good: --unreachable removes them", file=sys.stderr)


def reembed_command(args: argparse.Namespace) -> int:
    if args.drop:
        drop(args.data, args.collection)
    if args.swap:
        swap(args.data, args.collection)
    if args.drop or args.swap:
        done = "dropped what was staged" if args.drop else "swapped"
        print(
            json.dumps({"collection": args.collection, "done": done})
            if args.json
            else f"{args.collection}: {done}"
        )
        return 0
    encoder = OnnxEncoder.open(args.bundle, shared=True)
    progress = reembed_with_progress(args, encoder, args.overlap)
    found = measure_overlaps(args.data, args.collection, encoder.manifest.compares)
    if args.json:
        print(reembed_document(args.collection, progress, found))
        return 1 if progress.failed else 0
    print(
        f"{progress.total - len(progress.failed)} of {progress.total} items are in the vectors of"
        f" {args.bundle}"
    )
    for overlap in found:
        print(
            f"{overlap.route:24s} {overlap.at_10:6.3f} of the best ten are the same,"
            f" {overlap.queries} queries"
        )
    return 1 if progress.failed else 0


def reembed_document(collection: str, progress: Progress, found: list[Overlap]) -> str:
    done = {"collection": collection, "items": progress.total, "failed": progress.failed}
    return json.dumps(done | {"overlaps": [asdict(overlap) for overlap in found]}, indent=1)


def reembed_with_progress(
    args: argparse.Namespace, encoder: OnnxEncoder, overlap: float | None
) -> Progress:
    """Make the collection anew beside the old one, with a bar or lines of progress; what failed is
    named on stderr.
    """
    progress = Progress()
    decoders = Decoders(args.workers, DECODE_MEMORY_MB, args.file_max_s)
    try:
        printed = time.monotonic()
        with tqdm(unit="item", desc="embedding", disable=not sys.stderr.isatty()) as bar:
            for progress in reembed(
                args.data, args.collection, encoder, decoders, ARCHIVE_BUDGET, overlap
            ):
                bar.total = progress.total
                bar.update(progress.done - bar.n)
                if bar.disable and time.monotonic() - printed > LINE_S:
                    printed = time.monotonic()
                    print(f"{progress.done} of {progress.total} items", file=sys.stderr)
    finally:
        decoders.close()
    for id, reason in progress.failed.items():
        print(f"failed: {id}: {reason}", file=sys.stderr)
    return progress


def backup_command(args: argparse.Namespace) -> int:
    return print_saved(args.out, backup(args.data, args.out), args.json)


def restore_command(args: argparse.Namespace) -> int:
    return print_saved(args.data, restore(args.backup, args.data), args.json)


def print_saved(folder: Path, saved: dict[str, Saved], as_json: bool) -> int:
    if as_json:
        counts = {
            name: {"items": one.items, "media_files": len(one.files) - 1}
            for name, one in saved.items()
        }
        print(json.dumps({"folder": str(folder), "collections": counts}, indent=1))
        return 0
    for name, one in saved.items():
        print(f"{name}: {one.items} items, {len(one.files) - 1} media files")
    print(f"{len(saved)} collections in {folder}")
    return 0


def format_hits(hits: list[Hit]) -> str:
    rows = [
        f"{hit.score:6.3f}  {format_confidence(hit):>5s}  {format_moment(hit):>21s}"
        f"  {hit.id}{format_text(hit)}"
        for hit in hits
    ]
    return "\n".join([f"{'score':>6s}  {'sure':>5s}  {'moment':>21s}  item", *rows])


def format_text(hit: Hit) -> str:
    """The words that matched, behind the item."""
    return f"  “{hit.text}”" if hit.text else ""


def format_moment(hit: Hit) -> str:
    return "picture" if hit.kind == "image" else f"{hit.start_s:8.1f} - {hit.end_s:8.1f} s"


def format_confidence(hit: Hit) -> str:
    return "-" if hit.confidence is None else f"{hit.confidence:.0%}"


COMMANDS = {
    "build": build_command,
    "search": search_command,
    "items": items_command,
    "clip": clip_command,
    "report": report_command,
    "prune": prune_command,
    "tags": tags_command,
    "reembed": reembed_command,
    "backup": backup_command,
    "restore": restore_command,
}

if __name__ == "__main__":
    sys.exit(main())
