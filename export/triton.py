"""A bundle as a model repository of NVIDIA's Triton Inference Server: one model an encoding. No
torch.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from media.modality import MODALITY_TABLE

from .bundle import TOKENIZER, WEIGHTS, Bundle, InTheWay, parse_modality

LARGEST_BATCH = 64
PREFERRED = (8, 32)
# Triton's names of the types of inputs
TYPES: dict[type[np.generic], str] = {
    np.uint8: "TYPE_UINT8",
    np.float32: "TYPE_FP32",
    np.int64: "TYPE_INT64",
}
PRIORITIES = 2  # a request that names none has the last; 1 goes before it


def write_repository(bundle: Bundle, out: Path, instances: int = 1) -> list[str]:
    """Write a folder for each encoding, with graph and weights as version 1 and a text's tokenizer;
    returns the names.

    Raises:
        InTheWay: `out` is there already.
    """
    if out.exists():
        raise InTheWay(out.name)
    names = []
    for encoding, graph in bundle.manifest.graphs.items():
        name = f"{bundle.manifest.name}-{encoding}".replace("@", "-").replace("+", "-")
        version = out / name / "1"
        version.mkdir(parents=True)
        shutil.copy(bundle.folder / graph, version / "model.onnx")
        shutil.copy(bundle.folder / WEIGHTS, version / WEIGHTS)
        if encoding in bundle.manifest.tokenizers:
            shutil.copy(
                bundle.folder / bundle.manifest.tokenizers[encoding].file, out / name / TOKENIZER
            )
        (out / name / "config.pbtxt").write_text(
            configuration(bundle, name, encoding, instances), encoding="utf-8"
        )
        names.append(name)
    return names


def configuration(bundle: Bundle, name: str, encoding: str, instances: int) -> str:
    """The text form of Triton's ModelConfig."""
    modality = MODALITY_TABLE[parse_modality(encoding)]
    dims = ", ".join(map(str, bundle.manifest.spec(encoding).shape))
    return f"""name: "{name}"
backend: "onnxruntime"
max_batch_size: {LARGEST_BATCH}
input [ {{ name: "{modality.graph_input}" data_type: {TYPES[modality.dtype]} dims: [ {dims} ] }} ]
output [ {{ name: "vector" data_type: TYPE_FP32 dims: [ {bundle.manifest.dims[encoding]} ] }} ]
instance_group [ {{ kind: KIND_AUTO count: {instances} }} ]
dynamic_batching {{
  preferred_batch_size: [ {", ".join(map(str, PREFERRED))} ]
  max_queue_delay_microseconds: {modality.batch_wait_us}
  priority_levels: {PRIORITIES}
  default_priority_level: {PRIORITIES}
}}
parameters {{ key: "fingerprint" value: {{ string_value: "{bundle.manifest.fingerprint}" }} }}
"""
