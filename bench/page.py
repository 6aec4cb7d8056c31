"""How soon the page is there, how much it moves while it comes, and how soon it shows what a
keystroke finds: from the request of a search to the frame that shows its hits.

    python -m bench.page [--count 100000] [--bundle bundles/default] [--keystrokes 120]

The collection has `--count` windows: noise around 2,000 directions. Debian's Chromium types
sentences into the page, a letter at a time, slowly enough for each to be searched. Everything runs
on one machine.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from export.bundle import open_bundle
from index.library import Collections
from index.query_bank import list_queries
from index.records.database import NewItem

from .search import CHUNK, made
from .serve import served

# Notes, for each search, when it was asked, when its answer was there and when its hits were
# painted.
WATCH = """
const asked = window.fetch;
window.seen = [];
window.fetch = async (...args) => {
  const began = performance.now();
  const answer = await asked(...args);
  if (String(args[0]).endsWith("v1/search")) {
    const read = answer.json.bind(answer);
    answer.json = async () => {
      const found = await read();
      const there = performance.now();
      const painted = () => window.seen.push([began, there, performance.now()]);
      requestAnimationFrame(() => setTimeout(painted));
      return found;
    };
  }
  return answer;
};
// How far what is shown was moved without anybody's doing, and when the first items were there.
window.moved = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.moved += entry.value;
}).observe({ type: "layout-shift", buffered: true });
new MutationObserver((_, watcher) => {
  if (!document.querySelector("#hits > li")) return;
  watcher.disconnect();
  requestAnimationFrame(() => setTimeout(() => (window.there = performance.now())));
}).observe(document, { childList: true, subtree: true });
"""
OPENED = 20  # times that the page is opened


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
            page = browser.new_page()
            page.add_init_script(WATCH)
            page.goto(f"http://127.0.0.1:{port}")
            page.locator("#hits > li").first.wait_for()
            first_views = []
            for _ in range(OPENED):
                page.reload()
                page.locator("#hits > li").first.wait_for()
                page.wait_for_timeout(500)
                first_views.append(page.evaluate("[window.there, window.moved]"))
            typed = 0
            while typed < args.keystrokes:
                for letter in list_queries()[typed % len(list_queries())]:
                    page.keyboard.type(letter)
                    page.wait_for_timeout(600)
                    typed += 1
                page.locator("#words").fill("")
            seen = np.array(page.evaluate("window.seen"))
            moved = page.evaluate("window.moved")
        browser.close()
    there_ms, moved_first = np.array(first_views).T
    print(
        f"first items after {np.percentile(there_ms, 50):.0f} ms (p50), "
        f"{np.percentile(there_ms, 95):.0f} ms (p95); "
        f"layout shift {moved_first.max():.3f} at first, {moved:.3f} while typing\n"
    )
    print(
        f"{len(seen)} searches of {args.count:,} windows, typed\n\n"
        "| from the request | p50, ms | p95, ms |\n"
        "|---|---|---|"
    )
    for name, times in (
        ("until the answer", seen[:, 1] - seen[:, 0]),
        ("until it is shown", seen[:, 2] - seen[:, 0]),
    ):
        p50, p95 = np.percentile(times, (50, 95))
        print(f"| {name} | {p50:.0f} | {p95:.0f} |")


if __name__ == "__main__":
    main()
