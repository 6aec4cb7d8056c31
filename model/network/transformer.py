"""VLSA: one transformer for video, audio and text (arXiv 2405.07202).

B batch, T tokens, K visible tokens, D width, F frames, N patches in a frame, P values in a patch,
E embedding, C channels, H height, W width in pixels. A stack of images is [B, F, C, H, W]; a
spectrogram is a stack of one image of one channel.

The choices of this file:
- Every number is in the graph: uint8 frames, raw samples and token ids go in, unit vectors come
  out.
- Each modality is encoded alone, by the same trunk, for contrast and for serving. The joint pass
  is for masked modelling only. A vector pooled from it would have seen its partner: cross-modal
  leakage.
- LayerNorms are per modality (CAV-MAE, 2210.07839). Attention and MLP weights are shared.
- Average pooling, no CLS token; a linear projection per modality into the embedding space.
- Stems are linear, as in the paper, or a few strided convolutions, which see a small thing wherever
  in a patch it is. A sound is a spectrogram, or its waveform in one row of patches. Words come from
  an embedding table or from a frozen language model.
- Hidden tokens of every modality are dropped before the trunk (MAE, 2111.06377). One decoder, run
  for each modality, predicts them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from media.modality import MODALITIES
from media.text import PAD_ID

from ..config import EncoderConfig
from . import language
from .masking import (
    TokenOrder,
    blank_patches,
    count_hidden,
    put_back,
    sort_tokens,
    take_tokens,
)

LOG_FLOOR = 1e-6  # power below which there is silence; a full-scale sine has power 1
MOST_GAIN = 32.0  # the most a quiet window is turned up, 30 dB; silence stays silence
LOG_CENTRE = 7.0  # with LOG_SCALE, brings log power into about [-2, 2]
LOG_SCALE = 3.5
MAX_SCALE = 100.0  # the inverse temperature's limit, as in CLIP
WORD_SCALE = 10.0  # brings the language model's table of words to the size of its states

Segments = list[tuple[str, int]]  # which modality each stretch of tokens is, and how long


class Norms(nn.Module):
    """LayerNorm of tokens [B, T, D], one per modality or one for all."""

    def __init__(self, width: int, per_modality: bool) -> None:
        super().__init__()
        self.names = {m: m if per_modality else "all" for m in MODALITIES}
        self.norms = nn.ModuleDict(
            {name: nn.LayerNorm(width) for name in sorted(set(self.names.values()))}
        )

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        if len(segments) == 1:
            return self.norms[self.names[segments[0][0]]](x)
        parts = x.split([length for _, length in segments], dim=1)
        normed = [
            self.norms[self.names[m]](part) for (m, _), part in zip(segments, parts, strict=True)
        ]
        return torch.cat(normed, dim=1)


class Mlp(nn.Module):
    """Tokens [B, T, D], each by itself, through one hidden layer of 4 D.

    What takes its place may want to know which tokens are there, by the `bias` of `Block`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.down(F.gelu(self.up(x)))


# (width D, place of the block from 0) -> what stands there as `Mlp` does
MakeMlp = Callable[[int, int], nn.Module]


def plain_mlp(width: int, place: int) -> nn.Module:
    return Mlp(width)


# (place of the block from 0) -> what adds messages to its attention, if anything does
MakeMessages = Callable[[int], nn.Module | None]


def no_messages(place: int) -> nn.Module | None:
    return None


class FirstSpace(nn.Module):
    """A space of unit vectors [B, dim] that some modalities have before that of the embedding.

    `to_embedding` takes its vectors to those of the embedding, [B, E], of any length.
    """

    def __init__(self, modalities: tuple[str, ...], dim: int, to_embedding: nn.Module) -> None:
        super().__init__()
        self.modalities = modalities
        self.dim = dim
        self.to_embedding = to_embedding

    def forward(self, vectors: Tensor) -> Tensor:
        return self.to_embedding(vectors)


