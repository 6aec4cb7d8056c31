"""What a search costs: a collection against FAISS called directly and other stores, with filters
and at several sizes.

    python -m bench.search [--counts 20000 100000 1000000] [--dim 256] [--captions FOLDER] [--graph]
    [--others] [--processor] [--keep FOLDER]

Vectors are 2,000 directions with noise, in 20 topics of a hundred directions each. With
`--captions` they are the captions of a folder of CSV files, encoded by `bundles/default`, in 20
topics by k-means. Each item has one window. Ours is `search`: calibrated, grouped into items, with
metadata. A bank of 64 other queries tunes its index. FAISS is asked for ten, too, with the same
index and parameters, on one thread. "Our index" finds vectors without their items. Recall is
against an exact search.

Filters keep random shares, other topics than the query's, or all but its topic. At the end a topic
is removed, and queries of that topic are asked. The first search with a filter is timed apart,
because later ones use its cached result. `--graph` puts FAISS's HNSW with the same selectors beside
ours, `--others` LanceDB, qdrant-edge-py and Milvus Lite with the same filters, where they are
installed. With `--keep` our collection is kept and used again.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import psutil
from numpy.typing import NDArray

from export.encoder import OnnxEncoder
from index.collection import Collection
from index.columns import Ids
from index.records.item import NewItem
from index.search import Options, TargetQuery, search
from index.vectors.base import Vectors, bitmap_selector
from index.vectors.faiss_index import FaissIndex

from .others import Answer, Store, others

ASKED, TEN, CHUNK, TOPICS = 200, 10, 1000, 20
ASKED_OTHERS = 20  # Milvus Lite takes half a second each, and more
Clock = Callable[[], float]  # seconds


@dataclass(frozen=True)
class Narrowed:
    """A filter for queries of a topic: the topics it leaves, None for all, and below which rank,
    drawn by chance.
    """

    name: str
    topics: Callable[[int], list[int] | None]
    share: float = 1.0

    def filter(self, topic: int) -> dict[str, Any]:
        allowed = self.topics(topic)
        below = {"rank": {"$lt": self.share}} if self.share < 1 else {}
        return below | ({"topic": {"$in": allowed}} if allowed is not None else {})

    def leaves(self, topic: int, topics: Ids, rank: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of items with these topics and ranks [n]."""
        allowed = self.topics(topic)
        found: NDArray[np.bool_] = rank < self.share
        return found if allowed is None else found & np.isin(topics, allowed)


def by_chance(share: float) -> Narrowed:
    return Narrowed(f"random {100 * share:g} %", lambda _: None, share)


def others_of(topic: int, count: int) -> list[int]:
    return [(topic + 1 + n) % TOPICS for n in range(count)]


def other_topics(count: int, share: float = 1.0) -> Narrowed:
    return Narrowed(
        f"{100 * share * count / TOPICS:g} %, other topics",
        lambda topic: others_of(topic, count),
        share,
    )


FILTERS = [
    *(by_chance(share) for share in (0.01, 0.1, 0.5, 0.9)),
    other_topics(1, 0.2),
    other_topics(2),
    other_topics(10),
    Narrowed(
        f"{100 - 100 / TOPICS:g} %, all but its topic", lambda topic: others_of(topic, TOPICS - 1)
    ),
]


