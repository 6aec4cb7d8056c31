"""The network, its losses and its training, against cases worked out by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from media.errors import BadConfig
from model.config import PRESETS, TrainConfig, preset_names
from model.network.masking import blank_patches, choose_hidden, put_back, sort_tokens
from model.network.transformer import VLSA, Masked, Spectrogram
from model.training import checkpoint
from model.training.loop import make_optimiser
from model.training.losses import (
    TERMS,
    LossTerm,
    TermInputs,
    compute_terms,
    contrast_term,
    info_nce,
    masked_patches,
    masked_tokens,
    matching,
    needed_vectors,
    weighted_sum,
)

SMOKE = TrainConfig.load("smoke").encoder
TINY = TrainConfig.load("tiny").encoder
BASE = TrainConfig.load("base").encoder


def tokens_of(config: str) -> list[int]:
    return [math.prod(g) for g in TrainConfig.load(config).encoder.grid.values()]


def test_base_has_the_papers_tokens() -> None:
    assert tokens_of("base") == [1568, 256, 40]
    assert BASE.samples == 65_536 and BASE.spectrogram_frames == 256


def test_base_has_the_papers_size() -> None:
    """156 million parameters in all; what the paper leaves open (the decoder, positions) accounts
    for the rest.
    """
    with torch.device("meta"):
        model = VLSA(BASE)
    assert model.spectrogram.filters.device.type == "cpu"
    assert abs(sum(p.numel() for p in model.parameters()) / 156e6 - 1) < 0.02
    assert sum(p.numel() for p in model.blocks.parameters()) == 12 * (12 * 768**2 + 13 * 768)


def test_presets_grow() -> None:
    sizes = [sum(p.numel() for p in VLSA(c).parameters()) for c in (SMOKE, TINY)]
    assert sizes[0] < sizes[1] < 5_000_000


def test_masks_hide_what_the_paper_hides() -> None:
    """75 % of every frame's patches, 75 % of the sound, 15 % of the words that are there."""
    torch.manual_seed(0)
    model = VLSA(TINY).eval()
    text = torch.zeros(2, 20, dtype=torch.int64)
    text[0, :20], text[1, :10] = 7, 7
    inputs = {
        "video": torch.randint(0, 255, (2, 8, 64, 64, 3), dtype=torch.uint8),
        "audio": 0.1 * torch.randn(2, TINY.samples),
        "text": text,
    }
    present = {
        "video": torch.tensor([True, False]),
        "audio": torch.tensor([True, True]),
        "text": torch.tensor([True, True]),
    }
    mask_noise = {m: torch.rand(2, math.prod(TINY.grid[m])) for m in inputs}
    parts = model.masked(inputs, present, mask_noise)
    assert model.hidden_counts(inputs, present).tolist() == [96, 192, 5]
    hidden = parts["video"].masked.unflatten(1, (8, 16))
    assert (hidden[0].sum(1) == 12).all() and not hidden[1].any()
    assert parts["audio"].masked.sum(1).tolist() == [96, 96]
    assert parts["text"].masked.sum(1).tolist() == [3, 2]  # of 20 and of 10, rounded to even
    assert not parts["text"].masked[1, 10:].any()
    assert parts["video"].predicted.shape == (2, 128, 768)


def test_tokens_are_sorted_visible_then_absent_then_hidden() -> None:
    """A whole row and one whose last three tokens are absent; a third of six tokens is two."""
    noise = torch.tensor([[0.5, 0.9, 0.1, 0.3, 0.8, 0.2], [0.5, 0.9, 0.1, 0.3, 0.8, 0.2]])
    exists = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    found = sort_tokens(noise, exists, share=1 / 3)
    assert found.visible == 4
    assert found.order.tolist() == [[2, 5, 3, 0, 4, 1], [2, 0, 5, 3, 4, 1]]
    assert found.kept.tolist() == [[2, 5, 3, 0], [2, 0, 5, 3]]
    assert found.left_out.tolist() == [
        [False, True, False, False, True, False],
        [False, True, False, False, True, False],
    ]


def test_every_frame_hides_as_many_patches() -> None:
    """The noisiest four lie in the first frame; each of the two frames still hides two."""
    noise = torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.1, 0.4, 0.3, 0.2]])
    exists = torch.ones(1, 8, dtype=torch.bool)
    found = sort_tokens(noise, exists, share=0.5, frame_patches=4)
    assert found.order.tolist() == [[4, 7, 3, 2, 6, 5, 1, 0]]
    hidden = choose_hidden(noise, exists, torch.tensor([4]), frames=2)
    assert torch.equal(hidden, found.left_out)


