"""The methods of other works: each against a case worked out by hand, and what they share."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from evaluation.clips import Clips
from evaluation.composed import COMPOSITIONS, score_groups
from evaluation.world import SHAPES
from media.errors import BadConfig
from media.manifest import Caption, Row
from media.modality import AUDIO, VIDEO
from model.__main__ import main
from model.beds.plan import ARMS, BEDS, LEFT_OUT, Job, Plan, bed_of, make_config, run_plan
from model.beds.real import RealBed
from model.beds.report import write_report
from model.config import TrainConfig
from model.data.batches import Batch, Inputs, Mixture, share_out
from model.methods import (
    captioning,
    coconut,
    comix,
    compa,
    cvrl,
    cwcl,
    gap,
    gram,
    hard_matching,
    harmonise,
    masked_answers,
    masked_windows,
    mil_nce,
    pixpro,
    triangle,
    valor,
    vip_ant,
)
from model.methods.alternate import PAIRS
from model.network.fusion import join
from model.network.transformer import VLSA, MiniLMStem, TrunkPass
from model.training import loop
from model.training.checkpoint import load
from model.training.distributed import join_process_group, leave_process_group
from model.training.loop import make_optimiser, train, train_step
from model.training.losses import TermInputs, terms_on
from model.training.step import StepRandomness, compute_gradients
from model.training.tables import (
    Encoded,
    ExtraSource,
    Rows,
    Turn,
    make_network,
    method_names,
    rows_of,
    sound_weight,
)

from .makers import ROOT, free_port

SMOKE = TrainConfig.load("smoke")
ENCODER = SMOKE.encoder
# every method, with settings that fit together: two may not replace the same term
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "valor": {"valor": {}},
    "valor_learned": {"valor": {"learned": True}},
    "gap": {"gap": {}},
    "cwcl": {"cwcl": {"soft": ("recording", "text")}},
    "gram": {"gram": {}},
    "triangle": {"triangle": {}},
    "mil_nce": {"mil_nce": {"texts": 3}},
    "compa": {"compa": {"pairs": 8}},
    "compa_both": {"compa": {"pairs": 8, "kinds": ("order", "attribute"), "both_ways": True}},
    "bound_halves": {"bound_halves": {}},
    "bound_and_composed": {"bound_halves": {}, "compa": {"pairs": 8, "both_ways": True}},
    "hard_matching": {"hard_matching": {}},
    "matching_of_states": {"hard_matching": {"states": 2, "width": 16}},
    "harmonise": {"harmonise": {}},
    "curriculum": {"harmonise": {"curriculum": (-0.3, 0.1)}},
    "cvrl": {"cvrl": {}},
    "comix": {"comix": {}},
    "pixpro": {"pixpro": {}},
    "xclip": {"xclip": {}},
    "vatt": {"vatt": {"texts": 3}},
    "vip_ant": {"vip_ant": {}},
    "vip_ant_told": {"vip_ant": {"supervised": 0.5}},
    "experts": {"experts": {}},
    "two_experts": {"experts": {"experts": 3, "chosen": 2, "every": 1}},
    "alternate": {"alternate": {}},
    "both_of_imp": {
        "experts": {},
        "alternate": {
            "turns": [
                {"terms": [*pair, "expert_balance"], "frame_step": 2, "tokens": 0.5}
                for pair in PAIRS
            ]
        },
    },
    "captioning": {"captioning": {}},
    "from_vector": {"captioning": {"from_vector": True, "width": 32, "depth": 1}},
    "masked_windows": {"masked_windows": {"of": ("video", "audio"), "width": 16}},
    "masked_answers": {"masked_answers": {}},
    "coconut": {"coconut": {"by": "shape", "stages": (SHAPES[:4], SHAPES[4:]), "stage_steps": 3}},
    "several": {"valor": {}, "gap": {}, "compa": {"pairs": 8}, "cvrl": {}, "harmonise": {}},
}

# all methods that may stand in one recipe; `alternate` names the terms of its turns
ONE_OF_EACH = (
    "valor_learned",
    "gap",
    "gram",
    "triangle",
    "mil_nce",
    "compa_both",
    "matching_of_states",
    "curriculum",
    "cvrl",
    "comix",
    "pixpro",
    "xclip",
    "two_experts",
    "from_vector",
    "masked_windows",
    "masked_answers",
    "coconut",
    "bound_halves",
)
RECIPES["everything"] = {
    name: settings for recipe in ONE_OF_EACH for name, settings in RECIPES[recipe].items()
}

# further settings of methods that are there already
MORE = {
    "everything",
    "several",
    "both_of_imp",
    "from_vector",
    "matching_of_states",
    "two_experts",
    "valor_learned",
    "compa_both",
    "bound_and_composed",
    "curriculum",
    "vip_ant_told",
}


def unit(*rows: list[float]) -> Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float64), dim=-1)


def random_unit(seed: int, n: int = 5) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=source, dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=-1)


def inputs_of(vectors: dict[str, Tensor], has: dict[str, list[int]] | None = None) -> TermInputs:
    """What a term gets, with a scale of 1; every row has everything but where `has` says no."""
    n = len(next(iter(vectors.values())))
    given = {name: torch.ones(n, dtype=torch.bool) for name in vectors}
    given |= {name: torch.tensor(rows, dtype=torch.bool) for name, rows in (has or {}).items()}
    return TermInputs(
        model=SimpleNamespace(scale=1.0, fusion=None),  # type: ignore[arg-type]
        vectors=vectors,
        has=given,
        group_ids=torch.arange(n),
        smoothing=0.0,
        match_shift=0.0,
    )


# ---------------------------------------------------------------- worked out by hand


def test_valor_joins_sound_and_pictures() -> None:
    """Two rows whose joint vectors are the axes, and texts on them: log(1 + e^-1). The third row
    lacks its sound, so it is joined of its pictures alone.
    """
    v, a = torch.eye(3), torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 0]])
    inputs = inputs_of(
        {"video": v, "audio": a, "video_caption": v, "audio_caption": torch.zeros(3, 3)},
        {"audio": [1, 1, 0], "audio_caption": [0, 0, 0]},
    )
    names = ("video", "audio", "video_caption", "audio_caption")
    loss = valor.joint_term(inputs, *names, audio_weight=0.5)
    assert loss is not None
    assert loss.item() == pytest.approx(math.log(1 + 2 * math.exp(-1)), abs=1e-6)


def test_the_gap_terms_of_two_axes() -> None:
    """Distances are 0 in a pair and 2 (squared) between pairs."""
    x = unit([1, 0], [0, 1])
    inputs = inputs_of(dict.fromkeys(("audio", "video", "audio_caption", "video_caption"), x))
    found = [loss(inputs) for loss in (gap.align_term, gap.uniform_term, gap.cross_term)]
    assert [value.item() for value in found if value is not None] == pytest.approx([0, -4, -4])
    settings = gap.Settings(align_weight=0.0)
    assert [term.name for term in gap.rows(settings).terms] == ["uniform", "cross_uniform"]


def test_cwcl_softens_targets_by_sentences() -> None:
    """Sentences at right angles have w of 1 and 1/2, so targets of 2/3 and 1/3."""
    x = unit([1, 0], [0, 1])
    near, far = (-math.log(math.exp(s) / (math.e + 1)) for s in (1.0, 0.0))
    found = cwcl.cwcl(x, x, x, scale=1.0)
    assert found.item() == pytest.approx(2 / 3 * near + 1 / 3 * far)


def test_cwcl_softens_either_direction() -> None:
    """Softmax of the products of x = axes and y = [1, 0], [0.6, 0.8]; targets as above."""
    x, y = unit([1, 0], [0, 1]), unit([1, 0], [0.6, 0.8])
    inputs = inputs_of({"audio": x, "audio_caption": y, "sentence": x})

    def loss(*soft: str) -> float:
        term, _ = cwcl.rows(cwcl.Settings(power=1.0, soft=soft)).terms
        found = term.loss(inputs, *term.needs)
        assert found is not None
        return found.item()

    def ask(products: list[list[float]], right: float) -> float:
        """The mean cross-entropy where a share of `right` is on the diagonal."""
        of_row = [
            math.log(sum(map(math.exp, row))) - right * row[i] - (1 - right) * row[1 - i]
            for i, row in enumerate(products)
        ]
        return sum(of_row) / 2

    of_sounds, of_texts = [[1.0, 0.6], [0.0, 0.8]], [[1.0, 0.0], [0.6, 0.8]]
    assert loss("recording") == pytest.approx((ask(of_sounds, 2 / 3) + ask(of_texts, 1)) / 2)
    assert loss("text") == pytest.approx((ask(of_sounds, 1) + ask(of_texts, 2 / 3)) / 2)
    assert loss("recording", "text") == pytest.approx(
        (ask(of_sounds, 2 / 3) + ask(of_texts, 2 / 3)) / 2
    )
    with pytest.raises(BadConfig, match="or both"):
        cwcl.rows(cwcl.Settings(soft=("caption",)))


def test_gram_and_triangle_of_known_shapes() -> None:
    """Three axes span a volume of 1, and a triangle of side sqrt(2), whose area is sqrt(3) / 2.
    A text in the plane of its recording spans none. The triangle tells a text from its opposite.
    """
    t, v, a = (unit(row) for row in ([1, 0, 0], [0, 1, 0], [0, 0, 1]))
    flat = unit([0, 1, 1])
    assert gram.volumes(t, v, a).item() == pytest.approx(1.0, abs=1e-4)
    assert gram.volumes(flat, v, a).item() == pytest.approx(0.0, abs=0.011)
    assert gram.volumes(-flat, v, a).item() == gram.volumes(flat, v, a).item()
    assert triangle.areas(t, v, a).item() == pytest.approx(math.sqrt(3) / 2, abs=1e-4)
    assert triangle.areas(-flat, v, a).item() > 1.2 > 0.5 > triangle.areas(flat, v, a).item()
    assert gram.keep_apart(v, v, 0.9).item() == pytest.approx(0.01)
    assert gram.keep_on_side(-flat, v, a).item() == pytest.approx(math.sqrt(2))


def test_mil_nce_counts_every_text_of_a_row() -> None:
    """Scores are 1 for each of a row's texts and 0 for the other's; the second row has one text."""
    x = unit([1, 0], [0, 1])
    texts = torch.stack([x, x], dim=1)
    there = torch.tensor([[True, True], [True, False]])
    e = math.e
    expected = (-math.log(2 * e / (2 * e + 1)) - math.log(e / (e + 2))) / 2
    found = mil_nce.mil_nce(x, texts, there, torch.arange(2), 1.0)
    assert found.item() == pytest.approx(expected)
    back = mil_nce.ask_back(x, texts, there, torch.arange(2), 1.0)
    assert back.item() == pytest.approx(-math.log(e / (e + 1)))


def test_compa_has_the_swapped_caption_in_its_own_row_only() -> None:
    """Own caption 1, the other row's 0, its own swapped one 0.5."""
    a = unit([1, 0], [0, 1])
    swapped = unit([0.5, math.sqrt(0.75)], [math.sqrt(0.75), 0.5])
    e = math.e
    expected = -math.log(e / (e + 1 + math.exp(0.5)))
    assert compa.order_loss(a, a, swapped, 1.0).item() == pytest.approx(expected)
    names = ("audio", "audio_caption", compa.SWAPPED)
    inputs = inputs_of(dict(zip(names, (a, a, swapped), strict=True)))
    both = compa.order_term(inputs, *names, both_ways=True)
    assert both is not None
    assert both.item() == pytest.approx(expected - math.log(e / (e + 1)))