def labelled(count: int, dim: int, seed: int) -> tuple[Vectors, Ids]:
    """Unit vectors [count, dim] and their topics [count]."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(2000, dim)).astype(np.float32)
    of = random.integers(0, len(centres), count)
    x = centres[of] + random.normal(size=(count, dim)).astype(np.float32)
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32), of % TOPICS


def made(count: int, dim: int, seed: int) -> Vectors:
    return labelled(count, dim, seed)[0]


def captions(folder: Path, kept: Path) -> tuple[Vectors, Ids]:
    """The captions of CSV files as unit vectors [n, dim], each once, and their topics; kept in a
    file.
    """
    if not kept.exists():
        texts = dict.fromkeys(
            value
            for file in sorted(folder.glob("*.csv"))
            for row in csv.DictReader(file.open(encoding="utf-8"))
            for key, value in row.items()
            if key and key.startswith("caption") and value
        )
        encoder = OnnxEncoder.open(Path("bundles/default"))
        every = list(texts)
        parts = [
            encoder.embed("text", encoder.tokens(every[n : n + 64], "text"))
            for n in range(0, len(every), 64)
        ]
        np.save(
            kept, np.random.default_rng(0).permutation(np.concatenate(parts)).astype(np.float32)
        )
    x = np.asarray(np.load(kept), np.float32)
    means = faiss.Kmeans(x.shape[1], TOPICS, niter=10, seed=1, spherical=True)
    means.train(x)
    return x, np.asarray(means.index.search(x, 1)[1][:, 0], np.int64)


def ranks(count: int) -> NDArray[np.float64]:
    """A number in [0, 1) for each of so many items, by chance, each once."""
    return np.random.default_rng(1).permutation(count) / count


def make_item(number: int, vector: Vectors, rank: float, topic: int) -> NewItem:
    """An item of one window with a vector [dim]."""
    return NewItem(
        id=str(number),
        kind="video",
        duration_s=5.0,
        windows=[(0.0, 5.0)],
        vectors={"video": ([0], vector[None])},
        metadata={"rank": rank, "topic": topic},
    )


def filled(folder: Path, x: Vectors, topics: Ids, bank: Vectors) -> tuple[Collection, float]:
    """A collection of the vectors with its index made, and the seconds that writing took; 0 where
    it was there.
    """
    box, began = (
        Collection(folder, "bench", {"video": x.shape[1], "text": x.shape[1]}),
        time.perf_counter(),
    )
    rank = ranks(len(x))
    there = box.counts().items == len(x)
    for at in range(0, 0 if there else len(x), CHUNK):
        box.put(
            [
                make_item(n, x[n], float(rank[n]), int(topics[n]))
                for n in range(at, min(at + CHUNK, len(x)))
            ]
        )
    wrote = 0.0 if there else time.perf_counter() - began
    if not box.has_bank("text"):
        box.set_bank("text", bank, ["video"])
    while box.busy:
        time.sleep(0.2)
    return box, wrote


def opening(folder: Path, dim: int) -> float:
    """Seconds until a collection can be asked."""
    began = time.perf_counter()
    box = Collection(folder, "bench", {"video": dim, "text": dim})
    took = time.perf_counter() - began
    box.close()
    return took


def measured(
    answer: Answer,
    queries: Vectors,
    truth: list[set[int]],
    clock: Clock = time.perf_counter,
) -> tuple[float, float, float]:
    """p50 and p99 in milliseconds, and recall@10."""
    times, hits = [], 0
    for query, right in zip(queries, truth, strict=True):
        began = clock()
        found = answer(query)
        times.append(1000 * (clock() - began))
        hits += len(set(found) & right)
    return float(np.median(times)), float(np.percentile(times, 99)), hits / sum(map(len, truth))


def true_ten(x: Vectors, queries: Vectors, allowed: Ids) -> list[set[int]]:
    scores = x[allowed] @ queries.T
    best = (
        np.argpartition(-scores, min(TEN, len(allowed) - 1), axis=0)[:TEN]
        if len(allowed) > TEN
        else None
    )
    return [
        set((allowed if best is None else allowed[best[:, n]]).tolist())
        for n in range(len(queries))
    ]


def ours(box: Collection, filter: dict[str, Any] | None = None) -> Answer:
    options = Options(TEN, filter)
    return lambda q: [
        int(hit.id) for hit in search(box, [TargetQuery("video", q[None])], options).hits
    ]


def index_only(box: Collection) -> Answer:
    """Our index, without items and their metadata: what it finds are vectors' ids."""
    with box.hold_for_reading():
        index = box.index("video")

    return lambda q: [int(id) - 1 for id in index.search(q, TEN).ids.tolist()]


def direct(index: FaissIndex) -> Answer:
    """FAISS's own call, with the parameters that tuning found."""
    found = {name: int(value) for name, value in index.tuning.values.items()}
    params = faiss.SearchParameters()
    if index.kind in ("ivf", "small"):
        lists = faiss.SearchParametersIVF(nprobe=found.get("nprobe", 1))
        params = faiss.IndexRefineSearchParameters(
            k_factor=found["k_factor_rf"], base_index_params=lists
        )
    elif index.kind == "hnsw":
        params = faiss.SearchParametersHNSW(efSearch=found["efSearch"])
    return lambda q: index.faiss.search(q[None], TEN, params=params)[1][0].tolist()


