"""The plain recipe against the plain recipe with each method, at equal compute.

A run trains one arm with one seed on one bed and leaves a small file with its measures. What is
there is not run again, so a plan that was stopped goes on. Compute is counted in floating point
operations of a step, forward and backward: an arm whose step costs more has fewer steps.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from evaluation.composed import COMPOSITIONS, measure_gaps, score_groups
from evaluation.retrieval import build_routes, collect_vectors, summarise
from media.errors import BadConfig

from ..config import TrainConfig
from ..data.batches import Batch, Mixture
from ..training.distributed import ProcessGroup, pick_device
from ..training.loop import make_optimiser, train_step
from ..training.step import StepRandomness, compute_gradients
from ..training.tables import Evaluation, Rows, rows_of
from .real import RealBed
from .world import TEST, TRAIN, WorldBed

Methods = dict[str, dict[str, Any]]
BEDS = ("real", "world")
PLAIN = "plain"
# What the world's things look like, two by two.
STAGES: dict[str, Any] = {
    "by": "shape",
    "stages": (("ball", "box"), ("triangle", "star"), ("ring", "cross"), ("crescent", "bar")),
    "stage_steps": 25,
}
BOTH_KINDS: dict[str, Any] = {"kinds": ("order", "attribute"), "both_ways": True}
ARMS: dict[str, Methods] = {
    PLAIN: {},
    "VALOR": {"valor": {}},
    "VALOR learned": {"valor": {"learned": True}},
    "gap": {"gap": {}},
    "CWCL": {"cwcl": {}},
    "CWCL both ways": {"cwcl": {"soft": ("recording", "text")}},
    "GRAM": {"gram": {}},
    "TRIANGLE": {"triangle": {}},
    "MIL-NCE": {"mil_nce": {}},
    "CompA": {"compa": {}},
    "CompA attributes": {"compa": {"kinds": ("attribute",)}},
    "CompA both": {"compa": BOTH_KINDS},
    "bound halves": {"bound_halves": {}},
    "bound halves and CompA": {"bound_halves": {}, "compa": BOTH_KINDS},
    "hard matching": {"hard_matching": {}},
    "hard matching of states": {"hard_matching": {"states": 4}},
    "harmonise": {"harmonise": {}},
    "curriculum": {"harmonise": {"realign": False, "curriculum": (-0.3, 0.0)}},
    "CVRL": {"cvrl": {}},
    "CoMix": {"comix": {}},
    "PixPro": {"pixpro": {}},
    "X-CLIP": {"xclip": {}},
    "VATT": {"vatt": {}},
    "VIP-ANT": {"vip_ant": {}},
    "VIP-ANT told": {"vip_ant": {"supervised": 0.1}},
    "experts 1 of 4": {"experts": {}},
    "experts 2 of 4": {"experts": {"chosen": 2}},
    "alternate": {"alternate": {}},
    "CoCa": {"captioning": {}},
    "cMIM": {"captioning": {"from_vector": True}},
    "RASL": {"masked_windows": {}},
    "video QA": {"masked_answers": {}},
    "stages": {"coconut": {**STAGES, "replay": 0.0}},
    "COCONUT": {"coconut": STAGES},
}
# The world's texts have no frozen encoder in `miniature`. The real bed's pictures are features, its
# texts are no words, and its rows have no metadata. What its trunk adds to is the stems' reading,
# in one space.
NOT_REAL = ("PixPro", "VATT", "CoCa", "cMIM", "video QA", "stages", "COCONUT")
NOT_WORLD = ("CWCL", "CWCL both ways")
LEFT_OUT = {*(("world", arm) for arm in NOT_WORLD), *(("real", arm) for arm in NOT_REAL)}
STEMS_RECIPE = str(Path(__file__).parent / "stems.json")
WORLD_RECIPE = "miniature"
RECIPE: dict[str, Any] = {"local_weight": 0.0, "video_text": True}
LAST_STEPS = 20  # whose losses are averaged
LOOKS = 4  # how often in a run the metrics of its methods are measured
Result = dict[str, Any]
Look = dict[str, dict[str, float]]  # metric -> figures


class OutOfTime(Exception):
    """The time that a plan may take is over."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is run, and where. `features` is the file of `bench.real_bed`."""

    out: Path
    features: Path
    beds: tuple[str, ...] = BEDS
    arms: tuple[str, ...] = tuple(ARMS)
    seeds: int = 3
    steps: dict[str, int] = field(default_factory=lambda: {"real": 300, "world": 300})
    batch: int = 96
    device: str = "auto"
    jobs: int = 1
    ends_at: float = float("inf")  # in seconds of the epoch
    clips: tuple[int, int] = (TRAIN, TEST)  # of the world
    world: str = WORLD_RECIPE  # a preset's name or a JSON file

    def recipe(self, bed: str) -> TrainConfig:
        """Raises BadConfig: there is no such preset or file."""
        return TrainConfig.load(self.world if bed == "world" else STEMS_RECIPE)

    def conditions(self, bed: str) -> dict[str, Any]:
        """What every run of a bed has in common, so that runs can be compared."""
        alike = {"steps": self.steps[bed], "batch": self.batch}
        return (
            alike | {"recipe": self.world, "clips": list(self.clips)} if bed == "world" else alike
        )

    def check(self) -> None:
        """Raises BadConfig: a bed, an arm or a method that there is not, or the folder has runs
        that were made otherwise.
        """
        for bed in self.beds:
            if bed not in BEDS:
                raise BadConfig(f"there is no bed {bed!r}; there are: {', '.join(BEDS)}")
        for arm in self.arms:
            if arm not in ARMS:
                raise BadConfig(f"there is no arm {arm!r}; there are: {', '.join(ARMS)}")
        for result in read_results(self.out):
            if result["bed"] in self.beds and result["conditions"] != self.conditions(
                result["bed"]
            ):
                raise BadConfig(
                    f"{self.out} has runs of other conditions: {result['conditions']} on the bed "
                    f"{result['bed']!r}; choose another folder"
                )

    @property
    def jobs_to_do(self) -> list[Job]:
        """Every run, one seed of everything before the next."""
        return [
            Job(bed, arm, seed)
            for seed in range(self.seeds)
            for arm in self.arms
            for bed in self.beds
            if (bed, arm) not in LEFT_OUT
        ]


