"""How fast films are indexed beside FFmpeg decoding them, and what the choice of frames costs in
retrieval.

    python -m bench.films CLIPS [--bundle bundles/default] [--seconds 120] [--films 3]
        [--rounds 3] [--codec h264-10s h264-2s ...] [--keep FOLDER]
    python -m bench.films CLIPS --retrieval MANIFEST... [--orders 3] [--keep FOLDER]

CLIPS is a folder of short clips that films are made of by the program `ffmpeg`. Rates are in times
real time, the medians of rounds in which all sides take turns: the builder with the bundle on an
archive of some films, FFmpeg decoding every frame of one of them, and FFmpeg decoding its keyframes
only. The gain is the builder's rate over that of every frame. On a machine that others use,
processes wait for its cores, so the seconds of processor time a film are printed, too: those of
FFmpeg decoding every frame, those of the builder with all its processes, and the one over the
other.

With `--retrieval`, films of 30 clips each are encoded with every frame decoded and with keyframes.
Several orders of the clips make other films, since which clips are neighbours is chance. The
captions of the manifests' rows are asked of each. A clip's score is that of its best window. A
query also counts as a moment found if the best window of its film overlaps its clip by half.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import psutil
from numpy.typing import NDArray

from export.encoder import OnnxEncoder
from index.collection import Collection
from index.commands.flags import DECODE_MEMORY_MB
from index.ingest.build import build
from index.ingest.encoding import encode_all
from media.containers import ARCHIVE_BUDGET, MICROSECONDS
from media.manifest import read_manifest
from media.sandbox import Decoders
from media.windows import read_media

CLIPS_A_FILM = 30
FILE_S = 3600.0
X264 = ("-c:v", "libx264", "-preset", "veryfast", "-sc_threshold", "0")
VPX = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8")
CODECS: dict[str, tuple[str, tuple[str, ...]]] = {
    "h264-10s": ("H.264, keyframes every 10 s", (*X264, "-g", "250")),
    "h264-2s": ("H.264, keyframes every 2 s", (*X264, "-g", "50")),
    "h264-all": ("H.264, all keyframes", (*X264, "-g", "1")),
    "hevc-10s": (
        "HEVC, every 10 s",
        ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "keyint=250"),
    ),
    "vp9-10s": ("VP9, every 10 s", (*VPX, "-g", "250")),
    "av1-10s": ("AV1, every 10 s", ("-c:v", "libsvtav1", "-preset", "12", "-g", "250")),
    "prores": ("ProRes", ("-c:v", "prores_ks", "-profile:v", "0")),
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


class Spent(NamedTuple):
    """What some work took, in seconds."""

    wall_s: float
    processor_s: float


def build_once(encoder: OnnxEncoder, films: list[Path], data: Path, decoders: Decoders) -> Spent:
    """What the builder takes for a film, on average."""
    box = Collection(data, encoder.manifest.fingerprint, encoder.manifest.dims)
    began, used = time.perf_counter(), processor_s()
    cores = os.cpu_count() or 1
    for _, _, report in build(encoder, box, films, decoders, ARCHIVE_BUDGET, at_once=cores):
        assert not report.failed, report.failed
    wall_s, used_s = time.perf_counter() - began, processor_s() - used
    box.close()
    return Spent(wall_s / len(films), used_s / len(films))


def processor_s(own: psutil.Process | None = None) -> float:
    """Seconds of processor time that a process and those below it have used; without one, this."""
    own = own or psutil.Process()
    times = [process.cpu_times() for process in [own, *own.children(recursive=True)]]
    return sum(each.user + each.system for each in times)


def decode_by_ffmpeg(*arguments: str | Path) -> Spent:
    """What FFmpeg takes to decode the pictures of a film, and to drop them."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall_s = run_ffmpeg(*arguments, "-map", "0:v", "-f", "null", "-")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Spent(wall_s, used)


def measure_speed(args: argparse.Namespace, place: Path) -> None:
    encoder = OnnxEncoder.open(args.bundle, threads=1)
    decoders = Decoders(2, DECODE_MEMORY_MB, FILE_S)
    print(
        "| film of 1080 lines | builder | FFmpeg, every frame | FFmpeg, keyframes | gain"
        " | processor s, FFmpeg | processor s, builder | gain |\n|---|---|---|---|---|---|---|---|"
    )
    for codec in args.codec:
        film = make_film(args, place, codec)
        rounds = []
        data = Path(tempfile.mkdtemp(dir=place, prefix="data-"))
        build_once(encoder, [film], data / "first", decoders)  # which starts the decoders
        films = [copy_film(film, data / f"{n}.mkv") for n in range(args.films)]
        for turn in range(args.rounds):
            ours = build_once(encoder, films, data / str(turn), decoders)
            every = decode_by_ffmpeg("-i", film)
            keys = decode_by_ffmpeg("-skip_frame", "nokey", "-i", film)
            rates = [args.seconds / spent.wall_s for spent in (ours, every, keys)]
            gain = every.wall_s / ours.wall_s
            less = every.processor_s / ours.processor_s
            rounds.append([*rates, gain, every.processor_s, ours.processor_s, less])
        shown = zip(np.median(np.array(rounds), axis=0), (0, 0, 0, 1, 2, 2, 1), strict=True)
        row = " | ".join(f"{value:.{digits}f}" for value, digits in shown)
        print(f"| {CODECS[codec][0]} | {row} |", flush=True)
        shutil.rmtree(data)
    decoders.close()


