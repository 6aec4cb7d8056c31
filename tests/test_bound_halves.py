"""Bound halves: what counts for which half, how two become one, on both beds and in a bundle."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from evaluation.composed import bind, rotation, score_groups
from export.encoder import OnnxEncoder
from export.to_onnx import export_checkpoint
from export.verify import check_batch_invariance, check_torch_parity
from media.errors import BadConfig
from media.modality import AUDIO, TEXT, VIDEO
from model.beds.plan import Job, Plan, make_config
from model.beds.real import RealBed
from model.config import TrainConfig
from model.methods.bound_halves import Bind, Settings, Split, make_halves, rows
from model.network.transformer import Halves
from model.training.checkpoint import load
from model.training.loop import train
from model.training.tables import make_network, rows_of

from .test_methods import make_features

SMOKE = TrainConfig.load("smoke")
BOUND = {"bound_halves": {}}
EVERY_TEXT = "a dog", "rain", "a dog, then rain", "rain, then a dog", "a dog after rain"


def split_of(*, columns: int, width: int = 1) -> Split:
    split = Split(replace(SMOKE.encoder, width=width, heads=1))
    split.columns = columns
    return split


def pool(split: Split, modality: str, values: list[float], **which: Tensor) -> list[float]:
    """The means of both halves of tokens of one value each."""
    tokens = torch.tensor(values, dtype=torch.float32)[None, :, None]
    halves = Halves(split, torch.nn.Identity())
    found = halves.pool(modality, tokens, which.get("places"), which.get("present"))
    return found.flatten().tolist()


# ---------------------------------------------------------------- by hand


def test_two_vectors_become_one_that_knows_their_order() -> None:
    """The planes are those of axes 0, 1 and of axes 2, 3. Rain is axis 0, a dog axis 2."""
    binding = Bind(4)
    binding.turn = torch.tensor([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1], [0, 0, -1, 0]])
    rain, dog = torch.eye(4)[0:1], torch.eye(4)[2:3]
    root = math.sqrt(0.5)
    assert torch.allclose(binding(rain, dog), torch.tensor([[root, 0, 0, root]]))
    assert torch.allclose(binding(dog, rain), torch.tensor([[0, root, root, 0]]))
    assert torch.allclose(binding(rain, rain), torch.tensor([[root, root, 0, 0]]))
    assert (binding(rain, dog) * binding(dog, rain)).sum().item() == 0
    assert (binding(rain, dog) * binding(rain, rain)).sum().item() == pytest.approx(0.5)


def test_what_has_no_order_keeps_its_cosines() -> None:
    x, y = (normalize(torch.randn(50, 64, generator=torch.manual_seed(n)), dim=1) for n in (0, 1))
    binding = Bind(64)
    bound = binding(x, x) @ binding(y, y).T
    assert (bound - x @ y.T).abs().max() < 1e-6
    assert np.abs(binding(x, y).numpy() - bind(x.numpy(), y.numpy())).max() < 1e-6
    assert np.abs(rotation(64) + rotation(64).T).max() < 1e-6


def test_a_token_of_sound_counts_for_the_half_that_it_is_in() -> None:
    """Three times: 1, 3 in the middle, 5. (1 + 3 / 2) / 1.5 and (3 / 2 + 5) / 1.5."""
    split = split_of(columns=3)
    assert pool(split, AUDIO, [1, 3, 5]) == pytest.approx([5 / 3, 13 / 3])
    two_bands = split_of(columns=2)
    assert pool(two_bands, AUDIO, [1, 10, 3, 30]) == pytest.approx([2, 20])
    some = torch.tensor([[3, 0]])  # the second band's second time, the first band's first
    assert pool(two_bands, AUDIO, [30, 1], places=some) == pytest.approx([1, 30])


def test_a_half_of_which_nothing_is_left_is_the_other_one() -> None:
    split = split_of(columns=2)
    assert pool(split, AUDIO, [7, 9], places=torch.tensor([[1, 3]])) == pytest.approx([8, 8])
    silent = torch.tensor([[True, False]])
    assert pool(split, AUDIO, [7, 9], present=silent) == pytest.approx([7, 7])


def test_pictures_have_one_mean_and_texts_a_learned_one() -> None:
    """With w = log 3 a token of 1 counts 3/4 for the second side, a token of 0 a half."""
    split = split_of(columns=2)
    assert pool(split, VIDEO, [1, 2, 6]) == pytest.approx([3, 3])
    there = torch.tensor([[True, True, False]])
    assert pool(split, TEXT, [1, 0, 9], present=there) == pytest.approx([0.5, 0.5])
    with torch.no_grad():
        split.comes_second.fill_(math.log(3.0))
    first, second = 0.25 / 0.75, 0.75 / 1.25
    assert pool(split, TEXT, [1, 0, 9], present=there) == pytest.approx([first, second])


def test_gradients_are_those_of_differences() -> None:
    torch.manual_seed(3)
    config = replace(SMOKE.encoder, width=4, heads=1, dim=4)
    halves = make_halves(config).double()
    halves.split.columns = 3
    there = torch.tensor([[True, True, False], [True, True, True]])
    weight = torch.randn(4, dtype=torch.float64)
    tokens = torch.randn(2, 3, 4, dtype=torch.float64)

    def run(modality: str, tokens: Tensor, weight: Tensor) -> Tensor:
        given = {"comes_second": weight}
        shares = torch.func.functional_call(halves.split, given, (modality, tokens, None, there))
        found: Tensor = halves(shares @ tokens)
        return found

    for modality in (AUDIO, TEXT, VIDEO):
        values = (modality, tokens.requires_grad_(), weight.requires_grad_())
        assert torch.autograd.gradcheck(run, values, eps=1e-6, atol=1e-5)


def test_at_first_a_network_finds_what_it_would_without() -> None:
    """Pictures and texts are bound with themselves, so that their cosines are the plain ones."""
    vectors = []
    for methods in ({}, BOUND):
        torch.manual_seed(0)
        model = make_network(replace(SMOKE, methods=methods)).eval()
        source = torch.Generator().manual_seed(1)
        frames = torch.randint(0, 256, (4, *SMOKE.encoder.video.shape), generator=source)
        words = torch.randint(4, 200, (4, 7), generator=source)
        with torch.no_grad():
            seen = model.embed(VIDEO, frames.to(torch.uint8))
            vectors.append(torch.cat([seen, model.embed(TEXT, words)]))
    plain, bound = vectors
    assert (plain - bound).abs().max() > 0.1
    assert (plain @ plain.T - bound @ bound.T).abs().max() < 1e-5


def test_recipes_that_cannot_be() -> None:
    assert rows(Settings()).two_parts[0].name == "bound_halves"
    with pytest.raises(BadConfig, match="even number"):
        make_halves(replace(SMOKE.encoder, dim=63))
    with pytest.raises(BadConfig, match="two methods say how vectors are made"):
        rows_of(replace(SMOKE, methods=BOUND | {"vatt": {}}))


# ---------------------------------------------------------------- the real bed


def open_bed(file: Path, changed: dict[str, np.ndarray] | None = None) -> RealBed:
    make_features(file)
    with np.load(file) as stored:
        arrays = dict(stored)
    np.savez(file, **arrays | (changed or {}))  # type: ignore[arg-type]
    return RealBed(file)


def bound_network(bed: RealBed, methods: dict[str, dict[str, object]]) -> object:
    config = make_config(Plan(out=Path(), features=Path(), batch=8), Job("real", "plain", 0))
    return bed.network(replace(config, methods=methods)).eval()


def test_a_trunk_on_stems_binds_their_readings_at_first(tmp_path: Path) -> None:
    """Sides of words, halves of windows; the second half of the last recording is silent."""
    halves = np.random.default_rng(3).integers(-100, 101, (6, 2, 384)).astype(np.int8)
    halves[5, 1] = 0
    bed = open_bed(tmp_path / "features.npz", {"recording_halves": halves})
    model = bound_network(bed, BOUND)
    table = bed.data.texts
    dog, rain = (unit(table.readings[table.ids[text]]) for text in ("a dog", "rain"))
    sides = [(dog, dog), (rain, rain), (dog, rain), (rain, dog), (rain, dog)]
    expected = np.stack([bind(first[None], second[None])[0] for first, second in sides])
    assert np.abs(bed.embedder(model).texts(list(EVERY_TEXT)) - expected).max() < 1e-5
    heard = unit(np.where(halves.any(-1, keepdims=True), halves, halves[:, ::-1]))
    found = bed.galleries(model)  # type: ignore[arg-type]
    assert np.abs(found[AUDIO].vectors - bind(heard[:, 0], heard[:, 1])).max() < 1e-5
    seen = unit(unit(bed.data.arrays["recording_frame_readings"]).sum(1))
    assert found[VIDEO].vectors.shape == seen.shape


def unit(values: np.ndarray) -> np.ndarray:
    numbers = values.astype(np.float32)
    return np.asarray(numbers / np.linalg.norm(numbers, axis=-1, keepdims=True))


def test_two_orders_of_two_sounds_are_told_apart(tmp_path: Path) -> None:
    """Both sounds of a group have one reading, and readings of their halves like the words'."""
    bed = open_bed(tmp_path / "plain.npz")
    (group,) = bed.data.groups["order"]
    table = bed.data.texts
    sides = table.sides[[table.ids[text] for text in group["texts"]]]  # [2, 2]
    both = np.repeat(bed.data.arrays["order_readings"][:1], 2, axis=0)
    changed = {"order_halves": table.readings[sides], "order_readings": both}
    bed = open_bed(tmp_path / "features.npz", changed)
    scores = bed.composed_scores(bound_network(bed, BOUND), "order")  # type: ignore[arg-type]
    assert score_groups(scores)["group"] == (1.0 if sides[0, 0] != sides[0, 1] else 0.0)
    plain = bed.composed_scores(bound_network(bed, {}), "order")  # type: ignore[arg-type]
    assert np.abs(plain[:, 0] - plain[:, 1]).max() < 1e-6


