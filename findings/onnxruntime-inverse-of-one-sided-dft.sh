#!/usr/bin/env bash
# ONNX Runtime 1.26.0, CPU: the operator DFT with inverse=1 and onesided=1 is to give the whole real signal (IRFFT), by ONNX's
# documentation and its reference. ONNX Runtime gives half as many complex numbers, with no error: the one-sided transform
# is made of the one-sided spectrum. A warning names the shapes if the model says that of its output. Seen: (1, 3, 2)
# where (1, 8, 1) is due. Added since (onnxruntime pull request 27028). Until then, add the conjugate half in the graph.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.26.0 onnx==1.23.2 numpy==2.4.6
"$place/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

signal = np.random.default_rng(0).normal(size=8).astype(np.float32)
half = np.fft.rfft(signal)
spectrum = np.stack([half.real, half.imag], axis=1)[None].astype(np.float32)
node = helper.make_node("DFT", ["spectrum"], ["signal"], axis=1, inverse=1, onesided=1)
inputs = [helper.make_tensor_value_info("spectrum", TensorProto.FLOAT, [1, 5, 2])]
outputs = [helper.make_tensor_value_info("signal", TensorProto.FLOAT, [None] * 3)]
model = helper.make_model(
    helper.make_graph([node], "inverse", inputs, outputs), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
)
onnx.checker.check_model(model)
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
given = session.run(None, {"spectrum": spectrum})[0]
due = ReferenceEvaluator(model).run(None, {"spectrum": spectrum})[0]
print(f"ONNX Runtime {onnxruntime.__version__}: {given.shape}; onnx {onnx.__version__}'s reference: {due.shape}")
assert np.allclose(due.ravel(), signal, atol=1e-5), due
assert given.shape == (1, 3, 2), given.shape
PY
