"""What target `any` costs beside target `video`, and what it misses: one thread, the two taking
turns.

    python -m bench.joint [--count 100000] [--dim 384] [--keep FOLDER]

Every item has one window with a picture and a sound, whose vectors have little in common (a cosine
of 0.3). Recall is against an exact search by the joint score: without a filter, with a random one,
and with one that leaves out what is nearest to the query.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np

from export.bundle import Joint
from index.collection import Collection
from index.records.item import NewItem
from index.search import Options, TargetQuery, search
from index.vectors.base import Vectors

from .search import made

JOINT = Joint("video", "audio", 0.3)
ASKED = 200
TEN = 10
CHUNK = 1000
TOPICS = 40


def unit(x: Vectors) -> Vectors:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument(
        "--keep", type=Path, help="a folder to keep the collection in, and use it again"
    )
    args = parser.parse_args()
    faiss.omp_set_num_threads(1)
    video = made(args.count, args.dim, 2)
    audio = unit(0.3 * video + made(args.count, args.dim, 5))
    topics = made(TOPICS, args.dim, 6)
    topic = (video @ topics.T).argmax(axis=1)
    half = np.random.default_rng(7).random(args.count) < 0.5
    with tempfile.TemporaryDirectory() as place:
        box = filled(args.keep or Path(place) / "box", video, audio, topic, half)
        measure(box, unit(video + JOINT.audio_weight * audio), topic, half, topics)
        box.close()


def filled(
    folder: Path, video: Vectors, audio: Vectors, topic: np.ndarray, half: np.ndarray
) -> Collection:  # type: ignore[type-arg]
    """A collection of the windows with its indexes made; one
    that is there already is used again.
    """
    dim = video.shape[1]
    box = Collection(folder, "bench", {"video": dim, "audio": dim, "text": dim})
    there = box.counts().items == len(video)
    for first in range(0, 0 if there else len(video), CHUNK):
        items = []
        for n in range(first, min(first + CHUNK, len(video))):
            vectors = {"video": ([0], video[n : n + 1]), "audio": ([0], audio[n : n + 1])}
            metadata = {"topic": int(topic[n]), "half": bool(half[n])}
            items.append(
                NewItem(
                    id=str(n),
                    kind="video",
                    duration_s=5.0,
                    windows=[(0.0, 5.0)],
                    vectors=vectors,
                    metadata=metadata,
                )
            )
        box.put(items)
    if not box.has_bank("text"):
        box.set_bank("text", made(64, dim, 4), ["video", "audio"])
    while box.busy:
        time.sleep(0.2)
    return box


def measure(
    box: Collection, joint: Vectors, topic: np.ndarray, half: np.ndarray, topics: Vectors
) -> None:  # type: ignore[type-arg]
    queries = made(ASKED, joint.shape[1], 3)
    print(
        "| filter | `video`, p50 in ms | `any`, p50 in ms | ratio of the two | `any`, p99 in ms "
        "| recall@10 of `any` |\n"
        "|---|---|---|---|---|---|"
    )
    for name in ("none", "a random half", "all but the query's topic"):
        times: dict[str, list[float]] = {"video": [], "any": []}
        found = 0
        for query in queries:
            own = int((topics @ query).argmax())
            filters = {"none": None, "a random half": {"half": True}}
            wanted = filters.get(name, {"$not": {"topic": own}})
            masks = {"none": np.ones(len(joint), bool), "a random half": half}
            mask = masks.get(name, topic != own)
            scores = np.where(mask, joint @ query, -np.inf)
            right = {str(n) for n in np.argpartition(-scores, TEN)[:TEN]}
            options = Options(TEN, wanted)
            for target, aim in (
                ("video", TargetQuery("video", query[None])),
                ("any", TargetQuery(JOINT, query[None])),
            ):
                aim = TargetQuery(
                    aim.target, aim.vectors, comparable=("video", "audio", "text", JOINT)
                )
                # what a filter leaves is kept: people ask more than once
                search(box, [aim], options)
                began = time.perf_counter()
                answer = search(box, [aim], options)
                times[target].append(1000 * (time.perf_counter() - began))
                if target == "any":
                    found += len(right & {hit.id for hit in answer.hits})
        video, both = (float(np.median(times[target])) for target in ("video", "any"))
        late = float(np.percentile(times["any"], 99))
        recall = found / (TEN * len(queries))
        print(
            f"| {name} | {video:.2f} | {both:.2f} | {both / video:.2f} | {late:.2f} | "
            f"{recall:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
