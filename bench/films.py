"""How fast films are indexed beside FFmpeg decoding them, and what the choice of frames costs in
retrieval.

    python -m bench.films CLIPS [--bundle bundles/default] [--seconds 120] [--rounds 3]
        [--keep FOLDER]
    python -m bench.films CLIPS --retrieval MANIFEST... [--keep FOLDER]

CLIPS is a folder of short clips that films are made of by the program `ffmpeg`. Rates are in times
real time, the medians of rounds in which all sides take turns: the builder with the bundle, FFmpeg
decoding every frame of the film, and FFmpeg decoding its keyframes only. The gain is the builder's
rate over that of every frame. FFmpeg with two threads gets more of a busy machine than the builder
does, so the last column divides processor time, too: that of FFmpeg decoding every frame by that of
the builder's work on the film, decoding and encoding, in one process.

With `--retrieval`, films of 30 clips each are encoded with every frame decoded and with keyframes.
The captions of the manifests' rows are asked. A clip's score is that of its best window. A query
also counts as a moment found if the best window of its film overlaps its clip by half.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from export.encoder import OnnxEncoder
from index.collection import Collection
from index.commands.flags import DECODE_MEMORY_MB
from index.ingest.build import build, encode_all
from media.containers import ARCHIVE_BUDGET, MICROSECONDS
from media.manifest import read_manifest
from media.sandbox import Decoders
from media.windows import DecodeOptions, decode_media, read_media

CLIPS_A_FILM = 30
FILE_S = 3600.0
X264 = ("-c:v", "libx264", "-preset", "veryfast", "-sc_threshold", "0")
CODECS: dict[str, tuple[str, ...]] = {
    "H.264, keyframes every 10 s": (*X264, "-g", "250"),
    "H.264, keyframes every 2 s": (*X264, "-g", "50"),
    "H.264, all keyframes": (*X264, "-g", "1"),
    "HEVC, every 10 s": ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "keyint=250"),
    "VP9, every 10 s": (
        "-c:v",
        "libvpx-vp9",
        "-deadline",
        "realtime",
        "-cpu-used",
        "8",
        "-g",
        "250",
    ),
    "AV1, every 10 s": ("-c:v", "libsvtav1", "-preset", "12", "-g", "250"),
    "ProRes": ("-c:v", "prores_ks", "-profile:v", "0"),
}


def run_ffmpeg(*arguments: str | Path) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", *map(str, arguments)]
    subprocess.run(command, check=True)
    return time.perf_counter() - began


def join(
    clips: list[Path], out: Path, size: str, seconds: float | None, options: tuple[str, ...]
) -> None:
    """Make a film of clips, each scaled to the same size, with sound or silence."""
    place = out.with_suffix(".parts")
    place.mkdir()
    for n, clip in enumerate(clips):
        scale = f"scale={size}:force_original_aspect_ratio=decrease,pad={size}:-1:-1"
        silence = ("-f", "lavfi", "-i", "anullsrc=r=44100:cl=stereo")
        sounds = has_sound(clip)
        run_ffmpeg(
            "-i", clip, *silence, "-map", "0:v:0", "-map", "0:a:0" if sounds else "1:a:0",
            "-vf", f"{scale},fps=25,setsar=1", "-ar", "44100", "-ac", "2", "-shortest",
            "-c:v", "libx264", "-preset", "ultrafast", "-qp", "10", "-c:a", "pcm_s16le",
            place / f"{n:04}.mkv",
        )  # fmt: skip
    listed = place / "list.txt"
    listed.write_text("".join(f"file '{path}'\n" for path in sorted(place.glob("*.mkv"))))
    most = () if seconds is None else ("-t", str(seconds))
    run_ffmpeg("-f", "concat", "-safe", "0", "-i", listed, *most, *options, "-c:a", "aac", out)


def has_sound(clip: Path) -> bool:
    with av.open(clip) as container:
        return bool(container.streams.audio)


def build_once(encoder: OnnxEncoder, film: Path, data: Path) -> float:
    """Seconds that the builder takes for a film."""
    box = Collection(data, encoder.manifest.fingerprint, encoder.manifest.dims)
    decoders = Decoders(2, DECODE_MEMORY_MB, FILE_S)
    decoders.warm()
    began = time.perf_counter()
    cores = os.cpu_count() or 1
    for _, _, report in build(encoder, box, [film], decoders, ARCHIVE_BUDGET, at_once=cores):
        assert not report.failed, report.failed
    took = time.perf_counter() - began
    decoders.close()
    box.close()
    return took


def measure_speed(args: argparse.Namespace, place: Path) -> None:
    encoder = OnnxEncoder.open(args.bundle, threads=1)
    clips = sorted(args.clips.glob("*.mp4"))[: int(args.seconds / 4)]
    base = place / "base.mkv"
    if not base.exists():
        join(clips, base, "1920:1080", args.seconds, (*X264, "-g", "25", "-qp", "18"))
    print(
        "| film of 1080 lines | builder | FFmpeg, every frame | FFmpeg, keyframes | gain"
        " | gain in processor time |\n|---|---|---|---|---|---|"
    )
    for n, (name, options) in enumerate(CODECS.items()):
        film = place / f"{n}.mkv"
        # AV1's encoder takes real-time priority, which ends with the process that it runs in
        if not film.exists():
            run_ffmpeg("-i", base, "-t", str(args.seconds), *options, "-c:a", "aac", film)
        rounds = []
        for turn in range(args.rounds):
            took = build_once(encoder, film, place / f"data-{n}-{turn}")
            every = run_ffmpeg("-i", film, "-map", "0:v", "-f", "null", "-")
            keys = run_ffmpeg("-skip_frame", "nokey", "-i", film, "-map", "0:v", "-f", "null", "-")
            rates = [args.seconds / seconds for seconds in (took, every, keys)]
            rounds.append([*rates, compare_processor_time(encoder, film)])
        ours, every, keys, less = np.median(np.array(rounds), axis=0)
        row = f"{ours:.0f} | {every:.0f} | {keys:.0f} | {ours / every:.1f} | {less:.1f}"
        print(f"| {name} | {row} |", flush=True)


def compare_processor_time(encoder: OnnxEncoder, film: Path) -> float:
    """That of FFmpeg decoding every frame over that of decoding and encoding the film's windows."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run_ffmpeg("-i", film, "-map", "0:v", "-f", "null", "-")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    theirs = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    options = DecodeOptions(specs=encoder.manifest.inputs, budget=ARCHIVE_BUDGET, previews=True)
    began = time.process_time()
    encode_all(encoder, [decode_media(film, options)])
    return theirs / (time.process_time() - began)


