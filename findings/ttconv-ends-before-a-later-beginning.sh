#!/usr/bin/env bash
# ttconv 1.2.3 (TTML and IMSC to SubRip and WebVTT): times in TTML count from the beginning of the element around them. Where
# a <div> or <body> has a beginning and no end, ttconv ends it that much too early: it gives it the last end of its children
# as they count, without its own beginning. Seen: cues at 1 to 2 and 2 to 4 seconds in a <div> that begins at 1 come out as
# 2 to 3 and 3 to 4, where 3 to 5 is due. If it begins at 10, none comes out, and no error is raised. With an end named, all
# are right.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check ttconv==1.2.3
"$place/venv/bin/python" - 2>/dev/null <<'PY'
import re
from importlib.metadata import version
from xml.etree import ElementTree

import ttconv.imsc.reader
import ttconv.srt.writer

TTML = """<tt xmlns="http://www.w3.org/ns/ttml" xml:lang="en"><body><div {times}>
<p begin="1s" end="2s">one</p><p begin="2s" end="4s">two</p></div></body></tt>"""


def cues(times):
    """The seconds at which each cue begins and ends in the SubRip file."""
    tree = ElementTree.ElementTree(ElementTree.fromstring(TTML.format(times=times)))
    subrip = ttconv.srt.writer.from_model(ttconv.imsc.reader.to_model(tree))
    found = re.findall(r"00:00:(\d\d),000 --> 00:00:(\d\d),000", subrip)
    return [(int(begin), int(end)) for begin, end in found]


seen = {times: cues(times) for times in ("", 'begin="1s"', 'begin="10s"', 'begin="10s" end="20s"')}
for times, found in seen.items():
    print(f"ttconv {version('ttconv')}, <div {times}>: {found}")
assert list(seen.values()) == [[(1, 2), (2, 4)], [(2, 3), (3, 4)], [], [(11, 12), (12, 14)]], seen
PY
