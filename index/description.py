"""Words for a clip: the sentences of a bank that fit it best, with where they hold. Nothing is
written anew: a sentence is found by its vector, as a search finds windows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from export.bundle import parse_modality
from export.encoder import Encoder
from media.modality import AUDIO, VIDEO

from .collection import Collection
from .records.tags import Readings, TaggedWindow
from .tagging import TagMoment, merge_tags
from .vocabulary import make_readings, read_vocabulary

# A sentence holds in windows where it is at least this share as probable as in its best.
HOLDS_SHARE = 0.5
TEMPLATES = {VIDEO: "a picture of {}", AUDIO: "the sound of {}"}


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A sentence with where it holds, the surest first; the moments have the name of the bank that
    it was made of. The score, the best of its moments', is how probable it is.
    """

    text: str
    modality: str
    score: float
    moments: list[TagMoment]


def make_sentence(name: str, modality: str) -> str:
    """A name of a vocabulary as a sentence.

    >>> make_sentence("Chicken, rooster", "audio"), make_sentence("Police car (siren)", "video")
    ('the sound of chicken', 'a picture of police car')
    """
    first = name.partition(",")[0].partition("(")[0].strip()
    plain = first[:1].lower() + first[1:] if first[1:] == first[1:].lower() else first
    return TEMPLATES[modality].format(plain)


def describe(
    collection: Collection,
    id: str,
    readings: Mapping[str, Readings],
    limit: int,
    phrase: Callable[[str, str], str],
) -> list[Sentence]:
    """The best sentences for an item, at most `limit` in each modality, by the `readings` of a bank
    from each encoding. `phrase` makes a sentence of a name and a modality.

    Raises:
        UnknownItem.
    """
    sentences = []
    for encoding, bank in readings.items():
        stretches, vectors = collection.windows(id, encoding)
        if not len(vectors):
            continue
        modality = parse_modality(encoding)
        # Of "a picture of a beagle" and "a picture of an animal", the first says more.
        odds = bank.own_odds(vectors).astype(np.float64)
        scores = 1.0 / (1.0 + np.exp(-odds))
        for n in np.argsort(-odds.max(axis=0), kind="stable")[:limit].tolist():
            text = phrase(bank.names[n], modality)
            least = HOLDS_SHARE * scores[:, n].max()
            moments = merge_tags(
                TaggedWindow(bank.names[n], encoding, *stretches[row], float(scores[row, n]))
                for row in np.flatnonzero(scores[:, n] >= least).tolist()
            )
            best = moments[0].score
            sentences.append(Sentence(text=text, modality=modality, score=best, moments=moments))
    return sorted(sentences, key=lambda sentence: -sentence.score)


# The user's own sentences, by encoder: of which file, and how they are read.
_banks: WeakKeyDictionary[Encoder, tuple[tuple[str, int], dict[str, Readings]]] = (
    WeakKeyDictionary()
)


def read_bank(path: Path, encoder: Encoder) -> dict[str, Readings]:
    """How the sentences of a file are read from each encoding; kept until the file changes.

    Raises:
        BadVocabulary, OSError.
    """
    version = (str(path), path.stat().st_mtime_ns)
    kept = _banks.get(encoder)
    if kept is None or kept[0] != version:
        kept = version, make_readings(read_vocabulary(path), encoder)
        _banks[encoder] = kept
    return kept[1]


def tag_readings(collection: Collection) -> dict[str, Readings]:
    """How the names of a tagged collection are read."""
    with collection.hold_for_reading() as records:
        return {encoding: found for encoding, (_, found) in records.tags.readings().items()}
