"""What methods of other works cost in a step of training, in processor time of one thread.

Every recipe takes a step in turn, on the same random clips, and the median of the rounds counts.
Ratios are to the plain step. The last line compares a step with every method on with the plain step
plus what each method adds alone.

    python -m bench.methods [--config miniature] [--batch 32] [--rounds 7] [--before FOLDER]

With `--before`, a checkout of an older state, the plain step is compared with its plain step, too:
a process each, in turn. `git worktree add FOLDER f6574a7` makes one of before there were methods.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.train import random_batch
from model.config import TrainConfig
from model.data.batches import Batch
from model.training.distributed import ProcessGroup
from model.training.loop import keep_freed_memory, make_optimiser, train_step
from model.training.tables import make_network, rows_of

Methods = dict[str, dict[str, Any]]
PLAIN, ALL = "plain", "every method"
# CWCL is left out: it needs a frozen language model, and takes the place of the terms of MIL-NCE.
# VATT has MIL-NCE's terms. Turns are left out, too: a step of one costs less than a plain one.
EACH: dict[str, Methods] = {
    "VALOR": {"valor": {}},
    "gap": {"gap": {}},
    "GRAM": {"gram": {}},
    "TRIANGLE": {"triangle": {}},
    "MIL-NCE": {"mil_nce": {}},
    "CompA": {"compa": {"kinds": ["order", "attribute"], "both_ways": True}},
    "bound halves": {"bound_halves": {}},
    "hard matching": {"hard_matching": {}},
    "harmonise": {"harmonise": {"curriculum": [-0.3, 0.0]}},
    "CVRL": {"cvrl": {}},
    "CoMix": {"comix": {}},
    "PixPro": {"pixpro": {}},
    "X-CLIP": {"xclip": {}},
    "experts 1 of 4": {"experts": {}},
    "captioning": {"captioning": {}},
    "RASL": {"masked_windows": {}},
    "video QA": {"masked_answers": {}},
}
# A plain step in any state of this project since its first training step.
OLD_STEP = """
import sys, time
from dataclasses import replace
import torch
from bench.gpu_check import random_batch
from model.config import TrainConfig
from model.network.transformer import VLSA
from model.training.step import StepRandomness, compute_gradients
torch.set_num_threads(1)
config = replace(TrainConfig.load(sys.argv[1]), batch=int(sys.argv[2]))
torch.manual_seed(0)
model = VLSA(config.encoder).train()
batch = random_batch(config)
randomness = StepRandomness.draw(config, config.batch, 0)
times = []
for _ in range(int(sys.argv[3]) + 1):
    model.zero_grad()
    began = time.process_time()
    compute_gradients(model, batch, randomness, config)
    times.append(time.process_time() - began)
print(sorted(times[1:])[len(times) // 2 - 1])
"""


@dataclass(kw_only=True)
class Recipe:
    """A network that is trained on one batch over and over."""

    config: TrainConfig
    model: Any
    optimiser: torch.optim.AdamW
    batch: Batch
    times: list[float]

    @classmethod
    def make(cls, plain: TrainConfig, methods: Methods) -> Recipe:
        config = replace(plain, methods=methods)
        torch.manual_seed(0)
        model = make_network(config)
        optimiser = make_optimiser(model, config)
        return cls(
            config=config, model=model, optimiser=optimiser, batch=make_batch(config), times=[]
        )

    def step(self) -> None:
        """One step, whose processor time is kept."""
        began = time.process_time()
        train_step(
            self.model,
            self.optimiser,
            self.batch,
            config=self.config,
            step=0,
            processes=ProcessGroup(),
        )
        self.times.append(time.process_time() - began)


def make_batch(config: TrainConfig) -> Batch:
    """Random clips, with the further texts and views of the recipe's methods."""
    batch = random_batch(config)
    random = torch.Generator().manual_seed(1)
    rows = rows_of(config)
    words = batch.audio_caption.shape
    texts = {text.name: torch.randint(4, 200, words, generator=random) for text in rows.texts}
    media = {"video": batch.frames, "audio": batch.waveforms}
    views = {view.name: media[view.of].flip(0) for view in rows.views}
    there = torch.ones(config.batch, dtype=torch.bool)
    has = batch.has | dict.fromkeys([*texts, *views], there)
    box = torch.tensor([[0.0, 0.0, 0.75, 0.75]]).repeat(config.batch, 1)
    boxes = {view.box: box for view in rows.views if view.crop is not None}
    return replace(batch, texts=texts, views=views, boxes=boxes, has=has)


def measure(plain: TrainConfig, rounds: int) -> dict[str, float]:
    """Seconds of processor time of a step by each recipe. The first round does not count."""
    every: Methods = {}
    for methods in EACH.values():
        every |= methods
    named = {PLAIN: {}, **EACH, ALL: every}
    recipes = {name: Recipe.make(plain, methods) for name, methods in named.items()}
    for _ in range(rounds + 1):
        for recipe in recipes.values():
            recipe.step()
    return {name: median(recipe.times[1:]) for name, recipe in recipes.items()}


def print_costs(seconds: dict[str, float]) -> None:
    plain = seconds[PLAIN]
    print("| recipe | step, plain = 1 |")
    print("|---|---|")
    for name, found in seconds.items():
        print(f"| {name} | {found / plain:.2f} |")
    added = sum(seconds[name] - plain for name in EACH)
    print(f"| plain and what each adds alone | {1 + added / plain:.2f} |")
    print(f"every method on, over that sum: {seconds[ALL] / (plain + added):.3f}")


def compare_with_before(before: Path, args: argparse.Namespace) -> None:
    """The plain step of this tree over that of another, in turn, a process each."""
    found: dict[Path, list[float]] = {before: [], Path.cwd(): []}
    for _ in range(args.rounds):
        for folder, times in found.items():
            command = [sys.executable, "-c", OLD_STEP, args.config, str(args.batch), "5"]
            done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
            times.append(float(done.stdout))
    old, new = (median(times) for times in found.values())
    ratios = sorted(b / a for a, b in zip(*found.values(), strict=True))
    print(
        f"plain step, this tree over {before.name}: {new / old:.3f} "
        f"(rounds {ratios[0]:.3f} to {ratios[-1]:.3f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.methods",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", default="miniature")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--before", type=Path, help="a checkout of an older state")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    preset = TrainConfig.load(args.config)
    plain = replace(preset, batch=args.batch, local_weight=0.0, video_text=True, device="cpu")
    print_costs(measure(plain, args.rounds))
    if args.before:
        compare_with_before(args.before.absolute(), args)


if __name__ == "__main__":
    main()
