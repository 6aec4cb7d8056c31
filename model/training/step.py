"""One step of training: a batch becomes gradients.

The batch may be encoded in one piece or in many, in one process or in several: the result is the
same. The contrastive terms need the vectors of the whole batch at once, but not its activations.
With `micro_batch` the vectors are first made without a graph. The loss is differentiated down to
them. Then each piece is encoded again and handed its part of the gradient (Gao et al., 2101.06983).
`StepRandomness` is drawn for the whole batch beforehand, so the second encoding equals the first.

B batch, T tokens, K kept tokens, E embedding, F frames, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from media.modality import MODALITIES

from ..config import TrainConfig
from ..data.batches import Batch
from ..network import language
from ..network.transformer import VLSA
from .distributed import ProcessGroup
from .losses import (
    LOCAL,
    TermInputs,
    compute_terms,
    local_sums,
    masks,
    needed_vectors,
    weigh,
    weighted_sum,
)
from .tables import SENTENCES, VECTORS, Encoded, GradientRule, Turn, draw_turn, rows_of

Vectors = dict[str, Tensor]  # see `TermInputs.vectors`


@dataclass(frozen=True, kw_only=True)
class StepRandomness:
    """All that a step leaves to chance, for the whole batch or for some rows of it."""

    # video, audio and views of them: which tokens survive DropToken, int64 [B, K]
    kept_tokens: dict[str, Tensor]
    stretches: Tensor  # of SpecAugment, uniform [B, 4, 2]
    mask_noise: dict[str, Tensor]  # decides what masked modelling hides, uniform [B, T]
    in_joint_pass: Tensor  # bool [B]: which rows go through the joint, masked pass
    match_shift: float  # which rows matching pairs, uniform
    turn: Turn | None = None

    @classmethod
    def draw(
        cls, config: TrainConfig, batch: int, seed: int, turn: Turn | None = None
    ) -> StepRandomness:
        """Of a recipe with turns, the turn is left to chance, too, but where it is given."""
        turn = turn or draw_turn(rows_of(config).turns, seed)
        source = torch.Generator().manual_seed(seed)
        tokens = {m: math.prod(shape) for m, shape in config.encoder.grid.items()}
        in_joint_pass = torch.zeros(batch, dtype=torch.bool)
        if config.local_weight and config.local_share:
            count = max(2, round(batch * config.local_share))
            in_joint_pass[torch.randperm(batch, generator=source)[:count]] = True
        kept_tokens = {}
        for m in ("video", "audio"):
            noise = torch.rand(batch, tokens[m], generator=source)
            kept_tokens[m] = choose_tokens(noise, m, config, turn)
        # The order of the draws below is part of what a seed means.
        stretches = torch.rand(batch, 4, 2, generator=source)
        mask_noise = {m: torch.rand(batch, n, generator=source) for m, n in tokens.items()}
        match_shift = float(torch.rand((), generator=source))
        for view in rows_of(config).views:
            noise = torch.rand(batch, tokens[view.of], generator=source)
            kept_tokens[view.name] = choose_tokens(noise, view.of, config, turn)
        return cls(
            kept_tokens=kept_tokens,
            stretches=stretches,
            mask_noise=mask_noise,
            in_joint_pass=in_joint_pass,
            match_shift=match_shift,
            turn=turn,
        )

    def take(self, rows: list[int] | slice, device: torch.device) -> StepRandomness:
        return StepRandomness(
            kept_tokens={m: x[rows].to(device) for m, x in self.kept_tokens.items()},
            stretches=self.stretches[rows].to(device),
            mask_noise={m: x[rows].to(device) for m, x in self.mask_noise.items()},
            in_joint_pass=self.in_joint_pass[rows].to(device),
            match_shift=self.match_shift,
            turn=self.turn,
        )


def choose_tokens(noise: Tensor, modality: str, config: TrainConfig, turn: Turn | None) -> Tensor:
    """Which tokens DropToken leaves, int64 [B, K], by uniform noise [B, T], at least one. Those of
    frames that a turn does not see are never among them.
    """
    count = noise.shape[1]
    share = 1 - config.drop_tokens
    if turn is not None:
        share = share if turn.tokens is None else turn.tokens
        if modality == "video" and turn.frame_step > 1:
            frames, patches = config.encoder.grid["video"]
            unseen = torch.arange(frames).remainder(turn.frame_step).ne(0)
            noise = noise + unseen.repeat_interleave(patches)
            count -= int(unseen.sum()) * patches
    return noise.argsort(1)[:, : max(1, round(count * share))]


class Piece(NamedTuple):
    """Rows that are encoded at once, and their randomness."""

    batch: Batch
    randomness: StepRandomness


def compute_gradients(
    model: VLSA,
    batch: Batch,
    randomness: StepRandomness,
    config: TrainConfig,
    processes: ProcessGroup | None = None,
    *,
    progress: float = 0.0,
) -> dict[str, Tensor]:
    """Put the gradient of the objective over the whole batch into the model.

    `batch` and `randomness` hold this process's rows, `progress` in [0, 1) is how much of the run
    is over. Returns every term and the total, as scalars.
    """
    processes = processes or ProcessGroup()
    size = config.micro_batch or len(batch.ids)
    slices = [slice(start, start + size) for start in range(0, len(batch.ids), size)]
    turn = randomness.turn
    seen = batch if turn is None else see_in_turn(batch, turn, config)
    pieces = cut_batch(seen, randomness, slices)
    terms: dict[str, Tensor] = {}
    figures: dict[str, Tensor] = {}
    if needed_vectors(config, turn):

        def loss_terms(vectors: Vectors) -> dict[str, Tensor]:
            inputs = gather_inputs(
                model, seen, vectors, config=config, randomness=randomness, processes=processes
            )
            return compute_terms(inputs, config, turn)

        if len(pieces) == 1 and not rows_of(config).gradient_rules:
            terms = loss_terms(encode_piece(model, pieces[0], config))
            (weighted_sum(terms, config) / processes.size).backward()
        else:
            terms, figures = add_cached_gradients(
                model,
                pieces,
                slices,
                loss_terms=loss_terms,
                config=config,
                processes=processes,
                progress=progress,
            )
    if masks(config, turn):
        pieces = cut_batch(batch, randomness, slices)
        terms[LOCAL] = add_local_gradients(model, pieces, config, processes)
    processes.sum_gradients(model)
    total = weighted_sum(terms, config)
    losses = {name: term.detach() for name, term in terms.items()}
    return losses | {"total": total.detach()} | figures


def cut_batch(batch: Batch, randomness: StepRandomness, slices: list[slice]) -> list[Piece]:
    device = batch.frames.device
    return [Piece(batch.take(rows), randomness.take(rows, device)) for rows in slices]


def see_in_turn(batch: Batch, turn: Turn, config: TrainConfig) -> Batch:
    """A batch as a turn sees it: its rows lack what the turn's terms do not read, and frames are
    seen less often. The place of a frame that is not seen has the one before it.

    A further view is also seen if the turn needs what a method reads off the network with it. A
    row's own video, sound or caption is not: what is read with these is there only if a term needs
    the vector, too.
    """
    methods = rows_of(config)
    needed = needed_vectors(config, turn) | {mark.name for mark in methods.marks}
    needed |= {reading.of for reading in methods.readings if reading.name in needed} - VECTORS
    has = {name: x if name in needed else torch.zeros_like(x) for name, x in batch.has.items()}
    if turn.frame_step == 1:
        return replace(batch, has=has)
    places = torch.arange(batch.frames.shape[1], device=batch.frames.device)
    places = places // turn.frame_step * turn.frame_step
    views = {
        name: x[:, places] if x.ndim == batch.frames.ndim else x for name, x in batch.views.items()
    }
    return replace(batch, has=has, frames=batch.frames[:, places], views=views)


def gather_inputs(
    model: VLSA,
    batch: Batch,
    vectors: Vectors,
    *,
    config: TrainConfig,
    randomness: StepRandomness,
    processes: ProcessGroup,
) -> TermInputs:
    """What the terms read: the vectors of the whole batch, over all processes."""
    return TermInputs(
        model=model,
        vectors={name: processes.gather(x) for name, x in (vectors | batch.boxes).items()},
        has={name: processes.gather(rows) for name, rows in batch.has.items()},
        group_ids=processes.gather(batch.group_ids),
        smoothing=config.smoothing,
        match_shift=randomness.match_shift,
    )


def add_cached_gradients(
    model: VLSA,
    pieces: list[Piece],
    slices: list[slice],
    *,
    loss_terms: Callable[[Vectors], dict[str, Tensor]],
    config: TrainConfig,
    processes: ProcessGroup,
    progress: float,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The gradient by way of the vectors alone, whose gradients methods may combine by a rule.

    Returns the terms, and the figures of the rules.
    """
    one_piece = len(pieces) == 1  # its graph is kept
    with torch.set_grad_enabled(one_piece):
        encoded = [encode_piece(model, piece, config) for piece in pieces]
    vectors = {}
    for name in encoded[0]:
        parts = [part[name].detach() for part in encoded]
        vectors[name] = torch.cat(parts).requires_grad_()
    terms = loss_terms(vectors)
    weighted = {name: x / processes.size for name, x in weigh(terms, config).items()}
    rules = rows_of(config).gradient_rules
    combined = [
        combine_gradients(rule, weighted, vectors, processes=processes, progress=progress)
        for rule in rules
    ]
    (weighted_sum(terms, config) / processes.size).backward()
    figures: dict[str, Tensor] = {}
    for gradients, logged in combined:
        figures |= logged
        for name, gradient in gradients.items():
            vectors[name].grad = gradient
    for rows, piece, part in zip(slices, pieces, encoded, strict=True):
        again = part if one_piece else encode_piece(model, piece, config)
        backpropagate_piece(again, rows, vectors)
    return terms, figures


