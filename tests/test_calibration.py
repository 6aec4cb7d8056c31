"""What a score means: confidence, the Gumbel fit, and how a route's calibration is measured."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from index.calibration import (
    ASKED,
    HALF_MEAN,
    HALF_WIDTH,
    LEAST_ASKED,
    LEAST_SCALE,
    LEAST_WINDOWS,
    NEAR,
    Calibration,
    calibrate,
    fit_gumbel,
    gumbel_quantile,
)
from index.query_bank import EVERYDAY, RARE, ensure_query_bank, list_queries
from index.records.database import Records
from index.records.item import NewItem
from index.records.window_table import PLACE, WindowTable
from index.vectors.base import Found
from index.vectors.faiss_index import FaissIndex
from service.settings import Settings
from service.state import open_data, prepare_searches

from .makers import ROOT, FakeEncoder

Array = NDArray[np.float32]


def test_quantiles_of_the_gumbel_distribution() -> None:
    """The share p lies below -ln(-ln p): at e^-1 that is 0, at one half 0.3665."""
    assert gumbel_quantile(math.exp(-1)) == pytest.approx(0.0)
    assert gumbel_quantile(0.5) == pytest.approx(0.36651292)
    assert gumbel_quantile(0.985) == pytest.approx(4.19215778)


def test_confidence_by_worked_out_values() -> None:
    """One half at `non_match`, 0.985 at `good`, and Gumbel's distribution beyond both."""
    known = Calibration(typical=0.0, non_match=0.2, good=0.4)
    assert known.confidence(0.2) == pytest.approx(0.5)
    assert known.confidence(0.4) == pytest.approx(0.985)
    # halfway 2.27934: exp(-exp(-2.27934)); as far again, 8.01780 and -3.45913
    assert known.confidence(0.3) == pytest.approx(0.90271, abs=1e-4)
    assert known.confidence(0.6) == pytest.approx(0.99967, abs=1e-4)
    assert known.confidence(0.0) == pytest.approx(0.0, abs=1e-9)
    # where exp() itself would overflow
    assert known.confidence(-1e6) == 0.0 and known.confidence(1e6) == 1.0


def test_the_shortest_half_says_where_the_rest_lies() -> None:
    """Of 7 numbers the 4 that lie closest are 1, 1.1, 1.3 and 1.5: 0.5 wide, 1.225 their mean."""
    values = np.array([9.0, 1.0, 1.3, 0.0, 1.1, 1.5, 5.0])
    mode, scale = fit_gumbel(values)
    assert scale == pytest.approx(0.5 / 1.4824)
    assert mode == pytest.approx(1.225 - 0.08373 * scale)
    # of an even count, one more than half
    mode, scale = fit_gumbel(np.array([0.0, 2.0, 2.5, 9.0]))
    assert scale == pytest.approx(2.5 / 1.4824)
    assert mode == pytest.approx(1.5 - 0.08373 * scale)


def test_outliers_of_less_than_half_change_nothing() -> None:
    spread = np.linspace(0.1, 0.2, 60)
    alone = fit_gumbel(np.concatenate([spread, np.full(40, 7.0) + np.arange(40)]))
    farther = fit_gumbel(np.concatenate([spread, np.full(40, 900.0) + np.arange(40)]))
    assert alone == farther


@dataclass
class FakeBanks:
    """Queries for "text", everyday and rare ones."""

    everyday: Array
    unmatched: Array

    def queries(self, encoding: str, dim: int) -> Array:
        return self.everyday if encoding == "text" else np.empty((0, dim), np.float32)

    def rare(self, encoding: str, dim: int) -> Array:
        return self.unmatched if encoding == "text" else np.empty((0, dim), np.float32)


