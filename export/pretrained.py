"""Published encoders as bundles: transformers' own modules, with the numeric part of their
processors in the graph.

Other preparation stays outside, as for every bundle: frames are chosen, scaled and cropped, sound
is resampled, text becomes token ids. A model named by its id is fetched from Hugging Face's hub; a
local folder is read without network access.

BadPretrained
├── CannotFetch            no such model, or no connection to the hub
└── UnknownFamily          a model of an unknown family, or one that cannot be traced
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from media.audio import AudioSpec
from media.text import TextSpec
from media.video import VideoSpec
from media.windows import InputSpecs

from .bundle import (
    TOKENIZER,
    Bundle,
    Space,
    Tokenizer,
    draft_manifest,
    parse_modality,
    write_bundle,
)
from .to_onnx import compute_golden_vectors, trace_graph, write_graphs

WINDOW_S = 10.0  # seconds, of encoders of single pictures, which define no window
FRAMES = 8  # of a window, for the same encoders
# as PIL numbers them
INTERPOLATIONS = {0: "point", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "area", 5: "area"}
MAX_TEXT_TOKENS = 512


class BadPretrained(Exception):
    """A published encoder that cannot become a bundle."""


class CannotFetch(BadPretrained):
    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name} cannot be loaded: {problem}")
        self.name = name


class UnknownFamily(BadPretrained):
    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name} is {problem}; known families: {', '.join(FAMILIES)}")
        self.name = name


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published encoder, ready to be traced: a network for each encoding, from raw inputs to unit
    vectors.
    """

    name: str
    towers: dict[str, nn.Module]  # encoding -> network
    spaces: dict[str, dict[str, str]]  # space -> modality -> encoding
    text: TextSpec
    tokenizer: Any
    video: VideoSpec | None = None
    audio: AudioSpec | None = None
    window_s: float | None = None


class Pictures(nn.Module):
    """frames uint8 [B, F, H, W, 3] -> unit vectors [B, E]: each frame's vector, and their mean
    direction.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        self.model = model
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer(
            "mean", 255 * torch.tensor(processor.image_mean)[:, None, None], persistent=False
        )
        self.register_buffer(
            "deviation", 255 * torch.tensor(processor.image_std)[:, None, None], persistent=False
        )

    def pixels(self, frames: Tensor) -> Tensor:
        """[B, F, H, W, 3] -> [B, F, 3, H, W], as the model was trained to see them."""
        return (frames.float().permute(0, 1, 4, 2, 3) - self.mean) / self.deviation

    def forward(self, frames: Tensor) -> Tensor:
        found = self.model.get_image_features(self.pixels(frames).flatten(0, 1)).pooler_output
        each = F.normalize(found, dim=-1).view(-1, frames.shape[1], found.shape[-1])
        return F.normalize(each.mean(1), dim=-1)


class Scenes(Pictures):
    """The same for a model that looks at all frames at once (X-CLIP)."""

    def forward(self, frames: Tensor) -> Tensor:
        return F.normalize(self.model.get_video_features(self.pixels(frames)).pooler_output, dim=-1)


class Words(nn.Module):
    """tokens int64 [B, T] -> unit vectors [B, E]; `pad_id` says what is no token, if the model
    needs to be told.
    """

    def __init__(self, model: Any, pad_id: int | None) -> None:
        super().__init__()
        self.model = model
        self.pad_id = pad_id

    def forward(self, tokens: Tensor) -> Tensor:
        seen = None if self.pad_id is None else (tokens != self.pad_id).long()
        return F.normalize(
            self.model.get_text_features(tokens, attention_mask=seen).pooler_output, dim=-1
        )


class Sound(nn.Module):
    """waveform [B, samples] -> unit vectors [B, E], by CLAP, with its spectrogram: log power in
    decibels over a mel scale, of a centred, reflected signal under a periodic Hann window.
    """

    def __init__(self, model: Any, extractor: Any) -> None:
        super().__init__()
        self.model = model
        encoder = model.audio_model.audio_encoder
        # for sounds longer than a window: none is
        encoder.enable_fusion = encoder.patch_embed.enable_fusion = False
        self.n = extractor.fft_window_size
        self.hop = extractor.hop_length
        self.kernels: Tensor
        self.filters: Tensor
        turn = 2 * torch.pi * torch.arange(self.n, dtype=torch.float64) / self.n
        hann = 0.5 - 0.5 * turn.cos()
        rows = torch.outer(torch.arange(self.n // 2 + 1), torch.arange(self.n)) % self.n
        kernels = torch.cat([turn.cos()[rows], -turn.sin()[rows]]) * hann
        filters = (
            extractor.mel_filters
            if extractor.truncation == "fusion"
            else extractor.mel_filters_slaney
        )
        self.register_buffer("kernels", kernels.float()[:, None, :], persistent=False)
        self.register_buffer(
            "filters", torch.from_numpy(np.asarray(filters, np.float32)).T, persistent=False
        )

    def forward(self, waveform: Tensor) -> Tensor:
        padded = F.pad(waveform[:, None], (self.n // 2, self.n // 2), mode="reflect")
        real, imaginary = F.conv1d(padded, self.kernels, stride=self.hop).chunk(2, dim=1)
        power = torch.matmul(self.filters, real.square() + imaginary.square())  # [B, mels, frames]
        decibels = 10 * torch.log10(power.clamp(min=1e-10)).transpose(1, 2)[:, None]
        return F.normalize(self.model.get_audio_features(decibels).pooler_output, dim=-1)


class PEVideo(Pictures):
    """frames -> unit vectors, by PE-AV. Windows are whole: no padding, and none of its loops over
    samples.
    """

    def forward(self, frames: Tensor) -> Tensor:
        model = self.model.video_model
        return F.normalize(
            model.video_head(model.video_encoder(self.pixels(frames)).pooler_output), dim=-1
        )


class PEAudio(nn.Module):
    """waveform -> unit vectors, by PE-AV."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model.audio_model

    def forward(self, waveform: Tensor) -> Tensor:
        return F.normalize(
            self.model.audio_head(self.model.audio_encoder(waveform[:, None]).pooler_output), dim=-1
        )


