"""Every number of the encoder and its training, by name. `base` is the paper's model (arXiv
2405.07202).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from media.audio import AudioSpec
from media.errors import BadConfig
from media.text import TextSpec
from media.video import VideoSpec
from media.windows import InputSpecs

CHOICES = {
    "frequency_scale": ("mel", "log"),
    "stem": ("linear", "convolution"),
    "tokenizer": ("learned", "bert"),
    "text_stem": ("embedding", "minilm"),
}


def check_choices(config: Any, choices: Mapping[str, tuple[str, ...]]) -> None:
    for key, known in choices.items():
        if getattr(config, key) not in known:
            raise BadConfig(f"{key} is one of {', '.join(known)}, not {getattr(config, key)!r}")


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
    # the paper's; (ours) "convolution" finds small things wherever in a patch they are
    stem: str = "linear"
    # (ours) the convolutions' peaks, and a sentence, also reach the embedding around the trunk
    glance: bool = False
    # from the captions (ours), or the paper's "bert", the `vocabulary` most useful entries
    tokenizer: str = "learned"
    # the paper's; (ours) "minilm" starts from the states of a frozen language model
    text_stem: str = "embedding"
    # (ours, after 2303.03032) captions of sounds that a sound is moved to, where it is like them
    memory: int = 0
    memory_scale: float = 40.0  # how sharply it is told which ones,
    memory_floor: float = 0.55  # and the cosine below which it rather stays where it is
    # (ours) windows quieter than this peak are turned up to it, before the spectrogram
    quiet_peak: float = 0.0
    # (ours, after CAV-MAE) LayerNorms per modality keep separate passes on distribution
    modality_norms: bool = True
    normalise_targets: bool = True  # (ours) the paper predicts raw pixels and raw spectrogram
    mask_video: float = 0.75  # of each frame, independently
    mask_audio: float = 0.75
    mask_text: float = 0.15

    def __post_init__(self) -> None:
        if self.width % self.heads or self.decoder_width % self.decoder_heads:
            raise BadConfig("width must be a multiple of heads")
        if self.size % self.patch or self.bins % self.patch:
            raise BadConfig("size and bins must be multiples of patch")
        if self.stem == "convolution" and self.patch & (self.patch - 1):
            raise BadConfig(
                "a convolution stem halves its way down to a patch, which must be a power of two"
            )
        if self.glance and self.stem != "convolution":
            raise BadConfig("a glance is taken from a convolution stem")
        if self.text_stem == "minilm" and self.tokenizer != "bert":
            raise BadConfig("text_stem 'minilm' reads the entries of tokenizer 'bert'")
        check_choices(self, CHOICES)

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
    def mask_shares(self) -> dict[str, float]:
        """The share of each modality's tokens that masked modelling hides."""
        return {"video": self.mask_video, "audio": self.mask_audio, "text": self.mask_text}

    @property
    def video(self) -> VideoSpec:
        return VideoSpec(frames=self.frames, size=self.size)

    @property
    def audio(self) -> AudioSpec:
        return AudioSpec(sample_rate=self.sample_rate, samples=self.samples)

    @property
    def text(self) -> TextSpec:
        return TextSpec(tokens=self.tokens)

    @property
    def inputs(self) -> InputSpecs:
        return InputSpecs(self.window_s, self.video, self.audio)


