"""Vectors kept and found: against an exact twin, across restarts, through damage."""

from __future__ import annotations

import json
import resource
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss as untyped_faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from numpy.typing import NDArray

from index.backup import backup
from index.collection import (
    BadName,
    Collection,
    CollectionExists,
    DataInUse,
    FingerprintConflict,
    RecordsLost,
    UnknownCollection,
)
from index.columns import Allowed
from index.ingest.reembed import reembed
from index.library import Collections
from index.records.database import Records
from index.records.filters import BadFilter, compile_filter
from index.records.item import Counts, NewItem, UnknownItem
from index.report import report
from index.search import Answer, Options, TargetQuery, search
from index.vectors import snapshot, store
from index.vectors.faiss_index import FaissIndex
from index.vectors.gpu import gpus
from index.vectors.kinds import KINDS
from index.vectors.milvus import MilvusIndex
from index.vectors.sizing import Sizing
from index.vectors.store import VectorStoreFailed
from index.vectors.tuning import Goal
from media.containers import Budget
from media.sandbox import Decoders
from service.reload import check_all

from .makers import FakeEncoder, dims, running_milvus, wait_until

faiss: Any = untyped_faiss

Array = NDArray[np.float32]


def unit(*values: float) -> Array:
    v = np.array(values, np.float32)
    return np.asarray(v / np.linalg.norm(v), np.float32)


def cloud(n: int, dim: int, seed: int = 0) -> Array:
    x = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def item(id: str, *vectors: Array, modality: str = "video", **metadata: Any) -> NewItem:
    windows = [(5.0 * i, 5.0 * i + 5.0) for i in range(len(vectors))]
    return NewItem(
        id=id,
        kind=modality,
        duration_s=windows[-1][1],
        windows=windows,
        vectors={modality: (list(range(len(vectors))), np.stack(vectors))},
        metadata=metadata,
    )


@pytest.fixture
def box(tmp_path: Path) -> Collection:
    return Collection(tmp_path / "box", "f1", dims(3))


def ask(box: Collection, query: Array, target: str = "video", **options: Any) -> Answer:
    return search(box, [TargetQuery(target, query[None])], Options(**options))


def found(box: Collection, query: Array, target: str = "video", **options: Any) -> list[str]:
    return [hit.id for hit in ask(box, query, target, **options).hits]


# ---------------------------------------------------------------- vector indexes


class Twin:
    """What every index is compared with: a dictionary and a dot product."""

    def __init__(self) -> None:
        self.rows: dict[int, Array] = {}

    def search(self, query: Array, k: int, allowed: set[int] | None = None) -> list[int]:
        ids = [i for i in self.rows if allowed is None or i in allowed]
        return sorted(ids, key=lambda i: -float(self.rows[i] @ query))[:k]


class Device:
    """An index here where one on a GPU would be: there is none. It can be told to fail."""

    broken = False

    def __init__(self, index: Any) -> None:
        self._faiss, self.is_trained = index, True

    def add(self, x: Array) -> None:
        had = self._faiss.ntotal
        self._faiss.add(x)
        if Device.broken and had:
            raise RuntimeError("out of memory")  # half done

    def search(self, queries: Array, k: int, params: Any) -> Any:
        assert k <= 2048 and params is None
        return self._faiss.search(queries, k)


class Resources:
    def setTempMemory(self, size: int) -> None: ...

    def setPinnedMemory(self, size: int) -> None: ...


def on_device(resources: Resources, device: int, index: Any) -> Any:
    return index if hasattr(index, "nlist") else Device(index)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", Resources, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", on_device, raising=False)
    monkeypatch.setattr(faiss, "GpuParameterSpace", faiss.ParameterSpace, raising=False)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_finds_what_the_twin_finds(kind: str, gpu: None) -> None:
    x, queries = cloud(2000, 16), cloud(30, 16, seed=1)
    index, twin = FaissIndex(16, kind, 2000), Twin()
    ids = np.arange(1, 2001, dtype=np.int64)
    if not index.trained:
        index.train(x)
    index.add(ids, x)
    twin.rows = dict(zip(ids.tolist(), x, strict=True))
    index.tune(cloud(50, 16, seed=2))
    gone = ids[::7]
    index.remove(gone)
    index.remove(np.array([3, 5000], np.int64))
    del twin.rows[3]
    for i in gone.tolist():
        del twin.rows[i]
    assert len(index) == len(twin.rows)
    for allowed in (None, set(ids[:1200].tolist()), set(ids[:40].tolist()), set[int]()):
        if allowed is not None:
            allowed &= set(twin.rows)
        hits = total = 0
        for query in queries:
            given = None if allowed is None else Allowed(np.array(sorted(allowed), np.int64))
            got, scores = index.search(query, 10, allowed=given)[:2]
            expected = twin.search(query, 10, allowed)
            assert (np.diff(scores) <= 1e-6).all() and len(set(got.tolist())) == len(got)
            assert allowed is None or set(got.tolist()) <= allowed
            hits, total = hits + len(set(got.tolist()) & set(expected)), total + len(expected)
            exact = index.search(query, 10, allowed=given, exact=True)
            assert exact.exact and (
                exact.ids.tolist() == expected or kind == "small"
            )  # whose stored vectors are rounded
        assert hits >= (1.0 if index.exact else 0.97) * total


def same_as_here(there: FaissIndex, here: FaissIndex) -> None:
    for query in cloud(20, there.dim, seed=1):
        for k in (1, 10, 1900):
            (ids, scores), (expected, of) = there.search(query, k)[:2], here.search(query, k)[:2]
            assert ids.tolist() == expected.tolist() and scores == pytest.approx(of, abs=1e-6)


def test_a_gpu_has_what_may_be_found(gpu: None) -> None:
    """Ids and scores as of the exact kind, while vectors come, and the best of them go: some, then
    more than a search gives.
    """
    x = cloud(6000, 16)
    there, here = FaissIndex(16, "gpu"), FaissIndex(16)
    for first in range(0, 6000, 3000):
        for index in (there, here):
            index.add(np.arange(first, first + 3000), x[first : first + 3000])
        same_as_here(there, here)
        for k in (20, 130, 2000):
            gone = here.search(cloud(20, 16, seed=1)[3], k).ids
            for index in (there, here):
                index.remove(gone)
            same_as_here(there, here)


