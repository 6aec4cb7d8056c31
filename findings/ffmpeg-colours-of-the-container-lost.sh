#!/usr/bin/env bash
# FFmpeg 8.1.2 as PyAV 18.1.0 brings it: the container of a film (QuickTime's box `colr`) tells its colours, BT.2020 and PQ here. Each
# picture of ProRes may tell them, too, or leave them unspecified. The stream has the container's colours until the first picture
# is decoded. Where that leaves them unspecified, frames and stream are unspecified from then on: what the container told is lost,
# and whoever converts such frames shows HDR as if it were none.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check av==18.1.0 numpy==2.4.6
"$place/venv/bin/python" - "$place/film.mov" <<'PY'
import sys

import av

path = sys.argv[1]
TOLD = (9, 16, 9)  # primaries, transfer curve and matrix by ITU-T H.273: BT.2020, PQ, BT.2020
with av.open(path, "w") as container:
    stream = container.add_stream("prores_ks", rate=10)
    stream.width = stream.height = 64
    stream.pix_fmt = "yuv422p10le"
    codec = stream.codec_context
    codec.color_primaries, codec.color_trc, codec.colorspace = TOLD
    for _ in range(3):
        frame = av.VideoFrame(64, 64, "yuv422p10le")
        frame.color_primaries, frame.color_trc, frame.colorspace = TOLD
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
with open(path, "rb") as file:
    plain = file.read()
assert plain.count(b"colrnclc" + bytes([0, 9, 0, 16, 0, 9])) == 1


def colours(of):
    return int(of.color_primaries), int(of.color_trc), int(of.colorspace)


def read(said):
    """The stream's colours before and after decoding, and those of a frame, if the pictures say `said`."""
    data = bytearray(plain)
    at = data.find(b"icpf")  # each picture's header: SMPTE RDD 36, 5.1.1
    while at >= 0:
        assert tuple(data[at + 18 : at + 21]) == TOLD
        data[at + 18 : at + 21] = bytes(said)
        at = data.find(b"icpf", at + 4)
    with open(path, "wb") as file:
        file.write(data)
    with av.open(path) as container:
        codec = container.streams.video[0].codec_context
        before = colours(codec)
        frame = next(container.decode(video=0))
        return before, colours(frame), colours(codec)


same = read(TOLD)
unspecified = read((2, 2, 2))
print(av.__version__, av.ffmpeg_version_info, "pictures say the same:", same, "pictures say nothing:", unspecified)
assert same == (TOLD, TOLD, TOLD), same
assert unspecified == (TOLD, (2, 2, 2), (2, 2, 2)), unspecified
PY
