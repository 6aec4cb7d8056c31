"""One step of training: a batch to gradients, in one piece or in many, in one process or in
several, with one result.

The contrastive terms need the vectors of the whole batch at once, activations need not be there at
once: with `micro_batch` the vectors are made without a graph, the loss is differentiated down to
them, and each piece is then encoded again and handed its part of the gradient (Gao et al.,
2101.06983). StepRandomness is drawn for the whole batch beforehand, so the second encoding is the first
one, and splitting a batch over processes changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from media.modality import MODALITIES

from ..config import TrainConfig
from ..data.batches import Batch
from ..network.transformer import VLSA
from . import losses as objectives
from .distributed import Group

PAIRS = ("audio_video", "audio_text", "video_text")
GLOBAL_TERMS = (*PAIRS, *(f"{pair}_match" for pair in PAIRS))
# vectors [B, E] of video, audio, sight and sound; zeros where a row has none
Features = dict[str, Tensor]


@dataclass
class StepRandomness:
    """All that a step leaves to chance. Rows are those of the whole batch until they are taken."""

    keep: dict[str, Tensor]  # video, audio: which tokens survive DropToken, int64 [B, K]
    stretches: Tensor  # of SpecAugment, uniform [B, 4, 2]
    mask: dict[str, Tensor]  # what masked modelling hides, uniform [B, T]
    joint: Tensor  # bool [B]: which rows go through the joint, masked pass
    shift: float  # whom matching pairs with whom, uniform

    @classmethod
    def drawn(cls, config: TrainConfig, batch: int, seed: int) -> StepRandomness:
        source = torch.Generator().manual_seed(seed)
        grid = {m: math.prod(shape) for m, shape in config.encoder.grid.items()}
        kept = {m: round(grid[m] * (1 - config.drop_tokens)) for m in ("video", "audio")}
        joint = torch.zeros(batch, dtype=torch.bool)
        if config.local_weight and config.local_share:
            joint[
                torch.randperm(batch, generator=source)[: max(2, round(batch * config.local_share))]
            ] = True
        return cls(
            keep={
                m: torch.rand(batch, grid[m], generator=source).argsort(1)[:, :k]
                for m, k in kept.items()
            },
            stretches=torch.rand(batch, 4, 2, generator=source),
            mask={m: torch.rand(batch, n, generator=source) for m, n in grid.items()},
            joint=joint,
            shift=float(torch.rand((), generator=source)),
        )

    def take(self, rows: list[int] | slice, device: torch.device) -> StepRandomness:
        return StepRandomness(
            keep={m: x[rows].to(device) for m, x in self.keep.items()},
            stretches=self.stretches[rows].to(device),
            mask={m: x[rows].to(device) for m, x in self.mask.items()},
            joint=self.joint[rows].to(device),
            shift=self.shift,
        )


def gradients(
    model: VLSA,
    batch: Batch,
    chance: StepRandomness,
    config: TrainConfig,
    group: Group | None = None,
) -> dict[str, Tensor]:
    """Put the gradient of the objective over the whole batch into the model; returns every term and
    the total.

    `batch` and `chance` hold this process's rows.
    """
    group = group or Group()
    size = config.micro_batch or len(batch.ids)
    pieces = [slice(at, at + size) for at in range(0, len(batch.ids), size)]
    parts = [(batch.take(piece), chance.take(piece, batch.frames.device)) for piece in pieces]
    whole = {k: group.gather(v) for k, v in batch.has.items()}, group.gather(batch.group)

    def contrast(features: Features) -> dict[str, Tensor]:
        gathered = {k: group.gather(v) for k, v in features.items()}
        return contrastive_terms(model, gathered, *whole, config, chance.shift)

    terms: dict[str, Tensor] = {}
    if config.contrasts and len(parts) == 1:
        terms = contrast(encode(model, *parts[0], config))
        (weighted(terms, config) / group.size).backward()
    elif config.contrasts:
        with torch.no_grad():
            made = [encode(model, *part, config) for part in parts]
        leaves = {k: torch.cat([m[k] for m in made]).requires_grad_() for k in made[0]}
        terms = contrast(leaves)
        (weighted(terms, config) / group.size).backward()
        for piece, part in zip(pieces, parts, strict=True):
            again = encode(model, *part, config)
            wanted = [
                (again[k], leaf.grad[piece]) for k, leaf in leaves.items() if leaf.grad is not None
            ]
            known = [(feature, gradient) for feature, gradient in wanted if feature.requires_grad]
            torch.autograd.backward(
                [feature for feature, _ in known], [gradient for _, gradient in known]
            )
    if config.local_weight and config.local_share:
        terms["local"] = local_gradients(model, parts, config, group)
    group.sum_gradients(model)
    return {k: v.detach() for k, v in terms.items()} | {"total": weighted(terms, config).detach()}


def weighted(terms: dict[str, Tensor], config: TrainConfig) -> Tensor:
    """L = w_local L_local + w_global L_global, the paper's weights being 1 and 5, and w_geometry
    L_geometry (ours).

    Raises KeyError: a term that has no weight.
    """
    weights = dict.fromkeys(GLOBAL_TERMS, config.global_weight)
    weights |= {"local": config.local_weight, "geometry": config.geometry_weight}
    parts = [weights[name] * term for name, term in terms.items()]
    return torch.stack(parts).sum() if parts else torch.zeros((), requires_grad=True)


def autocast(config: TrainConfig, device: torch.device) -> Any:
    return (
        torch.autocast(device.type, torch.bfloat16) if config.precision == "bf16" else nullcontext()
    )


def encode(model: VLSA, batch: Batch, chance: StepRandomness, config: TrainConfig) -> Features:
    """Each row's vectors, and as `sentence` what a frozen language model makes of the text about
    its sound.
    """
    has, dim = batch.has, (model.config.dim,)
    stretches = chance.stretches if config.spec_augment else None

    def hear(rows: Tensor) -> Tensor:
        given = None if stretches is None else stretches[rows]
        return model.embed("audio", batch.waveforms[rows], chance.keep["audio"][rows], given)

    with autocast(config, batch.frames.device):
        if config.pool_from == "joint":
            return joint_features(model, batch)
        features = {
            "video": placed(
                has["video"],
                dim,
                lambda r: model.embed("video", batch.frames[r], chance.keep["video"][r]),
            ),
            "audio": placed(has["audio"], dim, hear),
        }
        said = torch.cat([has["sight"], has["sound"]])
        distinct, which = torch.unique(
            torch.cat([batch.sight, batch.sound])[said], dim=0, return_inverse=True
        )
        nothing = batch.waveforms.new_zeros(0, *dim), None
        vectors, sentences = model.read(distinct) if len(distinct) else nothing
        texts = placed(said, dim, lambda _: vectors[which])
        features["sight"], features["sound"] = texts.chunk(2)
        if sentences is not None and config.geometry_weight:
            features["sentence"] = placed(
                said, sentences.shape[1:], lambda _: sentences[which]
            ).chunk(2)[1]
    return features


def placed(has: Tensor, shape: tuple[int, ...], made: Callable[[Tensor], Tensor]) -> Tensor:
    """What is made of the rows that have it, bool [B], among zeros for the others, of which nothing
    is computed.
    """
    rows = has.nonzero().squeeze(1)
    blank = torch.zeros(len(has), *shape, device=has.device)
    return blank.index_put((rows,), made(rows).float()) if len(rows) else blank


def joint_features(model: VLSA, batch: Batch) -> Features:
    """Vectors pooled from one pass over everything a row has, each of which has seen its partners:
    the trap that the ablation shows, not a way to train.
    """
    inputs = {
        "video": batch.frames,
        "audio": batch.waveforms,
        "sight": batch.sight,
        "sound": batch.sound,
    }
    kinds = {"video": "video", "audio": "audio", "sight": "text", "sound": "text"}
    vectors = model.together([(kinds[k], x, batch.has[k]) for k, x in inputs.items()])
    return {k: v.float() for k, v in zip(inputs, vectors, strict=True)}


def contrastive_terms(
    model: VLSA,
    features: Features,
    has: dict[str, Tensor],
    same: Tensor,
    config: TrainConfig,
    shift: float,
) -> dict[str, Tensor]:
    """Every contrastive term of the whole batch, unweighted. A term whose modalities are absent is
    left out.
    """
    pairs = (
        {"audio_video": ("audio", "video"), "audio_text": ("audio", "sound")}
        if config.global_weight
        else {}
    )
    if config.video_text:
        pairs["video_text"] = ("video", "sight")
    terms = {}
    for name, (a, b) in pairs.items():
        both = has[a] & has[b]
        if both.sum() < 2:
            continue
        va, vb, group = features[a][both], features[b][both], same[both]
        terms[name] = objectives.info_nce(va, vb, model.scale, group, config.smoothing)
        if name in model.match:
            terms[f"{name}_match"] = objectives.matching(model.match[name], va, vb, group, shift)
    if "sentence" in features:
        # the world's captions are too alike for a language model
        said = has["sound"] & ~has["video"]
        heard = said & has["audio"]
        vectors = torch.cat([features["sound"][said], features["audio"][heard]])
        sentences = torch.cat([features["sentence"][said], features["sentence"][heard]])
        terms["geometry"] = objectives.geometry(vectors, sentences)
    return terms


def local_gradients(
    model: VLSA, parts: list[tuple[Batch, StepRandomness]], config: TrainConfig, group: Group
) -> Tensor:
    """Masked modelling over the rows chosen for it, piece by piece; returns its loss over the whole
    batch.
    """
    device = parts[0][0].frames.device
    jobs = [job for batch, chance in parts if (job := joint_rows(batch, chance)) is not None]
    hidden = torch.zeros(len(MODALITIES), device=device)
    for inputs, present, _ in jobs:
        hidden += model.hidden_counts(inputs, present)
    hidden = group.total(hidden).clamp(min=1.0)
    loss = torch.zeros((), device=device)
    for inputs, present, mask_noise in jobs:
        with autocast(config, device):
            masked = model.masked(inputs, present, mask_noise)
        piece = (objectives.local_sums(masked, config.encoder.normalise_targets) / hidden).sum()
        (config.local_weight * piece).backward()
        loss += piece.detach()
    return group.total(loss)


def joint_rows(
    batch: Batch, chance: StepRandomness
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]] | None:
    """Inputs, presence and luck of the rows of a piece that go
    through the joint pass, if any do.
    """
    rows = chance.joint.nonzero().squeeze(1).tolist()
    if not rows:
        return None
    some, mask_noise = batch.take(rows), chance.take(rows, batch.frames.device).mask
    sight, sound = some.has["sight"], some.has["sound"]
    text = torch.where(sight[:, None], some.sight, some.sound)
    present = {"video": some.has["video"], "audio": some.has["audio"], "text": sight | sound}
    return {"video": some.frames, "audio": some.waveforms, "text": text}, present, mask_noise