def test_a_row_without_the_modality_hides_nothing() -> None:
    exists = torch.zeros(1, 4, dtype=torch.bool)
    found = sort_tokens(torch.tensor([[0.3, 0.2, 0.9, 0.1]]), exists, 0.5, frame_patches=2)
    assert found.visible == 2 and found.order.tolist() == [[3, 1, 0, 2]]
    assert not (found.left_out & exists).any()


def test_visible_tokens_go_back_to_their_places() -> None:
    found = sort_tokens(torch.tensor([[0.7, 0.1, 0.9, 0.3]]), torch.ones(1, 4) > 0, share=0.5)
    visible = torch.tensor([[[10.0], [30.0]]])  # tokens 1 and 3
    put = put_back(visible, torch.tensor([0.5]), found)
    assert put.flatten().tolist() == [0.5, 10.0, 0.5, 30.0]


def test_left_out_patches_are_blank() -> None:
    """An image of 2 x 4 pixels in patches of 2: the right one is left out."""
    images = torch.ones(1, 1, 1, 2, 4)
    blank = blank_patches(images, torch.tensor([[False, True]]), patch=(2, 2))
    assert blank[0, 0, 0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]


def test_an_embedding_sees_its_own_input_only() -> None:
    torch.manual_seed(0)
    model = VLSA(SMOKE).eval()
    text = torch.tensor([[2, 7, 8, 3, 0, 0], [2, 9, 10, 11, 12, 3]])
    together = model.embed("text", text)
    alone = model.embed("text", text[:1, :4])
    assert torch.allclose(together[0], alone[0], atol=1e-6)
    assert torch.allclose(together.norm(dim=1), torch.ones(2), atol=1e-5)


def test_norms_are_per_modality_or_shared() -> None:
    apart, shared = VLSA(SMOKE), VLSA(replace(SMOKE, modality_norms=False))
    assert set(apart.norm.norms) == {"video", "audio", "text"} and set(shared.norm.norms) == {"all"}


def test_spectrogram_finds_a_tone() -> None:
    spectrogram = Spectrogram(TINY)
    t = torch.arange(TINY.samples) / TINY.sample_rate
    out = spectrogram(torch.sin(2 * math.pi * 1000 * t)[None])[0]
    assert out.shape == (64, 512)
    filters = spectrogram.filters
    assert out[:, 250].argmax() == filters[:, round(1000 / (16_000 / 512))].argmax()
    # power 1 has log 0; filters average over their bins
    assert out[:, 250].max() == pytest.approx(7 / 3.5, abs=0.25)
    assert (filters.sum(1) - 1).abs().max() < 1e-5


def test_a_quiet_window_is_heard_as_a_louder_one_and_silence_stays_silence() -> None:
    turned_up, as_it_is = Spectrogram(replace(TINY, quiet_peak=0.2)), Spectrogram(TINY)
    generator = torch.Generator().manual_seed(0)
    shape = torch.rand(1, TINY.samples, generator=generator) * 2 - 1
    shape = shape / shape.abs().max()
    for peak, heard_at in ((0.5, 0.5), (0.2, 0.2), (0.02, 0.2), (0.001, 0.032), (0.0, 0.0)):
        assert torch.allclose(turned_up(peak * shape), as_it_is(heard_at * shape), atol=1e-4), peak
    both = turned_up(torch.cat([0.5 * shape, 0.02 * shape]))
    assert torch.allclose(both[1:], turned_up(0.02 * shape), atol=1e-6)  # whoever is beside it


def test_info_nce_by_hand() -> None:
    a = torch.eye(2)
    assert info_nce(a, a, 1.0, torch.arange(2)).item() == pytest.approx(math.log(1 + math.exp(-1)))
    # One group: both are right, the target is a half each, so the loss is the mean of the two
    # log-odds.
    one = info_nce(a, a, 1.0, torch.zeros(2, dtype=torch.int64)).item()
    assert one == pytest.approx(math.log(1 + math.exp(-1)) + 0.5)
    # A collapsed encoder cannot do better than chance.
    flat = torch.ones(4, 1)
    assert info_nce(flat, flat, 14.0, torch.arange(4)).item() == pytest.approx(math.log(4))


