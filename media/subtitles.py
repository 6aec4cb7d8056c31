"""Words that a file brings: its subtitle streams, the files of subtitles and lyrics beside it, its
chapters and tags.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import chardet
import pysubs2
from av.container import InputContainer
from av.stream import Discard
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import AssSubtitle

from .clock import RIGHT, Clock
from .containers import MICROSECONDS, Budget, open_container, origin_s, played_streams
from .cut import find_clock
from .errors import BadMedia
from .passages import LETTERS_MAX, PASSAGES_MAX, Kind, Passage, join_tracks

SIDECARS = (".srt", ".vtt", ".ass", ".ssa", ".lrc")
# what may stand between a film's name and the suffix: languages, and what players call tracks
LABEL = re.compile(r"[a-z]{2,3}([-_][a-z0-9]{2,8})*|forced|default|sdh|cc|hi|signs|full", re.I)
LABELS_MOST = 2  # in a name, as in film.en.forced.srt
SIDECAR_MAX_BYTES = 4_000_000
GUESSED_BYTES = 200_000  # of a file, that its encoding is guessed by
NULL_SHARE = 0.3  # of every other byte, in UTF-16 of letters that are mostly Latin
SOUND_SHARE = 4  # letters of UTF-8 beside each broken one, so that the text still is UTF-8
# brackets that do not close soon: parsers would look for their ends again and again
UNCLOSED = re.compile(r"<(?![^<>]{0,200}>)|\{(?![^{}]{0,500}\})")
TAGS = ("title", "artist", "album", "comment", "description")
TAG_LETTERS = 500  # of a tag in the metadata; the passage has more
CUE_S = 5.0  # a line of lyrics, or a cue without an end, lasts so long at most
LATIN = "cp1252"  # what is read if no encoding is likely
# an English letter beside one of Greek, Cyrillic, Hebrew, Arabic, Thai or a half-wide katakana
FOREIGN = "[\u0370-\u06ff\u0e00-\u0e7f\ufb1d-\ufefc\uff61-\uff9f]"
MIXED = re.compile(f"[A-Za-z]{FOREIGN}|{FOREIGN}[A-Za-z]")
MIXED_SHARE = 0.2  # so many of a text's foreign letters may stand beside English ones
LYRIC_TIME = re.compile(r"\[(\d{1,3}):(\d{1,2})(?:[.:](\d{1,3}))?\]")
LYRIC_WORD_TIME = re.compile(r"<\d{1,3}:\d{1,2}(?:[.:]\d{1,3})?>")
LYRIC_OFFSET = re.compile(r"\[offset:\s*([+-]?\d{1,9})\s*\]", re.I)
MARKUP = re.compile(r"\{\\[^}]*\}|</?[a-zA-Z][^>]*>")


@dataclass(frozen=True)
class FileWords:
    """The words of a file, by their times, and what goes into its metadata."""

    passages: tuple[Passage, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)


class Sidecars:
    """Finds the files of subtitles or lyrics that belong to media files, by name: `film.srt` and
    `film.en.vtt` belong to `film.mp4`. Each folder is read once.
    """

    def __init__(self) -> None:
        self._names: dict[Path, dict[str, list[str]]] = {}

    def beside(self, path: Path) -> tuple[Path, ...]:
        """Those of one media file, in the order of their names."""
        folder = path.parent
        if folder not in self._names:
            self._names[folder] = group_by_stem(sorted(list_names(folder)))
        names = self._names[folder].get(path.stem, [])
        return tuple(folder / name for name in names if (folder / name).is_file())


def list_names(folder: Path) -> list[str]:
    """The names in a folder; none where it cannot be read."""
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError:
        return []


def group_by_stem(names: Iterable[str]) -> dict[str, list[str]]:
    """Those of the names that are subtitles or lyrics, by each stem that their media file may have.

    >>> group_by_stem(["film.en.srt", "film.mp4"])
    {'film.en': ['film.en.srt'], 'film': ['film.en.srt']}
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")[:-1]
        for labels in range(min(LABELS_MOST + 1, len(parts))):
            stem = ".".join(parts[: len(parts) - labels])
            if is_sidecar(name, stem):
                groups.setdefault(stem, []).append(name)
    return groups


