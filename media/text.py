"""Turns texts into token ids, with the tokenizer that a bundle has.

A text longer than an encoder takes is cut into windows at ends of sentences or words.
"""

from __future__ import annotations

import json
import string
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import (
    Encoding,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from .errors import BadText
from .words import find_unread_scripts, find_words, is_spelled

PAD = "[PAD]"
UNK = "[UNK]"
START = "[CLS]"
END = "[SEP]"
PAD_ID = 0
# if only the beginning is wanted, a text is first cut to so many characters for each token
CHARACTERS_A_TOKEN = 64
LETTERS_MAX = 1_000_000  # of a text that is read whole; half of that takes a second
NAMED = 10  # unknown words that a warning names
NAME_LETTERS = 40  # of each
INSIDE, BETWEEN_PIECES, BETWEEN_WORDS, BETWEEN_SENTENCES = range(4)  # what lies before a token
# fmt: off
RANDOM_WORDS = (
    "a", "red", "dog", "barking", "the", "sound", "of", "rain", "loudly",
    "two", "people", "clapping",
)
# fmt: on
LONG_TEXT = "the dog barks, and then again it rains on a tin roof while two people talk, " * 8
SENTENCE_ENDS = ".!?…。！？"
CLOSING = "\"'”’»)]"


@dataclass(frozen=True)
class TextSpec:
    """What a text graph takes: tokens int64 [batch, length], length at most `tokens`, padded with
    `pad_id` to the longest text. If `whole`, it is padded to the full length, for models that were
    trained so.
    """

    tokens: int
    pad_id: int = PAD_ID
    whole: bool = False

    @property
    def shape(self) -> tuple[int]:
        return (self.tokens if self.whole else -1,)

    def golden_input(self, n: int) -> NDArray[np.int64]:
        """Ids of five tokens, the last of them padding, int64 [n, 5] or padded to [n, tokens]."""
        rows = np.array([[2, 5 + i, 9 + i, 3, self.pad_id] for i in range(n)], dtype=np.int64)
        missing = self.tokens - rows.shape[1] if self.whole else 0
        return np.pad(rows, ((0, 0), (0, missing)), constant_values=self.pad_id)

    def random_inputs(self, n: int, random: np.random.Generator) -> list[str]:
        """Texts of one to eight words."""
        return [" ".join(random.choice(RANDOM_WORDS, random.integers(1, 9))) for _ in range(n)]

    def odd_inputs(self) -> list[str]:
        """A long text, one of a single letter and one without words."""
        return [LONG_TEXT, "a", "?!"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a tokenizer makes of one text.

    `rows` are the token ids of each window; a query uses only the first. `tokens` counts those of
    the whole text. `words` counts its words, `known` those that the encoder knows, and `unknown`
    lists the others.
    """

    rows: list[list[int]]
    tokens: int
    words: int
    known: int
    unknown: tuple[str, ...] = ()

    @property
    def read(self) -> int:
        """How many tokens the first window has."""
        return len(self.rows[0])

    @property
    def share(self) -> float:
        """The share of words that are known, in [0, 1]; 0 without words."""
        return self.known / self.words if self.words else 0.0

    @property
    def names(self) -> str:
        named = ", ".join(self.unknown[:NAMED])
        return (
            f"{named} and {len(self.unknown) - NAMED} more" if len(self.unknown) > NAMED else named
        )

    @property
    def lacks(self) -> str:
        """Why nothing of it is known."""
        return f"none of its words is known: {self.names}" if self.words else "it has no words"

    def check(self, index: int | None = None) -> None:
        """Raise BadText if no word is known. `index` says which of several texts this is."""
        if not self.known:
            raise BadText(self.lacks, index)

    def warnings(self, cut: bool) -> list[str]:
        """Warnings for the user: which words are unknown, and, if the text is `cut` to its first
        window, how much of it was read.
        """
        told = []
        if not self.known:
            told.append(self.lacks)
        elif self.unknown:
            told.append(f"unknown words, which say nothing here: {self.names}")
        if cut and len(self.rows) > 1:
            told.append(f"only the beginning was read, {self.read} of {self.tokens} tokens")
        return told


def list_warnings(readings: Mapping[int, Reading], named: bool, cut: bool) -> list[str]:
    """The warnings of several texts, by their places. If `named`, each says which text it is of."""
    return [
        f"the text of index {place}: {warning}" if named else warning
        for place, reading in readings.items()
        for warning in reading.warnings(cut)
    ]


class TextTokens:
    """Turns texts into token ids, with a tokenizer read from `file`."""

    def __init__(self, file: Path, spec: TextSpec) -> None:
        self._spec = spec
        self._tokenizer = Tokenizer.from_file(str(file))
        self._tokenizer.enable_truncation(spec.tokens)
        self._tokenizer.encode_special_tokens = True  # "[SEP]" in a text is read as letters
        self._file = file

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """The beginnings of texts as token ids int64 [n, length], padded as the spec says.

        Raises:
            BadText: one is empty.
        """
        most = CHARACTERS_A_TOKEN * self._spec.tokens
        encodings = self._tokenizer.encode_batch(
            replace_surrogates([text.strip()[:most] for text in texts])
        )
        return pad_tokens([encoding.ids for encoding in encodings], self._spec)

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """The whole of each text, in as many windows as it needs.

        Raises:
            BadText: one is empty, or longer than `LETTERS_MAX`.
        """
        for i, text in enumerate(texts):
            if len(text) > LETTERS_MAX:
                reason = f"it has {len(text)} letters, the limit is {LETTERS_MAX}"
                raise BadText(reason, i if len(texts) > 1 else None)
        whole = replace_surrogates([text.strip() for text in texts])
        return [
            self._reading(text, e)
            for text, e in zip(whole, self._tokenizer.encode_batch(whole), strict=True)
        ]

    def _reading(self, text: str, encoding: Encoding) -> Reading:
        words, known, unknown = self._known(text, encoding)
        if not encoding.overflowing:
            return Reading(
                rows=[encoding.ids],
                tokens=len(encoding.ids),
                words=words,
                known=known,
                unknown=unknown,
            )
        ids, ranks = list_tokens(text, encoding)
        before, behind = find_special_ends(encoding)
        room = max(1, self._spec.tokens - len(before) - len(behind))
        rows = [[*before, *ids[first:last], *behind] for first, last in split_tokens(ranks, room)]
        return Reading(
            rows=rows,
            tokens=len(before) + len(ids) + len(behind),
            words=words,
            known=known,
            unknown=unknown,
        )

    def _known(self, text: str, encoding: Encoding) -> tuple[int, int, tuple[str, ...]]:
        """How many words a text has, how many are known, and the unknown ones. Adjacent unknown
        words count as one name.
        """
        spans = find_words(text)
        parts = [encoding, *encoding.overflowing]
        bad = [
            offset[0]
            for part in parts
            if self._unknown_id in part.ids
            for id, offset, special in zip(
                part.ids, part.offsets, part.special_tokens_mask, strict=True
            )
            if id == self._unknown_id and not special
        ]
        if text.isascii() and not bad:
            return len(spans), len(spans), ()
        strange: list[tuple[int, int]] = []
        count = 0
        for first, last in spans:
            at = bisect_left(bad, first)
            if (at < len(bad) and bad[at] < last) or is_spelled(text[first:last], self._unread):
                count += 1
                joined = bool(strange) and strange[-1][1] == first
                first = strange.pop()[0] if joined else first
                strange.append((first, last))
        names = dict.fromkeys(text[first:last][:NAME_LETTERS] for first, last in strange)
        return len(spans), len(spans) - count, tuple(names)

    @cached_property
    def _model(self) -> dict[str, Any]:
        """The entry "model" of the tokenizer's file, with its vocabulary."""
        model: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8"))["model"]
        return model

    @cached_property
    def _unknown_id(self) -> int | None:
        """The id of the token for unknown pieces; None if every letter can be spelled."""
        if self._model.get("byte_fallback"):
            return None
        entry = self._model.get("unk_token")
        found: int | None = (
            self._model.get("unk_id") if entry is None else self._tokenizer.token_to_id(entry)
        )
        return found

    @cached_property
    def _unread(self) -> frozenset[str]:
        if self._model["type"] != "WordPiece":
            return frozenset()
        return find_unread_scripts(self._model["vocab"], self._model["continuing_subword_prefix"])


def replace_surrogates(texts: Sequence[str]) -> list[str]:
    """The texts with "?" for lone surrogates, which Python and JSON allow, but not UTF-8.

    Raises:
        BadText: one is empty.
    """
    if not all(texts):
        raise BadText("it is empty", list(texts).index("") if len(texts) > 1 else None)
    return [text.encode("utf-8", "replace").decode("utf-8") for text in texts]


def pad_tokens(rows: Sequence[Sequence[int]], spec: TextSpec) -> NDArray[np.int64]:
    """Token ids as an array int64 [n, length], padded to the longest, or to the full length if
    `spec.whole`.

    >>> pad_tokens([[1, 2], [3]], TextSpec(tokens=4, pad_id=9)).tolist()
    [[1, 2], [3, 9]]
    """
    width = spec.tokens if spec.whole else max(map(len, rows))
    out = np.full((len(rows), width), spec.pad_id, np.int64)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = row
    return out


def find_special_ends(encoding: Encoding) -> tuple[list[int], list[int]]:
    """The special ids that the tokenizer puts before and behind every text."""
    mask = encoding.special_tokens_mask
    first = mask.index(0)
    last = len(mask) - mask[::-1].index(0)
    return encoding.ids[:first], encoding.ids[last:]


def list_tokens(text: str, encoding: Encoding) -> tuple[list[int], NDArray[np.int8]]:
    """All token ids of a text without special ones, and what lies before each, int8 [n] of INSIDE,
    BETWEEN_PIECES, BETWEEN_WORDS or BETWEEN_SENTENCES.
    """
    ids: list[int] = []
    ranks: list[int] = []
    word = None
    end = 0
    for part in (encoding, *encoding.overflowing):
        rows = zip(part.ids, part.offsets, part.word_ids, part.special_tokens_mask, strict=True)
        for id, (first, last), of_word, special in rows:
            if special:
                continue
            ids.append(id)
            ranks.append(
                classify_break(text, end, first) or (INSIDE if of_word == word else BETWEEN_PIECES)
            )
            word = of_word
            end = last
    return ids, np.array(ranks, np.int8)


def classify_break(text: str, end: int, first: int) -> int:
    """What lies between a token that ends at letter `end` and one that begins at `first`: INSIDE if
    there is no space.
    """
    # One letter further: with some tokenizers a token begins with its space.
    gap = text[end : first + 1]
    if not any(letter.isspace() for letter in gap):
        return INSIDE
    said = text[max(0, end - 4) : end].rstrip().rstrip(CLOSING)
    return (
        BETWEEN_SENTENCES if "\n" in gap or said.endswith(tuple(SENTENCE_ENDS)) else BETWEEN_WORDS
    )


def split_tokens(ranks: NDArray[np.int8], room: int) -> list[tuple[int, int]]:
    """Stretches [start, end) of at most `room` tokens that cover a text. `ranks` [n] say what lies
    before each token, see `list_tokens`.

    A stretch ends with the last sentence in its second half, else with a word. If the last stretch
    begins inside a sentence, it is made as long as `room` allows, so it overlaps the one before.

    >>> split_tokens(np.array([0, 2, 2, 3, 2, 2, 2], np.int8), 4)
    [(0, 3), (3, 7)]
    >>> split_tokens(np.array([0, 2, 2, 0, 2, 2], np.int8), 4)
    [(0, 4), (2, 6)]
    """
    found: list[tuple[int, int]] = []
    begin = 0
    while len(ranks) - begin > room:
        end = begin + 1 + find_last_break(ranks[begin + 1 : begin + room + 1])
        found.append((begin, end))
        begin = end
    if found and ranks[begin] < BETWEEN_SENTENCES:
        earliest = len(ranks) - room
        begin = next((at for at in range(earliest, begin) if ranks[at] >= BETWEEN_WORDS), begin)
    return [*found, (begin, len(ranks))]


def find_last_break(ranks: NDArray[np.int8]) -> int:
    """The best place to end a stretch, by the ranks [n] of the places: the last sentence in the
    second half, else the last word, else the last piece.
    """
    half = len(ranks) // 2
    sentences = np.flatnonzero(ranks[half:] == BETWEEN_SENTENCES)
    if len(sentences):
        return half + int(sentences[-1])
    for least in (BETWEEN_WORDS, BETWEEN_PIECES):
        places = np.flatnonzero(ranks >= least)
        if len(places):
            return int(places[-1])
    return len(ranks) - 1


def learn_tokenizer(texts: Iterable[str], vocabulary: int, file: Path) -> None:
    """Write a lower-casing WordPiece tokenizer for `texts` to `file`.

    It has at most `vocabulary` entries: every letter, then the most frequent words. The trainer of
    the library tokenizers is not used, since it breaks ties at random: runs could not be repeated.
    """
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    words = Counter(
        word
        for text in texts
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    )
    letters = sorted(
        {letter for word in words for letter in word} | set(string.ascii_lowercase + string.digits)
    )
    frequent = sorted(words, key=lambda word: (-words[word], word))
    entries = [PAD, UNK, START, END, *letters, *(f"##{letter}" for letter in letters), *frequent]
    ids = {entry: id for id, entry in enumerate(list(dict.fromkeys(entries))[:vocabulary])}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=UNK))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        pair=f"{START} $A {END} $B:1 {END}:1",
        special_tokens=[(token, ids[token]) for token in (START, END)],
    )
    tokenizer.save(str(file))
