"""What a learner of sounds is shown: spectrograms of mixtures, and the teacher's scores of each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..network.sound_classifier import LogMelPatches
from .mixtures import Mixtures

FIRST_HELD_OUT = 1_000_003  # seeds of the batches that a learner is judged by start here
AT_ONCE = 250


class Examples:
    """Batches of log mel patches [B, 64, 96] and scores [B, C], 0 to 1, made on the device.

    `teacher` maps patches to logits.
    """

    def __init__(self, mixtures: Mixtures, teacher: nn.Module, device: str = "cpu") -> None:
        self._mixtures = mixtures
        self._teacher = teacher.to(device).eval()
        self._spectrogram = LogMelPatches().to(device)

    @torch.no_grad()
    def take(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """The same for the same seed."""
        sound = self._mixtures.examples(count, seed)
        patches = self._spectrogram(sound)[0][:, 0]
        return patches, self._teacher(patches).sigmoid()

    def judging(self, count: int) -> list[tuple[Tensor, Tensor]]:
        """Batches of about `count` examples to judge learners by, always the same."""
        batches = -(-count // AT_ONCE)
        return [self.take(AT_ONCE, FIRST_HELD_OUT + batch) for batch in range(batches)]
