"""Pictures: each format as the encoder sees it, animated ones as short films, and bad ones."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorTrc
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from media.containers import Budget
from media.errors import BadMedia, BeyondBudget, Damaged, MissingModality, NotMedia
from media.pictures import may_be_hdr, picture_format, read_still
from media.sandbox import Decoders
from media.video import VideoSpec, render_frame
from media.windows import DecodeOptions, InputSpecs, Media, decode_media, read_media

from .makers import in_a_thread_of_its_own

SPECS = InputSpecs(5.0, VideoSpec(4, 64), None)
OPTIONS = DecodeOptions(specs=SPECS, budget=Budget(), previews=True)
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
NEAR = 6  # what a lossy format may change


def quarters(width: int = 128, height: int = 128) -> Image.Image:
    """Red and green above, blue and white below."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2], picture[: height // 2, width // 2 :] = RED, GREEN
    picture[height // 2 :, : width // 2], picture[height // 2 :, width // 2 :] = BLUE, WHITE
    return Image.fromarray(picture)


def sticker() -> Image.Image:
    """The right half green, the left half transparent with red hidden below."""
    picture = np.zeros((128, 128, 4), np.uint8)
    picture[:, :64], picture[:, 64:] = (*RED, 0), (*GREEN, 255)
    return Image.fromarray(picture)


def corners(media: Media) -> NDArray[np.int64]:
    """Of the first window's last frame: upper left and right, lower left and right."""
    seen = media.parts["video"].array[0, -1]
    return np.array([seen[i, j] for i in (12, 52) for j in (12, 52)]).astype(np.int64)


def is_near(seen: Any, right: Any) -> bool:
    return bool(np.abs(np.asarray(seen) - np.asarray(right)).max() <= NEAR)


STILL: dict[str, dict[str, Any]] = {
    "a.png": {},
    "a.jpg": {"quality": 95, "subsampling": 0},
    "progressive.jpg": {"quality": 95, "progressive": True, "subsampling": 0},
    "a.webp": {"quality": 95},
    "lossless.webp": {"lossless": True},
    "a.avif": {"quality": 95, "subsampling": "4:4:4"},
    "a.gif": {},
}


@pytest.mark.parametrize("name", STILL)
def test_a_picture_is_one_window_of_equal_frames(tmp_path: Path, name: str) -> None:
    quarters().save(tmp_path / name, **STILL[name])
    media = decode_media(tmp_path / name, OPTIONS)
    assert media.still and media.windows == [(0.0, 0.0)] and media.duration_s == 0.0
    frames = media.parts["video"].array
    assert frames.shape == (1, 4, 64, 64, 3) and (frames == frames[:, :1]).all()
    assert is_near(corners(media), [RED, GREEN, BLUE, WHITE])
    assert media.pictures[0][:2] == b"\xff\xd8"


@pytest.mark.parametrize("mode", ["P", "L", "1", "CMYK", "I;16", "LA", "PA"])
def test_every_way_to_keep_colours(tmp_path: Path, mode: str) -> None:
    grey = np.array([[0, 255], [255, 0]], np.uint8).repeat(64, 0).repeat(64, 1)
    black_and_white = [(0, 0, 0), WHITE, WHITE, (0, 0, 0)]
    name = "a.jpg" if mode == "CMYK" else "a.png"
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / name)
    elif mode == "PA":
        Image.fromarray(grey).convert("P").save(tmp_path / name, transparency=0)
        black_and_white = [WHITE] * 4
    else:
        Image.fromarray(grey).convert("RGB" if mode == "CMYK" else mode).convert(mode).save(
            tmp_path / name
        )
    assert is_near(corners(decode_media(tmp_path / name, OPTIONS)), black_and_white)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.avif", "a.gif"])
def test_nothing_hidden_below_transparency_is_seen(tmp_path: Path, name: str) -> None:
    options = {"a.webp": {"lossless": True, "exact": True}, "a.avif": {"quality": 100}}
    sticker().save(tmp_path / name, **options.get(name, {}))
    seen = corners(decode_media(tmp_path / name, OPTIONS))
    assert is_near(seen, [WHITE, GREEN, WHITE, GREEN])


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_turns_a_picture(tmp_path: Path, turn: int) -> None:
    exif = Image.Exif()
    exif[0x112] = turn
    path = tmp_path / "a.jpg"
    quarters(96, 64).save(path, exif=exif, quality=95, subsampling=0)
    frame = read_still(path, Budget())
    assert frame is not None
    with Image.open(path) as picture:
        upright = np.asarray(ImageOps.exif_transpose(picture))
    assert (frame.to_ndarray(format="rgb24") == upright).all()


