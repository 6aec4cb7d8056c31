"""How sure tags are, found on open media: writes index/tag_scales.json.

    python -m bench.calibrate_tags --open ../shared/data/open --teachers ../shared/data/teachers \\
        --ontology ../shared/data/text/audioset_ontology.json --cache CACHE

A picture or a sound should have the names of the vocabulary that its label or its short caption
has. Names above or below these may be true, too, and count neither way: in pictures by
index/vocabulary_parents.txt, in sounds by AudioSet's ontology. Pictures are read by a map that was
fitted without them, as `export stems` does when it chooses its settings; `--cache` is its folder of
features. Sounds are those of the sets that are most like real life.

The probability is one half from where on tags are right in 0.72 of the cases: open media are
simpler than films, and 0.6 is wanted there. Of each name, mean and deviation over the windows are
kept, as far as more is found from there on, and so is the contrast chosen. Sharpness is that of a
logistic regression.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.kernel_maps import compare, find_directions, kernel_held_out, mean_of_roots
from evaluation.linear_maps import softmax, unit
from export.encoder import OnnxEncoder
from export.features import (
    FIT,
    PictureFeatures,
    load_or_compute_features,
    read_rows,
)
from export.stems import number_folds
from index.records.tags import Readings
from index.tag_scales import SCALES, Scale
from index.vocabulary import (
    MOST,
    THRESHOLD,
    background,
    calibrate_names,
    default_vocabulary,
    embed_names,
    pair_parents,
)
from media.containers import Budget
from media.errors import BadMedia
from media.modality import AUDIO, TEXT, VIDEO
from media.video import Choice
from media.windows import read_media
from model.class_vectors import ClassPhrases, SentenceVectors, picture_classes

PRECISION = 0.72
MEAN_SHARES = (0.0, 0.5, 1.0)
DEVIATION_SHARES = (0.0, 0.3, 0.6)
CONTRASTS = (0.0, 0.2, 0.35, 0.5)
NAME_MOST = 4  # a name's rows together count as so many at most
WORDS_MOST = {VIDEO: 7, AUDIO: 8}  # longer captions tell of more than they name
LIFELIKE = ("everyday", "survival", "transport", "stamps", "scratch", "work", "park")
# Names that are words for something else in the open rows.
AMBIGUOUS = {
    VIDEO: {"Mouse", "crane", "kite", "jay", "Fire", "Water", "Engine", "Organ", "drake", "maillot"}
    | {"cardigan", "grocery store", "Bell", "Hammer", "castle", "balloon", "Fly, housefly"}
    | {"Vehicle", "Animal", "Scissors"},
    AUDIO: {"Run", "Music", "Mouse", "Harmonic", "Roll", "Crack", "Wood", "Glass", "Steam"}
    | {"Arrow", "Scratch", "Gears", "Static", "Noise", "Field recording", "Pump (liquid)", "Radio"}
    | {"Camera", "Tools", "Hands", "Engine", "Organ", "Echo", "Water", "Fire", "Zing", "Pulse"}
    | {"Fly, housefly", "Effects unit", "Mechanisms", "Vehicle", "Animal", "Keyboard (musical)"},
}


@dataclass(frozen=True)
class Windows:
    """Windows of open rows: vectors [n, dim], and of which row each is [n]."""

    rows: list[dict[str, Any]]
    vectors: NDArray[np.float32]
    owners: NDArray[np.int64]

    def save(self, path: Path) -> None:
        ids = np.array([row["id"] for row in self.rows])
        np.savez(path, ids=ids, vectors=self.vectors, owners=self.owners)

    @classmethod
    def load(cls, path: Path, rows: list[dict[str, Any]]) -> Windows:
        by_id = {row["id"]: row for row in rows}
        with np.load(path) as kept:
            of = [by_id[id] for id in kept["ids"].tolist()]
            return cls(of, kept["vectors"], kept["owners"])


@dataclass(frozen=True)
class Truth:
    """Which names each row should have, and which it may have, too: [rows, names]."""

    expected: NDArray[np.bool_]
    also: NDArray[np.bool_]

    @property
    def told(self) -> NDArray[np.bool_]:
        """Which rows [rows] should have any."""
        return np.asarray(self.expected.any(axis=1))

    @property
    def judged(self) -> NDArray[np.bool_]:
        """Which names [names] any row should have."""
        return np.asarray(self.expected.any(axis=0))

    @property
    def weights(self) -> NDArray[np.float64]:
        """What each row counts [rows]: less where many have its names."""
        shares = np.minimum(1.0, NAME_MOST / np.maximum(self.expected.sum(axis=0), 1))
        return (self.expected * shares).sum(axis=1) / np.maximum(self.expected.sum(axis=1), 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=Path("bundles/default"))
    parser.add_argument("--open", type=Path, required=True)
    parser.add_argument("--teachers", type=Path, required=True)
    parser.add_argument("--ontology", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=SCALES)
    args = parser.parse_args()
    encoder = OnnxEncoder.open(args.bundle)
    rows = read_rows(args.open)
    found: dict[str, Any] = {"fingerprints": list_fingerprints(encoder)}
    print("| tags of | rows | names | log loss | precision | recall |\n|---|---|---|---|---|---|")
    for modality in (VIDEO, AUDIO):
        names = default_vocabulary().names[modality]
        kept = args.cache / f"{modality}-{encoder.manifest.fingerprint}.npz"
        if modality == VIDEO:
            relatives = relate_pictures(names)
        else:
            relatives = relate_sounds(names, args.ontology)
        if not kept.exists():
            encode = see_pictures if modality == VIDEO else hear_sounds
            encode(encoder, rows, args.cache).save(kept)
        windows = Windows.load(kept, rows)
        truth = find_truth(windows.rows, names, relatives, modality)
        found[modality] = vars(calibrate(encoder, names, windows, truth, modality))
    lines = json.dumps(found, ensure_ascii=False, indent=1)
    lines = re.sub(r"\[\s+([-\d.]+),\s+([-\d.]+)\s+\]", r"[\1, \2]", lines)
    args.out.write_text(lines + "\n", encoding="utf-8")


def list_fingerprints(encoder: OnnxEncoder) -> list[str]:
    """Those that the encoder has, one for each choice of frames. Stills know of no choice."""
    return [encoder.manifest.with_frames(choice).fingerprint for choice in Choice]


# ---------------------------------------------------------------- windows


def see_pictures(encoder: OnnxEncoder, rows: list[dict[str, Any]], cache: Path) -> Windows:
    """Vectors of the open pictures, each by a map of captions that was fitted without it."""
    chosen = encoder.manifest.provenance["chosen"]
    pictures = [row for row in rows if row["modality"] == "image"]
    stem, wheels = chosen["picture_stem"], cache / "wheels"
    features = load_or_compute_features(
        [row["path"] for row in pictures],
        PictureFeatures(stem, wheels, FIT),
        f"pictures-{stem}",
        cache,
    )
    pictures = [pictures[n] for n in features["row"]]
    sentences = SentenceVectors()
    classes = picture_classes(sentences, wheels)
    captions = sentences([row["text"] for row in pictures])
    centre = classes.mean(axis=0)
    directions = find_directions(features["features"], mean_of_roots(features["features"]))
    mapped = kernel_held_out(
        compare(directions, directions, chosen["kernel_sharpness"]),
        unit(captions - centre),
        number_folds(pictures),
        chosen["penalty"],
    )
    things = ClassPhrases.read(sentences, "pictures").describe(classes)
    read = unit(softmax(features["logits"], chosen["sharpness"]) @ things)
    vectors = unit(read + chosen["caption_weight"] * mapped)
    return Windows(pictures, np.asarray(vectors, np.float32), np.arange(len(pictures)))


def hear_sounds(encoder: OnnxEncoder, rows: list[dict[str, Any]], cache: Path) -> Windows:
    """Vectors of the lifelike open sounds."""
    sounds = [row for row in rows if row["modality"] == AUDIO]
    sounds = [row for row in sounds if row["path"].parent.name in LIFELIKE]
    vectors, owners = [], []
    for n, row in enumerate(sounds):
        try:
            media = read_media(row["path"], encoder.manifest.inputs, Budget(), (AUDIO,))
        except BadMedia:
            continue
        vectors.append(encoder.embed(AUDIO, media.parts[AUDIO].array))
        owners += [n] * len(vectors[-1])
    return Windows(sounds, np.concatenate(vectors), np.array(owners))


# ---------------------------------------------------------------- what is true


def fold_words(text: str) -> str:
    """A text as words in the singular, between spaces.

    >>> fold_words("Two Ponies, running dogs!")
    ' two pony running dog '
    """
    words = re.findall("[a-z]+", text.lower())
    for n, word in enumerate(words):
        if len(word) > 3 and word.endswith("ies"):
            words[n] = word[:-3] + "y"
        elif len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
            words[n] = word[:-1]
    return f" {' '.join(words)} "


def split_name(name: str) -> list[str]:
    """What a name is called, as folded words: "Chicken, rooster" is both."""
    plain = re.sub(r"\(.*?\)", "", name)
    return [fold_words(part) for part in plain.split(",") if part.strip() not in ("", "etc.")]


def relate_pictures(names: tuple[str, ...]) -> list[set[int]]:
    """By name the places of those above and below it: parents, children, and groups of some of its
    children.
    """
    below: list[set[int]] = [set() for _ in names]
    for child, parent in pair_parents(names, VIDEO).tolist():
        below[parent].add(child)
    groups = [n for n, some in enumerate(below) if some]
    for one, other in permutations(groups, 2):
        if below[other] <= below[one]:
            below[one].add(other)
    return both_ways(below)


def relate_sounds(names: tuple[str, ...], ontology: Path) -> list[set[int]]:
    """By name the places of those above and below it in AudioSet's ontology."""
    entries = {entry["id"]: entry for entry in json.loads(ontology.read_text("utf-8"))}
    places = {name.casefold(): n for n, name in enumerate(names)}

    def descend(entry: dict[str, Any]) -> set[int]:
        reached = set()
        for child in entry["child_ids"]:
            reached |= descend(entries[child])
            place = places.get(entries[child]["name"].casefold())
            if place is not None:
                reached.add(place)
        return reached

    below: list[set[int]] = [set() for _ in names]
    for entry in entries.values():
        place = places.get(entry["name"].casefold())
        if place is not None:
            below[place] |= descend(entry) - {place}
    return both_ways(below)


