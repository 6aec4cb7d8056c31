"""The bundle: what was trained is what runs, and what was altered does not."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export.bundle import (
    AlteredFile,
    BadBundle,
    Bundle,
    InTheWay,
    MissingFile,
    UnknownFormat,
    WrongVectors,
    fingerprint,
    open_bundle,
    write_bundle,
)
from export.encoder import BadVectors, NoProvider, OnnxEncoder, checked
from export.to_onnx import export_checkpoint
from export.verify import PARITY, verify
from model import checkpoint
from model.config import SMOKE, TrainConfig
from model.inputs.text import learn_tokenizer
from model.train import make_optimiser
from model.transformer import VLSA

from .makers import ROOT


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(checkpoint, bundle) of a small encoder that was never trained."""
    place = tmp_path_factory.mktemp("export")
    learn_tokenizer(["a red ball bounces", "the sound of rain"], 200, place / "tokenizer.json")
    torch.manual_seed(0)
    config = TrainConfig(encoder=replace(SMOKE, stem="convolution", glance=True))
    model = VLSA(config.encoder)
    state = {"step": 1, "config": config.to_json(), "provenance": {"licences": ["CC0"]}, "best": {}}
    checkpoint.save(place / "checkpoint", model, make_optimiser(model, config), state, place / "tokenizer.json")
    export_checkpoint(place, place / "bundle")
    return place / "checkpoint", place / "bundle"


def test_torch_and_onnx_agree_and_batches_do_not_matter(exported: tuple[Path, Path]) -> None:
    """Batches of 1, 2 and 17; each item alone and in company."""
    checks = verify(exported[1], checkpoint=exported[0])
    assert {c.modality for c in checks} == {"video", "audio", "text"} and len(checks) == 12
    assert all(c.error <= PARITY for c in checks), checks


def test_weights_are_stored_once(exported: tuple[Path, Path]) -> None:
    state = torch.load(exported[0] / "weights.pt", weights_only=True)
    parts = ("decoder", "fill", "mask_token", "into_decoder", "match", "log_scale")
    encoder = sum(v.numel() for k, v in state.items() if not k.startswith(parts))
    dft = SMOKE.n_fft * (SMOKE.n_fft + 2) + SMOKE.bins * (SMOKE.n_fft // 2 + 1)
    assert (exported[1] / "weights.bin").stat().st_size < 4.4 * (encoder + dft)


@pytest.mark.parametrize(
    "file", ["video.onnx", "audio.onnx", "text.onnx", "weights.bin", "tokenizer.json", "manifest.json"]
)
def test_a_flipped_byte_is_refused_by_name(exported: tuple[Path, Path], tmp_path: Path, file: str) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(exported[1], copy)
    raw = bytearray((copy / file).read_bytes())
    at = raw.find(b"trained_steps") if file == "manifest.json" else len(raw) // 2
    raw[at] ^= 1
    (copy / file).write_bytes(raw)
    with pytest.raises(AlteredFile, match=file):
        OnnxEncoder.open(copy)


@pytest.mark.parametrize("file", ["video.onnx", "weights.bin", "tokenizer.json", "manifest.json"])
def test_a_missing_file_is_named(exported: tuple[Path, Path], tmp_path: Path, file: str) -> None:
    shutil.copytree(exported[1], tmp_path / "bundle")
    (tmp_path / "bundle" / file).unlink()
    with pytest.raises(MissingFile, match=file):
        open_bundle(tmp_path / "bundle")


@pytest.mark.parametrize("change", [{"format": 99}, {"surprise": 1}])
def test_another_format_is_refused(exported: tuple[Path, Path], tmp_path: Path, change: dict[str, int]) -> None:
    shutil.copytree(exported[1], tmp_path / "bundle")
    file = tmp_path / "bundle" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UnknownFormat, match=next(iter(change))):
        open_bundle(tmp_path / "bundle")


def test_golden_vectors_guard_the_graphs(exported: tuple[Path, Path]) -> None:
    bundle = open_bundle(exported[1])
    wrong = {m: [[-x for x in row] for row in rows] for m, rows in bundle.manifest.golden.items()}
    encoder = OnnxEncoder(replace(bundle, manifest=replace(bundle.manifest, golden=wrong)))
    with pytest.raises(WrongVectors):
        encoder.check()


def test_the_fingerprint_is_of_weights_graphs_and_specs(exported: tuple[Path, Path]) -> None:
    m = open_bundle(exported[1]).manifest
    assert m.fingerprint == fingerprint(m.files, m.inputs, m.spaces)
    other = replace(m.inputs, window_s=m.inputs.window_s + 1)
    assert m.fingerprint != fingerprint(m.files, other, m.spaces)
    assert m.fingerprint != fingerprint(m.files | {"weights.bin": "0" * 64}, m.inputs, m.spaces)


def test_outputs_are_checked() -> None:
    good = np.eye(3, dtype=np.float32)
    assert checked("text", good, 3) is good
    for bad in (good * 2, good[:, :2], np.full((1, 3), np.nan, np.float32)):
        with pytest.raises(BadVectors):
            checked("text", bad, 3)


def test_a_provider_that_is_not_there_is_named(exported: tuple[Path, Path]) -> None:
    with pytest.raises(NoProvider, match="cuda"):
        OnnxEncoder.open(exported[1], "cuda")


def test_export_replaces_a_bundle_whole(exported: tuple[Path, Path], tmp_path: Path) -> None:
    out, m = tmp_path / "bundle", open_bundle(exported[1]).manifest
    shutil.copytree(exported[1], out)
    (out / "old").write_text("x")

    def fill(half: Path) -> None:
        for file in m.files:
            shutil.copy(exported[1] / file, half / file)

    def vectors_of(bundle: Bundle, modality: str, x: NDArray[Any]) -> NDArray[np.float32]:
        return OnnxEncoder(bundle).embed(modality, x)

    again = write_bundle(out, m.name, m.inputs, m.spaces["vlsa"], m.graphs, m.provenance, fill, vectors_of)
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"] and not (out / "old").exists()
    assert again.manifest == m and m.provenance["licences"] == ["CC0"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(InTheWay):
        write_bundle(tmp_path / "mine", m.name, m.inputs, m.spaces["vlsa"], m.graphs, {}, fill, vectors_of)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_the_default_bundle_opens_and_is_small() -> None:
    folder = ROOT / "bundles" / "default"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 16_000_000
    assert all(check.error <= PARITY for check in verify(folder))
    with pytest.raises(BadBundle):
        open_bundle(folder.parent)
