"""Checkpoints: a folder that is complete or absent.

It holds weights.pt, optimiser.pt, tokenizer.json, and checkpoint.json with the step, the effective
config, the provenance and the best step so far.
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
from ..renames import translate_weights
from .tables import make_network


def save(
    folder: Path,
    model: VLSA,
    optimiser: torch.optim.Optimizer,
    state: dict[str, Any],
    tokenizer: Path,
) -> None:
    """Write to the side and rename, so that a kill leaves the old checkpoint or the new one.

    `state` is what checkpoint.json holds.
    """
    staging = folder.with_suffix(".part")
    old = folder.with_suffix(".old")
    for leftover in (staging, old):
        shutil.rmtree(leftover, ignore_errors=True)
    staging.mkdir(parents=True)
    torch.save(model.state_dict(), staging / "weights.pt")
    torch.save(optimiser.state_dict(), staging / "optimiser.pt")
    shutil.copy(tokenizer, staging / "tokenizer.json")
    (staging / "checkpoint.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    if folder.exists():
        folder.rename(old)
    staging.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def find_complete(folder: Path) -> Path | None:
    """The checkpoint at `folder`, or the one that a kill between two renames left beside it."""
    for candidate in (folder, folder.with_suffix(".part"), folder.with_suffix(".old")):
        if (candidate / "checkpoint.json").exists():
            return candidate
    return None


def find_checkpoint(run: Path) -> Path:
    """The checkpoint of a run, given the run's folder or the checkpoint's own.

    Raises:
        BadConfig: no checkpoint there.
    """
    folder = find_complete(run / "checkpoint") or find_complete(run)
    if folder is None:
        raise BadConfig(f"no checkpoint in {run}")
    return folder


def read_state(run: Path) -> dict[str, Any]:
    """What checkpoint.json holds, of a run's folder or the checkpoint in it.

    Raises:
        BadConfig: no checkpoint there.
    """
    file = find_checkpoint(run) / "checkpoint.json"
    state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return state


def load(run: Path) -> tuple[VLSA, TrainConfig, dict[str, Any]]:
    """The model (in eval mode), its config and the checkpoint's state with its "folder".

    `run` is a run's folder or the checkpoint in it.

    Raises:
        BadConfig: no checkpoint there, or one whose settings are not known.
    """
    folder = find_checkpoint(run)
    state = read_state(folder)
    config = TrainConfig.from_json(state["config"])
    model = make_network(config)
    weights = torch.load(folder / "weights.pt", weights_only=True, map_location="cpu")
    model.load_state_dict(translate_weights(weights))
    return model.eval(), config, state | {"folder": folder}
