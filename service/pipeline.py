"""From what a request holds to unit vectors: decode in confinement, then encode in company."""

from __future__ import annotations

import asyncio
import math
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from export.bundle import modality_of
from export.encoder import Encoder
from index.search import direction
from media.containers import MEDIA, Budget
from media.errors import BadMedia, BadText, MissingModality
from media.sandbox import Decoders
from media.text import Reading, pad_tokens
from media.windows import Media

from .batching import Batcher
from .errors import Overloaded
from .metrics import Metrics
from .quotas import Quota
from .settings import Settings
from .trace import stage, who

Vectors = NDArray[np.float32]
UPLOAD = "upload-"  # begins the name of a folder that holds one
AT_ONCE = 500  # letters that take less time to split than a thread to be told of


@dataclass(frozen=True)
class Embedded:
    """A decoded item and, by encoding, which windows have a vector and the vectors [n, dim]."""

    media: Media
    vectors: dict[str, tuple[list[int], Vectors]]


@dataclass(frozen=True)
class Asked:
    """What is searched by, in one encoding: its unit vector [dim], what whoever asks is to be told
    of it, and how much of it is known, in [0, 1].
    """

    vector: Vectors
    warnings: tuple[str, ...] = ()
    known: float = 1.0


class Pipeline:
    def __init__(
        self,
        encoder: Encoder,
        batcher: Batcher,
        decoders: Decoders,
        settings: Settings,
        metrics: Metrics,
        quota: Quota,
    ):
        self.encoder, self.batcher, self.decoders, self.metrics = (
            encoder,
            batcher,
            decoders,
            metrics,
        )
        seconds = settings.media_max_s
        self._budget = Budget(
            seconds=seconds, frames=round(seconds * 120), samples=round(seconds * 48_000 * 8)
        )
        self._max_waiting, self._max_s = settings.decode_waiting_max, settings.request_max_s
        self._quota = quota
        self._decoding = 0
        self._moved = time.monotonic()

    @property
    def stuck_s(self) -> float:
        """How long no file has left the decoders while some are there."""
        return time.monotonic() - self._moved if self._decoding else 0.0

    async def encode(self, encoding: str, array: NDArray[Any]) -> Vectors:
        """Rows to unit vectors, in company. Raises Overloaded, TimedOut."""
        with stage("encode"):
            return await self.batcher.submit(encoding, array, who(), max_s=self._max_s)

    async def read(self, texts: list[str], encoding: str) -> list[Reading]:
        """Texts as windows of token ids; where they are long, beside the event loop. Raises
        BadText.
        """
        if sum(map(len, texts)) <= AT_ONCE:
            return self.encoder.read(texts, encoding)
        return await asyncio.to_thread(self.encoder.read, texts, encoding)

    async def rows(self, rows: list[list[int]], encoding: str) -> Vectors:
        """Windows of token ids to unit vectors [n, dim], short ones apart from long ones. Raises
        Overloaded.
        """
        spec = self.encoder.manifest.tokenizers[encoding].spec
        alike: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            alike.setdefault((len(row) - 1).bit_length(), []).append(i)
        made = await asyncio.gather(
            *(
                self.encode(encoding, pad_tokens([rows[i] for i in which], spec))
                for which in alike.values()
            )
        )
        vectors = np.empty((len(rows), made[0].shape[1]), np.float32)
        for which, found in zip(alike.values(), made, strict=True):
            vectors[which] = found
        return vectors

    async def asked(self, text: str, encoding: str, index: int | None = None) -> Asked:
        """Words to search by: as much as is read at once. `index` says which of several parts they
        are.

        Raises:
            BadText: there are none, or none that are known. Overloaded.
        """
        try:
            (reading,) = await self.read([text], encoding)
            reading.check()
        except BadText as error:
            raise BadText(error.reason, index) from None
        vectors = await self.rows(reading.rows[:1], encoding)
        return Asked(vectors[0], tuple(reading.warnings(cut=True)), reading.share)

    async def file(
        self, path: Path, encodings: Collection[str], overlap: float = 0.0, previews: bool = False
    ) -> Embedded:
        """A media file to the vectors of the wanted encodings that its streams allow, its windows
        overlapping or not, with what people see of it or not.

        Raises:
            BadMedia: what is wrong with it. Overloaded: too many files wait. OverQuota: the key has
                had its share.
        """
        self._quota.check(who())
        with stage("decode"):
            media = await self._decode(
                path, list(dict.fromkeys(map(modality_of, encodings))), overlap, previews
            )
        self._quota.take(who(), math.ceil(media.duration_s))
        parts = {e: media.parts[modality_of(e)] for e in encodings if modality_of(e) in media.parts}
        vectors = await asyncio.gather(*(self.encode(e, part.array) for e, part in parts.items()))
        return Embedded(
            media,
            {e: (part.windows, v) for (e, part), v in zip(parts.items(), vectors, strict=True)},
        )

    async def query(self, path: Path, encoding: str) -> Vectors:
        """One unit vector [dim] for a file used as an example."""
        embedded = await self.file(path, (encoding,))
        return direction(embedded.vectors[encoding][1])

    async def _decode(
        self, path: Path, wanted: Collection[str], overlap: float, previews: bool
    ) -> Media:
        if self._decoding >= self._max_waiting:
            raise Overloaded("decoding")
        if not self._decoding:
            self._moved = time.monotonic()
        self._decoding += 1
        outcome = "cancelled"
        try:
            future = self.decoders.start(
                path, self.encoder.manifest.inputs, self._budget, wanted, overlap, previews
            )
            try:
                await asyncio.wait([asyncio.wrap_future(future)])
            except asyncio.CancelledError:
                future.cancel()
                raise
            media = self.decoders.finish(future)
            outcome = "good"
        except BadMedia as fault:
            outcome = fault.code
            raise
        finally:
            self._decoding -= 1
            self._moved = time.monotonic()
            self.metrics.decoded.labels(outcome).inc()
        if not media.parts:
            raise MissingModality(" or ".join(wanted))
        return media


@asynccontextmanager
async def on_disk(upload: BinaryIO, folder: Path, name: str | None) -> AsyncIterator[Path]:
    """An upload as a file of its own, gone afterwards. The client's name for it never becomes a
    path.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=UPLOAD) as place:
        path = Path(place) / f"media{media_suffix(name)}"
        await asyncio.to_thread(copy, upload, path)
        yield path


def media_suffix(name: str | None) -> str:
    """The suffix of a client's name for a file where it is one of media's: FFmpeg weighs it where a
    long tag hides the rest.

    >>> media_suffix("../Song.FLAC"), media_suffix("song.sh")
    ('.flac', '')
    """
    suffix = PurePosixPath(name or "").suffix.lower()
    return suffix if suffix in MEDIA else ""


def copy(upload: BinaryIO, path: Path) -> None:
    with path.open("wb") as file:
        shutil.copyfileobj(upload, file, 1 << 20)
