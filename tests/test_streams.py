"""Which streams of a file count: fonts and subtitles don't, and of several sounds one is heard."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from numpy.typing import NDArray

from media.containers import Budget
from media.decode import read_picture_times
from media.errors import BeyondBudget, Damaged, MissingModality
from media.mono import MonoResampler
from media.sound import read_waveform
from media.video import VideoSpec
from media.windows import InputSpecs, read_media

from .makers import SPECS, make_tone
from .test_kinds import extensible_wav, rms
from .test_times import needs_ffmpeg

RATE = 16_000
DEFAULT, NEITHER = Disposition.default, Disposition(0)


def encode_tone(stream: Any, hz: float, seconds: float = 2.0) -> list[Any]:
    tone = make_tone(seconds, hz, RATE)
    packets = []
    for at in range(0, len(tone) - 1023, 1024):
        piece = np.ascontiguousarray(tone[None, at : at + 1024])
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, at, Fraction(1, RATE)
        packets += stream.encode(frame)
    return [*packets, *stream.encode(None)]


def write_tracks(
    path: Path, tracks: list[tuple[float | bytes | None, Disposition]], subtitles: int = 0
) -> Path:
    """A sound file of several tracks: a tone of so many Hz or nothing."""
    with av.open(str(path), "w") as container:
        streams = []
        for _, disposition in tracks:
            stream = container.add_stream("aac", rate=RATE, layout="mono")
            stream.disposition = disposition
            stream.bit_rate = 32_000 if len(streams) == 0 else 96_000
            streams.append(stream)
        container.start_encoding()
        packets = []
        for stream, (content, _) in zip(streams, tracks, strict=True):
            packets += [] if content is None else encode_tone(stream, content)
        for packet in sorted(packets, key=lambda packet: packet.dts):
            container.mux(packet)
    return path


def heard_hz(waveform: NDArray[np.float32] | None) -> float:
    """The loudest frequency in the second half second, to 2 Hz."""
    assert waveform is not None
    return 2.0 * float(np.abs(np.fft.rfft(waveform[8000:16_000])).argmax())


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".ts"])
@pytest.mark.parametrize(
    ("tracks", "right"),
    [
        ([(400.0, DEFAULT), (2000.0, NEITHER)], 400),
        ([(400.0, NEITHER), (2000.0, DEFAULT)], 2000),
        ([(400.0, DEFAULT), (2000.0, DEFAULT)], 400),
        ([(None, DEFAULT), (2000.0, NEITHER)], 2000),
        ([(None, DEFAULT), (None, NEITHER), (2000.0, NEITHER)], 2000),
    ],
)
def test_the_track_that_players_choose_is_heard(
    tmp_path: Path, suffix: str, tracks: list[tuple[float | bytes | None, Disposition]], right: int
) -> None:
    """The default one, though another has more bits; the next, if it holds nothing."""
    if suffix == ".ts" and tracks[0][1] == NEITHER:
        pytest.skip("MPEG-TS knows no default")
    path = write_tracks(tmp_path / f"a{suffix}", tracks)
    assert heard_hz(read_waveform(path, RATE, Budget())) == pytest.approx(right, abs=4)


def test_a_file_whose_tracks_all_hold_nothing_is_refused(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "a.mp4", [(None, DEFAULT), (None, NEITHER)])
    with pytest.raises((Damaged, MissingModality)):
        read_media(path, SPECS, Budget())


def test_the_commentary_is_heard_last(tmp_path: Path) -> None:
    tracks: list[tuple[float | bytes | None, Disposition]] = [
        (400.0, Disposition.comment),
        (2000.0, NEITHER),
    ]
    path = write_tracks(tmp_path / "a.mkv", tracks)
    assert heard_hz(read_waveform(path, RATE, Budget())) == pytest.approx(2000, abs=4)


def test_fonts_do_not_count_as_streams(tmp_path: Path) -> None:
    """Seventy fonts beside one sound, where 64 streams may be."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        for i in range(70):
            container.add_attachment(f"{i}.ttf", "application/x-truetype-font", b"font")
        container.mux(encode_tone(stream, 400.0))
    assert set(read_media(path, SPECS, Budget()).parts) == {"audio"}
    with pytest.raises(BeyondBudget):
        read_media(path, SPECS, Budget(streams=0))


# Channels


@pytest.mark.parametrize("channels", [9, 16, 64, 65, 128, 255])
def test_any_number_of_channels_is_heard(tmp_path: Path, channels: int) -> None:
    tone = np.int16(16_384 * make_tone(1.0, 440.0, RATE))
    samples = np.repeat(tone[:, None], channels, axis=1)
    path = extensible_wav(tmp_path / "a.wav", samples.tobytes(), channels, 16, rate=RATE)
    heard = read_waveform(path, RATE, Budget(samples=10**8))
    assert rms(heard) == pytest.approx(0.25 / np.sqrt(2), rel=0.01)