def test_matching_by_hand() -> None:
    head = torch.nn.Linear(2, 1)
    torch.nn.init.constant_(head.weight, 2.0)
    torch.nn.init.zeros_(head.bias)
    a = torch.eye(2)  # true pairs: logit 2; the swapped ones: logit 0
    expected = (math.log(1 + math.exp(-2)) + math.log(2)) / 2
    assert matching(head, a, a, torch.arange(2), 0.3).item() == pytest.approx(expected)


def test_masked_losses_by_hand() -> None:
    target = torch.tensor([[[1.0, 3.0], [0.0, 0.0]]])
    part = Masked(torch.zeros(1, 2, 2), target, torch.tensor([[True, False]]))
    assert masked_patches(part, normalise=False).item() == pytest.approx(5.0)  # (1 + 9) / 2
    # +-1/sqrt(2), unbiased variance
    assert masked_patches(part, normalise=True).item() == pytest.approx(0.5, abs=1e-4)
    logits = torch.tensor([[[0.0, 0.0], [9.0, 0.0]]])
    words = Masked(logits, torch.tensor([[1, 1]]), torch.tensor([[True, False]]))
    assert masked_tokens(words).item() == pytest.approx(math.log(2))


def test_the_papers_weights() -> None:
    terms = {
        "audio_video": torch.tensor(1.0),
        "audio_text": torch.tensor(2.0),
        "local": torch.tensor(4.0),
    }
    assert weighted_sum(terms, TrainConfig.load("base")).item() == 5 * 3 + 4
    with pytest.raises(KeyError, match="audio_vidoe"):
        weighted_sum({"audio_vidoe": torch.tensor(1.0)}, TrainConfig.load("base"))


def test_every_term_is_a_row_with_a_weight_in_the_config() -> None:
    """Two rows at right angles, temperature 1: each row's contrast is log(1 + 1/e)."""
    config = replace(TrainConfig.load("smoke"), smoothing=0.0)
    model = VLSA(replace(SMOKE, dim=2))
    for head in model.match.values():
        torch.nn.init.zeros_(head.weight)  # knows nothing: log 2
        torch.nn.init.zeros_(head.bias)
    names = ("video", "audio", "video_caption", "audio_caption")
    inputs = TermInputs(
        model=model,
        vectors=dict.fromkeys(names, torch.eye(2)),
        has=dict.fromkeys(names, torch.tensor([True, True])),
        group_ids=torch.arange(2),
        smoothing=config.smoothing,
        match_shift=0.0,
    )
    terms = compute_terms(inputs, config)
    contrast = math.log(1 + math.exp(-1))
    assert {name: round(term.item(), 4) for name, term in terms.items()} == {
        "audio_video": round(contrast, 4),
        "audio_video_match": round(math.log(2), 4),
        "audio_text": round(contrast, 4),
        "audio_text_match": round(math.log(2), 4),
        "video_text": round(contrast, 4),
    }
    expected = 5 * (3 * contrast + 2 * math.log(2))
    assert weighted_sum(terms, config).item() == pytest.approx(expected)
    one_video = {**inputs.has, "video": torch.tensor([True, False])}
    fewer = compute_terms(replace(inputs, has=one_video, pairs={}), config)
    assert set(fewer) == {"audio_text", "audio_text_match"}


def test_terms_that_are_off_need_no_vectors() -> None:
    config = TrainConfig.load("smoke")
    assert needed_vectors(config) == {"audio", "video", "audio_caption", "video_caption"}
    distilled = replace(config, relational_distillation_weight=1.0)
    assert needed_vectors(distilled) - needed_vectors(config) == {"sentence"}
    assert not needed_vectors(replace(config, global_weight=0.0, video_text=False))
    assert len({term.name for term in TERMS}) == len(TERMS)


def test_a_term_of_a_setting_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="no setting globl_weight"):
        LossTerm(name="new", needs=("audio", "video"), weight="globl_weight", loss=contrast_term)


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_read_by_name(name: str) -> None:
    """Every key is a setting, and a setting at its default isn't repeated."""
    config = TrainConfig.load(name)
    written = json.loads((PRESETS / f"{name}.json").read_text("utf-8"))
    settings = config.to_json()
    assert written.pop("about") and written.pop("encoder")
    assert written.keys() <= settings.keys()
    assert {key: json.loads(json.dumps(settings[key])) for key in written} == written
    assert config.manifests and config.steps > 0


