"""What each part of a frame, or of a stretch of sound, says to an encoder: the vectors of the cells
of its last feature map.

A convolutional graph takes the mean of a map of features, and makes its vector of that. Here it is
made of each cell alone (class activation maps, arXiv 1512.04150). Nothing is added to a bundle: two
graphs are cut out of its own, when they are first asked for. No torch.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from media.modality import AUDIO, MODALITY_TABLE, VIDEO

from .bundle import Bundle, WrongVectors, parse_modality

TOLERANCE = 1e-3
HEAD_ROWS = 64  # cells whose vectors are made at once
# Each cell of a picture is read with those around it: a Gaussian whose deviation is this share of
# the map's side.
REACH = 0.25
# The patches in which YAMNet and networks like it hear: log mel bands of 10 ms.
FRAME_S = 0.025
FRAME_HOP_S = 0.01
PATCH_FRAMES = 96
PATCH_HOP_FRAMES = 48
LOWEST_HZ = 125.0
HIGHEST_HZ = 7500.0

Features = NDArray[np.float32]


class NoCells(Exception):
    """An encoding whose graph does not end in the mean of a feature map, so that nothing tells
    where its vector comes from.
    """

    detail_fields = ("encoding",)

    def __init__(self, encoding: str) -> None:
        super().__init__(
            f"this bundle cannot tell where a match is: its {encoding} graph has no cells to"
            " compare with"
        )
        self.encoding = encoding


@dataclass(frozen=True)
class SeenCells:
    """Unit vectors of the cells of frames, float32 [frames, rows, columns, dim], from the top left
    on.
    """

    vectors: NDArray[np.float32]


@dataclass(frozen=True)
class HeardCells:
    """Vectors of the cells of a sound, float32 [bands, columns, dim]; means of unit vectors.

    `times_s` [columns] are the middles of the columns, in seconds from the window's start.
    `bands_hz` are the (lowest, highest) frequency of each band, the lowest band first.
    """

    vectors: NDArray[np.float32]
    times_s: list[float]
    bands_hz: list[tuple[float, float]]


@runtime_checkable
class CellEncoder(Protocol):
    """An encoder that can tell where it sees or hears something."""

    def see_cells(self, encoding: str, frames: NDArray[np.uint8]) -> SeenCells:
        """The cells of a window's frames [frames, height, width, 3]. Raises NoCells."""
        ...

    def hear_cells(self, encoding: str, waveform: NDArray[np.float32]) -> HeardCells:
        """The cells of a window's sound [samples]. Raises NoCells."""
        ...


class GraphCells:
    """The cells of a bundle's graphs, run on the CPU in fp32. Its methods may be called from any
    thread; one works at a time.
    """

    def __init__(self, bundle: Bundle, threads: int) -> None:
        self._bundle = bundle
        self._threads = threads
        self._cut: dict[str, CutGraph] = {}
        self._lock = threading.Lock()

    def see_cells(self, encoding: str, frames: NDArray[np.uint8]) -> SeenCells:
        with self._lock:
            cut = self._open(encoding)
            features = widen(cut.features(frames[None]))
            return SeenCells(cut.cell_vectors(features))

    def hear_cells(self, encoding: str, waveform: NDArray[np.float32]) -> HeardCells:
        with self._lock:
            cut = self._open(encoding)
            features = cut.features(waveform[None])
            spec = self._bundle.manifest.inputs.audio
            assert spec is not None
            if len(features) != count_patches(spec.samples / spec.sample_rate):
                raise NoCells(encoding)
            return lay_out_patches(cut.cell_vectors(features))

    def _open(self, encoding: str) -> CutGraph:
        """Raises NoCells; WrongVectors where its parts do not give the bundle's vectors."""
        if encoding not in self._cut:
            self._cut[encoding] = CutGraph(self._bundle, encoding, self._threads)
        return self._cut[encoding]


