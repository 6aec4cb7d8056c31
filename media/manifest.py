"""Manifests: which media there is and what is said of it.

A manifest is a JSONL file; a row is {"path"?, "id"?, "text"? or "captions"?, "group"?, "metadata"?,
"licence"?}, `path` relative to the manifest; a row without one is words alone. A caption is a
string, or {"text", "about": ["video", "audio"]?, "states": {...}?}. Rows of one `group` mean the
same: each is right wherever another one is.
"""

from __future__ import annotations

import json
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .containers import MEDIA

METADATA_MAX_BYTES = 65_536
METADATA_MAX_DEPTH = 16


class BadManifest(Exception):
    detail_fields = ("manifest", "at", "problem")

    def __init__(self, manifest: str, at: str, problem: str) -> None:
        super().__init__(manifest, at, problem)
        self.manifest, self.at, self.problem = manifest, at, problem

    def __str__(self) -> str:
        return f"{self.manifest}, {self.at}: {self.problem}"


class BadMetadata(Exception):
    detail_fields = ("problem",)

    def __init__(self, problem: str) -> None:
        super().__init__(f"metadata is a JSON object: {problem}")
        self.problem = problem


def check_metadata(value: Any) -> dict[str, Any]:
    """Metadata that can be stored, filtered and given back as JSON.

    Raises:
        BadMetadata: otherwise.
    """
    if not isinstance(value, dict):
        raise BadMetadata(f"this is a {type(value).__name__}")
    try:
        size = len(json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8"))
        deep = nesting_depth(value)
    except (ValueError, RecursionError) as error:
        raise BadMetadata("it holds a number, a character or a depth that JSON has not") from error
    if size > METADATA_MAX_BYTES or deep > METADATA_MAX_DEPTH:
        raise BadMetadata(f"at most {METADATA_MAX_BYTES} bytes and {METADATA_MAX_DEPTH} levels")
    return value


def nesting_depth(value: Any) -> int:
    """How deeply lists and objects are nested.

    >>> nesting_depth({"a": [1]})
    2
    """
    inner = (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    )
    return 0 if inner is None else 1 + max(map(nesting_depth, inner), default=0)


def check_string(text: Any) -> str:
    """A string that UTF-8 can hold, as it is; TypeError or ValueError for anything else."""
    if not isinstance(text, str):
        raise TypeError(f"a string, not {type(text).__name__}")
    if "\0" in text:
        raise ValueError("a NUL in a string")
    text.encode("utf-8")
    return text


@dataclass(frozen=True)
class Caption:
    """A caption: its words, the modalities it is about (empty: whatever the row has) and what it
    commits to.
    """

    text: str
    about: tuple[str, ...] = ()
    states: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Row:
    id: str
    path: Path | None
    captions: tuple[Caption, ...]
    group: str
    metadata: dict[str, Any]
    licence: str = ""

    def captions_about(self, modality: str) -> list[Caption]:
        """The captions about a modality."""
        return [said for said in self.captions if not said.about or modality in said.about]


def parse_row(value: dict[str, Any], base: Path, name: str) -> Row:
    """A row from its JSON object; `name` is its id where it has neither id nor path.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, BadMetadata: it is not one.
    """
    said = value.get("captions") or ([value["text"]] if value.get("text") else [])
    captions = tuple(
        Caption(check_string(c))
        if isinstance(c, str)
        else Caption(check_string(c["text"]), tuple(c.get("about", ())), c.get("states", {}))
        for c in said
    )
    name = check_string(value.get("id") or value.get("path") or name)
    path = base / check_string(value["path"]) if "path" in value else None
    group = check_string(value.get("group", name))
    return Row(
        id=name,
        path=path,
        captions=captions,
        group=group,
        metadata=check_metadata(value.get("metadata", {})),
        licence=value.get("licence", ""),
    )


def read_manifest(manifest: Path) -> list[Row]:
    """The rows of a JSONL manifest.

    Raises:
        BadManifest: a line that is not a JSON object with a path or with words.
    """
    rows = []
    try:
        text = manifest.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadManifest(manifest.name, "its text", "not UTF-8") from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_row(json.loads(line), manifest.parent, f"{manifest.stem}-{number}")
            if row.path is None and not row.captions:
                raise KeyError("path")
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
            BadMetadata,
        ) as error:
            raise BadManifest(
                manifest.name, f"line {number}", f"{type(error).__name__}: {error}"
            ) from error
        rows.append(row)
    return rows


def sample_row(sample: dict[str, bytes], key: str) -> Row:
    """The row of a shard's sample, from the `.json` with a manifest row's keys or the `.txt` with a
    caption a line that stand under the media's key.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, BadMetadata: they hold no row.
    """
    value = json.loads(sample["json"]) if "json" in sample else {}
    if "txt" in sample:
        value["captions"] = [
            line.strip() for line in sample["txt"].decode("utf-8").splitlines() if line.strip()
        ]
    value.pop("path", None)  # the media are in the shard
    return parse_row(value | {"id": value.get("id", key)}, Path(), key)


@dataclass(frozen=True)
class Member:
    """A media file inside a tar shard: where its bytes lie, and the suffix of its name."""

    offset: int
    size: int
    suffix: str

    def read(self, shard: Path) -> bytes:
        with shard.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def read_shard(shard: Path) -> list[tuple[Row, Member]]:
    """The samples of a WebDataset tar shard that have media: files in a row of one name up to its
    first dot.

    Raises:
        BadManifest: it is no tar file (a compressed one is not read), or a sample's words are no
            row.
    """
    found: list[tuple[Row, Member]] = []
    at, words, media = "start", dict[str, bytes](), list[Member]()

    def end() -> None:
        if media:
            found.append((sample_row(words, at), media[0]))

    try:
        with tarfile.open(shard, "r:") as tar:
            for part in tar:
                folder, _, name = part.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if not part.isfile() or not suffix:
                    continue
                if key != at:
                    end()
                    at, words, media = key, {}, []
                if suffix.lower() in ("json", "txt"):
                    file = tar.extractfile(part)
                    words[suffix.lower()] = file.read() if file else b""
                elif f".{suffix.lower()}" in MEDIA:
                    media.append(Member(part.offset_data, part.size, f".{suffix.lower()}"))
            end()
    except (
        tarfile.TarError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        BadMetadata,
    ) as error:
        raise BadManifest(shard.name, at, f"{type(error).__name__}: {error}") from error
    return found


def read_folder(folder: Path) -> list[Row]:
    """The media below a folder. A file's captions are the lines of the .txt file of its name beside
    it; without one, the words of its sub-folder's name, which is then its group; without that,
    those of its own name.
    """
    rows = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in MEDIA):
        name, beside, inside = (
            path.relative_to(folder).as_posix(),
            path.with_suffix(".txt"),
            path.parent != folder,
        )
        if beside.is_file():
            lines = beside.read_text(encoding="utf-8").splitlines()
            said, group = [line.strip() for line in lines if line.strip()], name
        else:
            said = [re.sub(r"[\W_]+", " ", path.parent.name if inside else path.stem).strip()]
            group = path.parent.relative_to(folder).as_posix() if inside else name
        captions = tuple(Caption(check_string(text)) for text in said if text)
        rows.append(Row(id=name, path=path, captions=captions, group=group, metadata={}))
    return rows
