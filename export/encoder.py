"""Arrays to unit vectors: the seam between the network and everything above it. No torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model.inputs.text import TextTokens

from .bundle import Bundle, Manifest, WrongVectors, golden_inputs, open_bundle

INPUT = {"video": "frames", "audio": "waveform", "text": "tokens"}
GOLDEN_TOLERANCE = 1e-3
UNIT_TOLERANCE = 1e-3
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class NoProvider(Exception):
    def __init__(self, provider: str, available: list[str]) -> None:
        super().__init__(f"provider {provider} is not in this build of ONNX Runtime, which has {', '.join(available)}")


class BadVectors(Exception):
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

    def __init__(self, bundle: Bundle, provider: str = "cpu", threads: int = 0) -> None:
        self.manifest = bundle.manifest
        available = onnxruntime.get_available_providers()
        if PROVIDERS[provider] not in available:
            raise NoProvider(provider, available)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_mem_pattern = False  # shapes vary from batch to batch; patterns would only pile up
        self._sessions = {
            m: onnxruntime.InferenceSession(str(bundle.graph(m)), options, providers=[PROVIDERS[provider]])
            for m in bundle.manifest.modalities
        }
        self.tokens = TextTokens(bundle.tokenizer, bundle.manifest.inputs.text)

    @classmethod
    def open(cls, folder: Path, provider: str = "cpu", threads: int = 0) -> OnnxEncoder:
        """The bundle at `folder`, checked byte by byte and by its golden vectors.

        Raises:
            BadBundle: see `open_bundle`; WrongVectors where the graphs do not give what they gave at export.
            NoProvider: the provider is not in this build.
        """
        encoder = cls(open_bundle(folder), provider, threads)
        encoder.check()
        return encoder

    def check(self) -> None:
        for modality, x in golden_inputs(self.manifest.inputs).items():
            if modality not in self._sessions:
                continue
            error = float(np.abs(self.embed(modality, x) - np.array(self.manifest.golden[modality])).max())
            if not error <= GOLDEN_TOLERANCE:
                raise WrongVectors(modality, error)

    def embed(self, modality: str, arrays: NDArray[Any]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self._sessions[modality].run(None, {INPUT[modality]: arrays})[0]
        return checked(modality, vectors, self.manifest.dim)


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
