#!/usr/bin/env bash
# ONNX Runtime 1.26.0, CPU: a model in which two MatMulInteger nodes share one int8 weight and its zero point opens by
# default, and does not open with the session option session.x64quantprecision=1, which its documentation recommends where
# int8 sums overflow, if the weight has values beyond 64. Seen: "Attempt to replace the existing tensor". With a weight and
# a zero point for each node it opens in both ways.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.26.0 onnx==1.23.2 numpy==2.4.6
"$place/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

def model(names):
    weight = np.full((4, 4), 127, np.int8)
    weights = [numpy_helper.from_array(weight, name) for name in sorted(set(names))]
    zeros = [numpy_helper.from_array(np.int8(0), f"{name}_zero") for name in sorted(set(names))]
    zeros.append(numpy_helper.from_array(np.uint8(0), "x_zero"))
    nodes = [
        helper.make_node("MatMulInteger", ["x", name, "x_zero", f"{name}_zero"], [f"y{i}"]) for i, name in enumerate(names)
    ]
    outputs = [helper.make_tensor_value_info(f"y{i}", TensorProto.INT32, [1, 4]) for i in range(2)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 4])]
    graph = helper.make_graph(nodes, "two products", inputs, outputs, weights + zeros)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(made)
    return made.SerializeToString()

def opens(raw, precise):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if precise:
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        return str(error).rsplit(": ", 1)[-1].strip()
    return "opens"

seen = {(kind, precise): opens(model(names), precise)
        for kind, names in (("shared", ["w", "w"]), ("apart", ["w0", "w1"])) for precise in (False, True)}
for key, value in seen.items():
    print(*key, "->", value)
assert seen["shared", False] == seen["apart", False] == seen["apart", True] == "opens", seen
assert "replace the existing tensor" in seen["shared", True], seen
PY
