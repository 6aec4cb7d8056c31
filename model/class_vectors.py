"""What the classes of published classifiers mean, as vectors of a published sentence encoder."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer as WordPiece

from evaluation.linear_maps import Matrix
from media.text import PAD_ID

from .network.language import published
from .network.stems import Sentences
from .network.yamnet import CLASS_NAMES
from .wheels import TIMM

PHRASES = Path(__file__).parent / "phrases"
TOKENS = 128
VOCABULARY = 30_522
SYNSETS, LEMMAS, DEFINITIONS = (
    f"imagenet_{name}.txt" for name in ("synsets", "synset_to_lemma", "synset_to_definition")
)


class SentenceVectors:
    """Texts -> sentence vectors [n, 384], by the very weights that the bundle will hold."""

    def __init__(self) -> None:
        self.network = Sentences(VOCABULARY, TOKENS).eval()
        self.network.language.load_published(published() / "tokenizer.json")
        self.tokenizer = WordPiece.from_file(str(published() / "tokenizer.json"))
        self.tokenizer.enable_truncation(TOKENS)
        self.tokenizer.enable_padding(pad_id=PAD_ID)

    @torch.no_grad()
    def __call__(self, texts: list[str], size: int = 64) -> Matrix:
        pages = []
        for first in range(0, len(texts), size):
            encodings = self.tokenizer.encode_batch(texts[first : first + size])
            pages.append(
                self.network(torch.tensor([encoding.ids for encoding in encodings])).numpy()
            )
        return np.concatenate(pages)


def picture_classes(sentences: SentenceVectors, wheels: Path) -> Matrix:
    """Of each ImageNet class [1000, 384]: the mean of its name, a photo of it, and its
    definition.
    """
    files = {
        name: TIMM.read(f"/{name}", wheels).decode() for name in (SYNSETS, LEMMAS, DEFINITIONS)
    }
    lemmas = dict(line.split("\t") for line in files[LEMMAS].splitlines())
    definitions = dict(line.split("\t") for line in files[DEFINITIONS].splitlines())
    synsets = files[SYNSETS].split()
    names = [lemmas[synset].partition(",")[0].strip() for synset in synsets]
    described = [
        f"{name}: {definitions[synset]}" for name, synset in zip(names, synsets, strict=True)
    ]
    return np.asarray(
        (sentences([f"a photo of a {n}" for n in names]) + sentences(names) + sentences(described))
        / 3
    )


def sound_classes(sentences: SentenceVectors, teachers: Path) -> Matrix:
    """Of each class of AudioSet that the teacher knows [521, 384]: the mean of its name and of the
    sound of it.
    """
    with (teachers / CLASS_NAMES).open(encoding="utf-8") as file:
        names = [row["display_name"] for row in csv.DictReader(file)]
    return np.asarray(
        (sentences([f"the sound of {name}" for name in names]) + sentences(names)) / 2
    )


@dataclass(frozen=True)
class ClassPhrases:
    """What people write where they mean a class: sentence vectors [C, T, 384] of T texts for each
    of C classes. The first `caption_count` of them are sentences about a recording, the next
    `phrase_count` are said without the class's name, and the rest are short names.
    """

    vectors: Matrix
    caption_count: int
    phrase_count: int

    @classmethod
    def read(cls, sentences: SentenceVectors, kind: str) -> ClassPhrases:
        """Those of the classes of "sounds" or "pictures", which were written for Tercet."""
        lines = (PHRASES / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        texts = [
            text for row in rows for text in (*row["captions"], *row["phrases"], *row["names"])
        ]
        vectors = sentences(texts).reshape(len(rows), -1, 384)
        return cls(vectors, len(rows[0]["captions"]), len(rows[0]["phrases"]))

    def describe(self, classes: Matrix) -> Matrix:
        """Vectors of the classes' names [C, 384] -> their mean with that of what is written, less
        the mean of all classes.
        """
        end = self.caption_count + self.phrase_count
        captions = self.vectors[:, : self.caption_count].mean(axis=1)
        phrases = self.vectors[:, self.caption_count : end].mean(axis=1)
        described = (classes + (captions + phrases) / 2) / 2
        return np.asarray(described - described.mean(axis=0), np.float32)