class CutGraph:
    """A graph in two parts: its input -> a feature map, and the mean of that -> its vector. Raises
    NoCells; WrongVectors where the parts do not give the bundle's golden vectors.
    """

    def __init__(self, bundle: Bundle, encoding: str, threads: int) -> None:
        import onnx
        from onnx.utils import Extractor

        model = onnx.load(bundle.graph(encoding))
        pool = find_pool(model)
        if pool is None or parse_modality(encoding) not in (VIDEO, AUDIO):
            raise NoCells(encoding)
        self._input = MODALITY_TABLE[parse_modality(encoding)].graph_input
        self._pooled: str = pool.output[0]
        self._spec = bundle.manifest.spec(encoding)
        self._loud = parse_modality(encoding) == AUDIO
        extract = Extractor(onnx.shape_inference.infer_shapes(model)).extract_model
        vector = model.graph.output[0].name
        self._around = find_ways_around(model, pool)
        self._trunk = open_part(extract([self._input], [pool.input[0], *self._around]), threads)
        between = [self._pooled, *self._around]
        self._head = open_part(extract([self._input, *between], [vector]), threads)
        self._blank_around = self._run_trunk(self._blank(1))[1:]
        golden = bundle.manifest.golden_input(encoding)
        features, *around = self._run_trunk(golden)
        found = self._run_head(golden, features.mean(axis=(2, 3)), around)
        error = float(np.abs(found - np.array(bundle.manifest.golden[encoding])).max())
        if error > TOLERANCE:
            raise WrongVectors(encoding, error)

    def features(self, array: NDArray[Any]) -> Features:
        """The feature map of inputs, float32 [maps, channels, rows, columns]."""
        return self._run_trunk(array)[0]

    def _run_trunk(self, array: NDArray[Any]) -> list[Features]:
        """The feature map of inputs, and what goes around its mean."""
        outputs: list[Features] = self._trunk.run(None, {self._input: array})
        return outputs

    def _run_head(
        self, array: NDArray[Any], pooled: NDArray[np.float32], around: list[NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        inputs = {self._input: array, self._pooled: pooled}
        inputs |= dict(zip(self._around, around, strict=True))
        vectors: NDArray[np.float32] = self._head.run(None, inputs)[0]
        return vectors

    def cell_vectors(self, features: Features) -> NDArray[np.float32]:
        """The vectors of one input's feature maps [maps, channels, rows, columns]: [maps, rows,
        columns, dim]. A cell's is that of an input whose maps have it everywhere. What goes around
        the mean of the maps has no cells: it is that of a blank input.
        """
        maps, channels, rows, columns = features.shape
        cells = features.transpose(0, 2, 3, 1).reshape(-1, channels)
        parts = []
        for start in range(0, len(cells), HEAD_ROWS):
            some = cells[start : start + HEAD_ROWS]
            around = [np.concatenate([blank] * len(some)) for blank in self._blank_around]
            pooled = np.repeat(some, maps, axis=0)
            parts.append(self._run_head(self._blank(len(some)), pooled, around))
        return np.concatenate(parts).reshape(maps, rows, columns, -1)

    def pooled_vectors(
        self, pooled: NDArray[np.float32], array: NDArray[Any]
    ) -> NDArray[np.float32]:
        """The vectors [n, dim] of inputs `array` [n, ...] whose maps have the means `pooled` [maps
        of all inputs, channels].
        """
        return self._run_head(array, pooled, self._run_trunk(array)[1:])

    def _blank(self, count: int) -> NDArray[Any]:
        """Inputs for the second part, which reads of them how many there are, and whether anything
        is heard.
        """
        kind = self._spec.golden_input(1).dtype
        shape = (count, *self._spec.shape)
        return np.ones(shape, kind) if self._loud else np.zeros(shape, kind)


def find_pool(model: Any) -> Any:
    """The node that takes the mean of the last feature map over its rows and columns; None where
    there is none.
    """
    import onnx

    nodes = list(model.graph.node)
    convolutions = [at for at, node in enumerate(nodes) if node.op_type == "Conv"]
    if not convolutions:
        return None
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in nodes[convolutions[-1] :]:
        if node.op_type == "ReduceMean" and len(node.input) == 2 and node.input[1] in constants:
            axes = onnx.numpy_helper.to_array(constants[node.input[1]]).tolist()
            kept = [
                onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == "keepdims"
            ]
            if sorted(axes) in ([2, 3], [-2, -1]) and kept == [0]:
                return node
    return None


def find_ways_around(model: Any, pool: Any) -> list[str]:
    """What the nodes after the mean of the last feature map read of the convolutions beside it:
    names of tensors, in the graph's order.
    """
    convolved: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "Conv" or convolved.intersection(node.input):
            convolved.update(node.output)
    wanted = {pool.input[0]}
    after: set[str] = set()
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
        elif node is not pool:
            after.update(node.input)
    crossing = wanted & after & convolved - {pool.input[0]}
    return [name for node in model.graph.node for name in node.output if name in crossing]


def open_part(model: Any, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def widen(features: Features) -> Features:
    """Each cell of feature maps [maps, channels, rows, columns] with those around it, by a Gaussian
    that is cut off at the edges.
    """
    down, across = (gaussian(size) for size in features.shape[2:])
    wide = np.einsum("ij,mcjk,lk->mcil", down, features, across, optimize=True)
    return np.asarray(wide, np.float32)


def gaussian(size: int) -> NDArray[np.float64]:
    """Weights [size, size] of the cells of a row, for each of them; the sum of each row is 1."""
    places = np.arange(size)
    distance = (places[:, None] - places) / (REACH * size)
    weights = np.exp(-(distance**2) / 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def count_patches(seconds: float) -> int:
    """How many patches a stretch of sound has.

    >>> count_patches(5.0), count_patches(0.975)
    (9, 1)
    """
    frames = math.floor((seconds - FRAME_S) / FRAME_HOP_S + 1e-6) + 1
    return (frames - PATCH_FRAMES) // PATCH_HOP_FRAMES + 1


def lay_out_patches(vectors: NDArray[np.float32]) -> HeardCells:
    """The cells of patches [patches, bands, columns, dim] on one time line. Patches overlap; where
    several cells lie, their mean counts.
    """
    patches, bands, columns, dim = vectors.shape
    column_s = PATCH_FRAMES * FRAME_HOP_S / columns
    hop_s = PATCH_HOP_FRAMES * FRAME_HOP_S
    step_s = column_s / 2
    count = round((hop_s * (patches - 1) + column_s * columns) / step_s)
    middles = (np.arange(count) + 0.5) * step_s
    summed = np.zeros((bands, count, dim))
    cells = np.zeros(count)
    for patch in range(patches):
        for column in range(columns):
            start = patch * hop_s + column * column_s
            inside = (middles >= start) & (middles < start + column_s)
            summed[:, inside] += vectors[patch, :, column][:, None]
            cells[inside] += 1
    low, high = (1127 * math.log1p(hz / 700) for hz in (LOWEST_HZ, HIGHEST_HZ))
    edges = [700 * math.expm1(mel / 1127) for mel in np.linspace(low, high, bands + 1)]
    return HeardCells(
        (summed / cells[None, :, None]).astype(np.float32),
        [round(float(middle), 3) for middle in middles],
        [(round(a, 1), round(b, 1)) for a, b in pairwise(edges)],
    )
