"""A sound classifier learns a teacher's scores (Hinton et al., arXiv 1503.02531), and that what is
read from them lies where it lies for the teacher.

B batch, C classes (521), E embedding.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from media.errors import BadConfig

from ..network.sound_classifier import MELS, PATCH_FRAMES, SoundClassifier, Weights
from .examples import Examples

CHECKPOINT = "sound.pt"
LOG = "distil.jsonl"
KEEP_EVERY_STEPS = 250
LARGEST_GRADIENT = 5.0
LOUDER = 0.125  # spread of a constant added to a log mel patch
MASKED = 0.3  # chance that some bands, and that some frames, are blanked (arXiv 1904.08779)
MOST_BANDS, MOST_FRAMES = 8, 12
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


def distil_loss(logits: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """How far a learner's logits [B, C] are from the teacher's scores [B, C], in two terms.

    Binary cross-entropy, in which a class counts 1 + 4 sqrt(score), a tenth of its sum; and one
    less the cosine between what both read: scores times the classes' vectors [C, E].
    """
    each = F.binary_cross_entropy_with_logits(logits, scores, reduction="none")
    weighed = (each * (1 + HEARD_COUNTS * scores.sqrt())).sum(1).mean() / 10
    cosine = F.cosine_similarity(logits.sigmoid() @ classes, scores @ classes, dim=1)
    return weighed, 1 - cosine.mean()


def blank_and_shift(patches: Tensor, random: np.random.Generator) -> Tensor:
    """Patches [B, 64, 96] a little louder or quieter, some with bands or frames at their mean."""
    patches = patches + torch.from_numpy(random.normal(0, LOUDER, (len(patches), 1, 1))).float()
    for patch in patches:
        if random.random() < MASKED:
            count = int(random.integers(1, MOST_BANDS))
            first = int(random.integers(0, MELS - count))
            patch[first : first + count] = patch.mean()
        if random.random() < MASKED:
            count = int(random.integers(1, MOST_FRAMES))
            first = int(random.integers(0, PATCH_FRAMES - count))
            patch[:, first : first + count] = patch.mean()
    return patches


@torch.no_grad()
def judge(network: SoundClassifier, examples: Examples, classes: Tensor) -> tuple[float, float]:
    """Both terms of the loss, the mean over examples."""
    network.eval()
    terms = []
    for places in np.array_split(np.arange(len(examples)), max(1, len(examples) // 250)):
        patches, scores = examples.take(places)
        terms.append([float(term) for term in distil_loss(network(patches), scores, classes)])
    network.train()
    entropy, distance = np.mean(terms, axis=0)
    return float(entropy), float(distance)


def distil(
    network: SoundClassifier,
    learned: Examples,
    judged: Examples,
    classes: Tensor,
    config: DistilConfig,
    out: Path,
) -> None:
    """Train the network; OUT gets a checkpoint that another call goes on from, and a log.

    `classes` [C, E] are the vectors that scores are read by.

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
    seen = []
    for step in range(done, config.steps):
        random = np.random.default_rng((config.seed, step))
        torch.manual_seed(config.seed * config.steps + step)
        for group in optimiser.param_groups:
            group["lr"] = config.rate(step)
        patches, scores = learned.take(random.integers(len(learned), size=config.batch))
        entropy, distance = distil_loss(network(blank_and_shift(patches, random)), scores, classes)
        (entropy + distance).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        seen.append((entropy.item(), distance.item()))
        if (step + 1) % KEEP_EVERY_STEPS == 0 or step + 1 == config.steps:
            save(network, optimiser, config, step + 1, out)
            report(step + 1, seen, judge(network, judged, classes), out)
            seen = []


def report(
    step: int, seen: list[tuple[float, float]], judged: tuple[float, float], out: Path
) -> None:
    learned = np.mean(seen, axis=0).round(4).tolist()
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
