"""PixPro (arXiv 2011.10043): the same place looks the same in two views of a picture.

The second view is a crop of the frames, mirrored half of the time and of another brightness. The
cells of both are the trunk's tokens, through a linear map to unit vectors: x of one view, x' of the
other. The pixel propagation module smooths a view by the cells of the frame that are like it:

    y_i = sum_j max(cos(x_i, x_j), 0)^gamma g(x_j),  g linear

    L = - mean over places i, j of (cos(y_i, x'_j) + cos(y'_j, x_i)) / 2

Places i and j are the same if their centres in the frame are at most `near` of a cell's diagonal
apart. The mean is over the pairs of a video, then over the videos. The targets, x and x' of the
formula, are held fixed. In the paper they are of a momentum encoder, and the map has two layers
with batch normalisation. Here (ours) they are of the network itself, which contrast keeps from
collapse. Cells that DropToken leaves out have no pair.

n rows, F frames, C cells of a frame, K tokens that were kept, D width, S values of a cell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from ..config import EncoderConfig
from ..settings import Count, NotNegative, Positive, ShareAboveZero, ShareBelowOne
from ..training.losses import TermInputs
from ..training.tables import Box, Encoded, LossTerm, Reading, Rows, TermPart, View

PART = "propagation"
CROP = "cropped_video"


@dataclass(frozen=True, kw_only=True)
class Settings:
    weight: NotNegative = 1.0
    least_share: ShareAboveZero = 0.5  # of the side of a frame, in a crop
    brightness: ShareBelowOne = 0.3  # the most that a crop is darker or lighter
    size: Count = 32  # S
    sharpness: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0  # gamma
    near: Positive = 0.7


def crop_frames(
    frames: NDArray[Any], random: np.random.Generator, *, least_share: float, brightness: float
) -> tuple[NDArray[Any], Box]:
    """A part of frames uint8 [F, H, W, 3], alike in all of them, brought to their size; its box."""
    share = random.uniform(least_share, 1.0)
    top, left = random.uniform(0.0, 1.0 - share, 2)
    height, width = frames.shape[1:3]
    rows = ((top + share * (np.arange(height) + 0.5) / height) * height).astype(int)
    columns = ((left + share * (np.arange(width) + 0.5) / width) * width).astype(int)
    box = [top, left, share, share]
    if random.uniform() < 0.5:
        columns = columns[::-1]
        box = [top, left + share, share, -share]
    gain = random.uniform(1.0 - brightness, 1.0 + brightness)
    levels = np.clip(np.arange(256) * gain, 0, 255).astype(np.uint8)
    return levels[frames[:, rows[:, None], columns]], np.array(box, np.float32)


class Propagation(nn.Module):
    """The map of tokens [..., D] to cells [..., S], and the module that smooths cells."""

    def __init__(self, width: int, size: int, sharpness: float) -> None:
        super().__init__()
        self.project = nn.Linear(width, size)
        self.transform = nn.Linear(size, size)
        self.sharpness = sharpness

    def forward(self, cells: Tensor) -> Tensor:
        """Cells [..., C, S], unit vectors or zeros, each smoothed by those like it, as unit
        vectors.
        """
        likeness = (cells @ cells.transpose(-1, -2)).clamp(min=0.0) ** self.sharpness
        return F.normalize(likeness @ self.transform(cells), dim=-1)


def read_cells(model: Any, rows: Encoded) -> Tensor:
    """The cells of each row just encoded, [n, F C S]; what was left out is zeros."""
    tokens = model.last_pass.tokens
    places = model.last_pass.places
    cells = F.normalize(model.parts[PART].project(tokens).float(), dim=-1)  # [n, K, S]
    frames, patches = model.config.grid["video"]
    if places is not None:
        grid = cells.new_zeros(len(cells), frames * patches, cells.shape[-1])
        at = places[..., None].expand_as(cells)
        cells = grid.scatter(1, at, cells)
    return cells.flatten(1)


def find_same_places(boxes: Tensor, side: int, near: float) -> Tensor:
    """Which cell of a whole frame is where which cell of a crop is: bool [n, C, C].

    The quarter at the top left of a frame of two by two cells lies within the first cell:

    >>> find_same_places(torch.tensor([[0.0, 0.0, 0.5, 0.5]]), 2, 0.7)[0, 0].tolist()
    [True, True, True, True]
    >>> find_same_places(torch.tensor([[0.0, 1.0, 1.0, -1.0]]), 2, 0.1)[0, 0].tolist()  # mirrored
    [False, True, False, False]
    """
    middles = (torch.arange(side, device=boxes.device) + 0.5) / side
    grid = torch.cartesian_prod(middles, middles)  # [C, 2]
    in_crop = boxes[:, None, :2] + boxes[:, None, 2:] * grid  # [n, C, 2]
    distances = torch.cdist(grid.expand(len(boxes), -1, -1), in_crop)
    return distances <= near * math.sqrt(2) / side


def disagreement(propagation: nn.Module, whole: Tensor, crop: Tensor, same: Tensor) -> Tensor:
    """The loss of cells [n, F, C, S] of both views, of which bool [n, C, C] lie in the same places;
    a scalar, 0 where there are none.
    """
    in_whole = whole.any(-1)  # [n, F, C]
    in_crop = crop.any(-1)  # [n, F, C]
    pairs = same[:, None] & in_whole[..., :, None] & in_crop[..., None, :]  # [n, F, C, C]
    to_crop = propagation(whole) @ crop.detach().transpose(-1, -2)
    to_whole = whole.detach() @ propagation(crop).transpose(-1, -2)
    cosines = (to_crop + to_whole) / 2 * pairs
    counts = pairs.sum((1, 2, 3))
    by_row = cosines.sum((1, 2, 3)) / counts.clamp(min=1)
    loss: Tensor = -by_row.sum() / (counts > 0).sum().clamp(min=1)
    return loss


def places_term(
    inputs: TermInputs, video: str, whole: str, crop: str, box: str, *, settings: Settings
) -> Tensor | None:
    rows = inputs.has[video]
    if not rows.any():
        return None
    frames, patches = inputs.model.config.grid["video"]
    shape = (-1, frames, patches, settings.size)
    in_whole, in_crop = (inputs.vectors[name][rows].view(shape) for name in (whole, crop))
    same = find_same_places(inputs.vectors[box][rows], math.isqrt(patches), settings.near)
    return disagreement(inputs.model.parts[PART], in_whole, in_crop, same)


def make_propagation(network: Any, *, settings: Settings) -> nn.Module:
    return Propagation(network.config.width, settings.size, settings.sharpness)


def count_values(config: EncoderConfig, *, size: int) -> int:
    return math.prod(config.grid["video"]) * size


def rows(settings: Settings) -> Rows:
    crop = partial(crop_frames, least_share=settings.least_share, brightness=settings.brightness)
    view = View(name=CROP, of="video", crop=crop)
    readings = tuple(
        Reading(
            name=f"{name}_cells",
            of=name,
            width=partial(count_values, size=settings.size),
            read=read_cells,
        )
        for name in ("video", CROP)
    )
    term = LossTerm(
        name="places",
        needs=("video", *(reading.name for reading in readings), view.box),
        weight=settings.weight,
        loss=partial(places_term, settings=settings),
    )
    part = TermPart(name=PART, make=partial(make_propagation, settings=settings))
    return Rows(terms=(term,), views=(view,), readings=readings, parts=(part,))
