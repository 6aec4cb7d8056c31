"""Finds words in texts, and the scripts that a vocabulary cannot read.

A WordPiece vocabulary spells words that it does not have. If it has hardly any words of a script,
such as Cyrillic in an English vocabulary, the network only knows letters of it. Words of such a
script count as unknown.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

IDEOGRAPHS = "CJK"
# A script is unread if it has fewer words than this share of the most frequent script's.
LEAST_SHARE = 0.02
WORD = re.compile("i|m*w[wm]*")  # in a text of the classes that `classify_letter` gives
ASCII_WORD = re.compile("[A-Za-z0-9]+")


@lru_cache(maxsize=4096)
def classify_letter(letter: str) -> str:
    """The class of a letter: "w" part of a word (letters, digits, emoji), "i" an ideograph, a word
    by itself, "m" a mark that belongs to its neighbour, " " everything else.
    """
    category = unicodedata.category(letter)
    if category in ("Mn", "Mc", "Me", "Cf", "Sk"):
        return "m"
    if category[0] not in "LN" and category != "So":
        return " "
    return "i" if find_script(letter) == IDEOGRAPHS else "w"


@lru_cache(maxsize=4096)
def find_script(letter: str) -> str:
    """The script of a letter, the first word of its Unicode name: LATIN, CYRILLIC, CJK. A
    compatibility character, such as ª, has the script of its plain form.

    >>> find_script("ж"), find_script("é"), find_script("ª")
    ('CYRILLIC', 'LATIN', 'LATIN')
    """
    plain = unicodedata.normalize("NFKC", letter)[:1]
    return unicodedata.name(plain, "").partition(" ")[0]


def find_words(text: str) -> list[tuple[int, int]]:
    """Start and end of each word in a text. Each ideograph is a word; punctuation is none.

    >>> [("it's 5 狗叫 🐶!")[a:b] for a, b in find_words("it's 5 狗叫 🐶!")]
    ['it', 's', '5', '狗', '叫', '🐶']
    """
    if text.isascii():
        return [found.span() for found in ASCII_WORD.finditer(text)]
    return [found.span() for found in WORD.finditer("".join(map(classify_letter, text)))]


def find_unread_scripts(vocabulary: Iterable[str], continuing: str) -> frozenset[str]:
    """The scripts of which a WordPiece vocabulary has letters, but hardly any words. Entries that
    begin with `continuing` are not words but their endings.
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
    """Whether all letters of a word are of `unread` scripts. A single Greek letter does not count:
    it is a symbol, as in 5 μm.
    """
    letters = [letter for letter in unicodedata.normalize("NFD", word) if letter.isalpha()]
    scripts = {find_script(letter) for letter in letters}
    return bool(letters) and scripts <= unread and not (scripts == {"GREEK"} and len(letters) == 1)
