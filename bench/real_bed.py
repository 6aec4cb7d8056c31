"""Features of the default bundle's stems, as one file that `tercet ablation --beds real` trains on.

    python -m bench.real_bed --data ../shared/data --out runs/real-bed.npz [--work runs/real-bed]

Learned from are rows with an open licence alone: pictures, sounds and ESC-10's folds 1 to 4. The
real recordings are measured with, and ESC-10's fold 5, of which the benchmarks of sounds put
together are composed. Raw features are kept below `--work`, so that a stop costs little.

N rows, V views of a picture, C cells of a view, P patches of a sound, T tokens, D features.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from evaluation.clips import Clips
from evaluation.composed import COMPOSITIONS
from evaluation.linear_maps import unit
from export.bundle import open_bundle
from export.cells import CutGraph
from export.encoder import OnnxEncoder
from media.containers import Budget
from media.errors import BadMedia
from media.manifest import Caption, Row, read_manifest
from media.modality import AUDIO, TEXT, VIDEO
from media.progress import show_progress
from media.text import PAD_ID
from media.video import fit_square
from media.windows import read_media
from model.beds.real import (
    FEATURE_STEP,
    FRAMES,
    READING_STEP,
    quantise,
    sides_of,
    training_sources,
)
from model.class_vectors import SentenceVectors
from model.data.batches import ABSENT
from model.methods.compa import SWAPPED, Composed, ComposedSounds

PAGE = 64  # texts at once
SIDE = 3  # cells of a view are SIDE x SIDE
CHUNK = 200
SEEN, HEARD, SAID = 128, 128, 96  # directions that are kept of features
TOKENS = 24  # of a text
ALIKE = 0.72  # cosine of two names from which a picture and a sound may be one thing's
PARTNERS = 4  # sounds of a picture at most
COMPOSED = 600  # pairs of sounds that `compa` puts together
BENCHMARK = 240  # groups of the benchmarks of sounds put together
EXAMPLES = 6_000  # rows that the kept directions are found from
SILENT_WITHIN = 0.05  # how far features of silence may be from those of zeros, kept in float16
PATCH_S, SHORTEST_S = 0.48, 0.1  # from one patch of a sound to the next; what counts as heard
Arrays = dict[str, NDArray[Any]]
Rows = list[dict[str, Any]]
Put = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]


class Stems:
    """The bundle's networks, cut where their feature maps are."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.bundle = open_bundle(folder)
        self.encoder = OnnxEncoder(self.bundle)
        self.pictures = CutGraph(self.bundle, VIDEO, threads)
        self.sounds = CutGraph(self.bundle, AUDIO, threads)
        self.inputs = self.bundle.manifest.inputs

    def text_mean(self) -> NDArray[np.float32]:
        """What the bundle's graph of texts takes from a sentence's vector, [384]."""
        graph = onnx.load(self.bundle.graph(TEXT)).graph
        return next(onnx.numpy_helper.to_array(x) for x in graph.initializer if x.name == "mean")

    def see(self, frames: NDArray[np.uint8]) -> Arrays:
        """Frames [F, H, W, 3] -> cells [F, C, 1280] and the frames' vectors [F, 384]."""
        assert self.inputs.video is not None
        fits = self.inputs.video.frames
        cells, vectors = [], []
        for start in range(0, len(frames), fits):
            some = frames[start : start + fits]
            maps = self.pictures.features(some[None])  # [F, 1280, rows, columns]
            rows = maps.shape[2] // SIDE
            blocks = maps.reshape(len(maps), -1, SIDE, rows, SIDE, rows).mean(axis=(3, 5))
            cells.append(blocks.reshape(len(maps), -1, SIDE * SIDE).transpose(0, 2, 1))
            pooled = maps.mean(axis=(2, 3))[:, :, None, None]
            vectors.append(self.pictures.cell_vectors(pooled)[:, 0, 0])
        return {"cells": np.concatenate(cells), "vectors": np.concatenate(vectors)}

    def hear(self, waveform: NDArray[np.float32]) -> Arrays:
        """A window's sound [samples] -> patches [P, 1280] and the window's vector [384]."""
        patches = self.sounds.features(waveform[None]).mean(axis=(2, 3))
        return {
            "patches": patches,
            "vector": self.sounds.pooled_vectors(patches, waveform[None])[0],
        }

    @cached_property
    def silence(self) -> NDArray[np.float32]:
        """The patches [P, 1280] of a window in which nothing is heard."""
        assert self.inputs.audio is not None
        return self.hear(np.zeros(self.inputs.audio.samples, np.float32))["patches"]

    def hear_halves(self, patches: NDArray[np.float16]) -> NDArray[np.float32]:
        """Patches of sounds [N, P, 1280] -> unit vectors of the halves of each, [N, 2, 384].

        A half's is the mean of its patches' vectors. A patch in the middle is in none. If nothing
        is heard in a half it is zeros.
        """
        count = patches.shape[1] // 2
        found = np.zeros((len(patches), 2, 384), np.float32)
        for at, window in enumerate(patches.astype(np.float32)):
            vectors = self.sounds.cell_vectors(window[:, :, None, None])[:, 0, 0]
            heard = np.abs(window - self.silence).max(axis=1) > SILENT_WITHIN
            for half, part in enumerate((slice(count), slice(-count, None))):
                if heard[part].any():
                    found[at, half] = unit(vectors[part][heard[part]].mean(axis=0))
        return found


