"""Networks as stems: EfficientNet-Lite reads pictures, a sound classifier sounds, all-MiniLM-L6-v2
sentences.

B batch, F frames. Maps bring the output of each stem into the space of sentence vectors, 384
dimensions, so all vectors can be compared. Class probabilities times class vectors are from ConSE
(arXiv 1312.5650), maps to words from DeViSE.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from media.text import PAD_ID

from .language import MiniLM
from .sound_classifier import SoundScores, Weights

LITE_SIZES = {"lite0": 224, "lite1": 240, "lite2": 260}  # side of the pictures in training, pixels
LITE_STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of the first block of each stage
LITE_EPSILON = 1e-3


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


class KernelMap(nn.Module):
    """features of frames [B, F, D] -> unit vectors [B, 384].

    Each frame is compared with the `centres` [M, D], pictures that the map was fitted to:
    exp(sharpness (cosine - 1)) of the features' square roots less their `mean` [D]. The mean over
    frames of these similarities, times `coefficients` [M, 384], is the vector.
    """

    def __init__(
        self, mean: Tensor, centres: Tensor, coefficients: Tensor, *, sharpness: float
    ) -> None:
        super().__init__()
        self.mean = nn.Parameter(mean, requires_grad=False)
        self.centres = nn.Parameter(centres.T.contiguous(), requires_grad=False)  # [D, M]
        self.coefficients = nn.Parameter(coefficients, requires_grad=False)
        self.sharpness = sharpness

    def forward(self, features: Tensor) -> Tensor:
        directions = F.normalize(features.clamp(min=0.0).sqrt() - self.mean, dim=-1)
        similarities = (self.sharpness * (directions @ self.centres - 1.0)).exp()  # [B, F, M]
        return F.normalize(similarities.mean(1) @ self.coefficients, dim=-1)


class PictureEncoder(nn.Module):
    """frames uint8 [B, F, H, W, 3] -> unit vectors [B, 384].

    Two vectors are added. One is the mean over frames of ImageNet's class probabilities, times the
    class vectors. The other, times `caption_weight`, is the kernel map of the features to captions.
    `sharpness` multiplies the logits before their softmax.
    """

    def __init__(
        self,
        stem: PictureStem,
        sharpness: float,
        classes: LinearMap,
        captions: KernelMap,
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
        reading = self.classes(probabilities) + self.caption_weight * self.captions(features)
        return F.normalize(reading, dim=-1)


class SoundEncoder(nn.Module):
    """waveform [B, samples] at 16 kHz -> unit vectors [B, 384]: the scores of AudioSet's classes
    times the classes' vectors, which `classes` holds, weighed by rarity.
    """

    def __init__(self, scores: SoundScores, classes: LinearMap) -> None:
        super().__init__()
        self.scores = scores
        self.classes = classes

    def forward(self, waveform: Tensor) -> Tensor:
        vectors: Tensor = self.classes(self.scores(waveform))
        return vectors


class PhraseMemory(nn.Module):
    """unit vectors [B, 384] -> the classes whose phrases are near, [B, 384]: what words mean that
    no class has in its name.

    Attention over a memory of phrases (Miller et al., 1606.03126): softmax(sharpness (x directions)
    . key), with `keys` [N, D] and the `directions` [384, D] in which they differ. What the phrases
    of a class get is added up, and times the class's vector of `vectors` [C, 384] the result.
    `sizes` are, for each kind of class, how many classes there are and how many phrases each has,
    in the order of the keys.
    """

    def __init__(
        self,
        keys: Tensor,
        directions: Tensor,
        vectors: Tensor,
        sizes: list[tuple[int, int]],
        *,
        sharpness: float,
    ) -> None:
        super().__init__()
        self.keys = nn.Parameter(keys.T.contiguous(), requires_grad=False)  # [D, N]
        self.directions = nn.Parameter(directions, requires_grad=False)
        self.vectors = nn.Parameter(vectors, requires_grad=False)
        self.sizes = sizes
        self.sharpness = sharpness

    def forward(self, x: Tensor) -> Tensor:
        near = (self.sharpness * (x @ self.directions @ self.keys)).softmax(-1)
        counts = [classes * each for classes, each in self.sizes]
        kinds = torch.split(near, counts, dim=-1)
        shares = [
            kind.reshape(-1, *size).sum(-1) for kind, size in zip(kinds, self.sizes, strict=True)
        ]
        meant: Tensor = torch.cat(shares, dim=-1) @ self.vectors
        return meant


class TextEncoder(nn.Module):
    """token ids int64 [B, T] -> unit vectors [B, 384]: sentence vectors minus `mean` [384], one of
    class vectors and captions, at unit length; then what `phrases` make of them is added, times
    `weight`.
    """

    def __init__(
        self, sentences: Sentences, mean: Tensor, phrases: PhraseMemory, weight: float
    ) -> None:
        super().__init__()
        self.sentences = sentences
        self.mean = nn.Parameter(mean, requires_grad=False)
        self.phrases = phrases
        self.weight = weight

    def forward(self, ids: Tensor) -> Tensor:
        vectors = F.normalize(self.sentences(ids) - self.mean, dim=-1)
        return F.normalize(vectors + self.weight * self.phrases(vectors), dim=-1)
