"""Published networks as stems: pictures by EfficientNet-Lite, sounds by aiSFX, sentences by
all-MiniLM-L6-v2.

B batch, F frames, T spectrogram frames. Linear maps bring the output of each stem into the space of
sentence vectors, 384 dimensions, so all vectors can be compared. Class probabilities times class
vectors are from ConSE (arXiv 1312.5650), linear maps to words from DeViSE.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from media.text import PAD_ID

from .language import MiniLM

LITE_SIZES = {"lite0": 224, "lite1": 240, "lite2": 260}  # side of the pictures in training, pixels
LITE_STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of the first block of each stage
LITE_EPSILON = 1e-3
SOUND_RATE = 44_100
SOUND_FFT = 2048
SOUND_HOP = 1024
SOUND_MELS = 96
SOUND_BLOCK = 100  # spectrogram frames that aiSFX was trained on, 2.3 s
SOUND_PLACES = 5  # evenly spaced starts in a window, of which the loudest block is taken
SOUND_LOUDEST = 9.457798957824707  # aiSFX divides its spectrograms by it
QUIETEST = 1e-4  # the least peak that a sound is divided by, so silence stays silence

Weights = dict[str, Tensor]


def fuse_batch_norm(weight: Tensor, norm: Weights, epsilon: float) -> tuple[Tensor, Tensor]:
    """A convolution's weight [outputs, inputs, height, width] and the batch norm after it, as one
    weight and a bias [outputs].
    """
    scale = norm["weight"] / (norm["running_var"] + epsilon).sqrt()
    bias = norm["bias"] - norm["running_mean"] * scale
    return weight * scale[:, None, None, None], bias


def select_weights(weights: Weights, prefix: str) -> Weights:
    """The weights whose names begin with `prefix`, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


