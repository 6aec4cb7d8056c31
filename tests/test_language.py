"""The published tokenizer and language model, as the text stem takes them over."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from media.errors import BadConfig
from media.text import TextSpec, TextTokens
from model.config import TrainConfig
from model.data.prepare import prepare
from model.network.language import MiniLM, cut_tokenizer, published
from model.network.transformer import VLSA
from model.training.loop import new_model, train
from model.training.losses import relational_distillation
from model.training.step import StepRandomness, compute_gradients

from .makers import make_wav
from .test_train import some_batch

SMOKE = TrainConfig.load("smoke").encoder
SAID = ["a rooster crowing", "a dog barking"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("language") / "tokenizer.json"
    cut_tokenizer([*SAID, "a puppy yapping"], 16_000, file)
    return file


def test_a_cut_tokenizer_keeps_the_words_of_the_captions(tokenizer: Path) -> None:
    known = json.loads(tokenizer.read_text("utf-8"))["model"]["vocab"]
    assert len(known) == 16_000 and sorted(known.values()) == list(range(16_000))
    assert known["[PAD]"] == 0 and "rooster" in known and "xander" not in known
    ids = TextTokens(tokenizer, TextSpec(tokens=12))(["A Rooster", "xander"])
    names = {i: t for t, i in known.items()}
    assert [names[i] for i in ids[0] if i] == ["[CLS]", "a", "rooster", "[SEP]"]
    pieces = [names[i] for i in ids[1] if i][1:-1]
    assert len(pieces) > 1 and "".join(pieces).replace("##", "") == "xander"


def test_the_whole_tokenizer_is_the_papers(tmp_path: Path) -> None:
    cut_tokenizer([], TrainConfig.load("base").encoder.vocabulary, tmp_path / "t.json")
    ids = TextTokens(tmp_path / "t.json", TextSpec(tokens=40))(["a dog barking"])
    assert ids.tolist() == [[101, 1037, 3899, 19372, 102]]  # bert-base-uncased


def test_sentences_that_mean_the_same_are_close(tokenizer: Path) -> None:
    """The published weights do what they are known for, as int8 and with their words in another
    order.
    """
    model = MiniLM(16_000, 32)
    model.load_published(tokenizer)
    ids = torch.from_numpy(
        TextTokens(tokenizer, TextSpec(tokens=32))(
            ["a puppy yapping", "a dog barking", "a clock ticking", "it is raining"]
        )
    )
    seen = ids != 0
    states = model(ids, seen) * seen[..., None]
    sentences = torch.nn.functional.normalize(states.sum(1), dim=1)
    close = sentences[0] @ sentences[1:].T
    assert close[0] > 0.4 > 0.3 > max(close[1:])
    assert not any(p.requires_grad for p in model.parameters())


def test_what_is_hidden_from_the_language_model_has_no_say() -> None:
    model = MiniLM(50, 8)
    torch.manual_seed(0)
    for name, value in model.named_buffers():
        value.copy_(
            torch.randint(-90, 90, value.shape)
            if value.dtype == torch.int8
            else torch.rand(value.shape) * 0.01
        )
        assert name
    ids, seen = torch.tensor([[2, 7, 9, 3]]), torch.tensor([[True, True, False, True]])
    other = torch.tensor([[2, 7, 40, 3]])
    assert torch.allclose(
        model(ids, seen)[:, [0, 1, 3]], model(other, seen)[:, [0, 1, 3]], atol=1e-6
    )


def test_the_default_recipe_takes_a_step(tokenizer: Path) -> None:
    """Every term is there, the language model is left as it was, and everything else learns."""
    encoder = replace(
        SMOKE,
        stem="convolution",
        stem_skip=True,
        tokenizer="bert",
        text_stem="minilm",
        vocabulary=16_000,
    )
    config = TrainConfig(
        encoder=encoder, batch=12, relational_distillation_weight=1.0, spec_augment=True
    )
    model = new_model(config, tokenizer)
    terms = compute_gradients(model, some_batch(), StepRandomness.draw(config, 12, 0), config)
    assert 0 < terms["relational_distillation"] < 4 and terms["total"].isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_sound_is_moved_to_the_captions_it_is_like() -> None:
    """exp(40 x 0.9) against exp(40 x 0.55): like the first caption, it becomes that; like none, it
    stays.
    """
    model = VLSA(replace(SMOKE, dim=3, memory=4))
    model.fill_memory(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    like, unlike = torch.tensor([[0.9, 0.0, 0.19**0.5]]), torch.tensor([[0.3, 0.3, 0.82**0.5]])
    assert torch.allclose(model.move_to_memory(like), torch.tensor([[1.0, 0.0, 0.0]]), atol=1e-5)
    assert torch.allclose(model.move_to_memory(unlike), unlike, atol=1e-3)
    both = model.move_to_memory(torch.tensor([[0.5**0.5, 0.5**0.5, 0.0]]))
    # between the two
    assert torch.allclose(both, torch.tensor([[0.5**0.5, 0.5**0.5, 0.0]]), atol=1e-5)


def test_relational_distillation_is_the_difference_of_cosines() -> None:
    """Two vectors at a right angle whose sentences are one: (0 - 1)^2 for the one pair, seen from
    both ends.
    """
    vectors, same = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert (
        relational_distillation(vectors, same).item() == 1.0
        and relational_distillation(vectors, -vectors).item() == 0.0
    )
    assert relational_distillation(vectors[:1], same[:1]).item() == 0.0


def test_words_by_chance_are_the_same_for_everyone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        written, _ = prepare("words", published(), "train", tmp_path / name)
        assert written == 12_000
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_training_remembers_the_captions_of_sounds(tmp_path: Path) -> None:
    """Those of sounds without pictures, as the text encoder then puts them; the measure it must
    beat is named right.
    """
    captions = {"a": ["a low tone", "a hum"], "b": ["a high tone"]}
    rows = [
        {
            "path": make_wav(tmp_path / f"{name}{n}.wav", hz=300.0 * (1 + 3 * (name == "b"))).name,
            "group": name,
        }
        | {"captions": [{"text": text, "about": ["audio"]} for text in said]}
        for name, said in captions.items()
        for n in range(4)
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = TrainConfig(
        encoder=replace(SMOKE, memory=8),
        manifests=(str(tmp_path / "m.jsonl"),),
        validation=str(tmp_path / "m.jsonl"),
        steps=2,
        batch=8,
        best_by="audio-text R@1",
    )
    model = train(config, tmp_path / "run", resume=False, log=lambda _: None)
    tokens = TextTokens(tmp_path / "run" / "tokenizer.json", config.encoder.text)
    expected = model.encode_text(torch.from_numpy(tokens(["a low tone", "a hum", "a high tone"])))[
        0
    ]
    assert torch.allclose(model.memory[:3], expected, atol=1e-6) and not model.memory[3:].any()
    with pytest.raises(BadConfig, match="cannot be measured"):
        train(
            replace(config, best_by="text-video R@10"),
            tmp_path / "other",
            resume=False,
            log=lambda _: None,
        )
