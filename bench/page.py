"""How soon the page is there, how much it moves while it comes, how large it is, and how soon it
shows what a keystroke finds: from the key to the frame that shows its hits. By Chromium's tracing.

    python -m bench.page [--count 100000] [--bundle bundles/default] [--keystrokes 120]
        [--keep FOLDER]

The collection has `--count` windows in films of eight. Each window has the vectors of a window of
the sample library, picture and sound, with noise added, and a film has the picture of its first
one. So there are scores, tags and posters as in a library of recordings. `--keep` keeps the
collection for the next run.

Debian's Chromium types sentences into the page, a letter at a time, slowly enough for each to be
searched. Everything runs on one machine, and the times are those of the clock. Where others use the
machine, too, the seconds of processor time tell more.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from export.bundle import open_bundle
from index.collection import Collection
from index.library import Collections
from index.query_bank import list_queries
from index.records.item import NewItem

from .serve import ask, served

# Marks in the trace: when a key goes down, with its letter. When a search is asked for, with its
# number, when its answer is there, with the service's own times, when that is read, and when its
# hits have been painted. And when the first items have been.
WATCH = """
const painted = (name, detail) =>
  requestAnimationFrame(() => setTimeout(() => performance.mark(name, { detail })));
const asked = window.fetch;
let searches = 0;
window.addEventListener("keydown", ({ key, timeStamp }) => {
  performance.mark("key", { startTime: timeStamp, detail: { key } });
}, true);
window.fetch = async (...args) => {
  if (!String(args[0]).endsWith("v1/search")) return asked(...args);
  const search = ++searches;
  performance.mark("asked", { detail: { search } });
  const answer = await asked(...args);
  const took = answer.headers.get("server-timing");
  performance.mark("answer", { detail: { search, took } });
  const read = answer.json.bind(answer);
  answer.json = async () => {
    const found = await read();
    performance.mark("read", { detail: { search } });
    painted("hits", { search });
    return found;
  };
  return answer;
};
new MutationObserver((_, watcher) => {
  if (!document.querySelector("#hits > li")) return;
  watcher.disconnect();
  painted("items", {});
}).observe(document, { childList: true, subtree: true });
"""
CATEGORIES = ["blink.user_timing", "devtools.timeline", "loading"]
SEEDS = Path("sample/manifest.jsonl")
WINDOWS, WINDOW_S = 8, 5.0  # of a film
NOISE = 0.5  # the length of what is added to a unit vector
CHUNK = 500  # films that are written at once
OPENED = 10  # times that the page is opened, by a new browser each
SETTLES_MS = 500
PAUSE_MS = 400  # between keystrokes, so that each is searched for


# ---------------------------------------------------------------- the collection


def fill(data: Path, bundle: Path, count: int) -> None:
    """Write a collection of so many windows, unless it is there."""
    manifest = open_bundle(bundle).manifest
    collections = Collections(data, manifest.fingerprint, manifest.dims)
    try:
        box = collections.ensure("default")
        there, films = box.counts().items, count // WINDOWS
        seeds = read_seeds(bundle) if there < films else []
        for at in range(there, films, CHUNK):
            box.put([make_film(seeds, n) for n in range(at, min(at + CHUNK, films))])
        while box.busy:
            time.sleep(0.2)
    finally:
        collections.close()


def read_seeds(bundle: Path) -> list[NewItem]:
    """The films of the sample library that have pictures and sound."""
    manifest = open_bundle(bundle).manifest
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "index", "build", "--bundle", str(bundle)]
        subprocess.run([*command, "--data", place, str(SEEDS)], check=True, capture_output=True)
        collections = Collections(Path(place), manifest.fingerprint, manifest.dims)
        found = read_films(collections.get("default"))
        collections.close()
    return found


def read_films(collection: Collection) -> list[NewItem]:
    copies = [collection.copy_media(item.id) for item in collection.page(1000)]
    return [
        copy
        for copy in copies
        if copy is not None and copy.kind == "video" and "audio" in copy.vectors
    ]


def make_film(seeds: list[NewItem], n: int) -> NewItem:
    """A film whose windows are those of seeds, chosen by chance, with noise on their vectors."""
    random = np.random.default_rng(n)
    parts = [seeds[place] for place in random.integers(0, len(seeds), WINDOWS)]
    vectors = {}
    for encoding in ("video", "audio"):
        rows = np.concatenate([part.vectors[encoding][1][:1] for part in parts])
        vectors[encoding] = (list(range(WINDOWS)), with_noise(rows, random))
    return NewItem(
        id=f"film {n}",
        kind="video",
        duration_s=WINDOWS * WINDOW_S,
        windows=[(WINDOW_S * place, WINDOW_S * (place + 1)) for place in range(WINDOWS)],
        vectors=vectors,
        metadata={"shelf": n % 7},
        pictures={0: parts[0].pictures[min(parts[0].pictures)]},
        peaks=parts[0].peaks,
    )


def with_noise(rows: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Unit vectors [n, dim] near those of `rows` [n, dim]."""
    scale = NOISE / np.sqrt(rows.shape[1])
    noisy = rows + scale * random.normal(size=rows.shape)
    return np.asarray(noisy / np.linalg.norm(noisy, axis=1, keepdims=True), np.float32)