def test_a_frame_of_ffmpeg_with_exif_can_be_shown(tmp_path: Path) -> None:
    """Of film made of photos, PyAV 18.1 raises an error where it is asked for side data."""
    exif = Image.Exif()
    exif[0x112] = 6
    quarters().save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    with av.open(str(tmp_path / "a.jpg")) as container:
        (frame,) = container.decode(video=0)
    assert isinstance(frame, av.VideoFrame)
    assert is_near(render_frame(frame, 64, 64, "area")[12, 12], RED)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.avif"])
def test_exif_turns_other_formats_too(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    quarters().save(tmp_path / name, exif=exif, quality=95)
    seen = corners(decode_media(tmp_path / name, OPTIONS))
    assert np.abs(seen - [BLUE, RED, WHITE, GREEN]).max() <= 20


def test_a_colour_profile_counts(tmp_path: Path) -> None:
    """In linear light a grey is brighter. A profile of sRGB, or a broken one, changes nothing."""
    half = Image.new("RGB", (64, 64), (55, 55, 55))
    linear = linear_profile()
    half.save(tmp_path / "linear.png", icc_profile=linear)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    half.save(tmp_path / "srgb.png", icc_profile=srgb)
    half.save(tmp_path / "broken.png", icc_profile=linear[:200])
    # 55 of 255 in linear light is 0.2157, which sRGB writes as 128
    assert is_near(corners(decode_media(tmp_path / "linear.png", OPTIONS)), [(128,) * 3] * 4)
    for name in ("srgb.png", "broken.png"):
        assert np.abs(corners(decode_media(tmp_path / name, OPTIONS)) - 55).max() <= 1


def linear_profile() -> bytes:
    """The profile of sRGB with curves of gamma 1."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack_from(">I", data, 128)[0]
    for i in range(count):
        tag, at, _ = struct.unpack_from(">4sII", data, 132 + 12 * i)
        if tag in (b"rTRC", b"gTRC", b"bTRC"):
            data[at : at + 12] = b"curv" + bytes(8)  # no points: the identity
    return bytes(data)


def save_film(path: Path, frames: list[NDArray[np.uint8]]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=5, options={"qp": "0"})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("size", [(128, 128), (200, 96), (90, 160)])
def test_a_picture_is_what_a_film_of_it_shows(tmp_path: Path, size: tuple[int, int]) -> None:
    """Its inputs equal those of a film that shows only this picture, without loss."""
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), dtype=np.uint8)
    picture = Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)
    picture.save(tmp_path / "a.png")
    save_film(tmp_path / "a.mkv", [np.asarray(picture)] * 10)
    still = read_media(tmp_path / "a.png", SPECS, Budget(), ("video",)).parts["video"].array
    film = read_media(tmp_path / "a.mkv", SPECS, Budget(), ("video",)).parts["video"].array
    assert np.abs(still.astype(int) - film).max() <= 2


MOVING = {"a.gif": {}, "a.webp": {"lossless": True}, "a.apng": {}, "a.avif": {"quality": 95}}


@pytest.mark.parametrize("name", MOVING)
def test_an_animated_picture_is_a_film(tmp_path: Path, name: str) -> None:
    """A second of red, a second and a half of green."""
    red, green = (Image.new("RGB", (64, 64), colour) for colour in (RED, GREEN))
    kind: dict[str, Any] = {"format": "PNG"} if name == "a.apng" else {}
    red.save(
        tmp_path / name,
        save_all=True,
        append_images=[green],
        duration=[1000, 1500],
        **kind,
        **MOVING[name],
    )
    media = decode_media(tmp_path / name, OPTIONS)
    assert not media.still and media.duration_s == pytest.approx(2.5, abs=0.11)
    # frames at 0.3, 0.9, 1.6 and 2.2 s
    seen = media.parts["video"].array[0].mean((1, 2))
    assert [int(np.argmax(colour)) for colour in seen] == [0, 0, 1, 1]
    assert media.pictures[0][:2] == b"\xff\xd8"


@pytest.mark.parametrize(("duration_ms", "seconds"), [(0, 2.0), (10, 2.0), (11, 0.22), (100, 2.0)])
def test_a_webp_lasts_as_long_as_in_browsers(
    tmp_path: Path, duration_ms: int, seconds: float
) -> None:
    pictures = [Image.new("RGB", (16, 16), (i * 12, 0, 255 - i * 12)) for i in range(20)]
    pictures[0].save(
        tmp_path / "a.webp", save_all=True, append_images=pictures[1:], duration=duration_ms
    )
    assert decode_media(tmp_path / "a.webp", OPTIONS).duration_s == pytest.approx(seconds)


def test_a_frame_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    """A GIF of 64 x 64, whose frame says that it has 65,535 x 65,535 pixels."""
    path = tmp_path / "a.gif"
    Image.new("RGB", (64, 64), RED).save(path)
    data = path.read_bytes()
    at = data.index(b"," + struct.pack("<HHHH", 0, 0, 64, 64)) + 5
    path.write_bytes(data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :])
    with pytest.raises(Damaged, match="larger than any picture"):
        decode_media(path, OPTIONS)


def test_an_animated_webp_in_several_windows(tmp_path: Path) -> None:
    """Six seconds of red, six of green: windows of 5 s at 0, 5 and 7 s."""
    red, green = (Image.new("RGB", (64, 64), colour) for colour in (RED, GREEN))
    red.save(tmp_path / "a.webp", save_all=True, append_images=[green], duration=6000)
    media = decode_media(tmp_path / "a.webp", OPTIONS)
    assert media.windows == [(0.0, 5.0), (5.0, 10.0), (7.0, 12.0)]
    colours = media.parts["video"].array.mean((2, 3)).argmax(-1)
    assert colours.tolist() == [[0, 0, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1]]
    assert sorted(media.pictures) == [0, 1, 2]


# ---------------------------------------------------------------- bad pictures


@pytest.mark.parametrize("name", [name for name in STILL if name != "a.gif"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_a_picture_that_is_cut_off(tmp_path: Path, name: str, share: float) -> None:
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 256, (128, 128, 3), dtype=np.uint8))
    noise.save(tmp_path / name, **STILL[name])
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(Damaged, match="cut off or damaged"):
        decode_media(tmp_path / name, OPTIONS)


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        check = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10)))


def jpeg_header(width: int, height: int) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (8, 8)).save(made, "JPEG")
    data = bytearray(made.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def gif_header(width: int, height: int) -> bytes:
    made = io.BytesIO()
    Image.new("P", (8, 8)).save(made, "GIF")
    data = bytearray(made.getvalue())
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.png", png_header(60_000, 60_000)),
        ("a.jpg", jpeg_header(65_000, 65_000)),
        ("a.gif", gif_header(65_000, 65_000)),
    ],
)
def test_a_bomb_is_refused_by_its_header(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BeyondBudget, match="too many pixels in a picture") as refusal:
        decode_media(tmp_path / name, OPTIONS)
    assert refusal.value.limit == Budget().frame_pixels < refusal.value.amount


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"></svg>', "SVG"),
        (b"\xef\xbb\xbf <svg></svg>", "SVG"),
        (b"%PDF-1.7\n", "PDF"),
        (b"II*\0" + bytes(100), "TIFF"),
        (b"BM" + bytes(100), "BMP"),
        (b"8BPS" + bytes(100), "Photoshop"),
        (b"\xff\x0a" + bytes(100), "JPEG XL"),
    ],
)
def test_what_is_no_picture_here_is_refused_in_words(
    tmp_path: Path, data: bytes, said: str
) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(NotMedia, match=said):
        decode_media(tmp_path / "a.png", OPTIONS)


def test_a_picture_has_no_sound(tmp_path: Path) -> None:
    quarters().save(tmp_path / "a.png")
    with pytest.raises(MissingModality):
        read_media(tmp_path / "a.png", SPECS, Budget(), ("audio",))


@pytest.mark.parametrize(
    "head",
    [
        b"RIFF\0\0\0\0WAVE",
        b"\0\0\0\x20ftypisom",
        b"\0\0\0\x18ftypavis\0\0\0\0avifmif1",
        b"ID3",
        b"",
    ],
)
def test_what_is_no_picture_goes_on_to_ffmpeg(head: bytes) -> None:
    assert picture_format(head) is None


def test_the_largest_picture_fits_into_a_decoder(tmp_path: Path) -> None:
    """8192 x 8192 with an alpha channel, in the memory of the service's decoders."""
    Image.new("RGBA", (8192, 8192), (*GREEN, 255)).save(tmp_path / "a.png", compress_level=1)
    decoders = Decoders(1, memory_mb=1024, max_s=120.0)
    try:
        media = decoders.finish(decoders.start(tmp_path / "a.png", OPTIONS))
    finally:
        decoders.close()
    assert is_near(corners(media), [GREEN] * 4)


def test_bytes_that_were_changed_give_an_answer_of_the_contract(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, options in STILL.items():
        quarters().save(tmp_path / name, **options)
        data = (tmp_path / name).read_bytes()
        for _ in range(30):
            changed = bytearray(data)
            for place in random.integers(0, len(data), 4):
                changed[place] = random.integers(0, 256)
            (tmp_path / name).write_bytes(changed)
            with suppress(BadMedia):
                decode_media(tmp_path / name, OPTIONS)


# ---------------------------------------------------------------- HEIC and HDR


def box(kind: bytes, *parts: bytes) -> bytes:
    return struct.pack(">I", 8 + sum(map(len, parts))) + kind + b"".join(parts)


def full_box(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


def hevc_tile(colour: tuple[int, int, int], side: int) -> tuple[dict[int, bytes], bytes]:
    """The parameter sets by their kinds, and one coded picture."""
    codec = av.CodecContext.create("libx265", "w")
    assert isinstance(codec, av.VideoCodecContext)
    codec.width = codec.height = side
    codec.pix_fmt, codec.time_base = "yuv420p", Fraction(1, 1)
    codec.options = {"x265-params": "log-level=0:keyint=1:info=0"}
    image = np.full((side, side, 3), colour, np.uint8)
    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
    frame.pts = 0
    stream = b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])
    units = [unit for unit in stream.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if unit]
    heads = {unit[0] >> 1 & 63: unit for unit in units if unit[0] >> 1 & 63 >= 32}
    coded = [unit for unit in units if unit[0] >> 1 & 63 < 32]
    return heads, b"".join(struct.pack(">I", len(unit)) + unit for unit in coded)


def write_heic(path: Path, colours: list[tuple[int, int, int]], side: int = 256) -> None:
    """One picture, or a grid of 2 x 2 as telephones write it (theirs have 8 x 6 tiles of 512)."""
    tiles = [hevc_tile(colour, side) for colour in colours]
    count = len(tiles)
    heads = tiles[0][0]
    level = heads[33].replace(b"\0\0\3", b"\0\0")[3:15]
    config = b"\1" + level + bytes.fromhex("f000fcfdf8f800000f") + b"\3"
    for kind in (32, 33, 34):
        size = len(heads[kind])
        config += bytes([0x80 | kind]) + struct.pack(">HH", 1, size) + heads[kind]
    items = [coded for _, coded in tiles]
    hidden = int(count > 1)
    entries = [
        full_box(b"infe", 2, hidden, struct.pack(">HH", i, 0), b"hvc1\0")
        for i in range(1, count + 1)
    ]
    uses = [struct.pack(">HBBB", i, 2, 0x81, 2) for i in range(1, count + 1)]
    sizes, links, primary = [side], [], 1
    if count > 1:
        primary = count + 1
        items.append(bytes([0, 0, 1, 1]) + struct.pack(">HH", 2 * side, 2 * side))
        entries.append(full_box(b"infe", 2, 0, struct.pack(">HH", primary, 0), b"grid\0"))
        uses.append(struct.pack(">HBB", primary, 1, 3))
        sizes.append(2 * side)
        parts = struct.pack(f">HH{count}H", primary, count, *range(1, count + 1))
        links.append(full_box(b"iref", 0, 0, box(b"dimg", parts)))
    shown = [full_box(b"ispe", 0, 0, struct.pack(">II", n, n)) for n in sizes]
    properties = box(b"ipco", box(b"hvcC", config), *shown)
    used = full_box(b"ipma", 0, 0, struct.pack(">I", len(uses)), *uses)

    def meta(at: int) -> bytes:
        places = b""
        for i, data in enumerate(items, 1):
            places += struct.pack(">HHHII", i, 0, 1, at, len(data))
            at += len(data)
        return full_box(
            b"meta",
            0,
            0,
            full_box(b"hdlr", 0, 0, b"\0\0\0\0pict" + bytes(13)),
            full_box(b"pitm", 0, 0, struct.pack(">H", primary)),
            full_box(b"iloc", 0, 0, b"\x44\0" + struct.pack(">H", len(items)), places),
            full_box(b"iinf", 0, 0, struct.pack(">H", len(items)), *entries),
            *links,
            box(b"iprp", properties, used),
        )

    kind = box(b"ftyp", b"heic\0\0\0\0mif1heic")
    start = len(kind) + len(meta(0)) + 8
    path.write_bytes(kind + meta(start) + box(b"mdat", *items))


def test_a_heic_photo_in_tiles(tmp_path: Path) -> None:
    pytest.importorskip("pi_heif", reason="the extra heic is not installed")
    write_heic(tmp_path / "a.heic", [RED, GREEN, BLUE, WHITE])
    media = decode_media(tmp_path / "a.heic", OPTIONS)
    assert media.still and is_near(corners(media), [RED, GREEN, BLUE, WHITE])


@pytest.mark.parametrize("extra", [True, False])
def test_a_heic_photo_in_one_piece_needs_no_extra(
    tmp_path: Path, extra: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if extra:
        pytest.importorskip("pi_heif", reason="the extra heic is not installed")
    else:
        monkeypatch.setitem(sys.modules, "pi_heif.as_plugin", None)
    write_heic(tmp_path / "a.heic", [GREEN])
    media = decode_media(tmp_path / "a.heic", OPTIONS)
    assert media.still and is_near(corners(media), [GREEN] * 4)


def test_a_heic_photo_in_tiles_without_the_extra_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif.as_plugin", None)
    write_heic(tmp_path / "a.heic", [RED, GREEN, BLUE, WHITE])
    with pytest.raises(NotMedia, match="install the extra 'heic'"):
        decode_media(tmp_path / "a.heic", OPTIONS)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_heic_photo_that_is_cut_off(tmp_path: Path, share: float) -> None:
    pytest.importorskip("pi_heif", reason="the extra heic is not installed")
    write_heic(tmp_path / "a.heic", [RED, GREEN, BLUE, WHITE])
    data = (tmp_path / "a.heic").read_bytes()
    (tmp_path / "a.heic").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(Damaged, match="cut off or damaged"):
        decode_media(tmp_path / "a.heic", OPTIONS)


def test_a_picture_in_hdr_is_brought_to_what_a_screen_shows(tmp_path: Path) -> None:
    """AVIF in PQ and BT.2020: 58 % of the signal is 203 nits, the white of BT.2408."""
    image = np.full((64, 64, 3), round(0.58 * 65535), np.uint16)

    def make() -> None:
        with av.open(str(tmp_path / "a.avif"), "w") as container:
            stream = container.add_stream(
                "libsvtav1", rate=1, options={"preset": "12", "svtav1-params": "lp=1"}
            )
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
            codec = stream.codec_context
            codec.color_trc, codec.color_primaries = ColorTrc.SMPTE2084, ColorPrimaries.BT2020
            codec.colorspace = 9
            frame = av.VideoFrame.from_ndarray(image, format="rgb48le").reformat(
                format="yuv420p10le", dst_colorspace="ITU709"
            )
            frame.color_trc, frame.color_primaries = ColorTrc.SMPTE2084, ColorPrimaries.BT2020
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))

    in_a_thread_of_its_own(make)
    media = decode_media(tmp_path / "a.avif", OPTIONS)
    assert media.still and np.abs(corners(media) - 255).max() <= NEAR
    assert may_be_hdr(tmp_path / "a.avif")
    quarters().save(tmp_path / "sdr.avif")
    assert not may_be_hdr(tmp_path / "sdr.avif")
