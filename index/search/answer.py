"""What a search answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..calibration import Calibration
from ..tagging import TagMoment


@dataclass(slots=True)
class Moment:
    """Neighbouring windows that match, merged; the score is the best of them. Of words in a file,
    `text` is what is said or shown then.
    """

    start_s: float
    end_s: float
    score: float
    text: str | None = None


@dataclass(slots=True, kw_only=True)
class Hit:
    """An item that matches.

    `score`, `start_s` and `end_s` are its best moment's. `scores` has that moment's best window in
    each modality, `evidence` each modality's own best moment, `moments` all moments of the target.
    `confidence` is None where the collection is too small to tell. `text` has the words that
    matched, if they are of a file: of its subtitles, say. `shown_s` is the second from which the
    picture of the best window comes; None where there is none, or it is not known.
    """

    id: str
    kind: str
    duration_s: float
    filename: str | None
    modalities: list[str]
    score: float
    confidence: float | None
    target: str
    start_s: float
    end_s: float
    scores: dict[str, float]
    evidence: dict[str, Moment]
    metadata: dict[str, Any]
    moments: list[Moment]
    # What each part of a composed query contributes to the best window's score.
    parts: list[float] | None = None
    text: str | None = None
    shown_s: float | None = None
    # What the item shows and sounds like, the surest first, if it is asked for.
    tags: list[TagMoment] | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a search was answered.

    `exact`: nothing can have been missed, and no rounded vector left anything out. `candidates`
    counts the windows that were searched, `compared` the vectors or codes that were compared.
    `ways`: "scan" compared every vector that may be found, "codes", "lists" and "graph" some of
    them, "words" found passages by the query's words, and "milvus" does not say. `learned`: the
    query was moved by what was learned from kept marks.
    """

    exact: bool
    candidates: int
    ways: list[str]
    compared: int
    learned: bool = False


@dataclass(frozen=True)
class Answer:
    """`good_match` says whether any hit stands out from the best that queries find which nothing
    matches; None where that cannot be told. Calibrations are by target modality.
    """

    hits: list[Hit]
    plan: Plan
    good_match: bool | None
    calibration: dict[str, Calibration] = field(default_factory=dict)