# ---------------------------------------------------------------- traces


@dataclass(frozen=True)
class Trace:
    """What Chromium's tracing has written, in the order of time. Times are in milliseconds."""

    events: list[dict[str, Any]]

    @classmethod
    def read(cls, written: bytes) -> Trace:
        events = json.loads(written)["traceEvents"]
        return cls(sorted(events, key=lambda event: event.get("ts", 0)))

    def named(self, name: str, **data: str) -> list[dict[str, Any]]:
        """Events of a name whose data say so."""
        return [
            event
            for event in self.events
            if event["name"] == name
            and data.items() <= event.get("args", {}).get("data", {}).items()
        ]

    def times_ms(self, name: str, **data: str) -> list[float]:
        return [event["ts"] / 1000 for event in self.named(name, **data)]

    def opened_ms(self) -> float:
        """When the page was asked for: its last navigation, as the browser begins more of them."""
        page = [
            event["ts"] / 1000
            for event in self.named("navigationStart")
            if event["args"]["data"].get("documentLoaderURL", "").startswith("http")
        ]
        return page[-1]

    def moved(self) -> float:
        """How far what is shown was moved without anybody's doing."""
        shifts = [event["args"]["data"] for event in self.named("LayoutShift")]
        return sum(shift["score"] for shift in shifts if not shift["had_recent_input"])

    def sent_bytes(self, address: str) -> int:
        """What came over the wire of the page itself: not of what it asks the service."""
        parts = set()
        for event in self.named("ResourceSendRequest"):
            url = event["args"]["data"]["url"].removeprefix(address)
            if url == "/" or url.startswith("/page/"):
                parts.add(event["args"]["data"]["requestId"])
        ends = [event["args"]["data"] for event in self.named("ResourceFinish")]
        return sum(end["encodedDataLength"] for end in ends if end["requestId"] in parts)


@contextmanager
def traced(browser: Browser, page: Page) -> Iterator[list[Trace]]:
    """The trace of what is done meanwhile."""
    found: list[Trace] = []
    browser.start_tracing(page=page, categories=CATEGORIES)
    try:
        yield found
    finally:
        found.append(Trace.read(browser.stop_tracing()))


# ---------------------------------------------------------------- opening the page


@dataclass(frozen=True)
class Opening:
    """The page opened once: milliseconds from asking for it, how far it moved, its bytes."""

    first_ms: float  # until anything is painted
    items_ms: float  # until the items of the library are
    largest_ms: float  # until the largest of what is shown is, a picture
    moved: float
    sent_bytes: int


def open_page(browser: Browser, context: BrowserContext, address: str) -> Opening:
    page = context.new_page()
    page.add_init_script(WATCH)
    with traced(browser, page) as traces:
        page.goto(address)
        page.locator("#hits > li").first.wait_for()
        page.wait_for_timeout(SETTLES_MS)
    page.close()
    trace = traces[0]
    opened_ms = trace.opened_ms()
    return Opening(
        first_ms=trace.times_ms("firstContentfulPaint")[-1] - opened_ms,
        items_ms=trace.times_ms("items")[0] - opened_ms,
        largest_ms=trace.times_ms("largestContentfulPaint::Candidate")[-1] - opened_ms,
        moved=trace.moved(),
        sent_bytes=trace.sent_bytes(address),
    )


def open_twice(browser: Browser, address: str) -> tuple[Opening, Opening]:
    """The page opened by a browser that has not seen it, and once more by the same."""
    context = browser.new_context()
    openings = open_page(browser, context, address), open_page(browser, context, address)
    context.close()
    return openings


# ---------------------------------------------------------------- keystrokes


@dataclass(frozen=True)
class Keystroke:
    """Where the time from a key to its hits goes, in milliseconds."""

    to_ask: float  # until the search is asked for
    in_service: float  # that the service says it took
    on_the_way: float  # the rest until its answer is there: connection, queues
    to_read: float  # until its JSON is read
    to_show: float  # until its hits are painted

    @property
    def whole(self) -> float:
        return self.to_ask + self.in_service + self.on_the_way + self.to_read + self.to_show


@dataclass(frozen=True)
class Search:
    """When a search was asked for, answered, read and shown, in milliseconds of the trace."""

    asked: float
    in_service: float  # that the service says it took
    answer: float
    read: float
    hits: float


def searches_of(trace: Trace) -> list[Search]:
    """In the order of asking. One that another has overtaken is not shown, but read."""
    marks: dict[int, dict[str, float]] = {}
    for name in ("asked", "answer", "read", "hits"):
        for event in trace.named(name):
            detail = json.loads(event["args"]["data"]["detail"])
            found = marks.setdefault(detail["search"], {})
            found[name] = event["ts"] / 1000
            if name == "answer":
                found["in_service"] = total_ms(detail["took"])
    return [Search(**found) for found in marks.values() if len(found) == len(fields(Search))]


