"""Checkpoints: a folder with weights, optimiser, effective config, provenance and tokenizer;
complete or absent.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from media.errors import BadConfig

from ..config import TrainConfig
from ..network.transformer import VLSA


def save(
    folder: Path,
    model: VLSA,
    optimiser: torch.optim.Optimizer,
    state: dict[str, Any],
    tokenizer: Path,
) -> None:
    """Write aside and rename, so that a kill leaves the old checkpoint or the new one.

    `state` holds the step, the config and the provenance: what was trained, on what, under which
    licences.
    """
    half, old = folder.with_suffix(".part"), folder.with_suffix(".old")
    for leftover in (half, old):
        shutil.rmtree(leftover, ignore_errors=True)
    half.mkdir(parents=True)
    torch.save(model.state_dict(), half / "weights.pt")
    torch.save(optimiser.state_dict(), half / "optimiser.pt")
    shutil.copy(tokenizer, half / "tokenizer.json")
    (half / "checkpoint.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    if folder.exists():
        folder.rename(old)
    half.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def found(folder: Path) -> Path | None:
    """The checkpoint at `folder`, or the one that a kill between two renames left beside it."""
    for candidate in (folder, folder.with_suffix(".part"), folder.with_suffix(".old")):
        if (candidate / "checkpoint.json").exists():
            return candidate
    return None


def folder_of(run: Path) -> Path:
    """The checkpoint of a run, given the run's folder or the checkpoint's own.

    Raises:
        BadConfig: no checkpoint there.
    """
    at = found(run / "checkpoint") or found(run)
    if at is None:
        raise BadConfig(f"no checkpoint in {run}")
    return at


def state_of(run: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(
        (folder_of(run) / "checkpoint.json").read_text(encoding="utf-8")
    )
    return state


def load(run: Path) -> tuple[VLSA, TrainConfig, dict[str, Any]]:
    """The model (in eval mode), its config and the checkpoint's state, from a run's folder or the
    checkpoint in it.

    Raises:
        BadConfig: no checkpoint there.
    """
    at, state = folder_of(run), state_of(run)
    config = TrainConfig.from_json(state["config"])
    model = VLSA(config.encoder)
    model.load_state_dict(torch.load(at / "weights.pt", weights_only=True, map_location="cpu"))
    return model.eval(), config, state | {"folder": at}
