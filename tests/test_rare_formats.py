"""Formats of archives, broadcasters and corpora: what is put in is what is read."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from index.ingest.walk import walk
from media.containers import Budget
from media.mediatypes import is_recording, media_type
from media.sound import read_waveform
from media.video import VideoSpec
from media.windows import InputSpecs, read_media

from .makers import BLUE, GREEN, RED, make_tone

RATE = 16_000
PICTURES = InputSpecs(3.0, VideoSpec(frames=6, size=32), None)


def write_film(path: Path, codec: str, pixels: str, size: tuple[int, int]) -> Path:
    """A second each of red, green and blue, with pictures shown in another order where the codec
    may; GXF wants a tone beside them.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        stream.codec_context.options = {"bf": "2"}
        sound = None
        if path.suffix == ".gxf":
            sound = container.add_stream("pcm_s16le", rate=48_000, layout="mono")
        container.start_encoding()
        packets = []
        for colour in (RED, GREEN, BLUE):
            image = np.full((size[1], size[0], 3), colour, np.uint8)
            for _ in range(25):
                packets += stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24"))
        packets += stream.encode(None)
        if sound is not None:
            tone = np.round(make_tone(3.0, 440.0, 48_000) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
            frame.sample_rate = 48_000
            packets += sound.encode(frame)
        for packet in packets:
            container.mux(packet)
    return path


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels", "size", "type_"),
    [
        (".nut", "libx264", "yuv420p", (64, 64), "video/x-nut"),
        (".y4m", "wrapped_avframe", "yuv420p", (64, 64), "video/x-yuv4mpeg"),
        (".wtv", "mpeg2video", "yuv420p", (64, 64), "video/x-ms-wtv"),
        (".gxf", "mpeg2video", "yuv420p", (720, 576), "application/gxf"),
    ],
)
def test_a_film(
    tmp_path: Path, suffix: str, codec: str, pixels: str, size: tuple[int, int], type_: str
) -> None:
    path = write_film(tmp_path / f"film{suffix}", codec, pixels, size)
    media = read_media(path, PICTURES, Budget())
    assert media.duration_s == pytest.approx(3.0, abs=0.05)
    seen = np.asarray(media.parts["video"].array)[0, :, 16, 16].astype(int)
    expected = np.array([RED, RED, GREEN, GREEN, BLUE, BLUE])
    assert np.abs(seen - expected).max() < 30
    assert is_recording(path) and media_type(path, pictures=True) == type_


SECTOR_BYTES = 2324  # of a Video CD, that have MPEG


def as_video_cd(film: bytes) -> bytes:
    """A programme stream of MPEG as computers copy it from a Video CD (RIFF, of the kind CDXA): in
    sectors, each with its address before it and a checksum behind it.
    """
    sectors = b""
    for at in range(0, len(film), SECTOR_BYTES):
        address = b"\0" + 10 * b"\xff" + b"\0" + bytes([0, 2, 0, 2]) + 2 * bytes([1, 1, 0x62, 15])
        sectors += address + film[at : at + SECTOR_BYTES].ljust(SECTOR_BYTES, b"\0") + bytes(4)
    head = b"CDXAfmt " + struct.pack("<I16x", 16) + b"data" + struct.pack("<I", len(sectors))
    return b"RIFF" + struct.pack("<I", len(head) + len(sectors)) + head + sectors


def test_a_video_cd(tmp_path: Path) -> None:
    """Its files are named .DAT, as many others are: their bytes tell."""
    film = write_film(tmp_path / "film.mpg", "mpeg1video", "yuv420p", (352, 288))
    path = tmp_path / "AVSEQ01.DAT"
    path.write_bytes(as_video_cd(film.read_bytes()))
    media = read_media(path, PICTURES, Budget())
    assert media.duration_s == pytest.approx(3.0, abs=0.05)
    seen = np.asarray(media.parts["video"].array)[0, :, 16, 16].astype(int)
    assert np.abs(seen - np.array([RED, RED, GREEN, GREEN, BLUE, BLUE])).max() < 30
    assert is_recording(path) and media_type(path, pictures=True) == "video/mpeg"
    assert [found.path for found in walk(tmp_path).files] == [path, film]


def write_sphere(path: Path, samples: NDArray[np.int16]) -> None:
    """A file of NIST's SPHERE, as speech corpora have them: a header of lines in 1,024 bytes."""
    head = f"NIST_1A\n   1024\nsample_count -i {len(samples)}\nsample_rate -i {RATE}\n"
    head += "channel_count -i 1\nsample_n_bytes -i 2\nsample_byte_format -s2 01\n"
    head += "sample_coding -s3 pcm\nsample_sig_bits -i 16\nend_head\n"
    path.write_bytes(head.encode().ljust(1024) + samples.astype("<i2").tobytes())


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        ("sound.voc", "audio/x-voc"),
        ("sound.sox", "audio/x-sox"),
        ("sound.sph", "audio/x-nist"),
        ("sphere.wav", "audio/x-nist"),
    ],
)
def test_a_sound(tmp_path: Path, name: str, type_: str) -> None:
    path = tmp_path / name
    tone = np.round(make_tone(2.0, 440.0, RATE) * 32767).astype(np.int16)
    if type_ == "audio/x-nist":
        write_sphere(path, tone)
    else:
        codec = "pcm_s16le" if path.suffix == ".voc" else "pcm_s32le"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=RATE, layout="mono")
            frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
            frame.sample_rate = RATE
            fits = av.AudioResampler(stream.codec_context.format, "mono", RATE)
            for fitting in fits.resample(frame):
                container.mux(stream.encode(fitting))
            container.mux(stream.encode(None))
    waveform = read_waveform(path, RATE, Budget())
    assert waveform is not None and len(waveform) == 2 * RATE
    assert np.abs(waveform - tone / 32768).max() < 0.01
    assert is_recording(path) and media_type(path, pictures=False) == type_