@dataclass
class Film:
    """A film, and of its clips each one's id and the stretch where it lies."""

    path: Path
    clips: list[tuple[str, float, float]]


def make_films(clips: list[tuple[str, Path]], place: Path) -> list[Film]:
    """Films of all clips. Those that are in the folder are not made again."""
    films = []
    for at in range(0, len(clips), CLIPS_A_FILM):
        some = clips[at : at + CLIPS_A_FILM]
        path = place / f"film-{at}.mkv"
        if not path.exists():
            join([file for _, file in some], path, "640:360", None, (*X264[:4], "-g", "250"))
        begins_s, stretches = 0.0, []
        for part, (id, _) in zip(
            sorted((place / f"film-{at}.parts").glob("*.mkv")), some, strict=True
        ):
            lasts_s = measure_length(part)
            stretches.append((id, begins_s, begins_s + lasts_s))
            begins_s += lasts_s
        films.append(Film(path, stretches))
    return films


def measure_length(path: Path) -> float:
    """Seconds."""
    with av.open(path) as container:
        return (container.duration or 0) / MICROSECONDS


def measure_retrieval(args: argparse.Namespace, place: Path) -> None:
    """Print R@1, R@10 and the share of moments found, by route and choice of frames."""
    texts: list[tuple[str, str]] = []  # (id of the clip, caption)
    files: dict[str, Path] = {}
    for manifest in args.retrieval:
        for row in read_manifest(manifest):
            if row.path is not None:
                files[row.id] = row.path
                texts += [(row.id, caption.text) for caption in row.captions]
    films = make_films(sorted(files.items()), place)
    print("| frames | route | R@1 | R@10 | moments found | queries |\n|---|---|---|---|---|---|")
    for choice in ("exact", "keyframes"):
        encoder = OnnxEncoder.open(args.bundle, frames=choice)
        joint = encoder.manifest.joint(next(iter(encoder.manifest.spaces)))
        assert joint is not None
        parts = [encode_film(encoder, film, joint.audio_weight) for film in films]
        queries = np.concatenate(
            [encoder.embed("text", encoder.tokens([text], "text")) for _, text in texts]
        )
        for route in ("video", "any"):
            print_found(choice, route, films, [part[route] for part in parts], texts, queries)


