#!/usr/bin/env bash
# FFmpeg 8.1.2 as PyAV 18.1.0 brings it: an MP4 file's edit list may leave a stretch empty. There nothing is heard (ISO 14496-12,
# 8.6.6). Where it stands between two other edits, FFmpeg plays the media's beginning there. Seen: of two seconds of 440 Hz, two
# seconds of nothing and two seconds from the media's fifth on (1320 Hz), the 440 Hz are heard for four seconds. No error is
# raised. An empty edit at the beginning is silence, and two edits without one between them are right.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check av==18.1.0 numpy==2.4.6
"$place/venv/bin/python" - "$place/sound.mp4" <<'PY'
import struct
import sys

import av
import numpy as np

path = sys.argv[1]
RATE = 48_000
seconds = np.arange(6 * RATE) / RATE
tone = np.sin(2 * np.pi * np.choose((seconds / 2).astype(int), [440, 880, 1320]) * seconds) / 2
with av.open(path, "w") as container:
    stream = container.add_stream("alac", rate=RATE, layout="mono")
    for start in range(0, len(tone), 4096):
        part = np.round(tone[None, start : start + 4096] * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(part, format="s16p", layout="mono")
        frame.sample_rate, frame.pts = RATE, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
with open(path, "rb") as file:
    plain = file.read()
INSIDE = (b"moov", b"trak", b"edts")


def with_edits(content, edits):
    """The boxes of a file with another edit list: (seconds, the media's second or None)."""
    made, at = b"", 0
    while at < len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        body = content[at + 8 : at + size]
        if kind in INSIDE:
            body = with_edits(body, edits)
        elif kind == b"elst":
            rows = [struct.pack(">Iii", 1000 * length, -1 if media is None else RATE * media, 1 << 16) for length, media in edits]
            body = struct.pack(">II", 0, len(rows)) + b"".join(rows)
        made += struct.pack(">I4s", 8 + len(body), kind) + body
        at += size
    return made


def heard(edits):
    """The pitch in the middle of every second; 0 where nothing is heard."""
    assert plain.index(b"mdat") < plain.index(b"moov")  # so the sound stays where it is
    with open(path, "wb") as file:
        file.write(with_edits(plain, edits))
    sound = np.zeros(8 * RATE)
    with av.open(path) as container:
        for frame in container.decode(audio=0):
            start = round(frame.time * RATE)
            part = frame.to_ndarray().ravel()[max(0, -start) :] / 32767
            sound[max(0, start) :][: len(part)] = part
    found = []
    for second in range(sum(length for length, _ in edits)):
        part = sound[second * RATE + RATE // 4 :][: RATE // 2]
        loud = np.abs(part).max() > 0.01
        found.append(2 * int(np.abs(np.fft.rfft(part)).argmax()) if loud else 0)
    return found


middle = heard([(2, 0), (2, None), (2, 4)])
beginning = heard([(2, None), (2, 0), (2, 4)])
none = heard([(2, 0), (2, 4)])
print(av.__version__, av.ffmpeg_version_info, "empty in the middle:", middle)
print("empty at the beginning:", beginning, "none empty:", none)
assert middle == [440, 440, 440, 440, 1320, 1320], middle
assert beginning == [0, 0, 440, 440, 1320, 1320], beginning
assert none == [440, 440, 1320, 1320], none
PY
