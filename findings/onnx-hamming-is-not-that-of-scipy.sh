#!/usr/bin/env bash
# ONNX's operator HammingWindow, in ONNX Runtime 1.26.0 and in onnx 1.23.2's reference: its first weight is 25/46 (0.5435), and
# not the 0.54 that SciPy, NumPy and torch.hamming_window take. The ends of the window are 0.087 and not 0.080. The operator's
# documentation names a paper and no number. HannWindow and BlackmanWindow agree with SciPy. Features of sound from a
# graph with this operator differ from those that the model was trained with, if those came from one of the others.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3.11 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check \
  onnxruntime==1.26.0 onnx==1.23.2 numpy==2.4.6 scipy==1.17.1
"$place/venv/bin/python" - <<'PY'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from scipy.signal import get_window

LENGTH = 16


def windows(operator):
    inputs = [helper.make_tensor_value_info("length", TensorProto.INT32, [])]
    outputs = [helper.make_tensor_value_info("window", TensorProto.FLOAT, [None])]
    graph = helper.make_graph([helper.make_node(operator, ["length"], ["window"])], "window", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    feed = {"length": np.array(LENGTH, np.int32)}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0], ReferenceEvaluator(model).run(None, feed)[0]


for operator, name in (("HannWindow", "hann"), ("BlackmanWindow", "blackman"), ("HammingWindow", "hamming")):
    expected = get_window(name, LENGTH)
    runtime, reference = (float(np.abs(window - expected).max()) for window in windows(operator))
    print(f"{operator}: ONNX Runtime {onnxruntime.__version__} is {runtime:.4f} from SciPy, the reference {reference:.4f}")
    if name == "hamming":
        wide = 25 / 46 - (1 - 25 / 46) * np.cos(2 * np.pi * np.arange(LENGTH) / LENGTH)
        assert min(runtime, reference) > 0.006, (runtime, reference)
        assert np.abs(windows(operator)[0] - wide).max() < 1e-6
    else:
        assert max(runtime, reference) < 1e-6, (operator, runtime, reference)
PY