def both_ways(below: list[set[int]]) -> list[set[int]]:
    related = [set(some) for some in below]
    for one, some in enumerate(below):
        for other in some:
            related[other].add(one)
    return related


def find_truth(
    rows: list[dict[str, Any]],
    names: tuple[str, ...],
    relatives: list[set[int]],
    modality: str,
) -> Truth:
    called = {n: split_name(name) for n, name in enumerate(names)}
    for n, name in enumerate(names):
        if name in AMBIGUOUS[modality]:
            del called[n]
    expected = np.zeros((len(rows), len(names)), bool)
    also = np.zeros_like(expected)
    for at, row in enumerate(rows):
        told = row["labels"][:1]
        if len(row["text"].split()) <= WORDS_MOST[modality]:
            told = [*told, row["text"]]
        words = "|".join(map(fold_words, told))
        for n, parts in called.items():
            if any(part in words for part in parts):
                expected[at, n] = True
                also[at, list(relatives[n])] = True
    return Truth(expected, also & ~expected)


# ---------------------------------------------------------------- how sure


def calibrate(
    encoder: OnnxEncoder,
    names: tuple[str, ...],
    windows: Windows,
    truth: Truth,
    modality: str,
) -> Scale:
    """The best scale, whose figures are printed as a line of a table."""
    others = background(encoder, TEXT, modality)
    directions, offsets = calibrate_names(embed_names(encoder, TEXT, names), others, 0.0)
    scores = windows.vectors @ directions.T + offsets
    parents = pair_parents(names, modality)
    used = truth.told[windows.owners]
    owners = windows.owners[used]
    wanted = (truth.weights * truth.expected.sum(axis=1)).sum()
    tried = []
    for mean_share, deviation_share in product(MEAN_SHARES, DEVIATION_SHARES):
        shared, own = shrink(scores, mean_share, deviation_share)
        normal = (scores[used] - own[:, 0]) / own[:, 1]
        for contrast in CONTRASTS:
            pairs = judge(normal, contrast, parents, owners=owners, truth=truth)
            half_at, precision, reached = find_half(pairs)
            tried.append((reached / wanted, half_at, precision, contrast, shared, own, pairs))
    recall, half_at, precision, contrast, shared, own, pairs = max(tried, key=lambda one: one[0])
    sharpness, loss = fit_logistic(pairs)
    print(
        f"| {modality} | {truth.told.sum()} | {truth.judged.sum()} | {loss:.4f} |"
        f" {precision:.2f} | {recall:.2f} |",
        flush=True,
    )
    kept = {} if np.ptp(own, axis=0).max() == 0 else dict(zip(names, own.tolist(), strict=True))
    return Scale(
        mean=round(float(shared[0]), 3),
        deviation=round(float(shared[1]), 3),
        half_at=round(half_at, 2),
        sharpness=round(sharpness, 2),
        contrast=contrast,
        names={name: (round(mean, 2), round(width, 2)) for name, (mean, width) in kept.items()},
    )


