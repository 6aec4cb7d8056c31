#!/usr/bin/env bash
# pycaption 2.3.14: its reader of TTML (DFXPReader) knows the times of <p> alone. Times in TTML count from the beginning of the
# element around them. A beginning of <div> or <body> is passed over, so every caption is that much too early. The times of
# <span>, by which words of a caption come one after another, are passed over, too: all words stand there from the first
# moment to the last. No warning is given. Seen: 1 to 4 seconds where 11 to 14 is due. ttconv 1.2.3 reads the same file right.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check pycaption==2.3.14 ttconv==1.2.3
"$place/venv/bin/python" -W ignore - 2>/dev/null <<'PY'
import re
from importlib.metadata import version
from xml.etree import ElementTree

import pycaption
import ttconv.imsc.reader
import ttconv.srt.writer

TTML = """<tt xmlns="http://www.w3.org/ns/ttml" xml:lang="en"><body><div{times}>
<p begin="1s" end="4s"><span{first}>one </span><span{second}>two</span></p></div></body></tt>"""
CASES = {
    "plain": TTML.format(times="", first="", second=""),
    "div": TTML.format(times=' begin="10s" end="20s"', first="", second=""),
    "span": TTML.format(times="", first=' end="1s"', second=' begin="1s"'),
}
seen, other = {}, {}
for name, content in CASES.items():
    captions = pycaption.DFXPReader().read(content).get_captions("en")
    seen[name] = [(caption.start // 10**6, caption.end // 10**6, caption.get_text()) for caption in captions]
    tree = ElementTree.ElementTree(ElementTree.fromstring(content))
    subrip = ttconv.srt.writer.from_model(ttconv.imsc.reader.to_model(tree))
    found = re.findall(r"00:00:(\d\d),000 --> 00:00:(\d\d),000\n(.*)", subrip)
    other[name] = [(int(begin), int(end), text.strip()) for begin, end, text in found]
    print(f"{name}: pycaption {version('pycaption')} {seen[name]}, ttconv {version('ttconv')} {other[name]}")
whole = [(1, 4, "one two")]
assert seen == {"plain": whole, "div": whole, "span": whole}, seen
assert other == {"plain": whole, "div": [(11, 14, "one two")], "span": [(1, 2, "one"), (2, 4, "two")]}, other
PY
