#!/usr/bin/env bash
# FFmpeg 8.1.2 as PyAV 18.1.0 brings it: its VP9 decoder ignores skip_frame. Whoever asks for keyframes only
# (skip_frame = "NONKEY") gets every frame of a VP9 film, in the time of decoding all, and no warning. Of the same film in
# H.264 only the keyframes come. So previews or an index of keyframes of WebM films cost as much as
# playing them, and code that trusts skip_frame takes each frame for a keyframe. Packets that are not keyframes have to be
# left out before decoding: their flag is right.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check av==18.1.0 numpy==2.4.6
cd "$place"
"$place/venv/bin/python" - <<'PY'
import av
import numpy as np

FRAMES, EVERY = 60, 20
picture = np.random.default_rng(0).integers(96, 160, (240, 320, 3), np.uint8)


def write(codec, file):
    with av.open(file, "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 320, 240, "yuv420p", EVERY
        for number in range(FRAMES):
            moved = np.roll(picture, 3 * number, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        container.mux(stream.encode())


def count(file, packets_too=False):
    with av.open(file) as container:
        stream = container.streams.video[0]
        stream.codec_context.skip_frame = "NONKEY"
        if packets_too:
            kept = [packet for packet in container.demux(stream) if packet.is_keyframe]
            return sum(len(packet.decode()) for packet in kept) + len(stream.codec_context.decode(None))
        return sum(1 for _ in container.decode(stream))


print("PyAV", av.__version__, "FFmpeg", av.ffmpeg_version_info)
write("libx264", "h264.mkv")
write("libvpx-vp9", "vp9.webm")
seen = {"h264": count("h264.mkv"), "vp9": count("vp9.webm"), "vp9, key packets": count("vp9.webm", True)}
print("frames that NONKEY gives of", FRAMES, "with a keyframe every", EVERY, ":", seen)
assert seen["vp9"] == FRAMES, seen
assert seen["h264"] < FRAMES / 4 and seen["vp9, key packets"] < FRAMES / 4, seen
PY
