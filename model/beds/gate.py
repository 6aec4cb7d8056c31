"""Fits what sound weighs in joint vectors, on the open rows of the real bed (`bench.real_bed`).

A picture gets a sound of its own name, or any other sound, by chance. Its caption and that of the
sound ask for the joint vector among those of the batch:

    L = InfoNCE(caption of the picture, j) + SOUND_SHARE InfoNCE(caption of the sound, j)

So a sound counts that belongs to the picture or says something of its own, and one that is neither
counts less. N pictures, M sounds, K texts, S = 384, n rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.linear_maps import unit
from evaluation.retrieval import ranking_metrics
from media.errors import BadConfig
from media.manifest import Row

from ..network.fusion import SoundGate, join
from ..training.losses import info_nce
from .real import RealData

Vectors = NDArray[np.float32]
Weigh = Callable[[Tensor, Tensor], Tensor]  # as `SoundGate`

STEPS = 300
BATCH = 96  # rows of a step: pictures that have sounds of their name
LONE = 32  # and others
LEARNING_RATE = 3e-3
DECAY = 1e-2
SCALE = 20.0  # the inverse temperature
OWN_SHARE = 0.5  # of the pictures that have sounds of their name: how many get one
SOUND_SHARE = 0.3  # of the loss for captions of sounds
FOLDS = 5
SHARES = (0.2, 0.5, 0.8)  # of own sounds where it is measured
DRAWS = 4  # of each share
FIXED = (0.0, 0.3, 0.5, 0.7, 1.0)  # weights to compare with


@dataclass(frozen=True)
class GateData:
    """Unit vectors of pictures [N, S], sounds [M, S] and texts [K, S], and what belongs together.

    Rows of one group, int64 [N] and [M], have one name.
    """

    pictures: Vectors
    sounds: Vectors
    texts: Vectors
    picture_texts: list[list[int]]
    sound_texts: list[list[int]]
    picture_groups: NDArray[np.int64]
    sound_groups: NDArray[np.int64]
    own: dict[int, list[int]]  # picture -> the sounds of its name

    @classmethod
    def open(cls, file: Path) -> GateData:
        """The open rows of the bed's file. Raises BadConfig: there is none."""
        data = RealData.open(file)
        own: dict[int, list[int]] = {}
        for picture, sound in data.arrays["pairs"].tolist():
            own.setdefault(picture, []).append(sound)
        pictures = data.rows["pictures"]
        sounds = data.rows["sounds"]
        return cls(
            pictures=to_unit(data.arrays["picture_readings"][:, 0]),
            sounds=to_unit(data.arrays["sound_readings"]),
            texts=to_unit(data.texts.readings),
            picture_texts=text_ids(data, pictures),
            sound_texts=text_ids(data, sounds),
            picture_groups=number_groups(pictures),
            sound_groups=number_groups(sounds),
            own=own,
        )


def to_unit(readings: NDArray[np.int8]) -> Vectors:
    return np.asarray(unit(readings.astype(np.float32)), np.float32)


def text_ids(data: RealData, rows: list[Row]) -> list[list[int]]:
    return [[data.texts.ids[caption.text] for caption in row.captions] for row in rows]


def number_groups(rows: list[Row]) -> NDArray[np.int64]:
    names = [row.group.lower() for row in rows]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def draw_sounds(
    data: GateData,
    pictures: NDArray[np.int64],
    sounds: NDArray[np.int64],
    share: float,
    random: np.random.Generator,
) -> NDArray[np.int64]:
    """A sound [n] for each picture [n] out of `sounds`: one of its own by a chance of `share`."""
    drawn = random.choice(sounds, len(pictures))
    allowed = set(sounds.tolist())
    for place, picture in enumerate(pictures.tolist()):
        fitting = [sound for sound in data.own.get(picture, []) if sound in allowed]
        if fitting and random.random() < share:
            drawn[place] = random.choice(fitting)
    return drawn