def copy_film(film: Path, out: Path) -> Path:
    """The same film as another file: one of the same bytes would not be decoded again."""
    run_ffmpeg("-i", film, "-map", "0", "-c", "copy", "-metadata", f"title={out.stem}", out)
    return out


def make_film(args: argparse.Namespace, place: Path, codec: str) -> Path:
    """A film of the clips in a codec. One that is in the folder is not made again."""
    film = place / f"{codec}.mkv"
    if film.exists():
        return film
    base = place / "base.mkv"
    if not base.exists():
        clips = sorted(args.clips.glob("*.mp4"))[: int(args.seconds / 4)]
        join(clips, base, "1920:1080", args.seconds, (*X264, "-g", "25", "-qp", "18"))
    # AV1's encoder takes real-time priority, which ends with the process that it runs in
    half = place / "half-made.mkv"
    options = CODECS[codec][1]
    run_ffmpeg("-i", base, "-t", str(args.seconds), *options, "-c:a", "aac", half)
    half.rename(film)
    return film


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
    orders = [make_in_order(n, sorted(files.items()), place) for n in range(args.orders)]
    print("| frames | route | R@1 | R@10 | moments found | queries |\n|---|---|---|---|---|---|")
    for choice in ("exact", "keyframes"):
        encoder = OnnxEncoder.open(args.bundle, frames=choice)
        joint = encoder.manifest.joint(next(iter(encoder.manifest.spaces)))
        assert joint is not None
        encoded = [
            [encode_film(encoder, film, joint.audio_weight) for film in films] for films in orders
        ]
        queries = np.concatenate(
            [encoder.embed("text", encoder.tokens([text], "text")) for _, text in texts]
        )
        for route in ("video", "any"):
            counts = np.zeros(3, np.int64)
            for films, parts in zip(orders, encoded, strict=True):
                counts += count_found(films, [part[route] for part in parts], texts, queries)
            asked = len(orders) * len(texts)
            shares = " | ".join(f"{share:.3f}" for share in counts / asked)
            print(f"| {choice} | {route} | {shares} | {asked} |", flush=True)


def make_in_order(number: int, clips: list[tuple[str, Path]], place: Path) -> list[Film]:
    """Films of clips in one of several orders; the first is the one that is given."""
    if number:
        random.Random(number).shuffle(clips)
    folder = place / str(number)
    folder.mkdir(exist_ok=True)
    return make_films(clips, folder)


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


def count_found(
    films: list[Film],
    parts: list[Windows],
    texts: list[tuple[str, str]],
    queries: NDArray[np.float32],
) -> NDArray[np.int64]:
    """How many queries have their clip first, among the first ten, and how many its moment."""
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
    return np.array([(ranks < 1).sum(), (ranks < 10).sum(), found.sum()])


def overlap(window: tuple[float, float], begins_s: float, ends_s: float) -> float:
    """The share of a window that lies in a stretch."""
    common = min(window[1], ends_s) - max(window[0], begins_s)
    return max(common, 0.0) / (window[1] - window[0])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.films", description=__doc__)
    parser.add_argument("clips", type=Path, metavar="CLIPS")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/default"))
    parser.add_argument("--seconds", type=float, default=120.0, help="length of the films")
    parser.add_argument("--films", type=int, default=3, help="of an archive; default: 3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--codec", nargs="+", choices=CODECS, default=list(CODECS), help="of films")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where films are made and kept")
    parser.add_argument("--retrieval", type=Path, nargs="+", metavar="MANIFEST")
    parser.add_argument("--orders", type=int, default=3, help="of the clips; default: 3")
    args = parser.parse_args()
    measure: Callable[[argparse.Namespace, Path], None] = (
        measure_retrieval if args.retrieval else measure_speed
    )
    with tempfile.TemporaryDirectory() as folder:
        measure(args, args.keep or Path(folder))


if __name__ == "__main__":
    main()
