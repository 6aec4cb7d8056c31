"""Recordings with labels, sentences and captions, for measurements of a search: read from a data
folder that was built of them.

    tercet build --data real --collection video ../shared/data/real/video-sentences.jsonl
    tercet build --data real --collection sound ../shared/data/real/sound-captions.jsonl
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from export.bundle import AUDIO, VIDEO
from export.encoder import OnnxEncoder
from index.collection import Collection
from index.records.item import NewItem
from index.vectors.base import Vectors

MEDIA = (VIDEO, AUDIO)


@dataclass(frozen=True)
class Set:
    """Recordings of one collection, and the manifest that has words for them."""

    name: str
    collection: str
    manifest: str


SETS = (
    Set("video, sentences", "video", "video-sentences.jsonl"),
    Set("video, labels", "video", "video-labels.jsonl"),
    Set("sound, captions", "sound", "sound-captions.jsonl"),
    Set("sound, labels", "sound", "sound-labels.jsonl"),
)


def read_words(path: Path) -> dict[str, str]:
    """By id, the text of each row of a manifest, or its first caption."""
    words = {}
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        text = row.get("text") or next(iter(row.get("captions") or []), None)
        if text:
            words[row["id"]] = text
    return words


def embed_texts(encoder: OnnxEncoder, texts: Sequence[str]) -> dict[str, Vectors]:
    """The vector [dim] of each text."""
    unique = list(dict.fromkeys(texts))
    return {text: encoder.embed("text", encoder.tokens([text], "text"))[0] for text in unique}


def media_of(collection: Collection, id: str) -> NewItem:
    """An item as one to add elsewhere, without its words. Raises LookupError."""
    item = collection.copy_media(id)
    if item is None:
        raise LookupError(id)
    vectors = {encoding: item.vectors[encoding] for encoding in MEDIA if encoding in item.vectors}
    used = {window for which, _ in vectors.values() for window in which}
    kept = sorted(used)
    place = {window: n for n, window in enumerate(kept)}
    return NewItem(
        id=id,
        kind=item.kind,
        duration_s=item.duration_s,
        windows=[item.windows[window] for window in kept],
        vectors={
            encoding: ([place[window] for window in which], rows)
            for encoding, (which, rows) in vectors.items()
        },
    )
