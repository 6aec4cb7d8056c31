"""Valid files of less usual kinds: what is seen and heard of them is what players show and play."""

from __future__ import annotations

import struct
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from av.video.reformatter import ColorPrimaries, ColorTrc
from numpy.typing import NDArray

from media.audio import AudioSpec
from media.containers import Budget, video_stream
from media.decode import FrameRequest, read_frames, read_picture_times
from media.errors import NotMedia, TooLong
from media.hdr import to_bt709
from media.mediatypes import media_type
from media.mono import MonoResampler
from media.sound import read_waveform
from media.video import VideoSpec, fit_square, render_frame
from media.windows import InputSpecs, read_media

from .makers import BLUE, GREEN, RED, SPECS, in_a_thread_of_its_own, make_tone, write_wav
from .test_times import needs_ffmpeg

SIZE = VideoSpec(frames=4, size=32)


def frames_at(times_s: list[float]) -> FrameRequest:
    return FrameRequest(times_s=times_s, spec=SIZE, budget=Budget())


PICTURES = InputSpecs(5.0, SIZE, None)
PCM_GUID = bytes.fromhex("0100000000001000800000aa00389b71")
WHITE = (255, 255, 255)


def extensible_wav(
    path: Path,
    data: bytes,
    channels: int,
    bits: int,
    valid: int = 0,
    mask: int = 0,
    rate: int = 48_000,
) -> Path:
    """Whole samples, channel by channel, as WAVE_FORMAT_EXTENSIBLE."""
    place = bits // 8
    form = struct.pack("<HHII", 0xFFFE, channels, rate, rate * channels * place)
    form += struct.pack("<HHHHI", channels * place, bits, 22, valid or bits, mask) + PCM_GUID
    body = (
        b"WAVEfmt "
        + struct.pack("<I", len(form))
        + form
        + b"data"
        + struct.pack("<I", len(data))
        + data
    )
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


def rms(waveform: NDArray[np.float32] | None) -> float:
    assert waveform is not None
    return float(np.sqrt(np.mean(waveform**2)))


# Sound


# fmt: off
LAYOUTS = [
    "mono", "stereo", "2.1", "3.0", "3.0(back)", "4.0", "quad", "quad(side)", "3.1", "5.0",
    "5.0(side)", "4.1", "5.1", "5.1(side)", "6.0", "6.0(front)", "hexagonal", "6.1",
    "6.1(back)", "6.1(front)", "7.0", "7.0(front)", "7.1", "7.1(wide)", "7.1(wide-side)",
    "octagonal", "hexadecagonal", "downmix", "22.2",
]
# fmt: on


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mono_has_the_gains_of_ffmpegs_whole_numbers(layout: str) -> None:
    """Noise of its own in each channel, mixed by us and by FFmpeg to 16 bits, as `ffmpeg -ac 1`
    does.
    """
    channels, rng = av.AudioLayout(layout).nb_channels, np.random.default_rng(0)
    noise = rng.uniform(-0.6, 0.6, (1, 8000 * channels)).astype(np.float32)

    def frame(format: str, samples: NDArray[Any]) -> av.AudioFrame:
        made = av.AudioFrame.from_ndarray(samples, format=format, layout=layout)
        made.sample_rate = 8000
        return made

    resampler = MonoResampler(8000)
    ours = np.concatenate(resampler(frame("flt", noise)) + resampler(None))
    whole = av.AudioResampler("s16", "mono", 8000)
    right = [out.to_ndarray()[0] for out in whole.resample(frame("s16", np.int16(32767 * noise)))]
    theirs = np.concatenate(right).astype(np.float32) / 32768
    assert len(ours) == len(theirs) == 8000
    assert abs(20 * np.log10(rms(ours) / rms(theirs))) < 0.2
    assert np.abs(ours - theirs).max() < 1e-3


@pytest.mark.parametrize("mask", [0x30, 0x600, 0x5000, 0x28000, 0x9, 0x630, 0x100, 0x8, 0x1])
def test_channels_without_a_front_are_heard(tmp_path: Path, mask: int) -> None:
    """Pairs at the back, the sides, the top; a front left and an LFE; two pairs; single channels:
    their mean.
    """
    channels = mask.bit_count()
    tone = make_tone(1.0, 440.0, 48_000)
    samples = np.repeat(np.int16(16_384 * tone)[:, None], channels, axis=1)
    waveform = read_waveform(
        extensible_wav(tmp_path / "a.wav", samples.tobytes(), channels, 16, mask=mask),
        48_000,
        Budget(),
    )
    assert rms(waveform) == pytest.approx(0.25 / np.sqrt(2), rel=0.01)


