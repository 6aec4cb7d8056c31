"""The kinds of input that an encoder takes: one table, a row for each.

docs/contributing.md lists what a new modality needs beside its row here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

VIDEO = "video"
AUDIO = "audio"
TEXT = "text"


class Spec(Protocol):
    """How inputs of one modality are prepared. It also makes inputs to check bundles with.

    `VideoSpec`, `AudioSpec` and `TextSpec` implement it. They are written into a bundle's manifest.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch; -1 stands for any length."""
        ...

    @property
    def tokens(self) -> int:
        """About how many tokens the encoder makes of one input; of a text the most."""
        ...

    def golden_input(self, n: int) -> NDArray[Any]:
        """Inputs [n, ...] by formula: the same numbers on every machine and in every version."""
        ...

    def random_inputs(self, n: int, random: np.random.Generator) -> Sequence[Any]:
        """`n` random inputs: arrays [n, ...], or texts of differing lengths."""
        ...

    def odd_inputs(self) -> list[Any]:
        """Inputs beside which others may come off badly in a batch: empty, extreme, very long."""
        ...


@dataclass(frozen=True, kw_only=True)
class Modality:
    """What differs between modalities and does not depend on a bundle."""

    name: str
    graph_input: str  # the name of the input of its graphs
    dtype: type[np.generic]  # of that input
    stored_dtype: type[np.generic]  # of clips that evaluation and training keep on disk
    recorded: bool  # read from files in windows; a text is not
    queue_rank: int  # the service encodes waiting inputs of the lowest rank first
    batch_wait_us: int  # how long Triton lets a batch wait to fill up, in microseconds


MODALITY_TABLE = {
    row.name: row
    for row in (
        Modality(
            name=VIDEO,
            graph_input="frames",
            dtype=np.uint8,
            stored_dtype=np.uint8,
            recorded=True,
            queue_rank=2,
            batch_wait_us=4000,
        ),
        Modality(
            name=AUDIO,
            graph_input="waveform",
            dtype=np.float32,
            stored_dtype=np.float16,
            recorded=True,
            queue_rank=1,
            batch_wait_us=4000,
        ),
        Modality(
            name=TEXT,
            graph_input="tokens",
            dtype=np.int64,
            stored_dtype=np.int64,
            recorded=False,
            queue_rank=0,
            batch_wait_us=500,
        ),
    )
}
MODALITIES = tuple(MODALITY_TABLE)
RECORDED = tuple(row.name for row in MODALITY_TABLE.values() if row.recorded)
