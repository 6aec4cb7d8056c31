"""VLSA: one transformer for video, audio and text (arXiv 2405.07202).

B batch, T tokens, D width, F frames, N patches in a frame, P values in a patch, E embedding. A
stack of images is [B, F, channels, height, width]; a spectrogram is a stack of one image of one
channel.

The choices of this file:
- Every number is in the graph: uint8 frames, raw samples and token ids go in, unit vectors come
  out.
- Each modality is encoded alone, by the same trunk, for contrast and for serving. The joint pass
  exists for masked modelling only: an embedding pooled from it would have seen its partner.
- LayerNorms are per modality (CAV-MAE), attention and MLP weights are shared.
- Average pooling, no CLS token; a linear projection per modality into the embedding space.
- Stems are linear, as in the paper, or a few strided convolutions, which see a small thing wherever
  in a patch it is; words come from an embedding table or from a frozen language model.
- Masked tokens of every modality are dropped before the trunk (MAE); one decoder, run for each
  modality, fills them in.
"""

from __future__ import annotations

import math
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
MOST_GAIN = 32.0  # by which a quiet window is turned up, 30 dB; silence stays silence
LOG_CENTRE, LOG_SCALE = 7.0, 3.5  # brings log power into about [-2, 2]
MAX_SCALE = 100.0
WORD_SCALE = 10.0  # brings the language model's table of words to the size of its states

Segments = list[tuple[str, int]]  # which modality each stretch of tokens is, and how long


class Norms(nn.Module):
    """LayerNorm per modality, or one for all."""

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


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, heads: int, per_modality: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = Norms(width, per_modality)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = Norms(width, per_modality)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, segments: Segments, bias: Tensor | None) -> Tensor:
        x = x + self.attend(self.norm1(x, segments), bias)
        return x + self.down(F.gelu(self.up(self.norm2(x, segments))))

    def attend(self, x: Tensor, bias: Tensor | None) -> Tensor:
        # [B, heads, T, d]
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out(mixed.transpose(1, 2).flatten(2))  # [B, T, D]


def key_bias(present: Tensor) -> Tensor:
    """present bool [B, T] -> what attention adds so that absent
    tokens are not seen, [B, 1, 1, T].
    """
    return torch.where(present, 0.0, -1e9)[:, None, None, :]


