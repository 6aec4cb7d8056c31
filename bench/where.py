"""Whether the peak of the map lies where the query is: pictures composed of four real frames, and
four sounds one after another, of different labels.

    python -m bench.where VIDEOS SOUNDS [--count 60] [--seed 0]

VIDEOS and SOUNDS are manifests whose rows have a text, the label. The four labels, a clip of each
and the label that is asked for are drawn by the seed. Of a clip, the frame in its middle is taken,
and of a sound its loudest quarter of a window. Chance is a quarter. The peak is the middle of the
cell with the highest score; on a line between quarters it lies in none.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from export.encoder import OnnxEncoder
from media.containers import Budget
from media.errors import BadMedia
from media.manifest import read_manifest
from media.sound import read_sound

BUDGET = Budget(seconds=900.0, frames=200_000, samples=900 * 48_000)
LOUD_S = 0.05  # stretches whose loudness is compared


def read_labels(manifest: Path) -> dict[str, list[Path]]:
    """The files of each label."""
    found: dict[str, list[Path]] = defaultdict(list)
    for row in read_manifest(manifest):
        for said in row.captions[:1]:
            if row.path:
                found[said.text].append(row.path)
    return dict(found)


def middle_frame(path: Path, side: int) -> NDArray[np.uint8] | None:
    """The frame in the middle of a file, as a square."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    if not frames:
        return None
    frame = frames[len(frames) // 2]
    small = frame.reformat(width=side, height=side, format="rgb24", interpolation="AREA")
    return np.asarray(small.to_ndarray(), np.uint8)


def loudest(path: Path, rate: int, samples: int) -> NDArray[np.float32] | None:
    """The loudest so many samples of a file; None where it has fewer."""
    try:
        sound = read_sound(path, rate, BUDGET)
    except BadMedia:
        return None
    if sound is None or len(sound.waveform) < samples:
        return None
    power = np.concatenate([[0.0], np.cumsum(sound.waveform.astype(np.float64) ** 2)])
    starts = np.arange(0, len(sound.waveform) - samples + 1, round(LOUD_S * rate))
    start = int(starts[(power[starts + samples] - power[starts]).argmax()])
    return sound.waveform[start : start + samples]


def quarter(row: int, column: int, rows: int, columns: int) -> int | None:
    """Which quarter of a picture a cell's middle lies in, from the top left on; None for a cell
    that lies on a line between two.
    """
    down, across = (row + 0.5) / rows, (column + 0.5) / columns
    if 0.5 in (down, across):
        return None
    return 2 * (down > 0.5) + (across > 0.5)


def find_in_picture(
    encoder: OnnxEncoder, frames: list[NDArray[np.uint8]], query: NDArray[np.float32]
) -> int | None:
    whole = np.concatenate([np.concatenate(frames[:2], 1), np.concatenate(frames[2:], 1)], 0)
    spec = encoder.manifest.inputs.video
    assert spec is not None
    scores = encoder.see_cells("video", np.repeat(whole[None], spec.frames, 0)).vectors[0] @ query
    row, column = np.unravel_index(scores.argmax(), scores.shape)
    return quarter(int(row), int(column), *scores.shape)


def find_in_sound(
    encoder: OnnxEncoder, sounds: list[NDArray[np.float32]], query: NDArray[np.float32]
) -> int:
    heard = encoder.hear_cells("audio", np.concatenate(sounds))
    at = int((heard.vectors @ query).max(axis=0).argmax())
    return int(4 * heard.times_s[at] / encoder.manifest.inputs.window_s)


def measure(
    encoder: OnnxEncoder, labels: dict[str, list[Path]], modality: str, count: int, seed: int
) -> float:
    """The share of compositions where the peak lies in the query's quarter."""
    random, names = np.random.default_rng(seed), sorted(labels)
    video, audio = encoder.manifest.inputs.video, encoder.manifest.inputs.audio
    assert video is not None and audio is not None
    right: list[bool] = []
    while len(right) < count:
        chosen = [names[k] for k in random.choice(len(names), 4, replace=False)]
        paths = [labels[name][random.integers(len(labels[name]))] for name in chosen]
        asked = int(random.integers(4))
        tokens = encoder.tokens([chosen[asked]], "text")
        query = encoder.embed("text", tokens)[0]
        if modality == "video":
            frames = [middle_frame(path, video.size // 2) for path in paths]
            if any(frame is None for frame in frames):
                continue
            place = find_in_picture(encoder, [f for f in frames if f is not None], query)
        else:
            sounds = [loudest(path, audio.sample_rate, audio.samples // 4) for path in paths]
            if any(sound is None for sound in sounds):
                continue
            place = find_in_sound(encoder, [s for s in sounds if s is not None], query)
        right.append(place == asked)
    return float(np.mean(right))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", type=Path)
    parser.add_argument("sounds", type=Path)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/default"))
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    encoder = OnnxEncoder.open(args.bundle)
    for modality, manifest in (("video", args.videos), ("audio", args.sounds)):
        labels = read_labels(manifest)
        share = measure(encoder, labels, modality, args.count, args.seed)
        what = "pictures of four frames" if modality == "video" else "four sounds in turn"
        print(
            f"{what}: the peak lies in the query's quarter {share:.3f} of {args.count} times;"
            f" {len(labels)} labels; chance 0.250"
        )


if __name__ == "__main__":
    main()
