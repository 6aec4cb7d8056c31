"""Every number of the encoder and its training, by name.

The recipes are JSON files in `presets`. `base` is the paper's model (VLSA, arXiv 2405.07202); what
the paper leaves open is marked (ours).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from media.audio import AudioSpec
from media.errors import BadConfig
from media.text import TextSpec
from media.video import VideoSpec
from media.windows import InputSpecs

from .renames import translate_settings
from .settings import (
    Count,
    CountOrZero,
    NotNegative,
    Number,
    Positive,
    Share,
    ShareBelowOne,
    read_settings,
)

PRESETS = Path(__file__).parent / "presets"
ENCODER_CHOICES = {
    "frequency_scale": ("mel", "log"),
    "stem": ("linear", "convolution"),
    "tokenizer": ("learned", "bert"),
    "text_stem": ("embedding", "minilm"),
}
TRAIN_CHOICES = {"precision": ("fp32", "bf16"), "pool_from": ("alone", "joint")}


def check_choices(config: Any, choices: Mapping[str, tuple[str, ...]]) -> None:
    """Raises BadConfig: a setting has none of its choices."""
    for name, known in choices.items():
        value = getattr(config, name)
        if value not in known:
            raise BadConfig(f"{name} is one of {', '.join(known)}, not {value!r}")


def preset_names() -> list[str]:
    return sorted(file.stem for file in PRESETS.glob("*.json"))


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The network and its inputs."""

    width: Count  # D of the trunk
    depth: Count  # blocks of the trunk
    heads: Count
    dim: Count  # E, of the embedding; (ours) the paper pools to `width` and does not project
    frames: Count  # of a window of video
    size: Count  # pixels, the height and width of a frame
    patch: Count  # pixels, and bins or columns of the spectrogram
    window_s: Positive
    sample_rate: Count
    n_fft: Count
    hop: Count
    bins: Count
    frequency_scale: str  # "mel" or "log"
    tokens: Count  # of a text
    vocabulary: Count
    decoder_width: Count
    decoder_depth: Count
    decoder_heads: Count
    # "linear" is the paper's; (ours) "convolution" finds small things wherever in a patch they are
    stem: str = "linear"
    # (ours) the convolutions' maxima, and a sentence, also reach the embedding around the trunk
    stem_skip: bool = False
    # "bert" is the paper's, cut to `vocabulary` entries; (ours) "learned" from the captions
    tokenizer: str = "learned"
    # "embedding" is the paper's; (ours) "minilm" starts from the states of a frozen language model
    text_stem: str = "embedding"
    # (ours, after 2303.03032) how many captions of sounds are remembered; a sound is moved to those
    # that it is like
    memory: CountOrZero = 0
    memory_scale: Positive = 40.0  # the inverse temperature of that likeness
    caption_memory_threshold: Number = 0.55  # the cosine below which a sound stays where it is
    # (ours) windows with a lower peak are amplified to it, before the spectrogram; 0: none
    quiet_peak: NotNegative = 0.0
    # (VATT, 2104.11178) samples of a patch of sound, in place of the spectrogram's; 0: none
    waveform_patch: CountOrZero = 0
    # (ours, after CAV-MAE, 2210.07839) LayerNorms per modality suit separate passes
    modality_norms: bool = True
    normalise_targets: bool = True  # (ours) the paper predicts raw pixels and raw spectrogram
    mask_video: ShareBelowOne = 0.75  # of each frame, independently
    mask_audio: ShareBelowOne = 0.75
    mask_text: ShareBelowOne = 0.15

    def __post_init__(self) -> None:
        if self.width % self.heads or self.decoder_width % self.decoder_heads:
            raise BadConfig("width must be a multiple of heads")
        if self.size % self.patch or self.bins % self.patch:
            raise BadConfig("size and bins must be multiples of patch")
        if self.stem == "convolution" and self.patch & (self.patch - 1):
            raise BadConfig("stem 'convolution' needs a patch that is a power of two")
        if self.waveform_patch < 0:
            raise BadConfig("waveform_patch is a number of samples, or 0")
        if self.stem_skip and self.stem != "convolution":
            raise BadConfig("stem_skip needs stem 'convolution'")
        if self.text_stem == "minilm" and self.tokenizer != "bert":
            raise BadConfig("text_stem 'minilm' needs tokenizer 'bert'")
        check_choices(self, ENCODER_CHOICES)

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
        audio = (self.bins // self.patch, self.spectrogram_frames // self.patch)
        if self.waveform_patch:
            audio = (1, -(-self.samples // self.waveform_patch))
        return {"video": (self.frames, side * side), "audio": audio, "text": (1, self.tokens)}

    @property
    def patches(self) -> dict[str, tuple[int, int]]:
        """Height and width of a patch: pixels, bins and columns, or samples in one row."""
        square = (self.patch, self.patch)
        waveform = (1, self.waveform_patch)
        return {"video": square, "audio": waveform if self.waveform_patch else square}

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


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run: the encoder, its data and its schedule."""

    encoder: EncoderConfig
    # JSONL files, tar shards, folders, or `world:SPLIT:COUNT`, which renders that much of the world
    manifests: tuple[str, ...] = ()
    validation: str = "world:validation:400"
    # of each batch, one for each manifest; empty: by their sizes
    shares: tuple[Positive, ...] = ()
    # (ours) metadata that the rows of a batch share: one choice an epoch, in turn
    batch_together_by: tuple[tuple[str, ...], ...] = ()
    steps: Count = 1000
    batch: Count = 64
    learning_rate: NotNegative = 1e-3
    weight_decay: NotNegative = 0.05
    warmup: Share = 0.1  # share of the steps
    clip_norm: Positive = 1.0
    seed: CountOrZero = 0
    temperature: Positive = 0.07  # (ours) the learned one's start; its inverse is kept at most 100
    smoothing: ShareBelowOne = 0.05  # (ours) of the labels of contrast
    drop_tokens: ShareBelowOne = 0.5  # of video and audio in contrastive passes (VATT's DropToken)
    # The weights of the objective's terms: see training/losses.py.
    local_weight: NotNegative = 1.0
    local_share: Share = 1.0  # of each batch that goes through the joint, masked pass
    global_weight: NotNegative = 5.0
    # (ours) texts of sounds alone, and the sounds, lie as their sentences do in that model
    relational_distillation_weight: NotNegative = 0.0
    # methods of model/methods by name, each with its settings; see training/tables.py
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    spec_augment: bool = False  # (ours)
    # a published CLIP or ViT, a folder or a hub id, whose weights the trunk starts with
    trunk_from: str = ""
    start_from: str = ""  # a run whose weights and tokenizer this one starts from
    # "joint" shows cross-modal leakage: contrast between vectors that have seen each other
    pool_from: str = "alone"
    video_text: bool = True  # (ours) the paper aligns video and text through audio only
    checkpoint_steps: Count = 200
    # a route and a measure, or "mean R@10" over the routes with text
    best_by: str = "text-video R@10"
    patience: CountOrZero = 0  # stop after so many checkpoints without a better one; 0: never
    threads: CountOrZero = 0  # 0: as many as torch finds
    device: str = "auto"
    precision: str = "fp32"  # or "bf16": autocast
    # rows encoded at once, with gradients cached for the whole batch; 0: all
    micro_batch: CountOrZero = 0
    recompute: bool = False  # activations, in the backward pass
    compile: bool = False  # the transformer's blocks

    def __post_init__(self) -> None:
        if self.trunk_from and self.start_from:
            raise BadConfig("trunk_from and start_from are mutually exclusive")
        if self.spec_augment and self.encoder.waveform_patch:
            raise BadConfig("spec_augment needs a spectrogram, so a waveform_patch of 0")
        if self.shares and len(self.shares) != len(self.manifests):
            raise BadConfig("shares has a number for each of manifests, or none")
        check_choices(self, TRAIN_CHOICES)

    @classmethod
    def load(cls, name_or_file: str) -> TrainConfig:
        """A preset by name, or a JSON file of the same keys.

        Raises:
            BadConfig: no such preset or file, one that is no JSON, or see `from_json`.
        """
        names = preset_names()
        file = PRESETS / f"{name_or_file}.json" if name_or_file in names else Path(name_or_file)
        if not file.is_file():
            raise BadConfig(f"{name_or_file} is neither a file nor one of {', '.join(names)}")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BadConfig(f"{name_or_file} is no JSON: {error}") from error
        return cls.from_json(values)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `to_json` gives; the encoder may be a preset's, by name.

        "about" may say what the settings are for. Old names of settings are translated.

        Raises:
            BadConfig: a key that is unknown or missing, a value of another type or outside its
                range, or values that do not fit together.
        """
        if not isinstance(values, Mapping):
            raise BadConfig("a config is an object of settings")
        settings = translate_settings(values)
        settings.pop("about", None)
        encoder = settings.get("encoder", {})
        if isinstance(encoder, str):
            config = TrainConfig.load(encoder).encoder
        else:
            config = read_settings(EncoderConfig, encoder, "encoder")
        return read_settings(cls, settings | {"encoder": asdict(config)}, "the config")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
