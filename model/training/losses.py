"""The losses, as pure functions of tensors. B batch, E embedding, T tokens, P values in a patch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..network.transformer import Masked


def info_nce(
    a: Tensor, b: Tensor, scale: Tensor | float, group: Tensor, smoothing: float = 0.0
) -> Tensor:
    """Symmetric in-batch InfoNCE between unit vectors a, b [B, E]; a[i] belongs to every b[j] of
    its group [B].

    The target is spread evenly over a row's group, then smoothed over all rows.

    >>> a = torch.eye(2)
    >>> round(info_nce(a, a, 1.0, torch.arange(2)).item(), 4)  # log(1 + e^-1)
    0.3133
    """
    logits = scale * a @ b.T  # [B, B]
    same = (group[:, None] == group[None]).to(logits.dtype)
    target = same / same.sum(1, keepdim=True)
    target = (1 - smoothing) * target + smoothing / len(a)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def matching(
    head: torch.nn.Module, a: Tensor, b: Tensor, group: Tensor, mask_noise: float
) -> Tensor:
    """Binary cross-entropy of a linear head telling true pairs from pairs whose b is another row's,
    `mask_noise` in [0, 1) saying which.

    A pair is fused by its elementwise product: of what a linear head can read, it alone depends on
    both sides.
    """
    shift = 1 + int(mask_noise * (len(a) - 1))
    logits = torch.cat([head(a * b), head(a * b.roll(shift, 0))]).squeeze(-1)  # [2B]
    labels = torch.cat([torch.ones_like(group), (group == group.roll(shift, 0)).to(group.dtype)])
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def masked_patches(part: Masked, normalise: bool) -> Tensor:
    """Summed over the masked patches, each one's mean squared error; `normalise` brings each to
    mean 0 and variance 1 first (MAE).
    """
    target = part.target
    if normalise:
        target = (target - target.mean(-1, keepdim=True)) / (
            target.var(-1, keepdim=True) + 1e-6
        ).sqrt()
    error = (part.predicted.float() - target).square().mean(-1)  # [B, T]
    return (error * part.masked).sum()


def geometry(vectors: Tensor, sentences: Tensor) -> Tensor:
    """How differently two sets of unit vectors, [B, E] and [B, S], are placed among themselves: the
    mean squared difference of their cosines (relational distillation, 1904.05068, with angles at
    the origin).
    """
    apart = (vectors @ vectors.T - sentences @ sentences.T).square()
    n = len(vectors)
    return apart.sum() / max(1, n * (n - 1))


def masked_tokens(part: Masked) -> Tensor:
    """Cross-entropy, summed over the masked tokens."""
    return F.cross_entropy(
        part.predicted[part.masked].float(), part.target[part.masked], reduction="sum"
    )


def local_sums(parts: dict[str, Masked], normalise: bool) -> Tensor:
    """Local-patch masked modelling: what L_v, L_a and L_t are the means of over their masked
    tokens, summed, [3].
    """
    return torch.stack(
        [
            masked_patches(parts["video"], normalise),
            masked_patches(parts["audio"], normalise),
            masked_tokens(parts["text"]),
        ]
    )
