"""Names that earlier checkpoints and config files use, and what they are called today."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

SETTINGS = {  # of EncoderConfig and TrainConfig
    "glance": "stem_skip",
    "memory_floor": "caption_memory_threshold",
    "alike": "batch_together_by",
    "geometry_weight": "relational_distillation_weight",
}
WEIGHTS = {"glances": "stem_skips"}  # the first part of a weight's name
MLP = re.compile(r"^((?:blocks|decoder)\.\d+)\.(up|down)\.")  # which was part of its block


def translate_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by today's names, those of an encoder inside them, too.

    >>> translate_settings({"alike": [], "encoder": {"glance": True, "width": 8}})
    {'batch_together_by': [], 'encoder': {'stem_skip': True, 'width': 8}}
    """
    return {
        SETTINGS.get(name, name): translate_settings(value) if isinstance(value, dict) else value
        for name, value in values.items()
    }


def translate_weights(weights: Mapping[str, T]) -> dict[str, T]:
    """The weights of a checkpoint by today's names.

    >>> translate_weights({"glances.text.bias": 0, "log_scale": 1})
    {'stem_skips.text.bias': 0, 'log_scale': 1}
    >>> translate_weights({"blocks.0.up.bias": 0})
    {'blocks.0.mlp.up.bias': 0}
    """
    translated = {}
    for name, weight in weights.items():
        part, dot, rest = name.partition(".")
        today = WEIGHTS.get(part, part) + dot + rest
        translated[MLP.sub(r"\1.mlp.\2.", today)] = weight
    return translated
