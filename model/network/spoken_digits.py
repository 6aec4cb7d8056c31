"""Spoken digits, which the classifier of AudioSet's events lacks: a head on what the classifier
makes of each patch half-way.

B batch, P patches of a window, N patches of all windows, D details of a patch, K digits.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .sound_classifier import MEAN, SPREAD, SoundClassifier, SoundScores
from .stems import LinearMap

# of Lite0's sixteen: after it a patch has 112 channels in 4 bands and 6 spans of time, so that the
# order of sounds within a word is still there
DETAILED_BLOCKS = 11


def read_patches(classifier: SoundClassifier, patches: Tensor) -> tuple[Tensor, Tensor]:
    """Patches [N, 64, 96] -> details [N, D] and the logits of AudioSet's classes [N, C]."""
    x = ((patches - MEAN) / SPREAD)[:, None]
    blocks = list(classifier.blocks)
    x = classifier.stem(x)
    for block in blocks[:DETAILED_BLOCKS]:
        x = block(x)
    details = x.flatten(1)
    for block in blocks[DETAILED_BLOCKS:]:
        x = block(x)
    logits: Tensor = classifier.classes(classifier.head(x).mean((2, 3)))
    return details, logits


def share_patches(heard: Tensor) -> Tensor:
    """What each patch counts [B, P]: all that are heard [B, P] the same, or all where none is."""
    counted = (heard | ~heard.any(1, keepdim=True)).float()
    return counted / counted.sum(1, keepdim=True)


class DigitsHead(nn.Module):
    """Details of patches [B, P, D] and what each counts [B, P] -> vectors [B, 384].

    A softmax tells the digits and none of them apart: `weight` [D, K + 1], `bias` [K + 1], none at
    last. A digit counts from a probability of one half on, 2 p - 1. So what the head is not sure of
    is left as it is. The mean over patches, times `vectors` [K, 384], is the result.
    """

    def __init__(self, weight: Tensor, bias: Tensor, vectors: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.vectors = nn.Parameter(vectors, requires_grad=False)

    def forward(self, details: Tensor, shares: Tensor) -> Tensor:
        chances = (details @ self.weight + self.bias).softmax(-1)[..., :-1]
        sure = (2.0 * chances - 1.0).clamp(min=0.0)  # [B, P, K]
        read: Tensor = (sure * shares[..., None]).sum(1) @ self.vectors
        return read


class SoundWithDigitsEncoder(nn.Module):
    """waveform [B, samples] at 16 kHz -> unit vectors [B, 384]: the reading of AudioSet's classes,
    as in `SoundEncoder`, and that of the digits.
    """

    def __init__(self, scores: SoundScores, classes: LinearMap, digits: DigitsHead) -> None:
        super().__init__()
        self.spectrogram = scores.spectrogram
        assert isinstance(scores.classifier, SoundClassifier)
        self.classifier = scores.classifier
        self.classes = classes
        self.digits = digits

    def forward(self, waveform: Tensor) -> Tensor:
        patches, heard = self.spectrogram(waveform)
        shares = share_patches(heard)
        details, logits = read_patches(self.classifier, patches.flatten(0, 1))
        scores = logits.sigmoid().view(*patches.shape[:2], -1)
        events = self.classes((scores * shares[..., None]).sum(1))
        digits = self.digits(details.view(*patches.shape[:2], -1), shares)
        return F.normalize(events + digits, dim=-1)
