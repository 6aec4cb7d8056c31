"""Decodes a file together with its words: those that it brings, and those that readers find in its
sound and pictures.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .passages import Kind, Passage, join_tracks
from .readers import read_with
from .subtitles import read_file_words
from .windows import DecodeOptions, Media, decode_media


def decode_with_words(path: Path, options: DecodeOptions) -> Media:
    """`decode_media`, with passages and tags if the options ask for words. Raises BadMedia."""
    return add_words(decode_media(path, options), path, options)


def add_words(media: Media, path: Path, options: DecodeOptions) -> Media:
    """A decoded file with its passages and tags, if the options ask for words."""
    if options.words is None:
        return media
    found = read_file_words(path, options.budget, options.words.sidecars)
    tracks = read_with(options.words.readers.open(), path, options.budget)
    passages = [*found.passages, *join_tracks(tracks)]
    within = [
        fit(passage, media.duration_s)
        for passage in passages
        if passage.start_s <= media.duration_s
    ]
    return replace(media, passages=tuple(within), metadata=found.metadata)


def fit(passage: Passage, duration_s: float) -> Passage:
    """A passage that ends with its file at the latest; a tag is about the whole of it."""
    end_s = duration_s if passage.kind == Kind.TAG else min(passage.end_s, duration_s)
    return replace(passage, end_s=end_s)
