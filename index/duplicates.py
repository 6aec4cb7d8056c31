"""Near-duplicates: items of the same sound or the same pictures under other names, in other
containers or codecs, of another size or rate.

Two items are compared where their lengths agree and their vectors are close. What is then compared
is what was kept of them for people: how loud the sound is from its start to its end, and the
pictures of the windows. So two sounds of one kind, which have similar vectors, are not taken for
one recording.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from export.bundle import parse_modality

from .collection import Collection
from .ingest.names import make_printable
from .records.database import MediaRow, Records

LENGTH_S, LENGTH_SHARE = 0.3, 0.01  # by which lengths of copies differ at most
CLOSE = 0.8  # cosine of two items' mean vectors from which on they are compared
ALIKE_SOUND = 0.9  # correlation of loudness
ALIKE_PICTURES = 0.9  # correlation of pictures, as a mean over windows
LAG_MOST = 4  # stretches of loudness by which codecs may shift a sound
SIDE = 16  # pixels, of the pictures that are compared
FLAT = 2.0  # standard deviation, of 255 steps, below which nothing varies that could be compared
FLAT_CLOSE = 0.99  # the cosine that is asked for where nothing varies
PICTURES = 24  # of one item that are compared, at most
BLOCK = 1024  # items compared with others at once


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """An item, and the item that was there before it. `same` names what both have in common:
    "content" (the files are equal), "audio", "video"; `likeness` is the lower of the correlations
    that say so.
    """

    id: str
    original: str
    same: tuple[str, ...]
    likeness: float


class Pair(NamedTuple):
    """Two rows of the items, the earlier one first, with the cosines by modality."""

    first: int
    second: int
    close: dict[str, float]


@dataclass
class Looks:
    """What is kept of items for people, read once."""

    records: Records
    peaks: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    pictures: dict[int, dict[int, NDArray[np.float64]]] = field(default_factory=dict)

    def loudness(self, item: MediaRow) -> NDArray[np.float64]:
        if item.n not in self.peaks:
            found = np.frombuffer(self.records.peaks(item.id), np.uint8)
            self.peaks[item.n] = found.astype(np.float64)
        return self.peaks[item.n]

    def small(self, item: MediaRow) -> dict[int, NDArray[np.float64]]:
        """Small grey pictures by the middle of their window, in tenths of a second."""
        if item.n not in self.pictures:
            rows = self.records.pictures(item.n, PICTURES)
            self.pictures[item.n] = {
                round(5 * (start_s + end_s)): shrink(jpeg) for start_s, end_s, jpeg in rows
            }
        return self.pictures[item.n]


def find_duplicates(collection: Collection) -> list[Duplicate]:
    """The items that are near-duplicates of an earlier one, in the order in which they were added.
    Each is named with the earliest that it is like.
    """
    with collection.hold_for_reading() as records:
        items = records.media_rows()
        means = {
            encoding: mean_directions(collection, records, encoding, items)
            for encoding in collection.dims
            if parse_modality(encoding) != "text"
        }
        looks = Looks(records)
        found: dict[int, Duplicate] = {}
        for pair in close_pairs(items, means):
            earlier = items[pair.first]
            later = items[pair.second]
            if pair.second in found or pair.first in found:
                continue
            match = compare(earlier, later, pair.close, looks)
            if match is not None:
                found[pair.second] = match
    return [found[row] for row in sorted(found)]


def mean_directions(
    collection: Collection, records: Records, encoding: str, items: list[MediaRow]
) -> NDArray[np.float32]:
    """The mean direction of each item's vectors [n, dim]; zeros where it has none."""
    rows = {item.n: row for row, item in enumerate(items)}
    sums = np.zeros((len(items), collection.dims[encoding]), np.float32)
    table = records.window_table(encoding)
    for ids, vectors in records.vectors_after(encoding, 0, collection.dims[encoding]):
        numbers = table.items[table.find(ids)]
        places = np.array([rows.get(n, -1) for n in numbers.tolist()])
        np.add.at(sums, places[places >= 0], vectors[places >= 0])
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.asarray(sums / np.maximum(norms, 1e-12), np.float32)