def test_a_gpu_that_fails_costs_no_answer(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    x = cloud(3000, 16)
    there, here = FaissIndex(16, "gpu"), FaissIndex(16)
    for first in (0, 1000, 2000):
        monkeypatch.setattr(Device, "broken", first == 1000)
        for index in (there, here):
            index.add(np.arange(first, first + 1000), x[first : first + 1000])
        same_as_here(there, here)


def test_without_a_gpu_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    with pytest.raises(VectorStoreFailed, match="GPU"):
        Collection(tmp_path / "box", "f1", dims(3), Sizing("gpu"))
    index = FaissIndex(16, "gpu")  # of a snapshot from elsewhere
    index.add(np.arange(1, 101), cloud(100, 16))
    assert index.search(cloud(100, 16)[7], 1)[0].tolist() == [8]


@pytest.mark.skipif(not gpus(), reason="no GPU that FAISS can use")
def test_a_real_gpu() -> None:
    there, lists, here = FaissIndex(16, "gpu"), FaissIndex(16, "gpu-ivf"), FaissIndex(16)
    for index in (there, lists, here):
        index.add(np.arange(3000), cloud(3000, 16))
        index.remove(np.arange(0, 3000, 7))
    same_as_here(there, here)
    lists.tune(cloud(50, 16, seed=2))
    assert recall(lists, here) > 0.95


def recall(index: FaissIndex, truth: FaissIndex) -> float:
    asked = cloud(50, index.dim, seed=1)
    return float(
        np.mean(
            [
                len(np.intersect1d(index.search(q, 10)[0], truth.search(q, 10)[0])) / 10
                for q in asked
            ]
        )
    )


def test_lists_on_a_gpu(gpu: None) -> None:
    """Tuned by what is asked; what comes and goes afterwards is found and is not; a filter compares
    every vector.
    """
    x = cloud(6000, 16)
    there, here = FaissIndex(16, "gpu-ivf"), FaissIndex(16)
    for index in (there, here):
        index.add(np.arange(3000), x[:3000])
        index.remove(np.arange(0, 3000, 7))
    there.tune(cloud(50, 16, seed=2), Goal(recall=0.99))
    assert recall(there, here) > 0.97 and there.tuning.key != "nprobe=1" and not there.exact
    for index in (there, here):
        index.add(np.arange(3000, 6000), x[3000:])
        index.remove(np.arange(1, 6000, 7))
    assert recall(there, here) > 0.95
    assert there.search(x[5000], 1)[0].tolist() == [5000] and 8 not in there.search(x[8], 2000)[0]
    even = Allowed(np.arange(2, 6000, 2))
    query = cloud(1, 16, seed=3)[0]
    found = there.search(query, 10, allowed=even)
    assert found.exact and found.ids.tolist() == here.search(query, 10, allowed=even).ids.tolist()
    assert len(there.search(query, 2000).ids) > 1900
    gone = here.search(query, 1500).ids
    for index in (there, here):
        index.remove(gone)
    assert (
        there.too_many_deleted_for_gpu
        and there.search(query, 1000)[0].tolist() == here.search(query, 1000)[0].tolist()
    )
    there.copy_anew()
    assert (
        not there.too_many_deleted_for_gpu
        and recall(there, here) > 0.9
        and not np.isin(there.search(query, 10)[0], gone).any()
    )


@pytest.fixture(scope="module")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """milvus-lite, which speaks Milvus' wire protocol, over a socket."""
    pytest.importorskip("pymilvus")
    with running_milvus(tmp_path_factory.mktemp("milvus")) as uri:
        yield uri


def test_milvus_finds_what_the_twin_finds(milvus: str) -> None:
    x, twin = cloud(800, 16), Twin()
    index, ids = MilvusIndex(milvus, "twin", 16), np.arange(3, 3 + 2 * 800, 2)
    assert index.last() == 0 and len(index) == 0
    index.add(ids, x)
    twin.rows = dict(zip(ids.tolist(), x, strict=True))
    gone = ids[::7]
    index.remove(np.append(gone, [99_999]))
    for i in gone.tolist():
        del twin.rows[i]
    assert len(index) == len(twin.rows) and index.last() == max(twin.rows)
    assert (index.vectors(ids[[1, 2, 3]]) == x[[1, 2, 3]]).all()
    for allowed in (None, set(ids[:500].tolist()), set(ids[:40].tolist()), set[int]()):
        given = None
        if allowed is not None:
            given = Allowed(np.array(sorted(allowed & set(twin.rows)), np.int64))
        for query in cloud(5, 16, seed=1):
            expected = twin.search(query, 10, allowed)
            # lite compares every vector
            assert index.search(query, 10, allowed=given)[0].tolist() == expected
            assert index.search(query, 10, allowed=given, exact=True)[0].tolist() == expected
    again = MilvusIndex(milvus, "twin", 16)
    assert len(again) == len(twin.rows)
    again.clear()
    assert len(again) == 0 and len(MilvusIndex(milvus, "twin", 16)) == 0


def test_milvus_under_filters_against_the_query(milvus: str) -> None:
    """Queries of a topic, asked among everything but it, among another one, and after it was
    removed.
    """
    centres = cloud(4, 16, seed=5)
    x = np.concatenate([centre + 0.3 * cloud(200, 16, seed=n) for n, centre in enumerate(centres)])
    x = np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)
    ids, topics = np.arange(1, len(x) + 1), np.repeat(np.arange(4), 200)
    index = MilvusIndex(milvus, "topics", 16)
    index.add(ids, x)

    def right(query: Array, allowed: Array) -> list[int]:
        left = allowed[np.argsort(-(x[allowed - 1] @ query), kind="stable")[:10]]
        return [int(id) for id in left]

    queries = [(0, x[0]), (0, x[199]), (1, x[250])]
    for topic, query in queries:
        for allowed in (ids[topics != topic], ids[topics == (topic + 1) % 4]):
            got = index.search(query, 10, allowed=Allowed(allowed)).ids
            assert got.tolist() == right(query, allowed)
    index.remove(ids[topics == 0])
    for _, query in queries[:2]:
        assert index.search(query, 10).ids.tolist() == right(query, ids[topics != 0])


def test_a_collection_in_milvus(tmp_path: Path, milvus: str) -> None:
    """Written, deleted, closed, killed and damaged: it finds what the records hold."""
    sizing = Sizing(milvus=milvus)
    box = Collection(tmp_path / "box", "f1", dims(8), sizing)
    x = cloud(60, 8)
    box.put([item(f"i{n}", v, n=n) for n, v in enumerate(x)])
    box.put([item("i3", x[50])])
    box.delete("i4")
    assert found(box, x[7])[0] == "i7" and "i4" not in found(box, x[4], top_k=60)
    assert found(box, x[7], filter={"n": {"$lt": 3}}, top_k=3)[0] in ("i0", "i1", "i2")
    del box  # killed
    box = Collection(tmp_path / "box", "f1", dims(8), sizing)
    assert len(box.index("video")) == 59 and found(box, x[50], top_k=2) in (
        ["i3", "i50"],
        ["i50", "i3"],
    )
    inside = box.index("video")
    inside.remove(np.array([9], np.int64))  # someone deletes behind our back
    box.close()
    box = Collection(tmp_path / "box", "f1", dims(8), sizing)
    assert len(box.index("video")) == 59 and found(box, x[8])[0] == "i8"
    box.close(keep=False)
    with pytest.raises(VectorStoreFailed):
        Collection(tmp_path / "box", "f1", dims(8), Sizing(milvus="http://127.0.0.1:9"))


@pytest.mark.parametrize("kind", ["hnsw", "ivf", "small"])
@pytest.mark.parametrize("alike", [False, True])
def test_as_many_are_found_as_there_are(kind: str, alike: bool) -> None:
    """Of four numbers, whose codes lose the farthest; or where a third are equal, which a graph may
    go by.
    """
    x = cloud(1500, 4)
    if alike:
        x[::3] = x[0]
    index = FaissIndex(4, kind, len(x))
    if not index.trained:
        index.train(x)
    index.add(np.arange(len(x)), x)
    index.remove(np.array([7]))
    allowed = Allowed(np.arange(0, len(x), 2))
    for query in x[1:20]:
        assert len(index.search(query, 1499).ids) == 1499
        assert len(index.search(query, 1499, allowed=allowed).ids) == 750


def test_an_index_survives_its_file(tmp_path: Path) -> None:
    for kind in KINDS:
        index = FaissIndex(8, kind, 1000)
        if not index.trained:
            index.train(cloud(1000, 8))
        index.add(np.arange(1, 1001, dtype=np.int64), cloud(1000, 8))
        index.remove(np.array([5], np.int64))
        index.tune(cloud(20, 8, seed=4))
        index.save(tmp_path / kind)
        again = FaissIndex.load(tmp_path / kind, 8, kind, index.tuning)
        assert len(again) == 999 and again.tuning == index.tuning
        query = cloud(1, 8, seed=3)[0]
        assert [a.tolist() for a in again.search(query, 9)[:2]] == [
            a.tolist() for a in index.search(query, 9)[:2]
        ]


# ---------------------------------------------------------------- collections


def test_add_replace_delete(box: Collection) -> None:
    box.put(
        [item("red", unit(1, 0, 0)), item("green", unit(0, 1, 0)), item("mixed", unit(1, 1, 0))]
    )
    assert found(box, unit(1, 0, 0)) == ["red", "mixed", "green"]
    box.put([item("red", unit(0, 0, 1))])  # the same id replaces
    assert found(box, unit(1, 0, 0), top_k=1) == ["mixed"]
    assert found(box, unit(0, 0, 1), top_k=1) == ["red"]
    box.delete("mixed")
    assert sorted(found(box, unit(1, 1, 1))) == ["green", "red"]
    with pytest.raises(UnknownItem):
        box.delete("mixed")
    assert box.counts() == Counts(items=2, windows=2, vectors={"video": 2})


def test_windows_are_grouped_into_moments(box: Collection) -> None:
    """Windows at 0, 5, 10, 15, 20 s; the first two and the last match."""
    near, far = unit(1, 0.1, 0), unit(0, 0, 1)
    box.put([item("long", near, unit(1, 0, 0), far, far, near), item("other", unit(0.5, 1, 0))])
    answer = ask(box, unit(1, 0, 0), top_k=5)
    hits, plan, first = answer.hits, answer.plan, answer.hits[0]
    assert [h.id for h in hits] == ["long", "other"] and plan.exact and plan.candidates == 6
    assert [(m.start_s, m.end_s) for m in first.moments] == [(0.0, 10.0), (20.0, 25.0)]
    assert (first.start_s, first.end_s) == (0.0, 10.0)
    assert first.score == pytest.approx(1.0) == first.moments[0].score


def test_a_hit_has_a_score_for_each_modality(box: Collection) -> None:
    both = {"video": ([0], unit(1, 0, 0)[None]), "audio": ([0], unit(0.6, 0.8, 0)[None])}
    box.put([NewItem(id="clip", kind="video", duration_s=5.0, windows=[(0.0, 5.0)], vectors=both)])
    (hit,) = ask(box, unit(1, 0, 0)).hits
    assert hit.scores == pytest.approx({"video": 1.0, "audio": 0.6})
    assert found(box, unit(1, 0, 0), "text") == []