def test_vip_ant_asks_a_sound_for_the_captions_that_its_pictures_are_near() -> None:
    """Pictures are on their captions, so targets are e / (e + 1) and 1 / (e + 1). The sounds are
    the other way round. The third row has no sound, and its caption is as far from all pictures.
    """
    x = unit([1, 0, 0], [0, 1, 0], [0, 0, 1])
    sounds = x[[1, 0, 2]]
    inputs = inputs_of({"audio": sounds, "video": x, "video_caption": x}, {"audio": [1, 1, 0]})
    found = vip_ant.pivot_term(inputs, "audio", "video", "video_caption")
    assert found is not None
    e = math.e
    near, far = (-math.log(math.exp(score) / (e + 2)) for score in (1, 0))
    expected = (e * far + near + far) / (e + 2)
    assert found.item() == pytest.approx(expected)
    names = [term.name for term in terms_on(replace(SMOKE, methods={"vip_ant": {}}))]
    assert {"audio_text", "audio_text_match"}.isdisjoint(names) and "pivot" in names


def test_vip_ant_tells_the_captions_of_a_share_of_the_sounds() -> None:
    rows = [Row(id=str(i), path=None, captions=(), group=str(i), metadata={}) for i in range(1000)]
    random = np.random.default_rng(0)
    told = [vip_ant.draw_supervised(row, "rain", random, share=0.3) for row in rows]
    assert set(told) == {None, "rain"} and 250 < told.count("rain") < 350
    again = [vip_ant.draw_supervised(row, "rain", random, share=0.3) for row in rows]
    assert told == again
    assert vip_ant.draw_supervised(rows[0], None, random, share=1.0) is None


