"""Steps that differ: alternating gradient descent, the other idea of IMP (arXiv 2305.06324).

A step draws one of a list of turns and does only that. A turn is where its rows come from, the
terms of the objective, and how finely pictures and sound are seen:

    k ~ chance_k / sum_j chance_j,  w <- w - update(gradient of sum over the terms of turn k)

Only what a turn's terms need is encoded, so a step costs less than one of the whole objective, and
weights that a turn does not use stay as they are. IMP draws its pairs of data and objective in
this way, and changes the resolution of its inputs. Here (ours) fewer tokens are kept, or fewer
frames are seen, as the places of a trunk's tokens are fixed. Steps have equally many rows.

`experts.py` has IMP's sparse MLPs. With both, each turn names "expert_balance", too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..settings import read_settings
from ..training.tables import Rows, Turn

PAIRS = (("audio_video", "audio_video_match"), ("audio_text", "audio_text_match"), ("video_text",))
# each pair finely, and coarsely in fewer steps
TURNS: tuple[dict[str, Any], ...] = (
    *({"terms": terms, "chance": 2.0} for terms in PAIRS),
    *({"terms": terms, "tokens": 0.25, "frame_step": 2} for terms in PAIRS),
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`turns` are `Turn`s, which need no names. See there for what each of them may say."""

    turns: tuple[Mapping[str, Any], ...] = TURNS


def make_turn(number: int, given: Mapping[str, Any]) -> Turn:
    """Raises BadConfig: it says what a turn cannot be."""
    name = f"turn {number}"
    return read_settings(Turn, {"name": name, **given}, f"method alternate, {name}")


def rows(settings: Settings) -> Rows:
    return Rows(turns=tuple(make_turn(number, x) for number, x in enumerate(settings.turns, 1)))
