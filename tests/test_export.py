"""The bundle: what was trained is what runs, and what was altered does not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import psutil
import pytest
import torch
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc.model_config_pb2 import ModelConfig

from evaluation.clips import Clips
from export.bundle import (
    AlteredFile,
    BadBundle,
    InTheWay,
    MissingFile,
    PrecisionLoss,
    UnknownFormat,
    WrongVectors,
    described_inputs,
    draft_manifest,
    fingerprint,
    open_bundle,
    write_bundle,
    write_manifest,
)
from export.encoder import (
    BadVectors,
    CannotRun,
    OnnxEncoder,
    UnverifiedPrecision,
    WrongPrecision,
    check_vectors,
)
from export.precision import quantise_matrix
from export.to_onnx import compute_golden_vectors, export_checkpoint
from export.triton import write_repository
from export.verify import (
    PARITY,
    check_batch_invariance,
    check_torch_parity,
    collect_items,
    encode_in_batches,
    measure_losses,
    probes,
)
from media.audio import AudioSpec
from media.modality import Spec
from media.text import TextSpec, learn_tokenizer
from media.video import VideoSpec
from model.config import TrainConfig
from model.network.transformer import VLSA
from model.training import checkpoint
from model.training.loop import make_optimiser

from .makers import MODALITIES, ROOT, SPECS, TEXT, free_port, only_installed_by, wait_ready

SMOKE = TrainConfig.load("smoke").encoder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(checkpoint, bundle) of a small encoder that was never trained."""
    place = tmp_path_factory.mktemp("export")
    learn_tokenizer(["a red ball bounces", "the sound of rain"], 200, place / "tokenizer.json")
    torch.manual_seed(0)
    config = TrainConfig(encoder=replace(SMOKE, stem="convolution", stem_skip=True))
    model = VLSA(config.encoder)
    state = {"step": 1, "config": config.to_json(), "provenance": {"licences": ["CC0"]}, "best": {}}
    checkpoint.save(
        place / "checkpoint", model, make_optimiser(model, config), state, place / "tokenizer.json"
    )
    export_checkpoint(place, place / "bundle")
    return place / "checkpoint", place / "bundle"


def test_torch_and_onnx_agree_and_batches_do_not_matter(exported: tuple[Path, Path]) -> None:
    """Batches of 1, 2, 7 and 32; each item alone and in company."""
    encoder = OnnxEncoder.open(exported[1])
    checks = [*check_batch_invariance(encoder), *check_torch_parity(encoder, exported[0])]
    assert [c.encoding for c in checks] == 2 * ["video", "audio", "text"]
    assert all(c.good for c in checks), checks


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_another_precision_is_close_to_fp32(exported: tuple[Path, Path], precision: str) -> None:
    bundle = open_bundle(exported[1])
    plain, variant = OnnxEncoder(bundle), OnnxEncoder(bundle, precision=precision)
    for modality in bundle.manifest.modalities:
        x = probes(plain, modality, 7)
        # powers that float16 could not tell from zero
        quiet = x * np.float32(0.01) if modality == "audio" else x
        a, b = plain.embed(modality, quiet), variant.embed(modality, quiet)
        assert np.abs(a - b).max() > 0 and (a * b).sum(axis=1).min() > 0.999, modality


def test_a_precision_is_served_once_measured_and_only_if_it_keeps_its_recall(
    exported: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exported[1], folder)
    with pytest.raises(UnverifiedPrecision, match="int8"):
        OnnxEncoder.open(folder, precision="int8")
    manifest = open_bundle(folder).manifest
    for points, cosine, alike, good in (
        (-1.0, 0.99, None, True),
        (-1.0, 0.99, 0.9999, True),
        (-1.1, 0.99, None, False),
        (0.0, 0.97, None, False),
        (0.0, 0.99, 0.99989, False),
    ):
        fine = PrecisionLoss(max_abs=0.01, cosine=0.99, points=0.0)
        measured = {
            m: PrecisionLoss(max_abs=0.01, cosine=cosine, points=points, alike=alike)
            if m == "audio"
            else fine
            for m in manifest.modalities
        }
        write_manifest(folder, replace(manifest, variants={"cpu/int8": measured}))
        assert open_bundle(folder).manifest.fingerprint == manifest.fingerprint
        if good:
            assert OnnxEncoder.open(folder, precision="int8").precision == "int8"
        else:
            with pytest.raises(UnverifiedPrecision, match="audio"):
                OnnxEncoder.open(folder, precision="int8")