def test_min_score_and_top_k(box: Collection) -> None:
    box.put([item(f"i{n}", unit(1, n / 10, 0)) for n in range(20)])
    assert found(box, unit(1, 0, 0), top_k=3) == ["i0", "i1", "i2"]
    assert found(box, unit(1, 0, 0), top_k=50, min_score=0.99) == ["i0", "i1"]
    assert found(box, unit(1, 0, 0), top_k=1, min_score=0.9999999) in ([], ["i0"])


def test_an_items_own_score_is_enough(box: Collection) -> None:
    """An index and numpy may round a score differently: asking for exactly what was answered must
    not fail.
    """
    for n, vector in enumerate(cloud(300, 3)):
        box.put([item(f"i{n}", vector)])
        (hit,) = ask(box, vector, top_k=1).hits
        assert hit.score <= 1.0
        assert all(h.moments for h in ask(box, vector, top_k=1, min_score=hit.score).hits)


def test_a_hit_tells_each_modalitys_best_moment(box: Collection) -> None:
    """The picture matches best in the first window, the sound in the second."""
    seen, heard = (
        np.stack([unit(1, 0, 0), unit(0, 1, 0)]),
        np.stack([unit(0, 1, 0), unit(0.8, 0.6, 0)]),
    )
    vectors = {"video": ([0, 1], seen), "audio": ([0, 1], heard)}
    box.put(
        [
            NewItem(
                id="clip",
                kind="video",
                duration_s=10.0,
                windows=[(0.0, 5.0), (5.0, 10.0)],
                vectors=vectors,
            )
        ]
    )
    (hit,) = ask(box, unit(1, 0, 0)).hits
    assert hit.scores == pytest.approx({"video": 1.0, "audio": 0.0})
    assert (hit.evidence["audio"].start_s, hit.evidence["audio"].score) == (5.0, pytest.approx(0.8))


def test_a_composed_query(box: Collection) -> None:
    """Score: (2 v.a - 1 v.b) / 3; what each part contributes is told."""
    a, b = unit(1, 0, 0), unit(0, 1, 0)
    box.put([item("a", a), item("b", b), item("ab", unit(1, 1, 0)), item("c", unit(0, 0, 1))])
    both = search(box, [TargetQuery("video", np.stack([a, b]), (1.0, 1.0))], Options()).hits
    assert both[0].id == "ab" and both[0].score == pytest.approx(2**-0.5)
    hits = search(box, [TargetQuery("video", np.stack([a, b]), (2.0, -1.0))], Options()).hits
    assert [(h.id, round(h.score, 4)) for h in hits] == [
        ("a", 0.6667),
        ("ab", 0.2357),
        ("c", 0.0),
        ("b", -0.3333),
    ]
    assert hits[1].parts == pytest.approx([2 / 3 * 2**-0.5, -1 / 3 * 2**-0.5])
    assert all(sum(h.parts or []) == pytest.approx(h.score, abs=1e-6) for h in hits)


def test_two_targets_are_fused(box: Collection) -> None:
    """Uncalibrated, scores stand for confidences: 1 - (1 - 0.6)
    (1 - 0.8) = 0.92 beats 0.9 alone.
    """
    q = unit(1, 0, 0)
    for name, seen, heard in (("both", 0.6, 0.8), ("seen", 0.9, 0.0), ("neither", 0.1, 0.1)):
        vectors = {"video": ([0], along(seen)[None]), "audio": ([0], along(heard)[None])}
        box.put(
            [NewItem(id=name, kind="video", duration_s=5.0, windows=[(0.0, 5.0)], vectors=vectors)]
        )
    box.put([item("heard", along(0.95), modality="audio")])
    hits = search(
        box, [TargetQuery("video", q[None]), TargetQuery("audio", q[None])], Options()
    ).hits
    assert [(h.id, round(h.score, 3)) for h in hits] == [
        ("heard", 0.95),
        ("both", 0.92),
        ("seen", 0.9),
        ("neither", 0.19),
    ]
    assert [h.target for h in hits[:3]] == ["audio", "audio", "video"]
    assert (
        hits[1].scores == pytest.approx({"video": 0.6, "audio": 0.8}) and hits[1].confidence is None
    )


def along(cosine: float) -> Array:
    return unit(cosine, (1 - cosine**2) ** 0.5, 0)


def test_what_nothing_matches_is_told(tmp_path: Path) -> None:
    """500 directions by chance, a bank of 64 more: another finds no good match, one near an item
    does.
    """
    box = Collection(tmp_path / "box", "f1", dims(64))
    x = cloud(500, 64)
    box.put([item(f"i{n}", v) for n, v in enumerate(x)])
    # no bank of words yet
    assert ask(box, x[3]).good_match is None and ask(box, x[3]).hits[0].confidence is None
    box.set_bank("text", cloud(64, 64, seed=1), ["video"])
    strangers = [ask(box, q) for q in cloud(200, 64, seed=2)]
    # five in a hundred, and chance
    assert sum(bool(answer.good_match) for answer in strangers) <= 0.1 * 200
    sure = [answer.hits[0].confidence or 0.0 for answer in strangers]
    # as good as the best that a non-match finds: one in two
    assert 0.3 < float(np.mean(sure)) < 0.7
    friends = [ask(box, unit(*(x[n] + 0.5 * cloud(1, 64, seed=n)[0]))) for n in range(100)]
    assert all(answer.good_match and answer.hits[0].confidence > 0.99 for answer in friends)
    answer = friends[0]
    known = answer.calibration["video"]
    assert known.typical < known.non_match < known.good < answer.hits[0].score
    assert [h.id for h in ask(box, x[0], min_confidence=0.95).hits] == ["i0"]
    sure = ask(box, x[0]).hits[0].confidence or 0.0
    for share, least in ((0.5, 0.5), (0.99, 0.9)):  # of a query of which some words say nothing
        answer = ask(box, x[0], known_share=share)
        assert answer.good_match is False and answer.hits[0].confidence == pytest.approx(
            sure * least
        )
    assert ask(box, x[0], known_share=0.5, min_confidence=0.95).hits == []


def test_pictures_of_one_colour_are_no_confident_match(tmp_path: Path) -> None:
    """However near they lie; a sound beside them counts as ever."""
    box = Collection(tmp_path / "box", "f1", dims(64))
    x, q = cloud(500, 64), cloud(1, 64, seed=2)[0]
    box.put([item(f"i{n}", v) for n, v in enumerate(x)])
    box.put([item(f"s{n}", v, modality="audio") for n, v in enumerate(x)])
    box.put([replace(item("black", q, x[7]), one_colour={0})])
    for target in ("video", "audio"):
        box.set_bank("text", cloud(64, 64, seed=1), [target])
    answer = ask(box, q)
    assert (
        answer.hits[0].id == "black" and answer.hits[0].confidence == 0.0 and not answer.good_match
    )
    assert ask(box, x[7], top_k=2).good_match  # another of its windows
    near = unit(*(q + 0.1 * x[3]))
    box.put([item("heard", q, modality="audio")])
    both = search(
        box, [TargetQuery("video", near[None]), TargetQuery("audio", near[None])], Options()
    )
    assert both.good_match and both.hits[0].id == "heard"


def test_an_example_is_calibrated_by_the_collection_itself(tmp_path: Path) -> None:
    """Forty items of two windows each that are alike: an example's own item is no measure of what a
    non-match finds.
    """
    box, x = Collection(tmp_path / "box", "f1", dims(64)), cloud(40, 64)
    box.put(
        [
            item(f"i{n}", v, unit(*(v + 0.2 * w)))
            for n, (v, w) in enumerate(zip(x, cloud(40, 64, 1), strict=True))
        ]
    )
    answer = search(box, [TargetQuery("video", x[:1], source="video")], Options())
    assert answer.good_match and [h.id for h in answer.hits if (h.confidence or 0) > 0.95] == ["i0"]


def test_qb_norm_puts_back_what_every_query_likes(tmp_path: Path) -> None:
    """A hub that is near every query of the bank comes first for a query, too, unless it is
    normalised.
    """
    box, hub = Collection(tmp_path / "box", "f1", dims(64)), cloud(1, 64, seed=5)[0]
    wanted = cloud(100, 64)
    box.put([item("hub", hub), *(item(f"i{n}", v) for n, v in enumerate(wanted))])
    box.set_bank(
        "text", np.stack([unit(*(hub + 0.8 * v)) for v in cloud(64, 64, seed=6)]), ["video"]
    )
    query = unit(*(hub + 0.97 * wanted[3]))
    assert found(box, query)[:2] == ["hub", "i3"] and found(box, query, rerank="qb_norm")[0] == "i3"


