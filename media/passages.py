"""Passages: words of a file with their times, and how subtitles become such.

A search by words finds passages by their meaning and by the words themselves. So a passage is
short, and it begins where its words are said.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from .text import CLOSING, SENTENCE_ENDS
from .words import find_words

START_S = 1.0  # cues that begin within so long of each other become one passage
PASSAGE_S = 8.0  # cues are not joined to more than this
ADJACENT_S = 0.5  # between two passages that may be one sentence
LETTERS_MAX = 4000  # of one passage
PASSAGES_MAX = 50_000  # of one file
COMBINING = range(0x300, 0x370)  # accents of Latin, Greek and Cyrillic letters


class Kind(StrEnum):
    """Where the words of a passage come from."""

    SUBTITLE = (
        "subtitle"  # a subtitle stream of the file, or a file of subtitles or lyrics beside it
    )
    SPEECH = "speech"  # a transcript of what is said
    SCREEN = "screen"  # text that is seen
    CHAPTER = "chapter"  # the title of a chapter
    TAG = "tag"  # title, artist, album, comment or description of the whole file


@dataclass(frozen=True)
class Passage:
    """Words that are said or shown from `start_s` to `end_s`."""

    start_s: float
    end_s: float
    text: str
    kind: Kind


def join_cues(cues: Iterable[Passage]) -> list[Passage]:
    """The cues of one track as passages, by their times. Those that begin at about the same time
    become one, such as the lines of two speakers.

    >>> cues = [Passage(5, 7, "Who?", Kind.SUBTITLE), Passage(5.4, 8, "Me.", Kind.SUBTITLE)]
    >>> join_cues([*cues, Passage(8, 9, "Go on.", Kind.SUBTITLE)])[0]
    Passage(start_s=5, end_s=8, text='Who? Me.', kind=<Kind.SUBTITLE: 'subtitle'>)
    """
    joined: list[Passage] = []
    for cue in sorted(cues, key=lambda cue: (cue.start_s, cue.end_s)):
        text = " ".join(cue.text.split())[:LETTERS_MAX]
        if not any(letter.isalnum() for letter in text):
            continue
        cue = replace(cue, text=text, end_s=max(cue.start_s, cue.end_s))
        last = joined[-1] if joined else None
        if last is not None and begin_together(last, cue):
            end_s = max(last.end_s, cue.end_s)
            joined[-1] = replace(last, end_s=end_s, text=f"{last.text} {cue.text}")
        else:
            joined.append(cue)
    return joined


def join_tracks(tracks: Iterable[Iterable[Passage]]) -> list[Passage]:
    """The passages of several tracks, one track after the other. What two have alike is taken
    once.
    """
    found: list[Passage] = []
    seen: set[tuple[float, str]] = set()
    for track in tracks:
        new = []
        for passage in join_cues(track):
            key = (round(passage.start_s), passage.text)
            if key not in seen:
                new.append(passage)
            seen.add(key)
        found += new
    return found[:PASSAGES_MAX]


def begin_together(passage: Passage, cue: Passage) -> bool:
    """Whether a cue belongs to the passage before it."""
    return (
        cue.kind == passage.kind
        and cue.start_s - passage.start_s < START_S
        and max(cue.end_s, passage.end_s) - passage.start_s <= PASSAGE_S
        and len(passage.text) + len(cue.text) < LETTERS_MAX
    )


def find_next(passages: Sequence[Passage], n: int) -> Passage | None:
    """The passage that goes on from the n-th without a pause; None where there is none."""
    if n + 1 == len(passages):
        return None
    this = passages[n]
    following = passages[n + 1]
    timed = this.kind in (Kind.SUBTITLE, Kind.SPEECH)
    goes_on = abs(following.start_s - this.end_s) <= ADJACENT_S
    return following if timed and goes_on and following.kind == this.kind else None


def list_meanings(passages: Sequence[Passage]) -> list[str]:
    """What is encoded of each passage: its text; with that of the next where a sentence plainly
    goes on there.

    >>> said = [Passage(0, 2, "If it rains,", Kind.SPEECH), Passage(2, 4, "we stay.", Kind.SPEECH)]
    >>> list_meanings(said)
    ['If it rains, we stay.', 'we stay.']
    """
    meanings = []
    for n, passage in enumerate(passages):
        following = find_next(passages, n)
        goes_on = (
            following is not None
            and not ends_sentence(passage.text)
            and following.text[:1].islower()
            and ends_sentence(following.text)
        )
        meanings.append(
            f"{passage.text} {following.text}" if following and goes_on else passage.text
        )
    return meanings


def ends_sentence(text: str) -> bool:
    return text.rstrip(CLOSING).endswith(tuple(SENTENCE_ENDS))


def fold_words(text: str) -> list[str]:
    """The words of a text as they are compared: without case and accents.

    >>> fold_words("Café — c'est la VIE!")
    ['cafe', 'c', 'est', 'la', 'vie']
    """
    return [fold(text[first:end]) for first, end in find_words(text)]


def fold(word: str) -> str:
    if word.isascii():
        return word.lower()
    letters = unicodedata.normalize("NFKD", word.casefold())
    plain = "".join(letter for letter in letters if ord(letter) not in COMBINING)
    return unicodedata.normalize("NFC", plain)