def write_opus(path: Path, channels: NDArray[np.float32], layout: str) -> Path:
    """Channels [channels, samples] at 48 kHz as Ogg Opus of that layout."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libopus", rate=48_000, layout=layout)
        stream.codec_context.options = {"mapping_family": "2"}
        stream.bit_rate = 96_000 * len(channels)
        for at in range(0, channels.shape[1], 960):
            piece = np.ascontiguousarray(channels[:, at : at + 960].T.reshape(1, -1))
            frame = av.AudioFrame.from_ndarray(piece, format="flt", layout=layout)
            frame.sample_rate, frame.pts = 48_000, at
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("layout", "beside"), [("ambisonic 1", []), ("ambisonic 1+stereo", [0.0, 0.0])]
)
def test_of_ambisonics_every_direction_is_heard_alike(
    tmp_path: Path, layout: str, beside: list[float]
) -> None:
    """A source from behind, below and the right: the mean of all channels is (1 - 3 / sqrt 3) / 4
    of it, a fifth, with the wrong sign.
    """
    tone = 0.5 * make_tone(2.0, 440.0, 48_000)
    side = -1 / np.sqrt(3)
    gains = np.array([1.0, side, side, side, *beside], np.float32)
    path = write_opus(tmp_path / "a.opus", gains[:, None] * tone, layout)
    heard = read_waveform(path, 48_000, Budget())
    assert heard is not None and len(heard) == pytest.approx(len(tone), abs=1000)
    inner = slice(24_000, 72_000)
    assert rms(heard[inner]) == pytest.approx(rms(tone[inner]), rel=0.05)


@pytest.mark.parametrize("format", ["s16", "s16p", "s32", "flt", "fltp", "dbl", "u8"])
@pytest.mark.parametrize("gain", [-1.0, -0.9])
def test_opposite_channels_do_not_cancel_out(format: str, gain: float) -> None:
    """Half of the difference is heard, as loud as each."""
    tone = make_tone(2.0, 440.0, RATE)
    both = av.AudioFrame.from_ndarray(np.stack([tone, gain * tone]), format="fltp", layout="stereo")
    both.sample_rate = RATE
    [frame] = av.AudioResampler(format, "stereo", RATE).resample(both)
    resampler = MonoResampler(RATE)
    heard = np.concatenate(resampler(frame) + resampler(None))
    assert len(heard) == len(tone)
    assert np.abs(heard - (1 - gain) / 2 * tone).max() < 0.01


def test_channels_that_are_opposite_for_a_while_are_heard_throughout(tmp_path: Path) -> None:
    """Alike for four seconds, opposite for four, alike again."""
    tone = make_tone(4.0, 440.0, RATE)
    left, right = np.concatenate([tone] * 3), np.concatenate([tone, -tone, tone])
    samples = np.int16(32_767 * np.stack([left, right], axis=1))
    path = extensible_wav(tmp_path / "a.wav", samples.tobytes(), 2, 16, rate=RATE)
    heard = read_waveform(path, RATE, Budget())
    assert heard is not None and len(heard) == pytest.approx(12 * RATE, abs=4)
    seconds = heard[: 11 * RATE].reshape(11, RATE)
    assert all(rms(second) > 0.3 for second in seconds)


# ---------------------------------------------------------------- broadcasts


@needs_ffmpeg
@pytest.mark.parametrize("radio_first", [True, False])
def test_the_sound_of_the_pictures_programme_is_heard(tmp_path: Path, radio_first: bool) -> None:
    """A broadcast of two programmes: radio at 2,000 Hz, and television at 400 Hz."""
    pictures = "-f lavfi -i color=red:s=64x64:r=25:d=2"
    radio, sound = (f"-f lavfi -i sine={hz}:r=48000:d=2" for hz in (2000, 400))
    inputs = [radio, pictures, sound] if radio_first else [pictures, radio, sound]
    place = [inputs.index(each) for each in (radio, pictures, sound)]
    path = tmp_path / "a.ts"
    command = [
        *" ".join(["ffmpeg -v error", *inputs, "-map 0 -map 1 -map 2"]).split(),
        *["-c:v", "mpeg2video", "-c:a", "mp2", "-program"],
        f"title=radio:st={place[0]}",
        "-program",
        f"title=television:st={place[1]}:st={place[2]}",
        str(path),
    ]
    subprocess.run(command, check=True)
    assert heard_hz(read_waveform(path, RATE, Budget())) == pytest.approx(400, abs=4)


def disc_film(path: Path, aspect: Fraction) -> bytes:
    """Four seconds of a disc in 720 x 576 pixels, which are `aspect` times as wide as high."""
    down, across = np.indices((576, 720)) - np.array([287.5, 359.5])[:, None, None]
    disc = np.where(np.hypot(across * float(aspect), down) < 200, 235, 16).astype(np.uint8)
    image = av.VideoFrame.from_ndarray(disc.repeat(3).reshape(576, 720, 3), format="rgb24")
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 720, 576, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        for number in range(100):
            image.pts, image.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    return path.read_bytes()


def test_pixels_of_a_broadcast_may_change_their_proportions(tmp_path: Path) -> None:
    """A programme in 4:3, then one in 16:9: the disc is round in both."""
    parts = [disc_film(tmp_path / "part.ts", Fraction(*of)) for of in ((16, 15), (64, 45))]
    (tmp_path / "a.ts").write_bytes(b"".join(parts))
    specs = InputSpecs(8.0, VideoSpec(4, 64), None)
    media = read_media(tmp_path / "a.ts", specs, Budget(), ("video",))
    assert media.duration_s == pytest.approx(8.0, abs=0.1)
    for frame in media.parts["video"].array[0]:
        down, across = np.nonzero(frame[..., 0] > 128)
        assert abs(np.ptp(across) - np.ptp(down)) <= 2


@needs_ffmpeg
def test_streams_that_begin_later_are_no_fault(tmp_path: Path) -> None:
    """Two broadcasts joined, of which the second has other programmes: the first is read."""
    source = "-f lavfi -i color=red:s=64x64:r=25:d=2 -f lavfi -i sine=400:r=48000:d=2"
    for number, numbers in enumerate((100, 200)):
        command = f"ffmpeg -v error {source} -c:v mpeg2video -c:a mp2 -mpegts_service_id {numbers}"
        command += f" -mpegts_pmt_start_pid {16 * numbers} -mpegts_start_pid {10 * numbers}"
        subprocess.run([*command.split(), str(tmp_path / f"{number}.ts")], check=True)
    first, second = ((tmp_path / f"{number}.ts").read_bytes() for number in range(2))
    (tmp_path / "a.ts").write_bytes(first + second)
    for _ in range(8):  # what is behind PyAV's list differs from time to time
        media = read_media(tmp_path / "a.ts", SPECS, Budget())
        assert 2.0 <= media.duration_s < 2.5 and set(media.parts) == {"video", "audio"}


# ---------------------------------------------------------------- what no decoder knows


def test_a_codec_that_is_not_known_is_told(tmp_path: Path) -> None:
    made = write_tracks(tmp_path / "a.mkv", [(400.0, DEFAULT)])
    made.write_bytes(made.read_bytes().replace(b"A_AAC", b"A_XYZ"))
    with pytest.raises(Damaged, match="in a codec that is not known here"):
        read_media(made, SPECS, Budget())


def test_the_next_track_is_heard_where_the_first_is_in_an_unknown_codec(tmp_path: Path) -> None:
    made = write_tracks(tmp_path / "a.mkv", [(400.0, DEFAULT), (2000.0, NEITHER)])
    made.write_bytes(made.read_bytes().replace(b"A_AAC", b"A_XYZ", 1))
    assert heard_hz(read_waveform(made, RATE, Budget())) == pytest.approx(2000, abs=4)


@pytest.mark.parametrize("brief", ["audio", "video"])
def test_streams_that_a_header_does_not_tell_of_may_begin_late(tmp_path: Path, brief: str) -> None:
    """A programme stream of MPEG, as on DVDs: of 30 s, two have sound or pictures."""
    path = tmp_path / "a.mpg"
    random = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        film = container.add_stream("mpeg2video", rate=25, options={"g": "25"})
        film.width, film.height, film.pix_fmt, film.bit_rate = 64, 64, "yuv420p", 400_000
        sound = container.add_stream("mp2", rate=RATE, layout="mono")
        sound.bit_rate = 160_000
        packets = encode_tone(sound, 440.0, 30.0)
        for _ in range(30 * 25):
            noise = random.integers(0, 256, (64, 64, 3), np.uint8)
            packets += film.encode(av.VideoFrame.from_ndarray(noise, format="rgb24"))
        packets += film.encode(None)
        kept = [
            packet
            for packet in packets
            if packet.stream.type != brief or 10 <= packet.pts * packet.time_base < 12
        ]
        for packet in sorted(kept, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    told = read_picture_times(path, Budget())
    waveform = read_waveform(path, RATE, Budget())
    assert told is not None and waveform is not None
    heard_s = np.argmax(np.abs(waveform) > 0.1) / RATE
    assert heard_s == pytest.approx(10.0 if brief == "audio" else 0.0, abs=0.1)
    assert told.start_s == pytest.approx(10.0 if brief == "video" else 0.0, abs=0.1)
