"""How soon the page is there, how much it moves while it comes, how large it is, and how soon it
shows what a keystroke finds: from the key to the frame that shows its hits. By Chromium's tracing.

    python -m bench.page [--count 100000] [--bundle bundles/default] [--keystrokes 120]

The collection has `--count` windows: noise around 2,000 directions. Debian's Chromium types
sentences into the page, a letter at a time, slowly enough for each to be searched. Everything runs
on one machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

from export.bundle import open_bundle
from index.library import Collections
from index.query_bank import list_queries
from index.records.database import NewItem

from .search import CHUNK, made
from .serve import served

# Marks in the trace when items or hits have been painted.
WATCH = """
const painted = (name) => requestAnimationFrame(() => setTimeout(() => performance.mark(name)));
const asked = window.fetch;
window.fetch = async (...args) => {
  const answer = await asked(...args);
  if (String(args[0]).endsWith("v1/search")) {
    const read = answer.json.bind(answer);
    answer.json = async () => {
      const found = await read();
      performance.mark("answer");
      painted("hits");
      return found;
    };
  }
  return answer;
};
new MutationObserver((_, watcher) => {
  if (!document.querySelector("#hits > li")) return;
  watcher.disconnect();
  painted("items");
}).observe(document, { childList: true, subtree: true });
"""
CATEGORIES = ["blink.user_timing", "devtools.timeline", "loading"]
OPENED = 20  # times that the page is opened, by a new browser each
SETTLES_MS = 500
PAUSE_MS = 400  # between keystrokes, so that each is searched for
Pair = tuple[float, float]


def fill(data: Path, bundle: Path, count: int) -> None:
    manifest = open_bundle(bundle).manifest
    collections = Collections(data, manifest.fingerprint, manifest.dims)
    box, x = collections.ensure("default"), made(count, manifest.dims["video"], 2)
    for at in range(0, count, CHUNK):
        rows = range(at, min(at + CHUNK, count))
        vectors = {n: {"video": ([0], x[n : n + 1])} for n in rows}
        box.put(
            [
                NewItem(
                    id=f"clip {n}",
                    kind="video",
                    duration_s=5.0,
                    windows=[(0.0, 5.0)],
                    vectors=vectors[n],
                    metadata={"shelf": n % 7},
                )
                for n in rows
            ]
        )
    while box.busy:
        time.sleep(0.2)
    collections.close()


@dataclass(frozen=True)
class Trace:
    """What Chromium's tracing has written, in the order of time. Times are in milliseconds."""

    events: list[dict[str, Any]]

    @classmethod
    def read(cls, written: bytes) -> Trace:
        events = json.loads(written)["traceEvents"]
        return cls(sorted(events, key=lambda event: event.get("ts", 0)))

    def times_ms(self, name: str, **data: str) -> list[float]:
        """When events of a name were, whose data say so."""
        found = [event for event in self.events if event["name"] == name]
        return [
            event["ts"] / 1000
            for event in found
            if data.items() <= event.get("args", {}).get("data", {}).items()
        ]

    def opened_ms(self) -> float:
        """When the page was asked for: its last navigation, as the browser begins more of them."""
        page = [
            event["ts"] / 1000
            for event in self.events
            if event["name"] == "navigationStart"
            and event["args"]["data"].get("documentLoaderURL", "").startswith("http")
        ]
        return page[-1]

    def moved(self) -> float:
        """How far what is shown was moved without anybody's doing."""
        shifts = [event["args"]["data"] for event in self.events if event["name"] == "LayoutShift"]
        return sum(shift["score"] for shift in shifts if not shift["had_recent_input"])

    def sent_bytes(self, address: str) -> int:
        """What came over the wire of the page itself: not of what it asks the service."""
        parts = set()
        for event in self.events:
            if event["name"] == "ResourceSendRequest":
                url = event["args"]["data"]["url"].removeprefix(address)
                if url == "/" or url.startswith("/page/"):
                    parts.add(event["args"]["data"]["requestId"])
        finished = [e["args"]["data"] for e in self.events if e["name"] == "ResourceFinish"]
        return sum(end["encodedDataLength"] for end in finished if end["requestId"] in parts)


