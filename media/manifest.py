"""Reads manifests: lists of media with their captions and metadata.

A manifest is a JSONL file. A row is {"path"?, "id"?, "text"? or "captions"?, "group"?, "metadata"?,
"licence"?, "fold"?}; "?" marks what may be missing. `path` is relative to the manifest. A row
without a path is a text. A caption is a string, or {"text", "about": ["video", "audio"]?, "states":
{...}?}. Rows of one `group` mean the same: in evaluation, each is a right answer for the others'
captions. `fold` is the number of the part that a row belongs to in cross-validation.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from .containers import MEDIA

KEY_SHOWN = 100  # letters of a key in a message
METADATA_MAX_BYTES = 65_536
METADATA_MAX_DEPTH = 16
# of all paths by which filters find its values; each is stored
METADATA_MAX_PATHS = 4_000_000


class BadManifest(Exception):
    """A manifest or shard that cannot be read. `at` is the place in it."""

    detail_fields = ("manifest", "at", "problem")

    def __init__(self, manifest: str, at: str, problem: str) -> None:
        super().__init__(manifest, at, problem)
        self.manifest = manifest
        self.at = at
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.manifest}, {self.at}: {self.problem}"


class BadMetadata(Exception):
    detail_fields = ("problem",)

    def __init__(self, problem: str) -> None:
        super().__init__(f"metadata is a JSON object: {problem}")
        self.problem = problem


class DuplicateKey(Exception):
    """JSON with an object that has a key twice: one of the two values would be lost."""

    detail_fields = ("key",)

    def __init__(self, key: str) -> None:
        super().__init__(f"the key {key[:KEY_SHOWN]!r} comes twice in one object")
        self.key = key[:KEY_SHOWN]


def read_json(text: str | bytes) -> Any:
    """JSON that somebody has written.

    Raises:
        ValueError, RecursionError: it is no JSON.
        DuplicateKey: an object has a key twice.
    """
    return json.loads(text, object_pairs_hook=make_object)


def make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises DuplicateKey."""
    found = dict(pairs)
    if len(found) < len(pairs):
        times = Counter(key for key, _ in pairs)
        raise DuplicateKey(times.most_common(1)[0][0])
    return found


def check_metadata(value: Any) -> dict[str, Any]:
    """Return `value` if it can be stored, filtered and given back as JSON.

    Raises:
        BadMetadata: it is no JSON object, too large or too deeply nested.
    """
    if not isinstance(value, dict):
        raise BadMetadata(f"this is {json_type(value)}")
    try:
        size = len(json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8"))
        deep = nesting_depth(value)
    except (ValueError, RecursionError) as error:
        raise BadMetadata(
            "a number or character in it is not valid in JSON, or it is nested too deeply"
        ) from error
    if size > METADATA_MAX_BYTES or deep > METADATA_MAX_DEPTH:
        raise BadMetadata(f"at most {METADATA_MAX_BYTES} bytes and {METADATA_MAX_DEPTH} levels")
    if count_letters(value) > METADATA_MAX_PATHS:
        raise BadMetadata(
            f"the paths to its values have at most {METADATA_MAX_PATHS} letters together: shorter"
            " names of fields, or fewer values in their lists"
        )
    return value


def count_letters(value: Any, paths: int = 1, letters: int = 0) -> int:
    """How many letters the paths to all values have together, at most, where so many `paths` of so
    many `letters` lead to this one. What is in a list has a path with its number and one without.

    >>> count_letters({"ab": 1, "c": [5, {"d": 6}]})  # .ab .c .c.0 .c.0 .c.1 .c.1 .c.1.d .c.1.d
    33
    """
    own = paths * letters
    if isinstance(value, dict):
        named = value.items()
        return own + sum(count_letters(v, paths, letters + len(k) + 1) for k, v in named)
    if not isinstance(value, list):
        return own
    below = letters + len(str(len(value))) + 1
    inner = [
        count_letters(each, paths if isinstance(each, list) else 2 * paths, below) for each in value
    ]
    return own + sum(inner)


def json_type(value: Any) -> str:
    """What a value is in JSON.

    >>> json_type(None), json_type([1]), json_type(0.5)
    ('null', 'a list', 'a number')
    """
    names = {bool: "true or false", str: "a text", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), "a number")


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
    """Return `text` unchanged. Raises TypeError if it is no string, ValueError if UTF-8 cannot hold
    it or it has a NUL.
    """
    if not isinstance(text, str):
        raise TypeError(f"a string, not {type(text).__name__}")
    if "\0" in text:
        raise ValueError("a NUL in a string")
    text.encode("utf-8")
    return text


@dataclass(frozen=True)
class Caption:
    """A caption. `about` names the modalities it describes (empty: all that the row has), `states`
    the attributes that it claims.
    """

    text: str
    about: tuple[str, ...] = ()
    states: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a manifest; see the module's docstring. `path` is None for a text."""

    id: str
    path: Path | None
    captions: tuple[Caption, ...]
    group: str
    metadata: dict[str, Any]
    licence: str = ""
    fold: int | None = None

    def captions_about(self, modality: str) -> list[Caption]:
        """The captions about a modality."""
        return [said for said in self.captions if not said.about or modality in said.about]