def test_one_recording_is_heard_alike_from_any_number_of_channels(tmp_path: Path) -> None:
    """Loud: the sum of two channels would be cut off. One side alone is half as loud and otherwise
    the same.
    """
    loud = np.int16(32_000 * np.tanh(4 * make_tone(1.0, 440.0, 48_000)))
    silent = np.zeros_like(loud)
    heard = []
    for channels in ([loud], [loud] * 2, [loud] * 6, [loud, silent], [silent, loud]):
        data, mask = np.stack(channels, axis=1).tobytes(), {6: 0x3F}.get(len(channels), 0)
        path = extensible_wav(tmp_path / "a.wav", data, len(channels), 16, mask=mask)
        waveform = read_waveform(path, 16_000, Budget())
        assert waveform is not None
        heard.append(waveform)
    mono = heard[0]
    for waveform, gain in zip(heard[1:], (1, 1, 0.5, 0.5), strict=True):
        assert np.abs(waveform - gain * mono).max() < 2e-3


def test_beyond_full_scale_is_turned_down_not_cut(tmp_path: Path) -> None:
    """Some programmes write floats of the range of 16 bits."""
    for scale in (0.8, 3.0, 32_767.0):
        write_wav(tmp_path / "a.wav", 2 * scale * make_tone(1.0, 440.0, 16_000), 16_000)
        waveform = read_waveform(tmp_path / "a.wav", 16_000, Budget())
        assert waveform is not None and np.abs(waveform).max() == pytest.approx(
            min(scale, 1.0), abs=1e-3
        )
        # a sine still
        assert rms(waveform) == pytest.approx(min(scale, 1.0) / np.sqrt(2), rel=1e-3)


@pytest.mark.parametrize(
    ("valid", "place"), [(24, 32), (20, 32), (16, 32), (20, 24), (16, 24), (12, 16)]
)
def test_valid_bits_below_the_place_they_lie_in(tmp_path: Path, valid: int, place: int) -> None:
    tone = (
        (make_tone(2.0, 1000.0, 48_000) * (2**31 - 1)).astype(np.int64)
        >> (32 - valid)
        << (32 - valid)
    )
    # the lower bytes left out
    laid = tone.astype("<i4").view(np.uint8).reshape(-1, 4)[:, 4 - place // 8 :]
    waveform = read_waveform(
        extensible_wav(tmp_path / "a.wav", laid.tobytes(), 1, place, valid), 16_000, Budget()
    )
    assert waveform is not None and len(waveform) == 32_000
    assert np.abs(waveform).max() == pytest.approx(0.5, abs=0.01)
    assert rms(waveform) == pytest.approx(0.354, abs=0.01)


def test_twenty_four_bits_in_blocks_of_thirty_two_without_an_extensible_header(
    tmp_path: Path,
) -> None:
    tone = (make_tone(1.0, 1000.0, 48_000) * (2**31 - 1)).astype("<i4")
    form = struct.pack("<HHIIHH", 1, 1, 48_000, 192_000, 4, 24)
    body = (
        b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", 4 * len(tone))
        + tone.tobytes()
    )
    (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    waveform = read_waveform(tmp_path / "a.wav", 48_000, Budget())
    assert (
        waveform is not None
        and len(waveform) == 48_000
        and rms(waveform) == pytest.approx(0.354, abs=0.01)
    )


def ogg(
    path: Path, codec: str, seconds: float, hz: float, channels: int, rate: int = 48_000
) -> bytes:
    with av.open(str(path), "w", format="ogg") as container:
        stream = container.add_stream(codec, rate=rate, layout={1: "mono", 2: "stereo"}[channels])
        tone = np.repeat(make_tone(seconds, hz, rate)[None], channels, axis=0)
        format = stream.codec_context.format.name
        for start in range(0, tone.shape[1], 960):
            piece = np.ascontiguousarray(tone[:, start : start + 960])
            packed = piece.T.reshape(1, -1) if not format.endswith("p") else piece
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(packed),
                format="flt" if packed is not piece else "fltp",
                layout=stream.layout.name,
            )
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            for made in av.AudioResampler(format, stream.layout, rate).resample(frame):
                container.mux(stream.encode(made))
        container.mux(stream.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("libopus", 1, 48_000), ("libopus", 2, 48_000)),
        (("libopus", 2, 48_000), ("libopus", 1, 48_000)),
        (("flac", 1, 48_000), ("flac", 2, 48_000)),
        (("flac", 2, 48_000), ("flac", 2, 44_100)),
        (("flac", 1, 48_000), ("libopus", 1, 48_000)),
    ],
)
def test_a_chained_ogg_is_heard_to_its_end(
    tmp_path: Path, first: tuple[str, int, int], second: tuple[str, int, int]
) -> None:
    """Two seconds, then three of another pitch, whatever changes between them."""
    links = [
        ogg(tmp_path / "link", codec, seconds, hz, channels, rate)
        for (codec, channels, rate), seconds, hz in ((first, 2.0, 440.0), (second, 3.0, 2000.0))
    ]
    (tmp_path / "both.ogg").write_bytes(b"".join(links))
    waveform = read_waveform(tmp_path / "both.ogg", 16_000, Budget())
    assert waveform is not None and len(waveform) / 16_000 == pytest.approx(5.0, abs=0.1)
    for seconds, hz in ((1.0, 440.0), (3.5, 2000.0)):
        piece = waveform[round(seconds * 16_000) :][:8000]
        assert np.argmax(np.abs(np.fft.rfft(piece))) * 2 == pytest.approx(hz, abs=4)