Windows = tuple[list[tuple[float, float]], NDArray[np.float32]]


def encode_film(encoder: OnnxEncoder, film: Film, audio_weight: float) -> dict[str, Windows]:
    """A film's windows and their vectors [n, dim], of the pictures and of both together."""
    media = read_media(film.path, encoder.manifest.inputs, ARCHIVE_BUDGET)
    [vectors] = encode_all(encoder, [media])
    both = np.zeros((len(media.windows), vectors["video"][1].shape[1]), np.float32)
    both[vectors["video"][0]] = vectors["video"][1]
    pictures = both.copy()
    heard, sounds = vectors["audio"]
    silent = [window in media.parts["audio"].empty for window in heard]
    both[heard] += audio_weight * sounds * ~np.array(silent)[:, None]
    both /= np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-9)
    return {"video": (media.windows, pictures), "any": (media.windows, both)}


def print_found(
    choice: str,
    route: str,
    films: list[Film],
    parts: list[Windows],
    texts: list[tuple[str, str]],
    queries: NDArray[np.float32],
) -> None:
    ids = [id for film in films for id, _, _ in film.clips]
    place = {id: n for n, id in enumerate(ids)}
    scores = np.full((len(texts), len(ids)), -1.0, np.float32)
    found = np.zeros(len(texts), bool)
    for film, (windows, vectors) in zip(films, parts, strict=True):
        products = queries @ vectors.T
        best = products.argmax(axis=1)
        for id, begins_s, ends_s in film.clips:
            shares = [overlap(window, begins_s, ends_s) for window in windows]
            inside = np.array(shares) >= 0.5
            if inside.any():
                scores[:, place[id]] = products[:, inside].max(axis=1)
            own = np.array([owner == id for owner, _ in texts])
            found |= own & inside[best]
    right = np.array([place[id] for id, _ in texts])
    ranks = (scores > scores[np.arange(len(texts)), right][:, None]).sum(axis=1)
    first, ten = ((ranks < k).mean() for k in (1, 10))
    row = f"{first:.3f} | {ten:.3f} | {found.mean():.3f} | {len(texts)}"
    print(f"| {choice} | {route} | {row} |", flush=True)


def overlap(window: tuple[float, float], begins_s: float, ends_s: float) -> float:
    """The share of a window that lies in a stretch."""
    common = min(window[1], ends_s) - max(window[0], begins_s)
    return max(common, 0.0) / (window[1] - window[0])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.films", description=__doc__)
    parser.add_argument("clips", type=Path, metavar="CLIPS")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/default"))
    parser.add_argument("--seconds", type=float, default=120.0, help="length of the films")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where films are made and kept")
    parser.add_argument("--retrieval", type=Path, nargs="+", metavar="MANIFEST")
    args = parser.parse_args()
    measure: Callable[[argparse.Namespace, Path], None] = (
        measure_retrieval if args.retrieval else measure_speed
    )
    with tempfile.TemporaryDirectory() as folder:
        measure(args, args.keep or Path(folder))


if __name__ == "__main__":
    main()
