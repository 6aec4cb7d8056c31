"""Shows the progress of long work: a bar on a terminal, elsewhere ten plain lines."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
LINES = 10


def show_progress(items: Iterable[Item], total: int, label: str, unit: str) -> Iterator[Item]:
    """Yield the items and show on stderr how many of `total` are done."""
    with tqdm(total=total, desc=label, unit=unit, disable=None) as bar:
        for done, item in enumerate(items, 1):
            bar.update()
            if bar.disable and (done == total or done % max(1, total // LINES) == 0):
                print(f"{label}: {done} of {total}", file=sys.stderr, flush=True)
            yield item
