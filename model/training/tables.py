"""What a method of `model/methods` may add to training, as rows of a few tables.

The core reads these tables and knows no method. A recipe names the methods that it uses, with
their settings: `TrainConfig.methods`. A method is a file with a dataclass `Settings` and a function
`rows` that makes `Rows` of it. Without the folder there are no methods, and the core trains.

B batch, E embedding.
"""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from evaluation.retrieval import Route
from media.errors import BadConfig
from media.manifest import Row

from ..config import EncoderConfig, TrainConfig
from ..data.source import Source
from ..network.transformer import (
    VLSA,
    Additions,
    FirstSpace,
    Halves,
    MakeMessages,
    MakeMlp,
    plain_mlp,
)
from ..settings import Count, CountOrZero, Positive, ShareAboveZero, read_settings

FOLDER = Path(__file__).parent.parent / "methods"
# what a batch has of each row without any method
CAPTIONS = {"video": "video_caption", "audio": "audio_caption"}
SENTENCES = {"video_caption": "video_sentence", "audio_caption": "sentence"}
VECTORS = frozenset({*CAPTIONS, *CAPTIONS.values(), *SENTENCES.values()})
STEP_SEEDS = 1_000_003
Box = NDArray[np.float32]
SETTINGS = frozenset(setting.name for setting in fields(TrainConfig))


@dataclass(frozen=True, kw_only=True)
class LossTerm:
    """A term of the objective over the vectors of the whole batch.

    `loss` is called with the inputs and the names in `needs`. It returns a scalar, or None where
    too few rows have what it needs.
    """

    name: str
    needs: tuple[str, ...]  # of `losses.TermInputs.vectors`
    weight: str | float  # a number, or the setting of `TrainConfig` that has it
    loss: Callable[..., Tensor | None]
    switch: str = ""  # the setting that turns the term on; without one, a weight above zero does
    replaces: tuple[str, ...] = ()  # the terms of `losses.TERMS` that it takes the place of

    def __post_init__(self) -> None:
        for setting in filter(None, (self.weight, self.switch)):
            if isinstance(setting, str) and setting not in SETTINGS:
                raise ValueError(f"{self.name}: TrainConfig has no setting {setting}")

    def is_on(self, config: TrainConfig) -> bool:
        return bool(getattr(config, self.switch)) if self.switch else bool(self.weight_in(config))

    def weight_in(self, config: TrainConfig) -> float:
        """What the loss is multiplied by."""
        if isinstance(self.weight, str):
            return float(getattr(config, self.weight))
        return self.weight


@dataclass(frozen=True, kw_only=True)
class ExtraText:
    """A further text of each row of a batch. `name` is that of its vectors.

    `draw` takes the row, what it is about ("video" or "audio"), the caption already drawn, and a
    generator of chance. It returns None where the row has no such text.
    """

    name: str
    about: str
    draw: Callable[[Row, str | None, np.random.Generator], str | None]


@dataclass(frozen=True, kw_only=True)
class View:
    """The video or the sound of each row once more, augmented anew. `name` is that of its vectors.

    `change` is applied to the frames [F, ...] or samples [n] before the augmentation. `mix` comes
    after it, and also takes those of another row of the batch, if that row has any.

    `crop` stands in place of all that, and takes the frames as they were augmented for the row. It
    returns the view and where it lies, float32 [4]: top, left, height and width in shares of the
    frames, with a width below zero if it is mirrored. Terms find this as NAME_box, [B, 4].
    """

    name: str
    of: str  # "video" or "audio"
    change: Callable[[NDArray[Any], np.random.Generator], NDArray[Any]] | None = None
    mix: Callable[[NDArray[Any], NDArray[Any], np.random.Generator], NDArray[Any]] | None = None
    crop: Callable[[NDArray[Any], np.random.Generator], tuple[NDArray[Any], Box]] | None = None

    def __post_init__(self) -> None:
        if self.crop and (self.of != "video" or self.change or self.mix):
            raise ValueError(f"{self.name}: a crop is of video, and nothing else is done to it")

    @property
    def box(self) -> str:
        """The name by which terms find where a crop lies."""
        return f"{self.name}_box"


