#!/usr/bin/env bash
# decord2 3.4.0, the kept-up version of decord: where H.264 has B-frames, reader[index] may be another frame than the one asked
# for, and no error is raised. An MPEG-TS file, as broadcasters and cameras write it, is read from its second key frame on, and
# the last frame fills the rest; a message calls these corrupted. Open groups (B-frames before a key frame that refer to the
# group before) are wrong in MP4 and Matroska, too, unless all frames are read in turn: get_key_indices() has places in decoding
# order. The length and get_frame_timestamp() are right. Seen with 30 frames in groups of ten: of TS frames 10 to 29 and ten
# times 29. Of open groups, frames 9, 10 and 11 are 10, 11 and 12 in MP4, and 0, 1 and 2 in Matroska. FFmpeg 8.1.2 (PyAV 18.1.0)
# decodes all 30 of each.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check decord2==3.4.0 av==18.1.0 numpy==2.4.6
"$place/venv/bin/python" - "$place" <<'PY'
import sys
from importlib.metadata import version

import av
import decord
import numpy as np

decord.logging.set_level(decord.logging.QUIET)
place = sys.argv[1]
COUNT = 30
right = list(range(COUNT))


def write(path, options):
    """A film of 30 frames in groups of ten. Each frame is a little lighter than the one before."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"qp": "5", **options})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.gop_size = 10
        for shown in right:
            grey = np.full((64, 64, 3), 8 * shown + 4, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode(None))


def number(picture):
    return round((int(picture[32, 32, 0]) - 4) / 8)


none, closed, opened = {"bf": "0"}, {"bf": "2"}, {"bf": "3", "x264-params": "open-gop=1"}
late = right[10:] + 10 * [29]
mp4 = [*right[:9], 10, 11, 12, *right[12:19], 20, 21, 22, *right[22:]]
mkv = [*right[:9], 0, 1, 2, *right[12:19], 10, 11, 12, *right[22:]]
for name, options, endings in (
    ("no B-frames", none, {"ts": (right, right)}),
    ("B-frames", closed, {"ts": (late, None), "mp4": (right, right), "mkv": (right, right)}),
    ("B-frames, open groups", opened, {"ts": (late, None), "mp4": (right, mp4), "mkv": (right, mkv)}),
):
    for ending, (due_in_turn, due_alone) in endings.items():
        path = f"{place}/film.{ending}"
        write(path, options)
        with av.open(path) as container:
            frames = list(container.decode(video=0))
        assert [number(frame.to_ndarray(format="rgb24")) for frame in frames] == right
        assert [index for index, frame in enumerate(frames) if frame.key_frame] == [0, 10, 20]
        reader = decord.VideoReader(path)
        assert len(reader) == COUNT
        assert np.allclose(reader.get_frame_timestamp(right)[:, 0], np.arange(COUNT) / 10)
        keys = [int(index) for index in reader.get_key_indices()]
        in_turn = [number(reader[index].asnumpy()) for index in right]
        alone = [number(decord.VideoReader(path)[index].asnumpy()) for index in right]
        print(f"decord2 {version('decord2')}, {ending}, {name}: key frames at {keys}\n  in turn {in_turn}\n  alone   {alone}")
        assert keys == ([0, 9, 19] if options is opened else [0, 10, 20]), keys
        assert in_turn == due_in_turn, in_turn
        assert alone == due_alone or due_alone is None and alone[:19] != right[:19], alone
PY
