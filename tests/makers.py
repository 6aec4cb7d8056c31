"""The small worlds that tests need, made on the spot."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from av.subtitles.subtitle import SubtitleSet
from numpy.typing import NDArray
from packaging.requirements import Requirement

from export.bundle import Manifest, Space, Tokenizer, parse_modality
from export.cells import HeardCells, SeenCells
from media.audio import AudioSpec
from media.errors import BadText
from media.text import Reading, TextSpec
from media.video import VideoSpec
from media.windows import InputSpecs

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the shared recordings are not beside this checkout"
)
MODALITIES = ("video", "audio", "text")
ROOMS = ("media", "evaluation", "model", "export", "index", "service")
RED, GREEN, BLUE = (220, 20, 20), (20, 200, 20), (20, 20, 220)
SPECS = InputSpecs(2.0, VideoSpec(frames=4, size=32), AudioSpec(sample_rate=8000, samples=16_000))
TEXT = TextSpec(tokens=8)
WORDS = {"red": 1, "green": 2, "blue": 3, "noise": 4, "loud": 4}
UNKNOWN = {"собака", "лает", "🐶"}


def make_clip(
    path: Path,
    colours: list[tuple[int, int, int]],
    seconds_each: float = 1.0,
    hz: float | None = 440.0,
    fps: int = 8,
) -> Path:
    """Plain colours one after another, with a tone; H.264 and AAC in whatever container the name
    says.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=16_000, layout="mono") if hz else None
        for colour in colours:
            image = np.full((64, 64, 3), colour, np.uint8)
            for _ in range(round(seconds_each * fps)):
                container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
        if audio:
            tone = make_tone(len(colours) * seconds_each, hz or 0.0, 16_000)
            for start in range(0, len(tone), 1024):
                piece = av.AudioFrame.from_ndarray(
                    tone[None, start : start + 1024], format="fltp", layout="mono"
                )
                piece.sample_rate, piece.pts, piece.time_base = 16_000, start, Fraction(1, 16_000)
                container.mux(audio.encode(piece))
            container.mux(audio.encode(None))
    return path


SUBTITLE_HEADER = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name
Style: Default

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


def make_spoken_film(
    path: Path,
    cues: Sequence[tuple[float, float, str]] = (),
    *,
    seconds: float = 10.0,
    codec: str = "srt",
    tags: dict[str, str] | None = None,
    chapters: Sequence[tuple[float, float, str]] = (),
) -> Path:
    """A silent grey film with a subtitle stream of cues (start_s, end_s, text), which may have the
    markup of ASS; with tags and chapters (start_s, end_s, title).
    """
    with av.open(str(path), "w") as container:
        container.metadata.update(tags or {})
        container.set_chapters(
            [
                {
                    "id": n,
                    "start": round(1000 * start_s),
                    "end": round(1000 * end_s),
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": title},
                }
                for n, (start_s, end_s, title) in enumerate(chapters, 1)
            ]
        )
        video = container.add_stream("libvpx" if path.suffix == ".webm" else "libx264", rate=4)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        words = container.add_stream(codec) if cues else None
        if words is not None:
            words.time_base = Fraction(1, 1000)
            words.codec_context.subtitle_header = SUBTITLE_HEADER
        grey = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 128, np.uint8), format="rgb24")
        packets = []
        for n in range(round(seconds * 4)):
            grey.pts, grey.time_base = n, Fraction(1, 4)
            packets += video.encode(grey)
        packets += video.encode(None)
        for n, (start_s, end_s, text) in enumerate(cues):
            cue = SubtitleSet.create(
                text=f"{n},0,Default,,0,0,0,,{text}".encode(),
                start=0,
                end=round(1000 * (end_s - start_s)),
                pts=round(1e6 * start_s),
            )
            assert words is not None
            packet = words.codec_context.encode_subtitle(cue)
            packet.stream = words
            packet.pts = packet.dts = round(1000 * start_s)
            packet.duration, packet.time_base = round(1000 * (end_s - start_s)), Fraction(1, 1000)
            packets.append(packet)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def make_tone(seconds: float, hz: float, rate: int) -> NDArray[np.float32]:
    t = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hz * t)).astype(np.float32)


def make_wav(path: Path, seconds: float = 1.0, hz: float = 440.0, rate: int = 16_000) -> Path:
    write_wav(path, make_tone(seconds, hz, rate), rate)
    return path


