"""The training loop. A step is a function of (seed, step) and the weights, so a resumed run repeats
a whole one.
"""

from __future__ import annotations

import ctypes
import json
import math
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from evaluation.clips import Clips
from evaluation.retrieval import Embedder, build_first_window_routes, select_metric, summarise
from media.errors import BadConfig
from media.text import TextTokens, learn_tokenizer

from ..config import TrainConfig
from ..data.batches import Batch, Mixture, Source
from ..data.shards import Shards
from ..network.language import cut_tokenizer
from ..network.pretrained_vit import load_pretrained_vit
from ..network.transformer import VLSA, MiniLMStem
from . import checkpoint
from .distributed import Group, end_group, pick_device, start_group
from .step import StepRandomness, gradients

LINE_STEPS = 50  # where there is no bar
STEP_SEEDS = 1_000_003
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


class Diverged(Exception):
    def __init__(self, step: int, ids: list[str]) -> None:
        super().__init__(step, ids)
        self.step, self.ids = step, ids

    def __str__(self) -> str:
        return f"the loss is not finite at step {self.step}; its batch: {', '.join(self.ids)}"


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then a half cosine to zero."""
    warm = max(1, round(config.warmup * config.steps))
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    return (
        config.learning_rate
        * 0.5
        * (1 + math.cos(math.pi * (step - warm) / max(1, config.steps - warm)))
    )


def make_optimiser(model: VLSA, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; matrices decay, vectors (norms, biases, positions of width one) do not."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))


def train_step(
    model: VLSA,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    config: TrainConfig,
    step: int,
    group: Group,
) -> dict[str, float]:
    """One update; returns every term, the total, the norm of the gradient and the learning rate.

    Raises:
        Diverged: a loss or a gradient that is not finite; the weights are as they were.
    """
    model.train()
    for settings in optimiser.param_groups:
        settings["lr"] = learning_rate(step, config)
    optimiser.zero_grad()
    whole = StepRandomness.drawn(config, config.batch, config.seed * STEP_SEEDS + step)
    chance = whole.take(group.rows(config.batch), batch.frames.device)
    terms = {k: v.item() for k, v in gradients(model, batch, chance, config, group).items()}
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm))
    if not all(map(math.isfinite, [*terms.values(), norm])):
        raise Diverged(step, batch.ids)
    optimiser.step()
    return terms | {"norm": norm, "lr": learning_rate(step, config)}


def embedder(model: VLSA, tokens: TextTokens) -> Embedder:
    """The model as what `evaluate` takes."""
    device = next(model.parameters()).device

    @torch.no_grad()
    def run(modality: str, x: NDArray[Any]) -> NDArray[np.float32]:
        return (
            model.embed(modality, torch.from_numpy(np.ascontiguousarray(x)).to(device))
            .cpu()
            .numpy()
        )

    return Embedder(run, tokens)


# ---------------------------------------------------------------- what a run begins with


def prepare_tokenizer(sets: Sequence[Source], config: TrainConfig, out: Path) -> Path:
    file = out / "tokenizer.json"
    if config.start_from and not file.exists():
        shutil.copy(checkpoint.folder_of(Path(config.start_from)) / "tokenizer.json", file)
    if not file.exists():
        texts = (c.text for source in sets for row in source.rows for c in row.captions)
        make = cut_tokenizer if config.encoder.tokenizer == "bert" else learn_tokenizer
        make(texts, config.encoder.vocabulary, file)
    return file


def new_model(config: TrainConfig, tokenizer: Path, fresh: bool = True) -> VLSA:
    """The network before its first step: by chance from the seed, with published words, or as
    another run left it. Not `fresh`, its weights are about to be replaced by a checkpoint's.
    """
    if config.start_from:
        model, other, _ = checkpoint.load(Path(config.start_from))
        if other.encoder != config.encoder:
            raise BadConfig(f"{config.start_from} holds another encoder than this config's")
        return model
    torch.manual_seed(config.seed)
    model = VLSA(config.encoder)
    with torch.no_grad():
        model.log_scale.fill_(math.log(1 / config.temperature))
    stem = model.stems["text"]
    if isinstance(stem, MiniLMStem):
        stem.model.load_published(tokenizer)
    if config.trunk_from and fresh:
        load_pretrained_vit(model, config.trunk_from)
    return model


def provenance(sets: Sequence[Source], config: TrainConfig) -> dict[str, Any]:
    licences = sorted({row.licence for source in sets for row in source.rows if row.licence})
    if config.encoder.text_stem == "minilm":
        licences.append("Apache-2.0, all-MiniLM-L6-v2 (language model, frozen)")
    data = [
        {"manifest": Path(n).name, "clips": len(s)}
        for n, s in zip(config.manifests, sets, strict=True)
    ]
    if config.trunk_from:
        licences.append(
            f"that of {Path(config.trunk_from).name}, whose weights the trunk started with"
        )
    made = {"data": data, "licences": licences, "seed": config.seed, "steps": config.steps}
    if not config.start_from:
        return made
    before = checkpoint.state_of(Path(config.start_from))
    return made | {"started_from": before["provenance"] | {"trained_steps": before["step"]}}


@dataclass
class Run:
    """One process of a training run, ready for its next step."""

    config: TrainConfig
    out: Path
    group: Group
    model: VLSA
    optimiser: torch.optim.AdamW
    mixture: Mixture
    held_out: Clips
    tokenizer: Path
    made_from: dict[str, Any]
    step: int = 0
    best: dict[str, float] = field(default_factory=lambda: {"step": 0, "value": -1.0})

    def batches(self) -> Iterator[tuple[int, Batch]]:
        """This process's rows of every step to come, the next ones read while a step runs."""
        device, rows = next(self.model.parameters()).device, self.group.rows(self.config.batch)
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self.mixture.batch, self.step, rows)
            for step in range(self.step, self.config.steps):
                batch = coming.result()
                if step + 1 < self.config.steps:
                    coming = ahead.submit(self.mixture.batch, step + 1, rows)
                yield step, batch.to(device)

    def save(self) -> dict[str, float]:
        """Measure on the held-out clips, then write the checkpoint and, where it is better than any
        before, `best`; returns R@10 of every route.
        """
        self.model.eval()
        if self.config.encoder.memory:
            self.remember()
        found = summarise(
            build_first_window_routes(embedder(self.model, self.mixture.tokens), self.held_out)
        )
        value = select_metric(found, self.config.best_by)
        better = value > self.best["value"]
        if better:
            self.best = {"step": self.step, "value": value}
        state = {
            "step": self.step,
            "config": self.config.to_json(),
            "provenance": self.made_from,
            "best": self.best,
        }
        for folder in ["checkpoint", *(["best"] if better else [])]:
            checkpoint.save(self.out / folder, self.model, self.optimiser, state, self.tokenizer)
        return {route: round(m["R@10"], 4) for route, m in found.items()}

    @torch.no_grad()
    def remember(self) -> None:
        """Put the commonest captions of sounds without pictures into the model's memory."""
        # shards are not looked into
        clips = [source for source in self.mixture.sets if isinstance(source, Clips)]
        sounds = [
            s.rows[i] for s in clips for i in np.flatnonzero(s.has["audio"] & ~s.has["video"])
        ]
        said = Counter(said.text for row in sounds for said in row.captions_about("audio"))
        texts = [text for text, _ in said.most_common(self.config.encoder.memory)]
        if texts:
            ids = torch.from_numpy(self.mixture.tokens(texts)).to(
                next(self.model.parameters()).device
            )
            self.model.remember(self.model.read(ids)[0])

    @property
    def stalled(self) -> bool:
        """Whether as many checkpoints as `patience` have gone by without a better one."""
        since = self.step - self.best["step"]
        return 0 < self.config.patience <= since / self.config.checkpoint_steps


