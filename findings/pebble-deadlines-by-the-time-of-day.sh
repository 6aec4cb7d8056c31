#!/usr/bin/env bash
# pebble 5.2.3: a deadline (`timeout`) of a ProcessPool's task is counted by the time of day, time.time(), and not by a monotonic
# clock. When the clock is set forward, or the machine wakes from sleep, a task ends early; when it is set back, late. Seen, with
# a clock that is moved by an hour half a second after the task began (simulated: time.time() of the pool's process is replaced):
# of tasks of two seconds, one that may take 60 s raises TimeoutError within two seconds, and one that may take one second is
# never ended and gives its result. With a clock that is left alone both are right.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check pebble==5.2.3
cat > "$place/deadlines.py" <<'PY'
import time
from concurrent.futures import TimeoutError
from importlib.metadata import version

from pebble import ProcessPool

real = time.time


def work():
    time.sleep(2)
    return "done"


def run(timeout_s, moved_by_s):
    """What a task of two seconds gives, and after how long."""
    with ProcessPool(max_workers=1) as pool:
        pool.schedule(int).result()  # a worker is there
        began = time.monotonic()
        future = pool.schedule(work, timeout=timeout_s)
        time.sleep(0.5)
        time.time = lambda: real() + moved_by_s
        try:
            found = future.result()
        except TimeoutError:
            found = "TimeoutError"
        took_s = time.monotonic() - began
        time.time = real
    return found, took_s


if __name__ == "__main__":
    print("pebble", version("pebble"))
    for timeout_s, moved_by_s, expected in (
        (60, 0, "done"),
        (1, 0, "TimeoutError"),
        (60, 3600, "TimeoutError"),  # right: done
        (1, -3600, "done"),  # right: TimeoutError
    ):
        found, took_s = run(timeout_s, moved_by_s)
        print(f"may take {timeout_s} s, clock moved by {moved_by_s} s: {found} after {took_s:.1f} s")
        assert found == expected, (timeout_s, moved_by_s, found)
        assert found == "done" or took_s < 2, took_s
PY
"$place/venv/bin/python" "$place/deadlines.py"