def write_wav(path: Path, samples: NDArray[np.float32], rate: int) -> None:
    """A float WAV, by hand: it may hold what no encoder would write."""
    data = samples.astype("<f4").tobytes()
    head = (
        b"RIFF" + (36 + len(data)).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    )
    head += (3).to_bytes(2, "little") + (1).to_bytes(2, "little") + rate.to_bytes(4, "little")
    head += (
        (rate * 4).to_bytes(4, "little") + (4).to_bytes(2, "little") + (32).to_bytes(2, "little")
    )
    path.write_bytes(head + b"data" + len(data).to_bytes(4, "little") + data)


def write_hours(path: Path) -> None:
    """Four hours of silence that take no room on the disk: more than any machine decodes before a
    test is done.
    """
    write_wav(path, np.zeros(0, np.float32), 48_000)
    with path.open("r+b") as file:
        file.seek(40)
        file.write((3_000_000_000).to_bytes(4, "little"))
        file.truncate(44 + 3_000_000_000)


def dims(width: int) -> dict[str, int]:
    """Encodings of one width, for collections without an encoder."""
    return dict.fromkeys(MODALITIES, width)


class FakeEncoder:
    """Vectors one can work out on paper, four wide: red, green, blue, sound.

    A video is the mean of its pixels, a text the mean of its colour words, a sound always the
    fourth axis.
    """

    def __init__(self, fingerprint: str = "fake", spaces: dict[str, Space] | None = None) -> None:
        spaces = spaces or {"vlsa": Space(4, {m: m for m in MODALITIES})}
        graphs = {e: f"{e}.onnx" for space in spaces.values() for e in space.encodings.values()}
        tokenizers = {
            e: Tokenizer("tokenizer.json", TEXT) for e in graphs if parse_modality(e) == "text"
        }
        self.manifest = Manifest(
            format=2,
            name="fake",
            fingerprint=fingerprint,
            inputs=SPECS,
            spaces=spaces,
            graphs=graphs,
            tokenizers=tokenizers,
            files={},
            golden={},
            provenance={},
        )
        self.poison: str | None = None

    def tokens(self, texts: list[str], encoding: str) -> NDArray[np.int64]:
        rows = [[WORDS.get(word, 5) for word in text.split()] for text in texts]
        width = max(map(len, rows))
        return np.array([row + [0] * (width - len(row)) for row in rows], np.int64)

    def read(self, texts: list[str], encoding: str) -> list[Reading]:
        """Windows of so many words; those of `UNKNOWN` say nothing."""
        readings = []
        for i, text in enumerate(texts):
            words = text.split()
            if not words:
                raise BadText("it is empty", i if len(texts) > 1 else None)
            rows = [words[at : at + TEXT.tokens] for at in range(0, len(words), TEXT.tokens)]
            ids = [[WORDS.get(word, 5) for word in row] for row in rows]
            unknown = tuple(word for word in words if word in UNKNOWN)
            readings.append(
                Reading(
                    rows=ids,
                    tokens=len(words),
                    words=len(words),
                    known=len(words) - len(unknown),
                    unknown=unknown,
                )
            )
        return readings

    def check(self) -> None:
        if self.poison == "all":
            raise RuntimeError("poisoned")

    def see_cells(self, encoding: str, frames: NDArray[np.uint8]) -> SeenCells:
        """The mean colour of each quarter."""
        half = frames.shape[1] // 2
        rows = frames.reshape(len(frames), 2, half, 2, half, 3).mean(axis=(2, 4))
        vectors = np.zeros((*rows.shape[:3], 4), np.float32)
        vectors[..., :3] = rows / np.linalg.norm(rows, axis=3, keepdims=True).clip(1e-6)
        return SeenCells(vectors)

    def hear_cells(self, encoding: str, waveform: NDArray[np.float32]) -> HeardCells:
        """One band, and the loudest of each quarter second."""
        peaks = np.abs(waveform).reshape(1, 8, -1).max(axis=2)
        vectors = np.zeros((1, 8, 4), np.float32)
        vectors[..., 3] = peaks
        return HeardCells(vectors, [0.125 + 0.25 * k for k in range(8)], [(0.0, 4000.0)])

    def embed(self, encoding: str, arrays: NDArray[Any]) -> NDArray[np.float32]:
        """Of an encoding that is narrower than four, the first axes
        and one that is always there.
        """
        modality, width = parse_modality(encoding), self.manifest.dims[encoding]
        if self.poison in (modality, "all"):
            raise RuntimeError("poisoned")
        out = np.zeros((len(arrays), 4), np.float32)
        if modality == "video":
            out[:, :3] = arrays.reshape(len(arrays), -1, 3).mean(axis=1)
        elif modality == "audio":
            out[:, 3] = 1.0
        else:
            for row, ids in zip(out, arrays, strict=True):
                for id in ids:
                    if 1 <= id <= 4:
                        row[id - 1] += 1.0
                if not row.any():
                    row[:] = 0.5
        if width < 4:
            out = np.concatenate([out[:, : width - 1], np.ones((len(out), 1), np.float32)], axis=1)
        return np.asarray(
            out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12), np.float32
        )


