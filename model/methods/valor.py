"""VALOR (arXiv 2304.08345): text against sound, against pictures, and against both together.

The core has text-video and text-audio. This adds text against the joint vector that search ranks
windows by, for every caption t of a row:

    j = unit(v + w a),  L = mean over kinds of caption of InfoNCE(t, j)

A row that has only one of v and a is joined of that one, so a batch may mix them. VALOR fuses by
attention; a weighted sum is ours, as it is made from stored vectors. With `learned`, w is what a
small network says of each row (`network/fusion.py`). The bundle has that network, or else w.

n rows, E embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..network.fusion import MOST, SoundGate, join
from ..settings import NotNegative, Positive
from ..training.losses import TermInputs, info_nce
from ..training.tables import FusionPart, LossTerm, Rows, SoundWeight


@dataclass(frozen=True, kw_only=True)
class Settings:
    weight: NotNegative = 5.0
    audio_weight: Positive = 0.5  # w, that of the bundle to be
    learned: bool = False  # w of each row, in place of that


def join_rows(
    inputs: TermInputs, rows: Tensor, video: str, audio: str, audio_weight: float
) -> Tensor:
    """Joint vectors [n, E] of some rows, bool [B]. A row with one of both needs no weight."""
    seen = inputs.vectors[video][rows]
    heard = inputs.vectors[audio][rows]
    if inputs.model.fusion is None:
        return join(seen, heard, audio_weight)
    has_both = (inputs.has[video] & inputs.has[audio])[rows]
    return join(seen, heard, torch.where(has_both, inputs.model.fusion(seen, heard), 1.0))


def joint_term(
    inputs: TermInputs, video: str, audio: str, *captions: str, audio_weight: float
) -> Tensor | None:
    """The mean over the kinds of caption of the contrast with the joint vector; a scalar."""
    recorded = inputs.has[video] | inputs.has[audio]
    losses = []
    for caption in captions:
        rows = recorded & inputs.has[caption]
        if rows.sum() < 2:
            continue
        joint = join_rows(inputs, rows, video, audio, audio_weight)
        said = inputs.vectors[caption][rows]
        losses.append(
            info_nce(said, joint, inputs.model.scale, inputs.group_ids[rows], inputs.smoothing)
        )
    return torch.stack(losses).mean() if losses else None


def rows(settings: Settings) -> Rows:
    term = LossTerm(
        name="joint_text",
        needs=("video", "audio", "video_caption", "audio_caption"),
        weight=settings.weight,
        loss=partial(joint_term, audio_weight=settings.audio_weight),
    )
    if not settings.learned:
        weight = SoundWeight(name="joint_text", weight=settings.audio_weight)
        return Rows(terms=(term,), sound_weights=(weight,))
    fusion = FusionPart(name="sound_gate", make=SoundGate, most=MOST)
    return Rows(terms=(term,), fusions=(fusion,))