def test_fixed_shapes_on_a_device_change_no_vector(exported: tuple[Path, Path]) -> None:
    """The path of a device, by the provider there is: rows are padded, and what was padded is not
    returned.
    """
    encoder = OnnxEncoder.open(exported[1])
    for modality in encoder.manifest.modalities:
        x = probes(encoder, modality, 70)
        expected = encoder.embed(modality, x)
        encoder.provider = "cuda"
        encoder.warm()
        found = encoder.embed(modality, x)
        encoder.provider = "cpu"
        assert found.shape == expected.shape and np.abs(found - expected).max() <= PARITY


def test_weights_are_stored_once(exported: tuple[Path, Path]) -> None:
    state = torch.load(exported[0] / "weights.pt", weights_only=True)
    parts = ("decoder", "fill", "mask_token", "into_decoder", "match", "log_scale")
    encoder = sum(v.numel() for k, v in state.items() if not k.startswith(parts))
    dft = SMOKE.n_fft * (SMOKE.n_fft + 2) + SMOKE.bins * (SMOKE.n_fft // 2 + 1)
    assert (exported[1] / "weights.bin").stat().st_size < 4.4 * (encoder + dft)


@pytest.mark.parametrize(
    "file",
    ["video.onnx", "audio.onnx", "text.onnx", "weights.bin", "tokenizer.json", "manifest.json"],
)
def test_a_flipped_byte_is_refused_by_name(
    exported: tuple[Path, Path], tmp_path: Path, file: str
) -> None:
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
def test_another_format_is_refused(
    exported: tuple[Path, Path], tmp_path: Path, change: dict[str, int]
) -> None:
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


def test_golden_inputs_are_formulas() -> None:
    """The vectors of every bundle ever written were made of these numbers."""
    video = VideoSpec(frames=1, size=4).golden_input(2)
    assert video.shape == (2, 1, 4, 4, 3) and video.dtype == np.uint8
    assert video.ravel()[:8].tolist() == [0, 37, 74, 111, 148, 185, 222, 8]  # 7 * 37 - 251
    audio = AudioSpec(sample_rate=880, samples=3).golden_input(2)
    assert audio.shape == (2, 3) and audio.dtype == np.float32
    # a quarter of a period of 220 Hz, and half a period of 440 Hz
    assert audio[:, 1].tolist() == pytest.approx([0.3, 0.0], abs=1e-3)
    assert TextSpec(tokens=9).golden_input(2).tolist() == [[2, 5, 9, 3, 0], [2, 6, 10, 3, 0]]
    whole = TextSpec(tokens=7, pad_id=1, whole=True).golden_input(1)
    assert whole.tolist() == [[2, 5, 9, 3, 1, 1, 1]]


@pytest.mark.parametrize("spec", [SPECS.video, SPECS.audio, TEXT])
def test_inputs_of_a_spec_have_its_shape(spec: Spec) -> None:
    random = np.random.default_rng(0)
    inputs = [spec.golden_input(3)[0], spec.random_inputs(3, random)[0], *spec.odd_inputs()]
    arrays = [one for one in inputs if isinstance(one, np.ndarray)]
    for array in arrays:
        assert array.dtype == arrays[0].dtype
        assert -1 in spec.shape or array.shape == spec.shape


def test_the_fingerprint_is_of_weights_graphs_and_specs(exported: tuple[Path, Path]) -> None:
    m = open_bundle(exported[1]).manifest
    assert m.fingerprint == fingerprint(m.files, m.inputs, m.spaces, m.graphs, m.tokenizers)
    exact, sparse = m.inputs, replace(m.inputs.video, choice="keyframes")
    assert "choice" not in json.dumps(described_inputs(exact))
    others = replace(exact, video=sparse)
    assert m.fingerprint != fingerprint(m.files, others, m.spaces, m.graphs, m.tokenizers)
    opened = open_bundle(exported[1], "keyframes").manifest
    assert opened.inputs == others and opened.fingerprint != m.fingerprint
    other = replace(m.inputs, window_s=m.inputs.window_s + 1)
    assert m.fingerprint != fingerprint(m.files, other, m.spaces, m.graphs, m.tokenizers)
    assert m.fingerprint != fingerprint(
        m.files | {"weights.bin": "0" * 64}, m.inputs, m.spaces, m.graphs, m.tokenizers
    )
    padded = {
        "text": replace(m.tokenizers["text"], spec=replace(m.tokenizers["text"].spec, pad_id=1))
    }
    assert m.fingerprint != fingerprint(m.files, m.inputs, m.spaces, m.graphs, padded)


def test_outputs_are_checked() -> None:
    good = np.eye(3, dtype=np.float32)
    assert check_vectors("text", good, 3) is good
    for bad in (good * 2, good[:, :2], np.full((1, 3), np.nan, np.float32)):
        with pytest.raises(BadVectors):
            check_vectors("text", bad, 3)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is here"
)
def test_a_provider_that_is_not_there_is_named(exported: tuple[Path, Path]) -> None:
    with pytest.raises(CannotRun, match="cuda"):
        OnnxEncoder.open(exported[1], "cuda")


