"""How well sound and picture agree, by stored vectors: for items and for windows.

A window's agreement is the share of pairs by chance, of pictures and sounds of different items of
the collection, whose cosine is lower. So 0.5 is chance, in whatever space and collection. An item
has the mean of its windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.bundle import Manifest
from media.modality import AUDIO, VIDEO

from .collection import Collection, NoVectors
from .columns import Ids
from .records.agreements import Agreed
from .spread import Vectors

# Pairs by chance, and the windows that they are drawn from at most.
PAIRS = 20_000
SAMPLE = 4_000
# Windows whose vectors are in memory at a time.
CHUNK = 16_384
DECIMALS = 4


@dataclass(frozen=True, kw_only=True)
class ItemAgreement:
    """`agreement` is in [0, 1], 0.5 by chance. `cosine` is the mean of so many windows."""

    id: str
    agreement: float
    cosine: float
    windows: int


@dataclass(frozen=True, kw_only=True)
class WindowAgreement:
    start_s: float
    end_s: float
    agreement: float
    cosine: float


@dataclass(frozen=True, kw_only=True)
class AgreementOverview:
    """The items that have pictures and sound, in their order, and the mean cosine of pairs by
    chance.
    """

    by_chance: float
    total: int
    items: list[ItemAgreement]


@dataclass(frozen=True)
class Pairs:
    """Windows [n] with pictures and sound: their items' numbers, times [n, 2] in seconds, and
    vectors [n, dim] of both.
    """

    items: Ids
    times_s: NDArray[np.float64]
    video: Vectors
    audio: Vectors

    @property
    def cosines(self) -> Vectors:
        found: Vectors = np.einsum("nd,nd->n", self.video, self.audio)
        return found

    def by_chance(self) -> Vectors:
        """Cosines of pictures and sounds of different items, ascending; empty where there is one
        item only.
        """
        if not len(self.items):
            return np.empty(0, np.float32)
        first, second = np.random.default_rng(0).integers(len(self.items), size=(2, PAIRS))
        apart = self.items[first] != self.items[second]
        cosines = np.einsum("nd,nd->n", self.video[first[apart]], self.audio[second[apart]])
        return np.sort(cosines)


@dataclass(frozen=True)
class Compared:
    """The encodings of pictures and sound of a collection, and the windows [n] that have both."""

    collection: Collection
    encodings: tuple[str, str]
    windows: Ids

    @classmethod
    def of(cls, collection: Collection, manifest: Manifest) -> Compared:
        """Raises NoRoute: the two cannot be compared."""
        encodings = compare_encodings(manifest)
        with collection.hold_for_reading() as records:
            video, audio = (records.window_table(encoding).windows for encoding in encodings)
            return cls(collection, encodings, np.intersect1d(video, audio))

    def read(self, windows: Ids) -> Pairs:
        """Some of the windows, those that are there still."""
        with self.collection.hold_for_reading() as records:
            tables = [records.window_table(encoding) for encoding in self.encodings]
            there = windows
            found: list[tuple[Ids, Vectors]] = []
            for encoding, table in zip(self.encodings, tables, strict=True):
                ids = table.ids[np.flatnonzero(np.isin(table.windows, windows))]
                known, vectors = records.read_vectors(ids, self.collection.dims[encoding])
                own = table.windows[table.find(known)]
                order = np.argsort(own, kind="stable")
                found.append((own[order], vectors[order]))
                there = np.intersect1d(there, own)
            video, audio = (vectors[np.isin(own, there)] for own, vectors in found)
            rows = np.flatnonzero(np.isin(tables[0].windows, there))
            rows = rows[np.argsort(tables[0].windows[rows], kind="stable")]
            places = tables[0].places(rows.tolist())
            times_s = np.array([(place.start_s, place.end_s) for place in places], np.float64)
            return Pairs(tables[0].items[rows], times_s.reshape(-1, 2), video, audio)

    def by_chance(self) -> Vectors:
        """Cosines of pairs by chance, ascending, of a sample of the windows."""
        windows = self.windows
        if len(windows) > SAMPLE:
            windows = np.random.default_rng(1).choice(windows, SAMPLE, replace=False)
        return self.read(np.sort(windows)).by_chance()


def compare_encodings(manifest: Manifest) -> tuple[str, str]:
    """The encodings of pictures and sound that can be compared. Raises NoRoute."""
    (route,) = manifest.routes([VIDEO], AUDIO)
    return route.encodings[VIDEO], route.encodings[AUDIO]


def rate(cosines: Vectors, by_chance: Vectors) -> NDArray[np.float64]:
    """The share of pairs by chance [m], ascending, below each cosine [n]; a half where there are
    none.

    >>> rate(np.array([0.5], np.float32), np.array([0.1, 0.2, 0.6], np.float32)).round(2).tolist()
    [0.67]
    """
    if not len(by_chance):
        return np.full(len(cosines), 0.5)
    return by_chance.searchsorted(cosines) / len(by_chance)


def measure(compared: Compared) -> tuple[list[Agreed], Vectors]:
    """The agreement of every item, and the cosines of pairs by chance. Searches come between."""
    by_chance = compared.by_chance()
    items: list[Ids] = []
    cosines: list[Vectors] = []
    for first in range(0, len(compared.windows), CHUNK):
        pairs = compared.read(compared.windows[first : first + CHUNK])
        items.append(pairs.items)
        cosines.append(pairs.cosines)
    if not items:
        return [], by_chance
    values = np.concatenate(cosines)
    numbers, owners, counts = np.unique(
        np.concatenate(items), return_inverse=True, return_counts=True
    )
    means = np.bincount(owners, values) / counts
    scores = np.bincount(owners, rate(values, by_chance)) / counts
    columns = (numbers.tolist(), counts.tolist(), means.tolist(), scores.tolist())
    return [Agreed(*row) for row in zip(*columns, strict=True)], by_chance


def ensure_agreement(collection: Collection, manifest: Manifest) -> None:
    """Have filters know how sound and picture agree, of all windows there are. Raises NoRoute."""
    encodings = compare_encodings(manifest)
    with collection.measuring:  # else an older measurement might replace a newer one
        # taken first: what is added while it is measured is measured the next time
        state = collection.agreement_state(encodings)
        if not collection.has_agreement(state):
            rows, _ = measure(Compared.of(collection, manifest))
            collection.set_agreement(rows, state)


def list_agreement(
    collection: Collection, manifest: Manifest, *, lowest: bool, limit: int, skip: int = 0
) -> AgreementOverview:
    """Items by their agreement, the highest or the lowest first. Raises NoRoute."""
    rows, by_chance = measure(Compared.of(collection, manifest))
    rows.sort(key=lambda row: (row.score if lowest else -row.score, row.item))
    chosen = rows[skip : skip + limit]
    with collection.hold_for_reading() as records:
        about = records.about([row.item for row in chosen])
    items = [
        ItemAgreement(
            id=about[row.item].id,
            agreement=round(row.score, DECIMALS),
            cosine=round(row.cosine, DECIMALS),
            windows=row.windows,
        )
        for row in chosen
        if row.item in about
    ]
    mean = float(by_chance.mean()) if len(by_chance) else 0.0
    return AgreementOverview(by_chance=round(mean, DECIMALS), total=len(rows), items=items)


def window_agreement(collection: Collection, manifest: Manifest, id: str) -> list[WindowAgreement]:
    """An item's windows in the order of time.

    Raises:
        NoRoute, UnknownItem.
        NoVectors: no window of the item has pictures and sound.
    """
    compared = Compared.of(collection, manifest)
    with collection.hold_for_reading() as records:
        table = records.window_table(compared.encodings[0])
        own = table.windows[table.items == records.number(id)]
    pairs = compared.read(np.intersect1d(own, compared.windows))
    if not len(pairs.items):
        raise NoVectors(id, "pictures and sound")
    cosines = pairs.cosines
    columns = (pairs.times_s.tolist(), rate(cosines, compared.by_chance()), cosines.tolist())
    return [
        WindowAgreement(
            start_s=start_s,
            end_s=end_s,
            agreement=round(float(score), DECIMALS),
            cosine=round(cosine, DECIMALS),
        )
        for (start_s, end_s), score, cosine in zip(*columns, strict=True)
    ]
