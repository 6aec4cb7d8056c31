"""Arrays to unit vectors: the seam between the network and everything above it. No torch.

EncoderError
├── CannotRun              a provider or precision that this machine lacks something for
├── UnverifiedPrecision    a precision that was not measured on this bundle, or loses too much
└── BadVectors             an output that is not unit vectors
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model.inputs.text import TextTokens

from .bundle import Bundle, Manifest, WrongVectors, golden_inputs, open_bundle
from .precision import NO_OVERFLOW, derived

INPUT = {"video": "frames", "audio": "waveform", "text": "tokens"}
GOLDEN_TOLERANCE = 1e-3
GOLDEN_COSINE = 0.98  # of fp16 and int8
UNIT_TOLERANCE = 1e-3
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
DEVICE_ROWS = (1, 4, 16, 64)  # batches on a device are padded to one of these, and cut at the largest
DEVICE_LENGTH = 16  # token ids on a device are padded to a multiple of this


class EncoderError(Exception):
    """An encoder that cannot be had, or is not what it should be."""


class CannotRun(EncoderError):
    """A provider or precision, and what this machine lacks for it."""

    def __init__(self, what: str, lacks: str) -> None:
        super().__init__(f"{what} cannot run here: {lacks}")
        self.what, self.lacks = what, lacks


class UnverifiedPrecision(EncoderError):
    """A precision that was not measured on this bundle, or lost too much."""

    def __init__(self, precision: str, problem: str) -> None:
        super().__init__(f"precision {precision} of this bundle {problem}")
        self.precision, self.problem = precision, problem


class BadVectors(EncoderError):
    """An encoder gave something that is not unit vectors of its dimension."""

    def __init__(self, modality: str, problem: str) -> None:
        super().__init__(f"{modality}: {problem}")
        self.modality, self.problem = modality, problem


class Encoder(Protocol):
    """All that index and service know of a network."""

    @property
    def manifest(self) -> Manifest: ...

    def embed(self, modality: str, arrays: NDArray[Any]) -> NDArray[np.float32]:
        """Raw arrays [n, ...] of one modality, as the manifest's inputs specify them -> unit vectors [n, dim]."""
        ...

    def tokens(self, texts: list[str]) -> NDArray[np.int64]:
        """Texts -> token ids [n, length]."""
        ...


