"""X-CLIP (arXiv 2208.02816): frames are encoded apart, and send each other messages.

In a block of the trunk, when a video is encoded alone, each frame t sends a message. The messages
attend to each other, and then each token sees only its own frame and that frame's message:

    m_t = W mean_k z_tk,  M' = M + MSA(LN(M)),  [z_t, _] = [z_t, m'_t] + MSA(LN([z_t, m'_t]))

After that the message is dropped. The second attention is the block's own, with its norms and
weights. In the paper a message is made of the frame's class token; here (ours) there is none, and
the mean of the frame's tokens takes its place. Frames of which DropToken leaves nothing send none.
The joint pass of masked modelling goes without messages, and sees all tokens, as ever. The paper's
transformer over frames, and prompts that depend on the video, are left out.

The paper's tokens of a frame are a batch of their own. Here attention is one over all tokens of a
video, with a bias, because DropToken leaves frames of different lengths.

B batch, T tokens, F frames, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import EncoderConfig
from ..network.transformer import key_bias, split_heads
from ..settings import Count
from ..training.tables import Rows, TrunkMessages

UNSEEN = -1e9  # added to the logits of what attention does not see


@dataclass(frozen=True, kw_only=True)
class Settings:
    every: Count = 1  # blocks; in the others all tokens see each other


class Messages(nn.Module):
    """Tokens [B, T, D] of videos -> a message of each frame [B, F, D], and who sees what."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.frames, self.patches = config.grid["video"]
        self.heads = config.heads
        self.write = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, places: Tensor | None) -> tuple[Tensor, Tensor]:
        """`places` int64 [B, T] in the grid of a video. The bias is [B, 1, T, T + F]."""
        if places is None:
            places = torch.arange(x.shape[1], device=x.device)[None]
        frame = places // self.patches  # [B, T]
        is_of = frame[..., None] == torch.arange(self.frames, device=x.device)  # [B, T, F]
        shares = is_of.to(x.dtype)
        counts = shares.sum(1)  # [B, F]
        means = shares.transpose(1, 2) @ x / counts.clamp(min=1.0)[..., None]
        messages = self.write(means)
        messages = messages + self.exchange(self.norm(messages), key_bias(counts > 0))
        same_frame = frame[:, :, None] == frame[:, None]  # [B, T, T]
        seen = torch.cat([same_frame, is_of], dim=2)[:, None]
        return messages, torch.where(seen, 0.0, UNSEEN)

    def exchange(self, messages: Tensor, bias: Tensor) -> Tensor:
        """What each message reads in the others, [B, F, D]."""
        q, k, v = split_heads(self.qkv(messages), self.heads)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        read: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return read


def make_messages(config: EncoderConfig, place: int, *, every: int) -> nn.Module | None:
    """The first of each `every` blocks has messages, so that one has however few there are."""
    return None if place % every else Messages(config)


def rows(settings: Settings) -> Rows:
    messages = TrunkMessages(name="messages", make=partial(make_messages, every=settings.every))
    return Rows(messages=(messages,))