class PEWords(nn.Module):
    """tokens -> unit vectors, by PE-AV's text model (its last layer's first state) and the head of
    one space.
    """

    def __init__(self, model: Any, head: nn.Module, pad_id: int) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.pad_id = pad_id

    def forward(self, tokens: Tensor) -> Tensor:
        seen = (tokens != self.pad_id).long()
        states = self.model(
            input_ids=tokens, attention_mask=seen, output_hidden_states=True
        ).hidden_states
        return F.normalize(self.head(states[-1][:, 0]), dim=-1)


# ---------------------------------------------------------------- families


def adapt_picture_model(
    name: str, place: str, model: Any, tower: type[Pictures] = Pictures
) -> Published:
    """CLIP, SigLIP and SigLIP 2 of fixed resolution; X-CLIP, whose words are encoded without a
    video's prompt.
    """
    from transformers import AutoImageProcessor

    processor: Any = AutoImageProcessor.from_pretrained(place)
    config = model.config
    size = find_square_size(processor)
    if size != config.vision_config.image_size:
        raise UnknownFamily(
            name, f"prepared at {size} pixels for a network of {config.vision_config.image_size}"
        )
    tokenizer = load_tokenizer(place, lowercase=config.model_type == "siglip")
    video = VideoSpec(
        frames=getattr(config.vision_config, "num_frames", None) or FRAMES,
        size=config.vision_config.image_size,
        fit="crop" if processor.do_center_crop else "squash",
        interpolation=INTERPOLATIONS[int(processor.resample)],
    )
    whole = config.model_type == "siglip"  # trained on texts padded to one length, without a mask
    return Published(
        name=name,
        # CLIP's attention is causal: no mask
        towers={"video": tower(model, processor), "text": Words(model, None)},
        spaces={config.model_type: {"text": "text", "video": "video"}},
        text=TextSpec(
            min(config.text_config.max_position_embeddings, MAX_TEXT_TOKENS),
            tokenizer.pad_token_id,
            whole,
        ),
        tokenizer=tokenizer,
        video=video,
    )


def adapt_sound_model(name: str, place: str, model: Any) -> Published:
    """CLAP."""
    from transformers import AutoFeatureExtractor

    extractor: Any = AutoFeatureExtractor.from_pretrained(place)
    tokenizer = load_tokenizer(place)
    config = model.config.text_config
    # RoBERTa counts from behind its padding
    positions = config.max_position_embeddings - config.pad_token_id - 1
    return Published(
        name=name,
        towers={"audio": Sound(model, extractor), "text": Words(model, tokenizer.pad_token_id)},
        spaces={"clap": {"text": "text", "audio": "audio"}},
        text=TextSpec(
            min(positions, tokenizer.model_max_length, MAX_TEXT_TOKENS), tokenizer.pad_token_id
        ),
        tokenizer=tokenizer,
        audio=AudioSpec(extractor.sampling_rate, extractor.nb_max_samples, fill="repeat"),
        window_s=extractor.nb_max_samples / extractor.sampling_rate,
    )


