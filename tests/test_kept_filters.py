"""What filters leave is kept while nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.collection import Collection
from index.columns import Allowed
from index.records import kept_filters
from index.records.filters import compile_filter
from index.records.kept_filters import KeptFilters

from .makers import dims
from .test_index import cloud, item


def leaving(count: int) -> Allowed:
    return Allowed(np.arange(count))


def test_the_filter_asked_for_longest_ago_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_filters, "MOST", 3)
    kept = KeptFilters()
    few = leaving(2)
    for name in ("a", "b", "c"):
        kept.keep(name, few)
    assert kept.get("a") is few
    kept.keep("all", None)
    assert [name in kept for name in ("a", "b", "c", "all")] == [True, False, True, True]
    assert kept.get("all") is None and kept.get("b") is None
    kept.clear()
    assert "a" not in kept


def test_of_large_ones_fewer_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_filters, "LARGE", 10)
    monkeypatch.setattr(kept_filters, "MOST_LARGE", 2)
    kept = KeptFilters()
    kept.keep("small", leaving(10))
    for n in range(4):
        kept.keep(n, leaving(11))
    assert [n in kept for n in range(4)] == [False, False, True, True] and "small" in kept


def test_a_filter_is_answered_by_sql_once_however_much_it_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_filters, "LARGE", 5)
    box = Collection(tmp_path / "box", "f1", dims(8))
    box.put([item(f"i{n}", v, n=n) for n, v in enumerate(cloud(40, 8))])
    condition = compile_filter({"n": {"$lt": 30}})

    def left() -> Any:
        with box.hold_for_reading() as records:
            return records.matching(*condition, "video", records.window_table("video"))

    first = left()
    assert len(first) == 30 and left() is first
    box.delete("i7")
    assert len(left()) == 29
    box.close()
