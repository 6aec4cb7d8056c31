"""Open recordings as one long waveform on disk, from which a learner's examples are cut."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from media.containers import Budget
from media.errors import BadMedia
from media.modality import AUDIO
from media.progress import show_progress
from media.sound import read_waveform

from ..network.sound_classifier import RATE

LONGEST_S = 30  # that is kept of a recording, where it is loudest
LONGEST_MUSIC_S = 60
SHORTEST_S = 0.08
FULL = 32_000  # what a recording's peak becomes
WORKERS = 2
FILES_PER_WORKER = 500  # decoders leak a little with each file
LEARNED = "rows.jsonl"
HELD_OUT = 20  # every so many recordings one is held out, by the hash of its content


@dataclass(frozen=True)
class Recordings:
    """`samples` int16 [all], each recording at a peak of 32,000; of each its first sample, its
    length, its set ("sounds/everyday", a Debian package) and whether it is held out.
    """

    samples: NDArray[np.int16]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    sets: list[str]
    held_out: NDArray[np.bool_]

    @classmethod
    def open(cls, folder: Path) -> Recordings:
        """What `load_recordings` has written; the samples are mapped, not read."""
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        lengths = np.array(index["lengths"], np.int64)
        return cls(
            np.memmap(folder / "samples.i16", np.int16, "r"),
            np.concatenate(([0], lengths[:-1])).cumsum(),
            lengths,
            index["sets"],
            np.array(index["held_out"], bool),
        )

    def sound(self, i: int) -> NDArray[np.float32]:
        """Recording `i` in -1..1."""
        start = self.starts[i]
        samples = self.samples[start : start + self.lengths[i]]
        return np.asarray(samples, np.float32) / np.float32(FULL)

    def hours(self) -> float:
        return len(self.samples) / RATE / 3600


def read_sound_rows(folders: Iterable[Path], left_out: Path | None = None) -> list[dict[str, Any]]:
    """The rows of sounds in the manifests of folders, their paths made absolute, with a `set`.
    Recordings that the manifest `left_out` was made from are not among them.
    """
    used = find_recordings(left_out) if left_out else set()
    rows = []
    for folder in folders:
        for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row.get("modality") == AUDIO and find_recording(row["source"]) not in used:
                place = Path(row["path"]).parent.as_posix()
                rows.append(row | {"path": folder / row["path"], "set": row.get("set", place)})
    return rows


def load_recordings(rows: list[dict[str, Any]], cache: Path) -> Path:
    """The folder of the rows' sounds, decoded once, for `Recordings.open`. Files that cannot be
    read, that are nearly silent or that hold what another holds are left out.
    """
    state = json.dumps([(str(row["path"]), row["set"]) for row in rows]).encode()
    folder = cache / f"recordings-{hashlib.sha256(state).hexdigest()[:12]}"
    if not (folder / "index.json").exists():
        decode_all(rows, folder)
    return folder


def decode_all(rows: list[dict[str, Any]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lengths = []
    sets = []
    held_out = []
    seen: set[str] = set()
    paths = [row["path"] for row in rows]
    with (
        (folder / "samples.i16").open("wb") as file,
        get_context("spawn").Pool(WORKERS, maxtasksperchild=FILES_PER_WORKER) as pool,
    ):
        decoded = pool.imap(decode, paths, chunksize=20)
        for row, found in zip(
            rows, show_progress(decoded, len(rows), "recordings", "file"), strict=True
        ):
            if found is None or found[0] in seen:
                continue
            digest, samples = found
            seen.add(digest)
            file.write(samples.tobytes())
            lengths.append(len(samples))
            sets.append(row["set"])
            held_out.append(int(digest[:8], 16) % HELD_OUT == 0)
    index = {"lengths": lengths, "sets": sets, "held_out": held_out}
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")


def decode(path: Path) -> tuple[str, NDArray[np.int16]] | None:
    """A digest of a file, and its sound at 16 kHz brought to full scale; None where it has none."""
    try:
        waveform = read_waveform(path, RATE, Budget())
    except BadMedia:
        return None
    if waveform is None or len(waveform) < SHORTEST_S * RATE:
        return None
    longest = LONGEST_MUSIC_S if "music" in str(path).lower() else LONGEST_S
    waveform = loudest_stretch(waveform, longest * RATE)
    peak = np.abs(waveform).max()
    if peak < 1e-4:
        return None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return digest, np.asarray(waveform / peak * FULL, np.int16)


def loudest_stretch(waveform: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    """The `samples` with the most energy, by steps of a second; a shorter waveform as it is.

    >>> sound = np.repeat([0.0, 1.0, 0.0], 16_000).astype(np.float32)
    >>> float(loudest_stretch(sound, 16_000).min())
    1.0
    """
    if len(waveform) <= samples:
        return waveform
    energy = np.concatenate(([0.0], np.square(waveform, dtype=np.float64).cumsum()))
    starts = np.arange(0, len(waveform) - samples + 1, RATE)
    start = int(starts[(energy[starts + samples] - energy[starts]).argmax()])
    return waveform[start : start + samples]


def find_recording(source: str) -> str:
    """What tells one recording from another: the original that a row names, or else its source.

    >>> edited = 'debian:p:f.cat#5 "Horn". Original "a.wav" by "Bo". Edited.'
    >>> find_recording(edited), find_recording("debian:p:a.ogg")
    ('Original "a.wav"', 'debian:p:a.ogg')
    """
    original = re.search(r'Original "[^"]+"', source)
    return original.group() if original else source


def find_recordings(manifest: Path) -> set[str]:
    """What the rows of a manifest were made from, see `find_recording`."""
    used: set[str] = set()
    for line in manifest.read_text(encoding="utf-8").splitlines():
        used.update(find_recording(source) for source in json.loads(line).get("source", []))
    return used


def list_attributions(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Who made the rows: an entry for each package or repository and licence."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        parts = row["source"].split(":")
        origin = f"debian:{parts[1]}" if parts[0] == "debian" else parts[0]
        found.setdefault((origin, row["licence"]), []).append(row)
    entries = []
    for (origin, licence), of in sorted(found.items()):
        authors = sorted({row["author"] for row in of if row.get("author")})
        entry = {"source": origin, "licence": licence, "rows": len(of), "authors": authors}
        entries.append(entry)
    return entries


def write_learned_rows(rows: list[dict[str, Any]], run: Path) -> None:
    """Keep in a run what it learns from: each row's id, source, licence and author."""
    run.mkdir(parents=True, exist_ok=True)
    kept = ("id", "source", "licence", "author")
    with (run / LEARNED).open("w", encoding="utf-8") as file:
        for row in rows:
            line = {name: row[name] for name in kept if row.get(name)}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_learned_rows(run: Path) -> list[dict[str, Any]]:
    """What `write_learned_rows` has kept; nothing where there is no such run."""
    file = run / LEARNED
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