@dataclass(frozen=True)
class TrainConfig:
    """One training run: the encoder, its data and its schedule."""

    encoder: EncoderConfig
    # JSONL files; `world:SPLIT:COUNT` renders that much of the world first
    manifests: tuple[str, ...] = ()
    validation: str = "world:validation:400"
    shares: tuple[float, ...] = ()  # of each batch, one for each manifest; empty: by their sizes
    # (ours) metadata by which an epoch brings rows together, epoch by epoch
    alike: tuple[tuple[str, ...], ...] = ()
    steps: int = 1000
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.1  # share of the steps
    clip_norm: float = 1.0
    seed: int = 0
    # (ours) where the learned one starts; its inverse is kept at most 100
    temperature: float = 0.07
    smoothing: float = 0.05
    drop_tokens: float = 0.5  # of video and audio in the contrastive passes (VATT's DropToken)
    local_weight: float = 1.0
    local_share: float = 1.0  # of each batch that goes through the joint, masked pass
    global_weight: float = 5.0
    # (ours) texts of sounds alone, and the sounds, lie as their sentences in that model
    geometry_weight: float = 0.0
    spec_augment: bool = False  # (ours)
    # a published CLIP or ViT, a folder or a hub id, whose weights the trunk starts with
    trunk_from: str = ""
    start_from: str = ""  # a run whose weights and tokenizer this one starts from
    # "joint" shows the trap: contrast between vectors that have seen each other
    pool_from: str = "alone"
    video_text: bool = True  # (ours) the paper aligns video and text through audio only
    checkpoint_steps: int = 200
    # a route and a measure, or "mean R@10" over the routes with text
    best_by: str = "text-video R@10"
    patience: int = 0  # stop after so many checkpoints without a better one; 0: never
    threads: int = 0  # 0: as many as torch finds
    device: str = "auto"
    precision: str = "fp32"  # or "bf16": autocast
    micro_batch: int = 0  # rows encoded at once, with gradients cached for the whole batch; 0: all
    recompute: bool = False  # activations, in the backward pass
    compile: bool = False  # the transformer's blocks

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

    @property
    def contrasts(self) -> bool:
        """Whether any term needs the vectors of each modality alone."""
        return bool(self.global_weight or self.video_text or self.geometry_weight)

    def __post_init__(self) -> None:
        if self.trunk_from and self.start_from:
            raise BadConfig("trunk_from and start_from are two beginnings")
        check_choices(self, {"precision": ("fp32", "bf16"), "pool_from": ("alone", "joint")})

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Of `to_json`; the encoder may be a preset's by name. Raises BadConfig."""
        try:
            named = values["encoder"]
            encoder = PRESETS[named].encoder if isinstance(named, str) else EncoderConfig(**named)
            return cls(
                encoder=encoder, **{k: frozen(v) for k, v in values.items() if k != "encoder"}
            )
        except (KeyError, TypeError) as error:
            raise BadConfig(str(error)) from error

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def frozen(value: Any) -> Any:
    """JSON's lists as tuples."""
    return tuple(map(frozen, value)) if isinstance(value, list) else value


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
DEFAULT = replace(
    TINY,
    depth=3,
    stem="convolution",
    glance=True,
    tokenizer="bert",
    text_stem="minilm",
    vocabulary=22_900,
    memory=128,
    quiet_peak=0.2,
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
    tokenizer="bert",
    tokens=40,
    vocabulary=30_522,
    decoder_width=512,
    decoder_depth=8,
    decoder_heads=16,
    modality_norms=False,
    normalise_targets=False,
)
MINIATURE = replace(
    TINY,
    width=128,
    depth=3,
    dim=128,
    size=48,
    hop=320,
    bins=32,
    vocabulary=512,
    decoder_width=64,
    decoder_depth=1,
    decoder_heads=2,
    stem="convolution",
    glance=True,
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


# What both runs behind the default encoder have in common.
SOUND_AND_SIGHT: dict[str, Any] = {
    "alike": (
        (),
        ("colour", "place"),
        ("motion", "material"),
        ("shape", "place"),
        ("material", "size"),
        ("motion", "colour"),
    ),
    "local_share": 0.08,
    "spec_augment": True,
    "checkpoint_steps": 200,
}
PRESETS: dict[str, TrainConfig] = {
    "smoke": preset(
        SMOKE, manifests=("world:train:64",), validation="world:validation:16", steps=20, batch=16
    ),
    "demo": preset(
        TINY,
        manifests=("world:train:1500",),
        validation="world:validation:100",
        steps=300,
        batch=48,
    ),
    # What `model ablation` switches terms of.
    "miniature": preset(
        MINIATURE,
        manifests=("world:train:3000",),
        validation="world:validation:100",
        steps=100,
        batch=48,
        learning_rate=2e-3,
        checkpoint_steps=1_000_000,
    ),
    "tiny": preset(TINY, steps=2400, local_share=0.25),
    # The world, spoken digits and words: what a fine-tuning on ESC-10's real sounds starts from.
    # `make sources` prepares the files.
    "default-start": preset(
        DEFAULT,
        **SOUND_AND_SIGHT,
        manifests=(
            "world:train:12000",
            "runs/sources/digits-train.jsonl",
            "runs/sources/wording.jsonl",
            "runs/sources/words.jsonl",
        ),
        shares=(44, 20, 4, 12),
        steps=1600,
        batch=80,
        learning_rate=2e-3,
        warmup=0.05,
        geometry_weight=100.0,
    ),
    # Then ESC-10's real sounds, with some of everything before: bundles/default.
    "default": preset(
        DEFAULT,
        **SOUND_AND_SIGHT,
        start_from="runs/default-start",
        manifests=(
            "world:train:12000",
            "runs/sources/esc10-train.jsonl",
            "runs/sources/digits-train.jsonl",
            "runs/sources/wording.jsonl",
            "runs/sources/words.jsonl",
        ),
        shares=(10, 32, 24, 8, 20),
        steps=240,
        batch=94,
        learning_rate=1e-3,
        warmup=0.1,
        geometry_weight=400.0,
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
