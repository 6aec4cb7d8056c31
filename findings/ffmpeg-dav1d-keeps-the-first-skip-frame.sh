#!/usr/bin/env bash
# FFmpeg 8.1.2 as PyAV 18.1.0 brings it: `skip_frame` of a decoder can be changed from packet to packet, and the decoders of
# H.264 and HEVC follow. libdav1d, the decoder of AV1, reads it once, when it is opened, which is at the first packet.
# Whoever begins with NONREF, to pass over frames quickly, and asks for all from some packet on, gets no frame that others
# do not refer to, of an AV1 film half of all. Whoever begins with DEFAULT passes over none. No error is raised. Opening the
# decoder before the first packet, with DEFAULT, gives all frames that are asked for.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check av==18.1.0 numpy==2.4.6
cd "$place"
"$place/venv/bin/python" - <<'PY'
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np

COUNT, CHANGED = 96, 48
y, x = np.mgrid[0:64, 0:96]


def make(codec, options):
    with av.open("film.mp4", "w") as container:
        stream = container.add_stream(codec, rate=24, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for t in range(COUNT):
            grey = (127 + 100 * np.sin(x / 6 + t / 3) * np.cos(y / 7)).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.repeat(grey[..., None], 3, axis=2), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def late_frames(first):
    """How many frames come of the second half, where `first` holds for the packets of the first one."""
    with av.open("film.mp4") as container:
        stream = container.streams.video[0]
        decoder, ticks = stream.codec_context, round(1 / (24 * stream.time_base))
        decoder.thread_count = 1
        frames = []
        for packet in container.demux(stream):
            early = packet.pts is not None and packet.pts < CHANGED * ticks
            decoder.skip_frame = first if early else "DEFAULT"
            frames += decoder.decode(packet)
        return sum(frame.pts >= CHANGED * ticks for frame in frames)


found = {}
for codec, options in {
    "libx264": {"bf": "3", "g": "200", "sc_threshold": "0"},
    "libsvtav1": {"g": "200", "preset": "11", "svtav1-params": "lp=1"},
}.items():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(make, codec, options).result()
    found[codec] = late_frames("DEFAULT"), late_frames("NONREF")
    print(f"{codec}: of the last {COUNT - CHANGED} frames {found[codec][0]} come, after NONREF {found[codec][1]}")
assert found["libx264"] == (48, 48), found
assert found["libsvtav1"][0] == 48 and found["libsvtav1"][1] <= 30, found
PY
