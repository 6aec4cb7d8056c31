"""Make tests/data/before.tar.gz: a data folder as an earlier version left it when it was killed.

    git worktree add --detach ../before 7ecba5d
    python tests/data/make_before.py ../before

It has items of every kind, deleted ones, and a re-embedding that was half done. The code that makes
it is that of the worktree. Media and vectors are those of its tests: plain colours, tones and an
encoder that can be worked out on paper. Files that stay where they lie are in `sources/`, and the
records name them below PREFIX.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
import tarfile
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

OUT = Path(__file__).resolve().parent / "before.tar.gz"
PREFIX = "/before"  # of the sources, in place of the folder they were made in
TIME = 1_700_000_000  # of the sources: whole seconds come out of a tar file as they went in
SOUND_S = 0.25  # of each sound: samples are most of the file
LARGEST = 300_000  # bytes of before.tar.gz


def make_sources(folder: Path, makers: Any) -> None:
    """Two films and a tone, one of the films with two captions; a line of words; a shard."""
    clips = folder / "clips"
    clips.mkdir(parents=True)
    makers.make_clip(clips / "red.mp4", [makers.RED] * 4)
    makers.make_wav(clips / "tone.wav", SOUND_S, rate=8000)
    (clips / "broken.mp4").write_bytes(b"no film")
    makers.make_clip(folder / "told.mp4", [makers.BLUE] * 2)
    rows: list[dict[str, Any]] = [
        {"id": "line", "text": "blue", "metadata": {"lang": "en"}},
        {"id": "told", "path": "told.mp4", "captions": ["a blue film", "loud"]},
    ]
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    with tempfile.TemporaryDirectory() as place, tarfile.open(folder / "shard.tar", "w") as tar:
        makers.make_wav(Path(place) / "w.wav", SOUND_S, rate=8000)
        (Path(place) / "w.txt").write_text("noise\n", encoding="utf-8")
        tar.add(Path(place) / "w.wav", "member.wav")
        tar.add(Path(place) / "w.txt", "member.txt")
    for path in sorted(folder.rglob("*")):
        os.utime(path, (TIME, TIME))


def fill(data: Path, sources: Path, place: Path, makers: Any) -> None:
    """Build, upload, replace, delete, begin to embed anew; then copy the folder as it is, while it
    is open, to `data` with the suffix `.killed`.
    """
    from index.bank import stock
    from index.build import build
    from index.data import Collections
    from model.inputs.confined import Decoders
    from model.inputs.decode import Budget

    from index import reembed  # type: ignore[attr-defined]
    from index.records import NewItem

    encoder, decoders = makers.FakeEncoder("before"), Decoders(1)
    collections = Collections(data, "before", encoder.manifest.dims)
    box = collections.create("a")
    stock(box, encoder)

    def upload(id: str, file: Path, **metadata: Any) -> None:
        media = decoders.finish(
            decoders.start(file, encoder.manifest.inputs, Budget(), previews=True)
        )
        vectors = {
            modality: (part.windows, encoder.embed(modality, part.array))
            for modality, part in media.parts.items()
        }
        new = NewItem(
            id=id,
            kind="video" if "video" in media.parts else "audio",
            duration_s=media.duration_s,
            windows=media.windows,
            vectors=vectors,
            metadata=metadata,
            filename=file.name,
            pictures=media.pictures,
            peaks=media.peaks,
        )
        box.put_media(new, file)

    def note(id: str, text: str) -> None:
        vectors = {"text": ([0], encoder.embed("text", encoder.tokens([text], "text")))}
        box.put([NewItem(id, "text", 0.0, [(0.0, 0.0)], vectors, {}, text=text)])

    paths = [sources / "clips", sources / "rows.jsonl", sources / "shard.tar"]
    for _ in build(encoder, box, paths, decoders, Budget()):
        pass
    green = makers.make_clip(place / "green.mp4", [makers.GREEN] * 2, hz=None)
    sound = makers.make_wav(place / "sound.wav", SOUND_S, rate=8000)
    upload("film", green, lang="de", year=2019)
    upload("sound", sound)
    upload("replaced", sound)
    upload("replaced", green)
    upload("gone early", green)
    upload("gone late", green)
    note("note", "green\nand loud")
    box.delete("gone early")
    box.snapshot()
    reembed.WINDOWS = 2  # so that some items are written before it is stopped
    anew = reembed.reembed(data, "a", makers.FakeEncoder("after"), decoders, Budget())
    for progress in anew:
        if progress.done >= 6:
            break
    anew.close()
    for folder in (data / "collections" / "a", data / "reembed" / "a"):
        with closing(sqlite3.connect(folder / "records.sqlite")) as db:
            db.execute("update items set source = replace(source, ?, ?)", (str(sources), PREFIX))
            db.commit()
            db.execute("pragma wal_checkpoint(truncate)").fetchall()
    box.delete("gone late")
    while box.busy:  # a snapshot is being written
        time.sleep(0.01)
    shutil.copytree(data, data.with_suffix(".killed"), ignore=shutil.ignore_patterns("*-shm"))
    collections.close()
    decoders.close()


def main() -> None:
    worktree = Path(sys.argv[1]).resolve()
    os.chdir(worktree)
    os.environ["PYTHONPATH"] = str(worktree)  # of the processes that decode
    sys.path.insert(0, str(worktree))
    from tests import makers

    assert Path(makers.__file__).is_relative_to(worktree)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        make_sources(place / "sources", makers)
        fill(place / "data", place / "sources", place, makers)
        with tarfile.open(OUT, "w:gz") as tar:
            tar.add(place / "data.killed", "data")
            tar.add(place / "sources", "sources")
    print(f"{OUT.name}: {OUT.stat().st_size} bytes")
    assert OUT.stat().st_size <= LARGEST


if __name__ == "__main__":
    main()
