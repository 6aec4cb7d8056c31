"""The clips of a manifest as arrays. They are decoded once, by the same code that serves, and then
mapped into memory from a cache folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from media.containers import Budget
from media.errors import BadMedia
from media.manifest import Row, read_folder, read_manifest
from media.modality import AUDIO, MODALITY_TABLE, RECORDED, VIDEO
from media.progress import show_progress
from media.windows import InputSpecs, Part, read_media

RUN = 8  # rows in a run, see `epoch_order`
LAYOUT = 2  # version of the layout of a cache folder


@dataclass(frozen=True)
class Clip:
    """One clip as arrays: frames uint8 [F, H, W, 3], waveform [samples], of which the first `heard`
    are no padding.
    """

    row: Row
    frames: NDArray[np.uint8] | None
    waveform: NDArray[np.floating] | None
    heard: int


@dataclass(frozen=True)
class LazyClip:
    """A clip chosen for a batch; `open` reads it."""

    row: Row
    open: Callable[[], Clip]


def load_rows(name: str, worlds: Path) -> tuple[list[Row], str]:
    """The rows of a manifest, of a folder of media, or of `world:SPLIT:COUNT`, which is rendered
    below `worlds` first; and what tells this state of them from another.
    """
    if name.startswith("world:"):
        _, split, count = name.split(":")
        folder = worlds / f"{split}-{count}"
        if not (folder / split / "manifest.jsonl").exists():
            from .world import render_split

            render_split(folder, split, int(count))
        name = str(folder / split / "manifest.jsonl")
    path = Path(name)
    if not path.is_dir():
        return read_manifest(path), f"{path.resolve()}{path.stat().st_mtime_ns}"
    rows = read_folder(path)
    stats = [
        (str(row.path), row.path.stat().st_mtime_ns, row.path.stat().st_size)
        for row in rows
        if row.path
    ]
    return rows, f"{path.resolve()}{stats}"


class Clips:
    """The first window of every readable row. `open` decodes them once and maps a cache folder.

    `arrays[modality]` is [rows, ...], `has[modality]` [rows] says which rows have that modality,
    and `heard` [rows] how many samples of each waveform are no padding. `composed` may have sounds
    of these rows that were put together beforehand, by name.
    """

    def __init__(
        self,
        rows: list[Row],
        arrays: dict[str, NDArray[Any]],
        has: dict[str, NDArray[np.bool_]],
        heard: NDArray[np.int64],
        batch_together_by: Sequence[tuple[str, ...]] = (),
        composed: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self.rows = rows
        self.has = has
        self.heard = heard
        self.arrays = arrays
        self.batch_together_by = batch_together_by
        self.composed = composed or {}
        self.order = lru_cache(maxsize=2)(self.epoch_order)

    @classmethod
    def open(
        cls,
        name: str,
        specs: InputSpecs,
        cache: Path,
        worlds: Path,
        batch_together_by: Sequence[tuple[str, ...]] = (),
    ) -> Clips:
        """A set by its name, see `load_rows`; for the last argument see `epoch_order`."""
        rows, state = load_rows(name, worlds)
        stamp = hashlib.sha256(f"{LAYOUT}{specs}{state}".encode()).hexdigest()
        folder = cache / stamp[:16]
        if not (folder / "index.json").exists():
            decode_all(rows, specs, folder)
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        return cls(
            [rows[i] for i in index["rows"]],
            {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in specs.recorded()},
            {name: np.array(index["has"][name], dtype=bool) for name in RECORDED},
            np.array(index["heard"]),
            batch_together_by,
        )

    def __len__(self) -> int:
        return len(self.rows)

    def clip(self, i: int) -> Clip:
        found = {name: array[i] for name, array in self.arrays.items() if self.has[name][i]}
        return Clip(
            row=self.rows[i],
            frames=found.get(VIDEO),
            waveform=found.get(AUDIO),
            heard=int(self.heard[i]),
        )

    def draw(self, step: int, count: int, seed: tuple[int, ...]) -> list[LazyClip]:
        """`count` clips for a step, going through all of them each epoch, in another order."""
        places = (divmod(at, len(self)) for at in range(step * count, (step + 1) * count))
        chosen = [int(self.order(epoch, seed)[place]) for epoch, place in places]
        return [LazyClip(self.rows[i], partial(self.clip, i)) for i in chosen]

    def epoch_order(self, epoch: int, seed: tuple[int, ...]) -> NDArray[np.int64]:
        """The order of the rows in an epoch, [rows]: random, or in runs of RUN rows that share the
        metadata values named by `batch_together_by`, whose entries take turns by epoch. Rows that
        share them are harder negatives for each other.
        """
        random = np.random.default_rng([*seed, epoch])
        order = random.permutation(len(self))
        choices = self.batch_together_by or ((),)
        keys = choices[epoch % len(choices)]
        cells: dict[tuple[str, ...], list[int]] = {}
        for i in order:
            cells.setdefault(tuple(str(self.rows[i].metadata.get(k)) for k in keys), []).append(
                int(i)
            )
        if len(cells) < 2:
            return order
        runs = [cell[at : at + RUN] for cell in cells.values() for at in range(0, len(cell), RUN)]
        return np.concatenate([runs[i] for i in random.permutation(len(runs))])


def read_row(specs: InputSpecs, path: Path | None) -> dict[str, Part] | str:
    """The windows of a file by modality, or what is wrong with it; none of a row without a file."""
    if path is None:
        return {}
    try:
        return read_media(path, specs, Budget()).parts
    except BadMedia as fault:
        return str(fault)


def take_first_windows(parts: dict[str, Part]) -> dict[str, NDArray[Any]]:
    """The arrays of the first window, by modality."""
    return {modality: part.array[0] for modality, part in parts.items() if part.windows[0] == 0}


def decode_rows(rows: list[Row], specs: InputSpecs) -> Iterator[dict[str, Part] | str]:
    """`read_row` of each row, in their order, by two processes."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        done = pool.map(partial(read_row, specs), [row.path for row in rows], chunksize=8)
        yield from show_progress(done, len(rows), "decoding", "clip")


def decode_all(rows: list[Row], specs: InputSpecs, folder: Path) -> None:
    """Write `<modality>.npy` with a row for each decodable clip; index.json comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        name: np.lib.format.open_memmap(
            folder / f"{name}.npy",
            "w+",
            MODALITY_TABLE[name].stored_dtype,
            (len(rows), *spec.shape),
        )
        for name, spec in specs.recorded().items()
    }
    kept: list[int] = []
    heard: list[int] = []
    has: dict[str, list[bool]] = {name: [] for name in RECORDED}
    for i, parts in enumerate(decode_rows(rows, specs)):
        if isinstance(parts, str):
            tqdm.write(f"left out {rows[i].id}: {parts}")
            continue
        first = take_first_windows(parts)
        for name, array in first.items():
            arrays[name][len(kept)] = array
        for name, known in has.items():
            known.append(name in first)
        kept.append(i)
        heard.append(count_heard_samples(first.get(AUDIO)))
    for stored in arrays.values():
        stored.flush()
    index = {"rows": kept, "has": has, "heard": heard}
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")


def count_heard_samples(waveform: NDArray[Any] | None) -> int:
    """How many samples there are before the padding."""
    return 0 if waveform is None or not waveform.any() else int(np.flatnonzero(waveform)[-1]) + 1
