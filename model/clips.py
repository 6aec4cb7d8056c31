"""The clips of a manifest as arrays: decoded once, by the code that serves, and mapped from a cache folder."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .inputs.decode import Budget
from .inputs.errors import BadMedia
from .inputs.windows import InputSpecs, read_media
from .manifest import Row, read_manifest
from .progress import followed
from .world import render_split


def resolve(name: str, worlds: Path) -> Path:
    """A manifest's path; `world:SPLIT:COUNT` is rendered below `worlds` first, once."""
    if not name.startswith("world:"):
        return Path(name)
    _, split, count = name.split(":")
    folder = worlds / f"{split}-{count}"
    if not (folder / split / "manifest.jsonl").exists():
        render_split(folder, split, int(count))
    return folder / split / "manifest.jsonl"


class Clips:
    """The first window of every readable row of a manifest, decoded: frames and waveforms mapped from the cache."""

    def __init__(self, manifest: Path, specs: InputSpecs, cache: Path) -> None:
        rows = read_manifest(manifest)
        key = hashlib.sha256(f"{specs}{manifest.resolve()}{manifest.stat().st_mtime_ns}".encode()).hexdigest()[:16]
        folder = cache / key
        if not (folder / "index.json").exists():
            decode_all(rows, specs, folder)
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self.rows = [rows[i] for i in index["rows"]]
        self.has = {m: np.array(index[m], dtype=bool) for m in ("video", "audio")}
        self.heard = np.array(index["heard"])  # samples that are not padding
        self.frames = np.load(folder / "frames.npy", mmap_mode="r")
        self.waveforms = np.load(folder / "waveforms.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.rows)


def first_window(specs: InputSpecs, row: Row) -> dict[str, NDArray[Any]] | str:
    try:
        media = read_media(row.path, specs, Budget())
    except BadMedia as fault:
        return str(fault)
    return {m: part.array[0] for m, part in media.parts.items() if part.windows[0] == 0}


def decode_all(rows: list[Row], specs: InputSpecs, folder: Path) -> None:
    """Write frames.npy uint8 and waveforms.npy float16 with a row for each decodable clip; index.json comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = (len(rows), specs.video.frames, specs.video.size, specs.video.size, 3)
    frames = np.lib.format.open_memmap(folder / "frames.npy", "w+", np.uint8, shape)
    waveforms = np.lib.format.open_memmap(folder / "waveforms.npy", "w+", np.float16, (len(rows), specs.audio.samples))
    index: dict[str, list[Any]] = {"rows": [], "video": [], "audio": [], "heard": []}
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        done = pool.map(partial(first_window, specs), rows, chunksize=8)
        for i, arrays in enumerate(followed(done, len(rows), "decoding", "clip")):
            if isinstance(arrays, str):
                tqdm.write(f"left out {rows[i].path.name}: {arrays}")
                continue
            at = len(index["rows"])
            index["rows"].append(i)
            index["video"].append("video" in arrays)
            index["audio"].append("audio" in arrays)
            if "video" in arrays:
                frames[at] = arrays["video"]
            heard = 0
            if "audio" in arrays:
                waveforms[at] = arrays["audio"]
                heard = int(np.flatnonzero(arrays["audio"])[-1]) + 1 if arrays["audio"].any() else 0
            index["heard"].append(heard)
    frames.flush()
    waveforms.flush()
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