# ---------------------------------------------------------------- raw features, kept


def keep(folder: Path, name: str, count: int, make: Callable[[int], Arrays | None]) -> Arrays:
    """The arrays of `count` things [N, ...], made one by one and kept in chunks.

    `row` [N] is which thing each is: what cannot be read is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, count, CHUNK)
    for start in show_progress(iter(starts), len(starts), name, "chunk"):
        file = folder / f"{name}-{start}.npz"
        if file.exists():
            continue
        found = {}
        for i in range(start, min(start + CHUNK, count)):
            made = make(i)
            if made is not None:
                found[i] = made
        arrays = {
            key: np.stack([one[key] for one in found.values()]).astype(np.float16)
            for key in next(iter(found.values()))
        }
        part = file.with_suffix(".part.npz")
        np.savez(part, row=np.array(list(found)), **arrays)  # type: ignore[arg-type]
        part.replace(file)
    chunks = [dict(np.load(folder / f"{name}-{start}.npz")) for start in starts]
    return {key: np.concatenate([chunk[key] for chunk in chunks]) for key in chunks[0]}


def draw_views(path: Path, stems: Stems, seed: int) -> NDArray[np.uint8]:
    """Four views of a picture [4, size, size, 3]: whole, mirrored, and a crop of each kind."""
    random = np.random.default_rng(seed)
    spec = stems.inputs.video
    assert spec is not None
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    whole = fit_square(frame, spec)
    picture = frame.to_ndarray(format="rgb24")
    views = [whole, whole[:, ::-1]]
    for mirrored in (False, True):
        share = random.uniform(0.7, 0.9)
        rows, columns = (round(share * size) for size in picture.shape[:2])
        top = int(random.integers(picture.shape[0] - rows + 1))
        left = int(random.integers(picture.shape[1] - columns + 1))
        crop = np.ascontiguousarray(picture[top : top + rows, left : left + columns])
        view = fit_square(av.VideoFrame.from_ndarray(crop, format="rgb24"), spec)
        views.append(view[:, ::-1] if mirrored else view)
    return np.stack(views)


def first_sound(path: Path, stems: Stems) -> NDArray[np.float32] | None:
    """The first window of a file's sound [samples]; None if it has none."""
    try:
        parts = read_media(path, stems.inputs, Budget(), (AUDIO,)).parts
    except BadMedia:
        return None
    return parts[AUDIO].array[0] if AUDIO in parts else None


