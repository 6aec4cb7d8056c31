#!/usr/bin/env bash
# PyAV 18.1.0 with its wheel's FFmpeg 8.1.2: VideoFrame.side_data of any picture with EXIF, such as a photo of a
# telephone, raises ValueError, "31 is not a valid Type": FFmpeg has a kind of side data for EXIF that PyAV does not know.
# The pixels decode. So the display matrix, which FFmpeg derives from EXIF's orientation, cannot be read either.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check av==18.1.0 numpy==2.4.6 pillow==13.0.0
"$place/venv/bin/python" - "$place" <<'PY'
import sys

import av
from PIL import Image

def side_data(name, **options):
    path = f"{sys.argv[1]}/{name}"
    Image.new("RGB", (64, 48)).save(path, **options)
    with av.open(path) as container:
        frame = next(container.decode(video=0))
        frame.to_ndarray(format="rgb24")
        try:
            return str(frame.side_data.get("DISPLAYMATRIX"))
        except ValueError as error:
            return str(error)

exif = Image.Exif()
exif[0x112] = 6
for kind in ("jpg", "png", "webp"):
    plain, turned = side_data(f"plain.{kind}"), side_data(f"turned.{kind}", exif=exif)
    print(f"PyAV {av.__version__}, {kind}: without EXIF {plain}; with EXIF: {turned}")
    assert plain == "None" and "31 is not a valid Type" in turned, (plain, turned)
PY
