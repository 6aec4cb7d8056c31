#!/usr/bin/env bash
# OpenCV 5.0.0.93: imread and imdecode turn a picture as EXIF's orientation says: JPEG, PNG, WebP and TIFF. AVIF says it by
# the properties `irot` and `imir`, which a reader must apply (MIAF, ISO/IEC 23000-22). OpenCV passes over them, so a photo of a
# telephone that was made an AVIF file lies on its side. Pillow writes them for an orientation in EXIF, and reads them as one.
# Seen: of a picture turned by 90 degrees, the red corner is at the upper right in four formats and at the upper left in AVIF.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check opencv-python-headless==5.0.0.93 pillow==13.0.0 numpy==2.4.6
"$place/venv/bin/python" - <<'PY'
import io

import cv2
import numpy as np
import PIL
from PIL import Image, ImageOps

picture = np.zeros((48, 64, 3), np.uint8)
picture[:24, :32] = 255, 0, 0


def red_corner(pixels):
    corners = {"upper left": (4, 4), "upper right": (4, -4), "lower left": (-4, 4), "lower right": (-4, -4)}
    return max(corners, key=lambda corner: int(pixels[corners[corner]][0]))


seen = {}
for orientation, due in ((3, "lower right"), (6, "upper right"), (8, "lower left"), (2, "upper right")):
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        exif = Image.Exif()
        exif[0x112] = orientation
        file = io.BytesIO()
        Image.fromarray(picture).save(file, kind, exif=exif)
        content = file.getvalue()
        upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))
        assert red_corner(upright) == due, (kind, orientation)
        read = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        seen[kind, orientation] = red_corner(read), read.shape[:2] == upright.shape[:2]
        if kind == "AVIF":
            assert b"irot" in content or b"imir" in content
            assert seen[kind, orientation] == ("upper left", orientation in (2, 3)), seen
        else:
            assert seen[kind, orientation] == (due, True), seen
    print(f"OpenCV {cv2.__version__}, Pillow {PIL.__version__}, orientation {orientation}: red is due {due}, as JPEG",
          seen["JPEG", orientation][0], "as AVIF", seen["AVIF", orientation][0])
PY
