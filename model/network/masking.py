"""Which tokens masked modelling hides, and the order in which a modality's tokens enter the trunk.

B batch, T tokens, F frames, N patches in a frame, K visible tokens, D width.

A token is in one of three states. It is *visible*: the trunk sees it. It is *hidden*: the decoder
predicts it. Or it is *absent*: the row lacks the modality, or the text is shorter. All functions
are pure: what is left to chance comes in as `noise`, uniform in [0, 1).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class TokenOrder(NamedTuple):
    """How the tokens of one modality are sorted for the trunk.

    Every row hands its first `visible` tokens to the trunk. In a row with absent tokens some of
    these are absent: attention leaves them out.
    """

    order: Tensor  # int64 [B, T]: visible tokens first, then absent ones, then hidden ones
    visible: int  # K

    @property
    def kept(self) -> Tensor:
        """Indices of the tokens that enter the trunk, int64 [B, K]."""
        return self.order[:, : self.visible]

    @property
    def places(self) -> Tensor:
        """The inverse of `order`, int64 [B, T]: where in the order each token is."""
        return self.order.argsort(1)

    @property
    def left_out(self) -> Tensor:
        """Bool [B, T]: the tokens that do not enter the trunk, hidden or absent."""
        return self.places >= self.visible


def rank(values: Tensor) -> Tensor:
    """The rank of each value along the last axis, from 0 for the least.

    >>> rank(torch.tensor([[0.9, 0.1, 0.5]])).tolist()
    [[2, 0, 1]]
    """
    return values.argsort(-1).argsort(-1)


def count_hidden(exists: Tensor, share: float, frame_patches: int | None = None) -> Tensor:
    """How many of the tokens that exist, bool [B, T], are hidden; int64 [B].

    With `frame_patches` a row is frames of so many tokens, and each frame hides the same number.
    Half a token is rounded to the even neighbour.

    >>> exists = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    >>> count_hidden(exists, 0.25).tolist()  # 1.5 and 1
    [2, 1]
    >>> count_hidden(exists[:1], 0.3, frame_patches=3).tolist()  # round(0.9) in each of two frames
    [2]
    """
    count = exists.sum(1)
    if frame_patches is None:
        return (count * share).round().long()
    return count // frame_patches * round(frame_patches * share)


def choose_hidden(noise: Tensor, exists: Tensor, hidden: Tensor, frames: int = 1) -> Tensor:
    """Bool [B, T]: the tokens with the most noise, `hidden` int64 [B] of them in each row.

    Of `frames` above one, each frame of T / frames tokens hides the same number.

    >>> noise = torch.tensor([[0.1, 0.9, 0.5, 0.3]])
    >>> exists = torch.tensor([[True, True, True, False]])
    >>> choose_hidden(noise, exists, torch.tensor([1])).tolist()
    [[False, True, False, False]]
    >>> exists = torch.tensor([[True] * 4])
    >>> choose_hidden(noise, exists, torch.tensor([2]), frames=2).tolist()
    [[False, True, True, False]]
    """
    by_frame = (noise + (~exists).float()).unflatten(1, (frames, -1))  # [B, F, N], absent ones last
    ranks = rank(by_frame).flatten(1)
    existing_in_frame = exists.sum(1, keepdim=True) // frames
    hidden_in_frame = hidden[:, None] // frames
    return exists & (ranks >= existing_in_frame - hidden_in_frame)


def sort_tokens(
    noise: Tensor, exists: Tensor, share: float, frame_patches: int | None = None
) -> TokenOrder:
    """Choose the hidden tokens and sort: visible ones, absent ones, hidden ones; [B, T].

    Within a state tokens are sorted by their noise. Every row has as many places for visible
    tokens as a row with all its tokens needs, so that rows make one tensor.

    Of these four tokens the third is absent. Half of the other three is round(1.5) = 2. The first
    and the last have the most noise, so they are hidden.

    >>> noise = torch.tensor([[0.8, 0.1, 0.2, 0.9]])
    >>> exists = torch.tensor([[True, True, False, True]])
    >>> found = sort_tokens(noise, exists, share=0.5)
    >>> found.order.tolist(), found.visible
    ([[1, 2, 0, 3]], 2)
    >>> found.left_out.tolist()
    [[True, False, False, True]]
    """
    tokens = exists.shape[1]
    hidden_of_full_row = count_hidden(torch.ones_like(exists[:1]), share, frame_patches)
    frames = 1 if frame_patches is None else tokens // frame_patches
    counts = count_hidden(exists, share, frame_patches)
    hidden = choose_hidden(noise, exists, counts, frames)
    state = (~exists).float() + 2 * hidden.float()  # 0 visible, 1 absent, 2 hidden
    return TokenOrder((noise + state).argsort(1), tokens - int(hidden_of_full_row))


def take_tokens(tokens: Tensor, indices: Tensor) -> Tensor:
    """Tokens [B, T, D] at int64 [B, K] -> [B, K, D]."""
    return tokens.gather(1, indices.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def put_back(visible: Tensor, mask_token: Tensor, sorted_as: TokenOrder) -> Tensor:
    """Visible tokens [B, K, D] at their own places among mask tokens: [B, T, D].

    >>> visible = torch.tensor([[[7.0], [8.0]]])
    >>> sorted_as = TokenOrder(torch.tensor([[2, 0, 1]]), visible=2)
    >>> put_back(visible, torch.tensor([-1.0]), sorted_as).flatten().tolist()
    [8.0, -1.0, 7.0]
    """
    batch, tokens = sorted_as.order.shape
    blank = mask_token.expand(batch, tokens - sorted_as.visible, -1)
    return take_tokens(torch.cat([visible, blank], dim=1), sorted_as.places)


def blank_patches(images: Tensor, left_out: Tensor, patch: tuple[int, int]) -> Tensor:
    """Images [B, F, C, H, W] with the patches that are left out, bool [B, T], set to zero.

    A convolution looks over the edge of its patch, so dropping the tokens is not enough.
    """
    batch, frames, _, height, width = images.shape
    tall, wide = patch
    shown = ~left_out.view(batch, frames, 1, height // tall, 1, width // wide, 1)
    pixels = shown.expand(-1, -1, -1, -1, tall, -1, wide)
    return images * pixels.reshape(batch, frames, 1, height, width)
