"""Another encoder for a collection: made beside the old one while it is written, compared, swapped
whole or not.
"""

from __future__ import annotations

import json
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from index.collection import DataInUse, FingerprintConflict, UnknownCollection
from index.ingest.build import build
from index.ingest.passages import add_passages
from index.ingest.plan import BuildOptions
from index.ingest.reembed import NotReady, Progress, drop, measure_overlaps, reembed, swap
from index.library import Collections
from index.records.item import NewItem
from media.containers import ARCHIVE_BUDGET, Budget
from media.passages import Kind, Passage
from media.sandbox import Decoders
from media.windows import DecodeOptions

from .makers import BLUE, GREEN, RED, FakeEncoder, make_clip, make_wav
from .test_films import make_film


class Turned(FakeEncoder):
    """The same directions with axes swapped: other vectors, the same neighbours."""

    def __init__(self) -> None:
        super().__init__("turned")

    def embed(self, encoding: str, arrays: NDArray[Any]) -> NDArray[np.float32]:
        return np.ascontiguousarray(super().embed(encoding, arrays)[:, ::-1])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Uploaded media, files where they lie, a tar shard, words; in the vectors of FakeEncoder."""
    place, encoder = tmp_path / "clips", FakeEncoder()
    place.mkdir()
    for n, colour in enumerate((RED, GREEN, BLUE)):
        make_clip(place / f"{n}.mp4", [colour] * 3)
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(make_wav(tmp_path / "w.wav", 3.0), "in-shard.wav")
    (tmp_path / "m.jsonl").write_text(json.dumps({"text": "red", "id": "words"}) + "\n")
    collections = Collections(
        tmp_path / "data", encoder.manifest.fingerprint, encoder.manifest.dims
    )
    box, decoders = collections.create("a"), Decoders(1)
    for _ in build(
        encoder, box, [place, tmp_path / "s.tar", tmp_path / "m.jsonl"], decoders, Budget()
    ):
        pass
    options = DecodeOptions(specs=encoder.manifest.inputs, budget=Budget())
    media = decoders.finish(decoders.start(place / "1.mp4", options))
    vectors = {m: (part.windows, encoder.embed(m, part.array)) for m, part in media.parts.items()}
    new = NewItem(
        id="uploaded",
        kind="video",
        duration_s=media.duration_s,
        windows=media.windows,
        vectors=vectors,
        metadata={"n": 1},
        filename="u.mp4",
        added="2001-02-03T04:05:06Z",
    )
    box.put_media(new, place / "1.mp4")
    decoders.close()
    collections.close()
    return tmp_path / "data"


def test_a_long_text_is_windows_of_the_other_bundle_too(data: Path) -> None:
    """A text that has one vector, from before texts had windows, gets one for each when it is made
    anew.
    """
    old, new = FakeEncoder(), Turned()
    live = opened(data, old)
    vectors = {"text": ([0], old.embed("text", np.array([[2]])))}
    live.get("a").put(
        [
            NewItem(
                id="long",
                kind="text",
                duration_s=0.0,
                windows=[(0.0, 0.0)],
                vectors=vectors,
                texts=("green " * 8 + "red",),
            )
        ]
    )
    live.get("a").put(
        [
            NewItem(
                id="strange",
                kind="text",
                duration_s=0.0,
                windows=[(0.0, 0.0)],
                vectors={},
                texts=("собака",),
            )
        ]
    )
    live.close()
    assert run(data, new).failed == {}
    swap(data, "a")
    again = opened(data, new)
    assert again.get("a").item("long").windows == 2
    assert (
        again.get("a").item("strange").modalities == ()
        and again.get("a").item("strange").text == "собака"
    )
    again.close()


def run(data: Path, encoder: FakeEncoder, budget: Budget = Budget()) -> Progress:
    decoders = Decoders(1)
    try:
        return list(reembed(data, "a", encoder, decoders, budget))[-1]
    finally:
        decoders.close()


def opened(data: Path, encoder: FakeEncoder) -> Collections:
    return Collections(data, encoder.manifest.fingerprint, encoder.manifest.dims)


def test_a_long_upload_is_copied_once_and_whole(tmp_path: Path) -> None:
    """It is decoded and written in parts; what its old version says in words comes once."""
    film = make_film(tmp_path / "f.mkv", 200, fps=2)
    live = opened(tmp_path / "data", FakeEncoder())
    said = (Passage(3.0, 5.0, "red", Kind.SUBTITLE), Passage(150.0, 155.0, "green", Kind.SUBTITLE))
    window = NewItem(id="f", kind="video", duration_s=200.0, windows=[(0.0, 2.0)], vectors={})
    live.create("a").put_media(add_passages(window, said, {}), film)
    live.close()
    progress = run(tmp_path / "data", Turned(), ARCHIVE_BUDGET)
    assert (progress.done, progress.failed) == (1, {})
    assert len(list((tmp_path / "data" / "reembed" / "a" / "media").iterdir())) == 1
    swap(tmp_path / "data", "a")
    with closing(opened(tmp_path / "data", Turned())) as again:
        item, path = again.get("a").item_media("f")
        assert item.windows == 100 + len(said) and not item.partial
        assert again.get("a").passages("f") == said and path.read_bytes() == film.read_bytes()
        assert again.get("a").set_aside() == []


def test_beside_the_old_then_in_its_place(data: Path) -> None:
    old, new = FakeEncoder(), Turned()
    live = opened(data, old)  # a service
    live.get("a").set_metadata("clips/0.mp4", {"by": "me"})
    before = {item.id: item for item in live.get("a").page(100)}
    assert set(before) == {
        "clips/0.mp4",
        "clips/1.mp4",
        "clips/2.mp4",
        "in-shard",
        "words",
        "uploaded",
    }
    progress = run(data, new)
    assert (progress.done, progress.total, progress.failed) == (6, 6, {})
    live.get("a").delete("words")  # and while it runs, things change
    live.get("a").delete("clips/2.mp4")
    live.get("a").put(
        [
            NewItem(
                id="late",
                kind="text",
                duration_s=0.0,
                windows=[(0.0, 0.0)],
                vectors={"text": ([0], old.embed("text", np.array([[1]])))},
                texts=("red",),
            )
        ]
    )
    assert run(data, new).total == 5
    with pytest.raises(DataInUse):
        swap(data, "a")
    shared = {
        overlap.route: overlap for overlap in measure_overlaps(data, "a", new.manifest.compares)
    }
    assert {"video-video", "audio-audio"} <= set(shared)
    assert all(overlap.at_10 == 1.0 for overlap in shared.values())
    live.get("a").put(
        [
            NewItem(
                id="later",
                kind="text",
                duration_s=0.0,
                windows=[(0.0, 0.0)],
                vectors={},
                texts=("blue",),
            )
        ]
    )
    live.close()
    with pytest.raises(NotReady, match="changed since"):
        swap(data, "a")
    live = opened(data, old)
    live.get("a").delete("later")
    live.close()
    swap(data, "a")
    stale = opened(data, old)
    with pytest.raises(FingerprintConflict):
        stale.get("a")
    stale.close()
    again = opened(data, new)
    box = again.get("a")
    after = {item.id: item for item in box.page(100)}
    assert set(after) == {"clips/0.mp4", "clips/1.mp4", "in-shard", "late", "uploaded"}
    for id in set(after) & set(before):
        a, b = before[id], after[id]
        assert (a.kind, a.windows, a.modalities, a.metadata, a.filename, a.stamp, a.source) == (
            b.kind,
            b.windows,
            b.modalities,
            b.metadata,
            b.filename,
            b.stamp,
            b.source,
        )
        assert a.added == b.added
    assert after["uploaded"].added == "2001-02-03T04:05:06Z"
    assert after["clips/0.mp4"].metadata == {"by": "me"}
    with box.hold_for_reading() as records:
        assert records.edited() == {"clips/0.mp4"}
    assert (
        box.media("uploaded")[0].stat().st_size > 0 and box.media("clips/0.mp4")[0].name == "0.mp4"
    )
    assert np.abs(box.vectors("clips/0.mp4", "video") - new_vector(old, data)).max() < 1e-6
    again.close()
    assert not (data / "reembed" / "a").exists()


def new_vector(old: FakeEncoder, data: Path) -> Any:
    decoders = Decoders(1)
    try:
        media = decoders.finish(
            decoders.start(
                data.parent / "clips/0.mp4",
                DecodeOptions(specs=old.manifest.inputs, budget=Budget()),
            )
        )
    finally:
        decoders.close()
    return old.embed("video", media.parts["video"].array)[:, ::-1]


def test_what_is_not_complete_is_not_swapped(data: Path) -> None:
    with pytest.raises(NotReady, match="nothing is staged"):
        swap(data, "a")
    with closing(Decoders(1)) as decoders, pytest.raises(UnknownCollection):
        next(reembed(data, "absent", Turned(), decoders, Budget()))
    (data.parent / "clips" / "0.mp4").unlink()
    assert set(run(data, Turned()).failed) == {"clips/0.mp4"}
    with pytest.raises(NotReady, match="not complete"):
        swap(data, "a")
    drop(data, "a")
    with pytest.raises(NotReady):
        drop(data, "a")
    collections = opened(data, FakeEncoder())
    assert len(collections.get("a").page(100)) == 6
    collections.close()


def test_staged_items_without_their_media_are_not_swapped(data: Path) -> None:
    """Else the originals would be deleted with the old collection."""
    run(data, Turned())
    (copy,) = (data / "reembed" / "a" / "media").iterdir()
    original = copy.read_bytes()
    copy.unlink()
    with pytest.raises(NotReady, match="media files are missing"):
        swap(data, "a")
    drop(data, "a")
    run(data, Turned())
    swap(data, "a")
    (copy,) = (data / "collections" / "a" / "media").iterdir()
    assert copy.read_bytes() == original


def test_what_is_staged_of_another_collection_of_that_name_is_made_anew(tmp_path: Path) -> None:
    """Items of one id and number, with other words."""
    encoder = FakeEncoder()
    for folder, text in (("data", "red"), ("other", "blue")):
        opened = Collections(tmp_path / folder, encoder.manifest.fingerprint, encoder.manifest.dims)
        vector = encoder.embed("text", encoder.tokens([text], "text"))
        opened.create("a").put(
            [
                NewItem(
                    id="words",
                    kind="text",
                    duration_s=0.0,
                    windows=[(0.0, 0.0)],
                    vectors={"text": ([0], vector)},
                    texts=(text,),
                )
            ]
        )
        opened.close()
    run(tmp_path / "data", Turned())
    live = tmp_path / "data" / "collections" / "a"
    live.rename(tmp_path / "before")
    (tmp_path / "other" / "collections" / "a").rename(live)
    with pytest.raises(NotReady, match="has changed"):
        swap(tmp_path / "data", "a")
    run(tmp_path / "data", Turned())
    swap(tmp_path / "data", "a")
    opened = Collections(tmp_path / "data", "turned", encoder.manifest.dims)
    assert opened.get("a").item("words").texts == ("blue",)
    opened.close()


@pytest.mark.parametrize("step", range(6))
def test_a_swap_that_is_cut_short_is_completed(
    data: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before each change it makes to the disk; then the data folder is opened, by either
    bundle.
    """
    run(data, Turned())
    steps = iter(range(100))

    class Killed(BaseException):
        pass

    def dying(real: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            if next(steps) == step:
                raise Killed
            return real(*args, **options)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", dying(Path.rename))
        patched.setattr("index.library.sync", dying(lambda path, **_: None))
        patched.setattr(
            "index.records.database.Records.forget_copied_versions", dying(lambda self: None)
        )
        patched.setattr("index.library.shutil.rmtree", dying(lambda path, **_: None))
        try:
            swap(data, "a")
            swapped = True
        except Killed:
            swapped = step > 0
    collections = opened(data, Turned())
    if swapped:
        assert len(collections.get("a").page(100)) == 6
    else:
        with pytest.raises(FingerprintConflict):
            collections.get("a")
    collections.close()
    if not swapped:
        swap(data, "a")
        collections = opened(data, Turned())
        assert len(collections.get("a").page(100)) == 6
        collections.close()


def test_windows_lie_in_the_new_one_as_in_the_old(tmp_path: Path) -> None:
    """Six seconds in windows of two that overlap by half are five windows, before and after."""
    encoder, data = FakeEncoder(), tmp_path / "data"
    make_clip(tmp_path / "long.mp4", [RED, RED, BLUE, BLUE, RED, RED])
    live, decoders = opened(data, encoder), Decoders(1)
    half = BuildOptions(overlap=0.5)
    list(build(encoder, live.ensure("a"), [tmp_path / "long.mp4"], decoders, Budget(), half))
    before = live.get("a").page(1)[0].windows
    live.close()
    decoders.close()
    assert before == 5 and run(data, Turned()).failed == {}
    swap(data, "a")
    again = opened(data, Turned())
    assert again.get("a").page(1)[0].windows == before
    again.close()
