"""What routes work with; made and ended by the application's lifespan."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from export.encoder import Encoder
from index.data import Collections

from .batching import Batcher
from .metrics import Metrics
from .pipeline import Pipeline
from .settings import Settings

FREE_DISK_MB = 64


@dataclass
class State:
    settings: Settings
    encoder: Encoder
    collections: Collections
    batcher: Batcher
    pipeline: Pipeline
    metrics: Metrics
    uploads: Path

    def problems(self) -> list[str]:
        """Why the service is not ready; empty when it is."""
        found = []
        if self.batcher.stuck_s > self.settings.stall_s:
            found.append("the encoder has not moved for a while")
        if shutil.disk_usage(self.settings.data).free < FREE_DISK_MB * 1_000_000:
            found.append("the disk is full")
        return found + [str(conflict) for conflict in self.collections.conflicts.values()]


def state(request: Request) -> State:
    found: State = request.app.state.tercet
    return found


Tercet = Annotated[State, Depends(state)]
