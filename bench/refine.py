"""What refining a search is worth on real recordings, beside the plain search.

    python -m bench.refine order --data real ../shared/data/real

`bench/real.py` says how the data folder is made. The last argument is the folder of the manifests.

order      100 pairs of recordings; a film of each order, made of their stored windows one after
           another; each query asks for one order, of a gallery of these two. With --files, ten
           pairs more are joined as real files by ffmpeg, and built.
feedback   a query for each topic of three recordings or more; its five best items are marked right
           or wrong; mAP@10 over the others, before and after. A topic is a label, or a name that
           the table tests/data/tag_names.json expects of several labels. "Labels apart" leaves out
           items of which the table expects a name that it expects of the label. Items without a
           label are left out, too. "Some right" counts the topics of which one of the five is
           right. The last column bounds what marks can give: each right item is searched for with
           all other right ones marked.
both       films of two recordings, three for each recording; 100 queries ask for both things, in
           one vector or each by itself.
rerank     each order of `rerank` beside that by score: the share of texts whose recording is found.
agreement  each recording beside its pictures with another's sound.
learning   the same marks are kept and learned from, one topic at a time; mAP@10 of that topic over
           the others, and of other topics, before and after. Topics that share items are one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np

from export.bundle import ANY, AUDIO, VIDEO
from export.encoder import OnnxEncoder
from index.__main__ import main as build
from index.agreement import list_agreement
from index.collection import Collection
from index.learning import NotLearned, average_precision, check_worth, fit, make_lessons, measure
from index.library import Collections
from index.records.item import NewItem
from index.records.marks import MarkedQuery, NewMark
from index.search import Feedback, Mark, Options, TargetQuery, search
from index.search.rerank import RERANKERS
from index.vectors.base import Vectors

from .real import SETS, Set, embed_texts, media_of, read_words

PAIRS = 100
FILES = 10
FILMS = 3  # of two recordings each, for each recording
MARKS = 5
LEAST_OF_LABEL = 3
TEN = 10
TABLE = Path("tests/data/tag_names.json")


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


@dataclass(frozen=True)
class Topic:
    """What a simulated user looks for: words, and the items that are right. Of items in
    `ambiguous`, nobody can tell.
    """

    words: str
    right: frozenset[str]
    ambiguous: frozenset[str] = frozenset()


def label_topics(one: Set, manifests: Path) -> list[Topic]:
    """A topic for each label of three recordings or more. Recordings without a label are ambiguous:
    nobody has said what they lack.
    """
    labels = read_labels(one, manifests)
    unlabelled = frozenset(id for id, label in labels.items() if label is None)
    found = []
    for label in sorted({label for label in labels.values() if label is not None}):
        right = frozenset(id for id, own in labels.items() if own == label)
        found.append(Topic(label, right, unlabelled))
    return [topic for topic in found if len(topic.right) >= LEAST_OF_LABEL]


def apart_topics(one: Set, manifests: Path) -> list[Topic]:
    """The same, where recordings of another label are ambiguous, too, if the table expects a name
    of both: "dog bark" is not wrong for "dog barking", nor "speech" for "male speech".
    """
    labels = read_labels(one, manifests)
    tables = [read_table(modality) for modality in (VIDEO, AUDIO)]

    def names(label: str | None) -> set[str]:
        return {name for table in tables for name in table.get(label, {}).get("expected", ())}

    topics = []
    for topic in label_topics(one, manifests):
        own = names(topic.words)
        alike = {id for id, label in labels.items() if own & names(label)} - topic.right
        topics.append(replace(topic, ambiguous=topic.ambiguous | alike))
    return topics


def name_topics(one: Set, manifests: Path) -> list[Topic]:
    """A topic for each name that the table of labels expects of three recordings or more; those of
    other labels are wrong, and those without a label in it are ambiguous.
    """
    labels = read_labels(one, manifests)
    table = read_table(AUDIO if one.collection == "sound" else VIDEO)
    names = sorted({name for entry in table.values() for name in entry["expected"]})
    topics = []
    for name in names:
        right, ambiguous = set(), set()
        for id, label in labels.items():
            entry = table.get(label)
            if entry is None or name in entry.get("also", ()):
                ambiguous.add(id)
            elif name in entry["expected"]:
                right.add(id)
        if len(right) >= LEAST_OF_LABEL:
            topics.append(Topic(name, frozenset(right), frozenset(ambiguous)))
    return topics


def read_labels(one: Set, manifests: Path) -> dict[str, str | None]:
    """The label of each recording by its id, if it has one."""
    rows = map(json.loads, (manifests / one.manifest).read_text("utf-8").splitlines())
    return {row["id"]: row.get("group") for row in rows}


def read_table(modality: str) -> dict[str | None, dict[str, list[str]]]:
    """What is expected of recordings of each label, in names of the vocabulary."""
    table: dict[str | None, dict[str, list[str]]] = json.loads(TABLE.read_text("utf-8"))[modality]
    return table


TOPICS = {"labels": label_topics, "labels apart": apart_topics, "names": name_topics}


def measure_feedback(
    encoder: OnnxEncoder, collections: Collections, args: argparse.Namespace
) -> None:
    print(
        "| recordings | topics | target | count | some right | mAP@10 before | after |"
        " all others marked |\n|---|---|---|---|---|---|---|---|"
    )
    totals: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in TOPICS}
    for one, kind, target in feedback_cases():
        box = collections.get(one.collection)
        found, some = [], 0
        for topic in TOPICS[kind](one, args.manifests):
            queries = ask_words(encoder, topic.words, target)
            marks = mark_five(box, queries, topic)
            if marks is not None:
                pair = compare(box, queries, topic, marks, replace(WHOLE, feedback=marks))
                found.append((*pair, bound(box, queries, topic, marks)))
                some += bool(marks.right)
        totals[kind] += found
        cells = f"{one.collection} | {kind} | `{target}` | {len(found)} | {some}"
        print(f"| {cells} | {mean_cells(found)} |", flush=True)
    for kind, found in totals.items():
        print(f"| all | {kind} | all | {len(found)} | | {mean_cells(found)} |")


def mean_cells(figures: list[tuple[float, float, float]]) -> str:
    """The means of columns as cells of a table."""
    return " | ".join(f"{mean:.3f}" for mean in np.mean(figures, axis=0))


def bound(box: Collection, queries: list[TargetQuery], topic: Topic, marks: Feedback) -> float:
    """The mean average precision at 10 of each right item that has no mark, when all other right
    ones are marked, beside the wrong ones of `marks`.
    """
    left = topic.right - {mark.id for mark in marks.right}
    wrong = {mark.id for mark in marks.wrong}
    found = []
    for id in sorted(left):
        others = topic.right - {id}
        told = replace(marks, right=tuple(Mark(other) for other in sorted(others)))
        hits = search(box, queries, replace(WHOLE, feedback=told)).hits
        known = others | wrong | topic.ambiguous
        found.append(average_precision([hit.id for hit in hits if hit.id not in known], {id}))
    return float(np.mean(found))


def measure_learning(
    encoder: OnnxEncoder, collections: Collections, args: argparse.Namespace
) -> None:
    """Works on a copy of the data folder's collections."""
    print(
        "| recordings | topics | target | count | mAP@10 before | after | other topics before |"
        " after | accepted | before | after | undone exactly |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    manifest = encoder.manifest
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(args.data / "collections", Path(place) / "collections")
        copies = Collections(Path(place), manifest.fingerprint, manifest.dims)
        for one, kind, target in feedback_cases():
            box = copies.get(one.collection)
            topics = TOPICS[kind](one, args.manifests)
            found = [learn_topic(encoder, box, topic, topics, target) for topic in topics]
            print(f"| {one.collection} | {kind} | `{target}` | {summarise(found)} |", flush=True)
        copies.close()


@dataclass(frozen=True)
class Learned:
    """Of one topic: mAP@10 before and after, that of the other topics before and after, whether
    `tercet learn` would have served it, and whether all was as before when it was undone.
    """

    own: tuple[float, float]
    others: tuple[float, float]
    accepted: bool
    undone: bool


def summarise(found: list[Learned | None]) -> str:
    told = [one for one in found if one is not None]
    accepted = [one.own for one in told if one.accepted]
    served = np.mean(accepted, axis=0) if accepted else [np.nan, np.nan]
    figures = [*np.mean([one.own for one in told], axis=0)]
    figures += [*np.mean([one.others for one in told], axis=0)]
    cells = [str(len(told)), *(f"{figure:.3f}" for figure in figures)]
    cells += [str(len(accepted)), *(f"{figure:.3f}" for figure in served)]
    return " | ".join([*cells, "yes" if all(one.undone for one in told) else "no"])


def learn_topic(
    encoder: OnnxEncoder, box: Collection, topic: Topic, topics: list[Topic], target: str
) -> Learned | None:
    """Keep five marks, learn from them, and undo it; None where too few items are left."""
    queries = ask_words(encoder, topic.words, target)
    feedback = mark_five(box, queries, topic)
    if feedback is None:
        return None
    asked = MarkedQuery(target, topic.words)
    marks = [
        NewMark(query=asked, item=mark.id, right=right, start_s=mark.start_s)
        for right, some in ((True, feedback.right), (False, feedback.wrong))
        for mark in some
    ]
    numbers = box.add_marks(marks)
    others = [other for other in topics if not other.right & (topic.right | topic.ambiguous)]
    before = [precision(box, encoder, other, target) for other in others]
    hits = search(box, queries, WHOLE).hits
    with box.hold_for_reading() as records:
        lessons = make_lessons(records, encoder, records.marks.all())
    measured = measure(lessons)
    box.adapters.add(fit(lessons), created=0.0, marks=len(marks), queries=1, measured=measured)
    own = compare(box, queries, topic, feedback, WHOLE)
    after = [precision(box, encoder, other, target) for other in others]
    box.adapters.undo()
    undone = search(box, queries, WHOLE).hits == hits
    for number in numbers:
        box.delete_mark(number)
    try:
        check_worth(measured)
        accepted = True
    except NotLearned:
        accepted = False
    return Learned(own, (float(np.mean(before)), float(np.mean(after))), accepted, undone)


WHOLE = Options(top_k=1000, exact=True)
PLAIN = replace(WHOLE, learned=False)


def feedback_cases() -> Iterator[tuple[Set, str, str]]:
    for one in SETS:
        if one.name.endswith("labels"):
            for kind in TOPICS:
                for target in (ANY, AUDIO if one.collection == "sound" else VIDEO):
                    yield one, kind, target


def ask_words(encoder: OnnxEncoder, words: str, target: str) -> list[TargetQuery]:
    vector = embed_texts(encoder, [words])[words]
    routes = encoder.manifest.routes(["text"], target)
    return [TargetQuery.along(route, "text", vector[None]) for route in routes]


def mark_five(box: Collection, queries: list[TargetQuery], topic: Topic) -> Feedback | None:
    """Marks on the five best items, by whether they are right; None where no right one is left."""
    hits = [hit for hit in search(box, queries, PLAIN).hits if hit.id not in topic.ambiguous]
    marks = [Mark(hit.id, hit.start_s) for hit in hits[:MARKS]]
    if not topic.right - {mark.id for mark in marks}:
        return None
    return Feedback(
        right=tuple(mark for mark in marks if mark.id in topic.right),
        wrong=tuple(mark for mark in marks if mark.id not in topic.right),
    )


def compare(
    box: Collection, queries: list[TargetQuery], topic: Topic, marks: Feedback, options: Options
) -> tuple[float, float]:
    """Average precision at 10 of a topic before and after, the marked items left out of both."""
    known = {mark.id for mark in (*marks.right, *marks.wrong)} | topic.ambiguous
    left = set(topic.right) - known
    precisions = []
    for way in (PLAIN, options):
        hits = search(box, queries, way).hits
        precisions.append(average_precision([hit.id for hit in hits if hit.id not in known], left))
    return precisions[0], precisions[1]


def precision(box: Collection, encoder: OnnxEncoder, topic: Topic, target: str) -> float:
    """A topic's average precision at 10."""
    hits = search(box, ask_words(encoder, topic.words, target), WHOLE).hits
    ids = [hit.id for hit in hits if hit.id not in topic.ambiguous]
    return average_precision(ids, set(topic.right))


# ---------------------------------------------------------------- both


def measure_both(encoder: OnnxEncoder, collections: Collections, args: argparse.Namespace) -> None:
    print("| words | target | films | R@1, `moment` | R@1, `item` |\n|---|---|---|---|---|")
    for one in SETS:
        words = read_words(args.manifests / one.manifest)
        vectors = embed_texts(encoder, list(words.values()))
        source = collections.get(one.collection)
        for target in (ANY, AUDIO if one.collection == "sound" else VIDEO):
            clips = {id: media_of(source, id) for id in words}
            usable = {id: words[id] for id in words if target == ANY or target in clips[id].vectors}
            pairs = draw_pairs(usable, FILMS * len(usable), args.seed)
            with tempfile.TemporaryDirectory() as place:
                manifest = encoder.manifest
                box = Collection(Path(place) / "box", manifest.fingerprint, manifest.dims)
                for n, (a, b) in enumerate(pairs):
                    box.put([join_windows(str(n), [clips[a], clips[b]])])
                shares = [
                    find_both(encoder, box, pairs, words, vectors, target, aggregate)
                    for aggregate in ("moment", "item")
                ]
                box.close()
            print(
                f"| {one.name} | `{target}` | {len(pairs)} | {shares[0]:.3f} | {shares[1]:.3f} |",
                flush=True,
            )


def find_both(
    encoder: OnnxEncoder,
    box: Collection,
    pairs: list[tuple[str, str]],
    words: dict[str, str],
    vectors: dict[str, Vectors],
    target: str,
    aggregate: str,
) -> float:
    """How often the film of two recordings, or another of their words, is first for both texts."""
    said = [{words[a], words[b]} for a, b in pairs]
    right = 0
    for a, b in pairs[:PAIRS]:
        parts = np.stack([vectors[words[a]], vectors[words[b]]])
        queries = [
            TargetQuery.along(route, "text", parts, (1.0, 1.0))
            for route in encoder.manifest.routes(["text"], target)
        ]
        hits = search(box, queries, Options(top_k=1, aggregate=aggregate)).hits
        right += said[int(hits[0].id)] == {words[a], words[b]}
    return right / len(pairs[:PAIRS])


# ---------------------------------------------------------------- rerank


def measure_rerank(
    encoder: OnnxEncoder, collections: Collections, args: argparse.Namespace
) -> None:
    print("| words | target | order | R@1 | R@5 | R@10 |\n|---|---|---|---|---|---|")
    for one in SETS:
        words = read_words(args.manifests / one.manifest)
        vectors = embed_texts(encoder, list(words.values()))
        box = collections.get(one.collection)
        for target in (ANY, AUDIO if one.collection == "sound" else VIDEO):
            for rerank in (None, *RERANKERS):
                options = Options(top_k=TEN, rerank=rerank)
                shares = recall(encoder, box, words, vectors, target, options)
                cells = " | ".join(f"{share:.3f}" for share in shares)
                print(f"| {one.name} | `{target}` | {rerank or 'by score'} | {cells} |", flush=True)


def recall(
    encoder: OnnxEncoder,
    box: Collection,
    words: dict[str, str],
    vectors: dict[str, Vectors],
    target: str,
    options: Options,
) -> list[float]:
    """R@1, R@5 and R@10 of texts: whether a recording with that text is found."""
    ranks = []
    for text, vector in vectors.items():
        routes = encoder.manifest.routes(["text"], target)
        queries = [TargetQuery.along(route, "text", vector[None]) for route in routes]
        hits = search(box, queries, options).hits
        right = [place for place, hit in enumerate(hits, 1) if words.get(hit.id) == text]
        ranks.append(min(right, default=TEN + 1))
    return [float(np.mean(np.array(ranks) <= most)) for most in (1, 5, TEN)]


# ---------------------------------------------------------------- agreement


def measure_agreement(
    encoder: OnnxEncoder, collections: Collections, args: argparse.Namespace
) -> None:
    """Own sound beside that of another recording, in a collection of both."""
    print("| recordings | items | median agreement, own sound | another's | own above another's |")
    print("|---|---|---|---|---|")
    for name in ("video", "sound"):
        source = collections.get(name)
        clips = [media_of(source, id) for id in sorted(source.ids())]
        clips = [clip for clip in clips if {"video", "audio"} <= clip.vectors.keys()]
        order = np.random.default_rng(args.seed).permutation(len(clips))
        with tempfile.TemporaryDirectory() as place:
            manifest = encoder.manifest
            box = Collection(Path(place) / "box", manifest.fingerprint, manifest.dims)
            for n, next_one in zip(order, np.roll(order, 1), strict=True):
                own = replace(clips[n], id=f"own/{clips[n].id}")
                box.put([own, exchange(clips[n], clips[next_one])])
            rows = list_agreement(box, encoder.manifest, lowest=False, limit=10_000).items
            box.close()
        same = np.array([row.agreement for row in rows if row.id.startswith("own/")])
        others = np.array([row.agreement for row in rows if row.id.startswith("other/")])
        above = float((same[:, None] > others[None]).mean())
        print(
            f"| {name} | {len(same)} | {np.median(same):.3f} | {np.median(others):.3f} |"
            f" {above:.3f} |"
        )


def exchange(clip: NewItem, other: NewItem) -> NewItem:
    """A recording's pictures with the sound of another, as far as both go."""
    which, rows = other.vectors["audio"]
    fitting = [n for n, window in enumerate(which) if window < len(clip.windows)]
    audio = ([which[n] for n in fitting], rows[fitting])
    vectors = {"video": clip.vectors["video"], "audio": audio}
    return replace(clip, id=f"other/{clip.id}", vectors=vectors)


MEASURES: dict[str, Callable[[OnnxEncoder, Collections, argparse.Namespace], None]] = {
    "agreement": measure_agreement,
    "both": measure_both,
    "feedback": measure_feedback,
    "learning": measure_learning,
    "order": measure_order,
    "rerank": measure_rerank,
}

if __name__ == "__main__":
    main()
