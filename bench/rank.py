"""How often the right one of 20 labels is ranked first for a clip.

    python -m bench.rank --data FOLDER --video video=.../video-labels.jsonl \\
        --audio sound=.../sound-labels.jsonl

`--video` and `--audio` name a collection of the data folder and the manifest that it was built
from, whose rows have a label as `group`. The other choices are drawn from the labels of the same
manifest. A tie is not right. Chance is 0.05.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from export.encoder import OnnxEncoder
from index.collection import Collection, NoVectors
from index.library import Collections
from index.ranking import item_direction, rank_texts
from index.vocabulary import embed_names

from .tags import read_labels

CHOICES = 20
DRAWS = 5
SURE = 0.8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=Path("bundles/default"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--video", help="COLLECTION=MANIFEST")
    parser.add_argument("--audio", help="COLLECTION=MANIFEST")
    args = parser.parse_args()
    encoder = OnnxEncoder.open(args.bundle)
    collections = Collections(args.data, encoder.manifest.fingerprint, encoder.manifest.dims)
    print(
        "| target | clips | labels | right | mean probability of the first | right where it is"
        f" {SURE} or more |\n|---|---|---|---|---|---|"
    )
    try:
        for modality in ("video", "audio"):
            if given := getattr(args, modality):
                name, _, manifest = given.partition("=")
                labels = read_labels(Path(manifest))
                for target in (modality, "any"):
                    measure(encoder, collections.get(name), labels, target)
    finally:
        collections.close()


def measure(
    encoder: OnnxEncoder, collection: Collection, labels: dict[str, str], target: str
) -> None:
    """Print a line of the table."""
    (route,) = encoder.manifest.routes(["text"], target)
    source = route.encodings["text"]
    names = sorted(set(labels.values()))
    vectors = dict(zip(names, embed_names(encoder, source, names), strict=True))
    random = np.random.default_rng(0)
    rights: list[bool] = []
    firsts: list[float] = []
    clips = 0
    for id, label in labels.items():
        try:
            clip = item_direction(collection, id, route.target)
        except NoVectors:
            continue
        clips += 1
        others = [name for name in names if name != label]
        for _ in range(DRAWS):
            drawn = random.permutation(others)[: CHOICES - 1].tolist()
            texts = [*drawn, label]
            ranked = rank_texts(
                encoder,
                clip,
                texts,
                np.stack([vectors[text] for text in texts]),
                source=source,
                modality=target,
            )
            first, second = ranked[:2]
            rights.append(first.text == label and first.score > second.score)
            firsts.append(first.probability)
    right, first_share = np.array(rights), np.array(firsts)
    sure = first_share >= SURE
    of_sure = f"{right[sure].mean():.2f} of {sure.mean():.0%}" if sure.any() else "-"
    print(
        f"| {target} | {clips} | {len(names)} | {right.mean():.3f} | {first_share.mean():.2f} |"
        f" {of_sure} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
