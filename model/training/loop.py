"""The training loop.

A step is a function of the seed, the step and the weights, so a resumed run repeats a run that was
never stopped. B batch, E embedding.
"""

from __future__ import annotations

import ctypes
import json
import math
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from evaluation.retrieval import (
    Embedder,
    build_routes,
    collect_vectors,
    embed_first_windows,
    select_metric,
    summarise,
    weigh_sound,
)
from media.errors import BadConfig
from media.text import TextTokens, learn_tokenizer

from ..config import EncoderConfig, TrainConfig
from ..data.batches import Batch, Inputs, Mixture
from ..data.shards import Shards
from ..data.source import Source
from ..network.fusion import learned_join
from ..network.language import cut_tokenizer
from ..network.pretrained_vit import load_pretrained_vit
from ..network.transformer import VLSA, MiniLMStem
from ..renames import translate_weights
from . import checkpoint
from .distributed import ProcessGroup, join_process_group, leave_process_group, pick_device
from .losses import check_turns
from .step import StepRandomness, compute_gradients
from .tables import Evaluation, add_parts, make_network, rows_of, sound_weight, step_seed

PRINT_EVERY_STEPS = 50  # where there is no progress bar
M_TRIM_THRESHOLD = -1  # of malloc.h
M_MMAP_MAX = -4


class Diverged(Exception):
    def __init__(self, step: int, ids: list[str]) -> None:
        super().__init__(step, ids)
        self.step = step
        self.ids = ids

    def __str__(self) -> str:
        return f"the loss is not finite at step {self.step}; its batch: {', '.join(self.ids)}"


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then a half cosine to zero."""
    warmup_steps = max(1, round(config.warmup * config.steps))
    if step < warmup_steps:
        return config.learning_rate * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, config.steps - warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimiser(model: VLSA, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; matrices decay, vectors (norms, biases) do not."""
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
    *,
    config: TrainConfig,
    step: int,
    processes: ProcessGroup,
) -> dict[str, float]:
    """One update; returns every term, the total, the norm of the gradient and the learning rate.

    `batch` holds this process's rows.

    Raises:
        Diverged: a loss or a gradient that is not finite; the weights are as they were.
    """
    model.train()
    for part in rows_of(config).parts:
        if part.before_step:
            part.before_step(model, step)
    for settings in optimiser.param_groups:
        settings["lr"] = learning_rate(step, config)
    optimiser.zero_grad()
    of_whole_batch = StepRandomness.draw(config, config.batch, step_seed(config.seed, step))
    randomness = of_whole_batch.take(processes.rows(config.batch), batch.frames.device)
    progress = step / config.steps
    losses = compute_gradients(model, batch, randomness, config, processes, progress=progress)
    terms = {name: value.item() for name, value in losses.items()}
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm))
    if not all(map(math.isfinite, [*terms.values(), norm])):
        raise Diverged(step, batch.ids)
    optimiser.step()
    return terms | {"norm": norm, "lr": learning_rate(step, config)}


def make_embedder(
    model: VLSA,
    tokens: Callable[[Sequence[str]], NDArray[np.int64]],
    sound_weight: float | None = None,
) -> Embedder:
    """The model as the evaluation takes it; the words are tokenised by `tokens`. In joint vectors
    sound weighs what the model's fusion says, or else `sound_weight`, or else as much as pictures.
    """
    device = next(model.parameters()).device

    @torch.no_grad()
    def run(modality: str, x: NDArray[Any]) -> NDArray[np.float32]:
        values = torch.from_numpy(np.ascontiguousarray(x)).to(device)
        return model.embed(modality, values).cpu().numpy()

    join = None if sound_weight is None else weigh_sound(sound_weight)
    if model.fusion is not None:
        join = learned_join(model.fusion)
    return Embedder(run, tokens, join=join)


# ---------------------------------------------------------------- the start of a run


def prepare_tokenizer(sources: Sequence[Source], config: TrainConfig, out: Path) -> Path:
    """The file of a run's tokenizer: its own, another run's, or made from the captions."""
    file = out / "tokenizer.json"
    if file.exists():
        return file
    if config.start_from:
        shutil.copy(checkpoint.find_checkpoint(Path(config.start_from)) / "tokenizer.json", file)
        return file
    texts = (c.text for source in sources for row in source.rows for c in row.captions)
    make_tokenizer(texts, config.encoder, file)
    return file


def make_tokenizer(texts: Iterable[str], encoder: EncoderConfig, file: Path) -> None:
    """Write an encoder's tokenizer for `texts`: cut from a published one, or learned."""
    make = cut_tokenizer if encoder.tokenizer == "bert" else learn_tokenizer
    make(texts, encoder.vocabulary, file)


