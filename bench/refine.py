"""What refining a search is worth on real recordings, beside the plain search.

    python -m bench.refine order --data real ../shared/data/real

`bench/real.py` says how the data folder is made. The last argument is the folder of the manifests.

order      100 pairs of recordings; a film of each order, made of their stored windows one after
           another; each query asks for one order, of a gallery of these two. With --files, ten
           pairs more are joined as real files by ffmpeg, and built.
feedback   a query for each label of three recordings or more; its five best items are marked right
           or wrong by their labels; mAP@10 over the others, before and after.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import av
import numpy as np

from export.bundle import ANY, AUDIO
from export.encoder import OnnxEncoder
from index.__main__ import main as build
from index.collection import Collection
from index.library import Collections
from index.records.database import NewItem
from index.search import Feedback, Mark, Options, TargetQuery, search
from index.vectors.base import Vectors

from .real import SETS, Set, embed_texts, media_of, read_words

PAIRS = 100
FILES = 10
MARKS = 5
LEAST_OF_LABEL = 3
TEN = 10


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=sorted(MEASURES))
    parser.add_argument("manifests", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/default"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", action="store_true", help="order: join real files, too")
    return parser


def main() -> None:
    args = arguments().parse_args()
    encoder = OnnxEncoder.open(args.bundle)
    manifest = encoder.manifest
    collections = Collections(args.data, manifest.fingerprint, manifest.dims)
    try:
        MEASURES[args.what](encoder, collections, args)
    finally:
        collections.close()


# ---------------------------------------------------------------- order


def measure_order(encoder: OnnxEncoder, collections: Collections, args: argparse.Namespace) -> None:
    print("| words | target | right of 200 queries | chance |\n|---|---|---|---|")
    for one in SETS:
        words = read_words(args.manifests / one.manifest)
        vectors = embed_texts(encoder, list(words.values()))
        targets = (ANY, AUDIO) if one.collection == "sound" else (ANY, "video")
        for target in targets:
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place)
                box = Collection(
                    folder / "films", encoder.manifest.fingerprint, encoder.manifest.dims
                )
                right = compare_orders(encoder, collections, box, one, words, vectors, target, args)
                box.close()
            print(f"| {one.name} | `{target}` | {right:.3f} | 0.500 |", flush=True)
    if args.files:
        right, count = join_files(encoder, args)
        print(f"\n{FILES} pairs joined as files, sentences, `any`: {right} of {count} right")


def draw_pairs(words: dict[str, str], count: int, seed: int) -> list[tuple[str, str]]:
    """Pairs of ids whose words differ, by chance."""
    random = np.random.default_rng(seed)
    ids = sorted(words)
    pairs: list[tuple[str, str]] = []
    while len(pairs) < count:
        a, b = (ids[n] for n in random.choice(len(ids), 2, replace=False))
        if words[a] != words[b]:
            pairs.append((a, b))
    return pairs


def join_windows(id: str, clips: list[NewItem]) -> NewItem:
    """A film of stored windows: each recording begins where the last window before it ends."""
    windows: list[tuple[float, float]] = []
    which: dict[str, list[int]] = {}
    rows: dict[str, list[Vectors]] = {}
    for clip in clips:
        start_s = windows[-1][1] if windows else 0.0
        for encoding, (at, vectors) in clip.vectors.items():
            which.setdefault(encoding, []).extend(len(windows) + n for n in at)
            rows.setdefault(encoding, []).append(vectors)
        windows += [(start_s + first, start_s + last) for first, last in clip.windows]
    return NewItem(
        id=id,
        kind="video",
        duration_s=windows[-1][1],
        windows=windows,
        vectors={encoding: (which[encoding], np.concatenate(rows[encoding])) for encoding in rows},
    )


def asks(encoder: OnnxEncoder, target: str, steps: list[Vectors]) -> list[TargetQuery]:
    """A query for one thing after another."""
    queries = []
    for route in encoder.manifest.routes(["text"], target):
        first, *others = [TargetQuery.along(route, "text", step[None]) for step in steps]
        queries.append(replace(first, following=tuple(others)))
    return queries


def compare_orders(
    encoder: OnnxEncoder,
    collections: Collections,
    box: Collection,
    one: Set,
    words: dict[str, str],
    vectors: dict[str, Vectors],
    target: str,
    args: argparse.Namespace,
) -> float:
    """The share of queries that find the film of their order first."""
    source = collections.get(one.collection)
    clips = {id: media_of(source, id) for id in words}
    usable = {
        id: words[id] for id, clip in clips.items() if target == ANY or target in clip.vectors
    }
    right = 0
    for n, (a, b) in enumerate(draw_pairs(usable, PAIRS, args.seed)):
        box.put(
            [
                replace(join_windows("ab", [clips[a], clips[b]]), metadata={"pair": n}),
                replace(join_windows("ba", [clips[b], clips[a]]), metadata={"pair": n}),
            ]
        )
        for id, order in (("ab", (a, b)), ("ba", (b, a))):
            steps = [vectors[words[clip]] for clip in order]
            answer = search(box, asks(encoder, target, steps), Options(exact=True))
            right += answer.hits[0].id == id
    return right / (2 * PAIRS)


def join_files(encoder: OnnxEncoder, args: argparse.Namespace) -> tuple[int, int]:
    """How many queries find the film of their order first, of how many: films that ffmpeg joined
    and `tercet build` read.
    """
    manifest = args.manifests / "video-sentences.jsonl"
    words = read_words(manifest)
    paths = read_paths(manifest)
    vectors = embed_texts(encoder, list(words.values()))
    with_sound = {id: text for id, text in words.items() if has_sound(paths[id])}
    right = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        pairs = draw_pairs(with_sound, FILES, args.seed + 1)
        for n, (a, b) in enumerate(pairs):
            (folder / f"{n}").mkdir()
            join(paths[a], paths[b], folder / f"{n}" / "ab.mp4")
            join(paths[b], paths[a], folder / f"{n}" / "ba.mp4")
            command = ["build", "--data", str(folder / "data"), "--collection", f"pair-{n}"]
            with redirect_stdout(sys.stderr):
                build([*command, "--bundle", str(args.bundle), str(folder / f"{n}")])
        built = Collections(folder / "data", encoder.manifest.fingerprint, encoder.manifest.dims)
        for n, (a, b) in enumerate(pairs):
            for id, order in (("ab.mp4", (a, b)), ("ba.mp4", (b, a))):
                steps = [vectors[words[clip]] for clip in order]
                answer = search(built.get(f"pair-{n}"), asks(encoder, ANY, steps), Options())
                right += bool(answer.hits) and answer.hits[0].id.endswith(id)
        built.close()
    return right, 2 * FILES


def read_paths(manifest: Path) -> dict[str, Path]:
    """By id, where a manifest's recordings lie."""
    rows = map(json.loads, manifest.read_text("utf-8").splitlines())
    return {row["id"]: manifest.parent / row["path"] for row in rows}


