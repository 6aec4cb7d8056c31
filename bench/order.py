"""Whether a bundle hears which of two sounds comes first, and which is in the background.

    python -m bench.order [--bundle bundles/default] [--data ../shared/data]

240 groups of two sounds of ESC-10's fold 5, put together both ways round, and their two texts. They
are scored as Winoground scores pictures: a group is right when both texts find their sound and both
sounds their text, which chance does in 0.17 of the cases. "Whole" are the vectors of windows and of
texts. "Halves, bound" has each half of a window and each side of "then" encoded alone, and bound
into one vector (`evaluation.composed.bind`). "Foreground" has the text before "with" alone.

The last lines have what a search for sounds by captions loses where windows are bound halves.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.real_bed import draw_groups, esc10
from evaluation.composed import COMPOSITIONS, bind, score_groups, split_in_order
from evaluation.retrieval import Embedder, Gallery, build_routes, summarise
from export.encoder import OnnxEncoder
from media.containers import Budget
from media.manifest import Row, read_manifest
from media.modality import AUDIO, TEXT
from media.windows import read_media

PAGE = 16  # sounds at once
BEHIND = ", with "  # what begins the background in a text, see `evaluation.composed`
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Ear:
    """What a bundle makes of sounds [n, samples] and of texts: unit vectors [n, E]."""

    encoder: OnnxEncoder

    def hear(self, sounds: NDArray[np.float32]) -> Vectors:
        pages = [sounds[at : at + PAGE] for at in range(0, len(sounds), PAGE)]
        return np.concatenate([self.encoder.embed(AUDIO, page) for page in pages])

    def hear_halves(self, sounds: NDArray[np.float32]) -> Vectors:
        """Each half alone, with silence after it, and the two bound."""
        middle = sounds.shape[1] // 2
        first, second = np.zeros_like(sounds), np.zeros_like(sounds)
        first[:, :middle] = sounds[:, :middle]
        second[:, : sounds.shape[1] - middle] = sounds[:, middle:]
        return bind(self.hear(first), self.hear(second))

    def read(self, texts: Sequence[str]) -> Vectors:
        pages = [texts[at : at + PAGE] for at in range(0, len(texts), PAGE)]
        return np.concatenate(
            [self.encoder.embed(TEXT, self.encoder.tokens(list(page), TEXT)) for page in pages]
        )

    def read_halves(self, texts: Sequence[str]) -> Vectors:
        """The sides of what says an order, bound. What says none is bound with itself."""
        sides = [split_in_order(text) or (text, text) for text in texts]
        firsts, seconds = zip(*sides, strict=True)
        return bind(self.read(firsts), self.read(seconds))


def first_window(path: Path, encoder: OnnxEncoder) -> NDArray[np.float32]:
    parts = read_media(path, encoder.manifest.inputs, Budget(), (AUDIO,)).parts
    return np.asarray(parts[AUDIO].array[0], np.float32)


def compose(data: Path, encoder: OnnxEncoder, kind: str) -> tuple[NDArray[np.float32], list[str]]:
    """The sounds [2 groups, samples] and the texts of a kind of composition."""
    rows = [row for row in esc10(data) if row["fold"] == 5]
    groups, members = draw_groups(rows)
    sounds = [first_window(row["path"], encoder) for row in rows]
    put = COMPOSITIONS[kind].put
    composed = np.stack([put(sounds[i], sounds[j]) for i, j in members])
    return composed, [text for group in groups for text in group["texts"][kind]]


def score(heard: Vectors, said: Vectors) -> dict[str, float]:
    sounds, texts = (x.reshape(-1, 2, x.shape[-1]) for x in (heard, said))
    return score_groups(sounds @ texts.transpose(0, 2, 1))


def read_windows(
    rows: list[Row], encoder: OnnxEncoder
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """The windows of rows' sounds [n, samples]; of which row each is, and its number, [n]."""
    sounds: list[NDArray[Any]] = []
    owners: list[int] = []
    windows: list[int] = []
    for number, row in enumerate(rows):
        assert row.path is not None
        part = read_media(row.path, encoder.manifest.inputs, Budget(), (AUDIO,)).parts[AUDIO]
        sounds += list(part.array)
        owners += [number] * len(part.windows)
        windows += part.windows
    return np.stack(sounds), np.array(owners, np.int64), np.array(windows, np.int64)


def recall(ear: Ear, rows: list[Row]) -> dict[str, str]:
    """Text-audio by whole windows and by bound halves; every caption is a query."""
    sounds, owners, windows = read_windows(rows, ear.encoder)
    found = {}
    for name, hear, read in (
        ("whole", ear.hear, ear.read),
        ("halves, bound", ear.hear_halves, ear.read_halves),
    ):
        gallery = Gallery(rows, hear(sounds), owners, windows)
        space = Embedder(lambda _, texts, read=read: read(texts.tolist()), np.array)
        routes = build_routes(space, {AUDIO: gallery}, every_caption=True)
        by_words = summarise(routes)["text-audio"]
        found[name] = f"R@1 {by_words['R@1']:.3f}, R@10 {by_words['R@10']:.3f}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.order",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", type=Path, default=Path("bundles/default"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    ear = Ear(OnnxEncoder.open(args.bundle, threads=args.threads))
    sounds, texts = compose(args.data, ear.encoder, "order")
    lines = {
        "order, whole": score(ear.hear(sounds), ear.read(texts)),
        "order, halves, bound": score(ear.hear_halves(sounds), ear.read_halves(texts)),
    }
    sounds, texts = compose(args.data, ear.encoder, "attribute")
    heard = ear.hear(sounds)
    loud = [text.partition(BEHIND)[0] for text in texts]
    lines["attribute, whole"] = score(heard, ear.read(texts))
    lines["attribute, foreground"] = score(heard, ear.read(loud))
    for name, found in lines.items():
        print(name, ", ".join(f"{what} {value:.3f}" for what, value in found.items()))
    for name, said in recall(ear, read_manifest(args.data / "real/sound-captions.jsonl")).items():
        print("text-audio,", name, said)


if __name__ == "__main__":
    main()
