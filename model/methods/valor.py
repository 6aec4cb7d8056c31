"""VALOR (arXiv 2304.08345): text against sound, against pictures, and against both together.

The core has text-video and text-audio. This adds text against the joint vector that search ranks
windows by, for every caption t of a row:

    j = unit(v + w a),  L = mean over kinds of caption of InfoNCE(t, j)

A row that has only one of v and a is joined of that one, so a batch may mix them. VALOR fuses by
attention; a weighted sum is ours, as it is made from stored vectors.

n rows, E embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..training.losses import LossTerm, TermInputs, info_nce
from ..training.tables import Rows


@dataclass(frozen=True, kw_only=True)
class Settings:
    weight: float = 5.0
    audio_weight: float = 0.5  # w, that of the bundle to be


def join(video: Tensor, audio: Tensor, audio_weight: float) -> Tensor:
    """Unit vectors [n, E] of pictures and sound together; a row that lacks one has zeros for it.

    >>> join(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.75).tolist()
    [[0.800000011920929, 0.6000000238418579]]
    """
    return F.normalize(video + audio_weight * audio, dim=-1)


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
        joint = join(inputs.vectors[video][rows], inputs.vectors[audio][rows], audio_weight)
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
    return Rows(terms=(term,))
