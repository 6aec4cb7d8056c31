"""Batch building on Ray Data: actors on the cluster decode and encode, this process writes.

Every node needs the files and the bundle under the same paths, since an actor may run on any of
them. A build that was stopped goes on where it was, as the local one does.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from export.encoder import OnnxEncoder
from media.containers import Budget
from media.errors import BadMedia
from media.readers import WordReaders
from media.sandbox import Decoders

from ..collection import Collection, CollectionError
from ..records.item import NewItem
from .build import copy_items, note_failure
from .decoding import decode_sources, decode_with_digests
from .encoding import WINDOWS, encode_items
from .plan import BuildOptions, BuildPlan, Report, plan_build, settle_doubtful
from .source import Source

FILES = 8  # in one task
MAX_ACTOR_DEATHS = 3  # of actors that start, one after the other, before the build fails


class NoRay(CollectionError):
    def __init__(self) -> None:
        super().__init__("the engine ray needs the package ray (extra 'ray')")


class Encode:
    """An actor: takes sources, and gives for each an item with its vectors, or what is wrong."""

    def __init__(
        self,
        bundle: Path,
        budget: Budget,
        memory_mb: int,
        max_s: float,
        overlap: float,
        readers: WordReaders,
        frames: str,
    ) -> None:
        self.encoder = OnnxEncoder.open(bundle, threads=1, frames=frames)
        self.decoders = Decoders(1, memory_mb, max_s)
        self.budget = budget
        self.overlap = overlap
        self.readers = readers

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """{"source": pickled (source, stamp)} -> {"outcome": pickled (source, stamp, item or
        fault)}.
        """
        todo: list[tuple[Source, str]] = [pickle.loads(row) for row in batch["source"]]
        outcomes: list[tuple[Source, str, NewItem | BadMedia]] = []
        with tempfile.TemporaryDirectory() as folder:
            ready = []
            decode = partial(
                decode_sources,
                encoder=self.encoder,
                decoders=self.decoders,
                budget=self.budget,
                folder=Path(folder),
                overlap=self.overlap,
                readers=self.readers,
            )
            for source, stamp, outcome in decode_with_digests(todo, decode):
                if isinstance(outcome, BadMedia):
                    outcomes.append((source, stamp, outcome))
                else:
                    ready.append((source, stamp, outcome))
        items = encode_items(self.encoder, ready) if ready else []
        outcomes += [
            (source, stamp, item) for (source, stamp, _), item in zip(ready, items, strict=True)
        ]
        return {"outcome": np.array([pickle.dumps(outcome) for outcome in outcomes], dtype=object)}


def build(
    bundle: Path,
    collection: Collection,
    paths: Iterable[Path],
    *,
    budget: Budget,
    memory_mb: int,
    max_s: float,
    workers: int,
    options: BuildOptions = BuildOptions(),
    frames: str = "",
) -> Iterator[tuple[int, int, Report]]:
    """See `build.build`, and `open_bundle` for `frames`. Uses the Ray cluster that is running, or
    starts one for this build.
    """
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise NoRay from error
    plan = plan_build(collection, paths, options)
    total = plan.total
    report = plan.report
    for _ in settle_doubtful(collection, plan):
        yield plan.done, total, report
    done = plan.done
    workers_of = Workers(
        bundle, budget, memory_mb, max_s, options.overlap, options.readers, workers, frames
    )
    for step in embed(collection, plan, workers_of):
        yield done + step, total, report
    done = total - len(plan.copies)
    for copied in copy_items(collection, plan):
        done += copied
        yield done, total, report
    for step in embed(collection, plan, workers_of):
        yield done + step, total, report
    yield total, total, report


@dataclass(frozen=True)
class Workers:
    """What actors are made of, and how many there are."""

    bundle: Path
    budget: Budget
    memory_mb: int
    max_s: float
    overlap: float
    readers: WordReaders
    count: int
    frames: str


def embed(collection: Collection, plan: BuildPlan, workers: Workers) -> Iterator[int]:
    """Have actors decode and encode what the plan has to do, and write it; yields how many are
    done.
    """
    import ray

    if not plan.todo:
        return
    done = 0
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    # Ray's default of 0 ends the build at the first actor that dies before it is ready, as it
    # does where its node goes while the encoder is still being opened. One that can never start
    # still ends the build, after so many attempts.
    context.max_consecutive_actor_init_deaths = MAX_ACTOR_DEATHS
    # As many blocks as tasks: otherwise a stage that splits blocks would wait for a processor
    # that the actors hold.
    rows = [{"source": pickle.dumps(pair)} for pair in plan.todo]
    count = workers.count
    made = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // FILES)).map_batches(
        Encode,
        fn_constructor_args=(
            workers.bundle.resolve(),
            workers.budget,
            workers.memory_mb,
            workers.max_s,
            workers.overlap,
            workers.readers,
            workers.frames,
        ),
        batch_size=FILES,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=count, initial_size=count),
    )
    for batch in made.iter_batches(batch_size=WINDOWS):
        outcomes = [pickle.loads(row) for row in batch["outcome"]]
        items = [outcome for _, _, outcome in outcomes if isinstance(outcome, NewItem)]
        collection.put(items)
        plan.report.count_written(items, plan.catalog.ids)
        for source, stamp, outcome in outcomes:
            if isinstance(outcome, BadMedia):
                note_failure(collection, plan.report, source, stamp, outcome)
        done += len(outcomes)
        yield done
