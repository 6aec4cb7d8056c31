"""Whether the first highlight of a film is what happens in it once: a clip amid ten minutes of
another clip, looped.

    python -m bench.highlights MANIFEST [--films 200] [--real 8] [--seed 0]

Both clips and the place are drawn by the seed. Films are put together from the vectors of the
clips' windows. Some real films beside them are written, decoded and encoded; in these the clip
begins at any time, off the grid of windows. It is found if at least half of the first highlight
lies in it, or at least half of it in the highlight. Chance is the share of found ones when the same
highlight begins at any time of the film.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from export.bundle import EQUAL_WEIGHT
from export.encoder import OnnxEncoder
from index.highlights import Highlight, activate, choose
from index.records.item import WindowVectors
from media.containers import Budget
from media.errors import BadMedia
from media.manifest import read_manifest
from media.sound import read_sound
from media.windows import DecodeOptions, Media, decode_media

FILM_S = 600.0
SHORTEST_S = 4.0  # of a clip
FPS, WIDTH, HEIGHT, RATE = 8, 256, 192, 16_000
DRAWS = 400  # places of the same highlight, for chance
BUDGET = Budget(seconds=900.0, frames=200_000, samples=900 * 48_000)


@dataclass(frozen=True)
class Clip:
    """A clip's length, and its windows' vectors by modality: {window: [dim]}."""

    path: Path
    duration_s: float
    count: int
    vectors: dict[str, dict[int, NDArray[np.float32]]]


def encode(encoder: OnnxEncoder, media: Media) -> dict[str, WindowVectors]:
    found = {}
    spans = np.array(media.windows)
    for modality, part in media.parts.items():
        plain = np.isin(part.windows, list(part.empty)) & (modality == "video")
        vectors = np.concatenate(
            [
                encoder.embed(modality, part.array[at : at + 8])
                for at in range(0, len(part.array), 8)
            ]
        )
        found[modality] = WindowVectors(spans[part.windows], plain, vectors)
    return found


def read_clips(manifest: Path, encoder: OnnxEncoder) -> list[Clip]:
    clips = []
    options = DecodeOptions(specs=encoder.manifest.inputs, budget=BUDGET, previews=True)
    for path in dict.fromkeys(row.path for row in read_manifest(manifest) if row.path):
        try:
            media = decode_media(path, options)
        except BadMedia:
            continue
        if media.duration_s < SHORTEST_S or "video" not in media.parts:
            continue
        vectors = {
            modality: dict(zip(part.windows, encoder.embed(modality, part.array), strict=True))
            for modality, part in media.parts.items()
        }
        clips.append(Clip(path, media.duration_s, len(media.windows), vectors))
    return clips


def stored_film(
    looped: Clip, inserted: Clip, random: np.random.Generator, window_s: float
) -> tuple[dict[str, WindowVectors], tuple[float, float]]:
    """The windows of a film of stored vectors, and where the inserted clip lies in it."""
    turns = int(FILM_S / window_s / looped.count)
    at = int(random.integers(1, turns)) * looped.count
    loop = [(looped, k % looped.count) for k in range(turns * looped.count)]
    row = [*loop[:at], *((inserted, k) for k in range(inserted.count)), *loop[at:]]
    found = {}
    for modality in ("video", "audio"):
        there = [k for k, (clip, n) in enumerate(row) if n in clip.vectors.get(modality, {})]
        if there:
            starts = window_s * np.array(there, float)
            vectors = np.stack([row[k][0].vectors[modality][row[k][1]] for k in there])
            spans = np.stack([starts, starts + window_s], axis=1)
            found[modality] = WindowVectors(spans, np.zeros(len(there), bool), vectors)
    return found, (at * window_s, (at + inserted.count) * window_s)


def read_frames(path: Path) -> list[NDArray[np.uint8]]:
    """Frames of a clip at FPS, small."""
    frames: list[NDArray[np.uint8]] = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            small = frame.reformat(width=WIDTH, height=HEIGHT, format="rgb24").to_ndarray()
            while len(frames) <= (frame.time or 0.0) * FPS:
                frames.append(small)
    return frames


def write_film(path: Path, looped: Path, inserted: Path, at_s: float) -> tuple[float, float]:
    """Ten minutes of one clip, looped, with another at a second; returns where that lies."""
    pictures, sounds = {}, {}
    for clip in (looped, inserted):
        pictures[clip] = read_frames(clip)
        samples = len(pictures[clip]) * RATE // FPS
        sound = read_sound(clip, RATE, BUDGET)
        heard = sound.waveform[:samples] if sound else np.zeros(0, np.float32)
        sounds[clip] = np.pad(heard, (0, samples - len(heard)))
    frames, loop = round(FILM_S * FPS), pictures[looped]
    at = round(at_s * FPS)
    film = [loop[k % len(loop)] for k in range(frames)]
    film[at:at] = pictures[inserted]
    sound_loop = np.resize(sounds[looped], frames * RATE // FPS)
    cut = at * RATE // FPS
    waveform = np.concatenate([sound_loop[:cut], sounds[inserted], sound_loop[cut:]])
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        for image in film:
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
        for start in range(0, len(waveform), RATE):
            piece = av.AudioFrame.from_ndarray(
                waveform[None, start : start + RATE], format="fltp", layout="mono"
            )
            piece.sample_rate, piece.pts, piece.time_base = RATE, start, Fraction(1, RATE)
            container.mux(audio.encode(piece))
        container.mux(audio.encode(None))
    return at / FPS, (at + len(pictures[inserted])) / FPS


def is_found(start_s: float, end_s: float, there: tuple[float, float]) -> bool:
    shared = min(end_s, there[1]) - max(start_s, there[0])
    return shared >= 0.5 * min(end_s - start_s, there[1] - there[0])


class Tally:
    """How often the clip was found, by the first highlight and by chance."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.found: list[bool] = []
        self.chance: list[float] = []

    def count(self, first: Highlight, there: tuple[float, float], film_s: float) -> None:
        length = first.end_s - first.start_s
        self.found.append(is_found(first.start_s, first.end_s, there))
        places = self.random.uniform(0.0, film_s - length, DRAWS)
        self.chance.append(float(np.mean([is_found(a, a + length, there) for a in places])))

    def show(self, what: str) -> None:
        print(
            f"{what}: the clip is in the first highlight {np.mean(self.found):.3f} of"
            f" {len(self.found)} times; chance {np.mean(self.chance):.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/default"))
    parser.add_argument("--films", type=int, default=200)
    parser.add_argument("--real", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    encoder = OnnxEncoder.open(args.bundle)
    window_s = encoder.manifest.inputs.window_s
    joint = encoder.manifest.joint(next(iter(encoder.manifest.spaces)))
    weight = joint.audio_weight if joint else EQUAL_WEIGHT
    clips = read_clips(args.manifest, encoder)
    random = np.random.default_rng(args.seed)
    stored, real = Tally(random), Tally(random)
    for _ in range(args.films):
        looped, inserted = (clips[k] for k in random.choice(len(clips), 2, replace=False))
        found, there = stored_film(looped, inserted, random, window_s)
        film_s = max(read.times_s[-1, 1] for read in found.values())
        (first,) = choose(activate(found, np.zeros(0), film_s, weight), 1)
        stored.count(first, there, film_s)
    print(f"{len(clips)} clips")
    stored.show("films of stored vectors")
    with tempfile.TemporaryDirectory() as place:
        for _ in range(args.real):
            looped, inserted = (clips[k] for k in random.choice(len(clips), 2, replace=False))
            at_s = float(random.uniform(20.0, FILM_S - 20.0))
            there = write_film(Path(place) / "film.mp4", looped.path, inserted.path, at_s)
            options = DecodeOptions(specs=encoder.manifest.inputs, budget=BUDGET, previews=True)
            media = decode_media(Path(place) / "film.mp4", options)
            loudness = np.frombuffer(media.peaks, np.uint8) / 255.0
            found = encode(encoder, media)
            (first,) = choose(activate(found, loudness, media.duration_s, weight), 1)
            real.count(first, there, media.duration_s)
    if args.real:
        real.show("real films")


if __name__ == "__main__":
    main()
