"""Readers find words in sound and pictures: media in, timed words out. They are extras: each needs
a library of its own, and none is asked unless it is turned on.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
from numpy.typing import NDArray

from .containers import Budget, open_container, video_stream
from .decode import pixel_aspect, read_picture_times, timed_frames
from .errors import BadMedia
from .passages import PASSAGE_S, Kind, Passage, ends_sentence
from .sound import read_waveform
from .video import render_frame

SCREEN_STEP_S = 0.5  # between two pictures that are looked at
SCREEN_SIDE = 960  # pixels of the longer side, at most
SAME_PICTURE = 2.0  # mean difference of two small grey pictures, of 255, that show the same
GREY_SIDE = 48
SPEECH_RATE = 16_000  # samples a second that Whisper hears
PAUSE_S = 0.6  # between words, after which another passage begins


class WordReader(Protocol):
    """Finds words in a media file."""

    def read(self, path: Path, budget: Budget) -> list[Passage]:
        """The words with their times, in seconds of the file. Raises BadMedia."""
        ...


@dataclass(frozen=True)
class WordReaders:
    """Which readers are asked: that of text on screen, and that of speech, whose model is in a
    folder.
    """

    screen: bool = False
    speech: Path | None = None

    @property
    def stamp(self) -> str:
        """What tells one choice from another; empty for none."""
        names = ["screen"] if self.screen else []
        if self.speech is not None:
            names.append(f"speech={self.speech.name}")
        return "+".join(names)

    def open(self) -> list[WordReader]:
        """The readers that are turned on, with their models loaded."""
        found: list[WordReader] = []
        if self.screen:
            found.append(open_screen_reader())
        if self.speech is not None:
            found.append(open_speech_reader(self.speech))
        return found


NO_READERS = WordReaders()


class ReaderMissing(Exception):
    """A reader that is turned on, and what it lacks."""

    detail_fields = ("reader", "problem")

    def __init__(self, reader: str, problem: str) -> None:
        super().__init__(f"the reader of {reader} {problem}")
        self.reader = reader
        self.problem = problem


def choose_readers(screen: bool, speech: str) -> WordReaders:
    """The readers by what a user writes. `speech` is a folder with a Whisper model in the form of
    CTranslate2, or the name of one, which is fetched from Hugging Face's hub; empty for none.

    Raises:
        ReaderMissing: its library is not installed, or its model is not there.
    """
    if screen and importlib.util.find_spec("rapidocr") is None:
        raise ReaderMissing("text on screen", "needs the package rapidocr (extra 'screen')")
    if not speech:
        return WordReaders(screen)
    if importlib.util.find_spec("faster_whisper") is None:
        raise ReaderMissing("speech", "needs the package faster-whisper (extra 'speech')")
    folder = Path(speech)
    if not folder.is_dir():
        folder = fetch_speech_model(speech)
    if not (folder / "model.bin").is_file():
        raise ReaderMissing("speech", f"finds no model.bin in {folder}")
    return WordReaders(screen, folder.resolve())


def fetch_speech_model(name: str) -> Path:
    """The folder of a published model. Decoders have no network: it is fetched before.

    Raises:
        ReaderMissing: there is none of that name, or it cannot be fetched.
    """
    from faster_whisper import download_model

    try:
        return Path(download_model(name))
    except Exception as error:  # of several libraries, each with a family of its own
        problem = f"cannot fetch the model {name!r} ({type(error).__name__}): name a folder"
        raise ReaderMissing("speech", problem) from error


@lru_cache(maxsize=1)
def open_screen_reader() -> WordReader:
    from rapidocr import RapidOCR

    engine: Any = RapidOCR(params={"Global.log_level": "critical"})

    def recognise(picture: NDArray[np.uint8]) -> list[str]:
        found = engine(picture[..., ::-1])  # as OpenCV has colours
        return list(found.txts or ())

    return ScreenReader(recognise)


@lru_cache(maxsize=1)
def open_speech_reader(folder: Path) -> WordReader:
    from faster_whisper import WhisperModel

    model = WhisperModel(str(folder), device="cpu", compute_type="int8", local_files_only=True)
    return SpeechReader(model)


# ---------------------------------------------------------------- text on screen


class Recognise(Protocol):
    def __call__(self, picture: NDArray[np.uint8]) -> list[str]:
        """The lines of text in a picture, RGB uint8 [height, width, 3]."""
        ...


@dataclass
class Shown:
    """A picture that has been looked at, and what it says from `start_s` on."""

    start_s: float
    lines: list[str]
    grey: NDArray[np.float32] = field(repr=False)


class ScreenReader:
    """Reads text in pictures, two of each second. What does not change is looked at once."""

    def __init__(self, recognise: Recognise) -> None:
        self._recognise = recognise

    def read(self, path: Path, budget: Budget) -> list[Passage]:
        found: list[Passage] = []
        shown: Shown | None = None
        now_s = 0.0
        for now_s, picture in sample_pictures(path, budget):
            grey = shrink(picture)
            if shown is not None and np.abs(grey - shown.grey).mean() < SAME_PICTURE:
                continue
            lines = self._recognise(picture)
            if shown is not None and lines == shown.lines:
                shown.grey = grey
                continue
            if shown is not None:
                found += make_passage(shown, now_s)
            shown = Shown(now_s, lines, grey)
        if shown is not None:
            found += make_passage(shown, now_s + SCREEN_STEP_S)
        return found


def make_passage(shown: Shown, end_s: float) -> list[Passage]:
    text = " ".join(line.strip() for line in shown.lines if line.strip())
    return [Passage(shown.start_s, end_s, text, Kind.SCREEN)] if text else []


def sample_pictures(path: Path, budget: Budget) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Pictures as a player shows them, RGB uint8 [height, width, 3], with their seconds."""
    told = read_picture_times(path, budget)
    if told is None:
        return
    with open_container(path, budget) as container:
        stream = video_stream(container)
        if stream is None:
            return
        due_s = 0.0
        aspect = pixel_aspect(stream)
        for frame, now_s in timed_frames(container, stream, budget, told):
            if now_s < due_s:
                continue
            due_s = now_s + SCREEN_STEP_S
            wide = frame.width * aspect
            scale = min(1.0, SCREEN_SIDE / max(wide, frame.height))
            width = max(round(wide * scale), 2)
            height = max(round(frame.height * scale), 2)
            yield max(now_s, 0.0), render_frame(frame, width, height, "area")


