#!/usr/bin/env bash
# libsndfile 1.2.2, as soundfile 0.14.0 brings it: a stereo file of IMA ADPCM that it writes is marked as half as long. The chunk
# `fact` of WAV must hold the samples of one channel (Microsoft's "New Multimedia Data Types"), COMM of AIFF-C the packets of one.
# libsndfile divides both by the channels once more. It reads neither, so it finds its own files right. What trusts them tells
# half the length: of WAV tinytag 2.3.2 and MediaInfo 24.12, of AIFF-C FFmpeg 8.1.2 (PyAV 18.1.0), which decodes all of it. Seen: 5
# seconds are marked as 2.5. Mono and Microsoft's ADPCM are marked right, and so is stereo of IMA ADPCM as FFmpeg writes it.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check \
  soundfile==0.14.0 pymediainfo==7.0.1 tinytag==2.3.2 av==18.1.0 numpy==2.4.6
"$place/venv/bin/python" - "$place" <<'PY'
import struct
import sys

import av
import numpy as np
import soundfile
import tinytag
from pymediainfo import MediaInfo

place = sys.argv[1]
RATE, SECONDS = 44_100, 5


def marked(file):
    """The length that the header tells, in seconds."""
    with open(file, "rb") as opened:
        header = opened.read(100)
    if b"COMM" in header:
        start = header.index(b"COMM")
        return struct.unpack(">I", header[start + 10 : start + 14])[0] * 64 / RATE
    start = header.index(b"fact")
    return struct.unpack("<I", header[start + 8 : start + 12])[0] / RATE


def by_ffmpeg(file):
    """The length that FFmpeg tells, and the length of what it decodes, in seconds."""
    with av.open(file) as container:
        return container.duration / 1e6, sum(frame.samples for frame in container.decode(audio=0)) / RATE


def close(told, due):
    return abs(told - due) < 0.1


other = f"{place}/other.wav"
with av.open(other, "w") as container:
    stream = container.add_stream("adpcm_ima_wav", rate=RATE, layout="stereo")
    silence = av.AudioFrame.from_ndarray(np.zeros((2, SECONDS * RATE), np.int16), format="s16p", layout="stereo")
    silence.rate = RATE
    container.mux(stream.encode(silence))
    container.mux(stream.encode(None))
print(f"FFmpeg's WAV of IMA_ADPCM, 2 channels: marked as {marked(other):.2f} s")
assert close(marked(other), SECONDS), marked(other)

for container, subtype in (("WAV", "IMA_ADPCM"), ("WAV", "MS_ADPCM"), ("AIFF", "IMA_ADPCM")):
    for channels in (1, 2):
        path = f"{place}/sound.{container.lower()}"
        sound = np.random.default_rng(0).normal(size=(SECONDS * RATE, channels)) / 10
        soundfile.write(path, sound, RATE, subtype=subtype)
        told, decoded = by_ffmpeg(path)
        print(f"{soundfile.__libsndfile_version__} {container} {subtype}, {channels} channels:", end=" ")
        print(f"marked as {marked(path):.2f} s, FFmpeg tells {told:.2f} and decodes {decoded:.2f}", end="")
        assert close(soundfile.info(path).duration, SECONDS) and close(decoded, SECONDS), path
        due = SECONDS / 2 if (subtype, channels) == ("IMA_ADPCM", 2) else SECONDS
        assert close(marked(path), due), marked(path)
        if container == "AIFF":
            print()
            assert close(told, due), told
        else:
            others = tinytag.TinyTag.get(path).duration, MediaInfo.parse(path).audio_tracks[0].duration / 1000
            print(f", tinytag {others[0]:.2f}, MediaInfo {others[1]:.2f}")
            assert close(told, SECONDS) and close(others[0], due) and close(others[1], due), others
PY
