#!/usr/bin/env bash
# ONNX Runtime 1.26.0 on an x86-64 CPU: MatMulInteger of int8 by a constant int8 matrix takes several times as long as MatMul
# of the same numbers as float32. The same product with the left side as uint8 and a zero point of 128 gives the same
# integers in less time than the floats. Seen with 8 rows by 384 x 10,210, one thread, AMD Zen 4 with AVX-512 VNNI:
# float32 1.3 ms, uint8 0.4 ms, int8 7.0 ms. By its list of operators, the CUDA provider has int8 by int8
# only (not run here).
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.26.0 onnx==1.23.2 numpy==2.4.6
"$place/venv/bin/python" - <<'PY'
import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

ROWS, INNER, COLUMNS = 8, 384, 10_210
random = np.random.default_rng(0)
left = random.integers(-127, 128, (ROWS, INNER)).astype(np.int8)
right = random.integers(-127, 128, (INNER, COLUMNS)).astype(np.int8)


def product(kind, result, operator, matrix, *more):
    inputs = [helper.make_tensor_value_info("x", kind, [ROWS, INNER])]
    outputs = [helper.make_tensor_value_info("y", result, [ROWS, COLUMNS])]
    constants = [numpy_helper.from_array(array, f"c{i}") for i, array in enumerate((matrix, *more))]
    node = helper.make_node(operator, ["x", *(tensor.name for tensor in constants)], ["y"])
    graph = helper.make_graph([node], "product", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


sides = {
    "float32": (product(TensorProto.FLOAT, TensorProto.FLOAT, "MatMul", right.astype(np.float32)), left.astype(np.float32)),
    "int8": (product(TensorProto.INT8, TensorProto.INT32, "MatMulInteger", right), left),
    "uint8": (
        product(TensorProto.UINT8, TensorProto.INT32, "MatMulInteger", right, np.uint8(128)),
        (left.astype(np.int16) + 128).astype(np.uint8),
    ),
}
times = {name: [] for name in sides}
for _ in range(40):
    for name, (session, x) in sides.items():
        began = time.perf_counter()
        session.run(None, {"x": x})
        times[name].append(1000 * (time.perf_counter() - began))
results = {name: session.run(None, {"x": x})[0] for name, (session, x) in sides.items()}
expected = left.astype(np.int32) @ right.astype(np.int32)
ms = {name: float(np.median(each)) for name, each in times.items()}
print(f"ONNX Runtime {onnxruntime.__version__}:", ", ".join(f"{name} {each:.2f} ms" for name, each in ms.items()))
assert all((results[name] == expected).all() for name in sides)  # below 2^24, so exact as floats, too
assert ms["int8"] > 2.5 * ms["float32"], ms
assert ms["int8"] > 4 * ms["uint8"], ms
PY