def total_ms(server_timing: str) -> float:
    """What the header Server-Timing says of the whole request."""
    stages = dict(stage.split(";dur=") for stage in server_timing.split(", "))
    return float(stages["total"])


def keystrokes_of(trace: Trace) -> list[Keystroke]:
    """Those of a trace, each with the first search that has its letter. Spaces ask for nothing
    new, and other keys are not typed but pressed by the driver.
    """
    searches = searches_of(trace)
    found = []
    for event in trace.named("key"):
        key = event["ts"] / 1000
        with_it = next((search for search in searches if search.asked >= key), None)
        name = json.loads(event["args"]["data"]["detail"])["key"]
        if re.fullmatch(r"\S", name) and with_it is not None:
            found.append(split(key, with_it))
    return found


def split(key: float, search: Search) -> Keystroke:
    return Keystroke(
        to_ask=search.asked - key,
        in_service=search.in_service,
        on_the_way=search.answer - search.asked - search.in_service,
        to_read=search.read - search.answer,
        to_show=search.hits - search.read,
    )


def type_sentences(browser: Browser, address: str, count: int) -> Trace:
    """The trace of so many letters being typed, at least."""
    page = browser.new_page()
    page.add_init_script(WATCH)
    page.goto(address)
    page.locator("#hits > li").first.wait_for()
    page.wait_for_timeout(SETTLES_MS)
    typed = 0
    with traced(browser, page) as traces:
        for sentence in list_queries():
            for letter in sentence:
                page.keyboard.type(letter)
                page.wait_for_timeout(PAUSE_MS)
            page.locator("#words").fill("")
            page.wait_for_timeout(SETTLES_MS)
            typed += len(sentence)
            if typed >= count:
                break
    page.close()
    return traces[0]


def used_s(process: psutil.Process) -> float:
    """Processor time of a process and of those that it has started, in seconds."""
    every = [process, *process.children(recursive=True)]
    return sum(one.cpu_times().user + one.cpu_times().system for one in every)


def browser_process() -> psutil.Process:
    """Chromium, as this process's driver has started it."""
    every = psutil.Process().children(recursive=True)
    return next(one for one in every if "--remote-debugging-pipe" in one.cmdline())


# ---------------------------------------------------------------- all of it


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.page", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/default"))
    parser.add_argument("--keystrokes", type=int, default=120)
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        data = args.keep or Path(place)
        fill(data, args.bundle, args.count)
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        with served(args.bundle, data, None) as (port, service):
            began = time.perf_counter()
            ask(port, "GET", "/v1/collections/default/tags")
            print(f"tags, asked for first: {time.perf_counter() - began:.1f} s")
            measure(browser, f"http://127.0.0.1:{port}", service, args)
        browser.close()


def measure(
    browser: Browser, address: str, service: psutil.Process, args: argparse.Namespace
) -> None:
    openings = [open_twice(browser, address) for _ in range(OPENED)]
    sides = {"service": service, "browser": browser_process()}
    before = {name: used_s(process) for name, process in sides.items()}
    trace = type_sentences(browser, address, args.keystrokes)
    spent = {name: used_s(process) - before[name] for name, process in sides.items()}
    keystrokes = keystrokes_of(trace)
    print(f"{args.count:,} windows, by Chromium's trace\n\n| ms | p50 | p95 |\n|---|---|---|")
    for name, both in zip(("", ", seen before"), zip(*openings, strict=True), strict=True):
        report(f"first paint{name}", [each.first_ms for each in both])
        report(f"first items{name}", [each.items_ms for each in both])
        report(f"largest picture{name}", [each.largest_ms for each in both])
    report("keystroke to hits", [each.whole for each in keystrokes])
    for part in ("to_ask", "in_service", "on_the_way", "to_read", "to_show"):
        report(f"of it {part}", [getattr(each, part) for each in keystrokes])
    for name, seconds in spent.items():
        print(
            f"processor time of the {name}: {1000 * seconds / len(keystrokes):.0f} ms a keystroke"
        )
    most = max(each.moved for both in openings for each in both)
    print(
        f"layout shift: {most:.3f} at most when opened, {trace.moved():.3f} while"
        f" {len(keystrokes)} letters were typed\n"
        f"the page: {max(first.sent_bytes for first, _ in openings) / 1000:.0f} kB as sent,"
        f" {max(again.sent_bytes for _, again in openings) / 1000:.0f} kB where it was seen before"
    )


def report(name: str, times_ms: list[float]) -> None:
    p50, p95 = np.percentile(times_ms, (50, 95))
    print(f"| {name} | {p50:.0f} | {p95:.0f} |")


if __name__ == "__main__":
    main()
