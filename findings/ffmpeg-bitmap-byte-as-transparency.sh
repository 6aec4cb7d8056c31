#!/usr/bin/env bash
# FFmpeg 8.1.2 as PyAV 18.1.0 brings it: uncompressed AVI with 32 bits a pixel (BI_RGB). Its fourth byte is not used (Windows'
# BITMAPINFOHEADER), and often 0. FFmpeg gives frames of the format bgra with that byte as transparency: laid over white, a red
# film is white all over. No error is raised. The same bytes read as a single BMP picture by FFmpeg's own BMP decoder are opaque.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check av==18.1.0 numpy==2.4.6
"$place/venv/bin/python" - "$place" <<'PY'
import struct
import sys

import av
import numpy as np

place = sys.argv[1]
SIDE = 16
pixels = np.full((SIDE, SIDE, 4), (0, 0, 255, 0), np.uint8)  # blue, green, red, unused
HEADER = struct.pack("<IiiHHIIiiII", 40, SIDE, -SIDE, 1, 32, 0, pixels.nbytes, 0, 0, 0, 0)

path = f"{place}/film.avi"
with av.open(path, "w") as container:
    stream = container.add_stream("rawvideo", rate=10)
    stream.width = stream.height = SIDE
    stream.pix_fmt = "bgra"
    for _ in range(3):
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="bgra")))
    container.mux(stream.encode(None))
with open(path, "rb") as file:
    data = file.read()
at = data.index(b"strf") + 8
assert data[at : at + 20] == HEADER[:20], data[at : at + 20]  # 32 bits, BI_RGB
assert pixels.tobytes() in data

with open(f"{place}/picture.bmp", "wb") as file:
    file.write(b"BM" + struct.pack("<IHHI", 54 + pixels.nbytes, 0, 0, 54) + HEADER + pixels.tobytes())


def shown(path):
    """The format of the first frame, and its first pixel laid over white."""
    with av.open(path) as container:
        frame = next(container.decode(video=0))
    colour = frame.to_ndarray(format="rgba")[0, 0].astype(int)
    return frame.format.name, (255 + (colour[:3] - 255) * colour[3] // 255).tolist()


film = shown(path)
picture = shown(f"{place}/picture.bmp")
print(av.__version__, av.ffmpeg_version_info, "AVI:", film, "BMP:", picture)
assert film == ("bgra", [255, 255, 255]), film
assert picture[1] == [255, 0, 0], picture
PY