def new_model(config: TrainConfig, tokenizer: Path, read_trunk: bool = True) -> VLSA:
    """The network before its first step: random from the seed, or as another run left it.

    Published weights are read where the config asks for them. A caller that will load a
    checkpoint's weights skips the trunk's with `read_trunk`.

    Raises:
        BadConfig: the other run has another encoder.
    """
    if config.start_from:
        model, other, _ = checkpoint.load(Path(config.start_from))
        if other.encoder != config.encoder:
            raise BadConfig(f"{config.start_from} holds another encoder than this config's")
        if shapes_of(model) != shapes_of(make_network(config)):
            raise BadConfig(f"{config.start_from} holds other blocks than this config's methods")
        torch.manual_seed(config.seed)
        add_parts(model, config)
        return model
    torch.manual_seed(config.seed)
    model = make_network(config)
    with torch.no_grad():
        model.log_scale.fill_(math.log(1 / config.temperature))
    stem = model.stems["text"]
    if isinstance(stem, MiniLMStem):
        stem.model.load_published(tokenizer)
    if config.trunk_from and read_trunk:
        load_pretrained_vit(model, config.trunk_from)
    return model


def shapes_of(model: VLSA) -> dict[str, torch.Size]:
    """Of the weights that an encoder has, without its parts for training alone."""
    named = model.named_parameters()
    return {name: weight.shape for name, weight in named if not name.startswith("parts.")}


def describe_provenance(sources: Sequence[Source], config: TrainConfig) -> dict[str, Any]:
    """What a run is made from: its data, their licences, and the run it started from."""
    rows = [row for source in sources for row in source.rows]
    licences = sorted({row.licence for row in rows if row.licence})
    if config.encoder.text_stem == "minilm":
        licences.append("Apache-2.0, all-MiniLM-L6-v2 (language model, frozen)")
    data = [
        {"manifest": Path(name).name, "clips": len(source)}
        for name, source in zip(config.manifests, sources, strict=True)
    ]
    if config.trunk_from:
        licences.append(
            f"that of {Path(config.trunk_from).name}, whose weights the trunk started with"
        )
    found: dict[str, Any] = {
        "data": data,
        "licences": licences,
        "seed": config.seed,
        "steps": config.steps,
    }
    if config.start_from:
        before = checkpoint.read_state(Path(config.start_from))
        found["started_from"] = before["provenance"] | {"trained_steps": before["step"]}
    return found


