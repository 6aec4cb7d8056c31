#!/usr/bin/env bash
# Pillow 13.0.0: a JPEG file that has another picture behind it (Multi-Picture Format) is an animation. Telephones write such
# photos: the second picture is a gain map for HDR displays, or a preview. is_animated is True, n_frames is 2, and the two
# have other sizes and modes. What asks is_animated before it takes a photo for one takes it for a film; to save it as an
# animated WebP fails. The suffix .jpg and the bytes of its beginning are those of any JPEG.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check pillow==13.0.0
"$place/venv/bin/python" - "$place/photo.jpg" <<'PY'
import io
import sys

import PIL
from PIL import Image, ImageSequence

path = sys.argv[1]
gain_map = Image.new("L", (160, 120), 99)
Image.new("RGB", (640, 480), (200, 0, 0)).save(path, "MPO", save_all=True, append_images=[gain_map])
with open(path, "rb") as file:
    assert file.read(3) == b"\xff\xd8\xff"
photo = Image.open(path)
sizes = [frame.size for frame in ImageSequence.Iterator(Image.open(path))]
print("Pillow", PIL.__version__, photo.format, "is_animated:", photo.is_animated, "frames:", sizes)
assert (photo.format, photo.is_animated, sizes) == ("MPO", True, [(640, 480), (160, 120)])
try:
    photo.save(io.BytesIO(), "WEBP", save_all=True)
    raise SystemExit("it was saved as an animation")
except RuntimeError as error:
    print("saved as an animated WebP:", error)
PY