@pytest.mark.parametrize(
    ("front", "between"), [(b"ID3\x03\0\0\0\0\0\x7f" + bytes(127), b""), (b"", bytes(70_000))]
)
def test_a_chained_ogg_is_heard_beyond_what_lies_between(
    tmp_path: Path, front: bytes, between: bytes
) -> None:
    """A tag in front, or bytes of no page where a recording was joined."""
    links = [
        ogg(tmp_path / "link", "flac", 2.0, hz, channels)
        for channels, hz in ((1, 440.0), (2, 2000.0))
    ]
    (tmp_path / "both.ogg").write_bytes(front + between.join(links))
    waveform = read_waveform(tmp_path / "both.ogg", 16_000, Budget())
    assert waveform is not None and len(waveform) / 16_000 == pytest.approx(4.0, abs=0.1)
    assert np.argmax(np.abs(np.fft.rfft(waveform[48_000:56_000]))) * 2 == pytest.approx(2000, abs=4)


def caf(path: Path, data: bytes, bits: int, place: int, flags: int) -> Path:
    """Mono at 48,000 Hz, in `place` bytes a sample."""
    description = struct.pack(">d4s5I", 48_000.0, b"lpcm", flags, place, 1, 1, bits)
    chunks = b"desc" + struct.pack(">q", 32) + description
    chunks += b"data" + struct.pack(">qI", len(data) + 4, 0) + data
    path.write_bytes(b"caff" + struct.pack(">HH", 1, 0) + chunks)
    return path


@pytest.mark.parametrize(("flags", "order"), [(0, ">i4"), (2, "<i4")])
@pytest.mark.parametrize("valid", [20, 24])
def test_valid_bits_of_a_caf(tmp_path: Path, flags: int, order: str, valid: int) -> None:
    samples = np.round(make_tone(2.0, 440.0, 48_000) * 2**31).astype(np.int64)
    data = (samples >> (32 - valid) << (32 - valid)).astype(order).tobytes()
    waveform = read_waveform(caf(tmp_path / "a.caf", data, valid, 4, flags), 16_000, Budget())
    assert waveform is not None and len(waveform) == 32_000
    assert rms(waveform) == pytest.approx(0.354, abs=0.005)


def rifx(path: Path, data: bytes, tag: int, bits: int, channels: int) -> Path:
    """A WAV of 44,100 Hz whose numbers begin with their highest byte."""
    block = bits // 8 * channels
    form = struct.pack(">HHIIHH", tag, channels, 44_100, 44_100 * block, block, bits)
    chunks = b"LIST" + struct.pack(">I", 4) + b"INFO" + b"fmt " + struct.pack(">I", 16) + form
    chunks += b"data" + struct.pack(">I", len(data)) + data + b"junk" + struct.pack(">I", 4) * 2
    path.write_bytes(b"RIFX" + struct.pack(">I", 4 + len(chunks)) + b"WAVE" + chunks)
    return path


@pytest.mark.parametrize(
    ("tag", "bits", "kind"), [(1, 16, ">i2"), (1, 32, ">i4"), (3, 32, ">f4"), (3, 64, ">f8")]
)
@pytest.mark.parametrize("channels", [1, 2])
def test_numbers_that_begin_with_their_highest_byte(
    tmp_path: Path, tag: int, bits: int, kind: str, channels: int
) -> None:
    tone = make_tone(2.0, 440.0, 44_100)
    scale = 1 if tag == 3 else 2.0 ** (bits - 1)
    data = (tone * scale).repeat(channels).astype(kind).tobytes()
    path = rifx(tmp_path / "a.wav", data, tag, bits, channels)
    waveform = read_waveform(path, 16_000, Budget())
    assert waveform is not None and len(waveform) == pytest.approx(32_000, abs=2)
    assert rms(waveform) == pytest.approx(0.354, abs=0.005)
    assert np.argmax(np.abs(np.fft.rfft(waveform[:16_000]))) == 440


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("odd", [b"LIST", b"bext", b"fact"])
def test_chunks_that_are_not_padded(tmp_path: Path, odd: bytes, told: bool) -> None:
    """The format of RIFF wants a byte behind a chunk of odd length. Some programs leave it out, and
    some never write how long the samples are.
    """
    samples = np.round(make_tone(2.0, 440.0, 44_100) * 32767).astype("<i2").tobytes()
    size = len(samples) if told else 0
    form = struct.pack("<HHIIHH", 1, 1, 44_100, 88_200, 2, 16)
    chunks = b"WAVEfmt " + struct.pack("<I", 16) + form + odd + struct.pack("<I", 27) + bytes(27)
    chunks += b"data" + struct.pack("<I", size) + samples
    (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
    waveform = read_waveform(tmp_path / "a.wav", 44_100, Budget())
    assert waveform is not None and len(waveform) == 88_200
    assert np.abs(waveform - make_tone(2.0, 440.0, 44_100)).max() < 1e-4


def test_one_bit_sound_is_heard(tmp_path: Path) -> None:
    """DSD: a tone as pulses, by first-order sigma-delta modulation."""
    rate = 2_822_400
    pulses, carried = np.empty(rate // 10, np.uint8), 0.0
    for i, wanted in enumerate((make_tone(0.1, 1000.0, rate)).tolist()):
        carried += wanted
        pulses[i] = carried >= 0
        carried -= 1.0 if pulses[i] else -1.0
    bits = np.packbits(pulses, bitorder="little").tobytes()
    bits += bytes(-len(bits) % 4096)
    form = b"fmt " + struct.pack("<QIIIIIIQII", 52, 1, 0, 1, 1, rate, 1, len(pulses), 4096, 0)
    data = b"data" + struct.pack("<Q", 12 + len(bits)) + bits
    head = b"DSD " + struct.pack("<QQQ", 28, 28 + len(form) + len(data), 0)
    (tmp_path / "a.dsf").write_bytes(head + form + data)
    waveform = read_waveform(tmp_path / "a.dsf", 16_000, Budget())
    assert waveform is not None and rms(waveform[400:1200]) == pytest.approx(0.354, abs=0.01)


@needs_ffmpeg
@pytest.mark.parametrize("codec", ["mlp", "truehd"])
def test_bare_lossless_sound_of_discs_is_heard(tmp_path: Path, codec: str) -> None:
    write_wav(tmp_path / "a.wav", make_tone(2.0, 440.0, 48_000), 48_000)
    command = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "a.wav"), "-ac", "2"]
    command += ["-c:a", codec, "-strict", "-2", "-f", codec, str(tmp_path / "blob")]
    subprocess.run(command, check=True)
    waveform = read_waveform(tmp_path / "blob", 16_000, Budget())
    assert waveform is not None and len(waveform) == pytest.approx(32_000, abs=16)
    assert np.argmax(np.abs(np.fft.rfft(waveform[:16_000]))) == 440
    assert media_type(tmp_path / "blob", pictures=False) == "audio/vnd.dolby.mlp"


