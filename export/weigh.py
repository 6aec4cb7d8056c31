"""A bundle with a graph that says what each window's sound weighs in its joint vector."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from media.errors import BadConfig
from model.beds.gate import STEPS, GateData, cross_validate, fit_gate, format_validation
from model.network.fusion import MOST

from .bundle import Bundle, open_bundle, write_bundle
from .fusion import Fusion
from .to_onnx import FUSION, write_fusion


def add_fusion(
    bundle_folder: Path, features: Path, out: Path, *, steps: int = STEPS
) -> tuple[Bundle, list[str]]:
    """Write the bundle with a gate that is fitted on what `bench.real_bed` made with it.

    Returns the new bundle, and a report of what the gate reaches on names that were left out.

    Raises:
        BadConfig: the features are not there, or of another width; the bundle joins nothing.
    """
    bundle = open_bundle(bundle_folder)
    manifest = bundle.manifest
    data = GateData.open(features)
    dim = data.pictures.shape[1]
    joining = [name for name in manifest.spaces if manifest.joint(name)]
    if not joining or manifest.spaces[joining[0]].dim != dim:
        raise BadConfig(f"{features} has vectors of {dim}, which no space of {bundle_folder} joins")
    report = format_validation(cross_validate(data, steps=steps))
    gate = fit_gate(data, np.arange(len(data.pictures)), np.arange(len(data.sounds)), steps=steps)

    def fill(staging: Path) -> None:
        for file in manifest.files:
            if file != FUSION:
                shutil.copy(bundle.folder / file, staging / file)
        write_fusion(gate, dim, staging)

    golden = {encoding: np.array(v, np.float32) for encoding, v in manifest.golden.items()}
    plan = replace(manifest, fusions={joining[0]: Fusion(FUSION, MOST)})
    return write_bundle(out, plan, fill, lambda _: golden), report
