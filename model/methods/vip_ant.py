"""VIP-ANT (arXiv 2112.08995): text and sound are joined through pictures alone.

No sound is shown with a caption of its own: this takes the place of the core's terms of sound and
text. What is left aligns pictures with sound and pictures with text. The paper then looks for
captions of a sound by way of its pictures. Here (ours) that is done within the batch, and softly.
Of sounds a with pictures v, and captions y of pictures:

    p_ij = softmax_j(s v_i.y_j), held fixed,  L = - mean_i sum_j p_ij log softmax_j(s a_i.y_j)

The paper adds a few hundred pairs of sound and text. `supervised` is the share of rows whose
captions about their sound are shown after all; it goes by their ids.

n rows with sound and pictures, m captions of pictures, E embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from zlib import crc32

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from media.manifest import Row
from media.modality import AUDIO

from ..settings import NotNegative, Share
from ..training.losses import TermInputs, contrast_term
from ..training.tables import ExtraText, LossTerm, Rows

SUPERVISED = "supervised_caption"


@dataclass(frozen=True, kw_only=True)
class Settings:
    weight: NotNegative = 5.0
    supervised: Share = 0.0


def pivot(audio: Tensor, video: Tensor, captions: Tensor, scale: Tensor | float) -> Tensor:
    """Of unit vectors [n, E] of sounds and of their pictures, and captions [m, E]; a scalar."""
    targets = (scale * video @ captions.T).softmax(1).detach()  # [n, m]
    return F.cross_entropy(scale * audio @ captions.T, targets)


def pivot_term(inputs: TermInputs, audio: str, video: str, caption: str) -> Tensor | None:
    recorded = inputs.has[audio] & inputs.has[video]
    captioned = inputs.has[caption]
    if recorded.sum() < 2 or captioned.sum() < 2:
        return None
    vectors = inputs.vectors
    a = vectors[audio][recorded]
    v = vectors[video][recorded]
    y = vectors[caption][captioned]
    return pivot(a, v, y, inputs.model.scale)


def draw_supervised(
    row: Row, known: str | None, random: np.random.Generator, *, share: float
) -> str | None:
    """The caption about the sound, of the rows that have one."""
    return known if crc32(row.id.encode()) < share * 2**32 else None


def rows(settings: Settings) -> Rows:
    through_pictures = LossTerm(
        name="pivot",
        needs=("audio", "video", "video_caption"),
        weight=settings.weight,
        loss=pivot_term,
        replaces=("audio_text", "audio_text_match"),
    )
    if not settings.supervised:
        return Rows(terms=(through_pictures,))
    told = LossTerm(
        name="supervised_audio_text",
        needs=("audio", SUPERVISED),
        weight=settings.weight,
        loss=contrast_term,
    )
    draw = partial(draw_supervised, share=settings.supervised)
    text = ExtraText(name=SUPERVISED, about=AUDIO, draw=draw)
    return Rows(terms=(through_pictures, told), texts=(text,))