def see_and_hear(path: Path, stems: Stems) -> list[Arrays]:
    """Every window of a recording; what it lacks is zeros, and `has` [2] says so."""
    try:
        parts = read_media(path, stems.inputs, Budget()).parts
    except BadMedia:
        return []
    found = []
    for window in sorted({number for part in parts.values() for number in part.windows}):
        arrays = {
            modality: part.array[part.windows.index(window)]
            for modality, part in parts.items()
            if window in part.windows
        }
        seen = blank_sight() if VIDEO not in arrays else stems.see(arrays[VIDEO])
        heard = blank_sound() if AUDIO not in arrays else stems.hear(arrays[AUDIO])
        has = np.array([VIDEO in arrays, AUDIO in arrays])
        found.append({**seen, **heard, "has": has, "window": np.array(window)})
    return found


def blank_sight() -> Arrays:
    return {"cells": np.zeros((FRAMES, SIDE * SIDE, 1280)), "vectors": np.zeros((FRAMES, 384))}


def blank_sound() -> Arrays:
    return {"patches": np.zeros((9, 1280)), "vector": np.zeros(384)}


# ---------------------------------------------------------------- the rows


def read_jsonl(file: Path) -> Rows:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def open_rows(data: Path) -> tuple[Rows, Rows]:
    """The open pictures, and the open sounds with ESC-10's folds 1 to 4; paths made absolute."""
    rows = [
        row | {"path": data / "open" / row["path"]}
        for row in read_jsonl(data / "open/manifest.jsonl")
    ]
    pictures = [row for row in rows if row["modality"] == "image"]
    sounds = [row for row in rows if row["modality"] == "audio"]
    return pictures, sounds + [row for row in esc10(data) if row["fold"] != 5]


def esc10(data: Path) -> Rows:
    """ESC-10's rows, with an open licence each."""
    return [
        row | {"path": data / row["path"], "text": row["caption_helper"]}
        for row in read_jsonl(data / "sounds/manifest.jsonl")
        if row.get("esc10") and row["licence_class"].startswith("open")
    ]


def real_rows(data: Path) -> list[Row]:
    """The real recordings with the captions of both manifests, by path."""
    found: dict[Path, Row] = {}
    for name, about in (("video-sentences", VIDEO), ("sound-captions", AUDIO)):
        for row in read_manifest(data / "real" / f"{name}.jsonl"):
            assert row.path is not None
            path = row.path.resolve()
            captions = tuple(Caption(caption.text, (about,)) for caption in row.captions)
            known = found.get(path, replace(row, path=path, captions=()))
            found[path] = replace(known, captions=known.captions + captions)
    return list(found.values())


def make_row(values: dict[str, Any], modality: str) -> Row:
    """An open row with its captions and its first label, which are about one modality."""
    texts = [values["text"], *(values.get("captions") or []), *values["labels"][:1]]
    captions = tuple(Caption(text, (modality,)) for text in dict.fromkeys(texts) if text)
    return Row(id=values["id"], path=None, captions=captions, group=texts[0], metadata={})


def pair_up(pictures: Rows, sounds: Rows, words: Words) -> NDArray[np.int64]:
    """Pictures and sounds whose labels mean the same, [n, 2]; PARTNERS at most of a picture."""
    seen = [(i, row["labels"][0]) for i, row in enumerate(pictures) if row["labels"]]
    heard = [(i, row["labels"][0]) for i, row in enumerate(sounds) if row["labels"]]
    names = list(dict.fromkeys(label for _, label in [*seen, *heard]))
    vectors = words.readings(words.states(names))
    place = {name: i for i, name in enumerate(names)}
    of_sounds = vectors[[place[label] for _, label in heard]]
    random = np.random.default_rng(0)
    pairs = []
    for i, label in seen:
        likeness = of_sounds @ vectors[place[label]]
        fitting = random.permutation(np.flatnonzero(likeness >= ALIKE))[:PARTNERS]
        pairs += [(i, heard[j][0]) for j in fitting]
    return np.array(pairs, np.int64)


# ---------------------------------------------------------------- the file


