"""Beeps and flashes of files with odd times, where FFmpeg's own programme hears and sees them.

Each situation is a short file, made on the spot. FFmpeg reads it by
`-af aresample=async=1:first_pts=0`, and each of its pictures with its time.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from media.audio import AudioSpec
from media.containers import ARCHIVE_BUDGET, Budget
from media.decode import FrameRequest, read_frames, read_picture_times
from media.sound import read_waveform
from media.video import VideoSpec
from media.windows import InputSpecs

needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None, reason="ffmpeg is not installed (Debian's package ffmpeg)"
)
RATE, GRID_S = 16_000, 0.04
SECONDS, FPS = 8.0, 10
BEEPS_S, FLASHES_S = (1.0, 3.2, 4.6, 6.5), (0.5, 2.5, 4.2, 5.7, 7.0)
BEEP_S, FLASH_S = 0.3, 0.3
SPECS = InputSpecs(5.0, VideoSpec(frames=2, size=32), AudioSpec(RATE, 5 * RATE))
OPTIONS = {
    "libx264": {"preset": "ultrafast", "threads": "1"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "threads": "1"},
}
Move = Callable[[str, float], float | None]


@dataclass(frozen=True)
class Situation:
    """A file and what is done to its times.

    `move` gives the seconds by which a packet of "video" or "audio" is moved that comes at a
    second, or None to leave it out. `after` changes the file that was written. `shown_s` are the
    seconds at which pictures are shown, in place of every 1 / FPS. Keyframes are `group` pictures
    apart.
    """

    name: str
    suffix: str
    video: str | None = "libx264"
    audio: str | None = "aac"
    move: Move = lambda kind, at_s: 0.0
    after: Callable[[Path], None] = lambda path: None
    shown_s: tuple[float, ...] = tuple(i / FPS for i in range(round(SECONDS * FPS)))
    b_frames: int = 0
    group: int = 10

    @property
    def title(self) -> str:
        return f"{self.suffix}: {self.name}"


def sound_of(rate: int) -> NDArray[np.float32]:
    """Beeps, float32 [samples]."""
    t = np.arange(round(SECONDS * rate)) / rate
    on = np.zeros_like(t)
    for beep_s in BEEPS_S:
        on[(t >= beep_s) & (t < beep_s + BEEP_S)] = 0.5
    return (on * np.sin(2 * np.pi * 880 * t)).astype(np.float32)


def picture_at(at_s: float) -> NDArray[np.uint8]:
    lit = any(flash_s - 1e-6 <= at_s < flash_s + FLASH_S - 1e-6 for flash_s in FLASHES_S)
    return np.full((48, 64, 3), 235 if lit else 20, np.uint8)


def encode_sound(stream: av.AudioStream, rate: int) -> list[Any]:
    codec = stream.codec_context
    whole = av.AudioFrame.from_ndarray(sound_of(rate)[None], format="fltp", layout="mono")
    whole.sample_rate, whole.pts, whole.time_base = rate, 0, Fraction(1, rate)
    resampler = av.AudioResampler(codec.format.name, codec.layout, rate, frame_size=1024)
    packets = []
    for frame in [*resampler.resample(whole), *resampler.resample(None)]:
        packets += stream.encode(frame)
    return [*packets, *stream.encode(None)]


def encode_pictures(stream: av.VideoStream, shown_s: tuple[float, ...]) -> list[Any]:
    packets = []
    for at_s in shown_s:
        frame = av.VideoFrame.from_ndarray(picture_at(at_s), format="rgb24")
        frame.time_base = Fraction(1, 1000)
        frame.pts = round(at_s * 1000)
        packets += stream.encode(frame.reformat(format=stream.pix_fmt))
    return [*packets, *stream.encode(None)]


def write(path: Path, made: Situation) -> Path:
    """The file of a situation."""
    format = {".ts": "mpegts", ".mka": "matroska", ".m4a": "mp4", ".mpg": "mpeg"}.get(made.suffix)
    todo: list[tuple[float, Any]] = []
    with av.open(str(path), "w", format=format) as container:
        if made.video:
            options = {"g": str(made.group)} | OPTIONS.get(made.video, {})
            if made.video == "libx264":
                options["bf"] = str(made.b_frames)
            video = container.add_stream(made.video, rate=FPS if made.suffix != ".mpg" else 25)
            assert isinstance(video, av.VideoStream)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            if made.video == "mjpeg":
                video.pix_fmt = "yuvj420p"
            video.codec_context.options = options
            if made.suffix not in (".avi", ".mpg"):
                video.codec_context.time_base = Fraction(1, 1000)
        if made.audio:
            rate = 48_000 if made.audio == "libopus" else 44_100
            audio = container.add_stream(made.audio, rate=rate, layout="mono")
            assert isinstance(audio, av.AudioStream)
            audio.codec_context.bit_rate = 96_000
        for kind, packets in (
            ("video", encode_pictures(video, made.shown_s) if made.video else []),
            ("audio", encode_sound(audio, rate) if made.audio else []),
        ):
            for packet in packets:
                at_s = float(packet.pts * packet.time_base)
                moved_s = made.move(kind, at_s)
                if moved_s is None:
                    continue
                ticks = round(moved_s / packet.time_base)
                packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                todo.append((float(packet.dts * packet.time_base), packet))
        for _, packet in sorted(todo, key=lambda pair: pair[0]):
            container.mux(packet)
    made.after(path)
    return path


# Where a programme has the beeps and flashes


def onsets(times_s: NDArray[np.float64], lit: NDArray[np.bool_]) -> list[float]:
    """The times at which something begins."""
    before = np.concatenate([[False], lit[:-1]])
    return [float(t) for t in times_s[lit & ~before]]


def beeps(waveform: NDArray[np.float32]) -> list[float]:
    """The onsets of beeps in [samples] at RATE, by the loudness of hundredths of a second."""
    step = RATE // 100
    parts = waveform[: len(waveform) // step * step].reshape(-1, step)
    loud = np.abs(parts).max(axis=1) > 0.1
    for i in range(len(loud) - 1, 4, -1):  # a zero crossing or a window of a codec is no pause
        loud[i] = loud[i] and not (loud[i - 5 : i].any() and not loud[i - 1])
    return onsets(np.arange(len(parts)) / 100, loud)


def by_ffmpeg(path: Path, folder: Path) -> tuple[list[float], list[float]]:
    """Onsets of beeps and flashes in FFmpeg's reading."""
    raw = folder / "sound.raw"
    raw.unlink(missing_ok=True)
    sound = f"-map 0:a:0? -af aresample=async=1:first_pts=0 -ac 1 -ar {RATE} -f s16le -y {raw}"
    pictures = "-map 0:v:0? -vf scale=1:1:flags=area,format=gray,showinfo -vsync passthrough"
    line = ["ffmpeg", "-v", "info", "-nostats", "-nostdin", "-i", str(path)]
    with av.open(str(path)) as container:
        if container.streams.audio:
            line += sound.split()
        if container.streams.video:
            line += [*pictures.split(), "-f", "null", "-"]
    said = subprocess.run(line, capture_output=True, text=True, timeout=60, errors="replace").stderr
    shown = re.findall(r"pts_time:(\S+).*?mean:\[(\d+)", said)
    times = np.array([float(t) for t, _ in shown])
    order = np.argsort(times, kind="stable")
    lit = np.array([int(mean) > 120 for _, mean in shown], bool)
    samples = np.fromfile(raw, "<i2") / np.float32(32768) if raw.exists() else np.zeros(0)
    return beeps(samples.astype(np.float32)), onsets(times[order], lit[order])


