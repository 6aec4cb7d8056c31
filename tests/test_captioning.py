"""Captions told beside contrast, and networks for training alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from export.to_onnx import export_checkpoint
from media.errors import BadConfig
from media.text import learn_tokenizer
from model.methods import captioning
from model.network.transformer import TrunkPass
from model.training import checkpoint
from model.training.distributed import join_process_group
from model.training.loop import make_optimiser, new_model, train_step

from .test_methods import (
    ENCODER,
    config_of,
    inputs_of,
    make_model,
    some_batch,
)


def test_what_a_caption_costs() -> None:
    """The right one of four words has three times the chance of any other: 3 / 6, for two words.
    The fourth place is padding.
    """
    words = torch.tensor([[2, 1, 3, 0]])
    logits = torch.zeros(1, 3, 4)
    for place, word in enumerate((1, 3)):
        logits[0, place, word] = math.log(3)
    states = TrunkPass(torch.zeros(1, 1, 4))
    found = captioning.tell(lambda *_: logits, words, states)  # type: ignore[arg-type]
    assert found[0].tolist() == pytest.approx([2 * math.log(2), 2])
    inputs = inputs_of({"told": torch.tensor([[6.0, 2.0], [0.0, 0.0], [1.0, 3.0]])})
    mean = captioning.caption_term(inputs, "audio", "audio_caption", "told")
    assert mean is not None and mean.item() == pytest.approx(7 / 5)
    assert captioning.caption_term(inputs_of({"told": torch.zeros(3, 2)}), "told") is None


def test_a_word_is_told_from_those_before_it_and_from_what_is_there() -> None:
    torch.manual_seed(0)
    captioner = captioning.Captioner(50, 8, 4, captioning.Settings(width=16, heads=2))
    words = torch.randint(4, 50, (2, 8))
    present = torch.tensor([[True, True, False], [True, True, True]])
    seen = torch.randn(2, 3, 4)
    told = captioner(words, TrunkPass(seen, present=present))
    assert told.shape == (2, 7, 50)
    later = words.clone()
    later[:, 4] = 3
    changed = (captioner(later, TrunkPass(seen, present=present)) - told).abs().amax(2) > 1e-6
    assert changed.tolist() == [[False] * 4 + [True] * 3] * 2
    other = seen.clone()
    other[:, 2] += 1.0  # which the first recording does not have
    changed = (captioner(words, TrunkPass(other, present=present)) - told).abs().amax((1, 2)) > 1e-6
    assert changed.tolist() == [False, True]


def test_a_caption_is_learned() -> None:
    """In a few steps on one batch a word costs less than half of what it cost at first."""
    config = replace(config_of("captioning"), learning_rate=1e-2, warmup=0.0, steps=60)
    model = make_model(config)
    optimiser = make_optimiser(model, config)
    costs = []
    for step in range(30):
        found = train_step(
            model,
            optimiser,
            some_batch(config),
            config=config,
            step=step,
            processes=join_process_group(),
        )
        costs.append(found["audio_captioning"])
    assert costs[0] == pytest.approx(math.log(ENCODER.vocabulary), rel=0.1)
    assert costs[-1] < costs[0] / 2


def test_parts_are_not_an_encoders_weights(tmp_path: Path) -> None:
    """A run may start from one with other parts, a vector is what it is without them, and a bundle
    has none of them.
    """
    config = config_of("captioning")
    model = make_model(config).eval()
    told, tokenizer = tmp_path / "told", tmp_path / "tokenizer.json"
    learn_tokenizer(["a red ball rolls in the rain"], ENCODER.vocabulary, tokenizer)
    state = {"step": 0, "config": config.to_json(), "provenance": {}}
    checkpoint.save(told / "checkpoint", model, make_optimiser(model, config), state, tokenizer)
    plain = replace(config, methods={}, start_from=str(told))
    begun = new_model(plain, tokenizer)
    assert not begun.parts and model.parts["captioner"]
    words = torch.randint(4, 200, (3, 9))
    assert torch.equal(begun.embed("text", words), model.embed("text", words))
    told_anew = new_model(replace(plain, methods=config.methods), tokenizer)
    assert set(told_anew.state_dict()) == set(model.state_dict())
    bundle = export_checkpoint(told, tmp_path / "bundle")
    weights_bytes = (bundle.folder / "weights.bin").stat().st_size
    assert weights_bytes < 4 * sum(x.numel() for x in model.parts.parameters())
    with pytest.raises(BadConfig, match="a multiple of heads"):
        captioning.rows(captioning.Settings(width=30))