class Directions:
    """The main directions of features [N, D], each brought to a deviation of 1."""

    def __init__(self, features: NDArray[np.floating[Any]], count: int) -> None:
        random = np.random.default_rng(0)
        some = features[random.permutation(len(features))[:EXAMPLES]].astype(np.float64)
        self.mean = some.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov(some - self.mean, rowvar=False))
        self.matrix = vectors[:, -count:] / np.sqrt(values[-count:] + 1e-8)

    def __call__(self, features: NDArray[np.floating[Any]]) -> NDArray[np.int8]:
        centred = features.astype(np.float32) - self.mean.astype(np.float32)
        return quantise(centred @ self.matrix.astype(np.float32), FEATURE_STEP)


def count_heard(seconds: float, patches: int = 9) -> NDArray[np.bool_]:
    """In which patches of a window a sound of so many seconds is, bool [P]."""
    return np.arange(patches) * PATCH_S + SHORTEST_S < max(seconds, SHORTEST_S + 0.01)


def draw_groups(rows: Rows) -> tuple[list[Any], list[tuple[int, int]]]:
    """Groups of two sounds of differing labels with their texts of each kind; and the two sounds
    of each group both ways round.
    """
    random = np.random.default_rng(5)
    groups: list[Any] = []
    members: list[tuple[int, int]] = []
    while len(groups) < BENCHMARK:
        i, j = (int(k) for k in random.choice(len(rows), 2, replace=False))
        if rows[i]["labels"] == rows[j]["labels"] or (i, j) in members:
            continue
        names = [rows[k]["text"].rstrip(".").lower() for k in (i, j)]
        texts = {kind: how.say(names[0], names[1], 0) for kind, how in COMPOSITIONS.items()}
        groups.append({"ids": [rows[i]["id"], rows[j]["id"]], "texts": texts})
        members += [(i, j), (j, i)]
    return groups, members


def compose_benchmark(data: Path, stems: Stems, folder: Path) -> tuple[Arrays, dict[str, Any]]:
    """Sounds of ESC-10's fold 5 put together, by kind, and the groups of each kind."""
    rows = [row for row in esc10(data) if row["fold"] == 5]
    groups, members = draw_groups(rows)
    sounds = [first_sound(row["path"], stems) for row in rows]
    found: Arrays = {}
    for kind, how in COMPOSITIONS.items():

        def hear(number: int, put: Put = how.put) -> Arrays:
            first, second = (sounds[i] for i in members[number])
            assert first is not None and second is not None
            return stems.hear(put(first, second))

        made = keep(folder, kind, len(members), hear)
        found |= name_features(kind, made, stems)
    texts = {
        kind: [{"ids": group["ids"], "texts": group["texts"][kind]} for group in groups]
        for kind in COMPOSITIONS
    }
    return found, texts


def compose_training(
    sources: list[Clips], pairs: NDArray[np.int64], paths: list[Path], stems: Stems, folder: Path
) -> tuple[Arrays, dict[str, list[Row]]]:
    """What `compa` puts together of the training sources, by kind: features, and the rows.

    `pairs` [n, 2] are pictures and sounds, `paths` the files of the sounds.
    """
    read = lru_cache(maxsize=2048)(partial(first_sound, stems=stems))
    found: Arrays = {}
    rows: dict[str, list[Row]] = {}
    for kind in COMPOSITIONS:
        composed = ComposedSounds(sources, COMPOSED, (kind,)).composed

        def hear(number: int, composed: list[Composed] = composed) -> Arrays:
            members = composed[number].members
            places = [pairs[i, 1] if source.has[VIDEO][i] else i for source, i in members]
            first, second = (read(paths[place]) for place in places)
            assert first is not None and second is not None
            put = COMPOSITIONS[composed[number].kind].put
            return stems.hear(put(first, second))

        made = keep(folder, f"composed-{kind}", len(composed), hear)
        found |= name_features(f"composed_{kind}", made, stems)
        rows[kind] = [one.row for one in composed]
    return found, rows