def test_many_windows_of_one_item_do_not_hide_the_others(box: Collection) -> None:
    box.put([item("long", *[unit(1, 0, 0)] * 200)])
    box.put([item(f"i{n}", unit(1, 1 + n, 0)) for n in range(5)])
    assert found(box, unit(1, 0, 0), top_k=6) == ["long", "i0", "i1", "i2", "i3", "i4"]


def test_a_restart_finds_the_same(tmp_path: Path) -> None:
    def opened() -> Collection:
        return Collection(tmp_path / "box", "f1", dims(3))

    box = opened()
    box.put([item(f"i{n}", unit(*v), n=n) for n, v in enumerate(cloud(50, 3))])
    expected = found(box, unit(1, 2, 3), top_k=50)
    box.close()
    box = opened()  # from the snapshot
    assert found(box, unit(1, 2, 3), top_k=50) == expected
    box.delete(expected[0])
    box.put([item("new", unit(1, 2, 3))])
    del box  # no snapshot of these: the tail is replayed
    box = opened()
    assert found(box, unit(1, 2, 3), top_k=50) == ["new", *expected[1:]]
    box.close()
    # Damage of every kind to the snapshot is healed from the records.
    for damage in ("torn", "foreign", "gone", "empty"):
        generation = next((tmp_path / "box" / "snapshots").iterdir())
        file = generation / "video.faiss"
        if damage == "torn":
            file.write_bytes(file.read_bytes()[:-10])
        elif damage == "foreign":
            state = json.loads((generation / "snapshot.json").read_text())
            (generation / "snapshot.json").write_text(json.dumps(state | {"identity": "other"}))
        elif damage == "gone":
            shutil.rmtree(generation)
        else:
            (generation / "snapshot.json").write_text("")
        box = opened()
        assert found(box, unit(1, 2, 3), top_k=50) == ["new", *expected[1:]], damage
        box.snapshot()
        box.close()


def test_a_large_index_is_saved_after_a_share_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(store.TAIL, "ivf", 10)
    x = cloud(2600, 16)
    box = Collection(tmp_path / "box", "f1", dims(16), Sizing("ivf"))

    def add(start: int, end: int) -> list[str]:
        box.put([item(f"i{n}", x[n]) for n in range(start, end)])
        wait_until(lambda: not box.busy)
        return sorted(path.name[:12] for path in (tmp_path / "box" / "snapshots").iterdir())

    assert add(0, 2000) == ["000000002000"]
    assert add(2000, 2100) == ["000000002000"]  # a sixteenth of 2,100 are 131
    assert add(2100, 2200) == ["000000002200"]
    box.close()


def test_an_index_is_tuned_by_what_is_asked_of_it(tmp_path: Path) -> None:
    """Words lie elsewhere than the vectors that an index has, which it finds easily."""
    box = Collection(tmp_path / "box", "f1", dims(64), Sizing("hnsw", latency_ms=1000))
    box.put([item(f"i{n}", v) for n, v in enumerate(cloud(4000, 64))])
    words, others = cloud(64, 64, seed=7), cloud(200, 64, seed=5)

    def recall() -> float:
        wait_until(lambda: box.index("video").kind == "hnsw" and not box.busy)
        index = box.index("video")
        both = [
            np.intersect1d(index.search(v, 10)[0], index.search(v, 10, exact=True)[0])
            for v in others
        ]
        return sum(map(len, both)) / (10 * len(others))

    recall()  # some 0.9, by how quick each parameter was in that moment
    index = box.index("video")
    assert isinstance(index, FaissIndex) and index.tuning.queries == ""
    unfinished = shutil.ignore_patterns("*.part")  # a snapshot may be written meanwhile
    folder = shutil.copytree(tmp_path / "box", tmp_path / "killed", ignore=unfinished)
    with closing(Records(folder / "records.sqlite")) as records:
        records.set_bank("text", words, ["video"])  # and then it was killed
    box.set_bank("text", words, ["video"])
    assert recall() > 0.95 and index.tuning.queries != ""
    box.close()
    box = Collection(folder, "f1", dims(64), Sizing("hnsw", latency_ms=1000))
    assert recall() > 0.95
    box.close()


@pytest.mark.parametrize(("memory_mb", "kind"), [(0, "ivf"), (1, "small")])
def test_a_collection_that_grows_gets_another_index_while_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_mb: int, kind: str
) -> None:
    monkeypatch.setattr("index.vectors.sizing.COMPARED_PER_MS", 1500 * 64 / 0.25)
    sizing = Sizing(memory_mb=memory_mb)
    box = Collection(tmp_path / "box", "f1", dims(64), sizing)
    x = cloud(3000, 64) if kind == "ivf" else cloud(6000, 64)
    for at in range(0, len(x), 500):
        box.put([item(f"i{at + n:04d}", v, n=at + n) for n, v in enumerate(x[at : at + 500])])
        assert found(box, x[at + 3])[0] == f"i{at + 3:04d}"
        box.delete(f"i{at + 7:04d}")
    wait_until(lambda: box.index("video").kind == kind)
    index = box.index("video")
    assert isinstance(index, FaissIndex)
    wait_until(lambda: not index.tuning_is_stale)  # its parameters are found anew as it grows
    assert len(index) == len(x) - len(x) // 500 and box.counts().vectors["video"] == len(
        box.index("video")
    )
    assert found(box, x[8])[0] == "i0008" and "i0007" not in found(box, x[7])
    assert not ask(box, x[8]).plan.exact
    # codes choose what is compared in full, so that is exact only where all are
    assert ask(box, x[8], exact=True).plan.exact == (kind != "small")
    narrow = ask(box, x[8], filter={"n": 8})
    assert narrow.plan.exact and [h.id for h in narrow.hits] == ["i0008"]
    box.set_bank("text", cloud(64, 64, seed=1), ["video"])
    wait_until(lambda: not box.busy)
    rows = report(box, lambda a, b: True)
    assert [row.filter for row in rows] == 2 * ["none", "a half", "not near"]
    assert min(row.recall_at_10 for row in rows) > 0.9 and {row.ways for row in rows} <= {
        "codes",
        "scan",
    }
    words, own = rows[0], rows[3]
    assert (words.encoding, words.kind, words.queries, own.queries) == (
        "video",
        kind,
        "words",
        "its own",
    )
    assert min(words.recall_at_10, own.recall_at_10) > 0.9 and own.vectors == len(
        box.index("video")
    )
    assert (
        own.bytes_per_vector == {"ivf": 4 * 64 + 44, "small": 64 + 44}[kind]
        and own.p99_ms >= own.p50_ms > 0
    )
    box.close()
    again = Collection(tmp_path / "box", "f1", dims(64), sizing)  # from its snapshot
    assert again.index("video").kind == kind and found(again, x[8])[0] == "i0008"
    shutil.rmtree(tmp_path / "box" / "snapshots")
    # without: exact until there is another
    again = Collection(tmp_path / "box", "f1", dims(64), sizing)
    assert found(again, x[8])[0] == "i0008"
    wait_until(lambda: again.index("video").kind == kind)
    again.close()