def shrink(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A picture as a small grey one, float32 [GREY_SIDE, GREY_SIDE]: the means of its parts."""
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    grey = frame.reformat(GREY_SIDE, GREY_SIDE, "gray", interpolation="AREA").to_ndarray()
    return grey.astype(np.float32)


# ---------------------------------------------------------------- speech


class SpeechReader:
    """Writes down what is said, with a model of faster-whisper's interface."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def read(self, path: Path, budget: Budget) -> list[Passage]:
        waveform = read_waveform(path, SPEECH_RATE, budget)
        if waveform is None:
            return []
        segments, _ = self._model.transcribe(
            waveform, word_timestamps=True, vad_filter=True, condition_on_previous_text=False
        )
        words = ((word.start, word.end, word.word) for s in segments for word in s.words or ())
        return join_words(words)


def join_words(words: Iterable[tuple[float, float, str]]) -> list[Passage]:
    """Words (start_s, end_s, text with its space) as passages: a sentence, or as much of it as is
    said without a pause.

    >>> said = join_words([(0.0, 0.4, " Well,"), (0.5, 0.9, " yes."), (1.0, 1.2, " No.")])
    >>> [(passage.start_s, passage.end_s, passage.text) for passage in said]
    [(0.0, 0.9, 'Well, yes.'), (1.0, 1.2, 'No.')]
    """
    found: list[Passage] = []
    open_ = False
    for start_s, end_s, text in words:
        last = found[-1] if found else None
        if (
            open_
            and last is not None
            and start_s - last.end_s <= PAUSE_S
            and end_s - last.start_s <= PASSAGE_S
        ):
            found[-1] = Passage(last.start_s, end_s, last.text + text, Kind.SPEECH)
        else:
            found.append(Passage(start_s, end_s, text.strip(), Kind.SPEECH))
        open_ = not ends_sentence(found[-1].text)
    return found


def read_with(readers: Iterable[WordReader], path: Path, budget: Budget) -> list[list[Passage]]:
    """What each reader finds; nothing where a file lacks what it reads."""
    tracks = []
    for reader in readers:
        try:
            tracks.append(reader.read(path, budget))
        except BadMedia:
            tracks.append([])
    return tracks
