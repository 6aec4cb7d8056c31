"""YAMNet from its published file: a MobileNet (arXiv 1704.04861) over log mel patches.

N patches, C classes (521). The file's 8-bit weights are widened; it rounds activations, too, which
is left out here.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from media.errors import BadConfig

from .stems import count_padding

FILE = "yamnet.tflite"  # in the folder of teachers
CLASS_NAMES = "yamnet_class_map.csv"
LAYERS = 14
HALVED = {1, 3, 5, 7, 13}  # layers whose first convolution has a stride of two
NAME = re.compile(r"/layer(\d+)/(depthwise_conv|pointwise_conv|conv)/")

Arrays = dict[str, NDArray[np.float32]]


class Yamnet(nn.Module):
    """Log mel patches [N, 64, 96] -> logits of AudioSet's classes [N, C].

    `arrays` are weights and biases as `read_yamnet_arrays` names them.
    """

    def __init__(self, arrays: Arrays) -> None:
        super().__init__()
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.strides: list[int] = []
        self.groups: list[int] = []
        for layer in range(1, LAYERS + 1):
            parts = ("conv",) if layer == 1 else ("depthwise_conv", "pointwise_conv")
            for part in parts:
                weight = torch.from_numpy(arrays[f"{layer}/{part}/weight"])
                deep = part == "depthwise_conv"
                # TensorFlow's [outputs, rows, columns, inputs]; of a depthwise one [1, ..., groups]
                weight = weight.permute(3, 0, 1, 2) if deep else weight.permute(0, 3, 1, 2)
                self.weights.append(nn.Parameter(weight.contiguous(), requires_grad=False))
                bias = torch.from_numpy(arrays[f"{layer}/{part}/bias"])
                self.biases.append(nn.Parameter(bias, requires_grad=False))
                self.strides.append(2 if layer in HALVED and part != "pointwise_conv" else 1)
                self.groups.append(len(weight) if deep else 1)
        self.classes = nn.Linear(*reversed(arrays["dense/weight"].shape))
        self.classes.load_state_dict(
            {
                "weight": torch.from_numpy(arrays["dense/weight"]),
                "bias": torch.from_numpy(arrays["dense/bias"]),
            }
        )

    def forward(self, patches: Tensor) -> Tensor:
        x = patches.transpose(1, 2)[:, None]  # [N, 1, 96 frames, 64 bands]
        layers = zip(self.weights, self.biases, self.strides, self.groups, strict=True)
        for weight, bias, stride, groups in layers:
            kernel = weight.shape[-1]
            rows = count_padding(x.shape[-2], kernel, stride)
            columns = count_padding(x.shape[-1], kernel, stride)
            x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
            x = F.conv2d(x, weight, bias, stride=stride, groups=groups).relu()
        logits: Tensor = self.classes(x.mean((2, 3)))
        return logits


def read_yamnet(file: Path) -> Yamnet:
    """Raises BadConfig: the file is not YAMNet as TensorFlow Lite has it."""
    try:
        return Yamnet(read_yamnet_arrays(file))
    except (KeyError, ValueError, RuntimeError) as error:
        raise BadConfig(f"{file} is not YAMNet's file: {error}") from error


def read_yamnet_arrays(file: Path) -> Arrays:
    """The file's weights and biases as float32, by names like "3/pointwise_conv/weight" and
    "dense/bias".

    Raises:
        ValueError: not a file of TensorFlow Lite.
    """
    from ai_edge_litert.interpreter import Interpreter

    network = Interpreter(str(file), num_threads=1)
    network.allocate_tensors()
    details = {tensor["index"]: tensor for tensor in network.get_tensor_details()}
    arrays: Arrays = {}
    for operation in network._get_ops_details():
        if operation["op_name"] not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            continue
        weight, bias = (details[index] for index in operation["inputs"][1:3])
        found = NAME.search(weight["name"])
        if not found and "/dense/" not in weight["name"]:
            continue  # the spectrogram's filters
        name = f"{found[1]}/{found[2]}" if found else "dense"
        for tensor, kind in ((weight, "weight"), (bias, "bias")):
            arrays[f"{name}/{kind}"] = widen(network.get_tensor(tensor["index"]), tensor)
    return arrays


def widen(values: NDArray[np.generic], tensor: dict[str, object]) -> NDArray[np.float32]:
    """A tensor of the file as float32: 8-bit numbers times the scale of their channel."""
    quantisation = tensor["quantization_parameters"]
    assert isinstance(quantisation, dict)
    scales = quantisation["scales"]
    wide = values.astype(np.float32)
    if not len(scales):
        return wide
    shape = [1] * wide.ndim
    shape[quantisation["quantized_dimension"]] = -1
    return np.asarray(wide * scales.reshape(shape), np.float32)
