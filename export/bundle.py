"""The bundle: a folder of ONNX graphs, one weights file, a tokenizer and a manifest that everything
downstream trusts.

BadBundle
├── MissingFile       a file the manifest names is not there
├── AlteredFile       a file whose checksum is not the manifest's
├── UnknownFormat     a manifest of another format, or with keys this version does not know
├── InTheWay          a folder to be written that holds something else
└── WrongVectors      the graphs run, and their vectors are not the golden ones
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from media.modality import AUDIO, VIDEO, Spec
from media.text import TextSpec
from media.video import Choice
from media.windows import InputSpecs

from .fusion import Fusion

FORMAT = 2
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
WEIGHTS = "weights.bin"
DEFAULT = Path("bundles/default")  # the bundle that comes with these packages
GOLDEN_ITEMS = 2
ANY = "any"  # the target of a search that scores pictures and sound together; no modality
EQUAL_WEIGHT = 1.0  # weight of the sound in a bundle without a fitted one
MAX_LOSS = 1.0  # points of R@10 that another precision may lose
LEAST_COSINE = 0.98  # between its vectors and those of fp32
# the lowest cosine allowed between an item's vector made alone and made in a batch
LEAST_ALIKE = 0.9999


class BadBundle(Exception):
    """A folder that cannot be trusted as a bundle."""


class MissingFile(BadBundle):
    detail_fields = ("file",)

    def __init__(self, file: str, todo: str = "") -> None:
        super().__init__(f"{file} is missing from the bundle{todo}")
        self.file = file


class AlteredFile(BadBundle):
    detail_fields = ("file",)

    def __init__(self, file: str) -> None:
        super().__init__(
            f"{file} is not the file the bundle was written with: its checksum differs"
        )
        self.file = file


class UnknownFormat(BadBundle):
    detail_fields = ("problem",)

    def __init__(self, problem: str) -> None:
        super().__init__(f"{MANIFEST}: {problem}")
        self.problem = problem


class InTheWay(BadBundle):
    detail_fields = ("folder",)

    def __init__(self, folder: str) -> None:
        super().__init__(f"{folder} is there already and is no bundle: nothing was written")
        self.folder = folder


class WrongVectors(BadBundle):
    detail_fields = ("encoding", "error")

    def __init__(self, encoding: str, error: float) -> None:
        super().__init__(
            f"the {encoding} graph gives vectors {error:.2g} away from the bundle's golden ones"
        )
        self.encoding = encoding
        self.error = error


class NoRoute(Exception):
    """No space of the bundle holds what was asked for."""

    detail_fields = ("space",)

    def __init__(
        self, modalities: tuple[str, ...], where: dict[str, list[str]], space: str | None = None
    ) -> None:
        asked = f"space {space!r}" if space else "space"
        lives = ", ".join(
            f"{m} lives in {' and '.join(where[m]) or 'no space'}" for m in modalities
        )
        super().__init__(f"this bundle has no {asked} with {' and '.join(modalities)}: {lives}")
        self.modalities = list(modalities)
        self.space = space


@dataclass(frozen=True)
class Space:
    """An embedding space: how wide its vectors are, and the encoding of each modality that lives in
    it.
    """

    dim: int
    encodings: dict[str, str]  # modality -> encoding


@dataclass(frozen=True)
class Joint:
    """Pictures and sound scored together: the encodings whose vectors are added, and what the
    sound's weighs: the same in every window, or what a graph of the bundle says.
    """

    video: str
    audio: str
    audio_weight: float
    fusion: Fusion | None = None

    def weights(self, video: NDArray[np.float32], audio: NDArray[np.float32]) -> Any:
        """What the sound of each window weighs, [n], from unit vectors [n, dim] of both."""
        if self.fusion is None:
            return np.full(len(video), self.audio_weight, np.float32)
        return self.fusion.weights(video, audio)

    def add(
        self,
        video: NDArray[np.float32],
        audio: NDArray[np.float32],
        has_both: NDArray[np.bool_],
    ) -> NDArray[np.float32]:
        """Joint vectors [n, dim], not yet of length one. Windows that lack one of both have zeros
        for it.
        """
        weights = np.ones(len(video), np.float32)
        both = np.flatnonzero(has_both)
        weights[both] = self.weights(video[both], audio[both])
        return np.asarray(video + weights[:, None] * audio, np.float32)


@dataclass(frozen=True)
class Tokenizer:
    """What one text encoding reads: a tokenizer's file and how its ids are cut and padded."""

    file: str
    spec: TextSpec


@dataclass(frozen=True)
class Route:
    """A search direction inside one space: how each modality is encoded there, and which vectors
    are searched, or which sums of vectors.
    """

    space: str
    encodings: dict[str, str]  # modality -> encoding
    target: str | Joint


