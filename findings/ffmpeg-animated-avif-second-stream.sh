#!/usr/bin/env bash
# FFmpeg 8.1.2 as PyAV 18.1.0 brings it: the first stream of an animated AVIF file is its still picture, of one frame. The animation
# is the second stream. Whoever decodes streams.video[0], or decode(video=0), gets one frame of it and no error, while a GIF, PNG
# or MP4 file has all its frames there. The function streams.best("video") finds the second.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check av==18.1.0 pillow==13.0.0 numpy==2.4.6
"$place/venv/bin/python" - <<'PY'
import io

import av
from PIL import Image

frames = [Image.new("RGB", (64, 48), (60 * number, 20, 200)) for number in range(4)]


def times(content, choose):
    with av.open(io.BytesIO(content)) as container:
        return [round(frame.time, 2) for frame in container.decode(choose(container.streams))]


seen = {}
for kind in ("GIF", "PNG", "AVIF"):
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=[100, 200, 300, 400])
    first = times(file.getvalue(), lambda streams: streams.video[0])
    best = times(file.getvalue(), lambda streams: streams.best("video"))
    seen[kind] = first
    print(f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}, {kind}: first stream {first}, best stream {best}")
    assert best == [0.0, 0.1, 0.3, 0.6], best
assert seen == {"GIF": [0.0, 0.1, 0.3, 0.6], "PNG": [0.0, 0.1, 0.3, 0.6], "AVIF": [0.0]}, seen
PY
