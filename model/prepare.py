"""Public sets of sounds, as a folder holds them, to manifests with captions."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

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
    "sea_waves": ("sea waves", "waves on a beach", "the sound of the sea", "ocean waves crashing", "waves rolling in"),
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
    "sneezing": ("a sneeze", "a person sneezing", "someone sneezes", "sneezing", "the sound of a person sneezing"),
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


def prepare(name: str, folder: Path, part: str, out: Path, fold: int = 5) -> int:
    """Write the rows of one set and part; returns how many.

    esc10: `fold` is the test part, with one caption a class. digits: takes 0-4 of each speaker are the test part.
    wording: words without media, from the AudioSet ontology and VGGSound's classes.
    """
    if name == "wording":
        made = wording(folder)
    else:
        rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
        made = esc10_rows(rows, part, fold) if name == "esc10" else digit_rows(rows, part)
    for row in made:
        if "path" in row:
            row["path"] = os.path.relpath(folder.parent / row["path"], out.parent)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return len(made)


def wording(folder: Path) -> list[dict[str, Any]]:
    """Names and first sentences of the ontology's classes, and VGGSound's class names."""
    classes = json.loads((folder / "audioset_ontology.json").read_text(encoding="utf-8"))
    texts = {}
    for entry in classes:
        sentence = entry["description"].split(". ")[0].rstrip(".")
        for text in (*entry["name"].split(", "), sentence):
            texts[text.lower()] = "CC BY-SA 4.0, AudioSet ontology"
    with (folder / "vggsound_test.csv").open(encoding="utf-8", newline="") as file:
        for _, name in csv.reader(file):
            texts.setdefault(name, "CC BY 4.0, VGGSound class names")
    return [{"captions": [{"text": t, "about": ["audio"]}], "licence": of} for t, of in texts.items() if t.strip()]


def esc10_rows(rows: list[dict[str, Any]], part: str, fold: int) -> list[dict[str, Any]]:
    chosen = [row for row in rows if row.get("esc10") and (row["fold"] == fold) == (part == "test")]
    made = []
    for source in chosen:
        label = source["labels"][0]
        said = SOUNDS[label] if part == "train" else [source["caption_helper"].rstrip(".").lower()]
        made.append(row_of(source, label, list(said)))
    return made


def digit_rows(rows: list[dict[str, Any]], part: str) -> list[dict[str, Any]]:
    digits = [row for row in rows if row["dataset"] == "Free Spoken Digit Dataset"]
    phrases = DIGIT if part == "train" else DIGIT[3:4]
    return [
        row_of(row, f"digit {row['labels'][0]}", [phrase.format(row["labels"][0]) for phrase in phrases])
        for row in digits
        if (row["split"] == "test") == (part == "test")
    ]


def row_of(source: dict[str, Any], group: str, said: list[str]) -> dict[str, Any]:
    captions = [{"text": text, "about": ["audio"]} for text in said]
    kept = {"path": source["path"], "id": source["id"], "licence": source["licence"]}
    return kept | {"group": group, "captions": captions, "metadata": {"label": source["labels"][0]}}
