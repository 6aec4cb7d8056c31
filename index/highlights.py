"""The stretches of an item worth looking at first, without a query.

Each window gets an activation from its stored vectors and the loudness of its sound: how unlike the
rest of the item it is, how unlike the window before, and how loud. The strongest windows are
widened to stretches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from export.bundle import EQUAL_WEIGHT, parse_modality
from media.errors import MissingModality
from media.modality import AUDIO, RECORDED, VIDEO

from .collection import Collection
from .records.item import WindowVectors

Activation = NDArray[np.float64]
Reason = Literal["new picture", "change of picture", "new sound", "change of sound", "loud"]
NEW: dict[str, Reason] = {VIDEO: "new picture", AUDIO: "new sound"}
CHANGE: dict[str, Reason] = {VIDEO: "change of picture", AUDIO: "change of sound"}
LOUD: Reason = "loud"
# what makes a window stand out, beside being new, which weighs 1
CHANGE_WEIGHT = 0.25
LOUD_WEIGHT = 0.25
# a window is new if it has few like it: less than this share of the item
RARE_SHARE = 0.1
# windows of an item that each window is compared with; evenly spaced, where it has more
COMPARED_MOST = 2000
LONGEST_S = 30.0
# of the strongest activation of a stretch, what the windows that it is widened by have at least
WIDE_SHARE = 0.5
# of the best highlight's score, what another has at least
LEAST_SHARE = 0.25
# of a window's activation, what a reason to name has contributed
NAMED_SHARE = 0.25


@dataclass(frozen=True)
class Highlight:
    """A stretch [start_s, end_s) of an item. `score`, in [0, 1], is its strongest activation, and
    `why` what contributed to it, the most important first.
    """

    start_s: float
    end_s: float
    score: float
    why: list[Reason]


@dataclass(frozen=True)
class Windows:
    """The windows of an item in the order of time: (start_s, end_s) [n, 2], and for each reason how
    much it contributes to each window's activation [n].
    """

    times_s: NDArray[np.float64]
    reasons: dict[Reason, Activation]

    @property
    def activation(self) -> Activation:
        """In [0, 1], [n]."""
        total = np.zeros(len(self.times_s))
        for share in self.reasons.values():
            total += share
        return total


def find_highlights(
    collection: Collection, id: str, limit: int, audio_weight: float = EQUAL_WEIGHT
) -> list[Highlight]:
    """The highlights of a video or a sound, the best first; of one that is short, all of it.

    `audio_weight` is what its sound weighs beside its pictures.

    Raises:
        UnknownItem: there is none of that id.
        MissingModality: it is neither a video nor a sound.
    """
    with collection.hold_for_reading() as records:
        item = records.item(id)
        if item.kind not in RECORDED:
            raise MissingModality(" or ".join(RECORDED))
        found: dict[str, WindowVectors] = {}
        for encoding, dim in collection.dims.items():
            modality = parse_modality(encoding)
            if modality in RECORDED and modality not in found:
                read = records.item_windows(id, encoding, dim)
                if len(read.vectors):
                    found[modality] = read
        peaks = records.peaks(id)
    loudness = np.frombuffer(peaks, np.uint8) / 255.0
    return choose(activate(found, loudness, item.duration_s, audio_weight), limit)


def activate(
    found: dict[str, WindowVectors],
    loudness: NDArray[np.float64],
    duration_s: float,
    audio_weight: float = EQUAL_WEIGHT,
) -> Windows:
    """What makes each window of an item stand out.

    `found` has the item's windows by modality. `loudness` are the peaks of equal parts of its
    sound, in [0, 1]; empty if they are not known.
    """
    spans = [read.times_s for read in found.values()]
    if not spans:
        return Windows(np.zeros((0, 2)), {})
    times_s = np.unique(np.concatenate(spans), axis=0)
    weights = {modality: {VIDEO: 1.0, AUDIO: audio_weight}[modality] for modality in found}
    full = sum(weights.values()) or 1.0
    reasons: dict[Reason, Activation] = {}
    for modality, read in found.items():
        own = np.argsort(read.times_s[:, 0], kind="stable")
        at = find_rows(times_s, read.times_s[own])
        new = measure_novelty(read.vectors[own])
        change = measure_change(read.vectors[own])
        share = np.full(len(own), weights[modality] / full / (1 + CHANGE_WEIGHT))
        if modality == VIDEO:
            share[read.one_colour[own]] = 0.0
        elif len(loudness):
            share /= 1 + LOUD_WEIGHT
            loud = measure_loudness(loudness, times_s[at], duration_s)
            share[loud == 0] = 0.0
            above = np.clip(loud - np.median(loud), 0.0, 1.0)
            weight = (1 + CHANGE_WEIGHT) * LOUD_WEIGHT
            reasons[LOUD] = spread(share * weight * above, at, len(times_s))
        reasons[NEW[modality]] = spread(share * new, at, len(times_s))
        reasons[CHANGE[modality]] = spread(share * CHANGE_WEIGHT * change, at, len(times_s))
    return Windows(times_s, reasons)


def find_rows(among: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.intp]:
    """Where rows [m, 2] stand among others [n, 2], which are sorted and have them all."""
    places = {tuple(row): place for place, row in enumerate(among.tolist())}
    return np.array([places[tuple(row)] for row in rows.tolist()], np.intp)


def spread(values: Activation, at: NDArray[np.intp], count: int) -> Activation:
    """Values [m] at places [m] of so many, zeros elsewhere."""
    out = np.zeros(count)
    out[at] = values
    return out


def measure_novelty(vectors: NDArray[np.float32]) -> Activation:
    """How unlike the others of an item each of its windows is, [n] in [0, 1], from unit vectors
    [n, dim] in the order of time: the distance of the nearest ones, of which a share RARE_SHARE is
    let go.

    >>> east, north = [1.0, 0.0], [0.0, 1.0]
    >>> measure_novelty(np.array([east, east, north, east], np.float32)).tolist()
    [0.0, 0.0, 1.0, 0.0]
    """
    count = len(vectors)
    if count < 2:
        return np.zeros(count)
    chosen = np.unique(np.linspace(0, count - 1, min(count, COMPARED_MOST)).astype(int))
    rank = max(1, math.ceil(RARE_SHARE * (len(chosen) - 1)))
    out = np.empty(count)
    for start in range(0, count, COMPARED_MOST):
        part = np.arange(start, min(start + COMPARED_MOST, count))
        likeness = vectors[part] @ vectors[chosen].T
        likeness[part[:, None] == chosen[None, :]] = -1.0  # itself
        out[part] = 1.0 - np.partition(likeness, -rank, axis=1)[:, -rank]
    return out.clip(0.0, 1.0)


def measure_change(vectors: NDArray[np.float32]) -> Activation:
    """How unlike the window before each window is, [n] in [0, 1], from unit vectors [n, dim] in the
    order of time; 0 for the first.

    >>> east, north = [1.0, 0.0], [0.0, 1.0]
    >>> measure_change(np.array([east, east, north, north], np.float32)).tolist()
    [0.0, 0.0, 1.0, 0.0]
    """
    likeness = (vectors[1:] * vectors[:-1]).sum(axis=1)
    return np.concatenate([np.zeros(min(len(vectors), 1)), 1.0 - likeness]).clip(0.0, 1.0)


def measure_loudness(
    loudness: NDArray[np.float64], times_s: NDArray[np.float64], duration_s: float
) -> Activation:
    """The loudest of each window [n, 2], [n] in [0, 1].

    >>> halves = np.array([[0.0, 2.0], [2.0, 4.0]])
    >>> measure_loudness(np.array([0.1, 0.5, 0.2, 1.0]), halves, 4.0).tolist()
    [0.5, 1.0]
    """
    parts = len(loudness)
    edges = np.asarray(times_s) / max(duration_s, 1e-9) * parts
    first = np.floor(edges[:, 0] + 1e-6).astype(int).clip(0, parts - 1)
    last = np.ceil(edges[:, 1] - 1e-6).astype(int)
    pairs = zip(first, last, strict=True)
    return np.array([loudness[a : max(b, a + 1)].max() for a, b in pairs], np.float64)


def choose(windows: Windows, limit: int) -> list[Highlight]:
    """The strongest stretches, the best first. No two overlap."""
    activation = windows.activation
    times_s = windows.times_s
    free = np.ones(len(activation), bool)
    found: list[Highlight] = []
    while free.any() and len(found) < limit:
        best = int(np.where(free, activation, -1.0).argmax())
        score = float(activation[best])
        if found and (score == 0.0 or score < LEAST_SHARE * found[0].score):
            break
        first, last = widen(activation, times_s, free, best)
        start_s = float(times_s[first, 0])
        end_s = float(times_s[last, 1])
        found.append(Highlight(start_s, end_s, min(score, 1.0), explain(windows, best)))
        free &= (times_s[:, 1] <= start_s) | (times_s[:, 0] >= end_s)
    return found


def widen(
    activation: Activation, times_s: NDArray[np.float64], free: NDArray[np.bool_], best: int
) -> tuple[int, int]:
    """The first and the last window of the stretch around one window."""
    wanted = free & (activation >= WIDE_SHARE * activation[best]) & (activation > 0)
    first = last = best
    while True:
        sides = []
        if first > 0 and wanted[first - 1] and times_s[first - 1, 1] >= times_s[first, 0]:
            sides.append((activation[first - 1], first - 1, last))
        if last + 1 < len(wanted) and wanted[last + 1] and times_s[last, 1] >= times_s[last + 1, 0]:
            sides.append((activation[last + 1], first, last + 1))
        fitting = [
            (strength, a, b)
            for strength, a, b in sides
            if times_s[b, 1] - times_s[a, 0] <= LONGEST_S
        ]
        if not fitting:
            return first, last
        _, first, last = max(fitting)


def explain(windows: Windows, at: int) -> list[Reason]:
    """What contributed to a window's activation, the most important first."""
    shares = {reason: float(values[at]) for reason, values in windows.reasons.items()}
    total = sum(shares.values())
    named = [reason for reason, share in shares.items() if share > NAMED_SHARE * total]
    return sorted(named, key=lambda reason: -shares[reason])
