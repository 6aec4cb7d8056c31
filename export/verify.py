"""Does a bundle give what was trained? Torch and ONNX agree, and an item's vector does not depend on its batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bundle import Manifest
from .encoder import Encoder, OnnxEncoder

PARITY = 1e-5
BATCHES = (1, 2, 17)


@dataclass(frozen=True)
class Check:
    """One line of the report: the largest absolute difference, and whether it is within the limit."""

    modality: str
    what: str
    error: float

    @property
    def good(self) -> bool:
        return self.error <= PARITY


def probes(manifest: Manifest, modality: str, n: int, seed: int = 0) -> NDArray[Any]:
    """Random inputs [n, ...] of a modality, texts of differing lengths."""
    random, inputs = np.random.default_rng([seed, n]), manifest.inputs
    if modality == "video":
        shape = (n, inputs.video.frames, inputs.video.size, inputs.video.size, 3)
        return random.integers(0, 256, shape, dtype=np.uint8)
    if modality == "audio":
        loud = random.uniform(0.001, 0.5, (n, 1))
        return (loud * random.normal(size=(n, inputs.audio.samples))).clip(-1, 1).astype(np.float32)
    lengths = random.integers(3, inputs.text.tokens + 1, n)
    tokens = random.integers(4, 100, (n, int(lengths.max())), dtype=np.int64)
    tokens[np.arange(tokens.shape[1])[None] >= lengths[:, None]] = 0
    return tokens


def batch_invariance(encoder: Encoder, n: int = 17) -> Iterable[Check]:
    """Each item alone against the same item in a batch; a text alone has no padding."""
    for modality in encoder.manifest.modalities:
        x = probes(encoder.manifest, modality, n)
        together = encoder.embed(modality, x)
        alone = [x[i : i + 1] for i in range(n)]
        if modality == "text":
            alone = [row[:, : int((row != 0).sum())] for row in alone]
        apart = np.concatenate([encoder.embed(modality, row) for row in alone])
        yield Check(modality, f"alone = in a batch of {n}", float(np.abs(together - apart).max()))


def torch_parity(encoder: Encoder, checkpoint: Path) -> Iterable[Check]:
    """The graphs against the network they were traced from (needs torch)."""
    import torch

    from model import checkpoint as checkpoints

    model, _, _ = checkpoints.load(checkpoint)
    for modality in encoder.manifest.modalities:
        for n in BATCHES:
            x = probes(encoder.manifest, modality, n)
            with torch.no_grad():
                expected = model.embed(modality, torch.from_numpy(x)).numpy()
            error = float(np.abs(encoder.embed(modality, x) - expected).max())
            yield Check(modality, f"torch = ONNX, batch {n}", error)


def verify(folder: Path, provider: str = "cpu", checkpoint: Path | None = None) -> list[Check]:
    """Open a bundle with every check there is and compare.

    Raises:
        BadBundle: it does not even open.
    """
    encoder = OnnxEncoder.open(folder, provider)
    checks = list(batch_invariance(encoder))
    return checks + list(torch_parity(encoder, checkpoint)) if checkpoint else checks
