#!/usr/bin/env bash
# pysubs2 1.8.1 on valid WebVTT: a last line of digits ("The year was / 1984") is dropped where the next cue has no
# identifier of its own, for it is taken for the next cue's number. An identifier that is not a number, and a NOTE block,
# which the standard keeps from viewers, become words of the cue before them. No warning is given. The same cue in SubRip
# keeps its number. webvtt-py 0.6.0 reads the same file right.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check pysubs2==1.8.1 webvtt-py==0.6.0
"$place/venv/bin/python" - <<'PY'
from importlib.metadata import version

import pysubs2
import webvtt

WEBVTT = """WEBVTT

00:01.000 --> 00:02.000
The year was
1984

00:03.000 --> 00:04.000
Goodbye

NOTE
not checked yet

00:05.000 --> 00:06.000
Or not

last
00:07.000 --> 00:08.000
The end
"""
SUBRIP = """1
00:00:01,000 --> 00:00:02,000
The year was
1984

2
00:00:03,000 --> 00:00:04,000
Goodbye
"""
seen = [event.plaintext for event in pysubs2.SSAFile.from_string(WEBVTT)]
subrip = [event.plaintext for event in pysubs2.SSAFile.from_string(SUBRIP)]
other = [caption.text for caption in webvtt.from_string(WEBVTT)]
print("pysubs2", version("pysubs2"), "WebVTT:", seen)
print("pysubs2", version("pysubs2"), "SubRip:", subrip)
print("webvtt-py", version("webvtt-py"), "WebVTT:", other)
assert seen == ["The year was", "Goodbye\n\nNOTE\nnot checked yet", "Or not\n\nlast", "The end"], seen
assert subrip == ["The year was\n1984", "Goodbye"], subrip
assert other == ["The year was\n1984", "Goodbye", "Or not", "The end"], other
PY
