"""How right the tags of labelled clips are, and how long a vocabulary takes.

    python -m bench.tags --data FOLDER --table tests/data/tag_names.json \\
        --video video=.../video-labels.jsonl --audio sound=.../sound-labels.jsonl
    python -m bench.tags --windows 100000

`--video` and `--audio` name a collection of the data folder and the manifest that it was built
from, whose rows have a label as `group`. The table has for each label the names of the default
vocabulary that its clips should have (`expected`), and those that may be true of them, too
(`also`), which count neither way. Only names of the table and clips with such a label count.
`--windows` times a vocabulary of 1,000 names over so many random vectors instead.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from export.encoder import OnnxEncoder
from index.collection import Collection
from index.library import Collections
from index.records.item import NewItem
from index.tagging import tag_items
from index.vocabulary import Vocabulary, apply_vocabulary, default_vocabulary, ensure_vocabulary

from .search import made

NAMES = 1000
PER_ITEM = 100  # windows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=Path("bundles/default"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--table", type=Path, default=Path("tests/data/tag_names.json"))
    parser.add_argument("--video", help="COLLECTION=MANIFEST")
    parser.add_argument("--audio", help="COLLECTION=MANIFEST")
    parser.add_argument("--all", action="store_true", help="list what is wrong and what is missing")
    parser.add_argument("--windows", type=int, default=0)
    args = parser.parse_args()
    encoder = OnnxEncoder.open(args.bundle)
    if args.windows:
        measure_time(encoder, args.windows)
        return
    table = json.loads(args.table.read_text(encoding="utf-8"))
    collections = Collections(args.data, encoder.manifest.fingerprint, encoder.manifest.dims)
    try:
        print("| modality | clips | names | tags | precision | recall |\n|---|---|---|---|---|---|")
        for modality in ("video", "audio"):
            if given := getattr(args, modality):
                name, _, manifest = given.partition("=")
                collection = collections.get(name)
                ensure_vocabulary(collection, encoder)
                labels = read_labels(Path(manifest))
                measure(collection, modality, labels, table[modality], args.all)
    finally:
        collections.close()


def read_labels(manifest: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    return {row["id"]: row["group"] for row in rows if row.get("group")}


def measure(
    collection: Collection,
    modality: str,
    labels: dict[str, str],
    table: dict[str, dict[str, list[str]]],
    every: bool,
) -> None:
    names = {name for entry in table.values() for kind in entry.values() for name in kind}
    right = given = wanted = clips = 0
    for id, label in labels.items():
        if label not in table or collection.find(id) is None:
            continue
        clips += 1
        found = {tag for tag in find_tags(collection, id, modality) if tag in names}
        expected = set(table[label]["expected"])
        found -= set(table[label]["also"])
        right += len(found & expected)
        given += len(found)
        wanted += len(expected)
        if every and found != expected:
            print(f"{label}: wrong {sorted(found - expected)}, missing {sorted(expected - found)}")
    print(
        f"| {modality} | {clips} | {len(names)} | {given} | {right / max(given, 1):.2f} |"
        f" {right / max(wanted, 1):.2f} |",
        flush=True,
    )


def find_tags(collection: Collection, id: str, modality: str) -> set[str]:
    with collection.hold_for_reading() as records:
        ((_, tags),) = tag_items(records, [records.number(id)]).items()
    return {tag.name for tag in tags if tag.modality == modality}


def measure_time(encoder: OnnxEncoder, windows: int) -> None:
    names = default_vocabulary().names["video"][:NAMES]
    dims = encoder.manifest.dims
    vectors = made(windows, dims["video"], 2)
    with tempfile.TemporaryDirectory() as place:
        box = Collection(Path(place) / "box", encoder.manifest.fingerprint, dims)
        for first in range(0, windows, PER_ITEM):
            box.put([make_item(str(first), vectors[first : first + PER_ITEM])])
        began, processor = time.perf_counter(), time.process_time()
        apply_vocabulary(box, encoder, Vocabulary({"video": names, "audio": ()}, "own"))
        took_s, of_processor_s = time.perf_counter() - began, time.process_time() - processor
        print(
            f"{len(names)} names over {windows} windows: {took_s:.1f} s,"
            f" {of_processor_s:.1f} s of a processor"
        )
        box.close()


def make_item(id: str, vectors: np.ndarray[Any, Any]) -> NewItem:
    stretches = [(5.0 * n, 5.0 * n + 5.0) for n in range(len(vectors))]
    return NewItem(
        id=id,
        kind="video",
        duration_s=5.0 * len(vectors),
        windows=stretches,
        vectors={"video": (list(range(len(vectors))), vectors)},
    )


if __name__ == "__main__":
    main()
