"""A bundle's graphs in less precise numbers, derived when it is opened: float16 for GPUs, int8 for CPUs. No torch.

Only the fp32 graphs are kept: what is derived from them by rule needs no room, and cannot fall out of step.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnxruntime

PRECISIONS = ("fp32", "fp16", "int8")
# Products of eight bits and eight overflow the 16-bit sums of AVX2; ONNX Runtime then makes the weights unsigned.
NO_OVERFLOW = ("session.x64quantprecision", "1")


def derived(graph: Path, precision: str) -> bytes:
    """The graph in fp16 or int8, whole in one piece.

    float16: everything from the logarithm of a spectrogram on; inputs and the vector stay as they are. int8: weights of
    matrix products by column, activations as they come (dynamic); convolutions stay, they would be slower, and so do
    the products that begin an MLP and those of a spectrogram.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with tempfile.TemporaryDirectory() as place:
        model = folded(graph, Path(place))
        if precision == "fp16":
            model = convert_float_to_float16(model, keep_io_types=True, node_block_list=before_logarithms(model))
            drop_repeated_casts(model)
            return bytes(model.SerializeToString())
        out = Path(place) / "int8.onnx"
        quantize_dynamic(
            model,
            out,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=[*widening(model), *before_logarithms(model)],
        )
        onnx.checker.check_model(str(out))
        return out.read_bytes()


def widening(model: Any) -> list[str]:
    """The products that begin an MLP, four times as wide as what they read: a sum of residuals, whose few large numbers
    leave eight bits for a tensor too coarse for the others.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    weights = [(n.name, shapes.get(n.input[1], ())) for n in model.graph.node if n.op_type == "MatMul"]
    return [name for name, shape in weights if len(shape) == 2 and shape[1] == 4 * shape[0]]


def folded(graph: Path, place: Path) -> Any:
    """The graph with its constants worked out: weights that are stored as int8 and scales become matrices again."""
    import onnx

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(place / "folded.onnx")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "folded.bin")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    model = onnx.load(place / "folded.onnx")
    del model.graph.value_info[:]  # the optimiser leaves shapes of values whose names it has used again
    return model


def before_logarithms(model: Any) -> list[str]:
    """The logarithms and all that leads up to them: float16 cannot tell a quiet sound's power from none."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    found, todo = set(), [node for node in model.graph.node if node.op_type == "Log"]
    while todo:
        node = todo.pop()
        if node.name not in found:
            found.add(node.name)
            todo += [made_by[name] for name in node.input if name in made_by]
    return sorted(found)


def drop_repeated_casts(model: Any) -> None:
    """The converter writes a cast for each node that asks for it, all under one name: keep the first."""
    nodes = {node.output[0]: node for node in reversed(model.graph.node)}
    kept = [node for node in model.graph.node if nodes[node.output[0]] is node]
    del model.graph.node[:]
    model.graph.node.extend(kept)
