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
from .records.database import Records
from .records.item import MediaRow

LENGTH_S = 0.3  # by which lengths of copies differ at most
LENGTH_SHARE = 0.02  # the same, of the shorter one
# cosines of items' mean vectors that are compared further
CLOSE_SOUND = 0.97
CLOSE_PICTURES = 0.83
ROUGHLY = 0.6  # the correlation of coarse loudness from which on the finer one is computed
COARSE = 32  # stretches of it
# What two sounds must have in common: the correlation of their loudness, and the share of it that
# they have in common once both are as loud. Sounds of a second or less have too little to
# correlate: they must be as long and as loud, too.
SHORT_S = 1.0
SHORT_LENGTH_S = 0.025
MEDIUM_S = 4.0
ALIKE_SHORT = (0.98, 0.905)
ALIKE_MEDIUM = (0.955, 0.85)
ALIKE_LONG = (0.85, 0.8)
ALIKE_PICTURES = 0.9  # the correlation of pictures where nothing is heard
SAME_PICTURES = 0.985  # that for itself tells that pictures are the same
SAME_SOUND = 0.97  # the correlation that does so for sound, where pictures differ
ALIKE_BOTH = 1.79  # of sound and pictures together, where an item has both
FLAT = 0.05  # standard deviation over mean below which nothing varies that could be compared
FLAT_CLOSE = 0.995  # the cosine that is asked for where nothing varies
COPY_OF_COPY = 0.05  # by how much more alike a duplicate has to be, to be named as the original
LAG_S = 0.2  # by which codecs may shift a sound
HZ = 100.0  # at which loudness is compared
SAMPLES_MOST = 10_000
SMOOTH = 10  # samples over which it is averaged; half of them for short sounds
SIDE = 16  # pixels, of the pictures that are compared
PICTURES = 8  # of one item that are compared, at most
BLOCK = 1024  # items compared with others at once
BLOCK_PAIRS = 20_000_000
Signal = NDArray[np.float32]  # [n]


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """An item, and the item that was there before it. `same` names what both have in common:
    "content" (the files are equal), "audio", "video"; `likeness` is how sure that is, up to 1.
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


class Sound(NamedTuple):
    """How alike two courses of loudness are, 0 to 1."""

    correlation: float
    share: float

    def is_same(self, shorter_s: float) -> bool:
        """Whether that is enough for sounds of that length, by itself."""
        needed = ALIKE_LONG
        if shorter_s <= SHORT_S:
            needed = ALIKE_SHORT
        elif shorter_s <= MEDIUM_S:
            needed = ALIKE_MEDIUM
        return self.correlation >= needed[0] and self.share >= needed[1]


@dataclass
class Looks:
    """What is kept of items for people, read once."""

    records: Records
    _loudness: dict[int, Signal] = field(default_factory=dict)
    _pictures: dict[int, dict[int, Signal]] = field(default_factory=dict)

    def loudness(self, item: MediaRow) -> Signal:
        """The peaks of an item's sound, see `media.preview`; empty where it has none."""
        if item.n not in self._loudness:
            peaks = np.frombuffer(self.records.peaks(item.id), np.uint8)
            self._loudness[item.n] = peaks.astype(np.float32)
        return self._loudness[item.n]

    def coarse(self, item: MediaRow) -> Signal:
        """Loudness as a unit vector around its mean; zeros where it does not vary."""
        peaks = self.loudness(item)
        if not len(peaks) or is_flat(peaks):
            return np.zeros(COARSE, np.float32)
        places = np.linspace(0, len(peaks) - 1, COARSE)
        around = np.interp(places, np.arange(len(peaks)), smooth(peaks, max(len(peaks) // 16, 1)))
        around -= around.mean()
        return np.asarray(around / max(float(np.linalg.norm(around)), 1e-9), np.float32)

    def pictures(self, item: MediaRow) -> dict[int, Signal]:
        """Small grey pictures by the middle of their window, in tenths of a second."""
        if item.n not in self._pictures:
            rows = self.records.pictures(item.n, PICTURES)
            self._pictures[item.n] = {
                round(5 * (start_s + end_s)): shrink(jpeg) for start_s, end_s, jpeg in rows
            }
        return self._pictures[item.n]


def find_duplicates(collection: Collection) -> list[Duplicate]:
    """The items that are near-duplicates of an earlier one, in the order in which they were added.
    Each is named with the earlier one that it is most like. Where several are about as like, that
    is one which is no duplicate itself.
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
        ranks: dict[int, float] = {}
        for pair in close_pairs(items, means, looks):
            match = compare(items[pair.first], items[pair.second], pair.close, looks)
            if match is None:
                continue
            rank = match.likeness - (COPY_OF_COPY if pair.first in found else 0.0)
            if rank > ranks.get(pair.second, -1.0):
                ranks[pair.second] = rank
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


def close_pairs(
    items: list[MediaRow], means: dict[str, NDArray[np.float32]], looks: Looks
) -> Iterator[Pair]:
    """Pairs of items of equal content, or of like length and close vectors: by the later item, and
    then by the earlier.
    """
    lengths = np.array([item.duration_s for item in items])
    # equal numbers for equal contents, and one of its own where nothing is known of it
    contents: dict[str, int] = {}
    content = np.array(
        [contents.setdefault(item.digest or f"{n}", n) for n, item in enumerate(items)]
    )
    coarse = np.stack([looks.coarse(item) for item in items]) if items else np.zeros((0, COARSE))
    flat = np.logical_not(np.any(coarse, axis=1)).reshape(-1)
    size = max(min(BLOCK, BLOCK_PAIRS // max(len(items), 1)), 1)
    for start in range(0, len(items), size):
        block = slice(start, start + size)
        shorter = np.minimum(lengths[block, None], lengths[None])
        near = np.abs(lengths[block, None] - lengths[None]) <= LENGTH_S + LENGTH_SHARE * shorter
        near &= np.arange(len(items))[None] < np.arange(len(items))[block, None]
        alike = coarse[block] @ coarse.T >= ROUGHLY
        alike |= flat[block, None] & flat[None]
        cosines = {encoding: vectors[block] @ vectors.T for encoding, vectors in means.items()}
        wanted = content[block, None] == content[None]
        for encoding, values in cosines.items():
            if parse_modality(encoding) == "audio":
                wanted |= (values >= CLOSE_SOUND) & alike
            else:
                wanted |= values >= CLOSE_PICTURES
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
    """What two items have in common; None where that is not enough."""
    if earlier.digest and earlier.digest == later.digest:
        return Duplicate(id=later.id, original=earlier.id, same=("content",), likeness=1.0)
    sound = Sound(0.0, 0.0)
    if close.get("audio", 0.0) >= CLOSE_SOUND:
        sound = compare_sounds(earlier, later, close["audio"], looks)
    pictures = 0.0
    if close.get("video", 0.0) >= CLOSE_PICTURES:
        pictures = compare_pictures(looks.pictures(earlier), looks.pictures(later), close["video"])
    heard = bool(close.get("audio"))  # both have sound, or the cosine is 0
    seen = bool(close.get("video"))
    shorter_s = min(earlier.duration_s, later.duration_s)
    same: tuple[str, ...]
    if heard and seen:
        same = decide_both(sound, pictures, shorter_s)
    elif heard:
        same = ("audio",) if sound.is_same(shorter_s) else ()
    else:
        same = ("video",) if pictures >= ALIKE_PICTURES else ()
    if not same:
        return None
    values = {"audio": (sound.correlation + sound.share) / 2, "video": pictures}
    likeness = sum(values[one] for one in same) / len(same)
    return Duplicate(id=later.id, original=earlier.id, same=same, likeness=round(likeness, 3))


def decide_both(sound: Sound, pictures: float, shorter_s: float) -> tuple[str, ...]:
    """What is the same of two items that both have sound and pictures."""
    if sound.correlation + pictures >= ALIKE_BOTH:
        return ("audio", "video")
    if pictures >= SAME_PICTURES:
        return ("video",)
    if sound.correlation >= SAME_SOUND and shorter_s > MEDIUM_S and sound.is_same(shorter_s):
        return ("audio",)
    return ()


def compare_sounds(earlier: MediaRow, later: MediaRow, cosine: float, looks: Looks) -> Sound:
    """How alike the loudness of two sounds is from their start to their end, at the lag where it is
    most alike. Where nothing varies, the cosine of their vectors tells, if it is high.
    """
    first = looks.loudness(earlier)
    second = looks.loudness(later)
    shorter_s = min(earlier.duration_s, later.duration_s)
    if not len(first) or not len(second):
        return Sound(0.0, 0.0)
    if is_flat(first) and is_flat(second):
        return Sound(cosine, cosine) if cosine >= FLAT_CLOSE else Sound(0.0, 0.0)
    short = shorter_s <= SHORT_S
    if short and abs(earlier.duration_s - later.duration_s) > SHORT_LENGTH_S:
        return Sound(0.0, 0.0)
    hz = min(HZ, SAMPLES_MOST / shorter_s)
    width = SMOOTH // 2 if short else SMOOTH
    a = smooth(resample(first, earlier.duration_s, hz), width)
    b = smooth(resample(second, later.duration_s, hz), width)
    most = max(round(LAG_S * hz), 1)
    best = Sound(0.0, 0.0)
    for lag in range(-most, most + 1, 1 if short else 2):
        u, v = cut_to_lag(a, b, lag)
        if not len(u):
            continue
        if not short:
            u = u / max(float(u.mean()), 1e-6)
            v = v / max(float(v.mean()), 1e-6)
        best = Sound(max(best.correlation, correlate(u, v)), max(best.share, common_share(u, v)))
    return best


def is_flat(peaks: Signal) -> bool:
    return bool(peaks.std() <= FLAT * max(float(peaks.mean()), 1.0))


def resample(peaks: Signal, duration_s: float, hz: float) -> Signal:
    """A course of loudness at so many samples a second."""
    count = max(round(duration_s * hz), 1)
    places = ((np.arange(count) + 0.5) / count * len(peaks)).astype(int)
    return np.asarray(peaks[places], np.float32)


def smooth(signal: Signal, width: int) -> Signal:
    """The running mean over `width` samples, as long as the signal.

    >>> smooth(np.array([0.0, 3.0, 0.0, 0.0], np.float32), 3).tolist()
    [1.0, 1.0, 1.0, 0.0]
    """
    sums = np.convolve(signal, np.ones(width, np.float32) / width, "full")
    start = (width - 1) // 2
    return np.asarray(sums[start : start + len(signal)], np.float32)


def cut_to_lag(a: Signal, b: Signal, lag: int) -> tuple[Signal, Signal]:
    """The parts of two signals that lie on one another when the first begins `lag` later.

    >>> cut_to_lag(np.array([9, 1, 2]), np.array([1, 2, 3]), 1)
    (array([1, 2]), array([1, 2]))
    """
    a = a[max(lag, 0) :]
    b = b[max(-lag, 0) :]
    count = min(len(a), len(b))
    return a[:count], b[:count]


def correlate(a: Signal, b: Signal) -> float:
    """The correlation of two signals; 0 where one does not vary."""
    if len(a) < 2:
        return 0.0
    a = a - a.mean()
    b = b - b.mean()
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms > 1e-6 else 0.0


def common_share(a: Signal, b: Signal) -> float:
    """1 where two signals are equal, less by the share in which they differ."""
    total = float((a + b).sum())
    return 1.0 - 2.0 * float(np.abs(a - b).sum()) / total if total else 0.0


def compare_pictures(first: dict[int, Signal], second: dict[int, Signal], cosine: float) -> float:
    """The mean correlation of the pictures at the same times; 0 where there are none. Of pictures
    of one colour, the cosine of the vectors, if it is high.
    """
    values = []
    for at, picture in first.items():
        nearest = min(second, key=lambda other: abs(other - at), default=None)
        if nearest is None or abs(nearest - at) > 5:
            continue
        other = second[nearest]
        if not picture.size or picture.shape != other.shape:
            continue
        if is_flat(picture) and is_flat(other):
            values.append(cosine if cosine >= FLAT_CLOSE else 0.0)
        else:
            values.append(correlate(picture, other))
    return float(np.mean(values)) if values else 0.0


def shrink(jpeg: bytes) -> Signal:
    """A picture in grey, SIDE by SIDE, as one row; empty where it cannot be read."""
    codec = av.CodecContext.create("mjpeg", "r")
    assert isinstance(codec, av.VideoCodecContext)
    codec.thread_count = 1
    try:
        frames = [*codec.decode(av.Packet(jpeg)), *codec.decode(None)]
        small = frames[0].reformat(SIDE, SIDE, "gray", interpolation="AREA")
    except (av.FFmpegError, IndexError):
        return np.zeros(0, np.float32)
    return small.to_ndarray().astype(np.float32).ravel()


def format_duplicates(duplicates: list[Duplicate]) -> str:
    """A line for each."""
    lines = [
        f"{make_printable(one.id)} has the {' and '.join(one.same)} of"
        f" {make_printable(one.original)} ({one.likeness:.2f})"
        for one in duplicates
    ]
    return "\n".join(lines or ["no near-duplicates"])