def test_features_of_before_there_were_halves_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "features.npz"
    make_features(file)
    with np.load(file) as stored:
        arrays = {name: x for name, x in stored.items() if name != "sound_halves"}
    np.savez(file, **arrays)
    with pytest.raises(BadConfig, match="of an older version"):
        RealBed(file)


# ---------------------------------------------------------------- to a bundle


def test_bound_halves_train_resume_and_export(tmp_path: Path) -> None:
    """A resumed run learns on which words come second. Its bundle has the network's vectors."""
    config = replace(
        SMOKE,
        manifests=("world:train:8",),
        validation="world:validation:8",
        batch=8,
        steps=4,
        checkpoint_steps=2,
        methods=BOUND | {"compa": {"pairs": 4, "both_ways": True}},
        threads=1,
    )
    media, run = tmp_path / "media", tmp_path / "run"
    train(replace(config, steps=2), run, resume=False, media=media, log=lambda _: None)
    before = load(run)[0].state_dict()["halves.split.comes_second"]
    train(config, run, resume=True, media=media, log=lambda _: None)
    model = load(run)[0].eval()
    after = model.state_dict()["halves.split.comes_second"]
    assert after.abs().max() > 0 and not torch.equal(after, before)
    figures = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"order", "local"} <= figures.keys()
    bundle = export_checkpoint(run, tmp_path / "bundle")
    encoder = OnnxEncoder.open(bundle.folder)
    checks = [*check_batch_invariance(encoder), *check_torch_parity(encoder, run / "checkpoint")]
    assert all(check.good for check in checks), checks
    sounds = np.random.default_rng(0).normal(0, 0.1, (3, SMOKE.encoder.samples)).astype(np.float32)
    with torch.no_grad():
        expected = model.embed(AUDIO, torch.from_numpy(sounds)).numpy()
    assert np.abs(encoder.embed(AUDIO, sounds) - expected).max() < 1e-5
    turned = np.concatenate([np.split(sounds, 2, axis=1)[1], np.split(sounds, 2, axis=1)[0]], 1)
    assert np.abs(encoder.embed(AUDIO, turned) - expected).max() > 1e-3
