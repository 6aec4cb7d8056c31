"""Whether a file is still what was indexed. Its size and time tell; where they leave a doubt, its
content does.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from media.manifest import Member

from ..records.item import real_path


@dataclass(frozen=True)
class Stamp:
    """The parts of a stamp, `SIZE:TIME:OFFSET:DESCRIPTION[:MANNER]`: a file's size and time, a
    member's offset in its shard, a hash of the texts and metadata, and the manner of reading: how
    windows overlap, which readers look for words, and the files of words beside it.
    """

    size: str
    time: str
    offset: str
    about: str

    @property
    def description(self) -> str:
        """The hash of the texts and metadata."""
        return self.about.partition(":")[0]

    @property
    def manner(self) -> str:
        return self.about.partition(":")[2]

    @classmethod
    def read(cls, stamp: str) -> Stamp | None:
        """None for words alone, or for a file that was missing."""
        parts = stamp.split(":", 3)
        return cls(*parts) if len(parts) == 4 else None


def may_be_same(was: str, now: str) -> bool:
    """Whether two stamps may be of one content that only has another time. A shard may have grown
    around its member.
    """
    old = Stamp.read(was)
    new = Stamp.read(now)
    if old is None or new is None or old.about != new.about or bool(old.offset) != bool(new.offset):
        return False
    return bool(new.offset) or old.size == new.size


def is_other(was: str, now: str) -> bool:
    """Whether a file is there, and its size alone tells that it is another one."""
    old = Stamp.read(was)
    new = Stamp.read(now)
    return old is not None and new is not None and not new.offset and old.size != new.size


def hash_content(path: Path | None, member: Member | None = None) -> str:
    """The SHA-256 of a file, or of a member of a shard; empty where it cannot be read."""
    try:
        # a link may lead to a device, which has no end
        if path is None or path != real_path(path) or not path.is_file():
            return ""
        if member is not None:
            return hashlib.sha256(member.read(path)).hexdigest()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