@dataclass(frozen=True)
class Job:
    bed: str
    arm: str
    seed: int

    @property
    def file(self) -> str:
        return f"{self.bed}-{self.arm.replace(' ', '-')}-{self.seed}.json"


def make_config(plan: Plan, job: Job) -> TrainConfig:
    """The recipe of a run, with the plain recipe's steps."""
    return replace(
        plan.recipe(job.bed),
        **RECIPE,
        methods=ARMS[job.arm],
        seed=job.seed,
        steps=plan.steps[job.bed],
        batch=plan.batch,
        device=plan.device,
    )


@lru_cache(maxsize=1)
def open_real_bed(features: Path) -> RealBed:
    return RealBed(features)


@lru_cache(maxsize=1)
def open_world_bed(folder: Path, recipe: str, clips: tuple[int, int], jobs: int) -> WorldBed:
    config = TrainConfig.load(recipe)
    return WorldBed(folder, config, jobs=jobs, train=clips[0], test=clips[1])


def bed_of(plan: Plan, name: str) -> Any:
    if name == "real":
        return open_real_bed(plan.features)
    return open_world_bed(plan.out / "world", plan.world, plan.clips, max(2, plan.jobs))


# ---------------------------------------------------------------- one run


def new_network(bed: Any, config: TrainConfig) -> Any:
    torch.manual_seed(config.seed)
    model = bed.network(config)
    with torch.no_grad():
        model.log_scale.fill_(-torch.tensor(config.temperature).log())
    return model.to(pick_device(config.device)).train()


def count_step(bed: Any, config: TrainConfig) -> int:
    """Floating point operations of the first step with seed 0, forward and backward. Of a recipe
    with turns it is the mean over them.
    """
    config = replace(config, seed=0)
    methods = rows_of(config)
    model = new_network(bed, config)
    device = pick_device(config.device)
    batch = bed.mixture(config, methods).read_batch(0).to(device)
    costs = []
    for turn in methods.turns or (None,):
        randomness = StepRandomness.draw(config, config.batch, 0, turn).take(slice(None), device)
        with FlopCounterMode(display=False) as counter:
            compute_gradients(model, batch, randomness, config)
        costs.append(counter.get_total_flops())
    chances = [turn.chance for turn in methods.turns] or None
    return round(fmean(costs, chances))


def read_batches(mixture: Mixture, config: TrainConfig) -> Iterator[tuple[int, Batch]]:
    """The batch of every step; the next one is read while a step runs."""
    device = pick_device(config.device)
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(mixture.read_batch, 0)
        for step in range(config.steps):
            batch = coming.result()
            if step + 1 < config.steps:
                coming = reader.submit(mixture.read_batch, step + 1)
            yield step, batch.to(device)


def measure(bed: Any, model: Any) -> Result:
    """Retrieval of every route, the gaps, and the benchmarks of sounds put together."""
    model.eval()
    with torch.no_grad():
        galleries = bed.galleries(model)
        routes = build_routes(bed.embedder(model), galleries)
        composed = {kind: score_groups(bed.composed_scores(model, kind)) for kind in COMPOSITIONS}
    return {
        "after": [summarise(routes)],
        "gap": measure_gaps(collect_vectors(galleries, routes)),
        **composed,
    }


