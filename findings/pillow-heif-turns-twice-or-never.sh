#!/usr/bin/env bash
# pillow-heif 1.8.1 (libheif 1.23.6): from_pillow() and HeifFile.add_from_pillow() turn the pixels of a photo as EXIF's
# orientation says and keep the orientation in the EXIF of the new picture, so save() writes it into the file once more
# (`irot`, `imir`). A photo that was taken upright (6 or 8) lies on its side, and one that was taken upside down (3) or mirrored
# stays so. save() of Pillow with exif=image.getexif(), as for other formats, turns nothing and writes no `irot`: all stay as
# they were. pillow-heif reads EXIF's orientation as 1 from both files. save() without exif=, or with bytes, is right.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check pillow-heif==1.8.1 pillow==13.0.0
"$place/venv/bin/python" - <<'PY'
import io

import pillow_heif
from PIL import Image, ImageOps

pillow_heif.register_heif_opener()
picture = Image.new("RGB", (640, 480))
picture.paste((255, 0, 0), (0, 0, 320, 240))


def red_corner(image):
    width, height = image.size
    corners = {"upper left": (9, 9), "upper right": (width - 9, 9)}
    corners |= {"lower left": (9, height - 9), "lower right": (width - 9, height - 9)}
    return max(corners, key=lambda corner: image.convert("RGB").getpixel(corners[corner])[0])


ways = {
    "save": lambda image, file: image.save(file, "HEIF"),
    "save, exif as bytes": lambda image, file: image.save(file, "HEIF", exif=image.info["exif"]),
    "save, exif as object": lambda image, file: image.save(file, "HEIF", exif=image.getexif()),
    "from_pillow": lambda image, file: pillow_heif.from_pillow(image).save(file),
}
wrong = {"save, exif as object": ["upper left"] * 4, "from_pillow": ["upper left", "upper left", "lower right", "lower right"]}
due = ["upper right", "lower right", "upper right", "lower left"]
for way, save in ways.items():
    seen = []
    for orientation in (2, 3, 6, 8):
        exif = Image.Exif()
        exif[0x112] = orientation
        photo, file = io.BytesIO(), io.BytesIO()
        picture.save(photo, "JPEG", exif=exif)
        save(Image.open(photo), file)
        read = Image.open(file)
        assert read.getexif()[0x112] == 1
        seen.append(red_corner(ImageOps.exif_transpose(read)))
    print(f"pillow-heif {pillow_heif.__version__}, {way}: {seen}, due {due}")
    assert seen == wrong.get(way, due), seen
PY