def fit_gate(
    data: GateData,
    pictures: NDArray[np.int64],
    sounds: NDArray[np.int64],
    *,
    steps: int = STEPS,
    seed: int = 0,
) -> SoundGate:
    """A gate that has learned from some of the pictures and sounds, given by their rows."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    gate = SoundGate(data.pictures.shape[1])
    optimiser = torch.optim.AdamW(gate.parameters(), lr=LEARNING_RATE, weight_decay=DECAY)
    has_own = np.isin(pictures, list(data.own))
    pools = [(pictures[has_own], BATCH), (pictures[~has_own], LONE)]
    for _ in range(steps):
        seen = np.concatenate([random.choice(pool, n) for pool, n in pools if len(pool)])
        heard = draw_sounds(data, seen, sounds, OWN_SHARE, random)
        optimiser.zero_grad()
        loss = gate_loss(data, gate, seen, heard, random)
        torch.autograd.backward(loss)
        optimiser.step()
    return gate.eval()


def gate_loss(
    data: GateData,
    gate: Weigh,
    seen: NDArray[np.int64],
    heard: NDArray[np.int64],
    random: np.random.Generator,
) -> Tensor:
    """The loss of pictures and sounds, by their rows [n]; a scalar."""
    video = torch.from_numpy(data.pictures[seen])
    audio = torch.from_numpy(data.sounds[heard])
    joint = join(video, audio, gate(video, audio))
    total = torch.zeros(())
    for weight, rows, texts, groups in (
        (1.0, seen, data.picture_texts, data.picture_groups),
        (SOUND_SHARE, heard, data.sound_texts, data.sound_groups),
    ):
        said = torch.from_numpy(data.texts[[random.choice(texts[row]) for row in rows.tolist()]])
        same = torch.from_numpy(groups[rows])
        total = total + weight * info_nce(said, joint, SCALE, same)
    return total


def keep_weight(weight: float) -> Weigh:
    """The same weight for every sound."""
    return lambda video, audio: torch.full((len(video),), weight)


@torch.no_grad()
def measure_gate(
    data: GateData, weigh: Weigh, pictures: NDArray[np.int64], sounds: NDArray[np.int64]
) -> dict[str, float]:
    """R@1 and R@10 of pictures with sounds, by the pictures' captions and by the sounds'.

    They are means over the shares of own sounds, and over draws of them.
    """
    found: dict[str, list[float]] = {}
    for share in SHARES:
        for seed in range(DRAWS):
            heard = draw_sounds(data, pictures, sounds, share, np.random.default_rng(seed))
            video = torch.from_numpy(data.pictures[pictures])
            audio = torch.from_numpy(data.sounds[heard])
            joint = join(video, audio, weigh(video, audio)).numpy()
            for name, rows, texts, groups in (
                ("pictures", pictures, data.picture_texts, data.picture_groups),
                ("sounds", heard, data.sound_texts, data.sound_groups),
            ):
                said = data.texts[[texts[row][0] for row in rows.tolist()]]
                relevant = groups[rows][:, None] == groups[rows][None]
                measures = ranking_metrics(said @ joint.T, relevant)
                for measure in ("R@1", "R@10"):
                    found.setdefault(f"{name} {measure}", []).append(measures[measure])
    return {name: float(np.mean(values)) for name, values in found.items()}


def cross_validate(data: GateData, *, steps: int = STEPS) -> dict[str, dict[str, float]]:
    """What fixed weights and a gate reach on names that were left out, a fifth at a time.

    Raises:
        BadConfig: there are too few names to leave any out.
    """
    random = np.random.default_rng(0)
    fold_of_picture = random.integers(0, FOLDS, data.picture_groups.max() + 1)[data.picture_groups]
    fold_of_sound = random.integers(0, FOLDS, data.sound_groups.max() + 1)[data.sound_groups]
    found: dict[str, list[dict[str, float]]] = {}
    for fold in range(FOLDS):
        tested = np.flatnonzero(fold_of_picture == fold)
        own = {sound for picture in tested.tolist() for sound in data.own.get(picture, [])}
        is_tested = (fold_of_sound == fold) | np.isin(np.arange(len(fold_of_sound)), list(own))
        heard = np.flatnonzero(is_tested)
        if not len(tested) or not len(heard) or is_tested.all():
            continue  # too few names for so many folds
        learned = fit_gate(
            data, np.flatnonzero(fold_of_picture != fold), np.flatnonzero(~is_tested), steps=steps
        )
        ways: dict[str, Weigh] = {f"{weight:g}": keep_weight(weight) for weight in FIXED}
        for name, weigh in (ways | {"learned": learned}).items():
            found.setdefault(name, []).append(measure_gate(data, weigh, tested, heard))
    if not found:
        raise BadConfig("there are too few names of pictures and sounds to leave a fifth out")
    return {name: mean_of_folds(folds) for name, folds in found.items()}


def mean_of_folds(folds: list[dict[str, float]]) -> dict[str, float]:
    return {measure: fmean(one[measure] for one in folds) for measure in folds[0]}


def format_validation(found: dict[str, dict[str, float]]) -> list[str]:
    """Lines of a table."""
    measures = list(next(iter(found.values())))
    lines = [f"{'weight of the sound':20s} " + " ".join(f"{name:>14s}" for name in measures)]
    for name, values in found.items():
        lines.append(f"{name:20s} " + " ".join(f"{values[m]:14.3f}" for m in measures))
    return lines
