"""Searches a collection."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from export.bundle import ANY, Route, parse_modality
from export.encoder import OnnxEncoder
from media.commands import Commands, add_command
from media.containers import Budget
from media.errors import MissingModality
from media.manifest import DuplicateKey, json_type, read_json
from media.modality import MODALITIES, TEXT
from media.sandbox import Decoders
from media.text import Reading
from media.windows import DecodeOptions

from ..agreement import ensure_agreement
from ..calibration import LIKELY
from ..collection import Collection
from ..formats import TITLE, Format, format_csv, format_edl
from ..ingest.encoding import embed_rows
from ..query_bank import ensure_query_bank
from ..records.filters import AGREEMENT, TAG, asks_for
from ..search import Answer, Hit, Options, TargetQuery, direction, search
from ..search.rerank import RERANKERS
from ..vocabulary import ensure_vocabulary
from .flags import add_collection, add_data, add_sizing, open_collections, parse_count


def add_parser(commands: Commands) -> None:
    searching = add_command(
        commands,
        "search",
        "search a collection",
        "--data mine --audio bark.wav --target video --json",
        "--data mine --text 'a dog barks' --then 'a car passes'",
    )
    query = searching.add_mutually_exclusive_group(required=True)
    query.add_argument("--text", help="words to search by")
    query.add_argument("--audio", type=Path, metavar="FILE", help="a sound to search by")
    query.add_argument("--video", type=Path, metavar="FILE", help="a video to search by")
    query.add_argument("--image", type=Path, metavar="FILE", help="a picture to search by")
    order = searching.add_mutually_exclusive_group()
    order.add_argument(
        "--then",
        action="append",
        default=[],
        metavar="TEXT",
        help="what comes after that, in words; may be repeated",
    )
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
    searching.add_argument(
        "--not-learned",
        dest="learned",
        action="store_false",
        help="leave out what was learned from marks",
    )
    order.add_argument("--rerank", choices=list(RERANKERS), help="another order of what was found")
    searching.add_argument("--filter", type=parse_filter, help="a filter as JSON")
    searching.add_argument(
        "--format",
        choices=get_args(Format),
        help="print the hits as a table (csv), as one JSON document, or as marks for a video"
        " editor (edl)",
    )
    add_data(searching)
    add_collection(searching)
    add_sizing(searching)


def parse_filter(text: str) -> dict[str, Any]:
    """Raises argparse.ArgumentTypeError."""
    try:
        filter = read_json(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError("it is not JSON") from error
    except DuplicateKey as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not isinstance(filter, dict):
        raise argparse.ArgumentTypeError(f"a filter is an object, not {json_type(filter)}")
    return filter


@dataclass
class Query:
    """A query's vectors, and what was read of its words. `unread` is set where none is known."""

    modality: str
    aims: list[TargetQuery] = field(default_factory=list)
    spaces: dict[str, None] = field(default_factory=dict)  # in order, each once
    # in order, each once
    warnings: dict[str, None] = field(default_factory=dict)
    known_share: float = 1.0
    unread: Reading | None = None


def encode_query(args: argparse.Namespace, encoder: OnnxEncoder) -> Query:
    """Raises BadMedia, EncoderError, NoRoute, OSError."""
    modality = "text" if args.text is not None else "audio" if args.audio else "video"
    file = args.audio or args.video or args.image
    query = Query(modality)
    sources = [modality, TEXT] if args.then else [modality]
    for route in encoder.manifest.routes(sources, args.target, args.space):
        encoding = route.encodings[modality]
        if args.text is not None:
            (reading,) = encoder.read([args.text], encoding)
            query.unread = query.unread or (None if reading.known else reading)
            vector = embed_rows(encoder, encoding, reading.rows[:1])[0]
            query.warnings |= dict.fromkeys(reading.warnings(cut=True))
            query.known_share = min(query.known_share, reading.share)
        else:
            vector = embed_file(encoder, encoding, file)
        following = embed_following(encoder, route, args.then, query)
        aim = TargetQuery.along(route, modality, vector[None])
        query.aims.append(replace(aim, following=following))
        query.spaces[route.space] = None
    return query


def embed_following(
    encoder: OnnxEncoder, route: Route, texts: list[str], query: Query
) -> tuple[TargetQuery, ...]:
    """What comes after a query, in words; `query` is told what was read of them. Raises BadText."""
    steps = []
    for text in texts:
        encoding = route.encodings[TEXT]
        (reading,) = encoder.read([text], encoding)
        reading.check()
        query.warnings |= dict.fromkeys(reading.warnings(cut=True))
        query.known_share = min(query.known_share, reading.share)
        vectors = embed_rows(encoder, encoding, reading.rows[:1])
        steps.append(TargetQuery.along(route, TEXT, vectors))
    return tuple(steps)


def run(args: argparse.Namespace) -> int:
    encoder = OnnxEncoder.open(args.bundle, frames=args.frames)
    began = time.perf_counter()
    query = encode_query(args, encoder)
    encoding_s = time.perf_counter() - began
    unread = query.unread
    collections = open_collections(args, encoder.manifest)
    try:
        collection = collections.get(args.collection)
        ensure_query_bank(collection, encoder)
        if asks_for(args.filter, TAG):
            ensure_vocabulary(collection, encoder)
        if asks_for(args.filter, AGREEMENT):
            ensure_agreement(collection, encoder.manifest)
        found_in_files = args.target in (ANY, TEXT) and not args.then and collection.has_passages
        if unread and not (unread.words and found_in_files):
            unread.check()
        options = Options(
            args.top_k,
            args.filter,
            exact=args.exact,
            learned=args.learned,
            rerank=args.rerank,
            known_share=query.known_share,
            target_name=args.target,
            words=args.text,
        )
        began = time.perf_counter()
        answer = search(collection, query.aims, options)
        took_s = encoding_s + time.perf_counter() - began
    finally:
        collections.close()
    warnings = list(query.warnings)
    if args.json or args.format == "json":
        print(search_document(collection, query, args.target, answer, took_s))
    elif args.format == "csv":
        sys.stdout.write(format_csv(answer.hits))
    elif args.format == "edl":
        print(format_edl(answer.hits, args.text or TITLE))
    else:
        print_answer(answer, warnings)
    return 0


def print_answer(answer: Answer, warnings: list[str]) -> None:
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
        print(describe_match(answer.hits))


def describe_match(hits: list[Hit]) -> str:
    """What is said of hits of which none is a good match, as on the search page."""
    likely = any(hit.confidence is not None and hit.confidence >= LIKELY for hit in hits)
    if likely:
        return "Likely moments, none of them certain."
    return "No confident match: these are only the nearest."


def embed_file(encoder: OnnxEncoder, encoding: str, file: Path) -> NDArray[np.float32]:
    """One query vector for a file: the mean direction of its windows.

    Raises:
        OSError: the file cannot be opened.
        BadMedia, EncoderError.
    """
    file.open("rb").close()  # a decoder would not say why
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


def search_document(
    collection: Collection, query: Query, target: str, answer: Answer, took_s: float
) -> str:
    """An answer as the service gives it over HTTP. `took_s` is what the query's encoding and the
    search took.
    """
    about = {
        "collection": collection.name,
        "fingerprint": collection.fingerprint,
        "route": f"{query.modality}-{target}",
        "space": "+".join(query.spaces),
        "took_ms": round(took_s * 1000, 3),
    }
    return json.dumps(about | asdict(answer) | {"warnings": list(query.warnings)}, indent=1)


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
