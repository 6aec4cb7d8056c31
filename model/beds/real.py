"""The real bed: a trunk and heads on what the default bundle's stems make of real recordings.

`python -m bench.real_bed` writes the file that it reads. The stems are frozen, and so is their
reading of each input, a unit vector. The trunk sees their features and adds to the reading; at
first it adds nothing. Learned from are open pictures, open sounds, and pairs of one of each with
one name. The real recordings are measured with, and never learned from.

A sound has a reading of each half of its window, too, and a text one of each side of "then",
"before" or "after", for vectors of two parts (`Halves`).

B batch, V views of a picture, F frames, C cells of a frame, P patches of a sound, T tokens,
D features, S = 384.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluation.clips import Clip, Clips
from evaluation.composed import split_in_order
from evaluation.retrieval import Embedder, Gallery, build_routes, weigh_sound
from media.errors import BadConfig
from media.manifest import Caption, Row
from media.modality import AUDIO, MODALITIES, TEXT, VIDEO

from ..config import EncoderConfig, TrainConfig
from ..data.batches import Inputs, Mixture
from ..network.fusion import learned_join
from ..network.masking import take_tokens
from ..network.transformer import (
    MAX_SCALE,
    NO_ADDITIONS,
    Additions,
    Norms,
    TrunkPass,
    initialise,
    key_bias,
    make_blocks,
    random_rows,
)
from ..training.tables import Rows, add_parts, make_additions

READING = 384
FRAMES = 2
SHARES = (0.35, 0.4, 0.25)  # of a batch: pictures, sounds, pairs of both
AUDIO_WEIGHT = 0.5  # of the sound in the joint vector, the bundle's
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Scale:
    """How int8 features become numbers: times `step`."""

    step: float

    def __call__(self, stored: NDArray[np.int8]) -> NDArray[np.float32]:
        return stored.astype(np.float32) * np.float32(self.step)


def quantise(values: NDArray[np.floating[Any]], step: float) -> NDArray[np.int8]:
    """The inverse of `Scale`; what lies beyond 127 steps is cut."""
    return np.clip(np.round(values / step), -127, 127).astype(np.int8)


FEATURE_STEP = 1 / 32  # features have a deviation of about 1
READING_STEP = 1 / 400


@dataclass(frozen=True)
class TextTable:
    """Every text that the bed knows, by its words. Ids begin at 1; 0 is the text "?"."""

    ids: dict[str, int]
    tokens: NDArray[np.int8]  # [N, T, D], features of the tokens' states
    lengths: NDArray[np.int64]  # [N]
    readings: NDArray[np.int8]  # [N, S]
    sides: NDArray[np.int64]  # [N, 2], ids of what comes first and second; twice its own if none

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """The ids of texts, int64 [n, 1]. Raises KeyError: a text that is not in the table."""
        return np.array([[self.ids[text]] for text in texts], np.int64)


@dataclass(frozen=True)
class RealData:
    """The file of `bench.real_bed`."""

    arrays: Arrays
    rows: dict[str, list[Row]]  # by part: pictures, sounds, pairs, recordings
    texts: TextTable
    groups: dict[str, list[dict[str, list[str]]]]  # of each benchmark, two texts each
    composed: dict[str, list[str]]  # ids of what was put together, by kind

    @classmethod
    def open(cls, file: Path) -> RealData:
        """Raises BadConfig: there is no such file, or one of before sounds were put together."""
        if not file.is_file():
            raise BadConfig(
                f"{file} is not there; `python -m bench.real_bed --out {file}` makes it"
            )
        with np.load(file) as stored:
            arrays = {name: stored[name] for name in stored.files if name != "rows"}
            described = json.loads(str(stored["rows"]))
        if "composed" not in described or "sound_halves" not in arrays:
            raise BadConfig(f"{file} is of an older version; `python -m bench.real_bed` makes it")
        ids = {text: i for i, text in enumerate(described["texts"])}
        table = TextTable(
            ids,
            arrays.pop("text_tokens"),
            arrays.pop("text_lengths").astype(np.int64),
            arrays.pop("text_readings"),
            np.array([[ids[side] for side in sides_of(text)] for text in ids], np.int64),
        )
        rows = {part: [read_row(row) for row in of] for part, of in described["rows"].items()}
        return cls(arrays, rows, table, described["groups"], described["composed"])


def sides_of(text: str) -> tuple[str, str]:
    """What a text says to come first, and second; itself twice if it says no order."""
    return split_in_order(text) or (text, text)


def read_row(values: dict[str, Any]) -> Row:
    captions = tuple(Caption(c["text"], tuple(c["about"])) for c in values["captions"])
    return Row(id=values["id"], path=None, captions=captions, group=values["group"], metadata={})


# ---------------------------------------------------------------- clips


def pack_frames(cells: NDArray[np.int8], readings: NDArray[np.int8]) -> NDArray[np.float32]:
    """Cells [..., C, D] and readings [..., S] of frames as one array [..., C D + S]."""
    flat = Scale(FEATURE_STEP)(cells).reshape(*cells.shape[:-2], -1)
    return np.concatenate([flat, Scale(READING_STEP)(readings)], axis=-1)


def pack_sounds(
    arrays: Arrays, name: str, heard: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """Patches [n, P, D], readings [n, S] and those of halves [n, 2, S] as one array
    [n, P, D + 2 S].

    Readings lie in each patch in which anything is `heard`, bool [n, P]; if None, in all. The
    reading of a half is in the half's patches, and not in one in the middle. Patches in which
    nothing is heard are zeros.
    """
    patches = arrays[f"{name}_patches"]
    readings, halves = (
        Scale(READING_STEP)(arrays[f"{name}_{part}"]) for part in ("readings", "halves")
    )
    count = patches.shape[1]
    own = np.zeros((len(patches), count, halves.shape[-1]), np.float32)
    own[:, : count // 2] = halves[:, :1]
    own[:, -(count // 2) :] = halves[:, 1:]
    whole = np.repeat(readings[:, None], count, axis=1)
    packed = np.concatenate([Scale(FEATURE_STEP)(patches), whole, own], axis=-1)
    return packed if heard is None else np.where(heard[..., None], packed, np.float32(0))


def composed_sounds(data: RealData) -> Arrays:
    """Sounds of the training sources that were put together, [P, D + 2 S] each, by name."""
    found: Arrays = {}
    for kind, ids in data.composed.items():
        name = f"composed_{kind}"
        sounds = pack_sounds(data.arrays, name, data.arrays[f"{name}_heard"])
        found |= dict(zip(ids, sounds, strict=True))
    return found


def training_sources(
    arrays: Arrays, rows: dict[str, list[Row]], composed: Arrays | None = None
) -> list[Clips]:
    """Pictures, sounds, and pairs of both. `composed` are sounds put together beforehand."""
    pictures = pack_frames(arrays["picture_cells"], arrays["picture_readings"])
    sounds = pack_sounds(arrays, "sound", arrays["sound_heard"])
    pairs = arrays["pairs"]  # [n, 2], a picture and a sound each

    def clips(part: str, found: Arrays) -> Clips:
        n = len(rows[part])
        has = {m: np.full(n, m in found) for m in (VIDEO, AUDIO)}
        return Clips(rows[part], found, has, np.full(n, sounds.shape[1]), composed=composed)

    return [
        clips("pictures", {VIDEO: pictures}),
        clips("sounds", {AUDIO: sounds}),
        clips("pairs", {VIDEO: pictures[pairs[:, 0]], AUDIO: sounds[pairs[:, 1]]}),
    ]


def draw_frames(views: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """FRAMES of the views of a picture."""
    return views[random.choice(len(views), FRAMES, replace=len(views) < FRAMES)]


def keep_sound(clip: Clip, background: Any, random: np.random.Generator) -> NDArray[Any]:
    """Features of sounds are not augmented, but for DropToken."""
    assert clip.waveform is not None
    return clip.waveform


# ---------------------------------------------------------------- the network


class StemTrunk(nn.Module):
    """VLSA's blocks over features of frozen stems; what they give is added to the stems' reading.

    It stands where VLSA does in a step of training: `embed`, `encode_text`, `scale`, `match`.
    """

    def __init__(
        self, config: EncoderConfig, data: RealData, additions: Additions = NO_ADDITIONS
    ) -> None:
        super().__init__()
        self.config = c = config
        texts = data.texts
        self.sizes = {
            VIDEO: data.arrays["picture_cells"].shape[-1],
            AUDIO: data.arrays["sound_patches"].shape[-1],
            TEXT: texts.tokens.shape[-1],
        }
        self.stems = nn.ModuleDict({m: nn.Linear(n, c.width) for m, n in self.sizes.items()})
        self.positions = nn.ParameterDict(
            {m: random_rows(rows * columns, c.width) for m, (rows, columns) in c.grid.items()}
        )
        self.blocks = make_blocks(c, additions)
        self.norm = Norms(c.width, c.modality_norms)
        heads = {m: nn.Linear(c.width, READING, bias=False) for m in MODALITIES}
        self.heads = nn.ModuleDict(heads)
        self.log_scale = nn.Parameter(torch.tensor(0.0))
        self.match = nn.ModuleDict(
            {pair: nn.Linear(READING, 1) for pair in ("audio_video", "audio_text")}
        )
        self.apply(initialise)
        self.fusion = additions.fusion
        self.halves = additions.halves
        self.parts = nn.ModuleDict()
        self.last_pass: TrunkPass | None = None
        for head in heads.values():
            nn.init.zeros_(head.weight)
        self.text_tokens: Tensor
        self.text_lengths: Tensor
        self.text_readings: Tensor
        self.text_sides: Tensor
        for name, values in (
            ("text_tokens", Scale(FEATURE_STEP)(texts.tokens)),
            ("text_lengths", texts.lengths),
            ("text_sides", texts.sides),
            ("text_readings", Scale(READING_STEP)(texts.readings)),
        ):
            self.register_buffer(name, torch.from_numpy(values), persistent=False)

    @property
    def scale(self) -> Tensor:
        """The inverse temperature, at most 100."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    def embed(
        self,
        modality: str,
        x: Tensor,
        kept_tokens: Tensor | None = None,
        stretches: Tensor | None = None,
    ) -> Tensor:
        """Unit vectors [B, S]; frames are [B, F, C D + S], sounds [B, P, D + 2 S], texts ids
        [B, 1].

        `kept_tokens` int64 [B, K] says which tokens DropToken leaves.
        """
        if modality == TEXT:
            return self.encode_text(x)[0]
        if modality == VIDEO:
            features = x[..., :-READING]
            readings = x[..., -READING:]
            tokens = features.reshape(len(x), -1, self.sizes[modality])  # [B, T, D]
            return self.encode(modality, tokens, readings.sum(1), kept=kept_tokens)
        tokens = x[..., : -2 * READING]
        whole, own = x[..., -2 * READING :].chunk(2, dim=-1)
        heard = x.ne(0).any(-1)  # [B, P]
        heard = heard | ~heard.any(1, keepdim=True)
        readings = whole.sum(1) if self.halves is None else read_halves(own)
        return self.encode(modality, tokens, readings, present=heard, kept=kept_tokens)

    def encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Ids of texts [B, 1] -> unit vectors and the stem's readings, [B, S] each."""
        rows = ids.squeeze(1)
        lengths = self.text_lengths[rows]
        longest = int(lengths.max())
        present = torch.arange(longest, device=ids.device)[None] < lengths[:, None]
        readings = F.normalize(self.text_readings[rows], dim=-1)
        tokens = self.text_tokens[rows, :longest]
        if self.halves is None:
            return self.encode(TEXT, tokens, readings, present=present), readings
        sides = self.text_readings[self.text_sides[rows]]  # [B, 2, S]
        return self.encode(TEXT, tokens, sides, present=present), readings

    def encode(
        self,
        modality: str,
        tokens: Tensor,
        readings: Tensor,
        *,
        present: Tensor | None = None,
        kept: Tensor | None = None,
    ) -> Tensor:
        """Features of tokens [B, T, D] and readings of any length [B, S] -> unit vectors [B, S].

        Where vectors have two parts, readings may be [B, 2, S], one of each part.
        """
        x = self.stems[modality](tokens) + self.positions[modality][: tokens.shape[1]]
        if kept is not None:
            x = take_tokens(x, kept)
            present = None if present is None else present.gather(1, kept)
        bias = None if present is None else key_bias(present)
        segments = [(modality, x.shape[1])]
        for block in self.blocks:
            x = block(x, segments, bias, kept)
        x = self.norm(x, segments)
        if self.training:
            self.last_pass = TrunkPass(x, kept, present)
        readings = F.normalize(readings, dim=-1)
        if self.halves is not None:
            parts = readings if readings.ndim == 3 else readings[:, None]
            pooled = self.halves.pool(modality, x, kept, present)
            bound: Tensor = self.halves(parts + self.heads[modality](pooled))
            return bound
        shares = (
            torch.ones_like(x[..., :1]) if present is None else present.unsqueeze(-1).to(x.dtype)
        )
        pooled = (x * shares).sum(1) / shares.sum(1).clamp(min=1.0)
        return F.normalize(readings + self.heads[modality](pooled), dim=-1)


