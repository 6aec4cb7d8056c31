"""A sound classifier learns a teacher's scores (Hinton et al., arXiv 1503.02531), and that what is
read from them lies where it lies for the teacher.

B batch, C classes (521), E embedding.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from media.errors import BadConfig

from ..network.sound_classifier import SoundClassifier, Weights
from .mixtures import Random

Examples = Callable[[int, int], tuple[Tensor, Tensor]]
Judged = list[tuple[Tensor, Tensor]]

CHECKPOINT = "sound.pt"
LOG = "distil.jsonl"
KEEP_EVERY_STEPS = 250
LARGEST_GRADIENT = 5.0
LOUDER = 0.125  # spread of a constant added to a log mel patch
MASKED = 0.3  # chance that some bands, and that some frames, are blanked (arXiv 1904.08779)
MOST_BANDS = 8
MOST_FRAMES = 12
LEAST_SCORE = 1e-4
HEARD_COUNTS = 4.0  # how much more a class counts that the teacher is sure of


@dataclass(frozen=True, kw_only=True)
class DistilConfig:
    steps: int = 2000
    batch: int = 128
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    weight_decay: float = 0.02
    seed: int = 0

    def rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine to a hundredth."""
        warmed = min(1.0, (step + 1) / self.warmup_steps)
        return (
            self.learning_rate
            * warmed
            * (0.01 + 0.99 * (1 + math.cos(math.pi * step / self.steps)) / 2)
        )


def distil_loss(logits: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How far a learner's logits [B, C] are from the teacher's scores [B, C], in three terms.

    Binary cross-entropy, in which a class counts 1 + 4 sqrt(score), a tenth of its sum. One less
    the cosine between what both read: scores times the classes' vectors [C, E]. And a tenth of the
    mean distance of their logits (smooth L1), as far as scores between 0.0001 and 0.9999 tell.
    """
    each = F.binary_cross_entropy_with_logits(logits, scores, reduction="none")
    weighed = (each * (1 + HEARD_COUNTS * scores.sqrt())).sum(1).mean() / 10
    cosine = F.cosine_similarity(logits.sigmoid() @ classes, scores @ classes, dim=1)
    expected = torch.logit(scores, LEAST_SCORE)
    lowest = math.log(LEAST_SCORE)
    apart = F.smooth_l1_loss(logits.clamp(min=lowest), expected.clamp(min=lowest)) / 10
    return weighed, 1 - cosine.mean(), apart


def blank_and_shift(patches: Tensor, random: Random) -> Tensor:
    """Patches [B, 64, 96] a little louder or quieter, some with bands or frames at their mean."""
    patches = patches + LOUDER * random.normal(len(patches), 1, 1)
    mean = patches.mean((1, 2), keepdim=True)
    for dim, most in ((1, MOST_BANDS), (2, MOST_FRAMES)):
        shape = [len(patches), 1, 1]
        size = patches.shape[dim]
        count = random.uniform(1.0, float(most), *shape).long()
        first = (random.uniform(0.0, 1.0, *shape) * (size - count)).long()
        shape[0], shape[dim] = 1, size
        at = torch.arange(size, device=patches.device).view(shape)
        blanked = (at >= first) & (at < first + count) & random.happens(MASKED, len(patches), 1, 1)
        patches = torch.where(blanked, mean, patches)
    return patches


@torch.no_grad()
def judge(network: SoundClassifier, judged: Judged, classes: Tensor) -> list[float]:
    """The terms of the loss, their means over batches of one size."""
    network.eval()
    terms = []
    for patches, scores in judged:
        terms.append([float(term) for term in distil_loss(network(patches), scores, classes)])
    network.train()
    means: list[float] = np.mean(terms, axis=0).tolist()
    return means


def distil(
    network: SoundClassifier,
    learned: Examples,
    judged: Judged,
    classes: Tensor,
    config: DistilConfig,
    out: Path,
) -> None:
    """Train the network; OUT gets a checkpoint that another call goes on from, and a log.

    `learned(count, seed)` gives patches [count, 64, 96] and scores [count, C], on the device of the
    network. `classes` [C, E] are the vectors that scores are read by.

    Raises:
        BadConfig: the checkpoint in OUT is of another config.
    """
    out.mkdir(parents=True, exist_ok=True)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in network.parameters() if p.ndim > 1]},
        {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
    done = restore(network, optimiser, config, out)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.train()
    device = classes.device
    half = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    seen: list[Tensor] = []
    for step in range(done, config.steps):
        random = Random(device, config.seed * config.steps + step)
        torch.manual_seed(config.seed * config.steps + step)
        for group in optimiser.param_groups:
            group["lr"] = config.rate(step)
        patches, scores = learned(config.batch, config.seed * config.steps + step)
        with half:
            logits = network(blank_and_shift(patches, random))
        terms = torch.stack(distil_loss(logits.float(), scores, classes))
        terms.sum().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        seen.append(terms.detach())
        if (step + 1) % KEEP_EVERY_STEPS == 0 or step + 1 == config.steps:
            save(network, optimiser, config, step + 1, out)
            report(step + 1, seen, judge(network, judged, classes), out)
            seen = []


def report(step: int, seen: list[Tensor], judged: list[float], out: Path) -> None:
    learned = torch.stack(seen).mean(0).cpu().numpy().round(4).tolist()
    line = {"step": step, "learned": learned, "held_out": np.round(judged, 4).tolist()}
    with (out / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(f"step {step}: loss {learned}, held out {line['held_out']}", file=sys.stderr, flush=True)


def save(
    network: SoundClassifier,
    optimiser: torch.optim.Optimizer,
    config: DistilConfig,
    step: int,
    out: Path,
) -> None:
    """Write to the side and rename, so that a kill leaves the old checkpoint or the new one."""
    state = {
        "step": step,
        "config": asdict(config),
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    part = out / f"{CHECKPOINT}.part"
    torch.save(state, part)
    part.replace(out / CHECKPOINT)


def restore(
    network: SoundClassifier, optimiser: torch.optim.Optimizer, config: DistilConfig, out: Path
) -> int:
    """The steps that a checkpoint in OUT has done, its weights put in place; 0 without one."""
    if not (out / CHECKPOINT).exists():
        return 0
    state = read_checkpoint(out)
    if state["config"] != asdict(config):
        raise BadConfig(f"{out / CHECKPOINT} was made by another config: {state['config']}")
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def read_checkpoint(run: Path) -> dict[str, Any]:
    """Raises BadConfig: no checkpoint there."""
    file = run / CHECKPOINT
    if not file.is_file():
        raise BadConfig(f"no checkpoint in {run}")
    state: dict[str, Any] = torch.load(file, weights_only=True, map_location="cpu")
    return state


def read_weights(run: Path) -> Weights:
    """The weights of the sound classifier that a run has trained. Raises BadConfig."""
    weights: Weights = read_checkpoint(run)["network"]
    return weights