class Halves(nn.Module):
    """Vectors that are made of two parts, in their order.

    `split` takes a modality, the trunk's tokens [B, T, D], their places in the modality's grid,
    int64 [B, T] or None if they are all there, and which are present, bool [B, T] or None. It gives
    what each token counts for in each part, [B, 2, T]; they sum to 1. `bind` takes unit vectors of
    the parts [B, E] to the unit vectors of both.
    """

    def __init__(self, split: nn.Module, bind: nn.Module) -> None:
        super().__init__()
        self.split = split
        self.bind = bind

    def pool(
        self, modality: str, tokens: Tensor, places: Tensor | None, present: Tensor | None
    ) -> Tensor:
        """The means of both parts, [B, 2, D]."""
        return self.split(modality, tokens, places, present).to(tokens.dtype) @ tokens

    def forward(self, parts: Tensor) -> Tensor:
        """Vectors of both parts, of any length, [B, 2, E] -> unit vectors [B, E]."""
        first, second = F.normalize(parts, dim=-1).unbind(1)
        return self.bind(first, second)


@dataclass(frozen=True, kw_only=True)
class Additions:
    """What methods of other works add to the network, see `training/tables.py`."""

    make_mlp: MakeMlp = plain_mlp
    make_messages: MakeMessages = no_messages
    fusion: nn.Module | None = None
    first_space: FirstSpace | None = None
    halves: Halves | None = None


NO_ADDITIONS = Additions()