def test_an_index_that_could_not_follow_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out while an item is replaced; a snapshot at that moment must not say that all is
    in it.
    """
    box = Collection(tmp_path / "box", "f1", dims(3))
    box.put([item("a", unit(1, 0, 0)), item("b", unit(0, 1, 0))])
    box.snapshot()

    def full(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(FaissIndex, "add", full)
        box.put([item("a", unit(0, 0, 1))])
        box.snapshot()
    assert found(box, unit(0, 0, 1)) == ["a", "b"] and len(box.index("video")) == 2
    box.close()
    box = Collection(tmp_path / "box", "f1", dims(3))
    assert found(box, unit(0, 0, 1), top_k=1) == ["a"]
    with box.hold_for_reading() as records:
        asked = np.array([1, 2, 3, 99])  # the first is gone, the last never was
        table = records.window_table("video")
        at = table.find(asked).tolist()
        assert at == [-1, 0, 1, -1] and table.items.tolist() == [2, 3]
    box.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_hit_tells_what_its_item_is_and_scores_as_it_was_given(
    tmp_path: Path, kind: str, gpu: None
) -> None:
    """Of 1,500 items one has sound, one was replaced, one deleted; whatever the index keeps, scores
    are exact.
    """
    x, heard = cloud(1500, 16), cloud(1500, 16, seed=1)
    box = Collection(tmp_path / "box", "f1", dims(16), Sizing(kind))
    items = [
        NewItem(
            id=f"i{n}",
            kind="video",
            duration_s=10.0,
            windows=[(0.0, 5.0), (5.0, 10.0)],
            vectors={"video": ([0, 1], x[[n, n - 1]])},
            filename=f"{n}.mp4",
        )
        for n in range(1500)
    ]
    items[7].vectors["audio"] = ([1], heard[7:8])
    box.put(items)
    box.put([replace(items[3], vectors={"video": ([1], x[3:4])})])
    box.delete("i8")
    wait_until(lambda: not box.busy)
    hits = {hit.id: hit for hit in ask(box, x[7], top_k=700).hits}
    assert (
        "i8" not in hits
        and hits["i7"].modalities == ["audio", "video"]
        and hits["i7"].filename == "7.mp4"
    )
    assert (hits["i7"].kind, hits["i7"].duration_s, hits["i7"].start_s) == ("video", 10.0, 0.0)
    assert hits["i7"].evidence["audio"].score == pytest.approx(float(heard[7] @ x[7]), abs=1e-6)
    for id, hit in hits.items():
        n = int(id[1:])
        expected = max(float(x[7] @ x[n]), -1.0 if n == 3 else float(x[7] @ x[n - 1]))
        assert hit.score == pytest.approx(expected, abs=1e-6)
    assert len(hits) > 500  # more than one statement asks for
    box.put([item("late", x[7], unit(*range(1, 17)))])  # which moves what FAISS holds
    assert found(box, x[7], top_k=2) in (["i7", "late"], ["late", "i7"])
    box.close()


def test_searches_go_on_while_a_snapshot_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written meanwhile waits, and is there afterwards."""
    box = Collection(tmp_path / "box", "f1", dims(3))
    box.put([item("a", unit(1, 0, 0))])
    began, go_on, fill = threading.Event(), threading.Event(), snapshot.fill

    def slow(*args: Any) -> None:
        began.set()
        assert go_on.wait(30)
        fill(*args)

    monkeypatch.setattr("index.vectors.snapshot.fill", slow)
    saving = threading.Thread(target=box.snapshot)
    writing = threading.Thread(target=box.put, args=([item("b", unit(0, 1, 0))],))
    saving.start()
    assert began.wait(30)
    writing.start()
    assert found(box, unit(1, 0, 0)) == ["a"] and box.item("a").id == "a"
    assert writing.is_alive() and box.counts().items == 1
    go_on.set()
    saving.join()
    writing.join()
    assert found(box, unit(0, 1, 0), top_k=1) == ["b"]
    box.close(keep=False)
    box = Collection(tmp_path / "box", "f1", dims(3))
    assert found(box, unit(0, 1, 0), top_k=1) == ["b"] and len(box.index("video")) == 2
    box.close()


def test_another_bundle_is_refused(tmp_path: Path) -> None:
    Collection(tmp_path / "box", "f1", dims(3)).close()
    with pytest.raises(FingerprintConflict, match="f1"):
        Collection(tmp_path / "box", "f2", dims(3))


def test_a_snapshot_of_another_history_is_not_trusted(tmp_path: Path) -> None:
    """Someone puts older records back: what is added to them afterwards is found all the same."""
    box = Collection(tmp_path / "box", "f1", dims(3))
    box.put([item("old", unit(1, 0, 0))])
    box.close()
    shutil.copy(tmp_path / "box" / "records.sqlite", tmp_path / "backup.sqlite")
    box = Collection(tmp_path / "box", "f1", dims(3))
    box.put([item("a", unit(0, 1, 0)), item("b", unit(0, 0, 1))])
    box.close()
    shutil.copy(tmp_path / "backup.sqlite", tmp_path / "box" / "records.sqlite")
    box = Collection(tmp_path / "box", "f1", dims(3))
    assert found(box, unit(0, 1, 0)) == ["old"]
    box.put([item("new", unit(0, 1, 0))])
    del box
    assert found(Collection(tmp_path / "box", "f1", dims(3)), unit(0, 1, 0)) == ["new", "old"]