def test_hard_matching_takes_the_likest_row_of_another_group() -> None:
    """Rows 0 and 1 are one group, so row 2 is the hard one for both. A match is the product."""
    a = unit([1, 0], [1, 0], [0.6, 0.8])

    def match(rows: Tensor, others: Tensor) -> Tensor:
        return (a[rows] * a[others]).sum(1)

    found = hard_matching.hard_matching(match, a, a, torch.tensor([0, 0, 1]))
    true, false = math.log(1 + math.exp(-1)), math.log(1 + math.exp(0.6))
    assert found.item() == pytest.approx((3 * true + 6 * false) / 9)


def test_states_are_matched_by_the_means_of_their_stretches() -> None:
    """Of five states three come first, of two one each, and of one the second stretch is empty."""
    tokens = torch.arange(1.0, 6.0).repeat(4, 1)[..., None]
    present = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [0, 0, 1, 0, 0], [0] * 5]).bool()
    found = hard_matching.mean_states(TrunkPass(tokens, present=present), 2)
    assert found.squeeze(-1).tolist() == [[2.0, 4.5], [1.0, 5.0], [3.0, 0.0], [0.0, 0.0]]
    assert torch.equal(hard_matching.mean_states(TrunkPass(tokens[:1]), 2), found[:1])
    with pytest.raises(BadConfig, match="width is a multiple of heads"):
        hard_matching.rows(hard_matching.Settings(states=2, width=30))


def test_a_matcher_of_states_learns_what_a_product_of_vectors_cannot() -> None:
    """The vectors are all one, so that every row is as hard. Pairs have states of one sign."""
    torch.manual_seed(0)
    settings = hard_matching.Settings(states=2, width=16)
    matcher = hard_matching.Matcher(3, settings)
    signs = torch.tensor([1.0, -1.0] * 4)
    a, b = (signs[:, None, None] * torch.ones(8, 2, 3) for _ in range(2))
    vectors = torch.ones(8, 1)
    groups = (signs > 0).long()

    def loss() -> Tensor:
        match = lambda rows, others: matcher(a[rows], b[others])  # noqa: E731
        return hard_matching.hard_matching(match, vectors, vectors, groups)

    optimiser = torch.optim.Adam(matcher.parameters(), lr=0.01)
    before = loss().item()
    for _ in range(60):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
    assert before > 0.5 and loss().item() < 0.05


def test_harmonising_projects_what_conflicts_and_keeps_what_does_not() -> None:
    against = {"video": torch.tensor([[-1.0, 1.0]])}
    by_term = {
        "audio_video": {"video": torch.tensor([[0.5, 0.0]]), "audio": torch.tensor([[1.0, 2.0]])},
        "audio_video_match": {"video": torch.tensor([[0.5, 0.0]])},
        "video_text": against,
    }
    found, logged = harmonise.harmonise(by_term, 0.0, settings=harmonise.Settings())
    assert found["video"].tolist() == [[0.5, 1.5]] and found["audio"].tolist() == [[1.0, 2.0]]
    assert logged["cosine_video"].item() == pytest.approx(-1 / math.sqrt(2))
    assert set(logged) == {"cosine_video"}


def test_a_row_in_conflict_does_not_learn_once_the_threshold_is_there() -> None:
    """Cosines of the rows on pictures are -0.2, 0.6 and none, as the third has one gradient alone.
    The threshold rises from -0.3 to 0, and is -0.2 at a third of the run.
    """
    one_side = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    other = torch.tensor([[-0.2, 0.96**0.5], [0.6, 0.8], [0.0, 0.0]])
    by_term = {
        "audio_video": {"video": one_side, "audio": one_side},
        "video_text": {"video": other, "video_caption": other},
    }
    settings = harmonise.Settings(realign=False, curriculum=(-0.3, 0.0))
    early, logged = harmonise.harmonise(by_term, 0.2, settings=settings)
    assert torch.equal(early["video"], one_side + other) and logged["rows_kept"] == 1.0
    late, logged = harmonise.harmonise(by_term, 0.5, settings=settings)
    assert logged["rows_kept"].item() == pytest.approx(2 / 3)
    for name, whole in early.items():
        assert not late[name][0].any() and torch.equal(late[name][1:], whole[1:])
    with pytest.raises(BadConfig, match="neither realign nor curriculum"):
        harmonise.rows(harmonise.Settings(realign=False))


def test_the_threshold_of_a_curriculum_rises_with_the_steps() -> None:
    """At the start of the run no row is left out, with a threshold of 1 at its end nearly all."""
    config = replace(
        config_of("curriculum"),
        methods={"harmonise": {"realign": False, "curriculum": (-1.01, 1.0)}},
        steps=10,
    )
    model = make_model(config)
    optimiser = make_optimiser(model, config)
    kept = [
        train_step(
            model,
            optimiser,
            some_batch(config),
            config=config,
            step=step,
            processes=join_process_group(),
        )["rows_kept"]
        for step in (0, 5, 9)
    ]
    assert kept[0] == 1.0 and kept[0] >= kept[1] >= kept[2] and kept[2] < 1.0


def test_cvrl_takes_a_stretch_in_its_order() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        taken = cvrl.take_interval(np.arange(8), random, least_share=0.5)
        assert len(taken) == 8 and (np.diff(taken) >= 0).all() and taken[-1] - taken[0] >= 3


def test_comix_counts_both_views_of_a_row_and_all_of_the_others() -> None:
    """Scores are 1 for both views of a row; the other row has two views and its video, of 0. As one
    group the two rows have no negatives.
    """
    x = unit([1, 0], [0, 1])
    inputs = inputs_of({"video": x, comix.OTHER_SPEED: x, comix.MIXED: x})
    found = comix.speeds_term(inputs, "video", comix.OTHER_SPEED, comix.MIXED)
    assert found is not None
    assert found.item() == pytest.approx(-math.log(2 * math.e / (2 * math.e + 3)))
    one_group = torch.zeros(2, dtype=torch.int64)
    assert comix.find_positives(x, torch.stack([x, x], 1), one_group, 1.0).item() == 0.0


def test_comix_plays_slower_and_mixes_what_stands_still() -> None:
    """Of another row's frames of 10, 10 and 250 the median is 10."""
    random = np.random.default_rng(0)
    for _ in range(20):
        taken = comix.slow_down(np.arange(9), random, speed=2.0)
        assert len(taken) == 9 and (np.diff(taken) >= 0).all() and taken[-1] - taken[0] in (4, 5)
    frames = np.full((3, 2, 2, 3), 200, np.uint8)
    others = np.array([10, 10, 250], np.uint8)[:, None, None, None] + np.zeros_like(frames)
    share = np.random.default_rng(1).uniform(0.0, 0.5)
    mixed = comix.mix_background(frames, others, np.random.default_rng(1), most=0.5)
    assert mixed.dtype == np.uint8 and (mixed == round(200 - 190 * share)).all()