def is_sidecar(name: str, stem: str) -> bool:
    """Whether a name is one of subtitles of the media file with that stem.

    >>> [is_sidecar(name, "film") for name in ("film.srt", "film.pt-BR.SRT", "film2.srt")]
    [True, True, False]
    """
    begin, dot, suffix = name.rpartition(".")
    if f"{dot}{suffix}".lower() not in SIDECARS or not begin.startswith(stem):
        return False
    rest = begin[len(stem) :]
    labels = rest.split(".")
    return (
        labels[0] == "" and len(labels) <= LABELS_MOST + 1 and all(map(LABEL.fullmatch, labels[1:]))
    )


def find_spoken(paths: Iterable[Path]) -> list[Path]:
    """The files to whose subtitles or lyrics these paths belong, be there something or gone."""
    sidecars: dict[Path, list[str]] = {}
    for path in paths:
        sidecars.setdefault(path.parent, []).append(path.name)
    found = []
    for folder, names in sidecars.items():
        stems = group_by_stem(names)
        if stems:
            found += [folder / name for name in list_names(folder) if Path(name).stem in stems]
    return found


# ---------------------------------------------------------------- files beside it


def read_sidecar(path: Path) -> list[Passage]:
    """The cues of a file of subtitles or lyrics; none where it cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(SIDECAR_MAX_BYTES + 1)
    except OSError:
        return []
    if len(content) > SIDECAR_MAX_BYTES:
        return []
    return parse_subtitles(decode_text(content), path.suffix.lower())


def decode_text(content: bytes) -> str:
    """Bytes as text: UTF-8, or what a byte order mark says, else the likeliest encoding. Lines end
    as in Unix.
    """
    return guess_text(content).replace("\r\n", "\n").replace("\r", "\n")


def guess_text(content: bytes) -> str:
    for mark, encoding in (
        (b"\xef\xbb\xbf", "utf-8-sig"),
        (b"\xff\xfe\x00\x00", "utf-32"),
        (b"\x00\x00\xfe\xff", "utf-32"),
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
    ):
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    for first, encoding in ((0, "utf-16-be"), (1, "utf-16-le")):
        if content[first::2].count(0) > len(content) / 2 * NULL_SHARE:
            return content.decode(encoding, "replace")
    text = content.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    letters = sum(not letter.isascii() for letter in text) - broken
    if letters >= SOUND_SHARE * broken:  # a letter or two that were cut or put in
        return text
    return content.decode(guess_encoding(content), "replace")


def guess_encoding(content: bytes) -> str:
    """The likeliest encoding of subtitles, by the lines that hold words. Of a short text many seem
    likely, so those are left out that mix scripts in a word.
    """
    lines = content[:GUESSED_BYTES].splitlines()
    kept = [line for line in lines if b"-->" not in line and not line.strip().isdigit()]
    words = b"\n".join(kept)
    for guess in chardet.detect_all(words):
        with suppress(LookupError):  # Python may not have it
            text = words.decode(guess["encoding"] or LATIN, "replace")
            foreign = sum(not letter.isascii() for letter in text)
            if len(MIXED.findall(text)) <= MIXED_SHARE * foreign:
                return guess["encoding"] or LATIN
    return LATIN


def parse_subtitles(text: str, suffix: str) -> list[Passage]:
    """The cues of subtitles (SubRip, WebVTT, ASS, SSA) or lyrics (LRC), without markup. What they
    are is told by their content where they are not what their suffix says.
    """
    if suffix == ".lrc":
        return parse_lyrics(text)
    if text.startswith("WEBVTT"):
        text = number_cues(text)
    try:
        file = parse_file(UNCLOSED.sub("", text), suffix)
    except (pysubs2.exceptions.Pysubs2Error, ValueError, LookupError, TypeError, RecursionError):
        return parse_lyrics(text)
    found = []
    for event in file.events[:PASSAGES_MAX]:
        if event.is_comment or event.is_drawing:
            continue
        start_s = event.start / 1000
        end_s = event.end / 1000
        if start_s >= 0:
            found.append(Passage(start_s, end_s, clean(event.plaintext), Kind.SUBTITLE))
    return found


def number_cues(text: str) -> str:
    """WebVTT with its cues alone, each after a number. pysubs2 takes names of cues and notes for
    words, and a last line of digits for the number of the next cue.

    >>> print(number_cues("WEBVTT\\n\\nNOTE\\ndraft\\n\\nlast\\n00:01.000 --> 00:02.000\\n1984"))
    WEBVTT
    <BLANKLINE>
    1
    00:01.000 --> 00:02.000
    1984
    """
    cues: list[list[str]] = []
    for block in text.split("\n\n"):
        cue: list[str] | None = None
        for line in block.split("\n"):
            if "-->" in line:
                cue = [str(len(cues) + 1)]
                cues.append(cue)
            if cue is not None:
                cue.append(line)
    return "\n\n".join(["WEBVTT", *("\n".join(cue) for cue in cues)])


def parse_file(text: str, suffix: str) -> pysubs2.SSAFile:
    """A file of subtitles; as its suffix says if its content does not tell. Raises as pysubs2."""
    try:
        return pysubs2.SSAFile.from_string(text)
    except pysubs2.exceptions.FormatAutodetectionError:
        if suffix not in (".ass", ".ssa"):  # a file without styles
            raise
        return pysubs2.SSAFile.from_string(text, format_=suffix[1:])


def parse_lyrics(text: str) -> list[Passage]:
    """The lines of lyrics in the form LRC, `[mm:ss.xx]words`. A line lasts until the next.

    >>> [(line.start_s, line.end_s, line.text) for line in parse_lyrics("[00:01.50]la\\n[00:03]lo")]
    [(1.5, 3.0, 'la'), (3.0, 8.0, 'lo')]
    """
    offset = LYRIC_OFFSET.search(text)
    early_s = int(offset[1]) / 1000 if offset else 0.0
    lines: list[tuple[float, str]] = []
    for line in text.splitlines():
        times: list[float] = []
        at = 0
        while found := LYRIC_TIME.match(line, at):
            minutes, seconds, rest = found.groups()
            part_s = int(rest) / 10 ** len(rest) if rest else 0.0
            times.append(max(60 * int(minutes) + int(seconds) + part_s - early_s, 0.0))
            at = found.end()
        words = clean(LYRIC_WORD_TIME.sub("", line[at:]))
        lines += [(time_s, words) for time_s in times]
    lines = sorted(lines[:PASSAGES_MAX])
    ends = [start_s for start_s, _ in lines[1:]]
    cues = []
    for n, (start_s, words) in enumerate(lines):
        end_s = start_s + CUE_S
        if n < len(ends):
            end_s = min(end_s, ends[n])
        cues.append(Passage(start_s, end_s, words, Kind.SUBTITLE))
    return cues


def clean(text: str) -> str:
    """A cue's text without tags and entities, on one line."""
    text = UNCLOSED.sub("", text[: 2 * LETTERS_MAX])
    plain = html.unescape(MARKUP.sub("", text)).replace("\\N", " ").replace("\\n", " ")
    return " ".join(plain.replace("\\h", " ").replace("\0", "").split())