def graph(x: Vectors) -> Callable[[Ids | None], Answer]:
    """FAISS's HNSW of all vectors, searched among those that a selector lets it find."""
    index = faiss.index_factory(x.shape[1], "HNSW32,Flat", faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 120
    index.add(x)

    def among(places: Ids | None) -> Answer:
        chosen = None if places is None else bitmap_selector(places, len(x))
        params = faiss.SearchParametersHNSW(efSearch=128, sel=chosen)
        return lambda q: index.search(q[None], TEN, params=params)[1][0].tolist()

    return among


def under_filters(
    box: Collection,
    x: Vectors,
    topics: Ids,
    asked: tuple[Vectors, Ids],
    among: Callable[[Ids | None], Answer] | None,
    beside: dict[str, Store],
    clock: Clock,
) -> list[tuple[str, tuple[float, float, float], str]]:
    """What each filter costs and finds, and what others do with it; queries are of four topics,
    asked in turn.
    """
    rank = ranks(len(x))
    chosen = np.flatnonzero(np.isin(asked[1], (0, 5, 10, 15)))
    queries, of = asked[0][chosen], asked[1][chosen].tolist()
    rows = []
    for narrowed in FILTERS:
        sides: dict[str, dict[int, Answer]] = {
            "ours": {},
            **({"HNSW": {}} if among else {}),
            **{n: {} for n in beside},
        }
        truth, first = {}, []
        for topic in sorted(set(of)):
            places = np.flatnonzero(narrowed.leaves(topic, topics, rank))
            sides["ours"][topic] = ours(box, narrowed.filter(topic))
            if among:
                sides["HNSW"][topic] = among(places)
            for name, store in beside.items():
                sides[name][topic] = store.among(narrowed.topics(topic), narrowed.share)
            mine = [n for n, t in enumerate(of) if t == topic]
            truth.update(zip(mine, true_ten(x, queries[mine], places), strict=True))
            began = time.perf_counter()
            sides["ours"][topic](queries[mine[0]])
            first.append(1000 * (time.perf_counter() - began))
        for side, by_topic in sides.items():
            count = ASKED_OTHERS if side in beside else len(of)
            found = measured_in_turn(
                by_topic, queries[:count], of, [truth[n] for n in range(count)], clock
            )
            rows.append(
                (
                    f"{side}, {narrowed.name}",
                    found,
                    f"{np.mean(first):.0f}" if side == "ours" else "",
                )
            )
    return rows


def measured_in_turn(
    answers: dict[int, Answer],
    queries: Vectors,
    of: list[int],
    truth: list[set[int]],
    clock: Clock,
) -> tuple[float, float, float]:
    turn = iter(of)
    return measured(lambda q: answers[next(turn)](q), queries, truth, clock)


def without_a_topic(
    box: Collection, x: Vectors, topics: Ids, asked: tuple[Vectors, Ids], clock: Clock
) -> tuple[float, float, float]:
    """The items of one topic deleted, and queries of that topic asked."""
    for n in np.flatnonzero(topics == 0).tolist():
        box.delete(str(n))
    queries = asked[0][asked[1] == 0]
    ours(box)(queries[0])
    truth = true_ten(x, queries, np.flatnonzero(topics != 0))
    return measured(ours(box), queries, truth, clock)


def others_without_a_topic(
    beside: dict[str, Store], x: Vectors, topics: Ids, asked: tuple[Vectors, Ids]
) -> list[tuple[str, tuple[float, float, float], str]]:
    """The same of the others."""
    queries = asked[0][asked[1] == 0][:ASKED_OTHERS]
    truth = true_ten(x, queries, np.flatnonzero(topics != 0))
    rows = []
    for name, store in beside.items():
        store.remove(0)
        answer = store.among(None, 1.0)
        answer(queries[0])
        rows.append((f"{name}, its topic removed", measured(answer, queries, truth), ""))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--counts", type=int, nargs="+", default=[20_000, 100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument(
        "--captions",
        type=Path,
        help="a folder of CSV files with captions, in place of synthetic vectors",
    )
    parser.add_argument("--graph", action="store_true")
    parser.add_argument("--others", action="store_true")
    parser.add_argument(
        "--processor",
        action="store_true",
        help="measure the processor's time of the asking thread, on a machine that is busy with"
        " other work; other stores are always measured by the clock",
    )
    parser.add_argument(
        "--keep", type=Path, help="a folder to keep our collection in, and use it again"
    )
    args = parser.parse_args()
    faiss.omp_set_num_threads(1)
    print(
        "| vectors | asked | p50, ms | p99, ms | recall@10 | p50, FAISS = 1 | first search, ms |\n"
        "|---|---|---|---|---|---|---|"
    )
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        if args.captions:
            x, topics = captions(args.captions, (args.keep or Path(place)) / "captions.npy")
            some = np.random.default_rng(3).permutation(len(x))
            asked, rest = some[: 5 * ASKED], some[5 * ASKED :]
            bench(
                args,
                Path(place),
                x[rest],
                topics[rest],
                (x[asked], topics[asked]),
                x[rest[:64]],
                notes,
            )
        for count in () if args.captions else args.counts:
            x, topics = labelled(count, args.dim, 2)
            asked_of = labelled(5 * ASKED, args.dim, 3)
            bench(args, Path(place), x, topics, asked_of, made(64, args.dim, 4), notes)
    print("\n" + "\n".join(notes))


