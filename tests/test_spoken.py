"""What is said and shown in films is found with the default bundle: by the words, and by what they
mean, among other things that are said.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from export.encoder import OnnxEncoder
from index.collection import Collection
from index.ingest.build import build
from index.query_bank import ensure_query_bank
from media.containers import ARCHIVE_BUDGET
from media.sandbox import Decoders

from .makers import GREEN, RED, ROOT, make_clip, make_spoken_film
from .test_passages import ask, write_srt

LINES = json.loads((ROOT / "tests" / "data" / "spoken_lines.json").read_text())
OTHERS = [
    "Good morning, everyone.",
    "Nobody told me about the meeting.",
    "Where did you put the keys?",
    "It was the coldest winter in forty years.",
    "The doctor said I should rest.",
    "Let us talk about something else.",
    "They painted the kitchen yellow.",
    "How much is the rent?",
    "I will call you when the plane lands.",
    "The dog sleeps on the sofa all day.",
    "He was a quiet man with a loud laugh.",
    "Our team lost again on Saturday.",
    "You cannot park here, sir.",
    "The elections are next month.",
    "She wrote him a letter every week.",
    "That is not what I meant.",
    "Look at all those stars.",
    "The engine makes a strange noise.",
    "We should have taken the other road.",
    "My phone is almost dead.",
]
GAP_S = 4.0


def start_of(n: int) -> float:
    """When the n-th line is said: two others lie between."""
    return 1.0 + 3 * n * GAP_S


@pytest.fixture(scope="module")
def encoder() -> OnnxEncoder:
    return OnnxEncoder.open(ROOT / "bundles" / "default")


@pytest.fixture(scope="module")
def library(encoder: OnnxEncoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    """A film in which the lines are said, one with other words, and some clips without any."""
    folder = tmp_path_factory.mktemp("films")
    cues = []
    for n, line in enumerate(LINES):
        cues.append((start_of(n), start_of(n) + 3, line["said"]))
        for m in (0, 1):
            at_s = start_of(n) + (m + 1) * GAP_S
            cues.append((at_s, at_s + 3, OTHERS[2 * n + m]))
    make_spoken_film(folder / "film.mkv", cues, seconds=125)
    make_spoken_film(folder / "other.mp4", seconds=125)
    others = [(start + 0.3, end, OTHERS[-n]) for n, (start, end, _) in enumerate(cues[:20], 1)]
    write_srt(folder / "other.en.srt", others)
    for n in range(3):
        make_clip(folder / f"clip{n}.mp4", [RED, GREEN])
    box = Collection(
        tmp_path_factory.mktemp("data") / "box", encoder.manifest.fingerprint, encoder.manifest.dims
    )
    ensure_query_bank(box, encoder)
    decoders = Decoders(1, 2048, 60.0)
    for _ in build(encoder, box, [folder], decoders, ARCHIVE_BUDGET):
        pass
    decoders.close()
    yield box
    box.close()


def is_found(box: Collection, encoder: OnnxEncoder, words: str, n: int, target: str) -> bool:
    """Whether the first hit for some words is the n-th line, within a second."""
    best = ask(box, words, target, encoder)[0]
    return best.id.endswith("film.mkv") and abs(best.start_s - start_of(n)) <= 1.0


@pytest.mark.parametrize("target", ["text", "any"])
def test_exact_phrases_are_found_first(
    library: Collection, encoder: OnnxEncoder, target: str
) -> None:
    for n, line in enumerate(LINES):
        words = line["said"].lower().rstrip(".").split()
        for phrase in (" ".join(words), " ".join(words[1:5]), " ".join(words[-3:])):
            assert is_found(library, encoder, phrase, n, target), phrase


@pytest.mark.parametrize("target", ["text", "any"])
def test_paraphrases_are_found_first(
    library: Collection, encoder: OnnxEncoder, target: str
) -> None:
    missed = [
        line["meant"]
        for n, line in enumerate(LINES)
        if not is_found(library, encoder, line["meant"], n, target)
    ]
    assert len(missed) <= 2, missed


def test_the_first_hit_says_the_words(library: Collection, encoder: OnnxEncoder) -> None:
    best = ask(library, "kept bees", "any", encoder)[0]
    assert best.target == "text"
    assert best.text == "My grandmother kept bees behind the barn."
