"""Batch building: read, decode, encode, write. Resumes where it was stopped; names every file that failed."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from export.bundle import modality_of
from export.encoder import Encoder
from model.inputs.confined import Decoders
from model.inputs.decode import MEDIA, Budget
from model.inputs.errors import BadMedia, DecoderFailed
from model.inputs.windows import Media
from model.manifest import encodable, read_manifest

from .collection import Collection
from .records import NewItem

AHEAD = 16  # files being decoded or waiting to be encoded
WINDOWS = 32  # windows encoded and committed together


@dataclass(frozen=True)
class Source:
    """One thing to index: a file, and what a manifest says of it."""

    id: str
    path: Path
    metadata: dict[str, Any] = field(default_factory=dict)
    texts: tuple[str, ...] = ()

    @property
    def stamp(self) -> str:
        """Changes when the file or what is said of it does."""
        try:
            stat = self.path.stat()
        except OSError:
            return "missing"
        return f"{stat.st_size}:{stat.st_mtime_ns}:{hash_of(self.texts, self.metadata)}"


@dataclass
class Report:
    """What a build did."""

    indexed: int = 0
    unchanged: int = 0
    ignored: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def hash_of(texts: tuple[str, ...], metadata: dict[str, Any]) -> str:
    said = json.dumps([texts, metadata], sort_keys=True).encode()
    return hashlib.sha256(said).hexdigest()[:8]


def sources(paths: Iterable[Path]) -> tuple[list[Source], int]:
    """Everything to index below the given folders, files and manifests, and how many other files were passed over.

    Raises:
        FileNotFoundError: a path that does not exist.
        BadManifest: see `read_manifest`.
    """
    found: list[Source] = []
    ignored = 0
    for path in paths:
        if path.is_dir():
            for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")):
                if file.suffix.lower() in MEDIA:
                    found.append(Source((path.resolve().name / file.relative_to(path)).as_posix(), file.resolve()))
                else:
                    ignored += 1
        elif not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        elif path.suffix == ".jsonl":
            for row in read_manifest(path):
                if row.path is None:
                    ignored += 1
                    continue
                texts = tuple(caption.text for caption in row.captions)
                found.append(Source(row.id, row.path.resolve(), row.metadata, texts))
        else:
            found.append(Source(path.name, path.resolve()))
    return found, ignored


def distinct(found: list[Source], report: Report) -> Iterator[Source]:
    """The sources that can be told apart and stored; the others are reported as failed."""
    taken: dict[str, Source] = {}
    for source in found:
        try:
            encodable(source.id)
        except ValueError:
            report.failed[ascii(str(source.path))] = "its name is not UTF-8"
            continue
        if source.id not in taken:
            taken[source.id] = source
            yield source
        elif taken[source.id] != source:
            report.failed[f"{source.path} ({source.id})"] = f"its id is taken by {taken[source.id].path}"


def build(
    encoder: Encoder, collection: Collection, paths: Iterable[Path], decoders: Decoders, budget: Budget
) -> Iterator[tuple[int, int, Report]]:
    """Index what is new or changed; yields (done, total, report so far) as it goes, and once more at the end."""
    found, ignored = sources(paths)
    report = Report(ignored=ignored)
    wanted = list(distinct(found, report))
    with collection.held() as records:
        known, failures = records.known_sources(), records.failures()
    todo = []
    for source in wanted:
        stamp = source.stamp
        if known.get(source.id) == (str(source.path), stamp):
            report.unchanged += 1
        elif failures.get(source.id, ("", ""))[0] == stamp:
            report.failed[str(source.path)] = failures[source.id][1]
        else:
            todo.append((source, stamp))
    done = len(found) - len(todo)
    yield done, len(found), report
    ready: list[tuple[Source, str, Media]] = []
    for source, stamp, outcome in decoded(todo, encoder, decoders, budget):
        if isinstance(outcome, BadMedia):
            report.failed[str(source.path)] = str(outcome)
            if not isinstance(outcome, DecoderFailed):  # that may have been the machine's fault: try again next time
                with collection.held() as records:
                    records.fail(source.id, stamp, str(outcome))
            done += 1
        else:
            ready.append((source, stamp, outcome))
        if sum(len(media.windows) for _, _, media in ready) >= WINDOWS:
            done += write(encoder, collection, ready, report)
        yield done, len(found), report
    done += write(encoder, collection, ready, report)
    yield done, len(found), report


def decoded(
    todo: list[tuple[Source, str]], encoder: Encoder, decoders: Decoders, budget: Budget
) -> Iterator[tuple[Source, str, Media | BadMedia]]:
    """Decode in order, a few files ahead."""
    queue: deque[tuple[Source, str, Future[Media | BadMedia]]] = deque()
    rest = iter(todo)

    def fill() -> None:
        for source, stamp in islice(rest, AHEAD - len(queue)):
            queue.append((source, stamp, decoders.start(source.path, encoder.manifest.inputs, budget)))

    fill()
    while queue:
        source, stamp, future = queue.popleft()
        try:
            media = decoders.finish(future)
            if source.texts:  # one that cannot be encoded is this source's fault, not a batch's
                for encoding in encoder.manifest.encodings("text"):
                    encoder.tokens(list(source.texts), encoding)
            yield source, stamp, media
        except BadMedia as fault:
            yield source, stamp, fault
        fill()


def write(encoder: Encoder, collection: Collection, ready: list[tuple[Source, str, Media]], report: Report) -> int:
    """Encode what is ready, a batch a modality, and commit it in one transaction; returns how many items."""
    if not ready:
        return 0
    vectors = encode_all(encoder, [media for _, _, media in ready])
    items = []
    for (source, stamp, media), of_item in zip(ready, vectors, strict=True):
        windows = list(media.windows)
        if source.texts:  # each is about the whole item
            rows = range(len(windows), len(windows) + len(source.texts))
            for encoding, found in text_vectors(encoder, list(source.texts)).items():
                of_item[encoding] = (list(rows), found)
            windows += [(0.0, media.duration_s)] * len(source.texts)
        items.append(
            NewItem(
                id=source.id,
                kind="video" if "video" in media.parts else "audio",
                duration_s=media.duration_s,
                windows=windows,
                vectors=of_item,
                metadata=source.metadata,
                filename=source.path.name,
                source=str(source.path),
                stamp=stamp,
                text="\n".join(source.texts) or None,
            )
        )
    collection.put(items)
    report.indexed += len(items)
    ready.clear()
    return len(items)


def text_vectors(encoder: Encoder, texts: list[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Texts in every way the bundle encodes them, [n, dim] each."""
    encodings = encoder.manifest.encodings("text")
    return {e: encoder.embed(e, encoder.tokens(texts, e)) for e in encodings}


def encode_all(encoder: Encoder, items: list[Media]) -> list[dict[str, tuple[list[int], np.ndarray[Any, Any]]]]:
    """For each item, by encoding, (which windows, vectors [n, dim]); each modality of all items in batches."""
    out: list[dict[str, tuple[list[int], np.ndarray[Any, Any]]]] = [{} for _ in items]
    for encoding in encoder.manifest.graphs:
        modality = modality_of(encoding)
        having = [(i, item.parts[modality]) for i, item in enumerate(items) if modality in item.parts]
        if not having:
            continue
        arrays = np.concatenate([part.array for _, part in having])
        vectors = np.concatenate(
            [encoder.embed(encoding, arrays[i : i + WINDOWS]) for i in range(0, len(arrays), WINDOWS)]
        )
        at = 0
        for i, part in having:
            out[i][encoding] = (part.windows, vectors[at : at + len(part.windows)])
            at += len(part.windows)
    return out
