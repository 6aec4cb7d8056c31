"""What settings of methods and of a recipe may be, and which methods go together."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from media.errors import BadConfig
from model.config import TrainConfig
from model.methods import harmonise
from model.training.losses import terms_on
from model.training.tables import load_method, method_names, rows_of

from .test_methods import SMOKE, config_of

NAN = math.nan
STAGES: dict[str, Any] = {"by": "kind", "stages": [["rain"], ["dog"]], "stage_steps": 1}
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("valor", {"weight": -1.0}, "weight is -1.0: input should be greater than or equal to 0"),
    ("valor", {"weight": NAN}, "weight is nan: input should be a finite number"),
    ("valor", {"weight": "5"}, "weight is '5': input should be a valid number"),
    ("valor", {"weight": "global_weight"}, "weight is 'global_weight'"),
    ("valor", {"weight": True}, "weight is True"),
    ("valor", {"audio_weight": -0.5}, "audio_weight is -0.5"),
    ("valor", {"learned": "no"}, "learned is 'no': input should be a valid boolean"),
    ("gap", {"align_weight": -1}, "align_weight is -1"),
    ("gram", {"same_from": NAN}, "same_from is nan"),
    ("triangle", {"same_weight": -1}, "same_weight is -1"),
    ("cwcl", {"power": 0}, "power is 0: input should be greater than 0"),
    ("cwcl", {"soft": []}, "or both"),
    ("mil_nce", {"texts": 0}, "texts is 0"),
    ("compa", {"share": 0.0}, "share is 0.0"),
    ("compa", {"share": 1.0}, "share is 1.0: input should be less than 1"),
    ("compa", {"pairs": 0}, "pairs is 0"),
    ("compa", {"kinds": []}, "order, attribute"),
    ("hard_matching", {"heads": 0}, "heads is 0"),
    ("hard_matching", {"states": 1.5}, "states is 1.5: input should be a valid integer"),
    ("captioning", {"width": 0}, "width is 0"),
    ("captioning", {"depth": 0}, "depth is 0"),
    ("harmonise", {"curriculum": [0.1]}, "curriculum.1 is missing"),
    ("harmonise", {"groups": [["audio_text"], ["audio_text"]]}, "a term is in two groups"),
    ("cvrl", {"least_share": 2.0}, "least_share is 2.0"),
    ("comix", {"speed": 1.0}, "speed is 1.0: input should be greater than 1"),
    ("comix", {"most_mixed": 1.5}, "most_mixed is 1.5"),
    ("pixpro", {"least_share": 0.0}, "least_share is 0.0"),
    ("pixpro", {"brightness": 1.0}, "brightness is 1.0"),
    ("pixpro", {"size": 0, "sharpness": 0.5}, "size is 0: .*; sharpness is 0.5"),
    ("pixpro", {"near": -1}, "near is -1"),
    ("xclip", {"every": 0}, "every is 0"),
    ("vatt", {"times": 1.5}, "times is 1.5"),
    ("vip_ant", {"supervised": 1.5}, "supervised is 1.5"),
    ("experts", {"chosen": 0}, "chosen is 0"),
    ("experts", {"chosen": 5}, "chosen lies between 1 and experts"),
    ("experts", {"every": 0}, "every is 0"),
    ("alternate", {"turns": []}, "it adds no row"),
    ("alternate", {"turns": ["audio_text"]}, "turns.0 is 'audio_text'"),
    ("alternate", {"turns": [{"terms": ["audio_text"], "frame_step": 0}]}, "frame_step is 0"),
    ("masked_windows", {"stretches": 1}, "stretches is 1"),
    ("masked_windows", {"heads": 0}, "heads is 0"),
    ("masked_answers", {"left_out": 1.0}, "left_out is 1.0"),
    ("coconut", STAGES | {"replay": 1.0}, "replay is 1.0"),
    ("coconut", STAGES | {"passed": 2}, "fewer stages are passed"),
    ("bound_halves", {"weight": 1.0}, "has no setting 'weight'; there are: none"),
]


def test_every_method_refuses_what_its_settings_cannot_be() -> None:
    for name, settings, said in WRONG:
        with pytest.raises(BadConfig, match=said):
            load_method(name, settings)
    assert {name for name, _, _ in WRONG} == set(method_names())


def test_a_misspelt_setting_is_told_with_those_that_there_are() -> None:
    said = "method valor has no setting 'wieght'; there are: weight, audio_weight, learned"
    with pytest.raises(BadConfig, match=said):
        load_method("valor", {"wieght": 1.0})
    for settings in (None, 1, ["weight"]):
        with pytest.raises(BadConfig, match="an object of names and values"):
            load_method("valor", settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("methods", "place"),
    [
        (("mil_nce", "cwcl"), "audio_text, video_text"),
        (("vatt", "cwcl"), "audio_text, video_text"),
        (("vip_ant", "mil_nce"), "audio_text"),
        (("vip_ant", "hard_matching"), "audio_text_match"),
    ],
)
def test_two_methods_may_not_take_the_place_of_one_term(methods: list[str], place: str) -> None:
    config = replace(config_of("cwcl"), methods={name: {} for name in methods})
    with pytest.raises(BadConfig, match=f"two methods take the place of {place};"):
        terms_on(config)


def test_groups_of_a_recipe_count_as_one() -> None:
    """Pictures get (1, 0) and (-1, 1) of two terms of one group: their sum, which is not projected.
    As terms of their own they are in conflict.
    """
    groups = [["audio_video", "video_text"]]
    config = TrainConfig.from_json(
        {"encoder": "smoke", "methods": {"harmonise": {"groups": groups}}}
    )
    assert terms_on(config)
    (rule,) = rows_of(config).gradient_rules
    by_term = {
        "audio_video": {"video": torch.tensor([[1.0, 0.0]])},
        "video_text": {"video": torch.tensor([[-1.0, 1.0]])},
    }
    found, _ = rule.combine(by_term, 0.0)
    assert found["video"].tolist() == [[0.0, 1.0]]
    alone, _ = harmonise.harmonise(by_term, 0.0, settings=harmonise.Settings())
    assert alone["video"].tolist() == [[0.5, 1.5]]
    groups[0][0] = "audio_vidoe"
    with pytest.raises(BadConfig, match="names audio_vidoe; there are: audio_text, "):
        terms_on(replace(config, methods={"harmonise": {"groups": groups}}))


def test_groups_may_name_what_a_recipe_has_off() -> None:
    assert terms_on(replace(SMOKE, methods={"harmonise": {}, "vip_ant": {}}))


def test_vectors_of_a_joint_pass_are_not_enough_for_every_method() -> None:
    joint = replace(SMOKE, pool_from="joint")
    assert terms_on(replace(joint, methods={"valor": {}}))
    with pytest.raises(BadConfig, match="no vectors for video_views, audio_views"):
        terms_on(replace(joint, methods={"cvrl": {}}))


def test_settings_of_a_recipe_have_types_and_ranges(tmp_path: Path) -> None:
    plain = SMOKE.to_json()
    for wrong, said in (
        ({"temperature": 0}, "temperature is 0: input should be greater than 0"),
        ({"learning_rate": NAN}, "learning_rate is nan"),
        ({"global_weight": -1}, "global_weight is -1"),
        ({"drop_tokens": 1}, "drop_tokens is 1: input should be less than 1"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"checkpoint_steps": 0}, "checkpoint_steps is 0"),
        ({"micro_batch": -1}, "micro_batch is -1"),
        ({"methods": ["valor"]}, "methods is .'valor'.: input should be an object"),
        ({"shares": [1.0, 1.0]}, "a number for each of manifests"),
        ({"stpes": 1}, "no setting 'stpes'; there are: encoder, manifests, "),
        ({"encoder": plain["encoder"] | {"heads": 0}}, "encoder: heads is 0"),
        ({"encoder": 3}, "encoder: settings are an object"),
    ):
        with pytest.raises(BadConfig, match=said):
            TrainConfig.from_json(json.loads(json.dumps(plain | wrong)))
    file = tmp_path / "recipe.json"
    for text, said in (("{", "is no JSON"), ("[]", "an object of settings")):
        file.write_text(text)
        with pytest.raises(BadConfig, match=said):
            TrainConfig.load(str(file))