def close_pairs(items: list[MediaRow], means: dict[str, NDArray[np.float32]]) -> Iterator[Pair]:
    """Pairs of items of equal content, or of like length and close vectors: by the later item, and
    then by the earlier.
    """
    lengths = np.array([item.duration_s for item in items])
    contents = [item.digest or "" for item in items]
    for start in range(0, len(items), BLOCK):
        block = slice(start, start + BLOCK)
        near = np.abs(lengths[block, None] - lengths[None]) <= (
            LENGTH_S + LENGTH_SHARE * np.minimum(lengths[block, None], lengths[None])
        )
        near &= np.arange(len(items))[None] < np.arange(len(items))[block, None]
        cosines = {encoding: vectors[block] @ vectors.T for encoding, vectors in means.items()}
        wanted = np.zeros_like(near)
        for values in cosines.values():
            wanted |= values >= CLOSE
        digests = np.array(contents)
        wanted |= (digests[block, None] == digests[None]) & (digests[None] != "")
        for later, earlier in zip(*np.nonzero(near & wanted), strict=True):
            close: dict[str, float] = {}
            for encoding, values in cosines.items():
                modality = parse_modality(encoding)
                cosine = float(values[later, earlier])
                close[modality] = max(close.get(modality, 0.0), cosine)
            yield Pair(int(earlier), start + int(later), close)


def compare(
    earlier: MediaRow, later: MediaRow, close: dict[str, float], looks: Looks
) -> Duplicate | None:
    if earlier.digest and earlier.digest == later.digest:
        return Duplicate(id=later.id, original=earlier.id, same=("content",), likeness=1.0)
    likeness: dict[str, float] = {}
    if close.get("audio", 0.0) >= CLOSE:
        sound = compare_loudness(looks.loudness(earlier), looks.loudness(later), close["audio"])
        if sound >= ALIKE_SOUND:
            likeness["audio"] = sound
    if close.get("video", 0.0) >= CLOSE:
        pictures = compare_pictures(looks.small(earlier), looks.small(later), close["video"])
        if pictures >= ALIKE_PICTURES:
            likeness["video"] = pictures
    if not likeness:
        return None
    return Duplicate(
        id=later.id,
        original=earlier.id,
        same=tuple(sorted(likeness)),
        likeness=round(min(likeness.values()), 3),
    )


def compare_loudness(
    first: NDArray[np.float64], second: NDArray[np.float64], cosine: float
) -> float:
    """The correlation of two courses of loudness, at the lag where it is highest. Where one does
    not vary, the cosine of the vectors, if it is high.

    >>> wave = np.array([0.0, 200.0, 10.0, 90.0, 250.0, 0.0, 40.0, 0.0])
    >>> round(compare_loudness(wave, np.append(0.0, wave / 2), 0.9), 3)
    1.0
    """
    best = 0.0
    for lag in range(-LAG_MOST, LAG_MOST + 1):
        a = first[max(lag, 0) :]
        b = second[max(-lag, 0) :]
        count = min(len(a), len(b))
        best = max(best, correlate(a[:count], b[:count], cosine))
    return best


def compare_pictures(
    first: dict[int, NDArray[np.float64]], second: dict[int, NDArray[np.float64]], cosine: float
) -> float:
    """The mean correlation of the pictures at the same times; 0 where there are none."""
    values = []
    for at, picture in first.items():
        nearest = min(second, key=lambda other: abs(other - at), default=None)
        if nearest is not None and abs(nearest - at) <= 5:
            values.append(correlate(picture, second[nearest], cosine))
    return float(np.mean(values)) if values else 0.0


def correlate(a: NDArray[np.float64], b: NDArray[np.float64], cosine: float) -> float:
    if not a.size or a.shape != b.shape:
        return 0.0
    if a.std() < FLAT and b.std() < FLAT:
        return cosine if cosine >= FLAT_CLOSE else 0.0
    if a.std() < FLAT or b.std() < FLAT:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def shrink(jpeg: bytes) -> NDArray[np.float64]:
    """A picture in grey, SIDE by SIDE, as one row; empty where it cannot be read."""
    codec = av.CodecContext.create("mjpeg", "r")
    assert isinstance(codec, av.VideoCodecContext)
    codec.thread_count = 1
    try:
        frames = [*codec.decode(av.Packet(jpeg)), *codec.decode(None)]
        small = frames[0].reformat(SIDE, SIDE, "gray", interpolation="AREA")
    except (av.FFmpegError, IndexError):
        return np.zeros(0)
    return small.to_ndarray().astype(np.float64).ravel()


def format_duplicates(duplicates: list[Duplicate]) -> str:
    """A line for each."""
    lines = [
        f"{make_printable(one.id)} has the {' and '.join(one.same)} of"
        f" {make_printable(one.original)} ({one.likeness:.2f})"
        for one in duplicates
    ]
    return "\n".join(lines or ["no near-duplicates"])
