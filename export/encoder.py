"""Encodes arrays as unit vectors: all that index and service use of a network. No torch.

EncoderError
├── CannotRun              a provider that cannot run on this machine
├── WrongPrecision         a precision that is for other providers
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

from evaluation.retrieval import Embedder
from media.modality import MODALITY_TABLE, TEXT
from media.text import Reading, TextTokens

from .bundle import (
    LEAST_COSINE,
    Bundle,
    Manifest,
    WrongVectors,
    open_bundle,
    parse_modality,
)
from .cells import GraphCells, HeardCells, SeenCells
from .precision import GAINFUL, derive_graph

GOLDEN_TOLERANCE = 1e-3
UNIT_TOLERANCE = 1e-3
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# batches on a device are padded to one of these, and cut at the largest
DEVICE_ROWS = (1, 4, 16, 32)
DEVICE_LENGTH = 16  # token ids on a device are padded to a multiple of this
WARM_LENGTH = 64  # the longest texts that are run before any is asked for


class EncoderError(Exception):
    """An encoder that cannot be opened, or gives wrong vectors."""


class CannotRun(EncoderError):
    """A provider, and what this machine lacks for it."""

    detail_fields = ("provider", "lacks")

    def __init__(self, provider: str, lacks: str) -> None:
        super().__init__(f"provider {provider} cannot run here: {lacks}")
        self.provider = provider
        self.lacks = lacks


class WrongPrecision(EncoderError):
    """A precision that a provider gains nothing by."""

    detail_fields = ("precision", "provider")

    def __init__(self, precision: str, provider: str) -> None:
        owners = [name for name, faster in GAINFUL.items() if precision in faster]
        kind = "CPUs" if owners == ["cpu"] else f"GPUs (provider {' or '.join(owners)})"
        better = " or ".join(("fp32", *GAINFUL[provider]))
        super().__init__(
            f"precision {precision} is for {kind}; with provider {provider} choose {better}"
        )
        self.precision = precision
        self.provider = provider


class UnverifiedPrecision(EncoderError):
    """A precision that was not measured on this bundle, or lost too much."""

    detail_fields = ("precision", "problem")

    def __init__(self, precision: str, problem: str) -> None:
        super().__init__(f"precision {precision} of this bundle {problem}")
        self.precision = precision
        self.problem = problem


class BadVectors(EncoderError):
    """An encoder gave something that is not unit vectors of its dimension."""

    detail_fields = ("encoding", "problem")

    def __init__(self, encoding: str, problem: str) -> None:
        super().__init__(f"{encoding}: {problem}")
        self.encoding = encoding
        self.problem = problem


class Encoder(Protocol):
    """What index and service use of a network."""

    @property
    def manifest(self) -> Manifest: ...

    def embed(self, encoding: str, arrays: NDArray[Any]) -> NDArray[np.float32]:
        """Raw arrays [n, ...] as the manifest specifies them -> unit vectors float32 [n, dim]."""
        ...

    def tokens(self, texts: list[str], encoding: str) -> NDArray[np.int64]:
        """The beginnings of texts -> token ids int64 [n, length] for a text encoding."""
        ...

    def read(self, texts: list[str], encoding: str) -> list[Reading]:
        """The whole of each text, in as many windows as it needs, and which words are known.

        Raises:
            BadText: a text is empty or too long.
        """
        ...

    def check(self) -> None:
        """Check the golden vectors.

        Raises:
            BadBundle: they differ from those of the export. A lost device raises its own error.
        """
        ...


class OnnxEncoder:
    """A bundle run by ONNX Runtime.

    `threads` 0 means all cores. `shared` says that decoders use the same cores.
    """

    def __init__(
        self,
        bundle: Bundle,
        provider: str = "cpu",
        threads: int = 0,
        precision: str = "fp32",
        shared: bool = False,
    ) -> None:
        self.manifest = bundle.manifest
        self.provider = provider
        self.precision = precision
        cores = threads or os.cpu_count() or 1
        # Texts are small and many, so two batches of them run at once, each on its caller's thread.
        # One core fewer for each lets both run; such threads wait less for each other than those of
        # one batch on all cores.
        texts = {e for e in bundle.manifest.graphs if parse_modality(e) == TEXT}
        self._sessions = {
            e: open_session(
                bundle.graph(e),
                provider,
                max(1, cores - 1) if e in texts else cores,
                precision,
                spin=e in texts or not shared,
            )
            for e in bundle.manifest.graphs
        }
        self._cells = GraphCells(bundle, cores)
        self._tokens = {
            e: TextTokens(bundle.folder / t.file, t.spec)
            for e, t in bundle.manifest.tokenizers.items()
        }

    @classmethod
    def open(
        cls,
        folder: Path,
        provider: str = "cpu",
        threads: int = 0,
        precision: str = "fp32",
        shared: bool = False,
        frames: str = "",
    ) -> OnnxEncoder:
        """Open the bundle at `folder`, check every byte and the golden vectors, and warm it up.
        For `frames` see `open_bundle`.

        Raises:
            BadBundle: see `open_bundle`.
            WrongVectors: the graphs do not give the golden vectors.
            CannotRun: the provider cannot run on this machine.
            WrongPrecision: the precision is for other providers.
            UnverifiedPrecision: `tercet verify` has not passed the precision.
        """
        if precision not in ("fp32", *GAINFUL[provider]):
            raise WrongPrecision(precision, provider)
        bundle = open_bundle(folder, frames)
        if precision != "fp32":
            measured = bundle.manifest.variants.get(f"{provider}/{precision}")
            if not measured:
                raise UnverifiedPrecision(
                    precision, f"was not measured on {provider}: run `tercet verify`"
                )
            lossy = [encoding for encoding, variant in measured.items() if not variant.good]
            if lossy:
                raise UnverifiedPrecision(
                    precision, f"loses too much on {provider} ({', '.join(lossy)})"
                )
        encoder = cls(bundle, provider, threads, precision, shared)
        encoder.check()
        encoder.warm()
        return encoder

    def check(self) -> None:
        """Compare with the golden vectors; of another precision, as closely as was measured."""
        for encoding in self._sessions:
            found = self.embed(encoding, self.manifest.golden_input(encoding))
            expected = np.array(self.manifest.golden[encoding])
            error = float(np.abs(found - expected).max())
            good = error <= GOLDEN_TOLERANCE
            if self.precision != "fp32":
                good = float((found * expected).sum(axis=1).min()) >= LEAST_COSINE
            if not good:
                raise WrongVectors(encoding, error)

    def warm(self) -> None:
        """Run every shape that a device will see, so that no request waits for its kernels."""
        if self.provider == "cpu":
            return
        for encoding in self._sessions:
            x = self.manifest.golden_input(encoding)[:1]
            tokenizer = self.manifest.tokenizers.get(encoding)
            lengths = (
                range(x.shape[1], max(WARM_LENGTH, x.shape[1]) + 1, DEVICE_LENGTH)
                if tokenizer
                else (0,)
            )
            for length in lengths:
                for rows in DEVICE_ROWS:
                    self.embed(
                        encoding, np.repeat(self.pad_to_bucket(encoding, x, length), rows, axis=0)
                    )

    def tokens(self, texts: list[str], encoding: str) -> NDArray[np.int64]:
        return self._tokens[encoding](texts)

    def read(self, texts: list[str], encoding: str) -> list[Reading]:
        return self._tokens[encoding].read(texts)

    def space(self, name: str) -> Embedder:
        """One space as what `evaluate` takes."""
        encodings = self.manifest.spaces[name].encodings
        joint = self.manifest.joint(name)
        return Embedder(
            lambda modality, x: self.embed(encodings[modality], x),
            lambda texts: self.tokens(texts, encodings[TEXT]),
            tuple(encodings),
            join=joint.add if joint else None,
        )

    def embed(self, encoding: str, arrays: NDArray[Any]) -> NDArray[np.float32]:
        run = self._sessions[encoding]
        name = MODALITY_TABLE[parse_modality(encoding)].graph_input
        if self.provider == "cpu":
            vectors: NDArray[np.float32] = run.run(None, {name: arrays})[0]
        else:
            shaped = self.pad_to_bucket(encoding, arrays, arrays.shape[1])
            largest = DEVICE_ROWS[-1]
            pieces = [shaped[at : at + largest] for at in range(0, len(shaped), largest)]
            vectors = np.concatenate([run_on_device(run, name, piece) for piece in pieces])
        return check_vectors(encoding, vectors, self.manifest.dims[encoding])

    def see_cells(self, encoding: str, frames: NDArray[np.uint8]) -> SeenCells:
        """See `CellEncoder`."""
        return self._cells.see_cells(encoding, frames)

    def hear_cells(self, encoding: str, waveform: NDArray[np.float32]) -> HeardCells:
        """See `CellEncoder`."""
        return self._cells.hear_cells(encoding, waveform)

    def pad_to_bucket(self, encoding: str, arrays: NDArray[Any], length: int) -> NDArray[Any]:
        """Token ids padded to the next of the fixed lengths; anything else as it is."""
        tokenizer = self.manifest.tokenizers.get(encoding)
        if tokenizer is None:
            return arrays
        width = min(-(-length // DEVICE_LENGTH) * DEVICE_LENGTH, tokenizer.spec.tokens)
        more = ((0, 0), (0, max(0, width - arrays.shape[1])))
        return np.pad(arrays, more, constant_values=tokenizer.spec.pad_id)


def open_session(
    graph: Path, provider: str, threads: int, precision: str, spin: bool = True
) -> onnxruntime.InferenceSession:
    """Open a session for a graph.

    With `spin`, its threads wait actively between the operations of a run. That saves a tenth of
    the time on idle cores. If others use the cores, sleeping threads save a third instead.

    Raises:
        CannotRun: the provider is not in this build, or its libraries do not load.
    """
    available = onnxruntime.get_available_providers()
    if PROVIDERS[provider] not in available:
        has = ", ".join(name for name, known in PROVIDERS.items() if known in available)
        raise CannotRun(
            provider,
            f"this build of ONNX Runtime has {has}; GPUs need onnxruntime-gpu (extra 'gpu')",
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    options.add_session_config_entry("session.force_spinning_stop", "1")  # once the run has ended
    # batches vary in shape, and a pattern would be kept for each shape
    options.enable_mem_pattern = False
    source: str | bytes = str(graph)
    if precision != "fp32":
        source = derive_graph(graph, precision)
    chosen: list[Any] = [PROVIDERS[provider]]
    if provider == "cuda":  # which rounds fp32 to 10 bits of fraction unless told
        chosen = [(PROVIDERS[provider], {"use_tf32": str(int(precision != "fp32"))})]
    if provider == "tensorrt":
        chosen = [
            (PROVIDERS[provider], {"trt_fp16_enable": str(precision == "fp16")}),
            PROVIDERS["cuda"],
        ]
    opened = onnxruntime.InferenceSession(source, options, providers=chosen)
    if PROVIDERS[provider] not in opened.get_providers():  # ONNX Runtime falls back in silence
        raise CannotRun(provider, "its libraries (CUDA, cuDNN, TensorRT) or its device are missing")
    return opened


def run_on_device(
    run: onnxruntime.InferenceSession, name: str, arrays: NDArray[Any]
) -> NDArray[np.float32]:
    """Run rows [n, ...] on a device, padded to one of the fixed batch sizes. Rows and vectors are
    copied once.
    """
    n = len(arrays)
    rows = next(size for size in DEVICE_ROWS if size >= n)
    padded = np.concatenate([arrays, np.repeat(arrays[-1:], rows - n, axis=0)])
    binding = run.io_binding()
    binding.bind_cpu_input(name, np.ascontiguousarray(padded))
    binding.bind_output(run.get_outputs()[0].name)
    run.run_with_iobinding(binding)
    vectors: NDArray[np.float32] = binding.copy_outputs_to_cpu()[0][:n]
    return vectors


def check_vectors(encoding: str, vectors: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """Return vectors [n, dim] if all are finite and of unit length.

    Raises:
        BadVectors: they are not.
    """
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise BadVectors(encoding, f"shape {vectors.shape}, expected [n, {dim}]")
    if not np.abs(np.linalg.norm(vectors, axis=1) - 1).max(initial=0) <= UNIT_TOLERANCE:
        raise BadVectors(encoding, "a vector that is not finite or not of length one")
    return vectors