def test_a_view_mixes_in_the_same_row_whichever_rows_a_process_reads() -> None:
    """The third clip has no picture: nothing of it is mixed in, and it has no view."""
    size = ENCODER.size
    pictures = np.random.default_rng(0).integers(0, 256, (3, 2, size, size, 3)).astype(np.uint8)
    rows = [Row(id=str(i), path=None, captions=(), group=str(i), metadata={}) for i in range(3)]
    has = {VIDEO: np.array([True, True, False]), AUDIO: np.zeros(3, bool)}
    source = Clips(rows, {VIDEO: pictures}, has, np.zeros(3, np.int64))
    mixture = Mixture(
        [source],
        [1.0],
        lambda texts: np.zeros((len(texts), 1), np.int64),
        Inputs.of(ENCODER),
        batch=3,
        seed=0,
        methods=rows_of(config_of("comix")),
    )
    for step in range(4):
        whole = mixture.read_batch(step)
        views = whole.views[comix.MIXED]
        assert [bool(view.any()) for view in views] == whole.has["video"].tolist()
        for row in range(3):
            alone = mixture.read_batch(step, [row])
            assert torch.equal(alone.views[comix.MIXED][0], views[row])


def test_a_sound_has_the_same_background_whichever_rows_a_process_reads() -> None:
    """Of four sounds without pictures, half of the time each gets another one behind it."""
    random = np.random.default_rng(0)
    sounds = random.normal(0, 0.1, (4, ENCODER.samples)).astype(np.float32)
    rows = [Row(id=str(i), path=None, captions=(), group=str(i), metadata={}) for i in range(4)]
    has = {VIDEO: np.zeros(4, bool), AUDIO: np.ones(4, bool)}
    source = Clips(rows, {AUDIO: sounds}, has, np.full(4, ENCODER.samples))
    mixture = Mixture(
        [source],
        [1.0],
        lambda texts: np.zeros((len(texts), 1), np.int64),
        Inputs.of(ENCODER),
        batch=4,
        seed=0,
    )
    for step in range(4):
        whole = mixture.read_batch(step).waveforms
        for rank in range(2):
            own = [rank, rank + 2]
            assert torch.equal(mixture.read_batch(step, own).waveforms, whole[own])


def test_sources_of_methods_share_a_batch_in_any_order() -> None:
    """One stands in place of the recipe's own, and the other one has a quarter of each batch."""
    arrivals = ExtraSource(name="a", share=1.0, make=lambda given: given[0], replaces=True)
    composed = ExtraSource(name="b", share=0.25, make=lambda given: given[0])
    for sources in ((arrivals, composed), (composed, arrivals)):
        mixture = Mixture(
            [two_sounds(), two_sounds()],
            [1.0, 1.0],
            lambda texts: np.zeros((len(texts), 1), np.int64),
            Inputs.of(ENCODER),
            batch=8,
            seed=0,
            methods=Rows(sources=sources),
        )
        assert mixture.counts == [6, 2]
    with pytest.raises(BadConfig, match="a batch of 2 is too small for 3 sources"):
        share_out(2, [1.0, 1.0, 1.0], [])


def test_pixpro_crops_say_where_they_are() -> None:
    """Every pixel of these frames says its own place, in sixteenths of the side."""
    places = np.stack(np.meshgrid(np.arange(16), np.arange(16), indexing="ij"), axis=-1)
    frames = np.concatenate([places, np.zeros_like(places[..., :1])], axis=-1).astype(np.uint8)
    random = np.random.default_rng(0)
    mirrored = set()
    for _ in range(20):
        crop, box = pixpro.crop_frames(frames[None], random, least_share=0.5, brightness=0.0)
        assert crop.shape == (1, 16, 16, 3) and box.dtype == np.float32
        top, left, height, width = box
        assert 0.5 <= height <= 1 and abs(width) == pytest.approx(height)
        middles = (np.arange(16) + 0.5) / 16
        assert np.abs((crop[0, :, 0, 0] + 0.5) / 16 - (top + height * middles)).max() <= 0.5 / 16
        assert np.abs((crop[0, 0, :, 1] + 0.5) / 16 - (left + width * middles)).max() <= 0.5 / 16
        mirrored.add(bool(width < 0))
    assert mirrored == {True, False}
    bright, _ = pixpro.crop_frames(frames[None] + 100, random, least_share=1.0, brightness=0.3)
    assert 0.7 * 116 <= bright.max() <= 1.3 * 116


def keep_cells() -> pixpro.Propagation:
    """A propagation whose linear map changes nothing, and whose gamma is 2."""
    propagation = pixpro.Propagation(2, 2, sharpness=2.0).double()
    torch.nn.init.eye_(propagation.transform.weight)
    torch.nn.init.zeros_(propagation.transform.bias)
    return propagation


def test_pixpro_smooths_cells_by_those_like_them() -> None:
    """Cells a, b and c with cosines of 0.6 and less than zero, of which g keeps all: a is smoothed
    to a + 0.36 b. With the crop mirrored, its second cell is where the first one of the whole is.
    """
    propagation = keep_cells()
    a, b, c = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]], dtype=torch.float64)
    smooth = propagation(torch.stack([a, b, c]))
    assert torch.allclose(smooth[0], torch.nn.functional.normalize(a + 0.36 * b, dim=0))
    assert torch.allclose(smooth[2], c)
    whole = torch.stack([a, c])[None, None]  # one row, one frame, two cells
    crop = torch.stack([a, b])[None, None]
    same = torch.tensor([[[False, True], [False, False]]])
    found = pixpro.disagreement(propagation, whole, crop, same)
    smooth_b = torch.nn.functional.normalize(b + 0.36 * a, dim=0)
    assert found.item() == pytest.approx(-(float(a @ b) + float(smooth_b @ a)) / 2)


def test_pixpro_leaves_out_cells_that_are_not_there() -> None:
    """The first row has one pair, whose cosines are 1, the second one none."""
    propagation = keep_cells()
    a, no = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    whole = torch.stack([torch.stack([a, no]), torch.stack([no, no])])[:, None]
    crop = torch.stack([torch.stack([a, a]), torch.stack([a, a])])[:, None]
    same = torch.eye(2, dtype=torch.bool).expand(2, 2, 2)
    assert pixpro.disagreement(propagation, whole, crop, same).item() == pytest.approx(-1.0)
    nowhere = torch.zeros_like(same)
    assert pixpro.disagreement(propagation, whole, crop, nowhere).item() == 0.0


