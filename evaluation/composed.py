"""Sounds put together in time, and groups of them: whether an encoder hears what comes first.

A group is two sounds, of the same two recordings in either order, and the two texts. It is scored
as Winoground scores pictures (arXiv 2204.03162). The modality gap is measured here, too. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORDS = (
    ("{0}, then {1}", "{1}, then {0}"),
    ("{0} before {1}", "{1} before {0}"),
    ("{1} after {0}", "{0} after {1}"),
)
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
    right, swapped = WORDS[number % len(WORDS)]
    return right.format(first, second), swapped.format(first, second)


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