@contextmanager
def serving(
    data: Path, *flags: str, port: int, within: Sequence[str] = ()
) -> Iterator[tuple[httpx.Client, subprocess.Popen[bytes]]]:
    """A real server process, ready, `within` what another command confines it to; interrupted
    afterwards if it still lives. What it says is shown with the test that fails.
    """
    command = [
        *within,
        sys.executable,
        "-m",
        "service",
        "--data",
        str(data),
        "--port",
        str(port),
        *flags,
    ]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "TERCET_THREADS": "1"})
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_ready(client, process)
            yield client, process
    finally:
        if process.poll() is None:
            process.send_signal(2)
            process.wait(30)


def wait_ready(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    def ready() -> bool:
        assert process.poll() is None, f"the service ended with {process.returncode}"
        with suppress(httpx.TransportError):
            return client.get("/readyz").status_code == 200
        return False

    wait_until(ready, 60.0)


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Return once a condition holds, which what else runs brings about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.01)


def in_a_thread_of_its_own(work: Callable[[], None]) -> None:
    """SVT-AV1 leaves the thread that encodes with it at a real-time priority, if root runs it
    (findings/svt-av1-real-time-thread.sh).
    """
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now_s: float = 1_900_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system in memory at `place`, of a size as mount(8) has it; where none can be mounted,
    a test skipped.
    """
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        # the children of a process that was killed take a moment to follow it
        unmount = ["umount", str(place)]
        wait_until(lambda: subprocess.run(unmount, capture_output=True).returncode == 0)


def installed_by(*extras: str) -> set[str]:
    """The packages that pip installs for the project with these extras, and those that they need in
    turn.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    found: set[str] = set()
    todo = [(Requirement(text), {""}) for text in wanted]
    seen: set[str] = set()
    while todo:
        requirement, asked = todo.pop()
        marker = requirement.marker
        if str(requirement) in seen or not (
            marker is None or any(marker.evaluate({"extra": e}) for e in asked)
        ):
            continue
        seen.add(str(requirement))
        found.add(canonical(requirement.name))
        inner = metadata.requires(requirement.name) or []
        todo += [(Requirement(text), {"", *requirement.extras}) for text in inner]
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def only_installed_by(folder: Path, *extras: str, without: tuple[str, ...] = ()) -> dict[str, str]:
    """Variables with which Python imports what the project with these extras installs, and nothing
    else of what is here, nor the packages of ours that it is `without`. Quicker than an environment
    of its own, which needs an index and half a minute.
    """
    there = installed_by(*extras)
    absent = [*without] + [
        module
        for module, packages in metadata.packages_distributions().items()
        if not {canonical(package) for package in packages} & there and module not in ROOMS
    ]
    (folder / "sitecustomize.py").write_text(
        f"""import sys

ABSENT = {set(absent)!r}


class NotInstalled:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, NotInstalled)
""",
        encoding="utf-8",
    )
    env = {key: value for key, value in os.environ.items() if not key.startswith("TERCET_")}
    return env | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def answers(port: int) -> bool:
    """Whether somebody listens on a port."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextmanager
def running_milvus(folder: Path) -> Iterator[str]:
    """milvus-lite's server on a free port; its address."""
    port = free_port()
    command = [
        str(Path(sys.executable).parent / "milvus-lite"),
        "server",
        "--data-dir",
        str(folder),
        "--host",
        "127.0.0.1",
    ]
    process = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: answers(port), 60.0)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