def parse_modality(encoding: str | Joint) -> str:
    """The modality of an encoding, named "modality" or "modality@space"; of a `Joint` "any".

    >>> parse_modality("text@audio"), parse_modality("video")
    ('text', 'video')
    >>> parse_modality(Joint("video", "audio", 0.3))
    'any'
    """
    if isinstance(encoding, Joint):
        return ANY
    return encoding.partition("@")[0]


@dataclass(frozen=True, kw_only=True)
class PrecisionLoss:
    """What an encoding loses in another precision, against fp32.

    `max_abs` is the largest difference of a component and `cosine` the lowest cosine, over all
    items and batches. `points` is the mean change of R@10 in percentage points, over the routes
    with text on rendered clips. `alike` is the lowest cosine between an item's vector made alone
    and in a batch; None if it was not measured.
    """

    max_abs: float
    cosine: float
    points: float
    alike: float | None = None

    @property
    def keeps(self) -> bool:
        """Whether it is close enough to fp32."""
        return self.points >= -MAX_LOSS and self.cosine >= LEAST_COSINE

    @property
    def invariant(self) -> bool:
        return self.alike is None or self.alike >= LEAST_ALIKE

    @property
    def good(self) -> bool:
        return self.keeps and self.invariant


@dataclass(frozen=True, kw_only=True)
class Manifest:
    format: int
    name: str
    fingerprint: str
    inputs: InputSpecs
    spaces: dict[str, Space]  # the first is used if none is named
    graphs: dict[str, str]  # encoding -> file
    tokenizers: dict[str, Tokenizer]  # text encoding -> its tokenizer
    files: dict[str, str]  # file -> sha256
    golden: dict[str, list[list[float]]]  # encoding -> vectors of `golden_input`
    provenance: dict[str, Any]
    # provider/precision -> encoding
    variants: dict[str, dict[str, PrecisionLoss]] = field(default_factory=dict)
    # space -> weight of the sound in the joint vector
    audio_weights: dict[str, float] = field(default_factory=dict)
    # space -> the graph that gives a weight for each window; most bundles have none
    fusions: dict[str, Fusion] = field(default_factory=dict)

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(parse_modality(e) for e in self.graphs))

    @property
    def dims(self) -> dict[str, int]:
        """The dimension of the vectors of each encoding."""
        return {e: space.dim for space in self.spaces.values() for e in space.encodings.values()}

    def spec(self, encoding: str) -> Spec:
        """How the inputs of an encoding are prepared. Raises KeyError: an unknown encoding."""
        tokenizer = self.tokenizers.get(encoding)
        return tokenizer.spec if tokenizer else self.inputs.recorded()[parse_modality(encoding)]

    def golden_input(self, encoding: str) -> NDArray[Any]:
        """The inputs [GOLDEN_ITEMS, ...] of an encoding's golden vectors."""
        return self.spec(encoding).golden_input(GOLDEN_ITEMS)

    def encodings(self, modality: str) -> list[str]:
        return [e for e in self.graphs if parse_modality(e) == modality]

    def compares(self, a: str, b: str) -> bool:
        """Whether vectors of two encodings lie in one space."""
        return any({a, b} <= set(space.encodings.values()) for space in self.spaces.values())

    def spaces_with(self, modality: str) -> list[str]:
        return [name for name, space in self.spaces.items() if modality in space.encodings]

    def space_for(self, modalities: Iterable[str], space: str | None = None) -> str:
        """The named space, or the first, that holds all of these modalities.

        Raises:
            NoRoute: no space does, or the named one does not.
        """
        wanted = tuple(dict.fromkeys(modalities))
        holding = [name for name, held in self.spaces.items() if held.encodings.keys() >= {*wanted}]
        if not holding or space not in (None, *holding):
            raise NoRoute(wanted, {m: self.spaces_with(m) for m in wanted}, space)
        return space or holding[0]

    def routes(self, queries: Iterable[str], target: str, space: str | None = None) -> list[Route]:
        """The routes from queries of these modalities to a target.

        It is one route, in the named space or else the first that holds them all. For "any" it
        leads to the joint vectors of a space with pictures and sound. If no space has both, there
        is a route to pictures and one to sound.

        Raises:
            NoRoute: there is none.
        """
        wanted = tuple(dict.fromkeys(queries))
        if target != ANY:
            name = self.space_for((*wanted, target), space)
            return [Route(name, self.spaces[name].encodings, self.spaces[name].encodings[target])]
        for name, held in self.spaces.items():
            joint = self.joint(name)
            if joint and space in (None, name) and set(wanted) <= set(held.encodings):
                return [Route(name, held.encodings, joint)]
        found: list[Route] = []
        for modality in (VIDEO, AUDIO):
            with suppress(NoRoute):
                found += self.routes(wanted, modality, space)
        if not found:
            raise NoRoute((*wanted, ANY), {m: self.spaces_with(m) for m in (*wanted, ANY)}, space)
        return found

    def joint(self, space: str) -> Joint | None:
        """How pictures and sound are added in a space; None if it does not hold both."""
        encodings = self.spaces[space].encodings
        if not {VIDEO, AUDIO} <= set(encodings):
            return None
        weight = self.audio_weights.get(space, EQUAL_WEIGHT)
        return Joint(encodings[VIDEO], encodings[AUDIO], weight, self.fusions.get(space))

    def fingerprinted_files(self) -> dict[str, str]:
        """The files that decide what a vector is. A fusion joins vectors as they are stored, so
        bundles that differ in it alone are comparable.
        """
        apart = {fusion.file for fusion in self.fusions.values()}
        return {file: digest for file, digest in self.files.items() if file not in apart}

    def compute_fingerprint(self) -> str:
        return fingerprint(
            self.fingerprinted_files(), self.inputs, self.spaces, self.graphs, self.tokenizers
        )

    def with_frames(self, choice: str) -> Manifest:
        """The same networks, with frames chosen by one of `Choice`: another fingerprint, where
        there are pictures.
        """
        if self.inputs.video is None:
            return self
        inputs = replace(self.inputs, video=replace(self.inputs.video, choice=choice))
        moved = replace(self, inputs=inputs)
        return replace(moved, fingerprint=moved.compute_fingerprint())


