"""Token ids: a WordPiece tokenizer kept beside the weights, at most so many tokens."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from .errors import BadText

PAD, UNK, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
PAD_ID = 0
CHARACTERS_A_TOKEN = 64  # a text is cut here before it is tokenised: what lies beyond could not be read anyway


@dataclass(frozen=True)
class TextSpec:
    """What a text graph takes: tokens int64 [batch, length], length at most `tokens`, padded with `pad_id`; if `whole`,
    each text to the full length, for models that were trained so.
    """

    tokens: int
    pad_id: int = PAD_ID
    whole: bool = False


class TextTokens:
    """Texts to token ids [n, length], padded to the longest of the batch."""

    def __init__(self, file: Path, spec: TextSpec) -> None:
        self._characters = CHARACTERS_A_TOKEN * spec.tokens
        self._tokenizer = Tokenizer.from_file(str(file))
        self._tokenizer.enable_truncation(spec.tokens)
        self._tokenizer.enable_padding(pad_id=spec.pad_id, pad_token=PAD, length=spec.tokens if spec.whole else None)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        cut = [text.strip()[: self._characters] for text in texts]
        if not all(cut):
            raise BadText("it is empty", cut.index("") if len(cut) > 1 else None)
        # A lone surrogate is valid in a Python string and in JSON, but not in UTF-8.
        encodable = [text.encode("utf-8", "replace").decode("utf-8") for text in cut]
        return np.array([e.ids for e in self._tokenizer.encode_batch(encodable)], dtype=np.int64)


def learn_tokenizer(texts: Iterable[str], vocabulary: int, file: Path) -> None:
    """Write a lower-casing WordPiece tokenizer of at most `vocabulary` entries for `texts`: every letter, then the most
    frequent whole words. (The library's own trainer breaks ties by chance, and a run could not be repeated.)
    """
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    letters = sorted({letter for word in words for letter in word} | set(string.ascii_lowercase + string.digits))
    frequent = sorted(words, key=lambda word: (-words[word], word))
    entries = [PAD, UNK, START, END, *letters, *(f"##{letter}" for letter in letters), *frequent]
    ids = {entry: id for id, entry in enumerate(list(dict.fromkeys(entries))[:vocabulary])}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=UNK))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        pair=f"{START} $A {END} $B:1 {END}:1",
        special_tokens=[(token, ids[token]) for token in (START, END)],
    )
    tokenizer.save(str(file))