class SameConv(nn.Module):
    """A convolution with its batch norm folded in, then ReLU6 if `active`.

    It pads as TensorFlow's SAME does: an odd pixel goes to the right and to the bottom.
    """

    def __init__(
        self, weight: Tensor, norm: Weights, stride: int = 1, groups: int = 1, active: bool = True
    ) -> None:
        super().__init__()
        fused, bias = fuse_batch_norm(weight, norm, LITE_EPSILON)
        self.weight = nn.Parameter(fused, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.stride = stride
        self.groups = groups
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.shape[-1]
        rows = count_padding(x.shape[-2], kernel, self.stride)
        columns = count_padding(x.shape[-1], kernel, self.stride)
        x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        x = F.conv2d(x, self.weight, self.bias, stride=self.stride, groups=self.groups)
        return x.clamp(0.0, 6.0) if self.active else x


def count_padding(size: int, kernel: int, stride: int) -> int:
    """How many pixels SAME adds in all, so that the output has ceil(size / stride).

    >>> count_padding(260, 3, 2), count_padding(65, 5, 2), count_padding(33, 3, 1)
    (1, 4, 2)
    """
    outputs = -(-size // stride)
    return max((outputs - 1) * stride + kernel - size, 0)


class LiteBlock(nn.Module):
    """MBConv without squeeze-and-excitation: expand, depthwise convolution, project. The input is
    added where the shapes agree.
    """

    def __init__(self, weights: Weights, stride: int) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if "_expand_conv.weight" in weights:
            layers["expand"] = SameConv(
                weights["_expand_conv.weight"], select_weights(weights, "_bn0.")
            )
        depthwise = weights["_depthwise_conv.weight"]
        layers["filter"] = SameConv(
            depthwise, select_weights(weights, "_bn1."), stride, groups=len(depthwise)
        )
        project = weights["_project_conv.weight"]
        layers["project"] = SameConv(project, select_weights(weights, "_bn2."), active=False)
        self.layers = nn.Sequential(layers)
        inputs = weights["_expand_conv.weight"].shape[1] if "expand" in layers else len(depthwise)
        self.residual = stride == 1 and inputs == len(project)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return x + out if self.residual else out


class PictureStem(nn.Module):
    """EfficientNet-Lite with weights named as in EfficientNet-PyTorch: frames uint8 [B, F, H, W, 3]
    -> features of the frames [B, F, 1280] and logits of ImageNet's classes [B, F, 1000].
    """

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.stem = SameConv(
            weights["_conv_stem.weight"], select_weights(weights, "_bn0."), stride=2
        )
        blocks: list[nn.Module] = []
        stage = -1
        outputs = 0
        while block := select_weights(weights, f"_blocks.{len(blocks)}."):
            stride = 1
            if len(block["_project_conv.weight"]) != outputs:
                stage += 1
                stride = LITE_STRIDES[stage]
                outputs = len(block["_project_conv.weight"])
            blocks.append(LiteBlock(block, stride))
        self.blocks = nn.Sequential(*blocks)
        self.head = SameConv(weights["_conv_head.weight"], select_weights(weights, "_bn1."))
        self.classes = nn.Linear(*weights["_fc.weight"].shape[::-1])
        self.classes.load_state_dict(select_weights(weights, "_fc."))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        count = frames.shape[1]
        x = frames.flatten(0, 1).permute(0, 3, 1, 2).float()  # [B F, 3, H, W]
        x = self.blocks(self.stem((x - 127.0) / 128.0))
        pooled = self.head(x).mean((2, 3))
        features = pooled.view(-1, count, pooled.shape[-1])
        return features, self.classes(features)


class SoundConv(nn.Module):
    """A 3 x 3 convolution with its batch norm folded in, and ReLU."""

    def __init__(self, weight: Tensor, norm: Weights) -> None:
        super().__init__()
        fused, bias = fuse_batch_norm(weight, norm, 1e-5)
        self.weight = nn.Parameter(fused, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding=1).relu()


class SoundStem(nn.Module):
    """aiSFX with weights named as in its package: waveform [B, samples] at 44.1 kHz -> features [B,
    512] of the loudest block of 2.3 s. One block takes a third of the time of a window of 5 s, and
    retrieval is nearly as good.
    """

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        pairs: list[nn.Module] = []
        for i in range(1, 5):
            block = select_weights(weights, f"embedding_net.conv_block{i}.")
            convolutions = [
                SoundConv(block[f"conv{j}.weight"], select_weights(block, f"bn{j}."))
                for j in (1, 2)
            ]
            pairs.append(nn.Sequential(*convolutions))
        self.pairs = nn.ModuleList(pairs)
        self.spectrogram = LogMel()

    def forward(self, waveform: Tensor) -> Tensor:
        x = self.spectrogram(cut_loudest_block(scale_to_full(waveform)))[:, None]  # [B, 1, 100, 96]
        for i, pair in enumerate(self.pairs):
            x = pair(x)
            if i < len(self.pairs) - 1:
                x = F.max_pool2d(x, 2)
        features: Tensor = x.mean(3).amax(2)  # over frequency, then the largest over time
        return features


def scale_to_full(waveform: Tensor) -> Tensor:
    """waveform [B, samples] with its peak at 1; silence stays silence."""
    peak = waveform.abs().amax(dim=1, keepdim=True)
    return waveform / peak.clamp(min=QUIETEST)


def cut_loudest_block(waveform: Tensor) -> Tensor:
    """waveform [B, samples] -> the samples of 100 spectrogram frames [B, 103424].

    Of five evenly spaced starts, the one whose frames have the highest mean log power.
    """
    padded = F.pad(waveform, (SOUND_FFT // 2, SOUND_FFT // 2))
    power = F.avg_pool1d(padded.square()[:, None], SOUND_FFT, SOUND_HOP)[:, 0]  # [B, T]
    loudness = torch.log10(1.0 + 10_000.0 * power)
    last = power.shape[1] - SOUND_BLOCK
    starts = [round(place * last / (SOUND_PLACES - 1)) for place in range(SOUND_PLACES)]
    means = torch.stack(
        [loudness[:, start : start + SOUND_BLOCK].mean(1) for start in starts], dim=1
    )
    samples = (SOUND_BLOCK - 1) * SOUND_HOP + SOUND_FFT
    blocks = torch.stack([padded[:, start * SOUND_HOP :][:, :samples] for start in starts], dim=1)
    at = means.argmax(1)[:, None, None].expand(-1, 1, samples)
    return blocks.gather(1, at)[:, 0]


class LogMel(nn.Module):
    """waveform [B, samples] at 44.1 kHz -> log mel power [B, T, 96] of T complete frames, as aiSFX
    takes it: log10(1 + 10,000 power) / 9.46, of triangular filters that each sum to one.

    The DFT of 2,048 points is factored into 32 and 64 (Cooley and Tukey): a product with a small
    matrix, a multiplication by phases, another product. This can be exported, and takes a twentieth
    of the time of one product with the whole DFT matrix.
    """

    def __init__(self) -> None:
        super().__init__()
        self.window: Tensor
        self.first: Tensor
        self.turn: Tensor
        self.second: Tensor
        self.filters: Tensor
        self.register_buffer("window", torch.hann_window(SOUND_FFT), persistent=False)
        self.register_buffer(
            "first",
            compute_phases(torch.arange(32)[:, None] * torch.arange(32), 32),
            persistent=False,
        )
        self.register_buffer(
            "turn",
            compute_phases(torch.arange(32)[:, None] * torch.arange(64), SOUND_FFT),
            persistent=False,
        )
        self.register_buffer(
            "second",
            compute_phases(torch.arange(64)[:, None] * torch.arange(32), 64),
            persistent=False,
        )
        self.register_buffer("filters", make_mel_filters(), persistent=False)

    def power(self, pieces: Tensor) -> Tensor:
        """pieces [B, T, 2048] -> their power spectra without the last bin [B, T, 1024]."""
        rows = pieces.view(*pieces.shape[:-1], 32, 64)
        real, imaginary = self.first[0] @ rows, self.first[1] @ rows  # [B, T, 32, 64]
        turned_real = real * self.turn[0] - imaginary * self.turn[1]
        turned_imaginary = real * self.turn[1] + imaginary * self.turn[0]
        real = turned_real @ self.second[0] - turned_imaginary @ self.second[1]  # [B, T, 32, 32]
        imaginary = turned_real @ self.second[1] + turned_imaginary @ self.second[0]
        return (real.square() + imaginary.square()).transpose(-1, -2).flatten(-2)

    def forward(self, waveform: Tensor) -> Tensor:
        pieces = waveform.unfold(1, SOUND_FFT, SOUND_HOP) * self.window
        mel = self.power(pieces) @ self.filters
        return torch.log10(1.0 + 10_000.0 * mel) / SOUND_LOUDEST


def compute_phases(turns: Tensor, of: int) -> Tensor:
    """exp(-2 pi i turns / of) as real and imaginary parts [2, ...]."""
    angle = -2 * math.pi * (turns % of).double() / of
    return torch.stack([angle.cos(), angle.sin()]).float()


def make_mel_filters() -> Tensor:
    """Triangular filters [1024 bins, 96] from 0 to 22,050 Hz, evenly spaced in HTK's mel, each
    summing to one.
    """
    hz = torch.arange(SOUND_FFT // 2, dtype=torch.float64) * SOUND_RATE / SOUND_FFT
    top = 2595 * math.log10(1 + SOUND_RATE / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, SOUND_MELS + 2, dtype=torch.float64) / 2595) - 1)
    widths = edges.diff()
    rising = (hz - edges[:-2, None]) / widths[:-1, None]
    falling = (edges[2:, None] - hz) / widths[1:, None]
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return (triangles / triangles.sum(1, keepdim=True)).float().T.contiguous()


class Sentences(nn.Module):
    """all-MiniLM-L6-v2 as published: token ids [B, T] -> the mean of its states, unit length [B,
    384].
    """

    def __init__(self, vocabulary: int, tokens: int) -> None:
        super().__init__()
        self.language = MiniLM(vocabulary, tokens)

    def forward(self, ids: Tensor) -> Tensor:
        present = ids != PAD_ID
        states = self.language(ids, present)
        shares = present.float() / present.sum(1, keepdim=True)
        return F.normalize((states * shares[..., None]).sum(1), dim=-1)


# ---------------------------------------------------------------- features -> vectors


class LinearMap(nn.Module):
    """features [..., inputs] -> unit vectors [..., 384]: unit(features @ matrix + offset)."""

    def __init__(self, matrix: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix, requires_grad=False)
        self.offset = nn.Parameter(offset, requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(features @ self.matrix + self.offset, dim=-1)


class PictureEncoder(nn.Module):
    """frames uint8 [B, F, H, W, 3] -> unit vectors [B, 384].

    Two vectors are added. One is the mean over frames of ImageNet's class probabilities, times the
    class vectors. The other, times `caption_weight`, is the linear map of the mean features to
    captions. `sharpness` multiplies the logits before their softmax.
    """

    def __init__(
        self,
        stem: PictureStem,
        sharpness: float,
        classes: LinearMap,
        captions: LinearMap,
        caption_weight: float,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.sharpness = sharpness
        self.classes = classes
        self.captions = captions
        self.caption_weight = caption_weight

    def forward(self, frames: Tensor) -> Tensor:
        features, logits = self.stem(frames)
        probabilities = (self.sharpness * logits).softmax(-1).mean(1)
        reading = self.classes(probabilities) + self.caption_weight * self.captions(
            features.mean(1)
        )
        return F.normalize(reading, dim=-1)


class SoundEncoder(nn.Module):
    """waveform [B, samples] at 44.1 kHz -> unit vectors [B, 384]: a linear map of the features of
    its loudest block.
    """

    def __init__(self, stem: SoundStem, reading: LinearMap) -> None:
        super().__init__()
        self.stem = stem
        self.reading = reading

    def forward(self, waveform: Tensor) -> Tensor:
        vectors: Tensor = self.reading(self.stem(waveform))
        return vectors


class TextEncoder(nn.Module):
    """token ids int64 [B, T] -> unit vectors [B, 384]: sentence vectors minus `mean` [384], that
    of the class vectors.
    """

    def __init__(self, sentences: Sentences, mean: Tensor) -> None:
        super().__init__()
        self.sentences = sentences
        self.mean = nn.Parameter(mean, requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        vectors: Tensor = self.sentences(ids)
        return F.normalize(vectors - self.mean, dim=-1)
