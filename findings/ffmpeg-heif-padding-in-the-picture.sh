#!/usr/bin/env bash
# FFmpeg 8.1.2 as PyAV 18.1.0 brings it: HEVC with 4:2:0 cannot code an odd width or height, and libheif pads small pictures to 64
# pixels. What is padding is said by the property `clap` of the HEIF file, a transformation that readers are to apply (ISO/IEC
# 23008-12). FFmpeg decodes the picture with its padding, and nothing tells of it: the size of the stream is the padded one,
# too. Seen: 33 by 17 pixels come out as 64 by 64, and 100 by 75 as 100 by 76. Features and thumbnails of a small picture are
# mostly those of its repeated edges. libheif 1.23.6 (pillow-heif 1.8.1) cuts the padding off.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check av==18.1.0 pillow-heif==1.8.1 pillow==13.0.0 numpy==2.4.6
"$place/venv/bin/python" - <<'PY'
import io

import av
import pillow_heif
from PIL import Image

pillow_heif.register_heif_opener()
seen = {}
for size in ((100, 80), (100, 75), (33, 17)):
    file = io.BytesIO()
    Image.new("RGB", size, (200, 100, 0)).save(file, "HEIF")
    content = file.getvalue()
    with av.open(io.BytesIO(content)) as container:
        frame = next(container.decode(video=0))
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (frame.width, frame.height)
    seen[size] = frame.width, frame.height
    there = b"clap" in content
    print(f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}, {size}, clap: {there}: {seen[size]}")
    assert Image.open(io.BytesIO(content)).size == size
    assert there == (seen[size] != size)
assert seen == {(100, 80): (100, 80), (100, 75): (100, 76), (33, 17): (64, 64)}, seen
PY
