"""WebDataset tar shards as a source of training clips, read in sequence and never unpacked.

A sample of a shard is one media file with its captions beside it under the same key: a `.txt` with
a caption a line, or a `.json` with a manifest row's keys.
"""

from __future__ import annotations

import random
import tarfile
import tempfile
from collections.abc import Iterator
from functools import cached_property, partial
from itertools import islice
from pathlib import Path

from braceexpand import braceexpand
from tqdm import tqdm
from webdataset.filters import shuffle
from webdataset.tariterators import group_by_keys, tar_file_expander

from evaluation.clips import Clip, LazyClip, count_heard_samples, read_row, take_first_windows
from media.containers import MEDIA
from media.manifest import BadManifest, BadMetadata, Row, sample_row
from media.windows import InputSpecs

BUFFER = 256  # samples a shuffle chooses from
UNREADABLE = (
    tarfile.TarError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    BadMetadata,
)


class Shards:
    """Tar shards by a name with braces, `clips-{000..015}.tar`.

    Each epoch takes them in another order and shuffles within a buffer. The clips of a step are
    always the same. A step that does not follow the last one is found by reading from the start of
    its epoch.

    Raises:
        FileNotFoundError: one of the shards does not exist.
    """

    def __init__(self, name: str, specs: InputSpecs) -> None:
        self.files = list(braceexpand(name))
        for file in self.files:
            if not Path(file).is_file():
                raise FileNotFoundError(f"{file} does not exist")
        self.specs = specs
        self.next: tuple[int, int, tuple[int, ...]] | None = None
        self.stream: Iterator[tuple[Row, str, bytes]] = iter(())

    @cached_property
    def rows(self) -> list[Row]:
        """Every row, for the captions and licences; the first use reads all shards."""
        return [row for row, _, _ in self.samples(self.files)]

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, step: int, count: int, seed: tuple[int, ...]) -> list[LazyClip]:
        if self.next != (step, count, seed):
            epoch, place = divmod(step * count, len(self))
            self.stream = islice(self.epochs(epoch, seed), place, None)
        self.next = (step + 1, count, seed)
        return [
            LazyClip(row, partial(decode_sample, self.specs, row, suffix, data))
            for row, suffix, data in islice(self.stream, count)
        ]

    def epochs(self, epoch: int, seed: tuple[int, ...]) -> Iterator[tuple[Row, str, bytes]]:
        """The samples of an epoch, then those of the next ones, without end."""
        while True:
            random_of_epoch = random.Random(repr((seed, epoch)))
            files = random_of_epoch.sample(self.files, len(self.files))
            shuffled = shuffle(BUFFER, initial=BUFFER, rng=random_of_epoch)
            yield from shuffled(self.samples(files))
            epoch += 1

    def samples(self, files: list[str]) -> Iterator[tuple[Row, str, bytes]]:
        """Every sample with media in it: its row, and its media's suffix and bytes.

        Raises:
            BadManifest: words that are not a manifest row, naming shard and sample.
        """
        for file in files:
            with Path(file).open("rb") as stream:
                at = "start"
                members = tar_file_expander([{"url": file, "stream": stream}])
                try:
                    for sample in group_by_keys(members):
                        at = sample["__key__"]
                        suffix = next((f".{part}" for part in sample if f".{part}" in MEDIA), None)
                        if suffix is not None:
                            yield sample_row(sample, at), suffix, sample[suffix[1:]]
                except UNREADABLE as error:
                    problem = f"{type(error).__name__}: {error}"
                    raise BadManifest(Path(file).name, at, problem) from error


def decode_sample(specs: InputSpecs, row: Row, suffix: str, data: bytes) -> Clip:
    """The first window of a media file in memory, by the decoder that serves.

    A damaged file gives a clip with neither modality.
    """
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(data)
        file.flush()
        parts = read_row(specs, Path(file.name))
    if isinstance(parts, str):
        tqdm.write(f"left out {row.id}: {parts}")
        parts = {}
    found = take_first_windows(parts)
    waveform = found.get("audio")
    return Clip(row, found.get("video"), waveform, count_heard_samples(waveform))