def combine_gradients(
    rule: GradientRule,
    weighted: Mapping[str, Tensor],
    vectors: Vectors,
    *,
    processes: ProcessGroup,
    progress: float,
) -> tuple[Vectors, dict[str, Tensor]]:
    """What a rule makes of the gradients of weighted terms, over the whole batch.

    `vectors` [b, E] are leaves, this process's rows. Returns the gradient of each, and the rule's
    figures. Neither depends on the pieces that the batch is encoded in, nor on the processes.
    """
    by_term: dict[str, Vectors] = {}
    for name, loss in weighted.items():
        found = torch.autograd.grad(
            loss, list(vectors.values()), retain_graph=True, allow_unused=True
        )
        by_term[name] = {
            vector: processes.gather(x)
            for vector, x in zip(vectors, found, strict=True)
            if x is not None
        }
    combined, figures = rule.combine(by_term, progress)
    gradients = {name: torch.zeros_like(x) for name, x in vectors.items()}
    for name, x in combined.items():
        gradients[name] = x[processes.rank :: processes.size]
    return gradients, figures


def backpropagate_piece(encoded: Vectors, rows: slice, vectors: Vectors) -> None:
    """Hand a piece, just encoded, its rows of the gradient that `vectors` [B, E] hold."""
    outputs = []
    gradients = []
    for name, x in vectors.items():
        if x.grad is not None and encoded[name].requires_grad:
            outputs.append(encoded[name])
            gradients.append(x.grad[rows])
    torch.autograd.backward(outputs, gradients)


