"""Does a bundle give what was trained? Torch and ONNX agree, an item's vector does not depend on
its batch, and other precisions keep their recall.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.clips import Clips, read_row, take_first_windows
from evaluation.linear_maps import unit
from evaluation.retrieval import Embedder, build_first_window_routes, summarise
from media.manifest import Row, read_manifest
from media.modality import AUDIO, TEXT, VIDEO

from .bundle import (
    ANY,
    EQUAL_WEIGHT,
    LEAST_ALIKE,
    PrecisionLoss,
    open_bundle,
    parse_modality,
    write_manifest,
)
from .encoder import PROVIDERS, CannotRun, OnnxEncoder
from .precision import GAINFUL

PARITY = 1e-5
BATCHES = (1, 2, 7, 32)
PROBES = "world:test:200"  # the built-in probe set, rendered where it is needed
RECORDINGS = (
    "sample/manifest.jsonl",
    "../shared/data/real/video-sentences.jsonl",
    "../shared/data/real/sound-captions.jsonl",
)
FILES = 24  # of each of these manifests, evenly
CAPTIONS = 100  # their texts, of each

Items = dict[str, list[Any]]  # modality -> what is encoded: texts, or arrays of one row


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the report: what was compared with what, what was seen, and whether it is within
    the limit.
    """

    encoding: str
    provider: str
    precision: str
    what: str
    seen: str
    good: bool


def probes(encoder: OnnxEncoder, encoding: str, n: int) -> NDArray[Any]:
    """Random inputs [n, ...] of an encoding; texts of differing lengths."""
    spec = encoder.manifest.spec(encoding)
    return as_batch(encoder, encoding, spec.random_inputs(n, np.random.default_rng(n)))


def as_batch(encoder: OnnxEncoder, encoding: str, items: Sequence[Any]) -> NDArray[Any]:
    """Texts, or arrays of one row, as what the graph takes, [items, ...]."""
    if encoding in encoder.manifest.tokenizers:
        return encoder.tokens(list(items), encoding)
    return np.stack(items)


def collect_items(encoder: OnnxEncoder) -> Items:
    """What invariance is checked on, by modality: random inputs, odd ones beside which others may
    come off badly, and the recordings and captions that are there.
    """
    found: Items = {}
    for encoding in encoder.manifest.graphs:
        modality = parse_modality(encoding)
        if modality not in found:
            spec = encoder.manifest.spec(encoding)
            most = BATCHES[-1]
            by_chance = spec.random_inputs(most, np.random.default_rng(most))
            found[modality] = [*by_chance, *spec.odd_inputs()]
    for rows in read_recordings():
        texts = [said.text for row in rows for said in row.captions]
        found.get(TEXT, []).extend(sample_evenly(texts, CAPTIONS))
        for row in sample_evenly([row for row in rows if row.path], FILES):
            parts = read_row(encoder.manifest.inputs, row.path)
            if not isinstance(parts, str):
                for modality, array in take_first_windows(parts).items():
                    found.get(modality, []).append(array)
    return found


def read_recordings() -> Iterator[list[Row]]:
    """The rows of those manifests of recordings that are there; the paths are relative to where the
    command is run.
    """
    for name in RECORDINGS:
        if Path(name).is_file():
            yield read_manifest(Path(name))