@dataclass(frozen=True, kw_only=True)
class ExtraSource:
    """A further source of clips, made of the recipe's own, and its share of each batch.

    Where it replaces the recipe's own, those give no rows.
    """

    name: str
    share: float
    make: Callable[[Sequence[Source]], Source]
    replaces: bool = False


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What is so or not of each row. Terms and readings find it as `has[name]`."""

    name: str
    holds: Callable[[Row], bool]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a checkpoint's evaluation found."""

    vectors: Mapping[str, NDArray[np.float32]]  # by modality, "text" among them
    routes: Sequence[Route]
    step: int  # steps done
    before: Sequence[Mapping[str, float]] = ()  # the metric's figures at earlier checkpoints


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Figures of an evaluation, by their names."""

    name: str
    measure: Callable[[Evaluation], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class GradientRule:
    """How the gradients of the terms come together on what the trunk gives for a batch.

    `combine` takes for each term its gradient of every vector of the batch, by name, [B, E] each,
    and how much of the run is over, from 0 to 1. It returns the gradient to use, by the same names,
    and figures for the log. `terms` are those that it treats by name; some of them may be off.
    """

    name: str
    terms: tuple[str, ...] = ()
    combine: Callable[
        [Mapping[str, Mapping[str, Tensor]], float], tuple[dict[str, Tensor], dict[str, Tensor]]
    ]


@dataclass(frozen=True, kw_only=True)
class TrunkMlp:
    """What stands in place of the MLP in blocks of the trunk.

    `make` takes the width D and the place of a block, from 0. It returns a module that is called as
    `Mlp` is, or None for the plain MLP. What it gives for a row must not depend on the other rows.
    """

    name: str
    make: Callable[[int, int], nn.Module | None]


@dataclass(frozen=True, kw_only=True)
class TrunkMessages:
    """Further tokens that attention in blocks of the trunk sees, where video is encoded alone.

    `make` takes the encoder and the place of a block, from 0. It returns a module as `Block`
    describes it, or None. What it gives for a row must not depend on the other rows.
    """

    name: str
    make: Callable[[EncoderConfig, int], nn.Module | None]


@dataclass(frozen=True, kw_only=True)
class TermPart:
    """A network that only terms and readings use. They find it as `model.parts[name]`.

    `make` takes the encoder's network. It is in checkpoints, and not in bundles. A run that starts
    from another one has new parts. `before_step` takes the network and the step to come.
    """

    name: str
    make: Callable[[Any], nn.Module]
    before_step: Callable[[Any, int], None] | None = None


@dataclass(frozen=True, kw_only=True)
class FusionPart:
    """A network that says what sound weighs in joint vectors; terms find it as `model.fusion`.

    `make` takes the width E of a vector. The network takes unit vectors [B, E] of pictures and of
    sound to weights [B] between 0 and `most`. It is exported with the encoder.
    """

    name: str
    make: Callable[[int], nn.Module]
    most: float


@dataclass(frozen=True, kw_only=True)
class SpaceBefore:
    """A space that some modalities have before that of the embedding; readings find its vectors as
    `model.first_vectors`.
    """

    name: str
    make: Callable[[EncoderConfig], FirstSpace]


@dataclass(frozen=True, kw_only=True)
class TwoParts:
    """Vectors of every modality that are made of two parts, in their order."""

    name: str
    make: Callable[[EncoderConfig], Halves]


@dataclass(frozen=True, kw_only=True)
class SoundWeight:
    """What sound weighs beside pictures in joint vectors, in every window. A run is measured with
    it, and its bundle has it.
    """

    name: str
    weight: float


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The n rows that the network has just encoded. Of a text, `captions` and `has` are empty."""

    inputs: Tensor  # as `VLSA.embed` takes them
    vectors: Tensor  # unit [n, E]
    captions: Mapping[str, Tensor]  # int64 [n, T] by the names of a batch's texts
    has: Mapping[str, Tensor]  # bool [n], see `Batch.has`


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What is read off the network for each row, beside its vector `of`. Terms read it as `name`.

    `read` takes the network, which has just encoded n rows, and returns [n, S]; `width` gives S.
    `model.last_pass` has what the trunk gave.
    """

    name: str
    of: str  # "video", "audio", "video_caption", "audio_caption" or a view's name
    width: Callable[[EncoderConfig], int]
    read: Callable[[Any, Encoded], Tensor]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a step does, where the steps of a run do different things. Which one is left to chance.

    Only its terms are computed, and only what they need is encoded. Every term of a recipe is in
    some turn. Masked modelling may be in none; then it is part of every step.
    """

    name: str
    terms: Annotated[tuple[str, ...], Field(min_length=1)]
    chance: Positive = 1.0  # over the sum of those of all turns
    tokens: ShareAboveZero | None = None  # share of those of pictures and sound; None: the recipe's
    frame_step: Count = 1  # of so many frames one is seen
    # places in `TrainConfig.manifests` of the rows; empty: all
    sources: tuple[CountOrZero, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What one method adds, or all methods of a recipe together."""

    terms: tuple[LossTerm, ...] = ()
    texts: tuple[ExtraText, ...] = ()
    views: tuple[View, ...] = ()
    sources: tuple[ExtraSource, ...] = ()
    metrics: tuple[Metric, ...] = ()
    gradient_rules: tuple[GradientRule, ...] = ()
    mlps: tuple[TrunkMlp, ...] = ()
    messages: tuple[TrunkMessages, ...] = ()
    readings: tuple[Reading, ...] = ()
    parts: tuple[TermPart, ...] = ()
    fusions: tuple[FusionPart, ...] = ()
    sound_weights: tuple[SoundWeight, ...] = ()
    spaces: tuple[SpaceBefore, ...] = ()
    two_parts: tuple[TwoParts, ...] = ()
    turns: tuple[Turn, ...] = ()
    marks: tuple[Mark, ...] = ()

    @classmethod
    def join(cls, several: Iterable[Rows]) -> Rows:
        parts = list(several)
        joined = {}
        for table in fields(cls):
            rows = chain.from_iterable(getattr(part, table.name) for part in parts)
            joined[table.name] = tuple(rows)
        return cls(**joined)


PLAIN = Rows()


def method_names() -> list[str]:
    """The methods there are: the files of the folder."""
    return sorted(module.name for module in pkgutil.iter_modules([str(FOLDER)]))


def load_method(name: str, settings: Mapping[str, Any]) -> Rows:
    """The rows of a method.

    Raises:
        BadConfig: no such method, settings that it does not have, or rows that do nothing.
    """
    known = method_names()
    if name not in known:
        raise BadConfig(f"there is no method {name!r}; there are: {', '.join(known) or 'none'}")
    module = import_module(f"..methods.{name}", __package__)
    rows: Rows = module.rows(read_settings(module.Settings, settings, f"method {name}"))
    check_rows(name, rows)
    return rows


def check_rows(name: str, rows: Rows) -> None:
    """Raises BadConfig: a row that nothing reads, or a term that reads what is not there."""
    made = {text.name for text in rows.texts} | {view.name for view in rows.views}
    made |= {reading.name for reading in rows.readings}
    made |= {view.box for view in rows.views if view.crop is not None}
    read = {vectors for term in rows.terms for vectors in term.needs}
    read |= {reading.of for reading in rows.readings}
    problems = [f"nothing reads {row!r}" for row in sorted(made - read)]
    problems += [f"{row!r} is not a vector of a batch" for row in sorted(read - made - VECTORS)]
    problems += [f"the weight of {term.name!r} is 0" for term in rows.terms if not term.weight]
    if not any(getattr(rows, table.name) for table in fields(rows)):
        problems.append("it adds no row")
    if problems:
        raise BadConfig(f"method {name}: {'; '.join(problems)}")


@lru_cache(maxsize=64)
def load_methods(methods: str) -> Rows:
    """The rows of several methods, given with their settings as JSON."""
    loaded = [load_method(name, settings) for name, settings in json.loads(methods).items()]
    rows = Rows.join(loaded)
    for table in fields(rows):
        names = [row.name for row in getattr(rows, table.name)]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise BadConfig(f"two methods add {', '.join(sorted(twice))} to {table.name}")
    if len(rows.mlps) > 1:
        raise BadConfig("two methods replace the MLPs of the trunk")
    if len(rows.spaces) > 1:
        raise BadConfig("two methods add a space before that of the embedding")
    if len(rows.two_parts) + len(rows.spaces) > 1:
        raise BadConfig("two methods say how vectors are made")
    if len(rows.messages) > 1:
        raise BadConfig("two methods add messages to the blocks of the trunk")
    if len(rows.fusions) + len(rows.sound_weights) > 1:
        raise BadConfig("two methods join pictures and sound")
    return rows


def rows_of(config: TrainConfig) -> Rows:
    """What the methods of a recipe add; nothing for a plain one.

    Raises:
        BadConfig: see `load_method`; or two methods add rows of one name.
    """
    return load_methods(json.dumps(config.methods)) if config.methods else PLAIN


def step_seed(seed: int, step: int) -> int:
    """What the chance of a step comes from. Two runs' steps do not meet before STEP_SEEDS steps."""
    return seed * STEP_SEEDS + step


def draw_turn(turns: Sequence[Turn], seed: int) -> Turn | None:
    """The turn of the step with this seed, see `step_seed`; None where there are no turns."""
    if not turns:
        return None
    chances = np.array([turn.chance for turn in turns])
    drawn = np.random.default_rng([seed, 1]).choice(len(turns), p=chances / chances.sum())
    return turns[int(drawn)]


def mlp_maker(methods: Rows) -> MakeMlp:
    """What makes the MLPs of the trunk's blocks: a method's, where it has one for a block."""

    def make(width: int, place: int) -> nn.Module:
        for row in methods.mlps:
            mlp = row.make(width, place)
            if mlp is not None:
                return mlp
        return plain_mlp(width, place)

    return make


def messages_maker(methods: Rows, encoder: EncoderConfig) -> MakeMessages:
    """What makes the messages of the trunk's blocks, of a method that has some."""

    def make(place: int) -> nn.Module | None:
        return methods.messages[0].make(encoder, place) if methods.messages else None

    return make


def make_additions(config: TrainConfig) -> Additions:
    """What the methods of a recipe add to the network, with random weights."""
    methods = rows_of(config)
    return Additions(
        make_mlp=mlp_maker(methods),
        make_messages=messages_maker(methods, config.encoder),
        fusion=methods.fusions[0].make(config.encoder.dim) if methods.fusions else None,
        first_space=methods.spaces[0].make(config.encoder) if methods.spaces else None,
        halves=methods.two_parts[0].make(config.encoder) if methods.two_parts else None,
    )


def sound_weight(config: TrainConfig) -> float | None:
    """The weight of sound that a recipe's methods say, if it is the same in every window."""
    weights = rows_of(config).sound_weights
    return weights[0].weight if weights else None


def make_network(config: TrainConfig) -> VLSA:
    """The network of a recipe, random, with what its methods add to it.

    Raises:
        BadConfig: see `rows_of`.
    """
    network = VLSA(config.encoder, make_additions(config))
    add_parts(network, config)
    return network


def add_parts(network: Any, config: TrainConfig) -> None:
    """Give a network the parts of a recipe's methods, in place of those that it has."""
    network.parts = nn.ModuleDict()
    for part in rows_of(config).parts:
        network.parts[part.name] = part.make(network)