@dataclass(kw_only=True)
class Run:
    """One process of a training run, ready for its next step."""

    config: TrainConfig
    out: Path
    processes: ProcessGroup
    model: VLSA
    optimiser: torch.optim.AdamW
    mixture: Mixture
    held_out: Clips
    tokenizer: Path
    provenance: dict[str, Any]
    step: int = 0
    best: dict[str, float] = field(default_factory=lambda: {"step": 0, "value": -1.0})

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def batches(self) -> Iterator[tuple[int, Batch]]:
        """This process's rows of every step to come. The next ones are read while a step runs."""
        rows = self.processes.rows(self.config.batch)
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(self.mixture.read_batch, self.step, rows)
            for step in range(self.step, self.config.steps):
                batch = coming.result()
                if step + 1 < self.config.steps:
                    coming = reader.submit(self.mixture.read_batch, step + 1, rows)
                yield step, batch.to(self.device)

    def load(self, folder: Path) -> None:
        """Go on from the checkpoint in a folder.

        Raises:
            BadConfig: its network is another one.
        """
        device = self.device
        weights = torch.load(folder / "weights.pt", weights_only=True, map_location=device)
        states = torch.load(folder / "optimiser.pt", weights_only=True, map_location=device)
        try:
            self.model.load_state_dict(translate_weights(weights))
            self.optimiser.load_state_dict(states)
        except (RuntimeError, ValueError) as error:
            raise BadConfig(
                f"the run in {folder} has another encoder or other methods; go on with its own "
                "config, or train in another folder"
            ) from error
        state = checkpoint.read_state(folder)
        self.step = state["step"]
        self.best = state["best"]

    def save(self) -> tuple[dict[str, float], dict[str, float]]:
        """Measure on the held-out clips and write the checkpoint.

        Returns R@10 of every route, and the figures of the methods' metrics. A checkpoint that is
        better than any before is written as `best`, too.
        """
        self.model.eval()
        if self.config.encoder.memory:
            self.fill_memory()
        space = make_embedder(self.model, self.mixture.tokens, sound_weight(self.config))
        galleries = embed_first_windows(space, self.held_out)
        routes = build_routes(space, galleries)
        measures = summarise(routes)
        figures: dict[str, float] = {}
        for metric in self.mixture.methods.metrics:
            evaluation = Evaluation(
                vectors=collect_vectors(galleries, routes),
                routes=routes,
                step=self.step,
                before=self.figures_before(metric.name),
            )
            found = metric.measure(evaluation)
            figures |= {f"{metric.name} {name}": round(value, 4) for name, value in found.items()}
        value = select_metric(measures, self.config.best_by)
        folders = ["checkpoint"]
        if value > self.best["value"]:
            self.best = {"step": self.step, "value": value}
            folders.append("best")
        state = {
            "step": self.step,
            "config": self.config.to_json(),
            "provenance": self.provenance,
            "best": self.best,
        }
        for folder in folders:
            checkpoint.save(self.out / folder, self.model, self.optimiser, state, self.tokenizer)
        return {route: round(m["R@10"], 4) for route, m in measures.items()}, figures

    def figures_before(self, metric: str) -> list[dict[str, float]]:
        """The figures of a method's metric at the checkpoints before this one."""
        start = f"{metric} "
        found = []
        for line in map(json.loads, read_lines(self.out / "metrics.jsonl")):
            figures = {key[len(start) :]: x for key, x in line.items() if key.startswith(start)}
            if figures:
                found.append(figures)
        return found

    @torch.no_grad()
    def fill_memory(self) -> None:
        """Put the commonest captions of sounds without pictures into the model's memory."""
        # Shards are left out: their media are not known before they are read.
        counts: Counter[str] = Counter()
        for source in self.mixture.given:
            if isinstance(source, Clips):
                sounds = np.flatnonzero(source.has["audio"] & ~source.has["video"])
                for i in sounds:
                    counts.update(c.text for c in source.rows[i].captions_about("audio"))
        texts = [text for text, _ in counts.most_common(self.config.encoder.memory)]
        if texts:
            ids = torch.from_numpy(self.mixture.tokens(texts)).to(self.device)
            vectors, _ = self.model.encode_text(ids)
            self.model.fill_memory(vectors)

    @property
    def stalled(self) -> bool:
        """Whether as many checkpoints as `patience` have gone by without a better one."""
        since = self.step - self.best["step"]
        return 0 < self.config.patience <= since / self.config.checkpoint_steps


def open_source(name: str, config: TrainConfig, media: Path) -> Source:
    if name.endswith(".tar"):
        return Shards(name, config.encoder.inputs)
    return Clips.open(
        name, config.encoder.inputs, media / "cache", media / "world", config.batch_together_by
    )


def open_sources(config: TrainConfig, media: Path) -> list[Source]:
    """The config's manifests, rendered and decoded.

    Raises:
        BadConfig: one of them holds no clip that can be read.
    """
    sources = []
    for name in config.manifests:
        source = open_source(name, config, media)
        if not len(source):
            raise BadConfig(f"{name} holds no clip that can be read")
        sources.append(source)
    return sources


def remove_old_run(out: Path) -> None:
    for file in (out / "tokenizer.json", out / "metrics.jsonl"):
        file.unlink(missing_ok=True)
    for folder in ("checkpoint", "best", "tensorboard"):
        shutil.rmtree(out / folder, ignore_errors=True)


