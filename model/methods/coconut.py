"""Rows that arrive in stages, some of which are replayed: COCONUT (arXiv 2310.02699).

Stages are lists of values of one entry of metadata, such as kinds of things. The steps of a stage
see its rows alone, and with them a few of the stages before: `memory` rows are kept, as many of
each stage. The encoder as it was when the stage began, the teacher, holds them where they were.
With vectors a of the batch, a' of the teacher, and P the replayed rows of i's group:

    L = - mean over replayed i of mean over p in P of
        log (e^{s a_i.a'_p} / (e^{s a_i.a'_p} + sum over j of other groups of e^{s a_i.a_j}))

for pictures and for sound. So what is right comes from the teacher, what is wrong from the encoder
that learns, as in COCONUT. The formula is that of its summaries, and was not compared with the
text. COCONUT's other term, contrast of sound and text, is the core's.

A run that starts from another one (`start_from`) has `passed` stages behind it: their rows are
replayed from the first step on. The metric has R@10 of words by stage, and what is forgotten
(Chaudhry et al., 1801.10112): the best R@10 of an earlier stage at any checkpoint less that of
now, the mean over the earlier stages.

n rows, E embedding.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.retrieval import Route, ranking_metrics
from media.errors import BadConfig
from media.manifest import Row
from media.modality import AUDIO, TEXT, VIDEO

from ..data.stages import REPLAYED, Arrivals, Schedule
from ..settings import Count, CountOrZero, NotNegative, ShareBelowOne
from ..training.losses import TermInputs
from ..training.tables import (
    Encoded,
    Evaluation,
    ExtraSource,
    LossTerm,
    Mark,
    Metric,
    Reading,
    Rows,
    TermPart,
)

PART = "before"
NEVER = -1e9  # a logit


@dataclass(frozen=True, kw_only=True)
class Settings:
    by: str  # the entry of metadata
    stages: tuple[tuple[Any, ...], ...]  # its values in each stage, in their order
    stage_steps: Count  # the last stage lasts to the end
    passed: CountOrZero = 0  # stages that the run before has learned
    replay: ShareBelowOne = 0.25  # share of each batch; 0: nothing is replayed, nor held
    memory: Count = 100  # rows kept of all stages before
    weight: NotNegative = 1.0


def copy_network(network: Any) -> nn.Module:
    """The network as it is, without its parts, to be changed by no gradient."""
    teacher: Any = deepcopy(network)
    teacher.parts = nn.ModuleDict()
    return teacher.requires_grad_(False)  # type: ignore[no-any-return]


def renew_teacher(network: Any, step: int, *, schedule: Schedule) -> None:
    """Where a stage begins, the teacher becomes what the network is."""
    if step and schedule.stage_at(step) != schedule.stage_at(step - 1):
        weights = network.state_dict()
        own = {name: x for name, x in weights.items() if not name.startswith("parts.")}
        network.parts[PART].load_state_dict(own)


def read_teacher(network: Any, rows: Encoded, *, modality: str) -> Tensor:
    """The teacher's vectors of the replayed rows [n, E]; the others are zeros."""
    before = torch.zeros_like(rows.vectors, requires_grad=False)
    replayed = rows.has[REPLAYED].nonzero().squeeze(1)
    if len(replayed):
        with torch.no_grad():
            before[replayed] = network.parts[PART].embed(modality, rows.inputs[replayed]).float()
    return before


def hold(
    a: Tensor, before: Tensor, replayed: Tensor, group_ids: Tensor, scale: Tensor | float
) -> Tensor:
    """Of unit vectors [n, E], those of the teacher [n, E], of which bool [n] are replayed, and
    groups int64 [n]; a scalar.
    """
    same = group_ids[replayed][:, None] == group_ids[None]  # [r, n]
    right = scale * a[replayed] @ before[replayed].T  # [r, r]
    wrong = (scale * a[replayed] @ a.T).masked_fill(same, NEVER).logsumexp(1, keepdim=True)
    costs = torch.logaddexp(right, wrong) - right
    positives = same[:, replayed].to(costs.dtype)
    return ((costs * positives).sum(1) / positives.sum(1)).mean()


def hold_term(inputs: TermInputs, modality: str, before: str) -> Tensor | None:
    there = inputs.has[modality]
    replayed = inputs.has[REPLAYED][there]
    if not replayed.any():
        return None
    vectors = inputs.vectors[modality][there]
    held = inputs.vectors[before][there]
    return hold(vectors, held, replayed, inputs.group_ids[there], inputs.model.scale)


def measure_stages(found: Evaluation, *, schedule: Schedule) -> dict[str, float]:
    """R@10 of words by stage, the mean over the routes from text to media, and what was forgotten
    of the stages before this one.
    """
    recalls: dict[str, list[float]] = {}
    for route in found.routes:
        if route.name in (f"{TEXT}-{VIDEO}", f"{TEXT}-{AUDIO}"):
            for stage, queries in queries_by_stage(route, schedule).items():
                measures = ranking_metrics(route.scores[queries], route.relevant[queries])
                recalls.setdefault(f"stage {stage + 1} R@10", []).append(measures["R@10"])
    figures = {name: float(np.mean(values)) for name, values in sorted(recalls.items())}
    earlier = [f"stage {stage + 1} R@10" for stage in range(schedule.stage_at(found.step - 1))]
    lost = []
    for name in earlier:
        if name in figures and found.before:
            best_before = max(known[name] for known in found.before)
            lost.append(max(0.0, best_before - figures[name]))
    return figures | ({"forgotten": float(np.mean(lost))} if lost else {})


def queries_by_stage(route: Route, schedule: Schedule) -> dict[int, list[int]]:
    """The places of a route's queries, by the stage of the first right answer."""
    places: dict[int, list[int]] = {}
    for query, relevant in enumerate(route.relevant):
        answer = route.gallery[int(relevant.argmax())]
        stage = schedule.stage_of(answer) if relevant.any() and isinstance(answer, Row) else None
        if stage is not None:
            places.setdefault(stage, []).append(query)
    return places


def rows(settings: Settings) -> Rows:
    if settings.passed >= len(settings.stages):
        raise BadConfig("coconut: fewer stages are passed than there are")
    schedule = Schedule(settings.by, settings.stages, settings.stage_steps, settings.passed)
    make = partial(Arrivals, schedule=schedule, replay=settings.replay, memory=settings.memory)
    source = ExtraSource(name="arrivals", share=1.0, make=make, replaces=True)
    metric = Metric(name="stages", measure=partial(measure_stages, schedule=schedule))
    if not settings.replay:
        return Rows(sources=(source,), metrics=(metric,))
    readings = tuple(
        Reading(
            name=f"{modality}_before",
            of=modality,
            width=lambda encoder: encoder.dim,
            read=partial(read_teacher, modality=modality),
        )
        for modality in (VIDEO, AUDIO)
    )
    terms = tuple(
        LossTerm(
            name=f"{reading.of}_held",
            needs=(reading.of, reading.name),
            weight=settings.weight,
            loss=hold_term,
        )
        for reading in readings
    )
    renew = partial(renew_teacher, schedule=schedule)
    part = TermPart(name=PART, make=copy_network, before_step=renew)
    mark = Mark(name=REPLAYED, holds=lambda row: bool(row.metadata.get(REPLAYED)))
    return Rows(
        terms=terms,
        readings=readings,
        sources=(source,),
        metrics=(metric,),
        parts=(part,),
        marks=(mark,),
    )
