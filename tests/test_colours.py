"""What the numbers of a film's and a picture's colours mean: matrices, ranges, curves, gammas."""

from __future__ import annotations

import struct
import subprocess
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc
from numpy.typing import NDArray
from PIL import Image, ImageCms

from media.containers import Budget
from media.cut import Shown, read_pictures
from media.encode import Painter
from media.video import VideoSpec, render_frame
from media.windows import InputSpecs, read_media

from .test_times import needs_ffmpeg

COLOURS = np.array([(200, 40, 40), (40, 180, 60), (50, 60, 200), (230, 230, 230)])
PICTURES = InputSpecs(5.0, VideoSpec(4, 64), None)
BT709, UNSPECIFIED, BT601, YCGCO, BT2020, CONSTANT, ICTCP = 1, 2, 5, 8, 9, 10, 14
LUMA = {BT601: (0.299, 0.114), BT709: (0.2126, 0.0722), BT2020: (0.2627, 0.0593)}  # red, blue


def encode_colours(matrix: int) -> NDArray[np.float64]:
    """COLOURS as brightness and two colour differences, by ITU-T H.273, [3, colours]."""
    red, green, blue = (COLOURS / 255).T
    if matrix == YCGCO:
        return np.array(
            [
                red / 4 + green / 2 + blue / 4,
                -red / 4 + green / 2 - blue / 4,
                red / 2 - blue / 2,
            ]
        )
    of_red, of_blue = LUMA[matrix]
    luma = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    return np.array([luma, (blue - luma) / (2 - 2 * of_blue), (red - luma) / (2 - 2 * of_red)])


def make_frame(
    matrix: int, told: int, *, full: bool = False, width: int = 64, height: int = 64
) -> av.VideoFrame:
    """Four stripes of COLOURS in yuv444p, stored by a matrix; the frame tells another one."""
    luma, first, second = encode_colours(matrix)
    if full:
        planes = [255 * luma, 255 * first + 128, 255 * second + 128]
    else:
        planes = [219 * luma + 16, 224 * first + 128, 224 * second + 128]
    stripes = np.round(np.array(planes)).astype(np.uint8).repeat(width // 4, axis=1)
    frame = av.VideoFrame.from_ndarray(
        np.ascontiguousarray(stripes[:, None].repeat(height, axis=1)), format="yuv444p"
    )
    frame.colorspace = told
    frame.color_range = ColorRange.JPEG if full else ColorRange.MPEG
    return frame


def stripes(rgb: NDArray[np.uint8]) -> NDArray[np.int64]:
    places = (np.arange(4) * 2 + 1) * rgb.shape[1] // 8
    return rgb[rgb.shape[0] // 2, places].astype(np.int64)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("matrix", "told", "size"),
    [
        (BT601, BT601, (64, 64)),
        (BT709, BT709, (64, 64)),
        (BT2020, BT2020, (64, 64)),
        (BT2020, CONSTANT, (64, 64)),
        (YCGCO, YCGCO, (64, 64)),
        (BT601, UNSPECIFIED, (720, 576)),
        (BT709, UNSPECIFIED, (1280, 720)),
        (BT709, UNSPECIFIED, (1280, 536)),  # a film of HD without its black bars
        (BT709, UNSPECIFIED, (720, 1280)),
    ],
)
def test_colours_of_every_matrix(matrix: int, told: int, size: tuple[int, int], full: bool) -> None:
    """To the encoder and on the page, within the steps of 8 bits."""
    frame = make_frame(matrix, told, full=full, width=size[0], height=size[1])
    assert np.abs(stripes(render_frame(frame, 64, 64, "area")) - COLOURS).max() <= 3
    shown = Painter(Shown(frame, 0.0, 1.0), 1280).paint(frame)
    rgb = shown.reformat(format="rgb24", src_colorspace=BT709).to_ndarray()
    assert np.abs(stripes(rgb) - COLOURS).max() <= 6


@pytest.mark.parametrize(
    ("range", "format", "values"),
    [
        (ColorRange.MPEG, "gray", (16, 126, 235)),
        (ColorRange.MPEG, "gray10le", (64, 504, 940)),
        (ColorRange.JPEG, "gray", (0, 128, 255)),
        (ColorRange.UNSPECIFIED, "gray", (0, 128, 255)),  # as FFV1 and PNG have it
    ],
)
def test_grey_of_either_range_goes_from_black_to_white(
    range: ColorRange, format: str, values: tuple[int, ...]
) -> None:
    columns = np.array(values).repeat(20)[None].repeat(60, axis=0)
    pixels = columns.astype(np.uint8 if format == "gray" else np.uint16)
    frame = av.VideoFrame.from_ndarray(pixels, format=format)
    frame.color_range = range
    seen = render_frame(frame, 60, 60, "area")
    assert np.abs(seen[30, [10, 30, 50]] - np.array([[0], [128], [255]])).max() <= 1
    shown = Painter(Shown(frame, 0.0, 1.0), 1280).paint(frame)
    rgb = shown.reformat(format="rgb24", src_colorspace=BT709).to_ndarray()
    assert np.abs(rgb[30, [10, 30, 50]] - np.array([[0], [128], [255]])).max() <= 6


@needs_ffmpeg
def test_hevc_without_colours_is_as_bright_as_with_them(tmp_path: Path) -> None:
    """HEVC in 4:0:0 has the limited range unless it says otherwise: black is 16, white 235."""
    inputs = " ".join(f"-f lavfi -i color={name}:s=64x64:r=5:d=1" for name in ("black", "white"))
    joined = "concat,format=yuv420p,extractplanes=y,setparams=range=tv"
    command = f"ffmpeg -v error {inputs} -lavfi {joined} -c:v libx265 -pix_fmt gray"
    path = tmp_path / "a.mp4"
    options = ["-color_range", "tv", "-x265-params", "log-level=none"]
    subprocess.run([*command.split(), *options, str(path)], check=True)
    frames = read_media(path, PICTURES, Budget(), ("video",)).parts["video"].array[0]
    assert frames[0].max() <= 2 and frames[-1].min() >= 253


def test_hdr_that_tells_no_matrix_has_that_of_bt2020() -> None:
    untold, told = (make_frame(BT2020, matrix) for matrix in (UNSPECIFIED, BT2020))
    for frame in (untold, told):
        frame.color_trc, frame.color_primaries = ColorTrc.SMPTE2084, ColorPrimaries.BT2020
    seen = [render_frame(frame, 64, 64, "area") for frame in (untold, told)]
    assert np.array_equal(seen[0], seen[1])


def test_of_a_matrix_that_is_not_known_the_brightness_is_seen() -> None:
    seen = stripes(render_frame(make_frame(BT709, ICTCP), 64, 64, "area"))
    luma = np.round(255 * encode_colours(BT709)[0])
    assert np.abs(seen - luma[:, None]).max() <= 2


# ---------------------------------------------------------------- PNG


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(path: Path, values: NDArray[np.uint16], *chunks: bytes) -> Path:
    """Values [height, width, 3], or grey ones [height, width], in 16 bits."""
    height, width = values.shape[:2]
    kind = 2 if values.ndim == 3 else 0
    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, 16, kind, 0, 0, 0))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    body = b"".join(chunks) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + body)
    return path