def open_source(name: str, config: TrainConfig, media: Path) -> Source:
    if name.endswith(".tar"):
        return Shards(name, config.encoder.inputs)
    return Clips.open(name, config.encoder.inputs, media / "cache", media / "world", config.alike)


def start(
    config: TrainConfig, out: Path, resume: bool, group: Group, media: Path | None = None
) -> Run:
    """Everything a run needs: clips rendered and decoded, tokenizer, network, and the checkpoint to
    go on from.
    """
    out.mkdir(parents=True, exist_ok=True)
    if config.batch % group.size:
        raise BadConfig(f"a batch of {config.batch} does not divide into {group.size} processes")
    if config.threads:
        torch.set_num_threads(config.threads)
    if group.leads and not resume:
        for old in (out / "tokenizer.json", out / "metrics.jsonl"):
            old.unlink(missing_ok=True)
        for folder in ("checkpoint", "best", "tensorboard"):
            shutil.rmtree(out / folder, ignore_errors=True)
    if not group.leads:
        group.wait()  # until the first process has rendered and decoded
    media = media or out
    sets = [open_source(name, config, media) for name in config.manifests]
    if empty := [
        name for name, source in zip(config.manifests, sets, strict=True) if not len(source)
    ]:
        raise BadConfig(f"{empty[0]} holds no clip that can be read")
    held_out = Clips.open(
        config.validation, config.encoder.inputs, media / "cache", media / "world"
    )
    tokenizer = prepare_tokenizer(sets, config, out)
    if group.leads:
        group.wait()
    tokens = TextTokens(tokenizer, config.encoder.text)
    shares = list(config.shares) or [float(len(source)) for source in sets]
    mixture = Mixture(sets, shares, tokens, config.encoder, config.batch, config.seed)
    at = checkpoint.found(out / "checkpoint") if resume else None
    model = new_model(config, tokenizer, at is None).to(pick_device(config.device))
    model.recompute = config.recompute
    if config.compile:
        for block in model.blocks:
            block.compile()
    optimiser = make_optimiser(model, config)
    run = Run(
        config, out, group, model, optimiser, mixture, held_out, tokenizer, provenance(sets, config)
    )
    if at:
        device, state = next(model.parameters()).device, checkpoint.state_of(at)
        model.load_state_dict(torch.load(at / "weights.pt", weights_only=True, map_location=device))
        optimiser.load_state_dict(
            torch.load(at / "optimiser.pt", weights_only=True, map_location=device)
        )
        run.step, run.best = state["step"], state["best"]
    return run


