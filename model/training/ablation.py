"""The paper's ablation in miniature: which terms of the objective earn their compute.

Every arm has the same compute, counted in floating point operations of forward and backward passes.
An arm pre-trains with some of the terms, then fine-tunes for retrieval as all others do. `neither`
spends all of it on fine-tuning. Two more arms pre-train with the video-text term, and with contrast
between vectors pooled from the joint pass, which shows cross-modal leakage.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from evaluation.clips import Clips
from evaluation.retrieval import build_first_window_routes, summarise
from media.text import TextTokens

from ..config import TrainConfig
from ..renames import translate_settings
from .distributed import ProcessGroup
from .loop import make_embedder, read_lines, start_run, train
from .step import StepRandomness, compute_gradients

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
LAST_STEPS = 20  # whose training loss is averaged
Result = dict[str, Any]  # of one arm and seed, see `run_arm`


@dataclass(frozen=True)
class AblationPlan:
    """What every arm shares. `base.steps` are those of pre-training with both terms."""

    base: TrainConfig
    fine_tuning_steps: int = 45
    test: str = "world:test:400"
    seeds: int = 3


def count_operations(config: TrainConfig, media: Path) -> int:
    """Floating point operations of one step, forward and backward."""
    run = start_run(config, media / "counted", resume=False, processes=ProcessGroup(), media=media)
    batch = run.mixture.read_batch(0)
    randomness = StepRandomness.draw(config, config.batch, seed=0)
    with FlopCounterMode(display=False) as counter:
        compute_gradients(run.model.train(), batch, randomness, config)
    return int(counter.get_total_flops())


def plan_stages(plan: AblationPlan, media: Path) -> dict[str, list[TrainConfig]]:
    """The runs of each arm, one after the other.

    All arms have the same compute, but for the one whose name says otherwise.
    """
    tuned = replace(plan.base, **FINE_TUNING, steps=plan.fine_tuning_steps)
    tuning_cost = count_operations(tuned, media)
    both = replace(plan.base, **PRE_TRAINING["both"])
    budget = plan.base.steps * count_operations(both, media)
    longer = replace(tuned, steps=plan.fine_tuning_steps + max(1, budget // tuning_cost))
    stages = {ARMS[0]: [longer], ARMS[1]: [tuned]}
    for arm, changes in PRE_TRAINING.items():
        config = replace(plan.base, **changes)
        steps = max(1, budget // count_operations(config, media))
        stages[arm] = [replace(config, steps=steps), tuned]
    return stages


def read_result(file: Path, plan: list[Any]) -> Result | None:
    """The result that a file holds, if it is of this plan."""
    if not file.exists():
        return None
    result: Result = json.loads(file.read_text(encoding="utf-8"))
    test, *configs = result["plan"]
    return result if [test, *map(translate_settings, configs)] == plan else None


def run_arm(configs: list[TrainConfig], *, seed: int, test: str, out: Path, media: Path) -> Result:
    """Train an arm's stages, unless `out` holds the result.

    The result has the retrieval after each stage, and the training loss at the end of the first.
    """
    file = out / "result.json"
    plan = json.loads(json.dumps([test, *(config.to_json() for config in configs)]))
    known = read_result(file, plan)
    if known is not None:
        return known
    if file.exists():
        shutil.rmtree(out)  # of another plan
    began = time.perf_counter()
    after = []
    before = ""
    for stage, config in enumerate(configs):
        folder = out / f"stage-{stage}"
        config = replace(config, seed=config.seed + seed, start_from=before)
        model = train(config, folder, resume=True, log=lambda _: None, media=media)
        clips = Clips.open(test, config.encoder.inputs, media / "cache", media / "world")
        tokens = TextTokens(folder / "tokenizer.json", config.encoder.text)
        after.append(summarise(build_first_window_routes(make_embedder(model, tokens), clips)))
        before = str(folder)
    lines = read_lines(out / "stage-0" / "metrics.jsonl")[-LAST_STEPS:]
    losses = [json.loads(line).get("audio_text") for line in lines]
    result = {
        "after": after,
        "steps": [config.steps for config in configs],
        "audio_text_loss": None if losses[0] is None else fmean(losses),
        "minutes": (time.perf_counter() - began) / 60,
        "plan": plan,
    }
    staging = file.with_suffix(".part")
    staging.write_text(json.dumps(result, indent=1), encoding="utf-8")
    staging.replace(file)
    return result


def run_ablation(
    plan: AblationPlan, out: Path, log: Callable[[str], None] = print
) -> dict[str, list[Result]]:
    """Train every arm with every seed.

    `out` gets results.json, the tables as tables.md and the plot as ablation.svg. Stopped and
    started again, it goes on where it was.
    """
    arms = plan_stages(plan, out)
    results: dict[str, list[Result]] = {arm: [] for arm in arms}
    for seed in range(plan.seeds):
        for arm, configs in arms.items():
            folder = out / f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}"
            result = run_arm(configs, seed=seed, test=plan.test, out=folder, media=out)
            results[arm].append(result)
            recall = ", ".join(
                f"{route} {result['after'][-1][route]['R@10']:.3f}" for route in ROUTES
            )
            log(f"{arm}, seed {seed}: R@10 {recall} ({result['minutes']:.1f} min)")
    tables = format_tables(results)
    (out / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    (out / "tables.md").write_text(tables, encoding="utf-8")
    plot(results, out / "ablation.svg")
    log(tables)
    return results


def format_spread(values: list[float]) -> str:
    """Mean and standard deviation of the sample.

    >>> format_spread([0.25, 0.5, 0.75])
    '0.500 ± 0.250'
    """
    deviation = stdev(values) if len(values) > 1 else 0
    return f"{fmean(values):.3f} ± {deviation:.3f}"


def format_routes(
    measured: list[dict[str, dict[str, float]]], measure: str, routes: tuple[str, ...] = ROUTES
) -> list[str]:
    """Mean and deviation of a measure over several runs, for each route."""
    return [format_route(measured, route, measure) for route in routes]


def format_route(measured: list[dict[str, dict[str, float]]], route: str, measure: str) -> str:
    return format_spread([run[route][measure] for run in measured])


def format_table(heads: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a Markdown table.

    >>> format_table(["arm", "R@1"], [["both", "0.5"]])
    ['| arm | R@1 |', '|---|---|', '| both | 0.5 |']
    """
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def format_tables(results: dict[str, list[Result]]) -> str:
    """Retrieval after fine-tuning, and after pre-training, in Markdown."""
    heads = [f"{route} {measure}" for route in ROUTES for measure in ("R@1", "R@10")]
    tuned = []
    for arm, runs in results.items():
        last = [run["after"][-1] for run in runs]
        pairs = zip(format_routes(last, "R@1"), format_routes(last, "R@10"), strict=True)
        tuned.append([arm, *chain.from_iterable(pairs)])
    pre_trained = []
    for arm in PRE_TRAINING:
        runs = results[arm]
        losses = [run["audio_text_loss"] for run in runs if run["audio_text_loss"] is not None]
        first = [run["after"][0] for run in runs]
        pre_trained.append(
            [
                arm,
                str(runs[0]["steps"][0]),
                format_spread(losses) if losses else "-",
                *format_routes(first, "R@10"),
            ]
        )
    gallery = next(iter(results.values()))[0]["after"][-1]["text-video"]["gallery"]
    seeds = len(results["both"])
    minutes = sum(run["minutes"] for runs in results.values() for run in runs)
    lines = [
        f"After fine-tuning, gallery {gallery}, mean and standard deviation of {seeds} seeds:",
        "",
        *format_table(["pre-trained with", *heads], tuned),
        "",
        "As pre-training leaves it:",
        "",
        *format_table(
            [
                "pre-trained with",
                "steps",
                "audio-text loss while training",
                *(f"{route} R@10" for route in ROUTES),
            ],
            pre_trained,
        ),
        "",
        f"{minutes:.0f} minutes of training in all, {torch.get_num_threads()} threads.",
    ]
    return "\n".join(lines)


def plot(
    results: dict[str, list[Result]],
    file: Path,
    routes: tuple[str, ...] = ROUTES,
    label: str = "R@10 after fine-tuning",
) -> None:
    """R@10 of every arm at its end: a dot for each seed, a bar for their mean."""
    from matplotlib.figure import Figure

    arms = list(results)
    size = (11, max(3.4, 0.3 * len(arms) + 0.9))
    figure = Figure(figsize=size, layout="constrained")
    for axes, route in zip(figure.subplots(1, len(routes), sharey=True), routes, strict=True):
        for at, arm in enumerate(arms):
            values = [run["after"][-1][route]["R@10"] for run in results[arm]]
            axes.plot(values, [at] * len(values), "o", color="tab:blue", alpha=0.6)
            axes.plot([fmean(values)], [at], "|", color="black", markersize=18)
        axes.set_title(route)
        axes.set_xlabel(label)
        axes.set_yticks(range(len(arms)), arms)
        axes.grid(axis="x", alpha=0.3)
    axes.invert_yaxis()
    figure.savefig(file)
