"""From what a request holds to unit vectors: decode in a confined process, then encode in batches.

`client` is the digest of the key that asks, or "". Quotas and turns are counted by it.
"""

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

from export.bundle import parse_modality
from export.encoder import Encoder
from index.search import direction
from media.containers import MEDIA, Budget
from media.errors import BadMedia, BadText, MissingModality
from media.sandbox import Decoders
from media.text import Reading, pad_tokens
from media.windows import DecodeOptions, Media, WordOptions

from .batching import Batcher
from .exceptions import Overloaded
from .metrics import Metrics
from .quotas import Quota
from .settings import Settings
from .trace import stage

Vectors = NDArray[np.float32]
UPLOAD_PREFIX = "upload-"  # of the name of a folder that holds one upload
INLINE_LETTERS = 500  # texts up to here are tokenized faster than a thread can be started
# What one request's media may hold, for each second that they may last:
MAX_FRAMES_PER_S = 120
MAX_SAMPLES_PER_S = 48_000 * 8  # eight channels


@dataclass(frozen=True)
class EmbeddedMedia:
    """A decoded item. `vectors` has, by encoding, which windows have a vector, and the vectors
    [n, dim].
    """

    media: Media
    vectors: dict[str, tuple[list[int], Vectors]]


@dataclass(frozen=True)
class EncodedQuery:
    """One query in one encoding: its unit vector [dim], and warnings for the user. `known_share` of
    its words, in [0, 1], say something to the encoder.
    """

    vector: Vectors
    warnings: tuple[str, ...] = ()
    known_share: float = 1.0


