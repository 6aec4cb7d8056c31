"""Does a bundle give what was trained? Torch and ONNX agree, an item's vector does not depend on its batch, and other
precisions keep their recall.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.clips import Clips
from model.evaluate import evaluate, score

from .bundle import Manifest, Measured, open_bundle, write_manifest
from .encoder import PROVIDERS, CannotRun, OnnxEncoder

PARITY = 1e-5
BATCHES = (1, 2, 7, 32)
PROBES = "world:test:200"  # the built-in probe set, rendered where it is needed
VARIANTS = {"cpu": ("int8",), "cuda": ("fp16",), "tensorrt": ("fp16",)}  # what each provider gains by


@dataclass(frozen=True)
class Check:
    """One line of the report: what was compared with what, what was seen, and whether it is within the limit."""

    modality: str
    provider: str
    precision: str
    what: str
    seen: str
    good: bool


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


def within(modality: str, provider: str, what: str, error: float) -> Check:
    return Check(modality, provider, "fp32", what, f"max abs {error:.1e}, limit {PARITY:g}", error <= PARITY)


def batch_invariance(encoder: OnnxEncoder, n: int = BATCHES[-1]) -> Iterator[Check]:
    """Each item alone against the same item in a batch; a text alone has no padding."""
    for modality in encoder.manifest.modalities:
        x = probes(encoder.manifest, modality, n)
        together = encoder.embed(modality, x)
        alone = [x[i : i + 1] for i in range(n)]
        if modality == "text":
            alone = [row[:, : int((row != 0).sum())] for row in alone]
        apart = np.concatenate([encoder.embed(modality, row) for row in alone])
        error = float(np.abs(together - apart).max())
        yield within(modality, encoder.provider, f"alone = in a batch of {n}", error)


def torch_parity(encoder: OnnxEncoder, checkpoint: Path) -> Iterator[Check]:
    """The graphs against the network they were traced from (needs torch)."""
    import torch

    from model import checkpoint as checkpoints

    model, _, _ = checkpoints.load(checkpoint)
    for modality in encoder.manifest.modalities:
        worst = 0.0
        for n in BATCHES:
            x = probes(encoder.manifest, modality, n)
            with torch.no_grad():
                expected = model.embed(modality, torch.from_numpy(x)).numpy()
            worst = max(worst, float(np.abs(encoder.embed(modality, x) - expected).max()))
        yield within(modality, encoder.provider, f"torch = ONNX, batches {', '.join(map(str, BATCHES))}", worst)


def measure(plain: OnnxEncoder, variant: OnnxEncoder, clips: Clips) -> dict[str, Measured]:
    """What each modality loses when it alone is encoded by the variant."""

    def recall(modality: str) -> dict[str, float]:
        """R@10 of each route with words, one modality encoded by the variant."""

        def embed(m: str, x: NDArray[Any]) -> NDArray[np.float32]:
            return (variant if m == modality else plain).embed(m, x)

        found = score(evaluate(embed, plain.tokens, clips))
        return {route: m["R@10"] for route, m in found.items() if "text" in route}

    before, out = recall(""), {}
    for modality in plain.manifest.modalities:
        x = probes(plain.manifest, modality, BATCHES[-1])
        a, b = plain.embed(modality, x), variant.embed(modality, x)
        after = recall(modality)
        change = float(np.mean([after[route] - before[route] for route in before if modality in route]))
        cosine = float((a * b).sum(axis=1).min())
        out[modality] = Measured(round(float(np.abs(a - b).max()), 5), round(cosine, 5), round(100 * change, 2))
    return out


def variants(folder: Path, plain: OnnxEncoder) -> Iterator[Check]:
    """Measure the precisions the provider gains by, and write what was found into the manifest."""
    bundle = open_bundle(folder)
    with tempfile.TemporaryDirectory() as place:
        clips = Clips.open(PROBES, bundle.manifest.inputs, Path(place) / "cache", Path(place) / "world")
        for precision in VARIANTS[plain.provider]:
            found = measure(plain, OnnxEncoder(bundle, plain.provider, precision=precision), clips)
            bundle = replace(
                bundle, manifest=replace(bundle.manifest, variants=bundle.manifest.variants | {precision: found})
            )
            for modality, m in found.items():
                seen = f"max abs {m.max_abs:.1e}, cosine {m.cosine:.5f}, R@10 {m.points:+.2f} points"
                yield Check(modality, plain.provider, precision, "against fp32", seen, m.good)
    write_manifest(folder, bundle.manifest)


def verify(folder: Path, provider: str | None = None, checkpoint: Path | None = None) -> Iterator[Check]:
    """Open a bundle with every check there is and compare, on one provider or on each that can run here.

    Raises:
        BadBundle: it does not even open. CannotRun: the one that was asked for cannot run here.
    """
    for name in [provider] if provider else PROVIDERS:
        try:
            encoder = OnnxEncoder.open(folder, name)
        except CannotRun:
            if provider:
                raise
            continue
        yield from batch_invariance(encoder)
        if checkpoint:
            yield from torch_parity(encoder, checkpoint)
        yield from variants(folder, encoder)
