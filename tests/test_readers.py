"""Readers of words in pictures and in speech: what they make of a file, and what is said where one
cannot be had.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from index.collection import Collection
from media.containers import Budget
from media.passages import Kind, Passage
from media.readers import (
    NO_READERS,
    ReaderMissing,
    ScreenReader,
    SpeechReader,
    WordReaders,
    choose_readers,
    open_screen_reader,
    read_with,
)
from media.sandbox import Decoders

from .makers import BLUE, RED, FakeEncoder, make_clip, make_wav
from .test_passages import ask, build_box

needs_rapidocr = pytest.mark.skipif(
    importlib.util.find_spec("rapidocr") is None, reason="the extra 'screen' is not installed"
)
CARDS = [
    "The Last Harbour",
    "Directed by Anna Berg",
    "Twenty years later",
    "GATE 14 CLOSED",
    "Fresh bread daily",
    "Chapter One: Winter",
    "No swimming",
    "Welcome to Lisbon",
    "Music by Otto Klein",
    "Exit only",
    "Monday, 7 March",
    "Keep the door shut",
    "Breaking news",
    "Platform 9 to Leeds",
    "Mind the gap",
    "All rights reserved",
    "Opening hours 8 to 6",
    "To be continued",
    "Caution: wet floor",
    "Thank you for watching",
]


def make_cards(path: Path, cards: list[str], seconds_each: float = 2.0) -> Path:
    """A film of title cards, one after another, light on dark and dark on light."""
    font = ImageFont.load_default(size=36)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=4)
        video.width, video.height, video.pix_fmt = 640, 360, "yuv420p"
        for n, text in enumerate(cards):
            back, ink = ((12, 12, 40), (250, 250, 240))[:: 1 if n % 2 else -1]
            card = Image.new("RGB", (640, 360), back)
            ImageDraw.Draw(card).text((60, 150), text, fill=ink, font=font)
            frame = av.VideoFrame.from_ndarray(np.asarray(card), format="rgb24")
            for _ in range(round(4 * seconds_each)):
                container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def by_colour(picture: NDArray[np.uint8]) -> list[str]:
    """A reader that calls a picture by its strongest colour; green ones say nothing."""
    name = ["red", "", "blue"][int(picture.mean(axis=(0, 1)).argmax())]
    return [name] if name else []


def test_pictures_are_read_until_they_change(tmp_path: Path) -> None:
    film = make_clip(tmp_path / "a.mp4", [RED, RED, (20, 200, 20), BLUE])
    found = ScreenReader(by_colour).read(film, Budget())
    assert [(p.start_s, p.end_s, p.text) for p in found] == [(0, 2, "red"), (3, 4, "blue")]
    assert {passage.kind for passage in found} == {Kind.SCREEN}
    assert ScreenReader(by_colour).read(make_wav(tmp_path / "a.wav"), Budget()) == []


@dataclass
class Word:
    start: float
    end: float
    word: str


@dataclass
class Segment:
    words: list[Word] | None


class FakeWhisper:
    """Hears three words in two sentences, whatever it is given."""

    def transcribe(self, waveform: NDArray[np.float32], **_: Any) -> tuple[list[Segment], None]:
        assert waveform.dtype == np.float32
        assert len(waveform) == 32_000
        said = [Word(0.2, 0.5, " Come"), Word(0.6, 0.9, " in."), Word(1.0, 1.4, " Sit.")]
        return [Segment(said), Segment(None)], None


def test_speech_becomes_passages_of_a_sentence(tmp_path: Path) -> None:
    sound = make_wav(tmp_path / "a.wav", 2.0, rate=8000)
    assert SpeechReader(FakeWhisper()).read(sound, Budget()) == [
        Passage(0.2, 0.9, "Come in.", Kind.SPEECH),
        Passage(1.0, 1.4, "Sit.", Kind.SPEECH),
    ]
    silent = make_clip(tmp_path / "a.mp4", [RED], hz=None)
    assert SpeechReader(FakeWhisper()).read(silent, Budget()) == []
    (tmp_path / "b.wav").write_bytes(b"RIFF")
    assert read_with([SpeechReader(FakeWhisper())], tmp_path / "b.wav", Budget()) == [[]]


def test_what_a_reader_lacks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_readers(False, "") == NO_READERS
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ReaderMissing, match="extra 'screen'"):
            choose_readers(True, "")
        with pytest.raises(ReaderMissing, match="extra 'speech'"):
            choose_readers(False, str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ReaderMissing, match=r"no model\.bin"):
        choose_readers(False, str(tmp_path))
    (tmp_path / "model.bin").touch()
    assert choose_readers(False, str(tmp_path)) == WordReaders(speech=tmp_path)


@needs_rapidocr
def test_words_on_screen_are_read_and_found(tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    make_cards(folder / "a.mp4", ["Red door", "Blue noise"])
    box = Collection(tmp_path / "box", "fake", FakeEncoder().manifest.dims)
    decoders = Decoders(1, 6144, 120.0)
    try:
        assert build_box(box, decoders, folder).indexed == 1
        assert box.passages("films/a.mp4") == ()
        assert build_box(box, decoders, folder, WordReaders(screen=True)).indexed == 1
        assert build_box(box, decoders, folder, WordReaders(screen=True)).unchanged == 1
        best = ask(box, "blue noise", "any")[0]
        assert (best.target, best.start_s, best.text) == ("text", 2.0, "Blue noise")
    finally:
        decoders.close()
        box.close()


@needs_rapidocr
@pytest.mark.slow
def test_twenty_title_cards_are_found_by_what_they_say(tmp_path: Path) -> None:
    film = make_cards(tmp_path / "a.mp4", CARDS)
    found = open_screen_reader().read(film, Budget())
    assert [(round(p.start_s), p.text) for p in found] == [
        (2 * n, text) for n, text in enumerate(CARDS)
    ]