def test_pixpro_reads_cells_at_their_places() -> None:
    config = config_of("pixpro")
    model = make_model(config)
    frames = some_batch(config).frames[:3]
    kept = torch.tensor([[5, 0], [7, 2], [1, 6]])
    vectors = model.embed("video", frames, kept)
    encoded = Encoded(inputs=frames, vectors=vectors, captions={}, has={})
    cells = pixpro.read_cells(model, encoded).view(3, 8, -1)
    there = cells.any(-1)
    assert [row.nonzero().flatten().tolist() for row in there] == [[0, 5], [2, 7], [1, 6]]
    assert torch.allclose(cells[there].norm(dim=-1), torch.ones(6))
    assert model.last_pass is not None
    given = model.parts[pixpro.PART].project(model.last_pass.tokens[1, 0])
    assert torch.allclose(cells[1, 7], torch.nn.functional.normalize(given, dim=0))


def two_sounds(composed: dict[str, Any] | None = None) -> Clips:
    """Rain, which is 1 all the time, and a dog, which is 2 for the first half of 20 samples."""
    captions = [(Caption(said, (AUDIO,)),) for said in ("rain", "a dog")]
    rows = [
        Row(id=said[0].text, path=None, captions=said, group=said[0].text, metadata={})
        for said in captions
    ]
    sounds = np.stack([np.full(20, 1.0), np.repeat([2.0, 0.0], 10)])
    has = {VIDEO: np.zeros(2, bool), AUDIO: np.ones(2, bool)}
    return Clips(rows, {AUDIO: sounds}, has, np.full(2, 20), composed=composed)


def test_composed_sounds_have_both_orders() -> None:
    source = compa.ComposedSounds([two_sounds()], pairs=1)
    clips = [lazy.open() for lazy in source.draw(0, 2, (0, 1))]
    assert {clip.row.captions[0].text for clip in clips} == {
        clip.row.metadata[compa.SWAPPED] for clip in clips
    }
    for clip in clips:
        first, second = (2.0, 1.0) if clip.row.captions[0].text.startswith("a dog") else (1.0, 2.0)
        assert clip.waveform is not None
        assert clip.waveform.tolist() == [first] * 8 + [second] * 8 + [0.0] * 4
    with pytest.raises(BadConfig, match="captioned sounds"):
        compa.ComposedSounds([], pairs=1)


def test_composed_sounds_have_one_in_the_background() -> None:
    """The one behind has a quarter of the other's level. A mixture above 1 is brought down to 1."""
    source = compa.ComposedSounds([two_sounds()], pairs=1, kinds=("attribute",))
    found = {clip.row.captions[0].text: clip for clip in map(compa.Composed.open, source.composed)}
    assert set(found) == {
        "rain, with a dog in the background",
        "a dog, with rain in the background",
    }
    rain, dog = (found[said].waveform for said in sorted(found, reverse=True))
    assert rain == pytest.approx(np.repeat([1.0, 0.8], 10))  # 1 + 0.25 and 1, over 1.25
    assert dog == pytest.approx(np.repeat([1.0, 0.2], 10))  # 2 + 0.5 and 0.5, over 2.5
    swapped = {said: clip.row.metadata[compa.SWAPPED] for said, clip in found.items()}
    assert sorted(swapped) == sorted(swapped.values())


def test_kinds_take_turns_and_both_ways_share_a_batch() -> None:
    source = compa.ComposedSounds(
        [two_sounds()], pairs=6, kinds=("order", "attribute"), both_ways=True
    )
    assert [one.kind for one in source.composed[::2]] == ["order", "attribute"] * 3
    for step in range(3):
        drawn = source.draw(step, 4, (0, 1))
        for row, other in ((drawn[0].row, drawn[1].row), (drawn[2].row, drawn[3].row)):
            kind, first, second = row.id.partition(" ")[0], *row.id.partition(" ")[2].split("+")
            assert other.id == f"{kind} {second}+{first}"
    with pytest.raises(BadConfig, match="order, attribute"):
        compa.rows(compa.Settings(kinds=("loudness",)))


def test_sounds_that_were_put_together_beforehand_are_used() -> None:
    """As the real bed's are, whose sounds are features."""
    ready = {f"order {ids}": np.full(20, 7.0) for ids in ("rain+a dog", "a dog+rain")}
    source = compa.ComposedSounds([two_sounds(ready)], pairs=1)
    for one in source.composed:
        assert one.open().waveform is ready[one.row.id]
    with pytest.raises(BadConfig, match="at most 2 sounds"):
        compa.ComposedSounds([two_sounds(ready)], pairs=1, kinds=("attribute",))


def test_group_scores_of_an_encoder_without_ears_are_not_above_chance() -> None:
    scores = np.ones((6, 2, 2))
    assert score_groups(scores) == {"text": 0.0, "sound": 0.0, "group": 0.0}


# ---------------------------------------------------------------- gradients


T, V, A = random_unit(1), random_unit(2), random_unit(3)
GROUPS = torch.tensor([0, 0, 1, 2, 3])
MATCHER = hard_matching.Matcher(4, hard_matching.Settings(states=1, width=4, heads=2)).double()
CAPTIONER = captioning.Captioner(9, 4, 4, captioning.Settings(width=4, heads=2)).double()
WORDS = torch.tensor([[2, 5, 3, 0], [2, 6, 7, 3], [2, 8, 3, 0], [2, 4, 4, 3], [2, 3, 0, 0]])
torch.manual_seed(0)
SEQUENCE = masked_windows.WindowSequence(4, masked_windows.Settings(width=4, heads=2)).double()
LOSSES: dict[str, Callable[..., Tensor]] = {
    "valor": lambda t, v, a: valor.info_nce(t, join(v, a, 0.5), 3.0, GROUPS, 0.1),
    "alignment": lambda t, v, a: gap.alignment(t, v) + gap.alignment(t, a),
    "uniformity": lambda t, v, a: gap.uniformity(t, v) + gap.uniformity(a, a),
    "cwcl": lambda t, v, a: cwcl.cwcl(t, v, random_unit(4), scale=3.0, power=2.0) + 0 * a.sum(),
    "gram": lambda t, v, a: (
        gram.contrast_logits(-3 * gram.volumes(t, v, a), GROUPS)
        + gram.keep_apart(v, a, -1.0)
        + gram.keep_on_side(t, v, a)
    ),
    "triangle": lambda t, v, a: triangle.contrast_logits(-3 * triangle.areas(t, v, a), GROUPS),
    "mil_nce": lambda t, v, a: (
        mil_nce.mil_nce(
            a,
            torch.stack([t, v], 1),
            torch.tensor([[True, True]] * 4 + [[True, False]]),
            GROUPS,
            3.0,
        )
        + mil_nce.ask_back(
            a,
            torch.stack([t, v], 1),
            torch.tensor([[True, True]] * 4 + [[True, False]]),
            GROUPS,
            3.0,
        )
    ),
    "compa": lambda t, v, a: compa.order_loss(a, t, v, 3.0) + compa.ask_back(a, t, 3.0),
    "vip_ant": lambda t, v, a: vip_ant.pivot(a, V, T, 3.0) + 0 * (t.sum() + v.sum()),
    "captioning": lambda t, v, a: captioning.tell(
        CAPTIONER, WORDS, TrunkPass(torch.stack([t, v, a], 1))
    )[:, 0].sum(),
    "masked_windows": lambda t, v, a: masked_windows.contrast_windows(
        SEQUENCE(torch.stack([t, v, a], 1)), torch.stack([t, v, a], 1), GROUPS, 3.0
    ),
    "masked_answers": lambda t, v, a: masked_answers.answer(v, a, t, GROUPS, 3.0),
    "coconut": lambda t, v, a: (
        coconut.hold(t, v, torch.tensor([False, True, True, False, True]), GROUPS, 3.0)
        + 0 * a.sum()
    ),
    "comix": lambda t, v, a: comix.find_positives(t, torch.stack([v, a], 1), GROUPS, 3.0),
    "hard_matching": lambda t, v, a: hard_matching.hard_matching(
        lambda rows, others: MATCHER(a[rows, None], v[others, None]), t, v, GROUPS
    ),
}


