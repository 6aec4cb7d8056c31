"""The names that windows are tagged with, and how they are read from vectors.

Some names are near everything. So what a name scores in a window is compared with what it scores
against other names, those of the default vocabulary: by how many standard deviations it is above
their mean. `tag_scales` says how sure a tag is by that.

A name that stands for several, such as "Dog" for a hundred breeds, is seen where one of them is.

BadVocabulary    a file that is no list of names
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from export.encoder import Encoder
from media.manifest import check_string
from media.modality import AUDIO, TEXT, VIDEO

from .collection import Collection, CollectionError
from .records.tags import NO_PARENTS, Readings
from .tag_scales import SCALES, find_scale

DEFAULT = Path(__file__).with_name("vocabulary.txt")
PARENTS = Path(__file__).with_name("vocabulary_parents.txt")
DEFAULT_SOURCE = "default"
OWN_SOURCE = "own"
NAMES_MAX = 20_000
NAME_MAX = 200  # characters
BATCH = 64  # names embedded at once
TAGGED = (VIDEO, AUDIO)
# The probability from which on a window has a tag.
THRESHOLD = 0.5
# Tags that a window has at most in a modality.
MOST = 10
# The covariance of names is shrunk by this share of its mean variance.
SHRINKAGE = 0.3
LEAST_VARIANCE = 1e-4


class BadVocabulary(CollectionError):
    detail_fields = ("problem",)

    def __init__(self, problem: str) -> None:
        super().__init__(f"no vocabulary: {problem}")
        self.problem = problem


@dataclass(frozen=True)
class Vocabulary:
    """Names by the modality that they are read from, and where they are from: "default", or a list
    of the user's own.
    """

    names: dict[str, tuple[str, ...]]
    source: str

    def __len__(self) -> int:
        return len({name for names in self.names.values() for name in names})


def parse_vocabulary(text: str, source: str) -> Vocabulary:
    """A vocabulary from a text with a name a line. "audio:" or "video:" before a name says that it
    is only heard or only seen. Empty lines, and those that begin with "#", are left out.

    Raises:
        BadVocabulary: it has no names, or too many, or one that is too long.

    >>> parse_vocabulary("dog\\naudio: rain", "own").names
    {'video': ('dog',), 'audio': ('dog', 'rain')}
    """
    names: dict[str, dict[str, str]] = {modality: {} for modality in TAGGED}
    for line in text.splitlines():
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        modalities: tuple[str, ...] = TAGGED
        before, colon, after = name.partition(":")
        if colon and before in TAGGED:
            modalities = (before,)
            name = after.strip()
        if not 0 < len(name) <= NAME_MAX:
            raise BadVocabulary(f"a name has 1 to {NAME_MAX} characters")
        for modality in modalities:
            names[modality].setdefault(name.casefold(), check_string(name))
    if not any(names.values()):
        raise BadVocabulary("it has no names")
    if max(map(len, names.values())) > NAMES_MAX:
        raise BadVocabulary(f"it has more than {NAMES_MAX} names")
    return Vocabulary(
        {modality: tuple(found.values()) for modality, found in names.items()}, source
    )


def read_vocabulary(path: Path) -> Vocabulary:
    """The user's own names from a UTF-8 file. Raises BadVocabulary, OSError."""
    try:
        return parse_vocabulary(path.read_text(encoding="utf-8-sig"), OWN_SOURCE)
    except ValueError as error:
        raise BadVocabulary(f"{path.name} is not UTF-8") from error


def default_vocabulary() -> Vocabulary:
    """The names that the default encoder's networks know."""
    return parse_vocabulary(DEFAULT.read_text(encoding="utf-8"), DEFAULT_SOURCE)


@cache
def read_parents() -> dict[str, tuple[str, ...]]:
    """The names that stand for several in pictures, by each of these; all case-folded."""
    parents: dict[str, list[str]] = {}
    for line in PARENTS.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        parent, _, children = line.casefold().partition(" > ")
        for child in children.split("; "):
            parents.setdefault(child, []).append(parent)
    return {child: tuple(found) for child, found in parents.items()}


def pair_parents(names: Sequence[str], modality: str) -> NDArray[np.int64]:
    """Pairs [p, 2] of places of names: what is the first is the second, too. In sounds there are
    none: an encoder that hears knows general names as well.

    >>> pair_parents(["beagle", "a boat", "dog"], "video").tolist()
    [[0, 2]]
    """
    if modality != VIDEO:
        return NO_PARENTS
    places = {name.casefold(): n for n, name in enumerate(names)}
    pairs = [
        (place, places[parent])
        for name, place in places.items()
        for parent in read_parents().get(name, ())
        if parent in places
    ]
    return np.array(pairs, np.int64).reshape(-1, 2)


# ---------------------------------------------------------------- read from vectors

# The default names' vectors, by encoder and encoding.
_background: WeakKeyDictionary[Encoder, dict[str, NDArray[np.float32]]] = WeakKeyDictionary()


def embed_names(encoder: Encoder, encoding: str, names: Iterable[str]) -> NDArray[np.float32]:
    """Texts as unit vectors [n, dim], those of about the same length together."""
    texts = list(names)
    order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
    vectors = np.zeros((len(texts), encoder.manifest.dims[encoding]), np.float32)
    for first in range(0, len(order), BATCH):
        batch = order[first : first + BATCH]
        tokens = encoder.tokens([texts[n] for n in batch], encoding)
        vectors[batch] = encoder.embed(encoding, tokens)
    return vectors