def sample_evenly(things: list[Any], n: int) -> list[Any]:
    """At most n of them, evenly apart.

    >>> sample_evenly([0, 1, 2, 3, 4], 2)
    [0, 2]
    """
    n = min(n, len(things))
    return [things[i * len(things) // n] for i in range(n)]


def encode_items(encoder: OnnxEncoder, encoding: str, items: Sequence[Any]) -> NDArray[np.float32]:
    """Texts, or arrays of one row, as one batch."""
    return encoder.embed(encoding, as_batch(encoder, encoding, items))


def encode_in_batches(
    encoder: OnnxEncoder, encoding: str, items: Sequence[Any]
) -> NDArray[np.float32]:
    """Every item alone, and in a batch of each size among others by chance: [sizes, items, dim]."""
    vectors = []
    for size in BATCHES:
        order = np.random.default_rng(size).permutation(len(items))
        shuffled = [items[i] for i in order]
        starts = range(0, len(order), size)
        parts = [encode_items(encoder, encoding, shuffled[at : at + size]) for at in starts]
        vectors.append(np.concatenate(parts)[np.argsort(order)])
    return np.stack(vectors)


def least_cosine(vectors: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    return float((vectors * others).sum(axis=-1).min())


def check_parity(encoding: str, provider: str, what: str, error: float) -> Check:
    return Check(
        encoding=encoding,
        provider=provider,
        precision="fp32",
        what=what,
        seen=f"max abs {error:.1e}, limit {PARITY:g}",
        good=error <= PARITY,
    )


def check_batch_invariance(encoder: OnnxEncoder, items: Items | None = None) -> Iterator[Check]:
    """Compare each item's vector made alone with those made in batches of several sizes. A text
    alone has no padding, in a batch it has.
    """
    items = items or collect_items(encoder)
    for encoding in encoder.manifest.graphs:
        some = items[parse_modality(encoding)]
        vectors = encode_in_batches(encoder, encoding, some)
        what = f"alone = in batches, {len(some)} items"
        yield check_parity(
            encoding, encoder.provider, what, float(np.abs(vectors - vectors[0]).max())
        )


def check_torch_parity(encoder: OnnxEncoder, checkpoint: Path) -> Iterator[Check]:
    """The graphs against the network they were traced from (needs torch)."""
    import torch

    from model.training import checkpoint as checkpoints

    model, _, _ = checkpoints.load(checkpoint)
    for modality in encoder.manifest.modalities:
        worst = 0.0
        for n in BATCHES:
            x = probes(encoder, modality, n)
            with torch.no_grad():
                expected = model.embed(modality, torch.from_numpy(x)).numpy()
            worst = max(worst, float(np.abs(encoder.embed(modality, x) - expected).max()))
        yield check_parity(
            modality,
            encoder.provider,
            f"torch = ONNX, batches {', '.join(map(str, BATCHES))}",
            worst,
        )


def check_sound_weights(encoder: OnnxEncoder, checkpoint: Path) -> Iterator[Check]:
    """What sound weighs in joint vectors, by the bundle and by its checkpoint (needs torch)."""
    import torch

    from model.training import checkpoint as checkpoints
    from model.training.tables import sound_weight

    model, config, _ = checkpoints.load(checkpoint)
    fixed = sound_weight(config)
    for name, space in encoder.manifest.spaces.items():
        joint = encoder.manifest.joint(name)
        if joint is None:
            continue
        random = np.random.default_rng(0)
        sides = [unit(random.normal(size=(BATCHES[-1], space.dim))) for _ in (VIDEO, AUDIO)]
        if model.fusion is None:
            expected = np.full(len(sides[0]), EQUAL_WEIGHT if fixed is None else fixed)
        else:
            with torch.no_grad():
                expected = model.fusion(*map(torch.from_numpy, sides)).numpy()
        error = float(np.abs(joint.weights(*sides) - expected).max())
        yield check_parity(ANY, encoder.provider, "weight of sound = checkpoint's", error)


def measure_losses(
    plain: OnnxEncoder, variant: OnnxEncoder, clips: Clips, items: Items
) -> dict[str, PrecisionLoss]:
    """What each encoding loses when it alone is made by the variant; the worst of all items in all
    batches.
    """
    manifest = plain.manifest

    def recall(encoding: str) -> dict[tuple[str, str], float]:
        """R@10 of every route of every space, one encoding made by the variant."""
        found = {}
        for name, space in manifest.spaces.items():
            changed = [m for m, e in space.encodings.items() if e == encoding]
            mixed = replace(
                plain.space(name),
                embed=partial(mixed_embed, plain.space(name), variant.space(name), changed),
            )
            for route, m in summarise(build_first_window_routes(mixed, clips)).items():
                found[name, route] = m["R@10"]
        return found

    before = recall("")
    out = {}
    for encoding in manifest.graphs:
        some = items[parse_modality(encoding)]
        expected = np.concatenate([encode_items(plain, encoding, [item]) for item in some])
        vectors = encode_in_batches(variant, encoding, some)
        after = recall(encoding)
        mine = []
        for space, route in before:
            encodings = manifest.spaces[space].encodings
            if encoding in [encodings.get(modality) for modality in route.split("-")]:
                mine.append((space, route))
        with_words = [key for key in mine if TEXT in key[1] and not key[1].endswith("-any")] or mine
        change = (
            float(np.mean([after[key] - before[key] for key in with_words])) if with_words else 0.0
        )
        out[encoding] = PrecisionLoss(
            max_abs=round(float(np.abs(vectors - expected).max()), 5),
            cosine=round(least_cosine(vectors, expected), 5),
            points=round(100 * change, 2),
            alike=round(least_cosine(vectors, vectors[0]), 6),
        )
    return out


def mixed_embed(
    plain: Embedder, variant: Embedder, changed: list[str], modality: str, x: NDArray[Any]
) -> NDArray[np.float32]:
    return (variant if modality in changed else plain).embed(modality, x)


def measure_precisions(folder: Path, plain: OnnxEncoder, items: Items) -> Iterator[Check]:
    """Measure the precisions the provider gains by, and write what was found into the manifest."""
    bundle = open_bundle(folder)
    with tempfile.TemporaryDirectory() as place:
        clips = Clips.open(
            PROBES, bundle.manifest.inputs, Path(place) / "cache", Path(place) / "world"
        )
        for precision in GAINFUL[plain.provider]:
            found = measure_losses(
                plain, OnnxEncoder(bundle, plain.provider, precision=precision), clips, items
            )
            known = bundle.manifest.variants | {f"{plain.provider}/{precision}": found}
            bundle = replace(bundle, manifest=replace(bundle.manifest, variants=known))
            for encoding, m in found.items():
                seen = (
                    f"max abs {m.max_abs:.1e}, cosine {m.cosine:.5f}, R@10 {m.points:+.2f} points"
                )
                yield Check(
                    encoding=encoding,
                    provider=plain.provider,
                    precision=precision,
                    what="against fp32",
                    seen=seen,
                    good=m.keeps,
                )
                seen = f"cosine {m.alike:.6f}, limit {LEAST_ALIKE:g}"
                yield Check(
                    encoding=encoding,
                    provider=plain.provider,
                    precision=precision,
                    what="alone = in batches",
                    seen=seen,
                    good=m.invariant,
                )
    if bundle.manifest.variants != plain.manifest.variants:
        write_manifest(folder, bundle.manifest)


def verify(
    folder: Path, provider: str | None = None, checkpoint: Path | None = None
) -> Iterator[Check]:
    """Open a bundle with every check there is and compare, on one provider or on each that can run
    here.

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
        items = collect_items(encoder)
        yield from check_batch_invariance(encoder, items)
        if checkpoint:
            yield from check_torch_parity(encoder, checkpoint)
            yield from check_sound_weights(encoder, checkpoint)
        yield from measure_precisions(folder, encoder, items)