@dataclass
class FakeRecords:
    """A bank of queries for "text"; vectors of "video" by their ids, and the items they are of."""

    queries: Array
    vectors: Array
    owners: list[int]
    unmatched: Array = field(default_factory=lambda: np.empty((0, 2), np.float32))

    @property
    def banks(self) -> FakeBanks:
        return FakeBanks(self.queries, self.unmatched)

    def vectors_among(
        self, encoding: str, dim: int, most: int, seed: int = 0
    ) -> tuple[NDArray[np.int64], Array]:
        assert most == ASKED
        ids = np.arange(1, len(self.vectors) + 1)[:most]
        return ids, self.vectors[ids - 1]

    def window_table(self, encoding: str) -> WindowTable:
        table = WindowTable()
        if encoding == "video":
            ids = np.arange(1, len(self.vectors) + 1)
            table.append_columns(ids, np.array(self.owners), np.zeros(len(ids), PLACE))
        return table


class AskedIndex(FaissIndex):
    """An exact index that notes how many hits it is asked for."""

    def __init__(self, vectors: Array) -> None:
        super().__init__(vectors.shape[1], "exact")
        self.add(np.arange(1, len(vectors) + 1), vectors)
        self.asked: list[int] = []

    def search(self, query: Array, k: int, **options: Any) -> Found:
        self.asked.append(k)
        return super().search(query, k, **options)


def measure(records: FakeRecords, source: str, sample: Array | None = None) -> Any:
    index = AskedIndex(records.vectors)
    sample = records.vectors if sample is None else sample
    places = records.window_table("video")
    measured = calibrate(cast(Records, records), index, places, sample, source)
    return measured, index.asked


def on_circle(degrees: NDArray[Any]) -> Array:
    turns = np.deg2rad(degrees)
    return np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)


def test_a_route_is_measured_by_its_bank() -> None:
    """Windows at 0, 1, ... 59 degrees; queries at 60, 61, ... 79: the best is 59 for each."""
    windows, queries = on_circle(np.arange(60)), on_circle(np.arange(60, 80))
    measured, asked = measure(FakeRecords(queries, windows, list(range(60))), "text")
    assert asked == [1] * 20
    assert measured.popular.tolist() == [60]
    assert measured.bank.tolist() == queries.tolist()
    best = np.cos(np.deg2rad(np.arange(60, 80) - 59))
    mode, scale = fit_gumbel(best)
    assert scale > LEAST_SCALE
    known = measured.calibration
    assert known.typical == pytest.approx(float((queries @ windows.T).mean()), abs=1e-6)
    assert known.non_match == pytest.approx(mode + 0.36651292 * scale, abs=1e-5)
    assert known.good == pytest.approx(mode + 4.19215778 * scale, abs=1e-5)


def test_rare_queries_tell_what_a_non_match_is() -> None:
    """Everyday ones at 30 to 49 degrees find windows there. Rare ones lie ten degrees and more from
    all: their best scores count, and what the others find is popular.
    """
    windows, queries = on_circle(np.arange(60)), on_circle(np.arange(30, 50))
    rare = on_circle(np.arange(69, 89))
    records = FakeRecords(queries, windows, list(range(60)), rare)
    measured, asked = measure(records, "text")
    assert asked == [1] * 40
    assert measured.popular.tolist() == list(range(31, 51))
    assert measured.bank.tolist() == queries.tolist()
    mode, scale = fit_gumbel(np.cos(np.deg2rad(np.arange(69, 89) - 59)))
    assert measured.calibration.good == pytest.approx(mode + 4.19215778 * scale, abs=1e-5)
    assert measured.calibration.typical == pytest.approx((queries @ windows.T).mean(), abs=1e-6)


def test_scores_that_hardly_differ_are_spread_a_little() -> None:
    """Twenty times the same query: no spread at all, of which 0.005 is made."""
    windows, queries = on_circle(np.arange(60)), on_circle(np.full(20, 69))
    known = measure(FakeRecords(queries, windows, list(range(60))), "text")[0].calibration
    best = math.cos(math.radians(10))
    assert known.non_match == pytest.approx(best + 0.36651292 * 0.005, abs=1e-6)
    assert known.good == pytest.approx(best + 4.19215778 * 0.005, abs=1e-6)