def test_an_index_that_cannot_follow_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written is acknowledged, its media kept, and found as soon as anything is."""
    box, media = Collection(tmp_path / "box", "f1", dims(3)), tmp_path / "m.wav"
    media.write_bytes(b"sound")
    box.put([item("a", unit(1, 0, 0)), item("b", unit(0, 0, 1))])
    with monkeypatch.context() as patched:
        patched.setattr(FaissIndex, "add", lambda *_: (_ for _ in ()).throw(MemoryError))
        box.put_media(item("c", unit(0, 1, 0)), media)
        box.delete("b")
        with pytest.raises(MemoryError):
            ask(box, unit(0, 1, 0))
    assert found(box, unit(0, 1, 0)) == ["c", "a"] and box.media("c")[0].read_bytes() == b"sound"
    box.close()


def test_calibration_follows_what_is_replaced(tmp_path: Path) -> None:
    """As many items as before, and others: what a non-match finds is measured anew."""
    box = Collection(tmp_path / "box", "f1", dims(64))
    box.set_bank("text", cloud(64, 64, seed=1), ["video"])
    box.put([item(f"i{n}", v) for n, v in enumerate(cloud(100, 64))])
    before = ask(box, cloud(1, 64)[0]).calibration["video"]
    bank = cloud(64, 64, seed=1)
    box.put(
        [
            item(f"i{n}", unit(*(bank[n % 64] + 0.9 * v)))
            for n, v in enumerate(cloud(100, 64, seed=9))
        ]
    )
    after = ask(box, cloud(1, 64)[0]).calibration["video"]
    assert after.non_match > before.non_match + 0.2
    for _ in range(100):
        box.put([item(f"i{n}", v) for n, v in enumerate(cloud(100, 64))])
        with box.hold_for_reading() as records:
            kept = records.window_table("video"), records.item_cache()
    assert all(len(one) < 2 * 100 + 2 * 4096 for one in kept)  # those that are gone are forgotten


def test_two_items_of_one_id_at_once(box: Collection) -> None:
    box.put([item("x", unit(1, 0, 0)), item("x", unit(0, 1, 0))])
    assert len(box.index("video")) == 1 and found(box, unit(1, 0, 0), min_score=0.5) == []


def test_a_closed_collection_says_so(tmp_path: Path) -> None:
    data = Collections(tmp_path, "f1", dims(3))
    gone = data.create("a")
    (tmp_path / "m.mp4").write_bytes(b"x")
    data.delete("a")
    for use in (
        lambda: gone.put([item("x", unit(1, 0, 0))]),
        lambda: ask(gone, unit(1, 0, 0)),
        lambda: gone.store_media(tmp_path / "m.mp4", "m.mp4"),
        gone.counts,
    ):
        with pytest.raises(UnknownCollection):
            use()
    data.create("a").put([item("y", unit(1, 0, 0))])
    data.close()
    again = Collections(tmp_path, "f1", dims(3))
    assert found(again.get("a"), unit(1, 0, 0)) == ["y"]
    again.close()


def test_searches_and_writes_at_once(box: Collection) -> None:
    """Filtered searches while items are replaced and deleted: never an error, never a vector that
    is gone.
    """
    box.put([item(f"i{n}", v, k=n % 3) for n, v in enumerate(cloud(60, 3))])
    faults: list[Exception] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            try:
                assert len(found(box, unit(1, 1, 1), top_k=10, filter={"k": {"$gte": 1}})) > 0
            except Exception as fault:
                faults.append(fault)

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    for n in range(120):
        box.put([item(f"i{n % 20}", cloud(1, 3, n)[0], k=n % 3)])
        if n % 4 == 0:
            box.delete(f"i{n % 20}")
    stop.set()
    for reader in readers:
        reader.join()
    assert not faults


def test_a_collection_of_another_bundle_is_left_alone(tmp_path: Path) -> None:
    data = Collections(tmp_path, "f1", dims(3))
    data.create("a").put([item("kept", unit(1, 0, 0))])
    data.create("empty")
    data.close()
    data = Collections(tmp_path, "f2", dims(3))
    assert data.get("empty").fingerprint == "f2"  # there was nothing to leave alone
    for use in (data.get, data.ensure):
        with pytest.raises(FingerprintConflict):
            use("a")
    with pytest.raises(CollectionExists):
        data.create("a")
    data.delete("a")
    data.create("a")
    data.close()


def test_media_that_was_never_acknowledged_is_dropped(tmp_path: Path) -> None:
    box = Collection(tmp_path / "box", "f1", dims(3))
    (tmp_path / "a.mp4").write_bytes(b"media")
    kept, lost = (
        box.store_media(tmp_path / "a.mp4", "a.MP4"),
        box.store_media(tmp_path / "a.mp4", "../../b.mp4"),
    )
    assert "/" not in lost and kept.endswith(".mp4")
    vectors = {"video": ([0], unit(1, 0, 0)[None])}
    box.put(
        [
            NewItem(
                id="a",
                kind="video",
                duration_s=5.0,
                windows=[(0.0, 5.0)],
                vectors=vectors,
                media=kept,
                filename="a.MP4",
            )
        ]
    )
    box.close()
    box = Collection(tmp_path / "box", "f1", dims(3))
    assert [p.name for p in (tmp_path / "box" / "media").iterdir()] == [kept]
    assert box.media("a")[0].read_bytes() == b"media"
    box.put(
        [NewItem(id="a", kind="video", duration_s=5.0, windows=[(0.0, 5.0)], vectors=vectors)]
    )  # replaced by one without media
    assert not list((tmp_path / "box" / "media").iterdir())
    with pytest.raises(UnknownItem):
        box.media("a")


def test_an_item_and_its_media_are_both_there_or_neither(tmp_path: Path) -> None:
    box = Collection(tmp_path / "box", "f1", dims(3))
    (tmp_path / "m.wav").write_bytes(b"media")
    box.put_media(item("a", unit(1, 0, 0)), tmp_path / "m.wav")
    with pytest.raises(ValueError):
        # not the collection's width
        box.put_media(item("b", np.ones(5, np.float32)), tmp_path / "m.wav")
    with pytest.raises(FileNotFoundError):
        box.put_media(item("c", unit(1, 0, 0)), tmp_path / "nowhere")
    assert len(list((tmp_path / "box" / "media").iterdir())) == 1
    assert [i.id for i in box.page(10)] == ["a"] and found(box, unit(1, 0, 0)) == ["a"]


def test_the_data_folder(tmp_path: Path) -> None:
    data = Collections(tmp_path, "f1", dims(3))
    data.create("a").put([item("x", unit(1, 0, 0))])
    with pytest.raises(CollectionExists):
        data.create("a")
    for bad in ("", "A", "../x", "a/b", ".a", "x" * 64):
        with pytest.raises(BadName):
            data.create(bad)
    with pytest.raises(UnknownCollection):
        data.get("b")
    with pytest.raises(DataInUse):
        Collections(tmp_path, "f1", dims(3))
    data.create("b")
    data.delete("b")
    assert [c.name for c in data.all()] == ["a"]
    data.close()
    again = Collections(tmp_path, "f1", dims(3))
    assert [c.name for c in again.all()] == ["a"] and found(again.get("a"), unit(1, 0, 0)) == ["x"]
    again.close()


class Sequences(RuleBasedStateMachine):
    """Random additions, also in parts, replacements, deletions, other metadata, snapshots and
    restarts, against a dictionary.
    """

    root: Path
    runs = 0

    def __init__(self) -> None:
        super().__init__()
        Sequences.runs += 1
        self.folder = self.root / str(Sequences.runs)
        self.box = Collection(self.folder, "f1", dims(4))
        self.expected: dict[str, Array] = {}
        self.about: dict[str, dict[str, Any]] = {}
        self.begun: dict[str, NewItem] = {}  # films of which parts may come
        self.seed = 0

    @rule(name=st.sampled_from("abcdef"), windows=st.integers(1, 3))
    def put(self, name: str, windows: int) -> None:
        self.seed += 1
        vectors = cloud(windows, 4, self.seed)
        # sometimes more than is held in memory
        about = {"seed": self.seed, "said": "ü" * 700 * (windows - 1)}
        film = replace(item(name, *vectors, **about), partial=True, stamp=f"{self.seed}")
        self.box.put([film])
        self.expected[name], self.about[name] = vectors, about
        self.begun[name] = film

    @rule(name=st.sampled_from("abcdef"), last=st.booleans())
    def go_on(self, name: str, last: bool) -> None:
        """A film's next part, whatever was added since the one before."""
        if name in self.begun:
            self.seed += 1
            vector = cloud(1, 4, self.seed)
            film = replace(self.begun[name], partial=not last, vectors={"video": ([0], vector)})
            count = len(self.expected[name])
            start_s = 5.0 * count
            window = (start_s, start_s + 5.0)
            self.box.put([replace(film, windows=[window], first_window=count)])
            self.expected[name] = np.concatenate([self.expected[name], vector])
            if last:
                del self.begun[name]

    @rule(name=st.sampled_from("abcdef"))
    def change(self, name: str) -> None:
        if name in self.expected:
            self.seed += 1
            self.about[name] = {"changed": self.seed}
            self.box.set_metadata(name, self.about[name])

    @rule(name=st.sampled_from("abcdef"))
    def delete(self, name: str) -> None:
        if name in self.expected:
            self.box.delete(name)
            del self.expected[name]
            self.begun.pop(name, None)
        else:
            with pytest.raises(UnknownItem):
                self.box.delete(name)

    @rule()
    def snapshot(self) -> None:
        self.box.snapshot()

    @rule(clean=st.booleans())
    def reopen(self, clean: bool) -> None:
        if clean:
            self.box.close()
        self.box = Collection(self.folder, "f1", dims(4))

    @invariant()
    def finds_what_it_holds(self) -> None:
        query = cloud(1, 4, 99)[0]
        best = {name: float((vectors @ query).max()) for name, vectors in self.expected.items()}
        hits = ask(self.box, query, top_k=10).hits
        assert [hit.id for hit in hits] == sorted(best, key=lambda name: -best[name])
        assert all(hit.metadata == self.about[hit.id] for hit in hits)
        assert [i.id for i in self.box.page(10)] == sorted(self.expected)


def test_random_sequences(tmp_path: Path) -> None:
    Sequences.root = tmp_path
    run_state_machine_as_test(
        Sequences, settings=settings(max_examples=25, stateful_step_count=20, deadline=None)
    )


# ---------------------------------------------------------------- filters


def test_filters(box: Collection) -> None:
    box.put(
        [
            item("a", unit(1, 0, 0), lang="de", year=2019, tags={"kind": "talk"}, live=True),
            item("b", unit(0, 1, 0), unit(0, 1, 0), lang="en", year=2021, live=False),
            item("c", unit(0, 0, 1), lang="en", year="2021", note=None),
        ]
    )

    def left(query: dict[str, Any]) -> str:
        return "".join(sorted(found(box, unit(1, 1, 1), filter=query)))

    assert left({"lang": "en"}) == "bc"
    assert left({"year": 2021}) == "b" and left({"year": "2021"}) == "c"
    assert (
        left({"year": {"$gt": 2019}}) == "b" and left({"year": {"$gte": 2019, "$lt": 2021}}) == "a"
    )
    assert left({"lang": {"$in": ["de", "fr"]}}) == "a" and left({"lang": {"$in": []}}) == ""
    assert left({"note": {"$exists": True}}) == "c" and left({"live": {"$exists": False}}) == "c"
    assert (
        left({"note": None}) == "abc"
        and left({"lang": None}) == ""
        and left({"duration_s": None}) == ""
    )
    assert left({"live": True}) == "a" and left({"live": 1}) == ""
    assert left({"tags.kind": "talk"}) == "a"
    assert left({"duration_s": {"$gt": 5}}) == "b" and left({"duration_s": 5}) == "ac"
    assert left({"$or": [{"lang": "de"}, {"year": 2021}]}) == "ab"
    assert left({"$not": {"lang": "en"}}) == "a" and left({"year": {"$not": {"$gt": 2020}}}) == "ac"
    assert left({"$and": [{"lang": "en"}, {"live": False}]}) == "b"
    assert left({"lang' or 1=1 --": "x"}) == ""
    assert left({"tags": {"$exists": True}}) == "a" and left({"duration_s": "5"}) == ""
    box.put([item("d", unit(1, 0, 0), said=["x", 3, {"deep": 1}, True], huge=10**400)])
    assert (
        left({"said": "x"})
        == left({"said": {"$gt": 2}})
        == left({"said": True})
        == left({"huge": {"$gt": 5}})
        == "d"
    )
    assert left({"said": "y"}) == "" and left({"said.deep": 1}) == "d"
    assert left({"said": None}) == "abc"
    box.put([item("ü", unit(1, 0, 0), **{"straße": "grün"})])
    assert left({"straße": "grün"}) == "ü"
    deep: dict[str, Any] = {"$gt": 1}
    for _ in range(300):
        deep = {"$not": deep}
    hostile: list[dict[str, Any]] = [
        {str(n): n for n in range(2000)},
        {"$or": [{}] * 3000},
        {"$or": [{"duration_s": {"$exists": True}}] * 3000},
        {"a": deep},
        {"a": "\ud800"},
        {"\ud800": 1},
        {"$\ud800": 1},
        {"a": {"$\ud800": 1}},
        {"a": float("nan")},
    ]
    for worse in hostile:
        with pytest.raises(BadFilter):
            compile_filter(worse)
    for bad in (
        {"$where": "1"},
        {"a": {"$regex": "x"}},
        {"a": {"$gt": [1]}},
        {"$or": []},
        {"a": {"$gt": 1, "b": 1}},
        {"a": {"$gt": True}},
    ):
        with pytest.raises(BadFilter):
            compile_filter(bad)


