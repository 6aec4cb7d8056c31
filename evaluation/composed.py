"""Sounds put together, and groups of them: whether an encoder hears what comes first, or is louder.

A group is two sounds, of the same two recordings put together either way, and the two texts. It is
scored as Winoground scores pictures (arXiv 2204.03162). The modality gap is measured here, too. No
torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

ORDERS = (
    ("{0}, then {1}", "{1}, then {0}"),
    ("{0} before {1}", "{1} before {0}"),
    ("{1} after {0}", "{0} after {1}"),
)
LEVELS = (
    ("{0}, with {1} in the background", "{1}, with {0} in the background"),
    ("{0} close by and {1} far away", "{0} far away and {1} close by"),
    ("{0}, loud, and {1}, quiet", "{0}, quiet, and {1}, loud"),
)
BACKGROUND = 0.25  # the level of a sound behind another one, 12 dB below it
SILENT_TAIL = 0.15  # of a window, so that a composed sound may be moved and not go round
CHANCE = 1 / 6  # of a group's score


def put_together(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """The beginnings of two sounds one after the other, along their first axis, of one's length.

    >>> put_together(np.ones(20), np.full(20, 2.0)).astype(int).tolist()
    [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0]
    """
    out = np.zeros_like(first)
    half = int(len(first) * (1 - SILENT_TAIL) / 2)
    out[:half] = first[:half]
    out[half : 2 * half] = second[:half]
    return out


def say_in_order(first: str, second: str, number: int) -> tuple[str, str]:
    """The caption of two sounds in their order, and that of the other order.

    >>> say_in_order("rain", "a dog", 0)
    ('rain, then a dog', 'a dog, then rain')
    """
    return say(ORDERS, first, second, number)


def overlay(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """Two sounds [samples] at once, the second in the background, whatever their own levels.

    >>> overlay(np.array([0.5, -0.5, 0, 0]), np.array([0, 0, 0.1, 0.1])).tolist()
    [0.5, -0.5, 0.125, 0.125]
    """
    sounds = [x.astype(np.float32) for x in (first, second)]
    levels = [level_of(x) for x in sounds]
    mixed = sounds[0] + BACKGROUND * levels[0] / levels[1] * sounds[1]
    fitting = mixed / max(1.0, float(np.abs(mixed).max()))
    return np.asarray(fitting, first.dtype)


def level_of(sound: NDArray[np.float32]) -> float:
    """The root mean square of the samples that are not zero; never zero."""
    return float(np.sqrt(np.square(sound).sum() / max(1, np.count_nonzero(sound)) + 1e-12))


def say_levels(first: str, second: str, number: int) -> tuple[str, str]:
    """The caption of a loud and a quiet sound, and that of the other one being loud.

    >>> say_levels("rain", "a dog", 1)
    ('rain close by and a dog far away', 'rain far away and a dog close by')
    """
    return say(LEVELS, first, second, number)


def say(
    templates: tuple[tuple[str, str], ...], first: str, second: str, number: int
) -> tuple[str, str]:
    right, swapped = templates[number % len(templates)]
    return right.format(first, second), swapped.format(first, second)


def split_in_order(text: str) -> tuple[str, str] | None:
    """What a text says to come first, and what comes second; None if it says no order.

    >>> split_in_order("a dog after rain"), split_in_order("rain on a dog")
    (('rain', 'a dog'), None)
    """
    for words, turned in ((", then ", False), (" before ", False), (" after ", True)):
        one, found, other = text.partition(words)
        if found:
            return (other, one) if turned else (one, other)
    return None


def bind(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float32]:
    """What comes first and what comes second, unit vectors [n, E] each, as one: unit(x + R y).

    R is a random rotation, the same everywhere, so that the two do not meet: matrix binding of
    additive terms (Gallant and Okaywe, 1501.07627). See `rotation` for what is bound with itself.

    >>> rain, dog = np.eye(384, dtype=np.float32)[:2]
    >>> one, other = bind(rain[None], dog[None]), bind(dog[None], rain[None])
    >>> bool(one @ one.T > 0.99), bool(abs(one @ other.T) < 0.2)
    (True, True)
    """
    summed = first + second @ rotation(first.shape[-1])
    return np.asarray(summed / np.linalg.norm(summed, axis=-1, keepdims=True), np.float32)


@lru_cache(maxsize=4)
def rotation(dim: int) -> NDArray[np.float32]:
    """A rotation [dim, dim] by a right angle in random planes, always the same; dim is even.

    Every vector is at a right angle to what it becomes. So vectors that are each bound with
    themselves have the cosines that they had before: R + R' = 0, and (I + R)' (I + R) = 2 I.

    >>> turn = rotation(4)
    >>> np.allclose(turn, -turn.T, atol=1e-6), np.allclose(turn @ turn.T, np.eye(4), atol=1e-6)
    (True, True)
    """
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, dim)))[0]
    planes = np.kron(np.eye(dim // 2), [[0.0, 1.0], [-1.0, 0.0]])
    return np.asarray(basis @ planes @ basis.T, np.float32)


@dataclass(frozen=True, kw_only=True)
class Composition:
    """A way to put two sounds together. The other way round, `put` gives another sound.

    `say` gives the caption of what `put` gives, and that of the other way round. Its number says
    in which words. `tail` is the share of a window that `put` leaves silent.
    """

    tail: float
    put: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
    say: Callable[[str, str, int], tuple[str, str]]


COMPOSITIONS = {
    "order": Composition(tail=SILENT_TAIL, put=put_together, say=say_in_order),
    "attribute": Composition(tail=0.0, put=overlay, say=say_levels),
}


def score_groups(scores: NDArray[np.floating[Any]]) -> dict[str, float]:
    """Winoground's scores of groups of two sounds and two texts, [groups, sounds, texts].

    `text` is how often each sound's likest text is its own, `sound` how often each text's likest
    sound is, `group` how often both are so. By chance they are 1/4, 1/4 and 1/6.

    >>> score_groups(np.array([[[0.9, 0.1], [0.5, 0.6]], [[0.9, 0.1], [0.95, 0.97]]]))
    {'text': 1.0, 'sound': 0.5, 'group': 0.5}
    """
    own = scores[:, [0, 1], [0, 1]]  # [groups, 2]
    text = (own > scores[:, [0, 1], [1, 0]]).all(1)
    sound = (own > scores[:, [1, 0], [0, 1]]).all(1)
    return {
        "text": float(text.mean()),
        "sound": float(sound.mean()),
        "group": float((text & sound).mean()),
    }


def measure_gaps(vectors: Mapping[str, NDArray[np.floating[Any]]]) -> dict[str, float]:
    """The distance of the mean vectors of each two modalities, from vectors [n, E] of each.

    >>> measure_gaps({"text": np.eye(2), "audio": np.array([[0.5, 1.5]])})
    {'audio-text': 1.0}
    """
    means = {name: x.mean(axis=0) for name, x in vectors.items() if len(x)}
    return {
        f"{a}-{b}": float(np.linalg.norm(means[a] - means[b]))
        for a, b in combinations(sorted(means), 2)
    }