def adapt_joint_model(name: str, place: str, model: Any) -> Published:
    """PE-AV: pictures and sounds compare with each other, and words with each of them in a space of
    its own.
    """
    from transformers import AutoFeatureExtractor

    extractor: Any = AutoFeatureExtractor.from_pretrained(place)
    processor = video_processor(name, place)
    tokenizer = load_tokenizer(place)
    pad_id = tokenizer.pad_token_id
    size = processor.size
    video = VideoSpec(
        frames=getattr(processor, "num_frames", None) or FRAMES,
        size=int(size.get("height") or size.get("shortest_edge")),
        fit="crop" if processor.do_center_crop else "squash",
        interpolation=INTERPOLATIONS[int(processor.resample)],
    )
    hops = round(WINDOW_S * extractor.sampling_rate / extractor.hop_length)
    audio = AudioSpec(extractor.sampling_rate, hops * extractor.hop_length, fill="repeat")
    return Published(
        name=name,
        towers={
            "video": PEVideo(model, processor),
            "audio": PEAudio(model),
            "text@video": PEWords(model.text_model, model.video_model.text_video_head, pad_id),
            "text@audio": PEWords(model.text_model, model.audio_model.text_audio_head, pad_id),
        },
        spaces={
            "video": {"text": "text@video", "video": "video"},
            "audio": {"text": "text@audio", "audio": "audio"},
            "audio-video": {"audio": "audio", "video": "video"},
        },
        text=TextSpec(min(tokenizer.model_max_length, MAX_TEXT_TOKENS), pad_id),
        tokenizer=tokenizer,
        video=video,
        audio=audio,
        window_s=audio.samples / audio.sample_rate,
    )


def find_square_size(processor: Any) -> int:
    """The side of the square that an image processor makes, where it scales to just that before it
    crops.
    """
    size = dict(processor.size)
    crop = dict(processor.crop_size or {}) if processor.do_center_crop else {}
    found = {int(v) for v in (*size.values(), *crop.values())}
    return found.pop() if len(found) == 1 else -1


def load_tokenizer(place: str, lowercase: bool = False) -> Any:
    """A model's tokenizer from its tokenizer.json, whatever class its publisher wrapped it in.

    SigLIP's text towers were trained on lower case, which its publishers' classes do, and their
    files not always.
    """
    from tokenizers import normalizers
    from transformers import PreTrainedTokenizerFast

    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(place)
    if lowercase:
        before = tokenizer.backend_tokenizer.normalizer
        steps = [normalizers.Lowercase(), *([before] if before else [])]
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(steps)
    return tokenizer


def video_processor(name: str, place: str) -> SimpleNamespace:
    """What a video processor was saved with; the library's own
    class wants torchvision to be made.
    """
    from transformers.utils.hub import cached_file

    for file, part in (
        ("processor_config.json", "video_processor"),
        ("video_preprocessor_config.json", ""),
    ):
        found = cached_file(place, file, _raise_exceptions_for_missing_entries=False)
        values = json.loads(Path(found).read_text(encoding="utf-8")) if found else {}
        values = values.get(part, {}) if part else values
        if values:
            told = {
                "resample": 2,
                "do_center_crop": False,
                "image_mean": [0.5] * 3,
                "image_std": [0.5] * 3,
            }
            return SimpleNamespace(**told | {k: v for k, v in values.items() if v is not None})
    raise UnknownFamily(name, "a pe_audio_video without its video processor's settings")


def adapt_scene_model(name: str, place: str, model: Any) -> Published:
    return adapt_picture_model(name, place, model, Scenes)


FAMILIES: dict[str, Callable[[str, str, Any], Published]] = {
    "clip": adapt_picture_model,
    "siglip": adapt_picture_model,
    "xclip": adapt_scene_model,
    "clap": adapt_sound_model,
    "pe_audio_video": adapt_joint_model,
}