VALUES = st.one_of(
    st.integers(-3, 3), st.sampled_from(["x", "y", ""]), st.booleans(), st.floats(-2, 2)
)
CLAUSES = st.one_of(
    st.fixed_dictionaries({"k": VALUES}),
    st.builds(
        lambda op, v: {"k": {op: v}},
        st.sampled_from(["$gt", "$gte", "$lt", "$lte"]),
        st.integers(-3, 3),
    ),
    st.builds(lambda b: {"k": {"$exists": b}}, st.booleans()),
    st.builds(lambda vs: {"k": {"$in": vs}}, st.lists(VALUES, max_size=3)),
)
QUERIES = st.recursive(
    CLAUSES,
    lambda q: st.one_of(
        st.builds(lambda a: {"$not": a}, q),
        st.builds(lambda a, b: {"$or": [a, b]}, q, q),
        st.builds(lambda a, b: {"$and": [a, b]}, q, q),
    ),
    max_leaves=4,
)


def meets(query: dict[str, Any], metadata: dict[str, Any]) -> bool:
    """The filter language in Python."""
    (key, given_value), *_ = query.items()
    if key == "$not":
        return not meets(given_value, metadata)
    if key in ("$or", "$and"):
        return (any if key == "$or" else all)(meets(q, metadata) for q in given_value)
    here = metadata.get("k")

    def same(a: Any, b: Any) -> bool:
        return (
            isinstance(a, bool) == isinstance(b, bool)
            and isinstance(a, str) == isinstance(b, str)
            and a == b
        )

    if not isinstance(given_value, dict):
        return key in metadata and same(here, given_value)
    (op, value), *_ = given_value.items()
    if op == "$exists":
        return (key in metadata) == value
    if op == "$in":
        return key in metadata and any(same(here, v) for v in value)
    if key not in metadata or isinstance(here, bool | str):
        return False
    return bool(
        {"$gt": here > value, "$gte": here >= value, "$lt": here < value, "$lte": here <= value}[op]
    )


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(query=QUERIES, values=st.lists(st.none() | VALUES, min_size=1, max_size=6))
def test_filters_mean_what_they_say(
    tmp_path: Path, query: dict[str, Any], values: list[Any]
) -> None:
    folder = tmp_path / "filters"
    shutil.rmtree(folder, ignore_errors=True)
    box = Collection(folder, "f1", dims(3))
    rows = [{} if value is None else {"k": value} for value in values]
    box.put([item(str(n), unit(1, 0, 0), **row) for n, row in enumerate(rows)])
    got = found(box, unit(1, 0, 0), filter=query)
    box.close()
    assert sorted(got) == [str(n) for n, row in enumerate(rows) if meets(query, row)]


@pytest.mark.parametrize("kind", ["hnsw", "ivf", "small"])
@pytest.mark.parametrize("share", [0.35, 0.6, 0.9])
def test_a_filter_that_leaves_out_what_is_near_finds_what_is_left(kind: str, share: float) -> None:
    """Two clouds: the queries lie in one, the filter leaves the other. A graph alone stops before
    it gets there.
    """
    random = np.random.default_rng(1)
    n, dim = 6000, 16
    far = int(share * n)
    centres = np.stack([unit(*([1.0] * 8 + [0.0] * 8)), unit(*([0.0] * 8 + [1.0] * 8))])
    of = np.array([1] * far + [0] * (n - far))
    x = centres[of] + 0.1 * random.normal(size=(n, dim)).astype(np.float32)
    x = np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)
    index = FaissIndex(dim, kind, n)
    if kind != "hnsw":
        index.train(x)
    ids = np.arange(1, n + 1)
    index.add(ids, x)
    allowed = Allowed(ids[:far])
    recall = []
    for query in x[far : far + 40]:
        found = index.search(query, 10, allowed=allowed).ids
        right = ids[np.argsort(-(x[:far] @ query))[:10]]
        assert len(found) == 10
        recall.append(len(np.intersect1d(found, right)) / 10)
    assert np.mean(recall) >= 0.95, np.mean(recall)