# Pictures


def test_a_tape_is_seen_and_heard(tmp_path: Path) -> None:
    """DV as a camera sends it: red for 0.4 s, then blue for 0.8 s, and a tone throughout."""
    with av.open(str(tmp_path / "blob"), "w", format="dv") as tape:
        film = tape.add_stream("dvvideo", rate=25)
        film.width, film.height, film.pix_fmt = 720, 576, "yuv420p"
        sound = tape.add_stream("pcm_s16le", rate=48_000, layout="stereo")
        for number in range(30):
            image = np.full((576, 720, 3), RED if number < 10 else BLUE, np.uint8)
            tape.mux(film.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            tone = make_tone(0.04, 500.0, 48_000)
            samples = np.round(tone * 2**15).astype(np.int16).repeat(2)
            heard = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="stereo")
            heard.sample_rate, heard.pts = 48_000, 1920 * number
            tape.mux(sound.encode(heard))
    media = read_media(tmp_path / "blob", SPECS, Budget())
    assert media.windows == [(0.0, pytest.approx(1.2))]
    shown = media.parts["video"].array[0].mean(axis=(1, 2))  # at 0.15, 0.45, 0.75 and 1.05 s
    assert [int(colour.argmax()) for colour in shown] == [0, 2, 2, 2]
    waveform = read_waveform(tmp_path / "blob", 16_000, Budget())
    assert rms(waveform) == pytest.approx(0.354, abs=0.005)
    assert media_type(tmp_path / "blob", pictures=True) == "video/dv"


