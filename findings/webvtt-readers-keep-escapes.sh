#!/usr/bin/env bash
# pysubs2 1.8.1 and webvtt-py 0.6.0: WebVTT must write "&" as "&amp;" and "<" as "&lt;". Both libraries give the escaped
# text as the cue's words, also where they give it without tags (`plaintext`, `text`), so a search for "R&B" misses "R&amp;B".
# pysubs2 writes them as they are into a SubRip file, where they mean nothing. FFmpeg 8.1.2 (PyAV 18.1.0) decodes them.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check pysubs2==1.8.1 webvtt-py==0.6.0 av==18.1.0
"$place/venv/bin/python" - "$place/film.vtt" <<'PY'
import sys

import av
import pysubs2
import webvtt

path = sys.argv[1]
with open(path, "w") as file:
    file.write("WEBVTT\n\n00:01.000 --> 00:02.000\n<i>R&amp;B</i> &lt;3\n")
with av.open(path) as container:
    ffmpeg = [subtitle.ass for packet in container.demux(subtitles=0) for subtitle in packet.decode()]
seen = {
    "FFmpeg": ffmpeg[0].decode().rpartition(",")[2],
    "pysubs2": pysubs2.load(path)[0].plaintext,
    "pysubs2 as SubRip": pysubs2.load(path).to_string("srt").splitlines()[2],
    "webvtt-py": webvtt.read(path)[0].text,
}
for key, value in seen.items():
    print(f"{key}: {value}")
assert seen["FFmpeg"] == r"{\i1}R&B{\i0} <3", seen
assert seen["pysubs2"] == seen["webvtt-py"] == "R&amp;B &lt;3", seen
assert seen["pysubs2 as SubRip"] == "<i>R&amp;B</i> &lt;3", seen
PY