class Spectrogram(nn.Module):
    """waveform [B, samples] -> log power [B, bins, frames]: a windowed DFT, as a convolution, which
    exports cleanly; as an FFT, which is many times faster, while training.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        n, self.hop, self.frames = config.n_fft, config.hop, config.spectrogram_frames
        self.quiet_peak = config.quiet_peak
        hann = torch.hann_window(n, dtype=torch.float64)
        self.window: Tensor
        self.circle: Tensor
        self.filters: Tensor
        self.register_buffer("window", (hann * (2 / hann.sum())).float(), persistent=False)
        turn = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
        self.register_buffer(
            "circle", torch.stack([turn.cos(), -turn.sin()]).float(), persistent=False
        )
        self.register_buffer("filters", filterbank(config), persistent=False)
        self.left = n // 2
        self.right = (self.frames - 1) * self.hop + n - self.left - config.samples

    def kernels(self) -> Tensor:
        """The real rows of the windowed DFT above the imaginary ones, [n + 2, 1, n]: a graph makes
        them of one turn of the circle rather than carry a megabyte of them.
        """
        at = torch.arange(len(self.window), device=self.window.device)
        rows = self.circle[:, at[: len(at) // 2 + 1, None] * at % len(at)]  # [2, n / 2 + 1, n]
        return (rows * self.window).flatten(0, 1)[:, None, :]

    def turned_up(self, waveform: Tensor) -> Tensor:
        """Windows [B, samples] quieter than `quiet_peak`, at that peak: near the floor of the
        logarithm speech at -40 dB, say, is cut to pieces.
        """
        peak = waveform.abs().amax(dim=1, keepdim=True)
        return waveform * (self.quiet_peak / peak.clamp(min=self.quiet_peak / MOST_GAIN)).clamp(
            min=1.0
        )

    def forward(self, waveform: Tensor) -> Tensor:
        if self.quiet_peak:
            waveform = self.turned_up(waveform)
        padded = F.pad(waveform, (self.left, self.right))
        if self.training:
            # [B, frames, n_fft]
            pieces = padded.unfold(1, len(self.window), self.hop) * self.window
            power = torch.view_as_real(torch.fft.rfft(pieces)).square().sum(-1).transpose(1, 2)
        else:
            real, imaginary = F.conv1d(padded[:, None, :], self.kernels(), stride=self.hop).chunk(
                2, dim=1
            )
            power = real.square() + imaginary.square()
        return (torch.log(torch.matmul(self.filters, power) + LOG_FLOOR) + LOG_CENTRE) / LOG_SCALE


def filterbank(config: EncoderConfig) -> Tensor:
    """Triangular filters [bins, n_fft // 2 + 1], evenly spaced in mel or in log frequency; each
    averages its bins.

    Made on the CPU whatever the default device is
    (findings/transformers-linspace-leaves-the-device.sh).
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
    """Images [N, C, H, W] -> [N, tokens, D], a projection of each patch."""

    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        self.project = nn.Linear(channels * patch * patch, width)

    def features(self, images: Tensor) -> Tensor:
        return images

    def forward(self, features: Tensor) -> Tensor:
        return self.project(cut_patches(features[:, None], self.patch))


class ConvolutionStem(nn.Module):
    """Images [N, C, H, W] -> [N, tokens, D]: 3 x 3 convolutions of stride 2, down to a patch (after
    2106.14881).
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
        """[N, D, rows, columns], one column of D a patch."""
        images = images.contiguous(memory_format=torch.channels_last)  # twice as fast on a CPU
        for step in self.steps:
            images = F.relu(step(images))
        return images

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(self.project(features.flatten(2).transpose(1, 2)))


STEMS: dict[str, type[LinearStem | ConvolutionStem]] = {
    "linear": LinearStem,
    "convolution": ConvolutionStem,
}


class MiniLMStem(nn.Module):
    """Token ids and which of them are seen, bool [B, T], -> [B, T, D] by a frozen language model.

    Its states mean what the text means and blur which word says it, so the words themselves are
    added.
    """

    def __init__(self, vocabulary: int, tokens: int, width: int) -> None:
        super().__init__()
        self.model = language.MiniLM(vocabulary, tokens)
        self.states = nn.Linear(language.WIDTH, width)
        self.words = nn.Linear(language.WIDTH, width, bias=False)

    def forward(self, ids: Tensor, seen: Tensor) -> Tensor:
        return self.project(ids, self.model(ids, seen))

    def project(self, ids: Tensor, states: Tensor) -> Tensor:
        return self.states(states) + self.words(self.model.words.rows(ids) * WORD_SCALE)


class EmbeddingStem(nn.Module):
    """Token ids -> [B, T, D], a row of a table each."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, width)

    def forward(self, ids: Tensor, seen: Tensor) -> Tensor:
        return self.table(ids)


def cut_patches(images: Tensor, patch: int) -> Tensor:
    """[B, F, C, H, W] -> patch values [B, T, P]."""
    # [B, F, C, rows, patch, columns, patch]
    x = images.unflatten(4, (-1, patch)).unflatten(3, (-1, patch))
    return x.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(1, 3)


@dataclass
class Masked:
    """What the joint pass predicts for one modality, beside the truth: [B, T, P] (text: logits [B,
    T, vocabulary]).
    """

    predicted: Tensor
    target: Tensor
    masked: Tensor  # bool [B, T]: where the loss counts


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """One modality of the joint pass, sorted into visible and hidden tokens."""

    visible: Tensor  # [B, K, D]: the tokens that the trunk sees
    visible_exists: Tensor  # bool [B, K]: those of them that are not absent
    order: TokenOrder
    exists: Tensor  # bool [B, T]
    targets: Tensor  # as `Masked.target`


class VLSA(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.recompute = False  # the trunk's activations in the backward pass, to save their memory
        self.spectrogram = Spectrogram(c)
        self.values = {
            "video": c.patch * c.patch * 3,
            "audio": c.patch * c.patch,
            "text": c.vocabulary,
        }
        self.stems = nn.ModuleDict(
            {
                "video": STEMS[c.stem](3, c.patch, c.width),
                "audio": STEMS[c.stem](1, c.patch, c.width),
                "text": MiniLMStem(c.vocabulary, c.tokens, c.width)
                if c.text_stem == "minilm"
                else EmbeddingStem(c.vocabulary, c.width),
            }
        )
        rows = {
            f"{m}_{axis}": n
            for m in MODALITIES
            for axis, n in zip(("outer", "inner"), c.grid[m], strict=True)
        }
        self.positions = nn.ParameterDict(
            {k: nn.Parameter(0.02 * torch.randn(n, c.width)) for k, n in rows.items()}
        )
        self.blocks = nn.ModuleList(
            Block(c.width, c.heads, c.modality_norms) for _ in range(c.depth)
        )
        self.norm = Norms(c.width, c.modality_norms)
        self.heads = nn.ModuleDict({m: nn.Linear(c.width, c.dim, bias=False) for m in MODALITIES})
        self.glances = nn.ModuleDict()
        if c.glance:
            bands, _ = c.grid["audio"]
            self.glances["video"] = nn.Linear(2 * c.width, c.dim)
            self.glances["audio"] = nn.Linear((2 + bands) * c.width, c.dim)
            if c.text_stem == "minilm":
                self.glances["text"] = nn.Linear(language.WIDTH, c.dim)
        if c.memory:
            self.memory: Tensor
            self.register_buffer("memory", torch.zeros(c.memory, c.dim))
        self.log_scale = nn.Parameter(torch.tensor(0.0))
        self.match = nn.ModuleDict(
            {pair: nn.Linear(c.dim, 1) for pair in ("audio_video", "audio_text")}
        )
        self.into_decoder = nn.Linear(c.width, c.decoder_width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(c.decoder_width))
        self.decoder_positions = nn.ParameterDict(
            {
                m: nn.Parameter(0.02 * torch.randn(math.prod(c.grid[m]), c.decoder_width))
                for m in MODALITIES
            }
        )
        self.decoder = nn.ModuleList(
            Block(c.decoder_width, c.decoder_heads, c.modality_norms)
            for _ in range(c.decoder_depth)
        )
        self.decoder_norm = Norms(c.decoder_width, c.modality_norms)
        self.fill = nn.ModuleDict(
            {m: nn.Linear(c.decoder_width, self.values[m]) for m in MODALITIES}
        )
        self.apply(self.start)
        # a text begins where its sentence lies; the trunk adds what it learns
        if c.glance and c.text_stem == "minilm":
            glance, head = self.glances["text"], self.heads["text"]
            assert isinstance(glance, nn.Linear) and isinstance(head, nn.Linear)
            nn.init.orthogonal_(glance.weight)
            nn.init.zeros_(head.weight)

    @staticmethod
    def start(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)

    # ------------------------------------------------------------ inputs to tokens

    def images(self, modality: str, x: Tensor) -> Tensor:
        """frames uint8 [B, F, H, W, 3] or waveform [B, samples] -> a stack of images."""
        if modality == "video":
            return (x.float() / 127.5 - 1.0).permute(0, 1, 4, 2, 3)
        return self.spectrogram(x)[:, None, None]

    def tokens(self, modality: str, features: Tensor) -> Tensor:
        """A stem's features of a stack of images -> tokens [B, T, D] with their positions."""
        frames = self.config.frames if modality == "video" else 1
        found = self.stems[modality](features).unflatten(0, (-1, frames)).flatten(1, 2)
        return found + self.table(modality)

    def features(self, modality: str, images: Tensor) -> Tensor:
        """What a stem makes of a stack of images before they are tokens; a linear stem, the images
        themselves.
        """
        stem = self.stems[modality]
        assert isinstance(stem, LinearStem | ConvolutionStem)
        return stem.features(images.flatten(0, 1))

    def glance(self, modality: str, features: Tensor) -> Tensor:
        """What a convolution stem finds at its strongest in each frame, or at each time of a sound,
        as mean and deviation over time, and a sound's peak in each band, in the embedding space [B,
        E]: around the trunk, which is slow to learn where to look and loses a word of 0.4 s among
        the silence.
        """
        if modality == "video":
            peaks = features.amax((2, 3)).unflatten(0, (-1, self.config.frames))  # [B, F, D]
        else:
            peaks = features.amax(2).transpose(1, 2)  # [B, time, D]
        mean = peaks.mean(1)
        parts = [mean, ((peaks - mean[:, None]).square().mean(1) + 1e-6).sqrt()]
        if modality == "audio":
            parts.append(features.amax(3).flatten(1))  # [B, D * bands]
        return self.glances[modality](torch.cat(parts, dim=1))

    def words(self, ids: Tensor, seen: Tensor) -> Tensor:
        """Token ids [B, T] -> tokens [B, T, D]; what is not `seen`, bool [B, T], has no say in the
        others.
        """
        return self.stems["text"](ids, seen) + self.table("text")[: ids.shape[1]]

    def table(self, modality: str) -> Tensor:
        """Position embeddings [T, D], a sum over the two axes of the modality's grid."""
        outer, inner = self.positions[f"{modality}_outer"], self.positions[f"{modality}_inner"]
        return (outer[:, None] + inner[None]).flatten(0, 1)

    def trunk(self, tokens: Tensor, segments: Segments, bias: Tensor | None) -> Tensor:
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, segments, bias, use_reentrant=False)
            else:
                tokens = block(tokens, segments, bias)
        return self.norm(tokens, segments)

    # ------------------------------------------------------------ alone: embeddings

    def embed(
        self, modality: str, x: Tensor, keep: Tensor | None = None, stretches: Tensor | None = None
    ) -> Tensor:
        """Unit vectors [B, E] of one modality seen alone. In training, `keep` int64 [B, K] says
        which tokens are not dropped, `stretches` uniform [B, 4, 2] what of the spectrogram is
        hidden.
        """
        if modality == "text":
            return self.read(x)[0]
        images = self.images(modality, x)
        if stretches is not None:
            images = spec_augment(images, stretches)
        features = self.features(modality, images)
        tokens = self.tokens(modality, features)
        glance = self.glance(modality, features) if self.config.glance else None
        vectors = self.pool(
            modality, tokens if keep is None else take_tokens(tokens, keep), glance=glance
        )
        if modality == "audio" and self.config.memory and not self.training:
            return self.recalled(vectors)
        return vectors

    def recalled(self, vectors: Tensor) -> Tensor:
        """Sounds [B, E] among the captions in memory: the mean of those that each is like, weighted
        by a softmax of the cosines (DeCap's projection, 2303.03032), in which it itself stands for
        a cosine of `memory_floor`. A sound is then as near to other words as its captions are; one
        that is like none of them stays where it is.
        """
        floor = torch.full_like(vectors[:, :1], self.config.memory_floor)
        likeness = torch.cat([vectors @ self.memory.T, floor], dim=1)
        weights = (self.config.memory_scale * likeness).softmax(dim=1)
        return F.normalize(weights[:, :-1] @ self.memory + weights[:, -1:] * vectors, dim=-1)

    @torch.no_grad()
    def remember(self, vectors: Tensor) -> None:
        """Keep the vectors [n, E] of captions, as many as there is room for."""
        self.memory.zero_()
        self.memory[: len(vectors)] = vectors[: len(self.memory)]

    def read(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Token ids [B, T] -> unit vectors [B, E] and, with a language model for a stem, its unit
        sentence vectors (its mean states) [B, 384].
        """
        present = ids != PAD_ID
        stem = self.stems["text"]
        if not isinstance(stem, MiniLMStem):
            return self.pool("text", self.words(ids, present), present), None
        states = stem.model.by_length(ids, present) if self.training else stem.model(ids, present)
        weight = present.unsqueeze(-1).to(states.dtype)
        sentences = F.normalize((states * weight).sum(1), dim=-1)
        tokens = stem.project(ids, states) + self.table("text")[: ids.shape[1]]
        vectors = self.pool(
            "text", tokens, present, self.glances["text"](sentences) if self.config.glance else None
        )
        return vectors, sentences

    def pool(
        self,
        modality: str,
        tokens: Tensor,
        present: Tensor | None = None,
        glance: Tensor | None = None,
    ) -> Tensor:
        """The trunk's output, averaged over the tokens present, in the embedding space: unit
        vectors [B, E].
        """
        bias = None if present is None else key_bias(present)
        return self.project(
            modality, self.trunk(tokens, [(modality, tokens.shape[1])], bias), present, glance
        )

    def project(
        self,
        modality: str,
        out: Tensor,
        present: Tensor | None = None,
        glance: Tensor | None = None,
    ) -> Tensor:
        if present is None:
            pooled = out.mean(1)
        else:
            weight = present.unsqueeze(-1).to(out.dtype)
            pooled = (out * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        vector = self.heads[modality](pooled)
        return F.normalize(vector if glance is None else vector + glance, dim=-1)

    @property
    def scale(self) -> Tensor:
        """The inverse temperature, at most 100."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    # ------------------------------------------------------------ together: masked modelling

    def together(self, inputs: list[tuple[str, Tensor, Tensor]]) -> list[Tensor]:
        """Vectors [B, E] of each input (modality, values, present bool [B]), pooled from one pass
        over all of them.
        """
        tokens, exists = [], []
        for m, x, present in inputs:
            there = (x != PAD_ID) if m == "text" else None
            found = (
                self.tokens(m, self.features(m, self.images(m, x)))
                if there is None
                else self.words(x, there)
            )
            tokens.append(found)
            exists.append(
                present[:, None].expand(found.shape[:2]) & (True if there is None else there)
            )
        segments = [(m, part.shape[1]) for (m, _, _), part in zip(inputs, tokens, strict=True)]
        out = self.trunk(torch.cat(tokens, dim=1), segments, key_bias(torch.cat(exists, dim=1)))
        parts = out.split([length for _, length in segments], dim=1)
        return [
            self.project(m, part, e)
            for (m, _, _), part, e in zip(inputs, parts, exists, strict=True)
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
        encoded = self.into_decoder(self.trunk(tokens, segments, key_bias(exists)))
        pieces = encoded.split([length for _, length in segments], dim=1)
        return {
            m: self.decode(m, piece, part)
            for (m, part), piece in zip(parts.items(), pieces, strict=True)
        }

    def hide(self, modality: str, x: Tensor, present: Tensor, noise: Tensor) -> Hidden:
        """One modality of the joint pass before the trunk: its visible tokens, and its targets."""
        patch = self.config.patch
        if modality == "text":
            targets = x  # [B, T]
            exists = present[:, None] & (x != PAD_ID)
        else:
            images = self.images(modality, x)
            targets = cut_patches(images, patch)  # [B, T, P]
            exists = present[:, None].expand(targets.shape[:2])
        order = sort_tokens(noise[:, : exists.shape[1]], exists, *self.masking(modality))
        if modality == "text":
            tokens = self.words(x, exists & ~order.left_out)
        else:
            shown = blank_patches(images, order.left_out, patch)
            tokens = self.tokens(modality, self.features(modality, shown))
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


def spec_augment(images: Tensor, stretches: Tensor) -> Tensor:
    """Spectrograms [B, 1, 1, bins, frames] with two stretches of time and of frequency each set to
    the clip's mean, at most an eighth of its length and a fifth of its bins (SpecAugment,
    1904.08779, without warping); `stretches` uniform [B, 4, 2] says where and how long.
    """
    mean = images.mean((3, 4), keepdim=True)
    for i, (axis, share) in enumerate(((3, 0.2), (4, 0.125), (3, 0.2), (4, 0.125))):
        size = images.shape[axis]
        mask_noise, length = stretches[:, i : i + 1].unbind(2)  # [B, 1]
        start = mask_noise * size
        at = torch.arange(size, device=images.device)[None]
        hidden = (at >= start) & (at < start + length * share * size)  # [B, size]
        shape = [len(images), 1, 1, 1, 1]
        shape[axis] = size
        images = torch.where(hidden.view(shape), mean, images)
    return images
