"""The losses, as pure functions of tensors, and the table of the terms of the objective.

B batch, E embedding, S sentence embedding, T tokens, P values in a patch.

The objective is L = w_local L_local + w_global L_global + w_distillation L_distillation. The first
two terms are VLSA's (arXiv 2405.07202, weights 1 and 5); the third is ours. A new term over the
vectors of a batch is a row of `TERMS`, a function, and its weight in `TrainConfig`. Methods add
rows of their own, see `tables`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from media.errors import BadConfig

from ..config import TrainConfig
from ..network.transformer import VLSA, Masked
from .tables import SENTENCES, VECTORS, LossTerm, Turn, rows_of

LOCAL = "local"  # the name of masked modelling, the one term that no vectors are needed for


def info_nce(
    a: Tensor, b: Tensor, scale: Tensor | float, group_ids: Tensor, smoothing: float = 0.0
) -> Tensor:
    """Symmetric in-batch InfoNCE between unit vectors a and b, [B, E]; a scalar.

    VLSA's global audio matching (2405.07202), after van den Oord et al. (1807.03748):
    L = -1/2 mean_i (log softmax_j(scale a_i.b_j)[i] + log softmax_j(scale b_i.a_j)[i]).

    Rows of one group, int64 [B], mean the same. The target of a row is therefore spread evenly
    over its group; then a share of `smoothing` is spread over all rows.

    >>> a = torch.eye(2)
    >>> round(info_nce(a, a, 1.0, torch.arange(2)).item(), 4)  # log(1 + e^-1)
    0.3133
    """
    return contrast_logits(scale * a @ b.T, group_ids, smoothing)


def contrast_logits(logits: Tensor, group_ids: Tensor, smoothing: float = 0.0) -> Tensor:
    """`info_nce` of logits [B, B] that are there already, of any likeness; a scalar."""
    same = (group_ids[:, None] == group_ids[None]).to(logits.dtype)
    target = same / same.sum(1, keepdim=True)
    target = (1 - smoothing) * target + smoothing / len(logits)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def matching(head: nn.Module, a: Tensor, b: Tensor, group_ids: Tensor, shift: float) -> Tensor:
    """Binary cross-entropy of a head that tells true pairs from replaced ones; a scalar.

    VLSA's matching loss (2405.07202): linear and sigmoid, one side of a pair replaced. Vectors a
    and b are [B, E], `head` takes [B, E] to [B, 1]. The replaced pairs take each b from a row
    further on; `shift` in [0, 1) says how far, from 1 to B - 1 rows. Both sides of a replaced pair
    may lie in one group, int64 [B]: then it counts as true.

    A pair is fused by its elementwise product (ours). No other input of a linear head depends on
    both sides.

    >>> head = nn.Linear(2, 1)
    >>> _ = nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
    >>> loss = matching(head, torch.eye(2), torch.eye(2), torch.arange(2), shift=0.0)
    >>> round(loss.item(), 4)  # log 2: the head knows nothing
    0.6931
    """
    rows = 1 + int(shift * (len(a) - 1))
    logits = torch.cat([head(a * b), head(a * b.roll(rows, 0))]).squeeze(-1)  # [2B]
    same_group = (group_ids == group_ids.roll(rows, 0)).to(group_ids.dtype)
    labels = torch.cat([torch.ones_like(group_ids), same_group])
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def relational_distillation(vectors: Tensor, sentences: Tensor) -> Tensor:
    """How differently two sets of unit vectors, [B, E] and [B, S], lie among themselves; a scalar.

    The mean over the pairs i != j of (v_i.v_j - s_i.s_j)^2: relational knowledge distillation
    (Park et al., 1904.05068), with angles at the origin.

    >>> same_sentence = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> relational_distillation(torch.eye(2), same_sentence).item()  # (0 - 1)^2
    1.0
    """
    squares = (vectors @ vectors.T - sentences @ sentences.T).square()  # [B, B]
    n = len(vectors)
    return squares.sum() / max(1, n * (n - 1))


# ---------------------------------------------------------------- masked modelling


def masked_patches(part: Masked, normalise: bool) -> Tensor:
    """The mean squared error of each masked patch, summed over all of them; a scalar.

    VLSA's L_v and L_a (2405.07202) before the division by the number of masked patches.
    Predictions and targets are [B, T, P]. `normalise` brings each target patch to mean 0 and
    variance 1 first (MAE, 2111.06377).
    """
    target = part.target
    if normalise:
        deviation = (target.var(-1, keepdim=True) + 1e-6).sqrt()
        target = (target - target.mean(-1, keepdim=True)) / deviation
    error = (part.predicted.float() - target).square().mean(-1)  # [B, T]
    return (error * part.masked).sum()


def masked_tokens(part: Masked) -> Tensor:
    """The cross-entropy of each masked token, summed over all of them; a scalar.

    VLSA's L_t (2405.07202) before the division by the number of masked tokens. Predictions are
    [B, T, vocabulary], targets int64 [B, T].
    """
    predicted = part.predicted[part.masked].float()
    return F.cross_entropy(predicted, part.target[part.masked], reduction="sum")


def local_sums(parts: Mapping[str, Masked], normalise: bool) -> Tensor:
    """The masked losses of video, audio and text, each summed over its masked tokens; [3].

    VLSA's L_local = L_v + L_a + L_t (2405.07202) has their means. The sums are divided by the
    counts of the whole batch, which may be encoded in several pieces.
    """
    return torch.stack(
        [
            masked_patches(parts["video"], normalise),
            masked_patches(parts["audio"], normalise),
            masked_tokens(parts["text"]),
        ]
    )


# ---------------------------------------------------------------- the table of terms


class Pairs(NamedTuple):
    """Rows that have two things: their vectors [B, E], and their groups."""

    a: Tensor
    b: Tensor
    group_ids: Tensor  # int64 [B]


@dataclass(frozen=True, kw_only=True)
class TermInputs:
    """What a term may read: the vectors of the whole batch, and what belongs to the step.

    `vectors` holds "video", "audio", "video_caption" and "audio_caption", [B, E]. With a frozen
    language model it may hold "sentence" and "video_sentence", that model's vectors of the audio
    and of the video captions, [B, S]. Methods add others. Rows that lack something are zeros.
    """

    model: VLSA  # for its temperature and its matching heads
    vectors: Mapping[str, Tensor]
    has: Mapping[str, Tensor]  # bool [B] by the names above, the sentences left out
    group_ids: Tensor  # int64 [B]: rows of one group mean the same
    smoothing: float
    match_shift: float  # uniform in [0, 1), see `matching`

    pairs: dict[tuple[str, str], Pairs | None] = field(default_factory=dict)  # see `select_pairs`

    def select_pairs(self, a: str, b: str) -> Pairs | None:
        """The rows that have both a and b; None if fewer than two have.

        Terms over the same two share what was selected first. Gradients are then summed in one
        order, whatever other terms there are.
        """
        if (a, b) not in self.pairs:
            both = self.has[a] & self.has[b]
            selected = Pairs(self.vectors[a][both], self.vectors[b][both], self.group_ids[both])
            self.pairs[a, b] = selected if both.sum() >= 2 else None
        return self.pairs[a, b]

    def select(self, *names: str) -> tuple[list[Tensor], Tensor] | None:
        """The vectors [n, E] of the rows that have all of these, and their groups int64 [n]; None
        if fewer than two have.
        """
        having = torch.stack([self.has[name] for name in names]).all(0)
        if having.sum() < 2:
            return None
        return [self.vectors[name][having] for name in names], self.group_ids[having]


def contrast_term(inputs: TermInputs, a: str, b: str) -> Tensor | None:
    pairs = inputs.select_pairs(a, b)
    if pairs is None:
        return None
    return info_nce(pairs.a, pairs.b, inputs.model.scale, pairs.group_ids, inputs.smoothing)


def matching_term(inputs: TermInputs, a: str, b: str, *, head: str) -> Tensor | None:
    pairs = inputs.select_pairs(a, b)
    if pairs is None:
        return None
    match_head = inputs.model.match[head]
    return matching(match_head, pairs.a, pairs.b, pairs.group_ids, inputs.match_shift)


def distillation_term(inputs: TermInputs, audio: str, caption: str, sentence: str) -> Tensor:
    """Over rows without a picture: the world's captions are too alike for a language model."""
    captioned = inputs.has[caption] & ~inputs.has["video"]
    heard = captioned & inputs.has[audio]
    vectors = torch.cat([inputs.vectors[caption][captioned], inputs.vectors[audio][heard]])
    sentences = inputs.vectors[sentence]
    return relational_distillation(vectors, torch.cat([sentences[captioned], sentences[heard]]))