def run_job(plan: Plan, job: Job) -> Result:
    """Train, measure, and leave the result in the plan's folder.

    Raises:
        OutOfTime: the plan's time is over; nothing is left.
    """
    if plan.jobs > 1:
        torch.set_num_threads(1)
    bed = bed_of(plan, job.bed)
    config = make_config(plan, job)
    plain_cost = count_step(bed, replace(config, methods={}))
    cost = count_step(bed, config)
    config = replace(config, steps=max(1, round(config.steps * plain_cost / cost)))
    began = time.time()
    model, losses, looks = train_on(bed, config, plan.ends_at)
    result = {
        "bed": job.bed,
        "arm": job.arm,
        "seed": job.seed,
        "methods": config.methods,
        "steps": config.steps,
        "conditions": plan.conditions(job.bed),
        "operations": cost,
        "plain_operations": plain_cost,
        "seconds": time.time() - began,
        "losses": losses,
        "looks": looks,
        "device": str(pick_device(config.device)),
        **measure(bed, model),
    }
    staging = plan.out / f"{job.file}.part"
    staging.write_text(json.dumps(result, indent=1), encoding="utf-8")
    staging.replace(plan.out / job.file)
    return result


def look(bed: Any, model: Any, methods: Rows, step: int, before: list[Look]) -> Look:
    """The figures of the methods' metrics after so many steps; `before` has those of then."""
    model.eval()
    with torch.no_grad():
        galleries = bed.galleries(model)
        routes = build_routes(bed.embedder(model), galleries)
    vectors = collect_vectors(galleries, routes)
    found = {}
    for metric in methods.metrics:
        known = [earlier[metric.name] for earlier in before]
        evaluation = Evaluation(vectors=vectors, routes=routes, step=step, before=known)
        found[metric.name] = metric.measure(evaluation)
    return found


def train_on(
    bed: Any, config: TrainConfig, ends_at: float
) -> tuple[Any, dict[str, float], list[Look]]:
    """A network trained on a bed, the means of its last losses, and what was seen on the way.

    Raises OutOfTime.
    """
    model = new_network(bed, config)
    methods = rows_of(config)
    optimiser = make_optimiser(model, config)
    figures: list[dict[str, float]] = []
    looks: list[Look] = []
    for step, batch in read_batches(bed.mixture(config, methods), config):
        if time.time() > ends_at:
            raise OutOfTime
        figures.append(
            train_step(model, optimiser, batch, config=config, step=step, processes=ProcessGroup())
        )
        if methods.metrics and (step + 1) % max(1, config.steps // LOOKS) == 0:
            looks.append(look(bed, model, methods, step + 1, looks))
    last = figures[-LAST_STEPS:]
    names = dict.fromkeys(name for row in last for name in row)
    losses = {name: fmean(row[name] for row in last if name in row) for name in names}
    return model, losses, looks


# ---------------------------------------------------------------- all of them


def run_plan(plan: Plan, log: Callable[[str], None] = print) -> list[Result]:
    """Every run that has no result yet, `jobs` at once, until the time is over; all results.

    Raises:
        BadConfig: a bed, an arm or the features' file that there is not.
    """
    plan.check()
    plan.out.mkdir(parents=True, exist_ok=True)
    for bed in plan.beds:
        bed_of(plan, bed)  # rendered once, by this process
    waiting = [job for job in plan.jobs_to_do if not (plan.out / job.file).exists()]
    if plan.jobs > 1:
        run_at_once(plan, waiting, log)
    else:
        for job in waiting:
            try:
                log(describe_result(run_job(plan, job)))
            except OutOfTime:
                log("the time is over")
                break
    return read_results(plan.out)


def run_at_once(plan: Plan, waiting: list[Job], log: Callable[[str], None]) -> None:
    """Several runs at once, a process each."""
    with ProcessPoolExecutor(plan.jobs, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(run_job, plan, job) for job in waiting]
        late = 0
        for done in as_completed(running):
            try:
                log(describe_result(done.result()))
            except OutOfTime:
                late += 1
        if late:
            log(f"the time is over: {late} runs were not finished")


def describe_result(result: Result) -> str:
    measures = result["after"][0]
    recall = ", ".join(f"{route} {m['R@10']:.3f}" for route, m in measures.items())
    composed = ", ".join(f"{kind} {result[kind]['group']:.3f}" for kind in COMPOSITIONS)
    return (
        f"{result['bed']}, {result['arm']}, seed {result['seed']}: {result['steps']} steps in "
        f"{result['seconds']:.0f} s; R@10 {recall}; {composed}"
    )


def read_results(folder: Path) -> list[Result]:
    """The results in a folder, by bed, arm and seed."""
    results = []
    for bed in BEDS:
        for arm in ARMS:
            files = folder.glob(f"{bed}-{arm.replace(' ', '-')}-[0-9]*.json")
            results += [json.loads(file.read_text(encoding="utf-8")) for file in sorted(files)]
    return results