def shrink(
    scores: NDArray[np.float32], mean_share: float, deviation_share: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The shared mean and deviation [2] of scores [windows, names], and those of each name [names,
    2], shrunk to them: the geometric mean of deviations.
    """
    means = scores.mean(axis=0, dtype=np.float64)
    logs = np.log(scores.std(axis=0, dtype=np.float64))
    shared = np.array([means.mean(), np.exp(logs.mean())])
    own_means = mean_share * means + (1.0 - mean_share) * means.mean()
    own_logs = deviation_share * logs + (1.0 - deviation_share) * logs.mean()
    return shared, np.column_stack([own_means, np.exp(own_logs)])


def judge(
    normal: NDArray[Any],
    contrast: float,
    parents: NDArray[np.int64],
    *,
    owners: NDArray[np.int64],
    truth: Truth,
) -> NDArray[np.float64]:
    """Pairs of a row and a name among its windows' best, the surest first, as [n, 3]: what half_at
    is compared with, whether the name is right, and what the row weighs. Only names that some row
    should have count.
    """
    eye = np.eye(normal.shape[1], dtype=np.float32)
    zeros = np.zeros(len(eye), np.float32)
    readings = Readings((), eye, zeros, THRESHOLD, MOST, contrast=contrast, parents=parents)
    odds = readings.odds(np.asarray(normal / (1.0 - contrast), np.float32))
    best = np.partition(odds, -MOST, axis=1)[:, -MOST, None]
    odds[odds < best] = -np.inf
    whole = np.full(truth.expected.shape, -np.inf, np.float32)
    np.maximum.at(whole, owners, odds)
    counted = np.isfinite(whole) & truth.told[:, None] & truth.judged & ~truth.also
    rows, names = np.nonzero(counted)
    pairs = np.column_stack(
        [whole[rows, names], truth.expected[rows, names], truth.weights[rows]]
    ).astype(np.float64)
    return pairs[np.argsort(-pairs[:, 0], kind="stable")]


def find_half(pairs: NDArray[np.float64]) -> tuple[float, float, float]:
    """Where tags begin, by pairs [N, 3] of a score, whether it is right, and a weight, the highest
    score first.

    Returns the lowest score down to which a share of at least PRECISION is right, that share, and
    the summed weights of what is right.

    >>> find_half(np.array([[9.0, 1, 1], [8.0, 0, 1], [7.0, 1, 1], [6.0, 1, 1], [5.0, 0, 1]]))
    (6.0, 0.75, 3.0)
    """
    scores, right, weights = pairs.T
    reached = np.cumsum(right * weights)
    precision = reached / np.cumsum(weights)
    least = np.flatnonzero(precision >= PRECISION)[-1]
    return float(scores[least]), float(precision[least]), float(reached[least])


def fit_logistic(pairs: NDArray[np.float64]) -> tuple[float, float]:
    """The slope of the logistic regression of what is right on scores, and its mean loss: by
    Newton's method.
    """
    scores, right, weights = pairs.T
    weights = weights / weights.sum()
    inputs = np.column_stack([scores - scores.mean(), np.ones(len(scores))])
    factors = np.zeros(2)
    for _ in range(30):
        chances = 1.0 / (1.0 + np.exp(-inputs @ factors))
        slope = inputs.T @ (weights * (right - chances))
        curve = (inputs * (weights * chances * (1.0 - chances))[:, None]).T @ inputs
        factors = factors + np.linalg.solve(curve, slope)
    signs = 2.0 * right - 1.0
    loss = (weights * np.logaddexp(0.0, -signs * (inputs @ factors))).sum()
    return float(factors[0]), float(loss)


if __name__ == "__main__":
    main()