TERMS = (
    LossTerm(
        name="audio_video",
        needs=("audio", "video"),
        weight="global_weight",
        loss=contrast_term,
    ),
    LossTerm(
        name="audio_video_match",
        needs=("audio", "video"),
        weight="global_weight",
        loss=partial(matching_term, head="audio_video"),
    ),
    LossTerm(
        name="audio_text",
        needs=("audio", "audio_caption"),
        weight="global_weight",
        loss=contrast_term,
    ),
    LossTerm(
        name="audio_text_match",
        needs=("audio", "audio_caption"),
        weight="global_weight",
        loss=partial(matching_term, head="audio_text"),
    ),
    LossTerm(
        name="video_text",  # (ours) the paper aligns video and text through audio only
        needs=("video", "video_caption"),
        weight="global_weight",
        switch="video_text",
        loss=contrast_term,
    ),
    LossTerm(
        name="relational_distillation",  # (ours)
        needs=("audio", "audio_caption", "sentence"),
        weight="relational_distillation_weight",
        loss=distillation_term,
    ),
)


def terms_on(config: TrainConfig) -> list[LossTerm]:
    """The terms of a recipe: those of the table that are on, and those of its methods.

    Raises:
        BadConfig: a method's term has a name of the table, replaces one that is not on or that
            another one replaces, or reads what vectors of a joint pass lack; or a rule names a term
            that there is not.
    """
    on = [term for term in TERMS if term.is_on(config)]
    added = rows_of(config).terms
    check_rules(config)
    if not added:
        return on
    names = {term.name for term in on}
    replacing = Counter(name for term in added for name in term.replaces)
    replaced = set(replacing)
    if replaced - names:
        raise BadConfig(f"{', '.join(sorted(replaced - names))} cannot be replaced: it is not on")
    twice = sorted(name for name, count in replacing.items() if count > 1)
    if twice:
        takers = [term.name for term in added if not replaced.isdisjoint(term.replaces)]
        raise BadConfig(
            f"two methods take the place of {', '.join(twice)}; those that take a place are "
            f"{', '.join(takers)}"
        )
    if config.pool_from == "joint":
        beyond = [term.name for term in added if not VECTORS.issuperset(term.needs)]
        if beyond:
            raise BadConfig(f"pool_from 'joint' has no vectors for {', '.join(beyond)}")
    sentences = {name for term in added for name in term.needs} & set(SENTENCES.values())
    if sentences and config.encoder.text_stem != "minilm":
        raise BadConfig("a method needs a frozen language model: text_stem 'minilm'")
    if {term.name for term in added} & {*names, LOCAL}:
        raise BadConfig("a method's term has the name of one of the core's")
    return [*(term for term in on if term.name not in replaced), *added]


