"""Starts the trunk from the weights of a published vision transformer: CLIP's image tower or a ViT.

Weights are matched by their names in the safetensors file and by their shapes, so no model library
is needed. Everything else keeps its random initialisation. The log names the weights of both kinds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from media.errors import BadConfig

from .transformer import VLSA, Block, LinearStem, Mlp

# A part of a layer, and its names: in CLIP, and in older and newer releases of ViT.
ROLES = {
    "query": r"self_attn\.q_proj|attention\.attention\.query|attention\.q_proj",
    "key": r"self_attn\.k_proj|attention\.attention\.key|attention\.k_proj",
    "value": r"self_attn\.v_proj|attention\.attention\.value|attention\.v_proj",
    "out": r"self_attn\.out_proj|attention\.output\.dense|attention\.o_proj",
    "up": r"mlp\.fc1|intermediate\.dense",
    "down": r"mlp\.fc2|output\.dense",
    "norm1": r"layer_norm1|layernorm_before",
    "norm2": r"layer_norm2|layernorm_after",
}
LAYER = re.compile(
    r"layers?\.(\d+)\.(?:"
    + "|".join(f"(?P<{role}>{names})" for role, names in ROLES.items())
    + r")\.(weight|bias)$"
)
PATCH = re.compile(r"embeddings\.(?:patch_embedding|patch_embeddings\.projection)\.(weight|bias)$")
POSITIONS = re.compile(r"embeddings\.(?:position_embedding\.weight|position_embeddings)$")
NORM = re.compile(r"(?<!\d\.)(?:post_layernorm|(?:^|\.)layernorm)\.(weight|bias)$")


def fetch_model_folder(source: str) -> Path:
    """The folder of a published model: `source` itself, or fetched from Hugging Face's hub.

    Raises:
        BadConfig: it is no folder, and the hub did not give it.
    """
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    try:
        wanted = ["model.safetensors", "preprocessor_config.json"]
        return Path(snapshot_download(source, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise BadConfig(
            f"{source} is no folder, and cannot be fetched from the hub: {error}"
        ) from error


@torch.no_grad()
def load_pretrained_vit(model: VLSA, source: str, log: Callable[[str], None] = print) -> list[str]:
    """Copy the weights of a published vision transformer into `model` where name and shape fit.

    Returns the names of the weights that were used.

    Raises:
        BadConfig: there are no weights, none fits, or the transformer has another width.
    """
    folder = fetch_model_folder(source)
    if not (folder / "model.safetensors").is_file():
        raise BadConfig(f"{source} has no model.safetensors")
    weights = {
        n: w for n, w in load_file(folder / "model.safetensors").items() if "text_model" not in n
    }
    used = (
        fill_layers(model, weights) + fill_norm(model, weights) + fill_stem(model, weights, folder)
    )
    if not used:
        raise BadConfig(f"{source} has nothing whose name and shape fit this encoder")
    left = sorted(set(weights) - set(used))
    log(f"from {source}: {len(used)} of {len(weights)} weights start the trunk")
    log(f"not used: {', '.join(left) or 'none'}")
    return used


def fill_layers(model: VLSA, weights: dict[str, Tensor]) -> list[str]:
    """Copy attention, MLP and norms of each complete layer into the block at its place.

    The norms of all modalities get the same weights. Returns the names of the weights used.
    """
    layers: dict[int, dict[str, str]] = {}
    for name in weights:
        if found := LAYER.search(name):
            role = next(role for role in ROLES if found[role])
            layers.setdefault(int(found[1]), {})[f"{role}.{found[len(found.groups())]}"] = name
    used: list[str] = []
    for block, (_, names) in zip(model.blocks, sorted(layers.items()), strict=False):
        assert isinstance(block, Block)
        if len(names) < 2 * len(ROLES):
            continue
        part = {key: weights[name] for key, name in names.items()}
        width = len(part["query.weight"])
        expected = block.out.out_features
        if width != expected:
            raise BadConfig(f"its layers are {width} wide, this encoder's {expected}")
        mlp = block.mlp
        if not isinstance(mlp, Mlp):
            raise BadConfig("trunk_from needs a trunk without experts")
        if part["up.weight"].shape != mlp.up.weight.shape:
            continue
        for kind in ("weight", "bias"):
            getattr(block.qkv, kind).copy_(
                torch.cat([part[f"{role}.{kind}"] for role in ("query", "key", "value")])
            )
            layers_by_role = {"out": block.out, "up": mlp.up, "down": mlp.down}
            for role, layer in layers_by_role.items():
                getattr(layer, kind).copy_(part[f"{role}.{kind}"])
            for role in ("norm1", "norm2"):
                fill_norms(getattr(block, role).norms, kind, part[f"{role}.{kind}"])
        used += names.values()
    return used


def fill_norms(norms: nn.ModuleDict, kind: str, weight: Tensor) -> None:
    for norm in norms.values():
        getattr(norm, kind).copy_(weight)


def fill_norm(model: VLSA, weights: dict[str, Tensor]) -> list[str]:
    names = [(name, found[1]) for name in weights if (found := NORM.search(name))]
    for name, kind in names:
        fill_norms(model.norm.norms, kind, weights[name])
    return [name for name, _ in names]


def fill_stem(model: VLSA, weights: dict[str, Tensor], folder: Path) -> list[str]:
    """Copy the projection of patches and their positions, if the stem is linear and the patches
    have the same size. Returns the names of the weights used.

    Published models take pixels as (x - mean) / deviation, ours lie in [-1, 1]. The projection is
    changed so that it gives the same for ours.
    """
    stem = model.stems["video"]
    config = model.config
    names = {found[1]: name for name in weights if (found := PATCH.search(name))}
    if not isinstance(stem, LinearStem) or "weight" not in names:
        return []
    kernel = weights[names["weight"]]  # [D, 3, patch, patch]
    if kernel.shape[2:] != (config.patch, config.patch):
        return []
    about = folder / "preprocessor_config.json"
    told = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
    mean, deviation = (
        torch.tensor(told.get(k, [0.5] * 3))[None, :, None, None]
        for k in ("image_mean", "image_std")
    )
    stem.project.weight.copy_((kernel * 0.5 / deviation).flatten(1))
    bias = (kernel * (0.5 - mean) / deviation).sum((1, 2, 3))
    stem.project.bias.copy_(bias + (weights[names["bias"]] if "bias" in names else 0))
    used = list(names.values())
    for name in weights:
        if POSITIONS.search(name):
            places = weights[name].view(-1, config.width)[1:]  # the first is the class token's
            old = round(len(places) ** 0.5)
            new = config.size // config.patch
            grid = places.view(1, old, old, -1).permute(0, 3, 1, 2)
            grid = (
                F.interpolate(grid, (new, new), mode="bicubic", align_corners=False)
                if old != new
                else grid
            )
            model.positions["video_inner"].copy_(grid.flatten(2)[0].T)
            used.append(name)
    return used
