"""VATT's hierarchy of common spaces (arXiv 2104.11178): words have a smaller space than sounds.

Pictures and sounds meet in a first space, and go on from there to a smaller one, where texts are:

    x_va = unit(g_x z_x) of pictures and of sounds,  x_vt = unit(g x_va),  t_vt = unit(g_t z_t)

    L = NCE(v_va, a_va) + MIL-NCE(v_vt, P texts)

with the trunk's means z. g_x and g_t are the heads of the core, g is linear, ReLU, linear. There is
no batch normalisation, and which maps have two layers was not compared with the paper's text. NCE
takes the place of the core's contrast of pictures and sounds, MIL-NCE (`mil_nce.py`) of that with
words. Ours: sounds go on to the texts, too, and have a MIL-NCE of their own. So all three have
vectors in the smaller space, which is the bundle's. Between pictures and sounds, search compares
these, and not those of the first space.

The paper's waveform in place of a spectrogram is a setting of the encoder, `waveform_patch`.

n rows, A first space, E embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..config import EncoderConfig
from ..network.transformer import FirstSpace
from ..settings import Count, NotNegative
from ..training.losses import TermInputs, info_nce
from ..training.tables import Encoded, LossTerm, Reading, Rows, SpaceBefore
from . import mil_nce

RECORDED = ("video", "audio")


@dataclass(frozen=True, kw_only=True)
class Settings:
    weight: NotNegative = 5.0
    times: Count = 2  # A over E: 512 and 256 in the paper
    texts: Count = 4  # of a clip, see mil_nce.py


def make_space(config: EncoderConfig, *, times: int) -> FirstSpace:
    first = times * config.dim
    layers = (nn.Linear(first, first), nn.ReLU(), nn.Linear(first, config.dim))
    return FirstSpace(RECORDED, first, nn.Sequential(*layers))


def read_first(model: Any, rows: Encoded) -> Tensor:
    """The vectors in the first space of each row just encoded, [n, A]."""
    vectors: Tensor = model.first_vectors
    return vectors.float()


def first_width(config: EncoderConfig, *, times: int) -> int:
    return times * config.dim


def first_term(
    inputs: TermInputs, video: str, audio: str, first_video: str, first_audio: str
) -> Tensor | None:
    rows = inputs.has[video] & inputs.has[audio]
    if rows.sum() < 2:
        return None
    seen = inputs.vectors[first_video][rows]
    heard = inputs.vectors[first_audio][rows]
    return info_nce(seen, heard, inputs.model.scale, inputs.group_ids[rows], inputs.smoothing)


def rows(settings: Settings) -> Rows:
    texts = mil_nce.rows(mil_nce.Settings(weight=settings.weight, texts=settings.texts))
    readings = tuple(
        Reading(
            name=f"first_{modality}",
            of=modality,
            width=partial(first_width, times=settings.times),
            read=read_first,
        )
        for modality in RECORDED
    )
    term = LossTerm(
        name="first_audio_video",
        needs=(*RECORDED, *(reading.name for reading in readings)),
        weight=settings.weight,
        loss=first_term,
        replaces=("audio_video",),
    )
    space = SpaceBefore(name="first_space", make=partial(make_space, times=settings.times))
    return Rows.join([texts, Rows(terms=(term,), readings=readings, spaces=(space,))])
