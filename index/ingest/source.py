"""What a build indexes: files, members of tar shards, and words alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from media.manifest import Member
from media.passages import Passage

from ..records.item import KnownSource, Origin
from .names import make_id, make_printable


@dataclass(frozen=True)
class Source:
    """One thing to index: a file, a member of a tar shard, or words alone; with its texts and its
    metadata.
    """

    id: str
    path: Path | None
    metadata: dict[str, Any] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    member: Member | None = None
    digest: str = ""  # SHA-256 of its content, once that has been read
    named: bool = False  # its id was given, and not made from its path
    told: bool = False  # its texts and metadata were given, were it that there are none
    about: str = ""  # the hash of its item's texts and metadata, which nobody told anew
    keep_edits: bool = False  # what was changed of its item's metadata stays
    wanted: str = ""  # the id made from its path, where it has another
    root: str | None = None  # the folder that it was found by
    mount: str | None = None
    sidecars: tuple[Path, ...] = ()  # files of subtitles or lyrics beside it
    # what it says, where that is known: it is not read again
    passages: tuple[Passage, ...] = ()
    resume: int = 0  # windows that are there already, of a long file

    @property
    def name(self) -> str:
        """How messages call it."""
        if self.path is None:
            return self.id
        name = f"{self.path} ({self.id})" if self.member else str(self.path)
        return make_printable(name)

    @property
    def wanted_id(self) -> str:
        return self.wanted or self.id

    @property
    def path_id(self) -> str:
        """Tells it from every other source of a build."""
        return self.id if self.named or self.path is None else str(self.path)

    @property
    def filename(self) -> str | None:
        return make_id(self.path.name) if self.path and not self.member else None

    def place(self, stamp: str, digest: str | None) -> KnownSource:
        """Where it lies, as its item has it."""
        return KnownSource(
            source=self.file,
            stamp=stamp,
            digest=digest or None,
            filename=self.filename,
            root=self.root,
            mount=self.mount,
            origin=self.origin,
        )

    @property
    def origin(self) -> Origin:
        if self.path is None:
            return Origin.LINE
        return Origin.FILE if self.member is None else Origin.MEMBER

    @property
    def file(self) -> str | None:
        """The path of its file, or of its shard; None of words alone."""
        return None if self.path is None else str(self.path)

    @property
    def given_id(self) -> str | None:
        """None of an id that was made from its path."""
        return self.id if self.named else None

    @property
    def stamp(self) -> str:
        """Changes when the file, its texts or its metadata change; see `content.Stamp`."""
        description = self.about or hash_description(self.texts, self.metadata)
        if self.path is None:
            return description
        try:
            stat = self.path.stat()
        except OSError:
            return "missing"
        offset = self.member.offset if self.member else ""
        return f"{stat.st_size}:{stat.st_mtime_ns}:{offset}:{description}"


def hash_description(texts: tuple[str, ...], metadata: dict[str, Any]) -> str:
    """Eight hex digits."""
    described = json.dumps([texts, metadata], sort_keys=True).encode()
    return hashlib.sha256(described).hexdigest()[:8]
