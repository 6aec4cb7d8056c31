"""VATT: two spaces one after the other, waveforms as they are, and the way to a service."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from export.encoder import OnnxEncoder
from export.to_onnx import export_checkpoint
from export.verify import check_batch_invariance, check_torch_parity
from media.errors import BadConfig
from model.config import TrainConfig
from model.methods import vatt
from model.network.masking import blank_patches
from model.network.transformer import VLSA, FirstSpace
from model.training.checkpoint import load
from model.training.loop import train
from model.training.losses import terms_on
from model.training.tables import make_network

from .makers import make_wav, serving
from .test_methods import assert_same, gradients_of, inputs_of, some_batch, unit

SMOKE = TrainConfig.load("smoke")
# 40,000 samples: ten patches, or 13, of which the last ends with zeros
TEN, THIRTEEN = 4000, 3154
WAVEFORM = replace(SMOKE.encoder, waveform_patch=TEN)


def test_the_first_space_is_on_the_way_to_the_embedding() -> None:
    """(3, 4) is (0.6, 0.8) in the first space, and doubling its second value gives the embedding
    (0.6, 1.6), of unit length. A text goes to the embedding alone.
    """
    network = make_network(replace(SMOKE, encoder=replace(SMOKE.encoder, dim=2)))
    to_embedding = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        to_embedding.weight.copy_(torch.diag(torch.tensor([1.0, 2.0])))
    network.first_space = FirstSpace(("audio",), 2, to_embedding)
    for modality in ("audio", "text"):
        network.heads[modality] = nn.Linear(2, 2, bias=False)
        nn.init.eye_(network.heads[modality].weight)
    out = torch.tensor([[[2.0, 5.0], [4.0, 3.0]]])  # two tokens, whose mean is (3, 4)
    expected = normalize(torch.tensor([[0.6, 1.6]]))
    assert torch.allclose(network.pool("audio", out), expected)
    assert network.first_vectors is not None
    assert torch.allclose(network.first_vectors, torch.tensor([[0.6, 0.8]]))
    assert torch.allclose(network.pool("text", out), torch.tensor([[0.6, 0.8]]))


def test_the_first_space_is_larger_and_has_its_own_contrast() -> None:
    config = replace(SMOKE, methods={"vatt": {"times": 3}})
    model = make_network(config)
    model.embed("audio", some_batch(config).waveforms)
    assert model.first_vectors is not None
    assert model.first_vectors.shape == (10, 3 * SMOKE.encoder.dim)
    names = {term.name for term in terms_on(config)}
    assert {"first_audio_video", "several_audio_texts", "audio_video_match"} <= names
    assert {"audio_video", "audio_text", "video_text"}.isdisjoint(names)
    x = unit([1, 0], [0, 1], [0, 1])
    vectors = {"video": x, "audio": x, "first_video": x, "first_audio": x}
    inputs = inputs_of(vectors, {"audio": [1, 1, 0]})
    loss = vatt.first_term(inputs, "video", "audio", "first_video", "first_audio")
    assert loss is not None and loss.item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_a_token_of_sound_is_a_linear_map_of_its_samples() -> None:
    torch.manual_seed(0)
    for patch, count in ((TEN, 10), (THIRTEEN, 13)):
        encoder = replace(SMOKE.encoder, waveform_patch=patch)
        assert encoder.grid["audio"] == (1, count)
        model = VLSA(encoder)
        waveform = torch.randn(2, encoder.samples)
        tokens = model.image_tokens(
            "audio", model.features("audio", model.images("audio", waveform))
        )
        last = torch.zeros(2, patch)
        left = encoder.samples - (count - 1) * patch
        last[:, :left] = waveform[:, -left:]
        for place, samples in ((1, waveform[:, patch : 2 * patch]), (count - 1, last)):
            expected = model.stems["audio"].project(samples) + model.position_table("audio")[place]
            assert (tokens[:, place] - expected).abs().max() < 1e-5


def test_quiet_waveforms_are_amplified_as_for_a_spectrogram() -> None:
    model = VLSA(replace(WAVEFORM, quiet_peak=0.2))
    quiet = 0.05 * torch.ones(1, WAVEFORM.samples)
    assert model.images("audio", quiet).max().item() == pytest.approx(0.2)


def test_what_is_hidden_of_a_waveform_is_blank() -> None:
    sound = torch.arange(1.0, 7.0).view(1, 1, 1, 1, 6)
    blank = blank_patches(sound, torch.tensor([[False, True, False]]), patch=(1, 2))
    assert blank.flatten().tolist() == [1, 2, 0, 0, 5, 6]


def test_a_waveform_goes_through_the_joint_pass_and_beside_convolutions() -> None:
    """A quarter of ten patches is seen, the rest predicted, in pieces as at once."""
    encoder = replace(WAVEFORM, stem="convolution", stem_skip=True)
    config = TrainConfig(encoder=encoder, batch=10)
    whole = gradients_of(config, some_batch(config))
    assert_same(gradients_of(replace(config, micro_batch=4), some_batch(config)), whole)
    model = VLSA(encoder)
    assert "audio" not in model.stem_skips and "video" in model.stem_skips
    assert model.fill["audio"].out_features == TEN


def test_settings_that_a_waveform_cannot_have() -> None:
    with pytest.raises(BadConfig, match="spec_augment needs a spectrogram"):
        TrainConfig(encoder=WAVEFORM, spec_augment=True)
    with pytest.raises(BadConfig, match="number of samples, or 0"):
        replace(WAVEFORM, waveform_patch=-1)


def test_vatt_trains_resumes_exports_and_serves(tmp_path: Path) -> None:
    """Both spaces and the waveform: a bundle has the network's vectors, and a service answers."""
    config = replace(
        SMOKE,
        encoder=WAVEFORM,
        manifests=("world:train:8",),
        validation="world:validation:8",
        batch=8,
        steps=4,
        checkpoint_steps=2,
        methods={"vatt": {"texts": 2}},
        threads=1,
    )
    media, run = tmp_path / "media", tmp_path / "run"
    train(replace(config, steps=2), run, resume=False, media=media, log=lambda _: None)
    before = load(run)[0].state_dict()
    train(config, run, resume=True, media=media, log=lambda _: None)
    model = load(run)[0].eval()
    changed = model.state_dict()
    for name in ("first_space.to_embedding.0.weight", "stems.audio.project.weight"):
        assert not torch.equal(changed[name], before[name]), name
    figures = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"first_audio_video", "several_video_texts", "local"} <= figures.keys()
    bundle = export_checkpoint(run, tmp_path / "bundle")
    encoder = OnnxEncoder.open(bundle.folder)
    checks = [*check_batch_invariance(encoder), *check_torch_parity(encoder, run / "checkpoint")]
    assert all(check.good for check in checks), checks
    waveforms = np.random.default_rng(0).normal(0, 0.1, (3, WAVEFORM.samples)).astype(np.float32)
    with torch.no_grad():
        expected = model.embed("audio", torch.from_numpy(waveforms)).numpy()
    assert np.abs(encoder.embed("audio", waveforms) - expected).max() < 1e-5
    sound = make_wav(tmp_path / "sound.wav", seconds=2.0)
    with serving(tmp_path / "data", "--bundle", str(bundle.folder), port=8497) as (client, _):
        with sound.open("rb") as file:
            answer = client.post("/v1/embed/audio", files={"file": file})
        assert answer.status_code == 200, answer.text
        assert client.post("/v1/embed/text", json={"texts": ["rain"]}).status_code == 200