@pytest.mark.parametrize(
    ("size", "used"), [(63, 63), (64, 64), (65, 33), (128, 64), (129, 43), (193, 49)]
)
def test_a_long_bank_is_thinned_evenly(size: int, used: int) -> None:
    """Every second of 65 queries, every third of 129, so that at most 64 are asked."""
    queries = on_circle(np.linspace(60, 90, size))
    measured, asked = measure(FakeRecords(queries, on_circle(np.arange(60)), [1] * 60), "text")
    assert len(asked) == len(measured.bank) == used
    assert measured.bank.tolist() == queries[:: -(-size // 64)].tolist()


@pytest.mark.parametrize(
    ("windows", "queries", "enough"),
    [(50, 16, True), (49, 16, False), (50, 15, False), (49, 15, False)],
)
def test_too_little_to_tell(windows: int, queries: int, enough: bool) -> None:
    assert (LEAST_WINDOWS, LEAST_ASKED) == (50, 16)
    vectors = on_circle(np.arange(windows))
    records = FakeRecords(on_circle(np.arange(60, 60 + queries)), vectors, [1] * windows)
    assert (measure(records, "text")[0] is not None) == enough


def test_without_a_bank_a_collection_asks_itself() -> None:
    """Thirty items of two windows each, at 3 n and 3 n + 1 degrees. The best window of another
    item lies two degrees away, but three from the very first window and from the very last.
    """
    degrees = np.array([3 * n + part for n in range(30) for part in (0, 1)])
    owners = [n for n in range(30) for _ in range(2)]
    nothing = np.empty((0, 2), np.float32)
    measured, asked = measure(FakeRecords(nothing, on_circle(degrees), owners), "video")
    assert asked == [NEAR] * 60
    # the first window of an item finds the second of the one before, and the other way round
    popular = {2 * n + 2 for n in range(29)} | {2 * n + 1 for n in range(1, 30)}
    assert set(measured.popular.tolist()) == popular
    known = measured.calibration
    # 58 of 60 scores are the same: the shortest half has no width
    best = math.cos(math.radians(2))
    assert known.non_match == pytest.approx(best + 0.36651292 * 0.005, abs=1e-5)
    assert known.good == pytest.approx(best + 4.19215778 * 0.005, abs=1e-5)


def test_windows_that_are_gone_are_no_findings() -> None:
    """An index that still has vectors which the table does not know."""
    records = FakeRecords(np.empty((0, 2), np.float32), on_circle(np.arange(60)), list(range(60)))
    index, places = AskedIndex(records.vectors), WindowTable()
    places.append_columns(np.arange(1, 31), np.arange(30), np.zeros(30, PLACE))
    measured = calibrate(cast(Records, records), index, places, records.vectors, "video")
    assert measured is not None and set(measured.popular.tolist()) <= set(range(1, 31))


def test_an_item_alone_finds_nothing() -> None:
    """All windows are of one item: none of another is found, and nothing can be told."""
    nothing = np.empty((0, 2), np.float32)
    measured, _ = measure(FakeRecords(nothing, on_circle(np.arange(60)), [7] * 60), "video")
    assert measured is None


def test_each_item_finds_its_nearest() -> None:
    """Sixty items of one window each, ever farther apart: each finds the one before, the first the
    second.
    """
    n = np.arange(60)
    nothing = np.empty((0, 2), np.float32)
    records = FakeRecords(nothing, on_circle(n + 0.01 * n**2), list(range(60)))
    assert measure(records, "video")[0].popular.tolist() == list(range(1, 60))


def test_an_empty_collection_is_too_little_to_tell() -> None:
    nothing = np.empty((0, 2), np.float32)
    assert measure(FakeRecords(nothing, nothing, []), "video") == (None, [])


def test_the_shortest_half_of_a_gumbel_distribution() -> None:
    """The constants, by trying every interval that holds half of it."""
    below = np.linspace(0.0001, 0.4999, 500_000)
    widths = -np.log(-np.log(below + 0.5)) + np.log(-np.log(below))
    best = widths.argmin()
    within = np.linspace(below[best], below[best] + 0.5, 1_000_001)
    assert widths[best] == pytest.approx(HALF_WIDTH, abs=1e-5)
    assert (-np.log(-np.log(within))).mean() == pytest.approx(HALF_MEAN, abs=1e-5)


def test_matches_do_not_move_what_a_non_match_is() -> None:
    """A third of the queries match something: the mode stays that of the others. The shortest half
    of all holds three quarters of the others, so the scale is less than twice theirs.
    """
    random = np.random.default_rng(0)
    others = random.gumbel(0.2, 0.02, 20_000)
    mode, scale = fit_gumbel(np.concatenate([others, random.normal(0.8, 0.05, 10_000)]))
    assert mode == pytest.approx(0.2, abs=0.01)
    assert 0.02 < scale < 0.04


def test_what_scores_mean_is_measured_before_the_first_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a service does when it starts: the first search measures nothing."""
    encoder = FakeEncoder()
    collections = open_data(Settings(data=tmp_path / "data"), encoder)
    box = collections.get("default")
    vectors = np.random.default_rng(0).normal(size=(LEAST_WINDOWS, box.dims["video"]))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    places = [(float(n), n + 1.0) for n in range(LEAST_WINDOWS)]
    found = {"video": (list(range(LEAST_WINDOWS)), vectors.astype(np.float32))}
    box.put([NewItem(id="a", kind="video", duration_s=9.0, windows=places, vectors=found)])
    prepare_searches(collections, encoder.manifest)

    def refuse(*_: object) -> None:
        raise AssertionError("it is measured anew")

    monkeypatch.setattr("index.collection.calibrate", refuse)
    (route,) = encoder.manifest.routes(["text"], "any")
    with box.hold_for_reading():
        assert box.route_stats(route.encodings["text"], route.target) is not None
    collections.close()


def test_a_bank_of_an_earlier_version_is_replaced(tmp_path: Path) -> None:
    """One without rare queries, as before. One that is up to date stays as it is."""
    encoder = FakeEncoder()
    collections = open_data(Settings(data=tmp_path / "data"), encoder)
    box = collections.get("default")
    (encoding,) = encoder.manifest.encodings("text")
    dim = box.dims[encoding]

    def rare() -> Array:
        with box.hold_for_reading() as records:
            return records.banks.rare(encoding, dim)

    assert len(rare()) == len(list_queries(RARE))
    box.set_bank(encoding, np.ones((3, dim), np.float32), ["video"])
    assert len(rare()) == 0
    ensure_query_bank(box, encoder)
    first = rare()
    assert len(first) == len(list_queries(RARE))
    with box.hold_for_reading() as records:
        assert len(records.banks.queries(encoding, dim)) == len(list_queries(EVERYDAY))
    with box.hold_for_reading():  # nothing can be written meanwhile
        ensure_query_bank(box, encoder)
    collections.close()


def test_rare_queries_are_none_that_tests_ask() -> None:
    """No rare query has a word of a query that confidences are measured by, by its first five
    letters: else that query would have calibrated itself.
    """
    common = {"a", "an", "the", "of", "in", "on", "at", "to", "is", "its", "with", "being", "and"}
    common |= {"from", "under", "over", "into"}

    def words(text: str) -> set[str]:
        found = set(re.findall("[a-z]+", text.lower())) - common
        return {word[:5].rstrip("s") for word in found}

    asked: set[str] = set()
    for name in ("plain_queries", "real_queries"):
        file = json.loads((ROOT / "tests" / "data" / f"{name}.json").read_text("utf-8"))
        for text in [*file["absent"], *(one["query"] for one in file["queries"])]:
            asked |= words(text)
    shared = [query for query in list_queries(RARE) if words(query) & asked]
    assert shared == []
