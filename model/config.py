"""Every number of the encoder and its training, by name. `base` is the paper's model (arXiv 2405.07202)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from .inputs.audio import AudioSpec
from .inputs.text import TextSpec
from .inputs.video import VideoSpec
from .inputs.windows import InputSpecs

MODALITIES = ("video", "audio", "text")


class BadConfig(Exception):
    """A configuration with an unknown or missing key, or numbers that do not fit together."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)


@dataclass(frozen=True)
class EncoderConfig:
    """The network. What the paper leaves open is marked (ours)."""

    width: int
    depth: int
    heads: int
    dim: int  # of the embedding; (ours) the paper pools to `width` and does not project
    frames: int
    size: int
    patch: int
    window_s: float
    sample_rate: int
    n_fft: int
    hop: int
    bins: int
    frequency_scale: str  # "mel" or "log"
    tokens: int
    vocabulary: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    modality_norms: bool = True  # (ours, after CAV-MAE) LayerNorms per modality keep separate passes on distribution
    normalise_targets: bool = True  # (ours) the paper predicts raw pixels and raw spectrogram
    mask_video: float = 0.75  # of each frame, independently
    mask_audio: float = 0.75
    mask_text: float = 0.15

    def __post_init__(self) -> None:
        if self.width % self.heads or self.decoder_width % self.decoder_heads:
            raise BadConfig("width must be a multiple of heads")
        if self.size % self.patch or self.bins % self.patch:
            raise BadConfig("size and bins must be multiples of patch")
        if self.frequency_scale not in ("mel", "log"):
            raise BadConfig(f"frequency_scale is 'mel' or 'log', not {self.frequency_scale!r}")

    @property
    def samples(self) -> int:
        return round(self.window_s * self.sample_rate)

    @property
    def spectrogram_frames(self) -> int:
        """Columns of the spectrogram: one a hop, up to a whole number of patches."""
        return -(-self.samples // (self.hop * self.patch)) * self.patch

    @property
    def grid(self) -> dict[str, tuple[int, int]]:
        """Tokens of each modality as (frames, patches a frame), (bands, time), (1, tokens)."""
        side = self.size // self.patch
        return {
            "video": (self.frames, side * side),
            "audio": (self.bins // self.patch, self.spectrogram_frames // self.patch),
            "text": (1, self.tokens),
        }

    @property
    def inputs(self) -> InputSpecs:
        return InputSpecs(
            window_s=self.window_s,
            video=VideoSpec(frames=self.frames, size=self.size),
            audio=AudioSpec(sample_rate=self.sample_rate, samples=self.samples),
            text=TextSpec(tokens=self.tokens),
        )


@dataclass(frozen=True)
class TrainConfig:
    """One training run: the encoder, its data and its schedule."""

    encoder: EncoderConfig
    manifests: tuple[str, ...] = ()  # JSONL files; `world:SPLIT:COUNT` renders that much of the world first
    validation: str = "world:validation:400"
    shares: tuple[float, ...] = ()  # of each batch, one for each manifest; empty: by their sizes
    steps: int = 1000
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.1  # share of the steps
    clip_norm: float = 1.0
    seed: int = 0
    temperature: float = 0.07  # (ours) where the learned one starts; its inverse is kept at most 100
    smoothing: float = 0.05
    drop_tokens: float = 0.5  # of video and audio in the contrastive passes (VATT's DropToken)
    local_weight: float = 1.0
    local_share: float = 1.0  # of each batch that goes through the joint, masked pass
    global_weight: float = 5.0
    video_text: bool = True  # (ours) the paper aligns video and text through audio only
    checkpoint_steps: int = 200
    threads: int = 0  # 0: as many as torch finds

    @classmethod
    def load(cls, name_or_file: str) -> TrainConfig:
        """A preset by name or a JSON file of the same keys.

        Raises:
            BadConfig: no such preset or file, or a key that is unknown or missing.
        """
        if name_or_file in PRESETS:
            return PRESETS[name_or_file]
        path = Path(name_or_file)
        if not path.is_file():
            raise BadConfig(f"{name_or_file} is neither a file nor one of {', '.join(PRESETS)}")
        return cls.from_json(json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        try:
            encoder = EncoderConfig(**values["encoder"])
            rest: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "encoder"
            }
            return cls(encoder=encoder, **rest)
        except (KeyError, TypeError) as error:
            raise BadConfig(str(error)) from error

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


TINY = EncoderConfig(
    width=192,
    depth=5,
    heads=4,
    dim=256,
    frames=8,
    size=64,
    patch=16,
    window_s=5.0,
    sample_rate=16_000,
    n_fft=512,
    hop=160,
    bins=64,
    frequency_scale="mel",
    tokens=32,
    vocabulary=1024,
    decoder_width=96,
    decoder_depth=2,
    decoder_heads=3,
)
SMALL = replace(
    TINY,
    width=384,
    depth=12,
    heads=6,
    size=112,
    bins=128,
    vocabulary=8192,
    tokens=40,
    decoder_width=192,
    decoder_depth=4,
)
BASE = EncoderConfig(
    width=768,
    depth=12,
    heads=12,
    dim=768,
    frames=8,
    size=224,
    patch=16,
    window_s=65_536 / 11_025,
    sample_rate=11_025,
    n_fft=1022,
    hop=256,
    bins=256,
    frequency_scale="log",
    tokens=40,
    vocabulary=30_522,
    decoder_width=512,
    decoder_depth=8,
    decoder_heads=16,
    modality_norms=False,
    normalise_targets=False,
)
SMOKE = replace(
    TINY,
    width=32,
    depth=1,
    heads=2,
    dim=16,
    frames=2,
    size=32,
    sample_rate=8000,
    n_fft=256,
    bins=32,
    decoder_width=16,
    decoder_depth=1,
    decoder_heads=2,
)


def preset(encoder: EncoderConfig, **changes: Any) -> TrainConfig:
    return replace(TrainConfig(encoder=encoder, manifests=("world:train:12000",)), **changes)


PRESETS: dict[str, TrainConfig] = {
    "smoke": preset(SMOKE, manifests=("world:train:64",), validation="world:validation:16", steps=20, batch=16),
    "demo": preset(TINY, manifests=("world:train:1500",), validation="world:validation:100", steps=300, batch=48),
    "tiny": preset(TINY, steps=2400, local_share=0.25),
    # bundles/default: the world, with real sounds prepared by `make sources`; see docs/experiments.md.
    "default": preset(
        TINY,
        manifests=("world:train:12000", "runs/sources/esc10-train.jsonl", "runs/sources/digits-train.jsonl"),
        shares=(0.78, 0.15, 0.07),
        steps=2000,
        batch=48,
        warmup=0.04,
        local_share=0.15,
        checkpoint_steps=125,
    ),
    "small": preset(SMALL, steps=20_000, batch=256, learning_rate=5e-4),
    "base": preset(
        BASE,
        steps=200_000,
        batch=2048,
        learning_rate=1e-4,
        weight_decay=0.01,
        smoothing=0.0,
        drop_tokens=0.0,
        video_text=False,
    ),
}
