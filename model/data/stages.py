"""Rows that arrive in stages: those of one stage at a time, with some of the stages before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from evaluation.clips import Clip, Clips, LazyClip
from media.errors import BadConfig
from media.manifest import Row

from .source import Source

REPLAYED = "replayed"  # the entry of metadata of a row of a stage before
Member = tuple[Clips, int]


@dataclass(frozen=True)
class Schedule:
    """Which rows arrive when. The last stage lasts to the end of the run."""

    by: str  # an entry of metadata
    stages: Sequence[Sequence[Any]]  # its values in each stage, in their order
    steps: int  # of a stage
    passed: int  # stages that an earlier run has learned

    def stage_at(self, step: int) -> int:
        return min(self.passed + step // self.steps, len(self.stages) - 1)

    def stage_of(self, row: Row) -> int | None:
        """The stage of a row, from 0; None of one that is in no stage."""
        value = row.metadata.get(self.by)
        return next((i for i, values in enumerate(self.stages) if value in values), None)


class Arrivals:
    """The rows of several sources, stage by stage. A share `replay` of those drawn are of stages
    before, of which `memory` rows are kept in all, as many of each.
    """

    def __init__(
        self, sources: Sequence[Source], *, schedule: Schedule, replay: float, memory: int
    ) -> None:
        self.schedule = schedule
        self.replay = replay
        self.stages: list[list[Member]] = [[] for _ in schedule.stages]
        for source in sources:
            if isinstance(source, Clips):
                for i, row in enumerate(source.rows):
                    stage = schedule.stage_of(row)
                    if stage is not None:
                        self.stages[stage].append((source, i))
        for values, members in zip(schedule.stages, self.stages, strict=True):
            if not members:
                named = ", ".join(map(str, values))
                raise BadConfig(f"no row arrives in a stage: none has {schedule.by} of {named}")
        self.kept = [self.keep(stage, memory) for stage in range(len(self.stages))]

    def keep(self, stage: int, memory: int) -> list[Member]:
        """What is kept of the stages before this one."""
        random = np.random.default_rng([0, stage])
        kept = []
        for members in self.stages[:stage]:
            count = min(len(members), max(1, memory // stage))
            kept += [members[i] for i in random.choice(len(members), count, replace=False)]
        return kept

    @property
    def rows(self) -> list[Row]:
        return [source.rows[i] for members in self.stages for source, i in members]

    def __len__(self) -> int:
        return sum(map(len, self.stages))

    def draw(self, step: int, count: int, seed: tuple[int, ...]) -> list[LazyClip]:
        """New rows, and behind them those of before, whose metadata says so."""
        stage = self.schedule.stage_at(step)
        replayed = round(count * self.replay) if stage else 0
        drawn = []
        for source, i in take_turns(self.stages[stage], step, count - replayed, (*seed, stage, 0)):
            drawn.append(LazyClip(source.rows[i], partial(source.clip, i)))
        for source, i in take_turns(self.kept[stage], step, replayed, (*seed, stage, 1)):
            row = source.rows[i]
            row = replace(row, metadata=row.metadata | {REPLAYED: True})
            drawn.append(LazyClip(row, partial(open_as, source, i, row)))
        return drawn


def open_as(source: Clips, i: int, row: Row) -> Clip:
    return replace(source.clip(i), row=row)


def take_turns(members: list[Member], step: int, count: int, seed: tuple[int, ...]) -> list[Member]:
    """The `count` members of a step. All take their turn each epoch, in another order."""
    if not count:
        return []
    places = np.arange(step * count, (step + 1) * count)
    taken = []
    for epoch in np.unique(places // len(members)):
        order = np.random.default_rng([*seed, int(epoch)]).permutation(len(members))
        in_epoch = places[places // len(members) == epoch] % len(members)
        taken += [members[int(i)] for i in order[in_epoch]]
    return taken
