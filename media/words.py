"""Words, and the writing systems that a vocabulary has words of.

A WordPiece vocabulary spells what it has no word for. Of a script that it has next to no words of,
such as Cyrillic in an English one, the network has learned nothing but letters: a word in it is as
good as unknown.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

IDEOGRAPHS = "CJK"
LEAST_SHARE = 0.02  # of the words of the script with most, below which a script has next to none
WORD = re.compile("i|m*w[wm]*")  # in what `classify_letter` makes of a text
ASCII_WORD = re.compile("[A-Za-z0-9]+")


@lru_cache(maxsize=4096)
def classify_letter(letter: str) -> str:
    """w: part of a word (letters, digits, emoji); i: an ideograph, a word by itself; m: joins what
    is beside it; else a space.
    """
    category = unicodedata.category(letter)
    if category in ("Mn", "Mc", "Me", "Cf", "Sk"):
        return "m"
    if category[0] not in "LN" and category != "So":
        return " "
    return "i" if find_script(letter) == IDEOGRAPHS else "w"


@lru_cache(maxsize=4096)
def find_script(letter: str) -> str:
    """The first word of a letter's Unicode name: LATIN, CYRILLIC, CJK; of one that only looks
    special, the plain one's.

    >>> find_script("ж"), find_script("é"), find_script("ª")
    ('CYRILLIC', 'LATIN', 'LATIN')
    """
    plain = unicodedata.normalize("NFKC", letter)[:1]
    return unicodedata.name(plain, "").partition(" ")[0]


def find_words(text: str) -> list[tuple[int, int]]:
    """Where the words of a text begin and end; each ideograph is one, punctuation none.

    >>> [("it's 5 狗叫 🐶!")[a:b] for a, b in find_words("it's 5 狗叫 🐶!")]
    ['it', 's', '5', '狗', '叫', '🐶']
    """
    if text.isascii():
        return [found.span() for found in ASCII_WORD.finditer(text)]
    return [found.span() for found in WORD.finditer("".join(map(classify_letter, text)))]


def find_unread_scripts(vocabulary: Iterable[str], continuing: str) -> frozenset[str]:
    """The scripts that a WordPiece vocabulary spells, if at all: it has next to no words of them.
    An entry that begins with `continuing` is the end of a word. What the vocabulary has not a
    letter of is not named.
    """
    words: Counter[str] = Counter()
    for entry in vocabulary:
        begins = not entry.startswith(continuing)
        letters = [letter for letter in entry.removeprefix(continuing) if letter.isalpha()]
        of = {"LATIN"} if entry.isascii() else {find_script(letter) for letter in letters}
        if len(of) == 1:
            name = of.pop()
            words[name] += begins and (len(letters) > 1 or name == IDEOGRAPHS)
    most = max(words.values(), default=0)
    return frozenset(name for name, count in words.items() if count < LEAST_SHARE * most)


def is_spelled(word: str, unread: frozenset[str]) -> bool:
    """Whether a word is all of scripts that are merely spelled. A Greek letter alone is a symbol: 5
    μm, α.
    """
    letters = [letter for letter in unicodedata.normalize("NFD", word) if letter.isalpha()]
    scripts = {find_script(letter) for letter in letters}
    return bool(letters) and scripts <= unread and not (scripts == {"GREEK"} and len(letters) == 1)
