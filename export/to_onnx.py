"""A checkpoint to a bundle: one graph a modality, their weights once in one file."""

from __future__ import annotations

import hashlib
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxscript import optimizer
from torch import Tensor, nn

from media.modality import MODALITIES, MODALITY_TABLE, TEXT, Spec
from model.config import TrainConfig
from model.network.transformer import VLSA
from model.training import checkpoint
from model.training.tables import rows_of, sound_weight

from .bundle import (
    GOLDEN_ITEMS,
    TOKENIZER,
    WEIGHTS,
    Bundle,
    Space,
    Tokenizer,
    draft_manifest,
    parse_modality,
    write_bundle,
)
from .encoder import OnnxEncoder
from .fusion import AUDIO_INPUT, OUTPUT, VIDEO_INPUT, Fusion

OPSET = 20
# elements: constants made of more stay formulas, or the DFT would become a megabyte again
FOLDED = 128
SPACE = "vlsa"
FUSION = "fusion.onnx"
SMALL_BYTES = 1024  # initialisers below this stay in the graph
ALIGN = 64


class Weights(nn.Module):
    """What sound weighs in joint vectors, as a graph gives it."""

    def __init__(self, fusion: nn.Module) -> None:
        super().__init__()
        self.fusion = fusion

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        weights: Tensor = self.fusion(video, audio)
        return weights


class Tower(nn.Module):
    """One modality of the encoder, as a graph sees it."""

    def __init__(self, model: VLSA, modality: str) -> None:
        super().__init__()
        self.model = model
        self.modality = modality

    def forward(self, x: Tensor) -> Tensor:
        return self.model.embed(self.modality, x)


def trace_graph(tower: nn.Module, encoding: str, spec: Spec) -> onnx.ModelProto:
    """The graph of one encoding. The size of the batch is free, and the length of inputs where the
    spec's shape has a -1.
    """
    example = torch.from_numpy(spec.golden_input(GOLDEN_ITEMS))
    free: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=65_536)}
    for axis, size in enumerate(spec.shape, 1):
        if size == -1:
            free[axis] = torch.export.Dim("length", min=2, max=spec.tokens)
    with warnings.catch_warnings(), torch.no_grad():
        # the exporter's own deprecations, nothing a caller can act on
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            tower.eval(),
            (example,),
            input_names=[MODALITY_TABLE[parse_modality(encoding)].graph_input],
            output_names=["vector"],
            dynamic_shapes=(free,),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            optimize=False,
        )
        assert program is not None
        optimizer.optimize(program.model, input_size_limit=FOLDED)
    return program.model_proto


def trace_fusion(fusion: nn.Module, dim: int) -> onnx.ModelProto:
    """The graph of a network that weighs sound; see `Fusion`."""
    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    given = torch.nn.functional.normalize(torch.ones(GOLDEN_ITEMS, dim), dim=1)
    with warnings.catch_warnings(), torch.no_grad():
        # the exporter's own deprecations, nothing a caller can act on
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            Weights(fusion).eval(),
            (given, given.clone()),
            input_names=[VIDEO_INPUT, AUDIO_INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: batch}, {0: batch}),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
    return program.model_proto


def write_fusion(fusion: nn.Module, dim: int, folder: Path) -> None:
    """Write the graph of a network that weighs sound, with its weights inside."""
    proto = trace_fusion(fusion.cpu(), dim)
    del proto.metadata_props[:]
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    (folder / FUSION).write_bytes(proto.SerializeToString(deterministic=True))


def write_graphs(protos: dict[str, onnx.ModelProto], folder: Path) -> None:
    """The graphs as `<encoding>.onnx`, every larger initialiser in one file, equal ones stored
    once.
    """
    places: dict[str, tuple[int, int]] = {}
    with (folder / WEIGHTS).open("wb") as weights:
        for encoding, proto in protos.items():
            for tensor in proto.graph.initializer:
                raw = onnx.numpy_helper.to_array(tensor).tobytes()
                if len(raw) < SMALL_BYTES:
                    continue
                key = hashlib.sha256(raw).hexdigest()
                if key not in places:
                    weights.write(b"\0" * (-weights.tell() % ALIGN))
                    places[key] = (weights.tell(), len(raw))
                    weights.write(raw)
                set_external(tensor, *places[key])
            del proto.metadata_props[:]
            del proto.graph.value_info[:]  # shapes that a runtime works out anyway
            # the exporter's notes name files of the machine it ran on
            for node in proto.graph.node:
                del node.metadata_props[:]
                node.doc_string = ""
            (folder / f"{encoding}.onnx").write_bytes(proto.SerializeToString(deterministic=True))


def set_external(tensor: onnx.TensorProto, offset: int, length: int) -> None:
    dims = list(tensor.dims)
    kind = tensor.data_type
    name = tensor.name
    tensor.Clear()
    tensor.name = name
    tensor.data_type = kind
    tensor.dims.extend(dims)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


def describe_recipe(config: TrainConfig) -> dict[str, Any]:
    """The recipe, with manifests by name: a bundle travels, the paths of the machine it was made on
    do not.
    """
    names = [
        name if name.startswith("world:") else Path(name).name
        for name in (*config.manifests, config.validation)
    ]
    before = {
        "start_from": Path(config.start_from).name,
        "trunk_from": Path(config.trunk_from).name,
    }
    return config.to_json() | {"manifests": names[:-1], "validation": names[-1]} | before


def compute_golden_vectors(bundle: Bundle) -> dict[str, NDArray[np.float32]]:
    """What every graph of a bundle in the making gives for its golden input."""
    encoder = OnnxEncoder(bundle)
    return {e: encoder.embed(e, bundle.manifest.golden_input(e)) for e in bundle.manifest.graphs}


def export_checkpoint(folder: Path, out: Path, name: str | None = None) -> Bundle:
    """Write the bundle of a checkpoint (a run's folder or the checkpoint in it).

    Raises:
        BadConfig: no checkpoint there.
    """
    model, config, state = checkpoint.load(folder)
    model.parts.clear()  # they are for training alone
    inputs = config.encoder.inputs
    specs = inputs.recorded() | {TEXT: config.encoder.text}

    def fill(staging: Path) -> None:
        write_graphs({m: trace_graph(Tower(model, m), m, specs[m]) for m in MODALITIES}, staging)
        shutil.copy(state["folder"] / TOKENIZER, staging / TOKENIZER)
        if model.fusion is not None:
            write_fusion(model.fusion, config.encoder.dim, staging)

    fusions = {}
    if model.fusion is not None:
        fusions[SPACE] = Fusion(FUSION, rows_of(config).fusions[0].most)
    weight = sound_weight(config)
    plan = draft_manifest(
        name or out.name,
        inputs,
        {SPACE: Space(config.encoder.dim, {m: m for m in MODALITIES})},
        {TEXT: Tokenizer(TOKENIZER, config.encoder.text)},
        state["provenance"] | {"trained_steps": state["step"], "config": describe_recipe(config)},
        audio_weights={} if weight is None else {SPACE: weight},
        fusions=fusions,
    )
    return write_bundle(out, plan, fill, compute_golden_vectors)