def by_us(path: Path, budget: Budget) -> tuple[list[float], list[float]]:
    waveform = read_waveform(path, RATE, budget)
    told = read_picture_times(path, budget)
    heard = [] if waveform is None else beeps(waveform)
    if told is None:
        return heard, []
    times = np.arange(0.0, told.end_s, GRID_S)
    size = VideoSpec(frames=1, size=32)
    request = FrameRequest(times_s=times.tolist(), spec=size, budget=budget, picture_times=told)
    frames, _, _ = read_frames(path, request)
    # a flash begins somewhere between two times
    begun = onsets(times, frames.mean(axis=(1, 2, 3)) > 120)
    return heard, [max(at_s - GRID_S / 2, 0.0) for at_s in begun]


# The situations


def hole(kinds: str, start_s: float, end_s: float) -> Move:
    def move(kind: str, at_s: float) -> float | None:
        return None if kind in kinds and start_s <= at_s < end_s else 0.0

    return move


def shift(kinds: str, seconds: float, from_s: float = -1.0) -> Move:
    def move(kind: str, at_s: float) -> float | None:
        return seconds if kind in kinds and at_s >= from_s else 0.0

    return move


def single(kinds: str, at: float, seconds: float) -> Move:
    """One packet in some hundredths of a second is far off."""
    used: set[str] = set()

    def move(kind: str, at_s: float) -> float | None:
        if kind in kinds and at_s >= at and kind not in used:
            used.add(kind)
            return seconds
        return 0.0

    return move


