"""The training loop. A step is a function of (seed, step) and the weights, so a resumed run repeats a whole one."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from . import checkpoint, objectives
from .clips import Clips, resolve
from .config import TrainConfig
from .data import Batch, Mixture
from .evaluate import score
from .inputs.text import TextTokens, learn_tokenizer
from .transformer import VLSA

LINE_STEPS = 50  # where there is no bar


class Diverged(Exception):
    def __init__(self, step: int, ids: list[str]) -> None:
        super().__init__(step, ids)
        self.step, self.ids = step, ids

    def __str__(self) -> str:
        return f"the loss is not finite at step {self.step}; its batch: {', '.join(self.ids)}"


def losses(model: VLSA, batch: Batch, config: TrainConfig) -> dict[str, Tensor]:
    """Every term of the objective for one batch, unweighted. A term whose modalities are absent is left out."""
    has, terms = batch.has, {}
    vectors = {
        "video": embed(model, "video", batch.frames, has["video"], config.drop_tokens),
        "audio": embed(model, "audio", batch.waveforms, has["audio"], config.drop_tokens),
        "sight": embed(model, "text", batch.sight, has["sight"], 0.0),
        "sound": embed(model, "text", batch.sound, has["sound"], 0.0),
    }
    pairs = {"audio_video": ("audio", "video"), "audio_text": ("audio", "sound")}
    if config.video_text:
        pairs["video_text"] = ("video", "sight")
    for name, (a, b) in pairs.items():
        both = has[a] & has[b]
        if both.sum() < 2:
            continue
        va, vb, group = vectors[a][both], vectors[b][both], batch.group[both]
        terms[name] = objectives.info_nce(va, vb, model.scale, group, config.smoothing)
        if name in model.match:
            terms[f"{name}_match"] = objectives.matching(model.match[name], va, vb, group)
    if config.local_weight and config.local_share:
        rows = torch.randperm(len(batch.ids))[: max(2, round(len(batch.ids) * config.local_share))]
        parts = model.masked(
            {"video": batch.frames[rows], "audio": batch.waveforms[rows], "text": batch.sight[rows]},
            {"video": has["video"][rows], "audio": has["audio"][rows], "text": has["sight"][rows]},
        )
        terms["local"] = objectives.local(parts, config.encoder.normalise_targets)
    return terms


def embed(model: VLSA, modality: str, x: Tensor, has: Tensor, drop: float) -> Tensor:
    """Unit vectors [B, E]; zeros for rows without the modality, which are never computed."""
    out = torch.zeros(len(x), model.config.dim)
    if has.any():
        out = out.index_put((has.nonzero().squeeze(1),), model.embed(modality, x[has], drop))
    return out


def total(terms: dict[str, Tensor], config: TrainConfig) -> Tensor:
    """L = w_local L_local + w_global L_global, the paper's weights being 1 and 5."""
    everything = [config.global_weight * v for k, v in terms.items() if k != "local"]
    if "local" in terms:
        everything.append(config.local_weight * terms["local"])
    return torch.stack(everything).sum()


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then a half cosine to zero."""
    warm = max(1, round(config.warmup * config.steps))
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, config.steps - warm)))


def make_optimiser(model: VLSA, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; matrices decay, vectors (norms, biases, positions of width one) do not."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))


def embedder(model: VLSA) -> Callable[[str, NDArray[Any]], NDArray[np.float32]]:
    """The model as what `evaluate.score` takes."""

    @torch.no_grad()
    def run(modality: str, x: NDArray[Any]) -> NDArray[np.float32]:
        return model.embed(modality, torch.from_numpy(np.ascontiguousarray(x))).numpy()

    return run


def prepare_tokenizer(sets: list[Clips], config: TrainConfig, out: Path) -> Path:
    file = out / "tokenizer.json"
    if not file.exists():
        texts = (c.text for clips in sets for row in clips.rows for c in row.captions)
        learn_tokenizer(texts, config.encoder.vocabulary, file)
    return file


def provenance(sets: list[Clips], config: TrainConfig) -> dict[str, Any]:
    licences = sorted({row.licence for clips in sets for row in clips.rows if row.licence})
    data = [{"manifest": Path(n).name, "clips": len(c)} for n, c in zip(config.manifests, sets, strict=True)]
    return {"data": data, "licences": licences, "seed": config.seed, "steps": config.steps}


def train(config: TrainConfig, out: Path, resume: bool, log: Callable[[str], None] = print) -> VLSA:
    """Train to `config.steps`, with checkpoints in `out`/checkpoint and figures in `out`/metrics.jsonl.

    Raises:
        Diverged: a loss that is not finite; the last checkpoint stays.
    """
    out.mkdir(parents=True, exist_ok=True)
    if config.threads:
        torch.set_num_threads(config.threads)
    specs, cache = config.encoder.inputs, out / "cache"
    if not resume:
        (out / "tokenizer.json").unlink(missing_ok=True)
    sets = [Clips(resolve(name, out / "world"), specs, cache) for name in config.manifests]
    held_out = Clips(resolve(config.validation, out / "world"), specs, cache)
    tokenizer = prepare_tokenizer(sets, config, out)
    tokens = TextTokens(tokenizer, specs.text)
    shares = list(config.shares) or [float(len(clips)) for clips in sets]
    mixture = Mixture(sets, shares, tokens, config.batch, config.seed)
    torch.manual_seed(config.seed)
    model = VLSA(config.encoder)
    with torch.no_grad():
        model.log_scale.fill_(math.log(1 / config.temperature))
    optimiser, start = make_optimiser(model, config), 0
    if resume and (at := checkpoint.found(out / "checkpoint")):
        model.load_state_dict(torch.load(at / "weights.pt", weights_only=True))
        optimiser.load_state_dict(torch.load(at / "optimiser.pt", weights_only=True))
        start = json.loads((at / "checkpoint.json").read_text(encoding="utf-8"))["step"]
    elif not resume:
        (out / "metrics.jsonl").unlink(missing_ok=True)
    made_from = provenance(sets, config)
    log(f"{sum(p.numel() for p in model.parameters()):,} parameters, {sum(map(len, sets)):,} clips, from step {start}")
    with (out / "metrics.jsonl").open("a", encoding="utf-8") as metrics:
        bar = tqdm(range(start, config.steps), initial=start, total=config.steps, unit="step", disable=None)
        for step in bar:
            began = time.perf_counter()
            terms = train_step(model, optimiser, mixture.batch(step), config, step)
            row: dict[str, Any] = {"step": step, "triplets_s": config.batch / (time.perf_counter() - began), **terms}
            bar.set_postfix(loss=f"{terms['total']:.3f}", per_s=f"{row['triplets_s']:.0f}")
            if bar.disable and (step + 1) % LINE_STEPS == 0:
                print(f"step {step + 1} of {config.steps}: loss {terms['total']:.3f}", file=sys.stderr, flush=True)
            last = step + 1 == config.steps
            if last or (step + 1) % config.checkpoint_steps == 0:
                checkpoint.save(out / "checkpoint", model, optimiser, config, step + 1, tokenizer, made_from)
                found = score(embedder(model.eval()), tokens, held_out)
                row["R@10"] = {route: round(m["R@10"], 4) for route, m in found.items()}
                tqdm.write(f"step {step + 1}: R@10 {row['R@10']}")
            metrics.write(json.dumps(row) + "\n")
            metrics.flush()
    shutil.rmtree(out / "checkpoint.part", ignore_errors=True)
    return model.eval()


def train_step(
    model: VLSA, optimiser: torch.optim.Optimizer, batch: Batch, config: TrainConfig, step: int
) -> dict[str, float]:
    """One update; returns every term, the total, the norm of the gradient and the learning rate."""
    model.train()
    torch.manual_seed(config.seed * 1_000_003 + step)
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(step, config)
    terms = losses(model, batch, config)
    loss = total(terms, config)
    if not torch.isfinite(loss):
        raise Diverged(step, batch.ids)
    optimiser.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
    optimiser.step()
    out = {k: v.item() for k, v in terms.items()}
    return out | {"total": loss.item(), "norm": float(norm), "lr": learning_rate(step, config)}
