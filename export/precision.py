"""Derives less precise graphs of a bundle when it is opened: float16 for GPUs, int8 for CPUs. No
torch.

A bundle keeps its fp32 graphs only, so the derived ones always fit them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

PRECISIONS = ("fp32", "fp16", "int8")
# the precisions in which a provider is faster than in fp32
GAINFUL = {"cpu": ("int8",), "cuda": ("fp16",), "tensorrt": ("fp16",)}
BLOCK = 16  # adjacent numbers, in a row of activations or a column of weights, that share a scale
MICROSOFT = "com.microsoft"  # the domain of ONNX Runtime's own operations
# `accuracy_level` of MatMulNBits at which the activations are rounded to eight bits, too
INT8_ACTIVATIONS = 4


def derive_graph(graph: Path, precision: str) -> bytes:
    """A graph in fp16 or int8, serialised with its weights.

    fp16 applies to everything after the logarithm of a spectrogram; inputs and output keep their
    types. int8 applies to matrix products with a constant matrix, see `quantise_to_int8`.
    Convolutions stay in fp32, because they would be slower, and so do the products that compute a
    spectrogram.
    """
    with tempfile.TemporaryDirectory() as place:
        model = fold_constants(graph, Path(place))
    if precision == "fp16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        model = convert_float_to_float16(
            model, keep_io_types=True, node_block_list=find_logarithm_inputs(model)
        )
        drop_repeated_casts(model)
    else:
        quantise_to_int8(model)
    return bytes(model.SerializeToString())


def quantise_to_int8(model: Any) -> None:
    """Turn products with a constant matrix into int8 products, in place.

    BLOCK numbers share a scale. The runtime computes the scales of activations for each row, so a
    row's vector does not depend on the rest of its batch.
    """
    import onnx

    apart = set(find_logarithm_inputs(model))
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    made: dict[str, list[Any]] = {}
    for node in model.graph.node:
        weight = (
            stored.get(node.input[1])
            if node.op_type == "MatMul" and node.name not in apart
            else None
        )
        if weight is None or len(weight.dims) != 2 or weight.data_type != onnx.TensorProto.FLOAT:
            continue
        if weight.name not in made:
            values, scales = quantise_matrix(onnx.numpy_helper.to_array(weight))
            made[weight.name] = [
                onnx.numpy_helper.from_array(values, f"{weight.name}_int8"),
                onnx.numpy_helper.from_array(scales, f"{weight.name}_scales"),
            ]
        product = onnx.helper.make_node(
            "MatMulNBits",
            [node.input[0], *(tensor.name for tensor in made[weight.name])],
            list(node.output),
            name=node.name,
            domain=MICROSOFT,
            K=weight.dims[0],
            N=weight.dims[1],
            bits=8,
            block_size=BLOCK,
            accuracy_level=INT8_ACTIVATIONS,
        )
        node.CopyFrom(product)
    still_read = {name for node in model.graph.node for name in node.input}
    kept = [tensor for name, tensor in stored.items() if name in still_read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(
        kept + [tensor for tensors in made.values() for tensor in tensors]
    )
    if MICROSOFT not in {known.domain for known in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))


def quantise_matrix(weight: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A matrix [rows, columns] as MatMulNBits takes it: values [columns, blocks, BLOCK], where 128
    is zero, and scales [columns, blocks]. Rows that fill the last block up are zeros.

    >>> values, scales = quantise_matrix(np.array([[1.0], [-0.5], [0.0]], np.float32))
    >>> values[0, 0, :4].tolist(), round(float(scales[0, 0]), 5)
    ([255, 64, 128, 128], 0.00787)
    """
    rows, columns = weight.shape
    blocks = -(-rows // BLOCK)
    filled = np.pad(weight, ((0, blocks * BLOCK - rows), (0, 0)))
    grouped = filled.T.reshape(columns, blocks, BLOCK)
    largest = np.abs(grouped).max(axis=2)
    scales = np.where(largest > 0, largest / 127, 1.0).astype(np.float32)
    values = np.round(grouped / scales[..., None]) + 128
    return values.clip(1, 255).astype(np.uint8), scales


def fold_constants(graph: Path, place: Path) -> Any:
    """The graph with its constants worked out: weights that are stored as int8 and scales become
    matrices again.
    """
    import onnx

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(place / "folded.onnx")
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_file_name", "folded.bin"
    )
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_min_size_in_bytes", "1024"
    )
    onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    model = onnx.load(place / "folded.onnx")
    # the optimiser leaves shapes of values whose names it has used again
    del model.graph.value_info[:]
    return model


def find_logarithm_inputs(model: Any) -> list[str]:
    """The logarithms and all that leads up to them: float16 cannot tell a quiet sound's power from
    none.
    """
    made_by = {name: node for node in model.graph.node for name in node.output}
    found = set()
    todo = [node for node in model.graph.node if node.op_type == "Log"]
    while todo:
        node = todo.pop()
        if node.name not in found:
            found.add(node.name)
            todo += [made_by[name] for name in node.input if name in made_by]
    return sorted(found)


def drop_repeated_casts(model: Any) -> None:
    """The converter writes a cast for each node that asks for it, all under one name: keep the
    first.
    """
    nodes = {node.output[0]: node for node in reversed(model.graph.node)}
    kept = [node for node in model.graph.node if nodes[node.output[0]] is node]
    del model.graph.node[:]
    model.graph.node.extend(kept)
