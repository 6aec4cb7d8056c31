"""Whether a file is what it was when it was indexed: by its size and time, and in doubt by its
content.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from media.manifest import Member


@dataclass(frozen=True)
class Stamp:
    """What a stamp says, `SIZE:TIME:OFFSET:SAID[:OVERLAP]`: of a file its size and time, of a
    shard's member the offset there, a sum of what is said of it, and how its windows overlap.
    """

    size: str
    time: str
    offset: str
    about: str

    @classmethod
    def read(cls, stamp: str) -> Stamp | None:
        """None of words alone, or of a file that was missing."""
        parts = stamp.split(":", 3)
        return cls(*parts) if len(parts) == 4 else None


def may_be_same(was: str, now: str) -> bool:
    """Whether a file of one stamp may be that of another at another time. A shard may have grown
    around its member.
    """
    old, new = Stamp.read(was), Stamp.read(now)
    if old is None or new is None or old.about != new.about or bool(old.offset) != bool(new.offset):
        return False
    return bool(new.offset) or old.size == new.size


def is_other(was: str, now: str) -> bool:
    """Whether the sizes alone tell that a file is there, and another one."""
    old, new = Stamp.read(was), Stamp.read(now)
    return old is not None and new is not None and not new.offset and old.size != new.size


def digest_of(path: Path | None, member: Member | None = None) -> str:
    """The SHA-256 of a file, or of a member of a shard; empty
    where there is none that can be read.
    """
    try:
        # a link may lead to what has no end
        if path is None or path != path.resolve() or not path.is_file():
            return ""
        if member is not None:
            return hashlib.sha256(member.read(path)).hexdigest()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