# ---------------------------------------------------------------- in the file itself


def read_file_words(path: Path, budget: Budget, sidecars: tuple[Path, ...] = ()) -> FileWords:
    """The words that a file brings, and those of the files beside it. A fault of a part costs that
    part alone.
    """
    tracks = [read_sidecar(sidecar) for sidecar in sidecars]
    titles: list[Passage] = []
    metadata: dict[str, Any] = {}
    try:
        with open_container(path, budget) as container:
            tags = read_tags(container)
            chapters = read_chapters(container)
            duration_s = (container.duration or 0) / MICROSECONDS
            titles = [
                Passage(0.0, duration_s, text[:LETTERS_MAX], Kind.TAG) for text in tags.values()
            ]
            titles += chapters
            metadata = {"tags": {name: text[:TAG_LETTERS] for name, text in tags.items()}}
            metadata["chapters"] = [chapter.text[:TAG_LETTERS] for chapter in chapters]
            if subtitle_streams(container):
                tracks += read_streams(container, find_clock(path, budget))
    except (BadMedia, av.FFmpegError, OSError, ValueError):
        pass
    passages = [*titles, *join_tracks(tracks)]
    return FileWords(tuple(passages), {name: value for name, value in metadata.items() if value})


def read_tags(container: InputContainer) -> dict[str, str]:
    """The tags of a file that people write: those of the file, else of its first stream, as Ogg
    has them.
    """
    found: dict[str, str] = {}
    for metadata in (container.metadata, *(stream.metadata for stream in container.streams)):
        given = {name.lower(): clean(value) for name, value in metadata.items()}
        if metadata is container.metadata or container.format.name == "ogg":
            found = {name: given[name] for name in TAGS if given.get(name)} | found
    return {name: found[name] for name in TAGS if name in found}


