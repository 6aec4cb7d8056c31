"""A search without a filter: FAISS reads lists and compares, on the thread that asks."""

from __future__ import annotations

from typing import Any

import faiss as untyped_faiss
import numpy as np
import pytest

from index.vectors.faiss_index import FaissIndex

from .test_index import cloud

faiss: Any = untyped_faiss


def near_some() -> Any:
    """6,000 vectors, in equal parts near 60 directions."""
    x = np.repeat(cloud(60, 16), 100, axis=0) + 0.3 * cloud(6000, 16, seed=1)
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def filled(kind: str, monkeypatch: pytest.MonkeyPatch) -> FaissIndex:
    """With some 300 lists of 20 vectors."""
    monkeypatch.setattr("index.vectors.codes.ONE_LIST", 1000)
    x = near_some()
    index = FaissIndex(16, kind, len(x))
    index.train(x)
    index.add(np.arange(1, len(x) + 1), x)
    return index


@pytest.mark.parametrize("kind", ["ivf", "small"])
@pytest.mark.parametrize("k", [1, 10, 300])
def test_the_best_are_found_and_scored(kind: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the nearest lists have fewer than are asked for."""
    index = filled(kind, monkeypatch)
    recall = []
    for query in near_some()[::300]:
        found = index.search(query, k)
        right = index.search(query, k, exact=True)
        assert found.way == "lists" and len(found.ids) == k and 0 < found.compared <= 6000
        scores = index.vectors(found.ids) @ query
        assert found.scores == pytest.approx(scores, abs=1e-5)
        assert (np.diff(found.scores) <= 0).all()
        recall.append(len(np.intersect1d(found.ids, right.ids)) / k)
    assert np.mean(recall) >= 0.95, np.mean(recall)


@pytest.mark.parametrize("kind", ["ivf", "small"])
def test_a_search_uses_the_thread_that_asks_alone(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where cores are busy, a second thread would come late. Adding and learning have them all."""
    index = filled(kind, monkeypatch)
    seen = []
    search = index._method.search

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append(faiss.omp_get_max_threads())
        return search(*args, **kwargs)

    monkeypatch.setattr(index._method, "search", watched)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        index.search(cloud(1, 16)[0], 5)
        assert seen == [1] and faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)


def test_eight_bits_are_scored_as_faiss_decodes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    index = filled("small", monkeypatch)
    query, rows = cloud(1, 16, seed=9)[0], np.array([0, 5999, 17, 17])
    decoded = index._method.raw_storage.reconstruct_batch(rows)
    assert index._method._score(query, rows) == pytest.approx(decoded @ query, abs=1e-6)
    index.add(np.array([7000]), cloud(1, 16, seed=3))  # FAISS's memory moves
    assert index._method._score(query, np.array([6000]))[0] == pytest.approx(
        float(index._method.raw_storage.reconstruct_batch(np.array([6000]))[0] @ query), abs=1e-6
    )
