#!/usr/bin/env bash
# watchfiles 1.3.0 on Linux: where a name is not UTF-8, as on cards and shares of earlier systems, the first change to that file
# ends watch() with an error, and what else changed in the same moment is not told of. To watch again does not help where a
# folder has such a name: the look into it, by which watching begins, is a change too. Python itself has a str for any such
# name (os.fsdecode), and os.walk and open take it.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check watchfiles==1.3.0
mkdir "$place/files" "$place/folders"
"$place/venv/bin/python" - "$place" <<'PY'
import os
import sys
import threading
import time
from importlib.metadata import version

from watchfiles import watch


def watch_while(folder, change):
    """What watch() tells of while something is changed, or the error that ends it."""
    stop = threading.Event()
    told = []

    def run():
        try:
            for changes in watch(folder, stop_event=stop, watch_filter=None, rust_timeout=200, debounce=200):
                told.extend(os.path.basename(path) for _, path in changes)
        except RuntimeError as error:
            told.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(1)
    change()
    time.sleep(2)
    stop.set()
    thread.join()
    return told


def write(name):
    with open(os.path.join(place, name), "w") as file:
        file.write("sound")


place = sys.argv[1]
told = watch_while(f"{place}/files", lambda: write("files/plain.wav"))
print("watchfiles", version("watchfiles"), "a name in UTF-8:", told)
assert set(told) == {"plain.wav"}, told
odd = os.fsdecode(b"files/caf\xe9.wav")
(error,) = watch_while(f"{place}/files", lambda: (write("files/other.wav"), write(odd)))
print("one that is not:", error)
assert str(error).startswith("Unable to decode path"), error
os.mkdir(os.path.join(place, os.fsdecode(b"folders/caf\xe9")))
(error,) = watch_while(f"{place}/folders", lambda: None)
print("a folder of such a name, unchanged:", error)
assert str(error).startswith("Unable to decode path"), error
PY