def test_presets_hold_what_was_trained() -> None:
    """The settings that tell the recipes apart."""
    names = ["base", "default", "default-start", "demo", "miniature", "small", "smoke", "tiny"]
    assert preset_names() == names
    loaded = {name: TrainConfig.load(name) for name in names}
    assert {name: (c.steps, c.batch, c.learning_rate) for name, c in loaded.items()} == {
        "base": (200_000, 2048, 1e-4),
        "default": (240, 94, 1e-3),
        "default-start": (1600, 80, 2e-3),
        "demo": (300, 48, 1e-3),
        "miniature": (100, 48, 2e-3),
        "small": (20_000, 256, 5e-4),
        "smoke": (20, 16, 1e-3),
        "tiny": (2400, 64, 1e-3),
    }
    shapes = {n: (c.encoder.width, c.encoder.depth, c.encoder.size) for n, c in loaded.items()}
    assert shapes == {
        "base": (768, 12, 224),
        "default": (192, 3, 64),
        "default-start": (192, 3, 64),
        "demo": (192, 5, 64),
        "miniature": (128, 3, 48),
        "small": (384, 12, 112),
        "smoke": (32, 1, 32),
        "tiny": (192, 5, 64),
    }
    default = loaded["default"]
    assert default.encoder == loaded["default-start"].encoder
    assert default.batch_together_by == loaded["default-start"].batch_together_by
    assert default.batch_together_by[:2] == ((), ("colour", "place"))
    assert default.relational_distillation_weight == 400.0
    assert loaded["base"].encoder.window_s == 65_536 / 11_025


def test_old_names_of_settings_and_weights_are_read(tmp_path: Path) -> None:
    """A checkpoint as it was written before the names changed, and its weights."""
    encoder = replace(SMOKE, stem="convolution", stem_skip=True, caption_memory_threshold=0.4)
    config = TrainConfig(
        encoder=encoder, batch_together_by=(("place",),), relational_distillation_weight=2.0
    )
    model = VLSA(encoder)
    (tmp_path / "tokenizer.json").write_text("{}")
    state = {"step": 1, "config": config.to_json(), "provenance": {}}
    tokenizer = tmp_path / "tokenizer.json"
    checkpoint.save(tmp_path / "checkpoint", model, make_optimiser(model, config), state, tokenizer)

    old = state["config"]
    assert isinstance(old, dict)
    old["alike"] = old.pop("batch_together_by")
    old["geometry_weight"] = old.pop("relational_distillation_weight")
    old["encoder"]["glance"] = old["encoder"].pop("stem_skip")
    old["encoder"]["memory_floor"] = old["encoder"].pop("caption_memory_threshold")
    (tmp_path / "checkpoint" / "checkpoint.json").write_text(json.dumps(state))
    weights = {
        name.replace("stem_skips.", "glances."): value for name, value in model.state_dict().items()
    }
    assert "glances.audio.weight" in weights
    torch.save(weights, tmp_path / "checkpoint" / "weights.pt")

    loaded, found, _ = checkpoint.load(tmp_path)
    assert found == config
    skips = zip(loaded.stem_skips.parameters(), model.stem_skips.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in skips)


def test_parameters_keep_the_order_that_checkpoints_have() -> None:
    """An optimiser's states are stored by the order of the parameters, without names."""
    names = [name for name, _ in VLSA(SMOKE).named_parameters()]
    positions = [name.removeprefix("positions.") for name in names if name.startswith("positions.")]
    assert positions == [
        f"{m}_{axis}" for m in ("audio", "text", "video") for axis in ("inner", "outer")
    ]
    assert names[0] == "log_scale" and names[1] == "mask_token"


def test_configs_are_read_back_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps(TrainConfig.load("tiny").to_json()))
    assert TrainConfig.load(str(file)) == TrainConfig.load("tiny")
    with pytest.raises(BadConfig):
        TrainConfig.load("no-such-preset")
    with pytest.raises(BadConfig):
        TrainConfig.from_json({"encoder": {}, "nonsense": 1})
    with pytest.raises(BadConfig, match="vocabulry"):
        TrainConfig.from_json({"encoder": {"vocabulry": 1}})
    with pytest.raises(BadConfig):
        replace(TINY, width=190)
