#!/usr/bin/env bash
# Pillow 13.0.0: a PNG file may say by the chunk cICP (PNG's third edition) which colours its numbers stand for, PQ of BT.2020
# for HDR say. Pillow passes over it without a word: info is empty, and the picture is that of a file without it. A grey of
# 148 is white in PQ. Of gAMA and cHRM, which cICP comes before, info tells. A reader must look for the chunk itself.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check pillow==13.0.0
"$place/venv/bin/python" - <<'PY'
import io
import struct
import zlib

import PIL
from PIL import Image

plain = io.BytesIO()
Image.new("RGB", (8, 8), (148, 148, 148)).save(plain, "PNG")
HEADER = 33  # bytes of the signature and of IHDR


def read_with(name, data):
    chunk = struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    content = plain.getvalue()
    image = Image.open(io.BytesIO(content[:HEADER] + chunk + content[HEADER:]))
    image.load()
    return image.info, image.getpixel((0, 0))


pq = read_with(b"cICP", bytes([9, 16, 0, 1]))  # BT.2020, PQ, RGB, full range
gamma = read_with(b"gAMA", struct.pack(">I", 100_000))
print("Pillow", PIL.__version__, "cICP:", pq, "gAMA:", gamma)
assert pq == ({}, (148, 148, 148)), pq
assert gamma == ({"gamma": 1.0}, (148, 148, 148)), gamma
PY
