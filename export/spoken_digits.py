"""Fits the head that hears spoken digits, on open recordings of them, against other open sounds.

N patches, D details of a patch, K digits.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from evaluation.linear_maps import Matrix, unit
from media.errors import BadConfig
from model.class_vectors import SentenceVectors
from model.data.prepare import digits
from model.network.sound_classifier import RATE, SoundClassifier
from model.network.spoken_digits import DigitsHead, read_patches, share_patches

from .features import (
    Arrays,
    load_or_compute_features,
    load_sound_scores,
    read_sound_windows,
)

MOST_OTHERS = 1200  # of the open sounds, which are none of the digits
LATER_S = 0.48  # how much later a sound begins at most: from one patch to the next
PENALTY = 1e-3  # on the sum of the squared weights of standardised details
STEPS = 40
LEAST_SPREAD = 0.01
Rows = list[dict[str, Any]]


def read_digits(folder: Path) -> Rows:
    """The spoken digits in the project's own collection of sounds that may be learned from, with a
    group and captions. The takes that they are tested by are not among them.
    """
    sources = {}
    for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        sources[row["id"]] = row["source"]
    return [row | {"source": sources[row["id"]]} for row in digits(folder, "train", 0)]


def choose_others(sounds: Rows) -> Rows:
    """Of the open sounds those that the digits are told from, always the same."""

    def place(row: dict[str, Any]) -> str:
        return hashlib.sha256(row["id"].encode()).hexdigest()

    once = {row["id"]: row for row in sounds}
    return sorted(once.values(), key=place)[:MOST_OTHERS]


@dataclass(frozen=True)
class PatchDetails:
    """Sounds -> details [N, D] of the patches in which anything is heard; `row` [N] is the sound.
    `digest` tells one classifier from another. If `moved`, half of the sounds begin a little later:
    a word may lie anywhere in a patch.
    """

    stem: Path
    digest: str
    moved: bool

    def __call__(self, paths: list[Path]) -> Arrays:
        torch.set_num_threads(1)
        scores = load_sound_scores(self.stem)
        assert isinstance(scores.classifier, SoundClassifier)
        rows = []
        found = []
        for row, window in read_sound_windows(paths):
            waveform = move(window, paths[row].name) if self.moved else window
            with torch.no_grad():
                patches, heard = scores.spectrogram(torch.from_numpy(waveform[None]))
                counted = share_patches(heard)[0] > 0
                details, _ = read_patches(scores.classifier, patches[0][counted])
            found.append(details.half().numpy())
            rows += [row] * len(details)
        return {"row": np.array(rows, np.int64), "details": np.concatenate(found)}


def move(window: Matrix, name: str) -> Matrix:
    """Half of the windows [samples], by the hash of a name, begin a little later, after silence."""
    number = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    if number % 2:
        return window
    later = np.random.default_rng(number).integers(1, round(LATER_S * RATE))
    return np.concatenate([np.zeros(later, np.float32), window[:-later]])


@dataclass(frozen=True)
class SpokenDigits:
    """Digits as a head reads them, see `DigitsHead`: `weight` [D, K + 1], `bias` [K + 1], `vectors`
    [K, 384], their names, and the rows that they were fitted to.
    """

    names: list[str]
    weight: Matrix
    bias: Matrix
    vectors: Matrix
    rows: Rows

    def to_head(self) -> DigitsHead:
        return DigitsHead(*(torch.from_numpy(a) for a in (self.weight, self.bias, self.vectors)))


def fit_digits(
    folder: Path,
    sounds: Rows,
    stem: Path,
    *,
    cache: Path,
    sentences: SentenceVectors,
    mean: Matrix,
) -> SpokenDigits:
    """The head, fitted to the digits in `folder` and to some of the open `sounds`, which are none
    of them. Its vectors are those of the digits' captions, less `mean` [384].

    Raises:
        BadConfig: the sound classifier is not a run of `distil`.
    """
    if not stem.is_dir():
        raise BadConfig(f"{stem} is not a run of `distil`, whose patches the digits are read from")
    rows = read_digits(folder)
    others = choose_others(sounds)
    digest = hashlib.sha256((stem / "sound.pt").read_bytes()).hexdigest()
    of_digits = load_or_compute_features(
        [row["path"] for row in rows], PatchDetails(stem, digest, moved=True), "digits", cache
    )
    of_others = load_or_compute_features(
        [row["path"] for row in others], PatchDetails(stem, digest, moved=False), "others", cache
    )
    names = sorted({row["group"] for row in rows})
    numbers = np.array([names.index(row["group"]) for row in rows], np.int64)
    labels = np.concatenate(
        (numbers[of_digits["row"]], np.full(len(of_others["row"]), len(names), np.int64))
    )
    details = np.concatenate((of_digits["details"], of_others["details"])).astype(np.float32)
    weight, bias = fit_softmax(details, labels, len(names) + 1)
    vectors = np.stack([sentences(captions_of(rows, name)).mean(axis=0) for name in names])
    return SpokenDigits(names, weight, bias, unit(vectors - mean), rows)


def captions_of(rows: Rows, group: str) -> list[str]:
    """The captions of a group, each once."""
    first = next(row for row in rows if row["group"] == group)
    return [caption["text"] for caption in first["captions"]]


def fit_softmax(details: Matrix, labels: NDArray[np.int64], classes: int) -> tuple[Matrix, Matrix]:
    """Multinomial logistic regression with a penalty, by L-BFGS on standardised details [N, D]: the
    weights [D, classes] and biases [classes] for details as they are.
    """
    centre = details.mean(axis=0)
    spread = details.std(axis=0) + LEAST_SPREAD
    x = torch.from_numpy((details - centre) / spread)
    y = torch.from_numpy(labels)
    weight = torch.zeros(x.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=STEPS, history_size=8, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        found = F.cross_entropy(x @ weight + bias, y) + PENALTY * weight.square().sum()
        found.backward()  # type: ignore[no-untyped-call]
        return found

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    scaled = weight.detach().numpy() / spread[:, None]
    return scaled, np.asarray(bias.detach().numpy() - centre @ scaled, np.float32)