class OnnxEncoder:
    """A bundle run by ONNX Runtime."""

    def __init__(self, bundle: Bundle, provider: str = "cpu", threads: int = 0, precision: str = "fp32") -> None:
        self.manifest, self.provider, self.precision = bundle.manifest, provider, precision
        self._sessions = {m: session(bundle.graph(m), provider, threads, precision) for m in bundle.manifest.modalities}
        self.tokens = TextTokens(bundle.tokenizer, bundle.manifest.inputs.text)

    @classmethod
    def open(cls, folder: Path, provider: str = "cpu", threads: int = 0, precision: str = "fp32") -> OnnxEncoder:
        """The bundle at `folder`, checked byte by byte and by its golden vectors, and warmed.

        Raises:
            BadBundle: see `open_bundle`; WrongVectors where the graphs do not give what they gave at export.
            CannotRun: this machine lacks something.
            UnverifiedPrecision: `python -m export verify` has not passed the precision.
        """
        bundle = open_bundle(folder)
        if precision != "fp32":
            measured = bundle.manifest.variants.get(precision)
            if not measured:
                raise UnverifiedPrecision(precision, "has not been measured: run python -m export verify")
            if lossy := [m for m, v in measured.items() if not v.good]:
                raise UnverifiedPrecision(precision, f"loses more than a point of R@10 ({', '.join(lossy)})")
        encoder = cls(bundle, provider, threads, precision)
        encoder.check()
        encoder.warm()
        return encoder

    def check(self) -> None:
        """Compare with the golden vectors; of another precision, as closely as was measured."""
        for modality, x in golden_inputs(self.manifest.inputs).items():
            if modality not in self._sessions:
                continue
            found, expected = self.embed(modality, x), np.array(self.manifest.golden[modality])
            error = float(np.abs(found - expected).max())
            good = error <= GOLDEN_TOLERANCE
            if self.precision != "fp32":
                good = float((found * expected).sum(axis=1).min()) >= GOLDEN_COSINE
            if not good:
                raise WrongVectors(modality, error)

    def warm(self) -> None:
        """Run every shape that a device will see, so that no request waits for its kernels."""
        if self.provider == "cpu":
            return
        for modality, x in golden_inputs(self.manifest.inputs).items():
            longest = self.manifest.inputs.text.tokens
            for rows in DEVICE_ROWS if modality in self._sessions else ():
                batch = np.repeat(x[:1], rows, axis=0)
                lengths = range(batch.shape[1], longest + 1, DEVICE_LENGTH) if modality == "text" else ()
                for shaped in [batch, *(widened(batch, length) for length in lengths)]:
                    self.embed(modality, shaped)

    def embed(self, modality: str, arrays: NDArray[Any]) -> NDArray[np.float32]:
        run = self._sessions[modality]
        if self.provider == "cpu":
            vectors: NDArray[np.float32] = run.run(None, {INPUT[modality]: arrays})[0]
        else:
            largest = DEVICE_ROWS[-1]
            pieces = [arrays[at : at + largest] for at in range(0, len(arrays), largest)]
            if modality == "text":
                longest = self.manifest.inputs.text.tokens
                pieces = [widened(p, min(-(-p.shape[1] // DEVICE_LENGTH) * DEVICE_LENGTH, longest)) for p in pieces]
            vectors = np.concatenate([on_device(run, INPUT[modality], piece) for piece in pieces])
        return checked(modality, vectors, self.manifest.dim)


def session(graph: Path, provider: str, threads: int, precision: str) -> onnxruntime.InferenceSession:
    """A graph ready to run.

    Raises:
        CannotRun: the provider is not in this build, its libraries do not load, or a package is missing.
    """
    available = onnxruntime.get_available_providers()
    if PROVIDERS[provider] not in available:
        has = ", ".join(name for name, known in PROVIDERS.items() if known in available)
        raise CannotRun(provider, f"this build of ONNX Runtime has {has}; GPUs need onnxruntime-gpu (extra 'gpu')")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Weights are then mapped from their file, and the graphs of one bundle share them; packed, each has a copy.
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_mem_pattern = False  # shapes vary from batch to batch; patterns would only pile up
    source: str | bytes = str(graph)
    if precision != "fp32":
        options.add_session_config_entry(*NO_OVERFLOW)
        try:
            source = derived(graph, precision)
        except ImportError as error:
            raise CannotRun(precision, f"it needs {error.name} (extra 'precision')") from error
    chosen: list[Any] = [PROVIDERS[provider]]
    if provider == "tensorrt":
        chosen = [(PROVIDERS[provider], {"trt_fp16_enable": str(precision == "fp16")}), PROVIDERS["cuda"]]
    opened = onnxruntime.InferenceSession(source, options, providers=chosen)
    if PROVIDERS[provider] not in opened.get_providers():  # ONNX Runtime falls back in silence
        raise CannotRun(provider, "its libraries (CUDA, cuDNN, TensorRT) or its device are missing")
    return opened


def on_device(run: onnxruntime.InferenceSession, name: str, arrays: NDArray[Any]) -> NDArray[np.float32]:
    """Rows [n, ...], padded to one of the fixed sizes, copied to the device and back once."""
    n = len(arrays)
    rows = next(size for size in DEVICE_ROWS if size >= n)
    padded = np.concatenate([arrays, np.repeat(arrays[-1:], rows - n, axis=0)])
    binding = run.io_binding()
    binding.bind_cpu_input(name, np.ascontiguousarray(padded))
    binding.bind_output(run.get_outputs()[0].name)
    run.run_with_iobinding(binding)
    vectors: NDArray[np.float32] = binding.copy_outputs_to_cpu()[0][:n]
    return vectors


def widened(ids: NDArray[Any], length: int) -> NDArray[Any]:
    """Token ids [n, t] padded to [n, length]."""
    return np.pad(ids, ((0, 0), (0, length - ids.shape[1])))


def checked(modality: str, vectors: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """The vectors, if each is finite, `dim` wide and of length one.

    Raises:
        BadVectors: otherwise.
    """
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise BadVectors(modality, f"shape {vectors.shape}, expected [n, {dim}]")
    if not np.abs(np.linalg.norm(vectors, axis=1) - 1).max(initial=0) <= UNIT_TOLERANCE:
        raise BadVectors(modality, "a vector that is not finite or not of length one")
    return vectors
