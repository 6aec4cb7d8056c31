#!/usr/bin/env bash
# Pillow 13.0.0: save() as AVIF with exif=... removes the orientation from the Exif object that it is given. AVIF keeps it
# elsewhere (`irot`), so the AVIF file is right. But getexif() of a picture gives the same object each time: the next
# file that is saved with it has no orientation, and exif_transpose() of the picture does not turn it any more. So of a
# photo saved as AVIF and then as WebP, the WebP file lies on its side. As WebP, PNG, JPEG or TIFF, save() leaves it as it is.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check pillow==13.0.0
"$place/venv/bin/python" - <<'PY'
import io

import PIL
from PIL import Image, ImageOps

ORIENTATION = 0x112
exif = Image.Exif()
exif[ORIENTATION] = 6
photo = io.BytesIO()
Image.new("RGB", (64, 48)).save(photo, "JPEG", exif=exif)


def after(kind):
    """A photo's orientation after it was saved in this format, that of a WebP file saved next, and its size upright."""
    image = Image.open(io.BytesIO(photo.getvalue()))
    image.save(io.BytesIO(), kind, exif=image.getexif())
    preview = io.BytesIO()
    image.save(preview, "WEBP", exif=image.getexif())
    upright = ImageOps.exif_transpose(image).size
    return image.getexif().get(ORIENTATION), Image.open(preview).getexif().get(ORIENTATION), upright


seen = {kind: after(kind) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")}
for kind, found in seen.items():
    print(f"Pillow {PIL.__version__}, saved as {kind} first: {found}")
assert all(found == (6, 6, (48, 64)) for kind, found in seen.items() if kind != "AVIF"), seen
assert seen["AVIF"] == (None, None, (64, 48)), seen
PY