# ---------------------------------------------------------------- what a run tells


class MetricsLogger:
    """A run's figures: metrics.jsonl, TensorBoard, and a bar or lines. Steps a kill has taken back
    are taken out.
    """

    def __init__(self, run: Run) -> None:
        self.config, file = run.config, run.out / "metrics.jsonl"
        kept = [line for line in lines_of(file) if json.loads(line)["step"] < run.step]
        file.write_text("".join(kept), encoding="utf-8")
        self.file = file.open("a", encoding="utf-8")
        self.board = SummaryWriter(str(run.out / "tensorboard"), purge_step=run.step)
        self.bar = tqdm(initial=run.step, total=run.config.steps, unit="step", disable=None)

    def write(self, step: int, figures: dict[str, float], found: dict[str, float] | None) -> None:
        self.bar.update()
        self.bar.set_postfix(loss=f"{figures['total']:.3f}", per_s=f"{figures['triplets_s']:.0f}")
        if self.bar.disable and (step + 1) % LINE_STEPS == 0:
            print(
                f"step {step + 1} of {self.config.steps}: loss {figures['total']:.3f}",
                file=sys.stderr,
                flush=True,
            )
        row: dict[str, Any] = {"step": step, **figures}
        for name, value in figures.items():
            self.board.add_scalar(name, value, step)
        if found is not None:
            row["R@10"] = found
            for route, value in found.items():
                self.board.add_scalar(f"R@10/{route}", value, step)
            tqdm.write(f"step {step + 1}: R@10 {found}")
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()
        self.board.close()
        self.bar.close()


def lines_of(file: Path) -> list[str]:
    """The whole lines of a file; a kill may have left half of one."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def keep_freed_memory() -> None:
    """Have glibc keep what is freed: activations of many megabytes would go back to the system and
    be asked for again, page by page, at every step (a third of a step's time on two cores).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def train(
    config: TrainConfig,
    out: Path,
    resume: bool,
    log: Callable[[str], None] = print,
    media: Path | None = None,
) -> VLSA:
    """Train to `config.steps`: checkpoints in `out`/checkpoint, the best in `out`/best, figures in
    `out`/metrics.jsonl and `out`/tensorboard; rendered and decoded clips below `media`, which is
    `out` unless runs share them. Under `torchrun` every process trains its share of each batch.

    Raises:
        Diverged: a loss that is not finite; the last checkpoint stays.
        BadConfig: settings that do not fit together, or with this number of processes.
    """
    keep_freed_memory()
    group = start_group()
    try:
        run = start(config, out, resume, group, media)
        clips, size = (
            sum(map(len, run.mixture.sets)),
            sum(p.numel() for p in run.model.parameters()),
        )
        if group.leads:
            log(f"{size:,} parameters, {clips:,} clips, from step {run.step}")
        with closing(MetricsLogger(run)) if group.leads else nullcontext() as journal:
            began = time.perf_counter()
            for step, batch in run.batches():
                figures = train_step(run.model, run.optimiser, batch, config, step, group)
                figures["triplets_s"] = config.batch / (time.perf_counter() - began)
                run.step, found = step + 1, None
                if run.step == config.steps or run.step % config.checkpoint_steps == 0:
                    found = run.save() if group.leads else None
                    run.best = group.agreed(run.best)
                if journal:
                    journal.write(step, figures, found)
                if run.stalled:
                    log(f"no better checkpoint since step {run.best['step']:.0f}: stopped")
                    break
                began = time.perf_counter()
        return run.model.eval()
    finally:
        end_group()
