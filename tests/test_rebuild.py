"""An index made anew in the background gets what is written meanwhile."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from index.collection import Collection
from index.vectors import rebuild
from index.vectors.faiss_index import FaissIndex
from index.vectors.sizing import Sizing

from .makers import dims
from .test_index import cloud, found, item, wait_until


@pytest.mark.parametrize("few", [0, 50, 10_000])
def test_what_is_written_while_an_index_is_made_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """It is read from the records: at most so `few` while nobody searches."""
    began, go_on = threading.Event(), threading.Event()
    added: list[int] = []
    train, add = FaissIndex.train, FaissIndex.add

    def held_back(index: FaissIndex, sample: np.ndarray) -> None:
        began.set()
        assert go_on.wait(60)
        train(index, sample)

    def counted(index: FaissIndex, ids: np.ndarray, vectors: np.ndarray) -> None:
        if index.kind == "ivf":
            added.append(len(ids))
        add(index, ids, vectors)

    monkeypatch.setattr(FaissIndex, "train", held_back)
    monkeypatch.setattr(FaissIndex, "add", counted)
    monkeypatch.setattr(rebuild, "FEW", few)
    x = cloud(1300, 16)
    box = Collection(tmp_path / "box", "f1", dims(16), Sizing("ivf"))
    box.put([item(f"i{n}", x[n]) for n in range(1000)])
    assert began.wait(60)
    box.delete("i7")  # before it is read
    box.put([item(f"i{n}", x[n]) for n in range(1000, 1200)])
    box.put([item("i8", x[1200])])
    box.delete("i1001")
    assert found(box, x[1100], top_k=1) == ["i1100"]  # by the one that serves
    go_on.set()
    wait_until(lambda: box.index("video").kind == "ivf" and not box.busy)
    assert len(box.index("video")) == 1000 - 1 + 200 - 1 == box.counts().vectors["video"]
    assert found(box, x[1200], top_k=1) == ["i8"]
    assert found(box, x[1100], top_k=1) == ["i1100"]
    assert not {"i7", "i1001"} & set(found(box, x[7], top_k=50) + found(box, x[1001], top_k=50))
    assert added[0] == 998 and sum(added) == 1198  # the first reading lacks i7 and the old i8
    box.close()
