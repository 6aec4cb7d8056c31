"""What a learner of sounds is shown, made once: spectrograms and the teacher's scores, in files of
4,000 that a run that was stopped goes on from.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from media.progress import show_progress

from ..network.sound_classifier import CLASSES, MELS, PATCH_FRAMES, LogMelPatches
from .mixtures import Mixtures
from .recordings import Recordings
from .teacher import Teacher

PER_FILE = 4000
FILE_SEEDS = 1_000_003  # the seeds of two files' examples do not meet
WORKERS = 2


class Examples:
    """Log mel patches float16 [n, 64, 96] and scores float16 [n, 521] of several files."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._patches: list[NDArray[np.float16]] = []
        self._scores: list[NDArray[np.float16]] = []
        for file in files:
            with np.load(file) as arrays:
                self._patches.append(arrays["patches"])
                self._scores.append(arrays["scores"])

    def __len__(self) -> int:
        return PER_FILE * len(self._patches)

    def take(self, places: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """The patches and scores at places below `len`, as float32."""
        files, rows = np.divmod(places, PER_FILE)
        of = list(zip(files.tolist(), rows.tolist(), strict=True))
        patches = np.stack([self._patches[file][row] for file, row in of])
        scores = np.stack([self._scores[file][row] for file, row in of])
        return torch.from_numpy(patches).float(), torch.from_numpy(scores).float()


def make_examples(recordings: Path, teacher: Path, files: int) -> tuple[Examples, Examples]:
    """`files` files to learn from, of recordings that are not held out, and one to be judged by, of
    those that are. They lie beside the recordings; what a run before has made is kept.
    """
    folder = recordings / "examples"
    folder.mkdir(exist_ok=True)
    judged = folder / "held-out.npz"
    learned = [folder / f"{number}.npz" for number in range(files)]
    missing = [file for file in (judged, *learned) if not file.exists()]
    with get_context("spawn").Pool(WORKERS, maxtasksperchild=4) as pool:
        made = pool.imap_unordered(partial(make_file, recordings, teacher), missing)
        for _ in show_progress(made, len(missing), "examples", "file"):
            pass
    return Examples(learned), Examples([judged])


def make_file(recordings: Path, teacher_folder: Path, file: Path) -> None:
    torch.set_num_threads(1)
    held_out = not file.stem.isdecimal()
    mixtures = Mixtures(Recordings.open(recordings), held_out)
    teacher = Teacher(teacher_folder)
    spectrogram = LogMelPatches()
    patches = np.empty((PER_FILE, MELS, PATCH_FRAMES), np.float16)
    scores = np.empty((PER_FILE, CLASSES), np.float16)
    first = FILE_SEEDS * (0 if held_out else int(file.stem) + 1)
    for i in range(PER_FILE):
        sound = mixtures.example(first + i)
        scores[i] = teacher.patch(sound)
        patches[i] = spectrogram(torch.from_numpy(sound)[None])[0][0, 0].numpy()
    part = file.with_suffix(".part.npz")
    np.savez(part, allow_pickle=False, patches=patches, scores=scores)
    part.replace(file)