def background(encoder: Encoder, encoding: str, modality: str | None) -> NDArray[np.float32]:
    """The vectors [n, dim] of the default vocabulary's names of a modality; of None, of all."""
    names = default_vocabulary().names
    every = list(dict.fromkeys(name for each in TAGGED for name in names[each]))
    by_encoding = _background.setdefault(encoder, {})
    if encoding not in by_encoding:
        by_encoding[encoding] = embed_names(encoder, encoding, every)
    if modality is None:
        return by_encoding[encoding]
    places = {name: n for n, name in enumerate(every)}
    return by_encoding[encoding][[places[name] for name in names[modality]]]


def calibrate_names(
    vectors: NDArray[np.float32], others: NDArray[np.float32], half_at: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Directions [n, dim] and offsets [n] of names with `vectors` [n, dim], such that a score that
    is `half_at` standard deviations above the mean of `others` [k, dim] is of log-odds zero.

    Directions are those of linear discriminant analysis: the names' vectors by the inverse
    covariance of the others, so that what many names share counts little.

    >>> others = np.array([[0.5, 0.1], [0.5, -0.1]], np.float32)  # a deviation of 0.1 in the second
    >>> name = np.array([[0.0, 1.0]], np.float32)
    >>> directions, offsets = calibrate_names(name, others, 2.0)
    >>> (directions @ [9.0, 0.3] + offsets).round(2)  # 0.3 is three deviations
    array([0.99])
    """
    mean = others.mean(axis=0, dtype=np.float64)
    centred = others - mean
    width = others.shape[1]
    covariance = centred.T @ centred / len(others) + LEAST_VARIANCE * np.eye(width)
    shrunk = covariance + SHRINKAGE * np.trace(covariance) / width * np.eye(width)
    directions = np.linalg.solve(shrunk, vectors.T.astype(np.float64)).T
    variances = ((directions @ covariance) * directions).sum(axis=1)
    directions /= np.sqrt(np.maximum(variances, 1e-12))[:, None]
    offsets = -directions @ mean - half_at
    return directions.astype(np.float32), offsets.astype(np.float32)


def make_readings(vocabulary: Vocabulary, encoder: Encoder) -> dict[str, Readings]:
    """How a vocabulary is read from each encoding of pictures and of sound that texts compare
    with.
    """
    readings = {}
    for modality in TAGGED:
        names = vocabulary.names[modality]
        for encoding in encoder.manifest.encodings(modality) if names else ():
            texts = find_text_encoding(encoder, encoding)
            if texts is not None:
                others = background(encoder, texts, modality)
                vectors = embed_names(encoder, texts, names)
                scale = find_scale(modality, encoder.manifest.fingerprint)
                scores = calibrate_names(vectors, others, 0.0)
                directions, offsets = scale.odds(names, *scores)
                readings[encoding] = Readings(
                    names,
                    directions,
                    offsets,
                    THRESHOLD,
                    MOST,
                    contrast=scale.contrast,
                    parents=pair_parents(names, modality),
                )
    return readings


def find_text_encoding(encoder: Encoder, encoding: str) -> str | None:
    """The encoding of texts that compares with another; None where there is none."""
    for texts in encoder.manifest.encodings(TEXT):
        if encoder.manifest.compares(texts, encoding):
            return texts
    return None


@cache
def digest_of_reading() -> str:
    """Tells how vocabularies are read: another where scales or parents have changed."""
    return hashlib.sha256(SCALES.read_bytes() + PARENTS.read_bytes()).hexdigest()[:16]


def describe_source(vocabulary: Vocabulary) -> str:
    """What a collection keeps of a vocabulary, as JSON: the names that no vector is of, too, and
    how they are read.
    """
    about = {"source": vocabulary.source, "names": vocabulary.names, "read": digest_of_reading()}
    return json.dumps(about, ensure_ascii=False)


def parse_source(kept: str) -> Vocabulary:
    """What `describe_source` has written."""
    about = json.loads(kept)
    names = {modality: tuple(found) for modality, found in about["names"].items()}
    return Vocabulary(names, about["source"])


def vocabulary_of(collection: Collection) -> Vocabulary | None:
    """The vocabulary that a collection is tagged with; None where it is not yet tagged."""
    kept = collection.vocabulary_source()
    return None if kept is None else parse_source(kept)


def apply_vocabulary(collection: Collection, encoder: Encoder, vocabulary: Vocabulary) -> None:
    """Tag every window of a collection by a vocabulary, and from now on those that are added."""
    readings = make_readings(vocabulary, encoder)
    collection.set_vocabulary(readings, describe_source(vocabulary))


def ensure_vocabulary(
    collection: Collection, encoder: Encoder, preferred: Vocabulary | None = None
) -> None:
    """Tag a collection that is not tagged yet, by the default vocabulary if no other is preferred.
    One that is tagged by an earlier default is tagged anew, and so is one whose names were read
    in another way.
    """
    now = vocabulary_of(collection)
    if now is None:
        wanted = preferred or default_vocabulary()
    elif now.source == DEFAULT_SOURCE:
        wanted = default_vocabulary()
    else:
        wanted = now
    if collection.vocabulary_source() != describe_source(wanted):
        apply_vocabulary(collection, encoder, wanted)
