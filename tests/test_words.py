"""Which words a tokenizer knows, and how a text that is longer than an encoder reads becomes
windows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from export.encoder import OnnxEncoder
from index.ingest.encoding import embed_rows
from media.errors import BadText
from media.text import LETTERS_MAX, Reading, TextSpec, TextTokens, learn_tokenizer
from media.words import find_unread_scripts, find_words

from .makers import ROOT

DEFAULT = ROOT / "bundles" / "default" / "tokenizer.json"


@pytest.fixture(scope="module")
def tokens() -> TextTokens:
    return TextTokens(DEFAULT, TextSpec(tokens=32))


def read(tokens: TextTokens, text: str) -> Reading:
    (reading,) = tokens.read([text])
    return reading


OTHER = "狗叫 собака كلب हवाई 강아지 개 Ελλάδα שלום ไทย ქართული አማርኛ 犬が吠える 山 🐶 👨‍👩‍👧 ｄｏｇ"


@pytest.mark.parametrize("text", [*OTHER.split(), "x" * 101, "собака лает!"])
def test_a_text_of_other_letters_has_no_known_word(tokens: TextTokens, text: str) -> None:
    """The vocabulary has Cyrillic, Greek and other letters, 244 ideographs too, but no words of
    them.
    """
    reading = read(tokens, text)
    assert reading.words and not reading.known and reading.unknown
    with pytest.raises(BadText, match="none of its words is known"):
        reading.check()
    assert "none of its words is known" in reading.warnings(cut=True)[0]


LATIN = [
    "a dog barks",
    "Café naïve ÉCOLE über",
    "Tiếng Việt",
    "12 345",
    "don't!",
    "5 µm, π",
    "“well” — yes…",
    "qqq",
]


@pytest.mark.parametrize("text", [*LATIN, "[UNK] [SEP]"])
def test_a_text_of_latin_letters_digits_and_signs_is_known(tokens: TextTokens, text: str) -> None:
    """Accents are taken off, what has no entry is spelled, punctuation is no word; "[UNK]" are
    three letters.
    """
    reading = read(tokens, text)
    assert (
        reading.known == reading.words > 0
        and not reading.warnings(cut=True)
        and reading.share == 1.0
    )
    reading.check()


def test_unknown_words_are_named_once_and_shortened(tokens: TextTokens) -> None:
    reading = read(tokens, f"a red мяч, 狗叫 and мяч {'x' * 200}")
    assert reading.unknown == ("мяч", "狗叫", "x" * 40)
    # each ideograph is a word
    assert (reading.words, reading.known) == (8, 3) and reading.share == 3 / 8
    assert reading.warnings(cut=False) == [
        f"unknown words, which say nothing here: мяч, 狗叫, {'x' * 40}"
    ]
    many = read(tokens, "ball " + " ".join(f"мяч{n}" for n in range(12)))
    assert many.names.endswith("мяч9 and 2 more")


@pytest.mark.parametrize("text", ["!!!", "…", "\u200d", "—"])
def test_signs_alone_are_no_words(tokens: TextTokens, text: str) -> None:
    reading = read(tokens, text)
    assert reading.words == 0 and reading.warnings(cut=False) == ["it has no words"]
    with pytest.raises(BadText, match="it has no words"):
        reading.check()


def test_what_a_vocabulary_was_learned_from_it_reads(tmp_path: Path) -> None:
    """A tokenizer of Russian captions knows Russian words; one that spells every byte knows all."""
    learn_tokenizer(["собака лает", "красный мяч"] * 3, 200, tmp_path / "ru.json")
    russian = TextTokens(tmp_path / "ru.json", TextSpec(tokens=8))
    assert read(russian, "красный мяч").share == 1.0 and read(russian, "狗").known == 0
    spelling = Tokenizer(
        models.BPE(
            vocab={c: n for n, c in enumerate(pre_tokenizers.ByteLevel.alphabet())}, merges=[]
        )
    )
    spelling.pre_tokenizer = pre_tokenizers.ByteLevel()
    spelling.save(str(tmp_path / "bytes.json"))
    assert (
        read(TextTokens(tmp_path / "bytes.json", TextSpec(tokens=64)), "狗叫 мяч 🐶").share == 1.0
    )


def test_a_script_is_read_where_there_are_words_of_it() -> None:
    latin = [f"word{chr(97 + a)}{chr(97 + b)}" for a in range(10) for b in range(10)]
    # two ideographs of a hundred words
    assert find_unread_scripts([*latin, "д", "##ов", "犬", "犭"], "##") == {"CYRILLIC"}
    assert find_unread_scripts([*latin, *latin[:1], "д", "##ов", "犬"], "##") == {"CYRILLIC", "CJK"}
    assert find_words("it's 5 °C") == [(0, 2), (3, 4), (5, 6), (7, 9)]


def numbered(count: int, every: int = 0) -> str:
    """One word after another, each a token of its own; a sentence ends with each so many."""
    words = ["red", "dog", "sea", "car", "man"]
    ends = ["." if every and (n + 1) % every == 0 else "" for n in range(count)]
    return " ".join(words[n % 5] + end for n, end in enumerate(ends))


def test_a_long_text_becomes_windows_of_whole_words(tokens: TextTokens) -> None:
    """Of 70 words 30 fit: 30, 30, and the last 30, as the rest begins earlier. Every id is there,
    ends stand around.
    """
    reading = read(tokens, numbered(70))
    assert [len(row) for row in reading.rows] == [32, 32, 32]
    (whole,) = TextTokens(DEFAULT, TextSpec(tokens=128)).read([numbered(70)])
    ids = whole.rows[0][1:-1]
    assert [row[1:-1] for row in reading.rows] == [ids[:30], ids[30:60], ids[40:]]
    assert all((row[0], row[-1]) == (101, 102) for row in reading.rows)
    assert (reading.tokens, reading.read) == (72, 32)
    assert reading.warnings(cut=True) == ["only the beginning was read, 32 of 72 tokens"]
    assert reading.warnings(cut=False) == []
    assert len(read(tokens, numbered(30)).rows) == 1


def test_windows_end_with_sentences_where_they_can(tokens: TextTokens) -> None:
    """Sentences of 12 words and a full stop: two are 26 tokens, and the third has a window of its
    own.
    """
    reading = read(tokens, numbered(36, every=12))
    assert [len(row) - 2 for row in reading.rows] == [26, 13]


def test_no_word_is_cut_and_what_has_no_spaces_is_read_too(tokens: TextTokens) -> None:
    spelled = "zqxjkvbwpf " * 12  # some ten tokens each
    vocabulary = {id: entry for entry, id in Tokenizer.from_file(str(DEFAULT)).get_vocab().items()}
    reading = read(tokens, spelled)
    assert len(reading.rows) > 2
    assert all(not vocabulary[row[1]].startswith("##") for row in reading.rows)
    unbroken = read(tokens, "red,dog,sea," * 30)
    assert sum(len(row) - 2 for row in unbroken.rows) == unbroken.tokens - 2 == 180
    assert read(tokens, "狗" * 100).tokens == 102


def test_what_cannot_be_read_is_named(tokens: TextTokens) -> None:
    for texts, index in ((["red", " "], 1), (["red", "x" * (LETTERS_MAX + 1)], 1), ([""], None)):
        with pytest.raises(BadText) as bad:
            tokens.read(texts)
        assert bad.value.index == index
    assert read(tokens, "\ud800 red \0").known == 1


@pytest.mark.parametrize("limit", [32, 128])
def test_the_end_of_a_long_text_counts(limit: int) -> None:
    """What comes after more than is read at once is found by one of the windows."""
    encoder = OnnxEncoder.open(ROOT / "bundles" / "default", threads=1)
    reader = TextTokens(DEFAULT, TextSpec(tokens=limit))
    filler = (
        "a man walks through a park on a quiet afternoon while people sit on benches and talk. " * 9
    )
    asked = encoder.embed("text", encoder.tokens(["a dog barks loudly"], "text"))[0]

    def best(text: str) -> float:
        return float((embed_rows(encoder, "text", read(reader, text).rows) @ asked).max())

    assert (
        best(filler + "Then a dog barks loudly.")
        > best(filler + "Then a glass bell rings over the sea.") + 0.2
    )


def test_a_vector_does_not_depend_on_padding() -> None:
    encoder = OnnxEncoder.open(ROOT / "bundles" / "default", threads=1)
    readings = encoder.read(["a dog", "church bells ring far away", numbered(120)], "text")
    together = embed_rows(encoder, "text", [reading.rows[0] for reading in readings])
    for reading, vector in zip(readings, together, strict=True):
        assert np.allclose(embed_rows(encoder, "text", [reading.rows[0]])[0], vector, atol=1e-5)
