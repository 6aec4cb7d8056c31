"""Public sets of sounds, as a folder holds them, to manifests with captions."""

from __future__ import annotations

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


def prepare(name: str, folder: Path, part: str, out: Path) -> int:
    """Write the rows of one set and part; returns how many.

    esc10: fold 5 is the test part, with one caption a class. digits: takes 0-4 of each speaker are the test part.
    """
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    make = {"esc10": esc10_row, "digits": digit_row}[name]
    made = [row for source in rows if (row := make(source, part)) is not None]
    for row in made:
        row["path"] = os.path.relpath(folder.parent / row["path"], out.parent)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return len(made)


def esc10_row(source: dict[str, Any], part: str) -> dict[str, Any] | None:
    if not source.get("esc10") or (source["fold"] == 5) != (part == "test"):
        return None
    label = source["labels"][0]
    said = SOUNDS[label] if part == "train" else [source["caption_helper"].rstrip(".").lower()]
    return row_of(source, label, list(said))


def digit_row(source: dict[str, Any], part: str) -> dict[str, Any] | None:
    if source["dataset"] != "Free Spoken Digit Dataset" or (source["split"] == "test") != (part == "test"):
        return None
    word = source["labels"][0]
    said = [phrase.format(word) for phrase in (DIGIT if part == "train" else DIGIT[3:4])]
    return row_of(source, f"digit {word}", said)


def row_of(source: dict[str, Any], group: str, said: list[str]) -> dict[str, Any]:
    captions = [{"text": text, "about": ["audio"]} for text in said]
    kept = {"path": source["path"], "id": source["id"], "licence": source["licence"]}
    return kept | {"group": group, "captions": captions, "metadata": {"label": source["labels"][0]}}
