#!/usr/bin/env bash
# FFmpeg 8.1.2 as PyAV 18.1.0 brings it: of ALAC in a CAF file it drops the end. The file says how many frames of its last
# packet are unused (mRemainderFrames in the chunk `pakt`). ALAC's last packet is short, so its decoder gives none of these.
# FFmpeg takes them off what was decoded once more. Seen: of two seconds, 1,912 samples are missing at 44,100 Hz and 768 at
# 16,000. At 48,000 Hz, where the packet has fewer samples than are to be dropped, none is. libsndfile 1.2.2 reads all.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check av==18.1.0 soundfile==0.14.0 numpy==2.4.6
"$place/venv/bin/python" - "$place/sine.caf" <<'PY'
import struct
import sys

import av
import numpy as np
import soundfile

path = sys.argv[1]
PACKET = 4096  # frames of a packet of ALAC
seen = {}
for rate in (16_000, 44_100, 48_000):
    sine = np.sin(np.arange(2 * rate) * 0.05) / 2
    soundfile.write(path, sine, rate, format="CAF", subtype="ALAC_16")
    with open(path, "rb") as file:
        content = file.read()
    valid, _, unused = struct.unpack_from(">qii", content, content.index(b"pakt") + 20)
    assert (valid, unused) == (2 * rate, -2 * rate % PACKET), (valid, unused)
    assert len(soundfile.read(path)[0]) == 2 * rate
    with av.open(path) as container:
        decoded = sum(frame.samples for frame in container.decode(audio=0))
    seen[rate] = unused, 2 * rate - decoded
    print(f"{rate} Hz: {unused} frames of the last packet are unused, FFmpeg lacks {2 * rate - decoded} of {2 * rate}")
print(av.__version__, av.ffmpeg_version_info, "libsndfile", soundfile.__libsndfile_version__)
assert seen == {16_000: (768, 768), 44_100: (1912, 1912), 48_000: (2304, 0)}, seen
PY