def start_run(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool,
    processes: ProcessGroup,
    media: Path | None = None,
) -> Run:
    """Make ready all that a run needs: clips, tokenizer, network, and the checkpoint to go on from.

    Raises:
        BadConfig: the settings do not fit together, or a source is empty.
    """
    out.mkdir(parents=True, exist_ok=True)
    if config.batch % processes.size:
        raise BadConfig(
            f"a batch of {config.batch} does not divide into {processes.size} processes"
        )
    methods = rows_of(config)  # before anything that takes long: it may be misspelt
    check_turns(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    if processes.is_main and not resume:
        remove_old_run(out)
    if not processes.is_main:
        processes.wait()  # until the main process has rendered and decoded
    media = media or out
    sources = open_sources(config, media)
    held_out = Clips.open(
        config.validation, config.encoder.inputs, media / "cache", media / "world"
    )
    tokenizer = prepare_tokenizer(sources, config, out)
    if processes.is_main:
        processes.wait()
    mixture = Mixture(
        sources,
        list(config.shares) or [float(len(source)) for source in sources],
        TextTokens(tokenizer, config.encoder.text),
        Inputs.of(config.encoder),
        batch=config.batch,
        seed=config.seed,
        methods=methods,
    )
    last = checkpoint.find_complete(out / "checkpoint") if resume else None
    model = new_model(config, tokenizer, read_trunk=last is None).to(pick_device(config.device))
    model.recompute = config.recompute
    if config.compile:
        for block in model.blocks:
            block.compile()
    run = Run(
        config=config,
        out=out,
        processes=processes,
        model=model,
        optimiser=make_optimiser(model, config),
        mixture=mixture,
        held_out=held_out,
        tokenizer=tokenizer,
        provenance=describe_provenance(sources, config),
    )
    if last:
        run.load(last)
    return run


# ---------------------------------------------------------------- figures


class MetricsLogger:
    """A run's figures: metrics.jsonl, TensorBoard, and a progress bar or lines.

    On resuming it drops the rows of steps that will run again.
    """

    def __init__(self, run: Run) -> None:
        self.config = run.config
        file = run.out / "metrics.jsonl"
        kept = [line for line in read_lines(file) if json.loads(line)["step"] < run.step]
        file.write_text("".join(kept), encoding="utf-8")
        self.file = file.open("a", encoding="utf-8")
        self.board = SummaryWriter(str(run.out / "tensorboard"), purge_step=run.step)
        self.bar = tqdm(initial=run.step, total=run.config.steps, unit="step", disable=None)

    def write(self, step: int, figures: dict[str, float], recall: dict[str, float] | None) -> None:
        """The figures of a step, and R@10 of every route where a checkpoint was measured."""
        self.bar.update()
        self.bar.set_postfix(loss=f"{figures['total']:.3f}", per_s=f"{figures['triplets_s']:.0f}")
        if self.bar.disable and (step + 1) % PRINT_EVERY_STEPS == 0:
            print(
                f"step {step + 1} of {self.config.steps}: loss {figures['total']:.3f}",
                file=sys.stderr,
                flush=True,
            )
        row: dict[str, Any] = {"step": step, **figures}
        for name, value in figures.items():
            self.board.add_scalar(name, value, step)
        if recall is not None:
            row["R@10"] = recall
            for route, value in recall.items():
                self.board.add_scalar(f"R@10/{route}", value, step)
            tqdm.write(f"step {step + 1}: R@10 {recall}")
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()
        self.board.close()
        self.bar.close()


def read_lines(file: Path) -> list[str]:
    """The complete lines of a file, with their ends; a kill may have left half of the last one."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next step.

    Activations of many megabytes would go back to the system and be asked for again, page by page,
    at every step. That took a third of a step's time on two cores.
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
    """Train to `config.steps`; returns the model in eval mode.

    Checkpoints go to `out`/checkpoint, the best one to `out`/best, figures to `out`/metrics.jsonl
    and `out`/tensorboard. Rendered and decoded clips go below `media`; it is `out` unless runs
    share them. Under `torchrun` every process trains on its share of each batch.

    Raises:
        Diverged: a loss that is not finite; the last checkpoint stays.
        BadConfig: settings that do not fit together, or with this number of processes.
    """
    keep_freed_memory()
    processes = join_process_group()
    try:
        run = start_run(config, out, resume=resume, processes=processes, media=media)
        if processes.is_main:
            parameters = sum(p.numel() for p in run.model.parameters())
            clips = sum(map(len, run.mixture.sources))
            log(f"{parameters:,} parameters, {clips:,} clips, from step {run.step}")
        with closing(MetricsLogger(run)) if processes.is_main else nullcontext() as logger:
            run_steps(run, logger, log)
        return run.model.eval()
    finally:
        leave_process_group()


def run_steps(run: Run, logger: MetricsLogger | None, log: Callable[[str], None]) -> None:
    """Every step of a run to its end, or until no checkpoint gets better."""
    config = run.config
    processes = run.processes
    began = time.perf_counter()
    for step, batch in run.batches():
        figures = train_step(
            run.model, run.optimiser, batch, config=config, step=step, processes=processes
        )
        figures["triplets_s"] = config.batch / (time.perf_counter() - began)
        run.step = step + 1
        recall = None
        if run.step == config.steps or run.step % config.checkpoint_steps == 0:
            if processes.is_main:
                recall, measured = run.save()
                figures |= measured
            run.best = processes.broadcast(run.best)
        if logger:
            logger.write(step, figures, recall)
        if run.stalled:
            log(f"no better checkpoint since step {run.best['step']:.0f}: stopped")
            break
        began = time.perf_counter()