def autocast(config: TrainConfig, device: torch.device) -> Any:
    if config.precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def encode_piece(model: VLSA, piece: Piece, config: TrainConfig) -> Vectors:
    """The vectors of each row, [B, E], by the names of `TermInputs.vectors`."""
    batch, randomness = piece

    def encode_view(name: str, of: str, values: Tensor) -> Vectors:
        def encode(rows: Tensor) -> Tensor:
            stretched = of == "audio" and config.spec_augment
            stretches = randomness.stretches[rows] if stretched else None
            return model.embed(of, values[rows], randomness.kept_tokens[name][rows], stretches)

        return encode_with_readings(model, name, batch, values=values, encode=encode, config=config)

    with autocast(config, batch.frames.device):
        if config.pool_from == "joint":
            return encode_jointly(model, batch)
        vectors = encode_view("video", "video", batch.frames)
        vectors |= encode_view("audio", "audio", batch.waveforms)
        for view in rows_of(config).views:
            vectors |= encode_view(view.name, view.of, batch.views[view.name])
        return vectors | encode_texts(model, batch, config)


def encode_texts(model: VLSA, batch: Batch, config: TrainConfig) -> Vectors:
    """The texts of all rows at once; each distinct one is encoded once.

    Names are there whether or not any row has such a text: pieces of a batch have the same.
    """
    texts = batch.all_texts
    words = torch.cat(list(texts.values()))  # [texts * B, T]
    has_words = torch.cat([batch.has[name] for name in texts])  # [texts * B]
    distinct, index = torch.unique(words[has_words], dim=0, return_inverse=True)
    encoded: Tensor | None = None
    sentences: Tensor | None = None
    if has_words.any():
        encoded, sentences = model.encode_text(distinct)

    def spread(found: Tensor | None, width: int) -> Vectors:
        """What each distinct text has, [n, width], as [B, width] of every row, by text."""
        by_row = encode_rows(has_words, width, lambda _: found[index])  # type: ignore[index]
        return dict(zip(texts, by_row.chunk(len(texts)), strict=True))

    vectors = spread(encoded, model.config.dim)
    wanted = needed_vectors(config).intersection(SENTENCES.values())
    if wanted and config.encoder.text_stem == "minilm":
        by_text = spread(sentences, language.WIDTH)
        vectors |= {
            SENTENCES[name]: x for name, x in by_text.items() if SENTENCES.get(name) in wanted
        }
    for reading in rows_of(config).readings:
        if reading.of in texts:
            read = None
            if encoded is not None:
                rows = Encoded(inputs=distinct, vectors=encoded, captions={}, has={})
                read = reading.read(model, rows)
            vectors[reading.name] = spread(read, reading.width(model.config))[reading.of]
    return vectors