def has_sound(path: Path) -> bool:
    with av.open(str(path)) as container:
        return bool(container.streams.audio)


def join(first: Path, second: Path, out: Path) -> None:
    """One video after another, in one size."""
    size = "scale=320:240,setsar=1,fps=25"
    graph = (
        f"[0:v]{size}[v0];[1:v]{size}[v1];[0:a]aresample=44100[a0];[1:a]aresample=44100[a1];"
        "[v0][a0][v1][a1]concat=n=2:v=1:a=1[v][a]"
    )
    inputs = ["-i", str(first), "-i", str(second), "-filter_complex", graph]
    command = ["ffmpeg", "-loglevel", "error", *inputs, "-map", "[v]", "-map", "[a]", str(out)]
    subprocess.run(command, check=True)


# ---------------------------------------------------------------- feedback


def measure_feedback(
    encoder: OnnxEncoder, collections: Collections, args: argparse.Namespace
) -> None:
    print("| recordings | target | labels | mAP@10 before | after |\n|---|---|---|---|---|")
    for one in SETS:
        if not one.name.endswith("labels"):
            continue
        words = read_words(args.manifests / one.manifest)
        vectors = embed_texts(encoder, list(words.values()))
        box = collections.get(one.collection)
        for target in (ANY, AUDIO if one.collection == "sound" else "video"):
            pairs = [
                mark_five(encoder, box, words, label, vectors[label], target)
                for label in sorted(set(words.values()))
            ]
            told = [pair for pair in pairs if pair is not None]
            before, after = np.mean(told, axis=0)
            print(
                f"| {one.name} | `{target}` | {len(told)} | {before:.3f} | {after:.3f} |",
                flush=True,
            )


def mark_five(
    encoder: OnnxEncoder,
    box: Collection,
    words: dict[str, str],
    label: str,
    vector: Vectors,
    target: str,
) -> tuple[float, float] | None:
    """Average precision at 10 of a label's recordings before and after five marks, those marked
    left out; None where too few are left.
    """
    right = {id for id, own in words.items() if own == label}
    queries = [
        TargetQuery.along(route, "text", vector[None])
        for route in encoder.manifest.routes(["text"], target)
    ]
    everything = Options(top_k=1000, exact=True)
    plain = search(box, queries, everything).hits
    marked = plain[:MARKS]
    marks = [Mark(hit.id, hit.start_s) for hit in marked]
    feedback = Feedback(
        right=tuple(mark for mark in marks if mark.id in right),
        wrong=tuple(mark for mark in marks if mark.id not in right),
    )
    left = right - {mark.id for mark in marks}
    if len(right) < LEAST_OF_LABEL or not left:
        return None
    moved = search(box, queries, replace(everything, feedback=feedback)).hits
    known = {mark.id for mark in marks}
    before, after = (
        average_precision([hit.id for hit in hits if hit.id not in known], left)
        for hits in (plain, moved)
    )
    return before, after


def average_precision(found: list[str], right: set[str]) -> float:
    """At ten.

    >>> average_precision(["a", "b", "c"], {"a", "c"})
    0.8333333333333333
    """
    places = [place for place, id in enumerate(found[:TEN], 1) if id in right]
    shares = [n / place for n, place in enumerate(places, 1)]
    return sum(shares) / min(len(right), TEN)


MEASURES: dict[str, Callable[[OnnxEncoder, Collections, argparse.Namespace], None]] = {
    "feedback": measure_feedback,
    "order": measure_order,
}

if __name__ == "__main__":
    main()