def quarters(side: int = 64) -> NDArray[np.uint8]:
    """Red, green above blue, white."""
    small = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8)
    return small.repeat(side // 2, axis=0).repeat(side // 2, axis=1)


def corners(picture: NDArray[np.uint8]) -> list[str]:
    side = len(picture)
    found = []
    for y, x in product((side // 4, 3 * side // 4), repeat=2):
        lit = tuple(bool(value > 128) for value in picture[y, x])
        found.append(
            {(True, False, False): "R", (False, True, False): "G", (False, False, True): "B"}.get(
                lit, "W"
            )
        )
    return found


def film(
    path: Path, images: list[NDArray[np.uint8]], rate: int = 8, turn: Any = None, aspect: Any = None
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], "yuv420p"
        if aspect is not None:
            stream.sample_aspect_ratio = aspect
        if turn is not None:
            stream.set_display_rotation(turn[0], **turn[1])
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ((0.0, {"hflip": True}), "GRWB"),
        ((0.0, {"vflip": True}), "BWRG"),
        ((0.0, {"hflip": True, "vflip": True}), "WBGR"),
        ((90.0, {}), "GWRB"),
        ((-90.0, {}), "BRWG"),
        ((180.0, {}), "WBGR"),
    ],
)
def test_films_are_turned_and_mirrored_as_they_say(
    tmp_path: Path, turn: Any, expected: str
) -> None:
    path = film(tmp_path / "a.mp4", [quarters()] * 4, turn=turn)
    frames, _, _ = read_frames(path, frames_at([0.1]))
    assert corners(frames[0]) == list(expected)


@pytest.mark.parametrize(
    ("aspect", "wide", "tall"), [(None, 64, 64), (Fraction(2), 64, 128), (Fraction(1, 2), 128, 64)]
)
def test_a_disc_is_round_whatever_the_shape_of_pixels(
    tmp_path: Path, aspect: Any, wide: int, tall: int
) -> None:
    y, x = np.mgrid[0:tall, 0:wide]
    inside = np.hypot((x / wide - 0.5), (y / tall - 0.5)) < 0.3
    image = np.where(inside[..., None], 255, 0).repeat(3, axis=2).astype(np.uint8)
    frames, _, _ = read_frames(
        film(tmp_path / "a.mp4", [image] * 4, aspect=aspect), frames_at([0.1])
    )
    rows, columns = np.nonzero(frames[0][..., 0] > 128)
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 1 and np.ptp(rows) == pytest.approx(
        0.6 * 32, abs=2
    )


def test_colours_below_transparency_are_not_seen() -> None:
    """Composed over white, also where the frame is scaled."""
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[:, :32], rgba[:, 32:] = (255, 0, 0, 0), (0, 255, 0, 255)
    seen = fit_square(av.VideoFrame.from_ndarray(rgba, format="rgba"), SIZE)
    assert seen[16, 4].tolist() == [255, 255, 255] and seen[16, 28].tolist() == [0, 255, 0]
    assert (seen[..., 1] == 255).all()  # no red, not even between the two


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_transparent_webm(tmp_path: Path, codec: str) -> None:
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[:, :32], rgba[:, 32:] = (255, 0, 0, 0), (0, 255, 0, 255)
    with av.open(str(tmp_path / "a.webm"), "w") as container:
        stream = container.add_stream(codec, rate=5, options={"auto-alt-ref": "0"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuva420p"
        stream.metadata["alpha_mode"] = "1"
        for _ in range(5):
            container.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format="yuva420p")
                )
            )
        container.mux(stream.encode(None))
    frames, _, _ = read_frames(tmp_path / "a.webm", frames_at([0.1]))
    assert np.abs(frames[0][16, 4].astype(int) - 255).max() < 12
    assert np.abs(frames[0][16, 28].astype(int) - (0, 255, 0)).max() < 12


def pq_signal(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    """ITU-R BT.2100's inverse EOTF."""
    y = (nits / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


def hlg_signal(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    """ITU-R BT.2100's curve for a display of 1,000 cd/m²."""
    light = nits / 1000
    scene = light * np.maximum(light @ [0.2627, 0.6780, 0.0593], 1e-9)[..., None] ** (1 / 1.2 - 1)
    above = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), above)


@pytest.mark.parametrize(
    ("curve", "signal"), [(ColorTrc.SMPTE2084, pq_signal), (ColorTrc.ARIB_STD_B67, hlg_signal)]
)
def test_hdr_is_seen_in_the_colours_of_sdr(curve: int, signal: Any) -> None:
    """The four colours at the 203 nits of white, in BT.2020, and white five times as bright: as on
    a plain screen.
    """
    from_709 = np.array(
        [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
    )
    colours = np.array(
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0.5, 0.5, 0.5], [4.9, 4.9, 4.9]], float
    )
    coded = np.round(65_535 * signal(colours @ from_709.T * 203.0)).astype(np.uint16)
    seen = to_bt709(coded[None], curve, ColorPrimaries.BT2020)[0].astype(int)
    right = [(255, 0, 0), (0, 255, 0), (0, 0, 255), WHITE, (188, 188, 188), WHITE]
    assert np.abs(seen - right).max() <= 20 and np.abs(seen[3:] - right[3:]).max() <= 2


def test_a_frame_in_hdr_is_scaled_and_converted() -> None:
    frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 38_000, np.uint16), format="rgb48le")
    frame.color_trc, frame.color_primaries = ColorTrc.SMPTE2084, ColorPrimaries.BT2020
    seen = render_frame(frame, 48, 32, "area")
    # 0.58 of PQ is white
    assert seen.shape == (32, 48, 3) and np.abs(seen.astype(int) - 255).max() <= 3