def bench(
    args: argparse.Namespace,
    place: Path,
    x: Vectors,
    topics: Ids,
    asked: tuple[Vectors, Ids],
    bank: Vectors,
    notes: list[str],
) -> None:
    """One size: a table's rows printed, and a note of what was made."""
    count, queries = len(x), asked[0][:ASKED]
    before = psutil.Process().memory_info().rss
    folder = args.keep / str(count) if args.keep else place / f"box{count}"
    began = time.perf_counter()
    box, wrote = filled(folder, x, topics, bank)
    ready = time.perf_counter() - began
    held = (psutil.Process().memory_info().rss - before) / count
    truth = true_ten(x, queries, np.arange(count))
    index = box.index("video")
    assert isinstance(index, FaissIndex)
    began = time.perf_counter()
    ours(box)(queries[0])  # calibrates
    first = time.perf_counter() - began
    clock = time.thread_time if args.processor else time.perf_counter
    plain, only, own = (
        min(measured(answer, queries, truth, clock) for _ in range(3))
        for answer in (direct(index), index_only(box), ours(box))
    )
    among = graph(x) if args.graph else None
    rows = [("FAISS directly", plain, ""), ("our index", only, ""), ("ours", own, "")]
    rows += [("HNSW", measured(among(None), queries, truth, clock), "")] if among else []
    room = Path(tempfile.mkdtemp(dir=place))
    with others(x, topics, ranks(count), room) if args.others else nullcontext({}) as beside:
        some = queries[:ASKED_OTHERS]
        rows += [
            (name, measured(store.among(None, 1.0), some, truth[:ASKED_OTHERS]), "")
            for name, store in beside.items()
        ]
        rows += under_filters(box, x, topics, asked, among, beside, clock)
        rows += others_without_a_topic(beside, x, topics, asked)
    shutil.copytree(folder, place / "killed")  # as a kill would leave it
    began = time.perf_counter()
    box.close()
    closed = time.perf_counter() - began
    opened, killed = (opening(where, x.shape[1]) for where in (folder, place / "killed"))
    thinned = Collection(place / "killed", "bench", {"video": x.shape[1], "text": x.shape[1]})
    rows.append(("ours, its topic removed", without_a_topic(thinned, x, topics, asked, clock), ""))
    thinned.close(keep=False)
    shutil.rmtree(place / "killed")
    for name, (p50, p99, recall), once in rows:
        row = f"| {count:,} | {name} | {p50:.2f} | {p99:.2f} | {recall:.3f}"
        row += f" | {p50 / plain[0]:.2f} | {once} |"
        print(row, flush=True)
    filtered = [found[0] for name, found, _ in rows if name.startswith("ours, ")]
    notes.append(
        f"{count:,}: ours with a filter, medians in times of the one without: half of the filters "
        f"up to {np.median(filtered) / own[0]:.2f}, all up to {max(filtered) / own[0]:.2f}"
    )
    kept = f"{count:,}: {index.kind} ({index.tuning.key or 'untuned'})"
    kept += f", {held:,.0f} bytes of memory per vector"
    rate = f", written in {wrote:.0f} s, its index ready after {ready:.0f} s" if wrote else ""
    notes.append(
        f"{kept}{rate}, first search in {first:.2f} s, closed in {closed:.1f} s, opened in "
        f"{opened:.2f} s, after a kill"
        f" in {killed:.2f} s"
    )


if __name__ == "__main__":
    main()