def test_gradients_of_cells_are_those_of_differences() -> None:
    """Of the module's weights. Differences would also move the targets, which are held fixed."""
    torch.manual_seed(0)
    propagation = pixpro.Propagation(4, 4, sharpness=2.0).double()
    cells = [random_unit(seed, 12).view(2, 2, 3, 4) for seed in (5, 6)]
    same = torch.rand(2, 3, 3) < 0.5
    weights = dict(propagation.transform.named_parameters())

    def run(*values: Tensor) -> Tensor:
        given = {f"transform.{name}": x for name, x in zip(weights, values, strict=True)}
        call = partial(torch.func.functional_call, propagation, given)
        return pixpro.disagreement(call, *cells, same)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(run, tuple(weights.values()), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", list(LOSSES))
def test_gradients_are_those_of_differences(name: str) -> None:
    given = [x.clone().requires_grad_() for x in (T, V, A)]
    assert torch.autograd.gradcheck(LOSSES[name], given, eps=1e-6, atol=1e-5)


# ---------------------------------------------------------------- in a step


def config_of(recipe: str) -> TrainConfig:
    encoder = ENCODER
    if recipe == "cwcl":  # which reads the vectors of a frozen language model
        encoder = replace(encoder, text_stem="minilm", tokenizer="bert")
    return TrainConfig(encoder=encoder, batch=10, local_weight=0.0, methods=RECIPES[recipe])


def make_model(config: TrainConfig) -> VLSA:
    """The recipe's network with random weights; a language model's words differ, too."""
    torch.manual_seed(0)
    model = make_network(config).train()
    stem = model.stems["text"]
    if isinstance(stem, MiniLMStem):
        stem.model.words.values.random_(-100, 100)
        stem.model.words.scales.fill_(0.01)
    return model


def some_batch(config: TrainConfig) -> Batch:
    """Ten rows, of which some lack each modality, with what the methods add."""
    source = torch.Generator().manual_seed(1)
    rows = rows_of(config)
    texts = ["video_caption", "audio_caption", *(text.name for text in rows.texts)]
    words = {name: torch.randint(4, 200, (10, 9), generator=source) for name in texts}
    frames = (10, *ENCODER.video.shape)
    media = {
        "video": torch.randint(0, 256, frames, dtype=torch.uint8, generator=source),
        "audio": 0.1 * torch.randn(10, ENCODER.samples, generator=source),
    }
    has = {name: torch.rand(10, generator=source) < 0.75 for name in [*media, *texts]}
    views = {view.name: media[view.of].flip(0) for view in rows.views}
    has |= {view.name: has[view.of].flip(0) for view in rows.views if view.crop is None}
    has |= {view.name: has[view.of] for view in rows.views if view.crop is not None}
    box = torch.tensor([[0.1, 0.9, 0.6, -0.6]])
    boxes = {view.box: box.repeat(10, 1) for view in rows.views if view.crop is not None}
    has |= {mark.name: torch.arange(10) >= 5 for mark in rows.marks}
    return Batch(
        frames=media["video"],
        waveforms=media["audio"],
        video_caption=words.pop("video_caption"),
        audio_caption=words.pop("audio_caption"),
        has=has,
        group_ids=torch.tensor([0, 0, *range(1, 9)]),
        ids=[str(i) for i in range(10)],
        texts=words,
        views=views,
        boxes=boxes,
    )


def gradients_of(
    config: TrainConfig, batch: Batch | None = None, turn: Turn | None = None
) -> dict[str, Tensor]:
    processes = join_process_group()
    model = make_model(config)
    rows = processes.rows(config.batch)
    randomness = StepRandomness.draw(config, config.batch, 5, turn)
    terms = compute_gradients(
        model,
        (batch or some_batch(config)).take(rows),
        randomness.take(rows, torch.device("cpu")),
        config,
        processes,
    )
    return terms | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() >= expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= 1e-5 * max(1.0, float(value.abs().max())), name


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_a_batch_in_pieces_has_the_gradients_of_the_whole(recipe: str) -> None:
    config = config_of(recipe)
    whole = gradients_of(config)
    added = {term.name for term in rows_of(config).terms}
    assert added <= whole.keys()
    assert_same(gradients_of(replace(config, micro_batch=4)), whole)


def one_of_two(rank: int, port: int, out: Path) -> None:
    os.environ |= {
        "WORLD_SIZE": "2",
        "RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    found = {recipe: gradients_of(config_of(recipe)) for recipe in RECIPES}
    if rank == 1:
        torch.save(found, out)
    leave_process_group()


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    spawn(one_of_two, (free_port(), tmp_path / "found.pt"), nprocs=2)
    found = torch.load(tmp_path / "found.pt")
    for recipe in RECIPES:
        assert_same(found[recipe], gradients_of(config_of(recipe)))
    assert "cosine_video" in found["harmonise"]


def test_a_piece_may_lack_what_another_has() -> None:
    """The last rows have no texts, and no sentences, while the first ones do."""
    for recipe in ("cwcl", "experts"):
        config = config_of(recipe)
        batch = some_batch(config)
        for name in ("video_caption", "audio_caption"):
            batch.has[name][4:] = False
            batch.has[name][:4] = True
        whole = gradients_of(config, batch)
        assert_same(gradients_of(replace(config, micro_batch=4), batch), whole)


def test_harmonising_without_conflict_changes_nothing() -> None:
    """With one term there is nothing to project: the gradients are the plain recipe's."""
    batch = some_batch(config_of("harmonise"))
    batch.has |= {name: torch.zeros(10, dtype=torch.bool) for name in ("video", "video_caption")}
    plain = gradients_of(replace(config_of("harmonise"), methods={}), batch)
    del batch.has["video"], batch.has["video_caption"]
    batch.has |= {name: torch.zeros(10, dtype=torch.bool) for name in ("video", "video_caption")}
    assert_same(gradients_of(config_of("harmonise"), batch), plain)


@pytest.mark.parametrize("absent", ["video", "audio", "captions", "all"])
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_what_is_missing_is_left_out(recipe: str, absent: str) -> None:
    config = config_of(recipe)
    batch = some_batch(config)
    for name in batch.has:
        if (
            absent == "all"
            or name.startswith(absent)
            or (absent == "captions" and "caption" in name)
        ):
            batch.has[name] = torch.zeros(10, dtype=torch.bool)
    found = gradients_of(config, batch)
    assert all(torch.isfinite(value).all() for value in found.values())


def test_plain_recipes_are_what_they_were() -> None:
    """Methods that are not used change no number: neither terms, nor draws of chance."""
    plain = config_of("valor")
    plain = replace(plain, methods={})
    with_views = StepRandomness.draw(config_of("cvrl"), 10, seed=5)
    alone = StepRandomness.draw(plain, 10, seed=5)
    assert torch.equal(with_views.stretches, alone.stretches)
    assert with_views.match_shift == alone.match_shift
    assert torch.equal(with_views.kept_tokens["video"], alone.kept_tokens["video"])


# ---------------------------------------------------------------- recipes


def test_a_recipe_names_what_there_is() -> None:
    plain = TrainConfig(encoder=ENCODER)
    for methods, said in (
        ({"valour": {}}, "no method 'valour'"),
        ({"valor": {"wieght": 1.0}}, "wieght"),
        ({"valor": {"weight": 0.0}}, "weight of 'joint_text' is 0"),
    ):
        with pytest.raises(BadConfig, match=said):
            terms_on(replace(plain, methods=methods))
    with pytest.raises(BadConfig, match="video_text cannot be replaced"):
        terms_on(replace(plain, video_text=False, methods={"mil_nce": {}}))
    with pytest.raises(BadConfig, match="frozen language model"):
        terms_on(replace(plain, methods={"cwcl": {}}))
    assert sound_weight(plain) is None
    assert sound_weight(replace(plain, methods={"valor": {"audio_weight": 0.3}})) == 0.3
    assert sound_weight(replace(plain, methods={"valor": {"learned": True}})) is None
    names = [term.name for term in terms_on(replace(plain, methods={"mil_nce": {}}))]
    assert "several_audio_texts" in names and "audio_text" not in names


def test_methods_are_part_of_a_checkpoints_config() -> None:
    config = config_of("several")
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert set(RECIPES) - MORE == set(method_names())


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


def test_a_resumed_run_with_methods_repeats_a_whole_one(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped in the step after a checkpoint. Without its methods it cannot go on."""

    def stop_at_three(*given: Any, step: int, **named: Any) -> dict[str, float]:
        if step == 3:
            raise KeyboardInterrupt
        return train_step(*given, step=step, **named)

    config = replace(
        SMOKE,
        manifests=("world:train:24",),
        validation="world:validation:8",
        batch=10,
        steps=4,
        checkpoint_steps=2,
        methods=RECIPES["everything"],
        threads=1,
    )
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(config, whole, resume=False, media=media, log=lambda _: None)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop, "train_step", stop_at_three)
        train(config, stopped, resume=False, media=media, log=lambda _: None)
    assert load(stopped)[2]["step"] == 2
    with pytest.raises(BadConfig, match="another encoder or other methods"):
        train(replace(config, methods={}), stopped, resume=True, media=media, log=lambda _: None)
    train(config, stopped, resume=True, media=media, log=lambda _: None)
    assert load(stopped)[2]["step"] == 4
    for a, b in zip(load(whole)[0].parameters(), load(stopped)[0].parameters(), strict=True):
        assert torch.equal(a, b)
    figures = json.loads((whole / "metrics.jsonl").read_text().splitlines()[-1])
    added = {"joint_text", "order", "several_audio_texts", "video_views", "speeds", "places"}
    assert added <= figures.keys()
    assert any(name.startswith("gap ") for name in figures)


def test_the_plain_recipe_trains_without_the_folder(media: Path, tmp_path: Path) -> None:
    """A copy of the code without model/methods: the plain recipe trains, a method is not there."""
    code = tmp_path / "code"
    for room in ("media", "evaluation", "model"):
        left_out = shutil.ignore_patterns("__pycache__", "methods")
        shutil.copytree(ROOT / room, code / room, ignore=left_out)
    config = replace(SMOKE, manifests=("world:train:24",), validation="world:validation:8", steps=2)
    (tmp_path / "config.json").write_text(json.dumps(config.to_json()))
    script = (
        "import sys; from pathlib import Path;"
        "from model.config import TrainConfig; from model.training import tables;"
        "from model.training.loop import train;"
        "assert tables.FOLDER.parent == Path('model').absolute() and not tables.method_names();"
        "train(TrainConfig.load(sys.argv[1]), Path(sys.argv[2]), False, media=Path(sys.argv[3]))"
    )
    arguments = [str(tmp_path / name) for name in ("config.json", "run")]
    command = [sys.executable, "-c", script, *arguments, str(media)]
    subprocess.run(command, cwd=code, check=True, capture_output=True)
    assert (tmp_path / "run" / "checkpoint" / "weights.pt").exists()


# ---------------------------------------------------------------- beds


def make_features(file: Path) -> None:
    """A file like that of `bench.real_bed`: six pictures and sounds of three kinds, by chance."""
    random = np.random.default_rng(0)
    kinds = ["a dog", "rain", "a bell"] * 2

    def describe(name: str, about: tuple[str, ...]) -> list[dict[str, Any]]:
        return [
            {
                "id": f"{name}-{i}",
                "group": kind,
                "captions": [{"text": kind, "about": [m]} for m in about],
            }
            for i, kind in enumerate(kinds)
        ]

    rows = {
        "pictures": describe("picture", (VIDEO,)),
        "sounds": describe("sound", (AUDIO,)),
        "pairs": describe("pair", (VIDEO, AUDIO)),
        "recordings": describe("recording", (VIDEO, AUDIO)),
    }
    said = {
        kind: [
            list(how.say(a, b, number))
            for number in range(3)
            for a in sorted(set(kinds))
            for b in sorted(set(kinds))
        ]
        for kind, how in COMPOSITIONS.items()
    }
    pairs_said = [text for pairs in said.values() for pair in pairs for text in pair]
    texts = list(dict.fromkeys(["?", *kinds, *pairs_said]))
    shapes = {
        "picture_cells": (6, 4, 9, 8),
        "picture_readings": (6, 4, 384),
        "sound_patches": (6, 9, 8),
        "sound_readings": (6, 384),
        "sound_halves": (6, 2, 384),
        "recording_cells": (6, 2, 9, 8),
        "recording_frame_readings": (6, 2, 384),
        "recording_patches": (6, 9, 8),
        "recording_readings": (6, 384),
        "recording_halves": (6, 2, 384),
        "text_tokens": (len(texts), 24, 8),
        "text_readings": (len(texts), 384),
    }
    for kind in COMPOSITIONS:
        shapes |= {f"{kind}_patches": (2, 9, 8), f"{kind}_readings": (2, 384)}
        shapes |= {f"{kind}_halves": (2, 2, 384)}
    arrays = {
        name: random.integers(-100, 101, shape).astype(np.int8) for name, shape in shapes.items()
    }
    flags = {
        "sound_heard": (6, 9),
        **{f"{kind}_heard": (2, 9) for kind in COMPOSITIONS},
        "recording_has_video": (6,),
        "recording_has_audio": (6,),
    }
    arrays |= {name: np.ones(shape, dtype=bool) for name, shape in flags.items()}
    arrays |= {
        "pairs": np.stack([np.arange(6)] * 2, axis=1),
        "recording_owners": np.arange(6),
        "recording_windows": np.zeros(6, np.int64),
        "text_lengths": np.full(len(texts), 3, np.int16),
    }
    groups = {kind: [{"texts": pairs[1]}] for kind, pairs in said.items()}
    described = {"texts": texts, "rows": rows, "groups": groups, "composed": {}}
    np.savez(file, rows=np.array(json.dumps(described)), **arrays)


@pytest.fixture(scope="module")
def features(media: Path) -> Path:
    file = media / "features.npz"
    make_features(file)
    return file


def test_a_trunk_adds_nothing_to_the_stems_at_first(features: Path) -> None:
    """Before the first step a vector is the stems' reading; a text's, whatever shares its batch."""
    bed = RealBed(features)
    plan = Plan(out=features.parent, features=features, batch=8)
    model = bed.network(make_config(plan, Job("real", "plain", 0))).eval()
    readings = bed.data.texts.readings[1:4].astype(np.float32)
    vectors = bed.embedder(model).texts(list(bed.data.texts.ids)[1:4])
    expected = readings / np.linalg.norm(readings, axis=1, keepdims=True)
    assert np.abs(vectors - expected).max() < 1e-6
    galleries = bed.galleries(model)
    heard = bed.data.arrays["recording_readings"].astype(np.float32)
    expected = heard / np.linalg.norm(heard, axis=1, keepdims=True)
    assert np.abs(galleries[AUDIO].vectors - expected).max() < 1e-5


def test_a_plan_leaves_a_result_for_each_run_and_goes_on_where_it_was(
    features: Path, tmp_path: Path
) -> None:
    """Both beds; an arm whose step costs more has fewer steps."""
    out = tmp_path / "runs"
    others = (
        "CWCL",
        "CompA both",
        "bound halves and CompA",
        "CVRL",
        "CoMix",
        "PixPro",
        "X-CLIP",
        "VATT",
    )
    tested = ("plain", "gap", *others, "alternate", "CoCa", "COCONUT")
    plan = Plan(
        out=out,
        features=features,
        arms=tested,
        seeds=1,
        steps={"real": 4, "world": 4},
        batch=12,
        device="cpu",
        clips=(16, 12),
    )
    late = run_plan(replace(plan, ends_at=0.0), log=lambda _: None)
    assert late == [] and not list(out.glob("*.json"))
    results = run_plan(plan, log=lambda _: None)
    assert [(run["bed"], run["arm"]) for run in results] == [
        (bed, arm) for bed in BEDS for arm in ARMS if arm in tested and (bed, arm) not in LEFT_OUT
    ]
    for run in results:
        spent = run["steps"] * run["operations"]
        assert abs(spent - 4 * run["plain_operations"]) <= run["operations"] / 2 + 1
        assert {"text-any", "audio-video"} <= run["after"][0].keys()
        assert all(0 <= run[kind]["group"] <= 1 for kind in COMPOSITIONS)
        assert "audio-text" in run["gap"]
    looked = [run["looks"] for run in results if run["arm"] == "gap"]
    assert [len(looks) for looks in looked] == [4, 4]
    assert all("audio-text" in found["gap"] for looks in looked for found in looks)
    views = next(run for run in results if run["arm"] == "CVRL" and run["bed"] == "world")
    assert views["steps"] < 4
    tables = write_report(results, out)
    assert "| CompA both |" in tables and "attribute, group score" in tables
    assert "<svg" in (out / "methods-real.svg").read_text()
    done = {file: file.stat().st_mtime_ns for file in out.glob("*.json")}
    assert run_plan(plan, log=lambda _: None) == results
    assert {file: file.stat().st_mtime_ns for file in out.glob("*.json")} == done


def test_the_world_can_have_another_recipe(tmp_path: Path) -> None:
    """Clips are drawn in its size, and batched by what it names; the folder is no other plan's."""
    recipe = tmp_path / "recipe.json"
    encoder = dataclasses.asdict(TrainConfig.load("miniature").encoder) | {"size": 32, "width": 64}
    recipe.write_text(json.dumps({"encoder": encoder, "batch_together_by": [["colour"]]}))
    plan = Plan(
        out=tmp_path / "runs",
        features=tmp_path / "none.npz",
        beds=("world",),
        arms=("plain",),
        seeds=1,
        steps={"world": 1},
        batch=4,
        device="cpu",
        clips=(8, 6),
        world=str(recipe),
    )
    (result,) = run_plan(plan, log=lambda _: None)
    assert result["conditions"] == {
        "steps": 1,
        "batch": 4,
        "recipe": str(recipe),
        "clips": [8, 6],
    }
    bed = bed_of(plan, "world")
    assert bed.train.arrays[VIDEO].shape == (8, 8, 32, 32, 3)
    assert bed.train.batch_together_by == (("colour",),)
    assert bed.network(make_config(plan, Job("world", "plain", 0))).config.width == 64
    with pytest.raises(BadConfig, match="other conditions"):
        run_plan(replace(plan, world="miniature"), log=lambda _: None)


def test_a_plan_names_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["--beds", "moon"], "no bed 'moon'"),
        (["--beds", "real", "--arms", "VALOUR"], "no arm 'VALOUR'"),
        (["--beds", "real", "--features", str(tmp_path / "none.npz")], "bench.real_bed"),
    ):
        assert main(["ablation", *arguments, "--out", str(tmp_path / "out")]) == 1
        assert said in capsys.readouterr().err