def parse_row(value: Any, base: Path, name: str) -> Row:
    """The row of a JSON object; `name` becomes its id if it has neither id nor path.

    Raises:
        ValueError, KeyError, TypeError, BadMetadata: it is no valid row.
    """
    if not isinstance(value, dict):
        raise TypeError(f"a line is an object, and this is {json_type(value)}")
    said = value.get("captions") or ([value["text"]] if value.get("text") else [])
    if not isinstance(said, list):
        raise TypeError(f"captions are a list, and this is {json_type(said)}")
    captions = tuple(parse_caption(each) for each in said)
    path = base / check_string(value["path"]) if "path" in value else None
    if path is not None and not PurePath(value["path"]).name:
        raise ValueError(f"no file has the path {value['path']!r}")
    id = value.get("id")
    name = check_string(value.get("path", name) if id in (None, "") else id)
    group = check_string(value.get("group", name))
    return Row(
        id=name,
        path=path,
        captions=captions,
        group=group,
        metadata=check_metadata(value.get("metadata", {})),
        licence=value.get("licence", ""),
        fold=None if value.get("fold") is None else int(value["fold"]),
    )


def parse_caption(value: Any) -> Caption:
    """The caption of a text or a JSON object. Raises ValueError, KeyError, TypeError."""
    if isinstance(value, str):
        return Caption(check_string(value))
    if not isinstance(value, dict):
        raise TypeError(f"a caption is a text or an object, and this is {json_type(value)}")
    about = value.get("about", [])
    if not isinstance(about, list):
        raise TypeError(f"what a caption is about is a list, and this is {json_type(about)}")
    return Caption(check_string(value["text"]), tuple(about), value.get("states", {}))


def read_manifest(manifest: Path) -> list[Row]:
    """The rows of a JSONL manifest.

    Raises:
        BadManifest: a line that is not a JSON object with a path or with words.
    """
    rows = []
    try:
        text = manifest.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
    except UnicodeDecodeError as error:
        raise BadManifest(manifest.name, "its text", "not UTF-8") from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_row(read_json(line), manifest.parent, f"{manifest.stem}-{number}")
            if row.path is None and not any(said.text.strip() for said in row.captions):
                raise ValueError("it has neither a path nor words")
        except (
            ValueError,
            KeyError,
            TypeError,
            RecursionError,
            BadMetadata,
            DuplicateKey,
        ) as error:
            raise BadManifest(
                manifest.name, f"line {number}", f"{type(error).__name__}: {error}"
            ) from error
        rows.append(row)
    return rows


def sample_row(sample: dict[str, bytes], key: str) -> Row:
    """The row of a sample in a shard. `sample` has the contents of its files by suffix: "json" with
    a manifest row's keys, "txt" with a caption on each line.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, BadMetadata, DuplicateKey: they hold no
            valid row.
    """
    value = read_json(sample["json"]) if "json" in sample else {}
    if "txt" in sample:
        value["captions"] = [
            line.strip() for line in sample["txt"].decode("utf-8-sig").splitlines() if line.strip()
        ]
    value.pop("path", None)  # the media are in the shard
    return parse_row(value | {"id": value.get("id", key)}, Path(), key)


@dataclass(frozen=True)
class Member:
    """A media file inside a tar shard: offset and size of its bytes, and the suffix of its name."""

    offset: int
    size: int
    suffix: str

    def read(self, shard: Path) -> bytes:
        with shard.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def read_shard(shard: Path) -> list[tuple[Row, Member]]:
    """The samples of a WebDataset tar shard that have media. A sample is a run of files whose names
    agree up to the first dot.

    Raises:
        BadManifest: it is no uncompressed tar file, or a sample has no valid row.
    """
    found: list[tuple[Row, Member]] = []
    at = "start"
    words = dict[str, bytes]()
    media = list[Member]()

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
                    at = key
                    words = {}
                    media = []
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
        DuplicateKey,
    ) as error:
        raise BadManifest(shard.name, at, f"{type(error).__name__}: {error}") from error
    return found


def read_folder(folder: Path) -> list[Row]:
    """The rows of all media files below a folder.

    The captions of `dog.mp4` are the lines of `dog.txt` beside it. Without that file, the caption
    is the name of the file's sub-folder, which is also its group. Directly in `folder`, it is the
    file's own name.
    """
    rows = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in MEDIA):
        name = path.relative_to(folder).as_posix()
        beside = path.with_suffix(".txt")
        inside = path.parent != folder
        if beside.is_file():
            lines = beside.read_text(encoding="utf-8-sig").splitlines()
            said = [line.strip() for line in lines if line.strip()]
            group = name
        else:
            said = [re.sub(r"[\W_]+", " ", path.parent.name if inside else path.stem).strip()]
            group = path.parent.relative_to(folder).as_posix() if inside else name
        captions = tuple(Caption(check_string(text)) for text in said if text)
        rows.append(Row(id=name, path=path, captions=captions, group=group, metadata={}))
    return rows