def joined(first: Situation, second_starts_s: float) -> Situation:
    """Two files of a format that may be joined byte by byte; the clock of the second one starts
    elsewhere.
    """

    def join(path: Path) -> None:
        other = path.with_name("other" + path.suffix)
        move = shift("video audio", second_starts_s)
        write(other, replace(first, move=move, after=lambda path: None))
        path.write_bytes(path.read_bytes() + other.read_bytes())

    return replace(first, after=join)


def patched(*patches: tuple[bytes, int, bytes]) -> Callable[[Path], None]:
    """Overwrite what lies so many bytes behind each mark."""

    def patch(path: Path) -> None:
        data = bytearray(path.read_bytes())
        for mark, offset, new in patches:
            at = data.index(mark) + offset
            data[at : at + len(new)] = new
        path.write_bytes(data)

    return patch


INSIDE = (b"moov", b"trak", b"edts", b"mdia")  # boxes that hold others


def edited(*stretches: tuple[float, float]) -> Callable[[Path], None]:
    """Only stretches (start_s, end_s) of every track are shown, one after the other, by edit lists
    (ISO 14496-12, 8.6.6). Headers say how long they last.
    """

    def edit(path: Path) -> None:
        path.write_bytes(with_edits(path.read_bytes(), stretches, []))

    return edit


def with_edits(data: bytes, stretches: Sequence[tuple[float, float]], begun: list[int]) -> bytes:
    """The boxes `data` with other edit lists. `begun` collects where each track began, in units of
    its media, of which box `mdhd` tells the length.
    """
    whole = round(1000 * sum(end_s - start_s for start_s, end_s in stretches))
    made, at = b"", 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + size]
        if kind in (b"mvhd", b"tkhd"):
            place = 16 if kind == b"mvhd" else 20
            body = body[:place] + struct.pack(">I", whole) + body[place + 4 :]
        elif kind == b"trak":
            scale = struct.unpack_from(">I", body, body.index(b"mdhd") + 16)[0]
            body = with_edits(body, stretches, [scale])
        elif kind == b"elst":
            [scale] = begun
            first = struct.unpack_from(">i", body, 12)[0]
            body = struct.pack(">II", 0, len(stretches))
            for start_s, end_s in stretches:
                length, media = round(1000 * (end_s - start_s)), first + round(start_s * scale)
                body += struct.pack(">Iii", length, media, 1 << 16)
        elif kind in INSIDE:
            body = with_edits(body, stretches, begun)
        made += struct.pack(">I4s", 8 + len(body), kind) + body
        at += size
    return made


