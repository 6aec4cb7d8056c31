"""Turns, of which each step takes one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from media.errors import BadConfig
from model.data.batches import Inputs, Mixture
from model.methods import alternate
from model.training.losses import check_turns
from model.training.step import StepRandomness, see_in_turn
from model.training.tables import Rows, Turn, draw_turn, rows_of, step_seed

from .test_methods import (
    ENCODER,
    assert_same,
    config_of,
    gradients_of,
    some_batch,
    two_sounds,
)

ONE_SOUND = {"terms": ["audio_text", "audio_text_match"]}
FINE = {"terms": ["audio_video", "audio_video_match", "video_text"], "tokens": 1.0}


def test_turns_are_drawn_by_their_chances() -> None:
    settings = alternate.Settings(turns=[ONE_SOUND | {"chance": 3.0}, FINE])
    turns = alternate.rows(settings).turns
    drawn = [draw_turn(turns, step_seed(0, step)) for step in range(1000)]
    assert set(drawn) == set(turns) and 700 < drawn.count(turns[0]) < 800
    assert drawn == [draw_turn(turns, step_seed(0, step)) for step in range(1000)]


def test_a_turn_is_the_step_of_a_recipe_with_its_terms_alone() -> None:
    """Gradients and terms are those of a plain recipe in which all rows lack their video."""
    plain = replace(config_of("alternate"), methods={})
    lacking = some_batch(plain)
    for name in ("video", "video_caption"):
        lacking.has[name] = torch.zeros(10, dtype=torch.bool)
    config = replace(plain, methods={"alternate": {"turns": [ONE_SOUND, FINE]}})
    sound, fine = rows_of(config).turns
    found = gradients_of(config, turn=sound)
    assert_same(found, gradients_of(plain, lacking))
    assert not any(name.startswith("stems.video") for name in found)
    whole = gradients_of(replace(config, drop_tokens=0.0), turn=fine)
    assert_same(gradients_of(config, turn=fine), whole)
    assert {"audio_video", "video_text"} <= whole.keys() and "audio_text" not in whole


def test_a_turn_sees_fewer_frames() -> None:
    """Of two frames the first alone is seen, in pictures and in tokens."""
    config = config_of("both_of_imp")
    turn = rows_of(config).turns[0]
    drawn = StepRandomness.draw(config, 10, 5, turn)
    _, patches = ENCODER.grid["video"]
    assert drawn.kept_tokens["video"].shape == (10, patches // 2)
    assert int(drawn.kept_tokens["video"].max()) < patches
    batch = some_batch(config)
    seen = see_in_turn(batch, turn, config)
    assert torch.equal(seen.frames[:, 1], batch.frames[:, 0])
    assert torch.equal(seen.has["audio"], batch.has["audio"])
    assert not seen.has["audio_caption"].any()
    changed = replace(batch, frames=batch.frames.clone())
    changed.frames[:, 1] = 0
    assert_same(gradients_of(config, changed, turn), gradients_of(config, batch, turn))


def test_masked_modelling_is_in_every_turn_or_in_those_that_name_it() -> None:
    config = replace(config_of("alternate"), local_weight=1.0)
    for turns, expected in (
        ([ONE_SOUND, FINE], [True, True]),
        ([ONE_SOUND, FINE, {"terms": ["local"]}], [False, False, True]),
    ):
        config = replace(config, methods={"alternate": {"turns": turns}})
        check_turns(config)
        found = [gradients_of(config, turn=turn) for turn in rows_of(config).turns]
        assert ["local" in terms for terms in found] == expected
    assert found[2]["total"] == found[2]["local"] > 0


def test_turns_name_what_there_is() -> None:
    plain = replace(config_of("alternate"), methods={})
    for turns, said in (
        ([ONE_SOUND], "no turn names audio_video, audio_video_match, video_text"),
        ([ONE_SOUND, FINE, {"terms": ["local"]}], "names local, which is not on"),
        ([ONE_SOUND | {"token": 0.5}], "token"),
        ([ONE_SOUND | {"tokens": 0.0}], "a share above 0"),
        ([ONE_SOUND | {"chance": 0.0}], "a chance above 0"),
    ):
        with pytest.raises(BadConfig, match=said):
            check_turns(replace(plain, methods={"alternate": {"turns": turns}}))


def test_a_turn_takes_its_rows_from_its_sources() -> None:
    turns = alternate.rows(alternate.Settings(turns=[ONE_SOUND | {"sources": [1]}, FINE])).turns
    sources = [two_sounds(), two_sounds()]

    def mixture(turns: tuple[Turn, ...]) -> Mixture:
        inputs = Inputs.of(ENCODER)
        rows = Rows(turns=turns)
        return Mixture(
            sources, [3.0, 1.0], lambda texts: texts, inputs, batch=4, seed=0, methods=rows
        )

    mixed = mixture(turns)
    for step in range(8):
        alone = draw_turn(turns, step_seed(0, step)) == turns[0]
        assert mixed.counts_of(step) == ([0, 4] if alone else [3, 1])
        assert len(mixed.draw_clips(step)) == 4
    with pytest.raises(BadConfig, match="there are 2 sources"):
        mixture((replace(turns[0], sources=(2,)),))


def test_a_view_that_is_only_read_off_the_network_is_seen_where_its_term_is() -> None:
    turns = [
        {"terms": [*ONE_SOUND["terms"], "expert_balance"]},
        {"terms": [*FINE["terms"], "places"]},
    ]
    methods = {"pixpro": {}, "experts": {}, "alternate": {"turns": turns}}
    config = replace(config_of("pixpro"), methods=methods)
    sound, fine = rows_of(config).turns
    batch = some_batch(config)
    assert see_in_turn(batch, fine, config).has["cropped_video"].any()
    heard = see_in_turn(batch, sound, config).has
    assert {name for name, rows in heard.items() if rows.any()} == {"audio", "audio_caption"}
    assert "places" in gradients_of(config, batch, fine)
    assert "expert_balance" in gradients_of(config, batch, sound)
