"""Public sets as their owners distribute them, folder in, manifest out."""

from __future__ import annotations

import csv
import json
import os
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from media.containers import MEDIA
from media.manifest import BadManifest

SOUNDS = {
    "dog": (
        "a dog barking",
        "a dog barks",
        "barking",
        "the bark of a dog",
        "a barking dog",
        "the sound of a dog barking",
    ),
    "rooster": (
        "a rooster crowing",
        "a rooster crows",
        "the crow of a rooster",
        "a cock crowing",
        "the sound of a rooster crowing",
    ),
    "rain": (
        "rain falling",
        "the sound of rain",
        "heavy rain",
        "it is raining",
        "rainfall",
        "the sound of rain falling",
    ),
    "sea_waves": (
        "sea waves",
        "waves on a beach",
        "the sound of the sea",
        "ocean waves crashing",
        "waves rolling in",
    ),
    "crackling_fire": (
        "a crackling fire",
        "fire crackling",
        "a fire burning",
        "the crackle of a camp fire",
        "burning wood",
    ),
    "crying_baby": (
        "a crying baby",
        "a baby cries",
        "a baby crying",
        "the cry of an infant",
        "the sound of a baby crying",
    ),
    "sneezing": (
        "a sneeze",
        "a person sneezing",
        "someone sneezes",
        "sneezing",
        "the sound of a person sneezing",
    ),
    "clock_tick": (
        "a clock ticking",
        "the tick of a clock",
        "a ticking clock",
        "clock ticks",
        "the sound of a clock ticking",
    ),
    "helicopter": (
        "a helicopter",
        "a helicopter flying",
        "the rotor of a helicopter",
        "a helicopter overhead",
        "the sound of a helicopter",
    ),
    "chainsaw": (
        "a chainsaw",
        "a chainsaw running",
        "the sound of a chainsaw",
        "someone using a chainsaw",
        "a chainsaw cutting wood",
    ),
}
DIGIT = (
    "someone says {}",
    "the spoken word {}",
    "a voice saying {}",
    "a person says the word {}",
    "the digit {} spoken",
)


Rows = list[dict[str, Any]]


def prepare(name: str, folder: Path, part: str, out: Path, fold: int = 5) -> tuple[int, int]:
    """Write the rows of one set and part, "train", "validation" or "test"; returns how many, and
    how many the set lists whose media are not in the folder.

    Raises:
        BadManifest: the folder has not the files the set comes with.
    """
    try:
        made = PREPARERS[name](folder, part, fold)
    except (OSError, KeyError, ValueError) as error:
        raise BadManifest(str(folder), name, f"not as its owners distribute it: {error}") from error
    there = [row for row in made if row.get("path", "") is not None]
    for row in there:
        if "path" in row:
            row["path"] = os.path.relpath(row["path"], out.parent)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(row) + "\n" for row in there), encoding="utf-8")
    return len(there), len(made) - len(there)


def read_csv(file: Path, columns: Sequence[str] | None = None) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, columns))


def media_below(folder: Path) -> dict[str, Path]:
    """Every media file below a folder by its name without suffix."""
    return {p.stem: p for p in sorted(folder.rglob("*")) if p.suffix.lower() in MEDIA}


def clip_row(
    path: Path | None, name: str, captions: Sequence[str], licence: str, **more: Any
) -> dict[str, Any]:
    """A row; `path` None where the set lists media that are not there."""
    return {"path": path, "id": name, "captions": list(captions), "licence": licence} | more


def esc50(folder: Path, part: str, fold: int) -> Rows:
    """ESC-50: meta/esc50.csv beside audio/; one fold is the test part."""
    made = []
    for row in read_csv(folder / "meta" / "esc50.csv"):
        if (fold in (0, int(row["fold"]))) == (part == "test"):
            label = row["category"].replace("_", " ")
            file = folder / "audio" / row["filename"]
            said = [label, f"the sound of {label}"] if part == "train" else [label]
            path = file if file.is_file() else None
            licence = "CC BY-NC 3.0, ESC-50"
            number = int(row["fold"])
            made.append(clip_row(path, file.stem, said, licence, group=label, fold=number))
    return made


def audiocaps(folder: Path, part: str, fold: int) -> Rows:
    """AudioCaps: train, val and test.csv; clips anywhere below, named by YouTube id, `Y` and id, or
    id and start.
    """
    media = media_below(folder)
    clips: dict[tuple[str, str], list[str]] = {}
    (file,) = folder.rglob(
        {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}[part]
    )
    for row in read_csv(file):
        clips.setdefault((row["youtube_id"], row["start_time"]), []).append(row["caption"])
    made = []
    for (name, start), captions in clips.items():
        names = (
            f"{name}_{start}",
            f"Y{name}_{start}",
            f"{name}_{int(start):06d}",
            name,
            f"Y{name}",
        )
        path = next((media[n] for n in names if n in media), None)
        made.append(
            clip_row(
                path, f"{name}_{start}", captions, "AudioCaps: academic use; audio of its uploaders"
            )
        )
    return made


def clotho(folder: Path, part: str, fold: int) -> Rows:
    """Clotho: clotho_captions_<part>.csv beside <part>/, the parts being development, validation
    and evaluation.
    """
    part = {"train": "development", "test": "evaluation"}.get(part, part)
    made = []
    for row in read_csv(folder / f"clotho_captions_{part}.csv"):
        file = folder / part / row["file_name"]
        captions = [row[f"caption_{i}"] for i in range(1, 6)]
        path = file if file.is_file() else None
        made.append(
            clip_row(
                path, file.stem, captions, "Tampere University licence, non-commercial: Clotho"
            )
        )
    return made


