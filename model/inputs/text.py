"""Token ids: a WordPiece tokenizer kept beside the weights, at most so many tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from .errors import BadText

PAD, UNK, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
PAD_ID = 0
MAX_CHARACTERS = 10_000


@dataclass(frozen=True)
class TextSpec:
    """What the text graph takes: tokens int64 [batch, length], length at most `tokens`, padded with 0."""

    tokens: int


class TextTokens:
    """Texts to token ids [n, length], padded with zeros to the longest of the batch."""

    def __init__(self, file: Path, spec: TextSpec) -> None:
        self._tokenizer = Tokenizer.from_file(str(file))
        self._tokenizer.enable_truncation(spec.tokens)
        self._tokenizer.enable_padding(pad_id=PAD_ID, pad_token=PAD)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        for text in texts:
            if not text.strip():
                raise BadText("it is empty")
            if len(text) > MAX_CHARACTERS:
                raise BadText(f"{len(text)} characters, the limit is {MAX_CHARACTERS}")
        # A lone surrogate is valid in a Python string and in JSON, but not in UTF-8.
        encodable = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        return np.array([e.ids for e in self._tokenizer.encode_batch(encodable)], dtype=np.int64)


def learn_tokenizer(texts: Iterable[str], vocabulary: int, file: Path) -> None:
    """Write a lower-casing WordPiece tokenizer of at most `vocabulary` entries learned from `texts`."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNK))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, UNK, START, END], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", pair=f"{START} $A {END} $B:1 {END}:1", special_tokens=ids
    )
    tokenizer.save(str(file))
