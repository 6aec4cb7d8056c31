"""A bundle as a model repository of NVIDIA's Triton Inference Server: one model an encoding. No
torch.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from .bundle import TOKENIZER, WEIGHTS, Bundle, InTheWay, modality_of
from .encoder import INPUT

LARGEST_BATCH = 64
PREFERRED = (8, 32)
WAIT_US = {"text": 500, "audio": 4000, "video": 4000}  # how long a batch may wait to fill up
TYPES = {"video": "TYPE_UINT8", "audio": "TYPE_FP32", "text": "TYPE_INT64"}
# priorities: a request asks for the first by name, and has the second if it says nothing
URGENT, BULK = 1, 2


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
    modality = modality_of(encoding)
    dims = ", ".join(map(str, shape(bundle, encoding)))
    return f"""name: "{name}"
backend: "onnxruntime"
max_batch_size: {LARGEST_BATCH}
input [ {{ name: "{INPUT[modality]}" data_type: {TYPES[modality]} dims: [ {dims} ] }} ]
output [ {{ name: "vector" data_type: TYPE_FP32 dims: [ {bundle.manifest.dims[encoding]} ] }} ]
instance_group [ {{ kind: KIND_AUTO count: {instances} }} ]
dynamic_batching {{
  preferred_batch_size: [ {", ".join(map(str, PREFERRED))} ]
  max_queue_delay_microseconds: {WAIT_US[modality]}
  priority_levels: {BULK}
  default_priority_level: {BULK}
}}
parameters {{ key: "fingerprint" value: {{ string_value: "{bundle.manifest.fingerprint}" }} }}
"""


def shape(bundle: Bundle, encoding: str) -> tuple[int, ...]:
    """Of one input, without the batch; -1 is any length."""
    inputs, modality = bundle.manifest.inputs, modality_of(encoding)
    if modality == "text":
        spec = bundle.manifest.tokenizers[encoding].spec
        return (spec.tokens if spec.whole else -1,)
    if modality == "video":
        assert inputs.video
        return inputs.video.shape
    assert inputs.audio
    return (inputs.audio.samples,)