def check_rules(config: TrainConfig) -> None:
    """Raises BadConfig: a rule for gradients names a term that there is not, on or off."""
    methods = rows_of(config)
    known = {term.name for term in (*TERMS, *methods.terms)}
    named = {name for rule in methods.gradient_rules for name in rule.terms}
    if named - known:
        raise BadConfig(
            f"a rule names {', '.join(sorted(named - known))}; there are: "
            f"{', '.join(sorted(known))}"
        )


def check_turns(config: TrainConfig) -> None:
    """Raises BadConfig: a turn names a term that is not on, or no turn names one that is."""
    on = {term.name for term in terms_on(config)}
    turns = rows_of(config).turns
    if not turns:
        return
    named = {name for turn in turns for name in turn.terms}
    local = {LOCAL} if masks(config) else set()
    if named - on - local:
        unknown = ", ".join(sorted(named - on - local))
        there = ", ".join(sorted(on | local))
        raise BadConfig(f"a turn names {unknown}, which is not on; what is on: {there}")
    if on - named:
        raise BadConfig(f"no turn names {', '.join(sorted(on - named))}")


def terms_in(config: TrainConfig, turn: Turn | None) -> list[LossTerm]:
    """The terms of a step; `turn` is None where all steps do the same."""
    return [term for term in terms_on(config) if turn is None or term.name in turn.terms]


def masks(config: TrainConfig, turn: Turn | None = None) -> bool:
    """Whether masked modelling is part of a step."""
    if not (config.local_weight and config.local_share):
        return False
    named = any(LOCAL in other.terms for other in rows_of(config).turns)
    return turn is None or not named or LOCAL in turn.terms


def needed_vectors(config: TrainConfig, turn: Turn | None = None) -> set[str]:
    """The names of the vectors that the terms of a step read; empty without such terms."""
    return {name for term in terms_in(config, turn) for name in term.needs}


def compute_terms(
    inputs: TermInputs, config: TrainConfig, turn: Turn | None = None
) -> dict[str, Tensor]:
    """Every term of a step over the vectors of the whole batch, a scalar each, unweighted.

    Terms that are off, and those without rows to compute them from, are left out.
    """
    terms = {}
    for term in terms_in(config, turn):
        if any(name not in inputs.vectors for name in term.needs):
            continue
        loss = term.loss(inputs, *term.needs)
        if loss is not None:
            terms[term.name] = loss
    return terms


def weighted_sum(terms: Mapping[str, Tensor], config: TrainConfig) -> Tensor:
    """The objective: every term times its weight, summed; a scalar.

    Raises:
        KeyError: a term that is not in the table.
    """
    parts = list(weigh(terms, config).values())
    return torch.stack(parts).sum() if parts else torch.zeros((), requires_grad=True)


def weigh(terms: Mapping[str, Tensor], config: TrainConfig) -> dict[str, Tensor]:
    """Every term times its weight. Raises KeyError: a term that is not in the table."""
    known = (*TERMS, *rows_of(config).terms)
    weights = {term.name: term.weight_in(config) for term in known}
    weights[LOCAL] = config.local_weight
    return {name: weights[name] * term for name, term in terms.items()}
