"""Windows of a recording predicted from its other windows, an idea of RASL (arXiv 2403.09401).

RASL learns highlights from the sequence of a video's feature vectors. One of its tasks hides some
of them and restores them from the others. Here a small transformer f sees the vectors z_1 ... z_k
of a recording, each hidden in its turn, and what it says is contrasted with windows of the batch:

    p_it = unit(f(z_i1 ... [hidden at t] ... z_ik)_t)
    L = - mean_it log (e^{s p_it.z_it} / (e^{s p_it.z_it} + sum of e^{s p_it.z}))

The sum is over the windows z of other groups.

Contrast in place of restored features, and each hidden in turn in place of some by chance, are
ours. Other windows of the same recording, or of its group, are neither right nor wrong. RASL's
activations, which say what a highlight is, are not here.

Rows of training are one window each. So (ours) a recording's windows are even stretches of that
window, encoded as windows of their own: a stretch's frames are shown longer, after a stretch's
sound there is silence. That takes a pass of the network for each stretch.

n rows, k stretches, E embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from media.errors import BadConfig
from media.modality import AUDIO, VIDEO

from ..network.transformer import initialise, random_rows
from ..settings import Count, NotNegative
from ..training.losses import TermInputs
from ..training.tables import LossTerm, Rows, TermPart, View

PART = "windows"


@dataclass(frozen=True, kw_only=True)
class Settings:
    weight: NotNegative = 1.0
    of: tuple[str, ...] = (VIDEO,)  # or "audio", or both
    stretches: Annotated[int, Field(ge=2)] = 3
    width: Count = 128  # of the transformer
    heads: Count = 4
    depth: Count = 1


class WindowSequence(nn.Module):
    """Unit vectors of recordings' windows -> what the others of each say of it; [n, k, E] both."""

    def __init__(self, dim: int, settings: Settings) -> None:
        super().__init__()
        width = settings.width
        self.enter = nn.Linear(dim, width)
        self.hidden = random_rows(1, width)
        self.positions = random_rows(settings.stretches, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, settings.heads, 4 * width, 0.0, F.gelu, batch_first=True, norm_first=True
            )
            for _ in range(settings.depth)
        )
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, dim)
        self.apply(initialise)

    def forward(self, windows: Tensor) -> Tensor:
        n, k, _ = windows.shape
        hidden = torch.eye(k, dtype=torch.bool, device=windows.device)  # [a copy for each, k]
        x = torch.where(hidden[None, :, :, None], self.hidden, self.enter(windows)[:, None])
        x = (x + self.positions).flatten(0, 1)  # [n k, k, width]
        for layer in self.layers:
            x = layer(x)
        said = x.view(n, k, k, -1).diagonal(dim1=1, dim2=2).transpose(1, 2)  # [n, k, width]
        return F.normalize(self.leave(self.norm(said)), dim=-1)


def take_stretch(
    values: NDArray[Any], random: np.random.Generator, *, number: int, of: int, modality: str
) -> NDArray[Any]:
    """The `number`-th, from 0, of so many even stretches of frames [F, ...] or samples [n], brought
    to the same length.
    """
    length = len(values)
    if modality == VIDEO:
        places = (number + (np.arange(length) + 0.5) / length) * length / of
        shown: NDArray[Any] = values[places.astype(int)]
        return shown
    ends = [length * end // of for end in (number, number + 1)]
    heard = np.zeros_like(values)
    heard[: ends[1] - ends[0]] = values[slice(*ends)]
    return heard


def contrast_windows(
    said: Tensor, windows: Tensor, group_ids: Tensor, scale: Tensor | float
) -> Tensor:
    """Of unit vectors [n, k, E] and groups int64 [n]; a scalar."""
    n, k, _ = windows.shape
    logits = scale * said.flatten(0, 1) @ windows.flatten(0, 1).T  # [n k, n k]
    groups = group_ids.repeat_interleave(k)
    own = torch.eye(n * k, dtype=torch.bool, device=logits.device)
    left_out = (groups[:, None] == groups[None]) & ~own
    targets = torch.arange(n * k, device=logits.device)
    return F.cross_entropy(logits.masked_fill(left_out, -torch.inf), targets)


def window_term(inputs: TermInputs, *names: str) -> Tensor | None:
    selected = inputs.select(*names)
    if selected is None:
        return None
    vectors, group_ids = selected
    windows = torch.stack(vectors, dim=1)
    said = inputs.model.parts[PART](windows)
    return contrast_windows(said, windows, group_ids, inputs.model.scale)


def make_sequence(network: Any, *, settings: Settings) -> WindowSequence:
    return WindowSequence(network.config.dim, settings)


def rows(settings: Settings) -> Rows:
    if settings.of not in {(VIDEO,), (AUDIO,), (VIDEO, AUDIO), (AUDIO, VIDEO)}:
        raise BadConfig("masked_windows: of video, audio or both")
    if settings.width % settings.heads:
        raise BadConfig("masked_windows: width is a multiple of heads")
    views = []
    terms = []
    for modality in settings.of:
        stretches = [
            View(
                name=f"{modality}_stretch_{number + 1}",
                of=modality,
                change=partial(
                    take_stretch, number=number, of=settings.stretches, modality=modality
                ),
            )
            for number in range(settings.stretches)
        ]
        term = LossTerm(
            name=f"{modality}_windows",
            needs=tuple(view.name for view in stretches),
            weight=settings.weight,
            loss=window_term,
        )
        views += stretches
        terms.append(term)
    part = TermPart(name=PART, make=partial(make_sequence, settings=settings))
    return Rows(terms=tuple(terms), views=tuple(views), parts=(part,))