def encode_with_readings(
    model: VLSA,
    name: str,
    batch: Batch,
    *,
    values: Tensor,
    encode: Callable[[Tensor], Tensor],
    config: TrainConfig,
) -> Vectors:
    """The vectors `name` [B, E], and what methods read off the network for them, see `Reading`.

    `values` are the inputs, of which `encode` encodes some rows.
    """
    readings = [reading for reading in rows_of(config).readings if reading.of == name]
    widths = [model.config.dim, *(reading.width(model.config) for reading in readings)]

    def encode_and_read(rows: Tensor) -> Tensor:
        vectors = encode(rows).float()
        if not readings:
            return vectors
        encoded = Encoded(
            inputs=values[rows],
            vectors=vectors,
            captions={text: x[rows] for text, x in batch.all_texts.items()},
            has={known: x[rows] for known, x in batch.has.items()},
        )
        return torch.cat([vectors, *(reading.read(model, encoded) for reading in readings)], dim=1)

    found = encode_rows(batch.has[name], sum(widths), encode_and_read).split(widths, dim=1)
    return dict(zip([name, *(reading.name for reading in readings)], found, strict=True))


def encode_rows(has: Tensor, dim: int, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """Float32 [B, dim]: what `encode` makes of the rows that have it, bool [B], among zeros.

    `encode` takes the indices of those rows. Nothing is computed for the others.
    """
    rows = has.nonzero().squeeze(1)
    blank = torch.zeros(len(has), dim, device=has.device)
    return blank.index_put((rows,), encode(rows).float()) if len(rows) else blank


def encode_jointly(model: VLSA, batch: Batch) -> Vectors:
    """Vectors [B, E] pooled from one pass over everything that a row has.

    Each of them has seen its partners. This is here to show cross-modal leakage in the ablation; it
    is no way to train.
    """
    inputs = {
        "video": ("video", batch.frames),
        "audio": ("audio", batch.waveforms),
        "video_caption": ("text", batch.video_caption),
        "audio_caption": ("text", batch.audio_caption),
    }
    vectors = model.encode_together(
        [(modality, x, batch.has[name]) for name, (modality, x) in inputs.items()]
    )
    return {name: x.float() for name, x in zip(inputs, vectors, strict=True)}


class JointInputs(NamedTuple):
    """The rows of a piece that go through the joint pass, by modality."""

    values: dict[str, Tensor]  # uint8 [B, F, H, W, 3], float32 [B, samples], int64 [B, T]
    present: dict[str, Tensor]  # bool [B]
    mask_noise: dict[str, Tensor]  # uniform [B, T]


def select_joint_inputs(piece: Piece) -> JointInputs | None:
    """The rows of a piece that go through the joint pass; None if there are none.

    The text of a row is its caption about the video, or else the one about the audio.
    """
    rows = piece.randomness.in_joint_pass.nonzero().squeeze(1).tolist()
    if not rows:
        return None
    batch = piece.batch.take(rows)
    has = batch.has
    text = torch.where(has["video_caption"][:, None], batch.video_caption, batch.audio_caption)
    has_text = has["video_caption"] | has["audio_caption"]
    return JointInputs(
        values={"video": batch.frames, "audio": batch.waveforms, "text": text},
        present={"video": has["video"], "audio": has["audio"], "text": has_text},
        mask_noise=piece.randomness.take(rows, batch.frames.device).mask_noise,
    )


def add_local_gradients(
    model: VLSA, pieces: list[Piece], config: TrainConfig, processes: ProcessGroup
) -> Tensor:
    """Masked modelling over the rows drawn for it, piece by piece.

    Adds the gradient to the model's. Returns the loss over the whole batch, a scalar.
    """
    device = pieces[0].batch.frames.device
    jobs = [inputs for inputs in map(select_joint_inputs, pieces) if inputs is not None]
    hidden = torch.zeros(len(MODALITIES), device=device)  # tokens of the whole batch
    for inputs in jobs:
        hidden += model.hidden_counts(inputs.values, inputs.present)
    hidden = processes.sum(hidden).clamp(min=1.0)
    loss = torch.zeros((), device=device)
    for inputs in jobs:
        with autocast(config, device):
            masked = model.masked(*inputs)
        part = (local_sums(masked, config.encoder.normalise_targets) / hidden).sum()
        (config.local_weight * part).backward()
        loss += part.detach()
    return processes.sum(loss)
