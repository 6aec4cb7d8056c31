"""Messages between frames: who sees whom, what is sent, and the way to a bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export.encoder import OnnxEncoder
from export.to_onnx import export_checkpoint
from export.verify import check_batch_invariance, check_torch_parity
from model.config import EncoderConfig, TrainConfig
from model.methods.xclip import Messages
from model.network.transformer import Block
from model.training.checkpoint import load
from model.training.loop import train
from model.training.tables import make_network

from .test_methods import assert_same, config_of, gradients_of

SMOKE = TrainConfig.load("smoke")
MESSAGES = {"xclip": {}}
FRAMES, PATCHES = SMOKE.encoder.grid["video"]


def copy_means(config: EncoderConfig) -> Messages:
    """Messages that are the means of their frames, and say nothing to each other."""
    messages = Messages(config).double()
    nn.init.eye_(messages.write.weight)
    for parameter in (messages.write.bias, messages.out.weight, messages.out.bias):
        nn.init.zeros_(parameter)
    return messages


def test_a_message_is_of_its_frame_and_only_its_frame_sees_it() -> None:
    """Three tokens of two frames, 1 and 3 of the second and 5 of the first."""
    config = replace(SMOKE.encoder, width=2, heads=1)
    x = torch.tensor([[[1.0, 0], [3.0, 0], [5.0, 0]]], dtype=torch.float64)
    sent, bias = copy_means(config)(x, torch.tensor([[PATCHES, PATCHES + 1, 0]]))
    assert sent.tolist() == [[[5.0, 0.0], [2.0, 0.0]]]
    seen = bias[0, 0] == 0
    assert seen.tolist() == [
        [True, True, False, False, True],
        [True, True, False, False, True],
        [False, False, True, True, False],
    ]


def test_messages_read_each_other() -> None:
    """Queries and keys are zeros, so each reads the mean of all that were sent. With nothing of the
    first frame, that is the second one's own.
    """
    config = replace(SMOKE.encoder, width=2, heads=1)
    messages = copy_means(config)
    messages.norm = nn.Identity()  # type: ignore[assignment]
    nn.init.eye_(messages.out.weight)
    with torch.no_grad():
        messages.qkv.bias.zero_()
        messages.qkv.weight.copy_(torch.cat([torch.zeros(4, 2), torch.eye(2)]))
    x = torch.tensor([[[1.0, 0], [3.0, 0], [5.0, 0]]], dtype=torch.float64)
    sent, _ = messages(x, torch.tensor([[PATCHES, PATCHES + 1, 0]]))
    assert sent[0, :, 0].tolist() == pytest.approx([5 + 3.5, 2 + 3.5])
    sent, _ = messages(x[:, :2], torch.tensor([[PATCHES, PATCHES + 1]]))
    assert sent[0, 1, 0].item() == pytest.approx(2 + 2)


def test_another_frame_is_known_by_its_message_alone() -> None:
    """Without what messages read of each other, no token of a frame knows of another frame."""
    torch.manual_seed(0)
    config = SMOKE.encoder
    x = torch.randn(1, FRAMES * PATCHES, config.width)
    other = x.clone()
    other[:, PATCHES:] += 1.0
    segments = [("video", FRAMES * PATCHES)]
    messages = Messages(config)
    block = Block(config.width, config.heads, True, messages=messages)
    told, changed = (block(tokens, segments, None)[:, :PATCHES] for tokens in (x, other))
    assert (told - changed).abs().max() > 1e-4
    nn.init.zeros_(messages.out.weight)
    told, changed = (block(tokens, segments, None)[:, :PATCHES] for tokens in (x, other))
    assert torch.equal(told, changed)


def test_places_say_what_the_order_of_tokens_does_not() -> None:
    """All tokens in another order give the same, each at its new place."""
    torch.manual_seed(0)
    config = SMOKE.encoder
    block = Block(config.width, config.heads, True, messages=Messages(config))
    x = torch.randn(2, FRAMES * PATCHES, config.width)
    order = torch.randperm(FRAMES * PATCHES)
    segments = [("video", FRAMES * PATCHES)]
    plain = block(x, segments, None)
    shuffled = block(x[:, order], segments, None, order[None].expand(2, -1))
    assert (shuffled - plain[:, order]).abs().max() < 1e-5


def test_gradients_are_those_of_differences() -> None:
    torch.manual_seed(3)
    config = replace(SMOKE.encoder, width=4, heads=2)
    block = Block(4, 2, True, messages=Messages(config)).double()
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    places = torch.tensor([[0, 1, PATCHES, 2, PATCHES + 2], [0, 1, 2, 3, 4]])

    def run(given: Tensor) -> Tensor:
        out: Tensor = block(given, [("video", 5)], None, places)
        return out

    assert torch.autograd.gradcheck(run, x.requires_grad_(), eps=1e-6, atol=1e-5)


def test_only_videos_alone_have_messages() -> None:
    """Sounds and texts go through the blocks as they would without; so does the joint pass."""
    torch.manual_seed(0)
    encoder = replace(SMOKE.encoder, depth=3)
    model = make_network(replace(SMOKE, encoder=encoder, methods={"xclip": {"every": 2}})).eval()
    kinds = [type(block.messages) for block in model.blocks]
    assert kinds == [Messages, type(None), Messages]
    assert all(block.messages is None for block in model.decoder)
    frames = torch.randint(0, 256, (2, *encoder.video.shape), dtype=torch.uint8)
    sound, words = 0.1 * torch.randn(2, encoder.samples), torch.randint(4, 200, (2, 7))
    there = torch.ones(2, dtype=torch.bool)
    inputs = [("video", frames, there), ("audio", sound, there), ("text", words, there)]
    with torch.no_grad():
        before = [model.embed(m, x) for m, x, _ in inputs]
        jointly = model.encode_together(inputs)
        for block in model.blocks:
            block.messages = None
        after = [model.embed(m, x) for m, x, _ in inputs]
        assert (before[0] - after[0]).abs().max() > 1e-3
        assert all(torch.equal(a, b) for a, b in zip(before[1:], after[1:], strict=True))
        again = model.encode_together(inputs)
        assert all(torch.equal(a, b) for a, b in zip(jointly, again, strict=True))


def test_activations_that_are_computed_anew_have_the_same_gradients() -> None:
    config = config_of("xclip")
    assert_same(gradients_of(replace(config, recompute=True)), gradients_of(config))


def test_messages_train_resume_and_export(tmp_path: Path) -> None:
    """A resumed run goes on with the messages. Its bundle's vectors are the network's."""
    config = replace(
        SMOKE,
        manifests=("world:train:8",),
        validation="world:validation:8",
        batch=8,
        steps=4,
        checkpoint_steps=2,
        methods=MESSAGES,
        threads=1,
    )
    media, run = tmp_path / "media", tmp_path / "run"
    train(replace(config, steps=2), run, resume=False, media=media, log=lambda _: None)
    before = load(run)[0].state_dict()
    train(config, run, resume=True, media=media, log=lambda _: None)
    model = load(run)[0].eval()
    for name, x in model.state_dict().items():
        if ".messages." in name:
            assert not torch.equal(x, before[name]), name
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["local"] > 0
    bundle = export_checkpoint(run, tmp_path / "bundle")
    encoder = OnnxEncoder.open(bundle.folder)
    checks = [*check_batch_invariance(encoder), *check_torch_parity(encoder, run / "checkpoint")]
    assert all(check.good for check in checks), checks
    frames = np.random.default_rng(0).integers(0, 256, (5, *SMOKE.encoder.video.shape))
    frames = frames.astype(np.uint8)
    with torch.no_grad():
        expected = model.embed("video", torch.from_numpy(frames)).numpy()
    assert np.abs(encoder.embed("video", frames) - expected).max() < 1e-5
