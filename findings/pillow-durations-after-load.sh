#!/usr/bin/env bash
# Pillow 13.0.0: how long a frame of an animation is shown (info["duration"]) is known after seek() for GIF and PNG. For WebP
# and AVIF it is known after load() only: seek() forgets it. So the frames of ImageSequence.Iterator have no duration, until
# each is loaded, and code that reads it with a default takes every frame for one of that length. No error is raised.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check pillow==13.0.0
"$place/venv/bin/python" - "$place" <<'PY'
import sys

import PIL
from PIL import Image, ImageSequence

durations = [100, 200, 300, 400]
frames = [Image.new("RGB", (32, 32), (60 * number, 0, 0)) for number in range(4)]
seen = {}
for suffix in ("gif", "png", "webp", "avif"):
    path = f"{sys.argv[1]}/animation.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations)
    iterated = [frame.info.get("duration") for frame in ImageSequence.Iterator(Image.open(path))]
    sought, loaded = [], []
    image = Image.open(path)
    for number in range(4):
        image.seek(number)
        sought.append(image.info.get("duration"))
        image.load()
        loaded.append(image.info.get("duration"))
    seen[suffix] = iterated, sought
    print(suffix, "iterated:", iterated, "after seek():", sought, "after load():", loaded)
    assert loaded == durations, loaded
print("Pillow", PIL.__version__)
assert seen["gif"] == seen["png"] == (durations, durations), seen
assert seen["webp"] == seen["avif"] == ([None] * 4, [None] * 4), seen
PY
