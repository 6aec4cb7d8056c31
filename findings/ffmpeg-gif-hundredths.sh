#!/usr/bin/env bash
# FFmpeg 8.1.2 as PyAV 18.1.0 brings it (from 7.0.2 in PyAV 13.1.0 on): a GIF picture with a delay of one hundredth of a
# second lasts one hundredth. The documentation of the GIF demuxer, FFmpeg 5.1 and browsers say otherwise: a delay below
# `min_delay` (2 by default) becomes `default_delay` (10). Setting both options changes nothing. A delay of 0 becomes 10. Seen:
# durations of 10, 1 and 2 hundredths for delays of 0, 1 and 2, with and without the options.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check av==18.1.0 numpy==2.4.6
"$place/venv/bin/python" - "$place/film.gif" <<'PY'
import struct
import sys

import av

def picture(colour, delay):
    codes = [code for _ in range(16) for code in (4, colour)] + [5]
    bits = sum(code << 3 * place for place, code in enumerate(codes))
    data = bits.to_bytes((3 * len(codes) + 7) // 8, "little")
    control = b"\x21\xf9\x04" + struct.pack("<BHBB", 4, delay, 0, 0)
    return control + b"\x2c" + struct.pack("<HHHHB", 0, 0, 4, 4, 0) + b"\x02" + bytes([len(data)]) + data + b"\0"

path, seen = sys.argv[1], {}
head = b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0xF1, 0, 0) + bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255])
for delay in (0, 1, 2):
    with open(path, "wb") as file:
        file.write(head + b"".join(picture(i % 3, delay) for i in range(10)) + b";")
    for options in ({}, {"min_delay": "2", "default_delay": "10"}):
        with av.open(path, options=options) as container:
            seen[delay, bool(options)] = {packet.duration for packet in container.demux(video=0) if packet.size}
print(av.ffmpeg_version_info, seen)
for options in (False, True):
    assert [seen[delay, options] for delay in (0, 1, 2)] == [{10}, {1}, {2}], seen
PY
