"""VLSA: one transformer for video, audio and text (arXiv 2405.07202).

B batch, T tokens, D width, F frames, N patches in a frame, P values in a patch, E embedding.

The choices of this file:
- Every number is in the graph: uint8 frames, raw samples and token ids go in, unit vectors come out.
- Each modality is encoded alone, by the same trunk, for contrast and for serving. The joint pass exists for masked
  modelling only: an embedding pooled from it would have seen its partner.
- LayerNorms are per modality (CAV-MAE), attention and MLP weights are shared.
- Average pooling, no CLS token; a linear projection per modality into the embedding space.
- Masked tokens of every modality are dropped before the trunk (MAE); one decoder, run for each modality, fills them in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import MODALITIES, EncoderConfig
from .inputs.text import PAD_ID

LOG_FLOOR = 1e-6  # power below which there is silence; a full-scale sine has power 1
LOG_CENTRE, LOG_SCALE = 7.0, 3.5  # brings log power into about [-2, 2]
MAX_SCALE = 100.0

Segments = list[tuple[str, int]]  # which modality each stretch of tokens is, and how long


class Norms(nn.Module):
    """LayerNorm per modality, or one for all."""

    def __init__(self, width: int, per_modality: bool) -> None:
        super().__init__()
        self.names = {m: m if per_modality else "all" for m in MODALITIES}
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width) for name in sorted(set(self.names.values()))})

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        if len(segments) == 1:
            return self.norms[self.names[segments[0][0]]](x)
        parts = x.split([length for _, length in segments], dim=1)
        normed = [self.norms[self.names[m]](part) for (m, _), part in zip(segments, parts, strict=True)]
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
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # [B, heads, T, d]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out(mixed.transpose(1, 2).flatten(2))  # [B, T, D]


def key_bias(present: Tensor) -> Tensor:
    """present bool [B, T] -> what attention adds so that absent tokens are not seen, [B, 1, 1, T]."""
    return torch.where(present, 0.0, -1e9)[:, None, None, :]


class Spectrogram(nn.Module):
    """waveform [B, samples] -> log power [B, bins, frames], a windowed DFT as a convolution."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        n, self.hop, self.frames = config.n_fft, config.hop, config.spectrogram_frames
        window = torch.hann_window(n, dtype=torch.float64)
        angle = 2 * math.pi * torch.outer(torch.arange(n // 2 + 1, dtype=torch.float64), torch.arange(n)) / n
        kernels = torch.cat([torch.cos(angle), -torch.sin(angle)]) * window * (2 / window.sum())
        self.kernels: Tensor
        self.filters: Tensor
        self.register_buffer("kernels", kernels.float()[:, None, :], persistent=False)
        self.register_buffer("filters", filterbank(config), persistent=False)
        self.left = n // 2
        self.right = (self.frames - 1) * self.hop + n - self.left - config.samples

    def forward(self, waveform: Tensor) -> Tensor:
        padded = F.pad(waveform, (self.left, self.right))[:, None, :]
        real, imaginary = F.conv1d(padded, self.kernels, stride=self.hop).chunk(2, dim=1)
        power = torch.matmul(self.filters, real.square() + imaginary.square())
        return (torch.log(power + LOG_FLOOR) + LOG_CENTRE) / LOG_SCALE


def filterbank(config: EncoderConfig) -> Tensor:
    """Triangular filters [bins, n_fft // 2 + 1], evenly spaced in mel or in log frequency; each averages its bins."""
    nyquist = config.sample_rate / 2
    hz = torch.linspace(0, nyquist, config.n_fft // 2 + 1, dtype=torch.float64)
    if config.frequency_scale == "mel":  # O'Shaughnessy's formula
        top = 2595 * math.log10(1 + nyquist / 700)
        edges = 700 * (10 ** (torch.linspace(0, top, config.bins + 2, dtype=torch.float64) / 2595) - 1)
    else:
        edges = torch.logspace(math.log10(40), math.log10(nyquist), config.bins + 2, dtype=torch.float64)
    step = hz[1]
    low = torch.minimum(edges[:-2], edges[1:-1] - step)  # no filter narrower than the DFT resolves
    high = torch.maximum(edges[2:], edges[1:-1] + step)
    rise = (hz[None] - low[:, None]) / (edges[1:-1] - low)[:, None]
    fall = (high[:, None] - hz[None]) / (high - edges[1:-1])[:, None]
    weights = torch.minimum(rise, fall).clamp(min=0)
    return (weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-9)).float()


@dataclass
class Masked:
    """What the joint pass predicts for one modality, beside the truth: [B, T, P] (text: logits [B, T, vocabulary])."""

    predicted: Tensor
    target: Tensor
    masked: Tensor  # bool [B, T]: where the loss counts


class VLSA(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.spectrogram = Spectrogram(c)
        self.values = {"video": c.patch * c.patch * 3, "audio": c.patch * c.patch, "text": c.vocabulary}
        self.stems = nn.ModuleDict(
            {
                "video": nn.Linear(self.values["video"], c.width),
                "audio": nn.Linear(self.values["audio"], c.width),
                "text": nn.Embedding(c.vocabulary, c.width),
            }
        )
        rows = {f"{m}_{axis}": n for m in MODALITIES for axis, n in zip(("outer", "inner"), c.grid[m], strict=True)}
        self.positions = nn.ParameterDict({k: nn.Parameter(0.02 * torch.randn(n, c.width)) for k, n in rows.items()})
        self.blocks = nn.ModuleList(Block(c.width, c.heads, c.modality_norms) for _ in range(c.depth))
        self.norm = Norms(c.width, c.modality_norms)
        self.heads = nn.ModuleDict({m: nn.Linear(c.width, c.dim, bias=False) for m in MODALITIES})
        self.log_scale = nn.Parameter(torch.tensor(0.0))
        self.match = nn.ModuleDict({pair: nn.Linear(c.dim, 1) for pair in ("audio_video", "audio_text")})
        self.into_decoder = nn.Linear(c.width, c.decoder_width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(c.decoder_width))
        self.decoder_positions = nn.ParameterDict(
            {m: nn.Parameter(0.02 * torch.randn(math.prod(c.grid[m]), c.decoder_width)) for m in MODALITIES}
        )
        self.decoder = nn.ModuleList(
            Block(c.decoder_width, c.decoder_heads, c.modality_norms) for _ in range(c.decoder_depth)
        )
        self.decoder_norm = Norms(c.decoder_width, c.modality_norms)
        self.fill = nn.ModuleDict({m: nn.Linear(c.decoder_width, self.values[m]) for m in MODALITIES})
        self.apply(self.start)

    @staticmethod
    def start(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)

    # ------------------------------------------------------------ inputs to tokens

    def patches(self, modality: str, x: Tensor) -> Tensor:
        """frames uint8 [B, F, H, W, 3] or waveform [B, samples] -> patch values [B, T, P]."""
        p = self.config.patch
        if modality == "video":
            x = x.float() / 127.5 - 1.0
            x = x.unflatten(3, (-1, p)).unflatten(2, (-1, p))  # [B, F, rows, p, columns, p, 3]
            return x.permute(0, 1, 2, 4, 3, 5, 6).flatten(4).flatten(1, 3)
        x = self.spectrogram(x).unflatten(2, (-1, p)).unflatten(1, (-1, p))  # [B, bands, p, time, p]
        return x.permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)

    def place(self, modality: str, tokens: Tensor) -> Tensor:
        """Tokens [B, T, D] with their positions added; text may be shorter than its grid."""
        outer, inner = self.positions[f"{modality}_outer"], self.positions[f"{modality}_inner"]
        table = (outer[:, None] + inner[None]).flatten(0, 1)
        return tokens + (table[: tokens.shape[1]] if modality == "text" else table)

    def tokens(self, modality: str, x: Tensor) -> Tensor:
        values = x if modality == "text" else self.patches(modality, x)
        return self.place(modality, self.stems[modality](values))

    def trunk(self, tokens: Tensor, segments: Segments, bias: Tensor | None) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens, segments, bias)
        return self.norm(tokens, segments)

    # ------------------------------------------------------------ alone: embeddings

    def embed(self, modality: str, x: Tensor, drop: float = 0.0) -> Tensor:
        """Unit vectors [B, E] of one modality seen alone. `drop` is the share of video or audio tokens left out."""
        tokens = self.tokens(modality, x)
        if modality == "text":
            present = x != PAD_ID
            out = self.trunk(tokens, [(modality, tokens.shape[1])], key_bias(present))
            weight = present.unsqueeze(-1).to(out.dtype)
            pooled = (out * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        else:
            if drop > 0:
                kept = round(tokens.shape[1] * (1 - drop))
                order = torch.rand(tokens.shape[:2], device=tokens.device).argsort(1)[:, :kept]
                tokens = take(tokens, order)
            pooled = self.trunk(tokens, [(modality, tokens.shape[1])], None).mean(1)
        return F.normalize(self.heads[modality](pooled), dim=-1)

    @property
    def scale(self) -> Tensor:
        """The inverse temperature, at most 100."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    # ------------------------------------------------------------ together: masked modelling

    def masked(self, inputs: dict[str, Tensor], present: dict[str, Tensor]) -> dict[str, Masked]:
        """The joint pass. `present` bool [B] says which rows have the modality at all; only seen tokens enter."""
        seen, bias, segments, orders = [], [], [], {}
        values = {m: x if m == "text" else self.patches(m, x) for m, x in inputs.items()}
        exists = {m: present[m][:, None].expand(v.shape[:2]) for m, v in values.items()}
        exists["text"] = exists["text"] & (inputs["text"] != PAD_ID)
        for m, v in values.items():
            order, kept = self.mask(m, exists[m])
            orders[m] = (order, kept)
            tokens = take(self.place(m, self.stems[m](v)), order[:, :kept])
            seen.append(tokens)
            bias.append(exists[m].gather(1, order[:, :kept]))
            segments.append((m, kept))
        out = self.trunk(torch.cat(seen, dim=1), segments, key_bias(torch.cat(bias, dim=1)))
        parts = self.into_decoder(out).split([kept for _, kept in segments], dim=1)
        return {
            m: self.filled(m, part, *orders[m], values[m], exists[m])
            for (m, _), part in zip(segments, parts, strict=True)
        }

    def mask(self, modality: str, exists: Tensor) -> tuple[Tensor, int]:
        """A random order of the tokens [B, T], those to be seen first, and how many are; video frame by frame."""
        c = self.config
        share = {"video": c.mask_video, "audio": c.mask_audio, "text": c.mask_text}[modality]
        luck = torch.rand(exists.shape, device=exists.device)
        if modality == "video":
            frames, patches = c.grid["video"]
            kept = round(patches * (1 - share))
            rank = luck.unflatten(1, (frames, patches)).argsort(2).argsort(2)  # [B, F, N]
            hidden = (rank >= kept).flatten(1)
            return (hidden + luck).argsort(1), frames * kept
        count = exists.sum(1, keepdim=True)
        rank = (luck + (~exists).float()).argsort(1).argsort(1)  # among the tokens that exist, by luck
        hidden = exists & (rank >= count - (count * share).round())
        order = (luck + (~exists).float() + 2 * hidden.float()).argsort(1)  # seen, then padding, then hidden
        return order, exists.shape[1] - round(exists.shape[1] * share)

    def filled(self, m: str, seen: Tensor, order: Tensor, kept: int, values: Tensor, exists: Tensor) -> Masked:
        """Decode one modality: mask tokens where nothing was seen, positions, blocks, values."""
        batch, length = order.shape
        blank = self.mask_token.expand(batch, length - kept, -1)
        back = order.argsort(1)
        tokens = take(torch.cat([seen, blank], dim=1), back) + self.decoder_positions[m][:length]
        bias = key_bias(exists)
        for block in self.decoder:
            tokens = block(tokens, [(m, length)], bias)
        predicted = self.fill[m](self.decoder_norm(tokens, [(m, length)]))
        return Masked(predicted, values, (back >= kept) & exists)


def take(tokens: Tensor, order: Tensor) -> Tensor:
    """tokens [B, T, D] at order [B, K] -> [B, K, D]."""
    return tokens.gather(1, order.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