def gif(path: Path, delay: int, count: int) -> Path:
    """Pictures of 16 x 16 that follow each other after so many hundredths of a second."""

    def shown(colour: int) -> bytes:
        codes = [code for _ in range(256) for code in (4, colour)] + [
            5
        ]  # "clear" before each, so that codes keep 3 bits
        packed = sum(code << 3 * i for i, code in enumerate(codes))
        data = packed.to_bytes((3 * len(codes) + 7) // 8, "little")
        blocks = b"".join(
            bytes([len(data[i : i + 255])]) + data[i : i + 255] for i in range(0, len(data), 255)
        )
        head = b"\x21\xf9\x04" + struct.pack("<BHBB", 4, delay, 0, 0)
        return head + b"\x2c" + struct.pack("<HHHHB", 0, 0, 16, 16, 0) + b"\x02" + blocks + b"\0"

    head = (
        b"GIF89a"
        + struct.pack("<HHBBB", 16, 16, 0xF1, 0, 0)
        + bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255])
    )
    path.write_bytes(head + b"".join(shown(i * 3 // count) for i in range(count)) + b";")
    return path


@pytest.mark.parametrize(("delay", "seconds"), [(0, 6.0), (1, 6.0), (2, 1.2), (10, 6.0)])
def test_a_gif_lasts_as_long_as_in_browsers(tmp_path: Path, delay: int, seconds: float) -> None:
    media = read_media(gif(tmp_path / "a.gif", delay, 60), PICTURES, Budget(), ("video",))
    assert media.duration_s == pytest.approx(seconds, abs=0.01)
    assert media.parts["video"].array[-1, -1].mean((0, 1)).tolist() == [0, 0, 255]


def gif_of(pieces: list[tuple[int, int, int]], colours: list[tuple[int, int, int]]) -> bytes:
    """A GIF of 16 x 16 pixels. Each piece is a square in the upper left corner, (side, number of
    its colour, what comes after it), for half a second. Its background is the first colour.
    """
    bits = max(len(colours) - 1, 3).bit_length()
    clear, end = 1 << bits, (1 << bits) + 1
    data = b"GIF89a" + struct.pack("<HHBBB", 16, 16, 0xF0 | bits - 1, 0, 0)
    data += b"".join(bytes(colour) for colour in colours)
    for side, colour, after in pieces:
        data += b"\x21\xf9\x04" + struct.pack("<BHBB", after << 2, 50, 0, 0)
        data += b"\x2c" + struct.pack("<HHHHBB", 0, 0, side, side, 0, bits)
        codes = [code for _ in range(side * side) for code in (clear, colour)] + [end]
        packed = sum(code << place * (bits + 1) for place, code in enumerate(codes))
        whole = packed.to_bytes(-(-len(codes) * (bits + 1) // 8), "little")
        for at in range(0, len(whole), 255):
            block = whole[at : at + 255]
            data += bytes([len(block)]) + block
        data += b"\0"
    return data + b";"


@pytest.mark.parametrize("more", [0, 252])  # colours that no pixel has
@pytest.mark.parametrize(
    ("pieces", "right"),
    [
        ([(16, 1, 2), (8, 2, 0)], ["RRRR", "GWWW"]),
        ([(16, 1, 3), (8, 2, 0)], ["RRRR", "GWWW"]),
        ([(16, 1, 1), (8, 2, 0)], ["RRRR", "GRRR"]),
        ([(16, 1, 1), (8, 2, 2), (4, 1, 0)], ["RRRR", "WRRR"]),
        ([(8, 1, 1), (4, 2, 0)], ["RWWW", "RWWW"]),
    ],
)
def test_what_a_gif_does_not_cover_is_transparent(
    tmp_path: Path, pieces: list[tuple[int, int, int]], right: list[str], more: int
) -> None:
    """As in browsers, which heed no background."""
    colours = [(0, 0, 0), RED, GREEN, WHITE] + [(0, 0, 60)] * more
    (tmp_path / "a.gif").write_bytes(gif_of(pieces, colours))
    media = read_media(tmp_path / "a.gif", PICTURES, Budget(), ("video",))
    assert media.duration_s == pytest.approx(len(pieces) / 2)
    frames = media.parts["video"].array[0]
    assert ["".join(corners(frame)) for frame in frames[[0, -1]]] == right


def test_what_a_still_gif_does_not_cover_is_transparent(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(gif_of([(8, 1, 0)], [(0, 0, 0), RED, GREEN, WHITE]))
    media = read_media(tmp_path / "a.gif", PICTURES, Budget(), ("video",))
    assert media.still and corners(media.parts["video"].array[0, 0]) == ["R", "W", "W", "W"]


def test_an_animated_avif_is_its_film(tmp_path: Path) -> None:
    images = [
        np.full((64, 64, 3), colour, np.uint8) for colour in [(255, 0, 0)] * 5 + [(0, 255, 0)] * 5
    ]

    def make() -> None:
        with av.open(str(tmp_path / "a.avif"), "w") as container:
            stream = container.add_stream(
                "libsvtav1", rate=5, options={"preset": "12", "svtav1-params": "lp=1"}
            )
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            for image in images:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))

    in_a_thread_of_its_own(make)
    media = read_media(tmp_path / "a.avif", PICTURES, Budget(), ("video",))
    assert media.duration_s == pytest.approx(2.0, abs=0.01)
    assert np.argmax(media.parts["video"].array[0, -1].mean((0, 1))) == 1


def test_the_default_one_of_two_picture_tracks_is_seen(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        streams = []
        for default in (False, True):
            stream = container.add_stream("libx264", rate=5)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            stream.disposition = (
                av.stream.Disposition.default if default else av.stream.Disposition(0)
            )
            streams.append(stream)
        for _ in range(5):
            for stream, colour in zip(streams, (RED, GREEN), strict=True):
                image = np.full((64, 64, 3), colour, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode(None))
    frames, _, _ = read_frames(tmp_path / "a.mkv", frames_at([0.1]))
    assert np.argmax(frames[0].mean((0, 1))) == 1


def test_a_photo_in_tiles_is_refused_in_words() -> None:
    """What FFmpeg gives of a HEIC grid: streams marked as dependent, the first of them its upper
    left tile.
    """
    dependent = av.stream.Disposition.dependent
    tile = SimpleNamespace(codec_context=object(), disposition=dependent, frames=1)
    container: Any = SimpleNamespace(
        streams=SimpleNamespace(video=[tile] * 4, best=lambda kind: tile)
    )
    with pytest.raises(NotMedia, match="photo in tiles"):
        video_stream(container)


# When pictures are shown, and how long a film is

KINDS = {
    "libx264": ["mp4", "mov", "mkv", "avi", "ts", "flv", "wmv"],
    "libx265": ["mp4", "mkv", "ts"],
    "mpeg4": ["mp4", "mkv", "avi"],
    "mpeg2video": ["mpg", "ts", "mkv"],
    "libvpx": ["webm", "mkv"],
    "libvpx-vp9": ["webm", "mp4"],
    "mjpeg": ["avi", "mov", "mkv"],
    "ffv1": ["mkv", "avi"],
    "wmv2": ["wmv"],
    "gif": ["gif"],
    "apng": ["apng"],
}
REORDERING = {"libx264", "libx265", "mpeg4", "mpeg2video"}
FIXED_RATE = {"avi", "mpg", "wmv"}  # no pauses: they count pictures, or guess
GREY_STEP = 6


@dataclass(frozen=True)
class Film:
    codec: str
    kind: str
    rate: Fraction
    count: int
    b_frames: int
    pause: tuple[int, int] | None  # before which picture, how many pictures long
    trim: tuple[int, int] | None  # from which picture on, how many of them


FILMS = [
    Film(codec, kind, rate, count, b_frames, pause, trim)
    for codec, kinds in KINDS.items()
    for kind in kinds
    for rate, count in (
        (Fraction(25), 31),
        (Fraction(30_000, 1001), 37),
        (Fraction(5), 9),
        (Fraction(1), 7),
    )
    if codec != "mpeg2video" or rate > 20
    for b_frames in ((0, 3) if codec in REORDERING else (0,))
    for pause in (None, (count - 2, 40))
    if pause is None or kind not in FIXED_RATE
    for trim in (None, (0, count // 2), (count // 3, count // 2))
    if trim is None or (kind in ("mp4", "mov") and pause is None)
]


def write_film(path: Path, made: Film) -> None:
    """Pictures that brighten by GREY_STEP each."""
    options = {"bf": str(made.b_frames)} if made.codec in REORDERING else {}
    if made.codec == "libx265":
        options["x265-params"] = f"log-level=none:bframes={made.b_frames}"
    with av.open(str(path), "w", format="mpegts" if made.kind == "ts" else None) as container:
        stream = container.add_stream(made.codec, rate=made.rate, options=options)
        stream.width, stream.height, stream.bit_rate = 64, 64, 4_000_000
        formats = {"mjpeg": "yuvj420p", "gif": "rgb8", "apng": "rgb24"}
        stream.pix_fmt = formats.get(made.codec, "yuv420p")
        at = 0
        for i in range(made.count):
            if made.pause is not None and i == made.pause[0]:
                at += made.pause[1]
            image = np.full((64, 64, 3), GREY_STEP * i, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format=stream.pix_fmt
            )
            frame.pts, frame.time_base, at = at, 1 / made.rate, at + 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if made.trim is not None:
        trim_edit_list(path, made.trim[0] / made.rate, made.trim[1] / made.rate)


def trim_edit_list(path: Path, start_s: Fraction, seconds: Fraction) -> None:
    """Make the one edit of a film of one track begin and end elsewhere; its headers say so, too."""
    data = bytearray(path.read_bytes())
    places = {kind: data.index(kind) for kind in (b"mvhd", b"tkhd", b"elst", b"mdhd")}
    scale = struct.unpack_from(">I", data, places[b"mdhd"] + 16)[0]
    length = round(seconds * 1000)
    struct.pack_into(">I", data, places[b"mvhd"] + 20, length)
    struct.pack_into(">I", data, places[b"tkhd"] + 24, length)
    began = struct.unpack_from(">i", data, places[b"elst"] + 16)[0]
    struct.pack_into(">Ii", data, places[b"elst"] + 12, length, began + round(start_s * scale))
    path.write_bytes(data)


@pytest.mark.parametrize("part", range(8))
def test_films_last_as_long_as_their_pictures_and_show_them_when_they_say(
    tmp_path: Path, part: int
) -> None:
    """Every container, codec, B-frames or none, pauses near the end, edit lists that cut: the
    length is that of FFmpeg decoding every frame, within a tenth of a second, and the picture in
    the middle of each place is the one put there.
    """
    assert len(FILMS) >= 200
    for number, made in enumerate(FILMS[part::8]):
        path = tmp_path / f"{number}.{made.kind}"
        write_film(path, made)
        count = made.trim[1] if made.trim else made.count
        places = np.arange(count)
        if made.pause is not None:
            places[made.pause[0] :] += made.pause[1]
        times = ((places + 0.5) / float(made.rate)).tolist()
        frames, _, _ = read_frames(path, frames_at(times))
        shown = frames.mean((1, 2, 3))
        seen = np.round((shown - shown[0]) / GREY_STEP).astype(int)
        media = read_media(path, PICTURES, Budget(), ("video",))
        right = float((places[-1] + 1) / made.rate)
        assert media.duration_s == pytest.approx(right, abs=0.1), made
        assert media.duration_s == pytest.approx(every_frame_end_s(path, made), abs=0.1), made
        off = np.abs(seen - np.arange(count)).max()
        assert off <= (0 if made.rate < 20 else 1), (made, seen)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.flv"])
def test_pictures_that_are_never_reordered_are_shown_when_they_say(
    tmp_path: Path, name: str
) -> None:
    """An encoder that may write B-frames, but does not. Pictures begin 2 s after the sound."""
    shown_s = [2.0 + 0.5 * i for i in range(20)]
    path = tmp_path / name
    with av.open(str(path), "w", format="mpegts" if name.endswith("ts") else None) as container:
        film = container.add_stream("libx264", rate=2, options={"bf": "3", "g": "40"})
        film.width, film.height, film.pix_fmt = 64, 64, "yuv420p"
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        packets = []
        for i, at_s in enumerate(shown_s):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64), 10 * i, np.uint8), format="gray")
            frame = frame.reformat(format="yuv420p")
            frame.pict_type = PictureType.P if i else PictureType.I
            frame.pts, frame.time_base = round(2 * at_s), Fraction(1, 2)
            packets += film.encode(frame)
        packets += film.encode(None)
        for at in range(0, 12 * 16_000, 1024):
            silence = np.zeros((1, 1024), np.float32)
            heard = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            heard.sample_rate, heard.pts = 16_000, at
            packets += sound.encode(heard)
        packets += sound.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    told = read_picture_times(path, Budget())
    assert told is not None and told.start_s == pytest.approx(2.0, abs=0.1)
    frames, end_s, _ = read_frames(path, frames_at([at_s + 0.25 for at_s in shown_s]))
    assert end_s == pytest.approx(12.0, abs=0.1)
    assert np.round(frames.mean(axis=(1, 2, 3)) / 10).tolist() == list(range(20))


def every_frame_end_s(path: Path, made: Film) -> float:
    """When the last of a film's frames ends, by FFmpeg decoding all of them; AVI and ASF count
    them.
    """
    with av.open(str(path)) as container:
        times = [frame.time for frame in container.decode(video=0)]
        start_s = (container.start_time or 0) / 1e6
    if made.kind in ("avi", "wmv") or times[0] is None:
        return float(len(times) / made.rate)
    return max(times) - start_s + float(1 / made.rate)


# Where nothing is to be seen or heard


def test_windows_of_silence_and_of_one_colour_are_told_apart(tmp_path: Path) -> None:
    """Two seconds each of a tone, of nothing, of a constant and of noise at -86 dB; a film that
    goes black.
    """
    tone = make_tone(2.0, 440.0, 8000)
    faint = np.random.default_rng(0).uniform(-5e-5, 5e-5, 16_000).astype(np.float32)
    write_wav(
        tmp_path / "a.wav",
        np.concatenate([tone, 0 * tone, 0 * tone + 0.1, faint, tone / 500]),
        8000,
    )
    specs = InputSpecs(2.0, SIZE, AudioSpec(8000, 16_000))
    assert read_media(tmp_path / "a.wav", specs, Budget(), ("audio",)).parts["audio"].empty == {
        1,
        2,
        3,
    }
    black = np.zeros((64, 64, 3), np.uint8)
    half = read_media(
        film(tmp_path / "a.mp4", [quarters()] * 16 + [black] * 16), specs, Budget(), ("video",)
    )
    assert half.windows == [(0.0, 2.0), (2.0, 4.0)] and half.parts["video"].empty == {1}


def bare_mp3(path: Path, seconds: int, bit_rate: int) -> bytes:
    """Without the table of its seconds that tells how long it is."""
    rate = 32_000
    with av.open(str(path), "w", options={"write_xing": "0", "id3v2_version": "0"}) as container:
        stream = container.add_stream("libmp3lame", rate=rate, layout="mono")
        stream.bit_rate = bit_rate
        tone = make_tone(seconds, 440.0, rate)
        for start in range(0, len(tone), 1152):
            piece = np.ascontiguousarray(tone[None, start : start + 1152])
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


def test_a_guessed_length_is_no_reason_to_refuse(tmp_path: Path) -> None:
    """An MP3 whose rate grows after its beginning is taken to be far longer than it is."""
    quiet, loud = (
        bare_mp3(tmp_path / "q.mp3", 10, 32_000),
        bare_mp3(tmp_path / "l.mp3", 20, 256_000),
    )
    (tmp_path / "a.mp3").write_bytes(quiet + loud)
    with av.open(str(tmp_path / "a.mp3")) as container:
        assert container.duration is not None and container.duration / 1e6 > 100
    waveform = read_waveform(tmp_path / "a.mp3", 8000, Budget(seconds=40))
    assert waveform is not None and len(waveform) / 8000 == pytest.approx(30, abs=0.5)
    with pytest.raises(TooLong):
        read_waveform(tmp_path / "a.mp3", 8000, Budget(seconds=20))
