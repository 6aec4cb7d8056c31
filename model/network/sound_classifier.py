"""A network that hears the 521 sound events of AudioSet in patches of 0.975 s, as YAMNet does.

B batch, P patches, N patches of all items, T spectrogram frames, C classes (521). Its spectrogram
is YAMNet's own (Google's research models, `audioset/yamnet`), so that a teacher and its student
hear the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

CLASSES = 521
RATE = 16_000
FRAME_SAMPLES = 400
FRAME_HOP = 160
FFT = 512
MELS = 64
LOWEST_HZ = 125.0
HIGHEST_HZ = 7500.0
FLOOR = 1e-3  # added to the magnitude of each mel band before its logarithm
PATCH_FRAMES = 96
PATCH_HOP = 48  # frames from one patch to the next
PATCH_SAMPLES = FRAME_SAMPLES + (PATCH_FRAMES - 1) * FRAME_HOP  # 15,600
SILENT_PEAK = 1e-4  # of a patch that is left out where another of its window is louder
MEAN, SPREAD = -3.0, 2.5  # of the log mel values, about
RARELY = -5.0  # the first logit of each class: about 0.7 %
EPSILON = 1e-3  # of batch norms, as the published weights were trained with

Weights = dict[str, Tensor]


class LogMelPatches(nn.Module):
    """waveform [B, samples] at 16 kHz -> log mel magnitudes of its patches [B, P, 64, 96] and
    whether anything is heard in each [B, P].

    Frames of 25 ms every 10 ms under a Hann window, triangular filters from 125 to 7,500 Hz that
    are evenly spaced in HTK's mel and peak at one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.transform: Tensor
        self.filters: Tensor
        self.register_buffer("transform", windowed_dft(), persistent=False)
        self.register_buffer("filters", mel_filters(), persistent=False)

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        frames = waveform.unfold(1, FRAME_SAMPLES, FRAME_HOP)  # [B, T, 400]
        spectrum = frames @ self.transform  # [B, T, 2 x 257]
        real, imaginary = spectrum[..., : FFT // 2 + 1], spectrum[..., FFT // 2 + 1 :]
        magnitude = (real.square() + imaginary.square()).sqrt()
        log_mel = (magnitude @ self.filters + FLOOR).log()  # [B, T, 64]
        patches = log_mel.unfold(1, PATCH_FRAMES, PATCH_HOP)
        peaks = frames.abs().amax(2).unfold(1, PATCH_FRAMES, PATCH_HOP).amax(2)
        return patches, peaks > SILENT_PEAK


def windowed_dft() -> Tensor:
    """A periodic Hann window and the DFT of 512 points as one matrix [400, 2 x 257]: cosines, then
    sines.
    """
    samples = torch.arange(FRAME_SAMPLES, dtype=torch.float64)
    window = 0.5 - 0.5 * torch.cos(2 * math.pi * samples / FRAME_SAMPLES)
    bins = torch.arange(FFT // 2 + 1, dtype=torch.float64)
    angle = 2 * math.pi * samples[:, None] * bins / FFT
    return torch.cat((angle.cos(), angle.sin()), dim=1).mul(window[:, None]).float()


def mel_filters() -> Tensor:
    """Triangular filters [257 bins, 64]; the lowest bin belongs to none."""
    hz = torch.arange(FFT // 2 + 1, dtype=torch.float64) * RATE / FFT
    mel = 1127 * torch.log1p(hz / 700)
    low, high = (1127 * math.log1p(edge / 700) for edge in (LOWEST_HZ, HIGHEST_HZ))
    edges = torch.linspace(low, high, MELS + 2, dtype=torch.float64)
    rising = (mel[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel[:, None]) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)
    filters[0] = 0
    return filters.float()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Blocks of one width: how many, the size of their filters, the stride of the first, by what
    they widen inside, and their channels.
    """

    blocks: int
    kernel: int
    stride: int
    widen: int
    channels: int


LITE0 = (
    Stage(blocks=1, kernel=3, stride=1, widen=1, channels=16),
    Stage(blocks=2, kernel=3, stride=2, widen=6, channels=24),
    Stage(blocks=2, kernel=5, stride=2, widen=6, channels=40),
    Stage(blocks=3, kernel=3, stride=2, widen=6, channels=80),
    Stage(blocks=3, kernel=5, stride=1, widen=6, channels=112),
    Stage(blocks=4, kernel=5, stride=2, widen=6, channels=192),
    Stage(blocks=1, kernel=3, stride=1, widen=6, channels=320),
)


class NormedConv(nn.Module):
    """A convolution, a batch norm and, unless it is the last of a block, ReLU6."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        active: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.norm: nn.Module = nn.BatchNorm2d(outputs, eps=EPSILON, momentum=0.05)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return F.relu6(x) if self.active else x

    def fold(self) -> None:
        """Put the batch norm into the convolution. It changes no output."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.norm)
            self.norm = nn.Identity()


class Block(nn.Module):
    """Widen, filter each channel, narrow; added to its input where the shapes agree (MobileNetV2,
    arXiv 1801.04381).
    """

    def __init__(self, inputs: int, stage: Stage, stride: int) -> None:
        super().__init__()
        width = inputs * stage.widen
        widened = [NormedConv(inputs, width)] if stage.widen > 1 else []
        self.layers = nn.Sequential(
            *widened,
            NormedConv(width, width, stage.kernel, stride=stride, groups=width),
            NormedConv(width, stage.channels, active=False),
        )
        self.residual = stride == 1 and inputs == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return x + out if self.residual else out


class SoundClassifier(nn.Module):
    """EfficientNet-Lite over log mel patches [N, 64, 96] -> logits of AudioSet's classes [N, C]."""

    def __init__(
        self,
        stages: Sequence[Stage] = LITE0,
        stem: int = 32,
        head: int = 1280,
        classes: int = CLASSES,
    ) -> None:
        super().__init__()
        self.stem = NormedConv(1, stem, 3, stride=2)
        blocks: list[Block] = []
        inputs = stem
        for stage in stages:
            for place in range(stage.blocks):
                blocks.append(Block(inputs, stage, stage.stride if place == 0 else 1))
                inputs = stage.channels
        self.blocks = nn.Sequential(*blocks)
        self.head = NormedConv(inputs, head)
        self.dropout = nn.Dropout(0.2)
        self.classes = nn.Linear(head, classes)
        nn.init.zeros_(self.classes.weight)
        nn.init.constant_(self.classes.bias, RARELY)

    def forward(self, patches: Tensor) -> Tensor:
        x = ((patches - MEAN) / SPREAD)[:, None]
        features = self.head(self.blocks(self.stem(x))).mean((2, 3))
        logits: Tensor = self.classes(self.dropout(features))
        return logits

    def convolutions(self) -> list[NormedConv]:
        """In the order of the published weights: stem, blocks, head."""
        return [module for module in self.modules() if isinstance(module, NormedConv)]

    def start_from_pictures(self, weights: Weights) -> None:
        """Take the convolutions and batch norms of a network that was trained on ImageNet, with
        weights named as in EfficientNet-PyTorch. The weights of the three colours are added.
        """
        convs = [name for name in weights if name.endswith(".weight") and weights[name].ndim == 4]
        norms = [name.removesuffix("running_mean") for name in weights if "running_mean" in name]
        for module, conv, norm in zip(self.convolutions(), convs, norms, strict=True):
            weight = weights[conv]
            if weight.shape != module.conv.weight.shape:
                weight = weight.sum(1, keepdim=True)
            module.conv.load_state_dict({"weight": weight})
            of = {
                name.removeprefix(norm): value
                for name, value in weights.items()
                if name.startswith(norm)
            }
            module.norm.load_state_dict(of)

    def fold(self) -> None:
        """Put all batch norms into their convolutions, for export."""
        for module in self.convolutions():
            module.fold()


class SoundScores(nn.Module):
    """waveform [B, samples] at 16 kHz -> the scores of AudioSet's classes [B, C], 0 to 1: the mean
    over the patches in which anything is heard, or over all where nothing is. `classifier` maps
    patches [N, 64, 96] to logits.
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.spectrogram = LogMelPatches()
        self.classifier = classifier

    def forward(self, waveform: Tensor) -> Tensor:
        patches, heard = self.spectrogram(waveform)
        logits = self.classifier(patches.flatten(0, 1))
        scores = logits.sigmoid().view(*patches.shape[:2], logits.shape[-1])
        counted = (heard | ~heard.any(1, keepdim=True)).float()
        shares = counted / counted.sum(1, keepdim=True)
        mean: Tensor = (scores * shares[..., None]).sum(1)
        return mean
