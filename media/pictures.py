"""Still pictures, read by Pillow and given as frames of a film.

FFmpeg would not do here: it ignores colour profiles, gives the photos of telephones (HEIC) as loose
tiles, and PyAV cannot show the side data of a picture with EXIF. It is still asked about AVIF and
HEIC: their pictures in HDR are brought to BT.709 as those of films are.
"""

from __future__ import annotations

import importlib
import io
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.AvifImagePlugin import AvifImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from .containers import Budget, make_decoder, open_container, read_packets, video_stream
from .decode import check_size
from .errors import BadMedia, BeyondBudget, Damaged, NotMedia
from .hdr import encode_srgb, exceeds_bt709, to_bt709
from .matrices import read_told_colours

HEAD_BYTES = 1024
BOXES_BYTES = 64 * 1024  # of an AVIF or HEIC, in which its properties are looked for
COLOUR_BOX = re.compile(rb"colrnclx(..)(..)", re.DOTALL)  # primaries, transfer curve
READ = "PNG, JPEG, WebP, AVIF, HEIC and GIF are read"
NO_HEIC = "an HEIC photo in tiles; install the extra 'heic' of this program, or save it as JPEG"
# what is often taken for a picture that can be read, by its first bytes
REFUSED = (
    (b"%PDF-", "a PDF document; export its pages as PNG or JPEG"),
    (b"BM", f"a BMP picture; {READ}"),
    (b"II*\0", f"a TIFF or raw picture; {READ}"),
    (b"MM\0*", f"a TIFF or raw picture; {READ}"),
    (b"8BPS", f"a Photoshop file; {READ}"),
    (b"\xff\x0a", f"a JPEG XL picture; {READ}"),
    (b"\0\0\0\x0cJXL ", f"a JPEG XL picture; {READ}"),
)
SVG = "an SVG drawing; it has no pixels of its own: export it as PNG"
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis"}
ORIENTATION = 0x112  # a tag of EXIF
STRIP_ROWS = 256  # converted at once, so that a large picture is in memory once
COLOURS = {"RGB ": ("RGB", "RGBA"), "GRAY": ("L",), "CMYK": ("CMYK",)}  # of a profile, by modes
GAMMA_MODES = {"L": 1, "RGB": 3, "RGBA": 3}  # how many colours of a mode have a gamma
SRGB_GAMMA = 0.45455
GAMMA_STEP = 0.005  # a gamma that differs by less is sRGB's
# flags of a WebP: where they are, one of an animation, one of transparency
WEBP_FLAGS_AT = 20
WEBP_ANIMATED = 0x02
WEBP_ALPHA = 0x10
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_BITS_AT = 24  # bits of a value, in the header
CHUNKS_MOST = 256  # of a PNG, that are looked at
CHUNK_BYTES = 64  # read of each
# what Pillow raises on files that are cut off or made up
FAULTS = (
    ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError, SyntaxError,
    TypeError, ValueError, struct.error,
)  # fmt: skip
CLASSES: dict[str, Callable[..., ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "GIF": GifImageFile,
    "AVIF": AvifImageFile,
}


Conversion = Callable[[Image.Image], Image.Image]  # strips of a picture to sRGB


class Colours(NamedTuple):
    """What the numbers of a picture mean, by ITU-T H.273."""

    curve: int  # the transfer characteristics
    primaries: int


# ---------------------------------------------------------------- what a file is


def picture_format(head: bytes) -> str | None:
    """The format of a picture by its first bytes; None of anything else.

    Raises:
        NotMedia: a format that people take for one that is read.

    >>> picture_format(b"\\xff\\xd8\\xff\\xe0"), picture_format(b"RIFF\\0\\0\\0\\0WAVE")
    ('JPEG', None)
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(PNG_START):
        return "PNG"
    if head.startswith(b"GIF8"):
        return "GIF"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        return iso_format(head)
    refused = next((why for start, why in REFUSED if head.startswith(start)), None)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if refused is None and text.startswith(b"<") and b"<svg" in text:
        refused = SVG
    if refused is not None:
        raise NotMedia(refused)
    return None


def iso_format(head: bytes) -> str | None:
    """AVIF or HEIC, by the brands of an ISO file that is a single picture first of all."""
    size = int.from_bytes(head[:4])
    brands = {head[at : at + 4] for at in (8, *range(16, min(size, len(head)) - 3, 4))}
    main = head[8:12]
    if main in (b"avif", b"mif1") and b"avif" in brands:
        return "AVIF"
    return "HEIC" if main in HEIC_BRANDS | {b"mif1"} and HEIC_BRANDS & brands else None


def read_head(path: Path) -> bytes:
    """The first bytes of a file; none if it cannot be read, of which FFmpeg says why."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


@contextmanager
def open_picture(path: Path, name: str, budget: Budget) -> Iterator[ImageFile | None]:
    """A picture of the format `name`, of which only the header has been read. None of HEIC where
    the extra that reads it is not installed.

    Raises:
        BeyondBudget: it has more pixels than a frame may have.
        Damaged: its header, or whatever is read of it later, does not decode.
    """
    make = CLASSES.get(name) or heif_class()
    if make is None:
        yield None
        return
    try:
        # from memory: a file that shrinks meanwhile would kill some of the decoders
        data = path.read_bytes()
        picture = make(io.BytesIO(show_canvas(data)))
        with picture:
            scale_clear_grey(picture, data)
            pixels = picture.width * picture.height
            if pixels > budget.frame_pixels:
                raise BeyondBudget("pixels in a picture", pixels, budget.frame_pixels)
            yield picture
    except Image.DecompressionBombError as error:
        raise Damaged(
            f"a part of the {name} picture is larger than any picture that is read"
        ) from error
    except FAULTS as error:
        raise Damaged(f"the {name} picture is cut off or damaged") from error


def show_canvas(data: bytes) -> bytes:
    """The bytes of a picture; an animated WebP is marked as one with transparency. What none of its
    pictures covers is transparent, even if they are not. Pillow goes by the mark alone.
    """
    is_webp = data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X"
    at = WEBP_FLAGS_AT
    if not is_webp or len(data) <= at or not data[at] & WEBP_ANIMATED:
        return data
    return data[:at] + bytes([data[at] | WEBP_ALPHA]) + data[at + 1 :]


def scale_clear_grey(picture: ImageFile, data: bytes) -> None:
    """Of a PNG in greys of two or four bits, the one that stands for transparency is told in those
    bits. Pillow 13.0 brings the pixels to eight bits, but not that grey.
    """
    clear = picture.info.get("transparency")
    if isinstance(picture, PngImageFile) and isinstance(clear, int) and picture.mode == "L":
        most = 2 ** data[PNG_BITS_AT] - 1
        picture.info["transparency"] = (clear & most) * 255 // most


def heif_class() -> Callable[..., ImageFile] | None:
    try:
        plugin: Any = importlib.import_module("pi_heif.as_plugin")
    except ImportError:
        return None
    return cast(Callable[..., ImageFile], plugin.HeifImageFile)


def read_png_chunks(path: Path) -> dict[bytes, bytes]:
    """The first bytes of the chunks before a PNG's pixels, by their types; {} of other files."""
    found: dict[bytes, bytes] = {}
    with path.open("rb") as file:
        if file.read(len(PNG_START)) != PNG_START:
            return {}
        for _ in range(CHUNKS_MOST):
            head = file.read(8)
            kind = head[4:]
            if len(head) < 8 or kind == b"IDAT":
                break
            begin = file.tell()
            found[kind] = file.read(min(int.from_bytes(head[:4]), CHUNK_BYTES))
            file.seek(begin + int.from_bytes(head[:4]) + 4)  # behind its checksum
    return found


def read_png_colours(path: Path) -> Colours | None:
    """The colours that a PNG's chunk cICP tells, which counts before a profile; None without."""
    told = read_png_chunks(path).get(b"cICP", b"")
    return Colours(curve=told[1], primaries=told[0]) if len(told) == 4 else None


# ---------------------------------------------------------------- still pictures


def read_still(path: Path, budget: Budget) -> av.VideoFrame | None:
    """A still picture as one frame, upright, opaque and in sRGB. None of any other file, and of
    pictures that move.

    Raises:
        NotMedia: a format that is refused, see `picture_format`, or HEIC without its extra.
        BeyondBudget: it has more pixels than a frame may have.
        Damaged: it is cut off, or does not decode.
    """
    name = picture_format(read_head(path))
    if name is None:
        return None
    if name in ("AVIF", "HEIC") and may_be_hdr(path):
        frame = read_hdr_still(path, budget)
        if frame is not None:
            return frame
    with open_picture(path, name, budget) as picture:
        if picture is None:
            frame = read_still_by_ffmpeg(path, budget, lambda stream: True)
            if frame is None:
                raise NotMedia(NO_HEIC)
            return frame
        if name != "HEIC" and getattr(picture, "is_animated", False):
            return None
        shown = clear_uncovered(picture) if name == "GIF" else picture
        return make_frame(shown, read_png_colours(path))


def clear_uncovered(picture: ImageFile) -> Image.Image:
    """A still GIF, transparent where its picture does not reach. Pillow 13.0 shows the first colour
    there.
    """
    box = picture.tile[0].extents
    if box is None or box == (0, 0, *picture.size):
        return picture
    shown = Image.new("RGBA", picture.size)
    shown.paste(picture.crop(box).convert("RGBA"), box)
    return shown


def may_be_hdr(path: Path) -> bool:
    """Whether a box at the start of an AVIF or HEIC says so, or there is none. This comes first, as
    FFmpeg decodes a picture when it opens it.
    """
    with path.open("rb") as file:
        boxes = COLOUR_BOX.findall(file.read(BOXES_BYTES))
    told = [(int.from_bytes(curve), int.from_bytes(primaries)) for primaries, curve in boxes]
    return not told or any(exceeds_bt709(curve, primaries) for curve, primaries in told)


def read_hdr_still(path: Path, budget: Budget) -> av.VideoFrame | None:
    """A picture in HDR or wide colours, as FFmpeg decodes it; None of any other."""
    return read_still_by_ffmpeg(
        path,
        budget,
        lambda stream: exceeds_bt709(
            stream.codec_context.color_trc, stream.codec_context.color_primaries
        ),
    )


def read_still_by_ffmpeg(
    path: Path, budget: Budget, wanted: Callable[[av.VideoStream], bool]
) -> av.VideoFrame | None:
    """The one frame of a file whose stream is `wanted`. None where FFmpeg has no such stream or
    cannot decode it: a photo in tiles, a film. Raises BeyondBudget.
    """
    try:
        with open_container(path, budget) as container:
            stream = video_stream(container)
            if stream is None or stream.frames > 1 or not wanted(stream):
                return None
            pixels = stream.codec_context.width * stream.codec_context.height
            if pixels > budget.frame_pixels:
                raise BeyondBudget("pixels in a picture", pixels, budget.frame_pixels)
            colours = read_told_colours(stream)
            decoder = make_decoder(stream)
            for packet in read_packets(container, stream):
                for frame in decoder.decode(packet):
                    assert isinstance(frame, av.VideoFrame)
                    check_size(frame, budget)
                    colours.complete(frame)
                    return frame
    except BeyondBudget:
        raise
    except (BadMedia, av.FFmpegError, ValueError):
        return None
    return None


def make_frame(picture: Image.Image, colours: Colours | None = None) -> av.VideoFrame:
    """A picture as a frame rgb24: turned as EXIF says, brought to sRGB from `colours`, if those are
    told, or else from its colour profile, and laid over white where it is transparent.
    """
    picture.load()
    return draw(picture, picture.getexif().get(ORIENTATION, 1), find_conversion(picture, colours))


def draw(picture: Image.Image, turn: int, convert: Conversion) -> av.VideoFrame:
    """A picture as `make_frame` gives it; `turn` is EXIF's orientation."""
    width, height = picture.size
    sideways = turn in (5, 6, 7, 8)
    frame = av.VideoFrame(*((height, width) if sideways else (width, height)), "rgb24")
    plane = frame.planes[0]
    rows = np.frombuffer(cast(Any, plane), np.uint8).reshape(-1, plane.line_size)
    shown = rows[: frame.height, : 3 * frame.width].reshape(frame.height, frame.width, 3)
    stored = stored_order(shown, turn)
    for top in range(0, height, STRIP_ROWS):
        bottom = min(top + STRIP_ROWS, height)
        stored[top:bottom] = opaque_rgb(picture.crop((0, top, width, bottom)), convert)
    return frame


def stored_order(shown: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """The view of an upright picture [height, width, 3] in the order that it is stored in.

    `turn` is EXIF's orientation.

    >>> upright = np.array([[[1], [2]]], np.uint8)  # one row, from left to right 1, 2
    >>> stored_order(upright, 6)[..., 0].tolist()  # is stored as a column, and turned to the right
    [[2], [1]]
    """
    if turn in (5, 6, 7, 8):
        shown = shown.transpose(1, 0, 2)
    if turn in (3, 4, 6, 7):
        shown = shown[::-1]
    if turn in (2, 3, 7, 8):
        shown = shown[:, ::-1]
    return shown


def find_conversion(picture: Image.Image, colours: Colours | None) -> Conversion:
    """How strips of a picture, in its plain mode, become sRGB; see `make_frame`."""
    if colours is not None:
        return partial(convert_colours, colours)
    return profile_conversion(picture) or gamma_conversion(picture) or keep_colours


def keep_colours(strip: Image.Image) -> Image.Image:
    return strip


def convert_colours(colours: Colours, strip: Image.Image) -> Image.Image:
    """A strip in the given transfer curve and primaries, in sRGB; its transparency stays."""
    signal = np.asarray(strip.convert("RGB")).astype(np.uint16) * np.uint16(257)
    shown = Image.fromarray(to_bt709(signal, colours.curve, colours.primaries))
    if strip.mode == "RGBA":
        shown.putalpha(strip.getchannel("A"))
    return shown


def profile_conversion(picture: Image.Image) -> Conversion | None:
    """By its colour profile; None where there is no valid one for its mode."""
    profile = picture.info.get("icc_profile")
    if not profile:
        return None
    mode = plain_mode(picture)
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if mode not in COLOURS.get(source.profile.xcolor_space, ()):
            return None
        target = ImageCms.createProfile("sRGB")
        made = ImageCms.buildTransform(source, target, mode, "RGBA" if mode == "RGBA" else "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    return cast(Conversion, made.apply)


def gamma_conversion(picture: Image.Image) -> Conversion | None:
    """By the gamma of a PNG that has neither a profile nor says that it is sRGB. As in Chromium, it
    counts beside primaries only; those are taken for sRGB's.
    """
    told = picture.info
    gamma = picture.info.get("gamma")
    if not gamma or "srgb" in told or "icc_profile" in told or "chromaticity" not in told:
        return None
    if abs(gamma - SRGB_GAMMA) < GAMMA_STEP or plain_mode(picture) not in GAMMA_MODES:
        return None
    light = (np.arange(256) / 255) ** (1 / gamma)
    table = encode_srgb(light.astype(np.float32)).tolist()
    transparency = list(range(256)) if plain_mode(picture) == "RGBA" else []
    tables = table * GAMMA_MODES[plain_mode(picture)] + transparency
    return lambda strip: strip.point(tables)


def plain_mode(picture: Image.Image) -> str:
    """The mode that a picture is converted to before its colours are."""
    if picture.has_transparency_data:
        return "RGBA"
    if picture.mode.startswith("I;16"):  # grey of 16 bits, which becomes grey of eight bits first
        return "L"
    return picture.mode if picture.mode in ("L", "CMYK") else "RGB"


def opaque_rgb(strip: Image.Image, convert: Conversion) -> NDArray[np.uint8]:
    """Rows of a picture as RGB uint8 [height, width, 3]."""
    shown = to_srgb(strip, convert)
    if shown.mode != "RGBA":
        return np.asarray(shown.convert("RGB"))
    white = Image.new("RGB", shown.size, "white")
    white.paste(shown.convert("RGB"), mask=shown.getchannel("A"))
    return np.asarray(white)


def to_srgb(strip: Image.Image, convert: Conversion) -> Image.Image:
    """A part of a picture in sRGB, which may be RGBA."""
    if strip.mode.startswith("I;16"):
        strip = to_eight_bits(strip)
    mode = plain_mode(strip)
    return convert(strip if strip.mode == mode else strip.convert(mode))


def to_eight_bits(strip: Image.Image) -> Image.Image:
    """A grey picture of 16 bits; one of its greys may stand for transparency."""
    values = np.asarray(strip).astype(np.uint16)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    hidden = strip.info.get("transparency")
    if isinstance(hidden, int):
        grey.putalpha(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
    return grey
