"""The losses, as pure functions of tensors. B batch, E embedding, T tokens, P values in a patch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .transformer import Masked


def info_nce(a: Tensor, b: Tensor, scale: Tensor | float, group: Tensor, smoothing: float = 0.0) -> Tensor:
    """Symmetric in-batch InfoNCE between unit vectors a, b [B, E]; a[i] belongs to every b[j] of its group [B].

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


def matching(head: torch.nn.Module, a: Tensor, b: Tensor, group: Tensor) -> Tensor:
    """Binary cross-entropy of a linear head telling true pairs from pairs whose b comes from another row.

    A pair is fused by its elementwise product: of what a linear head can read, it alone depends on both sides.
    """
    shift = int(torch.randint(1, len(a), ()).item()) if len(a) > 1 else 0
    logits = torch.cat([head(a * b), head(a * b.roll(shift, 0))]).squeeze(-1)  # [2B]
    labels = torch.cat([torch.ones_like(group), (group == group.roll(shift, 0)).to(group.dtype)])
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def masked_patches(part: Masked, normalise: bool) -> Tensor:
    """Mean squared error over the masked patches; `normalise` brings each to mean 0 and variance 1 first (MAE)."""
    target = part.target
    if normalise:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    error = (part.predicted - target).square().mean(-1)  # [B, T]
    return mean_where(error, part.masked)


def masked_tokens(part: Masked) -> Tensor:
    """Cross-entropy over the masked tokens."""
    error = F.cross_entropy(part.predicted.transpose(1, 2), part.target, reduction="none")  # [B, T]
    return mean_where(error, part.masked)


def mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    weight = chosen.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp(min=1.0)


def local(parts: dict[str, Masked], normalise: bool) -> Tensor:
    """Local-patch masked modelling: L_v + L_a + L_t."""
    patches = [masked_patches(parts[m], normalise) for m in ("video", "audio") if m in parts]
    return sum(patches, masked_tokens(parts["text"]))
