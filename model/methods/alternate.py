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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from media.errors import BadConfig

from ..training.tables import Rows, Turn

PAIRS = (("audio_video", "audio_video_match"), ("audio_text", "audio_text_match"), ("video_text",))
# each pair finely, and coarsely in fewer steps
TURNS: tuple[dict[str, Any], ...] = (
    *({"terms": terms, "chance": 2.0} for terms in PAIRS),
    *({"terms": terms, "tokens": 0.25, "frame_step": 2} for terms in PAIRS),
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`turns` are `Turn`s without their names. See there for what each of them may say."""

    turns: Sequence[Mapping[str, Any]] = TURNS


def make_turn(number: int, given: Mapping[str, Any]) -> Turn:
    """Raises BadConfig: it says what a turn cannot be."""
    name = f"turn {number}"
    try:
        values: dict[str, Any] = {
            key: tuple(x) if isinstance(x, list) else x for key, x in given.items()
        }
        turn = Turn(name=name, **values)
    except TypeError as error:
        raise BadConfig(f"alternate, {name}: {error}") from error
    if not turn.terms or turn.chance <= 0 or turn.frame_step < 1:
        raise BadConfig(f"alternate, {name}: it has terms, a chance above 0, a frame_step above 0")
    if turn.tokens is not None and not 0 < turn.tokens <= 1:
        raise BadConfig(f"alternate, {name}: tokens are a share above 0, at most 1")
    return turn


def rows(settings: Settings) -> Rows:
    return Rows(turns=tuple(make_turn(number, x) for number, x in enumerate(settings.turns, 1)))