@dataclass(frozen=True)
class Bundle:
    """A checked bundle on disk."""

    folder: Path
    manifest: Manifest

    def graph(self, encoding: str) -> Path:
        return self.folder / self.manifest.graphs[encoding]


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_canonical_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def described_inputs(inputs: InputSpecs) -> dict[str, Any]:
    """The input specs as a fingerprint has them. Bundles from before there was a choice of frames
    are exact, and keep their fingerprints.
    """
    values = asdict(inputs)
    if inputs.video is not None and inputs.video.choice == Choice.EXACT:
        del values["video"]["choice"]
    return values


def fingerprint(
    files: dict[str, str],
    inputs: InputSpecs,
    spaces: dict[str, Space],
    graphs: dict[str, str],
    tokenizers: dict[str, Tokenizer],
) -> str:
    """A hash over weights, graphs, tokenizers and input specs: equal means comparable vectors."""
    parts = {
        "files": files,
        "inputs": described_inputs(inputs),
        "spaces": {k: asdict(v) for k, v in spaces.items()},
        "graphs": graphs,
        "tokenizers": {k: asdict(v) for k, v in tokenizers.items()},
    }
    return hashlib.sha256(to_canonical_json(parts)).hexdigest()[:32]


def draft_manifest(
    name: str,
    inputs: InputSpecs,
    spaces: dict[str, Space],
    tokenizers: dict[str, Tokenizer],
    provenance: dict[str, Any],
    audio_weights: dict[str, float] | None = None,
    fusions: dict[str, Fusion] | None = None,
) -> Manifest:
    """The manifest of a bundle to be written, which has neither files nor golden vectors yet."""
    graphs = {e: f"{e}.onnx" for space in spaces.values() for e in space.encodings.values()}
    return Manifest(
        format=FORMAT,
        name=name,
        fingerprint="",
        inputs=inputs,
        spaces=spaces,
        graphs=graphs,
        tokenizers=tokenizers,
        files={},
        golden={},
        provenance=provenance,
        audio_weights=audio_weights or {},
        fusions=fusions or {},
    )


def write_bundle(
    out: Path,
    plan: Manifest,
    fill: Callable[[Path], None],
    compute_vectors: Callable[[Bundle], dict[str, NDArray[np.float32]]],
) -> Bundle:
    """Write a bundle beside `out` and rename it into place; an existing one is replaced in the same
    way.

    `fill` writes the graphs that are planned, the weights and the tokenizers into the folder it
    gets; `compute_vectors` runs every graph on its golden input.
    """
    if out.exists() and not (out / MANIFEST).is_file():
        raise InTheWay(out.name)
    out.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        staging = place / "new"
        staging.mkdir()
        fill(staging)
        write_manifest(staging, complete_manifest(staging, plan, compute_vectors))
        for path in staging.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if out.exists():
            out.rename(place / "old")
        try:
            staging.rename(out)
        except OSError:
            if (place / "old").exists():
                (place / "old").rename(out)
            raise
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return open_bundle(out)