class Words:
    """all-MiniLM-L6-v2: texts -> states of their tokens, and the bundle's readings."""

    def __init__(self, stems: Stems) -> None:
        self.sentences = SentenceVectors()
        self.sentences.tokenizer.enable_truncation(TOKENS)
        self.mean = stems.text_mean()

    @torch.no_grad()
    def states(self, texts: list[str]) -> list[NDArray[np.float32]]:
        """Of each text [T, 384]."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
        pages = [order[start : start + PAGE] for start in range(0, len(order), PAGE)]
        states: dict[int, NDArray[np.float32]] = {}
        for page in show_progress(iter(pages), len(pages), "texts", "page"):
            encodings = self.sentences.tokenizer.encode_batch([texts[i] for i in page])
            ids = torch.tensor([encoding.ids for encoding in encodings])
            present = ids != PAD_ID
            found = self.sentences.network.language(ids, present)
            for i, row, there in zip(page, found, present, strict=True):
                states[i] = row[there].numpy()
        return [states[i] for i in range(len(texts))]

    def readings(self, states: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """unit(sentence - mean) of each, [N, 384]."""
        return unit(unit(np.stack([row.sum(axis=0) for row in states])) - self.mean)

    def describe(self, texts: list[str]) -> Arrays:
        """What the bed keeps of texts."""
        states = self.states(texts)
        said = Directions(np.concatenate(states), SAID)
        tokens = np.zeros((len(texts), TOKENS, SAID), np.int8)
        for i, row in enumerate(states):
            tokens[i, : len(row)] = said(row)
        return {
            "text_tokens": tokens,
            "text_lengths": np.array([len(row) for row in states], np.int16),
            "text_readings": quantise(self.readings(states), READING_STEP),
        }


def write_bed(data: Path, stems: Stems, work: Path, out: Path) -> None:
    """All of it, from recordings to the file."""
    pictures, sounds = open_rows(data)

    def see(i: int) -> Arrays:
        return stems.see(draw_views(pictures[i]["path"], stems, i))

    def hear(i: int) -> Arrays | None:
        sound = first_sound(sounds[i]["path"], stems)
        return None if sound is None else stems.hear(sound)

    seen = keep(work, "pictures", len(pictures), see)
    heard = keep(work, "sounds", len(sounds), hear)
    benchmark, groups = compose_benchmark(data, stems, work)
    real = real_rows(data)
    windows = keep_windows(work, real, stems)
    words = Words(stems)
    pictures = [pictures[i] for i in seen["row"]]
    sounds = [sounds[i] for i in heard["row"]]
    sight = Directions(seen["cells"].reshape(-1, seen["cells"].shape[-1]), SEEN)
    hearing = Directions(heard["patches"].reshape(-1, heard["patches"].shape[-1]), HEARD)
    arrays = {
        "picture_cells": sight(seen["cells"]),
        "picture_readings": quantise(seen["vectors"], READING_STEP),
        "sound_heard": np.stack([count_heard(row.get("dur") or 5.0) for row in sounds]),
        "pairs": pair_up(pictures, sounds, words),
        **describe_recordings(windows, sight),
    }
    for name, found in (("sound", heard), ("recording", windows)):
        features = name_features(name, found, stems)
        arrays |= describe_sounds(features, hearing)
    rows = {
        "pictures": [make_row(row, VIDEO) for row in pictures],
        "sounds": [make_row(row, AUDIO) for row in sounds],
        "recordings": real,
    }
    rows["pairs"] = [join_rows(rows["pictures"][i], rows["sounds"][j]) for i, j in arrays["pairs"]]
    composed, composed_rows = compose_training(
        training_sources(arrays, rows),
        arrays["pairs"],
        [row["path"] for row in sounds],
        stems,
        work,
    )
    for put_together in (benchmark, composed):
        arrays |= describe_sounds(put_together, hearing)
        arrays |= {
            name.replace("_patches", "_heard"): np.ones(patches.shape[:2], dtype=bool)
            for name, patches in put_together.items()
            if name.endswith("_patches")
        }
    texts = collect_texts(rows, composed_rows, groups)
    arrays |= words.describe(texts)
    described = {
        "texts": texts,
        "rows": {part: [describe_row(row) for row in of] for part, of in rows.items()},
        "groups": groups,
        "composed": {kind: [row.id for row in of] for kind, of in composed_rows.items()},
    }
    write_file(out, arrays, described)


def name_features(name: str, made: Arrays, stems: Stems) -> Arrays:
    """What was made of sounds [N, ...], and the vectors of their halves, under a name."""
    return {
        f"{name}_patches": made["patches"],
        f"{name}_readings": made["vector"],
        f"{name}_halves": stems.hear_halves(made["patches"]),
    }


def describe_sounds(features: Arrays, hearing: Directions) -> Arrays:
    """What the bed keeps of sounds, see `name_features`."""
    return {
        name: hearing(array) if name.endswith("_patches") else quantise(array, READING_STEP)
        for name, array in features.items()
    }


def describe_recordings(windows: Arrays, sight: Directions) -> Arrays:
    """What is seen in the windows of recordings, and of which recording each is."""
    return {
        "recording_cells": sight(windows["cells"]),
        "recording_frame_readings": quantise(windows["vectors"], READING_STEP),
        "recording_owners": windows["owner"].astype(np.int64),
        "recording_windows": windows["window"].astype(np.int64),
        "recording_has_video": windows["has"][:, 0].astype(bool),
        "recording_has_audio": windows["has"][:, 1].astype(bool),
    }


def join_rows(picture: Row, sound: Row) -> Row:
    """A picture and a sound as one row."""
    captions = picture.captions + sound.captions
    return replace(picture, id=f"{picture.id}+{sound.id}", captions=captions)


def write_file(out: Path, arrays: Arrays, described: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out, rows=np.array(json.dumps(described)), **arrays)  # type: ignore[arg-type]
    counts = ", ".join(f"{len(of)} {part}" for part, of in described["rows"].items())
    size_mb = out.stat().st_size / 1e6
    print(f"{out}: {counts}, {len(described['texts'])} texts, {size_mb:.1f} MB")


def keep_windows(work: Path, rows: list[Row], stems: Stems) -> Arrays:
    """The windows of recordings; `owner` says which recording each is of."""
    file = work / "recordings.npz"
    if not file.exists():
        found: list[Arrays] = []
        for i, row in enumerate(show_progress(iter(rows), len(rows), "recordings", "file")):
            assert row.path is not None
            windows = see_and_hear(row.path, stems)
            found += [window | {"owner": np.array(i)} for window in windows]
        np.savez(file, **{key: np.stack([one[key] for one in found]) for key in found[0]})  # type: ignore[arg-type]
    return dict(np.load(file))


def collect_texts(
    rows: dict[str, list[Row]], composed: dict[str, list[Row]], groups: dict[str, Any]
) -> list[str]:
    """Every text that training or measuring may ask for; ABSENT is the first."""
    every = [row for of in (*rows.values(), *composed.values()) for row in of]
    said = [caption.text for row in every for caption in row.captions]
    said += [row.metadata[SWAPPED] for of in composed.values() for row in of]
    said += [text for of in groups.values() for group in of for text in group["texts"]]
    texts = dict.fromkeys([ABSENT, *said])
    count = 0
    while count < len(texts):  # a side may say an order, too
        count = len(texts)
        texts |= dict.fromkeys(side for text in texts for side in sides_of(text))
    return list(texts)


def describe_row(row: Row) -> dict[str, Any]:
    captions = [asdict(caption) for caption in row.captions]
    return {"id": row.id, "group": row.group, "captions": captions}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.real_bed", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--bundle", type=Path, default=Path("bundles/default"))
    parser.add_argument("--work", type=Path, default=Path("runs/real-bed"))
    parser.add_argument("--out", type=Path, default=Path("runs/real-bed.npz"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    write_bed(args.data, Stems(args.bundle, args.threads), args.work, args.out)


if __name__ == "__main__":
    main()