def read_halves(own: Tensor) -> Tensor:
    """What lies in the patches of sounds of the readings of their halves [B, P, S] -> [B, 2, S].

    A half in which nothing is heard has the reading of the other one.
    """
    count = own.shape[1] // 2
    halves = torch.stack([own[:, :count].sum(1), own[:, -count:].sum(1)], dim=1)
    is_heard = halves.ne(0).any(-1, keepdim=True)
    return torch.where(is_heard, halves, halves.flip(1))


# ---------------------------------------------------------------- the bed


class RealBed:
    """Data, network and measures of the real bed."""

    def __init__(self, file: Path) -> None:
        self.data = RealData.open(file)

    def mixture(self, config: TrainConfig, methods: Rows) -> Mixture:
        arrays = self.data.arrays
        shapes = {
            VIDEO: ((FRAMES, width_of(arrays["picture_cells"], 2)), np.float32),
            AUDIO: (
                (arrays["sound_patches"].shape[1], width_of(arrays["sound_patches"], 1) + READING),
                np.float32,
            ),
        }
        return Mixture(
            training_sources(arrays, self.data.rows, composed_sounds(self.data)),
            SHARES,
            self.data.texts,
            Inputs(shapes, draw_frames, keep_sound),
            batch=config.batch,
            seed=config.seed,
            methods=methods,
        )

    def network(self, config: TrainConfig) -> StemTrunk:
        network = StemTrunk(config.encoder, self.data, make_additions(config))
        add_parts(network, config)
        return network

    def galleries(self, model: StemTrunk) -> dict[str, Gallery]:
        """The real recordings' windows."""
        arrays = self.data.arrays
        rows = self.data.rows["recordings"]
        packed = {
            VIDEO: pack_frames(arrays["recording_cells"], arrays["recording_frame_readings"]),
            AUDIO: pack_sounds(arrays, "recording"),
        }
        found = {}
        for modality, array in packed.items():
            windows = np.flatnonzero(arrays[f"recording_has_{modality}"])
            vectors = embed_pages(model, modality, array[windows])
            found[modality] = Gallery(
                rows,
                vectors,
                arrays["recording_owners"][windows],
                arrays["recording_windows"][windows],
            )
        return found

    def embedder(self, model: StemTrunk) -> Embedder:
        join = weigh_sound(AUDIO_WEIGHT) if model.fusion is None else learned_join(model.fusion)
        return Embedder(partial(embed_pages, model), self.data.texts, join=join)

    def composed_scores(self, model: StemTrunk, kind: str) -> NDArray[np.float32]:
        """The scores of the benchmark of a kind of composition, [groups, sounds, texts]."""
        sounds = pack_sounds(self.data.arrays, kind, self.data.arrays[f"{kind}_heard"])
        heard = embed_pages(model, AUDIO, sounds).reshape(-1, 2, READING)
        texts = [text for group in self.data.groups[kind] for text in group["texts"]]
        said = embed_pages(model, TEXT, self.data.texts(texts)).reshape(-1, 2, READING)
        return np.asarray(heard @ said.transpose(0, 2, 1))

    def routes(self, model: StemTrunk, galleries: dict[str, Gallery]) -> Any:
        return build_routes(self.embedder(model), galleries)


def width_of(features: NDArray[Any], axes: int) -> int:
    """The values of the last axes of features, and of a reading."""
    return int(np.prod(features.shape[-axes:])) + READING


@torch.no_grad()
def embed_pages(
    model: nn.Module, modality: str, array: NDArray[Any], size: int = 256
) -> NDArray[np.float32]:
    """Vectors [n, E] of any number of inputs, by pages."""
    device = next(model.parameters()).device
    pages = []
    for at in range(0, len(array), size):
        page = torch.from_numpy(np.ascontiguousarray(array[at : at + size])).to(device)
        pages.append(model.embed(modality, page).float().cpu().numpy())  # type: ignore[operator]
    return np.concatenate(pages)