@pytest.mark.parametrize("kind", ["hnsw", "ivf", "small"])
def test_what_lies_near_removed_vectors_is_found(kind: str) -> None:
    """All of a cloud but ten are removed, less than makes an index new: the ten are found by what
    was near them.
    """
    random = np.random.default_rng(2)
    x = random.normal(size=(6000, 16)).astype(np.float32)
    x[:800] = x[0] + 0.2 * x[:800]
    x = np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)
    index = FaissIndex(16, kind, len(x))
    if kind != "hnsw":
        index.train(x)
    ids = np.arange(1, len(x) + 1)
    index.add(ids, x)
    index.remove(ids[10:800])
    assert not index.needs_compaction
    left = np.r_[0:10, 800 : len(x)]
    recall = []
    for query in x[10:50]:
        found = index.search(query, 10).ids
        right = ids[left[np.argsort(-(x[left] @ query))[:10]]]
        recall.append(len(np.intersect1d(found, right)) / 10)
    assert np.mean(recall) >= 0.95, np.mean(recall)


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize("kind", ["ivf", "small"])
def test_codes_read_as_far_as_a_filter_makes_them(
    kind: str, lists: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filters against each query, of all shares: by copies of codes, by lists, and where all is in
    one list.
    """
    monkeypatch.setattr("index.vectors.codes.ONE_LIST", 1000 if lists else 50_000)
    monkeypatch.setattr("index.vectors.codes.COPIED", 4500)
    x = np.concatenate(
        [cloud(1, 16, seed=s) + 0.3 * cloud(500, 16, seed=100 + s) for s in range(16)]
    )
    x = np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)
    ids, topics = np.arange(1, len(x) + 1), np.repeat(np.arange(16), 500)
    index = FaissIndex(16, kind, len(x))
    index.train(x)
    index.add(ids, x)
    index.tune(x[::100])
    index.remove(ids[::9])
    ways, recall = set(), []
    for n in range(3, len(x), 250):
        order = np.argsort(-(x @ x[n]), kind="stable")
        for mask in (
            topics != topics[n],
            topics == (topics[n] + 1) % 16,
            np.isin(topics, [(topics[n] + i) % 16 for i in range(1, 10)]),
            np.isin(np.arange(len(x)), order[2000:]),
        ):
            allowed = Allowed(ids[mask])
            found = index.search(x[n], 10, allowed=allowed)
            right = index.search(x[n], 10, allowed=allowed, exact=True).ids
            assert len(found.ids) == 10 and np.isin(found.ids, ids[mask]).all()
            assert found.exact == (found.way == "scan") and found.compared >= 10
            ways.add(found.way)
            recall.append(len(np.intersect1d(found.ids, right)) / 10)
    assert (
        ways == {"codes", "scan"} | ({"lists"} if lists else set()) and np.mean(recall) >= 0.97
    ), np.mean(recall)


@given(
    seed=st.integers(0, 1000),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(1, 400)),
            st.tuples(st.just("replace"), st.integers(0, 50)),
            st.tuples(st.just("remove"), st.integers(0, 15)),
            st.tuples(st.just("search"), st.integers(0, 15)),
        ),
        max_size=12,
    ),
)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_collection_of_codes_against_the_twin(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    steps: list[tuple[str, int]],
) -> None:
    """Items come, are replaced and go, topic by topic, while indexes are made anew; filters leave a
    topic out.
    """
    monkeypatch.setattr("index.vectors.sizing.LEARNABLE", 200)
    monkeypatch.setattr("index.vectors.sizing.EXACT_MS", 1e-6)
    monkeypatch.setattr("index.vectors.codes.ONE_LIST", 300)
    random = np.random.default_rng(seed)
    centres = cloud(16, 16, seed=seed)
    box, twin = (
        Collection(tmp_path_factory.mktemp("codes") / "c", "f1", dims(16)),
        dict[str, tuple[int, Any]](),
    )

    def put(names: list[str]) -> None:
        rows = []
        for name in names:
            topic = int(random.integers(16))
            v = centres[topic] + 0.3 * random.normal(size=16)
            v = np.asarray(v / np.linalg.norm(v), np.float32)
            twin[name] = topic, v
            rows.append(item(name, v, topic=topic))
        box.put(rows)

    put([f"i{n}" for n in range(500)])
    recall = []
    for what, n in steps:
        if what == "add":
            put([f"i{len(twin)}-{k}" for k in range(n)])
        elif what == "replace":
            put(sorted(twin)[:n])
        elif what == "remove":
            for name in [name for name, (topic, _) in twin.items() if topic == n][:60]:
                box.delete(name)
                del twin[name]
        else:
            for filter in (None, {"$not": {"topic": n}}, {"topic": {"$lt": 8}}):
                left = {
                    name: float(v @ centres[n])
                    for name, (topic, v) in twin.items()
                    if filter is None or (topic < 8 if "topic" in filter else topic != n)
                }
                right = sorted(left, key=lambda name: -left[name])[:10]
                got = found(box, centres[n], top_k=10, filter=filter)
                assert len(got) == len(right) and set(got) <= left.keys()
                recall.append(len(set(got) & set(right)) / max(len(right), 1))
    assert np.mean(recall or [1.0]) >= 0.95
    box.close()


def test_codes_of_an_earlier_version_serve_until_they_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a quarter as many pieces as dimensions, and snapshots
    that keep no codes beside the index.
    """
    monkeypatch.setattr("index.vectors.codes.ONE_LIST", 500)
    x = cloud(1500, 16)

    def save(self: FaissIndex, path: Path) -> None:
        faiss.write_index(self.faiss, f"{path}.faiss")
        np.savez(f"{path}.npz", ids=self._rows.ids, gone=self._rows.deleted)

    with monkeypatch.context() as earlier:
        earlier.setattr("index.vectors.codes.pieces", lambda dim: dim // 4)
        earlier.setattr(FaissIndex, "save", save)
        box = Collection(tmp_path / "box", "f1", dims(16), Sizing("ivf"))
        box.put([item(f"i{n}", v, n=n) for n, v in enumerate(x)])
        wait_until(lambda: box.index("video").kind == "ivf" and not box.busy)
        box.close()
    with caplog.at_level("INFO", "index"):
        box = Collection(tmp_path / "box", "f1", dims(16), Sizing("ivf"))
    assert "earlier version" in caplog.text and len(box.index("video")) == 1500
    assert found(box, x[7])[0] == "i7" and found(box, x[9], filter={"n": {"$gt": 3}})[0] == "i9"
    wait_until(lambda: not box.busy)
    with box.hold_for_reading():
        index = box.index("video")
        assert isinstance(index, FaissIndex) and not index.outdated and index.kind == "ivf"
    assert found(box, x[7])[0] == "i7"
    box.close()


def test_opening_removes_only_what_was_left_half_done(tmp_path: Path) -> None:
    """Not what others keep in the folder of the collections; and nothing that was set aside is
    written over.
    """
    data = Collections(tmp_path, "f1", dims(3))
    media = data.create("a").folder / "media"
    data.close()
    half, root = tmp_path / "collections" / f".a-{'0' * 32}", tmp_path / "collections"
    torn, dated = root / ".a-1_2x3y4z.part", root / ".a-20261130"
    for folder in (half, torn, dated, root / ".snapshot", root / "notes"):
        folder.mkdir()
        (folder / "file.mp4").write_bytes(b"x")
    (root / ".DS_Store").write_bytes(b"x")
    for content in (b"1", b"2"):
        (media / "x.mp4").write_bytes(content)
        Collections(tmp_path, "f1", dims(3)).close()
    assert not half.exists() and {path.name for path in root.iterdir()} == {
        "a",
        ".a-20261130",
        ".snapshot",
        "notes",
        ".DS_Store",
    }
    aside = {path.name: path.read_bytes() for path in (root / "a" / "set-aside").iterdir()}
    assert aside == {"x.mp4": b"1", "x-1.mp4": b"2"}


@pytest.mark.parametrize("lost", ["empty", "missing", "without its log", "older"])
def test_nothing_is_deleted_where_records_say_less_than_the_folder_has(
    tmp_path: Path, lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Refused in words where the records are gone; where they are older, media that they do not
    name is set aside.
    """
    data = tmp_path / "data"
    whole = Collections(data, "f1", dims(3))
    box = whole.ensure("default")
    sound = tmp_path / "sound.wav"

    def add(id: str) -> None:
        sound.write_bytes(id.encode())
        box.put_media(item(id, unit(1, 0, 0)), sound)

    add("first")
    with closing(sqlite3.connect(box.folder / "records.sqlite")) as db:
        db.execute("vacuum into ?", (str(tmp_path / "older.sqlite"),))
    add("second")
    # as a kill would leave it
    folder = shutil.copytree(data, tmp_path / "copy") / "collections" / "default"
    whole.close()
    records = folder / "records.sqlite"
    if lost == "empty":
        for file in folder.glob("records.sqlite-*"):
            file.unlink()
        records.write_bytes(b"")
    elif lost == "without its log":
        (folder / "records.sqlite-wal").unlink()
    else:
        for file in folder.glob("records.sqlite*"):
            file.unlink()
        if lost == "older":
            shutil.copyfile(tmp_path / "older.sqlite", records)
    media = {path.name: path.read_bytes() for path in (folder / "media").iterdir()}
    for _ in range(2):  # opening changes nothing that a second opening would see otherwise
        opened = Collections(tmp_path / "copy", "f1", dims(3))
        if lost == "older":
            assert found(opened.get("default"), unit(1, 0, 0)) == ["first"]
            assert [path.read_bytes() for path in (folder / "set-aside").iterdir()] == [b"second"]
            assert "set-aside" in caplog.text
        else:
            for ask_for in (opened.get, opened.ensure):
                with pytest.raises(RecordsLost, match="Nothing was changed"):
                    ask_for("default")
            with pytest.raises(RecordsLost):
                list(
                    reembed(tmp_path / "copy", "default", FakeEncoder("f2"), Decoders(1), Budget())
                )
            with pytest.raises(RecordsLost):
                backup(tmp_path / "copy", tmp_path / "backup")
            assert (
                not (tmp_path / "backup").exists()
                and check_all(tmp_path / "copy", "f1", "f2") == []
            )
            assert {
                path.name: path.read_bytes() for path in (folder / "media").iterdir()
            } == media and len(media) == 2
        opened.close()
    assert records.exists() == (lost != "missing") and (
        lost != "empty" or not records.stat().st_size
    )


@pytest.mark.parametrize("damage", ["its head", "its pages"])
def test_damaged_records_are_named_and_others_serve(tmp_path: Path, damage: str) -> None:
    data = tmp_path / "data"
    with closing(Collections(data, "f1", dims(3))) as collections:
        for name in ("good", "torn"):
            collections.create(name).put([item(f"i{n}", unit(1, 0, 0)) for n in range(50)])
    records = data / "collections" / "torn" / "records.sqlite"
    content = bytearray(records.read_bytes())
    start = 0 if damage == "its head" else 4096
    content[start : start + 40_000] = b"\xa5" * len(content[start : start + 40_000])
    records.write_bytes(content)
    with closing(Collections(data, "f1", dims(3))) as collections:
        assert len(found(collections.get("good"), unit(1, 0, 0), top_k=100)) == 50
        with pytest.raises(RecordsLost, match=r"'torn' are damaged .*Nothing was changed"):
            collections.get("torn")
        with pytest.raises(RecordsLost):
            collections.ensure("torn")
    assert records.read_bytes() == content
    with pytest.raises(RecordsLost, match="'torn' are damaged"):
        backup(data, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()
    with closing(Collections(data, "f1", dims(3))) as collections:
        collections.adopt("torn")
        assert collections.get("torn").counts().items == 0
    aside = data / "collections" / "torn" / "set-aside" / "records" / "records.sqlite"
    assert aside.read_bytes() == content


def test_a_collection_that_cannot_be_deleted_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Collections(tmp_path, "f1", dims(3))) as collections:
        collections.create("box").put([item("a", unit(1, 0, 0))])
        with monkeypatch.context() as patched:  # root may write everywhere
            patched.setattr("index.library.os.access", lambda path, mode: False)
            with pytest.raises(PermissionError):
                collections.delete("box")
        assert found(collections.get("box"), unit(1, 0, 0)) == ["a"]
        collections.delete("box")
        assert collections.all() == []


def test_there_may_be_more_collections_than_files_are_allowed_at_first(tmp_path: Path) -> None:
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(list(Path("/proc/self/fd").iterdir())) + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, allowed[1]))
    try:
        with closing(Collections(tmp_path, "f1", dims(4))) as collections:
            for n in range(10):
                collections.create(f"c{n}")
            assert len(collections.all()) == 10
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, allowed)


def test_what_is_left_of_a_deleted_collection_keeps_none_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Collections(tmp_path, "f1", dims(3))) as collections:
        collections.create("box").put([item("a", unit(1, 0, 0))])
    left = tmp_path / "collections" / f".gone-{1:032x}"
    left.mkdir()

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr("index.library.shutil.rmtree", refuse)
        with closing(Collections(tmp_path, "f1", dims(3))) as collections:
            assert found(collections.get("box"), unit(1, 0, 0)) == ["a"]
    assert "cannot be removed: Permission denied" in caplog.text
    Collections(tmp_path, "f1", dims(3)).close()
    assert not left.exists()
