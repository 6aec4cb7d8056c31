"""Rows that arrive in stages: what is replayed, held and forgotten."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluation.clips import Clips
from evaluation.retrieval import Route
from media.errors import BadConfig
from media.manifest import Row
from media.modality import AUDIO, VIDEO
from model.data.batches import Inputs, Mixture
from model.data.stages import REPLAYED, Arrivals, Schedule
from model.methods import coconut
from model.training import loop
from model.training.checkpoint import load
from model.training.distributed import join_process_group
from model.training.loop import make_optimiser, train, train_step
from model.training.tables import Evaluation, rows_of

from .test_methods import RECIPES, SMOKE, config_of, inputs_of, make_model, some_batch, unit


def kinds_of_sounds() -> Clips:
    """Four sounds of each of three kinds, and one of another."""
    kinds = ["rain"] * 4 + ["dog"] * 4 + ["bell"] * 4 + ["cat"]
    rows = [
        Row(id=f"{kind} {i}", path=None, captions=(), group=str(i), metadata={"kind": kind})
        for i, kind in enumerate(kinds)
    ]
    has = {VIDEO: np.zeros(13, bool), AUDIO: np.ones(13, bool)}
    return Clips(rows, {AUDIO: np.ones((13, 20))}, has, np.full(13, 20))


KINDS = Schedule("kind", [["rain"], ["dog"], ["bell"]], steps=2, passed=0)


def test_rows_arrive_in_stages_and_some_are_replayed() -> None:
    source = Arrivals([kinds_of_sounds()], schedule=KINDS, replay=0.5, memory=2)
    assert len(source) == 12 and all(row.metadata["kind"] != "cat" for row in source.rows)
    for step, (kind, before) in enumerate(
        [("rain", [])] * 2 + [("dog", ["rain"])] * 2 + [("bell", ["dog", "rain"])] * 4
    ):
        drawn = source.draw(step, 4, (0, 0))
        new = [lazy for lazy in drawn if REPLAYED not in lazy.row.metadata]
        old = drawn[len(new) :]
        assert {lazy.row.metadata["kind"] for lazy in new} == {kind}
        assert sorted({lazy.row.metadata["kind"] for lazy in old}) == before
        assert len(old) == (2 if before else 0)
        assert all(lazy.open().row.metadata[REPLAYED] for lazy in old)
    assert len({lazy.row.id for step in (2, 3) for lazy in source.draw(step, 4, (0, 0))[:2]}) == 4
    assert len({lazy.row.id for step in (2, 3) for lazy in source.draw(step, 4, (0, 0))[2:]}) == 2
    mixed = Mixture(
        [kinds_of_sounds()],
        [1.0],
        lambda texts: np.ones((len(texts), 3), np.int64),
        Inputs(
            {VIDEO: ((1,), np.uint8), AUDIO: ((20,), np.float32)}, *[lambda *_: np.ones(20)] * 2
        ),
        batch=4,
        seed=0,
        methods=coconut.rows(
            coconut.Settings(by="kind", stages=KINDS.stages, stage_steps=2, replay=0.5)
        ),
    )
    assert mixed.read_batch(3).has[REPLAYED].tolist() == [False, False, True, True]
    with pytest.raises(BadConfig, match="none has kind of cow"):
        Arrivals(
            [kinds_of_sounds()], schedule=replace(KINDS, stages=[["cow"]]), replay=0.5, memory=2
        )


def test_what_is_replayed_is_held_where_the_teacher_had_it() -> None:
    """Rows 1 and 2 are replayed, and one group. The teacher has row 1 where it is, and row 2 at a
    right angle. Row 0 is of another group, at a right angle to both.
    """
    a = unit([1, 0, 0], [0, 1, 0], [0, 1, 0])
    before = unit([9, 9, 9], [0, 1, 0], [0, 0, 1])
    replayed = torch.tensor([False, True, True])
    found = coconut.hold(a, before, replayed, torch.tensor([0, 1, 1]), 1.0)
    near, far = -math.log(math.e / (math.e + 1)), -math.log(1 / 2)
    assert found.item() == pytest.approx((near + far) / 2)
    inputs = inputs_of(
        {"audio": a, "before": before, REPLAYED: a}, {REPLAYED: [0, 1, 1], "audio": [1, 0, 0]}
    )
    assert coconut.hold_term(inputs, "audio", "before") is None


def test_the_teacher_is_what_the_network_was_when_the_stage_began() -> None:
    config = replace(config_of("coconut"), steps=5, warmup=0.0)
    model = make_model(config)
    optimiser = make_optimiser(model, config)
    began: list[Tensor] = []
    for step in range(5):
        if step in (0, 3):
            began = [x.clone() for name, x in model.named_parameters() if "parts" not in name]
        train_step(
            model,
            optimiser,
            some_batch(config),
            config=config,
            step=step,
            processes=join_process_group(),
        )
        teacher = list(model.parts["before"].parameters())
        assert all(torch.equal(a, b) for a, b in zip(teacher, began, strict=True))
        own = [x for name, x in model.named_parameters() if "parts" not in name]
        assert not all(torch.equal(a, b) for a, b in zip(teacher, own, strict=True))


def test_what_is_forgotten() -> None:
    """Two sounds of the first stage, of which one is among the ten best now, and one of the second.
    Both were found before, and less before that.
    """
    rows = kinds_of_sounds().rows
    gallery = [rows[0], rows[1], rows[4], *[rows[12]] * 12]
    scores = np.zeros((3, 15))
    scores[0, 0], scores[1, 2:], scores[2, 2] = 1.0, 1.0, 1.0
    route = Route(
        name="text-audio",
        scores=scores,
        relevant=np.eye(3, 15, dtype=bool),
        queries=[],
        gallery=gallery,
        vectors=np.zeros((15, 2), np.float32),
        entries=np.arange(15),
    )
    before = [{"stage 1 R@10": 0.25}, {"stage 1 R@10": 1.0}]
    found = coconut.measure_stages(
        Evaluation(vectors={}, routes=[route], step=3, before=before), schedule=KINDS
    )
    assert found == {"stage 1 R@10": 0.5, "stage 2 R@10": 1.0, "forgotten": 0.5}
    first = Evaluation(vectors={}, routes=[route], step=2, before=before)
    assert "forgotten" not in coconut.measure_stages(first, schedule=KINDS)


def test_settings_of_stages() -> None:
    said = {"by": "kind", "stages": [["rain"], ["dog"]], "stage_steps": 1}
    alone = coconut.rows(coconut.Settings(**said, replay=0.0))
    assert not alone.terms and not alone.parts and alone.sources
    for wrong in ({"stage_steps": 0}, {"passed": 2}, {"replay": 1.0}, {"memory": 0}):
        with pytest.raises(BadConfig, match="coconut"):
            rows_of(replace(SMOKE, methods={"coconut": said | wrong}))
    words = said | {"stages": ["rain", "dog"]}  # of which every letter would be a value
    with pytest.raises(BadConfig, match=r"stages\.0 is 'rain'"):
        rows_of(replace(SMOKE, methods={"coconut": words}))
    with pytest.raises(BadConfig, match="stages"):
        rows_of(replace(SMOKE, methods={"coconut": {}}))


def test_a_resumed_run_in_stages_repeats_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped in its second stage, in which there is a teacher and what is forgotten."""

    def stop_at_five(*given: Any, step: int, **named: Any) -> dict[str, float]:
        if step == 5:
            raise KeyboardInterrupt
        return train_step(*given, step=step, **named)

    config = replace(
        SMOKE,
        manifests=("world:train:24",),
        validation="world:validation:8",
        batch=10,
        steps=6,
        checkpoint_steps=2,
        local_weight=0.0,
        methods=RECIPES["coconut"],
        threads=1,
    )
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    model = train(config, whole, resume=False, media=tmp_path, log=lambda _: None)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop, "train_step", stop_at_five)
        train(config, stopped, resume=False, media=tmp_path, log=lambda _: None)
    assert load(stopped)[2]["step"] == 4
    again = train(config, stopped, resume=True, media=tmp_path, log=lambda _: None)
    assert load(stopped)[2]["step"] == 6
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert "audio_held" not in lines[2] and lines[3]["audio_held"] > 0
    assert "stages forgotten" not in lines[1] and lines[3]["stages forgotten"] >= 0
    resumed = (stopped / "metrics.jsonl").read_text().splitlines()
    assert json.loads(resumed[-1])["stages forgotten"] == lines[-1]["stages forgotten"]
