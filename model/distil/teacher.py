"""YAMNet as a teacher of sounds: its file is read, and never becomes part of a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from media.errors import BadConfig

from ..network.sound_classifier import PATCH_SAMPLES, SILENT_PEAK

FILE = "yamnet.tflite"
CLASS_NAMES = "yamnet_class_map.csv"


class Teacher:
    """Sound at 16 kHz -> the scores of AudioSet's classes [521], 0 to 1.

    Raises:
        BadConfig: the folder does not hold the teacher's file.
    """

    def __init__(self, folder: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        if not (folder / FILE).is_file():
            raise BadConfig(f"{folder / FILE} is missing")
        self._network = Interpreter(str(folder / FILE), num_threads=1)
        self._network.allocate_tensors()
        self._input = self._network.get_input_details()[0]["index"]
        self._output = self._network.get_output_details()[0]["index"]

    def patch(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """The scores of one patch [15600]."""
        self._network.set_tensor(self._input, samples)
        self._network.invoke()
        scores: NDArray[np.float32] = self._network.get_tensor(self._output)[0].copy()
        return scores

    def waveform(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """The mean over patches that overlap by half; of those that are silent, the first alone."""
        found: list[NDArray[np.float32]] = []
        for start in range(0, max(1, len(samples) - PATCH_SAMPLES + 1), PATCH_SAMPLES // 2):
            piece = samples[start : start + PATCH_SAMPLES]
            if found and np.abs(piece).max() < SILENT_PEAK:
                continue
            found.append(self.patch(np.pad(piece, (0, PATCH_SAMPLES - len(piece)))))
        return np.asarray(np.mean(found, axis=0), np.float32)
