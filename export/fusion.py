"""The graph of a bundle that says what each window's sound weighs in the joint vector.

n windows, dim the width of a vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
VIDEO_INPUT = "video"
AUDIO_INPUT = "audio"
OUTPUT = "audio_weight"
PAGE = 4096  # windows at once


class BadWeights(Exception):
    """A graph gives weights that are no weights."""

    detail_fields = ("file",)

    def __init__(self, file: str, most: float) -> None:
        super().__init__(f"{file} gives weights of sound that are not between 0 and {most:g}")
        self.file = file


@dataclass(frozen=True)
class Fusion:
    """The graph of a space. `most` is more than any weight that it gives.

    `folder` and `digest` are known once the bundle is open.
    """

    file: str
    most: float
    folder: Path | None = None
    digest: str = ""

    def describe(self) -> dict[str, Any]:
        """What the manifest holds."""
        return {"file": self.file, "most": self.most}

    def weights(self, video: Vectors, audio: Vectors) -> Vectors:
        """What the sound of each window weighs, [n], from unit vectors [n, dim] of both.

        Raises:
            BadWeights: the graph gives anything else.
        """
        session = open_graph(self)
        found = np.empty(len(video), np.float32)
        for at in range(0, len(video), PAGE):
            page = slice(at, at + PAGE)
            given = {VIDEO_INPUT: video[page], AUDIO_INPUT: audio[page]}
            found[page] = session.run([OUTPUT], given)[0]
        if not ((found >= 0) & (found <= self.most)).all():
            raise BadWeights(self.file, self.most)
        return found


@lru_cache(maxsize=8)
def open_graph(fusion: Fusion) -> Any:
    """The session of a graph; one with another digest is another graph."""
    import onnxruntime  # not where bundles are only read

    assert fusion.folder is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # it is small
    file = str(fusion.folder / fusion.file)
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