def vggsound(folder: Path, part: str, fold: int) -> Rows:
    """VGGSound: vggsound.csv of id, start, label and part; clips anywhere below, named id_start in
    six digits.
    """
    media = media_below(folder)
    made = []
    for row in read_csv(folder / "vggsound.csv", ("id", "start", "label", "part")):
        if row["part"] == part:
            name = f"{row['id']}_{int(row['start']):06d}"
            captions = (
                [row["label"], f"the sound of {row['label']}"]
                if part == "train"
                else [row["label"]]
            )
            licence = "CC BY 4.0, VGGSound; media of their uploaders"
            made.append(clip_row(media.get(name), name, captions, licence, group=row["label"]))
    return made


def msrvtt(folder: Path, part: str, fold: int) -> Rows:
    """MSR-VTT: train_val_videodatainfo.json and test_videodatainfo.json anywhere below, videos by
    their ids.
    """
    media = media_below(folder)
    (file,) = folder.rglob(
        "test_videodatainfo.json" if part == "test" else "train_val_videodatainfo.json"
    )
    info = json.loads(file.read_text(encoding="utf-8"))
    names: dict[str, list[str]] = {
        v["video_id"]: []
        for v in info["videos"]
        if v["split"] == part.replace("validation", "validate")
    }
    for sentence in info["sentences"]:
        if sentence["video_id"] in names:
            names[sentence["video_id"]].append(sentence["caption"])
    return [
        clip_row(media.get(n), n, captions, "MSR-VTT; media of their uploaders")
        for n, captions in names.items()
    ]


def esc10(folder: Path, part: str, fold: int) -> Rows:
    """The ten classes of ESC-10 in this project's own collection of sounds; one fold is the test
    part.
    """
    return rooted(folder, esc10_rows(own_rows(folder), part, fold))


def digits(folder: Path, part: str, fold: int) -> Rows:
    """Spoken digits in this project's own collection of sounds; takes 0-4 of each speaker are the
    test part.
    """
    return rooted(folder, digit_rows(own_rows(folder), part))


def own_rows(folder: Path) -> Rows:
    return [
        json.loads(line)
        for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def rooted(folder: Path, rows: Rows) -> Rows:
    return [row | {"path": folder.parent / row["path"]} for row in rows]


def wording(folder: Path, part: str, fold: int) -> Rows:
    """Words without media: names and first sentences of the ontology's classes, and
    VGGSound's class names."""
    classes = json.loads((folder / "audioset_ontology.json").read_text(encoding="utf-8"))
    texts = {}
    for entry in classes:
        sentence = entry["description"].split(". ")[0].rstrip(".")
        for text in (*entry["name"].split(", "), sentence):
            texts[text.lower()] = "CC BY-SA 4.0, AudioSet ontology"
    with (folder / "vggsound_test.csv").open(encoding="utf-8", newline="") as file:
        for _, name in csv.reader(file):
            texts.setdefault(name, "CC BY 4.0, VGGSound class names")
    return [
        {"captions": [{"text": t, "about": ["audio"]}], "licence": of}
        for t, of in texts.items()
        if t.strip()
    ]


def words(folder: Path, part: str, fold: int) -> Rows:
    """Words without media or sense, by chance of BERT's frequent ones: what a language model makes
    of any word.
    """
    known = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    whole = [word for word in known if re.fullmatch("[a-z]{3,}", word)][:COMMON]
    doing = [word for word in whole if word.endswith("ing") and len(word) > 5]
    chance = random.Random(part)
    made = []
    for _ in range(12_000):
        a, b = chance.sample(whole, 2)
        text = chance.choice(NONSENSE).format(a=a, b=b, doing=chance.choice(doing))
        made.append(
            {
                "captions": [{"text": text, "about": ["audio"]}],
                "licence": "Apache-2.0, words of BERT",
            }
        )
    return made


def esc10_rows(rows: list[dict[str, Any]], part: str, fold: int) -> list[dict[str, Any]]:
    chosen = [
        row for row in rows if row.get("esc10") and (fold in (0, row["fold"])) == (part == "test")
    ]
    made = []
    for source in chosen:
        label = source["labels"][0]
        said = SOUNDS[label] if part == "train" else [source["caption_helper"].rstrip(".").lower()]
        made.append(row_of(source, label, list(said)) | {"fold": source["fold"]})
    return made


def digit_rows(rows: list[dict[str, Any]], part: str) -> list[dict[str, Any]]:
    digits = [row for row in rows if row["dataset"] == "Free Spoken Digit Dataset"]
    phrases = DIGIT if part == "train" else DIGIT[3:4]
    made = []
    for row in digits:
        if (row["split"] == "test") == (part == "test"):
            digit = row["labels"][0]
            made.append(row_of(row, f"digit {digit}", [text.format(digit) for text in phrases]))
    return made


def row_of(source: dict[str, Any], group: str, said: list[str]) -> dict[str, Any]:
    captions = [{"text": text, "about": ["audio"]} for text in said]
    kept = {"path": source["path"], "id": source["id"], "licence": source["licence"]}
    return kept | {"group": group, "captions": captions, "metadata": {"label": source["labels"][0]}}


COMMON = 15_000  # words, in BERT's order
NONSENSE = (
    "{a}",
    "the sound of {a}",
    "a {a} {doing}",
    "{a} {b}",
    "{a} and {b}",
    "a {a} {doing} in the {b}",
)
PREPARERS: dict[str, Callable[[Path, str, int], Rows]] = {
    f.__name__: f
    for f in (esc50, audiocaps, clotho, vggsound, msrvtt, esc10, digits, wording, words)
}