def load_published(name: str, folder: Path | None) -> Published:
    """A published encoder by its hub id, or from a local folder.

    Raises:
        CannotFetch, UnknownFamily: see above.
    """
    from transformers import AutoConfig, AutoModel

    place = str(folder or name)
    try:
        family = AutoConfig.from_pretrained(place).model_type
        if family not in FAMILIES:
            raise UnknownFamily(name, f"a {family}")
        model: Any = AutoModel.from_pretrained(
            place, attn_implementation="eager", dtype=torch.float32
        ).eval()
        return FAMILIES[family](name, place, model)
    except ImportError as error:  # a package that this model alone needs
        raise CannotFetch(name, " ".join(str(error).split())) from error
    # the network, the name, the folder: what the library makes of them
    except (OSError, ValueError) as error:
        raise CannotFetch(name, str(error).strip().partition("\n")[0]) from error


# ---------------------------------------------------------------- to a bundle


def import_pretrained(names: list[str], out: Path, folders: list[Path] | None = None) -> Bundle:
    """Write the bundle of a published encoder; or of a pair of them side by side, words encoded for
    each.

    Raises:
        BadPretrained: see above; nothing is written.
    """
    places: list[Path | None] = list(folders) if folders else [None] * len(names)
    parts = [load_published(name, folder) for name, folder in zip(names, places, strict=True)]
    cards = [read_model_card(name, folder) for name, folder in zip(names, places, strict=True)]
    return write_published_bundle(parts, cards, out)


def write_published_bundle(
    parts: list[Published], cards: list[dict[str, Any]], out: Path
) -> Bundle:
    """Trace and write published encoders that are loaded. Raises UnknownFamily where two encode the
    same modality.
    """
    if len(parts) > 1:
        parts = [rename_text_encoding(part) for part in parts]
    for a, b in combinations(parts, 2):
        if both := [e for e in a.towers if e in b.towers]:
            raise UnknownFamily(b.name, f"another encoder of {both[0]} besides {a.name}")
    inputs = InputSpecs(
        next((p.window_s for p in parts if p.window_s), WINDOW_S),
        next((p.video for p in parts if p.video), None),
        next((p.audio for p in parts if p.audio), None),
    )
    protos: dict[str, Any] = {}
    for part in parts:
        for encoding, tower in part.towers.items():
            spec = inputs.recorded().get(parse_modality(encoding), part.text)
            protos[encoding] = trace_graph(tower, encoding, spec)
    widths = {
        e: proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value
        for e, proto in protos.items()
    }
    spaces = {
        n: Space(widths[next(iter(es.values()))], es)
        for part in parts
        for n, es in part.spaces.items()
    }
    files = {
        f"tokenizer-{i}.json" if len(parts) > 1 else TOKENIZER: part for i, part in enumerate(parts)
    }

    def fill(staging: Path) -> None:
        write_graphs(protos, staging)
        for file, part in files.items():
            part.tokenizer.backend_tokenizer.save(str(staging / file))

    plan = draft_manifest(
        "+".join(part.name.rsplit("/", 1)[-1] for part in parts),
        inputs,
        spaces,
        {
            e: Tokenizer(file, p.text)
            for file, p in files.items()
            for e in p.towers
            if parse_modality(e) == "text"
        },
        {"published": cards},
    )
    return write_bundle(out, plan, fill, compute_golden_vectors)


def rename_text_encoding(part: Published) -> Published:
    """The same with the words of its only space named after it."""
    if len(part.spaces) > 1:
        raise UnknownFamily(part.name, "of several spaces already: it stands alone")
    (space,) = part.spaces
    name = {e: e if parse_modality(e) != "text" else f"text@{space}" for e in part.towers}
    towers = {name[e]: tower for e, tower in part.towers.items()}
    return replace(
        part, towers=towers, spaces={space: {m: name[e] for m, e in part.spaces[space].items()}}
    )


def read_model_card(name: str, folder: Path | None) -> dict[str, Any]:
    """Source and licence of a published encoder, and whether that allows commercial use, as far as
    its card tells.
    """
    from huggingface_hub import ModelCard
    from huggingface_hub.errors import HfHubHTTPError

    place = folder or (Path(name) if Path(name).is_dir() else None)
    stated = None
    with suppress(OSError, ValueError, HfHubHTTPError):
        stated = ModelCard.load(place / "README.md" if place else name).data.get("license")
    licence = ", ".join(stated) if isinstance(stated, list) else stated
    free = not re.search(r"\bnc\b|non-?commercial", licence) if licence else None
    return {
        "source": Path(name).name if place and not folder else name,
        "licence": licence,
        "commercial": free,
    }
