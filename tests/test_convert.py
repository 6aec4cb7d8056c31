"""Stretches of files in forms that browsers play, and clips that are cut exactly."""

from __future__ import annotations

import asyncio
import json
import shutil
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorTrc
from numpy.typing import NDArray
from PIL import Image

from index.__main__ import main
from media.containers import ARCHIVE_BUDGET, Budget
from media.convert import FILM, FLAC, SOUND, Made, Order, clip_order, convert
from media.cut import Shown
from media.encode import Painter
from media.errors import (
    BadStretch,
    BeyondBudget,
    Damaged,
    DecoderFailed,
    MissingModality,
    TooLong,
)
from media.hdr import to_bt709
from media.sandbox import Converters
from service.app import create_app
from service.conversions import FOLDER, LINGER_S, Conversions, Converted
from service.exceptions import DiskFull, OverQuota
from service.metrics import Metrics
from service.quotas import Quota
from service.settings import Settings

from . import test_times as times
from .makers import BLUE, FakeEncoder, make_clip, make_wav, write_hours
from .test_kinds import corners, film, quarters
from .test_service import Client

FPS, SECONDS, RATE = 10, 4, 48_000
BURST_S = 2.0  # when a tenth of a second of tone begins
# container, codecs, and how far its sound may be from where it was put: encoders delay it
FILMS = {
    "h264.mkv": ("libx264", "yuv420p", "flac", 0.002),
    "h264.ts": ("libx264", "yuv420p", "aac", 0.03),
    "mpeg4.avi": ("mpeg4", "yuv420p", "libmp3lame", 0.06),
    "prores.mov": ("prores_ks", "yuv422p10le", "pcm_s16le", 0.002),
    "wmv.wmv": ("wmv2", "yuv420p", "wmav2", 0.1),
    "hevc.mp4": ("libx265", "yuv420p", "aac", 0.03),
    "mpeg2.mpg": ("mpeg2video", "yuv420p", "mp2", 0.03),
    "vp9.webm": ("libvpx-vp9", "yuv420p", "libopus", 0.01),
}
SOUNDS = {"s.aiff": ("pcm_s16be", 0.0001), "s.wma": ("wmav2", 0.1), "s.flac": ("flac", 0.0001)}


def level(number: int) -> int:
    """The grey of a film's picture of that number."""
    return 20 + 5 * number


def make_ladder(path: Path, codec: str, pixels: str, sound: str | None) -> Path:
    """Four seconds, ten pictures each, every one brighter than the last; silence with one burst."""
    with av.open(str(path), "w") as container:
        film: Any = None
        if codec:
            film = container.add_stream(codec, rate=25 if codec == "mpeg2video" else FPS)
            film.width = film.height = 64
            film.pix_fmt = pixels
        audio: Any = container.add_stream(sound, rate=RATE, layout="mono") if sound else None
        if audio:
            audio.bit_rate = 96_000
        if film:
            each = 2.5 if codec == "mpeg2video" else 1
            for n in range(round(FPS * SECONDS * each)):
                grey = np.full((64, 64, 3), level(int(n / each)), np.uint8)
                frame = av.VideoFrame.from_ndarray(grey, format="rgb24").reformat(format=pixels)
                container.mux(film.encode(frame))
            container.mux(film.encode(None))
        if audio:
            encode_burst(container, audio)
    return path