class Pipeline:
    """Decodes and encodes for requests, within their limits and quotas."""

    def __init__(
        self,
        *,
        encoder: Encoder,
        batcher: Batcher,
        decoders: Decoders,
        settings: Settings,
        metrics: Metrics,
        media_quota: Quota,
    ):
        self.encoder = encoder
        self._batcher = batcher
        self._decoders = decoders
        self._metrics = metrics
        self._media_quota = media_quota
        seconds = settings.media_max_s
        self._budget = Budget(
            seconds=seconds,
            frames=round(seconds * MAX_FRAMES_PER_S),
            samples=round(seconds * MAX_SAMPLES_PER_S),
        )
        self._waiting_max = settings.decode_waiting_max
        self._request_max_s = settings.request_max_s
        self._decoding = 0
        # one window's cells at a time, so that those who wait take no thread from searches
        self.locating = asyncio.Lock()
        self._last_moved = time.monotonic()

    @property
    def stuck_s(self) -> float:
        """Seconds since a file last entered or left the decoders; 0 where none is there."""
        return time.monotonic() - self._last_moved if self._decoding else 0.0

    async def encode(self, encoding: str, array: NDArray[Any], client: str) -> Vectors:
        """Input rows [n, ...] to unit vectors [n, dim]. Raises Overloaded, TimedOut."""
        with stage("encode"):
            return await self._batcher.submit(encoding, array, client, max_s=self._request_max_s)

    async def read_texts(self, texts: list[str], encoding: str) -> list[Reading]:
        """Texts as windows of token ids. Long ones are read in a thread. Raises BadText."""
        if sum(map(len, texts)) <= INLINE_LETTERS:
            return self.encoder.read(texts, encoding)
        return await asyncio.to_thread(self.encoder.read, texts, encoding)

    async def encode_tokens(self, rows: list[list[int]], encoding: str, client: str) -> Vectors:
        """Windows of token ids to unit vectors [n, dim]. Raises Overloaded, TimedOut.

        Windows are encoded with others of about their length, so that little is padded.
        """
        spec = self.encoder.manifest.tokenizers[encoding].spec
        by_length: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            by_length.setdefault((len(row) - 1).bit_length(), []).append(i)
        waiting = []
        for indices in by_length.values():
            array = pad_tokens([rows[i] for i in indices], spec)
            waiting.append(self.encode(encoding, array, client))
        if len(waiting) == 1:
            return await waiting[0]
        groups = await asyncio.gather(*waiting)
        vectors = np.empty((len(rows), groups[0].shape[1]), np.float32)
        for indices, group in zip(by_length.values(), groups, strict=True):
            vectors[indices] = group
        return vectors

    async def encode_query_text(
        self,
        text: str,
        encoding: str,
        client: str,
        index: int | None = None,
        *,
        unknown: bool = False,
    ) -> EncodedQuery:
        """A query of words: as much as the encoder reads at once. `index` is its place among the
        parts of a composed query. If `unknown`, one of unknown words only is answered, too, as
        zeros: it can be found by its words alone.

        Raises:
            BadText: it is empty, or none of its words is known.
            Overloaded, TimedOut.
        """
        try:
            (reading,) = await self.read_texts([text], encoding)
            if not (unknown and reading.words):
                reading.check()
        except BadText as error:
            raise BadText(error.reason, index) from None
        if not reading.known:
            zeros = np.zeros(self.encoder.manifest.dims[encoding], np.float32)
            return EncodedQuery(zeros, tuple(reading.warnings(cut=True)), known_share=0.0)
        vectors = await self.encode_tokens(reading.rows[:1], encoding, client)
        return EncodedQuery(vectors[0], tuple(reading.warnings(cut=True)), reading.share)

    async def encode_query_file(self, path: Path, encoding: str, client: str) -> EncodedQuery:
        """A query by example: the direction of all its windows. Raises what `embed_file` does."""
        embedded = await self.embed_file(path, (encoding,), client)
        _, vectors = embedded.vectors[encoding]
        return EncodedQuery(direction(vectors))

    async def embed_file(
        self,
        path: Path,
        encodings: Collection[str],
        client: str,
        overlap: float = 0.0,
        previews: bool = False,
    ) -> EmbeddedMedia:
        """The vectors of a media file, in each wanted encoding that its streams allow.

        `overlap` is the share of a window that the next one lies on. With `previews` the media have
        small pictures, a waveform and words.

        Raises:
            BadMedia: what is wrong with it.
            Overloaded: too many files wait. TimedOut.
            OverQuota: the client has had its seconds of media.
        """
        self._media_quota.check(client)
        modalities = list(dict.fromkeys(map(parse_modality, encodings)))
        with stage("decode"):
            media = await self.decode(path, modalities, overlap, previews)
        # a picture, which has no length, counts as a second
        self._media_quota.take(client, max(math.ceil(media.duration_s), 1))
        parts = {
            e: media.parts[parse_modality(e)] for e in encodings if parse_modality(e) in media.parts
        }
        arrays = await asyncio.gather(
            *(self.encode(encoding, part.array, client) for encoding, part in parts.items())
        )
        vectors = {}
        for (encoding, part), array in zip(parts.items(), arrays, strict=True):
            vectors[encoding] = (part.windows, array)
        return EmbeddedMedia(media, vectors)

    async def decode(
        self, path: Path, modalities: list[str], overlap: float = 0.0, previews: bool = False
    ) -> Media:
        """A file's windows as arrays. Raises BadMedia, Overloaded."""
        if self._decoding >= self._waiting_max:
            raise Overloaded("decoding")
        if not self._decoding:
            self._last_moved = time.monotonic()
        self._decoding += 1
        outcome = "cancelled"
        try:
            options = DecodeOptions(
                specs=self.encoder.manifest.inputs,
                budget=self._budget,
                modalities=tuple(modalities),
                overlap_share=overlap,
                previews=previews,
                words=WordOptions() if previews else None,
            )
            future = self._decoders.start(path, options)
            try:
                # `finish` raises what it raised
                await asyncio.gather(asyncio.wrap_future(future), return_exceptions=True)
            except asyncio.CancelledError:
                future.cancel()
                raise
            media = self._decoders.finish(future)
            outcome = "good"
        except BadMedia as fault:
            outcome = fault.code
            raise
        finally:
            self._decoding -= 1
            self._last_moved = time.monotonic()
            self._metrics.decoded.labels(outcome).inc()
        if not media.parts:
            raise MissingModality(" or ".join(modalities))
        return media


@asynccontextmanager
async def temporary_file(upload: BinaryIO, folder: Path, name: str | None) -> AsyncIterator[Path]:
    """An upload as a file in a folder of its own, deleted afterwards. Of the client's name for it
    only the suffix becomes part of the path.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=UPLOAD_PREFIX) as own:
        path = Path(own) / f"media{media_suffix(name)}"
        await asyncio.to_thread(copy, upload, path)
        yield path


def media_suffix(name: str | None) -> str:
    """The suffix of a client's name for a file, where it is one of media. FFmpeg goes by it where a
    long tag hides the start of a file.

    >>> media_suffix("../Song.FLAC"), media_suffix("song.sh")
    ('.flac', '')
    """
    suffix = PurePosixPath(name or "").suffix.lower()
    return suffix if suffix in MEDIA else ""


def copy(upload: BinaryIO, path: Path) -> None:
    with path.open("wb") as file:
        shutil.copyfileobj(upload, file, 1 << 20)