def test_export_replaces_a_bundle_whole(exported: tuple[Path, Path], tmp_path: Path) -> None:
    out, m = tmp_path / "bundle", open_bundle(exported[1]).manifest
    shutil.copytree(exported[1], out)
    (out / "old").write_text("x")

    def fill(half: Path) -> None:
        for file in m.files:
            shutil.copy(exported[1] / file, half / file)

    plan = draft_manifest(m.name, m.inputs, m.spaces, m.tokenizers, m.provenance)
    again = write_bundle(out, plan, fill, compute_golden_vectors)
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"] and not (out / "old").exists()
    assert again.manifest == m and m.provenance["licences"] == ["CC0"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(InTheWay):
        write_bundle(tmp_path / "mine", plan, fill, compute_golden_vectors)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_the_default_bundle_opens_and_is_small() -> None:
    folder = ROOT / "bundles" / "world"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 32_000_000
    assert open_bundle(folder).manifest.routes(["text"], "video")[0].space == "vlsa"
    with pytest.raises(BadBundle):
        open_bundle(folder.parent)


@pytest.mark.parametrize(
    ("precision", "provider", "says"), [("fp16", "cpu", "GPUs"), ("int8", "cuda", "CPUs")]
)
def test_a_precision_of_other_providers_is_refused_in_words(
    precision: str, provider: str, says: str
) -> None:
    with pytest.raises(
        WrongPrecision,
        match=f"{precision} is for {says}.* with provider {provider} choose fp32 or ",
    ):
        OnnxEncoder.open(ROOT / "bundles" / "world", provider, precision=precision)


def test_the_service_says_that_fp16_is_for_gpus(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "service",
        "--precision",
        "fp16",
        "--data",
        str(tmp_path / "data"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "precision fp16 is for GPUs" in done.stderr and "int8" in done.stderr


def test_eight_bits_keep_a_matrix_to_half_a_step_of_its_blocks() -> None:
    random = np.random.default_rng(0)
    weight = (
        random.normal(size=(37, 5)).astype(np.float32)
        * np.logspace(-6, 3, 37, dtype=np.float32)[:, None]
    )
    weight[:, 3] = 0.0
    values, scales = quantise_matrix(weight)
    found = ((values.astype(np.float32) - 128) * scales[..., None]).reshape(5, -1)
    assert np.all(
        np.abs(found[:, :37] - weight.T).reshape(-1)
        <= np.repeat(scales, 16, axis=1)[:, :37].reshape(-1) / 2
    )
    assert not found[:, 37:].any() and not found[3].any() and values.min() >= 1


@pytest.mark.slow
@pytest.mark.parametrize("bundle", ["default", "world"])
def test_in_int8_an_item_has_the_vector_that_it_has_alone(bundle: str) -> None:
    """Among loud, quiet, busy, long and odd ones, in batches of 2, 7 and 32; recordings of the
    sample library, too.
    """
    encoder = OnnxEncoder(open_bundle(ROOT / "bundles" / bundle), precision="int8")
    for modality, items in collect_items(encoder).items():
        some = items[::3] if modality != "text" else items
        vectors = encode_in_batches(encoder, modality, some)
        assert (vectors * vectors[0]).sum(axis=-1).min() >= 0.9999, modality


class Leaking(OnnxEncoder):
    """A twentieth of its neighbour gets into each vector, in batches of more than two."""

    def embed(self, encoding: str, arrays: NDArray[Any]) -> NDArray[np.float32]:
        vectors = super().embed(encoding, arrays)
        if len(vectors) > 2:
            vectors = vectors + 0.05 * np.roll(vectors, 1, axis=0)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_verify_notices_a_vector_that_depends_on_its_batch(
    exported: tuple[Path, Path], tmp_path: Path
) -> None:
    """And what it writes down is the worst of all batches:
    alone, and in pairs, nothing is amiss.
    """
    bundle = open_bundle(exported[1])
    plain, leaking = OnnxEncoder(bundle), Leaking(bundle)
    items = collect_items(plain)
    assert not any(check.good for check in check_batch_invariance(leaking, items))
    clips = Clips.open(
        "world:test:8", bundle.manifest.inputs, tmp_path / "cache", tmp_path / "world"
    )
    for encoding, found in measure_losses(plain, leaking, clips, items).items():
        assert found.alike is not None and found.alike < 0.9999 and not found.good
        assert abs(found.cosine - found.alike) < 1e-4, encoding


@pytest.mark.slow
def test_the_guides_commands_of_precision_run_where_only_the_extra_cpu_is(tmp_path: Path) -> None:
    """`verify` measures a bundle and writes it down, then int8 is served. The bundle is the smaller
    one.
    """
    page = (ROOT / "docs" / "guides" / "gpu.md").read_text("utf-8")
    boxes = re.findall(r"```sh\n(.*?)```", page, re.S)
    box = next(box for box in boxes if "TERCET_PRECISION=int8" in box)
    verified, served = [line for line in box.splitlines() if not line.startswith("#")]
    folder = tmp_path / "bundles" / "default"
    shutil.copytree(ROOT / "bundles" / "world", folder)
    write_manifest(folder, replace(open_bundle(folder).manifest, variants={}))
    (tmp_path / "sample").symlink_to(ROOT / "sample")
    (tmp_path / "only").mkdir()
    env = only_installed_by(tmp_path / "only", "cpu") | {"TERCET_PORT": str(free_port())}
    command = tmp_path / "bin" / "tercet"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m service.cli "$@"\n')
    command.chmod(0o755)
    env["PATH"] = f"{command.parent}:{os.environ['PATH']}"
    imports = subprocess.run(
        [sys.executable, "-c", "import sympy"], env=env, capture_output=True, text=True
    )
    assert "No module named 'sympy'" in imports.stderr
    done = subprocess.run(
        ["bash", "-c", verified], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0 and " 0 checks failed" in done.stdout, (
        done.stdout,
        done.stderr[-2000:],
    )
    measured = open_bundle(folder).manifest.variants["cpu/int8"]
    assert set(measured) == set(MODALITIES)
    assert all(
        m.cosine > 0.98 and m.alike is not None and m.alike >= 0.9999 for m in measured.values()
    ), measured
    service = subprocess.Popen(["bash", "-c", f"exec env {served}"], cwd=tmp_path, env=env)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{env['TERCET_PORT']}", timeout=60) as client:
            wait_ready(client, service)
            assert client.post("/v1/embed/text", json={"texts": ["a dog"]}).status_code == 200
    finally:
        service.terminate()
        service.wait(30)


def test_a_triton_repository_meets_tritons_own_schema(
    exported: tuple[Path, Path], tmp_path: Path
) -> None:
    bundle = open_bundle(exported[1])
    names = write_repository(bundle, tmp_path / "models", instances=2)
    assert sorted(names) == sorted(path.name for path in (tmp_path / "models").iterdir())
    for name, encoding in zip(names, bundle.manifest.graphs, strict=True):
        folder = tmp_path / "models" / name
        config = text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())
        graph = onnxruntime.InferenceSession(
            str(folder / "1" / "model.onnx"), providers=["CPUExecutionProvider"]
        )
        (given,), (output,) = graph.get_inputs(), graph.get_outputs()
        assert (config.name, config.input[0].name, config.output[0].name) == (
            name,
            given.name,
            output.name,
        )
        told = [n if isinstance(n, int) else -1 for n in given.shape[1:]]
        assert list(config.input[0].dims) == told and list(config.output[0].dims) == [
            bundle.manifest.dims[encoding]
        ]
        assert config.instance_group[0].count == 2 and config.dynamic_batching.priority_levels == 2
        assert (folder / "tokenizer.json").exists() == (encoding == "text")
        with pytest.raises(InTheWay):
            write_repository(bundle, tmp_path / "models")


@pytest.mark.slow
def test_memory_stays_flat_over_two_thousand_requests() -> None:
    """Batches of every size and texts of every length; what the allocator keeps it reuses."""
    encoder, random = (
        OnnxEncoder.open(ROOT / "bundles" / "world", threads=1),
        np.random.default_rng(0),
    )
    words = ["a", "red", "ball", "the", "sound", "of", "rain", "barking", "loudly"]
    seen = []
    for n in range(2000):
        texts = [
            " ".join(random.choice(words, random.integers(1, 30)))
            for _ in range(random.integers(1, 5))
        ]
        encoder.embed("text", encoder.tokens(texts, "text"))
        if n % 40 == 0:
            encoder.embed("audio", probes(encoder, "audio", int(random.integers(1, 5))))
            encoder.embed("video", probes(encoder, "video", int(random.integers(1, 5))))
        seen.append(psutil.Process().memory_info().rss / 2**20)
    assert max(seen[1500:]) - max(seen[400:500]) < 16, (seen[0], seen[499], seen[-1])


def test_the_command_and_the_service_refuse_an_altered_bundle_by_name(
    exported: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exported[1], folder)
    raw = bytearray((folder / "audio.onnx").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "audio.onnx").write_bytes(raw)
    for command in (
        ["export", "verify", str(folder)],
        ["service", "--bundle", str(folder), "--data", str(tmp_path)],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 1 and "audio.onnx is not the file" in done.stderr, done.stderr
