"""Animated PNG, WebP and AVIF: how long they last, which way is up, and what is transparent."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from media.animations import animation_format
from media.containers import Budget
from media.convert import Order, convert
from media.errors import BeyondBudget, Damaged
from media.windows import Media, read_media

from .test_kinds import PICTURES
from .test_pictures import (
    BLUE,
    GREEN,
    RED,
    SPECS,
    WHITE,
    corners,
    is_near,
    quarters,
    sticker,
)

KINDS: dict[str, dict[str, Any]] = {
    "a.png": {},
    "a.webp": {"lossless": True, "exact": True},
    "a.avif": {"quality": 95, "subsampling": "4:4:4"},
}


def save(path: Path, images: list[Image.Image], duration: int, **options: Any) -> Path:
    images[0].save(
        path,
        save_all=True,
        append_images=images[1:],
        duration=duration,
        **KINDS[path.name],
        **options,
    )
    return path


def seen(path: Path) -> Media:
    return read_media(path, PICTURES, Budget(), ("video",))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("delay_ms", "seconds"), [(0, 2.0), (10, 2.0), (20, 0.4), (100, 2.0)])
def test_an_animation_lasts_as_long_as_in_browsers(
    tmp_path: Path, name: str, delay_ms: int, seconds: float
) -> None:
    images = [Image.new("RGB", (64, 64), (i * 12, 0, 255 - i * 12)) for i in range(20)]
    media = seen(save(tmp_path / name, images, delay_ms))
    assert media.duration_s == pytest.approx(seconds, abs=0.001)


@pytest.mark.parametrize("name", KINDS)
def test_nothing_hidden_below_the_transparency_of_an_animation_is_seen(
    tmp_path: Path, name: str
) -> None:
    first, second = sticker(), sticker()
    second.putpixel((127, 127), (0, 200, 0, 255))
    media = read_media(save(tmp_path / name, [first, second], 500), SPECS, Budget(), ("video",))
    assert not media.still
    assert is_near(corners(media), [WHITE, GREEN, WHITE, GREEN])


def test_what_no_picture_of_a_webp_covers_is_transparent(tmp_path: Path) -> None:
    """Encoders store of a picture what it adds. Where that is opaque everywhere, the file does not
    say that it has transparency; Chromium 156 shows the page behind the rest.
    """
    images = []
    for place in ((0, 0), (64, 0)):
        image = Image.new("RGBA", (128, 128), (0, 0, 0, 0))
        image.paste(GREEN, (*place, place[0] + 64, 64))
        images.append(image)
    path = save(tmp_path / "a.webp", images, 500)
    assert path.read_bytes()[20] == 2  # an animation; 16 more would be transparency
    media = read_media(path, SPECS, Budget(), ("video",))
    assert is_near(corners(media), [WHITE, GREEN, WHITE, WHITE])  # of the second picture


# by orientation: how the upright picture is stored
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
}


# Pillow 13.0 cannot write animated AVIF with an orientation
@pytest.mark.parametrize("name", ["a.png", "a.webp"])
@pytest.mark.parametrize("turn", STORED)
def test_an_animation_is_turned_as_exif_says(tmp_path: Path, name: str, turn: int) -> None:
    first = quarters().transpose(STORED[turn])
    second = first.copy()
    second.putpixel((0, 0), (9, 9, 9))
    exif = Image.Exif()
    exif[0x112] = turn
    media = read_media(
        save(tmp_path / name, [first, second], 500, exif=exif), SPECS, Budget(), ("video",)
    )
    assert is_near(corners(media), [RED, GREEN, BLUE, WHITE])


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pixels(colour: tuple[int, int, int]) -> bytes:
    return zlib.compress((b"\0" + bytes(colour) * 16) * 16)


def frame_control(number: int) -> bytes:
    """Half a second."""
    return chunk(b"fcTL", struct.pack(">5I2H2B", number, 16, 16, 0, 0, 1, 2, 0, 0))


def png(path: Path, *chunks: bytes, colour_type: int = 2) -> Path:
    head = chunk(b"IHDR", struct.pack(">2I5B", 16, 16, 8, colour_type, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b""))
    return path


def test_a_picture_for_programs_without_animations_is_not_seen(tmp_path: Path) -> None:
    path = png(
        tmp_path / "a.png",
        chunk(b"acTL", struct.pack(">2I", 2, 0)),
        chunk(b"IDAT", pixels(RED)),
        frame_control(0),
        chunk(b"fdAT", struct.pack(">I", 1) + pixels(GREEN)),
        frame_control(2),
        chunk(b"fdAT", struct.pack(">I", 3) + pixels(BLUE)),
    )
    media = seen(path)
    assert media.duration_s == 1.0
    frames = media.parts["video"].array[0, :, 8, 8]
    assert frames.tolist() == [list(GREEN)] * 2 + [list(BLUE)] * 2


KEEP, CLEAR, RESTORE = 0, 1, 2  # what comes after a piece of a PNG
REPLACE, OVER = 0, 1
NONE, HALF = (0, 0, 0, 0), (*BLUE, 128)
OLD, NEW = (*RED, 255), (*GREEN, 255)
HALF_ON_RED = tuple((a + b) // 2 for a, b in zip(RED, BLUE, strict=True))


@pytest.mark.parametrize("in_front", [False, True])
@pytest.mark.parametrize(
    ("pieces", "right"),
    [
        (
            [(OLD, KEEP, REPLACE), (HALF, KEEP, OVER), (NONE, KEEP, OVER)],
            [RED, HALF_ON_RED, HALF_ON_RED],
        ),
        ([(OLD, KEEP, REPLACE), (NEW, RESTORE, OVER), (NONE, KEEP, OVER)], [RED, GREEN, RED]),
        ([(OLD, KEEP, REPLACE), (NEW, CLEAR, OVER), (NONE, KEEP, OVER)], [RED, GREEN, WHITE]),
        ([(OLD, KEEP, REPLACE), (NONE, KEEP, REPLACE), (NEW, KEEP, OVER)], [RED, WHITE, GREEN]),
        ([(NONE, KEEP, OVER), (OLD, RESTORE, OVER), (NONE, KEEP, OVER)], [WHITE, RED, WHITE]),
        ([(OLD, RESTORE, OVER), (NONE, KEEP, OVER), (NEW, KEEP, OVER)], [RED, WHITE, GREEN]),
    ],
)
def test_pieces_of_a_png_are_laid_over_each_other(
    tmp_path: Path, pieces: Any, right: Any, in_front: bool
) -> None:
    """As PNG's third edition has it, of the chunk fcTL. A picture in front of the animation is no
    part of it.
    """
    chunks = [chunk(b"acTL", struct.pack(">2I", len(pieces), 0))]
    if in_front:
        chunks.append(chunk(b"IDAT", zlib.compress((b"\0" + bytes((9, 9, 9, 255)) * 16) * 16)))
    number = 0
    for colour, disposal, blend in pieces:
        place = (number, 16, 16, 0, 0, 1, 2, disposal, blend)
        chunks.append(chunk(b"fcTL", struct.pack(">5I2H2B", *place)))
        data = zlib.compress((b"\0" + bytes(colour) * 16) * 16)
        if number or in_front:
            chunks.append(chunk(b"fdAT", struct.pack(">I", number + 1) + data))
            number += 2
        else:
            chunks.append(chunk(b"IDAT", data))
            number += 1
    frames = seen(png(tmp_path / "a.png", *chunks, colour_type=6)).parts["video"].array[0]
    shown = frames[[0, 1, 3], 8, 8].astype(int)  # each for half a second, of one and a half
    assert np.abs(shown - right).max() <= 2


def test_an_animation_that_is_cut_off_is_seen_up_to_there(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = [
        Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(4)
    ]
    path = save(tmp_path / "a.png", images, 500)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 5 // 8])  # in the third
    assert seen(path).duration_s == 1.0
    path.write_bytes(data[: len(data) // 8])
    with pytest.raises(Damaged):
        seen(path)


def test_an_animation_of_too_many_pictures_is_refused(tmp_path: Path) -> None:
    images = [Image.new("RGB", (16, 16), (i * 12, 0, 0)) for i in range(9)]
    path = save(tmp_path / "a.png", images, 100)
    with pytest.raises(BeyondBudget, match="too many frames: 9"):
        read_media(path, PICTURES, Budget(frames=8), ("video",))


def test_pixels_of_pictures_are_square(tmp_path: Path) -> None:
    """A PNG's resolution and a GIF's aspect ratio, by which browsers do not scale either."""
    disc = np.hypot(*(np.indices((128, 128)) - 63.5)) < 40
    first = Image.fromarray(np.where(disc, 255, 0).astype(np.uint8)).convert("RGB")
    second = first.copy()
    second.putpixel((0, 0), (1, 1, 1))
    save(tmp_path / "a.png", [first, second], 500, dpi=(100, 200))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second], duration=500)
    data = bytearray((tmp_path / "a.gif").read_bytes())
    data[12] = 113  # (113 + 15) / 64 = 2, width over height
    (tmp_path / "a.gif").write_bytes(data)
    for name in ("a.png", "a.gif"):
        shown = seen(tmp_path / name).parts["video"].array[0, 0, ..., 0] > 128
        down, across = np.nonzero(shown)
        assert np.ptp(across) == np.ptp(down) == 19, name


@pytest.mark.parametrize("name", KINDS)
def test_an_animation_is_made_a_film_that_browsers_play(tmp_path: Path, name: str) -> None:
    images = [Image.new("RGB", (64, 64), colour) for colour in (RED, GREEN)]
    path = save(tmp_path / name, images, 1000)
    assert animation_format(path) == {"a.png": "PNG", "a.webp": "WebP", "a.avif": "AVIF"}[name]
    with (tmp_path / "film.webm").open("wb") as out:
        convert(path, out, Order(0.5, 1.5, clip=True, pictures=True))
    media = seen(tmp_path / "film.webm")
    assert media.duration_s == pytest.approx(1.0, abs=0.05)
    assert np.argmax(media.parts["video"].array[0].mean((1, 2)), axis=-1).tolist() == [0, 0, 1, 1]