class Block(nn.Module):
    """A transformer block on tokens [B, T, D]: pre-norm attention, then a pre-norm MLP.

    `bias` [B, 1, 1, T] is added to the attention's logits, see `key_bias`. `messages`, if there
    are any, takes the tokens of a video that is encoded alone, and their `places` in its grid,
    int64 [B, T] or None if they are all there. It gives further tokens [B, M, D], which no block
    keeps, and the bias [B, 1, T, T + M] of attention to both.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        per_modality: bool,
        *,
        place: int = 0,
        make_mlp: MakeMlp = plain_mlp,
        messages: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = Norms(width, per_modality)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = Norms(width, per_modality)
        self.mlp = make_mlp(width, place)
        self.messages = messages

    def forward(
        self, x: Tensor, segments: Segments, bias: Tensor | None, places: Tensor | None = None
    ) -> Tensor:
        normed = self.norm1(x, segments)
        if self.messages is not None and [m for m, _ in segments] == ["video"]:
            messages, seen = self.messages(x, places)
            messages = self.norm1(messages, [("video", messages.shape[1])])
            x = x + self.attend(normed, seen, messages)
        else:
            x = x + self.attend(normed, bias)
        return x + self.mlp(self.norm2(x, segments), bias)

    def attend(self, x: Tensor, bias: Tensor | None, messages: Tensor | None = None) -> Tensor:
        """What the tokens [B, T, D] see in themselves, and in messages [B, M, D]."""
        seen = x if messages is None else torch.cat([x, messages], dim=1)
        q, k, v = split_heads(self.qkv(seen), self.heads)
        if messages is not None:
            q = q[:, :, : x.shape[1]]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out(mixed.transpose(1, 2).flatten(2))  # [B, T, D]


def split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
    """Queries, keys and values [B, T, 3 D] as three of [B, heads, T, D / heads]."""
    return qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def key_bias(present: Tensor) -> Tensor:
    """What attention adds to its logits so that tokens that are not `present` have no weight.

    Bool [B, T] -> [B, 1, 1, T].
    """
    return torch.where(present, 0.0, -1e9)[:, None, None, :]


def make_blocks(config: EncoderConfig, additions: Additions = NO_ADDITIONS) -> nn.ModuleList:
    """The blocks of a trunk."""
    width = config.width
    heads = config.heads
    per_modality = config.modality_norms
    return nn.ModuleList(
        Block(
            width,
            heads,
            per_modality,
            place=place,
            make_mlp=additions.make_mlp,
            messages=additions.make_messages(place),
        )
        for place in range(config.depth)
    )


class Spectrogram(nn.Module):
    """Waveform [B, samples] -> log power [B, bins, frames].

    A windowed DFT as a convolution, which exports cleanly. In training it is an FFT, which is many
    times faster.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        n = config.n_fft
        self.hop = config.hop
        self.frames = config.spectrogram_frames
        self.quiet_peak = config.quiet_peak
        hann = torch.hann_window(n, dtype=torch.float64)
        self.window: Tensor
        self.circle: Tensor
        self.filters: Tensor
        self.register_buffer("window", (hann * (2 / hann.sum())).float(), persistent=False)
        turn = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
        circle = torch.stack([turn.cos(), -turn.sin()]).float()
        self.register_buffer("circle", circle, persistent=False)
        self.register_buffer("filters", filterbank(config), persistent=False)
        self.left = n // 2
        self.right = (self.frames - 1) * self.hop + n - self.left - config.samples

    def kernels(self) -> Tensor:
        """The real rows of the windowed DFT above the imaginary ones, [n + 2, 1, n].

        The graph makes them from one turn of the circle. They would be a megabyte in it.
        """
        n = len(self.window)
        at = torch.arange(n, device=self.window.device)
        rows = self.circle[:, at[: n // 2 + 1, None] * at % n]  # [2, n / 2 + 1, n]
        return (rows * self.window).flatten(0, 1)[:, None, :]

    def amplify_quiet(self, waveform: Tensor) -> Tensor:
        """Windows [B, samples] quieter than `quiet_peak`, brought to that peak.

        The floor of the logarithm would cut speech at -40 dB, say, to pieces.
        """
        peak = waveform.abs().amax(dim=1, keepdim=True)
        gain = self.quiet_peak / peak.clamp(min=self.quiet_peak / MOST_GAIN)
        return waveform * gain.clamp(min=1.0)

    def forward(self, waveform: Tensor) -> Tensor:
        if self.quiet_peak:
            waveform = self.amplify_quiet(waveform)
        padded = F.pad(waveform, (self.left, self.right))
        if self.training:
            # [B, frames, n_fft]
            pieces = padded.unfold(1, len(self.window), self.hop) * self.window
            power = torch.view_as_real(torch.fft.rfft(pieces)).square().sum(-1).transpose(1, 2)
        else:
            dft = F.conv1d(padded[:, None, :], self.kernels(), stride=self.hop)
            real, imaginary = dft.chunk(2, dim=1)
            power = real.square() + imaginary.square()
        return (torch.log(torch.matmul(self.filters, power) + LOG_FLOOR) + LOG_CENTRE) / LOG_SCALE


def filterbank(config: EncoderConfig) -> Tensor:
    """Triangular filters [bins, n_fft // 2 + 1], evenly spaced in mel or in log frequency.

    Each is a weighted mean of its frequencies. They are made on the CPU whatever the default device
    is (findings/transformers-linspace-leaves-the-device.sh).
    """
    nyquist = config.sample_rate / 2
    hz = torch.linspace(0, nyquist, config.n_fft // 2 + 1, dtype=torch.float64, device="cpu")
    if config.frequency_scale == "mel":  # O'Shaughnessy's formula
        top = 2595 * math.log10(1 + nyquist / 700)
        mels = torch.linspace(0, top, config.bins + 2, dtype=torch.float64, device="cpu")
        edges = 700 * (10 ** (mels / 2595) - 1)
    else:
        count = config.bins + 2
        edges = torch.logspace(
            math.log10(40), math.log10(nyquist), count, dtype=torch.float64, device="cpu"
        )
    step = hz[1]
    low = torch.minimum(edges[:-2], edges[1:-1] - step)  # no filter narrower than the DFT resolves
    high = torch.maximum(edges[2:], edges[1:-1] + step)
    rise = (hz[None] - low[:, None]) / (edges[1:-1] - low)[:, None]
    fall = (high[:, None] - hz[None]) / (high - edges[1:-1])[:, None]
    weights = torch.minimum(rise, fall).clamp(min=0)
    return (weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-9)).float()


class LinearStem(nn.Module):
    """Images [B F, C, H, W] -> [B F, N, D], a projection of each patch."""

    def __init__(self, channels: int, patch: tuple[int, int], width: int) -> None:
        super().__init__()
        self.patch = patch
        self.project = nn.Linear(channels * math.prod(patch), width)

    def features(self, images: Tensor) -> Tensor:
        return images

    def forward(self, features: Tensor) -> Tensor:
        return self.project(cut_patches(features[:, None], self.patch))


class ConvolutionStem(nn.Module):
    """Images [B F, C, H, W] -> [B F, N, D] by 3 x 3 convolutions of stride 2.

    Each convolution halves the picture, until a pixel stands for a patch. After Xiao et al.
    (2106.14881).
    """

    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        widths = [channels, *(32 << i for i in range(patch.bit_length() - 2)), width]
        self.steps = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths)
        )
        self.project = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def features(self, images: Tensor) -> Tensor:
        """[B F, D, rows, columns], a vector of D for each patch."""
        images = images.contiguous(memory_format=torch.channels_last)  # twice as fast on a CPU
        for step in self.steps:
            images = F.relu(step(images))
        return images

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(self.project(features.flatten(2).transpose(1, 2)))