@contextmanager
def traced(browser: Browser, page: Page) -> Iterator[list[Trace]]:
    """The trace of what is done meanwhile."""
    found: list[Trace] = []
    browser.start_tracing(page=page, categories=CATEGORIES)
    try:
        yield found
    finally:
        found.append(Trace.read(browser.stop_tracing()))


def open_page(browser: Browser, address: str) -> tuple[float, float, int]:
    """A browser that has not seen the page opens it: milliseconds until its first items are
    painted, how far what is shown was moved, and the bytes of the page.
    """
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script(WATCH)
    with traced(browser, page) as traces:
        page.goto(address)
        page.locator("#hits > li").first.wait_for()
        page.wait_for_timeout(SETTLES_MS)
    context.close()
    trace = traces[0]
    first_ms = trace.times_ms("items")[0] - trace.opened_ms()
    return first_ms, trace.moved(), trace.sent_bytes(address)


def type_sentences(browser: Browser, address: str, keystrokes: int) -> tuple[list[Pair], float]:
    """For each keystroke, milliseconds until the answer is there and until its hits are painted;
    and how far what is shown was moved.
    """
    page = browser.new_page()
    page.add_init_script(WATCH)
    page.goto(address)
    page.locator("#hits > li").first.wait_for()
    typed = 0
    with traced(browser, page) as traces:
        while typed < keystrokes:
            for letter in list_queries()[typed % len(list_queries())]:
                page.keyboard.type(letter)
                page.wait_for_timeout(PAUSE_MS)
                typed += 1
            page.locator("#words").fill("")
            page.wait_for_timeout(SETTLES_MS)
    page.close()
    trace = traces[0]
    keys, answers, hits = (
        np.array(times)
        for times in (
            trace.times_ms("EventDispatch", type="keydown"),
            trace.times_ms("answer"),
            trace.times_ms("hits"),
        )
    )
    pairs = []
    for key, following in zip(keys, [*keys[1:], np.inf], strict=True):
        answer = answers[(answers > key) & (answers < following)]
        shown = hits[(hits > key) & (hits < following)]
        if len(answer) and len(shown):  # a space at the end asks for nothing new
            pairs.append((answer[0] - key, shown[-1] - key))
    return pairs, trace.moved()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.page", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/default"))
    parser.add_argument("--keystrokes", type=int, default=120)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        fill(Path(place) / "data", args.bundle, args.count)
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        with served(args.bundle, Path(place) / "data", None) as port:
            address = f"http://127.0.0.1:{port}"
            open_page(browser, address)  # the collection is tagged when it is first asked for
            opened = [open_page(browser, address) for _ in range(OPENED)]
            pairs, moved = type_sentences(browser, address, args.keystrokes)
        browser.close()
    report(opened, pairs, moved, args.count)


def report(
    opened: list[tuple[float, float, int]], pairs: list[Pair], moved: float, count: int
) -> None:
    first_ms, moved_first, sent = np.array(opened).T
    answered_ms, shown_ms = np.array(pairs).T
    print(f"{count:,} windows, by Chromium's trace\n\n| | p50 | p95 |\n|---|---|---|")
    for name, times in (
        ("first items, ms", first_ms),
        ("keystroke to answer, ms", answered_ms),
        ("keystroke to hits on the screen, ms", shown_ms),
    ):
        p50, p95 = np.percentile(times, (50, 95))
        print(f"| {name} | {p50:.0f} | {p95:.0f} |")
    print(
        f"\nlayout shift: {moved_first.max():.3f} at most when opened, {moved:.3f} while"
        f" {len(pairs)} letters were typed\nthe page: {sent.max() / 1000:.0f} kB as sent"
    )


if __name__ == "__main__":
    main()
