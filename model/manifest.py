"""Manifests: which media there is and what is said of it.

A manifest is a JSONL file; a row is {"path", "id"?, "text"? or "captions"?, "group"?, "metadata"?, "licence"?}, `path`
relative to the manifest. A caption is a string, or {"text", "about": ["video", "audio"]?, "states": {...}?}.
Rows of one `group` mean the same: each is right wherever another one is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class BadManifest(Exception):
    def __init__(self, manifest: str, line: int, problem: str) -> None:
        super().__init__(manifest, line, problem)
        self.manifest, self.line, self.problem = manifest, line, problem

    def __str__(self) -> str:
        return f"{self.manifest}, line {self.line}: {self.problem}"


@dataclass(frozen=True)
class Said:
    """A caption: its words, the modalities it is about (empty: whatever the row has) and what it commits to."""

    text: str
    about: tuple[str, ...] = ()
    states: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    id: str
    path: Path
    captions: tuple[Said, ...]
    group: str
    metadata: dict[str, Any]
    licence: str = ""


def read_manifest(manifest: Path) -> list[Row]:
    """The rows of a JSONL manifest.

    Raises:
        BadManifest: a line that is not a JSON object with a path.
    """
    rows = []
    for number, line in enumerate(manifest.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            said = value.get("captions") or ([value["text"]] if value.get("text") else [])
            captions = tuple(
                Said(c) if isinstance(c, str) else Said(c["text"], tuple(c.get("about", ())), c.get("states", {}))
                for c in said
            )
            name = value.get("id", value["path"])
            path = manifest.parent / value["path"]
            rows.append(
                Row(name, path, captions, value.get("group", name), value.get("metadata", {}), value.get("licence", ""))
            )
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise BadManifest(manifest.name, number, f"{type(error).__name__}: {error}") from error
    return rows
