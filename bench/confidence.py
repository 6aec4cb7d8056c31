"""What a confidence is worth on real recordings: for queries that are in none of them, and for
those whose first hit is right or wrong.

    python -m bench.confidence --data real

`bench/real.py` says how the data folder is made. Queries are those of `plain_queries.json` and
`real_queries.json` in `tests/data`, over its collection `video`, with target `any`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from export.bundle import ANY
from export.encoder import OnnxEncoder
from index.calibration import GOOD
from index.collection import Collection
from index.library import Collections
from index.query_bank import ensure_query_bank
from index.search import Options, TargetQuery, search

FILES = ("plain_queries.json", "real_queries.json")
LEVELS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, GOOD)


@dataclass
class Asked:
    """Confidences of first hits: of what is in no recording, and of right and wrong ones."""

    absent: list[float] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    wrong: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=Path("bundles/default"))
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    encoder = OnnxEncoder.open(args.bundle)
    collections = Collections(args.data, encoder.manifest.fingerprint, encoder.manifest.dims)
    try:
        collection = collections.get("video")
        ensure_query_bank(collection, encoder)
        by_file = [ask_file(encoder, collection, Path("tests/data") / name) for name in FILES]
    finally:
        collections.close()
    print("| first hits | queries |", " | ".join(f"{level:g} or more" for level in LEVELS), "|")
    print("|---" * (2 + len(LEVELS)) + "|")
    for name, asked in zip(FILES, by_file, strict=True):
        show(f"{name}, right", asked.right)
        show(f"{name}, wrong", asked.wrong)
        show(f"{name}, in no recording", asked.absent)
    show("in no recording, all", [value for asked in by_file for value in asked.absent])


def ask_file(encoder: OnnxEncoder, collection: Collection, path: Path) -> Asked:
    file = json.loads(path.read_text("utf-8"))
    asked = Asked()
    for query in file["absent"]:
        asked.absent.append(ask(encoder, collection, query)[1])
    for one in file["queries"]:
        first, confidence = ask(encoder, collection, one["query"])
        kind = asked.right if first in one["right"] else asked.wrong
        kind.append(confidence)
    return asked


def ask(encoder: OnnxEncoder, collection: Collection, text: str) -> tuple[str, float]:
    """The id of the first hit, and its confidence."""
    (route,) = encoder.manifest.routes(["text"], ANY)
    source = route.encodings["text"]
    vectors = encoder.embed(source, encoder.tokens([text], source))
    query = TargetQuery.along(route, source, vectors)
    (hit,) = search(collection, [query], Options(1)).hits
    assert hit.confidence is not None
    return hit.id, hit.confidence


def show(name: str, confidences: list[float]) -> None:
    """Print a line of the table: how many first hits reach each level."""
    reached = [int((np.array(confidences) >= level).sum()) for level in LEVELS]
    print(f"| {name} | {len(confidences)} | {' | '.join(map(str, reached))} |", flush=True)


if __name__ == "__main__":
    main()
