"""Other orders of what was found: volumes and areas worked out by hand, what lacks a modality."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from export.bundle import Joint
from index.collection import Collection
from index.records.item import NewItem
from index.search import Options, TargetQuery, search
from index.search.rerank import gram_volume, triangle_area

from .makers import dims

JOINT = Joint("video", "audio", 1.0)


def products(*vectors: tuple[float, float, float]) -> tuple[NDArray[np.float64], ...]:
    t, v, a = (np.array(one) / np.linalg.norm(one) for one in vectors)
    return np.array([t @ v]), np.array([t @ a]), np.array([v @ a])


def test_volumes_and_areas_by_hand() -> None:
    """The determinant of three vectors, and half a cross product."""
    t, v, a = (1.0, 0.0, 0.0), (1.0, 1.0, 0.0), (1.0, 0.0, 1.0)
    # unit vectors: the determinant is 1 * (1 / root 2)**2
    assert gram_volume(*products(t, v, a))[0] == pytest.approx(0.5)
    ends = [np.array(one) / np.linalg.norm(one) for one in (t, v, a)]
    cross = np.cross(ends[1] - ends[0], ends[2] - ends[0])
    assert triangle_area(*products(t, v, a))[0] == pytest.approx(np.linalg.norm(cross) / 2)
    # in one plane there is no volume; the triangle of 0, 60 and 120 degrees has an area
    turns = [(math.cos(math.radians(n)), math.sin(math.radians(n)), 0.0) for n in (0, 60, 120)]
    assert gram_volume(*products(*turns))[0] == pytest.approx(0.0, abs=1e-7)
    assert triangle_area(*products(*turns))[0] == pytest.approx(math.sqrt(3) / 4)
    # GRAM's fault: where pictures and sound are the same, whatever the query is
    assert gram_volume(*products(t, v, v))[0] == pytest.approx(0.0, abs=1e-7)


def film(id: str, video: tuple[float, ...] | None, audio: tuple[float, ...] | None) -> NewItem:
    vectors = {}
    for modality, values in (("video", video), ("audio", audio)):
        if values is not None:
            unit = np.array([values], np.float32)
            vectors[modality] = ([0], unit / np.linalg.norm(unit))
    return NewItem(id=id, kind="video", duration_s=5.0, windows=[(0.0, 5.0)], vectors=vectors)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Collection]:
    collection = Collection(tmp_path / "box", "f1", dims(3))
    yield collection
    collection.close()


def order(box: Collection, rerank: str | None, target: str | Joint = JOINT) -> list[str]:
    query = TargetQuery(target, np.array([[1.0, 0.0, 0.0]], np.float32))
    return [hit.id for hit in search(box, [query], Options(rerank=rerank)).hits]


def test_windows_in_another_order(box: Collection) -> None:
    box.put(
        [
            film("apart", (1.0, 0.6, 0.0), (1.0, 0.0, 0.6)),
            film("together", (1.0, 0.8, 0.0), (1.0, 0.8, 0.1)),
        ]
    )
    assert order(box, None) == ["apart", "together"]
    for rerank in ("gram", "triangle"):
        assert order(box, rerank) == ["together", "apart"]
        assert order(box, rerank, "video") == ["together", "apart"]
        assert order(box, rerank, "text") == []
    query = TargetQuery(JOINT, np.array([[1.0, 0.0, 0.0]], np.float32))
    plain = {hit.id: hit for hit in search(box, [query]).hits}
    again = {hit.id: hit for hit in search(box, [query], Options(rerank="gram")).hits}
    assert plain == again  # but for their order


def test_what_lacks_a_modality_is_compared_by_the_other(box: Collection) -> None:
    """It has the place that its score has among the windows that have both."""
    box.put([film("near", (1.0, 0.1, 0.0), None), film("far", (0.1, 1.0, 0.0), None)])
    assert order(box, "gram") == ["near", "far"]  # none has both: the order stays
    box.put([film("both", (1.0, 0.3, 0.0), (1.0, 0.0, 0.3))])
    for rerank in ("gram", "triangle"):
        assert order(box, rerank) == ["near", "both", "far"]
        assert order(box, rerank, "video") == ["near", "both", "far"]
    box.put([film("together", (1.0, 0.5, 0.0), (1.0, 0.5, 0.0))])
    assert order(box, "gram") == ["near", "together", "both", "far"]