def cut(path: Path) -> None:
    """Leave the last tenth out."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 9 // 10])


VFR = tuple(sorted({round(0.05 * i + 0.04 * (i * i % 7), 3) for i in range(150)}))
STILLS = (0.0, 0.5, 0.8, 2.5, 2.8, 4.2, 4.5, 5.7, 6.0, 7.0, 7.3)
FILMS: list[tuple[str, str, str, int]] = [
    (".mp4", "libx264", "aac", 2),
    (".mov", "mpeg4", "pcm_s16le", 0),
    (".mkv", "libx264", "libopus", 2),
    (".webm", "libvpx", "libopus", 0),
    (".flv", "libx264", "aac", 0),
    (".ts", "libx264", "aac", 2),
    (".wmv", "wmv2", "wmav2", 0),
]
MOVES: list[tuple[str, Move]] = [
    ("as it should be", shift("", 0.0)),
    ("a hole in the sound", hole("audio", 1.6, 4.0)),
    ("a hole in both", hole("video audio", 3.0, 5.0)),
    ("late sound", shift("audio", 1.5)),
    ("late pictures", shift("video", 1.3)),
    ("four seconds between", shift("video audio", 4.0, from_s=4.0)),
    ("starts at 100 s", shift("video audio", 100.0)),
]
TS = Situation("joined", ".ts", b_frames=2)
MPG = Situation("joined", ".mpg", "mpeg2video", "mp2", shown_s=tuple(i / 25 for i in range(200)))
SOUNDS: list[tuple[str, str]] = [
    (".wav", "pcm_s16le"),
    (".flac", "flac"),
    (".mp3", "libmp3lame"),
    (".aac", "aac"),
    (".ogg", "libopus"),
    (".oga", "flac"),
    (".m4a", "aac"),
    (".mka", "flac"),
    (".aiff", "pcm_s16be"),
    (".wma", "wmav2"),
]
APART = edited((0.9, 3.4), (4.0, 7.9))
HOUR = struct.pack(">I", 3_600_000)

SITUATIONS: list[Situation] = [
    *[
        Situation(name, suffix, video, audio, move, b_frames=b_frames)
        for suffix, video, audio, b_frames in FILMS
        for name, move in MOVES
    ],
    *[
        Situation(name, suffix, video, audio, shown_s=shown_s, b_frames=b_frames)
        for suffix, video, audio, b_frames in FILMS
        for name, shown_s in (("a rate that changes", VFR), ("stills", STILLS))
        if suffix != ".wmv"
    ],
    Situation("as it should be", ".avi", "mpeg4", "libmp3lame"),
    Situation("late sound", ".avi", "mpeg4", "pcm_s16le", shift("audio", 1.5)),
    Situation("as it should be", ".mpg", "mpeg2video", "mp2", shown_s=MPG.shown_s),
    *[Situation("as it should be", suffix, None, audio) for suffix, audio in SOUNDS],
    *[
        Situation("a hole", suffix, None, audio, hole("audio", 1.6, 4.0))
        for suffix, audio in (
            (".ogg", "libopus"),
            (".m4a", "aac"),
            (".mka", "flac"),
            (".ts", "aac"),
        )
    ],
    *[
        joined(Situation("joined", suffix, None, audio), 0.0)
        for suffix, audio in ((".mp3", "libmp3lame"), (".aac", "aac"), (".ogg", "libopus"))
    ],
    replace(joined(TS, 0.0), name="joined, the same clock again"),
    replace(joined(TS, 3600.0), name="joined, an hour later"),
    replace(joined(TS, 12.0), name="joined, four seconds later"),
    replace(joined(TS, 95_440.0), name="joined, at the end of the clock"),
    replace(joined(replace(TS, video=None), 3600.0), name="joined sound, an hour later"),
    replace(joined(replace(TS, audio=None), 3600.0), name="joined pictures, an hour later"),
    replace(joined(MPG, 0.0), name="joined, the same clock again"),
    Situation("the clock starts anew", ".ts", move=shift("video audio", 95_440.0)),
    Situation("one picture hours ahead", ".mp4", audio=None, move=single("video", 5.1, 9000.0)),
    Situation(
        "header says an hour", ".mp4", after=patched((b"mvhd", 16, HOUR), (b"tkhd", 24, HOUR))
    ),
    Situation(
        "header says an hour",
        ".wav",
        None,
        "pcm_s16le",
        after=patched((b"data", 4, b"\xff\xff\xff\x7f")),
    ),
    *[
        Situation(
            f"two stretches of {kinds}", suffix, video, audio, b_frames=2, group=200, after=APART
        )
        for kinds, suffix, video, audio in (
            ("both", ".mp4", "libx264", "aac"),
            ("pictures", ".mov", "libx264", None),
        )
    ],
    Situation(
        "the end comes first", ".mp4", b_frames=2, group=200, after=edited((4.0, 7.9), (2.0, 3.4))
    ),
    Situation("cut", ".mkv", after=cut),
    Situation("cut", ".ts", after=cut),
    Situation("cut", ".flac", None, "flac", after=cut),
]


# the quick ones: each container as it should be, and what is done to MPEG-TS and to one sound
QUICK = (
    "joined",
    "hole in the sound",
    "hours ahead",
    "header says",
    "stretches",
    "end comes first",
)
CASES = [
    pytest.param(
        made,
        id=made.title,
        marks=()
        if made.suffix == ".ts" or any(word in made.name for word in QUICK)
        else (pytest.mark.slow,),
    )
    for made in SITUATIONS
]


@needs_ffmpeg
@pytest.mark.parametrize("made", CASES)
def test_beeps_and_flashes_are_where_ffmpeg_has_them(tmp_path: Path, made: Situation) -> None:
    path = write(tmp_path / f"a{made.suffix}", made)
    right = by_ffmpeg(path, tmp_path)
    found = by_us(path, ARCHIVE_BUDGET)
    for what, theirs, ours in zip(("sound", "pictures"), right, found, strict=True):
        assert len(ours) == len(theirs), (what, ours, theirs)
        assert ours == pytest.approx(theirs, abs=0.1), what