def see(path: Path) -> list[int]:
    """The middle of a picture."""
    frame = read_media(path, PICTURES, Budget(), ("video",)).parts["video"].array[0, 0]
    return [int(value) for value in frame[32, 32]]


SRGB_PROFILE = chunk(
    b"iCCP",
    b"sRGB\0\0" + zlib.compress(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
)
PRIMARIES = chunk(
    b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
)


def gamma(value: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(100_000 * value)))


@pytest.mark.parametrize(
    ("colour", "chunks", "right"),
    [
        # white of 203 cd/m² by the curves of BT.2100, in BT.2020
        ((0.5807,) * 3, [chunk(b"cICP", bytes([9, 16, 0, 1]))], (255, 255, 255)),
        ((0.75,) * 3, [chunk(b"cICP", bytes([9, 18, 0, 1]))], (255, 255, 255)),
        # sRGB's red in Display P3
        ((0.9175, 0.2003, 0.1386), [chunk(b"cICP", bytes([12, 13, 0, 1]))], (255, 0, 0)),
        # it counts before a profile
        ((0.5807,) * 3, [chunk(b"cICP", bytes([9, 16, 0, 1])), SRGB_PROFILE], (255, 255, 255)),
        ((0.2, 0.4, 0.6), [chunk(b"cICP", bytes([1, 13, 0, 1]))], (51, 102, 153)),
        # half of the light is 188 in sRGB
        ((0.5,) * 3, [gamma(1.0), PRIMARIES], (188, 188, 188)),
        ((0.5,) * 3, [gamma(1.0)], (128, 128, 128)),
        ((0.5,) * 3, [gamma(1.0), PRIMARIES, SRGB_PROFILE], (128, 128, 128)),
        ((0.5,) * 3, [gamma(1.0), PRIMARIES, chunk(b"sRGB", b"\0")], (128, 128, 128)),
        ((0.5,) * 3, [gamma(0.45455), PRIMARIES], (128, 128, 128)),
    ],
)
def test_a_png_is_seen_as_its_chunks_say(
    tmp_path: Path, colour: tuple[float, ...], chunks: list[bytes], right: tuple[int, int, int]
) -> None:
    values = np.full((64, 64, 3), np.round(65_535 * np.array(colour)), np.uint16)
    assert (
        np.abs(np.subtract(see(write_png(tmp_path / "a.png", values, *chunks)), right)).max() <= 3
    )