def complete_manifest(
    staging: Path,
    plan: Manifest,
    compute_vectors: Callable[[Bundle], dict[str, NDArray[np.float32]]],
) -> Manifest:
    """The plan with what the written files add to it: their checksums, the fingerprint, golden
    vectors.
    """
    files = {path.name: digest(path) for path in sorted(staging.iterdir())}
    stamp = replace(plan, files=files).compute_fingerprint()
    made = compute_vectors(Bundle(staging, replace(plan, files=files, fingerprint=stamp)))
    golden = {}
    for encoding, vectors in made.items():
        golden[encoding] = [round_vector(vector) for vector in vectors]
    return replace(plan, files=files, fingerprint=stamp, golden=golden)


def parse_losses(values: dict[str, dict[str, float]]) -> dict[str, PrecisionLoss]:
    """What a precision loses in each encoding. Raises TypeError."""
    return {encoding: PrecisionLoss(**loss) for encoding, loss in values.items()}


def round_vector(vector: NDArray[np.float32]) -> list[float]:
    """A vector [dim] as a list, to seven decimals."""
    return [round(float(number), 7) for number in vector]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Put the manifest in its place, with its checksum, in one step."""
    values = asdict(manifest)
    values["fusions"] = {space: one.describe() for space, one in manifest.fusions.items()}
    if not manifest.fusions:  # as in bundles from before there were any
        del values["fusions"]
    values["checksum"] = hashlib.sha256(to_canonical_json(values)).hexdigest()
    partial = folder / f"{MANIFEST}.part"
    partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(folder / MANIFEST)


def find_bundle(folder: Path) -> Path:
    """Where a bundle is. The default one comes with these packages: it is found from any folder."""
    shipped = Path(__file__).resolve().parent.parent / DEFAULT
    if folder == DEFAULT and not folder.exists() and shipped.is_dir():
        return shipped
    return folder


def open_bundle(folder: Path, frames: str = "") -> Bundle:
    """The bundle at `folder`, or where `find_bundle` finds it, every file checked against its
    checksum. With `frames`, one of `Choice`, frames are chosen so, in place of the bundle's own
    choice: then it has another fingerprint.

    Raises:
        MissingFile, AlteredFile, UnknownFormat: naming what is wrong.
    """
    folder = find_bundle(folder)
    if not (folder / MANIFEST).is_file():
        raise MissingFile(str(folder / MANIFEST), ": name another by --bundle or TERCET_BUNDLE")
    manifest = parse_manifest((folder / MANIFEST).read_bytes())
    for file, expected in manifest.files.items():
        if Path(file).name != file or not (folder / file).is_file():
            raise MissingFile(file)
        if digest(folder / file) != expected:
            raise AlteredFile(file)
    named = {*manifest.graphs.values(), *(t.file for t in manifest.tokenizers.values())}
    named |= {fusion.file for fusion in manifest.fusions.values()}
    if silent := set(manifest.graphs) - set(manifest.golden):
        raise UnknownFormat(f"no golden vectors of {silent.pop()}")
    if unlisted := named - set(manifest.files):
        raise MissingFile(unlisted.pop())
    if manifest.compute_fingerprint() != manifest.fingerprint:
        raise AlteredFile(MANIFEST)
    if frames:
        manifest = manifest.with_frames(frames)
    fusions = {
        space: replace(one, folder=folder.absolute(), digest=manifest.files[one.file])
        for space, one in manifest.fusions.items()
    }
    return Bundle(folder, replace(manifest, fusions=fusions))


def parse_manifest(raw: bytes) -> Manifest:
    try:
        values = json.loads(raw)
        if values["format"] != FORMAT:
            raise UnknownFormat(f"format {values['format']!r}, this version reads {FORMAT}")
        checksum = values.pop("checksum")
    except (ValueError, KeyError, TypeError) as error:
        raise UnknownFormat(f"not a bundle's manifest ({type(error).__name__})") from error
    if unknown := set(values) - {f.name for f in fields(Manifest)}:
        raise UnknownFormat(f"unknown key {', '.join(sorted(unknown))}")
    if hashlib.sha256(to_canonical_json(values)).hexdigest() != checksum:
        raise AlteredFile(MANIFEST)
    try:
        values["inputs"] = InputSpecs.from_json(values["inputs"])
        values["spaces"] = {k: Space(**v) for k, v in values["spaces"].items()}
        values["tokenizers"] = {
            k: Tokenizer(v["file"], TextSpec(**v["spec"])) for k, v in values["tokenizers"].items()
        }
        values["variants"] = {
            name: parse_losses(losses) for name, losses in values.get("variants", {}).items()
        }
        values["fusions"] = {k: Fusion(**v) for k, v in values.get("fusions", {}).items()}
        return Manifest(**values)
    except (KeyError, TypeError, AttributeError) as error:
        raise UnknownFormat(f"missing or wrong key ({error})") from error