def make_stem(config: EncoderConfig, modality: str, channels: int) -> nn.Module:
    """What makes tokens of a stack of images. A waveform has a linear stem in any case."""
    is_waveform = modality == "audio" and config.waveform_patch > 0
    if config.stem == "convolution" and not is_waveform:
        return ConvolutionStem(channels, config.patch, config.width)
    return LinearStem(channels, config.patches[modality], config.width)


class MiniLMStem(nn.Module):
    """Token ids int64 [B, T] -> [B, T, D] by a frozen language model.

    It attends only to the tokens that are `visible`, bool [B, T]. Its states mean what the text
    means and blur which word says it, so the words themselves are added.
    """

    def __init__(self, vocabulary: int, tokens: int, width: int) -> None:
        super().__init__()
        self.model = language.MiniLM(vocabulary, tokens)
        self.states = nn.Linear(language.WIDTH, width)
        self.words = nn.Linear(language.WIDTH, width, bias=False)

    def forward(self, ids: Tensor, visible: Tensor) -> Tensor:
        return self.project(ids, self.model(ids, visible))

    def project(self, ids: Tensor, states: Tensor) -> Tensor:
        return self.states(states) + self.words(self.model.words.rows(ids) * WORD_SCALE)


class EmbeddingStem(nn.Module):
    """Token ids int64 [B, T] -> [B, T, D], a row of a table for each."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, width)

    def forward(self, ids: Tensor, visible: Tensor) -> Tensor:
        return self.table(ids)


def cut_patches(images: Tensor, patch: tuple[int, int]) -> Tensor:
    """Images [B, F, C, H, W] -> the values of their patches, `patch` high and wide, [B, T, P]."""
    height, width = patch
    # F, C, rows, height, columns, width
    x = images.unflatten(4, (-1, width)).unflatten(3, (-1, height))
    return x.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(1, 3)


@dataclass
class Masked:
    """What the joint pass predicts for one modality, and the truth.

    Of video and audio both are [B, T, P]. Of text, `predicted` is logits [B, T, vocabulary] and
    `target` token ids [B, T].
    """

    predicted: Tensor
    target: Tensor
    masked: Tensor  # bool [B, T]: where the loss counts


@dataclass(frozen=True)
class TrunkPass:
    """What the trunk gave for one modality in training. Methods may read it."""

    tokens: Tensor  # [B, K, D]
    # int64 [B, K], where in the modality's grid they are; None: in order
    places: Tensor | None = None
    present: Tensor | None = None  # bool [B, K]; None: all are there


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """One modality of the joint pass, sorted into visible and hidden tokens."""

    visible: Tensor  # [B, K, D]: the tokens that the trunk sees
    visible_exists: Tensor  # bool [B, K]: those of them that are not absent
    order: TokenOrder
    exists: Tensor  # bool [B, T]
    targets: Tensor  # as `Masked.target`


class VLSA(nn.Module):
    """The network. `embed` is what is served; `masked` is for training only."""

    def __init__(self, config: EncoderConfig, additions: Additions = NO_ADDITIONS) -> None:
        super().__init__()
        self.config = c = config
        self.recompute = False  # the trunk's activations in the backward pass, to save their memory
        self.last_pass: TrunkPass | None = None
        self.spectrogram = Spectrogram(c)
        self.stems = nn.ModuleDict(
            {
                "video": make_stem(c, "video", 3),
                "audio": make_stem(c, "audio", 1),
                "text": MiniLMStem(c.vocabulary, c.tokens, c.width)
                if c.text_stem == "minilm"
                else EmbeddingStem(c.vocabulary, c.width),
            }
        )
        positions = {}
        for m in MODALITIES:
            for axis, length in zip(("outer", "inner"), c.grid[m], strict=True):
                positions[f"{m}_{axis}"] = random_rows(length, c.width)
        # From a dict, so that it sorts the names: the optimiser's states go by this order.
        self.positions = nn.ParameterDict(positions)
        self.blocks = make_blocks(c, additions)
        self.norm = Norms(c.width, c.modality_norms)
        self.first_space = additions.first_space
        dims = dict.fromkeys(MODALITIES, c.dim)
        if self.first_space is not None:
            dims |= dict.fromkeys(self.first_space.modalities, self.first_space.dim)
        self.first_vectors: Tensor | None = None  # of the last pass in training
        self.heads = nn.ModuleDict({m: nn.Linear(c.width, dims[m], bias=False) for m in MODALITIES})
        self.stem_skips = nn.ModuleDict()
        if c.stem_skip:
            bands, _ = c.grid["audio"]
            self.stem_skips["video"] = nn.Linear(2 * c.width, dims["video"])
            if not c.waveform_patch:
                self.stem_skips["audio"] = nn.Linear((2 + bands) * c.width, dims["audio"])
            if c.text_stem == "minilm":
                self.stem_skips["text"] = nn.Linear(language.WIDTH, c.dim)
        if c.memory:
            self.memory: Tensor
            self.register_buffer("memory", torch.zeros(c.memory, c.dim))
        self.log_scale = nn.Parameter(torch.tensor(0.0))
        self.match = nn.ModuleDict(
            {pair: nn.Linear(c.dim, 1) for pair in ("audio_video", "audio_text")}
        )
        self.add_decoder()
        self.apply(initialise)
        # Weights of sound in joint vectors, [B, E] of pictures and of sound -> [B].
        self.fusion = additions.fusion
        self.halves = additions.halves
        self.parts = nn.ModuleDict()  # for training alone, see `training/tables.py`
        if "text" in self.stem_skips:
            # A text starts at its sentence's place; the trunk adds what it learns.
            skip = self.stem_skips["text"]
            head = self.heads["text"]
            assert isinstance(skip, nn.Linear) and isinstance(head, nn.Linear)
            nn.init.orthogonal_(skip.weight)
            nn.init.zeros_(head.weight)

    def add_decoder(self) -> None:
        """What predicts hidden tokens, for training alone: one decoder for all modalities."""
        c = self.config
        self.into_decoder = nn.Linear(c.width, c.decoder_width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(c.decoder_width))
        self.decoder_positions = nn.ParameterDict(
            {m: random_rows(math.prod(c.grid[m]), c.decoder_width) for m in MODALITIES}
        )
        self.decoder = nn.ModuleList(
            Block(c.decoder_width, c.decoder_heads, c.modality_norms)
            for _ in range(c.decoder_depth)
        )
        self.decoder_norm = Norms(c.decoder_width, c.modality_norms)
        values = {
            "video": math.prod(c.patches["video"]) * 3,
            "audio": math.prod(c.patches["audio"]),
            "text": c.vocabulary,
        }
        self.fill = nn.ModuleDict({m: nn.Linear(c.decoder_width, values[m]) for m in MODALITIES})

    # ------------------------------------------------------------ inputs to tokens

    def images(self, modality: str, x: Tensor) -> Tensor:
        """Frames uint8 [B, F, H, W, 3] or waveform [B, samples] -> a stack of images."""
        if modality == "video":
            return (x.float() / 127.5 - 1.0).permute(0, 1, 4, 2, 3)
        if self.config.waveform_patch:
            return self.spread_waveform(x)
        return self.spectrogram(x)[:, None, None]

    def spread_waveform(self, waveform: Tensor) -> Tensor:
        """Waveform [B, samples] as images of one row, [B, 1, 1, 1, W], up to whole patches."""
        if self.config.quiet_peak:
            waveform = self.spectrogram.amplify_quiet(waveform)
        padding = math.prod(self.config.grid["audio"]) * self.config.waveform_patch
        padding -= self.config.samples
        return F.pad(waveform, (0, padding))[:, None, None, None]

    def features(self, modality: str, images: Tensor) -> Tensor:
        """What a stem makes of a stack of images before they are tokens.

        A convolution stem gives [B F, D, rows, columns], a linear stem the images themselves.
        """
        stem = self.stems[modality]
        assert isinstance(stem, LinearStem | ConvolutionStem)
        return stem.features(images.flatten(0, 1))

    def image_tokens(self, modality: str, features: Tensor) -> Tensor:
        """A stem's features of a stack of images -> tokens [B, T, D] with their positions."""
        frames = self.config.frames if modality == "video" else 1
        tokens = self.stems[modality](features).unflatten(0, (-1, frames)).flatten(1, 2)
        return tokens + self.position_table(modality)

    def text_tokens(self, ids: Tensor, visible: Tensor) -> Tensor:
        """Token ids [B, T] -> tokens [B, T, D]; only the `visible`, bool [B, T], affect others."""
        return self.stems["text"](ids, visible) + self.position_table("text")[: ids.shape[1]]

    def position_table(self, modality: str) -> Tensor:
        """Position embeddings [T, D], a sum over the two axes of the modality's grid."""
        outer = self.positions[f"{modality}_outer"]
        inner = self.positions[f"{modality}_inner"]
        return (outer[:, None] + inner[None]).flatten(0, 1)

    def skip_vector(self, modality: str, features: Tensor) -> Tensor:
        """The strongest features of a convolution stem, led around the trunk: [B, E].

        They are the maxima over each frame, or over each time of a sound, as mean and deviation
        over time. A sound adds the maximum of each band. The trunk is slow to learn where to look,
        and averages a word of 0.4 s with the silence around it.
        """
        if modality == "video":
            peaks = features.amax((2, 3)).unflatten(0, (-1, self.config.frames))  # [B, F, D]
        else:
            peaks = features.amax(2).transpose(1, 2)  # [B, time, D]
        mean = peaks.mean(1)
        deviation = ((peaks - mean[:, None]).square().mean(1) + 1e-6).sqrt()
        parts = [mean, deviation]
        if modality == "audio":
            parts.append(features.amax(3).flatten(1))  # [B, D * bands]
        return self.stem_skips[modality](torch.cat(parts, dim=1))

    def run_trunk(
        self,
        tokens: Tensor,
        segments: Segments,
        bias: Tensor | None,
        places: Tensor | None = None,
    ) -> Tensor:
        """Tokens [B, T, D] of one modality or of several -> [B, T, D]; `bias` and `places` as in
        `Block`.
        """
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, segments, bias, places, use_reentrant=False)
            else:
                tokens = block(tokens, segments, bias, places)
        return self.norm(tokens, segments)

    # ------------------------------------------------------------ alone: embeddings

    def embed(
        self,
        modality: str,
        x: Tensor,
        kept_tokens: Tensor | None = None,
        stretches: Tensor | None = None,
    ) -> Tensor:
        """Unit vectors [B, E] of one modality, encoded alone.

        Video is uint8 [B, F, H, W, 3], audio float32 [B, samples], text int64 [B, T]. In training,
        `kept_tokens` int64 [B, K] says which tokens DropToken leaves (VATT, 2104.11178), and
        `stretches` [B, 4, 2] is for `spec_augment`.
        """
        if modality == "text":
            return self.encode_text(x)[0]
        images = self.images(modality, x)
        if stretches is not None:
            images = spec_augment(images, stretches)
        features = self.features(modality, images)
        tokens = self.image_tokens(modality, features)
        skip = self.skip_vector(modality, features) if modality in self.stem_skips else None
        if kept_tokens is not None:
            tokens = take_tokens(tokens, kept_tokens)
        vectors = self.encode_tokens(modality, tokens, skip=skip, places=kept_tokens)
        if modality == "audio" and self.config.memory and not self.training:
            return self.move_to_memory(vectors)
        return vectors

    def move_to_memory(self, vectors: Tensor) -> Tensor:
        """Move vectors of sounds [B, E] to the captions in memory that each is like.

        It is the mean of the captions, weighted by a softmax of the cosines (DeCap, 2303.03032). In
        that softmax the sound itself counts as a caption of cosine `caption_memory_threshold`. A
        sound is then as near to other words as its captions are. A sound that is like none of them
        stays where it is.
        """
        threshold = torch.full_like(vectors[:, :1], self.config.caption_memory_threshold)
        cosines = torch.cat([vectors @ self.memory.T, threshold], dim=1)
        weights = (self.config.memory_scale * cosines).softmax(dim=1)
        return F.normalize(weights[:, :-1] @ self.memory + weights[:, -1:] * vectors, dim=-1)

    @torch.no_grad()
    def fill_memory(self, vectors: Tensor) -> None:
        """Keep the vectors [n, E] of captions, as many as there is room for."""
        self.memory.zero_()
        self.memory[: len(vectors)] = vectors[: len(self.memory)]

    def encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Token ids [B, T] -> unit vectors [B, E] and unit sentence vectors [B, S].

        The sentence vectors are the mean states of the frozen language model, S = 384. Without such
        a model they are None.
        """
        present = ids != PAD_ID
        stem = self.stems["text"]
        if not isinstance(stem, MiniLMStem):
            return self.encode_tokens("text", self.text_tokens(ids, present), present), None
        states = stem.model.by_length(ids, present) if self.training else stem.model(ids, present)
        weight = present.unsqueeze(-1).to(states.dtype)
        sentences = F.normalize((states * weight).sum(1), dim=-1)
        tokens = stem.project(ids, states) + self.position_table("text")[: ids.shape[1]]
        skip = self.stem_skips["text"](sentences) if self.config.stem_skip else None
        return self.encode_tokens("text", tokens, present, skip), sentences

    def encode_tokens(
        self,
        modality: str,
        tokens: Tensor,
        present: Tensor | None = None,
        skip: Tensor | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """Tokens [B, T, D] of one modality through the trunk -> unit vectors [B, E].

        `present` bool [B, T]; None if all tokens are. `skip` as in `pool`. `places` as in
        `TrunkPass`.
        """
        bias = None if present is None else key_bias(present)
        out = self.run_trunk(tokens, [(modality, tokens.shape[1])], bias, places)
        if self.training:
            self.last_pass = TrunkPass(out, places, present)
        return self.pool(modality, out, present, skip, places)

    def pool(
        self,
        modality: str,
        out: Tensor,
        present: Tensor | None = None,
        skip: Tensor | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """The trunk's output [B, T, D], averaged and projected -> unit vectors [B, E].

        `skip` [B, E] is what came around the trunk, see `skip_vector`. Where vectors have two
        parts, it is in both. `places` as in `TrunkPass`.
        """
        if self.halves is not None:
            parts = self.heads[modality](self.halves.pool(modality, out, places, present))
            return self.halves(parts if skip is None else parts + skip[:, None])
        if present is None:
            pooled = out.mean(1)
        else:
            weight = present.unsqueeze(-1).to(out.dtype)
            pooled = (out * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        vector = self.heads[modality](pooled)
        if skip is not None:
            vector = vector + skip
        if self.first_space is not None and modality in self.first_space.modalities:
            first = F.normalize(vector, dim=-1)
            if self.training:
                self.first_vectors = first
            vector = self.first_space(first)
        return F.normalize(vector, dim=-1)

    @property
    def scale(self) -> Tensor:
        """The inverse temperature, at most 100."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    # ------------------------------------------------------------ together: masked modelling

    def encode_together(self, inputs: list[tuple[str, Tensor, Tensor]]) -> list[Tensor]:
        """Unit vectors [B, E] of each input, pooled from one pass over all of them.

        An input is (modality, values as `embed` takes them, present bool [B]).
        """
        tokens = []
        exists = []
        for m, x, present in inputs:
            if m == "text":
                words = x != PAD_ID
                tokens.append(self.text_tokens(x, words))
                exists.append(present[:, None] & words)
            else:
                part = self.image_tokens(m, self.features(m, self.images(m, x)))
                tokens.append(part)
                exists.append(present[:, None].expand(part.shape[:2]))
        segments = [(m, part.shape[1]) for (m, _, _), part in zip(inputs, tokens, strict=True)]
        bias = key_bias(torch.cat(exists, dim=1))
        out = self.run_trunk(torch.cat(tokens, dim=1), segments, bias)
        parts = out.split([length for _, length in segments], dim=1)
        return [
            self.pool(m, part, part_exists)
            for (m, _), part, part_exists in zip(segments, parts, exists, strict=True)
        ]

    def masked(
        self, inputs: dict[str, Tensor], present: dict[str, Tensor], mask_noise: dict[str, Tensor]
    ) -> dict[str, Masked]:
        """The joint pass: hide tokens of every modality, encode the others together, and predict
        what was hidden.

        `present` bool [B] says which rows have the modality at all. `mask_noise`, uniform [B, T],
        decides which tokens are hidden.
        """
        parts = {m: self.hide(m, x, present[m], mask_noise[m]) for m, x in inputs.items()}
        segments = [(m, part.visible.shape[1]) for m, part in parts.items()]
        tokens = torch.cat([part.visible for part in parts.values()], dim=1)
        exists = torch.cat([part.visible_exists for part in parts.values()], dim=1)
        encoded = self.into_decoder(self.run_trunk(tokens, segments, key_bias(exists)))
        pieces = encoded.split([length for _, length in segments], dim=1)
        return {
            m: self.decode(m, piece, part)
            for (m, part), piece in zip(parts.items(), pieces, strict=True)
        }

    def hide(self, modality: str, x: Tensor, present: Tensor, noise: Tensor) -> Hidden:
        """One modality of the joint pass before the trunk: its visible tokens, and its targets."""
        if modality == "text":
            targets = x  # [B, T]
            exists = present[:, None] & (x != PAD_ID)
        else:
            images = self.images(modality, x)
            patch = self.config.patches[modality]
            targets = cut_patches(images, patch)  # [B, T, P]
            exists = present[:, None].expand(targets.shape[:2])
        order = sort_tokens(noise[:, : exists.shape[1]], exists, *self.masking(modality))
        if modality == "text":
            tokens = self.text_tokens(x, exists & ~order.left_out)
        else:
            shown = blank_patches(images, order.left_out, patch)
            tokens = self.image_tokens(modality, self.features(modality, shown))
        return Hidden(
            visible=take_tokens(tokens, order.kept),
            visible_exists=exists.gather(1, order.kept),
            order=order,
            exists=exists,
            targets=targets,
        )

    def masking(self, modality: str) -> tuple[float, int | None]:
        """The share of a modality's tokens to hide, and the patches of a frame if masked by frame.

        A video hides as many patches in every frame (VLSA, 2405.07202).
        """
        _, patches = self.config.grid["video"]
        return self.config.mask_shares[modality], patches if modality == "video" else None

    def hidden_counts(self, inputs: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        """How many tokens of each modality `masked` will hide in all rows, [3]."""
        counts = []
        for m in MODALITIES:
            if m == "text":
                exists = present[m][:, None] & (inputs[m] != PAD_ID)
            else:
                exists = present[m][:, None].expand(-1, math.prod(self.config.grid[m]))
            counts.append(count_hidden(exists, *self.masking(m)).sum())
        return torch.stack(counts).float()

    def decode(self, modality: str, encoded: Tensor, hidden: Hidden) -> Masked:
        """Predict one modality from its encoded visible tokens [B, K, decoder width]."""
        tokens = put_back(encoded, self.mask_token, hidden.order)
        length = tokens.shape[1]
        tokens = tokens + self.decoder_positions[modality][:length]
        bias = key_bias(hidden.exists)
        for block in self.decoder:
            tokens = block(tokens, [(modality, length)], bias)
        predicted = self.fill[modality](self.decoder_norm(tokens, [(modality, length)]))
        return Masked(predicted, hidden.targets, hidden.order.left_out & hidden.exists)


def random_rows(rows: int, width: int) -> nn.Parameter:
    return nn.Parameter(0.02 * torch.randn(rows, width))


def initialise(module: nn.Module) -> None:
    """The first weights of a layer, by chance: Xavier's, He's for convolutions."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)


def spec_augment(images: Tensor, stretches: Tensor) -> Tensor:
    """Set two stretches of time and two of frequency to the mean of the clip.

    SpecAugment (1904.08779) without warping, on spectrograms [B, 1, 1, bins, frames]. A stretch is
    at most a fifth of the bins or an eighth of the frames. `stretches`, uniform [B, 4, 2], says
    where each begins and how long it is.
    """
    mean = images.mean((3, 4), keepdim=True)
    for i, (axis, share) in enumerate(((3, 0.2), (4, 0.125), (3, 0.2), (4, 0.125))):
        size = images.shape[axis]
        where, length = stretches[:, i : i + 1].unbind(2)  # [B, 1]
        start = where * size
        at = torch.arange(size, device=images.device)[None]
        blank = (at >= start) & (at < start + length * share * size)  # [B, size]
        shape = [len(images), 1, 1, 1, 1]
        shape[axis] = size
        images = torch.where(blank.view(shape), mean, images)
    return images
