"""Search on the page in Firefox, driven by WebDriver BiDi, which it speaks itself.

    build/foreign/bin/python tests/foreign/firefox.py FIREFOX PROFILE ADDRESS WORDS

prints as JSON the headings that it sees, whether the first picture is shown, what is said of the
first hit once it plays at an address of its own, whether a step back leads to the hits, and what
the console said. `PROFILE` is an empty folder. Run by
tests/test_foreign.py.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

PATIENCE_S = 30.0
HEADINGS = "[...document.querySelectorAll('#hits h2')].map(h => h.textContent)"
PICTURE = "(document.querySelector('#hits .cover img')?.naturalWidth ?? 0) > 1"
PLAYS = "(document.querySelector('#item video')?.currentTime ?? 0) > 0.2"
NOTE = "document.querySelector('#item .note').textContent.trim()"
FOUND = "/moment/.test(document.querySelector('#status').textContent)"
READY = "document.querySelector('#collection')?.textContent.includes('default') ?? false"


class Firefox:
    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)
        self.said: list[str] = []
        self._tab = ""
        self.ask("session.new", capabilities={})
        self.ask("session.subscribe", events=["log.entryAdded"])
        tabs = self.ask("browsingContext.getTree")["contexts"]
        self._tab = tabs[0]["context"]

    def ask(self, method: str, **params: Any) -> Any:
        """A command's result. What the console says meanwhile is kept."""
        id = next(self._ids)
        self._connection.send(json.dumps({"id": id, "method": method, "params": params}))
        while True:
            message = json.loads(self._connection.recv(timeout=PATIENCE_S))
            if message.get("method") == "log.entryAdded":
                entry = message["params"]
                ours = entry["source"].get("context") == self._tab
                if ours and entry["level"] in ("error", "warn"):
                    self.said.append(f"{entry['level']}: {entry['text']}")
            if message.get("id") == id:
                if message["type"] == "error":
                    raise RuntimeError(f"{method}: {message['error']}: {message['message']}")
                return message["result"]

    def open(self, address: str) -> None:
        self.ask("browsingContext.navigate", context=self._tab, url=address, wait="complete")

    def value(self, expression: str) -> Any:
        """What an expression gives in the page, by way of JSON."""
        result = self.ask(
            "script.evaluate",
            expression=f"JSON.stringify({expression})",
            target={"context": self._tab},
            awaitPromise=True,
        )
        return json.loads(result["result"]["value"])

    def wait(self, truth: str) -> bool:
        """Whether an expression becomes true."""
        end = time.monotonic() + PATIENCE_S
        while not self.value(truth):
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True

    def type(self, words: str) -> None:
        strokes = [
            {"type": kind, "value": letter} for letter in words for kind in ("keyDown", "keyUp")
        ]
        keyboard = {"type": "key", "id": "keyboard", "actions": strokes}
        self.ask("input.performActions", context=self._tab, actions=[keyboard])

    def click(self, selector: str) -> None:
        """Click in the middle of an element, as a person does."""
        self.value(f"document.querySelector({selector!r}).scrollIntoView() ?? true")
        box = self.value(f"document.querySelector({selector!r}).getBoundingClientRect()")
        x, y = round(box["x"] + box["width"] / 2), round(box["y"] + box["height"] / 2)
        strokes: list[dict[str, Any]] = [{"type": "pointerMove", "x": x, "y": y}]
        strokes += [{"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp")]
        mouse = {"type": "pointer", "id": "mouse", "actions": strokes}
        self.ask("input.performActions", context=self._tab, actions=[mouse])


@contextmanager
def running(program: str, profile: Path) -> Iterator[Firefox]:
    command = [program, "--headless", "--no-remote", "--profile", str(profile)]
    log = profile / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--remote-debugging-port", "0"], stdout=output, stderr=output
        )
    try:
        with connect(f"{where_it_listens(process, log)}/session", proxy=None) as connection:
            yield Firefox(connection)
    finally:
        process.terminate()
        process.wait(30)


def where_it_listens(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < end:
        found = re.search(r"WebDriver BiDi listening on (ws://\S+)", log.read_text("utf-8"))
        if found:
            return found[1]
        time.sleep(0.1)
    raise RuntimeError(f"Firefox does not listen: {log.read_text('utf-8')}")


if __name__ == "__main__":
    program, profile, address, words = sys.argv[1:]
    with running(program, Path(profile)) as firefox:
        firefox.open(address)
        firefox.wait(READY)
        firefox.value("document.querySelector('[type=search]').focus() ?? true")
        firefox.type(words)
        # before a search, the page shows what is there
        firefox.wait(f"location.search.includes({words!r}) && {FOUND}")
        seen = firefox.wait(PICTURE)
        found = {"headings": firefox.value(HEADINGS), "picture": seen}
        firefox.click("#hits .cover")
        found["plays"] = firefox.wait(PLAYS)
        found |= {"note": firefox.value(NOTE), "address": firefox.value("location.search")}
        firefox.value("history.back() ?? true")
        found["back"] = firefox.wait(f"document.querySelector('#item').hidden && {FOUND}")
        found["said"] = firefox.said
    print(json.dumps(found))
