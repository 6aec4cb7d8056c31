"""The paper's ablation in miniature: which terms of the objective earn their compute.

Every arm has the same compute, counted in floating point operations of forward and backward passes:
a pre-training with some of the terms and a fine-tuning for retrieval, alike for all; `neither`
spends the whole of it on fine-tuning. Two more arms pre-train with the video-text term, and with
contrast between vectors pooled from the joint pass: the trap.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from evaluation.clips import Clips
from evaluation.retrieval import build_first_window_routes, summarise
from media.text import TextTokens

from ..config import TrainConfig
from .distributed import Group
from .loop import embedder, lines_of, start, train
from .step import StepRandomness, gradients

ROUTES = ("text-video", "text-audio", "audio-text")
FINE_TUNING: dict[str, Any] = {
    "local_weight": 0.0,
    "video_text": True,
    "learning_rate": 1e-3,
    "seed": 1000,
}
PRE_TRAINING: dict[str, dict[str, Any]] = {
    "local": {"global_weight": 0.0, "video_text": False},
    "global": {"local_weight": 0.0, "video_text": False},
    "both": {"video_text": False},
    "both and video-text": {},
    "both, pooled from the joint pass": {"pool_from": "joint", "video_text": False},
}
ARMS = ("neither", "neither, fine-tuned no longer than the others", *PRE_TRAINING)
LAST = 20  # steps whose training loss is averaged


@dataclass(frozen=True)
class Plan:
    """What every arm shares. `base.steps` are those of pre-training with both terms."""

    base: TrainConfig
    fine_tuning_steps: int = 45
    test: str = "world:test:400"
    seeds: int = 3


def operations(config: TrainConfig, media: Path) -> int:
    """Floating point operations of one step, forward and backward."""
    run = start(config, media / "counted", False, Group(), media)
    batch, chance = run.mixture.batch(0), StepRandomness.drawn(config, config.batch, 0)
    with FlopCounterMode(display=False) as counter:
        gradients(run.model.train(), batch, chance, config)
    return int(counter.get_total_flops())


def stages(plan: Plan, media: Path) -> dict[str, list[TrainConfig]]:
    """The runs of each arm, one after the other, of equal compute in all (but the arm that says
    otherwise).
    """
    tuned = replace(plan.base, **FINE_TUNING, steps=plan.fine_tuning_steps)
    tuning = operations(tuned, media)
    budget = plan.base.steps * operations(replace(plan.base, **PRE_TRAINING["both"]), media)
    longer = replace(tuned, steps=plan.fine_tuning_steps + max(1, budget // tuning))
    found = {ARMS[0]: [longer], ARMS[1]: [tuned]}
    for arm, changes in PRE_TRAINING.items():
        config = replace(plan.base, **changes)
        found[arm] = [replace(config, steps=max(1, budget // operations(config, media))), tuned]
    return found


def run_arm(
    configs: list[TrainConfig], seed: int, test: str, out: Path, media: Path
) -> dict[str, Any]:
    """Train an arm's stages; returns retrieval after each and the training loss at the end of the
    first. An arm that was run before is not run again.
    """
    file = out / "result.json"
    plan = json.loads(json.dumps([test, *(config.to_json() for config in configs)]))
    if file.exists():
        known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if known["plan"] == plan:
            return known
        shutil.rmtree(out)  # of another plan
    began, after, before = time.perf_counter(), [], ""
    for stage, config in enumerate(configs):
        folder = out / f"stage-{stage}"
        config = replace(config, seed=config.seed + seed, start_from=before)
        model = train(config, folder, resume=True, log=lambda _: None, media=media)
        clips = Clips.open(test, config.encoder.inputs, media / "cache", media / "world")
        tokens = TextTokens(folder / "tokenizer.json", config.encoder.text)
        after.append(summarise(build_first_window_routes(embedder(model, tokens), clips)))
        before = str(folder)
    last = [json.loads(line) for line in lines_of(out / "stage-0" / "metrics.jsonl")[-LAST:]]
    result = {
        "after": after,
        "steps": [config.steps for config in configs],
        "audio_text_loss": fmean(row["audio_text"] for row in last)
        if "audio_text" in last[0]
        else None,
        "minutes": (time.perf_counter() - began) / 60,
        "plan": plan,
    }
    half = file.with_suffix(".part")
    half.write_text(json.dumps(result, indent=1), encoding="utf-8")
    half.replace(file)
    return result


def ablation(
    plan: Plan, out: Path, log: Callable[[str], None] = print
) -> dict[str, list[dict[str, Any]]]:
    """Every arm with every seed; `out` gets results.json, the tables as tables.md and the plot as
    ablation.svg. Stopped and started again, it goes on where it was.
    """
    arms = stages(plan, out)
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for seed in range(plan.seeds):
        for arm, configs in arms.items():
            folder = out / f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}"
            result = run_arm(configs, seed, plan.test, folder, out)
            results[arm].append(result)
            found = ", ".join(
                f"{route} {result['after'][-1][route]['R@10']:.3f}" for route in ROUTES
            )
            log(f"{arm}, seed {seed}: R@10 {found} ({result['minutes']:.1f} min)")
    (out / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    (out / "tables.md").write_text(tables(results), encoding="utf-8")
    plot(results, out / "ablation.svg")
    log(tables(results))
    return results


def spread(values: list[float]) -> str:
    """Mean and standard deviation of the sample.

    >>> spread([0.25, 0.5, 0.75])
    '0.500 ± 0.250'
    """
    return f"{fmean(values):.3f} ± {stdev(values) if len(values) > 1 else 0:.3f}"


def tables(results: dict[str, list[dict[str, Any]]]) -> str:
    """After fine-tuning, and as pre-training leaves it, in Markdown."""
    gallery = next(iter(results.values()))[0]["after"][-1]["text-video"]["gallery"]
    heads = [f"{route} {k}" for route in ROUTES for k in ("R@1", "R@10")]
    lines = [
        f"After fine-tuning, gallery {gallery}, mean and standard deviation of {len(results['both'])} seeds:",
        "",
        f"| pre-trained with | {' | '.join(heads)} |",
        "|---" * (len(heads) + 1) + "|",
    ]
    for arm, runs in results.items():
        cells = [
            spread([r["after"][-1][route][k] for r in runs])
            for route in ROUTES
            for k in ("R@1", "R@10")
        ]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    heads = ["steps", "audio-text loss while training", *(f"{route} R@10" for route in ROUTES)]
    lines += [
        "",
        "As pre-training leaves it:",
        "",
        f"| pre-trained with | {' | '.join(heads)} |",
        "|---" * 6 + "|",
    ]
    for arm in PRE_TRAINING:
        runs = results[arm]
        losses = [r["audio_text_loss"] for r in runs if r["audio_text_loss"] is not None]
        cells = [str(runs[0]["steps"][0]), spread(losses) if losses else "-"]
        cells += [spread([r["after"][0][route]["R@10"] for r in runs]) for route in ROUTES]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    minutes = sum(r["minutes"] for runs in results.values() for r in runs)
    return "\n".join(
        [
            *lines,
            "",
            f"{minutes:.0f} minutes of training in all, {torch.get_num_threads()} threads.",
        ]
    )


def plot(results: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """R@10 of every arm after fine-tuning: a dot for each seed, a bar for their mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    arms = list(results)
    for axes, route in zip(figure.subplots(1, len(ROUTES), sharey=True), ROUTES, strict=True):
        found = [[r["after"][-1][route]["R@10"] for r in results[arm]] for arm in arms]
        for at, values in enumerate(found):
            axes.plot(values, [at] * len(values), "o", color="tab:blue", alpha=0.6)
            axes.plot([fmean(values)], [at], "|", color="black", markersize=18)
        axes.set_title(route)
        axes.set_xlabel("R@10 after fine-tuning")
        axes.set_yticks(range(len(arms)), arms)
        axes.grid(axis="x", alpha=0.3)
    axes.invert_yaxis()
    figure.savefig(file)
