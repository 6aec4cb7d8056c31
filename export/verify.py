"""Does a bundle give what was trained? Torch and ONNX agree, an item's vector does not depend on its batch, and other
precisions keep their recall.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.clips import Clips
from model.evaluate import Embedder, evaluate_first_windows, score

from .bundle import Measured, modality_of, open_bundle, write_manifest
from .encoder import PROVIDERS, CannotRun, OnnxEncoder

PARITY = 1e-5
BATCHES = (1, 2, 7, 32)
PROBE_WORDS = ("a", "red", "dog", "barking", "the", "sound", "of", "rain", "loudly", "two", "people", "clapping")
PROBES = "world:test:200"  # the built-in probe set, rendered where it is needed
VARIANTS = {"cpu": ("int8",), "cuda": ("fp16",), "tensorrt": ("fp16",)}  # what each provider gains by


@dataclass(frozen=True)
class Check:
    """One line of the report: what was compared with what, what was seen, and whether it is within the limit."""

    encoding: str
    provider: str
    precision: str
    what: str
    seen: str
    good: bool


def probes(encoder: OnnxEncoder, encoding: str, n: int) -> NDArray[Any]:
    """Random inputs [n, ...] of an encoding; texts of differing lengths."""
    random, inputs, modality = np.random.default_rng(n), encoder.manifest.inputs, modality_of(encoding)
    if modality == "video":
        assert inputs.video
        return random.integers(0, 256, (n, *inputs.video.shape), dtype=np.uint8)
    if modality == "audio":
        assert inputs.audio
        loud = random.uniform(0.001, 0.5, (n, 1))
        return (loud * random.normal(size=(n, inputs.audio.samples))).clip(-1, 1).astype(np.float32)
    return encoder.tokens(probe_texts(n), encoding)


def probe_texts(n: int) -> list[str]:
    """Texts of one to eight words, by chance."""
    random = np.random.default_rng(n)
    return [" ".join(random.choice(PROBE_WORDS, random.integers(1, 9))) for _ in range(n)]


def within(encoding: str, provider: str, what: str, error: float) -> Check:
    return Check(encoding, provider, "fp32", what, f"max abs {error:.1e}, limit {PARITY:g}", error <= PARITY)


def batch_invariance(encoder: OnnxEncoder, n: int = BATCHES[-1]) -> Iterator[Check]:
    """Each item alone against the same item in a batch; a text alone has no padding."""
    for encoding in encoder.manifest.graphs:
        x = probes(encoder, encoding, n)
        together = encoder.embed(encoding, x)
        alone = [x[i : i + 1] for i in range(n)]
        if encoding in encoder.manifest.tokenizers:
            alone = [encoder.tokens([text], encoding) for text in probe_texts(n)]
        apart = np.concatenate([encoder.embed(encoding, row) for row in alone])
        error = float(np.abs(together - apart).max())
        yield within(encoding, encoder.provider, f"alone = in a batch of {n}", error)


def torch_parity(encoder: OnnxEncoder, checkpoint: Path) -> Iterator[Check]:
    """The graphs against the network they were traced from (needs torch)."""
    import torch

    from model import checkpoint as checkpoints

    model, _, _ = checkpoints.load(checkpoint)
    for modality in encoder.manifest.modalities:
        worst = 0.0
        for n in BATCHES:
            x = probes(encoder, modality, n)
            with torch.no_grad():
                expected = model.embed(modality, torch.from_numpy(x)).numpy()
            worst = max(worst, float(np.abs(encoder.embed(modality, x) - expected).max()))
        yield within(modality, encoder.provider, f"torch = ONNX, batches {', '.join(map(str, BATCHES))}", worst)


def measure(plain: OnnxEncoder, variant: OnnxEncoder, clips: Clips) -> dict[str, Measured]:
    """What each encoding loses when it alone is made by the variant."""
    manifest = plain.manifest

    def recall(encoding: str) -> dict[tuple[str, str], float]:
        """R@10 of every route of every space, one encoding made by the variant."""
        found = {}
        for name, space in manifest.spaces.items():
            changed = [m for m, e in space.encodings.items() if e == encoding]
            mixed = replace(plain.space(name), embed=partial(either, plain.space(name), variant.space(name), changed))
            for route, m in score(evaluate_first_windows(mixed, clips)).items():
                found[name, route] = m["R@10"]
        return found

    before, out = recall(""), {}
    for encoding in manifest.graphs:
        x = probes(plain, encoding, BATCHES[-1])
        a, b = plain.embed(encoding, x), variant.embed(encoding, x)
        after = recall(encoding)
        mine = [(n, r) for n, r in before if encoding in [manifest.spaces[n].encodings.get(m) for m in r.split("-")]]
        with_words = [key for key in mine if "text" in key[1] and not key[1].endswith("-any")] or mine
        change = float(np.mean([after[key] - before[key] for key in with_words])) if with_words else 0.0
        cosine = float((a * b).sum(axis=1).min())
        out[encoding] = Measured(round(float(np.abs(a - b).max()), 5), round(cosine, 5), round(100 * change, 2))
    return out


def either(
    plain: Embedder, variant: Embedder, changed: list[str], modality: str, x: NDArray[Any]
) -> NDArray[np.float32]:
    return (variant if modality in changed else plain).embed(modality, x)


def variants(folder: Path, plain: OnnxEncoder) -> Iterator[Check]:
    """Measure the precisions the provider gains by, and write what was found into the manifest."""
    bundle = open_bundle(folder)
    with tempfile.TemporaryDirectory() as place:
        clips = Clips.open(PROBES, bundle.manifest.inputs, Path(place) / "cache", Path(place) / "world")
        for precision in VARIANTS[plain.provider]:
            found = measure(plain, OnnxEncoder(bundle, plain.provider, precision=precision), clips)
            known = bundle.manifest.variants | {f"{plain.provider}/{precision}": found}
            bundle = replace(bundle, manifest=replace(bundle.manifest, variants=known))
            for encoding, m in found.items():
                seen = f"max abs {m.max_abs:.1e}, cosine {m.cosine:.5f}, R@10 {m.points:+.2f} points"
                yield Check(encoding, plain.provider, precision, "against fp32", seen, m.good)
    if bundle.manifest.variants != plain.manifest.variants:
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