def encode_burst(container: av.container.OutputContainer, stream: Any) -> None:
    samples = burst()
    resampler = av.AudioResampler(stream.format.name, "mono", RATE)
    for at in range(0, len(samples), RATE // 10):
        piece = samples[at : at + RATE // 10]
        frame = av.AudioFrame.from_ndarray(piece[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, at, Fraction(1, RATE)
        for part in resampler.resample(frame):
            container.mux(stream.encode(part))
    container.mux(stream.encode(None))


def burst() -> NDArray[np.int16]:
    t = np.arange(SECONDS * RATE) / RATE
    heard = (t >= BURST_S) & (t < BURST_S + 0.1)
    return np.where(heard, 12_000 * np.sin(2 * np.pi * 1000 * t), 0).astype(np.int16)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("films")
    for name, (codec, pixels, sound, _) in FILMS.items():
        make_ladder(place / name, codec, pixels, sound)
    for name, (sound, _) in SOUNDS.items():
        make_ladder(place / name, "", "", sound)
    return place


def made_of(path: Path, out: Path, order: Order) -> Made:
    with out.open("wb") as file:
        return convert(path, file, order)


def clip(path: Path, out: Path, start_s: float, end_s: float, pictures: bool = True) -> Made:
    order = clip_order(start_s, end_s, duration_s=60.0, pictures=pictures, longest_s=60.0)
    return made_of(path, out, order)


def version(path: Path, out: Path, at_s: float, ends_s: float, pictures: bool = True) -> Made:
    order = Order(at_s, ends_s, clip=False, pictures=pictures)
    return made_of(path, out, order)


def seen(path: Path) -> list[tuple[float, float]]:
    """Of each picture, when it is shown and its grey."""
    with av.open(str(path)) as container:
        return [
            (
                float(frame.time or 0.0),
                float(frame.to_ndarray(format="yuv420p")[: frame.height].mean()),
            )
            for frame in container.decode(video=0)
        ]


def heard(path: Path) -> tuple[NDArray[np.float32], int]:
    """A file's sound as a player gives it, mono, and its rate."""
    pieces = []
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate
        resampler = av.AudioResampler("flt", "mono", rate)
        for frame in container.decode(audio=0):
            frame.pts = None
            pieces += [out.to_ndarray()[0] for out in resampler.resample(frame)]
        pieces += [out.to_ndarray()[0] for out in resampler.resample(None)]
    return np.concatenate(pieces), rate


def burst_s(path: Path) -> float:
    """When the burst is heard, from the file's start on."""
    samples, rate = heard(path)
    with av.open(str(path)) as container:
        first = next(container.decode(audio=0))
        late_s = (first.time or 0.0) - (container.start_time or 0) / 1e6
    return late_s + int(np.argmax(np.abs(samples) > 0.1)) / rate


def on_screen(path: Path, start_s: float, end_s: float) -> list[tuple[float, float]]:
    """What a stretch of a film shows, as FFmpeg decodes all of it: see `seen`."""
    with av.open(str(path)) as container:
        zero_s = (container.start_time or 0) / 1e6
    shown = [(at_s - zero_s - start_s, grey) for at_s, grey in seen(path)]
    before = [grey for at_s, grey in shown if at_s <= 0.0005]
    first = [(0.0, grey) for grey in before[-1:]]
    return first + [one for one in shown if 0.0005 < one[0] < end_s - start_s]


@pytest.mark.parametrize("name", FILMS)
def test_a_clip_has_exactly_the_seconds_asked_for(films: Path, tmp_path: Path, name: str) -> None:
    """Pictures and sound of [1.25 s, 2.75 s), as FFmpeg places them, and no more."""
    out = tmp_path / "clip.webm"
    assert clip(films / name, out, 1.25, 2.75) == Made(1.25, 2.75, FILM)
    expected = on_screen(films / name, 1.25, 2.75)
    assert len(expected) >= 15
    assert np.array(seen(out))[:, 0] == pytest.approx(np.array(expected)[:, 0], abs=0.0021)
    assert np.array(seen(out))[:, 1] == pytest.approx(np.array(expected)[:, 1], abs=2.5)
    samples, rate = heard(out)
    assert len(samples) == 1.5 * rate
    assert burst_s(out) == pytest.approx(burst_s(films / name) - 1.25, abs=0.003)
    assert burst_s(out) == pytest.approx(BURST_S - 1.25, abs=FILMS[name][3])
    with av.open(str(out)) as container:
        assert container.duration == pytest.approx(1_500_000, abs=2000)


@pytest.mark.parametrize("name", SOUNDS)
def test_a_clip_of_a_sound_is_lossless(films: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "clip.flac"
    assert clip(films / name, out, 1.5, 2.5, pictures=False) == Made(1.5, 2.5, FLAC)
    samples, rate = heard(out)
    assert (len(samples), rate) == (RATE, RATE)
    assert burst_s(out) == pytest.approx(0.5, abs=max(SOUNDS[name][1], 0.001))
    if name != "s.wma":
        expected = burst()[round(1.5 * RATE) : round(2.5 * RATE)] / 32_768
        assert np.abs(samples - expected).max() == 0.0


@pytest.mark.parametrize("codec", ["adpcm_ima_wav", "adpcm_ms", "g722", "pcm_s16le"])
def test_a_clip_of_a_wav_is_cut_whatever_its_header_says_of_its_rate(
    tmp_path: Path, codec: str
) -> None:
    """FFmpeg writes half or twice the right rate into headers of ADPCM, and seeks by it."""
    path, out = make_ladder(tmp_path / "s.wav", "", "", codec), tmp_path / "clip.flac"
    data = bytearray(path.read_bytes())
    told = int.from_bytes(data[28:32], "little")
    data[28:32] = (told if codec != "pcm_s16le" else told // 2).to_bytes(4, "little")
    path.write_bytes(data)
    clip(path, out, 1.5, 2.5, pictures=False)
    assert burst_s(out) == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize("name", [name for name in FILMS if name != "vp9.webm"])
def test_a_version_for_browsers_keeps_the_time_line(films: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "version"
    made = version(films / name, out, 2.0, SECONDS)
    copied = name.startswith("h264")
    assert made == Made(0.0, SECONDS, "video/mp4" if copied else FILM)
    expected = on_screen(films / name, 0.0, SECONDS)
    shown = [one for one in seen(out) if one[0] < SECONDS]
    assert np.array(shown)[:, 0] == pytest.approx(np.array(expected)[:, 0], abs=0.0021)
    assert np.array(shown)[:, 1] == pytest.approx(np.array(expected)[:, 1], abs=4)
    assert burst_s(out) == pytest.approx(BURST_S, abs=FILMS[name][3])
    with av.open(str(out)) as container:
        codecs = {stream.codec_context.codec.canonical_name for stream in container.streams}
    assert codecs == ({"h264", FILMS[name][2]} if copied else {"vp9", "opus"})


def events(path: Path) -> tuple[list[float], list[float]]:
    """When beeps and flashes begin in what was made (see `test_times`)."""
    shown = np.array(seen(path))
    samples, rate = heard(path)
    at = np.arange(0, len(samples), rate / times.RATE).astype(int)
    return times.beeps(samples[at]), times.onsets(shown[:, 0], shown[:, 1] > 120)


JOINED = {
    "the same clock again": (times.TS, 0.0),
    "an hour later": (times.TS, 3600.0),
    "four seconds later": (times.TS, 12.0),
    "Matroska": (times.Situation("joined", ".mkv"), 0.0),
    "MPEG-PS": (times.MPG, 0.0),
}


@pytest.mark.parametrize("name", JOINED)
def test_after_a_joint_the_time_line_is_that_of_windows(tmp_path: Path, name: str) -> None:
    """Two films of 8 s, joined: each event of the second one is where the windows have it, in a
    clip of 1.4 s around it and in the version for browsers.
    """
    situation = times.joined(*JOINED[name])
    film, out = tmp_path / f"joined{situation.suffix}", tmp_path / "out"
    times.write(film, situation)
    heard_s, seen_s = times.by_us(film, ARCHIVE_BUDGET)
    assert len(heard_s) == 2 * len(times.BEEPS_S) and len(seen_s) == 2 * len(times.FLASHES_S)
    assert heard_s[4] > 8.5 and seen_s[5] > 8.0
    for at_s in (heard_s[4], heard_s[-1], seen_s[5], seen_s[-1]):
        start_s = at_s - 0.7
        clip(film, out, start_s, at_s + 0.7)
        for found, expected in zip(events(out), (heard_s, seen_s), strict=True):
            inside = [t - start_s for t in expected if start_s < t < at_s + 0.7]
            begun = [t for t in found if t > 0.0]  # the rest had begun before
            assert begun == pytest.approx(inside, abs=0.05)
    made = version(film, out, heard_s[-1], 20.0)
    # only "four seconds later" is a hole, and no joint, so that packets have the right times
    copied = name == "four seconds later"
    assert made == Made(0.0, 20.0, "video/mp4" if copied else FILM)
    for found, expected in zip(times.by_us(out, ARCHIVE_BUDGET), (heard_s, seen_s), strict=True):
        assert found == pytest.approx(expected, abs=0.05)


def test_an_animated_webp_becomes_a_film(tmp_path: Path) -> None:
    """Four pictures, a second or a half each, transparent ones on white."""
    path, out = tmp_path / "a.webp", tmp_path / "out"
    greys = [Image.new("RGBA", (50, 30), (g, g, g, 255)) for g in (40, 90, 140)]
    clear = Image.new("RGBA", (50, 30), (0, 0, 0, 0))
    lengths_ms = [1000, 500, 500, 1000]
    greys[0].save(path, save_all=True, append_images=[*greys[1:], clear], duration=lengths_ms)
    assert version(path, out, 2.0, 3.0) == Made(0.0, 3.0, FILM)
    assert [at_s for at_s, _ in seen(out)] == [0.0, 1.0, 1.5, 2.0]
    expected = [16 + grey * 219 / 255 for grey in (40, 90, 140, 255)]
    assert [grey for _, grey in seen(out)] == pytest.approx(expected, abs=3)
    assert clip(path, out, 1.25, 2.25) == Made(1.25, 2.25, FILM)
    assert [at_s for at_s, _ in seen(out)] == [0.0, 0.25, 0.75]
    assert [grey for _, grey in seen(out)] == pytest.approx(expected[1:], abs=3)


def payloads(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def test_what_browsers_decode_is_copied(films: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy.mp4"
    version(films / "h264.mkv", out, 0.0, SECONDS)
    assert payloads(out) == payloads(films / "h264.mkv")


def test_what_an_edit_list_cuts_off_is_not_copied(tmp_path: Path) -> None:
    """Its first keyframe lies before the edit, which begins with the picture of 0.9 s: a copy
    without it would begin with pictures that do not decode.
    """
    path, out = tmp_path / "a.mov", tmp_path / "version"
    trimmed = times.edited((0.9, 3.9))
    times.write(path, times.Situation("", ".mov", audio="pcm_s16le", group=200, after=trimmed))
    made = version(path, out, 0.0, 3.0)
    assert made == Made(0.0, 3.0, FILM)
    shown = seen(out)
    lit = [at_s for at_s, grey in shown if grey > 120]
    assert len(shown) == 30 and lit == pytest.approx([1.6, 1.7, 1.8], abs=0.01)


def test_of_a_long_film_a_stretch_is_made(tmp_path: Path) -> None:
    """Copied from the keyframe before on; encoded from the very second on."""
    seconds = 630
    film = tmp_path / "long.mkv"
    with av.open(str(film), "w") as container:
        stream: Any = container.add_stream("libx264", rate=1, options={"g": "7"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for n in range(seconds):
            grey = np.full((32, 32, 3), 10 + n % 200, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode(None))
    out = tmp_path / "out"
    made = version(film, out, 625.0, seconds)
    assert made == Made(621.0, seconds, "video/mp4")  # seven apart from 600 on, where black follows
    assert len(seen(out)) == 9
    avi = tmp_path / "long.avi"
    with av.open(str(film)) as source, av.open(str(avi), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for n, frame in enumerate(source.decode(video=0)):
            frame.pts, frame.time_base = n, Fraction(1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert version(avi, out, 500.5, seconds) == Made(500.5, 560.5, FILM)
    at_s, grey = seen(out)[0]
    assert at_s == 0.0
    assert (grey - 16) * 255 / 219 == pytest.approx(10 + 500 % 200, abs=3)
    assert len(seen(out)) == 61


def test_a_sound_becomes_opus(films: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert version(films / "s.aiff", out, 1.0, SECONDS, False) == Made(0.0, SECONDS, SOUND)
    assert burst_s(out) == pytest.approx(BURST_S, abs=0.001)


def test_sound_that_starts_late_or_has_a_hole_stays_beside_its_pictures(tmp_path: Path) -> None:
    """Sound from 1 s on, none from 2 s to 3 s, a burst at 3 s."""
    film = tmp_path / "hole.mkv"
    with av.open(str(film), "w") as container:
        video: Any = container.add_stream("libx264", rate=FPS)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        audio: Any = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for n in range(FPS * SECONDS):
            grey = np.full((64, 64, 3), level(n), np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(video.encode(None))
        tone = (9000 * np.sin(2 * np.pi * 500 * np.arange(RATE) / RATE)).astype(np.int16)
        for at_s, samples in ((1, np.zeros(RATE, np.int16)), (3, tone)):
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, at_s * RATE
            frame.time_base = Fraction(1, RATE)
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    out = tmp_path / "clip"
    clip(film, out, 0.5, 3.5)
    assert burst_s(out) == pytest.approx(2.5, abs=0.005)
    assert len(heard(out)[0]) == 3 * RATE


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_before_the_first_picture_there_is_sound_alone(tmp_path: Path, name: str) -> None:
    """Pictures come 20 s late. There are beeps at 1.0, 3.2, 4.6 and 6.5 s."""
    late = times.Situation("late", Path(name).suffix, move=times.shift("video", 20.0))
    path = times.write(tmp_path / name, late)
    assert clip(path, tmp_path / "clip.webm", 3.0, 6.0) == Made(3.0, 6.0, FILM)
    version(path, tmp_path / "version.webm", 3.0, 6.0)
    for out, beeps_s in (("clip", [0.2, 1.6]), ("version", [1.0, 3.2, 4.6])):
        samples, rate = heard(tmp_path / f"{out}.webm")
        assert times.beeps(samples[:: rate // times.RATE]) == pytest.approx(beeps_s, abs=0.05)


def test_a_stretch_with_nothing_in_it(tmp_path: Path) -> None:
    """The header of an AVI says that its pictures begin two seconds late. It has no sound."""
    path = make_ladder(tmp_path / "a.avi", "mpeg4", "yuv420p", None)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"strh") + 8 + 28, 2 * FPS)
    path.write_bytes(data)
    clip(path, tmp_path / "a.webm", 2.0, 3.0)
    assert len(seen(tmp_path / "a.webm")) == FPS
    with pytest.raises(Damaged, match="no picture in this stretch"):
        clip(path, tmp_path / "b.webm", 0.5, 1.5)


def test_turned_and_wide_films_are_upright(tmp_path: Path) -> None:
    film = tmp_path / "wide.avi"
    with av.open(str(film), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        for _ in range(10):
            grey = np.full((32, 64, 3), 100, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode(None))
    out = tmp_path / "out"
    clip(film, out, 0.0, 1.0)
    with av.open(str(out)) as container:
        shown = container.streams.video[0]
        assert (shown.width, shown.height) == (128, 32)


@pytest.mark.parametrize(
    ("turn", "expected"), [((0.0, {"hflip": True}), "GRWB"), ((90.0, {}), "GWRB"), (None, "RGBW")]
)
def test_a_film_is_turned_as_it_says(tmp_path: Path, turn: Any, expected: str) -> None:
    tall = quarters().repeat(2, axis=0)
    path = film(tmp_path / "a.mp4", [tall] * 4, turn=turn)
    out = tmp_path / "out"
    clip(path, out, 0.0, 0.4)
    with av.open(str(out)) as container:
        shown = next(container.decode(video=0)).to_ndarray(format="rgb24")
    turned = turn is not None and turn[0] != 0.0
    assert shown.shape == ((64, 128, 3) if turned else (128, 64, 3))
    square = shown[:, ::2] if turned else shown[::2]
    assert corners(square) == list(expected)


def test_hdr_is_painted_as_it_is_indexed() -> None:
    """Greys of PQ, from black to white and beyond."""
    ramp = np.linspace(0, 65_535, 16).astype(np.uint16).repeat(8)
    coded = np.broadcast_to(ramp[None, :, None], (32, 128, 3)).copy()
    frame = av.VideoFrame.from_ndarray(coded, format="rgb48le")
    frame.color_trc, frame.color_primaries = ColorTrc.SMPTE2084, ColorPrimaries.BT2020
    painted = Painter(Shown(frame, 0.0, 1.0), 1280).paint(frame)
    assert painted.format.name == "yuv420p"
    luma = painted.to_ndarray()[16, 4::8].astype(float)
    expected = to_bt709(coded, ColorTrc.SMPTE2084, ColorPrimaries.BT2020)[16, 4::8, 1]
    assert (luma - 16) * 255 / 219 == pytest.approx(expected.astype(float), abs=6)


@pytest.mark.parametrize(
    ("start_s", "end_s"), [(2.0, 2.0), (3.0, 1.0), (-1.0, 1.0), (4.0, 5.0), (0.0, 4.2)]
)
def test_no_such_stretch(start_s: float, end_s: float) -> None:
    with pytest.raises(BadStretch):
        clip_order(start_s, end_s, duration_s=4.0, pictures=True, longest_s=60.0)


def test_what_is_made_again_has_the_same_bytes(tmp_path: Path) -> None:
    """Of pictures so large that the encoder shares them out among its threads."""
    chance = np.random.default_rng(0)
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = (
            1280,
            720,
            "yuv420p",
            8_000_000,
        )
        for _ in range(12):
            small = chance.integers(0, 256, (45, 80, 3), np.uint8)
            image = small.repeat(16, axis=0).repeat(16, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    for make in (version, clip):
        for name in ("one", "two"):
            make(tmp_path / "a.avi", tmp_path / name, 0.0, 1.0)
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_limits(films: Path, tmp_path: Path) -> None:
    with pytest.raises(TooLong):
        clip_order(0.0, 3.0, duration_s=4.0, pictures=True, longest_s=2.0)
    order = Order(0.0, 4.0, clip=True, pictures=True, max_bytes=2000)
    with pytest.raises(BeyondBudget):
        made_of(films / "prores.mov", tmp_path / "out", order)
    with pytest.raises(MissingModality):
        silent = make_clip(tmp_path / "silent.mp4", [BLUE], hz=None)
        made_of(silent, tmp_path / "out", Order(0, 1, clip=True, pictures=False))


# ---------------------------------------------------------------- over HTTP

ITEM = "/v1/collections/default/items"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, films: Path) -> Any:
    app = create_app(Settings(data=tmp_path_factory.mktemp("data"), clip_max_s=3.0), FakeEncoder())
    with Client(app) as client:
        for name in ("mpeg4.avi", "prores.mov", "s.aiff"):
            files = {"file": (f"é {name}", (films / name).read_bytes())}
            client.post(ITEM, files=files, data={"id": name}).raise_for_status()
        client.post(ITEM, json={"text": "words", "id": "words"}).raise_for_status()
        yield client


def counted(client: Client) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    found = [line for line in lines if line.startswith("tercet_converted_files_total{")]
    return {line.split('"')[1]: float(line.split()[-1]) for line in found}


def test_a_clip_is_downloaded(client: Client, tmp_path: Path) -> None:
    asked = {"start_s": 1.25, "end_s": 2.75}
    answer = client.get(f"{ITEM}/mpeg4.avi/clip", params=asked)
    assert (answer.status_code, answer.headers["content-type"]) == (200, FILM)
    name = "%C3%A9%20mpeg4_1.25-2.75s.webm"
    assert answer.headers["content-disposition"] == f"attachment; filename*=utf-8''{name}"
    out = tmp_path / "clip.webm"
    out.write_bytes(answer.content)
    assert len(seen(out)) == 16 and len(heard(out)[0]) == 1.5 * RATE
    part = client.get(f"{ITEM}/mpeg4.avi/clip", params=asked, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, answer.content[10:20])
    head = client.head(f"{ITEM}/mpeg4.avi/clip", params=asked)
    assert head.headers["content-length"] == str(len(answer.content)) and not head.content
    again = {"if-none-match": answer.headers["etag"]}
    assert client.get(f"{ITEM}/mpeg4.avi/clip", params=asked, headers=again).status_code == 304
    sound = client.get(f"{ITEM}/s.aiff/clip", params={"start_s": 0, "end_s": 1})
    assert sound.headers["content-type"] == FLAC
    assert sound.headers["content-disposition"].endswith("_0-1s.flac")


def test_a_version_serves_every_second_of_its_stretch(client: Client) -> None:
    before = counted(client).get("good", 0.0)
    first = client.get(f"{ITEM}/prores.mov/playable?start_s=2.5")
    assert (first.status_code, first.headers["content-type"]) == (200, FILM)
    said = [first.headers[f"tercet-{name}-s"] for name in ("start", "end")]
    assert said == ["0.0", "4.0"]
    later = client.get(f"{ITEM}/prores.mov/playable", headers={"range": "bytes=0-0"})
    assert later.status_code == 206 and later.headers["etag"] == first.headers["etag"]
    assert counted(client)["good"] == before + 1


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("mpeg4.avi/clip?start_s=2&end_s=1", 400, "bad_stretch"),
        ("mpeg4.avi/clip?start_s=9&end_s=10", 400, "bad_stretch"),
        ("mpeg4.avi/clip?start_s=1&end_s=100", 400, "bad_stretch"),
        ("mpeg4.avi/clip?start_s=0&end_s=3.5", 413, "too_long"),
        ("mpeg4.avi/clip?start_s=0", 400, "bad_request"),
        ("mpeg4.avi/clip?start_s=-1&end_s=1", 400, "bad_request"),
        ("mpeg4.avi/clip?start_s=0&end_s=inf", 400, "bad_request"),
        ("mpeg4.avi/clip?start_s=nan&end_s=1", 400, "bad_request"),
        ("mpeg4.avi/playable?start_s=4.5", 400, "bad_stretch"),
        ("words/clip?start_s=0&end_s=1", 422, "missing_modality"),
        ("words/playable", 422, "missing_modality"),
        ("nobody/clip?start_s=0&end_s=1", 404, "unknown_item"),
        ("nobody/playable", 404, "unknown_item"),
    ],
)
def test_what_cannot_be_cut(client: Client, path: str, status: int, code: str) -> None:
    answer = client.get(f"{ITEM}/{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_link_opens_versions_and_clips(tmp_path: Path, films: Path) -> None:
    app = create_app(Settings(data=tmp_path, api_keys="k"), FakeEncoder())
    with Client(app) as client:
        key = {"authorization": "Bearer k"}
        files = {"file": ("a.aiff", (films / "s.aiff").read_bytes())}
        client.post(ITEM, files=files, data={"id": "a"}, headers=key).raise_for_status()
        link = client.post(f"{ITEM}/a/link", headers=key).json()
        assert client.get(f"{link['playable']}&start_s=1").status_code == 200
        assert client.get(f"{link['clip']}&start_s=1&end_s=2").status_code == 200
        assert client.get(f"{ITEM}/a/clip?start_s=1&end_s=2").status_code == 401
        assert client.get(f"{link['clip'][:-1]}x&start_s=1&end_s=2").status_code == 401


def test_a_disk_that_runs_short_takes_back_what_is_kept(tmp_path: Path, films: Path) -> None:
    """Before anything is refused; and nothing is converted then."""
    app = create_app(Settings(data=tmp_path), FakeEncoder())
    with Client(app) as client:
        files = {"file": ("a.aiff", (films / "s.aiff").read_bytes())}
        client.post(ITEM, files=files, data={"id": "a"}).raise_for_status()
        asked = f"{ITEM}/a/clip?start_s=1&end_s=2"
        assert client.get(asked).status_code == 200
        assert len(list((tmp_path / FOLDER).iterdir())) == 1
        state = app.state.owner.active.state
        state.settings = state.settings.model_copy(update={"free_disk_mb": 10**9})
        assert "the disk is full" in client.get("/readyz").text
        assert not list((tmp_path / FOLDER).iterdir())


# ---------------------------------------------------------------- what is kept


class Kept:
    """Conversions of a folder of their own, with sounds to convert."""

    def __init__(self, data: Path, quota: str = "", **changes: Any) -> None:
        self.settings = Settings(data=data, **changes)
        self.metrics = Metrics()
        self.folder = data / FOLDER
        self.full = False
        self.conversions = Conversions(
            self.settings,
            Converters(workers=2, max_s=60.0),
            self.metrics,
            Quota("seconds of media", quota),
            self.check_room,
        )

    def check_room(self) -> None:
        if self.full:
            raise DiskFull(64)

    def count(self, outcome: str) -> float:
        return float(self.metrics.converted.labels(outcome)._value.get())

    def files(self) -> list[Path]:
        return list(self.folder.glob("*"))


def order(start_s: float, end_s: float) -> Order:
    return Order(start_s, end_s, clip=True, pictures=False)


def noise(path: Path, seconds: int = 40) -> Path:
    """Seconds that FLAC cannot make smaller, 32 kB each."""
    rate = 16_000
    samples = np.random.default_rng(0).integers(-30_000, 30_000, seconds * rate).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("pcm_s16be", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_it_is_made_once_for_all_who_ask_at_once(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    sound = noise(tmp_path / "noise.aiff")

    async def ask() -> None:
        found = await asyncio.gather(*(kept.conversions.get(sound, order(1, 9), "") for _ in "ab"))
        assert found[0] is found[1] and found[0].size == found[0].path.stat().st_size

    asyncio.run(ask())
    kept.conversions.close()
    assert kept.count("good") == 1 and not kept.files()


def test_what_was_used_least_recently_goes_and_can_still_be_read(tmp_path: Path) -> None:
    """A megabyte holds three stretches of ten seconds, not four."""
    kept = Kept(tmp_path, converted_mb=1)
    sound = noise(tmp_path / "noise.aiff")

    async def ask() -> None:
        get = kept.conversions.get
        first = await get(sound, order(0, 10), "")
        second = await get(sound, order(10, 20), "")
        await get(sound, order(20, 30), "")
        assert await get(sound, order(0, 10), "") is first
        with second.path.open("rb") as reader:
            await get(sound, order(30, 40), "")
            await asyncio.sleep(LINGER_S + 0.5)
            assert not second.path.exists() and first.path.exists()
            assert len(reader.read()) == second.size
        assert sum(file.stat().st_size for file in kept.files()) <= 1_000_000
        again = await get(sound, order(10, 20), "")
        assert (again.size, again.tag) == (second.size, second.tag)

    asyncio.run(ask())
    assert kept.count("good") == 5
    kept.conversions.close()


def test_what_is_over_a_quota_is_not_kept_and_is_nobody_elses_refusal(tmp_path: Path) -> None:
    """Of ten seconds `a` has taken eight. It asks for eight more, and so does `b` meanwhile."""
    kept = Kept(tmp_path, quota="10/hour")
    sound = noise(tmp_path / "noise.aiff")

    async def ask() -> None:
        get = kept.conversions.get
        await get(sound, order(0, 8), "a")
        for _ in range(2):  # asking again does not give it either
            with pytest.raises(OverQuota):
                await get(sound, order(10, 18), "a")
        answers = await asyncio.gather(
            *(get(sound, order(20, 28), client) for client in "aba"), return_exceptions=True
        )
        refused, given, again = answers
        assert isinstance(refused, OverQuota) and isinstance(again, OverQuota)
        assert isinstance(given, Converted) and given.made.end_s == 28.0
        assert await get(sound, order(20, 28), "a") is given  # nothing is decoded for it

    asyncio.run(ask())
    assert len(kept.files()) == 2
    kept.conversions.close()


def test_a_changed_file_is_converted_anew(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    sound = make_wav(tmp_path / "a.wav", 3.0)

    async def ask() -> None:
        first = await kept.conversions.get(sound, order(0, 2), "")
        make_wav(sound, 2.5, hz=880.0)
        assert (await kept.conversions.get(sound, order(0, 2), "")).tag != first.tag

    asyncio.run(ask())
    kept.conversions.close()


def test_what_nobody_waits_for_is_given_up(tmp_path: Path) -> None:
    """One of two leaves, and it goes on; the other leaves, and it ends."""
    kept = Kept(tmp_path)
    hours = tmp_path / "hours.wav"
    write_hours(hours)
    whole = Order(0.0, 15_000.0, clip=True, pictures=False, budget=Budget(seconds=1e6))

    async def ask() -> None:
        tasks = [asyncio.create_task(kept.conversions.get(hours, whole, "")) for _ in "ab"]
        while not kept.files():
            await asyncio.sleep(0.01)
        tasks[0].cancel()
        await asyncio.sleep(0.3)
        assert kept.count("cancelled") == 0 and not tasks[1].done()
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while not kept.count("cancelled"):
            await asyncio.sleep(0.01)
        assert not kept.files()

    asyncio.run(ask())
    kept.conversions.close()


def test_a_full_disk(tmp_path: Path) -> None:
    """What is kept goes, nothing is made."""
    kept = Kept(tmp_path)
    sound = noise(tmp_path / "noise.aiff")

    async def ask() -> None:
        await kept.conversions.get(sound, order(0, 10), "")
        kept.conversions.clear()
        assert not kept.files()
        kept.full = True
        with pytest.raises(DiskFull):
            await kept.conversions.get(sound, order(0, 10), "")

    asyncio.run(ask())
    kept.conversions.close()


def test_a_converter_writes_no_more_than_it_may(tmp_path: Path) -> None:
    """Whatever it was told: its process is limited to a megabyte."""
    sound = noise(tmp_path / "noise.aiff", 60)
    out = tmp_path / "out"
    out.touch()
    converters = Converters(1, file_mb=1)
    try:
        with pytest.raises(BeyondBudget):
            converters.finish(converters.start(sound, out, order(0, 60)))
        assert out.stat().st_size <= 2**20
        with pytest.raises(DecoderFailed):  # it makes no file of its own
            converters.finish(converters.start(sound, tmp_path / "new", order(0, 1)))
        assert not (tmp_path / "new").exists()
    finally:
        converters.close()


def test_room_is_left_on_the_disk(tmp_path: Path) -> None:
    """A file of 16 MB, where 1 MB may be used: it grows so far, and is taken back."""
    sound = noise(tmp_path / "noise.aiff", 500)
    kept = Kept(tmp_path, free_disk_mb=shutil.disk_usage(tmp_path).free // 1_000_000)

    async def ask() -> None:
        with pytest.raises(DiskFull):
            await kept.conversions.get(sound, order(0, 500), "")

    asyncio.run(ask())
    assert not kept.files()
    kept.conversions.close()


def test_a_start_begins_with_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    left = tmp_path / FOLDER / ("0" * 32)
    left.write_bytes(b"left by a process that was killed")
    Kept(tmp_path).conversions.close()
    assert not left.exists()


# ---------------------------------------------------------------- the command


def test_the_command_cuts(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    bundle = ["--bundle", "bundles/default", "--data", str(data)]
    assert main(["build", *bundle, str(films / "mpeg4.avi")]) == 0
    capsys.readouterr()
    out = tmp_path / "moment.webm"
    asked = ["clip", *bundle, "mpeg4.avi", "--start-s", "1.25", "--end-s", "2.75"]
    assert main([*asked, "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {
        "id": "mpeg4.avi",
        "file": str(out),
        "start_s": 1.25,
        "end_s": 2.75,
        "media_type": FILM,
    }
    assert len(seen(out)) == 16
    assert main([*asked, "--out", str(out)]) == 1  # it is there already
    assert "exists" in capsys.readouterr().err
    assert main(["clip", *bundle, "nobody", "--start-s", "0", "--end-s", "1"]) == 1
    assert capsys.readouterr().err == "clip: no item 'nobody'\n"
    assert main(["clip", *bundle, "mpeg4.avi", "--start-s", "3", "--end-s", "99"]) == 1
    assert "no stretch from 3 s to 99 s" in capsys.readouterr().err
