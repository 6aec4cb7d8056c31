"""Names of files as ids and in messages. A file system allows any bytes in a name; an id is text
that can be asked for in a URL, and a message keeps to its line.
"""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import PurePath

# bytes that are not UTF-8, as Python reads them, and control characters
UNFIT = re.compile(r"[\udc80-\udcff\x00-\x1f\x7f]")
UNPRINTABLE = re.compile(r"[\ud800-\udfff\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Ends of paths below an item's own over HTTP. A file may have such a name, an id may not end so.
RESERVED = frozenset(
    (
        "media",
        "poster",
        "waveform",
        "link",
        "clip",
        "playable",
        "highlights",
        "description",
        "agreement",
        ".",
    )
)


def escape(found: re.Match[str]) -> str:
    code = ord(found.group())
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def make_id(path: str) -> str:
    r"""A path as an id: what an id may not hold is written as `\xNN`.

    >>> make_id("a/caf\udce9\n.mp4")
    'a/caf\\xe9\\x0a.mp4'
    """
    return UNFIT.sub(escape, path)


def make_printable(name: str) -> str:
    r"""A name as part of a line.

    >>> make_printable("two\nlines")
    'two\\x0alines'
    """
    return UNPRINTABLE.sub(escape, name)


def find_free_id(file: str, proposed: str, taken: Container[str], within: str | None) -> str:
    """An id for a file that no other has: the one proposed, or it with more of the folders that the
    file lies in, or it with a number. Folders above `within` are not named.

    >>> find_free_id("/m/card2/DCIM/1.mp4", "DCIM/1.mp4", {"DCIM/1.mp4"}, None)
    'card2/DCIM/1.mp4'
    """
    if is_free(proposed, taken):
        return proposed
    if within is None:
        parts = PurePath(file).parts[1:]
        for count in range(proposed.count("/") + 2, len(parts) + 1):
            longer = make_id("/".join(parts[-count:]))
            if longer.endswith(f"/{proposed}") and is_free(longer, taken):
                return longer
    path = PurePath(proposed)
    number = 2
    while True:
        numbered = str(path.with_name(f"{path.stem}-{number}{path.suffix}"))
        if is_free(numbered, taken):
            return numbered
        number += 1


def is_free(id: str, taken: Container[str]) -> bool:
    return id not in taken and id.rpartition("/")[2] not in RESERVED