def read_chapters(container: InputContainer) -> list[Passage]:
    """The titles of chapters with their times."""
    zero_s = origin_s(container)
    found = []
    for chapter in container.chapters():
        base = chapter["time_base"]
        title = clean(dict(chapter["metadata"]).get("title", ""))[:LETTERS_MAX]
        if base is None or not title:
            continue
        start_s = max(float(chapter["start"] * base) - zero_s, 0.0)
        end_s = max(float(chapter["end"] * base) - zero_s, start_s)
        found.append(Passage(start_s, end_s, title, Kind.CHAPTER))
    return found[:PASSAGES_MAX]


def subtitle_streams(container: InputContainer) -> list[SubtitleStream]:
    return [
        stream
        for stream in container.streams.subtitles
        if getattr(stream, "codec_context", None) is not None
    ]


class Joints:
    """Gives subtitles their right times where a file's clock jumps: those times that are nearest to
    the packets of pictures or sound around them. Where it does not jump, none is changed.
    """

    def __init__(self, container: InputContainer, clock: Clock) -> None:
        jumping = [s for s in played_streams(container) if s.index in clock.steps]
        # the stream that tells where in the file something lies
        self.guide = jumping[0] if jumping else None
        self._clock = clock
        self._count = 0
        self._now_s = 0.0
        steps = clock.steps[self.guide.index] if self.guide else []
        self._added_s = [0.0, *(added_s for _, added_s in steps)]

    def follow(self, packet: av.Packet[Any]) -> None:
        """Take note of the guide's next packet."""
        self._clock.set_times(packet, self._count)
        self._count += 1
        ticks = packet.pts if packet.dts is None else packet.dts
        if ticks is not None:
            self._now_s = float(ticks * packet.time_base)

    def correct(self, at_s: float) -> float:
        """The right time of something by the clock at this place of the file."""
        return min((at_s + added_s for added_s in self._added_s), key=self._distance_s)

    def _distance_s(self, at_s: float) -> float:
        return abs(at_s - self._now_s)


def read_streams(container: InputContainer, clock: Clock = RIGHT) -> list[list[Passage]]:
    """The cues of each subtitle stream. One that holds pictures of words has none."""
    streams = subtitle_streams(container)
    joints = Joints(container, clock)
    wanted = [*streams, *([joints.guide] if joints.guide else [])]
    for other in container.streams:
        other.discard = Discard.default if other in wanted else Discard.all
    zero_s = origin_s(container)
    found: dict[int, list[Passage]] = {stream.index: [] for stream in streams}
    packets = container.demux(wanted)
    cues = 0
    while cues < PASSAGES_MAX:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError):
            break
        if packet is None:
            break
        if packet.stream is joints.guide:
            joints.follow(packet)
            continue
        cues += 1
        if packet.pts is None or not packet.size:
            continue
        start_s = max(joints.correct(float(packet.pts * packet.time_base)) - zero_s, 0.0)
        lasts_s = float((packet.duration or 0) * packet.time_base) or CUE_S
        assert isinstance(packet.stream, SubtitleStream)
        text = read_packet(packet.stream, packet)
        if text:
            cue = Passage(start_s, start_s + lasts_s, text, Kind.SUBTITLE)
            found[packet.stream.index].append(cue)
    return list(found.values())


def read_packet(stream: SubtitleStream, packet: av.Packet[Any]) -> str:
    """The words of a packet of subtitles."""
    try:
        rects = stream.decode(packet)
    except (av.FFmpegError, ValueError):
        return ""
    lines = [
        clean(rect.dialogue.decode("utf-8", "replace"))
        for rect in rects
        if isinstance(rect, AssSubtitle)
    ]
    return " ".join(lines)