def test_a_grey_of_16_bits_may_stand_for_transparency(tmp_path: Path) -> None:
    values = np.full((64, 64), 40_000, np.uint16)
    values[16:48, 16:48] = 1234
    hidden = chunk(b"tRNS", struct.pack(">H", 1234))
    assert see(write_png(tmp_path / "a.png", values, hidden)) == [255, 255, 255]
    assert see(write_png(tmp_path / "a.png", values)) == [4, 4, 4]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("hides", [False, True])
def test_a_grey_of_few_bits_may_stand_for_transparency(
    tmp_path: Path, bits: int, hides: bool
) -> None:
    """The grey 1, which is the darkest but for black; with one bit it is white."""
    row = b"\0" + sum(1 << place for place in range(0, 64 * bits, bits)).to_bytes(8 * bits)
    hidden = chunk(b"tRNS", struct.pack(">H", int(hides)))
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">2I5B", 64, 64, bits, 0, 0, 0, 0))
        + hidden
        + chunk(b"IDAT", zlib.compress(row * 64))
        + chunk(b"IEND", b"")
    )
    assert see(path) == [255 if hides else 255 // (2**bits - 1)] * 3


@pytest.mark.parametrize(
    ("chunks", "right"), [([gamma(1.0), PRIMARIES], 188), ([SRGB_PROFILE], 128), ([], 128)]
)
def test_a_grey_of_16_bits_has_a_gamma_or_the_profile_of_colours(
    tmp_path: Path, chunks: list[bytes], right: int
) -> None:
    """Half of the light is 188 in sRGB. A profile of colours does not fit a grey picture."""
    values = np.full((64, 64), 32_768, np.uint16)
    assert see(write_png(tmp_path / "a.png", values, *chunks)) == [right] * 3


def test_gamma_leaves_transparency_as_it_is(tmp_path: Path) -> None:
    """Half transparent black over white."""
    made = Image.new("RGBA", (64, 64), (0, 0, 0, 128))
    made.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:33] + gamma(1.0) + PRIMARIES + data[33:])
    assert see(tmp_path / "a.png") == [127, 127, 127]


@pytest.mark.parametrize("said", [(9, 16, 9), (2, 2, 2)])
def test_what_a_film_does_not_say_its_container_does(
    tmp_path: Path, said: tuple[int, int, int]
) -> None:
    """ProRes whose container says BT.2020 and PQ; each picture's header says the same, or nothing.
    A signal of 0.5807 is white, 203 cd/m².
    """
    path = tmp_path / "film.mov"
    luma = np.full((64, 64), round(64 + 876 * 0.5807), np.uint16)
    chroma = np.full((64, 32), 512, np.uint16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("prores_ks", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv422p10le"
        codec = stream.codec_context
        codec.color_primaries, codec.color_trc, codec.colorspace = 9, 16, 9
        for _ in range(10):
            frame = av.VideoFrame(64, 64, "yuv422p10le")
            for plane, values in zip(frame.planes, (luma, chroma, chroma), strict=True):
                rows = np.zeros((64, plane.line_size // 2), np.uint16)
                rows[:, : values.shape[1]] = values
                plane.update(rows.tobytes())
            frame.color_primaries, frame.color_trc, frame.colorspace = 9, 16, 9
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data = bytearray(path.read_bytes())
    at = data.find(b"icpf")
    assert tuple(data[at + 18 : at + 21]) == (9, 16, 9)
    while at >= 0:
        data[at + 18 : at + 21] = said
        at = data.find(b"icpf", at + 4)
    path.write_bytes(data)
    frames = np.asarray(read_media(path, PICTURES, Budget()).parts["video"].array)
    assert frames.min() > 250
    clip = [shown.frame for shown in read_pictures(path, 0.0, 1.0, Budget())]
    assert {(frame.color_primaries, frame.color_trc) for frame in clip} == {(9, 16)}


@pytest.mark.parametrize(("suffix", "seen"), [(".avi", (200, 60, 40)), (".mov", (255, 255, 255))])
def test_the_fourth_byte_of_a_bitmap_is_no_transparency(
    tmp_path: Path, suffix: str, seen: tuple[int, int, int]
) -> None:
    """In AVI it is not used (Windows' BITMAPINFOHEADER); in QuickTime it is."""
    path = tmp_path / f"film{suffix}"
    clear = np.full((64, 64, 4), (40, 60, 200, 0), np.uint8)
    pixels = {".avi": "bgra", ".mov": "argb"}[suffix]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = pixels
        for _ in range(10):
            frame = av.VideoFrame.from_ndarray(clear, format="bgra")
            container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode(None))
    frames = read_media(path, PICTURES, Budget()).parts["video"].array
    assert (np.asarray(frames) == seen).all()
