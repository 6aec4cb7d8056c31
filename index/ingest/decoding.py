"""Sources as media, decoded by other processes some files ahead of what is encoded."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from export.encoder import Encoder
from media.containers import Budget
from media.errors import BadMedia, DecoderFailed, NotMedia
from media.films import WHOLE_S, Survey
from media.manifest import Member
from media.readers import NO_READERS, WordReaders
from media.sandbox import Decoders
from media.windows import DecodeOptions, Media, WordOptions

from ..records.item import real_path
from .content import hash_content
from .source import Source

AHEAD = 16  # files being decoded or waiting to be encoded
AHEAD_BYTES = 256_000_000  # of memory that the decoded ones may take

Decoded = tuple[Source, str, Media | BadMedia]  # with the stamp from before it was read
Decodable = Media | Survey | BadMedia  # what a decoder gives


def decode_with_digests(
    todo: Iterable[tuple[Source, str]],
    decode: Callable[[Iterable[tuple[Source, str]]], Iterator[Decoded]],
) -> Iterator[Decoded]:
    """As `decode`, which is `decode_sources` with its settings; the sources get the hashes of their
    contents, computed meanwhile.
    """
    digests: deque[Future[str]] = deque()
    digest = ""
    begun: Source | None = None  # a long file, of which parts have come
    reader = ThreadPoolExecutor(1)

    def read_along() -> Iterator[tuple[Source, str]]:
        for source, stamp in todo:
            digests.append(reader.submit(hash_content, source.path, source.member))
            yield source, stamp

    try:
        for source, stamp, outcome in decode(read_along()):
            if source is not begun:
                digest = digests.popleft().result()
            begun = source
            if not stamp.startswith(source.stamp):
                digest = ""  # it has changed, and the two may have read different contents
            yield replace(source, digest=digest), stamp, outcome
    finally:
        reader.shutdown(cancel_futures=True)


def decode_sources(
    todo: Iterable[tuple[Source, str]],
    encoder: Encoder,
    decoders: Decoders,
    budget: Budget,
    *,
    folder: Path,
    overlap: float = 0.0,
    readers: WordReaders = NO_READERS,
) -> Iterator[Decoded]:
    """Decode in order, some files ahead. Members of shards are extracted into `folder` for that
    time.
    """
    options = DecodeOptions(
        specs=encoder.manifest.inputs,
        budget=budget,
        overlap_share=overlap,
        previews=True,
        whole_s=WHOLE_S if budget.seconds == math.inf else math.inf,
    )
    queue = DecodeQueue(todo, encoder, decoders, options, folder=folder, readers=readers)
    queue.fill()
    while queue:
        started = queue.pop()
        try:
            for outcome in queue.finish(started):
                yield started.source, started.stamp, outcome
        except BadMedia as fault:
            yield started.source, started.stamp, fault
        if started.extracted is not None:
            started.extracted.unlink(missing_ok=True)
        queue.fill()


@dataclass(frozen=True)
class Started:
    """A source that is being decoded. `future` is None of words alone. `extracted` is the file that
    was made for a member of a shard.
    """

    source: Source
    stamp: str
    future: Future[Decodable] | None
    extracted: Path | None = None


class DecodeQueue:
    """Sources that are being decoded or wait to be encoded, in order."""

    def __init__(
        self,
        todo: Iterable[tuple[Source, str]],
        encoder: Encoder,
        decoders: Decoders,
        options: DecodeOptions,
        *,
        folder: Path,
        readers: WordReaders,
    ) -> None:
        self._rest = iter(todo)
        self._encoder = encoder
        self._decoders = decoders
        self._options = options
        self._folder = folder
        self._readers = readers
        self._started: deque[Started] = deque()

    def __bool__(self) -> bool:
        return bool(self._started)

    def fill(self) -> None:
        """Start further sources, as far ahead as memory allows."""
        held = sum(decoded_bytes(started.future) for started in self._started)
        while len(self._started) < AHEAD and held < AHEAD_BYTES:
            following = next(self._rest, None)
            if following is None:
                return
            self._started.append(self._start(*following))

    def pop(self) -> Started:
        return self._started.popleft()

    def finish(self, started: Started) -> Iterator[Media]:
        """The media of a source; of a long file they come in parts. Raises BadMedia."""
        source = started.source
        if started.future is None:
            media: Media | Survey = Media(duration_s=0.0, windows=[], parts={})
        else:
            media = self._decoders.finish_or_survey(started.future)
        if source.texts:
            # so that words that cannot be read fail alone, and not with their batch
            for encoding in self._encoder.manifest.encodings("text"):
                self._encoder.read(list(source.texts), encoding)
        if isinstance(media, Survey):
            path = started.extracted or source.path
            assert path is not None
            options = self._options_for(source)
            yield from self._decoders.parts(path, options, media, source.resume)
        else:
            yield media

    def _start(self, source: Source, stamp: str) -> Started:
        if source.path is None:
            return Started(source, stamp, None)
        path = source.path
        extracted: Path | None = None
        fault: BadMedia | None = None
        if source.member is not None:
            name = hashlib.sha256(source.id.encode()).hexdigest() + source.member.suffix
            path = extracted = self._folder / name
            fault = extract_member(source.path, source.member, extracted)
        if fault is None and path != real_path(path):
            fault = NotMedia("a link has taken its place")
        if fault is not None:
            failed: Future[Decodable] = Future()
            failed.set_result(fault)
            return Started(source, stamp, failed, extracted)
        future = self._decoders.start(path, self._options_for(source))
        return Started(source, stamp, future, extracted)

    def _options_for(self, source: Source) -> DecodeOptions:
        if source.passages:
            return replace(self._options, words=None)
        words = WordOptions(sidecars=source.sidecars, readers=self._readers)
        return replace(self._options, words=words)


def extract_member(shard: Path, member: Member, target: Path) -> BadMedia | None:
    """Write a shard's member to a file of its own; returns what is wrong if that fails."""
    try:
        data = member.read(shard)
        target.write_bytes(data)
    except OSError as error:
        target.unlink(missing_ok=True)
        return DecoderFailed(f"it could not be read from its shard ({error.strerror})")
    return None if len(data) == member.size else DecoderFailed("its shard ends before it does")


def decoded_bytes(future: Future[Decodable] | None) -> int:
    """Bytes of memory that a decoded file takes; 0 while it is not decoded."""
    if future is None or not future.done() or future.cancelled() or future.exception() is not None:
        return 0
    outcome = future.result()
    if isinstance(outcome, Survey):
        return outcome.nbytes
    if not isinstance(outcome, Media):
        return 0
    return sum(part.array.nbytes for part in outcome.parts.values())
