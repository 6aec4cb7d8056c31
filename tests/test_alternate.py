"""Turns, of which each step takes one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from media.errors import BadConfig
from model.data.batches import Inputs, Mixture
from model.methods import alternate
from model.training.distributed import join_process_group, leave_process_group
from model.training.loop import make_optimiser, train_step
from model.training.losses import check_turns
from model.training.step import StepRandomness, see_in_turn
from model.training.tables import Rows, Turn, draw_turn, rows_of, step_seed

from .makers import free_port
from .test_methods import (
    ENCODER,
    assert_same,
    config_of,
    gradients_of,
    make_model,
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
        ([ONE_SOUND | {"token": 0.5}], "no setting 'token'; there are: name, terms, chance"),
        ([ONE_SOUND | {"terms": "audio_text"}], "terms is 'audio_text'"),
        ([{"terms": []}], "at least 1 item"),
        ([ONE_SOUND, FINE | {"terms": ["vidoe_text"]}], "vidoe_text, which is not on; what is on"),
        ([ONE_SOUND | {"tokens": 0.0}], "tokens is 0.0: input should be greater than 0"),
        ([ONE_SOUND | {"chance": 0.0}], "chance is 0.0: input should be greater than 0"),
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


@pytest.mark.parametrize(("method", "term"), [("pixpro", "places"), ("vatt", "first_audio_video")])
def test_a_term_of_readings_alone_is_computed_in_its_turn(method: str, term: str) -> None:
    methods = {method: {}, "alternate": {"turns": [{"terms": [term]}]}}
    config = replace(config_of("alternate"), methods=methods)
    (turn,) = rows_of(config).turns
    assert gradients_of(config, some_batch(config), turn)[term] != 0


def test_a_turn_keeps_one_token_and_one_source_once() -> None:
    """A hundredth of eight tokens is none. What is named twice gives its rows once."""
    config = replace(
        config_of("alternate"),
        methods={"alternate": {"turns": [ONE_SOUND | {"tokens": 0.01, "sources": [1, 1]}]}},
    )
    (turn,) = rows_of(config).turns
    kept = StepRandomness.draw(config, 10, 5, turn).kept_tokens
    assert kept["video"].shape == (10, 1) and kept["audio"].shape == (10, 1)
    found = gradients_of(config, some_batch(config), turn)
    assert all(torch.isfinite(value).all() for value in found.values())
    inputs = Inputs.of(ENCODER)
    sources = [two_sounds(), two_sounds()]
    mixed = Mixture(
        sources,
        [1.0, 1.0],
        lambda texts: texts,
        inputs,
        batch=4,
        seed=0,
        methods=Rows(turns=(turn,)),
    )
    assert mixed.counts_of(0) == [0, 4]


def steps_of_sound() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights before and after two steps of a turn that sees no pictures."""
    processes = join_process_group()
    config = replace(config_of("alternate"), methods={"alternate": {"turns": [ONE_SOUND]}})
    model = make_model(config)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    optimiser = make_optimiser(model, config)
    batch = some_batch(config).take(processes.rows(config.batch))
    for step in range(2):
        train_step(model, optimiser, batch, config=config, step=step, processes=processes)
    return before, model.state_dict()


def one_of_two(rank: int, port: int, out: Path) -> None:
    os.environ |= {
        "WORLD_SIZE": "2",
        "RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    _, after = steps_of_sound()
    if rank == 1:
        torch.save(after, out)
    leave_process_group()


def test_weights_that_a_turn_does_not_use_stay_in_every_process(tmp_path: Path) -> None:
    """Those of pictures, and the decoder's: to the last bit, as in one process. Decay would move
    them.
    """
    spawn(one_of_two, (free_port(), tmp_path / "after.pt"), nprocs=2)
    before, alone = steps_of_sound()
    for after in (alone, torch.load(tmp_path / "after.pt")):
        moved = {name for name, x in after.items() if not torch.equal(x, before[name])}
        assert {"stems.audio.project.weight", "heads.text.weight"} <= moved
        unused = ("stems.video", "heads.video", "decoder", "into_decoder", "match.audio_video")
        assert not [name for name in moved if name.startswith(unused)]
